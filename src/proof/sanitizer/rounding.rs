//! f32 arithmetic: Rust's own, or with random errors as large as the WGSL specification allows.

use std::cell::RefCell;

use crate::engine::bounds::f16_neighbours;
use crate::engine::philox::Stream;

thread_local! {
    /// The errors added to this thread's operations, if any.
    static ERRORS: RefCell<Option<Rounding>> = const { RefCell::new(None) };
}

/// Runs `body` with random errors in every float operation, up to the limits in section "Floating Point Accuracy" of
/// the WGSL specification. Only this thread is affected.
pub fn with_errors<T>(seed: u64, body: impl FnOnce() -> T) -> T {
    ERRORS.set(Some(Rounding { stream: Stream::new(seed, 0) }));
    let result = body();
    ERRORS.set(None);
    result
}

fn either(plain: impl FnOnce() -> f32, erring: impl FnOnce(&mut Rounding) -> f32) -> f32 {
    ERRORS.with_borrow_mut(|errors| match errors {
        Some(rounding) => erring(rounding),
        None => plain(),
    })
}

pub(super) fn add(a: f32, b: f32) -> f32 {
    either(|| a + b, |rounding| rounding.add(a, b))
}

pub(super) fn multiply(a: f32, b: f32) -> f32 {
    either(|| a * b, |rounding| rounding.multiply(a, b))
}

pub(super) fn divide(a: f32, b: f32) -> f32 {
    either(|| a / b, |rounding| rounding.divide(a, b))
}

pub(super) fn fma(a: f32, b: f32, c: f32) -> f32 {
    either(|| a.mul_add(b, c), |rounding| rounding.fma(a, b, c))
}

pub(super) fn exp(x: f32) -> f32 {
    either(|| x.exp(), |rounding| rounding.exp(x))
}

pub(super) fn ln(x: f32) -> f32 {
    either(|| x.ln(), |rounding| rounding.ln(x))
}

pub(super) fn sqrt(x: f32) -> f32 {
    either(|| x.sqrt(), |rounding| rounding.sqrt(x))
}

/// The f32 nearest to an integer.
pub(super) fn float(x: i64) -> f32 {
    either(|| x as f32, |rounding| rounding.correct(x as f64))
}

/// Rounds a float to f16.
pub(super) fn half(x: f32) -> f32 {
    if !x.is_finite() {
        return x;
    }
    let magnitude = f64::from(x.abs());
    let [below, above] = f16_neighbours(magnitude).map(|half| half as f32);
    let nearest = if magnitude - f64::from(below) <= f64::from(above) - magnitude { below } else { above };
    let exact = magnitude == f64::from(below);
    either(|| nearest, |rounding| rounding.half(if exact { [below; 2] } else { [below, above] })).copysign(x)
}

#[derive(Debug)]
struct Rounding {
    stream: Stream,
}

impl Rounding {
    /// Subnormals may be flushed to zero.
    fn flush(&mut self, x: f32) -> f32 {
        if x.is_subnormal() && self.stream.uniform() < 0.5 { 0.0 } else { x }
    }

    /// One of the two f32 around an exact result; the result itself if f32 represents it.
    fn correct(&mut self, exact: f64) -> f32 {
        let nearest = exact as f32;
        let other = match f64::from(nearest) {
            widened if widened < exact => nearest.next_up(),
            widened if widened > exact => nearest.next_down(),
            _ => nearest,
        };
        let chosen = if self.stream.uniform() < 0.5 { nearest } else { other };
        self.flush(chosen)
    }

    /// A result within `ulps` units in the last place, half of the time at one of the limits.
    fn within(&mut self, exact: f64, ulps: f64) -> f32 {
        let nearest = exact.abs() as f32;
        let unit = f64::from(nearest.next_up()) - f64::from(nearest);
        self.within_absolute(exact, ulps * unit)
    }

    fn within_absolute(&mut self, exact: f64, error: f64) -> f32 {
        let at = 2.0 * self.stream.uniform() - 1.0;
        let share = if self.stream.uniform() < 0.5 { at.signum() } else { at };
        let moved = exact + share * error;
        // The f32 between the exact and the moved result.
        let mut rounded = moved as f32;
        if (f64::from(rounded) - exact).abs() > (moved - exact).abs() {
            rounded = if f64::from(rounded) > exact { rounded.next_down() } else { rounded.next_up() };
        }
        self.flush(rounded)
    }

    /// Picks one of two f16.
    fn half(&mut self, neighbours: [f32; 2]) -> f32 {
        neighbours[usize::from(self.stream.uniform() < 0.5)]
    }

    fn add(&mut self, a: f32, b: f32) -> f32 {
        let (a, b) = (self.flush(a), self.flush(b));
        self.correct(f64::from(a) + f64::from(b))
    }

    fn multiply(&mut self, a: f32, b: f32) -> f32 {
        let (a, b) = (self.flush(a), self.flush(b));
        self.correct(f64::from(a) * f64::from(b))
    }

    fn divide(&mut self, a: f32, b: f32) -> f32 {
        let (a, b) = (self.flush(a), self.flush(b));
        self.within(f64::from(a) / f64::from(b), 2.5)
    }

    /// Fused or not.
    fn fma(&mut self, a: f32, b: f32, c: f32) -> f32 {
        if self.stream.uniform() < 0.5 {
            return self.correct(f64::from(a) * f64::from(b) + f64::from(c));
        }
        let product = self.multiply(a, b);
        self.add(product, c)
    }

    fn exp(&mut self, x: f32) -> f32 {
        let x = f64::from(x);
        self.within(x.exp(), 3.0 + 2.0 * x.abs())
    }

    fn ln(&mut self, x: f32) -> f32 {
        let exact = f64::from(x).ln();
        if (0.5..=2.0).contains(&x) {
            return self.within_absolute(exact, 2f64.powi(-21));
        }
        self.within(exact, 3.0)
    }

    /// 1 / inverseSqrt(x); inverseSqrt is accurate to 2 ULP.
    fn sqrt(&mut self, x: f32) -> f32 {
        if x == 0.0 {
            return 0.0;
        }
        let inverse = self.within(1.0 / f64::from(x).sqrt(), 2.0);
        self.divide(1.0, inverse)
    }
}
