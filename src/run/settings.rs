//! Settings from TOML files, overridden by flags.
//!
//! Errors name keys, flags and lines, and not Rust types. Only this module parses the messages of serde and toml.

use serde::de::DeserializeOwned;
use toml::Table;
use toml::de::{DeTable, DeValue};

/// Why settings cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}{problem}")]
pub struct SettingsError {
    /// Such as `grid.toml, line 3: `; empty if the setting is not in a file.
    place: String,
    problem: String,
}

/// The text of a settings file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written<'a> {
    /// The file's name; empty if there is none.
    pub name: &'a str,
    pub text: &'a str,
}

impl Written<'_> {
    /// The text as a table.
    ///
    /// # Errors
    /// When it is not TOML.
    pub fn table(&self) -> Result<Table, SettingsError> {
        self.text.parse().map_err(|error: toml::de::Error| {
            let place = error.span().map_or_else(|| self.name.to_owned(), |span| self.line_at(span.start));
            SettingsError { place: place + ": ", problem: format!("this is not TOML: {}", error.message()) }
        })
    }

    /// The settings that `table` describes: those of this text, already overridden by `flags`.
    ///
    /// # Errors
    /// When a key is missing or unknown, or a value is invalid.
    pub fn read<T: DeserializeOwned>(&self, table: Table, flags: &Table) -> Result<T, SettingsError> {
        table.clone().try_into().map_err(|error| {
            let (path, problem) = explain(&error, &table, flags);
            let place = match path.is_empty() && !self.name.is_empty() {
                true => format!("{}: ", self.name),
                false => self.place(&path, flags),
            };
            SettingsError { place, problem }
        })
    }

    /// Where the setting with this path is written, such as `grid.toml, line 3: `; empty if it comes from the flags or is not in
    /// this text.
    pub fn place(&self, path: &[String], flags: &Table) -> String {
        let offset = DeTable::parse(self.text).ok().and_then(|table| offset_of(table.get_ref(), path));
        match offset {
            Some(offset) if !has(flags, path) => self.line_at(offset) + ": ",
            _ => String::new(),
        }
    }

    fn line_at(&self, offset: usize) -> String {
        let line = 1 + self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
        if self.name.is_empty() { format!("line {line}") } else { format!("{}, line {line}", self.name) }
    }
}

/// Former names and other spellings of keys, each as a path, with the present name.
pub const FORMER_NAMES: [(&[&str], &str); 4] = [
    (&["pictures"], "images"),
    (&["training", "rate"], "learning_rate"),
    (&["data", "unlabeled_dir"], "unlabelled_dir"),
    (&["images", "max_bytes"], "cache_bytes"),
];

/// Whether a key in a file is this key, by its present or a former name.
fn is_called(written: &str, key: &str) -> bool {
    let was = |(path, name): &(&[&str], &str)| *name == key && path.last() == Some(&written);
    written == key || FORMER_NAMES.iter().any(was)
}

/// Where a path, or the longest part of it that exists, begins in a text; in an array of tables, in the first that has it.
fn offset_of(table: &DeTable, path: &[String]) -> Option<usize> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| is_called(key.get_ref(), first))?;
    let within = match value.get_ref() {
        DeValue::Table(table) => offset_of(table, rest),
        DeValue::Array(entries) => {
            entries.iter().filter_map(|entry| entry.get_ref().as_table()).find_map(|table| offset_of(table, rest))
        }
        _ => None,
    };
    Some(within.unwrap_or(key.span().start))
}

fn has(table: &Table, path: &[String]) -> bool {
    match path {
        [] => false,
        [key] => table.contains_key(key),
        [key, rest @ ..] => table.get(key).and_then(|value| value.as_table()).is_some_and(|table| has(table, rest)),
    }
}

/// The flag for the key with this path, such as `--batch-val`. All but two have the name of their key.
pub fn flag(path: &[impl AsRef<str>]) -> String {
    match path.last().map(AsRef::as_ref).unwrap_or_default() {
        "kind" => "--data".to_owned(),
        "normalise" => "--no-normalise".to_owned(),
        key => format!("--{}", key.replace('_', "-")),
    }
}

/// The name of a setting: its flag if the flags set it, else its key.
fn name(path: &[String], flags: &Table) -> String {
    match path {
        [] => "the configuration".to_owned(),
        _ if has(flags, path) => flag(path),
        [key] => format!("`{key}`"),
        [tables @ .., key] => format!("`{key}` in [{}]", tables.join(".")),
    }
}

