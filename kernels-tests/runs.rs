//! Runs and sweeps lose nothing: existing work is resumed, kept or refused, also with several processes.
#![cfg(unix)]

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use process::{PACKAGED, Running, Said, command, finish, folder, json, stssad, text};
use stssad::engine::tensor::Tensor;
use stssad::run::checkpoint::Checkpoint;
use stssad::run::groups::Standing;

/// With [`PACKAGED`], a run with few kernels and short steps.
const SMALL: [&str; 4] = ["--method", "auto-encoder", "--starts", "1"];
/// Flags of a run that ends soon.
const FEW: [&str; 4] = ["--steps", "2", "--warm-up", "1"];
/// Flags of a run that lasts until it is stopped.
const MANY: [&str; 6] = ["--steps", "1000000", "--warm-up", "1", "--checkpoint-every", "5"];
const JSON: [&str; 3] = ["--no-report", "--progress", "json"];
const SILENT: [&str; 3] = ["--no-report", "--progress", "none"];

fn at(folder: &Path, parts: &[&[&str]]) -> Command {
    let mut command = command(parts);
    command.current_dir(folder);
    command
}

/// Starts a run in a folder with these flags, and stops it after a checkpoint.
fn stopped(folder: &Path, flags: &[&str]) {
    let mut running = Running::of(at(folder, &[&["train"], &PACKAGED, &SMALL, &MANY, &JSON, flags]));
    running.until(6);
    running.signal("-TERM");
    running.end().0.with(75);
}

/// The runs below `results/stssad` of one task.
fn runs(root: &Path) -> PathBuf {
    root.join("results/stssad/texture/gravel-blob")
}

fn marked(folder: &Path, command: &str) {
    fs::create_dir_all(folder).unwrap();
    let marker = format!(r#"{{ "command": "{command}", "host": "here", "pid": 1, "since": "" }}"#);
    fs::write(folder.join("stssad.json"), marker).unwrap();
}

#[test]
fn resume_without_a_folder_takes_the_unfinished_run_that_was_resumed_last() {
    let root = folder("bare");
    let resume = || at(&root, &[&["train", "--resume"], &JSON]);
    finish(resume()).with(2).error(&["there is no run below results/stssad"]);
    stopped(&root, &[]);
    stopped(&root, &[]);
    finish(at(&root, &[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT])).with(0);
    // A diverged run cannot be resumed, and must not be found.
    let elsewhere = ["--rate", "1e30", "--out", "results/stssad/a/b/v0"];
    finish(at(&root, &[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT, &elsewhere])).with(70);
    assert!(!root.join("results/stssad/a/b/v0/checkpoint.safetensors").exists());
    fs::remove_dir_all(root.join("results/stssad/a")).unwrap();
    // The finished run's folder is the newest, and the older run's is newer than the other's.
    finish(at(&root, &[&["test", "results/stssad/texture/gravel-blob/v2"]])).with(0);
    fs::write(runs(&root).join("v0/notes.txt"), "").unwrap();

    let mut first = Running::of(resume());
    first.until(1);
    // The first process works on the newest run, so the next one takes the other run, which then is the one resumed last.
    let mut second = Running::of(resume());
    second.until(1);
    finish(resume()).with(75).error(&["v0 is in use by process"]);
    for (running, name) in [(first, "v1"), (second, "v0")] {
        running.signal("-TERM");
        running.end().0.with(75).notice(&[&format!("resume   results/stssad/texture/gravel-blob/{name}\n")]);
    }
    for name in ["v0", "v1"] {
        fs::remove_file(runs(&root).join(name).join("checkpoint.safetensors")).unwrap();
        fs::remove_file(runs(&root).join(name).join("checkpoint.previous.safetensors")).unwrap();
    }
    finish(resume()).with(2).error(&[
        "no run below results/stssad is unfinished",
        "v2 is finished",
        "v0 has no checkpoint",
    ]);
}

#[test]
fn latest_moves_with_the_first_step_and_may_be_a_text_file() {
    let root = folder("latest");
    finish(at(&root, &[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT])).with(0);
    let latest = runs(&root).join("latest");
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("v0"));
    // A deep network takes some seconds to compile.
    let mut slow = at(&root, &[&["train"], &PACKAGED, &SMALL, &MANY, &JSON, &["--encoder", "resnet18"]]);
    slow.env("MESA_SHADER_CACHE_DISABLE", "1");
    let mut running = Running::of(slow);
    running.until_said("device   ");
    while !runs(&root).join("v1/config.toml").exists() {
        std::thread::yield_now();
    }
    running.signal("-TERM");
    let (said, steps) = running.end();
    said.with(75).notice(&["stopped before the first step"]);
    assert!(steps.is_empty(), "{steps:?}");
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("v0"));
    stopped(&root, &[]);
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("v2"));

    fs::remove_file(&latest).unwrap();
    fs::write(&latest, "v0").unwrap();
    finish(at(&root, &[&["test", text(&latest)]])).with(0);
    assert!(runs(&root).join("v0/test/scores.csv").exists());
    let image = root.join("image.png");
    image::GrayImage::new(16, 16).save(&image).unwrap();
    assert_eq!(finish(at(&root, &[&["predict", text(&latest), text(&image)]])).with(0).out.lines().count(), 2);
    finish(at(&root, &[&["train", "--resume", text(&latest)]])).with(2).error(&["v0 is finished"]);
    fs::write(&latest, "v2\n").unwrap();
    let mut running = Running::of(at(&root, &[&["train", "--resume", text(&latest)], &JSON]));
    running.until(1);
    running.signal("-TERM");
    running.end().0.with(75);
}

/// A grid file, the folder of its sweep, and the folder of its first job.
fn planned(root: &Path) -> [PathBuf; 3] {
    let grid = root.join("grid.toml");
    fs::write(&grid, GRID).unwrap();
    let sweep = root.join("sweep");
    let plan = stssad(&[&["sweep", "plan", text(&grid)]]).with(0).out;
    let first: serde_json::Value = serde_json::from_str(plan.lines().next().unwrap()).unwrap();
    let job = sweep.join(first["name"].as_str().unwrap());
    [grid, sweep, job]
}

#[test]
fn an_unreadable_result_is_an_error_and_is_not_removed() {
    let root = folder("torn");
    let [grid, sweep, job] = planned(&root);
    let [run, demo] = ["run", "demo"].map(|name| root.join(name));
    marked(&run, "train");
    marked(&job, "train");
    marked(&demo, "demo");
    for torn in ["", "{ \"image_AUROC\": 0.9", "null"] {
        for folder in [&run, &job, &demo] {
            fs::write(folder.join("result.json"), torn).unwrap();
        }
        let parts = ["result.json is incomplete or damaged", "delete it to repeat the run"];
        stssad(&[&["train"], &PACKAGED, &SMALL, &FEW, &["--out", text(&run)]]).with(74).error(&parts);
        stssad(&[&["train", "--resume", text(&run)]]).with(74).error(&parts);
        stssad(&[&["demo", "--out", text(&demo)]]).with(74).error(&parts);
        let merged = stssad(&[&["sweep", "merge", text(&grid), "--out", text(&sweep)]]).with(1).out;
        assert!(parts.iter().all(|part| merged.contains(part)), "{merged}");
        stssad(&[&["sweep", "run", text(&grid), "--out", text(&sweep)]])
            .with(1)
            .error(&["1 of 8 jobs failed", parts[0]]);
        for folder in [&run, &job, &demo] {
            assert_eq!(fs::read_to_string(folder.join("result.json")).unwrap(), torn);
        }
    }
}

