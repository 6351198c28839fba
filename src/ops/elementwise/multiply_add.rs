//! Sums of products in one pass: batch norm and its derivatives are such, with a factor and an addend for each channel.

use std::ops::{Add, Mul};
use std::rc::Rc;

use super::{Binary, Collapsed, Operand, broadcast_shape, positive_part, scaled, vector_result, zip_broadcast};
use crate::check::Approx;
use crate::kernel::{DeviceClass, Kernel};
use crate::tape::{Application, Array, Cotangent, Origin, Primitive, Tape, Value};
use crate::tensor::{Shape, Tensor};

/// Products that a sum is made of at most: of more, some are summed before.
const PRODUCTS: usize = 4;

/// y = p · a · b + q · c, or with two products p · a · b + q · c · d + r · e, or its positive part with `relu`; the operands
/// are broadcast to a shape in common, the factors p, q and r rounded to f32 on the device. Neither the products nor, with
/// `relu`, the sum is written to memory.
#[derive(Clone, Debug)]
pub struct MultiplyAdd {
    /// Of each product, one or two, and of the addend.
    pub factors: Vec<f64>,
    pub relu: bool,
}

impl MultiplyAdd {
    /// The sum, of `scaled(factor, x)` for factor · x.
    fn sum<T>(&self, operands: &[T], scaled: impl Fn(f64, T) -> T) -> T
    where
        T: Copy + Mul<Output = T> + Add<Output = T>,
    {
        let terms = operands.chunks(2).zip(&self.factors).map(|(operands, &factor)| match *operands {
            [a, b] => scaled(factor, a) * b,
            _ => scaled(factor, operands[0]),
        });
        terms.reduce(Add::add).expect("at least one product")
    }
}

impl Primitive for MultiplyAdd {
    fn name(&self) -> &'static str {
        if self.factors.len() == 2 { "elementwise/multiply_add" } else { "elementwise/multiply_add_2" }
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let first = Ok(inputs[0].clone());
        let shape = inputs[1..].iter().fold(first, |shape, operand| broadcast_shape(&shape?, operand))?;
        Collapsed::new(&shape, inputs)?;
        Ok(shape)
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let ct = match self.relu {
            true => tape.binary(Binary::WherePositive, at.cotangent, at.output),
            false => at.cotangent,
        };
        let mut cotangents = Vec::with_capacity(at.inputs.len());
        for (operands, &factor) in at.inputs.chunks(2).zip(&self.factors) {
            let fitted = |tape: &mut Tape, ct: Value, input: Value| tape.sum_to(ct, &tape.shape(input).clone());
            match *operands {
                [a, b] => {
                    let [ct_a, ct_b] = [b, a].map(|other| tape.product(factor, ct, other));
                    cotangents.extend([fitted(tape, ct_a, a), fitted(tape, ct_b, b)]);
                }
                _ => {
                    let sum = fitted(tape, ct, operands[0]);
                    cotangents.push(tape.scale(sum, factor));
                }
            }
        }
        cotangents.into_iter().map(Cotangent::Of).collect()
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let finish = if self.relu { positive_part } else { |sum| sum };
        zip_broadcast(inputs, output, |operands| finish(self.sum(operands, Mul::mul)))
    }

    fn bound(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        zip_broadcast(inputs, output, |operands| {
            let operands: Vec<Approx> = operands.iter().map(|&operand| Approx::exact(operand)).collect();
            let sum = self.sum(&operands, scaled);
            // The positive part of what is surely negative is 0 exactly.
            if self.relu { (sum.value.min(0.0) + sum.error).max(0.0) } else { sum.error }
        })
    }

    fn kernel(&self, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let axes = Collapsed::new(output, inputs).expect("checked when recorded");
        let kernel = Kernel::new(self.name()).constant("RELU", u32::from(self.relu));
        let mut kernel = axes.dispatch(kernel, &Operand::ALL[..inputs.len()], class);
        for (name, &factor) in ["p", "q", "r"].into_iter().zip(&self.factors) {
            kernel = kernel.immediate(name, factor as f32);
        }
        vector_result(kernel).storable(inputs.len(), "StoredY", output.count())
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        2 * ((self.factors.len() - 1) * output.count()) as u64
    }

    fn rectified(&self) -> Option<Rc<dyn Primitive>> {
        Some(Rc::new(MultiplyAdd { factors: self.factors.clone(), relu: true }))
    }

    fn sum_of_products(&self) -> &[f64] {
        if self.relu { &[] } else { &self.factors }
    }

    fn is_cheap(&self) -> bool {
        true
    }
}

/// What a sum is made of, each with its factor.
#[derive(Debug, Default)]
struct Terms {
    products: Vec<(f64, [Value; 2])>,
    addends: Vec<(f64, Value)>,
}

impl Tape {
    /// p · a + q · b with NumPy's broadcasting. Where these are sums and products themselves, or other values times a number, the
    /// sum is made of their terms in as few passes as possible, and unless something else reads a or b, they are not computed.
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn linear(&mut self, terms: [(f64, Value); 2]) -> Value {
        if let Some(sum) = self.sum_of_terms(terms) {
            return sum;
        }
        let [(p, a), (q, b)] = terms.map(|(factor, value)| {
            let (scale, value) = self.scaled(value);
            (factor * scale, value)
        });
        self.binary(Binary::Linear { p, q }, a, b)
    }

