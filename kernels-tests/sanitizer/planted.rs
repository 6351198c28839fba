//! Faulty kernels that the sanitizer must find, each with a repair that it must accept.
//!
//! A file describes itself. `// dispatch: 2 | 128 128` gives the workgroups, then the length of each binding; bindings
//! that the kernel only reads hold 0, 1, 2, …. `// reports: race` ends a line that must be reported, with the kinds.
//! `// sound: …` ends the faulty line with its replacement in the repaired kernel.

use std::collections::BTreeSet;
use std::path::Path;

use crate::case::SUBGROUPS;
use stssad::proof::sanitizer::{Buffer, Dispatch, Level, Report, lower};

const LIMIT: u64 = 200_000;

/// The reports for each subgroup size.
fn run(name: &str, text: &str) -> Vec<Report> {
    let dispatch = text.lines().find_map(|line| line.strip_prefix("// dispatch: ")).expect("a line `// dispatch:`");
    let (workgroups, lengths) = dispatch.split_once(" | ").expect("workgroups | lengths");
    let lengths: Vec<usize> = lengths.split(' ').map(|length| length.parse().unwrap()).collect();
    let (output, inputs) = lengths.split_last().expect("at least one binding");
    let data: Vec<Vec<f32>> = inputs.iter().map(|&length| (0..length).map(|i| i as f32).collect()).collect();
    let buffers: Vec<Buffer> =
        data.iter().map(|data| Buffer::Filled(data)).chain([Buffer::Unwritten(*output)]).collect();
    let program = lower(name, text).unwrap_or_else(|refusal| panic!("{refusal}"));
    let workgroups = [workgroups.parse().unwrap(), 1, 1];
    let run = |&subgroup: &u32| {
        program.run(&Dispatch { workgroups, immediates: &[], buffers: buffers.clone(), subgroup, limit: LIMIT }).reports
    };
    // Kinds that are notes, since WGSL defines what happens, are planted in `trial.rs`.
    SUBGROUPS.iter().flat_map(run).filter(|report| report.kind.level() > Level::Note).collect()
}

/// `(line, kind)` of every expected report.
fn expected(text: &str) -> BTreeSet<(u32, String)> {
    let kinds = |text: &str| text.split_once("// reports: ").map(|(_, kinds)| kinds.to_owned()).unwrap_or_default();
    let mut expected = BTreeSet::new();
    for (line, text) in (1..).zip(text.lines()) {
        expected.extend(kinds(text).split(' ').take_while(|&kind| kind != "//").map(|kind| (line, kind.to_owned())));
    }
    expected.retain(|(_, kind)| !kind.is_empty());
    expected
}

fn repaired(text: &str) -> String {
    let repair = |line: &str| line.split_once("// sound: ").map_or(line.to_owned(), |(_, sound)| sound.to_owned());
    text.lines().map(|line| repair(line) + "\n").collect()
}

#[test]
fn every_planted_fault_is_found_and_every_repair_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/sanitizer/planted");
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut kinds = Vec::new();
    let mut failures = Vec::new();
    for path in &paths {
        let name = path.file_name().unwrap().to_string_lossy();
        let text = std::fs::read_to_string(path).unwrap();
        let expected = expected(&text);
        let reports = run(&name, &text);
        let found: BTreeSet<(u32, String)> =
            reports.iter().map(|report| (report.line, report.kind.name().to_owned())).collect();
        reports.iter().for_each(|report| println!("{report}"));
        if found != expected || expected.is_empty() {
            failures.push(format!("{name}: expected {expected:?}, found {found:?}"));
        }
        kinds.extend(expected.into_iter().map(|(_, kind)| kind).collect::<BTreeSet<_>>());
        for report in run(&name, &repaired(&text)) {
            failures.push(format!("repaired {report}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(paths.len() >= 12);
    for kind in kinds.iter().collect::<BTreeSet<_>>() {
        assert!(kinds.iter().filter(|other| *other == kind).count() >= 2, "{kind} is planted once only");
    }
    assert_eq!(kinds.iter().collect::<BTreeSet<_>>().len(), 8, "a detector has no planted fault");
}

/// A kernel that leaves its output alone does not pass for one whose output is another buffer.
#[test]
fn an_output_that_is_never_written_is_nan() {
    let text = "@group(0) @binding(0) var<storage, read> x: array<f32>;\n\
                @group(0) @binding(1) var<storage, read_write> y: array<f32>;\n\
                @compute @workgroup_size(1) fn main() {}\n";
    let program = lower("idle", text).unwrap_or_else(|refusal| panic!("{refusal}"));
    let buffers = vec![Buffer::Filled(&[1.0, 2.0]), Buffer::Unwritten(3)];
    let dispatch = Dispatch { workgroups: [1; 3], immediates: &[], buffers, subgroup: SUBGROUPS[0], limit: LIMIT };
    let outcome = program.run(&dispatch);
    assert!(outcome.output.len() == 3 && outcome.output.iter().all(|x| x.is_nan()), "{:?}", outcome.output);
}
