//! Reference values from other implementations. Unlike differences, they can reveal a wrong forward definition.
//!
//! `golden/oracle.safetensors` was written by an independent f64 implementation of the method,
//! `golden/supplement.safetensors` by `golden/supplement.py` in the same way, `golden/cutblend.safetensors` by
//! `golden/cutblend.py`, and `golden/resnet18.safetensors` by PyTorch in `golden/resnet18.py`. The f64 interpreter must agree to 1e-9,
//! the device within its rounding errors.

mod align;
mod augment;
mod bilevel;
mod resnet;
mod score;

use std::collections::HashMap;

use safetensors::SafeTensors;
use stssad::engine::bounds::ULP;
use stssad::engine::gpu::{Executor, States};
use stssad::engine::philox::Stream;
use stssad::engine::plan::{Plan, Reuse};
use stssad::engine::reference::Reference;
use stssad::engine::tape::{Arithmetic, Array, Origin, Tape, Value};
use stssad::engine::tensor::{Shape, Tensor};

use crate::device;

/// Largest error of the f64 interpreter, relative to the largest element.
const F64_ERROR: f64 = 1e-9;

/// One golden array.
fn golden(name: &str) -> Vec<f64> {
    let files: [&[u8]; 3] = [
        include_bytes!("golden/oracle.safetensors"),
        include_bytes!("golden/supplement.safetensors"),
        include_bytes!("golden/cutblend.safetensors"),
    ];
    let tensors = files.map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let mut views = tensors.iter().filter_map(|tensors| tensors.tensor(name).ok());
    let view = views.next().unwrap_or_else(|| panic!("no golden is called {name}"));
    assert_eq!(view.dtype(), safetensors::Dtype::F64, "{name}");
    view.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Values of a tape that have goldens, and data for its feeds.
struct Golden {
    tape: Tape,
    sources: HashMap<String, Vec<f64>>,
    expected: Vec<(&'static str, Value, Vec<f64>)>,
}

impl Golden {
    fn new() -> Self {
        Golden { tape: Tape::new(), sources: HashMap::new(), expected: Vec::new() }
    }

    /// A feed with the golden `name` as its data.
    fn feed(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.sources.insert(name.to_owned(), golden(name));
        self.tape.feed(name, shape)
    }

    fn expect(&mut self, what: &'static str, value: Value, golden: Vec<f64>) {
        self.expected.push((what, value, golden));
    }

    fn check(&self) {
        self.check_interpreter();
        self.check_device();
    }

    fn check_interpreter(&self) {
        let mut reference = Reference::new(&self.tape, &self.sources);
        for (what, value, golden) in &self.expected {
            let got = reference.eval(*value).unwrap();
            let largest = golden.iter().fold(0f64, |largest, x| largest.max(x.abs()));
            assert_eq!(got.len(), golden.len(), "{what}");
            for (index, (got, want)) in got.iter().zip(golden).enumerate() {
                assert!((got - want).abs() <= F64_ERROR * largest, "{what}[{index}]: {got:e} in f64, golden {want:e}");
            }
        }
    }

    /// Compares the device with the goldens. The tolerance is six standard deviations of the result when every value is
    /// perturbed by its kernel's bound with random sign, estimated from a few dozen f64 evaluations.
    fn check_device(&self) {
        let wanted: Vec<Value> = self.expected.iter().map(|(_, value, _)| *value).collect();
        let plan = Plan::new(&self.tape, &wanted, &[], device().class(), Reuse::On);
        let mut executor = Executor::new(device(), plan, &States::new(device()), |_, _| {}).unwrap();
        let feeds = executor.plan().feeds.clone();
        for (name, shape) in feeds {
            let data = self.sources[&*name].iter().map(|&x| x as f32).collect();
            executor.feed(&name, &Tensor::new(shape, data)).unwrap();
        }
        executor.run().unwrap();

        let trials = 24;
        let mut stream = Stream::new(1, 0);
        let mut squares: Vec<Vec<f64>> = self.expected.iter().map(|(_, _, golden)| vec![0.0; golden.len()]).collect();
        for _ in 0..trials {
            let values = self.perturbed(&mut stream);
            for (squares, (_, value, golden)) in squares.iter_mut().zip(&self.expected) {
                let deviations = values[value.index()].iter().zip(golden).map(|(x, golden)| (x - golden).powi(2));
                squares.iter_mut().zip(deviations).for_each(|(sum, square)| *sum += square / f64::from(trials));
            }
        }
        for ((what, value, golden), squares) in self.expected.iter().zip(squares) {
            let got = executor.fetch(*value).unwrap();
            let largest = golden.iter().fold(0f64, |largest, x| largest.max(x.abs()));
            for (index, ((&got, want), square)) in got.data().iter().zip(golden).zip(squares).enumerate() {
                let tolerance = 6.0 * square.sqrt() + ULP * largest;
                assert!(
                    tolerance < 0.2 * largest,
                    "{what}[{index}]: a tolerance of {tolerance:e} of {largest:e} says nothing"
                );
                let error = (f64::from(got) - want).abs();
                assert!(error <= tolerance, "{what}[{index}]: {got:e} on the device, golden {want:e} ± {tolerance:e}");
            }
        }
    }

    /// All values, each perturbed by plus or minus its bound. Feeds are perturbed by their rounding to f32.
    fn perturbed(&self, stream: &mut Stream) -> Vec<Vec<f64>> {
        let mut values: Vec<Vec<f64>> = Vec::with_capacity(self.tape.len());
        let mut sign = || if stream.uniform() < 0.5 { -1.0 } else { 1.0 };
        for (_, node) in self.tape.iter() {
            let value = match &node.origin {
                Origin::Feed(name) => self.sources[&**name].iter().map(|x| x + sign() * 0.5 * ULP * x.abs()).collect(),
                Origin::Constant(tensor) => tensor.data().iter().map(|&x| f64::from(x)).collect(),
                Origin::State(name) => unreachable!("no golden has the state {name}"),
                Origin::Applied { primitive, inputs } => {
                    let arrays: Vec<Array> = inputs
                        .iter()
                        .map(|&input| Array { shape: self.tape.shape(input), data: &values[input.index()] })
                        .collect();
                    let bound = primitive.bound(&arrays, &node.shape, Arithmetic::F32);
                    let exact = primitive.eval(&arrays, &node.shape);
                    exact.iter().zip(bound).map(|(x, bound)| x + sign() * bound).collect()
                }
            };
            values.push(value);
        }
        values
    }
}
