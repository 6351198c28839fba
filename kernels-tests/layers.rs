//! Imports point one way: `src/lib.rs` declares the layers, and each layer its modules, in the order of dependencies.

use std::fs;
use std::path::Path;

use crate::announce;
use crate::completeness::{files, root};

/// A module of a layer with its submodules, or a layer that is a single module.
#[derive(Debug)]
struct Module {
    /// For example `engine::tape`.
    path: String,
    /// Each file with its source.
    sources: Vec<(String, String)>,
}

/// The modules that a file declares, in order.
fn declared(source: &str) -> Vec<String> {
    let declarations = source.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    declarations.map(str::to_owned).collect()
}

/// Whether a file contains only documentation, attributes and module declarations.
fn is_declarations(source: &str) -> bool {
    source.lines().all(|line| ["//", "#[", "pub mod "].iter().any(|start| line.starts_with(start)) || line.is_empty())
}

/// All modules in the order of declaration.
fn modules(src: &Path) -> Vec<Module> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut modules = Vec::new();
    for layer in declared(&read(&src.join("lib.rs"))) {
        let own = read(&src.join(&layer).with_extension("rs"));
        let paths = match is_declarations(&own) {
            true => declared(&own).into_iter().map(|module| format!("{layer}::{module}")).collect(),
            false => vec![layer],
        };
        for path in paths {
            let file = src.join(path.replace("::", "/"));
            let mut found = if file.is_dir() { files(file.clone(), "rs") } else { Vec::new() };
            found.push(file.with_extension("rs"));
            let sources = found.iter().map(|path| (path.display().to_string(), read(path))).collect();
            modules.push(Module { path, sources });
        }
    }
    modules
}

/// The modules that code names from the crate root: `a::b` and `a::c` for `use crate::a::{b, c::d}`.
fn named(code: &str) -> Vec<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let name = |text: &str| text[..text.find(|c| !is_name(c)).unwrap_or(text.len())].to_owned();
    let mut paths = Vec::new();
    // `pub(in crate::a)` says who may see an item, and imports nothing.
    for rest in code.replace("(in crate::", "(in ").split("crate::").skip(1) {
        let layer = name(rest);
        let inner = rest[layer.len()..].strip_prefix("::").unwrap_or_default();
        match inner.strip_prefix('{') {
            Some(group) => {
                let inside = group.split('}').next().unwrap_or_default().split(',').map(|path| name(path.trim()));
                paths.extend(inside.filter(|module| !module.is_empty()).map(|module| format!("{layer}::{module}")));
            }
            None => paths.push(format!("{layer}::{}", name(inner))),
        }
    }
    paths
}

/// Imports of modules that are not declared earlier, as `file: module`.
fn wrong_arrows(modules: &[Module]) -> Vec<String> {
    let place = |path: &str| {
        let is_it = |module: &Module| path == module.path || path.starts_with(&format!("{}::", module.path));
        modules.iter().position(is_it)
    };
    let mut wrong = Vec::new();
    for (own, module) in modules.iter().enumerate() {
        for (file, source) in &module.sources {
            let code: String = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
            let names = named(&code).into_iter().filter(|path| place(path).is_none_or(|other| other > own));
            wrong.extend(names.map(|path| format!("{file}: {path}")));
            // In a module's own file, `super` would reach sibling modules.
            let is_outermost = Path::new(file).with_extension("").ends_with(module.path.replace("::", "/"));
            if is_outermost && source.lines().any(|line| line.starts_with("use super::")) {
                wrong.push(format!("{file}: super"));
            }
        }
    }
    wrong
}

#[test]
fn imports_point_to_what_is_declared_before() {
    let modules = modules(&root().join("src"));
    assert_eq!(wrong_arrows(&modules), Vec::<String>::new());
    let mut layers: Vec<(&str, usize, Vec<&str>)> = Vec::new();
    for module in &modules {
        let (layer, name) = module.path.split_once("::").unwrap_or((&module.path, ""));
        let lines: usize = module.sources.iter().map(|(_, source)| source.lines().count()).sum();
        match layers.last_mut().filter(|(last, ..)| *last == layer) {
            Some((_, sum, names)) => (*sum, *names) = (*sum + lines, [&names[..], &[name]].concat()),
            None => layers.push((layer, lines, vec![name])),
        }
    }
    for (layer, lines, names) in layers {
        announce(&format!("{layer:<9} {lines:>6} lines: {}", names.join(" ")));
    }
}

#[test]
fn an_import_that_points_the_other_way_is_found() {
    let module = |path: &str, source: &str| Module {
        path: path.into(),
        sources: vec![(format!("src/{}.rs", path.replace("::", "/")), source.into())],
    };
    let below = || module("engine::tape", "use crate::engine::tape::Value; // crate::engine::plan");
    let planted = |source: &str| wrong_arrows(&[below(), module("engine::plan", source), module("ssad::nn", "")]).len();
    assert_eq!(planted("use crate::engine::tape::{Tape, Value};"), 0);
    assert_eq!(planted("use crate::engine::{tape, plan::Place};"), 0);
    assert_eq!(planted("fn layers() -> crate::ssad::nn::Layers {"), 1);
    assert_eq!(planted("use crate::ssad::{\n    nn::Layers,\n    nn,\n};"), 2);
    assert_eq!(planted("use super::tape::Tape;"), 1);
    assert_eq!(planted("pub(in crate::ssad) use crate::engine::tape::Tape;"), 0);
    assert_eq!(planted("use crate::unheard_of;"), 1);
}

#[test]
fn only_the_device_layer_names_wgpu() {
    let gpu = root().join("src/engine/gpu");
    for path in files(root().join("src"), "rs") {
        if path.starts_with(&gpu) || path == gpu.with_extension("rs") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let naming = source.lines().position(|line| {
            let code = line.split("//").next().unwrap();
            code.contains("wgpu::") || code.contains("use wgpu")
        });
        assert_eq!(naming, None, "{} names wgpu", path.display());
    }
}

/// A primitive is mathematics; only `lower.rs` of its family, or files below it, make kernels.
#[test]
fn only_lowering_names_kernels() {
    let ops = root().join("src/engine/ops");
    let is_lowering =
        |path: &Path| path.components().any(|part| ["lower", "lower.rs"].iter().any(|name| part.as_os_str() == *name));
    for path in files(ops, "rs").iter().filter(|path| !is_lowering(path)) {
        let names_kernels = named(&fs::read_to_string(path).unwrap()).iter().any(|module| module == "engine::kernel");
        assert!(!names_kernels, "{} names kernels", path.display());
    }
}
