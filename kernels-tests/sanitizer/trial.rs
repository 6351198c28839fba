//! Kernels that are not ours: each kind of fault, planted in what only they use, with a repair.

use stssad::proof::sanitizer::{Contents, Findings, Kind, Level, Setting, Trial, TrialError};

/// A kernel of 64 invocations with a body, and what it declares. `x` is read, `y` read and written.
fn source(declared: &str, body: &str) -> String {
    format!(
        "{declared}
@group(2) @binding(3) var<storage, read> x: array<u32>;
@group(2) @binding(7) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64)
fn kernel(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {{
{body}
}}"
    )
}

fn findings(text: &str) -> Findings {
    let trial = Trial::new("planted.wgsl", text).workgroups([2, 1, 1]).buffer(2, 3, Contents::random(1024)).buffer(
        2,
        7,
        Contents::Zero(Some(1024)),
    );
    trial.run().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The body's first line is the seventh where nothing but one line is declared.
#[track_caller]
fn found(kind: Kind, level: Level, declared: &str, body: &str, repair: [&str; 2]) {
    let text = source(declared, body);
    let faulty = findings(&text);
    let line = 1 + text.lines().position(|line| line.contains("FAULT")).expect("a line is marked") as u32;
    let is_meant = |it: &&stssad::proof::sanitizer::Report| (it.kind, it.level, it.line) == (kind, level, line);
    assert!(faulty.reports().any(|it| is_meant(&it)), "{kind:?} in line {line}: {faulty}");
    assert_eq!(faulty.passed(), level == Level::Note, "{faulty}");
    assert!(faulty.reports().all(|it| it.column > 0 && !it.message.is_empty()), "{faulty}");
    let mended = text.replacen(repair[0], repair[1], 1);
    assert_ne!(mended, text, "the repair changes nothing");
    let mended = findings(&mended);
    assert_eq!(mended.reports().count(), 0, "{mended}");
}

#[test]
fn races_are_found() {
    use Kind::Race;
    let index = "y[lane] = x[lane]; // FAULT";
    found(Race, Level::Error, "", index, ["y[lane]", "y[group.x * 64u + lane]"]);
    let exchange = "s[lane] = x[lane];
// barrier
y[group.x * 64u + lane] = s[63u - lane]; // FAULT";
    let shared = "var<workgroup> s: array<u32, 64>;";
    let text = source(shared, exchange);
    let faulty = findings(&text);
    assert!(
        faulty.reports().any(|it| it.kind == Race && it.message.contains("without a workgroupBarrier between")),
        "{faulty}"
    );
    assert!(!faulty.passed());
    let mended = findings(&text.replace("// barrier", "workgroupBarrier();"));
    assert_eq!(mended.reports().count(), 0, "{mended}");
    // A structure's member, behind a pointer, in a function.
    let declared = "struct Cell { count: u32, sum: vec3<f32> } var<workgroup> cells: array<Cell, 2>; \
                    fn add(at: u32, by: u32) { let cell = &cells[at]; (*cell).count = by; } // FAULT";
    let repair = ["add(lane / 32u, lane);", "if lane < 2u { add(lane, lane); }"];
    found(Race, Level::Error, declared, repair[0], repair);
}

#[test]
fn atomics_do_not_race() {
    let declared = "var<workgroup> sum: atomic<u32>; var<workgroup> plain: u32;";
    let body = "if lane == 0u { atomicStore(&sum, 0u); } workgroupBarrier(); atomicAdd(&sum, lane); workgroupBarrier(); \
                let all = atomicLoad(&sum); y[group.x * 64u + lane] = all;";
    let clean = findings(&source(declared, body));
    assert_eq!(clean.reports().count(), 0, "{clean}");
    let plain = body.replace("atomicAdd(&sum, lane)", "plain += lane");
    assert!(!findings(&source(declared, &plain)).passed());
}

#[test]
fn accesses_out_of_bounds_are_found() {
    use Kind::OutOfBounds;
    let own = "y[group.x * 64u + lane] =";
    let read = format!("{own} x[lane * 5u]; // FAULT");
    found(OutOfBounds, Level::Error, "", &read, ["lane * 5u", "lane * 4u"]);
    found(OutOfBounds, Level::Error, "", "y[group.x * 256u + lane] = 1u; // FAULT", ["256u", "64u"]);
    let matrix = format!("var m = mat3x3<f32>(); m[x[lane] % 4u + 2u][1] = 1.0; {own} u32(m[0][0]); // FAULT");
    found(OutOfBounds, Level::Error, "", &matrix, ["% 4u + 2u", "% 3u"]);
    let private = format!("p[lane] = 1u; {own} p[lane]; // FAULT");
    found(OutOfBounds, Level::Error, "var<private> p: array<u32, 63>;", &private, ["63", "64"]);
}

#[test]
fn barriers_in_divergent_control_flow_are_found() {
    let body = "if x[lane] < 4u {
workgroupBarrier(); // FAULT
}";
    found(Kind::Barrier, Level::Error, "", body, ["x[lane]", "group.x"]);
    let body = "if lane < 32u { return; }
y[group.x * 64u + lane] = subgroupAdd(lane); // FAULT";
    // Whole subgroups may return.
    let text = source("enable subgroups;", body);
    assert_eq!(findings(&text).reports().count(), 0);
    found(Kind::Barrier, Level::Error, "enable subgroups;", &body.replace("32u", "33u"), ["33u", "32u"]);
}

