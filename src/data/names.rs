//! The names of images, and the files that they name. A dataset may have very many, so the names of a folder's files are one text, and
//! the path of a file is told by its name.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::files::printable;

/// The name of an image: its path below the dataset's root, with `/` as the separator, or `6.png#17` for a tile. It is read as text.
#[derive(Clone)]
pub struct Name {
    names: Arc<Names>,
    index: u32,
}

/// Names of images, one after another, as they are being listed.
#[derive(Debug, Default)]
pub(super) struct Names {
    text: String,
    /// Where each name ends in the text.
    ends: Vec<usize>,
    /// The folder of the files.
    folder: PathBuf,
    /// What precedes the path below the folder in each name.
    prefix: String,
    /// The paths of files that are not at their names below the folder, such as those whose names are not UTF-8.
    elsewhere: HashMap<u32, PathBuf>,
}

impl Names {
    /// No names yet. Those of files in a folder are to be `prefix` followed by the path below the folder.
    pub fn of(folder: &Path, prefix: &str) -> Self {
        Names { folder: folder.to_owned(), prefix: prefix.to_owned(), ..Names::default() }
    }

    /// The names of single files, each its whole path.
    pub fn of_files<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut paths = paths.into_iter().peekable();
        let start = paths.peek().map_or(Path::new(""), |first| split(first).0);
        let mut names = Names::of(start, "");
        paths.for_each(|path| names.push(&plain(split(path).1), path));
        names
    }

    /// Adds a file of the folder.
    pub fn push_file(&mut self, path: &Path) {
        let below = path.strip_prefix(&self.folder).unwrap_or(path);
        self.push(&format!("{}{}", self.prefix, plain(below)), path);
    }

    /// Adds a name, and the file that it names.
    pub fn push(&mut self, name: &str, path: &Path) {
        let told = name.strip_prefix(&self.prefix).map(|below| self.folder.join(below));
        if told.is_none_or(|told| told != path) {
            self.elsewhere.insert(self.ends.len() as u32, path.to_owned());
        }
        self.text += name;
        self.ends.push(self.text.len());
    }

    /// The names, in the order in which they were added.
    pub fn each(mut self) -> impl Iterator<Item = Name> {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
        let (names, count) = (Arc::new(self), 0..);
        let count = count.take(names.ends.len());
        count.map(move |index| Name { names: names.clone(), index })
    }
}

impl Name {
    /// Names that name no files.
    pub fn all(texts: impl IntoIterator<Item = String>) -> impl Iterator<Item = Name> {
        let mut names = Names::default();
        for text in texts {
            names.text += &text;
            names.ends.push(names.text.len());
        }
        names.each()
    }

    /// The path of its file.
    pub(super) fn path(&self) -> PathBuf {
        self.names.elsewhere.get(&self.index).cloned().unwrap_or_else(|| self.names.folder.join(self.below()))
    }

    /// The path of its file below the folder that was listed.
    pub(super) fn below(&self) -> &Path {
        match self.names.elsewhere.get(&self.index) {
            Some(path) => path.strip_prefix(&self.names.folder).unwrap_or(path),
            None => Path::new(&self[self.names.prefix.len()..]),
        }
    }
}

/// What precedes the names of a path's folders, such as `/` or `../`, and the rest.
fn split(path: &Path) -> (&Path, &Path) {
    let is_normal = |part: &Component| matches!(part, Component::Normal(_));
    let count = path.components().rev().take_while(is_normal).count();
    let start = path.ancestors().nth(count).unwrap_or(Path::new(""));
    (start, path.strip_prefix(start).unwrap_or(path))
}

/// A relative path as text, with `/` as the separator on every system.
fn plain(path: &Path) -> String {
    let parts: Vec<String> = path.iter().map(printable).collect();
    parts.join("/")
}

/// The name of a single file or folder: its path without what precedes it, such as `/` or `../`.
pub(super) fn of_file(path: &Path) -> String {
    plain(split(path).1)
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        let (Names { text, ends, .. }, index) = (&*self.names, self.index as usize);
        let start = index.checked_sub(1).map_or(0, |last| ends[last]);
        &text[start..ends[index]]
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Name { names: Arc::new(Names { text: text.to_owned(), ends: vec![text.len()], ..Names::default() }), index: 0 }
    }
}

impl Default for Name {
    fn default() -> Self {
        "".into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(other)
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_path_of_its_file() {
        let mut names = Names::of(Path::new("root/test/good"), "test/good/");
        let paths =
            ["root/test/good/0.png", "root/test/good/a/1.png", "root/test/good/a\nb.png", "root/test/good/3.png"];
        paths.iter().for_each(|path| names.push_file(Path::new(path)));
        names.push("a name of its own", Path::new("elsewhere/4.png"));
        let names: Vec<Name> = names.each().collect();
        let texts =
            ["test/good/0.png", "test/good/a/1.png", "test/good/a\\nb.png", "test/good/3.png", "a name of its own"];
        assert_eq!(names, texts.map(Name::from));
        assert_eq!(
            names.iter().map(Name::path).collect::<Vec<_>>(),
            [&paths[..], &["elsewhere/4.png"]].concat().iter().map(PathBuf::from).collect::<Vec<_>>()
        );
        let below = ["0.png", "a/1.png", "a\nb.png", "3.png", "elsewhere/4.png"];
        assert_eq!(names.iter().map(Name::below).collect::<Vec<_>>(), below.map(Path::new));
        assert_eq!(Name::all(["a#0".into(), "a#1".into()]).collect::<Vec<_>>(), ["a#0", "a#1"].map(Name::from));
    }

    #[test]
    fn a_single_file_is_named_by_its_path() {
        for (path, name) in [
            ("/a/b.png", "a/b.png"),
            ("b.png", "b.png"),
            ("../../a/b.png", "a/b.png"),
            ("/", ""),
            ("a/../b", "b"),
            ("./a", "a"),
        ] {
            let own: Vec<Name> = Names::of_files([Path::new(path), Path::new("/other/c.png")]).each().collect();
            assert_eq!(own, [name, "other/c.png"].map(Name::from), "{path}");
            assert_eq!((own[0].path(), own[1].path()), (path.into(), "/other/c.png".into()));
            assert_eq!(of_file(Path::new(path)), name);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_name_need_not_be_utf8() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new("root").join(std::ffi::OsStr::from_bytes(b"a\xff.png"));
        let mut names = Names::of(Path::new("root"), "");
        names.push_file(&path);
        let name = names.each().next().unwrap();
        assert_eq!(
            (&*name, name.path(), name.below()),
            ("a\\xff.png", path.clone(), path.strip_prefix("root").unwrap())
        );
    }
}
