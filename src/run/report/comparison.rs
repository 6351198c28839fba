//! Compares methods over tasks by the results of many runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use super::{ReportError, RunFolder, rank_diagram};
use crate::run::statistics::{critical_difference, mean, ranks, standard_deviation, wilcoxon};

/// The result of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub task: String,
    pub method: String,
    pub seed: u64,
    pub result: Measured,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// It is not finished.
    Missing,
    /// It failed, for this reason.
    Failed(String),
    /// It is finished, but its task has no labels of both classes, so that it has no figure to compare.
    Unlabelled,
    /// Its image AUROC.
    Auroc(f64),
}

/// Methods over tasks and seeds. Every combination of the tasks, methods and seeds is expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The method that the others are tested against.
    pub reference: String,
    /// In alphabetical order.
    pub tasks: Vec<String>,
    /// By average rank; methods without one come last.
    pub methods: Vec<Method>,
    /// Nemenyi's [`critical_difference`] of the average ranks.
    pub critical_difference: Option<f64>,
    /// The runs without a result.
    pub missing: Vec<Missing>,
    /// The tasks with finished runs but without labels of both classes.
    pub unlabelled: Vec<String>,
    /// Runs of a task that were to have the same images, and had different ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_images: Vec<OtherImages>,
}

/// Names of runs, by the fingerprints of their images.
pub type OtherImages = BTreeMap<String, Vec<String>>;

/// The results of one method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Method {
    pub name: String,
    /// For each of [`Comparison::tasks`].
    pub cells: Vec<Cell>,
    /// Mean over the tasks for which every method has a result, so that means can be compared.
    pub mean: Option<f64>,
    /// Mean over the same tasks; rank 1 is the highest AUROC, ties are averaged.
    pub average_rank: Option<f64>,
    /// p of Wilcoxon's signed-rank test against the reference, two-sided, over the tasks for which both have a result; the pairs are
    /// means over seeds. `None` for the reference, and if no pair differs.
    pub p: Option<f64>,
}

/// A method on a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Mean over the seeds with a result.
    pub mean: Option<f64>,
    /// Sample standard deviation over the same seeds.
    pub sd: Option<f64>,
    /// Number of these seeds.
    pub seeds: usize,
}

/// A run that was expected and has no result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    pub task: String,
    pub method: String,
    pub seed: u64,
    /// Why it failed; `None` if it did not, and then absent from JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Why runs cannot be compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ComparisonError {
    /// Two results for the same run.
    #[error("there are two results of {method} on {task} with seed {seed}: remove one of the run folders")]
    Duplicate { task: String, method: String, seed: u64 },
}

