//! Messages of the command line: they come early, once and in the user's words, and never cause a panic.

mod process;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use process::{PACKAGED, Said, command, finish, folder, json, stssad, text};

/// With [`PACKAGED`], a run of a few seconds.
const TINY: [&str; 6] = ["--steps", "3", "--starts", "1", "--no-report", "--json"];

fn train(run: &Path) -> Command {
    command(&[&["train"], &PACKAGED, &TINY, &["--out", text(run)]])
}

/// A full device.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("the system has /dev/full").into()
}

/// A pipe whose reader has gone.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[track_caller]
fn is_finished(run: &Path) {
    assert!(json(&run.join("result.json"))["seconds"].is_f64());
}

/// A long part of the error, between colons, that occurs twice.
fn repeated(err: &str) -> Option<&str> {
    let error = &err[err.find("error: ").expect("an error")..];
    let parts: Vec<&str> = error.split([':', '\n']).map(str::trim).filter(|part| part.len() > 8).collect();
    parts.iter().enumerate().find(|(index, part)| parts[..*index].contains(part)).map(|(_, part)| *part)
}

/// The command failed with this exit code and one error that contains all of `parts`, none of it twice or in serde's words.
#[track_caller]
fn refused(said: Said, code: i32, parts: &[&str]) {
    let said = said.with(code);
    said.error(parts);
    assert_eq!(repeated(&said.err), None, "{}", said.err);
    for word in ["unknown field", "missing field", "unknown variant", "invalid type", "invalid value", "usize", "u64"] {
        assert!(!said.err.contains(word), "`{word}` in {}", said.err);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_finishes_although_its_notes_cannot_be_written() {
    for (name, stderr) in [("full", full as fn() -> Stdio), ("unread", unread)] {
        let run = folder(&format!("notes-{name}")).join("run");
        let output = train(&run).stderr(stderr()).output().unwrap();
        assert_eq!(output.status.code(), Some(74), "{name}");
        is_finished(&run);
        // The result is still printed.
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed, json(&run.join("result.json")), "{name}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_result_that_cannot_be_printed_is_an_error_after_the_run() {
    let run = folder("results-full").join("run");
    let said = finish_with(train(&run), full()).with(74);
    said.error(&["cannot write to standard output", "No space left"]);
    is_finished(&run);
    for arguments in [&["devices"][..], &["devices", "--json"], &["--help"], &["train", "--help"], &["--version"]] {
        finish_with(command(&[arguments]), full()).with(74).error(&["cannot write to standard output"]);
    }
}

/// Runs a command with this standard output.
fn finish_with(mut command: Command, stdout: Stdio) -> Said {
    let output = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    Said { code: output.status.code(), out: String::new(), err: String::from_utf8(output.stderr).unwrap() }
}

/// No message and no exit code: SIGPIPE ends the program, as it ends other programs.
#[test]
#[cfg(unix)]
fn a_closed_pipe_ends_the_program_without_a_message() {
    for arguments in [&["devices"][..], &["train", "--print-config"]] {
        let said = finish_with(command(&[arguments]), unread());
        assert_eq!((said.code, said.err.as_str()), (None, ""), "{arguments:?}");
    }
}

/// The system replaces missing standard streams by the null device.
#[test]
#[cfg(unix)]
fn closed_streams_do_not_cause_a_panic() {
    for closed in ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        let run = folder("closed").join("run");
        let mut shell = Command::new("sh");
        let flags = [&PACKAGED[..], &TINY].concat().join(" ");
        let line = format!("exec {} train {flags} --out {} {closed}", env!("CARGO_BIN_EXE_stssad"), text(&run));
        shell.args(["-c", &line]);
        finish(shell).with(0);
        is_finished(&run);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn an_error_that_cannot_be_printed_keeps_its_exit_code() {
    for (arguments, code) in [(&["train"][..], 2), (&["trian"], 2), (&["train", "-c", "nowhere.toml"], 74)] {
        let status = command(&[arguments]).stderr(full()).stdout(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

/// Everything is printed by `cli/terminal.rs`, which does not panic; tests may print as they like.
#[test]
fn only_one_module_prints() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_code = |path: &Path| path.extension().is_some_and(|ending| ending == "rs");
    let files = walkdir::WalkDir::new(source).into_iter().map(Result::unwrap).map(walkdir::DirEntry::into_path);
    let files = files.filter(|path| !path.components().any(|part| part.as_os_str() == "examples"));
    let mut seen = 0;
    for path in files.filter(|path| is_code(path)) {
        let code = fs::read_to_string(&path).unwrap();
        let code = code.split("#[cfg(test)]").next().unwrap();
        seen += 1;
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let is_terminal = path.ends_with("cli/terminal.rs");
            for printing in ["println!", "print!", "dbg!", "stdout()", "stderr().lock()"] {
                let is_ours = is_terminal && printing.contains("std");
                assert!(is_ours || !line.contains(printing), "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

/// A configuration file with these contents.
fn configured(name: &str, content: &str) -> PathBuf {
    let path = folder(name).join("run.toml");
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn errors_in_a_file_name_the_line_and_the_key() {
    let cases = [
        ("seed = 1\nsed = 1", &["run.toml, line 2: there is no key `sed`; did you mean `seed`?"][..]),
        ("[training]\n\nstep = 1", &["line 3: there is no key `step` in [training]; did you mean `steps`?"]),
        (
            "[training]\nsteps = 'many'",
            &["line 2: `steps` in [training] is the text \"many\"", "a whole number of at least 0"],
        ),
        ("method = 'st-ssda'", &["line 1: `method` cannot be `st-ssda`; did you mean `st-ssad`?"]),
        ("[data]\nkind = 'mvtec'\nroot = 'x'", &["`--data mvtec` needs --category (such as `bottle`)"]),
        ("[data]\nkind = 'mvtek'\nroot = 'x'", &["line 2: ", "`kind` in [data]", "did you mean `mvtec`?"]),
        ("[training]\nmass = nan", &["line 2: --mass is NaN: it must be between 0 and 1"]),
        ("seed = ", &["line 1: this is not TOML"]),
    ];
    for (content, parts) in cases {
        let path = configured("file", content);
        refused(stssad(&[&["train", "-c", text(&path)]]), 2, parts);
    }
}

#[test]
fn errors_in_flags_name_the_flags_before_a_file_is_read() {
    // The folder does not exist: reading it first would give another error.
    let mvtec = ["--data", "mvtec", "--root", "nowhere", "--category", "bottle"];
    let folders = ["--data", "folder", "--root", "nowhere", "--normal-dir", "good"];
    let cases: [(&[&str], &[&str], &[&str]); 19] = [
        (&[], &[], &["there are no images to train on", "--data folder --normal-dir good", "stssad demo"]),
        (&["--data", "mvtec", "--root", "a"], &[], &["`--data mvtec` needs --category (such as `bottle`)"]),
        (&["--category", "bottle"], &[], &["give --data"]),
        (&["--data", "digits", "--normal", "six", "--anomaly", "9"], &[], &["--normal is the text \"six\""]),
        (&["--data", "digits", "--normal", "4", "--anomaly", "9"], &[], &["--normal is 4", "0, 1, 2, 3, 5, 6, 9"]),
        (&["--data", "digits", "--normal", "6", "--anomaly", "9", "--tile", "8"], &[], &["takes no --tile"]),
        (&mvtec, &["--augmentation", "blur"], &["there is no augmentation `blur`"]),
        (&mvtec, &["--alignment", "kl"], &["there is no alignment loss `kl`"]),
        (&mvtec, &["--mass", "nan"], &["--mass is NaN"]),
        (&mvtec, &["--steps", "0"], &["--steps is 0: it must be from 1 to 16777216"]),
        (&mvtec, &["--warm-up", "181"], &["--warm-up is 181"]),
        (&mvtec, &["--rate", "nan"], &["--learning-rate is NaN"]),
        (&mvtec, &["--batch", "1"], &["--batch is 1: it must be at least 2"]),
        (&mvtec, &["--micro-batches", "20"], &["--micro-batches is 20"]),
        (&mvtec, &["--starts", "0"], &["--starts is 0"]),
        (&mvtec, &["--max-train", "2"], &["--max-train is 2: training needs at least 3 images"]),
        (&folders, &[], &["there are no images to tune on: add --unlabelled-dir"]),
        (&folders, &["--unlabelled-dir", "un", "--normal-split-ratio", "nan"], &["--normal-split-ratio is NaN"]),
        (
            &folders,
            &["--abnormal-dir", "bad", "--mask-dir", "a", "--mask-dir", "b"],
            &["--mask-dir is given 2 times and --abnormal-dir 1 times"],
        ),
    ];
    for (data, flags, parts) in cases {
        refused(stssad(&[&["train"], data, flags]), 2, parts);
    }
    for (flag, value) in [
        ("--seed", "18446744073709551615"),
        ("--steps", "-1"),
        ("--batch", "many"),
        ("--max-train", "9223372036854775808"),
    ] {
        let said = stssad(&[&["train"], &mvtec, &[flag, value]]).with(2);
        said.error(&[flag, value, "it must be a whole number from 0 to 9223372036854775807"]);
    }
    // With valid flags only the folder is wrong.
    refused(stssad(&[&["train"], &mvtec]), 3, &["there is no folder nowhere"]);
}

/// The largest numbers that flags take lead to an error, or to a run, but not to a panic or an exhausted memory.
#[test]
fn huge_numbers_are_refused() {
    let texture = ["--data", "texture", "--texture", "gravel", "--defect", "blob"];
    let digits = ["--data", "digits", "--normal", "6", "--anomaly", "9"];
    let huge = "9223372036854775807";
    let cases: [(&[&str], &[&str], i32, &str); 5] = [
        (&texture, &["--max-train", huge], 2, "use at most 100000 of a kind"),
        (&digits, &["--max-train", huge, "--max-normals", huge], 3, "there are 500 normal images, but"),
        (&digits, &["--steps", huge], 2, "it must be from 1 to 16777216"),
        (&digits, &["--starts", huge, "--method", "random-static"], 2, "it must be from 1 to 10000"),
        (&digits, &["--micro-batches", huge], 2, "--micro-batches is"),
    ];
    for (data, flags, code, part) in cases {
        refused(stssad(&[&["train"], data, flags]), code, &[part]);
    }
    for flags in [["--size", huge], ["--size", "0"], ["--tiles", "0"], ["--size", "8,4097"]] {
        let said = stssad(&[&["train"], &digits, &flags]).with(2);
        said.error(&[flags[0], flags[1], "it must be a side, or HEIGHT,WIDTH, from 1 to 4096 pixels"]);
    }
    for flags in [["--train", huge], ["--test", "0"], ["--size", "129"]] {
        let said = stssad(&[&["paint", "--texture", "brick", "--defect", "blob", "--out", "nowhere"], &flags]).with(2);
        said.error(&[flags[0], flags[1]]);
    }
}

/// A file where a command expects a folder, and a folder where it expects a file.
#[test]
fn files_in_place_of_folders_are_refused() {
    let folder = folder("files");
    let file = folder.join("file.toml");
    fs::write(&file, "").unwrap();
    let file = text(&file);
    refused(stssad(&[&["train", "--resume", file]]), 2, &["there is no folder", "file.toml"]);
    refused(stssad(&[&["sweep", "plan", file]]), 2, &["file.toml: the key `seeds` is missing"]);
    refused(stssad(&[&["train", "-c", text(&folder)]]), 74, &["cannot read"]);
}

#[test]
fn a_precision_that_the_device_lacks_is_refused_before_a_file_is_read() {
    let devices: serde_json::Value = serde_json::from_str(&stssad(&[&["devices", "--json"]]).with(0).out).unwrap();
    let is_able = !devices[0]["tiles"].as_array().unwrap().is_empty();
    let data = ["--data", "mvtec", "--root", "nowhere", "--category", "bottle", "--precision", "f16"];
    let (code, part) = if is_able { (3, "there is no folder") } else { (4, "precision f16 needs matrix units") };
    refused(stssad(&[&["train"], &data]), code, &[part]);
}

#[test]
fn the_whole_grid_is_checked_before_the_first_job() {
    let grid = |name: &str, method: &str| {
        let path = folder(name).join("grid.toml");
        let task = "[[task]]\nname = 'a'\nconfig.data = { kind = 'mvtec', root = 'nowhere', category = 'b' }\n";
        fs::write(&path, format!("seeds = [0]\nreference = 'st'\n{task}[[method]]\nname = 'st'\n{method}")).unwrap();
        path
    };
    let out = folder("grid-out").join("sweep");
    for (name, method, parts) in [
        ("grid-range", "[[method]]\nname = 'x'\nconfig.training.steps = 0", &["the job a/x/seed0", "--steps is 0"][..]),
        ("grid-name", "[[method]]\nname = 'x'\nconfig.augmentation = 'blur'", &["the job a/x/seed0", "`blur`"]),
        ("grid-key", "[[method]]\nname = 'x'\nconfig.sed = 1", &["the job a/x/seed0", "did you mean `seed`?"]),
        ("grid-entry", "[[method]]\nnam = 'x'", &["grid.toml, line 9: there is no key `nam` in [method]", "`name`"]),
        ("grid-missing", "[[method]]\nconfig.seed = 1", &["grid.toml, line 6: the key `name` in [method] is missing"]),
    ] {
        let path = grid(name, method);
        refused(stssad(&[&["sweep", "plan", text(&path)]]), 2, parts);
        refused(stssad(&[&["sweep", "run", text(&path), "--out", text(&out)]]), 2, parts);
    }
    assert!(!out.exists());
}

#[test]
fn flags_without_effect_are_noted() {
    let told = |flags: &[&str]| stssad(&[&["train", "--print-config"], flags]).with(0);
    told(&["--augmentation", "cutdiff", "--starts", "99"])
        .notice(&["no effect: --starts 99: cutdiff has only 4 starts"]);
    told(&["--method", "auto-encoder", "--encoder", "small", "--order", "1"]).notice(&[
        "no effect: --encoder: --method auto-encoder does not use it",
        "no effect: --order: --method auto-encoder does not use it",
    ]);
    let said = told(&["--starts", "2", "--order", "1", "--warm-up", "3"]);
    assert_eq!(said.err, "");
}

#[test]
fn an_unknown_adapter_is_an_error_that_lists_the_adapters() {
    for name in ["4091", "geforce-of-another-house", "99"] {
        for arguments in [&["check", "--family", "sort"][..], &["demo"], &["peak"]] {
            let said = stssad(&[arguments, &["--adapter", name]]);
            assert!(!said.err.contains("install"), "{}", said.err);
            refused(said, 2, &[&format!("no adapter has the number or name `{name}`"), "\n    0  "]);
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn without_an_adapter_the_error_asks_for_a_driver() {
    for adapter in [&[][..], &["--adapter", "4090"]] {
        let mut none = command(&[&["check", "--family", "sort"], adapter]);
        none.env("VK_DRIVER_FILES", "/nonexistent.json").env("VK_ICD_FILENAMES", "/nonexistent.json");
        refused(finish(none), 4, &["no usable GPU adapter", "install your GPU's Vulkan driver"]);
    }
}

#[test]
fn a_cpu_driver_instead_of_a_gpu_is_noted_in_one_line() {
    let devices: serde_json::Value = serde_json::from_str(&stssad(&[&["devices", "--json"]]).with(0).out).unwrap();
    let is_cpu = devices[0]["class"] == "cpu";
    let name = devices[0]["name"].as_str().unwrap();
    let told = |adapter: &[&str]| stssad(&[&["check", "sort", "--family", "sort"], adapter]).err;
    let line = told(&[]).lines().filter(|line| line.starts_with("note     no GPU")).count();
    assert_eq!(line, usize::from(is_cpu));
    assert!(!told(&["--adapter", name]).contains("no GPU"));
}

#[test]
#[cfg(unix)]
fn a_run_that_can_no_longer_save_says_how_to_resume() {
    let run = folder("unsaved").join("run");
    let long = ["--steps", "80", "--checkpoint-every", "2", "--progress", "none"];
    let mut child = command(&[&["train"], &PACKAGED, &["--starts", "1", "--out", text(&run)], &long])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let saved = run.join("checkpoint.previous.safetensors");
    while !saved.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it saved");
        std::thread::yield_now();
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    // A folder in the place of the next checkpoint stops even root.
    fs::remove_file(&saved).unwrap();
    fs::create_dir(&saved).unwrap();
    let said = stssad(&[&["train", "--resume", text(&run), "--no-report", "--progress", "none"]]).with(74);
    said.error(&["cannot write", "saved    ", " steps; resume with"]);
    assert!(said.err.contains(&format!("resume with: stssad train --resume {}", text(&run))), "{}", said.err);
    // The advice works.
    fs::remove_dir(&saved).unwrap();
    stssad(&[&["train", "--resume", text(&run), "--no-report", "--progress", "none"]]).with(0);
    is_finished(&run);
}

/// Arguments, the exit code, and parts of the error.
type Case<'a> = (&'a [&'a [&'a str]], i32, &'a [&'a str]);

/// Errors with chains of causes, from five modules.
#[test]
fn no_error_is_repeated() {
    let folder = folder("once");
    let damaged = folder.join("damaged.safetensors");
    fs::write(&damaged, "no model").unwrap();
    let svhn = folder.join("svhn");
    fs::create_dir_all(&svhn).unwrap();
    fs::write(svhn.join("train_32x32.mat"), "no MATLAB").unwrap();
    fs::create_dir_all(folder.join("images/good")).unwrap();
    for number in 0..4 {
        fs::write(folder.join(format!("images/good/{number}.png")), "no image").unwrap();
    }
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    let inside = file.join("run");
    let images = folder.join("images");
    let cases: [Case; 8] = [
        (
            &[&["predict", text(&svhn), text(&images)]],
            2,
            &["contains no model.safetensors", "give the folder of a finished run"],
        ),
        (&[&["predict", "nowhere", "nothing"]], 2, &["nowhere does not exist", "give the folder of a finished run"]),
        (&[&["predict", text(&damaged), "nothing"]], 74, &["is damaged"]),
        (&[&["train", "-c", "nowhere.toml"]], 74, &["cannot read nowhere.toml", "No such file"]),
        (
            &[&["train", "--data", "svhn", "--root", text(&svhn), "--normal", "1", "--anomaly", "2"]],
            3,
            &["train_32x32.mat is not a readable MATLAB file", "it does not begin with a MATLAB header"],
        ),
        (
            &[&[
                "train",
                "--data",
                "folder",
                "--root",
                text(&images),
                "--normal-dir",
                "good",
                "--unlabelled-dir",
                "un",
            ]],
            3,
            &["there is no folder"],
        ),
        (&[&["train"], &PACKAGED, &TINY, &["--out", text(&inside)]], 74, &["cannot write", "Not a directory"]),
        (&[&["check", "--shaders", text(&folder)]], 2, &["contains none of stssad's shaders"]),
    ];
    for (arguments, code, parts) in cases {
        refused(stssad(arguments), code, parts);
    }
}