#[test]
fn files_that_stssad_did_not_write_are_never_overwritten() {
    let root = folder("foreign");
    let mine = "# mine\nseed = 3\n";
    let write = |name: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, mine).unwrap();
        path
    };
    let files =
        ["train/config.toml", "scored/scores.csv", "demo/report.html", "profile/trace.json", "sweep/comparison.csv"];
    let files = files.map(write);
    let [train, scored, demo, profile, sweep] = files.each_ref().map(|file| text(file.parent().unwrap()));
    let refused = |said: Said, file: &str| said.with(2).error(&[file, "stssad did not write and would overwrite"]);
    refused(
        stssad(&[&["train", "-c", text(&files[0]), "--out", train], &PACKAGED, &SMALL, &FEW, &SILENT]),
        "config.toml",
    );
    refused(stssad(&[&["demo", "--out", demo]]), "report.html");
    refused(stssad(&[&["profile", "--out", profile]]), "trace.json");
    let grid = root.join("grid.toml");
    fs::write(&grid, GRID).unwrap();
    refused(stssad(&[&["sweep", "merge", text(&grid), "--out", sweep]]), "comparison.csv");

    let run = root.join("run");
    stssad(&[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT, &["--out", text(&run)]]).with(0);
    refused(stssad(&[&["test", text(&run), "--out", scored]]), "scores.csv");
    stssad(&[&["profile", "--out", text(&run)]]).with(2).error(&["a folder of `stssad train`"]);
    // stssad writes to its own folder again.
    for _ in 0..2 {
        stssad(&[&["test", text(&run), "--out", text(&root.join("again"))]]).with(0);
    }
    for file in &files {
        assert_eq!(fs::read_to_string(file).unwrap(), mine, "{}", file.display());
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing was added");
    }
}

#[test]
fn a_configuration_in_the_folder_of_its_run_keeps_its_comments() {
    let run = folder("in-place");
    marked(&run, "train");
    let config = run.join("config.toml");
    let printed = stssad(&[&["train", "--print-config"], &PACKAGED, &SMALL, &FEW]).with(0).out;
    fs::write(&config, format!("# mine\n{printed}")).unwrap();
    stssad(&[&["train", "-c", text(&config), "--out", text(&run)], &SILENT]).with(0);
    assert_eq!(fs::read_to_string(&config).unwrap(), format!("# mine\n{printed}"));
}

/// Also in a folder that an earlier call has marked: that call failed, or was killed before it wrote a file.
#[test]
fn a_configuration_that_stssad_did_not_write_is_never_overwritten() {
    let run = folder("configured");
    let train = |flags: &[&str]| stssad(&[&["train"], &PACKAGED, &SMALL, &SILENT, &["--out", text(&run)], flags]);
    let (config, marker) = (run.join("config.toml"), run.join("stssad.json"));
    train(&["--micro-batches", "3", "--method", "st-ssad"]).with(2);
    assert!(!marker.exists(), "a call that wrote nothing leaves the folder to the user");
    // A run that diverged leaves its configuration, which the next one replaces.
    train(&[&FEW[..], &["--learning-rate", "1e30", "--seed", "1"]].concat()).with(70);
    let written = fs::read_to_string(&config).unwrap();
    assert!(marker.exists() && written.starts_with("# Written by stssad"), "{written}");
    train(&[&FEW[..], &["--learning-rate", "1e30", "--seed", "2"]].concat()).with(70);
    let written = fs::read_to_string(&config).unwrap();
    assert!(written.contains("seed = 2"), "{written}");
    for mine in [written.replace("seed = 2", "seed = 3"), "# mine\nseed = 3\n".to_owned()] {
        fs::write(&config, &mine).unwrap();
        let said = train(&FEW).with(2);
        said.error(&["contains config.toml, which stssad did not write and would overwrite"]);
        assert_eq!(fs::read_to_string(&config).unwrap(), mine);
    }
    // The advice works.
    fs::rename(&config, run.join("mine.toml")).unwrap();
    train(&FEW).with(0);
}

/// After a power cut there must be either the checkpoints or the result.
#[test]
fn the_result_is_flushed_before_the_checkpoints_are_removed() {
    let root = folder("flushed");
    let (run, trace) = (root.join("run"), root.join("trace"));
    let inner = command(&[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT, &["--out", text(&run)]]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=fsync,rename,unlink", "-o", text(&trace)]);
    strace.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null()).stderr(Stdio::null());
    if !strace.status().is_ok_and(|status| status.success()) {
        println!("left out: there is no strace, or it may not be used");
        return;
    }
    let calls = fs::read_to_string(&trace).unwrap();
    let after =
        |calls: &str, call: &str| calls.split_once(call).unwrap_or_else(|| panic!("no {call} in {calls}")).1.to_owned();
    let rest = after(&calls, &format!("{}/result.json\") = 0", run.display()));
    let (between, _) = rest.split_once("checkpoint.safetensors").expect("the checkpoint goes afterwards");
    assert!(between.contains(&format!("<{}>) = 0", run.display())), "{between}");
    // The new checkpoint is flushed before it replaces an older one.
    let rest = after(&calls, ".checkpoint.safetensors.");
    let (between, _) = rest.split_once("rename").expect("the checkpoint is renamed");
    assert!(between.contains(&format!("<{}>) = 0", run.display())), "{between}");
}

#[test]
fn the_demo_starts_over_in_its_own_folder() {
    let root = folder("demo");
    let run = root.join("run");
    stssad(&[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT, &["--out", text(&run)]]).with(0);
    let demo = root.join("demo");
    marked(&demo, "demo");
    fs::copy(run.join("result.json"), demo.join("result.json")).unwrap();
    fs::write(demo.join("notes.txt"), "mine").unwrap();
    let mut running = Running::begin(&[&["demo", "--progress", "json", "--out", text(&demo)]]);
    running.until(1);
    running.signal("-TERM");
    running.end().0.with(75);
    assert!(!demo.join("result.json").exists() && demo.join("checkpoint.safetensors").exists());
    assert_eq!(fs::read_to_string(demo.join("notes.txt")).unwrap(), "mine");
    // The demo does not start over in the folder of a run.
    stssad(&[&["demo", "--out", text(&run)]]).with(2).error(&["a folder of `stssad train`"]);
    assert!(run.join("result.json").exists());
}

