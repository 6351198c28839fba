//! `stssad analyze` against the system's own RADV, compiling for a GPU that is not there.

mod process;

use std::fs;

use process::{folder, json, stssad, text};
use stssad::measure::analyze;

/// Whether RADV is there; says so where it is not.
fn has_radv() -> bool {
    let found = analyze::manifest().is_some();
    if !found {
        println!("skipped: RADV is not installed (Debian, Ubuntu: apt-get install mesa-vulkan-drivers)");
    }
    found
}

/// One kernel of the demo's step: its figures lie where those of a tiled convolution on RDNA 3 can lie, whatever its
/// tiles.
#[test]
fn a_convolution_has_plausible_figures() {
    if !has_radv() {
        return;
    }
    let path = folder("figures").join("report.json");
    let said = stssad(&[&["analyze", "conv2d/output", "--asm", "--json", text(&path)]]).with(0);
    for part in ["a GPU that is not there: Mesa ", "NAVI31", "Nothing was run", "fn main(", "\n| "] {
        assert!(said.out.contains(part), "no `{part}` in {}", said.out);
    }
    let report = json(&path);
    let row = &report["rows"][0];
    let resources = &row["found"]["resources"];
    let number = |key: &str| resources[key].as_u64().unwrap_or_else(|| panic!("{key} in {resources}"));
    assert!((16..=256).contains(&number("vgprs")) && number("spilled_vgprs") == 0, "{resources}");
    assert!((1..=65_536).contains(&number("lds_bytes")) && (1..=32).contains(&number("waves_per_simd")), "{resources}");
    assert!(number("code_bytes") > 1000 && number("inverse_throughput") > 0, "{resources}");
    let hot = &row["found"]["hot"];
    let share = hot["fma_share"].as_f64().unwrap();
    assert!(share > 0.1 && share < 1.0, "{hot}");
    assert!(hot["mix"]["operations"]["fma"].as_u64().unwrap() >= 16, "{hot}");
    assert!(row["share"].as_f64().unwrap() > 0.0 && row["dispatches"].as_u64().unwrap() > 0, "{row}");
}

/// A comparison passes with itself, fails with a better report, and refuses one of another GPU or of other kernels.
#[test]
fn a_comparison_finds_what_became_worse() {
    if !has_radv() {
        return;
    }
    let folder = folder("compare");
    let old = folder.join("old.json");
    let analyze = |more: &[&str]| stssad(&[&["analyze", "reduce/sum_row"], more]);
    analyze(&["--json", text(&old)]).with(0);
    let same = analyze(&["--compare", text(&old)]).with(0);
    assert!(same.out.contains("1 kernels as before"), "{}", same.out);

    let mut better = json(&old);
    better["rows"][0]["found"]["hot"]["fma_share"] = 0.9.into();
    fs::write(folder.join("better.json"), better.to_string()).unwrap();
    let worse = analyze(&["--compare", text(&folder.join("better.json"))]).with(1);
    assert!(worse.out.contains("90.0 → ") && worse.out.contains("points fewer"), "{}", worse.out);

    analyze(&["--gpu", "navi21", "--compare", text(&old)]).with(2).error(&["navi31", "navi21"]);
    let other = stssad(&[&["analyze", "matmul", "--compare", text(&old)]]);
    other.with(2).error(&["none of these kernels"]);
}

/// A shader that does not compile is told of with its line, and the others are compiled.
#[test]
fn a_shader_that_is_no_wgsl_is_refused() {
    if !has_radv() {
        return;
    }
    let folder = folder("refused");
    fs::create_dir_all(folder.join("reduce")).unwrap();
    let source = include_str!("../shaders/reduce/sum_row.wgsl");
    fs::write(folder.join("reduce/sum_row.wgsl"), source.replace("fn main(", "fn main((")).unwrap();
    let said = stssad(&[&["analyze", "reduce", "--shaders", text(&folder)]]).with(1);
    assert!(said.out.contains("refused: reduce/sum_row") && said.out.contains("fn main(("), "{}", said.out);
}

#[test]
fn what_cannot_be_compiled_is_said_before_the_driver_is_asked() {
    stssad(&[&["analyze", "no/such"]]).with(2).error(&["no kernel of the step fits no/such", "conv2d/output"]);
    stssad(&[&["analyze", "conv2d/output(n=2)"]]).with(2).error(&["is no case"]);
    let empty = folder("empty");
    stssad(&[&["analyze", "--shaders", text(&empty)]]).with(2).error(&["contains none of stssad's shaders"]);
}

/// A manifest of no driver, as where RADV is missing: what to install is said.
#[test]
fn a_driver_that_is_not_there_is_told_with_what_to_install() {
    let manifest = folder("driver").join("radeon_icd.json");
    let said = stssad(&[&["analyze", "reduce/sum_row", "--driver", text(&manifest)]]).with(4);
    said.error(&["RADV does not compile for navi31", "mesa-vulkan-drivers"]);
}