#[test]
fn arithmetic_that_wgsl_defines_but_few_mean_is_found() {
    let own = "y[group.x * 64u + lane] =";
    let divided = format!("{own} 7u / (x[lane] * 0u + lane); // FAULT");
    found(Kind::DivisionByZero, Level::Warning, "", &divided, ["+ lane);", "+ lane + 1u);"]);
    let shifted = format!("{own} 1u << lane; // FAULT");
    found(Kind::Shift, Level::Note, "", &shifted, ["<< lane", "<< (lane % 32u)"]);
    let wrapped = format!("{own} u32(i32(lane) * 100000000); // FAULT");
    found(Kind::Wrapped, Level::Note, "", &wrapped, ["100000000", "1000"]);
    let least = format!("{own} u32((i32(lane) - 2147483647 - 1) / (2 * i32(group.x) - 1)); // FAULT");
    found(Kind::Wrapped, Level::Note, "", &least, ["- 1) / ", "- 0) / "]);
    let converted = format!("{own} u32(f32(lane) - 1.0); // FAULT");
    found(Kind::Conversion, Level::Note, "", &converted, ["- 1.0", "+ 1.0"]);
    let overflowed = format!("{own} x[(lane * 0x8000001u) % 256u]; // FAULT");
    found(Kind::Overflow, Level::Note, "", &overflowed, ["0x8000001u", "1u"]);
    let missed = format!("{own} x[lane * 0x40000000u]; // FAULT");
    let found = findings(&source("", &missed));
    assert!(found.reports().any(|it| (it.kind, it.level) == (Kind::Overflow, Level::Warning)), "{found}");
}

#[test]
fn memory_that_nothing_wrote_is_found() {
    let body = "if lane > 0u { s[lane] = x[lane]; }
workgroupBarrier();
y[group.x * 64u + lane] = s[lane]; // FAULT";
    found(Kind::Unwritten, Level::Note, "var<workgroup> s: array<u32, 64>;", body, ["if lane > 0u", "if lane < 64u"]);
    // A padded structure that is written member by member and read as a whole.
    let declared = "struct Padded { a: u32, b: vec3<u32> } var<workgroup> s: array<Padded, 64>;";
    let body = "s[lane].a = 1u; s[lane].b = vec3(2u); let whole = s[lane]; y[group.x * 64u + lane] = whole.b.x;";
    let clean = findings(&source(declared, body));
    assert_eq!(clean.reports().count(), 0, "{clean}");
    let text = source("", "y[group.x * 64u + lane] += 1u;");
    let trial = |contents| Trial::new("planted.wgsl", &text).buffer(2, 7, contents).run().unwrap();
    let kinds: Vec<_> = trial(Contents::Unwritten(Some(1024))).reports().map(|it| (it.kind, it.level)).collect();
    assert_eq!(kinds, [(Kind::Unwritten, Level::Error)]);
    assert!(trial(Contents::Zero(Some(1024))).passed());
}

