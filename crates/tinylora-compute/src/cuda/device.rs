//! One GPU: discovery, memory with a budget, kernels by name. Names and sizes enter, buffers and queued work leave. Work
//! is queued in order on one stream; reading a buffer waits for it.

use super::driver::{Address, Driver, Handle, checked};
use super::error::CudaError;
use super::graph::Recording;
use super::images::{HOPPER, Images, Unit, architecture};
use super::memory::{DeviceBuffer, Memory};
use super::queue::{Pinned, Ring};
use crate::buffer::Zeroable;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The oldest driver interface that loads what the kernels are compiled to, as the driver counts.
const OLDEST: i32 = 13000;
/// Attribute numbers of the driver's interface.
const PROCESSORS: i32 = 16;
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;
const FUNCTION_SHARED_BYTES: i32 = 8;
/// The driver's number for it.
const OUT_OF_MEMORY: i32 = 2;
/// A stream that doesn't wait for the one that has no name.
const NON_BLOCKING: u32 = 1;
/// Shared memory that a kernel has without asking.
const SHARED_UNASKED: usize = 48 << 10;

/// A GPU in use. Threads may share it; what they queue runs in the order in which it is queued.
pub struct Device {
    inner: Arc<Inner>,
    images: Images,
    name: String,
    architecture: &'static str,
    processors: usize,
    wgmma: bool,
    graphs: bool,
    report: fn(&str),
}

/// Machine code that is on the GPU.
#[derive(Default)]
pub(super) struct Loaded {
    modules: BTreeMap<Unit, Handle>,
    /// With the shared memory that each has asked for so far.
    functions: BTreeMap<String, (Handle, usize)>,
}

/// What buffers hold on to.
pub(super) struct Inner {
    driver: Driver,
    device: i32,
    context: Handle,
    /// Where everything is queued, but what is recorded.
    pub stream: Handle,
    pub recording_stream: Handle,
    /// Bytes of buffers in use.
    pub used: AtomicUsize,
    /// Memory that was given back, by size: taken again before the driver is asked, which would wait for all work.
    pub spare: Mutex<Spare>,
    budget: usize,
    loaded: Mutex<Loaded>,
    /// What goes to the GPU, and pinned memory in which results came back.
    pub ring: Mutex<Ring>,
    pub returned: Mutex<Vec<Pinned>>,
    /// The graph that is being recorded, one at a time.
    pub recorder: Mutex<()>,
    pub recording: Mutex<Option<Recording>>,
    pub is_recording: AtomicBool,
    pub graph_launches: AtomicUsize,
}

#[derive(Default)]
pub(super) struct Spare {
    pub bytes: usize,
    pub addresses: BTreeMap<usize, Vec<Address>>,
}

// SAFETY: the driver's handles may be used from any thread, once its context is current there; see `enter`.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver's functions may be called from several threads at once.
unsafe impl Sync for Inner {}
// SAFETY: as for `Inner`; the handles in it are behind a lock.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Inner {
    /// Makes the GPU's context the calling thread's.
    pub(super) fn enter(&self) -> Result<&Driver, CudaError> {
        // SAFETY: the context was retained in `open` and is released when this is dropped.
        checked("cuCtxSetCurrent", unsafe { (self.driver.set_current)(self.context) })?;
        Ok(&self.driver)
    }

    /// What this thread records, if it does.
    fn recording(&self) -> Option<MutexGuard<'_, Option<Recording>>> {
        if !self.is_recording.load(Ordering::Acquire) {
            return None;
        }
        let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = std::thread::current().id();
        recording.as_ref().is_some_and(|recording| recording.thread == thread).then_some(recording)
    }

    /// Where this thread's work is queued.
    pub(super) fn queue(&self) -> Handle {
        if self.recording().is_some() { self.recording_stream } else { self.stream }
    }

    /// Has a graph that this thread records hold memory whose address goes into a launch.
    pub(super) fn note_use(&self, memory: &Arc<Memory>) {
        if let Some(recording) = self.recording().as_deref_mut().and_then(Option::as_mut) {
            recording.used.entry(memory.address).or_insert_with(|| Arc::clone(memory));
        }
    }

    /// # Panics
    /// While this thread records: what is read or written then would be so once, and not when the graph runs.
    pub(super) fn assert_not_recording(&self) {
        assert!(self.recording().is_none(), "nothing is read or written while a graph is recorded");
    }

    /// Memory that was given back and has exactly this size.
    fn take_spare(&self, bytes: usize) -> Option<Address> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let address = spare.addresses.get_mut(&bytes)?.pop()?;
        spare.bytes -= bytes;
        Some(address)
    }

    /// Gives everything back to the driver that isn't in use; gives the number of bytes.
    fn release_spare(&self) -> usize {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(driver) = self.enter() else { return 0 };
        for address in std::mem::take(&mut spare.addresses).into_values().flatten() {
            // SAFETY: allocated once and freed once; the driver waits for work that uses it.
            unsafe { (driver.free)(address) };
        }
        std::mem::take(&mut spare.bytes)
    }
}