#[test]
fn a_second_process_is_refused_until_the_first_has_ended() {
    let root = folder("held");
    let run = root.join("run");
    let mut first = Running::begin(&[&["train"], &PACKAGED, &SMALL, &MANY, &JSON, &["--out", text(&run)]]);
    first.until(6);
    let holder = json(&run.join("stssad.json"));
    assert_eq!(holder["pid"], first.child.id());
    let host = holder["host"].as_str().unwrap();
    let process = format!("process {} on {host}, since 20", first.child.id());
    for second in [
        &[&["train", "--resume", text(&run)][..], &JSON[..]],
        &[&["train", "--out", text(&run)][..], &[&PACKAGED, &SMALL[..], &FEW, &SILENT].concat()],
    ] {
        stssad(second).with(75).error(&["is in use by", &process]);
    }
    for scoring in [&["predict", text(&run), text(&root)][..], &["test", text(&run)]] {
        stssad(&[scoring]).with(75).error(&["the run is not finished: ", "is in use by", &process]);
    }
    // The system releases the lock, whatever ends the process.
    first.child.kill().unwrap();
    first.end();
    let saved = Checkpoint::load(&run).unwrap().unwrap().0;
    let mut second = Running::begin(&[&["train", "--resume", text(&run)], &JSON]);
    second.until(1);
    second.signal("-TERM");
    second.end().0.with(75);
    assert!(Checkpoint::load(&run).unwrap().unwrap().0.history.len() > saved.history.len());
}

/// The record tells what became of a run; a damaged newest checkpoint costs the steps since the one before it.
#[test]
fn the_record_of_a_folder_tells_how_its_run_stands() {
    let root = folder("record");
    let record = |run: &Path| json(&run.join("stssad.json"));
    let run = root.join("run");
    let mut running = Running::begin(&[&["train"], &PACKAGED, &SMALL, &MANY, &JSON, &["--out", text(&run)]]);
    running.until(12);
    assert_eq!(record(&run)["state"], "running");
    running.child.kill().unwrap();
    running.end();
    assert_eq!(record(&run)["state"], "running", "nobody could say otherwise");
    let mut running = Running::begin(&[&["train", "--resume", text(&run)], &JSON]);
    running.until(1);
    running.signal("-TERM");
    running.end().0.with(75).notice(&["stopping as soon as nothing is lost"]);
    assert_eq!([&record(&run)["state"], &record(&run)["reason"]], ["stopped", "a stop was requested"]);
    // A refused call changes nothing.
    let stopped = record(&run);
    stssad(&[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT, &["--out", text(&run)]]).with(2);
    assert_eq!(record(&run), stopped);

    let failed = root.join("failed");
    let diverges = ["--learning-rate", "1e30", "--out", text(&failed)];
    stssad(&[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT, &diverges]).with(70);
    assert_eq!(record(&failed)["state"], "failed");
    assert!(record(&failed)["reason"].as_str().unwrap().contains("diverged"), "{}", record(&failed));

    let finished = root.join("finished");
    stssad(&[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT, &["--out", text(&finished)]]).with(0);
    assert_eq!(record(&finished)["state"], "finished");
}

#[test]
fn a_run_without_a_checkpoint_can_be_started_again() {
    let run = folder("nothing").join("run");
    let mut running = Running::begin(&[
        &["train"],
        &PACKAGED,
        &SMALL,
        &["--steps", "1000000", "--checkpoint-every", "1000000"],
        &JSON,
        &["--out", text(&run)],
    ]);
    running.until(1);
    running.child.kill().unwrap();
    running.end();
    let said = stssad(&[&["train", "--resume", text(&run)]]).with(2);
    said.error(&[&format!(
        "has no checkpoint, so there is nothing to resume: start the run again, with --out {}",
        run.display()
    )]);
    stssad(&[&["train"], &PACKAGED, &SMALL, &FEW, &SILENT, &["--out", text(&run)]]).with(0);
    assert!(run.join("result.json").exists());
    stssad(&[&["train", "--resume", text(&run.join("typo"))]]).with(2).error(&["there is no folder"]);
}

#[test]
fn a_hang_up_stops_a_run_with_a_checkpoint_except_under_nohup() {
    // Under nohup, as in some batch systems, child processes ignore the signal too.
    let survives = Command::new("sh").args(["-c", "kill -HUP $$"]).status().is_ok_and(|status| status.success());
    if survives {
        println!("left out: these tests run under nohup");
        return;
    }
    let run = folder("hang-up").join("run");
    let mut running = Running::begin(&[&["train"], &PACKAGED, &SMALL, &MANY, &JSON, &["--out", text(&run)]]);
    running.until(1);
    running.signal("-HUP");
    running.end().0.with(75).notice(&["stopped after ", "; resume with: stssad train --resume"]);
    assert!(run.join("checkpoint.safetensors").exists());

    let mut shell = shell("trap '' HUP; exec \"$@\"", &[&["train", "--resume", text(&run)], &JSON]);
    shell.current_dir(run.parent().unwrap());
    let mut running = Running::of(shell);
    running.until(1);
    running.signal("-HUP");
    let before = running.steps.len();
    running.until(before + 50);
    assert_eq!(running.steps.len(), before + 50, "the run went on");
    running.signal("-TERM");
    running.end().0.with(75);
}

/// A shell that runs this script, with the binary and these arguments as `"$@"`.
fn shell(script: &str, parts: &[&[&str]]) -> Command {
    let inner = command(parts);
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
    shell
}

#[test]
fn a_stop_or_a_failure_during_the_report_costs_nothing() {
    let root = folder("reporting");
    let run = root.join("run");
    let mut running =
        Running::begin(&[&["train"], &PACKAGED, &SMALL, &FEW, &["--progress", "plain", "--out", text(&run)]]);
    running.until_said("report   curves");
    running.signal("-TERM");
    running.end().0.with(75).notice(&["the result stands", "draw it with: stssad train --resume"]);
    let result = fs::read(run.join("result.json")).unwrap();
    assert!(run.join("checkpoint.safetensors").exists() && !run.join("report.html").exists());
    assert!(run.join("model.safetensors").exists() && run.join("scores.csv").exists());

    // A folder in the place of a figure, as a disk that fails there.
    fs::remove_file(run.join("histogram.png")).ok();
    fs::create_dir_all(run.join("histogram.png/in the way")).unwrap();
    let resume = || stssad(&[&["train", "--resume", text(&run), "--progress", "none"]]);
    resume().with(0).notice(&["the report is incomplete: cannot write", "histogram.png", "image_AUROC"]);
    assert_eq!(json(&run.join("stssad.json"))["state"], "finished");
    // As if the images had changed: the report cannot be drawn, but nothing else is lost.
    let (mut checkpoint, _) = Checkpoint::load(&run).unwrap().unwrap();
    let own = std::mem::replace(&mut checkpoint.fingerprint, "of other images".into());
    checkpoint.save(&run).unwrap();
    resume().with(0).notice(&["the report is incomplete: it shows images that have changed since", "image_AUROC"]);
    checkpoint.fingerprint = own;
    checkpoint.save(&run).unwrap();
    fs::remove_dir_all(run.join("histogram.png")).unwrap();
    resume().with(0);
    assert!(run.join("report.html").exists() && !run.join("checkpoint.safetensors").exists());
    assert_eq!(fs::read(run.join("result.json")).unwrap(), result, "the result is not written again");
    resume().with(2).error(&["is finished: there is nothing to resume"]);
}