#[test]
fn what_never_ends_is_ended() {
    let text = source("", "loop { y[0] = 1u; if x[0] > 100u { break; } }");
    let findings = Trial::new("planted.wgsl", &text).set(Setting::Limit(10_000)).run().unwrap();
    assert!(findings.reports().any(|it| it.kind == Kind::Endless), "{findings}");
}

/// A fault that chosen contents bring about is a note; the same contents, when given, make it an error.
#[test]
fn what_depends_on_chosen_contents_is_a_note() {
    for body in [
        "y[group.x * 64u + lane] = p[x[lane] + 3u];",
        "var sum = 0u; for (var i = 0u; i < x[0] + 5u; i++) { sum += p[i]; } y[group.x * 64u + lane] = sum;",
        "var i = 0u; while true { if i > x[0] + 4u { break; } i++; } y[group.x * 64u + lane] = p[i];",
        "y[x[lane]] = 1u;",
    ] {
        let text = source("var<private> p: array<u32, 4>;", body);
        let chosen = Trial::new("planted.wgsl", &text).run().unwrap();
        assert!(chosen.passed(), "{chosen}");
        assert!(chosen.reports().any(|it| it.level == Level::Note && it.assumed), "{chosen}");
        let given = findings(&text);
        assert!(!given.passed() && given.reports().all(|it| !it.assumed), "{given}");
    }
    // A guard by a chosen number does not weaken what it guards.
    let text = source("var<private> p: array<u32, 4>;", "if lane < x[0] + 1u { p[lane + 4u] = 1u; }");
    assert!(!Trial::new("planted.wgsl", &text).run().unwrap().passed());
}

