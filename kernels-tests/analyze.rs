//! `stssad analyze` against the system's own RADV, compiling for a GPU that is not there, and its model.

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

/// The model's multiply-adds are those of the assembly, to the last one; where other counts differ, the reason is told.
#[test]
fn the_model_counts_what_the_compiler_makes() {
    if !has_radv() {
        return;
    }
    let kernels = [
        "matmul/product(m=256,n=256,k=64,ta=0,tb=0)",
        "conv2d/kernel(n=8,c=32,h=16,w=16,k=64,r=3,s=3,stride=1,padding=1)",
    ];
    let said = stssad(&[&["analyze"], &kernels]).with(0);
    for (kernel, multiply_adds) in kernels.into_iter().zip(["128", "4096"]) {
        let (_, table) = said.out.split_once("What a wave executes").unwrap();
        let row: Vec<&str> = table.lines().find(|line| line.starts_with(kernel)).unwrap().split_whitespace().collect();
        // Both counts, had they differed.
        assert_eq!(row[2], multiply_adds, "{table}");
        assert!(
            row[3] != "/" && table.contains("stores: outside of the loop stands code under a condition"),
            "{table}"
        );
    }
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

/// A GPU without a compiler is modelled alone, and the page says so; the same run gives the same report.
#[test]
fn a_model_needs_no_compiler() {
    let path = folder("model").join("report.json");
    let said = stssad(&[&["analyze", "reduce/sum_row", "--gpu", "h100", "--lines", "--json", text(&path)]]).with(0);
    for part in
        ["There is no compiler for h100", "What a model says of NVIDIA H100", "none of\nthem measured", "by the model"]
    {
        assert!(said.out.contains(part), "no `{part}` in {}", said.out);
    }
    assert!(said.out.contains("fn main("), "no annotated source in {}", said.out);
    let report = json(&path);
    assert_eq!(report["rows"].as_array().unwrap().len(), 0);
    let rows = report["model"]["rows"].as_array().unwrap();
    for row in rows {
        let bound = &row["bound"];
        let number = |key: &str| bound[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"));
        assert!(number("seconds") > 0.0 && number("of_peak") < 1.0 && number("units") <= 1.0, "{row}");
        let counts = &bound["counts"];
        assert!(counts["sectors"].as_f64() >= counts["fewest_sectors"].as_f64(), "{row}");
        assert!(counts["passes"].as_f64() >= counts["fewest_passes"].as_f64(), "{row}");
    }
    assert!(!rows.is_empty());
    let again = stssad(&[&["analyze", "reduce/sum_row", "--gpu", "h100", "--lines"]]).with(0);
    assert_eq!(again.out, said.out);
}

/// A GPU without a model is compiled for alone, and one that has both is told of by both.
#[test]
fn the_page_says_what_it_is_of() {
    if !has_radv() {
        return;
    }
    let one = |gpu: &str| stssad(&[&["analyze", "reduce/sum_row", "--gpu", gpu]]).with(0).out;
    let alone = one("navi21");
    assert!(alone.contains("There is no model of navi21") && !alone.contains("by the model"), "{alone}");
    let both = one("rx7900xtx");
    assert!(both.contains("NAVI31") && both.contains("What a model says of AMD Radeon RX 7900 XTX"), "{both}");
}
