//! The inputs that the fuzzer kept, and those that once made it find a fault, are read or refused. See `libfuzzer/`.

mod targets;

use std::fs;
use std::path::Path;

#[test]
fn every_kept_input_is_read_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fuzz/corpus");
    for name in targets::NAMES {
        let inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(inputs.len() >= 5, "{name} has only {} inputs", inputs.len());
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            let run = std::panic::catch_unwind(|| targets::run(name, &bytes));
            assert!(run.is_ok(), "{} makes the target {name} panic", input.display());
        }
    }
}

/// Else the fuzzer would not get beyond the names.
#[test]
fn a_kept_checkpoint_is_read_whole() {
    use stssad::run::archive::Archive;
    use stssad::run::checkpoint::Checkpoint;
    for name in ["full", "least", "run-0", "run-1"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fuzz/corpus/checkpoint").join(name);
        let (archive, _) = Archive::parse(&fs::read(&path).unwrap(), &path, "checkpoint").unwrap();
        assert!(Checkpoint::from_archive(archive).is_ok(), "{name}");
    }
}
