//! Values in f16 as they lie in buffers: two in a word, the first in its lower bits.

use half::f16;

/// An even number of values, rounded to the nearest f16.
pub(super) fn pack(values: &[f32]) -> Vec<u32> {
    let bits = |x: f32| u32::from(f16::from_f32(x).to_bits());
    values.chunks_exact(2).map(|pair| bits(pair[1]) << 16 | bits(pair[0])).collect()
}

pub(super) fn unpack(words: &[u32]) -> Vec<f32> {
    bits(words).map(|bits| f16::from_bits(bits).to_f32()).collect()
}

/// The bits of each value.
pub(super) fn bits(words: &[u32]) -> impl Iterator<Item = u16> {
    words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f16_has_comes_back_in_order() {
        let values = [1.0, -2.5, 65504.0, 0.0, 6.1035156e-5, f32::INFINITY];
        assert_eq!(unpack(&pack(&values)), values);
        assert_eq!(pack(&[1.0, -2.0]), [0xc000_3c00]);
        assert_eq!(unpack(&pack(&[1.0 + 1.0 / 4096.0, 1e6])), [1.0, f32::INFINITY]);
    }
}
