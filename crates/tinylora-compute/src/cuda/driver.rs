//! The functions of the driver that are used, found in its library at run time. A library enters, a table of functions
//! leaves. A table of our own, since with the bindings that exist a function that an old driver lacks is a panic.

use super::error::CudaError;
use libloading::Library;
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;

/// What a function returns: 0 is success.
pub(super) type Status = c_int;
/// An address on the GPU.
pub(super) type Address = u64;
/// Contexts, modules and functions.
pub(super) type Handle = *mut c_void;

macro_rules! functions {
    ($($name:ident as $symbol:literal: fn($($argument:ty),*);)*) => {
        /// The driver's functions, by their names without `cu`.
        pub(super) struct Driver {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> Status,)*
            /// The functions live as long as it.
            _library: Library,
        }

        impl Driver {
            fn of(library: Library) -> Result<Self, CudaError> {
                $(
                    let symbol = concat!($symbol, "\0");
                    // SAFETY: the type is that of the function in the driver's interface (cuda.h, version 13.0).
                    let found = unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> Status>(symbol.as_bytes())
                    };
                    let $name = match found {
                        Ok(function) => *function,
                        Err(_) => return Err(CudaError::OldDriver { found: format!("it has no {}", $symbol) }),
                    };
                )*
                Ok(Self { $($name,)* _library: library })
            }
        }
    };
}

functions! {
    init as "cuInit": fn(c_uint);
    driver_version as "cuDriverGetVersion": fn(*mut c_int);
    device_count as "cuDeviceGetCount": fn(*mut c_int);
    device as "cuDeviceGet": fn(*mut c_int, c_int);
    device_name as "cuDeviceGetName": fn(*mut c_char, c_int, c_int);
    device_attribute as "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
    retain as "cuDevicePrimaryCtxRetain": fn(*mut Handle, c_int);
    release as "cuDevicePrimaryCtxRelease_v2": fn(c_int);
    set_current as "cuCtxSetCurrent": fn(Handle);
    synchronize as "cuCtxSynchronize": fn();
    memory_info as "cuMemGetInfo_v2": fn(*mut usize, *mut usize);
    allocate as "cuMemAlloc_v2": fn(*mut Address, usize);
    free as "cuMemFree_v2": fn(Address);
    host_allocate as "cuMemHostAlloc": fn(*mut *mut c_void, usize, c_uint);
    host_free as "cuMemFreeHost": fn(*mut c_void);
    to_device_later as "cuMemcpyHtoDAsync_v2": fn(Address, *const c_void, usize, Handle);
    event_create as "cuEventCreate": fn(*mut Handle, c_uint);
    event_record as "cuEventRecord": fn(Handle, Handle);
    event_wait as "cuEventSynchronize": fn(Handle);
    event_destroy as "cuEventDestroy_v2": fn(Handle);
    to_host_later as "cuMemcpyDtoHAsync_v2": fn(*mut c_void, Address, usize, Handle);
    on_device as "cuMemcpyDtoDAsync_v2": fn(Address, Address, usize, Handle);
    set_bytes as "cuMemsetD8Async": fn(Address, u8, usize, Handle);
    stream_make as "cuStreamCreate": fn(*mut Handle, c_uint);
    stream_wait as "cuStreamSynchronize": fn(Handle);
    stream_free as "cuStreamDestroy_v2": fn(Handle);
    record as "cuStreamBeginCapture_v2": fn(Handle, c_int);
    record_end as "cuStreamEndCapture": fn(Handle, *mut Handle);
    graph_make as "cuGraphInstantiateWithFlags": fn(*mut Handle, Handle, c_ulonglong);
    graph_launch as "cuGraphLaunch": fn(Handle, Handle);
    graph_free as "cuGraphDestroy": fn(Handle);
    graph_executable_free as "cuGraphExecDestroy": fn(Handle);
    load_module as "cuModuleLoadData": fn(*mut Handle, *const c_void);
    unload_module as "cuModuleUnload": fn(Handle);
    function as "cuModuleGetFunction": fn(*mut Handle, Handle, *const c_char);
    set_function_attribute as "cuFuncSetAttribute": fn(Handle, c_int, c_int);
    tensor_map as "cuTensorMapEncodeTiled": fn(*mut c_void, c_int, c_uint, *mut c_void, *const u64, *const u64, *const c_uint, *const c_uint, c_int, c_int, c_int, c_int);
    launch as "cuLaunchKernel": fn(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
}

impl Driver {
    /// Loads the system's driver, or the library given.
    pub fn load(library: Option<&Path>) -> Result<Self, CudaError> {
        let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
        let path = library.unwrap_or(Path::new(name));
        // SAFETY: the driver's library may be loaded at any time; what it does on loading touches nothing of ours.
        let library = unsafe { Library::new(path) };
        Self::of(library.map_err(|error| CudaError::NoDriver { reason: error.to_string() })?)
    }
}

/// The status as a result.
pub(super) fn checked(call: &'static str, code: Status) -> Result<(), CudaError> {
    if code == 0 { Ok(()) } else { Err(CudaError::Driver { call, code }) }
}
