//! `images/`: for each test image a strip with the image, its mask and its heat map.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use kuva::render::render::{Scene, TextAnchor};
use rayon::prelude::*;

use super::samples::{compose, paint, scaled, write as text};
use super::{ReportError, Scored};
use crate::run::scored::Maps;
use crate::run::store;

/// Approximate longer side of a field in pixels; the actual side is between 128 and 384.
const SIDE: u32 = 192;
const GAP: u32 = 8;
const MARGIN: u32 = 8;
/// Space for the title.
const TITLE: u32 = 26;
/// Size of the title's letters, and their approximate width.
const LETTER: (u32, u32) = (13, 8);
/// Opacity of the heat map over the image.
const OPACITY: f64 = 0.5;

/// Longest part of a path, in bytes; file systems allow 255.
const LONGEST: usize = 100;

/// Number of strips that are drawn between two calls of `progress`.
const AT_ONCE: usize = 64;

/// Writes the strips below `folder` and returns their paths; stops if `progress` breaks.
pub(super) fn write(
    folder: &Path,
    scored: &[Scored],
    maps: &Maps,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<ControlFlow<(), Vec<PathBuf>>, ReportError> {
    let [n, c, h, w] = maps.extents(scored);
    let paths = paths(scored);
    let kinds: BTreeSet<PathBuf> = paths.iter().map(|path| folder.join(store::folder_of(path))).collect();
    for kind in &kinds {
        fs::create_dir_all(kind).map_err(|source| ReportError::Write { path: kind.clone(), source })?;
    }
    let heat_range = range(maps.heat.data());
    for first in (0..n).step_by(AT_ONCE) {
        let end = (first + AT_ONCE).min(n);
        (first..end).into_par_iter().try_for_each(|row| {
            let heat = &maps.heat.data()[row * h * w..][..h * w];
            let image = &maps.images.data()[row * c * h * w..][..c * h * w];
            let strip = Strip { image, heat, mask: maps.masks[row], extents: [c, h, w], heat_range };
            let bytes = strip.draw(&scored[row]).map_err(|source| ReportError::Encode { file: "a strip", source })?;
            let path = folder.join(&paths[row]);
            store::write(&path, &bytes).map_err(|source| ReportError::Write { path, source })
        })?;
        if progress(end, n).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    for kind in &kinds {
        store::sync_folder(kind).map_err(|source| ReportError::Write { path: kind.clone(), source })?;
    }
    Ok(ControlFlow::Continue(paths))
}

/// One image with its heat map and mask.
struct Strip<'a> {
    image: &'a [f32],
    heat: &'a [f32],
    mask: Option<&'a [bool]>,
    /// `[C, H, W]` of the image.
    extents: [usize; 3],
    /// Smallest and largest heat of the whole set.
    heat_range: (f32, f32),
}

impl Strip<'_> {
    /// A PNG of the image, the mask, and the heat map over the image, below a title.
    fn draw(&self, scored: &Scored) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let image = paint(self.image, self.extents);
        let [_, h, w] = self.extents;
        let mask = self.mask.map(|mask| {
            RgbImage::from_fn(w as u32, h as u32, |x, y| {
                Rgb(if mask[y as usize * w + x as usize] { [255; 3] } else { [0; 3] })
            })
        });
        let warm = overlay(&image, self.heat, self.heat_range);
        let fields = [Some(image), mask, Some(warm)].map(|field| field.map(|field| scaled(&field, SIDE)));
        let (wide, high) = fields[0].as_ref().expect("an image").dimensions();
        let left = |field: u32| MARGIN + field * (wide + GAP);

        let (width, height) = (left(3) - GAP + MARGIN, TITLE + high + MARGIN);
        let mut sheet = Scene::new(width.into(), height.into()).with_background(Some("white"));
        let title = title(scored, (width - 2 * MARGIN) / LETTER.1);
        sheet.add(text(MARGIN, 18, LETTER.0, TextAnchor::Start, title));
        if fields[1].is_none() {
            let (x, y) = (left(1) + wide / 2, TITLE + high / 2);
            sheet.add(text(x, y, LETTER.0, TextAnchor::Middle, "no mask".into()));
        }
        let placed = fields.into_iter().enumerate();
        let placed = placed.filter_map(|(index, field)| Some((field?, left(index as u32), TITLE)));
        compose(&sheet, &placed.collect::<Vec<_>>())
    }
}

