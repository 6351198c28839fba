//! The measured kernels on one self-contained page: a table to sort and search, the roofline with a point for each case, the
//! timeline of the step and its memory.
//!
//! The page holds its figures as JSON and draws them itself (`page/page.js`). It fetches nothing.

use std::collections::HashMap;
use std::path::Path;

use maud::{DOCTYPE, PreEscaped, html};
use serde::{Deserialize, Serialize};

use crate::engine::plan::memory::Memory;
use crate::measure::analyze::{self, Resource};
use crate::measure::figures::{MeasureError, Origin, write};

const SCRIPT: &str = include_str!("page/page.js");
const STYLE: &str = include_str!("page/style.css");

/// What the page shows. All times are in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Page<'a> {
    pub title: String,
    pub origin: &'a Origin,
    /// Sentences below the title.
    pub notes: Vec<String>,
    /// The roofs: FLOP/s and bytes/s.
    pub flops: f64,
    pub bandwidth: f64,
    pub cases: Vec<Entry>,
    /// The dispatches of a step in their order; empty where there is no step.
    pub dispatches: Vec<Slice>,
    pub memory: Option<&'a Memory>,
}

/// The equal dispatches of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// As [`title`](crate::ssad::workload::title).
    pub name: String,
    pub kernel: String,
    /// The constants and types that the kernel is compiled with.
    pub specialisation: String,
    pub calls: usize,
    /// Of all calls.
    pub microseconds: f64,
    /// Of all calls in an earlier report.
    pub old: Option<f64>,
    /// Of one call.
    pub flops: u64,
    pub bytes: u64,
    /// The least time of all calls under the roofs.
    pub bound: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
}

/// A dispatch of the step.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// Its place in [`Page::cases`].
    pub case: usize,
    pub scope: String,
    pub microseconds: f64,
}

/// What `stssad analyze` says of a kernel: nothing of it was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// By the compiler.
    pub registers: Option<u64>,
    pub spilled: Option<u64>,
    pub waves: Option<u64>,
    /// Multiply-adds among the vector operations of the hot loop.
    pub fma_share: Option<f64>,
    pub loads_in_flight: Option<usize>,
    /// By the model: the least time of one call, its share of the peak, and what binds.
    pub bound: Option<f64>,
    pub of_peak: Option<f64>,
    pub binds: Option<Resource>,
}

