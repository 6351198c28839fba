//! Scalars and WGSL's operators on them.

use naga::{AtomicFunction, BinaryOperator, MathFunction, ScalarKind, SubgroupOperation, UnaryOperator};

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
    /// Whether it depends on contents or lengths of buffers that the sanitizer chose.
    pub assumed: bool,
}

/// The meaning of a value that stands for no integer any more, such as a quotient of an overflowed number.
const LOST: i64 = i64::MIN;

impl Word {
    /// A number as written in the source.
    pub fn literal(bits: u32) -> Self {
        Word { bits, meaning: i64::from(bits as i32), assumed: false }
    }

    pub fn u32(value: u32) -> Self {
        Word { bits: value, meaning: i64::from(value), assumed: false }
    }

    fn i32(value: i32) -> Self {
        Word { bits: value as u32, meaning: i64::from(value), assumed: false }
    }

    fn f32(value: f32) -> Self {
        Word { bits: value.to_bits(), meaning: 0, assumed: false }
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
        Word { bits, meaning: both.and_then(|(a, b)| exactly(a, b)).unwrap_or(LOST), assumed: false }
    }

    /// What depends on other words too: assumed if any of them is.
    pub fn assuming(self, assumed: bool) -> Self {
        Word { assumed: self.assumed | assumed, ..self }
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
        F::Sinh => |a| Word::f32(a.as_f32().sinh()),
        F::Cosh => |a| Word::f32(a.as_f32().cosh()),
        F::Asin => |a| Word::f32(a.as_f32().asin()),
        F::Acos => |a| Word::f32(a.as_f32().acos()),
        F::Asinh => |a| Word::f32(a.as_f32().asinh()),
        F::Acosh => |a| Word::f32(a.as_f32().acosh()),
        F::Atanh => |a| Word::f32(a.as_f32().atanh()),
        F::Radians => |a| Word::f32(a.as_f32().to_radians()),
        F::Degrees => |a| Word::f32(a.as_f32().to_degrees()),
        F::QuantizeToF16 => HALF,
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
        (F::SmoothStep, ScalarKind::Float) => Math::Three(|low, high, a| {
            let t = ((a.as_f32() - low.as_f32()) / (high.as_f32() - low.as_f32())).clamp(0.0, 1.0);
            Word::f32(t * t * (3.0 - 2.0 * t))
        }),
        (F::Ldexp, ScalarKind::Float) => {
            Math::Two(|a, e| Word::f32((f64::from(a.as_f32()) * f64::from(e.as_i32()).exp2()) as f32))
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
        (F::FirstTrailingBit, _) => {
            Math::One(|a| Word::literal(if a.bits == 0 { u32::MAX } else { a.bits.trailing_zeros() }))
        }
        (F::FirstLeadingBit, ScalarKind::Uint) => {
            Math::One(|a| Word::literal(a.bits.checked_ilog2().unwrap_or(u32::MAX)))
        }
        (F::FirstLeadingBit, ScalarKind::Sint) => Math::One(|a| {
            let differing = a.bits ^ (a.as_i32() >> 31) as u32;
            Word::literal(differing.checked_ilog2().unwrap_or(u32::MAX))
        }),
        (F::ExtractBits, kind) => {
            let signed: Map3 = |a, offset, count| {
                let [offset, count] = field(offset, count);
                let shifted = a.bits.checked_shl(32 - offset - count).unwrap_or(0) as i32;
                Word::i32(if count == 0 { 0 } else { shifted >> (32 - count) })
            };
            let unsigned: Map3 = |a, offset, count| {
                let [offset, count] = field(offset, count);
                Word::u32(a.bits.checked_shr(offset).unwrap_or(0) & ones(count))
            };
            Math::Three(if kind == ScalarKind::Sint { signed } else { unsigned })
        }
        _ => return None,
    })
}

/// The offset and the number of bits of a field, cut to those of a word.
fn field(offset: Word, count: Word) -> [u32; 2] {
    let offset = offset.bits.min(32);
    [offset, count.bits.min(32 - offset)]
}

fn ones(count: u32) -> u32 {
    1u32.checked_shl(count).unwrap_or(0).wrapping_sub(1)
}

