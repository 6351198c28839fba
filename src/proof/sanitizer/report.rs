//! Faults that the sanitizer reports.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// A matrix, or a row of one, that is not aligned as devices require.
    Misaligned,
    /// The operation limit is exceeded.
    Endless,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Race => "race",
            Kind::OutOfBounds => "out-of-bounds",
            Kind::Unwritten => "unwritten",
            Kind::Barrier => "barrier",
            Kind::Overflow => "overflow",
            Kind::DivisionByZero => "division-by-zero",
            Kind::Misaligned => "misaligned",
            Kind::Endless => "endless",
        }
    }
}

/// A fault, described by its first occurrence.
#[derive(Clone, Debug)]
pub struct Report {
    pub kind: Kind,
    pub file: String,
    pub line: u32,
    /// Invocations and values of the first occurrence.
    pub message: String,
    /// How often it occurred at this place.
    pub occurrences: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.kind.name(), self.message)?;
        if self.occurrences > 1 {
            write!(f, " ({} times)", self.occurrences)?;
        }
        Ok(())
    }
}