impl Page<'_> {
    /// Adds what a report of `stssad analyze`, if there is one, says of the kernels: the compiler by what specialises them, the model
    /// by case.
    #[must_use]
    pub fn with_analysis(mut self, analysis: Option<&analyze::Report>) -> Self {
        let Some(analysis) = analysis else { return self };
        let compiled: HashMap<(&str, &str), &analyze::Row> =
            analysis.rows.iter().map(|row| ((row.kernel.as_str(), row.specialisation.as_str()), row)).collect();
        let modelled: HashMap<(&str, &str), &analyze::Bound> = analysis
            .model
            .iter()
            .flat_map(|model| &model.rows)
            .filter_map(|row| Some(((row.kernel.as_str(), row.name.as_str()), row.bound.as_ref()?)))
            .collect();
        let mut found = 0;
        for entry in &mut self.cases {
            let kernel = entry.kernel.as_str();
            let mut finding = Finding::default();
            let row = compiled.get(&(kernel, entry.specialisation.as_str()));
            if let Some(compiled) = row.and_then(|row| row.found.as_ref()) {
                let resources = &compiled.resources;
                finding.registers = Some(resources.vgprs);
                finding.spilled = Some(resources.spilled_vgprs + resources.spilled_sgprs);
                finding.waves = Some(resources.waves_per_simd);
                finding.fma_share = compiled.hot.as_ref().map(|hot| hot.fma_share);
                finding.loads_in_flight = compiled.hot.as_ref().map(|hot| hot.loads_in_flight);
            }
            if let Some(bound) = modelled.get(&(kernel, entry.name.as_str())) {
                finding.bound = Some(1e6 * bound.seconds);
                finding.of_peak = Some(bound.of_peak);
                finding.binds = Some(bound.resource);
            }
            entry.finding = (finding != Finding::default()).then_some(finding);
            found += usize::from(entry.finding.is_some());
        }
        let of = &analysis.origin;
        let compiler =
            if of.driver.is_empty() { "no compiler".into() } else { format!("{} by {}", of.device, of.driver) };
        let model =
            analysis.model.as_ref().map_or("no model".into(), |model| format!("the model of {}", model.machine));
        self.notes.push(format!(
            "Registers, waves, spills, multiply-adds and loads in flight are {compiler}'s, bounds those of {model}: \
             `stssad analyze` knows {found} of these {} cases. None of it was measured.",
            self.cases.len()
        ));
        self
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), MeasureError> {
        write(path, self.render().as_bytes())
    }

    fn render(&self) -> String {
        // In a script element, a `<` could only end it.
        let data = serde_json::to_string(self).expect("plain data with string keys").replace('<', "\\u003c");
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    // Nothing is fetched, whatever the names contain.
                    meta http-equiv="Content-Security-Policy"
                        content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        h1 { (self.title) }
                        p { (self.origin) }
                        @for note in &self.notes { p.note { (note) } }
                    }
                    main {}
                    noscript { p { "The figures are drawn by the script of this page; `profile.json` and `-o jsonl` have them too." } }
                    script type="application/json" id="data" { (PreEscaped(data)) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        page.into_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::peak::tests::roofs;

    fn entry(name: &str, kernel: &str, specialisation: &str) -> Entry {
        Entry {
            name: name.into(),
            kernel: kernel.into(),
            specialisation: specialisation.into(),
            calls: 2,
            microseconds: 8.0,
            old: None,
            flops: 100,
            bytes: 10,
            bound: 4.0,
            finding: None,
        }
    }

    fn page(origin: &Origin) -> Page<'_> {
        Page {
            title: "Kernels </script><b>".into(),
            origin,
            notes: Vec::new(),
            flops: 1e9,
            bandwidth: 1e9,
            cases: vec![entry("</script>", "matmul/product", "M = 3"), entry("b", "matmul/product", "M = 4")],
            dispatches: Vec::new(),
            memory: None,
        }
    }

    #[test]
    fn no_name_ends_the_data() {
        let origin = roofs(1.0, 1.0).origin;
        let text = page(&origin).render();
        assert_eq!(text.matches("</script>").count(), 2, "the data and the script end once each");
        let (_, data) = text.split_once(r#"id="data">"#).unwrap();
        let data: serde_json::Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
        assert_eq!(data["cases"][0]["name"], "</script>");
        assert!(!text.contains("<b>"));
    }

    #[test]
    fn findings_stand_beside_the_kernel_that_they_are_of() {
        let analysis = serde_json::json!({
            "format": analyze::FORMAT,
            "origin": { "version": "", "commit": "", "driver": "Mesa", "device": "NAVI31", "gpu": "navi31", "class": "gpu", "workload": "" },
            "rows": [{
                "name": "another", "kernel": "matmul/product", "specialisation": "M = 3", "dispatches": 1, "flops": 1, "share": 1.0,
                "invocations": 64, "refused": null,
                "found": {
                    "resources": {
                        "vgprs": 96, "sgprs": 128, "spilled_vgprs": 2, "spilled_sgprs": 1, "scratch_bytes": 0, "lds_bytes": 0,
                        "waves_per_simd": 10, "code_bytes": 1, "latency": 1, "inverse_throughput": 1,
                    },
                    "mix": { "instructions": 1, "operations": {} },
                    "hot": null,
                },
            }],
            "model": { "machine": "h100", "rows": [{
                "name": "b", "kernel": "matmul/product", "dispatches": 1, "workgroups": 1, "flops": 1, "refused": null,
                "bound": {
                    "seconds": 2e-6, "of_peak": 0.5, "resource": "floats", "next": "issue", "next_share": 0.5, "line": null, "units": 1.0,
                    "times": {}, "counts": analyze::Counts::default(), "lines": [],
                },
            }] },
        });
        let origin = roofs(1.0, 1.0).origin;
        let page = page(&origin).with_analysis(Some(&serde_json::from_value(analysis).unwrap()));
        let [compiled, modelled] = [0, 1].map(|at| page.cases[at].finding.clone().unwrap());
        let expected = Finding { registers: Some(96), spilled: Some(3), waves: Some(10), ..Finding::default() };
        assert_eq!(compiled, expected);
        let expected =
            Finding { bound: Some(2.0), of_peak: Some(0.5), binds: Some(Resource::Floats), ..Finding::default() };
        assert_eq!(modelled, expected);
        assert!(page.notes[0].contains("NAVI31 by Mesa") && page.notes[0].contains("2 of these 2"), "{:?}", page.notes);
    }
}
