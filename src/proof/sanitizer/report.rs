//! What the sanitizer has to say about a kernel.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Two invocations access an element, one of them writes, and no barrier lies between.
    Race,
    /// An index outside its array, vector or buffer.
    OutOfBounds,
    /// A read of workgroup or storage memory that nobody wrote. Variables of functions begin as zero.
    Unwritten,
    /// Some invocations of a workgroup wait at a barrier or a shuffle, and others wait at another one or have returned.
    Barrier,
    /// An index that came about by 32-bit arithmetic wrapping round.
    Overflow,
    /// An integer divided by zero.
    DivisionByZero,
    /// A matrix, or a row of one, that is not aligned in memory as devices ask for.
    Misaligned,
    /// More operations than the kernel was allowed.
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

/// A fault, as its first occurrence showed it.
#[derive(Clone, Debug)]
pub struct Report {
    pub kind: Kind,
    pub file: String,
    pub line: u32,
    /// Invocations and values of the first occurrence.
    pub message: String,
    /// How often it occurred at the same place.
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