/// Bits from one component to the next of a packed word, and the conversion of a component into its bits.
pub fn pack(function: MathFunction) -> Option<(u32, Map1)> {
    use MathFunction as F;
    Some(match function {
        F::Pack4x8snorm => {
            (8, |a| Word::u32((a.as_f32().clamp(-1.0, 1.0) * 127.0).round_ties_even() as i32 as u32 & 0xff))
        }
        F::Pack4x8unorm => (8, |a| Word::u32((a.as_f32().clamp(0.0, 1.0) * 255.0).round_ties_even() as u32)),
        F::Pack2x16snorm => {
            (16, |a| Word::u32((a.as_f32().clamp(-1.0, 1.0) * 32_767.0).round_ties_even() as i32 as u32 & 0xffff))
        }
        F::Pack2x16unorm => (16, |a| Word::u32((a.as_f32().clamp(0.0, 1.0) * 65_535.0).round_ties_even() as u32)),
        F::Pack2x16float => (16, |a| Word::u32(half::f16::from_f32(a.as_f32()).to_bits().into())),
        F::Pack4xI8 | F::Pack4xU8 => (8, |a| Word::u32(a.bits & 0xff)),
        F::Pack4xI8Clamp => (8, |a| Word::u32(a.as_i32().clamp(-128, 127) as u32 & 0xff)),
        F::Pack4xU8Clamp => (8, |a| Word::u32(a.bits.min(255))),
        _ => return None,
    })
}

/// Bits from one component to the next of a packed word, and the component that its lowest bits hold.
pub fn unpack(function: MathFunction) -> Option<(u32, Map1)> {
    use MathFunction as F;
    Some(match function {
        F::Unpack4x8snorm => (8, |a| Word::f32((f32::from(a.bits as i8) / 127.0).max(-1.0))),
        F::Unpack4x8unorm => (8, |a| Word::f32(f32::from(a.bits as u8) / 255.0)),
        F::Unpack2x16snorm => (16, |a| Word::f32((f32::from(a.bits as i16) / 32_767.0).max(-1.0))),
        F::Unpack2x16unorm => (16, |a| Word::f32(f32::from(a.bits as u16) / 65_535.0)),
        F::Unpack2x16float => (16, |a| Word::f32(half::f16::from_bits(a.bits as u16).to_f32())),
        F::Unpack4xI8 => (8, |a| Word::i32(i32::from(a.bits as i8))),
        F::Unpack4xU8 => (8, |a| Word::u32(a.bits & 0xff)),
        _ => return None,
    })
}

/// The fraction and the exponent of `frexp`, and the fraction of `modf` (its other part is `trunc`).
pub const FREXP: [Map1; 2] =
    [|a| Word::f32(a.as_f32() / exponent(a.as_f32()).exp2()), |a| Word::i32(exponent(a.as_f32()) as i32)];
pub const MODF: Map1 = |a| Word::f32(a.as_f32().fract());

fn exponent(x: f32) -> f32 {
    if x == 0.0 || !x.is_finite() { 0.0 } else { x.abs().log2().floor() + 1.0 }
}

/// Float tests, as `isNan` of WGSL's drafts.
pub const IS_NAN: Map1 = |a| Word::bool(a.as_f32().is_nan());
pub const IS_INF: Map1 = |a| Word::bool(a.as_f32().is_infinite());

/// The new value of an atomic that a function updates with an operand.
pub fn atomic(function: AtomicFunction, kind: ScalarKind) -> Option<Map2> {
    use AtomicFunction as F;
    let op = match function {
        F::Add => BinaryOperator::Add,
        F::Subtract => BinaryOperator::Subtract,
        F::And => BinaryOperator::And,
        F::ExclusiveOr => BinaryOperator::ExclusiveOr,
        F::InclusiveOr => BinaryOperator::InclusiveOr,
        F::Min | F::Max => {
            let function = if function == F::Min { MathFunction::Min } else { MathFunction::Max };
            return match math(function, kind)? {
                Math::Two(f) => Some(f),
                _ => None,
            };
        }
        F::Exchange { .. } => return Some(|_, value| value),
    };
    binary(op, kind)
}