/// An image under its heat map, row by row, in the Turbo colour map from the smallest to the largest value of `range`.
pub(super) fn overlay(image: &RgbImage, heat: &[f32], range: (f32, f32)) -> RgbImage {
    let (least, most) = (f64::from(range.0), f64::from(range.1));
    let colour = |heat: f32| {
        let share = (f64::from(heat) - least) / (most - least).max(f64::MIN_POSITIVE);
        heat.is_finite().then(|| colorous::TURBO.eval_continuous(share.clamp(0.0, 1.0)))
    };
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let under = *image.get_pixel(x, y);
        colour(heat[(y * image.width() + x) as usize]).map_or(under, |colour| blend(under, colour))
    })
}

/// The smallest and the largest of the finite values.
pub(super) fn range(heat: &[f32]) -> (f32, f32) {
    let finite = || heat.iter().copied().filter(|heat| heat.is_finite());
    (finite().fold(f32::INFINITY, f32::min), finite().fold(f32::NEG_INFINITY, f32::max))
}

fn blend(under: Rgb<u8>, colorous::Color { r, g, b }: colorous::Color) -> Rgb<u8> {
    let over = [r, g, b];
    Rgb(std::array::from_fn(|channel| {
        (f64::from(under[channel]) * (1.0 - OPACITY) + f64::from(over[channel]) * OPACITY).round() as u8
    }))
}

/// Score and name; a name that does not fit in `letters` loses its beginning.
fn title(scored: &Scored, letters: u32) -> String {
    let class = match scored.truth.anomalous {
        Some(true) => "  anomalous",
        Some(false) => "  normal",
        None => "",
    };
    let score = format!("{:.3}{class}  ", scored.score);
    let name: Vec<char> = scored.name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let room = (letters as usize).saturating_sub(score.chars().count());
    let name = match name.len() {
        length if length <= room => String::from_iter(name),
        length => "…".chars().chain(name[(length + 1 - room.max(1)).min(length)..].iter().copied()).collect(),
    };
    // The plots render text between two dollar signs as mathematics.
    (score + &name).replace('$', "\\$")
}

/// `images/<kind>/<stem>.png` for each image, unique even on file systems that ignore case.
fn paths(scored: &[Scored]) -> Vec<PathBuf> {
    let mut stems = Stems::default();
    let unique = |image: &Scored| {
        let kind = if image.truth.kind.is_empty() { "unlabelled".to_owned() } else { safe(&image.truth.kind) };
        let stem = stems.unique(&kind, &image.name);
        Path::new("images").join(kind).join(format!("{stem}.png"))
    };
    scored.iter().map(unique).collect()
}

/// Names for files that belong to images.
#[derive(Clone, Debug, Default)]
pub(super) struct Stems(HashMap<String, usize>);

impl Stems {
    /// A name without an ending for what belongs to the image `name` in a folder: valid on every system, and taken by no other image
    /// there even if case is ignored.
    pub(super) fn unique(&mut self, folder: &str, name: &str) -> String {
        let last = name.rsplit('/').next().unwrap_or_default();
        let stem = safe(without_extension(last));
        let mut number = 1;
        loop {
            let name = if number == 1 { stem.clone() } else { format!("{stem}-{number}") };
            let count = self.0.entry(format!("{folder}/{name}").to_lowercase()).or_default();
            *count += 1;
            if *count == 1 {
                return name;
            }
            // Skips the numbers that earlier images with this stem have tried.
            number = (*count).max(number + 1);
        }
    }
}

/// `003` for `003.png`; `6.png#17` is unchanged.
fn without_extension(name: &str) -> &str {
    let known = |extension: &str| image::ImageFormat::from_extension(extension).is_some();
    name.rsplit_once('.')
        .filter(|(stem, extension)| !stem.is_empty() && known(extension))
        .map_or(name, |(stem, _)| stem)
}

