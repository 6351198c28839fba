//! The WGSL files and their specialisation: the initialisers of constants are replaced. Types are not constants in WGSL:
//! an alias of `f32` may be made one of `vec4<f32>`, `f16` or `vec4<f16>`, and the side of a cooperative matrix, which is a
//! part of its type's name, follows the constant `TILE`.
//!
//! A file may end with lines such as `// include gemm/tile`: [parts](PARTS), or other kernels' own files, that continue it one
//! after another. Lines of this kind in an included file do not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::engine::kernel::{Kernel, Tile};
use crate::engine::ops::{FAMILIES, shaders};

/// Name and text of every primitive's kernels, family by family, each with its included parts. A test holds the list
/// against the folder.
pub static SOURCES: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let own = FAMILIES.iter().flat_map(|family| family.shaders);
    own.map(|&(name, text)| (name, &*with_parts(text, &HashMap::new()).leak())).collect()
});

/// Files that kernels include: none is a kernel by itself.
pub const PARTS: &[(&str, &str)] = shaders![
    "gemm/loads",
    "gemm/matrix",
    "gemm/tile",
    "patch/pixels",
    "patch/place",
    "patch/rows",
    "patch/sigmoid",
    "reduce/axis"
];

/// What a line begins with that names an included part. Such lines are the last of a kernel's own file.
const INCLUDE: &str = "// include ";

/// Kernels that measure the device: no primitive's, so neither differentiated nor compared with a definition.
pub const PROBES: &[(&str, &str)] = shaders![
    "peak/copy",
    "peak/empty",
    "peak/fma",
    "peak/fma_f16",
    "peak/fma_vec4",
    "peak/matrix",
    "peak/read",
    "peak/workgroup",
    "peak/write",
];

/// Why a kernel has no WGSL.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecialiseError {
    #[error("there is no shaders/{0}.wgsl")]
    NoSuchShader(&'static str),
    #[error("shaders/{shader}.wgsl declares no `const {constant}: {ty}`")]
    NoSuchConstant { shader: &'static str, constant: &'static str, ty: &'static str },
    #[error("shaders/{shader}.wgsl declares no `alias {alias} = f32`")]
    NoSuchAlias { shader: &'static str, alias: &'static str },
}

/// The text of the kernel's file.
///
/// # Errors
/// When there is no such file.
pub fn source(kernel: &Kernel) -> Result<&'static str, SpecialiseError> {
    let (_, source) = SOURCES
        .iter()
        .chain(PROBES)
        .find(|(name, _)| *name == kernel.name)
        .ok_or(SpecialiseError::NoSuchShader(kernel.name))?;
    Ok(source)
}

/// A constant's declaration: its type and value.
fn declared_constant<'a>(text: &'a str, constant: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix("const ")?.strip_prefix(constant)?.strip_prefix(':')?.split(';').next())
}

/// The WGSL files in a folder and those within it.
fn wgsl_files(folder: &Path) -> Result<Vec<PathBuf>, ReplaceError> {
    let failed = |source| ReplaceError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.is_dir() {
            true => files.extend(wgsl_files(&path)?),
            false if path.extension().is_some_and(|extension| extension == "wgsl") => files.push(path),
            false => {}
        }
    }
    Ok(files)
}

/// The lines of a kernel's own file before those that name what it includes.
fn own_lines(text: &str) -> &str {
    let end = text.find(INCLUDE).filter(|&at| at == 0 || text[..at].ends_with('\n'));
    &text[..end.unwrap_or(text.len())]
}

/// The names that `text` includes, in order.
fn included(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix(INCLUDE))
}

/// The built-in file of this name: a kernel's own or a part.
fn built_in(name: &str) -> Option<&'static str> {
    let files = FAMILIES.iter().flat_map(|family| family.shaders).chain(PARTS);
    files.into_iter().find(|(file, _)| *file == name).map(|&(_, text)| text)
}

/// `text` continued by what it includes: from `replaced`, where that has it.
fn with_parts(text: &str, replaced: &HashMap<&str, String>) -> String {
    let mut whole = own_lines(text).to_owned();
    for name in included(text) {
        let part = replaced.get(name).map(String::as_str).or(built_in(name));
        whole += &format!("{INCLUDE}{name}\n{}", own_lines(part.unwrap_or_default()));
    }
    whole
}

