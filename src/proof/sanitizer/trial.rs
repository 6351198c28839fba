//! The sanitizer for any WGSL: what a kernel runs on, by a few calls or by comments in its source.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use naga::{BuiltIn, ScalarKind};
use serde::Serialize;

use super::flow;
use super::lockstep::{Counted, Launch};
use super::lower::{Refusal, entries, lower_entry};
use super::machine::{Dispatch, Region};
use super::program::{Binding, Program};
use super::report::{Level, Report};
use super::word::Word;
use crate::engine::bounds::to_f16;
use crate::engine::philox::Stream;
use crate::engine::units::counted;

/// Workgroups along an axis by which a kernel tells them apart.
const WORKGROUPS: u32 = 2;
/// Lanes of a subgroup.
const SUBGROUP: u32 = 32;
/// Operations after which a run ends.
const LIMIT: u64 = 1 << 28;
/// Elements that a runtime-sized array has for each invocation, and at least.
const ELEMENTS: u64 = 4;
const FEWEST_ELEMENTS: u64 = 1024;
/// Most scalars of an array whose length is not given, and of any buffer.
const MOST_CHOSEN: u64 = 1 << 18;
const MOST_SCALARS: u64 = 1 << 24;
/// Most registers of a workgroup.
const MOST_REGISTERS: u64 = 1 << 26;
/// Integers of random contents lie below this.
const BELOW: u32 = 8;
/// How a comment begins that holds settings.
const COMMENT: &str = "// sanitize";

/// What a buffer or texture holds before the dispatch. Sizes are in bytes; without one, a runtime-sized array is so long
/// that each invocation has a few elements.
#[derive(Clone, Debug, PartialEq)]
pub enum Contents {
    Zero(Option<u64>),
    /// Floats of [−1, 1) and integers of [0, `below`), from the seed.
    Random {
        bytes: Option<u64>,
        below: u32,
    },
    /// A read before a write is reported.
    Unwritten(Option<u64>),
    Bytes(Vec<u8>),
    /// The bytes of a file.
    File(PathBuf),
    /// Numbers, each converted to the scalar that it fills: `[64.0, 0.5]` for `struct { n: u32, scale: f32 }`.
    Values(Vec<f64>),
    /// A texture of so many texels along each axis, with random contents.
    Texture([u32; 3]),
}

impl Contents {
    /// Random contents of so many bytes.
    pub fn random(bytes: u64) -> Contents {
        Contents::Random { bytes: Some(bytes), below: BELOW }
    }
}

/// As on the command line: `4096`, `zero`, `zero:4096`, `random:4096`, `random:4096:100`, `unwritten:64`,
/// `values:64,0.5`, `file:weights.bin`, `texture:64x64`.
impl FromStr for Contents {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number of bytes"));
        let bytes = rest.map(number);
        Ok(match (kind, rest) {
            ("zero", _) => Contents::Zero(bytes.transpose()?),
            ("unwritten", _) => Contents::Unwritten(bytes.transpose()?),
            ("random", Some(rest)) if rest.contains(':') => {
                let (bytes, below) = rest.split_once(':').expect("it contains one");
                let below = below.parse().ok().filter(|below| *below > 0);
                let below = below.ok_or_else(|| format!("`{rest}`: after the bytes comes what integers lie below"))?;
                Contents::Random { bytes: Some(number(bytes)?), below }
            }
            ("random", _) => Contents::Random { bytes: bytes.transpose()?, below: BELOW },
            ("file", Some(path)) => Contents::File(path.into()),
            ("values", Some(list)) => {
                let value = |text: &str| text.trim().parse().map_err(|_| format!("`{text}` is not a number"));
                Contents::Values(list.split(',').map(value).collect::<Result<_, String>>()?)
            }
            ("texture", Some(extent)) => Contents::Texture(axes(extent, 'x')?),
            (bytes, None) if bytes.parse::<u64>().is_ok() => Contents::random(number(bytes)?),
            _ => {
                return Err(format!(
                    "`{text}` is not BYTES, zero, random, random:BYTES:BELOW, unwritten, values:N,N,…, file:PATH or texture:WxH"
                ));
            }
        })
    }
}

