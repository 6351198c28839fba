//! A Vulkan layer that loses the device at the n-th submit, or runs out of memory at the n-th allocation, of a process.
//!
//! ```sh
//! cargo build --manifest-path kernels-tests/faulty-driver/Cargo.toml
//! VK_LAYER_PATH=kernels-tests/faulty-driver VK_INSTANCE_LAYERS=VK_LAYER_FAULTY_driver LOSE_AT=5 stssad …
//! ```
//!
//! `LOSE_AT` counts calls of `vkQueueSubmit`, `EXHAUST_AT` those of `vkAllocateMemory`, from 1; a file named in `FAULT_TOLD` is written
//! when the fault happens. A lost device stays lost: later submits and waits fail too.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use ash::vk;
use ash::vk::Handle;

/// The loader's chain of layers, in the structures of `vk_layer.h`.
#[repr(C)]
struct Link {
    next: *mut Link,
    instance_functions: vk::PFN_vkGetInstanceProcAddr,
    /// Of a device's link; of an instance's it is of no use here.
    device_functions: vk::PFN_vkGetDeviceProcAddr,
}

#[repr(C)]
struct ChainInfo {
    kind: vk::StructureType,
    next: *const c_void,
    /// 0 if `link` is one.
    function: i32,
    link: *mut Link,
}

#[repr(C)]
pub struct Negotiation {
    kind: i32,
    next: *mut c_void,
    version: u32,
    instance_functions: Option<vk::PFN_vkGetInstanceProcAddr>,
    device_functions: Option<vk::PFN_vkGetDeviceProcAddr>,
    physical_device_functions: *const c_void,
}

/// What is below this layer, by the dispatch table that the objects of an instance or a device share.
#[derive(Default)]
struct Below {
    instances: HashMap<usize, (vk::Instance, vk::PFN_vkGetInstanceProcAddr)>,
    devices: HashMap<usize, (vk::Device, vk::PFN_vkGetDeviceProcAddr)>,
}

static BELOW: LazyLock<Mutex<Below>> = LazyLock::new(Mutex::default);
static SUBMITS: AtomicU64 = AtomicU64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether this call, counted from 1, is the one that the variable names.
fn is_due(variable: &str, count: &AtomicU64) -> bool {
    let number = count.fetch_add(1, Ordering::Relaxed) + 1;
    let due = std::env::var(variable).is_ok_and(|at| at == number.to_string());
    if due && let Ok(file) = std::env::var("FAULT_TOLD") {
        std::fs::write(file, variable).expect("the file can be written");
    }
    due
}

/// The dispatch table of an object of Vulkan.
unsafe fn table(object: impl Handle) -> usize {
    // SAFETY: a dispatchable object begins with a pointer to its table.
    unsafe { *(object.as_raw() as *const usize) }
}

/// The next layer, of which the chain is told that it comes next.
unsafe fn advance(mut info: *const c_void, kind: vk::StructureType) -> Option<*mut Link> {
    // SAFETY: the loader passes a chain of structures, each of which begins with its kind and the next one.
    unsafe {
        while let Some(found) = (info as *mut ChainInfo).as_mut() {
            if found.kind == kind && found.function == 0 {
                let link = found.link;
                found.link = (*link).next;
                return Some(link);
            }
            info = found.next;
        }
    }
    None
}

unsafe extern "system" fn create_instance(
    info: *const vk::InstanceCreateInfo,
    allocator: *const vk::AllocationCallbacks,
    instance: *mut vk::Instance,
) -> vk::Result {
    // SAFETY: the arguments are those of the loader, and the function has the type of its name.
    unsafe {
        let Some(link) = advance((*info).p_next, vk::StructureType::LOADER_INSTANCE_CREATE_INFO) else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        let functions = (*link).instance_functions;
        let Some(create) = functions(vk::Instance::null(), c"vkCreateInstance".as_ptr()) else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        let created =
            transmute::<unsafe extern "system" fn(), vk::PFN_vkCreateInstance>(create)(info, allocator, instance);
        if created == vk::Result::SUCCESS {
            BELOW.lock().unwrap().instances.insert(table(*instance), (*instance, functions));
        }
        created
    }
}

unsafe extern "system" fn create_device(
    adapter: vk::PhysicalDevice,
    info: *const vk::DeviceCreateInfo,
    allocator: *const vk::AllocationCallbacks,
    device: *mut vk::Device,
) -> vk::Result {
    // SAFETY: as in `create_instance`.
    unsafe {
        let Some(link) = advance((*info).p_next, vk::StructureType::LOADER_DEVICE_CREATE_INFO) else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        let (instance, _) = BELOW.lock().unwrap().instances[&table(adapter)];
        let Some(create) = ((*link).instance_functions)(instance, c"vkCreateDevice".as_ptr()) else {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        };
        let device_functions = (*link).device_functions;
        let create = transmute::<unsafe extern "system" fn(), vk::PFN_vkCreateDevice>(create);
        let created = create(adapter, info, allocator, device);
        if created == vk::Result::SUCCESS {
            BELOW.lock().unwrap().devices.insert(table(*device), (*device, device_functions));
        }
        created
    }
}

