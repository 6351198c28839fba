//! `stssad check --shader` on kernels that are not ours: what holds, and what each kind of fault is told as.

mod process;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use half::f16;
use process::{Said, folder, stssad, text};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

/// `y = a x + y` on 200 elements, in workgroups of 64.
const SAXPY: &str = "// sanitize: workgroups 4
struct Params { n: u32, a: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(1) @binding(3) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn saxpy(@builtin(global_invocation_id) at: vec3<u32>) {
    if (at.x < params.n) { y[at.x] = params.a * x[at.x] + y[at.x]; }
}
";
const COUNT: usize = 200;

/// The tensors of a file, by name.
#[derive(Clone, Default)]
struct Tensors(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn of(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Tensors {
        self.0.insert(name.to_owned(), (dtype, shape.to_vec(), bytes));
        self
    }

    fn f32(self, name: &str, shape: &[usize], value: impl Fn(usize) -> f32) -> Tensors {
        self.of(name, Dtype::F32, shape, (0..shape.iter().product()).flat_map(|at| value(at).to_le_bytes()).collect())
    }

    fn f64(self, name: &str, shape: &[usize], value: impl Fn(usize) -> f64) -> Tensors {
        self.of(name, Dtype::F64, shape, (0..shape.iter().product()).flat_map(|at| value(at).to_le_bytes()).collect())
    }

    fn f16(self, name: &str, shape: &[usize], value: impl Fn(usize) -> f32) -> Tensors {
        let bytes = |at| f16::from_f32(value(at)).to_le_bytes();
        self.of(name, Dtype::F16, shape, (0..shape.iter().product()).flat_map(bytes).collect())
    }

    fn i32(self, name: &str, shape: &[usize], value: impl Fn(usize) -> i32) -> Tensors {
        self.of(name, Dtype::I32, shape, (0..shape.iter().product()).flat_map(|at| value(at).to_le_bytes()).collect())
    }

    fn u32(self, name: &str, shape: &[usize], value: impl Fn(usize) -> u32) -> Tensors {
        self.of(name, Dtype::U32, shape, (0..shape.iter().product()).flat_map(|at| value(at).to_le_bytes()).collect())
    }

    fn without(mut self, name: &str) -> Tensors {
        self.0.remove(name).expect("it is there");
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let view = |(dtype, shape, bytes): &'_ (Dtype, Vec<usize>, Vec<u8>)| {
            TensorView::new(*dtype, shape.clone(), bytes.clone().leak()).expect("as many bytes as the shape has")
        };
        safetensors::serialize(self.0.iter().map(|(name, tensor)| (name.as_str(), view(tensor))), None).unwrap()
    }
}

fn x(at: usize) -> f32 {
    (at as f32 * 0.37).sin()
}

/// For [`SAXPY`], with a = 0.3.
fn saxpy() -> Tensors {
    let y = |at: usize| (at as f32 * 0.11).cos();
    Tensors::default()
        .u32("params.n", &[], |_| COUNT as u32)
        .f32("params.a", &[], |_| 0.3)
        .f32("x", &[COUNT / 10, 10], x)
        .f32("y", &[COUNT / 10, 10], y)
        .f64("y.after", &[COUNT / 10, 10], move |at| f64::from(0.3f32) * f64::from(x(at)) + f64::from(y(at)))
}

/// Files of a kernel and its reference.
fn files(name: &str, kernel: &str, tensors: &Tensors) -> [PathBuf; 2] {
    let folder = folder(name);
    let [shader, reference] = ["kernel.wgsl", "reference.safetensors"].map(|file| folder.join(file));
    fs::write(&shader, kernel).unwrap();
    fs::write(&reference, tensors.bytes()).unwrap();
    [shader, reference]
}

fn check(name: &str, kernel: &str, tensors: &Tensors, flags: &[&str]) -> Said {
    let [shader, reference] = files(name, kernel, tensors);
    stssad(&[&["check", "--shader", text(&shader), "--reference", text(&reference)], flags])
}

#[track_caller]
fn says(said: &Said, parts: &[&str]) {
    for part in parts {
        assert!(said.out.contains(part), "no `{part}` in {}\n{}", said.out, said.err);
    }
}

#[test]
fn a_correct_kernel_holds() {
    let said = check("holds", SAXPY, &saxpy(), &[]).with(0);
    says(
        &said,
        &["`saxpy` in 4 × 1 × 1 workgroups of 64", "interpreted: 0 errors", "run twice on", "holds   y: f32 [20, 10]"],
    );
    assert!(!said.out.contains("FAILED") && !said.out.contains("\nnote "), "{}", said.out);
    let said = check("holds", SAXPY, &saxpy(), &["--json", "--workgroups", "5,1,1"]).with(0);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&report["passed"], &report["workgroups"][0]), (&true.into(), &5.into()));
    let output = &report["device"]["outputs"][0];
    assert_eq!((&output["name"], &output["undetermined"]), (&"y".into(), &0.into()));
    assert!(output["compared"]["largest_share"].as_f64().unwrap() < 1.0, "{output}");
}

