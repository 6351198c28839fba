//! What flagged images show at their hottest places, compared with normal images: a colour, and the direction of slim anomalies.
//!
//! Several augmentations can make equally good detectors, and then the chosen one need not look like the anomalies. Their colour and
//! direction are therefore read from the images. Both are differences from the hottest places of normal images, where the
//! material itself looks most anomalous.

use crate::run::statistics::{mean, standard_deviation};
use crate::training::pixels::regions;

/// A place is hot with at least this share of the greatest heat of its image.
const HOT: f64 = 0.5;
/// Fewest images of each side that say anything.
const LEAST: usize = 8;
/// Standard errors by which a difference must exceed 0 to count.
const CERTAIN: f64 = 5.0;
/// The same for the directedness of a slant, and its largest standard error.
const DIRECTED: f64 = 3.0;
const ERROR_DEGREES: f64 = 15.0;
/// Least coherence of a slant, (λ₁ − λ₂) / (λ₁ + λ₂) with λ the eigenvalues of the structure tensor: 1 for a line, 0 for a disc.
const COHERENCE: f64 = 0.3;

/// One image around its hottest place.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// For each channel the mean level of the hot region around the greatest heat, less that of the rest of the image.
    contrast: Vec<f64>,
    /// Means over the hot region of the products ∂ₓI·∂ₓI, ∂ₓI·∂ᵧI and ∂ᵧI·∂ᵧI of the channels' derivatives, `[C, C]` each.
    products: [Vec<f64>; 3],
}

/// What flagged images show.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Mean contrast of each channel, less that of normal images.
    pub contrast: Vec<f64>,
    /// Whether the contrast is one of colour rather than of brightness; `None` for images that are not RGB.
    pub is_coloured: Option<bool>,
    /// The direction of the anomalies; `None` if they have none, or it cannot be told.
    pub slant: Option<Slant>,
}

/// A direction, from 0° along the rows to 180°, clockwise as images are shown, with its standard error over the images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slant {
    pub degrees: f64,
    pub error_degrees: f64,
}

impl Look {
    /// Looks at an image `[C, H, W]` with its heat map `[H, W]`; `None` if the map has no positive value, or is hot everywhere.
    ///
    /// # Panics
    /// When the shapes do not match.
    pub fn of(image: &[f32], heat: &[f32], width: usize) -> Option<Self> {
        let size = heat.len();
        assert!(size.is_multiple_of(width) && image.len().is_multiple_of(size), "whole channels of whole rows");
        let (hottest, greatest) = heat.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        if greatest <= 0.0 || greatest.is_nan() {
            return None;
        }
        let is_hot: Vec<bool> = heat.iter().map(|&value| f64::from(value) >= HOT * f64::from(greatest)).collect();
        let region = regions(&is_hot, width).into_iter().find(|region| region.contains(&hottest))?;
        let (inside, outside) = (region.len() as f64, (size - region.len()) as f64);
        if outside == 0.0 {
            return None;
        }
        let planes: Vec<&[f32]> = image.chunks_exact(size).collect();
        let contrast = planes.iter().map(|plane| {
            let all: f64 = plane.iter().map(|&level| f64::from(level)).sum();
            let hot: f64 = region.iter().map(|&pixel| f64::from(plane[pixel])).sum();
            hot / inside - (all - hot) / outside
        });
        let contrast = contrast.collect();
        let slopes: Vec<[Vec<f64>; 2]> = planes.iter().map(|plane| derivatives(plane, width)).collect();
        let product = |[one, other]: [usize; 2]| -> Vec<f64> {
            let pairs = slopes.iter().flat_map(|a| slopes.iter().map(move |b| (&a[one], &b[other])));
            pairs.map(|(a, b)| region.iter().map(|&pixel| a[pixel] * b[pixel]).sum::<f64>() / inside).collect()
        };
        Some(Look { contrast, products: [[0, 0], [0, 1], [1, 1]].map(product) })
    }

    /// Of the structure tensor of the hot region, that of the image u · I for a direction u of the channels' space, [xx − yy, 2 xy, xx + yy].
    fn tensor(&self, u: &[f64]) -> [f64; 3] {
        let weights = || u.iter().flat_map(|a| u.iter().map(move |b| a * b));
        let along_u =
            |products: &Vec<f64>| products.iter().zip(weights()).map(|(product, weight)| product * weight).sum();
        let [xx, xy, yy]: [f64; 3] = self.products.each_ref().map(along_u);
        [xx - yy, 2.0 * xy, xx + yy]
    }
}