/// Up to three positive numbers; those left out are 1.
fn axes(text: &str, separator: char) -> Result<[u32; 3], String> {
    let wrong = || format!("`{text}` is not one to three positive numbers, such as 4{separator}1{separator}1");
    let parts: Vec<u32> =
        text.split(separator).map(|part| part.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    if parts.len() > 3 || parts.contains(&0) {
        return Err(wrong());
    }
    Ok([0, 1, 2].map(|axis| parts.get(axis).copied().unwrap_or(1)))
}

/// One thing that a run depends on.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    Workgroups([u32; 3]),
    Buffer {
        group: u32,
        binding: u32,
        contents: Contents,
    },
    /// By name, or by `@id`.
    Override {
        name: String,
        value: f64,
    },
    Seed(u64),
    /// Lanes of a subgroup.
    Subgroup(u32),
    /// Operations after which the run ends.
    Limit(u64),
}

impl Setting {
    /// Reads `workgroups 4,1,1`, `buffer 0,1=zero:64`, `override N=4`, `seed 1`, `subgroup 32` or `limit 1000000`.
    ///
    /// # Errors
    /// With what is wrong, when it is none of these.
    pub fn parse(key: &str, value: &str) -> Result<Setting, String> {
        let pair = || value.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let number = || value.parse::<u64>().map_err(|_| format!("`{value}` is not a whole number"));
        match key {
            "workgroups" => axes(value, ',').map(Setting::Workgroups),
            "buffer" => {
                let wrong = || format!("`{value}` is not GROUP,BINDING=CONTENTS, such as 0,1=zero:64");
                let (at, contents) = pair().ok_or_else(wrong)?;
                let (group, binding) = at.split_once(',').ok_or_else(wrong)?;
                let index = |text: &str| text.trim().parse().map_err(|_| wrong());
                Ok(Setting::Buffer { group: index(group)?, binding: index(binding)?, contents: contents.parse()? })
            }
            "override" => {
                let wrong = || format!("`{value}` is not NAME=NUMBER");
                let (name, value) = pair().ok_or_else(wrong)?;
                let value = match value {
                    "true" => 1.0,
                    "false" => 0.0,
                    number => number.parse().map_err(|_| wrong())?,
                };
                Ok(Setting::Override { name: name.to_owned(), value })
            }
            "seed" => number().map(Setting::Seed),
            "subgroup" => match number()? {
                lanes @ (4 | 8 | 16 | 32 | 64 | 128) => Ok(Setting::Subgroup(lanes as u32)),
                lanes => Err(format!("{lanes} is no size of a subgroup: 4, 8, 16, 32, 64 or 128")),
            },
            "limit" => number().map(Setting::Limit),
            key => Err(format!("`{key}` is not workgroups, buffer, override, seed, subgroup or limit")),
        }
    }
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// It is not WGSL, or the interpreter does not support it: then the reason begins with `unsupported`.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{file}:{line}: a comment cannot be read: {reason}")]
    Comment { file: String, line: usize, reason: String },
    /// What was set does not fit the kernel.
    #[error("{0}")]
    Unfit(String),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
}

/// Settings that entry points share, or of one of them.
type Settings = Vec<(Option<String>, Setting)>;

/// A WGSL source to be run under the sanitizer, every compute entry point of it or one.
///
/// What is not set is chosen: workgroups (two along each axis by which the kernel tells them apart), lengths of
/// runtime-sized arrays and contents of buffers. A fault that depends on what was chosen is but a note.
///
/// Comments in the source set the same, for all entry points or for one: `// sanitize: workgroups 4,1,1` or
/// `// sanitize reduce: buffer 0,1=zero:64`; see [`Setting::parse`]. Calls come before comments.
#[derive(Clone, Debug)]
pub struct Trial {
    file: String,
    source: String,
    entry: Option<String>,
    settings: Vec<Setting>,
    immediates: Vec<u8>,
}

/// What one dispatch of an entry point is, but for its buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Launched {
    pub entry: String,
    pub workgroups: [u32; 3],
    /// By name, or by `@id`.
    pub overrides: Vec<(String, f64)>,
}

/// What settings come to for an entry point.
struct Chosen<'a> {
    workgroups: Option<[u32; 3]>,
    contents: BTreeMap<(u32, u32), &'a Contents>,
    overrides: Vec<(String, f64)>,
    seed: u64,
    subgroup: u32,
    limit: u64,
}

