//! A case's kernel in the sanitizer: faults that a device does not show, such as a read whose value does not count, a barrier
//! that the lanes of one SIMD vector do not need, or two invocations that write the same.

use super::compare::compare;
use super::kernels::{Failure, Fault, reference_of};
use crate::engine::bounds::to_f16;
use crate::engine::case::Case;
use crate::engine::kernel::{CLASS_WORKGROUP_BYTES, Kernel, WORKGROUP_BYTES};
use crate::engine::shaders::{Replaced, place, source};
use crate::engine::tensor::Tensor;
use crate::proof::sanitizer::{Buffer, Dispatch, Level, lower};

/// Operations of one run; the largest of the [small](is_small) cases takes a hundredth.
const LIMIT: u64 = 1 << 30;
/// Subgroups of kernels whose lanes exchange nothing.
const SUBGROUP: u32 = 4;

/// Whether the interpreter runs the case in a moment.
pub fn is_small(case: &Case) -> bool {
    case.flops() <= 60_000 && case.elements() <= 10_000
}

/// The kernel's own grid, and others of the forms that larger shapes would give it. Beyond 65535 workgroups some kernels fold into the
/// second dimension, others run a grid-stride loop; their WGSL, `text`, shows which.
pub fn grids(kernel: &Kernel, text: &str) -> Vec<[u32; 3]> {
    let [x, y, z] = kernel.workgroups();
    let mut grids = vec![kernel.workgroups()];
    if x > 1 && ["workgroup.y * grid.x", "workgroup.y * workgroups.x"].iter().any(|fold| text.contains(fold)) {
        grids.push([x.div_ceil(3).max(2), 3 * y, z]);
    }
    if text.contains("+= grid.") {
        // The two differ, so that a stride along the wrong dimension shows.
        let [few, fewer] = [x, y].map(|extent| extent.div_ceil(2));
        grids.push([few, if few == fewer { (fewer - 1).max(1) } else { fewer }, z.div_ceil(2)]);
    }
    grids
}

/// Runs one of the case's [`variants`](super::variants) on floats in the sanitizer, on each of its [`grids`], and compares its output
/// with the definition. A text that takes the place of the built-in one is run instead of it. No device takes part.
///
/// # Errors
/// What the sanitizer finds or why it refuses the kernel, or how the output differs.
pub fn check_interpreted(case: &Case, kernel: &Kernel, replaced: &Replaced, seed: u64) -> Result<(), Failure> {
    let failure = |fault: Fault| Failure { case: case.to_string(), variant: kernel.name, fault, seed };
    let refused = |reason: String| failure(Fault::Broken(format!("it is refused before it runs: {reason}")));
    let text = replaced.specialise(kernel).map_err(|error| refused(error.to_string()))?;
    let own = match replaced.kernels.get(kernel.name) {
        Some(own) => own,
        None => source(kernel).map_err(|error| refused(error.to_string()))?,
    };
    let there = |line: u32| {
        let (file, line) = place(kernel.name, own, line as usize);
        (format!("{file}.wgsl"), line as u32)
    };
    let program = lower(kernel.name, &text).map_err(|mut refusal| {
        (refusal.file, refusal.line) = there(refusal.line);
        refused(refusal.to_string())
    })?;
    let most = if kernel.needs().is_some() { CLASS_WORKGROUP_BYTES } else { WORKGROUP_BYTES };
    if program.workgroup_bytes() > most {
        let bytes = program.workgroup_bytes();
        return Err(refused(format!("its workgroups take {bytes} bytes of memory, and every device has {most}")));
    }

    let inputs = case.floats(seed);
    let stored: Vec<Vec<f32>> = inputs
        .iter()
        .enumerate()
        .map(|(binding, input)| match kernel.is_half(binding) {
            true => input.data().iter().map(|&x| to_f16(x)).collect(),
            false => input.data().to_vec(),
        })
        .collect();
    let filled = stored.iter().map(|input| Buffer::Filled(input));
    let immediates: Vec<u32> = kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect();
    let buffers: Vec<Buffer> = filled.chain([Buffer::Unwritten(case.output().count())]).collect();
    let (want, tolerance) = reference_of(case, kernel, &inputs);
    for workgroups in grids(kernel, own) {
        let outcome = program.run(&Dispatch {
            workgroups,
            immediates: &immediates,
            buffers: buffers.clone(),
            subgroup: kernel.lanes().map_or(SUBGROUP, |lanes| lanes.count() as u32),
            limit: LIMIT,
        });
        let mut found: Vec<String> = Vec::new();
        for mut report in outcome.reports.into_iter().filter(|report| report.level > Level::Note) {
            (report.file, report.line) = there(report.line);
            report.message = with_places(&report.message, there);
            let told = report.to_string();
            if !found.contains(&told) {
                found.push(told);
            }
        }
        if !found.is_empty() {
            return Err(failure(Fault::Sanitizer(found)));
        }
        compare(&Tensor::new(case.output(), outcome.output), &want, &tolerance).map_err(|mismatch| {
            failure(Fault::Wrong { numbers: "floats in the sanitizer", mismatch: Box::new(mismatch) })
        })?;
    }
    Ok(())
}

/// A message in which each `line 377` of the assembled text is `gemm/tile.wgsl:34`.
fn with_places(message: &str, there: impl Fn(u32) -> (String, u32)) -> String {
    const LINE: &str = "line ";
    let mut parts = message.split(LINE);
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
        match part[..end].parse() {
            Ok(line) => {
                let (file, line) = there(line);
                told += &format!("{file}:{line}{}", &part[end..]);
            }
            Err(_) => told += &format!("{LINE}{part}"),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_messages_are_those_of_files() {
        let there = |line: u32| ("a/part.wgsl".to_owned(), line - 300);
        let told = with_places("writes `x`, which was read in line 377 without a barrier, on a line of its own", there);
        assert_eq!(told, "writes `x`, which was read in a/part.wgsl:77 without a barrier, on a line of its own");
        assert_eq!(with_places("no place", there), "no place");
    }
}
