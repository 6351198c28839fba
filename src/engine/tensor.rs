//! Shapes and host tensors, for data sent to and read from the device.
//!
//! Axis letters used throughout: images are `[N, C, H, W]`, convolution kernels `[K, C, R, S]`, convolution outputs
//! `[N, K, P, Q]`, embeddings `[rows, features]`. Storage is dense and row-major.

use std::fmt;
use std::ops::Deref;

/// Extents of a dense row-major array, outermost first. A scalar has the empty shape `[]`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// The shape of a scalar.
    pub const fn scalar() -> Self {
        Shape(Vec::new())
    }

    /// Number of elements; 1 for a scalar.
    pub fn count(&self) -> usize {
        self.0.iter().product()
    }

    /// Size in bytes of an f32 array of this shape.
    pub fn bytes(&self) -> u64 {
        4 * self.count() as u64
    }

    /// `[rows, features]` of a matrix.
    ///
    /// # Errors
    /// A sentence, when the rank is not two.
    pub fn matrix(&self) -> Result<[usize; 2], String> {
        self.0.as_slice().try_into().map_err(|_| format!("expected a matrix, got {self:?}"))
    }

    /// `[N, C, H, W]` of a batch of images, or `[K, C, R, S]` of a convolution kernel.
    ///
    /// # Errors
    /// A sentence, when the rank is not four.
    pub fn images(&self) -> Result<[usize; 4], String> {
        self.0.as_slice().try_into().map_err(|_| format!("expected four axes, got {self:?}"))
    }

    /// Coordinates of the element at `index` in memory.
    pub fn coordinates(&self, mut index: usize) -> Vec<usize> {
        let mut coordinates: Vec<usize> = self
            .0
            .iter()
            .rev()
            .map(|&extent| {
                let coordinate = index % extent;
                index /= extent;
                coordinate
            })
            .collect();
        coordinates.reverse();
        coordinates
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const RANK: usize> From<[usize; RANK]> for Shape {
    fn from(extents: [usize; RANK]) -> Self {
        Shape(extents.to_vec())
    }
}

impl From<&[usize]> for Shape {
    fn from(extents: &[usize]) -> Self {
        Shape(extents.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(extents: Vec<usize>) -> Self {
        Shape(extents)
    }
}

/// `5x13x7`
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.iter().map(usize::to_string).collect::<Vec<_>>().join("x"))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A dense f32 array on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Shape,
    data: Vec<f32>,
}

impl Tensor {
    /// Wraps `data`, laid out row-major.
    ///
    /// # Panics
    /// When `data` does not hold exactly `shape.count()` elements.
    pub fn new(shape: impl Into<Shape>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.count(), data.len(), "a tensor of shape {shape:?} needs {} elements", shape.count());
        Tensor { shape, data }
    }

    /// A tensor whose elements all equal `value`.
    pub fn full(shape: impl Into<Shape>, value: f32) -> Self {
        let shape = shape.into();
        let data = vec![value; shape.count()];
        Tensor { shape, data }
    }

    /// A scalar, shape `[]`.
    pub fn scalar(value: f32) -> Self {
        Tensor { shape: Shape::scalar(), data: vec![value] }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn data(&self) -> &[f32] {
        &self.data
    }

    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The single element of a one-element tensor.
    ///
    /// # Panics
    /// When there is not exactly one element.
    pub fn item(&self) -> f32 {
        assert_eq!(self.data.len(), 1, "item() of a tensor of shape {:?}", self.shape);
        self.data[0]
    }

    /// The rows `indices` along the first axis, in that order.
    ///
    /// # Panics
    /// When the tensor is a scalar or an index lies outside.
    pub fn gather_rows(&self, indices: &[usize]) -> Tensor {
        let row = self.shape[1..].iter().product::<usize>();
        let mut data = Vec::with_capacity(indices.len() * row);
        for &index in indices {
            data.extend_from_slice(&self.data[index * row..(index + 1) * row]);
        }
        let mut shape = self.shape.to_vec();
        shape[0] = indices.len();
        Tensor { shape: shape.into(), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_row_major() {
        let shape = Shape::from([2, 3, 4]);
        assert_eq!(shape.coordinates(0), [0, 0, 0]);
        assert_eq!(shape.coordinates(17), [1, 1, 1]);
        assert_eq!(shape.coordinates(23), [1, 2, 3]);
    }

    #[test]
    fn rows_are_gathered_in_the_given_order() {
        let tensor = Tensor::new([3, 2], vec![0., 1., 10., 11., 20., 21.]);
        assert_eq!(tensor.gather_rows(&[2, 0]), Tensor::new([2, 2], vec![20., 21., 0., 1.]));
    }
}
