//! Writes every specialisation that the workloads' steps use as a WGSL file, as a browser takes it:
//! `cargo run --example portable -- DIR`. Those for matrix units are left out, since WebGPU has none. `.ci/tint/run` compiles them.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;

use stssad::engine::kernel::{DeviceClass, Kernel};
use stssad::engine::plan::Reuse;
use stssad::engine::shaders::{portable, specialise};
use stssad::ssad::workload::WORKLOADS;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: portable DIR")?);
    // What an earlier version used does not matter.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let mut written = BTreeSet::new();
    for workload in WORKLOADS {
        for class in DeviceClass::ALL {
            let plan = workload.plan(class, Reuse::On)?;
            for kernel in plan.steps.iter().map(|step| &step.kernel).filter(|kernel| kernel.tile().is_none()) {
                if written.insert(kernel.specialisation()) {
                    let file = format!("{}-{:03}.wgsl", kernel.name.replace('/', "-"), written.len());
                    std::fs::write(folder.join(file), text(kernel)?)?;
                }
            }
        }
    }
    println!("{} specialisations in {}", written.len(), folder.display());
    Ok(())
}

/// The kernel's text; the first line ends with what specialises it.
fn text(kernel: &Kernel) -> Result<String, Box<dyn Error>> {
    let text = portable(&specialise(kernel)?);
    Ok(text.replacen('\n', &format!(" // {}\n", kernel.specialisation()), 1))
}
