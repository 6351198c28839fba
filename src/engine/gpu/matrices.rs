//! Whether kernels can be relied on that a driver's own account leaves open: those on matrix units.
//!
//! A matrix belongs to a subgroup, and a kernel gives each 32 invocations matrices of their own. Where a driver takes larger
//! subgroups, or multiplies otherwise than it says, the products are wrong without a word. So they are tried, on workgroups of
//! each number of blocks that a plan may choose, and held against the definition.

use std::sync::Arc;

use super::GpuError;
use super::device::Device;
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::conv2d::{Conv2d, Geometry, Role};
use crate::engine::ops::matmul::Matmul;
use crate::engine::philox::Stream;
use crate::engine::tape::Array;
use crate::engine::tensor::{Shape, Tensor};

/// The families that have kernels on matrix units, each with the shapes of a small problem. Its sums are several loops long:
/// there a driver has been seen to double them. Its outputs fill several workgroups and hang over the last one's blocks.
fn problems() -> [(Arc<dyn Lower>, [Shape; 2]); 4] {
    let geometry = Geometry { image: [8, 12], window: [3, 3], stride: 1, padding: 1 };
    let (x, w, y) = ([2, 40, 8, 12], [70, 40, 3, 3], [2, 70, 8, 12]);
    let conv2d = |solve_for| -> Arc<dyn Lower> { Arc::new(Conv2d { solve_for, geometry, groups: 1 }) };
    [
        (Arc::new(Matmul { transpose_a: false, transpose_b: false }), [[70, 96].into(), [96, 90].into()]),
        (conv2d(Role::Output), [x.into(), w.into()]),
        (conv2d(Role::Input), [y.into(), w.into()]),
        (conv2d(Role::Kernel), [x.into(), y.into()]),
    ]
}

impl Device {
    /// The first kernel for devices of `class`, if any, that computes a small problem otherwise than it is defined. The
    /// problems are of small integers, whose products and sums f16 and f32 have exactly.
    ///
    /// # Errors
    /// When the device refuses or is lost.
    pub(super) fn first_wrong(&self, class: DeviceClass) -> Result<Option<&'static str>, GpuError> {
        for (primitive, shapes) in problems() {
            let inputs = [0, 1].map(|operand: usize| {
                let (shape, mut stream) = (shapes[operand].clone(), Stream::new(1, operand as u32));
                let data = (0..shape.count()).map(|_| (9.0 * stream.uniform()).floor() as f32 - 4.0).collect();
                Tensor::new(shape, data)
            });
            let shapes = shapes.each_ref();
            let output = primitive.shape(&shapes).expect("the shapes fit");
            let wide = inputs.each_ref().map(|input| input.data().iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
            let arrays = [0, 1].map(|operand| Array { shape: shapes[operand], data: &wide[operand] });
            let expected = primitive.eval(&arrays, &output);
            for kernel in distinct(primitive.as_ref(), &shapes, &output, class) {
                let computed = self.run_isolated(&kernel, &inputs, &output)?;
                let agrees = computed.output.data().iter().zip(&expected).all(|(&got, &want)| f64::from(got) == want);
                if !agrees || computed.damage.is_some() {
                    return Ok(Some(kernel.name));
                }
            }
        }
        Ok(None)
    }
}

