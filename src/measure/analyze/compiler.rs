//! The process in which RADV compiles: started with the environment that chooses driver and null hardware, fed SPIR-V
//! line by line, and heard out line by line. It is this program again, under a hidden subcommand.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use super::AnalyzeError;
use super::model::Machine;
use super::radv::{Executable, Radv, Target};
use super::spirv::Binary;

/// An AMD GPU for which RADV compiles without one: a generation each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// RDNA 3, as in the RX 7900 XTX; its matrix units take the kernels of `--class matrix`
    Navi31,
    /// RDNA 2, as in the RX 6900 XT
    Navi21,
    /// GCN 5, as in the RX Vega 64: waves of 64
    Vega10,
}

impl Family {
    /// The name that RADV knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Family::Navi31 => "navi31",
            Family::Navi21 => "navi21",
            Family::Vega10 => "vega10",
        }
    }
}

/// A GPU to compile for, to model, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Gpu {
    /// RDNA 3: compiled for, and modelled as the RX 7900 XTX. Its matrix units take the kernels of `--class matrix`
    #[default]
    #[value(alias = "rx7900xtx")]
    Navi31,
    /// RDNA 2, as in the RX 6900 XT: compiled for
    Navi21,
    /// GCN 5, as in the RX Vega 64, with waves of 64: compiled for
    Vega10,
    /// NVIDIA H100 SXM5: modelled
    H100,
    /// NVIDIA GeForce RTX 3090: modelled
    Rtx3090,
    /// Apple M2 with 10 cores: modelled
    M2,
}

impl Gpu {
    /// As `--gpu` names it.
    pub fn name(self) -> &'static str {
        match self {
            Gpu::Navi31 => Family::Navi31.name(),
            Gpu::Navi21 => Family::Navi21.name(),
            Gpu::Vega10 => Family::Vega10.name(),
            Gpu::H100 => "h100",
            Gpu::Rtx3090 => "rtx3090",
            Gpu::M2 => "m2",
        }
    }

    /// What a compiler is there for.
    pub fn family(self) -> Option<Family> {
        match self {
            Gpu::Navi31 => Some(Family::Navi31),
            Gpu::Navi21 => Some(Family::Navi21),
            Gpu::Vega10 => Some(Family::Vega10),
            Gpu::H100 | Gpu::Rtx3090 | Gpu::M2 => None,
        }
    }

    /// What there is a model of.
    pub fn machine(self) -> Option<&'static Machine> {
        match self {
            Gpu::Navi31 => Machine::named("rx7900xtx"),
            Gpu::Navi21 | Gpu::Vega10 => None,
            Gpu::H100 | Gpu::Rtx3090 | Gpu::M2 => Machine::named(self.name()),
        }
    }
}

/// Where systems keep the manifests of Vulkan drivers.
const MANIFESTS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// RADV's manifest, `radeon_icd.json` or `radeon_icd.x86_64.json`, in the first of the system's folders that has one.
pub fn manifest() -> Option<PathBuf> {
    let names = ["radeon_icd.json".to_owned(), format!("radeon_icd.{}.json", std::env::consts::ARCH)];
    let paths = MANIFESTS.iter().flat_map(|folder| names.iter().map(move |name| Path::new(folder).join(name)));
    paths.into_iter().find(|path| path.exists())
}

/// A running compiler.
#[derive(Debug)]
pub struct Compiler {
    pub target: Target,
    process: Child,
    /// None once it is closed, which ends the process.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// What the driver prints of itself.
    remarks: Option<JoinHandle<String>>,
}

impl Compiler {
    /// Starts `command`, which calls [`serve`], with null hardware of this family and the driver of this manifest.
    ///
    /// # Errors
    /// When the process does not start, or the driver refuses.
    pub fn start(mut command: Command, family: Family, manifest: &Path) -> Result<Compiler, AnalyzeError> {
        let mut process = command
            .env("RADV_FORCE_FAMILY", family.name())
            .env("VK_DRIVER_FILES", manifest)
            .env("VK_ICD_FILENAMES", manifest) // what loaders before 1.3.207 call it
            .env_remove("RADV_DEBUG")
            .env("MESA_SHADER_CACHE_DISABLE", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(AnalyzeError::Start)?;
        let mut stderr = process.stderr.take().expect("it is piped");
        let remarks = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before an error is all that there is to tell.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let mut compiler = Compiler {
            target: Target { device: String::new(), driver: String::new() },
            requests: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().expect("it is piped")),
            process,
            remarks: Some(remarks),
        };
        let refused = |reason| AnalyzeError::Refused { family: family.name(), reason };
        compiler.target = compiler.answer().map_err(&refused)?.map_err(refused)?;
        Ok(compiler)
    }

    /// Compiles a shader: what the driver says of it, or why it refuses.
    ///
    /// # Errors
    /// How the process ended, when the driver crashed.
    pub fn compile(&mut self, binary: &Binary) -> Result<Result<Executable, String>, String> {
        let line = serde_json::to_string(binary).expect("a shader is plain data") + "\n";
        if let Some(requests) = &mut self.requests {
            // Where it has ended, the missing answer tells more.
            let _ = requests.write_all(line.as_bytes()).and_then(|()| requests.flush());
        }
        self.answer()
    }

    /// The next answer; of a process that ended instead, how it did and what it printed.
    fn answer<T: serde::de::DeserializeOwned>(&mut self) -> Result<Result<T, String>, String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        if read > 0 {
            return serde_json::from_str(&line).map_err(|error| format!("it answers `{}`: {error}", line.trim()));
        }
        self.requests = None;
        let end = self.process.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let remarks = self.remarks.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Err(if remarks.is_empty() { end } else { format!("{end}: {remarks}") })
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // The process ends with its input.
        self.requests = None;
        let _ = self.process.wait();
    }
}

/// What the process does: opens the device that its environment asks for, and compiles what it reads. Each answer is a
/// line.
///
/// # Errors
/// When a line cannot be read, is no shader, or `answer` fails.
pub fn serve<E: From<io::Error>>(requests: impl BufRead, answer: impl Fn(String) -> Result<(), E>) -> Result<(), E> {
    fn line<T: serde::Serialize>(outcome: &Result<T, String>) -> String {
        serde_json::to_string(outcome).expect("an answer is plain data")
    }
    let radv = match Radv::open() {
        Ok(radv) => radv,
        Err(reason) => return answer(line::<Target>(&Err(reason))),
    };
    answer(line(&Ok(&radv.target)))?;
    for request in requests.lines() {
        let binary: Binary = serde_json::from_str(&request?).map_err(io::Error::from)?;
        answer(line(&radv.compile(&binary)))?;
    }
    Ok(())
}
