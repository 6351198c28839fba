//! The step as Chrome's trace events, which ui.perfetto.dev and chrome://tracing open.

use serde_json::{Value, json};

use super::{Memory, Report};
use crate::gpu::Span;
use crate::plan::Plan;

/// Rows of the timeline.
const DEVICE: u32 = 1;
const KERNELS: u32 = 1;

/// One complete event for each dispatch, nested in one for each scope, and a counter of the live bytes. Times are in
/// microseconds.
pub(super) fn events(plan: &Plan, spans: &[Option<Span>], report: &Report) -> Value {
    let name = format!("{} by the {} clock", report.origin.device, report.clock);
    let mut events = vec![
        json!({ "ph": "M", "pid": DEVICE, "tid": KERNELS, "name": "process_name", "args": { "name": name } }),
        json!({ "ph": "M", "pid": DEVICE, "tid": KERNELS, "name": "thread_name", "args": { "name": "step" } }),
    ];
    let live = Memory::of(plan).live;
    let mut scopes: Vec<(&str, f64)> = Vec::new();
    let mut now = 0.0f64;
    for (index, (step, span)) in plan.steps.iter().zip(spans).enumerate() {
        let Some(span) = span else { continue };
        // Dispatches that overlap on the device are drawn one after another: a row nests, but does not cross.
        let (start, end) = (now.max(1e6 * span.start), now.max(1e6 * (span.start + span.seconds)));
        let segments: Vec<&str> = step.scope.split('.').filter(|segment| !segment.is_empty()).collect();
        let common = scopes.iter().zip(&segments).take_while(|((open, _), segment)| open == *segment).count();
        events.extend(scopes.drain(common..).rev().map(|(name, since)| complete("scope", name, since, now)));
        scopes.extend(segments[common..].iter().map(|&segment| (segment, start)));

        let dispatch = &report.dispatches[index];
        let mut event = complete("kernel", step.kernel.name, start, end);
        event["args"] = json!({
            "value": dispatch.value,
            "inputs": dispatch.inputs,
            "output": dispatch.output,
            "flops": dispatch.flops,
            "bytes": dispatch.bytes,
            "bound_us": dispatch.bound,
            "workgroups": step.kernel.workgroups,
            "order": step.order,
        });
        events.push(event);
        let bytes = json!({ "bytes": live[index] });
        events.push(json!({ "ph": "C", "pid": DEVICE, "name": "live in slots", "ts": start, "args": bytes }));
        now = end;
    }
    events.extend(scopes.drain(..).rev().map(|(name, since)| complete("scope", name, since, now)));
    json!({ "traceEvents": events, "displayTimeUnit": "ns", "otherData": report.origin })
}

fn complete(category: &str, name: &str, start: f64, end: f64) -> Value {
    json!({ "ph": "X", "pid": DEVICE, "tid": KERNELS, "cat": category, "name": name, "ts": start, "dur": end - start })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::tests::example;

    /// The rules of the Trace Event Format for the kinds of events that we write.
    fn validate(trace: &Value) -> Vec<(f64, f64)> {
        assert!(["ms", "ns"].contains(&trace["displayTimeUnit"].as_str().unwrap()));
        let mut slices = Vec::new();
        for event in trace["traceEvents"].as_array().expect("an array of events") {
            assert!(event["name"].is_string() && event["pid"].is_u64(), "{event}");
            match event["ph"].as_str().expect("a phase") {
                "X" => {
                    assert!(event["tid"].is_u64() && event["cat"].is_string(), "{event}");
                    let (start, duration) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
                    assert!(start >= 0.0 && duration >= 0.0, "{event}");
                    slices.push((start, start + duration));
                }
                "C" => {
                    assert!(event["ts"].as_f64().unwrap() >= 0.0, "{event}");
                    assert!(event["args"].as_object().unwrap().values().all(Value::is_number), "{event}");
                }
                "M" => assert!(event["args"]["name"].is_string(), "{event}"),
                other => panic!("phase {other} is not written: {event}"),
            }
        }
        for (index, &(start, end)) in slices.iter().enumerate() {
            for &(other, until) in &slices[..index] {
                let is_apart = end <= other || until <= start;
                let is_nested = (other <= start && end <= until) || (start <= other && until <= end);
                assert!(is_apart || is_nested, "slices {start}..{end} and {other}..{until} cross");
            }
        }
        slices
    }

    #[test]
    fn a_trace_follows_the_format_and_nests() {
        let (plan, mut spans, report) = example();
        let trace = events(&plan, &spans, &report);
        let read: Value = serde_json::from_str(&trace.to_string()).unwrap();
        let slices = validate(&read);
        let names = |category: &str| {
            let events = read["traceEvents"].as_array().unwrap();
            events.iter().filter(|event| event["cat"] == category).count()
        };
        assert_eq!(names("kernel"), plan.steps.len());
        assert!(names("scope") >= 3 && slices.len() == names("kernel") + names("scope"));

        // Overlapping dispatches, and one without a time.
        spans[1] = Some(Span { start: 0.5e-6, seconds: 3e-6 });
        spans[2] = None;
        validate(&events(&plan, &spans, &report));
    }
}