/// Where the first group of a run stands.
fn first_group(run: &Path) -> Standing {
    Checkpoint::load(run).unwrap().unwrap().0.groups.remove(&0).unwrap()
}

#[test]
fn the_time_of_a_run_may_be_limited() {
    let run = folder("limited").join("run");
    let limited =
        |time: &str| stssad(&[&["train"], &PACKAGED, &SMALL, &MANY, &JSON, &["--out", text(&run), "--max-time", time]]);
    limited("1").with(2).error(&["--max-time", "such as 90s, 45m or 1h30m"]);
    limited("1ms").with(75).notice(&["the time is over: stopped before the first step; run the same command again"]);
    limited("15s").with(75).notice(&["the time is over: stopping", "stopped after ", "; resume with"]);
    let step = || first_group(&run).snapshot.step;
    let first = step();
    stssad(&[&["train", "--resume", text(&run), "--max-time", "15s"], &JSON]).with(75);
    assert!(first > 0 && step() > first, "{first} and {}", step());
}

/// What stands on a terminal of this width after this output, line by line, without the spaces at the ends.
fn screen(output: &str, columns: usize) -> Vec<String> {
    let (mut rows, mut row, mut column) = (vec![Vec::new()], 0, 0);
    let mut letters = output.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => column = 0,
            '\n' => row += 1,
            '\u{1b}' => {
                // `[`, a number, and what to do.
                let code: Vec<char> = letters.by_ref().skip(1).take(2).collect();
                let count = code[0].to_digit(10).unwrap() as usize;
                match code[1] {
                    'K' => rows[row].clear(),
                    'A' => row -= count,
                    'B' => row += count,
                    other => panic!("another code: {other:?}"),
                }
            }
            letter => {
                if column == columns {
                    (row, column) = (row + 1, 0);
                }
                rows.resize_with(rows.len().max(row + 1), Vec::new);
                let line: &mut Vec<char> = &mut rows[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = letter;
                column += 1;
            }
        }
        rows.resize_with(rows.len().max(row + 1), Vec::new);
    }
    rows.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn a_bar_on_a_narrow_terminal_erases_no_message() {
    const COLUMNS: usize = 60;
    let run = folder("narrow").join("run");
    let flags = ["--max-time", "15s", "--no-report", "--out", text(&run)];
    let inner = command(&[&["train"], &PACKAGED, &SMALL, &MANY, &flags]);
    let words: Vec<&str> =
        std::iter::once(inner.get_program()).chain(inner.get_args()).map(|word| word.to_str().unwrap()).collect();
    let mut script = Command::new("script");
    let line = format!("stty cols {COLUMNS} rows 24; exec {}", words.join(" "));
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
    let Ok(output) = script.output() else {
        println!("left out: there is no `script` to make a terminal");
        return;
    };
    assert_eq!(output.status.code(), Some(75));
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains("/1000000 steps"), "there was no bar");
    let shown = screen(&output, COLUMNS);
    let rest = shown.join("\n");
    let [stopping, stopped] = ["the time is over: stopping as soon as nothing is lost", "stopped after "];
    let is_shown = |part: &str| shown.iter().any(|line| line.starts_with(part));
    // A run that stops at once may end before it is said that it will.
    let is_whole = is_shown(stopping) || !output.contains("stopping");
    assert!(is_whole && is_shown(stopped) && !rest.contains(" steps  "), "{rest}");
}