/// Values are right where they can be seen: they index an array of one element, out of bounds unless 0.
#[test]
fn what_others_use_is_computed_right() {
    let declared = "
enable f16;
enable subgroups;
override SCALE: u32 = 3u;
@id(7) override FLAG: bool = false;
struct Inner { a: vec2<f32>, m: mat3x2<f32> }
struct Params { n: u32, scale: f32, inner: array<Inner, 2>, last: vec3<f32> }
struct Small { n: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> params: Params;
@group(0) @binding(1) var<uniform> small: Small;
var<private> counter: i32 = 5;
const TABLE = array<vec3<f32>, 2>(vec3(1.0, 2.0, 3.0), vec3(4.0, 5.0, 6.0));
fn bump(p: ptr<function, array<u32, 4>>, at: u32) -> u32 { (*p)[at] += 2u; return (*p)[at]; }
";
    for (condition, name) in [
        ("SCALE == 4u && FLAG", "overrides"),
        ("small.n == 10u && small.scale == 0.5", "uniforms"),
        ("all(params.inner[1].m[2] == vec2(19.0, 20.0)) && params.last.z == 23.0", "matrices in arrays of structures"),
        ("all(mat2x2(unit, 2.0, 3.0, 4.0) * vec2(unit, 10.0) == vec2(31.0, 42.0))", "matrix times vector"),
        ("all(vec2(unit, 10.0) * mat2x2(unit, 2.0, 3.0, 4.0) == vec2(21.0, 43.0))", "vector times matrix"),
        (
            "(mat3x3(unit, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 3.0) * mat3x3(vec3(1.0), vec3(2.0), vec3(3.0)))[1].y == 4.0",
            "matrix times matrix",
        ),
        ("determinant(mat3x3(2.0 * unit, 0.0, 1.0, 1.0, 3.0, 2.0, 1.0, 1.0, 4.0)) == 18.0", "determinants"),
        ("all(transpose(mat3x2(unit, 2.0, 3.0, 4.0, 5.0, 6.0))[1] == vec3(2.0, 4.0, 6.0))", "transposes"),
        ("all(cross(vec3(unit, 2.0, 3.0), vec3(4.0, 5.0, 7.0)) == vec3(-1.0, 5.0, -3.0))", "cross products"),
        ("length(vec2(3.0 * unit, 4.0)) == 5.0 && distance(vec2(unit), vec2(4.0, 5.0)) == 5.0", "lengths"),
        ("TABLE[params.n - 9u].y == 5.0", "constant arrays of vectors"),
        ("counter == 5", "private variables"),
        ("unpack4x8unorm(pack4x8unorm(vec4(0.0, unit, 0.2, 0.6))).z == 0.2", "packing"),
        (
            "extractBits(0xabcd1234u, small.n - 2u, 8u) == 0x12u && extractBits(-16, small.n - 8u, 5u) == -4",
            "bit fields",
        ),
        ("insertBits(0u, 0xffu, small.n - 6u, 4u) == 0xf0u", "bit fields that are inserted"),
        ("firstLeadingBit(1u << params.n) == 10u && firstTrailingBit(4u * params.n) == 3u", "first bits"),
        ("f32(f16(unit) + f16(0.0001)) == 1.0", "arithmetic of halves"),
        (
            "frexp(6.0 * unit).fract == 0.75 && frexp(6.0 * unit).exp == 3 && modf(-1.25 * unit).whole == -1.0",
            "frexp and modf",
        ),
        ("dot4I8Packed(0xff020300u + params.n, 0x01010101u) == 14", "packed dot products"),
        ("subgroupAdd(1u) == 32u && subgroupExclusiveAdd(1u) == lane % 32u", "reductions and scans"),
        ("subgroupBroadcastFirst(lane) == lane / 32u * 32u && subgroupShuffleXor(lane, 1u) == (lane ^ 1u)", "shuffles"),
        ("subgroupBallot(lane % 2u == 0u).x == 0x55555555u && subgroupAny(lane == 40u) == (lane > 31u)", "votes"),
    ] {
        let body = format!(
            "var array_of = array<u32, 4>(); let unit = 2.0 * small.scale; let bumped = bump(&array_of, lane % 4u) - 2u; var one = array<u32, 1>(); \
             y[group.x * 64u + lane] = one[bumped + select(1u, 0u, {condition})];"
        );
        let check = |text: &str| {
            let values = [10.0, 0.5].into_iter().chain((5..=23).map(f64::from)).collect();
            let trial = Trial::new("planted.wgsl", text)
                .workgroups([1, 1, 1])
                .buffer(0, 0, Contents::Values(values))
                .buffer(0, 1, Contents::Values(vec![10.0, 0.5]))
                .buffer(2, 7, Contents::Zero(Some(256)))
                .constant("SCALE", 4.0)
                .constant("FLAG", 1.0);
            trial.run().unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let text = source(declared, &body);
        let right = check(&text);
        assert_eq!(right.reports().count(), 0, "{name}: {right}");
        // The opposite is out of bounds, so that the check can fail.
        let wrong = check(&text.replace("select(1u, 0u", "select(0u, 1u"));
        assert!(wrong.reports().any(|it| it.kind == Kind::OutOfBounds && it.occurrences == 64), "{name}: {wrong}");
    }
}

#[test]
fn textures_are_loaded_stored_and_watched() {
    let text = "
@group(0) @binding(0) var source: texture_2d<f32>;
@group(0) @binding(1) var target_: texture_storage_2d<rgba8unorm, write>;
@group(0) @binding(2) var smooth_: sampler;
@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let size = textureDimensions(source);
    let one = textureLoad(source, at.xy, 0) + textureSampleLevel(source, smooth_, vec2<f32>(at.xy) / vec2<f32>(size), 0.0);
    textureStore(target_, at.xy, one);
}";
    let clean = Trial::new("texture.wgsl", text).run().unwrap();
    assert_eq!(clean.reports().count(), 0, "{clean}");
    assert_eq!(clean.runs[0].workgroups, [2, 2, 1]);
    let racy = Trial::new("texture.wgsl", text.replace("(target_, at.xy", "(target_, at.xx")).run().unwrap();
    assert!(racy.reports().any(|it| it.kind == Kind::Race && it.line == 9), "{racy}");
}

#[test]
fn comments_set_what_a_run_depends_on() {
    let text = "
// sanitize: workgroups 3
// sanitize: buffer 0,0=zero:4
// sanitize second: workgroups 1,2
// sanitizers are tools
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1) fn first(@builtin(workgroup_id) group: vec3<u32>) { y[group.x] = 1u; }
@compute @workgroup_size(1) fn second(@builtin(workgroup_id) group: vec3<u32>) { y[group.x] = 1u; }";
    let findings = Trial::new("two.wgsl", text).run().unwrap();
    let runs: Vec<_> = findings.runs.iter().map(|run| (run.entry.as_str(), run.workgroups, run.passed())).collect();
    assert_eq!(runs, [("first", [3, 1, 1], false), ("second", [1, 2, 1], false)]);
    assert_eq!(findings.runs[0].reports[0].occurrences, 2, "{findings}");
    assert_eq!(findings.runs[1].reports[0].kind, Kind::Race, "{findings}");
    let called = Trial::new("two.wgsl", text).entry("first").workgroups([1, 1, 1]).run().unwrap();
    assert!(called.passed() && called.runs.len() == 1, "{called}");
    let wrong = Trial::new("two.wgsl", text.replace("zero:4", "zer0")).run().unwrap_err();
    assert!(matches!(wrong, TrialError::Comment { line: 3, .. }), "{wrong}");
}

