//! Scalars and WGSL's operators on them.

use naga::{BinaryOperator, MathFunction, ScalarKind, UnaryOperator};

use super::rounding;

/// A 32-bit scalar, with the integer that it stands for.
///
/// `meaning` is the result of the same arithmetic in ℤ. It differs from the bits after an overflow and agrees again
/// when a later step wraps back, as in `i + PADDING - PADDING`, or when a comparison picks another value, as in `min(i
/// - 1, last)`. So an index has overflowed exactly when its bits differ from its meaning. Literals from 2³¹ up mean
/// negative numbers: `u32(OFFSET)` of a negative constant is one. Floats have no meaning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Word {
    pub bits: u32,
    meaning: i64,
}

/// The meaning of a value that stands for no integer any more, such as a quotient of an overflowed number.
const LOST: i64 = i64::MIN;

impl Word {
    /// A number as written in the source.
    pub fn literal(bits: u32) -> Self {
        Word { bits, meaning: i64::from(bits as i32) }
    }

    pub fn u32(value: u32) -> Self {
        Word { bits: value, meaning: i64::from(value) }
    }

    fn i32(value: i32) -> Self {
        Word { bits: value as u32, meaning: i64::from(value) }
    }

    fn f32(value: f32) -> Self {
        Word { bits: value.to_bits(), meaning: 0 }
    }

    fn bool(value: bool) -> Self {
        Word::u32(u32::from(value))
    }

    pub fn as_u32(self) -> u32 {
        self.bits
    }

    pub fn as_i32(self) -> i32 {
        self.bits as i32
    }

    pub fn as_f32(self) -> f32 {
        f32::from_bits(self.bits)
    }

    pub fn as_bool(self) -> bool {
        self.bits != 0
    }

    /// The integer in the bits.
    pub fn integer(self, signed: bool) -> i64 {
        if signed { i64::from(self.as_i32()) } else { i64::from(self.bits) }
    }

    /// Whether the bits equal the meaning.
    pub fn is_exact(self, signed: bool) -> bool {
        self.meaning == self.integer(signed)
    }

    /// The integer that the bits should have been, if known.
    pub fn meaning(self) -> Option<i64> {
        (self.meaning != LOST).then_some(self.meaning)
    }

    fn combine(bits: u32, a: Word, b: Word, exactly: fn(i64, i64) -> Option<i64>) -> Self {
        let both = a.meaning().zip(b.meaning());
        Word { bits, meaning: both.and_then(|(a, b)| exactly(a, b)).unwrap_or(LOST) }
    }

    /// The result of an operation that is meaningful only for exact operands.
    fn unless_lost(self, exact: bool) -> Self {
        if exact { self } else { Word { meaning: LOST, ..self } }
    }
}

/// Applied to each component.
pub type Map1 = fn(Word) -> Word;
pub type Map2 = fn(Word, Word) -> Word;
pub type Map3 = fn(Word, Word, Word) -> Word;

pub fn unary(op: UnaryOperator, kind: ScalarKind) -> Option<Map1> {
    Some(match (op, kind) {
        (UnaryOperator::Negate, ScalarKind::Float) => |a| Word::f32(-a.as_f32()),
        (UnaryOperator::Negate, _) => {
            |a| Word::combine(a.as_i32().wrapping_neg() as u32, Word::u32(0), a, i64::checked_sub)
        }
        (UnaryOperator::LogicalNot, _) => |a| Word::bool(!a.as_bool()),
        (UnaryOperator::BitwiseNot, ScalarKind::Sint) => |a| Word::i32(!a.as_i32()),
        (UnaryOperator::BitwiseNot, _) => |a| Word::u32(!a.as_u32()),
    })
}