/// The file under `shaders/` and the line there of a line of a kernel's text, both counted from 1.
pub fn place<'a>(name: &'a str, text: &'a str, line: usize) -> (&'a str, usize) {
    let included = text.lines().take(line.saturating_sub(1)).enumerate().filter_map(|(index, line)| {
        let part = line.strip_prefix(INCLUDE)?;
        Some((part, index + 1))
    });
    included.last().map_or((name, line), |(part, before)| (part, line - before))
}

fn names(sources: &[(&str, &str)]) -> String {
    sources.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Why shaders could not be taken from a folder.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} contains none of stssad's shaders (conv2d/input.wgsl, …): check the path", .0.display())]
    None(PathBuf),
    #[error("{shader}.wgsl includes {part}, but there is no such file: {} and kernels can be included", names(PARTS))]
    NoSuchPart { shader: &'static str, part: String },
    #[error("{} takes the place of none of stssad's shaders: rename it as the file that it is to replace, or move it away", .0.display())]
    Unknown(PathBuf),
}

/// Texts that take the place of the built-in ones, by kernel.
#[derive(Clone, Debug, Default)]
pub struct Replaced {
    /// The name of each kernel whose text is another than the built-in one, and that text, with what it includes.
    pub kernels: BTreeMap<String, String>,
    /// How many files were read from a folder.
    pub files: usize,
}

