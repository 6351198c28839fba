//! The device layer: the only part that knows wgpu.

mod device;
mod executor;
mod facts;
mod halves;
mod isolated;
mod matrices;
mod number;
mod pace;
mod timestamps;

pub use device::{AdapterSummary, Choice, Device, Tally, adapters};
pub use executor::{Executor, States};
pub use isolated::Isolated;
pub use timestamps::{Clock, Span};

/// Why the device could not do what it was asked to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GpuError {
    #[error(
        "no usable GPU adapter{0}: install your GPU's Vulkan driver, or a CPU one (Debian, Ubuntu: \
         apt-get install mesa-vulkan-drivers libvulkan1; Fedora: dnf install mesa-vulkan-drivers)"
    )]
    NoAdapter(String),
    #[error("adapter {adapter} cannot be used: {reason}")]
    Unusable { adapter: String, reason: String },
    #[error("the device was lost at {at}: {reason}")]
    Lost { at: String, reason: String },
    #[error("out of device memory at {at}: {reason}; a smaller batch or picture needs less")]
    OutOfMemory { at: String, reason: String },
    #[error("{what} takes {bytes} bytes, and the device binds {limit} at most: a smaller batch or picture needs less")]
    TooLarge { what: String, bytes: u64, limit: u64 },
    #[error(
        "the device refused {at}: {reason}; unless --shaders replaced a kernel, this is a fault of stssad: please report it"
    )]
    Refused { at: String, reason: String },
    #[error(transparent)]
    Specialise(#[from] crate::shaders::SpecialiseError),
    #[error("`{name}` takes shape {expected:?}, got {given:?}")]
    Shape { name: String, expected: crate::tensor::Shape, given: crate::tensor::Shape },
    #[error("there is no {kind} named `{name}`")]
    Unknown { kind: &'static str, name: String },
    #[error("feed `{feed}` was never set: set it before the plan is run")]
    Unset { feed: String },
    #[error("{value} was fetched before the plan was run: run it first")]
    NotRun { value: String },
}
