//! Whether matrix units can be relied on.

use super::GpuError;
use super::device::Device;
use crate::kernel::{Kernel, Tile};
use crate::tensor::Tensor;

impl Device {
    /// Computes a product of small integers, which f16 and f32 have exactly, on matrix units, and says whether it is right.
    /// Its sums outlast a loop: there a driver has been seen to double them, which no training would have shown.
    ///
    /// # Errors
    /// When the device refuses or is lost.
    pub(super) fn multiplies(&self, tile: Tile) -> Result<bool, GpuError> {
        let (side, terms) = (2 * tile.side(), 96);
        let small = |index: usize, step: usize| (index * step % 9) as f32 - 4.0;
        let a = Tensor::new([side, terms], (0..side * terms).map(|index| small(index, 7)).collect());
        let b = Tensor::new([terms, side], (0..terms * side).map(|index| small(index, 5)).collect());
        let kernel = Kernel::new("matmul/product_matrix")
            .with_tile(tile)
            .constant("BLOCKS_M", 1u32)
            .constant("BLOCKS_N", 1u32)
            .immediate("m", side)
            .immediate("n", side)
            .immediate("k", terms);
        let product = |index: usize| -> f32 {
            let (row, column) = (index / side, index % side);
            (0..terms).map(|k| a.data()[row * terms + k] * b.data()[k * side + column]).sum()
        };
        let expected: Vec<f32> = (0..side * side).map(product).collect();
        let computed = self.run_isolated(&kernel, &[a.clone(), b.clone()], &[side, side].into())?;
        Ok(computed.output.data() == expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Choice;
    use crate::kernel::{DeviceClass, Precision};
    use crate::shaders::source;

    #[test]
    fn f16_is_taken_where_it_multiplies_right_and_refused_with_the_reason_elsewhere() {
        let device = Device::open(&Choice::Best).unwrap();
        assert_eq!(device.precision(), Precision::F32);
        let Some(&tile) = device.tiles().last() else {
            println!("{} has no matrix units: only the refusal is tested", device.adapter().name);
            let error = device.with_precision(Precision::F16).unwrap_err().to_string();
            assert!(error.contains("precision f16 needs matrix units, but it has no"), "{error}");
            return;
        };
        let halved = device.with_precision(Precision::F16).unwrap();
        assert_eq!((halved.class(), halved.precision()), (DeviceClass::Matrix(tile), Precision::F16));
        assert_eq!(halved.with_precision(Precision::F32).unwrap().class(), device.class());

        let doubling = source(&Kernel::new("matmul/product_matrix")).unwrap().replace("= results[", "= 2.0 * results[");
        let device = Device::open(&Choice::Best).unwrap();
        device.replace_shader("matmul/product_matrix", doubling);
        let error = device.with_precision(Precision::F16).unwrap_err().to_string();
        assert!(error.contains("multiplies wrongly"), "{error}");
    }
}