/// Whether alone or beside another, a start that diverges is trained again from its last good step, and resumed to the same bits.
#[test]
fn a_start_that_diverges_goes_back_to_its_last_good_step() {
    const PAIR: [&str; 6] = ["--encoder", "small", "--starts", "2", "--together", "2"];
    for (name, kind, starts, steps) in [("alone", &SMALL[..], 1, 150), ("beside", &PAIR[..], 2, 60)] {
        let root = folder(name);
        let [sound, whole, parts] = ["sound", "whole", "parts"].map(|name| root.join(name));
        let count = steps.to_string();
        let flags = ["--steps", &count, "--warm-up", "1", "--checkpoint-every", "5", "--out", text(&sound)];
        let mut running = Running::begin(&[&["train"], &PACKAGED, kind, &flags, &JSON]);
        running.until(8 * starts);
        running.signal("-TERM");
        running.end().0.with(75);
        for copy in [&whole, &parts] {
            fs::create_dir(copy).unwrap();
            for entry in fs::read_dir(&sound).unwrap().map(|entry| entry.unwrap()) {
                fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
            let mut checkpoint = Checkpoint::load(copy).unwrap().unwrap().0;
            let standing = checkpoint.groups.get_mut(&0).unwrap();
            standing.good.get_or_insert(standing.snapshot.clone());
            let is_parameter = |name: &str| name.contains('.') && !name.ends_with(".m") && !name.ends_with(".v");
            let states = standing.snapshot.states.iter_mut();
            for (_, tensor) in states.filter(|(name, _)| is_parameter(name)) {
                let mut values = tensor.data().to_vec();
                // Of the last start; a checkpoint has no NaN.
                *values.last_mut().unwrap() = f32::MAX;
                *tensor = Tensor::new(tensor.shape().clone(), values);
            }
            checkpoint.save(copy).unwrap();
        }
        let good = first_group(&whole).good.unwrap().step;
        let resume = |run: &Path| stssad(&[&["train", "--resume", text(run)], &JSON]).with(0);
        let said = resume(&whole);
        let again = format!("\"again_from\":{good},\"halvings\":1,");
        assert!(said.err.contains(&again) && !said.err.contains("\"halvings\":2"), "{}", said.err);

        // Stopped while the others go on, and while it is trained again.
        for lines in [20, (starts - 1) * steps + 10] {
            let mut running = Running::begin(&[&["train", "--resume", text(&parts)], &JSON]);
            running.until(lines);
            running.signal("-TERM");
            running.end().0.with(75);
        }
        resume(&parts);
        let bytes = |run: &Path, file: &str| fs::read(run.join(file)).unwrap();
        assert_eq!(bytes(&whole, "metrics.csv"), bytes(&parts, "metrics.csv"));
        assert!(bytes(&whole, "model.safetensors") == bytes(&parts, "model.safetensors"), "{name}: another model");

        let table = String::from_utf8(bytes(&whole, "metrics.csv")).unwrap();
        assert_eq!(table.lines().count(), 1 + starts * steps, "each step once");
        resume(&sound);
        let results = [&sound, &whole].map(|run| json(&run.join("result.json"))["starts"].clone());
        assert!(results[1][starts - 1].get("failed").is_none(), "{}", results[1]);
        assert_ne!(bytes(&sound, "metrics.csv"), bytes(&whole, "metrics.csv"), "at half the rate");
        if starts == 2 {
            assert_eq!(results[0][0]["end"], results[1][0]["end"], "the other start is as it was");
        }
    }
    let run = folder("diverging").join("run");
    let said = stssad(&[&["train"], &PACKAGED, &SMALL, &FEW, &JSON, &["--rate", "1e30", "--out", text(&run)]]).with(70);
    assert_eq!(said.err.matches("again_from").count(), 3, "{}", said.err);
}

#[test]
fn a_dev_run_tries_everything_and_keeps_nothing() {
    let root = folder("dev");
    let dev = |flags: &[&str]| finish(at(&root, &[&["train", "--fast-dev-run"], &PACKAGED, flags]));
    dev(&["--progress", "plain"]).with(0).notice(&[
        "dev run  two steps of one start of each augmentation; nothing of it is kept",
        "start 1/1  step 2/2",
        "report   curves",
        "image_AUROC",
        "dev run  everything works",
    ]);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    dev(&["--out", "run"]).with(2).error(&["--fast-dev-run", "--out"]);
}

/// A signal is heard while images are read, which would take a minute here.
#[test]
fn a_stop_while_images_are_read_ends_the_run_at_once() {
    let root = folder("reading");
    let noise = |x: u32, y: u32| (x * 37 + y * 91 + x * y % 7 * 29) as u8;
    fs::create_dir_all(root.join("good")).unwrap();
    fs::create_dir_all(root.join("un")).unwrap();
    let first = root.join("good/0.png");
    image::RgbImage::from_fn(2000, 2000, |x, y| image::Rgb([noise(x, y), noise(y, x), noise(x + y, 3)]))
        .save(&first)
        .unwrap();
    for index in 1..400 {
        fs::hard_link(&first, root.join(format!("{}/{index}.png", ["good", "un"][index % 2]))).unwrap();
    }
    let folders = ["--data", "folder", "--root", ".", "--normal-dir", "good", "--unlabelled-dir", "un"];
    for signal in ["-INT", "-TERM", "-USR1"] {
        let mut running = Running::of(at(&root, &[&["train"], &folders, &["--out", "run"]]));
        running.until_said("device   ");
        std::thread::sleep(Duration::from_millis(200));
        running.signal(signal);
        let (said, _) = running.end();
        assert!(!said.err.contains("every image becomes"), "it went on: {}", said.err);
        said.with(75).notice(&["stopped before the first step; run the same command again"]);
    }
    assert!(!root.join("run").exists());
}

#[test]
fn curves_grow_while_a_run_trains_and_are_whole_after_a_kill() {
    let run = folder("live").join("run");
    let flags = ["--steps", "1000000", "--warm-up", "1", "--checkpoint-every", "1000", "--progress", "json"];
    let mut running = Running::begin(&[&["train"], &PACKAGED, &SMALL, &flags, &["--out", text(&run)]]);
    let rows = || -> Vec<(usize, usize)> {
        let table = fs::read_to_string(run.join("metrics.csv")).unwrap();
        let cells = |row: &str| row.split(',').take(2).map(|cell| cell.parse().unwrap()).collect::<Vec<usize>>();
        assert!(table.starts_with("start,step,inner,outer"), "{table}");
        // The last row may be read while it is written.
        let table = &table[..=table.rfind('\n').unwrap()];
        table.lines().skip(1).map(cells).map(|cells| (cells[0], cells[1])).collect()
    };
    let events = || fs::metadata(run.join("events.out.tfevents.0.stssad")).unwrap().len();
    let mut grown = Vec::new();
    while grown.len() < 3 {
        running.until(running.steps.len() + 1);
        let now = (rows().len(), events());
        if now.0 > 0 && grown.last().is_none_or(|last: &(usize, u64)| now.0 > last.0 && now.1 > last.1) {
            grown.push(now);
        }
    }
    running.signal("-KILL");
    running.end();
    let step = || Checkpoint::load(&run).unwrap().map_or(0, |found| found.0.groups[&0].snapshot.step);
    let all = |step: usize| (1..=step).map(|step| (0, step)).collect::<Vec<_>>();
    assert_eq!(rows(), all(rows().len()), "the steps that were done, each once");
    // If it was killed before its first checkpoint it is begun again.
    let resumed = match step() {
        0 => Running::begin(&[&["train"], &PACKAGED, &SMALL, &flags, &["--out", text(&run)]]),
        _ => Running::begin(&[&["train", "--resume", text(&run), "--progress", "json"]]),
    };
    let mut running = resumed;
    running.until(20);
    running.signal("-TERM");
    running.end().0.with(75);
    assert_eq!(rows(), all(step()), "the steps of the checkpoint, each once");
}

/// Limits the files of a process to 4 KiB, as on a full disk; `false` if that is not possible.
fn fill_up(running: &Running) -> bool {
    let process = running.child.id().to_string();
    let limited = Command::new("prlimit").args(["--fsize=4096:4096", "--pid", &process]).status();
    let is_limited = limited.is_ok_and(|status| status.success());
    if !is_limited {
        println!("left out: there is no prlimit, or it may not be used");
    }
    is_limited
}

#[test]
fn a_full_disk_exits_with_74_and_keeps_the_checkpoint() {
    let root = folder("full");
    let run = root.join("run");
    stopped(&root, &["--out", "run"]);
    let mut running = Running::begin(&[&["train", "--resume", text(&run)], &JSON]);
    running.until(1);
    if !fill_up(&running) {
        return;
    }
    running.end().0.with(74).error(&["cannot write", "checkpoint.safetensors", "the disk is not full"]);
    let names: Vec<String> = fs::read_dir(&run).unwrap().map(|it| text(&it.unwrap().path()).to_owned()).collect();
    assert!(names.iter().all(|name| !name.ends_with(".partial")), "{names:?}");
    // The checkpoint is whole, and the run can be resumed.
    let mut running = Running::begin(&[&["train", "--resume", text(&run)], &JSON]);
    running.until(1);
    running.signal("-TERM");
    running.end().0.with(75);

    // A full disk ends the whole sweep.
    let grid = root.join("grid.toml");
    fs::write(&grid, GRID.replace("steps = 2\n", "steps = 1000000\n")).unwrap();
    let sweep = root.join("sweep");
    let mut running = Running::begin(&[&["sweep", "run", text(&grid), "--out", text(&sweep), "--progress", "json"]]);
    running.until(1);
    assert!(fill_up(&running));
    running.end().0.with(74).error(&["a/one/seed0", "cannot write"]);
    assert_eq!(fs::read_dir(&sweep).unwrap().count(), 1, "no other task was begun");
}

const GRID: &str = "
seeds = [0, 1]
reference = 'one'
[common]
method = 'auto-encoder'
[common.data]
kind = 'texture'
texture = 'gravel'
defect = 'blob'
[common.images]
size = 16
max_train = 8
max_normals = 4
max_anomalies = 4
[common.training]
steps = 2
warm_up = 1
starts = 1
batch = 4
batch_val = 4
[[task]]
name = 'a'
[[task]]
name = 'b'
[[method]]
name = 'one'
[[method]]
name = 'other'
config.augmentation = 'cutout'
";

/// The numbers of the finished jobs of a sweep.
fn done(grid: &Path, sweep: &Path) -> BTreeSet<usize> {
    let plan = stssad(&[&["sweep", "plan", text(grid)]]).with(0).out;
    let name =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["name"].as_str().unwrap().to_owned();
    let is_done = |(_, line): &(usize, &str)| sweep.join(name(line)).join("result.json").exists();
    plan.lines().enumerate().filter(is_done).map(|(number, _)| number).collect()
}

#[test]
fn simultaneous_sweeps_run_each_job_once() {
    let root = folder("at-once");
    let grid = root.join("grid.toml");
    fs::write(&grid, GRID).unwrap();
    let sweep = root.join("sweep");
    let begin = |_| {
        let parts: &[&[&str]] = &[&["sweep", "run", text(&grid), "--out", text(&sweep)]];
        Running::of(command(parts))
    };
    let running: Vec<Running> = (0..8).map(begin).collect();
    let mut times = BTreeMap::new();
    for running in running {
        let said = running.end().0.with(0);
        for line in said.err.lines().filter(|line| line.contains("  AUROC ")) {
            *times.entry(line.rsplit("  ").next().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!((times.len(), times.values().max()), (8, Some(&1)), "{times:?}");
    assert_eq!(done(&grid, &sweep), (0..8).collect());
}

#[test]
fn a_job_of_another_process_is_skipped() {
    let root = folder("elsewhere");
    let [grid, sweep, job] = planned(&root);
    let holder = stssad::run::folder::RunFolder::create(&job).unwrap();
    let run = || stssad(&[&["sweep", "run", text(&grid), "--out", text(&sweep)]]).with(0);
    run().notice(&["1 of 8 jobs are left to other processes", "7 of the grid's 8 jobs are finished"]);
    drop(holder);
    run().notice(&["8 of the grid's 8 jobs are finished"]);
    // As if the images had changed before this job.
    let file = job.join("result.json");
    let mut result: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let merge = || stssad(&[&["sweep", "merge", text(&grid), "--out", text(&sweep)]]);
    assert!(!merge().with(0).err.contains("images changed"));
    let print = std::mem::replace(&mut result["fingerprint"], "f00d".into());
    let written = |result: &serde_json::Value| fs::write(&file, result.to_string()).unwrap();
    written(&result);
    let said = merge().with(1);
    said.notice(&["warning  images changed between these runs", "\n  images f00d, as they are no longer: "]);
    assert!(said.out.contains("since images changed between them: ") && said.out.contains("f00d"), "{}", said.out);
    // As if it were another job's, or damaged: the others are merged all the same.
    result["fingerprint"] = print;
    for (key, value, reason) in
        [("seed", 7.into(), "has the result of another job"), ("image_AUROC", 2.0.into(), "is incomplete or damaged")]
    {
        let own = std::mem::replace(&mut result[key], value);
        written(&result);
        let said = merge().with(1);
        assert!(said.out.contains("Missing runs: 1\n") && said.out.contains(reason), "{}", said.out);
        result[key] = own;
    }
    let said = stssad(&[&["sweep", "run", text(&grid), "--out", text(&grid)]]).with(2);
    said.error(&["grid.toml is a file: give the path of a folder"]);
    assert!(!said.err.contains("failed"), "no job was tried: {}", said.err);
}

/// Seeds put the same images into other sets.
#[test]
fn images_that_changed_between_seeds_are_noticed() {
    let root = folder("seeds");
    for (kind, count) in [("good", 16), ("bad", 4), ("masks", 4)] {
        fs::create_dir(root.join(kind)).unwrap();
        for index in 0..count {
            let level = |x: u32, y: u32| {
                if kind == "masks" { 255 * u8::from(x < 4) } else { (x * 37 + y * 91 + index * 53) as u8 }
            };
            let image = image::GrayImage::from_fn(16, 16, |x, y| image::Luma([level(x, y)]));
            image.save(root.join(kind).join(format!("{index}.png"))).unwrap();
        }
    }
    let grid = root.join("grid.toml");
    let data =
        "config.data = { kind = 'folder', root = '.', normal_dir = 'good', abnormal_dir = 'bad', mask_dir = 'masks' }";
    let of_seeds = |seeds: &str| {
        let grid = GRID
            .replace("[common.data]\nkind = 'texture'\ntexture = 'gravel'\ndefect = 'blob'\n", "")
            .replace("max_train = 8\nmax_normals = 4\nmax_anomalies = 4\n", "")
            .replace("[[task]]\nname = 'a'\n[[task]]\nname = 'b'", &format!("[[task]]\nname = 'a'\n{data}"));
        grid.replace("seeds = [0, 1]", seeds)
    };
    let sweep = |action: &str| finish(at(&root, &[&["sweep", action, "grid.toml", "--out", "sweep"]]));
    fs::write(&grid, of_seeds("seeds = [0, 1]")).unwrap();
    sweep("run").with(0);
    sweep("merge").with(0);
    fs::copy(root.join("good/1.png"), root.join("good/0.png")).unwrap();
    fs::write(&grid, of_seeds("seeds = [0, 1, 2]")).unwrap();
    sweep("run").with(0);
    let said = sweep("merge").with(1);
    said.notice(&["warning  images changed between these runs", ", as they are no longer: sweep/a/one/seed0-"]);
    let now = said.err.lines().find(|line| line.contains(", as they are now: ")).unwrap();
    assert!(now.matches("sweep/a/").count() == 2 && now.matches("/seed2-").count() == 2, "{now}");
    // The advice works.
    let old = said.err.lines().find(|line| line.contains(", as they are no longer: ")).unwrap();
    for folder in old.split_once("longer: ").unwrap().1.split(' ') {
        fs::remove_dir_all(root.join(folder)).unwrap();
    }
    sweep("run").with(0);
    sweep("merge").with(0);
}

#[test]
fn a_failed_job_does_not_end_the_others() {
    let root = folder("failing");
    let grid = root.join("grid.toml");
    let task = "name = 'a'\nconfig.data = { kind = 'folder', root = 'nowhere', normal_dir = ['good'], unlabelled_dir = ['un'] }";
    let nowhere = GRID
        .replace("name = 'a'", task)
        .replace("[common.data]\nkind = 'texture'\ntexture = 'gravel'\ndefect = 'blob'\n", "");
    let nowhere = nowhere
        .replace("name = 'b'", "name = 'b'\nconfig.data = { kind = 'texture', texture = 'gravel', defect = 'blob' }");
    fs::write(&grid, nowhere).unwrap();
    let sweep = root.join("sweep");
    let run = || stssad(&[&["sweep", "run", text(&grid), "--out", text(&sweep)]]);
    let said = run().with(1);
    said.error(&["4 of 8 jobs failed; --retry-failed tries them again:\n  a/one/seed0", "nowhere"]);
    assert_eq!(done(&grid, &sweep), (4..8).collect());
    run().with(1).error(&["4 of 8 jobs failed", "nowhere", "--retry-failed"]);
    let merged = stssad(&[&["sweep", "merge", text(&grid), "--out", text(&sweep)]]).with(1);
    assert!(
        merged.out.contains("* a, one, seed 0, failed: ") && sweep.join("comparison.png").exists(),
        "{}",
        merged.out
    );
    assert!(
        run().err.contains("\n  a/one/seed0") && run().err.contains(": failed in an earlier run: there is no folder")
    );
    let again = stssad(&[&["sweep", "run", text(&grid), "--out", text(&sweep), "--retry-failed"]]).with(1);
    assert!(again.err.contains("   1/8  failed  a/one/seed0"), "{}", again.err);
}

#[test]
fn resubmitted_array_tasks_run_only_their_own_jobs() {
    let root = folder("array");
    let grid = root.join("grid.toml");
    fs::write(&grid, GRID).unwrap();
    let sweep = root.join("sweep");
    let task = |flags: &[&str], variables: &[(&str, &str)]| {
        let mut run = command(&[&["sweep", "run", text(&grid), "--out", text(&sweep)], flags]);
        run.envs(variables.iter().copied());
        finish(run).with(0)
    };
    // sbatch --array=3,7
    let slurm = |id: &'static str| {
        [("SLURM_ARRAY_TASK_ID", id), ("SLURM_ARRAY_TASK_MIN", "3"), ("SLURM_ARRAY_TASK_COUNT", "2")]
    };
    task(&[], &slurm("7"));
    assert_eq!(done(&grid, &sweep), [7].into());
    task(&[], &slurm("3"));
    task(&[], &slurm("3"));
    assert_eq!(done(&grid, &sweep), [3, 7].into());
    let said = task(&["--tasks", "4"], &[("LSB_JOBINDEX", "2")]);
    said.notice(&["sweep    2 of 8 jobs (share 2 of 4)"]);
    let after = done(&grid, &sweep);
    task(&["--tasks", "4"], &[("LSB_JOBINDEX", "2")]);
    task(&["--shard", "2/4"], &[]);
    assert_eq!(done(&grid, &sweep), after);
    let undefined = [("SGE_TASK_ID", "undefined"), ("LSB_JOBINDEX", "0")];
    task(&[], &undefined).notice(&["sweep    8 of 8 jobs (all)"]);
    assert_eq!(done(&grid, &sweep).len(), 8);
}

#[test]
fn a_script_of_a_sweep_has_the_number_of_its_workers() {
    let root = folder("scripts");
    let [grid, sweep, _] = planned(&root);
    let script = |engine: &str, flags: &[&str]| {
        let sweep = ["sweep", "script", text(&grid), "--out", text(&sweep), "--engine", engine];
        stssad(&[&sweep, flags])
    };
    for engine in ["slurm", "hyperqueue", "parallel", "k8s"] {
        assert!(script(engine, &[]).with(0).out.contains("/8"), "{engine}");
        let three = script(engine, &["--chunks", "3", "--flags", "--reports"]).with(0).out;
        assert!(three.contains("/3") && three.contains(" --reports") && !three.contains("/8"), "{three}");
    }
    assert_eq!(script("snakemake", &[]).with(0).out.matches("/one/seed").count(), 4);
    script("snakemake", &["--chunks", "3"]).with(2).error(&["--chunks: Snakemake knows each job"]);
    script("slurm", &["--flags", "--nonsense"]).with(2).error(&["--flags: unexpected argument '--nonsense' found"]);
    script("slurm", &["--flags", "--shard=0/2"])
        .with(2)
        .error(&["--flags: the script gives each worker its own --shard"]);
    for (engine, is_taken) in
        [("slurm", true), ("k8s", false), ("hyperqueue", false), ("parallel", false), ("snakemake", false)]
    {
        let said = script(engine, &["--flags", "--max-time=1h"]);
        match is_taken {
            true => drop(said.with(0)),
            false => said.with(2).error(&["--flags: --max-time", "begins a worker again that was stopped"]),
        }
    }
    script("slurm", &["--chunks", "0"]).with(2).error(&["--chunks", "it must be a whole number of at least 1"]);
    script("slurm", &["--chunks", "9"]).with(2).error(&["--chunks 9: the grid has only 8 jobs"]);
    let submit = ["sweep", "submit", text(&grid), "--out", text(&sweep), "--engine", "k8s"];
    stssad(&[&submit]).with(2).error(&["cannot submit to k8s: `sweep script` prints a file for it"]);
    let mut without = command(&[&["sweep", "submit", text(&grid), "--out", text(&sweep), "--engine", "slurm"]]);
    without.env("PATH", "");
    finish(without).with(2).error(&["there is no command `sbatch` here", "`sweep script`"]);
    let named =
        |engine: &str, name: &str| stssad(&[&["sweep", "script", text(&grid), "--out", name, "--engine", engine]]);
    named("k8s", "a{b}%c").with(0);
    for (engine, name) in
        [("k8s", "a\nb"), ("slurm", "a%ab"), ("hyperqueue", "a%{b}"), ("parallel", "a{}b"), ("snakemake", "a{b}")]
    {
        named(engine, name).with(2).error(&["which a script for", "cannot name: rename it"]);
    }
}

#[test]
fn a_signal_to_submit_stops_the_workers_of_parallel() {
    if !Command::new("parallel").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("left out: there is no GNU parallel");
        return;
    }
    let root = folder("parallel");
    let [grid, sweep, _] = planned(&root);
    fs::write(&grid, GRID.replace("steps = 2", "steps = 1000000")).unwrap();
    let submit = ["sweep", "submit", text(&grid), "--out", text(&sweep), "--engine", "parallel"];
    let flags = ["--flags", "--progress json", "--", "--jobs", "2", "--ungroup"];
    let mut running = Running::begin(&[&submit, &flags]);
    running.until(50);
    running.signal("-TERM");
    // A worker that went on would hold standard error open.
    let said = running.end().0.with(75);
    assert_eq!(said.err.matches("stopped at ").count(), 2, "{}", said.err);
}

#[test]
fn a_job_is_chosen_by_its_name() {
    let root = folder("named");
    let [grid, sweep, job] = planned(&root);
    let name = text(job.strip_prefix(&sweep).unwrap());
    let run = |name: &str| stssad(&[&["sweep", "run", text(&grid), "--out", text(&sweep), "--job", name]]);
    run("a/one/seed7-0123").with(2).error(&["--job: the grid has no job `a/one/seed7-0123`", "`sweep plan`"]);
    let holder = stssad::run::folder::RunFolder::create(&job).unwrap();
    run(name).with(75).notice(&["1 of 1 jobs are left to other processes"]);
    drop(holder);
    run(name).with(0);
    assert_eq!(done(&grid, &sweep), [0].into());
}

#[test]
fn a_run_resumes_only_with_its_own_configuration() {
    let root = folder("own");
    for (name, seed) in [("run", "0"), ("other", "1")] {
        stopped(&root, &["--out", name, "--seed", seed]);
    }
    let [run, other] = ["run", "other"].map(|name| root.join(name));
    let resume = || stssad(&[&["train", "--resume", text(&run)], &SILENT]);
    let refused = || resume().with(2).error(&["config.toml and the checkpoint in", "are of different configurations"]);
    let own = Checkpoint::load(&run).unwrap().unwrap().0;
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    Checkpoint::load(&other).unwrap().unwrap().0.save(&run).unwrap();
    refused();
    own.save(&run).unwrap();
    for edited in [config.replace("seed = 0", "seed = 3"), String::new()] {
        assert_ne!(edited, config);
        fs::write(run.join("config.toml"), edited).unwrap();
        refused();
    }
    // The advice works.
    fs::rename(run.join("config.toml"), root.join("mine.toml")).unwrap();
    let mut resumed = Running::begin(&[&["train", "--resume", text(&run)], &JSON]);
    resumed.until(1);
    resumed.signal("-TERM");
    resumed.end().0.with(75);
    assert_eq!(fs::read_to_string(run.join("config.toml")).unwrap(), config);
}

#[test]
fn a_run_that_goes_on_by_another_device_is_told() {
    let root = folder("moved");
    let out = root.join("run");
    stopped(&root, &["--out", "run"]);
    let resume = || Running::begin(&[&["train", "--resume", text(&out)], &JSON]);
    let mut unmoved = resume();
    unmoved.until(1);
    unmoved.signal("-TERM");
    assert!(!unmoved.end().0.with(75).err.contains("\"moved\""));
    let (checkpoint, _) = Checkpoint::load(&out).unwrap().unwrap();
    let origin = format!("{} with another driver", checkpoint.origin);
    Checkpoint { origin: origin.clone(), ..checkpoint }.save(&out).unwrap();
    let mut moved = resume();
    moved.until_said("\"warning\":\"moved\"");
    moved.until(1);
    moved.signal("-TERM");
    assert!(moved.end().0.with(75).err.contains(&origin));
}

#[test]
fn a_dry_run_reads_each_task_and_trains_nothing() {
    let root = folder("dry");
    let [grid, sweep, _] = planned(&root);
    let run = ["sweep", "run", text(&grid), "--out", text(&sweep), "--dry-run"];
    let said = stssad(&[&run]).with(0);
    assert!(said.out.lines().all(|line| line.contains(" images to train on, ")), "{}", said.out);
    said.notice(&["tasks can be read; nothing was trained"]);
    const LOST: &str = "
        seeds = [0]
        reference = 'one'
        [[task]]
        name = 'lost'
        config.data = { kind = 'folder', root = 'nowhere', normal_dir = 'good', abnormal_dir = ['bad'] }
        [[task]]
        name = 'found'
        config.data = { kind = 'texture', texture = 'gravel', defect = 'blob' }
        [[method]]
        name = 'one'";
    fs::write(&grid, LOST).unwrap();
    let said = stssad(&[&run]).with(3);
    let [lost, found] = said.out.lines().collect::<Vec<_>>()[..] else { panic!("{}", said.out) };
    assert!(lost.starts_with("lost: there is no folder"), "{lost}");
    assert_eq!(found, "found: 270 images to train on, 30 held out, 200 to tune on, 200 to test");
    said.notice(&["1 of 2 tasks can be read; nothing was trained"]);
    assert!(!sweep.join("found").exists());
}

#[test]
fn folders_of_runs_are_no_runs() {
    let root = folder("of-runs");
    let [grid, sweep, job] = planned(&root);
    let run = |flags: &[&str]| stssad(&[&["sweep", "run", text(&grid), "--out", text(&sweep)], flags]);
    run(&["--index", "0"]).with(0);
    let train = |flags: &[&str]| stssad(&[&["train"], flags, &SILENT]).with(2);
    let is_left = train(&["--resume", text(&sweep)]);
    is_left.error(&["is a folder of runs, none of which has a checkpoint, so there is nothing to resume"]);
    let into = [&PACKAGED[..], &SMALL, &FEW, &["--out", text(&sweep)]].concat();
    train(&into).error(&["is a folder of runs, such as", text(&job), "choose another --out"]);
    stopped(&root, &["--out", text(&sweep.join("a/one/stopped"))]);
    train(&["--resume", text(&sweep)]).error(&["is a folder of runs: resume one of them, such as", "a/one/stopped"]);
    let inside = stssad(&[&["sweep", "run", text(&grid), "--out", text(&job)]]).with(2);
    inside.error(&["is a folder of `stssad train`: choose another folder"]);
}

#[test]
fn a_job_that_does_not_fit_the_device_is_tried_again_and_its_reason_is_kept() {
    let devices: serde_json::Value = serde_json::from_str(&stssad(&[&["devices", "--json"]]).with(0).out).unwrap();
    if !devices[0]["tiles"].as_array().unwrap().is_empty() {
        println!("left out: this device can compute in f16");
        return;
    }
    let root = folder("unfit");
    let [grid, sweep, _] = planned(&root);
    fs::write(&grid, GRID.replace("steps = 2", "steps = 2\nprecision = 'f16'")).unwrap();
    let job = ["sweep", "run", text(&grid), "--out", text(&sweep), "--index", "0"];
    for _ in 0..2 {
        let said = stssad(&[&job]).with(1);
        said.error(&["precision f16 needs", "every run tries it again, as another device may fit it"]);
        assert!(!said.err.contains("in an earlier run"), "{}", said.err);
    }
    let merged = stssad(&[&["sweep", "merge", text(&grid), "--out", text(&sweep)]]).with(1).out;
    let is_told = |line: &str| line.contains("seed 0, failed: ") && line.contains("precision f16 needs");
    assert!(merged.lines().any(is_told), "{merged}");
}

#[test]
fn a_sweep_without_its_adapter_begins_nothing() {
    let root = folder("no-adapter");
    let [grid, sweep, _] = planned(&root);
    for flags in [["--adapter", "99"], ["--adapters", "0,99"]] {
        let said = stssad(&[&["sweep", "run", text(&grid), "--out", text(&sweep)], &flags]).with(2);
        said.error(&["no adapter has the number or name `99`"]);
        assert!(!said.err.contains("run the same command") && !said.err.contains("of its own"), "{}", said.err);
    }
    assert!(!sweep.exists());
}

#[test]
fn a_process_on_each_adapter_shares_the_jobs() {
    let root = folder("adapters");
    let [grid, sweep, _] = planned(&root);
    let run = ["sweep", "run", text(&grid), "--out", text(&sweep)];
    let said = stssad(&[&run, &["--adapters", "0,0"]]).with(0);
    assert_eq!((said.err.matches("a process of its own").count(), said.err.matches("  AUROC ").count()), (2, 8));

    let root = folder("adapters-stopped");
    let [grid, sweep, _] = planned(&root);
    fs::write(&grid, GRID.replace("steps = 2", "steps = 1000000")).unwrap();
    let run = ["sweep", "run", text(&grid), "--out", text(&sweep), "--adapters", "0,0", "--progress", "json"];
    let mut running = Running::begin(&[&run]);
    running.until(50);
    running.signal("-TERM");
    running.end().0.with(75);
}

#[test]
fn a_cpu_driver_is_refused_where_a_gpu_is_given() {
    let cpu = stssad(&[&["devices", "--json"]]).with(0).out;
    let cpu: serde_json::Value = serde_json::from_str(&cpu).unwrap();
    if cpu[0]["class"] != "cpu" {
        return;
    }
    let mut bench = command(&[&["bench", "layout/slice"]]);
    bench.env("CUDA_VISIBLE_DEVICES", "1");
    finish(bench).with(4).error(&["CUDA_VISIBLE_DEVICES=1 gives this process a GPU, but only the CPU driver"]);
}
