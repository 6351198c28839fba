//! The device layer: the only part that knows wgpu.

mod choice;
mod device;
mod executor;
mod facts;
mod halves;
mod isolated;
mod matrices;
mod number;
mod pace;
mod timestamps;

pub use choice::Choice;
pub use device::{AdapterSummary, Device, Tally, adapters};
pub use executor::{Executor, States};
pub use isolated::Isolated;
pub use timestamps::{Clock, Span};

/// Why the device could not do what it was asked to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GpuError {
    /// With why those that were found are none, if any were.
    #[error(
        "no usable GPU adapter{0}: install your GPU's Vulkan driver, or a CPU one (Debian, Ubuntu: \
         apt-get install mesa-vulkan-drivers libvulkan1; Fedora: dnf install mesa-vulkan-drivers)"
    )]
    NoAdapter(String),
    /// There are adapters, but none of the number or name that was asked for.
    #[error("no adapter has the number or name `{asked}`; choose by the number or a part of the name:{}", lines(found))]
    NoSuchAdapter { asked: String, found: Vec<String> },
    #[error("adapter {adapter} cannot be used: {reason}")]
    Unusable { adapter: String, reason: String },
    /// The driver was reset, as after a hang, or the GPU was removed.
    #[error("the device was lost at {at}: {reason}")]
    Lost { at: String, reason: String },
    #[error("out of device memory at {at}: {reason}; a smaller batch or image needs less")]
    OutOfMemory { at: String, reason: String },
    #[error("{what} takes {bytes} bytes, and the device binds {limit} at most: a smaller batch or image needs less")]
    TooLarge { what: String, bytes: u64, limit: u64 },
    /// Nothing that a user can do leads here.
    #[error(
        "the driver refused {at}: {reason}; this is a fault of stssad or of the driver, and `stssad check` tells which \
         kernels work on this device"
    )]
    Refused { at: String, reason: String },
    #[error(transparent)]
    Specialise(#[from] crate::engine::shaders::SpecialiseError),
    #[error("`{name}` takes shape {expected:?}, got {given:?}")]
    Shape { name: String, expected: crate::engine::tensor::Shape, given: crate::engine::tensor::Shape },
    #[error("there is no {kind} named `{name}`")]
    Unknown { kind: &'static str, name: String },
    #[error("feed `{feed}` was never set: set it before the plan is run")]
    Unset { feed: String },
    #[error("{value} was fetched before the plan was run: run it first")]
    NotRun { value: String },
}

fn lines(adapters: &[String]) -> String {
    adapters.iter().map(|adapter| format!("\n    {adapter}")).collect()
}