impl Trial {
    /// Reports call the source `file`.
    pub fn new(file: impl Into<String>, source: impl Into<String>) -> Trial {
        let (file, source) = (file.into(), source.into());
        Trial { file, source, entry: None, settings: Vec::new(), immediates: Vec::new() }
    }

    /// The source in a file.
    ///
    /// # Errors
    /// When it cannot be read or is not UTF-8.
    pub fn read(path: &Path) -> Result<Trial, TrialError> {
        let source = std::fs::read_to_string(path).map_err(|source| TrialError::Read { path: path.into(), source })?;
        Ok(Trial::new(path.display().to_string(), source))
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Runs this entry point alone.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>) -> Trial {
        self.entry = Some(name.into());
        self
    }

    #[must_use]
    pub fn set(mut self, setting: Setting) -> Trial {
        self.settings.push(setting);
        self
    }

    #[must_use]
    pub fn workgroups(self, workgroups: [u32; 3]) -> Trial {
        self.set(Setting::Workgroups(workgroups))
    }

    #[must_use]
    pub fn buffer(self, group: u32, binding: u32, contents: Contents) -> Trial {
        self.set(Setting::Buffer { group, binding, contents })
    }

    #[must_use]
    pub fn constant(self, name: impl Into<String>, value: f64) -> Trial {
        self.set(Setting::Override { name: name.into(), value })
    }

    #[must_use]
    pub fn seed(self, seed: u64) -> Trial {
        self.set(Setting::Seed(seed))
    }

    /// What `var<immediate>` holds, as on a device; zeros if it is not set.
    #[must_use]
    pub fn immediates(mut self, bytes: impl Into<Vec<u8>>) -> Trial {
        self.immediates = bytes.into();
        self
    }

    /// The dispatch of the one entry point that is meant, where the workgroups are given and not chosen.
    ///
    /// # Errors
    /// When the source is not WGSL, has no such entry point or several, or nothing says how many workgroups there are.
    pub fn launched(&self) -> Result<Launched, TrialError> {
        let (names, comments) = (self.entries()?, self.comments()?);
        let [entry] = &names[..] else {
            let names = names.join(", ");
            return Err(TrialError::Unfit(format!(
                "{} has several compute entry points: choose one of {names} with --entry",
                self.file
            )));
        };
        let Chosen { workgroups, overrides, .. } = self.chosen(entry, &comments);
        let workgroups = workgroups.ok_or_else(|| {
            TrialError::Unfit(format!(
                "nothing says in how many workgroups `{entry}` is to run: give --workgroups X,Y,Z, or write a line \
                 `// sanitize: workgroups X,Y,Z` in {}",
                self.file
            ))
        })?;
        Ok(Launched { entry: entry.clone(), workgroups, overrides })
    }

    /// Runs the entry points, in the order of the source.
    ///
    /// # Errors
    /// As [`prepare`](Trial::prepare).
    pub fn run(&self) -> Result<Findings, TrialError> {
        Ok(Findings { runs: self.prepare()?.into_iter().map(Prepared::run).collect() })
    }

    /// The runs, ready to start.
    ///
    /// # Errors
    /// When the source is not WGSL, the interpreter does not support it, a setting does not fit it, or a file cannot be
    /// read.
    pub fn prepare(&self) -> Result<Vec<Prepared>, TrialError> {
        let (names, comments) = (self.entries()?, self.comments()?);
        names.iter().map(|name| self.prepare_one(name, &comments)).collect()
    }

    /// The compute entry points to run, at least one.
    fn entries(&self) -> Result<Vec<String>, TrialError> {
        let names = entries(&self.file, &self.source)?;
        let is_meant = |name: &&String| self.entry.as_ref().is_none_or(|it| it == *name);
        let meant: Vec<String> = names.iter().filter(is_meant).cloned().collect();
        match (&self.entry, meant.is_empty()) {
            (_, false) => Ok(meant),
            (None, true) => Err(TrialError::Unfit(format!("{} has no compute entry point", self.file))),
            (Some(entry), true) => {
                let names = names.join(", ");
                Err(TrialError::Unfit(format!("{} has no compute entry point `{entry}`: it has {names}", self.file)))
            }
        }
    }

