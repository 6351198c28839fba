//! GPUs as the model knows them: how many of what there is, and how fast it is at most.

/// A GPU. Rates are peaks: what a data sheet or the vendor's documentation says, or where `assumed` says so a guess on
/// the high side, so that times are bounds from below.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// As `--gpu` names it.
    pub name: &'static str,
    /// As its vendor names it.
    pub product: &'static str,
    /// Lanes of a subgroup.
    pub subgroup: u32,
    /// Multiprocessors, compute units, cores.
    pub units: u32,
    /// Hz, boosted.
    pub clock: f64,
    /// Multiply-adds, or other arithmetic of floats at full rate, that a unit finishes in a clock; where two are issued
    /// at once each counts.
    pub float_lanes: u32,
    /// The same of integers.
    pub integer_lanes: u32,
    /// The same of roots and transcendental functions.
    pub special_lanes: u32,
    /// Lanes for which a unit issues instructions in a clock.
    pub issue_lanes: u32,
    /// Whether an instruction of floats may be issued together with another.
    pub is_dual: bool,
    /// Whether memory and barriers take issue slots from arithmetic.
    pub issues_memory: bool,
    /// Whether arithmetic that is the same in all lanes of a subgroup has a unit of its own.
    pub has_scalar_unit: bool,
    /// Passes over the 32 banks of workgroup memory in a clock of a unit: 128 bytes each.
    pub passes: f64,
    /// Sectors of 32 bytes that a unit's first cache delivers in a clock.
    pub sectors: f64,
    /// Bytes a second that the cache between all units and memory delivers.
    pub cache: f64,
    /// Bytes a second of memory.
    pub memory: f64,
    /// Clocks from a load to its use when that cache serves it.
    pub latency: f64,
    /// Invocations, workgroups and bytes of workgroup memory that a unit holds at once.
    pub invocations: u32,
    pub workgroups: u32,
    pub workgroup_bytes: u32,
    /// Where the figures are from.
    pub source: &'static str,
    /// Which of them are guesses.
    pub assumed: &'static str,
}

/// Clocks of a load that the second cache serves: 193 on a V100 (Jia and others, arXiv 1804.06826, table 3.1). Those of
/// the GPUs here are not shorter by what is published of them.
const LATENCY: f64 = 190.0;

/// The GPUs that have a model.
pub const MACHINES: &[Machine] = &[
    Machine {
        name: "h100",
        product: "NVIDIA H100 SXM5",
        subgroup: 32,
        units: 132,
        clock: 1.98e9,
        float_lanes: 128,
        integer_lanes: 64,
        special_lanes: 16,
        issue_lanes: 128,
        is_dual: false,
        issues_memory: true,
        has_scalar_unit: false,
        passes: 1.0,
        sectors: 4.0,
        cache: 5120.0 * 1.98e9,
        memory: 3.35e12,
        latency: LATENCY,
        invocations: 2048,
        workgroups: 32,
        workgroup_bytes: 228 << 10,
        source: "NVIDIA H100 data sheet (67 TFLOPS of f32, 3.35 TB/s); CUDA C++ Programming Guide, throughput of \
                 arithmetic and technical specifications of compute capability 9.0",
        assumed: "second cache as an A100's, 5120 bytes a clock (A100 whitepaper); latency",
    },
    Machine {
        name: "rx7900xtx",
        product: "AMD Radeon RX 7900 XTX",
        subgroup: 32,
        units: 96,
        clock: 2.5e9,
        float_lanes: 128,
        integer_lanes: 64,
        special_lanes: 16,
        issue_lanes: 64,
        is_dual: true,
        issues_memory: false,
        has_scalar_unit: true,
        passes: 1.0,
        sectors: 4.0,
        cache: 48.0 * 64.0 * 2.5e9,
        memory: 960e9,
        latency: LATENCY,
        invocations: 1024,
        workgroups: 16,
        workgroup_bytes: 64 << 10,
        source: "AMD's page of the RX 7900 XTX (96 compute units, 2.5 GHz, 61 TFLOPS of f32, 960 GB/s); RDNA 3 \
                 Instruction Set Architecture (two SIMDs a unit, dual issue, LDS of 128 KiB for two units)",
        assumed: "second cache 64 bytes a clock for each pair of units; first cache 128 bytes a clock; latency",
    },
    Machine {
        name: "m2",
        product: "Apple M2, 10 cores",
        subgroup: 32,
        units: 10,
        clock: 1.398e9,
        float_lanes: 128,
        integer_lanes: 128,
        special_lanes: 32,
        issue_lanes: 128,
        is_dual: false,
        issues_memory: true,
        has_scalar_unit: false,
        passes: 1.0,
        sectors: 2.0,
        cache: 10.0 * 32.0 * 1.398e9,
        memory: 100e9,
        latency: LATENCY,
        invocations: 3072,
        workgroups: 32,
        workgroup_bytes: 60 << 10,
        source: "Apple's announcement of the M2 (10 cores, 3.6 TFLOPS, 100 GB/s); philipturner/metal-benchmarks (128 \
                 lanes a core for floats and integers alike, 3072 invocations, 60 KiB, 32 bytes a clock and core from L2)",
        assumed: "128 bytes a clock from workgroup memory, 64 from the first cache; special functions; latency",
    },
    // For calibration.
    Machine {
        name: "rtx3090",
        product: "NVIDIA GeForce RTX 3090",
        subgroup: 32,
        units: 82,
        clock: 1.695e9,
        float_lanes: 128,
        integer_lanes: 64,
        special_lanes: 16,
        issue_lanes: 128,
        is_dual: false,
        issues_memory: true,
        has_scalar_unit: false,
        passes: 1.0,
        sectors: 4.0,
        cache: 48.0 * 64.0 * 1.695e9,
        memory: 936e9,
        latency: LATENCY,
        invocations: 1536,
        workgroups: 16,
        workgroup_bytes: 100 << 10,
        source: "NVIDIA Ampere GA102 whitepaper (82 multiprocessors, 35.6 TFLOPS of f32, 936 GB/s); CUDA C++ \
                 Programming Guide, throughput of arithmetic and technical specifications of compute capability 8.6",
        assumed: "second cache 64 bytes a clock for each of 48 slices; latency",
    },
];

impl Machine {
    /// The GPU of this name, if it has a model.
    pub fn named(name: &str) -> Option<&'static Machine> {
        MACHINES.iter().find(|machine| machine.name == name)
    }

    /// Floating-point operations a second at most, in f32 and without matrix units.
    pub fn flops(&self) -> f64 {
        2.0 * f64::from(self.units) * f64::from(self.float_lanes) * self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the data sheets say in TFLOPS.
    #[test]
    fn peaks_are_those_of_the_data_sheets() {
        for (name, tera) in [("h100", 67.0), ("rx7900xtx", 61.4), ("m2", 3.58), ("rtx3090", 35.6)] {
            let peak = Machine::named(name).unwrap().flops() / 1e12;
            assert!((peak / tera - 1.0).abs() < 0.005, "{name}: {peak} TFLOPS");
        }
    }
}
