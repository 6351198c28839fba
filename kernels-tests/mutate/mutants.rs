//! Mutants of a WGSL text: one small change each, of the kind that slips into a kernel.

use std::ops::Range;

/// One change to a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutant {
    /// What kind of change it is.
    pub operator: &'static str,
    /// Counts from 1.
    pub line: usize,
    range: Range<usize>,
    replacement: String,
}

impl Mutant {
    /// The whole text with the change made.
    pub fn apply(&self, text: &str) -> String {
        let mut mutated = text.to_owned();
        mutated.replace_range(self.range.clone(), &self.replacement);
        mutated
    }

    /// The changed line before and after, without its indentation.
    pub fn diff(&self, text: &str) -> [String; 2] {
        let line = |text: &str| text.lines().nth(self.line - 1).unwrap_or_default().trim().to_owned();
        [line(text), line(&self.apply(text))]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Name,
    Number,
    Sign,
}

#[derive(Clone, Debug)]
struct Token<'a> {
    class: Class,
    text: &'a str,
    start: usize,
    line: usize,
}

impl Token<'_> {
    fn range(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

/// Signs of more than one character, longest first.
const SIGNS: [&str; 18] =
    [">>=", "<<=", "->", "++", "--", "+=", "-=", "*=", "/=", "%=", "==", "!=", "<=", ">=", "&&", "||", "<<", ">>"];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    for (line, content) in (1..).zip(text.split_inclusive('\n')) {
        let code = content.split("//").next().unwrap_or_default();
        let mut rest = code;
        while let Some(first) = rest.chars().next() {
            let start = at + code.len() - rest.len();
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let (class, length) = if first.is_whitespace() {
                rest = &rest[first.len_utf8()..];
                continue;
            } else if first.is_ascii_digit() {
                let exponent = |i: usize, c: char| c == '-' && rest[..i].ends_with('e') && !rest.starts_with("0x");
                let end = rest.char_indices().find(|&(i, c)| !(is_word(c) || c == '.' || exponent(i, c)));
                (Class::Number, end.map_or(rest.len(), |(i, _)| i))
            } else if is_word(first) {
                (Class::Name, rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
            } else {
                (Class::Sign, SIGNS.iter().find(|sign| rest.starts_with(**sign)).map_or(first.len_utf8(), |s| s.len()))
            };
            tokens.push(Token { class, text: &rest[..length], start, line });
            rest = &rest[length..];
        }
        at += content.len();
    }
    tokens
}

/// All mutants of a kernel's text.
pub fn mutants(text: &str) -> Vec<Mutant> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let code = Code { text, tokens: &tokens };
    for at in 0..tokens.len() {
        if code.is_declaration(at) {
            continue;
        }
        code.sign(at, &mut found);
        code.number(at, &mut found);
        code.name(at, &mut found);
        code.term(at, &mut found);
        code.condition(at, &mut found);
        code.arguments(at, &mut found);
        code.statement(at, &mut found);
    }
    found
}

struct Code<'a> {
    text: &'a str,
    tokens: &'a [Token<'a>],
}