    fn comments(&self) -> Result<Settings, TrialError> {
        let mut settings = Vec::new();
        for (line, text) in (1..).zip(self.source.lines()) {
            let Some(rest) = text.trim_start().strip_prefix(COMMENT) else { continue };
            let Some((entry, setting)) = rest.split_once(':') else { continue };
            if !entry.is_empty() && !entry.starts_with(' ') {
                continue;
            }
            let (key, value) = setting.trim().split_once(' ').unwrap_or((setting.trim(), ""));
            let failed = |reason| TrialError::Comment { file: self.file.clone(), line, reason };
            let setting = Setting::parse(key, value.trim()).map_err(failed)?;
            let entry = entry.trim();
            settings.push(((!entry.is_empty()).then(|| entry.to_owned()), setting));
        }
        Ok(settings)
    }

    fn chosen<'a>(&'a self, entry: &str, comments: &'a Settings) -> Chosen<'a> {
        let of_entry = |name: &Option<String>| name.as_deref().is_none_or(|name| name == entry);
        // The more special, the later, and the last counts.
        let (shared, own): (Vec<_>, Vec<_>) =
            comments.iter().filter(|(name, _)| of_entry(name)).partition(|(name, _)| name.is_none());
        let settings = shared.into_iter().chain(own).map(|(_, setting)| setting).chain(&self.settings);
        let mut chosen = Chosen {
            workgroups: None,
            contents: BTreeMap::new(),
            overrides: Vec::new(),
            seed: 0,
            subgroup: SUBGROUP,
            limit: LIMIT,
        };
        let mut overrides = BTreeMap::new();
        for setting in settings {
            match setting {
                Setting::Workgroups(counts) => chosen.workgroups = Some(*counts),
                Setting::Buffer { group, binding, contents } => {
                    chosen.contents.insert((*group, *binding), contents);
                }
                Setting::Override { name, value } => drop(overrides.insert(name.clone(), *value)),
                Setting::Seed(seed) => chosen.seed = *seed,
                Setting::Subgroup(lanes) => chosen.subgroup = *lanes,
                Setting::Limit(operations) => chosen.limit = *operations,
            }
        }
        chosen.overrides.extend(overrides);
        chosen
    }

    fn prepare_one(&self, entry: &str, comments: &Settings) -> Result<Prepared, TrialError> {
        let Chosen { workgroups, mut contents, overrides, seed, subgroup, limit } = self.chosen(entry, comments);
        let program = lower_entry(&self.file, &self.source, entry, &overrides)?;
        let registers = program.scalars() as u64 * u64::from(program.invocations());
        if registers > MOST_REGISTERS {
            let reason = format!("unsupported: a workgroup of {registers} scalars in functions' variables and results");
            return Err(Refusal { file: self.file.clone(), line: 0, reason }.into());
        }
        let mut immediates = vec![0; program.immediates.len()];
        if !self.immediates.is_empty() {
            // The interpreter holds an f16 in a word of its own.
            if self.immediates.len() != 4 * immediates.len() {
                let reason = "unsupported: values for immediates that are not of 4 bytes each".to_owned();
                return Err(Refusal { file: self.file.clone(), line: 0, reason }.into());
            }
            immediates = self.immediates.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        }
        let is_chosen = workgroups.is_none();
        let workgroups = workgroups.unwrap_or_else(|| chosen_workgroups(&program));
        let invocations =
            workgroups.iter().fold(u64::from(program.invocations()), |all, &count| all.saturating_mul(count.into()));
        if invocations > u64::from(u32::MAX) {
            return Err(TrialError::Unfit(format!("{invocations} invocations are more than the interpreter runs")));
        }
        let mut prepared = Prepared {
            entry: entry.to_owned(),
            file: self.file.clone(),
            program,
            workgroups,
            is_chosen,
            subgroup,
            limit,
            immediates,
            buffers: Vec::new(),
            regions: Vec::new(),
        };
        let buffers = prepared.program.buffers.clone();
        for buffer in &buffers {
            let set = contents.remove(&(buffer.group, buffer.binding));
            let (bound, region) = prepared.bind(buffer, set, seed, invocations)?;
            prepared.buffers.push(bound);
            prepared.regions.push(region);
        }
        // Another entry point of the file may have the rest.
        if let (Some((group, binding)), Some(_)) = (contents.keys().next(), &self.entry) {
            let bound: Vec<String> = buffers.iter().map(|it| format!("{},{}", it.group, it.binding)).collect();
            return Err(TrialError::Unfit(format!(
                "`{entry}` has nothing at {group},{binding}; it uses {}",
                if bound.is_empty() { "no buffers".into() } else { bound.join(" ") }
            )));
        }
        Ok(prepared)
    }
}