/// The kernel that a plan would choose, and of those that it chooses for other shapes one of each size of workgroups and of
/// each way to share a sum: what a driver makes its choices by.
fn distinct(lowered: &dyn Lower, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Vec<Kernel> {
    let chosen = lowered.kernel(inputs, output, class);
    let others = match class {
        DeviceClass::Matrix(_) => lowered.tilings(inputs, output, class),
        // Nothing is left open of these.
        DeviceClass::Gpu | DeviceClass::Cpu(_) => Vec::new(),
    };
    let blocks = |kernel: &Kernel| -> [u32; 2] {
        let number = |name: &str| {
            let constant = kernel.constants.iter().find(|(other, _)| *other == name);
            constant.map_or(1, |(_, value)| value.to_bits())
        };
        [number("BLOCKS_M") * number("BLOCKS_N"), number("SHARES")]
    };
    let mut kernels = vec![chosen];
    for kernel in others {
        if kernels.iter().all(|other| blocks(other) != blocks(&kernel)) {
            kernels.push(kernel);
        }
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::Choice;
    use crate::engine::kernel::{Precision, Tile};
    use crate::engine::shaders::source;

    #[test]
    fn f16_is_taken_where_it_multiplies_right_and_refused_with_the_reason_elsewhere() {
        let device = Device::open(&Choice::Best).unwrap();
        assert_eq!(device.precision(), Precision::F32);
        let Some(&tile) = device.tiles().last() else {
            println!("{} has no matrix units: only the refusal is tested", device.adapter().name);
            let error = device.with_precision(Precision::F16).unwrap_err().to_string();
            let reason = device.adapter().without_tiles.as_ref().unwrap();
            assert!(error.contains(&format!("precision f16 needs matrix units, but {reason}")), "{error}");
            return;
        };
        let halved = device.with_precision(Precision::F16).unwrap();
        assert_eq!((halved.class(), halved.precision()), (DeviceClass::Matrix(tile), Precision::F16));
        assert_eq!(halved.with_precision(Precision::F32).unwrap().class(), device.class());

        for name in
            ["matmul/product", "conv2d/output", "conv2d/input", "conv2d/kernel"].map(|of| format!("{of}_matrix"))
        {
            let name: &'static str = name.leak();
            let doubling = source(&Kernel::new(name)).unwrap().replace("= results[", "= 2.0 * results[");
            let device = Device::open(&Choice::Best).unwrap();
            device.replace_shader(name, doubling);
            let error = device.with_precision(Precision::F16).unwrap_err().to_string();
            assert!(error.contains(&format!("computes {name} wrongly")), "{error}");
        }
    }

    /// The same proof by the kernels that every device has, so that it is tried where there are no matrix units.
    #[test]
    fn the_proof_finds_the_family_that_is_wrong_and_passes_those_that_are_not() {
        let device = Device::open(&Choice::Best).unwrap();
        assert_eq!(device.first_wrong(DeviceClass::Gpu).unwrap(), None);
        for name in ["matmul/product", "conv2d/output", "conv2d/input", "conv2d/kernel"] {
            let text = source(&Kernel::new(name)).unwrap();
            let doubling = text.replace("= sums[i][j][e];", "= 2.0 * sums[i][j][e];");
            assert_ne!(doubling, text, "{name}");
            let device = Device::open(&Choice::Best).unwrap();
            device.replace_shader(name, doubling);
            assert_eq!(device.first_wrong(DeviceClass::Gpu).unwrap(), Some(name));
        }
    }

    /// A driver chooses the size of its subgroups by that of the workgroups: all that plans may have are tried.
    #[test]
    fn the_proof_covers_each_size_of_workgroups_on_matrix_units() {
        for tile in [Tile::Eight, Tile::Sixteen] {
            for (primitive, shapes) in problems() {
                let shapes = shapes.each_ref();
                let output = primitive.shape(&shapes).unwrap();
                let class = DeviceClass::Matrix(tile);
                let invocations = |kernel: &Kernel| -> u32 {
                    let of = |name: &str| kernel.constants.iter().find(|(other, _)| *other == name);
                    ["BLOCKS_M", "BLOCKS_N", "SHARES"]
                        .map(|name| of(name).map_or(1, |(_, value)| value.to_bits()))
                        .iter()
                        .product()
                };
                let tried: Vec<u32> =
                    distinct(primitive.as_ref(), &shapes, &output, class).iter().map(invocations).collect();
                let all = primitive.tilings(&shapes, &output, class);
                assert!(
                    all.iter().all(|kernel| tried.contains(&invocations(kernel))),
                    "{}: {tried:?}",
                    primitive.name()
                );
            }
        }
    }
}
