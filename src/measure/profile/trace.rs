//! A step as Chrome trace events, for ui.perfetto.dev and chrome://tracing.

use serde_json::{Value, json};

use super::Report;
use crate::engine::gpu::Span;
use crate::engine::plan::Plan;
use crate::engine::plan::memory::Memory;

/// Rows of the timeline.
const DEVICE: u32 = 1;
const KERNELS: u32 = 1;

/// One complete event for each dispatch, nested in one for each of its scopes, and a counter of the live bytes. Events
/// are ordered by time, outer before inner. Times are microseconds rounded to whole nanoseconds, so that nesting is
/// exact.
pub(super) fn events(plan: &Plan, spans: &[Option<Span>], report: &Report) -> Value {
    let name = format!("{} by the {} clock", report.origin.device, report.clock);
    let mut events = vec![
        json!({ "ph": "M", "pid": DEVICE, "tid": KERNELS, "name": "process_name", "args": { "name": name } }),
        json!({ "ph": "M", "pid": DEVICE, "tid": KERNELS, "name": "thread_name", "args": { "name": "step" } }),
    ];
    let live = Memory::of(plan).live;
    // [name, event, start] of each open scope.
    let mut scopes: Vec<(&str, usize, u64)> = Vec::new();
    let mut now = 0;
    for (index, (step, span)) in plan.steps.iter().zip(spans).enumerate() {
        let Some(span) = span else { continue };
        // Dispatches that overlap on the device are drawn one after another: events in a row may nest but not cross.
        let [start, end] =
            [span.start, span.start + span.seconds].map(|seconds| now.max((1e9 * seconds).round() as u64));
        let segments: Vec<&str> = step.scope.split('.').filter(|segment| !segment.is_empty()).collect();
        let common = scopes.iter().zip(&segments).take_while(|((open, ..), segment)| open == *segment).count();
        close(&mut events, scopes.drain(common..), now);
        for segment in &segments[common..] {
            scopes.push((segment, events.len(), start));
            events.push(complete("scope", segment, start, start));
        }

        let dispatch = &report.dispatches[index];
        let mut event = complete("kernel", step.kernel.name, start, end);
        let case = &report.cases[dispatch.case];
        event["args"] = json!({
            "case": case.name,
            "constants": case.specialisation,
            "value": dispatch.value,
            "inputs": dispatch.inputs,
            "output": dispatch.output,
            "flops": dispatch.flops,
            "bytes": dispatch.bytes,
            "bound_us": dispatch.bound,
            "workgroups": step.kernel.workgroups(),
            "order": step.order,
        });
        events.push(event);
        let bytes = json!({ "bytes": live[index] });
        events.push(json!({ "ph": "C", "pid": DEVICE, "name": "live in slots", "ts": micro(start), "args": bytes }));
        now = end;
    }
    close(&mut events, scopes.drain(..), now);
    json!({ "traceEvents": events, "displayTimeUnit": "ns", "otherData": report.origin })
}

/// Ends open scopes, given as (name, event, start), at `now`.
fn close<'a>(events: &mut [Value], scopes: impl Iterator<Item = (&'a str, usize, u64)>, now: u64) {
    scopes.for_each(|(_, event, since)| events[event]["dur"] = json!(micro(now - since)));
}

