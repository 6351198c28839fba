//! Sliding windows of convolutions and pooling.

/// The extents of a sliding window. They include the image's, which with a stride above one do not follow from the
/// output's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// `[H, W]`.
    pub image: [usize; 2],
    /// `[R, S]`.
    pub window: [usize; 2],
    /// Image pixels from one output pixel to the next, the same in both axes.
    pub stride: usize,
    /// Rows and columns of zeros around the image.
    pub padding: usize,
}

impl Geometry {
    /// `[P, Q]`, the extents of the output.
    ///
    /// # Errors
    /// A sentence, when the stride is zero or the window does not fit into the padded image.
    pub fn output(&self) -> Result<[usize; 2], String> {
        if self.stride == 0 {
            return Err("a stride of zero".into());
        }
        let along = |axis: usize| {
            let slack = (self.image[axis] + 2 * self.padding).checked_sub(self.window[axis])?;
            Some(slack / self.stride + 1)
        };
        match (along(0), along(1)) {
            (Some(p), Some(q)) => Ok([p, q]),
            _ => Err(format!("a window of {:?} in {:?} pixels padded by {}", self.window, self.image, self.padding)),
        }
    }

    /// The pixels h · W + w inside the image of the window at output `(p, q)`, in ascending order.
    pub fn pixels_of(&self, p: usize, q: usize) -> impl Iterator<Item = usize> {
        let inside = |axis: usize, output: usize| {
            let first = output * self.stride;
            let end = (first + self.window[axis]).saturating_sub(self.padding);
            first.saturating_sub(self.padding)..end.min(self.image[axis])
        };
        let (rows, columns, width) = (inside(0, p), inside(1, q), self.image[1]);
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
    }

    /// `(output, tap, pixel)` for each output position and window tap along one axis whose pixel lies in the image.
    pub(crate) fn meetings(&self, axis: usize, outputs: usize) -> Vec<(usize, usize, usize)> {
        let taps = (0..outputs).flat_map(|output| (0..self.window[axis]).map(move |tap| (output, tap)));
        taps.filter_map(|(output, tap)| {
            let pixel = (output * self.stride + tap).checked_sub(self.padding)?;
            (pixel < self.image[axis]).then_some((output, tap, pixel))
        })
        .collect()
    }
}