impl Evidence {
    /// What flagged images show that normal ones do not; `None` if there are too few of either.
    pub fn of(flagged: &[Look], normal: &[Look]) -> Option<Self> {
        if flagged.len().min(normal.len()) < LEAST {
            return None;
        }
        let channels = flagged[0].contrast.len();
        let difference =
            |value: &dyn Fn(&Look) -> f64| difference([flagged, normal].map(|looks| looks.iter().map(value).collect()));
        let contrast: Vec<f64> = (0..channels).map(|channel| difference(&|look| look.contrast[channel]).0).collect();
        let length = contrast.iter().map(|change| change * change).sum::<f64>().sqrt();
        let is_coloured = (channels == 3).then(|| {
            let (brightness, _) = difference(&|look| known(mean(&look.contrast)));
            let hues =
                (0..channels).map(|channel| difference(&|look| look.contrast[channel] - known(mean(&look.contrast))));
            let (hue, error) = hues.max_by(|a, b| a.0.abs().total_cmp(&b.0.abs())).expect("three channels");
            hue.abs() > brightness.abs() && hue.abs() > CERTAIN * error
        });
        let u: Vec<f64> = contrast.iter().map(|change| change / length).collect();
        let tensors = [flagged, normal].map(|looks| looks.iter().map(|look| look.tensor(&u)).collect::<Vec<_>>());
        Some(Evidence { slant: Slant::of(&tensors), contrast, is_coloured })
    }

    /// The contrast's mean over the channels.
    pub fn brightness(&self) -> f64 {
        known(mean(&self.contrast))
    }
}

impl Slant {
    /// The direction in which the [tensors](Look::tensor) of flagged images exceed those of normal ones.
    fn of([flagged, normal]: &[Vec<[f64; 3]>; 2]) -> Option<Self> {
        let parts = |tensors: &[[f64; 3]], part: usize| tensors.iter().map(|tensor| tensor[part]).collect::<Vec<_>>();
        let excess = |part: usize| difference([parts(flagged, part), parts(normal, part)]);
        let [(along, along_error), (across, across_error), (trace, _)] = [0, 1, 2].map(excess);
        let (gap, error) = (along.hypot(across), along_error.hypot(across_error));
        if !(trace > 0.0 && gap >= COHERENCE * trace && gap >= DIRECTED * error) {
            return None;
        }
        // A line is perpendicular to the gradient, whose angle is half of that of (xx − yy, 2 xy).
        let direction = |along: f64, across: f64| (0.5 * across.atan2(along).to_degrees() + 90.0).rem_euclid(180.0);
        let degrees = direction(along, across);
        // Jackknife: each image is left out in turn.
        let variance = |tensors: &[[f64; 3]], sign: f64| {
            let left = tensors.len() as f64 - 1.0;
            let [mean_along, mean_across] = [0, 1].map(|part| known(mean(&parts(tensors, part))));
            let moved = tensors.iter().map(|[own_along, own_across, _]| {
                let without = direction(
                    along + sign * (mean_along - own_along) / left,
                    across + sign * (mean_across - own_across) / left,
                );
                ((without - degrees + 90.0).rem_euclid(180.0) - 90.0).powi(2)
            });
            left / (left + 1.0) * moved.sum::<f64>()
        };
        let error_degrees = (variance(flagged, 1.0) + variance(normal, -1.0)).sqrt();
        (error_degrees <= ERROR_DEGREES).then_some(Slant { degrees, error_degrees })
    }
}

/// A statistic of at least [`LEAST`] values, or of channels.
fn known(statistic: Option<f64>) -> f64 {
    statistic.expect("there are several values")
}

/// The difference of two means and its standard error.
fn difference(sides: [Vec<f64>; 2]) -> (f64, f64) {
    let [flagged, normal] = sides.each_ref().map(|values| known(mean(values)));
    let squares = sides.each_ref().map(|values| known(standard_deviation(values)).powi(2) / values.len() as f64);
    (flagged - normal, squares.iter().sum::<f64>().sqrt())
}