/// A valid name for a file or folder on every system: letters and digits of any script, `-`, and inner dots stay; all other
/// characters become `_`.
fn safe(name: &str) -> String {
    const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
    let short = name.char_indices().take_while(|(start, c)| start + c.len_utf8() <= LONGEST).map(|(_, c)| c);
    let text: String = short.map(|c| if c.is_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' }).collect();
    let inner = text.trim_matches('.');
    let device = inner.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_device = DEVICES.contains(&device.as_str())
        || ["com", "lpt"].iter().any(|port| device.strip_prefix(port).is_some_and(|rest| rest.chars().count() == 1));
    match inner {
        "" => "_".into(),
        inner if is_device => format!("_{inner}"),
        inner => inner.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Truth;
    use crate::engine::tensor::Tensor;
    use crate::run::report::scored::tests::{example, scored};
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::path::Component;

    fn named(name: &str, kind: &str) -> Scored {
        Scored { name: name.into(), truth: Truth { anomalous: None, kind: kind.into() }.into(), ..Scored::default() }
    }

    #[test]
    fn strips_are_named_after_their_images() {
        let of = |name, kind| paths(&[named(name, kind)])[0].display().to_string();
        assert_eq!(of("bottle/test/crack/003.png", "crack"), "images/crack/003.png");
        assert_eq!(of("6.png#17", "6"), "images/6/6.png_17.png");
        assert_eq!(of("data/part 1.v2.TIFF", ""), "images/unlabelled/part_1.v2.png");
        assert_eq!(of("data/new\\nline.png", ""), "images/unlabelled/new_nline.png");
        assert_eq!(of("../../etc/passwd", "../.."), "images/_/passwd.png");
        assert_eq!(of("", ".."), "images/_/_.png");
        assert_eq!(of("x/con.png", "LPT1"), "images/_LPT1/_con.png");
        assert_eq!(of("größe/裂缝.jpg", "überall"), "images/überall/裂缝.png");
    }

    #[test]
    fn equal_names_are_numbered() {
        let names = ["a/1.png", "b/1.png", "c/1-2.png", "d/1.PNG", "E/1?.png", "e/1*.png", "f/1.jpg"];
        let found: Vec<String> =
            paths(&names.map(|name| named(name, "k"))).iter().map(|path| path.display().to_string()).collect();
        let stems = ["1", "1-2", "1-2-2", "1-3", "1_", "1_-2", "1-4"];
        assert_eq!(found, stems.map(|stem| format!("images/k/{stem}.png")));
        let cases = paths(&[named("a", "Good"), named("A", "good")]);
        assert_eq!(cases[1], Path::new("images/good/A-2.png"));
    }

    proptest! {
        #[test]
        fn no_name_leaves_the_folder_or_overwrites_another(
            names in prop::collection::vec(("\\PC{0,12}|[./\\\\ab]{0,6}|.{0,300}", "[a./\\\\]{0,4}|\\PC{0,40}"), 1..40)
        ) {
            let images: Vec<Scored> = names.iter().map(|(name, kind)| named(name, kind)).collect();
            let paths = paths(&images);
            let distinct: HashSet<String> =
                paths.iter().map(|path| path.to_str().unwrap().to_lowercase()).collect();
            prop_assert_eq!(distinct.len(), images.len());
            for path in &paths {
                let parts: Vec<Component> = path.components().collect();
                prop_assert_eq!(parts.len(), 3);
                prop_assert_eq!(parts[0].as_os_str(), "images");
                for part in &parts {
                    prop_assert!(matches!(part, Component::Normal(name) if name.len() < 128), "{:?}", path);
                    let text = part.as_os_str().to_str().unwrap();
                    prop_assert!(!text.contains(['/', '\\', ':', '\0']) && !text.starts_with('.'), "{:?}", text);
                }
            }
        }
    }

    #[test]
    fn titles_fit_and_are_not_mathematics() {
        let truth = Truth { anomalous: Some(true), kind: "".into() }.into();
        let image = Scored { truth, score: 1.25, ..named("a/$x$\n.png", "") };
        assert_eq!(title(&image, 99), "1.250  anomalous  a/\\$x\\$ .png");
        assert_eq!(title(&named("folder/003.png", ""), 14), "0.000  …03.png");
        for letters in 0..40 {
            let length = title(&named("folder/003.png", ""), letters).chars().count();
            assert!(length <= (letters as usize).max(8), "{letters}: {length}");
        }
    }

    /// Two images of 2×1 pixels; the second has a mask, and a heat that is not finite.
    #[test]
    fn a_strip_shows_image_mask_and_heat() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/report-tests/strips");
        let _ = fs::remove_dir_all(&folder);
        let images = Tensor::new([2, 1, 1, 2], vec![0.0, 1.0, 0.0, 0.0]);
        let heat = Tensor::new([2, 1, 1, 2], vec![-1.0, 3.0, f32::NAN, 1.0]);
        let masks = [None, Some(&[false, true][..])];
        let maps = Maps { images: &images, heat: &heat, masks: &masks };
        let mut calls = Vec::new();
        let found = write(&folder, &example()[..2], &maps, |done, of| {
            calls.push((done, of));
            ControlFlow::Continue(())
        });
        let ControlFlow::Continue(found) = found.unwrap() else { panic!("nobody broke it off") };
        assert_eq!(found, [Path::new("images/good/a.png"), Path::new("images/crack/b.png")]);
        assert_eq!(calls, [(2, 2)]);

        // Fields are 192×96, at 8, 208 and 408.
        let strips: Vec<RgbImage> =
            found.iter().map(|path| image::open(folder.join(path)).unwrap().into_rgb8()).collect();
        let at = |strip: usize, x: u32| strips[strip].get_pixel(x, TITLE + 50).0;
        assert_eq!(strips[0].dimensions(), (608, 130));
        assert_eq!([at(0, 8), at(0, 199), at(0, 200)], [[0; 3], [255; 3], [255; 3]]);
        assert_eq!([at(1, 208), at(1, 399)], [[0; 3], [255; 3]]);
        let turbo = |share: f64, under: u8| blend(Rgb([under; 3]), colorous::TURBO.eval_continuous(share)).0;
        assert_eq!([at(0, 408), at(0, 599)], [turbo(0.0, 0), turbo(1.0, 255)]);
        assert_eq!([at(1, 408), at(1, 599)], [[0; 3], turbo(0.5, 0)], "one range for both images");
        let ink = |strip: usize| {
            strips[strip]
                .enumerate_pixels()
                .filter(|(x, y, pixel)| (208..400).contains(x) && *y > TITLE && pixel[0] < 100)
                .count()
        };
        assert!(ink(0) > 20 && ink(0) < 2000, "it says that there is no mask");
    }

    #[test]
    fn constant_heat_is_drawn() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/report-tests/flat");
        let images = Tensor::full([1, 3, 4, 4], f32::NAN);
        for value in [0.0, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE] {
            let heat = Tensor::full([1, 1, 4, 4], value);
            let maps = Maps { images: &images, heat: &heat, masks: &[None] };
            let strange = [scored("$a$ <b> \u{7}", None, f64::NAN)];
            assert!(write(&folder, &strange, &maps, |_, _| ControlFlow::Continue(())).unwrap().is_continue());
        }
    }

    #[test]
    fn writing_strips_can_be_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let many: Vec<Scored> = (0..3 * AT_ONCE).map(|index| scored(&format!("{index}"), None, 0.0)).collect();
        let tensor = Tensor::full([many.len(), 1, 1, 1], 0.5);
        let maps = Maps { images: &tensor, heat: &tensor, masks: &vec![None; many.len()] };
        let mut told = 0;
        let broken = write(folder.path(), &many, &maps, |done, of| {
            told = done;
            if 2 * done > of { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((broken.unwrap(), told), (ControlFlow::Break(()), 2 * AT_ONCE));
        let drawn = walkdir::WalkDir::new(folder.path()).into_iter().flatten().filter(|it| it.file_type().is_file());
        assert_eq!(drawn.count(), told);
    }
}