/// The first wrong element is told with its coordinates, and how many there are.
#[test]
fn a_wrong_answer_fails() {
    let wrong = SAXPY.replace("params.a * x", "1.001 * params.a * x");
    let said = check("coefficient", &wrong, &saxpy(), &[]).with(1);
    says(
        &said,
        &["FAILED  y: f32 [20, 10]: ", " of 200 elements are wrong, the first at [0, 1]: got ", "want ", "± 1.1"],
    );
    let said = check("coefficient", &wrong, &saxpy(), &["--json"]).with(1);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let wrong_of = &report["device"]["outputs"][0]["compared"]["wrong"];
    assert_eq!((&report["passed"], &wrong_of["coordinates"]), (&false.into(), &serde_json::json!([0, 1])));
    // A wider tolerance takes it, by a flag or by a tensor, for each element or for all.
    check("coefficient", &wrong, &saxpy(), &["--tolerance", "1e-3,0"]).with(0);
    let wide = saxpy().f64("y.tolerance", &[], |_| 1e-3);
    says(&check("coefficient", &wrong, &wide, &[]).with(0), &["of its tolerance (y.tolerance)"]);
    let but_one = saxpy().f32("y.tolerance", &[20, 10], |at| if at == 57 { 1e-6 } else { 1e-3 });
    says(&check("coefficient", &wrong, &but_one, &[]).with(1), &["1 of 200 elements is wrong, the first at [5, 7]"]);
    // The tensor comes before the flag.
    check("coefficient", &wrong, &but_one, &["--tolerance", "1,1"]).with(1);
}

#[test]
fn elements_that_are_not_written_fail() {
    let kernel = "@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn double(@builtin(global_invocation_id) at: vec3<u32>) {
    if (at.x < LAST) { y[at.x] = 2.0 * x[at.x]; }
}
override LAST: u32;
";
    let tensors = Tensors::default().f32("x", &[64], x).f32("y.after", &[64], |at| 2.0 * x(at));
    check("written", kernel, &tensors, &["--workgroups", "1", "--override", "LAST=64"]).with(0);
    let said = check("written", kernel, &tensors, &["--workgroups", "1", "--override", "LAST=63"]).with(1);
    says(&said, &["1 of 64 elements is wrong, the first at [63]: got NaN", "1 was never written"]);
    // An integer that happens to be there is none that was written.
    let integers = kernel.replace("array<f32>", "array<u32>").replace("2.0", "2u");
    let tensors = Tensors::default()
        .u32("x", &[64], |at| at as u32)
        .u32("y.after", &[64], |at| if at == 63 { 0x7fca_cafe } else { 2 * at as u32 });
    let said = check("written", &integers, &tensors, &["--workgroups", "1", "--override", "LAST=63"]).with(1);
    says(&said, &["1 of 64 elements is wrong", "1 was never written"]);
}