/// Derivatives of a plane along x and y, in levels per pixel: central differences after a binomial filter with σ = √2. Pixels beyond
/// the border are those at the border.
fn derivatives(plane: &[f32], width: usize) -> [Vec<f64>; 2] {
    let height = plane.len() / width;
    let filtered = |plane: &[f64], kernel: [f64; 5], is_along_x: bool| -> Vec<f64> {
        let at = |x: usize, y: usize, offset: usize| {
            let moved = |place: usize, extent: usize| (place + offset).saturating_sub(2).min(extent - 1);
            let (x, y) = if is_along_x { (moved(x, width), y) } else { (x, moved(y, height)) };
            plane[y * width + x]
        };
        let value = |pixel: usize| (0..5).map(|tap| kernel[tap] * at(pixel % width, pixel / width, tap)).sum();
        (0..plane.len()).map(value).collect()
    };
    const BINOMIAL: [f64; 5] = [1.0 / 16.0, 4.0 / 16.0, 6.0 / 16.0, 4.0 / 16.0, 1.0 / 16.0];
    const CENTRAL: [f64; 5] = [0.0, -0.5, 0.0, 0.5, 0.0];
    let levels: Vec<f64> = plane.iter().map(|&level| f64::from(level)).collect();
    let smooth = [true, false, true, false].iter().fold(levels, |plane, &axis| filtered(&plane, BINOMIAL, axis));
    [true, false].map(|axis| filtered(&smooth, CENTRAL, axis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::philox::Stream;

    const SIDE: usize = 24;

    /// Noise with a line of this colour through a random place at this angle, or a disc without one; and heat around the place.
    fn look(stream: &mut Stream, colour: Option<[f32; 3]>, degrees: Option<f64>) -> Look {
        let mut image: Vec<f32> = (0..3 * SIDE * SIDE).map(|_| 0.4 + 0.2 * stream.uniform() as f32).collect();
        let [x0, y0] = [(); 2].map(|()| 8.0 + 8.0 * stream.uniform());
        let mut heat = vec![0.0; SIDE * SIDE];
        for pixel in 0..SIDE * SIDE {
            let (x, y) = ((pixel % SIDE) as f64 - x0, (pixel / SIDE) as f64 - y0);
            heat[pixel] = (-(x * x + y * y) / 40.0).exp() as f32;
            let (sin, cos) = degrees.unwrap_or(0.0).to_radians().sin_cos();
            let (along, across) = (x * cos + y * sin, y * cos - x * sin);
            let is_painted = match degrees {
                Some(_) => across.abs() < 1.0 && along.abs() < 8.0,
                None => x.hypot(y) < 3.0,
            };
            if let Some(colour) = colour.filter(|_| is_painted) {
                (0..3).for_each(|channel| image[channel * SIDE * SIDE + pixel] += colour[channel]);
            }
        }
        Look::of(&image, &heat, SIDE).unwrap()
    }

    fn looks(seed: u64, count: usize, colour: Option<[f32; 3]>, degrees: Option<f64>) -> Vec<Look> {
        let mut stream = Stream::new(seed, 0);
        (0..count).map(|_| look(&mut stream, colour, degrees)).collect()
    }

    #[test]
    fn a_colour_and_a_slant_are_read_from_images() {
        let normal = looks(1, 30, None, None);
        let of = |colour: [f32; 3], degrees: Option<f64>| {
            Evidence::of(&looks(2, 30, Some(colour), degrees), &normal).unwrap()
        };
        for degrees in [10.0, 51.0, 90.0, 172.0] {
            let evidence = of([-0.05, -0.04, 0.15], Some(degrees));
            let slant = evidence.slant.unwrap();
            let off = (slant.degrees - degrees + 90.0).rem_euclid(180.0) - 90.0;
            assert!(off.abs() < 5.0 && off.abs() < 4.0 * slant.error_degrees, "{slant:?} is not {degrees}");
            assert_eq!(evidence.is_coloured, Some(true), "{evidence:?}");
            assert!(evidence.contrast[2] > 0.0 && evidence.contrast[0] < 0.0, "{evidence:?}");
        }
        let bright = of([0.2; 3], None);
        assert!(bright.brightness() > 0.02 && bright.is_coloured == Some(false), "{bright:?}");
        assert_eq!(bright.slant, None, "a disc has no direction");
        let dark = of([-0.2; 3], Some(30.0));
        assert!(dark.brightness() < -0.02 && dark.is_coloured == Some(false), "{dark:?}");
        let nothing = Evidence::of(&looks(3, 30, None, None), &normal).unwrap();
        assert_eq!((nothing.is_coloured, nothing.slant), (Some(false), None), "{nothing:?}");
        assert_eq!(Evidence::of(&looks(2, LEAST - 1, Some([0.2; 3]), None), &normal), None, "too few");
    }

    #[test]
    fn a_map_without_a_hot_place_says_nothing() {
        let image = [0.5; 12];
        assert_eq!(Look::of(&image, &[0.0; 12], 4), None);
        assert_eq!(Look::of(&image, &[-1.0; 12], 4), None);
        assert_eq!(Look::of(&image, &[f32::NAN; 12], 4), None);
        assert_eq!(Look::of(&image, &[1.0; 12], 4), None, "hot everywhere");
        let mut heat = [0.0; 12];
        heat[5] = 1.0;
        assert!(Look::of(&image, &heat, 4).is_some());
    }

    #[test]
    fn derivatives_of_a_plane_are_its_slopes() {
        let plane: Vec<f32> =
            (0..15 * 12).map(|pixel| 0.02 * (pixel % 15) as f32 - 0.03 * (pixel / 15) as f32).collect();
        let [along_x, along_y] = derivatives(&plane, 15);
        let inner = 6 * 15 + 7;
        assert!((along_x[inner] - 0.02).abs() < 1e-6 && (along_y[inner] + 0.03).abs() < 1e-6);
    }
}