/// What is allocated for so many bytes: steps of at most an eighth, so that memory that was given back fits again.
fn rounded(bytes: usize) -> usize {
    let step = (bytes.max(4096) / 8 + 1).next_power_of_two() / 2;
    bytes.div_ceil(step).saturating_mul(step)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.release_spare();
        if let Ok(driver) = self.enter() {
            // SAFETY: a stream of ours, or none.
            unsafe { (driver.stream_wait)(self.stream) };
            let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            for &module in loaded.modules.values() {
                // SAFETY: loaded once and unloaded once; nobody can launch its functions any more.
                unsafe { (driver.unload_module)(module) };
            }
            let free = |pinned: Pinned| pinned.free(driver);
            self.returned.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(free);
            self.ring.lock().unwrap_or_else(PoisonError::into_inner).free(driver);
            for stream in [self.stream, self.recording_stream] {
                if !stream.is_null() {
                    // SAFETY: made in `open`; nothing is queued any more that anybody waits for.
                    unsafe { (driver.stream_free)(stream) };
                }
            }
        }
        // SAFETY: retained in `open`; all buffers are gone, since they hold on to this.
        unsafe { (self.driver.release)(self.device) };
    }
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// Blocks in x, y and z.
    pub blocks: [u32; 3],
    /// Threads a block.
    pub threads: u32,
    /// Shared memory a block, in bytes.
    pub shared: usize,
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// The address of a buffer.
    Buffer(u64),
    /// A number.
    Int(i32),
    /// A number.
    Float(f32),
    /// A struct as C lays it out, on a boundary of eight bytes.
    Struct(&'a [u64]),
}

impl Device {
    /// GPU number `number`, of which at most `budget` bytes are used (None: eleven twelfths of its memory, as its context and
    /// other programs need some, too); `driver` is the system's, or the library given.
    pub fn open(
        number: usize,
        budget: Option<usize>,
        images: Images,
        driver: Option<&Path>,
    ) -> Result<Self, CudaError> {
        let driver = Driver::load(driver)?;
        let (mut version, mut count, mut device, mut context) = (0, 0, 0, std::ptr::null_mut());
        let (mut major, mut minor, mut processors, mut name) = (0, 0, 0, [0u8; 256]);
        // SAFETY: each call gets pointers to variables of the type that it writes, the name with its length.
        unsafe {
            match (driver.init)(0) {
                100 => return Err(CudaError::NoDevice),
                status => checked("cuInit", status)?,
            }
            checked("cuDriverGetVersion", (driver.driver_version)(&mut version))?;
            if version < OLDEST {
                let found = format!("it knows CUDA {}.{}", version / 1000, version % 1000 / 10);
                return Err(CudaError::OldDriver { found });
            }
            checked("cuDeviceGetCount", (driver.device_count)(&mut count))?;
            let count = count.max(0) as usize;
            if count == 0 {
                return Err(CudaError::NoDevice);
            }
            if number >= count {
                return Err(CudaError::NoSuchDevice { number, count });
            }
            checked("cuDeviceGet", (driver.device)(&mut device, number as i32))?;
            checked("cuDeviceGetName", (driver.device_name)(name.as_mut_ptr().cast(), 255, device))?;
            for (attribute, value) in [
                (CAPABILITY_MAJOR, &mut major),
                (CAPABILITY_MINOR, &mut minor),
                (PROCESSORS, &mut processors),
            ] {
                checked("cuDeviceGetAttribute", (driver.device_attribute)(value, attribute, device))?;
            }
        }
        let name =
            String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned();
        let Some(architecture) = architecture(major, minor) else {
            return Err(CudaError::Unsupported { name, major, minor });
        };
        // SAFETY: as above.
        unsafe {
            checked("cuDevicePrimaryCtxRetain", (driver.retain)(&mut context, device))?;
            checked("cuCtxSetCurrent", (driver.set_current)(context))?;
        }
        let mut inner = Inner {
            driver,
            device,
            context,
            stream: std::ptr::null_mut(),
            recording_stream: std::ptr::null_mut(),
            used: AtomicUsize::new(0),
            spare: Mutex::default(),
            budget: 0,
            loaded: Mutex::default(),
            ring: Mutex::default(),
            returned: Mutex::default(),
            recorder: Mutex::default(),
            recording: Mutex::default(),
            is_recording: AtomicBool::new(false),
            graph_launches: AtomicUsize::new(0),
        };
        for stream in [&mut inner.stream, &mut inner.recording_stream] {
            // SAFETY: the stream is written.
            checked("cuStreamCreate", unsafe { (inner.driver.stream_make)(stream, NON_BLOCKING) })?;
        }
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written.
        checked("cuMemGetInfo", unsafe { (inner.driver.memory_info)(&mut free, &mut total) })?;
        inner.budget = budget.unwrap_or(total / 12 * 11);
        Ok(Self {
            inner: Arc::new(inner),
            images,
            name,
            architecture,
            processors: processors.max(1) as usize,
            wgmma: false,
            graphs: true,
            report: |_| {},
        })
    }

