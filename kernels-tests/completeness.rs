//! Shaders in the folder, shaders in the program, primitives and cases are the same sets.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stssad::engine::case::ShapeClass;
use stssad::engine::ops::cases;
use stssad::engine::shaders::{PARTS, PROBES, SOURCES};
use stssad::proof::check::variants;

use crate::announce;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn files(folder: PathBuf, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(path, extension));
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
    found
}

/// Names in `impl Primitive for …` of a family's file.
fn implementors(source: &str) -> Vec<String> {
    let after = source.split("impl Primitive for ").skip(1);
    after.map(|rest| rest.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn every_shader_and_every_primitive_has_cases() {
    let cases = cases();
    let in_folder: BTreeSet<String> = files(root().join("shaders"), "wgsl")
        .iter()
        .map(|path| path.strip_prefix(root().join("shaders")).unwrap().with_extension("").display().to_string())
        .collect();
    let listed: BTreeSet<String> =
        SOURCES.iter().chain(PROBES).chain(PARTS).map(|(name, _)| (*name).to_string()).collect();
    assert_eq!(in_folder, listed, "shaders/ and the families' lists of shaders differ");

    let sources: BTreeSet<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
    let tested: BTreeSet<&str> = cases.iter().flat_map(|(_, case)| variants(case)).map(|kernel| kernel.name).collect();
    assert_eq!(tested, sources, "shaders without a case, or cases without a shader");

    let types = files(root().join("src/engine/ops"), "rs");
    let implemented: BTreeSet<String> =
        types.iter().flat_map(|path| implementors(&fs::read_to_string(path).unwrap())).collect();
    let debug_name = |text: String| text.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned();
    let with_case: BTreeSet<String> =
        cases.iter().map(|(_, case)| debug_name(format!("{:?}", case.primitive))).collect();
    assert_eq!(with_case, implemented, "primitives without a case");

    let counts = format!(
        "{} of {} primitives, {} of {} shaders tested, {} cases",
        with_case.len(),
        implemented.len(),
        tested.len(),
        sources.len(),
        cases.len()
    );
    announce(&counts);
}

#[test]
fn every_elementwise_function_has_a_case() {
    for shader in ["elementwise/unary", "elementwise/binary"] {
        let (_, source) = SOURCES.iter().find(|(name, _)| *name == shader).unwrap();
        let written = source.matches("case ").count();
        let functions: BTreeSet<String> = cases()
            .iter()
            .flat_map(|(_, case)| variants(case))
            .filter(|kernel| kernel.name == shader)
            .map(|kernel| format!("{:?}", kernel.constants))
            .collect();
        assert_eq!(functions.len(), written, "{shader}: functions with a case, and functions");
    }
}

#[test]
fn every_kernel_is_run_at_every_class_of_shape() {
    let mut missing = Vec::new();
    for (name, _) in SOURCES.iter() {
        let ran: BTreeSet<ShapeClass> = cases()
            .iter()
            .filter(|(_, case)| variants(case).iter().any(|kernel| kernel.name == *name))
            .map(|(class, _)| *class)
            .collect();
        for class in [ShapeClass::Prime, ShapeClass::Small, ShapeClass::Ones, ShapeClass::Training] {
            // Only long rows are summed by a workgroup.
            let is_short_row = name.ends_with("_row") && class == ShapeClass::Small;
            if !ran.contains(&class) && !is_short_row {
                missing.push(format!("{name} at {class}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}