fn micro(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

fn complete(category: &str, name: &str, start: u64, end: u64) -> Value {
    let (start, duration) = (micro(start), micro(end - start));
    json!({ "ph": "X", "pid": DEVICE, "tid": KERNELS, "cat": category, "name": name, "ts": start, "dur": duration })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::profile::tests::example;

    /// A slice as an importer sees it, in nanoseconds.
    #[derive(Debug)]
    struct Slice {
        name: String,
        end: u64,
    }

    /// Reads a trace by the rules of the Trace Event Format, as an importer does: metadata first; events ordered by
    /// time; the complete events of a thread on a stack, each ending before the event that encloses it. Returns the
    /// number of slices, or the broken rule.
    fn read(text: &str) -> Result<usize, String> {
        let trace: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if !["ms", "ns"].contains(&trace["displayTimeUnit"].as_str().unwrap_or_default()) {
            return Err("no unit of display".into());
        }
        let nanoseconds = |event: &Value, key: &str| -> Result<u64, String> {
            let time = event[key].as_f64().filter(|time| *time >= 0.0).ok_or(format!("{event}: no {key}"))?;
            let whole = (1e3 * time).round();
            ((1e3 * time - whole).abs() < 1e-3)
                .then_some(whole as u64)
                .ok_or(format!("{event}: {key} is no whole number"))
        };
        let (mut stacks, mut named, mut now) = (std::collections::BTreeMap::new(), Vec::new(), 0);
        let mut slices = 0;
        for event in trace["traceEvents"].as_array().ok_or("no array of events")? {
            let of = |holds: bool, rule: &str| if holds { Ok(()) } else { Err(format!("{event}: {rule}")) };
            of(event["name"].as_str().is_some_and(|name| !name.is_empty()), "no name")?;
            let process = event["pid"].as_u64().ok_or(format!("{event}: no pid"))?;
            let phase = event["ph"].as_str().ok_or(format!("{event}: no phase"))?;
            if phase == "M" {
                let known = ["process_name", "thread_name"].contains(&event["name"].as_str().unwrap());
                of(known && event["args"]["name"].is_string() && slices == 0, "metadata without effect")?;
                named.push((process, event["tid"].as_u64()));
                continue;
            }
            let start = nanoseconds(event, "ts")?;
            of(start >= now, "earlier than the one before")?;
            now = start;
            match phase {
                "X" => {
                    let thread = event["tid"].as_u64().ok_or(format!("{event}: no tid"))?;
                    of(named.contains(&(process, Some(thread))), "a thread without a name")?;
                    of(event["cat"].is_string(), "no category")?;
                    let slice = Slice { name: event["name"].to_string(), end: start + nanoseconds(event, "dur")? };
                    let stack: &mut Vec<Slice> = stacks.entry((process, thread)).or_default();
                    while stack.last().is_some_and(|open| open.end <= start) {
                        stack.pop();
                    }
                    let holds = stack.last().is_none_or(|open| slice.end <= open.end);
                    of(holds, &format!("ends after {:?}, in which it began", stack.last().map(|open| &open.name)))?;
                    stack.push(slice);
                    slices += 1;
                }
                "C" => {
                    let series = event["args"].as_object().ok_or(format!("{event}: no series"))?;
                    of(!series.is_empty() && series.values().all(Value::is_number), "a counter counts")?;
                }
                _ => return Err(format!("{event}: phase {phase} is not written")),
            }
        }
        Ok(slices)
    }

    #[test]
    fn a_trace_is_well_formed_and_nests() {
        let (plan, mut spans, report) = example();
        let trace = events(&plan, &spans, &report);
        let slices = read(&trace.to_string()).unwrap();
        let count = |trace: &Value, category: &str| {
            let events = trace["traceEvents"].as_array().unwrap();
            events.iter().filter(|event| event["cat"] == category).count()
        };
        assert_eq!(count(&trace, "kernel"), plan.steps.len());
        assert!(count(&trace, "scope") >= 3 && slices == count(&trace, "kernel") + count(&trace, "scope"));

        // Overlapping dispatches, one with zero duration, one without a time, and a clock of fractional nanoseconds.
        spans[0] = Some(Span { start: 1.0 / 3e6, seconds: 0.0 });
        spans[1] = Some(Span { start: 0.5e-6, seconds: 3e-6 });
        spans[2] = None;
        let odd = events(&plan, &spans, &report);
        assert_eq!(count(&odd, "kernel"), plan.steps.len() - 1);
        read(&odd.to_string()).unwrap();
    }

    #[test]
    fn malformed_traces_are_detected() {
        let (plan, spans, report) = example();
        let trace = events(&plan, &spans, &report);
        let first = |category: &str| {
            let events = trace["traceEvents"].as_array().unwrap();
            events.iter().position(|event| event["cat"] == category).unwrap()
        };
        let (scope, kernel) = (first("scope"), first("kernel"));
        let broken = |change: &dyn Fn(&mut Vec<Value>)| {
            let mut trace = trace.clone();
            change(trace["traceEvents"].as_array_mut().unwrap());
            read(&trace.to_string()).unwrap_err()
        };
        assert!(broken(&|events| events[kernel]["dur"] = json!(1e6)).contains("ends after"));
        assert!(broken(&|events| events.swap(scope, kernel)).contains("ends after"));
        assert!(broken(&|events| events[kernel]["ts"] = json!(-1.0)).contains("no ts"));
        assert!(broken(&|events| events[kernel]["ts"] = json!(1e6)).contains("earlier"));
        assert!(broken(&|events| events[kernel]["ph"] = json!("B")).contains("phase B"));
        assert!(broken(&|events| drop(events.drain(..2))).contains("without a name"));
    }
}