    /// With products on `wgmma` instead of `mma.sync`, or not.
    ///
    /// # Errors
    /// If the GPU has no `wgmma`.
    pub fn with_wgmma(self, wgmma: bool) -> Result<Self, CudaError> {
        if wgmma && self.architecture != HOPPER {
            return Err(CudaError::NoWgmma { name: self.name, architecture: self.architecture });
        }
        Ok(Self { wgmma, ..self })
    }

    /// Whether products are on `wgmma`.
    pub fn has_wgmma(&self) -> bool {
        self.wgmma
    }

    /// Multiprocessors.
    pub(super) fn processors(&self) -> usize {
        self.processors
    }

    /// With graphs or without: whether work that comes again and again should be recorded.
    pub fn with_graphs(self, graphs: bool) -> Self {
        Self { graphs, ..self }
    }

    /// With somebody to tell what is no error.
    pub fn with_report(self, report: fn(&str)) -> Self {
        Self { report, ..self }
    }

    /// Whether work that comes again and again should be recorded.
    pub fn has_graphs(&self) -> bool {
        self.graphs
    }

    /// Graphs that were queued so far.
    pub fn graph_launches(&self) -> usize {
        self.inner.graph_launches.load(Ordering::Relaxed)
    }

    /// Tells what a person should know and is no error.
    pub fn report(&self, text: &str) {
        (self.report)(text);
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The GPU's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its machine code is made for.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be used.
    pub fn budget(&self) -> usize {
        self.inner.budget
    }

    /// A buffer of `len` elements with arbitrary content; `what` names it in an error.
    pub fn buffer<T: Zeroable>(&self, what: &str, len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        let (used, budget) = (self.used(), self.inner.budget);
        // Never nothing, so that every buffer has an address.
        let wanted = len.saturating_mul(size_of::<T>()).max(16);
        if wanted > budget - used.min(budget) {
            return Err(CudaError::OutOfBudget { what: what.to_owned(), wanted, used, budget });
        }
        let bytes = rounded(wanted);
        let address = match self.inner.take_spare(bytes) {
            Some(address) => address,
            None => self.allocate(what, wanted, bytes)?,
        };
        self.inner.used.fetch_add(wanted, Ordering::Relaxed);
        Ok(DeviceBuffer::new(Memory { inner: Arc::clone(&self.inner), address, wanted, bytes }, len))
    }

    /// Memory from the driver.
    fn allocate(&self, what: &str, wanted: usize, bytes: usize) -> Result<Address, CudaError> {
        let driver = self.inner.enter()?;
        let used = self.used();
        let spare = self.inner.spare.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        if used.saturating_add(spare).saturating_add(bytes) > self.inner.budget {
            self.inner.release_spare();
        }
        let mut address: Address = 0;
        // SAFETY: the address is written.
        let mut status = unsafe { (driver.allocate)(&mut address, bytes) };
        if status == OUT_OF_MEMORY && self.inner.release_spare() > 0 {
            // SAFETY: as above.
            status = unsafe { (driver.allocate)(&mut address, bytes) };
        }
        match status {
            0 => Ok(address),
            OUT_OF_MEMORY => {
                let (mut free, mut total) = (0, 0);
                // SAFETY: both are written.
                checked("cuMemGetInfo", unsafe { (driver.memory_info)(&mut free, &mut total) })?;
                Err(CudaError::OutOfMemory { what: what.to_owned(), wanted, used, free })
            }
            code => Err(CudaError::Driver { call: "cuMemAlloc", code }),
        }
    }

    /// A buffer of zeros.
    pub fn zeroed<T: Zeroable>(&self, what: &str, len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        let buffer = self.buffer(what, len)?;
        buffer.clear()?;
        Ok(buffer)
    }

    /// A buffer with a copy of `values`.
    pub fn upload<T: Zeroable>(&self, what: &str, values: &[T]) -> Result<DeviceBuffer<T>, CudaError> {
        let buffer = self.buffer(what, values.len())?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// The arguments are what the kernel takes, the buffers are as long as it reads and writes, and they live until
    /// the work is done.
    pub unsafe fn launch(
        &self,
        kernel: &str,
        launch: Launch,
        arguments: &[Argument<'_>],
    ) -> Result<(), CudaError> {
        let function = self.function(kernel, launch.shared)?;
        let mut pointers: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Buffer(address) => std::ptr::from_ref(address).cast_mut().cast(),
                Argument::Int(number) => std::ptr::from_ref(number).cast_mut().cast(),
                Argument::Float(number) => std::ptr::from_ref(number).cast_mut().cast(),
                Argument::Struct(words) => words.as_ptr().cast_mut().cast(),
            })
            .collect();
        let ([x, y, z], none) = (launch.blocks, std::ptr::null_mut());
        let (threads, shared) = (launch.threads, launch.shared as u32);
        let driver = self.inner.enter()?;
        // SAFETY: the pointers are to arguments that live through the call, which copies them; the rest is the caller's.
        let status = unsafe {
            let start = driver.launch;
            let stream = self.inner.queue();
            start(function, x, y, z, threads, 1, 1, shared, stream, pointers.as_mut_ptr(), none)
        };
        checked("cuLaunchKernel", status)
    }

    /// The same, but nothing where there are no blocks.
    ///
    /// # Safety
    /// As [`Self::launch`].
    pub(super) unsafe fn launch_some(
        &self,
        kernel: &str,
        launch: Launch,
        arguments: &[Argument<'_>],
    ) -> Result<(), CudaError> {
        if launch.blocks.contains(&0) {
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { self.launch(kernel, launch, arguments) }
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let driver = self.inner.enter()?;
        // SAFETY: no arguments.
        checked("cuCtxSynchronize", unsafe { (driver.synchronize)() })
    }

    fn function(&self, kernel: &str, shared: usize) -> Result<Handle, CudaError> {
        let driver = self.inner.enter()?;
        let mut loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let (function, asked) = match loaded.functions.get(kernel) {
            Some(&known) => known,
            None => {
                let no_kernel = || CudaError::NoKernel { name: kernel.to_owned() };
                let module = self.module(Unit::of(kernel).ok_or_else(no_kernel)?, &mut loaded)?;
                let name = CString::new(kernel).map_err(|_| no_kernel())?;
                let mut function = std::ptr::null_mut();
                // SAFETY: a loaded module and a name that ends in 0.
                let status = unsafe { (driver.function)(&mut function, module, name.as_ptr()) };
                checked("cuModuleGetFunction", status)?;
                (function, SHARED_UNASKED)
            }
        };
        if shared > asked {
            // SAFETY: a function of a loaded module.
            let status =
                unsafe { (driver.set_function_attribute)(function, FUNCTION_SHARED_BYTES, shared as i32) };
            checked("cuFuncSetAttribute", status)?;
        }
        loaded.functions.insert(kernel.to_owned(), (function, shared.max(asked)));
        Ok(function)
    }

    fn module(&self, unit: Unit, loaded: &mut Loaded) -> Result<Handle, CudaError> {
        if let Some(&module) = loaded.modules.get(&unit) {
            return Ok(module);
        }
        let image = self.images.read(&unit, self.architecture)?;
        let driver = self.inner.enter()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is machine code that our compiler made (its name has the hash of its sources).
        let status = unsafe { (driver.load_module)(&mut module, image.as_ptr().cast()) };
        checked("cuModuleLoadData", status)?;
        loaded.modules.insert(unit, module);
        Ok(module)
    }
}