pub fn binary(op: BinaryOperator, kind: ScalarKind) -> Option<Map2> {
    use BinaryOperator as Op;
    Some(match kind {
        ScalarKind::Float => match op {
            Op::Add => |a, b| Word::f32(rounding::add(a.as_f32(), b.as_f32())),
            Op::Subtract => |a, b| Word::f32(rounding::add(a.as_f32(), -b.as_f32())),
            Op::Multiply => |a, b| Word::f32(rounding::multiply(a.as_f32(), b.as_f32())),
            Op::Divide => |a, b| Word::f32(rounding::divide(a.as_f32(), b.as_f32())),
            Op::Modulo => |a, b| Word::f32(a.as_f32() % b.as_f32()),
            Op::Equal => |a, b| Word::bool(a.as_f32() == b.as_f32()),
            Op::NotEqual => |a, b| Word::bool(a.as_f32() != b.as_f32()),
            Op::Less => |a, b| Word::bool(a.as_f32() < b.as_f32()),
            Op::LessEqual => |a, b| Word::bool(a.as_f32() <= b.as_f32()),
            Op::Greater => |a, b| Word::bool(a.as_f32() > b.as_f32()),
            Op::GreaterEqual => |a, b| Word::bool(a.as_f32() >= b.as_f32()),
            _ => return None,
        },
        ScalarKind::Bool => match op {
            Op::Equal => |a, b| Word::bool(a.bits == b.bits),
            Op::NotEqual => |a, b| Word::bool(a.bits != b.bits),
            Op::And | Op::LogicalAnd => |a, b| Word::bool(a.as_bool() && b.as_bool()),
            Op::InclusiveOr | Op::LogicalOr => |a, b| Word::bool(a.as_bool() || b.as_bool()),
            _ => return None,
        },
        ScalarKind::Sint | ScalarKind::Uint => integer(op, kind == ScalarKind::Sint),
        ScalarKind::AbstractInt | ScalarKind::AbstractFloat => return None,
    })
}

/// Bitwise operators treat their operands as bit patterns, so their result is exact; the others propagate the meaning.
fn integer(op: BinaryOperator, signed: bool) -> Map2 {
    use BinaryOperator as Op;
    match op {
        Op::Add => |a, b| Word::combine(a.bits.wrapping_add(b.bits), a, b, i64::checked_add),
        Op::Subtract => |a, b| Word::combine(a.bits.wrapping_sub(b.bits), a, b, i64::checked_sub),
        Op::Multiply => |a, b| Word::combine(a.bits.wrapping_mul(b.bits), a, b, i64::checked_mul),
        // Division by zero is reported before it executes. WGSL defines x / 0 = x and x % 0 = 0.
        Op::Divide if signed => |a, b| {
            let quotient = if b.bits == 0 { a.as_i32() } else { a.as_i32().wrapping_div(b.as_i32()) };
            Word::i32(quotient).unless_lost(a.is_exact(true) && b.is_exact(true))
        },
        Op::Divide => |a, b| {
            let quotient = a.bits.checked_div(b.bits).unwrap_or(a.bits);
            Word::u32(quotient).unless_lost(a.is_exact(false) && b.is_exact(false))
        },
        Op::Modulo if signed => |a, b| {
            let remainder = if b.bits == 0 { 0 } else { a.as_i32().wrapping_rem(b.as_i32()) };
            Word::i32(remainder).unless_lost(a.is_exact(true) && b.is_exact(true))
        },
        Op::Modulo => |a, b| {
            let remainder = a.bits.checked_rem(b.bits).unwrap_or(0);
            Word::u32(remainder).unless_lost(a.is_exact(false) && b.is_exact(false))
        },
        Op::ShiftLeft => |a, b| {
            Word::combine(a.bits << (b.bits & 31), a, b, |a, b| {
                a.checked_mul(1i64.checked_shl(u32::try_from(b).ok()?)?)
            })
        },
        Op::ShiftRight if signed => |a, b| Word::i32(a.as_i32() >> (b.bits & 31)).unless_lost(a.is_exact(true)),
        Op::ShiftRight => |a, b| Word::u32(a.bits >> (b.bits & 31)).unless_lost(a.is_exact(false)),
        Op::And if signed => |a, b| Word::i32(a.as_i32() & b.as_i32()),
        Op::And => |a, b| Word::u32(a.bits & b.bits),
        Op::InclusiveOr if signed => |a, b| Word::i32(a.as_i32() | b.as_i32()),
        Op::InclusiveOr => |a, b| Word::u32(a.bits | b.bits),
        Op::ExclusiveOr if signed => |a, b| Word::i32(a.as_i32() ^ b.as_i32()),
        Op::ExclusiveOr => |a, b| Word::u32(a.bits ^ b.bits),
        Op::Equal => |a, b| Word::bool(a.bits == b.bits),
        Op::NotEqual => |a, b| Word::bool(a.bits != b.bits),
        Op::Less if signed => |a, b| Word::bool(a.as_i32() < b.as_i32()),
        Op::Less => |a, b| Word::bool(a.bits < b.bits),
        Op::LessEqual if signed => |a, b| Word::bool(a.as_i32() <= b.as_i32()),
        Op::LessEqual => |a, b| Word::bool(a.bits <= b.bits),
        Op::Greater if signed => |a, b| Word::bool(a.as_i32() > b.as_i32()),
        Op::Greater => |a, b| Word::bool(a.bits > b.bits),
        Op::GreaterEqual if signed => |a, b| Word::bool(a.as_i32() >= b.as_i32()),
        Op::GreaterEqual => |a, b| Word::bool(a.bits >= b.bits),
        Op::LogicalAnd | Op::LogicalOr => unreachable!("naga validates that these take booleans"),
    }
}

