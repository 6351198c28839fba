//! `stssad sanitize` on files: exit codes, JSON and SARIF.

mod process;

use std::fs;

use process::{folder, json, stssad, text};
use serde_json::Value;

/// Neighbours exchange values, without the barrier that the repair adds.
const RACY: &str = "// sanitize: workgroups 2
// sanitize: buffer 0,0=zero:512
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
override SCALE: f32 = 1.0;
var<workgroup> s: array<f32, 64>;
@compute @workgroup_size(64)
fn swap(@builtin(local_invocation_index) lane: u32, @builtin(global_invocation_id) at: vec3<u32>) {
    s[lane] = SCALE * y[at.x];
    // barrier
    y[at.x] = s[63u - lane];
}
";

#[test]
fn exit_codes_tell_findings_from_wrong_input() {
    let folder = folder("codes");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let racy = write("racy.wgsl", RACY);
    let mended = write("mended.wgsl", &RACY.replace("// barrier", "workgroupBarrier();"));
    let said = stssad(&[&["sanitize", text(&racy)]]).with(1);
    let line = format!("error: {}:8: race: invocation ", racy.display());
    let part = "`swap` in 2 × 1 × 1 workgroups of 64 × 1 × 1 invocations";
    assert!(said.out.contains(&line) && said.out.contains(part), "{}", said.out);
    let said = stssad(&[&["sanitize", text(&mended)]]).with(0);
    assert!(said.out.contains("0 errors, 0 warnings, 0 notes"), "{}", said.out);
    // Flags come before comments.
    let said = stssad(&[&["sanitize", text(&mended), "--buffer", "0,0=zero:256", "--override", "SCALE=2"]]).with(1);
    assert!(said.out.contains("out-of-bounds"), "{}", said.out);
    let usage: [&[&str]; 6] = [
        &["--workgroups", "0"],
        &["--buffer", "0,0=zer0"],
        &["--buffer", "0,0=zero:2"],
        &["--entry", "main"],
        &["--seed", "x"],
        &["--entry", "swap", "--buffer", "1,0=zero"],
    ];
    for flags in usage {
        stssad(&[&["sanitize", text(&mended)], flags]).with(2).error(&[]);
    }
    let broken = write("broken.wgsl", "fn main( {}");
    stssad(&[&["sanitize", text(&broken)]]).with(3).error(&["broken.wgsl:1: "]);
    let wide = write("wide.wgsl", "var<private> x: f64;\n@compute @workgroup_size(1) fn main() { x = 1.0lf; }");
    stssad(&[&["sanitize", text(&wide)]]).with(3).error(&["wide.wgsl:1: unsupported: "]);
    let wrong = write("wrong.wgsl", "// sanitize: workgroups none\n@compute @workgroup_size(1) fn main() {}");
    stssad(&[&["sanitize", text(&wrong)]]).with(3).error(&["wrong.wgsl:1: a comment cannot be read: `none`"]);
    fs::write(folder.join("binary.wgsl"), [0xff, 0xfe]).unwrap();
    stssad(&[&["sanitize", text(&folder.join("binary.wgsl"))]]).with(3).error(&["binary.wgsl"]);
    stssad(&[&["sanitize", text(&folder.join("none.wgsl"))]]).with(74).error(&["none.wgsl"]);
}