/// Several workgroups along each axis by which the kernel tells them apart. All three indices at once are moved to be kept,
/// which says of the first only.
fn chosen_workgroups(program: &Program) -> [u32; 3] {
    let (reads, _) = flow::accesses(program);
    let read: HashSet<u32> =
        reads.iter().flatten().flat_map(|&(first, count)| first..first + if count == 3 { 1 } else { count }).collect();
    let tells = |axis: u32| {
        program.builtins.iter().any(|&(builtin, slot)| {
            matches!(builtin, BuiltIn::GlobalInvocationId | BuiltIn::WorkGroupId) && read.contains(&(slot + axis))
        })
    };
    [0, 1, 2].map(|axis| if tells(axis) { WORKGROUPS } else { 1 })
}

/// A buffer or texture of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Bound {
    pub group: u32,
    pub binding: u32,
    pub name: String,
    pub bytes: u64,
    /// `zero`, `random`, …
    pub contents: &'static str,
    /// Whether the sanitizer chose its length, or its contents.
    pub is_length_chosen: bool,
    pub is_chosen: bool,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Bound { group, binding, name, bytes, contents, .. } = self;
        write!(f, "{group},{binding} `{name}`: {bytes} bytes, {contents}")?;
        match (self.is_length_chosen, self.is_chosen) {
            (true, true) => f.write_str(" (both chosen)"),
            (true, false) => f.write_str(" (the length chosen)"),
            (false, true) => f.write_str(" (chosen)"),
            (false, false) => Ok(()),
        }
    }
}

/// An entry point with all that it runs on.
#[derive(Debug)]
pub struct Prepared {
    pub entry: String,
    pub file: String,
    pub workgroups: [u32; 3],
    pub subgroup: u32,
    pub buffers: Vec<Bound>,
    program: Program,
    is_chosen: bool,
    limit: u64,
    immediates: Vec<u32>,
    regions: Vec<Region>,
}

impl Prepared {
    /// The contents of a buffer, of which `set` says something or nothing.
    fn bind(
        &self,
        buffer: &Binding,
        set: Option<&Contents>,
        seed: u64,
        invocations: u64,
    ) -> Result<(Bound, Region), TrialError> {
        let Binding { group, binding, ref name, ref layout, writable, .. } = *buffer;
        let unfit = |what: String| TrialError::Unfit(format!("{group},{binding} `{name}` {what}"));
        let random = Contents::Random { bytes: None, below: BELOW };
        let mut contents = set.unwrap_or(&random).clone();
        if let Contents::File(path) = &contents {
            let bytes = std::fs::read(path).map_err(|source| TrialError::Read { path: path.clone(), source })?;
            contents = Contents::Bytes(bytes);
        }
        let mut extent = [0; 3];
        let per_element = layout.element.as_ref().map_or(1, |it| u64::from(it.scalars.max(1)));
        let mut chosen_length = false;
        let mut choose = || {
            chosen_length = layout.element.is_some();
            let most = (MOST_CHOSEN / per_element).max(1);
            (ELEMENTS * invocations).max(FEWEST_ELEMENTS).min(most)
        };
        let elements = match &contents {
            _ if layout.axes > 0 => {
                extent = match contents {
                    Contents::Texture(extent) => extent,
                    _ => {
                        chosen_length = true;
                        let across = |axis: usize| self.workgroups[axis] * self.program.workgroup_size[axis];
                        [0, 1, 2].map(|axis| if axis < layout.axes { across(axis) } else { 1 })
                    }
                };
                extent.iter().map(|&it| u64::from(it)).product()
            }
            Contents::Texture(_) => return Err(unfit("is no texture".into())),
            Contents::Zero(None) | Contents::Random { bytes: None, .. } | Contents::Unwritten(None) => choose(),
            Contents::Zero(Some(bytes))
            | Contents::Random { bytes: Some(bytes), .. }
            | Contents::Unwritten(Some(bytes)) => layout.elements_in(*bytes),
            Contents::Bytes(bytes) => layout.elements_in(bytes.len() as u64),
            Contents::Values(values) => {
                let per_element = layout.element.as_ref().map_or(1, |it| it.leaves.len().max(1));
                values.len().saturating_sub(layout.head.len()).div_ceil(per_element) as u64
            }
            Contents::File(_) => unreachable!("it is read"),
        };
        let needed = layout.bytes(if layout.element.is_some() { elements.max(1) } else { 0 });
        let given = match &contents {
            Contents::Zero(bytes) | Contents::Random { bytes, .. } | Contents::Unwritten(bytes) => *bytes,
            Contents::Bytes(bytes) => Some(bytes.len() as u64),
            _ => None,
        };
        if let Some(bytes) = given.filter(|bytes| *bytes < needed && layout.axes == 0) {
            return Err(unfit(format!("takes {needed} bytes at least, not {bytes}")));
        }
        let scalars = layout.scalars(elements);
        if scalars > MOST_SCALARS {
            return Err(unfit(format!(
                "has {scalars} scalars, more than the {MOST_SCALARS} that the interpreter holds"
            )));
        }
        let is_unwritten = matches!(contents, Contents::Unwritten(_));
        if is_unwritten && !writable {
            return Err(unfit("is only read, so that it cannot be unwritten".into()));
        }
        let words = fill(buffer, &contents, elements, seed).map_err(unfit)?;
        let words = words.into_iter().map(|word| word.assuming(set.is_none())).collect();
        let mut region = match is_unwritten {
            true => Region::unwritten(scalars as usize, Word::u32(f32::NAN.to_bits())),
            false => Region::filled(words, !writable),
        };
        let bound = Bound {
            group,
            binding,
            name: name.clone(),
            bytes: layout.bytes(elements),
            contents: match contents {
                Contents::Zero(_) => "zero",
                Contents::Random { .. } | Contents::Texture(_) => "random",
                Contents::Unwritten(_) => "unwritten",
                Contents::Bytes(_) | Contents::File(_) => "bytes",
                Contents::Values(_) => "values",
            },
            is_length_chosen: chosen_length,
            is_chosen: set.is_none(),
        };
        (region.is_length_assumed, region.extent) = (chosen_length, extent);
        Ok((bound, region))
    }

