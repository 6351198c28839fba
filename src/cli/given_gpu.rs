//! The GPU that a scheduler or the user gives to this process by environment variables, which Vulkan, Metal and DX12 do not read.

use anyhow::Context;
use stssad::engine::gpu::{AdapterSummary, Device, GpuError, adapters};

/// Variables that give GPUs.
const VARIABLES: [&str; 4] = ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "SLURM_JOB_GPUS"];
/// Their values where there are none to give.
const NONE: [&str; 3] = ["", "-1", "NoDevFiles"];

/// A GPU that was given.
#[derive(Debug)]
pub struct GivenGpu {
    /// The variable and its value, as `CUDA_VISIBLE_DEVICES=1`.
    by: String,
    /// The adapter's number, where it is certain.
    adapter: Option<usize>,
}

impl GivenGpu {
    /// That of this process; `None` if nothing gives one.
    pub fn here() -> Option<Self> {
        Self::by(|name| std::env::var(name).ok(), adapters)
    }

    fn by(variable: impl Fn(&str) -> Option<String>, adapters: impl Fn() -> Vec<AdapterSummary>) -> Option<Self> {
        let (name, value) = VARIABLES
            .iter()
            .find_map(|&name| Some((name, variable(name).filter(|value| !NONE.contains(&&**value))?)))?;
        let is_by_bus = variable("CUDA_DEVICE_ORDER").is_some_and(|order| order == "PCI_BUS_ID");
        let adapter = (name == "CUDA_VISIBLE_DEVICES").then(|| adapter_of(&value, is_by_bus, &adapters())).flatten();
        Some(GivenGpu { by: format!("{name}={value}"), adapter })
    }

    /// The adapter that was given, if that is certain, for `--adapter`.
    pub fn adapter(&self) -> Option<String> {
        self.adapter.map(|number| number.to_string())
    }

    /// Refuses a CPU driver in place of the given GPU. Where the adapter is not certain, warns if the opened one may be another.
    ///
    /// # Errors
    /// When the device is a CPU driver.
    pub fn check(&self, device: &Device) -> anyhow::Result<()> {
        let (by, name) = (&self.by, &device.adapter().name);
        if device.adapter().class == "cpu" {
            return Err(GpuError::NoAdapter(String::new())).context(format!(
                "{by} gives this process a GPU, but only the CPU driver {name} can be used (`--adapter {name:?}` takes it all the same)"
            ));
        }
        if self.adapter.is_none() && adapters().iter().filter(|adapter| adapter.class != "cpu").count() > 1 {
            note!("warning  {by} is not followed: {name} is taken; choose one of `stssad devices` by --adapter");
        }
        Ok(())
    }
}

/// PCI's number of NVIDIA.
const NVIDIA: u32 = 0x10de;

/// The adapter that the first number of `CUDA_VISIBLE_DEVICES` means. It is certain if there is one NVIDIA GPU, or if CUDA counts them
/// in the order of their places on the PCI bus: by default it puts the fastest first.
fn adapter_of(value: &str, is_by_bus: bool, adapters: &[AdapterSummary]) -> Option<usize> {
    let number: usize = value.split(',').next()?.trim().parse().ok()?;
    let nvidia = || (0..adapters.len()).filter(|&index| adapters[index].vendor == NVIDIA);
    if nvidia().count() == 1 {
        return nvidia().next();
    }
    let mut by_bus = nvidia().map(|index| Some((adapters[index].pci.as_ref()?, index))).collect::<Option<Vec<_>>>()?;
    by_bus.sort_unstable();
    // One GPU may be listed by two interfaces.
    by_bus.dedup_by_key(|(pci, _)| *pci);
    by_bus.get(number).filter(|_| is_by_bus).map(|&(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(vendor: u32, pci: &str) -> AdapterSummary {
        let pci = (!pci.is_empty()).then(|| pci.to_owned());
        AdapterSummary { vendor, pci, class: "discrete".into(), ..AdapterSummary::default() }
    }

    /// The adapter for the value of `CUDA_VISIBLE_DEVICES` and of `CUDA_DEVICE_ORDER`.
    fn given(value: &'static str, order: &'static str, all: &[AdapterSummary]) -> Option<usize> {
        let variable = |name: &str| match name {
            "CUDA_VISIBLE_DEVICES" => Some(value.to_owned()),
            "CUDA_DEVICE_ORDER" => Some(order.to_owned()),
            _ => None,
        };
        GivenGpu::by(variable, || all.to_vec()).unwrap().adapter
    }

    #[test]
    fn cuda_numbers_are_followed_where_they_are_certain() {
        let [intel, amd] = [adapter(0x8086, "0000:00:02.0"), adapter(0x1002, "0000:03:00.0")];
        let nvidia = ["0000:c1:00.0", "0000:01:00.0", "0000:41:00.0"].map(|pci| adapter(NVIDIA, pci));
        let one = [intel.clone(), amd.clone(), nvidia[0].clone()];
        for value in ["0", "3", " 1,2"] {
            assert_eq!(given(value, "", &one), Some(2), "{value}: there is only one that it can be");
        }
        let [a, b, c] = nvidia;
        let three = [a.clone(), b.clone(), amd, c.clone()];
        assert_eq!(["0", "1", "2"].map(|value| given(value, "PCI_BUS_ID", &three)), [Some(1), Some(3), Some(0)]);
        assert_eq!(given("2,0", "PCI_BUS_ID", &three), Some(0), "the first of several");
        for value in ["3", "GPU-5f1e", "MIG-0"] {
            assert_eq!(given(value, "PCI_BUS_ID", &three), None, "{value}");
        }
        assert_eq!(given("1", "FASTEST_FIRST", &three), None);
        assert_eq!(given("1", "PCI_BUS_ID", &[a.clone(), adapter(NVIDIA, "")]), None, "a place is unknown");
        assert_eq!(given("1", "PCI_BUS_ID", &[a.clone(), b.clone(), a, b, c]), Some(4), "some are listed twice");
        assert_eq!(given("0", "", &[intel]), None, "no NVIDIA GPU");
    }

    #[test]
    fn without_a_gpu_to_give_nothing_is_given() {
        for none in NONE {
            let variable = |name: &str| (name == "ROCR_VISIBLE_DEVICES").then(|| none.to_owned());
            assert!(GivenGpu::by(variable, Vec::new).is_none(), "{none:?}");
        }
        let rocm = |name: &str| (name == "ROCR_VISIBLE_DEVICES").then(|| "0".to_owned());
        assert_eq!(GivenGpu::by(rocm, || vec![adapter(NVIDIA, "")]).unwrap().adapter, None, "no number of CUDA's");
    }
}
