//! Pages that compute by WebGPU: each is one HTML file with the plans as JSON, their WGSL, what they read, and the scripts that run them.
//! No page needs a server, and its content policy lets it fetch nothing.

mod detector;
mod plan;
mod training;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::detector::page as detector;
pub use self::training::page as training;
use crate::data::{Channels, DataError, Size};
use crate::engine::shaders::SpecialiseError;
use crate::engine::tape::GradError;
use crate::run::store;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error(
        "the detector scores images in tiles of {0}, which the page does not: use stssad predict, or train without --tiles"
    )]
    Tiles(Size),
    #[error(
        "the detector reads {0} stored channels, and a browser gives grey or RGB: use stssad predict, or train with \
         --channels grey or rgb"
    )]
    Channels(Channels),
    #[error(
        "{what} of the plan has {bytes} bytes, more than the {} that every browser can bind: use stssad predict, or \
         train with a smaller --size",
        plan::LARGEST
    )]
    TooLarge { what: String, bytes: u64 },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Shader(#[from] SpecialiseError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Grad(#[from] GradError),
}

/// Writes a page whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn save(page: &str, path: &Path) -> Result<(), WebError> {
    store::write(path, page.as_bytes()).map_err(|source| WebError::Write { path: path.into(), source })
}

/// The page with its scripts, by name, and with what they read.
fn assembled(page: &str, scripts: &[(&str, &str)], read: &impl Serialize) -> String {
    let shared = [
        ("executor.js", include_str!("web/executor.js")),
        ("page.js", include_str!("web/page.js")),
        ("style.css", include_str!("web/style.css")),
    ];
    let page = shared
        .iter()
        .chain(scripts)
        .fold(page.to_owned(), |page, (name, text)| page.replacen(&format!("/* {name} */"), text, 1));
    let json = serde_json::to_string(read).expect("numbers and text are JSON");
    // Nothing in the JSON ends its element.
    page.replacen("{/* model */}", &json.replace("</", "<\\/").replace("<!--", "<\\u0021--"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_whole_and_nothing_that_it_reads_ends_its_element() {
        let page = assembled("<script>{/* model */}</script><style>/* style.css */</style>", &[], &"</script><!--");
        assert_eq!(
            (page.matches("</script>").count(), page.matches("<!--").count(), page.matches("/*").count()),
            (1, 0, 0)
        );
        assert!(page.contains("--accent"));
    }
}