/// What cannot be run is refused with the reason, and what is wrong with it.
#[test]
fn what_cannot_be_run_is_refused() {
    let main = |declared: &str, body: &str| format!("{declared}\n@compute @workgroup_size(1) fn main() {{\n{body}\n}}");
    let refused = |trial: Trial| trial.run().map(|findings| findings.to_string()).unwrap_err().to_string();
    for (text, part) in [
        (main("", "let x = ;"), "odd.wgsl:3: "),
        (main("var<private> p: array<u32, 2>;", "p[2] = 1u;"), "odd.wgsl:"),
        (main("var<private> p: f64;", "p = 1.0lf;"), "odd.wgsl:1: unsupported: "),
        (main("override N: u32; var<private> p: u32;", "p = N;"), "N"),
        (main("var<workgroup> p: array<u32, 100000000>;", "p[0] = 1u;"), "unsupported"),
        ("fn main() {}".to_owned(), "no compute entry point"),
        (String::new(), "no compute entry point"),
    ] {
        let reason = refused(Trial::new("odd.wgsl", &text));
        assert!(reason.contains(part), "no `{part}` in `{reason}`");
    }
    let text = source("struct P { a: u32, b: vec4<f32> } @group(0) @binding(0) var<uniform> p: P;", "y[0] = p.a;");
    let trial = || Trial::new("odd.wgsl", &text).entry("kernel");
    for (trial, part) in [
        (trial().entry("other"), "has no compute entry point `other`: it has kernel"),
        (trial().buffer(5, 5, Contents::Zero(None)), "`kernel` has nothing at 5,5; it uses"),
        (trial().buffer(0, 0, Contents::Zero(Some(16))), "0,0 `p` takes 32 bytes at least, not 16"),
        (trial().buffer(0, 0, Contents::Unwritten(None)), "only read"),
        (trial().buffer(0, 0, Contents::Values(vec![0.0; 6])), "takes 1 values fewer"),
        (trial().buffer(2, 7, Contents::Zero(Some(1 << 40))), "more than the"),
        (trial().buffer(2, 7, Contents::Texture([1; 3])), "is no texture"),
        (trial().buffer(2, 7, Contents::File("none.bin".into())), "cannot read none.bin"),
        (trial().constant("M", 1.0), "M"),
        (trial().workgroups([u32::MAX; 3]), "more than the interpreter runs"),
    ] {
        let reason = refused(trial);
        assert!(reason.contains(part), "no `{part}` in `{reason}`");
    }
    for (key, value) in [
        ("workgroups", "0,1"),
        ("workgroups", "1,2,3,4"),
        ("workgroups", "x"),
        ("buffer", "0=zero"),
        ("buffer", "0,1=zeros"),
        ("buffer", "0,1=zero:many"),
        ("buffer", "0,1=random:4:0"),
        ("buffer", "0,1=values:1,x"),
        ("override", "N"),
        ("override", "N=x"),
        ("subgroup", "3"),
        ("seed", "-1"),
        ("colour", "red"),
    ] {
        assert!(Setting::parse(key, value).is_err(), "{key} {value}");
    }
}