    /// The program that it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Counts these workgroups, as [`Program::count`] does.
    ///
    /// # Errors
    /// When something in it is not counted, or it does not end.
    pub fn count(&self, workgroups: &[u64], limit: u64) -> Result<Vec<Counted>, String> {
        let ranks = self.program.buffers.iter().map(|it| it.rank as usize + 1).max().unwrap_or(0);
        let mut lengths = vec![0; ranks];
        for (buffer, region) in self.program.buffers.iter().zip(&self.regions) {
            lengths[buffer.rank as usize] = region.words.len();
        }
        let contents: Vec<Vec<Word>> = self.regions.iter().map(|region| region.words.clone()).collect();
        let launch = Launch {
            workgroups: self.workgroups,
            immediates: &self.immediates,
            lengths: &lengths,
            contents: Some(&contents),
            subgroup: self.subgroup.min(64),
            limit,
        };
        self.program.count(&launch, workgroups)
    }

    /// Runs it.
    pub fn run(self) -> Run {
        let dispatch = Dispatch {
            workgroups: self.workgroups,
            immediates: &self.immediates,
            buffers: Vec::new(),
            subgroup: self.subgroup,
            limit: self.limit,
        };
        let (_, reports, operations) = self.program.run_on(&dispatch, self.regions, Word::default(), self.is_chosen);
        Run {
            entry: self.entry,
            file: self.file,
            workgroups: self.workgroups,
            is_chosen: self.is_chosen,
            workgroup_size: self.program.workgroup_size,
            buffers: self.buffers,
            reports: merged(reports),
            operations,
        }
    }
}

