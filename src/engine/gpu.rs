//! The device layer: the only part that knows wgpu.
//!
//! # In an application that uses wgpu
//!
//! [`Device::descriptor_for`] says with which features and limits to open an adapter, and [`Device::from_wgpu`] takes what was
//! opened. [`Executor::feed_from`] and [`Executor::bind_feed`] take buffers that are on the device, [`Executor::output`] and
//! [`States::buffer`] give them: nothing goes by the host. [`Executor::fetch_async`] reads values back without waiting.
//!
//! ```
//! use stssad::engine::gpu::{Choice, Device, Executor, States, wgpu};
//! use stssad::engine::plan::{Plan, Reuse};
//! use stssad::engine::tape::Tape;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // What the application has anyway: a device, a queue, and a buffer of four numbers.
//! let adapter = Device::adapter_for(&Choice::Best)?;
//! let (device, queue) = pollster::block_on(adapter.request_device(&Device::descriptor_for(&adapter)?))?;
//! let numbers = device.create_buffer(&wgpu::BufferDescriptor {
//!     label: None,
//!     size: 16,
//!     usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
//!     mapped_at_creation: false,
//! });
//! queue.write_buffer(&numbers, 0, bytemuck::cast_slice(&[1.0f32, 2.0, 3.0, 4.0]));
//!
//! let mut t = Tape::new();
//! let x = t.feed("x", [4]);
//! let squares = t.mul(x, x);
//! let device = Device::from_wgpu(&adapter, device, queue)?;
//! let plan = Plan::new(&t, &[squares], &[], device.class(), Reuse::On);
//! let mut executor = Executor::new(&device, plan, &States::new(&device), |_, _| ())?;
//! executor.bind_feed("x", numbers.slice(..))?;
//! executor.run()?;
//! let fetched = executor.fetch_async(squares)?;
//! // `executor.output(squares)` is on the device, for the application's own shaders.
//! assert_eq!(pollster::block_on(fetched)?.data(), [1.0, 4.0, 9.0, 16.0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//!
//! A [`Device`] is shared by its clones, on any threads. An [`Executor`] and [`States`] move between threads, and each is used by
//! one at a time. Executors on one device run in the order in which their submits are handed over, and disturb each other only
//! through states that they share: an executor that reads a state and another that carries it need an order, which the
//! application has to see to.

mod buffers;
mod choice;
mod device;
mod executor;
mod facts;
mod foreign;
mod halves;
mod host;
mod isolated;
mod matrices;
mod number;
mod pace;
mod pipelines;
mod results;
mod timestamps;
mod watch;

pub use choice::Choice;
#[cfg(feature = "program")]
pub(crate) use device::IMMEDIATE_BYTES;
pub use device::{AdapterSummary, Device, Tally, adapters};
pub use executor::{Executor, States};
pub use foreign::{Access, After, Foreign, Need, Operand};
pub use isolated::Isolated;
pub use results::Fetch;
pub use timestamps::{Clock, Span};
/// The version that the engine is built with: devices and buffers of another one are other types.
pub use wgpu;

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
    /// A kernel that is not ours, and does not fit the device.
    #[error("{adapter} does not run {kernel}: {reason}")]
    Foreign { adapter: String, kernel: String, reason: String },
    #[error(transparent)]
    Specialise(#[from] crate::engine::shaders::SpecialiseError),
    #[error("`{name}` takes shape {expected:?}, got {given:?}")]
    Shape { name: String, expected: crate::engine::tensor::Shape, given: crate::engine::tensor::Shape },
    /// A buffer of an application's, or one that it asks for.
    #[error("the buffer for {name} cannot be used: {reason}")]
    Buffer { name: String, reason: String },
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
