//! Measures how many faulty kernels the tests would miss: mutates every shader and counts the mutants that no case
//! kills.
//!
//! `cargo run --release --example mutate -- [FAMILY] [--json PATH]`. A mutant is killed when, for some case on some
//! class of devices, the sanitizer reports a fault or the output exceeds the primitive's bound. Survivors must be
//! listed in `survivors.json`, each with the reason why it computes the same. The exit status tells whether all are
//! listed and the score is reached.

#[path = "../sanitizer/case.rs"]
mod case;
#[path = "../sanitizer/catalogue.rs"]
mod catalogue;
mod mutants;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use case::{Case, Failure, Reference};
use mutants::{Mutant, mutants};
use serde::{Deserialize, Serialize};
use stssad::engine::kernel::{DeviceClass, Kernel, Lanes, Tile};
use stssad::engine::shaders::{SOURCES, place, source, specialise_text};
use stssad::proof::sanitizer::Program;

/// Share of the mutants, equivalent ones excluded, that must be killed.
const SCORE: f64 = 0.95;

/// Known equivalent survivors: the mutated line, and why it computes the same.
#[derive(Clone, Debug, Deserialize)]
struct Known {
    shader: String,
    was: String,
    becomes: Vec<String>,
    reason: String,
}

/// A kernel that the WGSL must compute correctly.
struct Task<'a> {
    case: &'a Case,
    reference: Reference,
    kernel: Kernel,
    program: Program,
    /// Operations of the original; a mutant may take a few times as many.
    operations: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Fate {
    /// Not WGSL, or compiled to the same program in every case.
    Stillborn,
    Sanitized,
    Wrong,
    Survived,
}

#[derive(Debug, Serialize)]
struct Examined {
    shader: &'static str,
    line: usize,
    operator: &'static str,
    was: String,
    becomes: String,
    fate: Fate,
    /// What killed it, or why it computes the same.
    because: String,
}

impl Task<'_> {
    /// Fails if the text is faulty; otherwise returns whether it compiles to the original program.
    fn examine(&self, text: &str) -> Result<bool, Failure> {
        let program = Case::program(&self.kernel, text)?;
        if program.is_same(&self.program) {
            return Ok(true);
        }
        let outcomes = self.case.run(&self.kernel, &program, 3 * self.operations + 100_000);
        self.reference.check(&self.kernel, &outcomes).map(|()| false)
    }
}

fn examine(tasks: &[Task], original: &str, mutant: &Mutant) -> (Fate, String) {
    let text = mutant.apply(original);
    let mut differs = false;
    for task in tasks {
        if specialise_text(&text, &task.kernel) == specialise_text(original, &task.kernel) {
            continue;
        }
        let examined = catch_unwind(AssertUnwindSafe(|| task.examine(&text)));
        let because = |what: &dyn std::fmt::Display| format!("{}: {what}", task.case);
        match examined {
            Ok(Ok(is_same)) => differs |= !is_same,
            Ok(Err(Failure::Refused(refusal))) => return (Fate::Stillborn, refusal.to_string()),
            Ok(Err(failure @ Failure::Wrong { .. })) => return (Fate::Wrong, because(&failure)),
            Ok(Err(failure)) => return (Fate::Sanitized, because(&failure)),
            Err(_) => return (Fate::Stillborn, "the compiler panicked".into()),
        }
    }
    if differs { (Fate::Survived, String::new()) } else { (Fate::Stillborn, "it compiles to the same".into()) }
}