/// The conversion `to(x)`. Between the integer types it keeps the bits and the meaning.
pub fn convert(from: ScalarKind, to: ScalarKind) -> Option<Map1> {
    use ScalarKind::{Bool, Float, Sint, Uint};
    Some(match (from, to) {
        (Sint | Uint, Sint | Uint) | (Float, Float) | (Bool, Bool | Sint | Uint) => |a| a,
        (Sint, Float) => |a| Word::f32(rounding::float(a.as_i32().into())),
        (Uint | Bool, Float) => |a| Word::f32(rounding::float(a.bits.into())),
        (Float, Sint) => |a| Word::i32(a.as_f32() as i32),
        (Float, Uint) => |a| Word::u32(a.as_f32() as u32),
        (Float, Bool) => |a| Word::bool(a.as_f32() != 0.0),
        (Sint | Uint, Bool) => |a| Word::bool(a.bits != 0),
        _ => return None,
    })
}

/// `f16(x)` for a float x.
pub const HALF: Map1 = |a| Word::f32(rounding::half(a.as_f32()));

/// Adds one product of a matrix multiplication to the sum so far.
pub fn multiply_add(a: Word, b: Word, sum: Word) -> Word {
    Word::f32(rounding::fma(a.as_f32(), b.as_f32(), sum.as_f32()))
}

/// `bitcast`: the bits of a float are exact in any type.
pub fn bitcast(from: ScalarKind, to: ScalarKind) -> Map1 {
    match (from, to) {
        (ScalarKind::Float, ScalarKind::Sint) => |a| Word::i32(a.as_i32()),
        (ScalarKind::Float, ScalarKind::Uint) => |a| Word::u32(a.bits),
        _ => |a| a,
    }
}

pub const SELECT: Map3 = |condition, accept, reject| if condition.as_bool() { accept } else { reject };

/// A builtin function applied to each component.
pub enum Math {
    One(Map1),
    Two(Map2),
    Three(Map3),
}

fn f32_of_1(function: MathFunction) -> Option<Map1> {
    use MathFunction as F;
    Some(match function {
        F::Abs => |a| Word::f32(a.as_f32().abs()),
        F::Saturate => |a| Word::f32(a.as_f32().clamp(0.0, 1.0)),
        F::Sign => |a| Word::f32(if a.as_f32() == 0.0 { 0.0 } else { a.as_f32().signum() }),
        F::Ceil => |a| Word::f32(a.as_f32().ceil()),
        F::Floor => |a| Word::f32(a.as_f32().floor()),
        F::Round => |a| Word::f32(a.as_f32().round_ties_even()),
        F::Trunc => |a| Word::f32(a.as_f32().trunc()),
        F::Fract => |a| Word::f32(a.as_f32() - a.as_f32().floor()),
        F::Exp => |a| Word::f32(rounding::exp(a.as_f32())),
        F::Exp2 => |a| Word::f32(a.as_f32().exp2()),
        F::Log => |a| Word::f32(rounding::ln(a.as_f32())),
        F::Log2 => |a| Word::f32(a.as_f32().log2()),
        F::Sqrt => |a| Word::f32(rounding::sqrt(a.as_f32())),
        F::InverseSqrt => |a| Word::f32(1.0 / a.as_f32().sqrt()),
        F::Sin => |a| Word::f32(a.as_f32().sin()),
        F::Cos => |a| Word::f32(a.as_f32().cos()),
        F::Tan => |a| Word::f32(a.as_f32().tan()),
        F::Tanh => |a| Word::f32(a.as_f32().tanh()),
        F::Atan => |a| Word::f32(a.as_f32().atan()),
        _ => return None,
    })
}

