//! `stssad devices`: the adapters, their limits and their features.

use std::process::ExitCode;

use stssad::engine::gpu::{AdapterSummary, GpuError, adapters};

/// Arguments of `stssad devices`.
#[derive(Debug, clap::Args)]
pub struct Devices {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Devices {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let adapters = adapters();
        if self.json {
            result!("{}", serde_json::to_string_pretty(&adapters)?)?;
        }
        if adapters.is_empty() {
            return Err(GpuError::NoAdapter(String::new()).into());
        }
        if self.json {
            return Ok(ExitCode::SUCCESS);
        }
        for (index, adapter) in adapters.iter().enumerate() {
            result!("{index}  {} ({}, {})", adapter.name, adapter.class, adapter.backend)?;
            result!("   driver      {}", adapter.driver)?;
            if let Some(place) = &adapter.pci {
                result!("   PCI bus     {place}")?;
            }
            result!(
                "   limits      binding {} MiB, buffer {} MiB, workgroup {} invocations and {} KiB",
                adapter.max_binding_bytes >> 20,
                adapter.max_buffer_bytes >> 20,
                adapter.max_workgroup_invocations,
                adapter.max_workgroup_bytes >> 10
            )?;
            let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            result!("   f16         {}", f16(adapter))?;
            result!("   used        {}", list(&adapter.used))?;
            result!("   missing     {}", list(&adapter.missing))?;
            if let Some(reason) = &adapter.unusable {
                result!("   unusable    {reason}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether `--precision f16` is possible.
fn f16(adapter: &AdapterSummary) -> String {
    let tiles: Vec<String> = adapter.tiles.iter().map(ToString::to_string).collect();
    match &adapter.without_tiles {
        Some(reason) => format!("refused: {reason}"),
        None => format!("the driver offers matrices of {}; they are tested when a command uses f16", tiles.join(", ")),
    }
}