/// An explanation of a missing key.
fn example(key: &str) -> &'static str {
    match key {
        "root" => " (the folder of the images)",
        "category" => " (such as `bottle`)",
        "file" => " (the CSV file that lists the images)",
        "normal" => " (what is normal, such as the digit 6)",
        "anomaly" => " (what is an anomaly, such as the digit 9)",
        "tile" => " (the side of a tile in pixels)",
        "texture" => " (`brick` or `gravel`)",
        "defect" => " (such as `scratch`)",
        _ => "",
    }
}

/// The parts of a text between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A suggestion for what `given` was meant to be, or the list of all known names.
fn suggestion(given: &str, known: &[&str], all: &str, called: impl Fn(&str) -> String) -> String {
    let likeness = |name: &str| strsim::jaro(given, name);
    let nearest = known.iter().copied().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match nearest.filter(|name| likeness(name) > 0.7) {
        Some(name) => format!("did you mean {}?", called(name)),
        None => format!("{all} {}", listed(&known.iter().map(|name| called(name)).collect::<Vec<_>>())),
    }
}

/// The path of the setting that an error is about, and the problem.
fn explain(error: &toml::de::Error, table: &Table, flags: &Table) -> (Vec<String>, String) {
    // Without its input the error ends with the path, `in `a.b``; so does the error that it wraps.
    let mut error = error.clone();
    error.set_input(None);
    let text = error.to_string();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let mut parts = Vec::<String>::new();
    while let Some(path) = lines.last().and_then(|line| line.strip_prefix("in `")?.strip_suffix('`')) {
        parts.extend(path.split('.').map(str::to_owned));
        lines.pop();
    }
    let message = lines.join(" ");
    let kind = table.get("data").and_then(|data| data.get("kind")).and_then(|kind| kind.as_str());
    let kind = kind.filter(|_| parts.first().is_some_and(|part| part == "data"));
    let at = |key: &str| [&parts[..], &[key.to_owned()]].concat();
    let within = if parts.is_empty() { String::new() } else { format!(" in [{}]", parts.join(".")) };
    let after = |start: &str| {
        let rest = message.strip_prefix(start)?.strip_prefix(" `")?;
        rest.split_once('`')
    };

    if let Some((key, expected)) = after("unknown field") {
        let known = quoted(expected);
        let problem = match kind {
            Some(kind) if has(flags, &at(key)) => {
                let known = suggestion(key, &known, "it takes", |name| flag(&[name]));
                format!("`--data {kind}` takes no {}; {known}", flag(&[key]))
            }
            Some(kind) => {
                let known = suggestion(key, &known, "it takes", |name| format!("`{name}`"));
                format!("`kind = \"{kind}\"` takes no `{key}`{within}; {known}")
            }
            None => {
                let known = suggestion(key, &known, "there are", |name| format!("`{name}`"));
                format!("there is no key `{key}`{within}; {known}")
            }
        };
        return (at(key), problem);
    }
    if let Some((key, _)) = after("missing field") {
        let problem = match (kind, key) {
            (Some(kind), _) => format!("`--data {kind}` needs {}{}", flag(&[key]), example(key)),
            (None, "kind") => "the kind of dataset is missing: give --data, or `kind` in [data]".to_owned(),
            _ => format!("the key `{key}`{within} is missing"),
        };
        return (parts, problem);
    }
    if let Some((value, expected)) = after("unknown variant") {
        let known = suggestion(value, &quoted(expected), "use one of", |name| format!("`{name}`"));
        return (parts.clone(), format!("{} cannot be `{value}`; {known}", name(&parts, flags)));
    }
    for start in ["invalid type: ", "invalid value: "] {
        if let Some((given, expected)) = message.strip_prefix(start).and_then(|rest| rest.split_once(", expected ")) {
            let (given, expected) = (given_words(given), expected_words(expected));
            return (parts.clone(), format!("{} is {given}; it must be {expected}", name(&parts, flags)));
        }
    }
    let problem = if parts.is_empty() { message } else { format!("{}: {message}", name(&parts, flags)) };
    (parts, problem)
}

/// Translates serde's description of a value, such as `string "many"`.
fn given_words(given: &str) -> String {
    let (kind, value) = given.split_once(' ').unwrap_or((given, ""));
    match kind {
        "string" => format!("the text {value}"),
        "integer" | "boolean" => value.trim_matches('`').to_owned(),
        "floating" => value.trim_start_matches("point ").trim_matches('`').to_owned(),
        "map" => "a table".to_owned(),
        "sequence" => "a list".to_owned(),
        _ => given.to_owned(),
    }
}

/// Translates serde's description of what was expected, such as `usize`.
fn expected_words(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u32" | "u64" | "usize" => "a whole number of at least 0",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text",
        "path string" => "a path",
        "a sequence" => "a list",
        "a map" => "a table",
        structure if structure.starts_with("struct ") => "a table",
        choice if choice.contains("enum") || choice.contains("string or table") => "one of its names, as text",
        other => other,
    }
}
