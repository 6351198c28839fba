//! Faults that the sanitizer reports.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Two invocations access an element without a barrier between, and one of them writes.
    Race,
    /// An index outside its array, vector or buffer.
    OutOfBounds,
    /// A read of uninitialised workgroup or storage memory. Function variables are zero-initialised.
    Unwritten,
    /// Some invocations of a workgroup wait at a barrier or shuffle while others wait at another one or have returned.
    Barrier,
    /// An index computed by 32-bit arithmetic that overflowed.
    Overflow,
    /// An integer division by zero.
    DivisionByZero,
    /// A sum, difference, product or quotient of i32 that wraps around.
    Wrapped,
    /// A shift by as many bits as there are, or more.
    Shift,
    /// A float that the integer type it is converted to does not have.
    Conversion,
    /// A matrix, or a row of one, that is not aligned as devices require.
    Misaligned,
    /// The operation limit is exceeded.
    Endless,
}

impl Kind {
    pub const ALL: [Kind; 11] = [
        Kind::Race,
        Kind::OutOfBounds,
        Kind::Unwritten,
        Kind::Barrier,
        Kind::Overflow,
        Kind::DivisionByZero,
        Kind::Wrapped,
        Kind::Shift,
        Kind::Conversion,
        Kind::Misaligned,
        Kind::Endless,
    ];

    /// How bad it is where nothing weakens it.
    pub fn level(self) -> Level {
        match self {
            Kind::Race | Kind::OutOfBounds | Kind::Unwritten | Kind::Barrier | Kind::Misaligned => Level::Error,
            Kind::Overflow | Kind::DivisionByZero | Kind::Endless => Level::Warning,
            Kind::Wrapped | Kind::Shift | Kind::Conversion => Level::Note,
        }
    }

    /// What it is, in a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Kind::Race => "Two invocations access an element, one of them writes, and no barrier lies between.",
            Kind::OutOfBounds => "An index lies outside its array, vector or buffer.",
            Kind::Unwritten => "Memory is read that nothing has written.",
            Kind::Barrier => "Not all invocations of a workgroup reach a barrier or an operation of a subgroup.",
            Kind::Overflow => "The 32-bit arithmetic of an index overflowed.",
            Kind::DivisionByZero => "An integer is divided by zero.",
            Kind::Wrapped => "The arithmetic of i32 wraps around.",
            Kind::Shift => "A shift is as long as the integer, or longer.",
            Kind::Conversion => "A float is converted to an integer type that does not have its value.",
            Kind::Misaligned => "A matrix, or a row of one, is not aligned as devices require.",
            Kind::Endless => "The run was ended at the limit on operations.",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Race => "race",
            Kind::OutOfBounds => "out-of-bounds",
            Kind::Unwritten => "unwritten",
            Kind::Barrier => "barrier",
            Kind::Overflow => "overflow",
            Kind::DivisionByZero => "division-by-zero",
            Kind::Wrapped => "wrapped",
            Kind::Shift => "shift",
            Kind::Conversion => "conversion",
            Kind::Misaligned => "misaligned",
            Kind::Endless => "endless",
        }
    }
}

/// How much a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// WGSL defines what happens, or it happens only with what the sanitizer chose.
    Note,
    /// WGSL defines what happens, but a kernel hardly means it.
    Warning,
    /// WGSL leaves open what happens.
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// A fault, described by its first occurrence.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub kind: Kind,
    pub level: Level,
    /// Whether it depends on contents or lengths of buffers, or on workgroups, that the sanitizer chose.
    pub assumed: bool,
    pub file: String,
    /// Both from 1 on.
    pub line: u32,
    pub column: u32,
    /// Invocations and values of the first occurrence.
    pub message: String,
    /// How often it occurred at this place.
    pub occurrences: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.kind.name(), self.text())
    }
}

impl Report {
    /// What happened, how often, and whether it rests on what the sanitizer chose.
    pub fn text(&self) -> String {
        let times = if self.occurrences > 1 { format!(" ({} times)", self.occurrences) } else { String::new() };
        let chosen = if self.assumed {
            ", with contents, lengths or workgroups that were chosen for lack of others"
        } else {
            ""
        };
        format!("{}{chosen}{times}", self.message)
    }
}