pub fn math(function: MathFunction, kind: ScalarKind) -> Option<Math> {
    use MathFunction as F;
    Some(match (function, kind) {
        (F::Min, ScalarKind::Float) => Math::Two(|a, b| Word::f32(a.as_f32().min(b.as_f32()))),
        (F::Max, ScalarKind::Float) => Math::Two(|a, b| Word::f32(a.as_f32().max(b.as_f32()))),
        (F::Pow, ScalarKind::Float) => Math::Two(|a, b| Word::f32(a.as_f32().powf(b.as_f32()))),
        (F::Atan2, ScalarKind::Float) => Math::Two(|a, b| Word::f32(a.as_f32().atan2(b.as_f32()))),
        (F::Step, ScalarKind::Float) => {
            Math::Two(|edge, a| Word::f32(f32::from(u8::from(edge.as_f32() <= a.as_f32()))))
        }
        (F::Fma, ScalarKind::Float) => {
            Math::Three(|a, b, c| Word::f32(rounding::fma(a.as_f32(), b.as_f32(), c.as_f32())))
        }
        (F::Mix, ScalarKind::Float) => {
            Math::Three(|a, b, t| Word::f32(a.as_f32() * (1.0 - t.as_f32()) + b.as_f32() * t.as_f32()))
        }
        (F::Clamp, ScalarKind::Float) => {
            Math::Three(|a, low, high| Word::f32(a.as_f32().max(low.as_f32()).min(high.as_f32())))
        }
        (_, ScalarKind::Float) => Math::One(f32_of_1(function)?),
        (F::Min, ScalarKind::Sint) => Math::Two(|a, b| if b.as_i32() < a.as_i32() { b } else { a }),
        (F::Max, ScalarKind::Sint) => Math::Two(|a, b| if a.as_i32() < b.as_i32() { b } else { a }),
        (F::Min, ScalarKind::Uint) => Math::Two(|a, b| if b.bits < a.bits { b } else { a }),
        (F::Max, ScalarKind::Uint) => Math::Two(|a, b| if a.bits < b.bits { b } else { a }),
        (F::Clamp, ScalarKind::Sint) => Math::Three(|a, low, high| {
            let raised = if a.as_i32() < low.as_i32() { low } else { a };
            if high.as_i32() < raised.as_i32() { high } else { raised }
        }),
        (F::Clamp, ScalarKind::Uint) => Math::Three(|a, low, high| {
            let raised = if a.bits < low.bits { low } else { a };
            if high.bits < raised.bits { high } else { raised }
        }),
        (F::Abs, ScalarKind::Sint) => {
            Math::One(|a| Word::i32(a.as_i32().wrapping_abs()).unless_lost(a.is_exact(true) && a.as_i32() != i32::MIN))
        }
        (F::Abs, ScalarKind::Uint) => Math::One(|a| a),
        (F::Sign, ScalarKind::Sint) => Math::One(|a| Word::i32(a.as_i32().signum())),
        (F::CountOneBits, _) => Math::One(|a| Word::u32(a.bits.count_ones())),
        (F::CountLeadingZeros, _) => Math::One(|a| Word::u32(a.bits.leading_zeros())),
        (F::CountTrailingZeros, _) => Math::One(|a| Word::u32(a.bits.trailing_zeros())),
        (F::ReverseBits, _) => Math::One(|a| Word::u32(a.bits.reverse_bits())),
        _ => return None,
    })
}