impl Comparison {
    /// Compares `runs`, in any order.
    ///
    /// # Errors
    /// When a run occurs twice.
    pub fn new(runs: &[Run], reference: &str) -> Result<Self, ComparisonError> {
        let mut results: BTreeMap<(&str, &str, u64), &Measured> = BTreeMap::new();
        let mut unlabelled = BTreeSet::new();
        for Run { task, method, seed, result } in runs {
            if results.insert((task, method, *seed), result).is_some() {
                return Err(ComparisonError::Duplicate { task: task.clone(), method: method.clone(), seed: *seed });
            }
            if *result == Measured::Unlabelled {
                unlabelled.insert(task.clone());
            }
        }
        let tasks: BTreeSet<&str> = results.keys().map(|key| key.0).collect();
        let names: BTreeSet<&str> = results.keys().map(|key| key.1).collect();
        let seeds: BTreeSet<u64> = results.keys().map(|key| key.2).collect();
        let result = |task, method, seed| *results.get(&(task, method, seed)).unwrap_or(&&Measured::Missing);
        let auroc = |result: &Measured| match result {
            Measured::Auroc(auroc) => Some(*auroc),
            Measured::Missing | Measured::Failed(_) | Measured::Unlabelled => None,
        };

        let mut missing = Vec::new();
        let mut methods: Vec<Method> = Vec::new();
        for &name in &names {
            let mut cells = Vec::new();
            for &task in &tasks {
                let found: Vec<f64> = seeds.iter().filter_map(|&seed| auroc(result(task, name, seed))).collect();
                cells.push(Cell { mean: mean(&found), sd: standard_deviation(&found), seeds: found.len() });
                for &seed in &seeds {
                    let failed = match result(task, name, seed) {
                        Measured::Missing => None,
                        Measured::Failed(reason) => Some(reason.clone()),
                        Measured::Unlabelled | Measured::Auroc(_) => continue,
                    };
                    missing.push(Missing { task: task.into(), method: name.into(), seed, failed });
                }
            }
            methods.push(Method { name: name.into(), cells, mean: None, average_rank: None, p: None });
        }

        let common = common(&methods, tasks.len());
        let figures = |method: &Method| common.iter().filter_map(|&task| method.cells[task].mean).collect();
        let figures: Vec<Vec<f64>> = methods.iter().map(figures).collect();
        let mut ranked: Vec<Vec<f64>> = vec![Vec::new(); methods.len()];
        for task in 0..common.len() {
            // The highest AUROC has rank 1.
            let row: Vec<f64> = figures.iter().map(|own| -own[task]).collect();
            ranked.iter_mut().zip(ranks(&row)).for_each(|(all, rank)| all.push(rank));
        }
        let against = methods.iter().find(|method| method.name == reference).map(|method| method.cells.clone());
        for (method, (figures, ranks)) in methods.iter_mut().zip(figures.iter().zip(&ranked)) {
            (method.mean, method.average_rank) = (mean(figures), mean(ranks));
            let pairs = method.cells.iter().zip(against.iter().flatten());
            let differences: Vec<f64> = pairs.filter_map(|(own, other)| Some(own.mean? - other.mean?)).collect();
            method.p = wilcoxon(&differences).map(|test| test.p);
        }
        let rank = |method: &Method| method.average_rank.unwrap_or(f64::INFINITY);
        methods.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        let tasks = tasks.into_iter().map(String::from).collect();
        Ok(Comparison {
            reference: reference.into(),
            tasks,
            critical_difference: critical_difference(methods.len(), common.len()),
            methods,
            missing,
            unlabelled: unlabelled.into_iter().collect(),
            other_images: Vec::new(),
        })
    }

    /// A Markdown table: one row per task, one column per method, then the missing runs. AUROC in percent.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |first: &str, cells: Vec<String>| {
            let cells: Vec<String> = cells.iter().map(|cell| format!(" {cell} |")).collect();
            writeln!(text, "| {first} |{}", cells.concat()).expect("a string takes all");
        };
        let of_each = |cell: &dyn Fn(&Method) -> String| -> Vec<String> { self.methods.iter().map(cell).collect() };
        line("task", of_each(&|method| inert(&method.name)));
        line("---", of_each(&|_| "---:".into()));
        for (index, task) in self.tasks.iter().enumerate() {
            line(&inert(task), of_each(&|method| method.cells[index].to_string()));
        }
        line("**mean**", of_each(&|method| percent(method.mean)));
        line("**average rank**", of_each(&|method| number(method.average_rank, 2)));
        line(&format!("**p against {}**", inert(&self.reference)), of_each(&|method| number(method.p, 4)));
        let all = self.tasks.len();
        let common = common(&self.methods, all).len();
        writeln!(
            text,
            "\nImage AUROC in percent, mean ± standard deviation over seeds. Means and ranks: over the {common} of {all} tasks for \
             which every method has a result; rank 1 is best. p: Wilcoxon signed-rank test, two-sided, over tasks."
        )
        .expect("a string takes all");
        if let Some(difference) = self.critical_difference {
            writeln!(
                text,
                "Average ranks that are further apart than {difference:.2} differ significantly (Nemenyi, 5 % for all pairs \
                 together); see comparison.png."
            )
            .expect("a string takes all");
        }
        if !self.unlabelled.is_empty() {
            let tasks: Vec<String> = self.unlabelled.iter().map(|task| inert(task)).collect();
            writeln!(text, "\nWithout labels of both classes, and so without a figure: {}", tasks.join(", "))
                .expect("a string takes all");
        }
        if !self.missing.is_empty() {
            writeln!(text, "\nMissing runs: {}\n", self.missing.len()).expect("a string takes all");
            for Missing { task, method, seed, failed } in &self.missing {
                let failed = failed.as_ref().map(|reason| format!(", failed: {}", inert(reason))).unwrap_or_default();
                writeln!(text, "* {}, {}, seed {seed}{failed}", inert(task), inert(method))
                    .expect("a string takes all");
            }
        }
        for fingerprints in &self.other_images {
            let runs: Vec<String> = fingerprints
                .iter()
                .map(|(print, names)| format!("{}: {}", inert(print), inert(&names.join(", "))))
                .collect();
            writeln!(text, "\nRuns that cannot be compared, since images changed between them: {}", runs.join("; "))
                .expect("a string takes all");
        }
        text
    }

    /// A row for each task and method: `task,method,mean,sd,seeds`, fields without a value empty.
    ///
    /// # Errors
    /// When the table cannot be encoded.
    pub fn csv(&self) -> Result<Vec<u8>, ReportError> {
        let encode = || -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            let mut table = csv::Writer::from_writer(Vec::new());
            table.write_record(["task", "method", "image_AUROC_mean", "image_AUROC_sd", "seeds"])?;
            for method in &self.methods {
                for (task, cell) in self.tasks.iter().zip(&method.cells) {
                    let field = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
                    let (mean, sd, seeds) = (field(cell.mean), field(cell.sd), cell.seeds.to_string());
                    table.write_record([task, &method.name, &mean, &sd, &seeds])?;
                }
            }
            Ok(table.into_inner()?)
        };
        encode().map_err(|source| ReportError::Encode { file: "comparison.csv", source })
    }

    /// Writes `comparison.md`, `comparison.csv`, `comparison.json` and `comparison.png`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &RunFolder) -> Result<(), ReportError> {
        folder.write("comparison.md", self.markdown().as_bytes())?;
        folder.write("comparison.csv", &self.csv()?)?;
        let json = serde_json::to_vec_pretty(self)
            .map_err(|source| ReportError::Encode { file: "comparison.json", source: source.into() })?;
        folder.write("comparison.json", &json)?;
        let drawn = rank_diagram::draw(self)
            .map_err(|reason| ReportError::Encode { file: "comparison.png", source: reason.into() })?;
        folder.write("comparison.png", &drawn)
    }
}

