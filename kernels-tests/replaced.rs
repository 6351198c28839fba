//! Wrong shaders in a folder: `stssad check --shaders` finds each, of every kind, and gives a command that finds it again.

mod process;

use std::fs;
use std::path::{Path, PathBuf};

use process::{folder, stssad, text};
use serde_json::Value;

/// A fault planted in a shader.
struct Planted {
    name: &'static str,
    file: &'static str,
    /// What is replaced by what, once in the file.
    change: [&'static str; 2],
    /// What `check` is asked for.
    filter: &'static str,
    /// The fault that it tells, and words of its text.
    fault: [&'static str; 2],
}

/// Texts of the shader, with the fault.
fn shaders(planted: &Planted) -> PathBuf {
    let folder = folder(planted.name);
    let file = Path::new(planted.file).with_extension("wgsl");
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders").join(&file)).unwrap();
    let [from, to] = planted.change;
    assert_eq!(source.matches(from).count(), 1, "{}: `{from}`", planted.name);
    fs::create_dir_all(folder.join(&file).parent().unwrap()).unwrap();
    fs::write(folder.join(&file), source.replace(from, to)).unwrap();
    folder
}

const PLANTED: &[Planted] = &[
    // Shapes that training has, and small cases have not.
    Planted {
        name: "many-images",
        file: "gemm/tile",
        change: ["y[to] = sums[i][j][e];", "y[to] = select(sums[i][j][e], 0.0, extents.n > 100u);"],
        filter: "conv2d/output(n=192,c=16",
        fault: ["wrong", "all are 0"],
    },
    Planted {
        name: "many-images-cpu",
        file: "conv2d/output_broadcast",
        change: ["= results[t];", "= results[t] * select(1.0, 2.0, R == 3u && extents.n > 100u);"],
        filter: "conv2d/output(n=192,c=16",
        fault: ["wrong", "all are 2.000000 times"],
    },
    Planted {
        name: "first-row-of-wide-windows",
        file: "conv2d/output_broadcast",
        change: ["= results[t];", "= results[t] + select(0.0, 1.0, R == 7u && p == 0u);"],
        filter: "r=7,s=7",
        fault: ["wrong", "axis 2 is 0"],
    },
    // Values beyond a few units.
    Planted {
        name: "overflowing-softplus",
        file: "elementwise/unary",
        change: ["positive_part(v) + log(1.0 + exp(-abs(v)))", "log(1.0 + exp(v))"],
        filter: "f=softplus,x=131",
        fault: ["wrong", "numbers of all magnitudes"],
    },
    Planted {
        name: "clamped-exponent",
        file: "elementwise/unary",
        change: ["return exp(v);", "return exp(min(v, X(20.0)));"],
        filter: "f=exp,x=131",
        fault: ["wrong", "numbers of all magnitudes"],
    },
    Planted {
        name: "clamped-terms",
        file: "reduce/sum_row",
        change: ["sum += x[o * extents.terms + j];", "sum += clamp(x[o * extents.terms + j], -5.0, 5.0);"],
        filter: "reduce/sum_row",
        fault: ["wrong", "numbers of all magnitudes"],
    },
    Planted {
        name: "lost-nan",
        file: "elementwise/unary",
        change: [
            "return select(v, X(), (bitcast<XBits>(v) ^ XBits(0x80000000u)) <= XBits(0x7f800000u));",
            "return max(v, X());",
        ],
        filter: "f=relu,x=131",
        fault: ["wrong", "NaN and infinities"],
    },
    Planted {
        name: "infinity-lost-in-one-array",
        file: "reduce/magnitude",
        change: ["sum += abs(c[row * extents.terms_c + j]);", "sum += min(abs(c[row * extents.terms_c + j]), 3.0e38);"],
        filter: "reduce/magnitude",
        fault: ["wrong", "NaN and infinities"],
    },
    Planted {
        name: "no-inverse",
        file: "warp/affine_image_vjp",
        change: ["let regular = abs(determinant) > 1e-3;", "let regular = true;"],
        filter: "warp/affine_image_vjp",
        fault: ["wrong", "numbers of all magnitudes"],
    },
    Planted {
        name: "shifts-within-the-image",
        file: "warp/affine",
        change: ["let place = clamp(at, vec2<f32>(-3.0), far);", "let place = clamp(at, vec2<f32>(-0.5), far);"],
        filter: "warp/affine(",
        fault: ["wrong", ""],
    },
    Planted {
        name: "gather-past-the-last-row",
        file: "sort/gather",
        change: ["min(u32(index[i]), extents.rows - 1u)", "u32(index[i]) % extents.rows"],
        filter: "sort/gather",
        fault: ["wrong", "numbers of all magnitudes"],
    },
    Planted {
        name: "scatter-past-the-last-row",
        file: "sort/scatter",
        change: ["min(u32(index[at]), extents.rows - 1u) == r", "u32(index[at]) == r"],
        filter: "sort/scatter",
        fault: ["wrong", "numbers of all magnitudes"],
    },
    Planted {
        name: "lost-infinity-of-a-cotangent",
        file: "sort/scatter",
        change: ["sum += ct_y[at];", "sum = max(sum + ct_y[at], -3.0e38);"],
        filter: "sort/scatter(rows=13",
        fault: ["wrong", "NaN and infinities"],
    },
    Planted {
        name: "lost-nan-of-a-map",
        file: "warp/affine_matrix_vjp",
        change: [
            "let f = select(place - corner, at, is_nan);",
            "let f = min(max(place - corner, vec2<f32>()), vec2<f32>(1.0));",
        ],
        filter: "warp/affine_matrix_vjp(n=3",
        fault: ["wrong", "NaN and infinities"],
    },
    Planted {
        name: "nan-lost-in-a-mask",
        file: "cutdiff/mask",
        change: ["-(at.x * at.x + at.y * at.y)", "min(0.0, -(at.x * at.x + at.y * at.y))"],
        filter: "cutdiff/mask(n=3",
        fault: ["wrong", "NaN and infinities"],
    },
    Planted {
        name: "nan-lost-in-a-sigmoid",
        file: "patch/sigmoid",
        change: ["let e = exp(-abs(x));", "let e = exp(-min(abs(x), 200.0));"],
        filter: "softbox/mask(n=3",
        fault: ["wrong", "NaN and infinities"],
    },
    Planted {
        name: "nan-lost-in-a-cotangent-of-pixels",
        file: "warp/affine_image_vjp",
        change: [
            "ct_y[(plane * extents.h + u32(i)) * extents.w + u32(j)];",
            "max(-3.0e38, ct_y[(plane * extents.h + u32(i)) * extents.w + u32(j)]);",
        ],
        filter: "warp/affine_image_vjp(n=3",
        fault: ["wrong", "NaN and infinities"],
    },
    Planted {
        name: "infinite-shift",
        file: "warp/affine",
        change: [
            "let f = select(place - corner, sampled, is_nan);",
            "let f = select(at - floor(at), sampled, is_nan);",
        ],
        filter: "warp/affine(n=3",
        fault: ["wrong", "NaN and infinities"],
    },
    Planted {
        name: "slope-at-the-axis",
        file: "softbox/mask_vjp",
        change: ["2.0 * sign(at.x)", "2.0 * select(-1.0, 1.0, at.x >= 0.0)"],
        filter: "softbox/mask_vjp",
        fault: ["wrong", "with integers"],
    },
    Planted {
        name: "rows-beyond-one-row-of-workgroups",
        file: "warp/affine_matrix_vjp",
        change: ["(workgroup.y * grid.x + workgroup.x)", "workgroup.x"],
        filter: "warp/affine_matrix_vjp(n=65600",
        fault: ["damage", ""],
    },
    // Accesses that a device does not show.
    Planted {
        name: "read-past-the-end",
        file: "elementwise/unary",
        change: [
            "apply(parameters.scale * x[i] + parameters.offset)",
            "apply(parameters.scale * x[i] + 0.0 * x[i + 1u] + parameters.offset)",
        ],
        filter: "f=sqrt,x=131",
        fault: ["sanitizer", "out-of-bounds"],
    },
    Planted {
        name: "write-far-past-the-end",
        file: "reduce/axis",
        change: ["    y[i] = joined;", "    y[i] = joined;\n    if i == 0u { y[arrayLength(&y) + 5000u] = 7.0; }"],
        filter: "reduce/sum(x=5x13x7,from=1,to=2)",
        fault: ["sanitizer", "out-of-bounds"],
    },
    Planted {
        name: "barrier-missing-below-the-simd-width",
        file: "reduce/sum_row",
        change: ["        workgroupBarrier();\n", "        if half > 2u { workgroupBarrier(); }\n"],
        filter: "reduce/sum_row",
        fault: ["sanitizer", "race"],
    },
    Planted {
        name: "two-writers",
        file: "elementwise/unary",
        change: ["        y[i] = StoredY(", "        y[0] = y[0];\n        y[i] = StoredY("],
        filter: "f=identity,x=131",
        fault: ["sanitizer", "race"],
    },
    Planted {
        name: "uninitialised-ticket",
        file: "reduce/sum_row",
        change: ["    partial[lane] = sum;", "    partial[(u32(partial[lane]) + lane) & 63u] = sum;"],
        filter: "reduce/sum_row",
        fault: ["sanitizer", "unwritten"],
    },
    Planted {
        name: "endless",
        file: "reduce/sum_row",
        change: ["j += 64u", "j += 0u"],
        filter: "reduce/sum_row",
        fault: ["sanitizer", "endless"],
    },
    Planted {
        name: "barrier-missing-between-turns",
        file: "layout/transpose",
        change: ["            workgroupBarrier();\n        }\n", "        }\n"],
        filter: "layout/transpose",
        fault: ["sanitizer", "race"],
    },
    // One element, which a sample misses.
    Planted {
        name: "one-element-of-many",
        file: "gemm/tile",
        change: ["y[to] = sums[i][j][e];", "y[to] = sums[i][j][e] + select(0.0, 1.0, to == 123457u);"],
        filter: "conv2d/output(n=192,c=16",
        fault: ["wrong", "1 of"],
    },
    // A large index that f32 does not have.
    Planted {
        name: "index-in-f32",
        file: "elementwise/unary",
        change: ["x[i] + parameters.offset", "x[u32(f32(i))] + parameters.offset"],
        filter: "elementwise/unary(f=relu",
        fault: ["wrong", "axis 0"],
    },
];

#[test]
fn every_planted_fault_is_found_and_found_again() {
    for planted in PLANTED {
        let shaders = shaders(planted);
        let said = stssad(&[&["check", "--json", "--shaders", text(&shaders), planted.filter]]);
        let failures = failures(said);
        let [fault, words] = planted.fault;
        let is_it = |failure: &&Value| {
            failure["fault"] == fault && failure["text"].as_str().is_some_and(|text| text.contains(words))
        };
        let found = failures.iter().find(is_it);
        let found = found.unwrap_or_else(|| panic!("{}: {failures:#?}", planted.name));
        let again = found["again"].as_str().unwrap();
        assert!(again.contains(&format!("--shaders {}", text(&shaders))), "{again}");
        println!("{}: {}", planted.name, found["text"].as_str().unwrap());
    }
}

/// Loops for ever where there are more than 100 images, which no case that the sanitizer runs has.
const HANGS: Planted = Planted {
    name: "hangs",
    file: "conv2d/output_broadcast",
    change: [
        "        var results: array<f32, RESULTS>;\n",
        "        var results: array<f32, RESULTS>;
        if extents.n > 100u {
            var u = 1u;
            loop {
                u = u * 3u + 2u;
                if u == 0u { break; }
                results[u % RESULTS] += 1.0;
            }
        }\n",
    ],
    filter: "conv2d/output(n=192,c=16",
    fault: ["endless", "2 s"],
};

/// The failures of a check of these shaders, after it has ended with 1.
fn failures(said: process::Said) -> Vec<Value> {
    let report: Value = serde_json::from_str(&said.with(1).out).unwrap();
    let outcomes = report["outcomes"].as_array().unwrap();
    outcomes.iter().map(|outcome| outcome["failure"].clone()).filter(|failure| !failure.is_null()).collect()
}

#[test]
fn a_kernel_that_does_not_end_is_ended_and_named() {
    let shaders = shaders(&HANGS);
    let failures = failures(stssad(&[&["check", "--json", "--limit", "2", "--shaders", text(&shaders), HANGS.filter]]));
    let [fault, words] = HANGS.fault;
    assert!(failures.iter().all(|failure| failure["fault"] == fault), "{failures:#?}");
    assert!(failures[0]["text"].as_str().unwrap().contains(words), "{failures:#?}");
}

/// A signal from outside stands in for a driver that crashes.
#[cfg(target_os = "linux")]
#[test]
fn a_check_whose_process_crashes_is_a_failure_and_the_others_go_on() {
    let shaders = shaders(&Planted { name: "crashes", ..HANGS });
    let mut check = process::command(&[&["check", "--json", "--shaders", text(&shaders), HANGS.filter]]);
    let check = check.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // The worker that computes is the one that has used a second of processor time.
    let ticks = |pid: &str| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default().to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        match fields.get(1) == Some(&check.id().to_string().as_str()) {
            true => fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap(),
            false => 0,
        }
    };
    let busy = || {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        processes.filter(|pid| pid.parse::<u32>().is_ok()).find(|pid| ticks(pid) > 300)
    };
    let pid = loop {
        match busy() {
            Some(pid) => break pid,
            None => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    };
    assert!(std::process::Command::new("kill").args(["-ABRT", &pid]).status().unwrap().success());
    let output = check.wait_with_output().unwrap();
    let said = process::Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    let failures = failures(said);
    assert_eq!(failures.len(), 1, "{failures:#?}");
    assert_eq!(failures[0]["fault"], "crashed");
    assert!(failures[0]["text"].as_str().unwrap().contains("ended by signal 6"), "{failures:#?}");
}

#[test]
fn a_right_shader_passes_the_sanitizer_and_the_device() {
    let planted = Planted {
        name: "right",
        file: "reduce/sum_row",
        change: ["var sum = 0.0;", "var sum = 0.0; // the same"],
        filter: "reduce/sum_row",
        fault: ["", ""],
    };
    let said = stssad(&[&["check", "--coverage", "--shaders", text(&shaders(&planted)), planted.filter]]).with(0);
    for part in ["sanitizer ", "kernel ", "cases run / all"] {
        assert!(said.out.contains(part), "{}", said.out);
    }
    stssad(&[&["check", "--grad", "--shaders", text(&shaders(&planted))]]).with(2).error(&["--shaders"]);
}
