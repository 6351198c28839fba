//! f32 arithmetic that errs by chance, as far as the WGSL specification allows.

use stssad::philox::Stream;

/// The arithmetic of one invocation.
pub struct Rounding {
    stream: Stream,
}

impl Rounding {
    pub fn new(seed: u64, invocation: u32) -> Self {
        Rounding { stream: Stream::new(seed, invocation) }
    }

    /// Subnormals may be taken for zero.
    pub fn flush(&mut self, x: f32) -> f32 {
        if x.is_subnormal() && self.stream.uniform() < 0.5 { 0.0 } else { x }
    }

    /// Either neighbour of an exact result, which is itself where f32 has it.
    pub fn correct(&mut self, exact: f64) -> f32 {
        let nearest = exact as f32;
        let other = match f64::from(nearest) {
            widened if widened < exact => nearest.next_up(),
            widened if widened > exact => nearest.next_down(),
            _ => nearest,
        };
        let chosen = if self.stream.uniform() < 0.5 { nearest } else { other };
        self.flush(chosen)
    }

    /// A result within `ulps` units in the last place: half the time at one of the ends.
    pub fn within(&mut self, exact: f64, ulps: f64) -> f32 {
        let nearest = exact.abs() as f32;
        let unit = f64::from(nearest.next_up()) - f64::from(nearest);
        self.within_absolute(exact, ulps * unit)
    }

    pub fn within_absolute(&mut self, exact: f64, error: f64) -> f32 {
        let at = 2.0 * self.stream.uniform() - 1.0;
        let share = if self.stream.uniform() < 0.5 { at.signum() } else { at };
        let moved = exact + share * error;
        // The f32 on the near side of the moved result.
        let mut rounded = moved as f32;
        if (f64::from(rounded) - exact).abs() > (moved - exact).abs() {
            rounded = if f64::from(rounded) > exact { rounded.next_down() } else { rounded.next_up() };
        }
        self.flush(rounded)
    }

    pub fn add(&mut self, a: f32, b: f32) -> f32 {
        let (a, b) = (self.flush(a), self.flush(b));
        self.correct(f64::from(a) + f64::from(b))
    }

    pub fn multiply(&mut self, a: f32, b: f32) -> f32 {
        let (a, b) = (self.flush(a), self.flush(b));
        self.correct(f64::from(a) * f64::from(b))
    }

    pub fn divide(&mut self, a: f32, b: f32) -> f32 {
        let (a, b) = (self.flush(a), self.flush(b));
        self.within(f64::from(a) / f64::from(b), 2.5)
    }

    /// Fused or not.
    pub fn fma(&mut self, a: f32, b: f32, c: f32) -> f32 {
        if self.stream.uniform() < 0.5 {
            return self.correct(f64::from(a) * f64::from(b) + f64::from(c));
        }
        let product = self.multiply(a, b);
        self.add(product, c)
    }

    pub fn exp(&mut self, x: f32) -> f32 {
        let x = f64::from(x);
        self.within(x.exp(), 3.0 + 2.0 * x.abs())
    }

    pub fn ln(&mut self, x: f32) -> f32 {
        let exact = f64::from(x).ln();
        if (0.5..=2.0).contains(&x) {
            return self.within_absolute(exact, 2f64.powi(-21));
        }
        self.within(exact, 3.0)
    }

    /// 1 / inverseSqrt(x), of which the latter is good to 2 ULP.
    pub fn sqrt(&mut self, x: f32) -> f32 {
        if x == 0.0 {
            return 0.0;
        }
        let inverse = self.within(1.0 / f64::from(x).sqrt(), 2.0);
        self.divide(1.0, inverse)
    }
}