impl Replaced {
    /// Those in a folder that is laid out as `shaders/` is. A part replaces that of all kernels that include it.
    ///
    /// # Errors
    /// When a file cannot be read, takes the place of none, or the folder has none of them.
    pub fn from_folder(folder: &Path) -> Result<Replaced, ReplaceError> {
        let own: Vec<&(&str, &str)> = FAMILIES.iter().flat_map(|family| family.shaders).chain(PROBES).collect();
        let mut found = HashMap::new();
        for &(name, _) in own.iter().copied().chain(PARTS) {
            let path = folder.join(name).with_extension("wgsl");
            match std::fs::read_to_string(&path) {
                Ok(text) => drop(found.insert(name, text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(ReplaceError::Read { path, source }),
            }
        }
        if found.is_empty() {
            return Err(ReplaceError::None(folder.to_owned()));
        }
        let known: Vec<PathBuf> = found.keys().map(|name| folder.join(name).with_extension("wgsl")).collect();
        if let Some(stray) = wgsl_files(folder)?.into_iter().find(|path| !known.contains(path)) {
            return Err(ReplaceError::Unknown(stray));
        }
        for (&shader, text) in &found {
            if let Some(part) = included(text).find(|name| built_in(name).is_none()) {
                return Err(ReplaceError::NoSuchPart { shader, part: part.to_owned() });
            }
        }
        let texts = own.iter().filter_map(|&&(name, own)| {
            let text = with_parts(found.get(name).map_or(own, |text| text), &found);
            (text != with_parts(own, &HashMap::new())).then(|| (name.to_owned(), text))
        });
        Ok(Replaced { kernels: texts.collect(), files: found.len() })
    }

    /// The kernels whose texts differ between `self` and `other`.
    pub fn differing(&self, other: &Replaced) -> Vec<String> {
        let names: BTreeSet<&String> = self.kernels.keys().chain(other.kernels.keys()).collect();
        names.into_iter().filter(|name| self.kernels.get(*name) != other.kernels.get(*name)).cloned().collect()
    }

    /// The constants of `kernels` whose value a text changes in vain, since each kernel is given its own: (kernel, constant).
    pub fn overridden<'a>(
        &self,
        kernels: impl IntoIterator<Item = &'a Kernel>,
    ) -> BTreeSet<(&'static str, &'static str)> {
        let mut overridden = BTreeSet::new();
        for kernel in kernels {
            let (Some(text), Ok(own)) = (self.kernels.get(kernel.name), source(kernel)) else { continue };
            // A text without the constant, or that is no WGSL, has an error of its own.
            let changes = |name: &str| {
                declared_constant(text, name).is_some_and(|value| Some(value) != declared_constant(own, name))
            };
            overridden.extend(
                kernel.constants.iter().filter(|(name, _)| changes(name)).map(|&(name, _)| (kernel.name, name)),
            );
        }
        overridden
    }

    /// As [`specialise`], from the text that takes the place of the built-in one, if any does.
    ///
    /// # Errors
    /// As [`specialise`].
    pub fn specialise(&self, kernel: &Kernel) -> Result<String, SpecialiseError> {
        match self.kernels.get(kernel.name) {
            Some(text) => specialise_text(text, kernel),
            None => specialise(kernel),
        }
    }
}

/// Put before the first line, so that all keep their numbers.
const ENABLE_F16: &str = "enable f16; ";

/// The kernel's text with the initialisers of its constants, the aliases of its vectors and halves, and the matrices of its
/// tile, replaced.
///
/// # Errors
/// When the file, a constant in it of the value's type, or an alias of f32, does not exist.
pub fn specialise(kernel: &Kernel) -> Result<String, SpecialiseError> {
    specialise_text(source(kernel)?, kernel)
}

/// As [`specialise`], from another text than the kernel's own: a mutant of it, in tests.
///
/// # Errors
/// When a constant of the value's type, or an alias of f32, is not in the text.
pub fn specialise_text(text: &str, kernel: &Kernel) -> Result<String, SpecialiseError> {
    let mut source = text.to_owned();
    for &(constant, value) in &kernel.constants {
        let ty = value.type_name();
        let declaration = format!("\nconst {constant}: {ty} = ");
        let start = source.find(&declaration).map(|at| at + declaration.len());
        let range = start.and_then(|start| source[start..].find(';').map(|length| start..start + length));
        let range = range.ok_or(SpecialiseError::NoSuchConstant { shader: kernel.name, constant, ty })?;
        source.replace_range(range, &value.to_string());
    }
    for &alias in kernel.vectors.iter().chain(&kernel.halves) {
        let ty = match (kernel.vectors.contains(&alias), kernel.halves.contains(&alias)) {
            (true, true) => "vec4<f16>",
            (true, false) => "vec4<f32>",
            (false, _) => "f16",
        };
        let [scalar, stored] = ["f32", ty].map(|ty| format!("\nalias {alias} = {ty};"));
        if !text.contains(&scalar) {
            return Err(SpecialiseError::NoSuchAlias { shader: kernel.name, alias });
        }
        source = source.replace(&scalar, &stored);
        if kernel.vectors.contains(&alias) {
            // The words of what is computed in vectors.
            source =
                source.replace(&format!("\nalias {alias}Bits = u32;"), &format!("\nalias {alias}Bits = vec4<u32>;"));
        }
    }
    if let Some(tile) = kernel.tile() {
        source = source.replace(&format!("coop_mat{}<", Tile::Sixteen), &format!("coop_mat{tile}<"));
    }
    if !kernel.halves.is_empty() && !source.contains("enable f16;") {
        source.insert_str(0, ENABLE_F16);
    }
    Ok(source)
}

/// The line of `text` that declares the array at `binding`; empty where there is none.
fn declared_array(text: &str, binding: usize) -> &str {
    text.lines().find(|line| line.contains(&format!("@binding({binding}) "))).unwrap_or_default()
}

/// The kernel's text without a binding for each of the `inputs` that lie where the output at binding `output` does: they are
/// read there. WebGPU lets no buffer be bound twice in a dispatch that writes it.
pub fn in_place(text: &str, inputs: &[usize], output: usize) -> String {
    let name = |line: &str| {
        let (_, declared) = line.split_once("> ").unwrap_or_default();
        declared.split(':').next().unwrap_or_default().to_owned()
    };
    let written = name(declared_array(text, output));
    inputs.iter().fold(text.to_owned(), |text, &input| {
        let line = declared_array(&text, input).to_owned();
        // An empty line is left, so that all keep their numbers.
        with_identifier(&text.replace(&line, ""), &name(&line), &written)
    })
}

/// `text` with the variable `old` renamed to `new`, but not members of that name.
fn with_identifier(text: &str, old: &str, new: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut renamed, mut copied) = (String::with_capacity(text.len()), 0);
    for (at, _) in text.match_indices(old) {
        let (before, after) = (&text[..at], &text[at + old.len()..]);
        if !before.ends_with(|c: char| is_word(c) || c == '.') && !after.starts_with(is_word) {
            renamed.push_str(&text[copied..at]);
            renamed.push_str(new);
            copied = at + old.len();
        }
    }
    renamed + &text[copied..]
}

/// A kernel's text as every browser takes it: with `enable subgroups;` where it exchanges values between lanes, and with the
/// immediates, of which not all have enough or any, in a uniform at binding 0 of group 1.
pub fn portable(text: &str) -> String {
    let enabled = if text.contains("@builtin(subgroup_") { "enable subgroups; " } else { "" };
    format!("{enabled}{}", text.replace("\nvar<immediate> ", "\n@group(1) @binding(0) var<uniform> "))
}