#[test]
fn what_the_interpreter_finds_keeps_the_device_unused() {
    let past = SAXPY.replace("at.x < params.n", "at.x <= params.n");
    let said = check("past", &past, &saxpy(), &["--workgroups", "4"]).with(1);
    says(&said, &["error: ", "out-of-bounds", "not run on a device"]);
    let race = "// sanitize: workgroups 1
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
var<workgroup> s: array<f32, 64>;
@compute @workgroup_size(64)
fn turn(@builtin(local_invocation_index) lane: u32) {
    s[lane] = y[lane];
    // barrier
    y[lane] = s[63u - lane];
}
";
    let tensors = Tensors::default().f32("y", &[64], x).f32("y.after", &[64], |at| x(63 - at));
    let said = check("race", race, &tensors, &[]).with(1);
    says(&said, &["kernel.wgsl:8: race", "not run on a device"]);
    check("race", &race.replace("// barrier", "workgroupBarrier();"), &tensors, &[]).with(0);
    let said = check("race", race, &tensors, &["--json"]).with(1);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&report["device"], &report["interpreted"]["reports"][0]["kind"]), (&Value::Null, &"race".into()));
}

#[test]
fn integers_have_to_be_equal() {
    let kernel = "// sanitize: workgroups 2
@group(0) @binding(0) var<storage, read> x: array<i32>;
@group(0) @binding(1) var<storage, read_write> y: array<vec2<i32>>;
@group(0) @binding(2) var<storage, read_write> sum: atomic<i32>;
@compute @workgroup_size(32)
fn negate(@builtin(global_invocation_id) at: vec3<u32>) {
    y[at.x] = vec2(-x[at.x], 16777217);
    atomicAdd(&sum, x[at.x]);
}
";
    let of = |second: i32, sum: i32| {
        let value = move |at: usize| if at.is_multiple_of(2) { -(at as i32 / 2) } else { second };
        let tensors = Tensors::default().i32("x", &[64], |at| at as i32).i32("y.after", &[64, 2], value);
        let sums: Vec<u8> = i64::from(sum).to_le_bytes().to_vec();
        tensors.i32("sum", &[], |_| -1).of("sum.after", Dtype::I64, &[1], sums)
    };
    let said = check("integers", kernel, &of(16_777_217, 2015), &[]).with(0);
    says(&said, &["holds   y: i32 [64, 2]: largest error 0.00e0 (exact)", "holds   sum: i32 [1]"]);
    // f32 has neither of these as it is; no flag makes integers inexact.
    let said = check("integers", kernel, &of(16_777_216, 2014), &["--tolerance", "9,9"]).with(1);
    says(
        &said,
        &[
            "64 of 128 elements are wrong (axis 1 is 1, the last), the first at [0, 1]: got 16777217, want 16777216",
            "got 2015, want 2014",
        ],
    );
}

#[test]
fn halves_are_checked_where_the_device_has_them() {
    let kernel = "// sanitize: workgroups 1
enable f16;
@group(0) @binding(0) var<storage, read> x: array<f16>;
@group(0) @binding(1) var<storage, read_write> y: array<f16>;
@compute @workgroup_size(64)
fn square(@builtin(global_invocation_id) at: vec3<u32>) { y[at.x] = x[at.x] * x[at.x]; }
";
    let square = |at: usize| f16::from_f32(x(at)).to_f64().powi(2);
    let tensors = Tensors::default().f16("x", &[64], x).f64("y.after", &[64], square);
    let said = check("halves", kernel, &tensors, &[]);
    if said.code == Some(4) {
        return said.error(&["does not run `square` of ", "it has no f16 arithmetic"]);
    }
    says(&said.with(0), &["holds   y: f16 [64]", "1e-5 + 1e-3·|want|"]);
    let said = check("halves", &kernel.replace("* x[at.x]; }", "* x[at.x] * 1.01h; }"), &tensors, &[]).with(1);
    says(&said, &["FAILED  y: f16 [64]"]);
    let odd = Tensors::default().f16("x", &[63], x).f64("y.after", &[63], square);
    check("halves", kernel, &odd, &[]).with(3).error(&["`x` takes 126 bytes", "even number"]);
}

#[test]
fn nan_and_infinities_hold_only_where_they_are_wanted() {
    let kernel = "// sanitize: workgroups 1
@group(0) @binding(0) var<storage, read_write> y: array<f32, 4>;
@group(0) @binding(1) var<storage, read> bits: array<u32, 4>;
@compute @workgroup_size(4)
fn give(@builtin(local_invocation_index) at: u32) { y[at] = bitcast<f32>(bits[at]); }
";
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0];
    let bits = |values: [f32; 4]| Tensors::default().u32("bits", &[4], move |at| values[at].to_bits());
    check("nan", kernel, &bits(values).f32("y.after", &[4], |at| values[at]), &["--tolerance", "1e9,1e9"]).with(0);
    for (at, wrong) in
        [(0, 1.0), (1, f32::NEG_INFINITY), (1, f32::MAX), (2, f32::NAN), (3, f32::NAN), (3, f32::INFINITY)]
    {
        let mut got = values;
        got[at] = wrong;
        let tensors = bits(got).f32("y.after", &[4], |at| values[at]);
        let said = check("nan", kernel, &tensors, &["--tolerance", "1e9,1e9"]).with(1);
        says(&said, &[&format!("1 of 4 elements is wrong, the first at [{at}]")]);
    }
}