/// Those of the first `tasks` tasks for which every method has a result.
fn common(methods: &[Method], tasks: usize) -> Vec<usize> {
    let is_common = |&task: &usize| methods.iter().all(|method| method.cells[task].mean.is_some());
    (0..tasks).filter(is_common).collect()
}

/// `98.8 ± 0.4`, or `98.8` for a single seed.
impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&percent(self.mean))?;
        self.sd.map_or(Ok(()), |sd| write!(f, " ± {:.1}", 100.0 * sd))
    }
}

fn percent(share: Option<f64>) -> String {
    number(share.map(|share| 100.0 * share), 1)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("n/a".into(), |value| format!("{value:.digits$}"))
}

/// Escapes a name so that Markdown shows it as it is.
fn inert(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        match character {
            c if c.is_control() => text.push(' '),
            '|' | '\\' | '*' | '_' | '`' | '<' | '&' | '[' | ']' => text.extend(['\\', character]),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(task: &str, method: &str, seed: u64, image_auroc: Option<f64>) -> Run {
        let result = image_auroc.map_or(Measured::Missing, Measured::Auroc);
        Run { task: task.into(), method: method.into(), seed, result }
    }

    fn runs() -> Vec<Run> {
        vec![
            run("b|x", "st-ssad", 0, Some(0.9)),
            run("b|x", "st-ssad", 1, Some(0.8)),
            run("b|x", "static", 0, Some(0.7)),
            run("b|x", "static", 1, Some(0.7)),
            run("a", "st-ssad", 0, Some(0.6)),
            run("a", "st-ssad", 1, Some(0.6)),
            run("a", "static", 0, Some(0.8)),
            run("c", "st-ssad", 0, Some(0.9)),
            run("c", "st-ssad", 1, Some(0.9)),
            run("c", "static", 0, None),
            run("c", "static", 1, None),
        ]
    }

    #[test]
    fn cells_ranks_and_means_by_hand() {
        let comparison = Comparison::new(&runs(), "st-ssad").unwrap();
        assert_eq!(comparison.tasks, ["a", "b|x", "c"]);
        // Ranks on a and b|x alone, where both have a result: a tie, which leaves the order of the names.
        let [own, other] = &comparison.methods[..] else { panic!("two methods") };
        assert_eq!((own.name.as_str(), own.average_rank, other.average_rank), ("st-ssad", Some(1.5), Some(1.5)));
        let sd = own.cells[1].sd.unwrap();
        assert!((sd - 0.1 / 2f64.sqrt()).abs() < 1e-12, "{sd}");
        assert_eq!(other.cells[0], Cell { mean: Some(0.8), sd: None, seeds: 1 });
        assert_eq!(other.cells[2], Cell { mean: None, sd: None, seeds: 0 });
        // On the same two tasks, although one method has a result on c too.
        let means = [own, other].map(|method| method.mean.unwrap());
        assert!((means[0] - (0.6 + 0.85) / 2.0).abs() < 1e-12 && (means[1] - 0.75).abs() < 1e-12, "{means:?}");
        // Differences 0.2 and −0.15: rank sums 2 and 1.
        assert_eq!((own.p, other.p), (None, Some(1.0)));
        let missing: Vec<(&str, u64)> = comparison.missing.iter().map(|run| (run.task.as_str(), run.seed)).collect();
        assert_eq!(missing, [("a", 1), ("c", 0), ("c", 1)]);
    }

    #[test]
    fn the_order_of_runs_does_not_matter_and_twice_is_an_error() {
        let mut reversed = runs();
        reversed.reverse();
        assert_eq!(Comparison::new(&reversed, "st-ssad"), Comparison::new(&runs(), "st-ssad"));
        reversed.push(runs()[0].clone());
        let twice = Comparison::new(&reversed, "st-ssad").unwrap_err();
        assert!(twice.to_string().contains("st-ssad on b|x with seed 0"), "{twice}");
    }

    #[test]
    fn tables_for_people_and_programs() {
        let comparison = Comparison::new(&runs(), "st-ssad").unwrap();
        let text = comparison.markdown();
        for line in [
            "| task | st-ssad | static |",
            "| a | 60.0 ± 0.0 | 80.0 |",
            "| b\\|x | 85.0 ± 7.1 | 70.0 ± 0.0 |",
            "| c | 90.0 ± 0.0 | n/a |",
            "| **mean** | 72.5 | 75.0 |",
            "| **average rank** | 1.50 | 1.50 |",
            "| **p against st-ssad** | n/a | 1.0000 |",
            "* c, static, seed 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
        assert!(text.contains("over the 2 of 3 tasks for which every method has a result"), "{text}");
        let csv = String::from_utf8(comparison.csv().unwrap()).unwrap();
        assert!(csv.contains("\nc,static,,,0\n") && csv.contains("\na,static,0.8,,1\n"), "{csv}");
        let json = serde_json::to_value(&comparison).unwrap();
        assert!(json["methods"][1]["cells"][2]["mean"].is_null());
        assert_eq!(json["missing"][0]["task"], "a");
    }

    #[test]
    fn a_failed_run_is_missing_with_its_reason() {
        let failed = Run { result: Measured::Failed("no\nimages".into()), ..run("d", "static", 0, None) };
        let text = Comparison::new(&[failed, run("d", "st-ssad", 0, None)], "st-ssad").unwrap().markdown();
        for line in ["* d, static, seed 0, failed: no images", "* d, st-ssad, seed 0"] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
    }

    #[test]
    fn a_run_without_labels_is_not_missing() {
        let unlabelled = Run { result: Measured::Unlabelled, ..run("d", "static", 0, None) };
        let comparison = Comparison::new(&[unlabelled, run("d", "st-ssad", 0, None)], "st-ssad").unwrap();
        assert_eq!((comparison.missing.len(), comparison.missing[0].method.as_str()), (1, "st-ssad"));
        let text = comparison.markdown();
        assert!(text.contains("Without labels of both classes, and so without a figure: d\n"), "{text}");
    }

    #[test]
    fn no_runs_or_an_unknown_reference_give_no_p() {
        let empty = Comparison::new(&[], "st-ssad").unwrap();
        assert!(empty.tasks.is_empty() && empty.markdown().starts_with("| task |\n"));
        let unknown = Comparison::new(&runs(), "other").unwrap();
        assert!(unknown.methods.iter().all(|method| method.p.is_none()));
    }
}