/// What a subgroup reduces with, and the bits of its identity.
pub fn collective(operation: SubgroupOperation, kind: ScalarKind) -> Option<(Map2, u32)> {
    use SubgroupOperation as S;
    let is_float = kind == ScalarKind::Float;
    let of = |op: BinaryOperator, identity: u32| Some((binary(op, kind)?, identity));
    let extreme = |function: MathFunction, identity: u32| match math(function, kind)? {
        Math::Two(f) => Some((f, identity)),
        _ => None,
    };
    match operation {
        S::All => Some((binary(BinaryOperator::LogicalAnd, ScalarKind::Bool)?, 1)),
        S::Any => Some((binary(BinaryOperator::LogicalOr, ScalarKind::Bool)?, 0)),
        S::Add => of(BinaryOperator::Add, 0),
        S::Mul => of(BinaryOperator::Multiply, if is_float { 1f32.to_bits() } else { 1 }),
        S::And => of(BinaryOperator::And, u32::MAX),
        S::Or => of(BinaryOperator::InclusiveOr, 0),
        S::Xor => of(BinaryOperator::ExclusiveOr, 0),
        S::Min if is_float => extreme(MathFunction::Min, f32::INFINITY.to_bits()),
        S::Max if is_float => extreme(MathFunction::Max, f32::NEG_INFINITY.to_bits()),
        S::Min => extreme(MathFunction::Min, if kind == ScalarKind::Sint { i32::MAX as u32 } else { u32::MAX }),
        S::Max => extreme(MathFunction::Max, if kind == ScalarKind::Sint { i32::MIN as u32 } else { 0 }),
    }
}

/// A rule that operands of one scalar operation keep, in every use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The divisor `b` is not 0.
    Divisor,
    /// Neither that, nor is the quotient −2³¹ / −1.
    SignedDivisor,
    /// `b` is less than 32.
    Shift,
    /// The sum, difference or product of two i32 is one.
    Sum,
    Difference,
    Product,
    /// The float `a` lies within the range of i32, or of u32, and is a number.
    ToSigned,
    ToUnsigned,
}

impl Rule {
    /// What breaks the rule, as words that follow the name of an invocation.
    pub fn broken(self, a: Word, b: Word) -> Option<String> {
        let [x, y] = [a, b].map(|word| i64::from(word.as_i32()));
        let float = f64::from(a.as_f32());
        let wraps = |exact: i64, sign: &str| {
            (i32::try_from(exact).is_err()).then(|| format!("computes {x} {sign} {y} in i32, which wraps around"))
        };
        let leaves = |low: f64, high: f64, name: &str| {
            let fits = float.trunc() >= low && float.trunc() <= high;
            (!fits).then(|| format!("converts {float} to {name}, which has no such value"))
        };
        match self {
            Rule::Divisor | Rule::SignedDivisor if b.bits == 0 => Some("divides by 0".into()),
            Rule::SignedDivisor if x == i64::from(i32::MIN) && y == -1 => {
                Some(format!("divides {x} by -1 in i32, which wraps around"))
            }
            Rule::Divisor | Rule::SignedDivisor => None,
            Rule::Shift => (b.bits >= 32)
                .then(|| format!("shifts by {} bits, of which the hardware takes {}", b.bits, b.bits % 32)),
            Rule::Sum => wraps(x + y, "+"),
            Rule::Difference => wraps(x - y, "-"),
            Rule::Product => wraps(x * y, "·"),
            Rule::ToSigned => leaves(i32::MIN.into(), i32::MAX.into(), "i32"),
            Rule::ToUnsigned => leaves(0.0, u32::MAX.into(), "u32"),
        }
    }
}

/// The mask of a field, and a word whose masked bits are those of another.
pub const FIELD: Map2 = |offset, count| {
    let [offset, count] = field(offset, count);
    Word::u32(ones(count).checked_shl(offset).unwrap_or(0))
};
pub const MERGE: Map3 = |mask, new, old| Word::u32(new.bits & mask.bits | old.bits & !mask.bits);