/// A function of the driver for the device of an object.
unsafe fn below(object: impl Handle, name: &CStr) -> unsafe extern "system" fn() {
    // SAFETY: the function is asked for as the loader would.
    unsafe {
        let (device, functions) = BELOW.lock().unwrap().devices[&table(object)];
        functions(device, name.as_ptr()).expect("the driver has what was asked of it")
    }
}

unsafe extern "system" fn queue_submit(
    queue: vk::Queue,
    count: u32,
    submits: *const vk::SubmitInfo,
    fence: vk::Fence,
) -> vk::Result {
    if is_due("LOSE_AT", &SUBMITS) {
        LOST.store(true, Ordering::Relaxed);
    }
    if LOST.load(Ordering::Relaxed) {
        return vk::Result::ERROR_DEVICE_LOST;
    }
    // SAFETY: the function has the type of its name.
    unsafe {
        let submit = below(queue, c"vkQueueSubmit");
        transmute::<unsafe extern "system" fn(), vk::PFN_vkQueueSubmit>(submit)(queue, count, submits, fence)
    }
}

unsafe extern "system" fn allocate_memory(
    device: vk::Device,
    info: *const vk::MemoryAllocateInfo,
    allocator: *const vk::AllocationCallbacks,
    memory: *mut vk::DeviceMemory,
) -> vk::Result {
    if is_due("EXHAUST_AT", &ALLOCATIONS) {
        return vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    }
    // SAFETY: as in `queue_submit`.
    unsafe {
        let allocate = below(device, c"vkAllocateMemory");
        transmute::<unsafe extern "system" fn(), vk::PFN_vkAllocateMemory>(allocate)(device, info, allocator, memory)
    }
}

unsafe extern "system" fn wait_semaphores(
    device: vk::Device,
    info: *const vk::SemaphoreWaitInfo,
    timeout: u64,
) -> vk::Result {
    if LOST.load(Ordering::Relaxed) {
        return vk::Result::ERROR_DEVICE_LOST;
    }
    // SAFETY: as in `queue_submit`.
    unsafe {
        let wait = below(device, c"vkWaitSemaphores");
        transmute::<unsafe extern "system" fn(), vk::PFN_vkWaitSemaphores>(wait)(device, info, timeout)
    }
}

/// The function of this layer that has this name.
fn own(name: &CStr) -> vk::PFN_vkVoidFunction {
    // SAFETY: whoever asks for a function by its name calls it by its type.
    let of = |function: *const ()| Some(unsafe { transmute::<*const (), unsafe extern "system" fn()>(function) });
    match name.to_bytes() {
        b"vkGetInstanceProcAddr" => of(instance_function as *const ()),
        b"vkGetDeviceProcAddr" => of(device_function as *const ()),
        b"vkCreateInstance" => of(create_instance as *const ()),
        b"vkCreateDevice" => of(create_device as *const ()),
        b"vkQueueSubmit" => of(queue_submit as *const ()),
        b"vkAllocateMemory" => of(allocate_memory as *const ()),
        b"vkWaitSemaphores" => of(wait_semaphores as *const ()),
        _ => None,
    }
}

unsafe extern "system" fn instance_function(instance: vk::Instance, name: *const c_char) -> vk::PFN_vkVoidFunction {
    // SAFETY: the name is a string, and the instance one that this layer has seen, or null.
    unsafe {
        if let Some(function) = own(CStr::from_ptr(name)) {
            return Some(function);
        }
        if instance.is_null() {
            return None;
        }
        let (_, functions) = *BELOW.lock().unwrap().instances.get(&table(instance))?;
        functions(instance, name)
    }
}

unsafe extern "system" fn device_function(device: vk::Device, name: *const c_char) -> vk::PFN_vkVoidFunction {
    // SAFETY: as in `instance_function`.
    unsafe {
        if let Some(function) = own(CStr::from_ptr(name)) {
            return Some(function);
        }
        let (_, functions) = *BELOW.lock().unwrap().devices.get(&table(device))?;
        functions(device, name)
    }
}

/// Where the loader begins.
///
/// # Safety
/// As of `vk_layer.h`.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vkNegotiateLoaderLayerInterfaceVersion(negotiation: *mut Negotiation) -> vk::Result {
    // SAFETY: the loader passes a structure that is to be filled.
    let negotiation = unsafe { &mut *negotiation };
    negotiation.version = negotiation.version.min(2);
    negotiation.instance_functions = Some(instance_function);
    negotiation.device_functions = Some(device_function);
    negotiation.physical_device_functions = std::ptr::null();
    vk::Result::SUCCESS
}
