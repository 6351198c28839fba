//! Tiles of large images.

use std::ops::Range;

use super::decode::Size;

/// A rectangle in pixels of an image: left, top, width and height.
pub type Place = [u32; 4];

/// Overlapping tiles that cover an image of this width and height, row by row. They are evenly spaced, and neighbours overlap by at
/// least a quarter. An image that is smaller than a tile is one tile in that direction.
pub(super) fn places([width, height]: [u32; 2], tile: Size) -> Vec<Place> {
    let (columns, rows) = (starts(width, tile.width as u32), starts(height, tile.height as u32));
    let (wide, high) = (width.min(tile.width as u32), height.min(tile.height as u32));
    rows.iter().flat_map(|&top| columns.iter().map(move |&left| [left, top, wide, high])).collect()
}

/// The score of an image, the greatest of those of its tiles, `views` of all `scores`; and its index. A score that is not a number is
/// not passed over.
///
/// # Panics
/// When there is no tile.
pub fn greatest(scores: &[f64], views: Range<usize>) -> (f64, usize) {
    let views = views.map(|view| (scores[view], view));
    let greatest = views.reduce(|one, other| if one.0 >= other.0 || one.0.is_nan() { one } else { other });
    greatest.expect("an image has a view")
}

fn starts(extent: u32, tile: u32) -> Vec<u32> {
    let rest = u64::from(extent.saturating_sub(tile));
    let stride = u64::from((tile - tile / 4).max(1));
    let steps = rest.div_ceil(stride);
    (0..=steps).map(|step| (rest * step / steps.max(1)) as u32).collect()
}

/// An image of any size.
#[derive(Clone, Debug, PartialEq)]
pub struct Raster {
    /// `[C, H, W]`.
    pub extents: [usize; 3],
    pub values: Vec<f32>,
}

/// The tiles `[N, C, H, W]` of an image of this width and height as one image, in the scale of the tiles. Where tiles overlap, it has
/// their mean, weighted by the distance from each tile's edge.
///
/// # Panics
/// When there is not a place for each tile.
pub fn blend(tiles: &[f32], [c, h, w]: [usize; 3], places: &[Place], [width, height]: [u32; 2]) -> Raster {
    assert_eq!(tiles.len(), places.len() * c * h * w, "a place for each tile");
    let [_, _, wide, high] = places[0];
    let scaled = |extent: u32, target: usize, own: u32| {
        ((u64::from(extent) * target as u64 + u64::from(own) / 2) / u64::from(own)).max(1) as usize
    };
    let (columns, rows) = (scaled(width, w, wide).max(w), scaled(height, h, high).max(h));
    let (mut sums, mut weights) = (vec![0.0; c * rows * columns], vec![0.0; rows * columns]);
    let near = |at: usize, extent: usize| (at.min(extent - 1 - at) + 1) as f32;
    for (tile, &[left, top, ..]) in tiles.chunks_exact(c * h * w).zip(places) {
        let x0 = scaled(left, w, wide).min(columns - w) * usize::from(left > 0);
        let y0 = scaled(top, h, high).min(rows - h) * usize::from(top > 0);
        for y in 0..h {
            for x in 0..w {
                let weight = near(x, w).min(near(y, h));
                let target = (y0 + y) * columns + x0 + x;
                weights[target] += weight;
                for channel in 0..c {
                    sums[channel * rows * columns + target] += weight * tile[(channel * h + y) * w + x];
                }
            }
        }
    }
    // Every pixel lies in a tile; rounding may leave a line between two.
    let mean = |(index, sum): (usize, f32)| sum / weights[index % (rows * columns)].max(f32::MIN_POSITIVE);
    Raster { extents: [c, rows, columns], values: sums.into_iter().enumerate().map(mean).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_an_image_and_overlap() {
        for (extent, tile) in
            [(1, 1), (10, 10), (11, 10), (100, 10), (4000, 256), (257, 256), (3, 8), (1000, 1), (9, 3)]
        {
            let starts = starts(extent, tile);
            assert_eq!((starts[0], starts[starts.len() - 1]), (0, extent.saturating_sub(tile)), "{extent} {tile}");
            for pair in starts.windows(2) {
                assert!(pair[1] > pair[0] && pair[1] - pair[0] <= tile - tile / 4, "{extent} {tile}: {starts:?}");
            }
        }
        let size = Size { height: 20, width: 30 };
        assert_eq!(places([30, 20], size), [[0, 0, 30, 20]]);
        assert_eq!(places([25, 10], size), [[0, 0, 25, 10]]);
        assert_eq!(places([40, 20], size), [[0, 0, 30, 20], [10, 0, 30, 20]]);
        assert_eq!(places([40, 30], size).len(), 4);
    }

    #[test]
    fn the_greatest_score_is_that_of_the_image_unless_one_is_no_number() {
        let scores = [9.0, 1.0, 3.0, 2.0, f64::NAN, 4.0];
        assert_eq!(greatest(&scores, 1..4), (3.0, 2));
        assert_eq!(greatest(&scores, 0..1), (9.0, 0));
        for views in [3..6, 3..5, 4..6] {
            let (score, view) = greatest(&scores, views);
            assert!(score.is_nan() && view == 4);
        }
    }

    /// Tiles cut from an image give the image, also at another scale.
    #[test]
    fn blended_tiles_are_the_image() {
        let [width, height] = [37, 23];
        let level = |x: u32, y: u32| (x + 2 * y) as f32;
        for scale in [1, 2] {
            let size = Size { height: 8, width: 12 };
            let places = places([width, height], size);
            let (h, w) = (8 * scale, 12 * scale);
            let tiles: Vec<f32> = places
                .iter()
                .flat_map(|&[left, top, ..]| {
                    (0..h * w)
                        .map(move |pixel| level(left + (pixel % w / scale) as u32, top + (pixel / w / scale) as u32))
                })
                .collect();
            let blended = blend(&tiles, [1, h, w], &places, [width, height]);
            let [_, rows, columns] = blended.extents;
            assert_eq!((rows, columns), (23 * scale, 37 * scale));
            for (pixel, &value) in blended.values.iter().enumerate() {
                let (x, y) = (pixel % columns / scale, pixel / columns / scale);
                assert!((value - level(x as u32, y as u32)).abs() < 1e-3, "{x} {y}: {value}");
            }
        }
        let whole = blend(&[1.0, 2.0, 3.0, 4.0], [1, 2, 2], &[[0, 0, 9, 9]], [9, 9]);
        assert_eq!(whole.values, [1.0, 2.0, 3.0, 4.0]);
    }
}