fn tasks(cases: &[Case]) -> HashMap<&'static str, Vec<Task<'_>>> {
    let mut tasks: HashMap<&str, Vec<Task>> = HashMap::new();
    for case in cases {
        let reference = case.reference();
        // The same text multiplies larger matrices and fills wider vectors.
        for class in [DeviceClass::Gpu, DeviceClass::Cpu(Lanes::Four), DeviceClass::Matrix(Tile::Eight)] {
            for kernel in case.kernels(class) {
                let of_shader = tasks.entry(kernel.name).or_default();
                if of_shader.iter().any(|task| std::ptr::eq(task.case, case) && task.kernel == kernel) {
                    continue;
                }
                let text = source(&kernel).expect("the kernel has a text");
                let program = Case::program(&kernel, text).unwrap_or_else(|failure| panic!("{case}: {failure}"));
                let outcomes = case.run(&kernel, &program, u64::MAX);
                reference.check(&kernel, &outcomes).unwrap_or_else(|failure| panic!("{case}, unchanged: {failure}"));
                let operations = outcomes.iter().map(|outcome| outcome.operations).sum();
                of_shader.push(Task { case, reference: reference.clone(), kernel, program, operations });
            }
        }
    }
    // The quick cases first: most mutants die at any case.
    tasks.values_mut().for_each(|tasks| tasks.sort_by_key(|task| task.operations));
    tasks
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().position(|argument| argument == "--json").map(|at| arguments[at + 1].clone());
    let family = arguments.first().filter(|argument| !argument.starts_with("--")).cloned().unwrap_or_default();
    if !SOURCES.iter().any(|(name, _)| name.starts_with(&family)) {
        eprintln!("no shader's name begins with `{family}`; `reduce` or `conv2d/input` would do");
        return ExitCode::from(2);
    }
    let known: Vec<Known> =
        serde_json::from_str(include_str!("survivors.json")).expect("survivors.json lists the known survivors");

    let begun = Instant::now();
    let cases = catalogue::cases();
    let tasks = tasks(&cases);
    // Do not print naga's panics on mutants.
    std::panic::set_hook(Box::new(|_| {}));
    let mut examined = Vec::new();
    for &(shader, text) in SOURCES.iter().filter(|(name, _)| name.starts_with(&family)) {
        let start = Instant::now();
        let first = examined.len();
        for mutant in mutants(text) {
            let [was, becomes] = mutant.diff(text);
            let (file, line) = place(shader, text, mutant.line);
            // A mutant of an included part is examined with each kernel that includes it, until one kills it.
            let is_same = |other: &Examined| {
                (other.shader, other.line, &other.was, &other.becomes) == (file, line, &was, &becomes)
            };
            let before = examined.iter().position(is_same);
            if before.is_some_and(|at| matches!(examined[at].fate, Fate::Sanitized | Fate::Wrong)) {
                continue;
            }
            let (fate, mut because) = examine(&tasks[shader], text, &mutant);
            if fate == Fate::Survived {
                let is_known =
                    |known: &&Known| known.shader == file && known.was == was && known.becomes.contains(&becomes);
                because = known.iter().find(is_known).map_or(String::new(), |known| known.reason.clone());
            }
            let of_file = Examined { shader: file, line, operator: mutant.operator, was, becomes, fate, because };
            match before {
                Some(_) if fate == Fate::Stillborn => {}
                Some(at) => examined[at] = of_file,
                None => examined.push(of_file),
            }
        }
        let count = |fate| examined[first..].iter().filter(|mutant| mutant.fate == fate).count();
        eprintln!(
            "{shader}: {} mutants, {} survive, {:.1?}",
            examined.len() - first - count(Fate::Stillborn),
            count(Fate::Survived),
            start.elapsed()
        );
    }
    let score = print(&examined);
    println!("{:.0?} in all", begun.elapsed());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&examined).expect("the table is plain data");
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    let unexplained = examined.iter().any(|mutant| mutant.fate == Fate::Survived && mutant.because.is_empty());
    if !unexplained && score >= SCORE { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the tables and returns the score.
fn print(examined: &[Examined]) -> f64 {
    let mut by_operator: BTreeMap<&str, BTreeMap<Fate, usize>> = BTreeMap::new();
    for mutant in examined {
        *by_operator.entry(mutant.operator).or_default().entry(mutant.fate).or_default() += 1;
    }
    println!("{:12} {:>8} {:>10} {:>8} {:>9}", "operator", "mutants", "sanitizer", "wrong", "survived");
    for (operator, fates) in &by_operator {
        let count = |fate| fates.get(&fate).copied().unwrap_or_default();
        let (sanitized, wrong, survived) = (count(Fate::Sanitized), count(Fate::Wrong), count(Fate::Survived));
        println!("{operator:12} {:>8} {sanitized:>10} {wrong:>8} {survived:>9}", sanitized + wrong + survived);
    }
    let survivors: Vec<&Examined> = examined.iter().filter(|mutant| mutant.fate == Fate::Survived).collect();
    for mutant in &survivors {
        println!("shaders/{}.wgsl:{}: {}", mutant.shader, mutant.line, mutant.operator);
        println!("  - {}\n  + {}", mutant.was, mutant.becomes);
        println!("  {}", if mutant.because.is_empty() { "NOT EXPLAINED" } else { &mutant.because });
    }
    let alive = examined.iter().filter(|mutant| mutant.fate != Fate::Stillborn).count();
    let equivalent = survivors.iter().filter(|mutant| !mutant.because.is_empty()).count();
    let killed = alive - survivors.len();
    let score = killed as f64 / (alive - equivalent) as f64;
    println!(
        "{killed} of {alive} mutants killed, {equivalent} of the survivors equivalent: score {:.1} % ({:.1} % with them)",
        100.0 * score,
        100.0 * killed as f64 / alive as f64
    );
    score
}