/// Bytes of an element of the array that `text` declares at `binding`; a binding is that large at least. 0 where there is none.
pub fn element_bytes(text: &str, binding: usize) -> u64 {
    let declaration = declared_array(text, binding);
    if declaration.is_empty() {
        return 0;
    }
    let element = declaration.split_once(": array<").map_or("f32", |(_, element)| element);
    let alias = text.lines().find_map(|line| {
        let (alias, ty) = line.strip_prefix("alias ")?.split_once(" = ")?;
        element.strip_prefix(alias)?.starts_with('>').then_some(ty)
    });
    let element = alias.unwrap_or(element);
    match element.split_once([';', '>']).map_or(element, |(ty, _)| ty) {
        "vec4<f32" => 16,
        "vec2<f32" | "vec4<f16" => 8,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_continues_the_kernels_that_include_it() {
        let text = source(&Kernel::new("matmul/product")).unwrap();
        let [loads, tile] = ["loads", "tile"]
            .map(|part| text.lines().position(|line| line == format!("// include gemm/{part}")).unwrap() + 1);
        assert_eq!(place("matmul/product", text, loads), ("matmul/product", loads));
        assert_eq!(place("matmul/product", text, loads + 1), ("gemm/loads", 1));
        assert_eq!(place("matmul/product", text, tile + 1), ("gemm/tile", 1));
        let on_matrices = source(&Kernel::new("matmul/product_matrix")).unwrap();
        assert!(on_matrices.contains("const TRANSPOSE_A") && !on_matrices.contains("// include gemm/tile"));

        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let refused = |folder: &Path| Replaced::from_folder(folder).unwrap_err().to_string();
        assert!(refused(folder).ends_with("contains none of stssad's shaders (conv2d/input.wgsl, …): check the path"));
        std::fs::create_dir_all(folder.join("gemm")).unwrap();
        std::fs::write(folder.join("gemm/tile.wgsl"), "// another").unwrap();
        let replaced = Replaced::from_folder(folder).unwrap();
        let mut names: Vec<&str> = replaced.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["conv2d/input", "conv2d/kernel", "conv2d/output", "matmul/product"]);
        assert_eq!(replaced.files, 1);
        assert!(replaced.kernels.values().all(|text| text.ends_with("// include gemm/tile\n// another")));

        std::fs::write(folder.join("gemm/tile.wgsl"), built_in("gemm/tile").unwrap()).unwrap();
        let same = Replaced::from_folder(folder).unwrap();
        assert!(same.kernels.is_empty() && same.files == 1, "a copy of the built-in text changes nothing");
        assert_eq!(replaced.differing(&same), names);
        assert!(same.differing(&same).is_empty());

        std::fs::create_dir_all(folder.join("sort")).unwrap();
        std::fs::write(folder.join("sort/order.wgsl"), "// include gemm/tiles\n\n").unwrap();
        let parts =
            "gemm/loads, gemm/matrix, gemm/tile, patch/pixels, patch/place, patch/rows, patch/sigmoid, reduce/axis";
        let reason = format!(
            "sort/order.wgsl includes gemm/tiles, but there is no such file: {parts} and kernels can be included"
        );
        assert_eq!(refused(folder), reason);
    }

    #[test]
    fn an_input_in_place_is_read_where_the_output_lies() {
        let text = "alias A = f32;\n@group(0) @binding(0) var<storage, read> a: array<A>;\n\
                    @group(0) @binding(1) var<storage, read> b: array<f32>;\n\
                    @group(0) @binding(2) var<storage, read_write> y: array<f32>;\n\
                    let aa = a[i * s.a] + b[a_i];\ny[i] = f(a[0],aa);\n";
        let merged = in_place(text, &[0], 2);
        assert_eq!(
            merged,
            "alias A = f32;\n\n@group(0) @binding(1) var<storage, read> b: array<f32>;\n\
             @group(0) @binding(2) var<storage, read_write> y: array<f32>;\n\
             let aa = y[i * s.a] + b[a_i];\ny[i] = f(y[0],aa);\n"
        );
        assert_eq!([0, 1, 2].map(|binding| element_bytes(&merged, binding)), [0, 4, 4]);
        assert_eq!(in_place(text, &[0, 1], 2).matches("y[").count(), 4);
        assert_eq!(in_place(text, &[], 2), text);
    }

    #[test]
    fn files_and_constants_that_would_have_no_effect_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::create_dir_all(folder.join("elementwise")).unwrap();
        let kernel = Kernel::new("elementwise/unary").constant("FUNCTION", 7u32);
        let write = |file: &str, from: &str, to: &str| {
            let text = source(&kernel).unwrap().replace(from, to);
            std::fs::write(folder.join(file), text).unwrap();
            Replaced::from_folder(folder)
        };
        let edited = write("elementwise/unary.wgsl", "const FUNCTION: u32 = 0u;", "const FUNCTION: u32 = 3u;").unwrap();
        assert_eq!(edited.overridden([&kernel]), [("elementwise/unary", "FUNCTION")].into());
        assert!(edited.overridden([&Kernel::new("elementwise/unary")]).is_empty());
        let edited = write("elementwise/unary.wgsl", "const TAU: f32 = 6.2831853;", "const TAU: f32 = 6.0;").unwrap();
        assert_eq!(edited.kernels.len(), 1);
        assert!(edited.overridden([&kernel]).is_empty());

        let refused = write("elementwise/unarry.wgsl", "", "").unwrap_err().to_string();
        assert!(refused.contains("unarry.wgsl takes the place of none of stssad's shaders"), "{refused}");
    }

    #[test]
    fn browsers_are_given_uniforms_and_told_of_subgroups() {
        let [plain, lanes] = ["elementwise/unary", "conv2d/output_broadcast"].map(|name| {
            let text = portable(source(&Kernel::new(name)).unwrap());
            assert!(
                text.contains("\n@group(1) @binding(0) var<uniform> ") && !text.contains("var<immediate>"),
                "{name}"
            );
            text
        });
        assert!(lanes.starts_with("enable subgroups; //") && plain.starts_with("// elementwise/unary"));
    }

    #[test]
    fn constants_are_replaced_and_unknown_ones_refused() {
        let text = specialise(&Kernel::new("elementwise/unary").constant("FUNCTION", 7u32)).unwrap();
        assert!(text.contains("\nconst FUNCTION: u32 = 7u;\n"));

        let text = specialise(&Kernel::new("matmul/product_matrix").with_tile(Tile::Eight)).unwrap();
        assert!(
            text.contains("\nconst TILE: u32 = 8u;") && text.contains("coop_mat8x8<") && !text.contains("mat16x16")
        );

        let unknown = specialise(&Kernel::new("elementwise/unary").constant("FUNCTIN", 7u32));
        assert!(matches!(unknown, Err(SpecialiseError::NoSuchConstant { constant: "FUNCTIN", .. })));
        let of_other_type = specialise(&Kernel::new("elementwise/unary").constant("FUNCTION", 7.0f32));
        assert!(matches!(of_other_type, Err(SpecialiseError::NoSuchConstant { ty: "f32", .. })));
        assert_eq!(specialise(&Kernel::new("no/such")), Err(SpecialiseError::NoSuchShader("no/such")));

        let kernel = Kernel::new("elementwise/binary").vector("Y").vector("StoredY").vector("B");
        let text = specialise(&kernel).unwrap();
        let bits = "\nalias YBits = vec4<u32>; // as many words as Y has";
        assert!(
            text.contains(&format!("\nalias Y = vec4<f32>;{bits}\nalias A = f32;\nalias B = vec4<f32>; // or f16\n"))
        );
        assert_eq!([0, 1, 2].map(|binding| element_bytes(&text, binding)), [4, 16, 16]);

        let kernel = Kernel::new("elementwise/binary").vector("Y").vector("StoredY");
        let kernel = kernel.storable(1, "B", 8).storable(2, "StoredY", 8).halved().unwrap();
        let text = specialise(&kernel).unwrap();
        assert!(text.starts_with("enable f16; // elementwise/binary"));
        assert!(text.contains("\nalias B = f16; // or f16\nalias StoredY = vec4<f16>; // or f16\n"));
        assert_eq!([0, 1, 2].map(|binding| element_bytes(&text, binding)), [4, 4, 8]);

        let unknown = specialise(&Kernel::new("elementwise/binary").vector("Z"));
        assert!(matches!(unknown, Err(SpecialiseError::NoSuchAlias { alias: "Z", .. })));
    }
}