/// The columns of a matrix and the elements of an array of vec3 have padding, which tensors have not.
#[test]
fn padding_is_left_out() {
    let kernel = "// sanitize: workgroups 1
struct Params { turn: mat3x3<f32>, shift: vec3<f32>, count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec3<f32>>;
struct Result { count: u32, values: array<vec3<f32>> }
@group(0) @binding(2) var<storage, read_write> y: Result;
@compute @workgroup_size(8)
fn move_points(@builtin(local_invocation_index) at: u32) {
    if (at < arrayLength(&x)) { y.values[at] = params.turn * x[at] + params.shift; }
    if (at == 0u) { y.count = params.count; }
}
";
    let turn = |column: usize, row: usize| (3 * column + row) as f32;
    let want = move |at: usize| {
        let (point, row) = (at / 3, at % 3);
        let product: f64 = (0..3).map(|column| f64::from(turn(column, row)) * f64::from(x(3 * point + column))).sum();
        product + row as f64
    };
    let tensors = Tensors::default()
        .f32("params.turn", &[3, 3], |at| turn(at / 3, at % 3))
        .f32("params.shift", &[3], |at| at as f32)
        .u32("params.count", &[], |_| 5)
        .f32("x", &[5, 3], x)
        .u32("y.count.after", &[1], |_| 5)
        .f64("y.values.after", &[5, 3], want);
    let said = check("padding", kernel, &tensors, &[]).with(0);
    says(&said, &["holds   y.count: u32 [1]", "holds   y.values: f32 [5, 3]"]);
    let transposed = tensors.clone().f32("params.turn", &[3, 3], |at| turn(at % 3, at / 3));
    says(&check("padding", kernel, &transposed, &[]).with(1), &["FAILED  y.values", "holds   y.count"]);
    let ragged = tensors.clone().f32("x", &[4], x);
    check("padding", kernel, &ragged, &[]).with(3).error(&["`x` has 4 elements", "a multiple of 3"]);
    let mixed = tensors.f32("params", &[13], x);
    check("padding", kernel, &mixed, &[]).with(3).error(&["`params` has f32 and u32", "`params.shift`"]);
}

#[test]
fn immediates_and_overrides_are_given() {
    let kernel = "// sanitize: workgroups 1
struct Numbers { n: u32, scale: f32 }
var<immediate> numbers: Numbers;
@id(7) override SHIFT: f32 = 1.0;
@group(0) @binding(0) var<storage, read_write> y: array<f32, 8>;
@compute @workgroup_size(8)
fn fill(@builtin(local_invocation_index) at: u32) { if (at < numbers.n) { y[at + numbers.n - 8u] = numbers.scale * f32(at) + SHIFT; } }
";
    let of = |scale: f32, shift: f32| {
        let tensors = Tensors::default().u32("numbers.n", &[], |_| 8).f32("numbers.scale", &[], |_| scale);
        tensors.f32("y.after", &[2, 4], move |at| 0.5 * at as f32 + shift)
    };
    for flag in ["SHIFT=2.5", "7=2.5"] {
        check("immediates", kernel, &of(0.5, 2.5), &["--override", flag]).with(0);
    }
    check("immediates", kernel, &of(0.5, 1.0), &[]).with(0);
    check("immediates", kernel, &of(0.6, 1.0), &[]).with(1);
    // The interpreter has them too.
    let said = check("immediates", kernel, &of(0.5, 1.0).u32("numbers.n", &[], |_| 9), &[]).with(1);
    says(&said, &["out-of-bounds", "not run on a device"]);
    check("immediates", kernel, &of(0.5, 2.5), &[]).with(1);
    check("immediates", kernel, &of(0.5, 1.0), &["--override", "NONE=1"]).with(3).error(&["NONE"]);
    check("immediates", kernel, &of(0.5, 1.0), &["--override", "SHIFT"]).with(2).error(&["--override", "NAME=NUMBER"]);
}

#[test]
fn subgroups_are_run_where_the_device_has_them() {
    let kernel = "enable subgroups;
// sanitize: workgroups 1
@group(0) @binding(0) var<storage, read_write> y: array<u32, 64>;
@compute @workgroup_size(64)
fn first(@builtin(local_invocation_index) at: u32) { y[at] = subgroupMax(7u); }
";
    let tensors = Tensors::default().u32("y.after", &[64], |_| 7);
    let said = check("subgroups", kernel, &tensors, &[]);
    if said.code == Some(4) {
        return said.error(&["it has no subgroup operations"]);
    }
    said.with(0);
    check("subgroups", &kernel.replace("7u", "8u"), &tensors, &[]).with(1);
}

/// Two runs that differ are told, and so is a comparison that a kernel of zeros would pass.
#[test]
fn what_is_undetermined_or_says_nothing_is_told() {
    let kernel = "// sanitize: workgroups 4
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read_write> scratch: array<u32, 4>;
@compute @workgroup_size(1)
fn some(@builtin(global_invocation_id) at: vec3<u32>) { y[at.x] = 1e-9; scratch[at.x] = 7u; }
";
    let tensors = Tensors::default().u32("scratch", &[4], |_| 0).f32("y.after", &[4], |_| 1e-9);
    let said = check("told", kernel, &tensors, &[]).with(0);
    says(&said, &["note    y: zeros would hold as well", "note    scratch: u32 [4] is not compared"]);
}

#[test]
fn wrong_flags_and_files_are_refused() {
    let [shader, reference] = files("refused", SAXPY, &saxpy());
    let both = ["check", "--shader", text(&shader), "--reference", text(&reference)];
    let usage: [(&[&str], &str); 9] = [
        (&["--workgroups", "0"], "--workgroups"),
        (&["--entry", "main"], "no compute entry point `main`: it has saxpy"),
        (&["--tolerance", "1e-3"], "ABS,REL"),
        (&["--tolerance", "-1,0"], "not negative"),
        (&["--tolerance", "inf,0"], "not negative"),
        (&["--grad"], "--grad"),
        (&["--seed", "1"], "--seed"),
        (&["matmul"], "CASE"),
        (&["--adapter", "no such"], "no adapter"),
    ];
    for (flags, part) in usage {
        stssad(&[&both, flags]).with(2).error(&[part]);
    }
    stssad(&[&both[..3]]).with(2).error(&["--reference"]);
    stssad(&[&["check", "--reference", text(&reference)]]).with(2).error(&["--shader"]);
    stssad(&[&["check", "--entry", "saxpy"]]).with(2).error(&["--shader"]);
    let silent = SAXPY.replace("// sanitize: workgroups 4", "");
    check("kernels", &silent, &saxpy(), &[]).with(2).error(&["--workgroups X,Y,Z", "// sanitize: workgroups"]);
    let two = format!("{SAXPY}@compute @workgroup_size(1) fn other() {{}}");
    check("kernels", &two, &saxpy(), &[]).with(2).error(&["saxpy, other", "--entry"]);
    check("kernels", &two, &saxpy(), &["--entry", "saxpy"]).with(0);
    check("kernels", &SAXPY.replace("fn saxpy(", "fn saxpy(("), &saxpy(), &[]).with(3).error(&["kernel.wgsl:7: "]);
    let texture = SAXPY.replace("= params.a", "= textureLoad(t, at.xy, 0).x + params.a");
    let texture = format!("{texture}@group(2) @binding(0) var t: texture_2d<f32>;");
    check("kernels", &texture, &saxpy(), &[]).with(3).error(&["kernel.wgsl:10: `t` is a texture"]);

    let nowhere = folder("nowhere").join("none");
    stssad(&[&["check", "--shader", text(&nowhere), "--reference", text(&reference)]]).with(74).error(&["none"]);
    stssad(&[&["check", "--shader", text(&shader), "--reference", text(&nowhere)]]).with(74).error(&["none"]);
    fs::write(&reference, "no tensors").unwrap();
    stssad(&[&both]).with(3).error(&["is no safetensors file", "save_file"]);
}

#[test]
fn tensors_that_do_not_fit_are_refused_with_both_types() {
    let refused: [(Tensors, &[&str]); 12] = [
        (
            saxpy().without("x").without("params.a"),
            &["`saxpy` uses `params.a`, `x`", "there is no tensor", "`y.after`"],
        ),
        (saxpy().f32("z", &[1], x), &["`z`", "`params`, `x`, `y`"]),
        (saxpy().f32("x.befor", &[1], x), &["`x.befor`"]),
        (saxpy().f64("x", &[COUNT], |_| 0.0), &["`x` is F64", "f32", "x.astype(numpy.float32)"]),
        (saxpy().i32("params.n", &[], |_| 1), &["`params.n` is I32", "u32", "numpy.uint32"]),
        (saxpy().i32("y.after", &[COUNT], |_| 1), &["`y.after` is I32", "f32"]),
        (saxpy().f32("y", &[7], x), &["`y` has 7 elements, and `y.after` 200"]),
        (saxpy().f32("params.a", &[2], x), &["`params.a` has 2 elements", "takes 1"]),
        (saxpy().f32("x.after", &[COUNT], x), &["only reads `x`"]),
        (saxpy().without("y.after"), &["nothing to compare", "NAME.after"]),
        (saxpy().f32("y.tolerance", &[7], |_| 1.0), &["`y.tolerance` has 7 elements, neither 1 nor 200"]),
        (saxpy().f32("y.tolerance", &[1], |_| f32::INFINITY), &["`y.tolerance`", "not finite"]),
    ];
    for (tensors, parts) in refused {
        check("tensors", SAXPY, &tensors, &[]).with(3).error(parts);
    }
    // A file may serve several entry points; what is expected of what one does not use cannot hold.
    let second = format!(
        "{SAXPY}@group(0) @binding(9) var<storage, read_write> z: array<f32>;
@compute @workgroup_size(1) fn other() {{ z[0] = 1.0; }}"
    );
    check("tensors", &second, &saxpy().f32("z", &[3], x), &["--entry", "saxpy"]).with(0);
    check("tensors", &second, &saxpy().f32("z.after", &[3], x), &["--entry", "saxpy"]).with(3).error(&["`z.after`"]);
}

/// A kernel that the interpreter does not know is run all the same, and a device says itself what it cannot take.
#[test]
fn the_device_decides_where_the_interpreter_cannot() {
    let large = "// sanitize: workgroups 65536
@group(0) @binding(0) var<storage, read_write> y: array<f32, 4>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) at: vec3<u32>) { if (at.x == 0u) { y = array(1.0, 1.0, 1.0, 1.0); } }
";
    let tensors = Tensors::default().f32("y.after", &[4], |_| 1.0);
    check("large", large, &tensors, &[]).with(4).error(&["does not run `main` of ", "65535"]);
    let far = large.replace("65536", "1").replace("@group(0)", "@group(4294967295)");
    check("far", &far, &tensors, &[]).with(4).error(&["does not run `main` of ", "group 4294967295"]);
    let unknown = "// sanitize: workgroups 1
@group(0) @binding(0) var<storage, read_write> y: array<f32, 4>;
@compute @workgroup_size(4)
fn main(@builtin(local_invocation_index) at: u32) { y[at] = faceForward(vec2(1.0), vec2(-1.0), vec2(f32(at) + 1.0)).x; }
";
    says(&check("unknown", unknown, &tensors, &[]).with(0), &["not interpreted: ", "FaceForward", "holds   y"]);
    let said = check("unknown", &unknown.replace("vec2(-1.0)", "vec2(1.0)"), &tensors, &[]).with(1);
    says(&said, &["4 of 4 elements are wrong (all have the other sign), the first at [0]: got -1e0, want 1e0"]);
    let wide = unknown.replace("f32(at)", "f32(i64(at))");
    let said = check("unknown", &wide, &tensors, &[]);
    match said.code {
        Some(4) => said.error(&["does not run `main` of ", "it has no integers of 64 bits, which the kernel needs"]),
        _ => says(&said.with(0), &["holds   y"]),
    }
}