/// The words that a buffer holds, padding zero.
fn fill(buffer: &Binding, contents: &Contents, elements: u64, seed: u64) -> Result<Vec<Word>, String> {
    let layout = &buffer.layout;
    let mut words = vec![Word::default(); layout.scalars(elements) as usize];
    let mut stream = Stream::new(seed, buffer.group << 16 | buffer.binding);
    let mut values = match contents {
        Contents::Values(values) => values.iter(),
        _ => [].iter(),
    };
    for (scalar, byte, kind) in layout.leaves(elements) {
        let number = |value: f64| match kind.kind {
            ScalarKind::Float if kind.width == 2 => Word::u32(to_f16(value as f32).to_bits()),
            ScalarKind::Float => Word::u32((value as f32).to_bits()),
            ScalarKind::Sint => Word::literal(value as i32 as u32),
            _ => Word::u32(value as u32),
        };
        words[scalar as usize] = match contents {
            Contents::Random { .. } | Contents::Texture(_) => {
                let below = if let Contents::Random { below, .. } = contents { *below } else { BELOW };
                let fraction = stream.uniform();
                number(if kind.kind == ScalarKind::Float {
                    2.0 * fraction - 1.0
                } else {
                    (fraction * f64::from(below)).floor()
                })
            }
            Contents::Values(_) => match values.next() {
                Some(&value) => number(value),
                None => Word::default(),
            },
            Contents::Bytes(bytes) => {
                let at = byte as usize;
                let part = bytes.get(at..at + usize::from(kind.width)).ok_or("has fewer bytes than it takes")?;
                match *part {
                    [a, b] => Word::u32(half::f16::from_le_bytes([a, b]).to_f32().to_bits()),
                    [a, b, c, d] => match kind.kind {
                        ScalarKind::Sint => Word::literal(u32::from_le_bytes([a, b, c, d])),
                        _ => Word::u32(u32::from_le_bytes([a, b, c, d])),
                    },
                    _ => return Err("has scalars of neither 2 nor 4 bytes".into()),
                }
            }
            _ => Word::default(),
        };
    }
    match values.len() {
        0 => Ok(words),
        rest => Err(format!("takes {rest} values fewer than there are")),
    }
}

/// One report for each kind and level in a line.
fn merged(reports: Vec<Report>) -> Vec<Report> {
    let mut merged: Vec<Report> = Vec::new();
    for report in reports {
        let is_same = |it: &&mut Report| (it.kind, it.level, it.line) == (report.kind, report.level, report.line);
        match merged.iter_mut().find(is_same) {
            Some(it) => it.occurrences += report.occurrences,
            None => merged.push(report),
        }
    }
    merged
}

/// What the sanitizer found in an entry point, and what it ran it on.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub entry: String,
    pub file: String,
    pub workgroups: [u32; 3],
    /// Whether the sanitizer chose how many there are.
    pub is_chosen: bool,
    pub workgroup_size: [u32; 3],
    pub buffers: Vec<Bound>,
    /// By line.
    pub reports: Vec<Report>,
    pub operations: u64,
}

impl Run {
    /// Whether there is neither an error nor a warning.
    pub fn passed(&self) -> bool {
        self.count(Level::Error) + self.count(Level::Warning) == 0
    }

    /// Reports of a level.
    pub fn count(&self, level: Level) -> usize {
        self.reports.iter().filter(|report| report.level == level).count()
    }

    /// `0 errors, 1 warning, 2 notes`
    pub fn totals(&self) -> String {
        let of = |level, names| counted(self.count(level), names);
        let errors = of(Level::Error, ["error", "errors"]);
        let warnings = of(Level::Warning, ["warning", "warnings"]);
        let notes = of(Level::Note, ["note", "notes"]);
        format!("{errors}, {warnings}, {notes}")
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [x, y, z] = self.workgroups;
        let [width, height, depth] = self.workgroup_size;
        let chosen = if self.is_chosen { " (chosen)" } else { "" };
        writeln!(
            f,
            "{}: `{}` in {x} × {y} × {z} workgroups{chosen} of {width} × {height} × {depth} invocations",
            self.file, self.entry
        )?;
        self.buffers.iter().try_for_each(|buffer| writeln!(f, "  {buffer}"))?;
        self.reports.iter().try_for_each(|report| writeln!(f, "{}: {report}", report.level.name()))?;
        write!(f, "{}", self.totals())
    }
}

/// What the sanitizer found in the entry points of a source.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    pub runs: Vec<Run>,
}

impl Findings {
    /// Whether there is neither an error nor a warning.
    pub fn passed(&self) -> bool {
        self.runs.iter().all(Run::passed)
    }

    /// All reports, run by run.
    pub fn reports(&self) -> impl Iterator<Item = &Report> {
        self.runs.iter().flat_map(|run| &run.reports)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        (0..).zip(&self.runs).try_for_each(|(index, run)| write!(f, "{}{run}", if index > 0 { "\n\n" } else { "" }))
    }
}