/// What SARIF 2.1.0 requires of these parts: types, references between them, and that there are no others.
fn check_sarif(log: &Value) -> Result<usize, String> {
    let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what} in {log}")) };
    let keys = |value: &Value, allowed: &[&str]| {
        value.as_object().is_some_and(|it| it.keys().all(|key| allowed.contains(&key.as_str())))
    };
    need(log["version"] == "2.1.0", "version")?;
    need(log["$schema"].as_str().is_some_and(|it| it.contains("sarif") && it.contains("2.1.0")), "$schema")?;
    need(keys(log, &["$schema", "version", "runs"]), "keys")?;
    let run = &log["runs"][0];
    need(keys(run, &["tool", "results", "columnKind"]), "keys of a run")?;
    need(run["columnKind"] == "utf16CodeUnits" || run["columnKind"] == "unicodeCodePoints", "columnKind")?;
    let driver = &run["tool"]["driver"];
    need(driver["name"] == "stssad" && driver["version"].is_string(), "driver")?;
    let rules = driver["rules"].as_array().ok_or("rules")?;
    let levels = ["none", "note", "warning", "error"];
    let is_level = |value: &Value| value.as_str().is_some_and(|it| levels.contains(&it));
    for rule in rules {
        need(rule["id"].is_string() && rule["shortDescription"]["text"].is_string(), "a rule")?;
        need(is_level(&rule["defaultConfiguration"]["level"]), "a rule's level")?;
    }
    let results = run["results"].as_array().ok_or("results")?;
    for result in results {
        need(
            keys(result, &["ruleId", "ruleIndex", "level", "message", "locations", "properties"]),
            "keys of a result",
        )?;
        let rule = result["ruleIndex"].as_u64().and_then(|index| rules.get(index as usize)).ok_or("ruleIndex")?;
        need(rule["id"] == result["ruleId"] && is_level(&result["level"]), "a result's rule")?;
        need(result["message"]["text"].as_str().is_some_and(|text| !text.is_empty()), "message")?;
        let place = &result["locations"][0]["physicalLocation"];
        let uri = place["artifactLocation"]["uri"].as_str().ok_or("uri")?;
        need(!uri.is_empty() && !uri.contains([' ', '\\']), "uri")?;
        for key in ["startLine", "startColumn"] {
            need(place["region"][key].as_u64().is_some_and(|it| it >= 1), key)?;
        }
    }
    Ok(results.len())
}

#[test]
fn findings_are_written_as_sarif_and_json() {
    let folder = folder("formats");
    let (file, log) = (folder.join("a racy.wgsl"), folder.join("log.sarif"));
    fs::write(&file, RACY).unwrap();
    let said = stssad(&[&["sanitize", text(&file), "--json", "--counters", "--sarif", text(&log)]]).with(1);
    let findings: Value = serde_json::from_str(&said.out).unwrap();
    let run = &findings["runs"][0];
    assert_eq!(findings["passed"], false);
    assert_eq!((&run["entry"], &run["workgroups"][0]), (&"swap".into(), &2.into()));
    let report = &run["reports"][0];
    assert_eq!((&report["kind"], &report["level"], &report["line"]), (&"race".into(), &"error".into(), &8.into()));
    // Two subgroups in each of two workgroups read as many bytes as lie in 4 sectors.
    let line = run["counters"]["lines"].as_array().unwrap().iter().find(|it| it["line"] == 8).unwrap();
    assert_eq!(
        (line["counts"]["sectors"].as_f64(), line["counts"]["fewest_sectors"].as_f64()),
        (Some(16.0), Some(16.0))
    );
    let log = json(&log);
    assert_eq!(check_sarif(&log), Ok(run["reports"].as_array().unwrap().len()));
    assert_eq!(log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"], 8);
    assert!(log.to_string().contains("a%20racy.wgsl"), "{log}");
    // The check can fail.
    for (pointer, wrong) in [
        ("/version", Value::from("2.0.0")),
        ("/runs/0/results/0/ruleIndex", 99.into()),
        ("/runs/0/results/0/level", "fatal".into()),
        ("/runs/0/results/0/locations/0/physicalLocation/region/startLine", 0.into()),
        ("/runs/0/tool/driver/name", Value::Null),
    ] {
        let mut wrong_log = log.clone();
        *wrong_log.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = wrong;
        assert!(check_sarif(&wrong_log).is_err(), "{pointer}");
    }
}

#[test]
fn counters_tell_conflicts_by_line() {
    let file = folder("counters").join("conflict.wgsl");
    let kernel = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
var<workgroup> s: array<f32, 1024>;
@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) lane: u32) {
    s[32u * lane] = y[lane];
    y[lane] = s[32u * lane];
}
";
    fs::write(&file, kernel).unwrap();
    let said = stssad(&[&["sanitize", text(&file), "--counters"]]).with(0);
    let line = said.out.lines().find(|line| line.contains("y[lane] = s[32u * lane]")).expect("the line");
    assert!(line.split_whitespace().any(|cell| cell == "32" || cell == "32.0"), "{line}");
}