    /// a + b; see [`linear`](Tape::linear).
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.linear([(1.0, a), (1.0, b)])
    }

    /// a − b; see [`linear`](Tape::linear).
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        self.linear([(1.0, a), (-1.0, b)])
    }

    /// The sum of the terms of two values, if there are products among them and one kernel broadcasts all of them.
    fn sum_of_terms(&mut self, values: [(f64, Value); 2]) -> Option<Value> {
        let shape = broadcast_shape(self.shape(values[0].1), self.shape(values[1].1)).ok()?;
        let mut terms = Terms::default();
        values.into_iter().for_each(|value| self.terms(value, &shape, &mut terms));
        if terms.products.len() > PRODUCTS {
            terms = Terms { products: Vec::new(), addends: vec![values[0]] };
            self.terms(values[1], &shape, &mut terms);
        }
        let Terms { mut products, addends } = terms;
        if products.is_empty() {
            return None;
        }
        let mut addends = self.merged(addends);
        if addends.len() > 1 && products.len() % 2 == 1 {
            let largest = (0..addends.len()).max_by_key(|&index| self.shape(addends[index].1).count())?;
            let ((factor, addend), one) = (addends.remove(largest), self.constant(Tensor::full([1], 1.0)));
            products.push((factor, [addend, one]));
        }
        let mut sum = addends.into_iter().reduce(|sum, addend| (1.0, self.linear([sum, addend])));
        for products in products.chunks(2) {
            let mut factors: Vec<f64> = products.iter().map(|(factor, _)| *factor).collect();
            let mut operands: Vec<Value> = products.iter().flat_map(|(_, operands)| *operands).collect();
            let (last, addend) = sum.unwrap_or_else(|| (1.0, self.constant(Tensor::full([1], 0.0))));
            factors.push(last);
            operands.push(addend);
            let multiply_add = MultiplyAdd { factors, relu: false };
            let shapes: Vec<&Shape> = operands.iter().map(|&operand| self.shape(operand)).collect();
            multiply_add.shape(&shapes).ok()?;
            sum = Some((1.0, self.push(multiply_add, &operands)));
        }
        sum.map(|(_, sum)| sum).filter(|&sum| *self.shape(sum) == shape)
    }

    /// Adds what factor · value is the sum of.
    fn terms(&mut self, (factor, value): (f64, Value), shape: &Shape, terms: &mut Terms) {
        if self.is_constant(value, 0.0) {
            return;
        }
        let (scale, value) = self.scaled(value);
        let factor = factor * scale;
        // What is smaller than the sum is computed before it.
        if self.shape(value) == shape {
            if let Some((scale, product)) = self.factors(value) {
                return terms.products.push((factor * scale, product));
            }
            // Of a sum that is scaled the terms may be far larger than it is, and in a recurrence ever larger.
            if let Origin::Applied { primitive, inputs } = self.node(value).origin.clone()
                && !primitive.sum_of_products().is_empty()
                && factor.abs() == 1.0
            {
                for (operands, scale) in inputs.chunks(2).zip(primitive.sum_of_products()) {
                    match *operands {
                        [a, b] => terms.products.push((factor * scale, [a, b])),
                        _ => self.terms((factor * scale, operands[0]), shape, terms),
                    }
                }
                return;
            }
        }
        terms.addends.push((factor, self.before_broadcast(value)));
    }

    /// The same sum of fewer addends: those of one shape are added to each other.
    fn merged(&mut self, addends: Vec<(f64, Value)>) -> Vec<(f64, Value)> {
        let mut merged: Vec<(f64, Value)> = Vec::new();
        for addend in addends {
            match merged.iter().position(|&(_, other)| self.shape(other) == self.shape(addend.1)) {
                Some(at) => merged[at] = (1.0, self.linear([merged[at], addend])),
                None => merged.push(addend),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_products_take_as_few_passes_as_possible() {
        let mut t = Tape::new();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| t.feed(name, [4, 3, 5]));
        let [p, q, r, s] = ["p", "q", "r", "s"].map(|name| t.feed(name, [1, 3, 1]));
        let inputs = |t: &Tape, value: Value| t.node(value).inputs().to_vec();

        let products = [(a, p), (b, q), (c, r), (d, s)].map(|(x, y)| t.mul(x, y));
        // The channels' own addends are summed on their own.
        let one = t.add(products[0], r);
        assert_eq!(inputs(&t, one), [a, p, r]);
        let two = t.add(one, products[1]);
        assert_eq!(inputs(&t, two), [a, p, b, q, r]);
        let shifted = t.add(two, s);
        assert_eq!(inputs(&t, shifted)[..4], [a, p, b, q]);
        let shift = inputs(&t, shifted)[4];
        assert_eq!((inputs(&t, shift), &t.shape(shift)[..]), (vec![r, s], &[1, 3, 1][..]));

        let four = t.add(products[2], products[3]);
        let four = t.add(shifted, four);
        let inner = *inputs(&t, four).last().unwrap();
        assert_eq!((inputs(&t, four).len(), inputs(&t, inner).len()), (5, 5));
        assert_eq!(*t.shape(inputs(&t, inner)[4]), *t.shape(p));

        // Of two addends, one has the place of a product.
        let large = t.add(one, d);
        assert_eq!(inputs(&t, large)[..3], [a, p, d]);
        assert_eq!(inputs(&t, large)[4], r);
        let rectified = t.relu(large);
        assert_eq!(inputs(&t, rectified), inputs(&t, large));
        // What is rectified is no sum, and a sum that is scaled stays one.
        let half = t.scale(two, 0.5);
        let more = t.add(half, products[2]);
        assert_eq!(inputs(&t, more), [c, r, two]);
        let beyond = t.add(rectified, products[1]);
        assert_eq!(inputs(&t, beyond), [b, q, rectified]);
    }
}
