//! What the packaged workloads dispatch: shapes and specialisations that small cases do not have.

use std::collections::HashMap;

use crate::engine::case::Case;
use crate::engine::gpu::Device;
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::ops::lowering;
use crate::engine::plan::Reuse;
use crate::engine::tape::GradError;
use crate::ssad::workload::{Distinct, WORKLOADS, Workload};

/// Floating-point operations and elements of a dispatch that is checked without being asked for.
const FLOPS: u64 = 1 << 29;
const ELEMENTS: usize = 1 << 23;

/// A kernel at a shape of a workload.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub case: Case,
    pub kernel: Kernel,
    class: DeviceClass,
}

impl Dispatch {
    /// Whether the device binds each operand.
    fn fits(&self, device: &Device) -> bool {
        let output = self.case.output();
        let largest = self.case.shapes().into_iter().chain([&output]).map(|shape| shape.bytes()).max();
        largest <= Some(device.largest_value())
    }

    fn is_quick(&self) -> bool {
        self.case.flops() <= FLOPS && self.case.elements() <= ELEMENTS
    }

    /// The same kernel on so few images that it `suits`; `None` where another would be chosen for fewer, or the case does not
    /// count images.
    fn with_fewer_images(&self, suits: impl Fn(&Dispatch) -> bool) -> Option<Dispatch> {
        let name = self.case.to_string();
        let (before, rest) = name.split_once("(n=")?;
        let (images, after) = rest.split_once(',')?;
        let mut images: usize = images.parse().ok()?;
        while images > 1 {
            images /= 2;
            let Ok(case) = format!("{before}(n={images},{after}").parse::<Case>() else { return None };
            let lowered = lowering(&*case.primitive)?;
            let (shapes, output) = (case.shapes(), case.output());
            let chosen = lowered.kernel(&shapes, &output, self.class);
            let mut all = lowered.tilings(&shapes, &output, self.class).into_iter().chain([chosen]);
            let kernel = all.find_map(|mut kernel| {
                kernel.halves.clone_from(&self.kernel.halves);
                (kernel.specialisation() == self.kernel.specialisation()).then_some(kernel)
            })?;
            let fewer = Dispatch { kernel, case, class: self.class };
            if suits(&fewer) {
                return Some(fewer);
            }
        }
        None
    }
}

/// The distinct dispatches of the workload's step that tunes which are wanted and have a case, for the device's classes, and how
/// many it cannot bind even with fewer images.
///
/// # Errors
/// When a gradient cannot be taken.
pub fn of_workload(
    device: &Device,
    workload: &Workload,
    is_wanted: impl Fn(&Dispatch) -> bool,
) -> Result<(Vec<Dispatch>, usize), GradError> {
    let mut all = distinct(device, workload)?;
    all.retain(is_wanted);
    let count = all.len();
    let fit = |dispatch: &Dispatch| dispatch.fits(device);
    let bound = |dispatch: Dispatch| if fit(&dispatch) { Some(dispatch) } else { dispatch.with_fewer_images(fit) };
    let dispatches: Vec<Dispatch> = all.into_iter().filter_map(bound).collect();
    let left_out = count - dispatches.len();
    Ok((dispatches, left_out))
}

/// A dispatch or two for each specialisation that a packaged workload uses on the device's classes: of those that take a moment
/// the largest and the one with the longest axis, else the smallest of all with fewer images. Of these, those that are wanted; and
/// how many specialisations with a wanted dispatch have none such.
///
/// # Errors
/// When a gradient cannot be taken.
pub fn of_specialisations(
    device: &Device,
    is_wanted: impl Fn(&Dispatch) -> bool,
) -> Result<(Vec<Dispatch>, usize), GradError> {
    let (mut order, mut found) = (Vec::new(), HashMap::<String, Vec<Dispatch>>::new());
    for workload in WORKLOADS {
        for dispatch in distinct(device, workload)? {
            let key = dispatch.kernel.specialisation();
            found
                .entry(key.clone())
                .or_insert_with(|| {
                    order.push(key);
                    Vec::new()
                })
                .push(dispatch);
        }
    }
    let suits = |dispatch: &Dispatch| dispatch.is_quick() && dispatch.fits(device);
    let elements = |dispatch: &&Dispatch| dispatch.case.elements();
    let longest =
        |dispatch: &&Dispatch| dispatch.case.shapes().into_iter().flat_map(|shape| shape.iter().copied()).max();
    let (mut dispatches, mut left_out) = (Vec::new(), 0);
    for key in &order {
        let all = &found[key];
        let quick = || all.iter().filter(|dispatch| suits(dispatch));
        match (quick().max_by_key(elements), quick().max_by_key(longest)) {
            (Some(largest), Some(long)) if largest.case.to_string() != long.case.to_string() => {
                dispatches.extend([largest.clone(), long.clone()]);
            }
            (Some(largest), _) => dispatches.push(largest.clone()),
            _ => match all.iter().min_by_key(elements).and_then(|dispatch| dispatch.with_fewer_images(suits)) {
                Some(fewer) => dispatches.push(fewer),
                None => left_out += usize::from(all.iter().any(&is_wanted)),
            },
        }
    }
    dispatches.retain(&is_wanted);
    Ok((dispatches, left_out))
}

fn distinct(device: &Device, workload: &Workload) -> Result<Vec<Dispatch>, GradError> {
    let mut dispatches: Vec<Dispatch> = Vec::new();
    for class in device.classes() {
        let plan = workload.plan(class, Reuse::On)?;
        let distinct = Distinct::of(&plan);
        let mut seen = vec![false; distinct.names.len()];
        for (step, &place) in plan.steps.iter().zip(&distinct.places) {
            // The numbers of names that differ in nothing else.
            let name = distinct.names[place].split(" #").next().unwrap_or_default();
            if std::mem::replace(&mut seen[place], true) || !device.runs(&step.kernel) {
                continue;
            }
            if let Ok(case) = name.parse::<Case>() {
                dispatches.push(Dispatch { case, kernel: step.kernel.clone(), class });
            }
        }
    }
    Ok(dispatches)
}