impl Code<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn line(&self, at: usize) -> &str {
        self.text.lines().nth(self.tokens[at].line - 1).unwrap_or_default()
    }

    /// Interfaces and types: a change there does not compile, or is one of the host's business.
    fn is_declaration(&self, at: usize) -> bool {
        let line = self.line(at);
        let is_member = line.starts_with("    ") && line.trim_end().ends_with(',') && line.contains(": ");
        let is_interface = ["struct", "@group", "var<", "fn ", "@compute", "    @builtin"];
        is_member || is_interface.iter().any(|start| line.starts_with(start))
    }

    fn push(&self, found: &mut Vec<Mutant>, operator: &'static str, at: usize, replacement: impl Into<String>) {
        self.push_range(found, operator, at, self.tokens[at].range(), replacement);
    }

    fn push_range(
        &self,
        found: &mut Vec<Mutant>,
        operator: &'static str,
        at: usize,
        range: Range<usize>,
        replacement: impl Into<String>,
    ) {
        found.push(Mutant { operator, line: self.tokens[at].line, range, replacement: replacement.into() });
    }

    /// Whether a sign stands between two operands, apart from both; brackets of types do not.
    fn is_infix(&self, at: usize) -> bool {
        let Range { start, end } = self.tokens[at].range();
        self.text[..start].ends_with(' ') && self.text[end..].starts_with(' ')
    }

    fn sign(&self, at: usize, found: &mut Vec<Mutant>) {
        let sign = self.text(at);
        if sign == "++" {
            self.push(found, "step", at, " += 2");
        }
        let table: [(&str, &'static str, &[&str]); 22] = [
            ("+", "arithmetic", &["-"]),
            ("-", "arithmetic", &["+"]),
            ("*", "arithmetic", &["/", "+"]),
            ("/", "arithmetic", &["*", "%"]),
            ("%", "arithmetic", &["/"]),
            ("<<", "arithmetic", &[">>"]),
            (">>", "arithmetic", &["<<"]),
            ("&", "arithmetic", &["|"]),
            ("|", "arithmetic", &["&"]),
            ("^", "arithmetic", &["|"]),
            ("<", "comparison", &["<=", ">"]),
            ("<=", "comparison", &["<"]),
            (">", "comparison", &[">="]),
            (">=", "comparison", &[">"]),
            ("==", "comparison", &["!="]),
            ("!=", "comparison", &["=="]),
            ("&&", "logic", &["||"]),
            ("||", "logic", &["&&"]),
            ("+=", "step", &["-="]),
            ("-=", "step", &["+="]),
            ("/=", "step", &["-="]),
            (">>=", "step", &["-="]),
        ];
        if !self.is_infix(at) {
            return;
        }
        for (_, operator, replacements) in table.iter().filter(|row| row.0 == sign) {
            replacements.iter().for_each(|&replacement| self.push(found, operator, at, replacement));
        }
    }

    fn number(&self, at: usize, found: &mut Vec<Mutant>) {
        let token = &self.tokens[at];
        if token.class != Class::Number {
            return;
        }
        // A longer array, where every element that is used has its place, behaves the same.
        let is_length = self.line(at)[..].contains("array<") && self.text(at + 1) == ">";
        if is_length {
            return;
        }
        let (digits, suffix) = token.text.split_at(token.text.trim_end_matches(['u', 'i']).len());
        if let Some(hex) = digits.strip_prefix("0x") {
            let value = u32::from_str_radix(hex, 16).unwrap_or_default();
            self.push(found, "constant", at, format!("{:#x}{suffix}", value ^ 1));
        } else if let Ok(value) = digits.parse::<u32>() {
            self.push(found, "constant", at, format!("{}{suffix}", value.wrapping_add(1)));
            if value > 0 {
                self.push(found, "constant", at, format!("{}{suffix}", value - 1));
            }
        } else if let Ok(value) = token.text.parse::<f32>() {
            let other = if value == 0.0 { 1.0 } else { 1.25 * value };
            self.push(found, "constant", at, format!("{other:?}"));
        }
    }

    /// Names that stand for each other: members of the immediates, constants, components, functions, indices.
    fn name(&self, at: usize, found: &mut Vec<Mutant>) {
        let token = &self.tokens[at];
        if token.class != Class::Name {
            return;
        }
        let is_declared = matches!(self.text(at.wrapping_sub(1)), "const" | "let" | "var");
        let name = token.text;
        if let Some(other) = [("min", "max"), ("max", "min"), ("floor", "ceil"), ("ceil", "floor")]
            .iter()
            .find_map(|&(from, to)| (from == name && self.text(at + 1) == "(").then_some(to))
        {
            self.push(found, "function", at, other);
        }
        if self.text(at.wrapping_sub(1)) == "." {
            let others = match name {
                "x" => "y",
                "y" => "x",
                "z" => "x",
                "w" => "z",
                _ => "",
            };
            if !others.is_empty() && self.text(at.wrapping_sub(2)) != "extents" {
                self.push(found, "index", at, others);
            } else if matches!(self.text(at.wrapping_sub(2)), "extents" | "parameters")
                && let Some(other) = self.neighbour(&self.members(), name)
            {
                self.push(found, "index", at, other);
            }
            return;
        }
        if !is_declared {
            if let Some(other) = self.neighbour(&self.constants(), name) {
                self.push(found, "constants", at, other);
            }
            if let Some(other) = self.other_index(at) {
                self.push(found, "index", at, other);
            }
        }
    }

    /// The next of `names` after `name`, round.
    fn neighbour<'n>(&self, names: &[&'n str], name: &str) -> Option<&'n str> {
        let at = names.iter().position(|other| *other == name)?;
        let next = names[(at + 1) % names.len()];
        (next != name).then_some(next)
    }

    fn declared<'s>(&'s self, prefix: &str) -> Vec<&'s str> {
        let declared = |line: &'s str| line.strip_prefix(prefix)?.split_once(": u32").map(|(name, _)| name);
        self.text.lines().filter_map(declared).collect()
    }

    fn constants(&self) -> Vec<&str> {
        self.declared("const ")
    }

    fn members(&self) -> Vec<&str> {
        self.declared("    ").into_iter().filter(|name| !name.contains(' ')).collect()
    }

    /// Another variable of the same index expression.
    fn other_index(&self, at: usize) -> Option<&str> {
        let is_variable = |at: usize| {
            self.tokens[at].class == Class::Name
                && self.text(at).starts_with(|c: char| c.is_lowercase())
                && !matches!(self.text(at), "extents" | "u32" | "i32")
                && self.text(at.wrapping_sub(1)) != "."
                && !matches!(self.text(at + 1), "[" | "(" | ".")
        };
        if !is_variable(at) {
            return None;
        }
        // The brackets around, and the whole of what is between them.
        let mut depth = 0;
        let open = (0..at).rev().find(|&before| match self.text(before) {
            "]" => {
                depth += 1;
                false
            }
            "[" => {
                depth -= 1;
                depth < 0
            }
            _ => false,
        })?;
        if self.tokens[open].line != self.tokens[at].line {
            return None;
        }
        let close = (at..self.tokens.len()).find(|&after| self.text(after) == "]")?;
        (open + 1..close)
            .find(|&other| is_variable(other) && self.text(other) != self.text(at))
            .map(|other| self.text(other))
    }

    /// Leaves out a term of a sum or a factor of a product, with its sign.
    fn term(&self, at: usize, found: &mut Vec<Mutant>) {
        let sign = self.text(at);
        if !matches!(sign, "+" | "-" | "*" | "/" | "%") || !self.is_infix(at) {
            return;
        }
        let is_sum = matches!(sign, "+" | "-");
        let mut depth = 0;
        let mut end = at + 1;
        while end < self.tokens.len() {
            match self.text(end) {
                "(" | "[" => depth += 1,
                ")" | "]" if depth == 0 => break,
                ")" | "]" => depth -= 1,
                "+" | "-" | "<" | ">" | "<=" | ">=" | "==" | "!=" | "&&" | "||" | "{" | ";" | "," | "^" | "|" | "&"
                | ">>" | "<<"
                    if depth == 0 && (self.is_infix(end) || matches!(self.text(end), ";" | "," | "{")) =>
                {
                    break;
                }
                "*" | "/" | "%" if depth == 0 && !is_sum => break,
                _ => {}
            }
            end += 1;
        }
        let start = self.tokens[at].start - 1;
        let last = self.tokens[end - 1].range().end;
        self.push_range(found, "term", at, start..last, "");
    }

    fn condition(&self, at: usize, found: &mut Vec<Mutant>) {
        if self.text(at) != "if" {
            return;
        }
        let Some(open) = (at..self.tokens.len()).find(|&after| self.text(after) == "{") else { return };
        let range = self.tokens[at + 1].start..self.tokens[open - 1].range().end;
        for value in ["true", "false"] {
            self.push_range(found, "condition", at, range.clone(), value);
        }
    }

    /// Swaps the first two arguments of a call, or the last two where the first two commute.
    fn arguments(&self, at: usize, found: &mut Vec<Mutant>) {
        let name = self.text(at);
        let commutes = ["min", "max", "dot", "vec2", "vec4", "main"].contains(&name);
        if self.tokens[at].class != Class::Name || self.text(at + 1) != "(" || commutes {
            return;
        }
        let mut commas = Vec::new();
        let mut depth = 0;
        let mut close = at + 1;
        for after in at + 1..self.tokens.len() {
            match self.text(after) {
                "(" | "[" => depth += 1,
                ")" | "]" => depth -= 1,
                "," if depth == 1 => commas.push(after),
                _ => {}
            }
            if depth == 0 {
                close = after;
                break;
            }
        }
        let from = if matches!(name, "fma" | "clamp") { 1 } else { 0 };
        if commas.len() <= from {
            return;
        }
        let bounds = [&[at + 1], &commas[..], &[close]].concat();
        let argument = |index: usize| self.tokens[bounds[index]].range().end..self.tokens[bounds[index + 1]].start;
        let (first, second) = (argument(from), argument(from + 1));
        let swapped = format!("{},{}", &self.text[second.clone()], &self.text[first.clone()]);
        let swapped = if from == 0 { swapped.trim_start().to_owned() } else { swapped };
        if self.text[first.clone()].trim() != self.text[second.clone()].trim() {
            self.push_range(found, "arguments", at, first.start..second.end, swapped);
        }
    }

    /// Leaves out a barrier or an assignment.
    fn statement(&self, at: usize, found: &mut Vec<Mutant>) {
        let starts = at == 0 || matches!(self.text(at - 1), ";" | "{" | "}");
        let line = self.line(at).trim();
        let code = line.split("//").next().unwrap_or_default().trim();
        if !starts || self.tokens[at].class != Class::Name || !code.ends_with(';') || !code.starts_with(self.text(at)) {
            return;
        }
        let is_assignment = ["=", "+=", "-="].iter().any(|sign| code.contains(&format!(" {sign} ")))
            && !["let", "var", "const", "for", "return"].contains(&self.text(at));
        let operator = if code == "workgroupBarrier();" { "barrier" } else { "statement" };
        if is_assignment || operator == "barrier" {
            let start = self.tokens[at].start;
            self.push_range(found, operator, at, start..start + code.len(), "");
        }
    }
}
