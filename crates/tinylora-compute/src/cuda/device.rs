//! One GPU: discovery, memory with a budget, kernels by name. Names and sizes enter, buffers and finished work leave. Work
//! is queued in order on one stream; reading a buffer waits for it.

use super::driver::{Address, Driver, Handle, checked};
use super::error::CudaError;
use super::images::{Images, Unit, architecture};
use crate::buffer::Zeroable;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The oldest driver interface that loads what the kernels are compiled to, as the driver counts.
const OLDEST: i32 = 13000;
/// Attribute numbers of the driver's interface.
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;
const FUNCTION_SHARED_BYTES: i32 = 8;
/// The driver's number for it.
const OUT_OF_MEMORY: i32 = 2;
/// Shared memory that a kernel has without asking.
const SHARED_UNASKED: usize = 48 << 10;

/// A GPU in use. Threads may share it; what they queue runs in the order in which it is queued.
pub struct Device {
    inner: Arc<Inner>,
    images: Images,
    loaded: Mutex<Loaded>,
    name: String,
    architecture: &'static str,
}

/// Machine code that is on the GPU.
#[derive(Default)]
struct Loaded {
    modules: BTreeMap<Unit, Handle>,
    /// With the shared memory that each has asked for so far.
    functions: BTreeMap<String, (Handle, usize)>,
}

/// What buffers hold on to.
pub(super) struct Inner {
    driver: Driver,
    device: i32,
    context: Handle,
    /// Bytes of buffers in use.
    used: AtomicUsize,
    /// Memory that was given back, by size: taken again before the driver is asked, which would wait for all work.
    spare: Mutex<Spare>,
    budget: usize,
}

#[derive(Default)]
struct Spare {
    bytes: usize,
    addresses: BTreeMap<usize, Vec<Address>>,
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
        let (mut major, mut minor, mut name) = (0, 0, [0u8; 256]);
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
            for (attribute, value) in [(CAPABILITY_MAJOR, &mut major), (CAPABILITY_MINOR, &mut minor)] {
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
        let (used, spare) = (AtomicUsize::new(0), Mutex::default());
        let mut inner = Inner { driver, device, context, used, spare, budget: 0 };
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written.
        checked("cuMemGetInfo", unsafe { (inner.driver.memory_info)(&mut free, &mut total) })?;
        inner.budget = budget.unwrap_or(total / 12 * 11);
        Ok(Self { inner: Arc::new(inner), images, loaded: Mutex::default(), name, architecture })
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
        let memory = Arc::new(Memory { inner: Arc::clone(&self.inner), address, wanted, bytes });
        Ok(DeviceBuffer { memory, start: 0, len, element: PhantomData })
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
            start(function, x, y, z, threads, 1, 1, shared, none, pointers.as_mut_ptr(), std::ptr::null_mut())
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
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
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

impl Drop for Device {
    fn drop(&mut self) {
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        for &module in loaded.modules.values() {
            // SAFETY: loaded once and unloaded once; its functions are not used any more.
            unsafe { (self.inner.driver.unload_module)(module) };
        }
    }
}

/// One allocation; given back when the last buffer in it is gone.
struct Memory {
    inner: Arc<Inner>,
    address: Address,
    /// What was asked for, and what was allocated.
    wanted: usize,
    bytes: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.inner.used.fetch_sub(self.wanted, Ordering::Relaxed);
        // Work that still uses it comes before whatever the next owner queues.
        let mut spare = self.inner.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.addresses.entry(self.bytes).or_default().push(self.address);
        spare.bytes += self.bytes;
    }
}

/// Memory on the GPU, or a part of it. A clone is the same memory; kernels write to what they are given.
pub struct DeviceBuffer<T> {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Clone for DeviceBuffer<T> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), start: self.start, len: self.len, element: PhantomData }
    }
}

impl<T: Zeroable> DeviceBuffer<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As a kernel's argument.
    pub fn argument(&self) -> Argument<'static> {
        Argument::Buffer(self.address())
    }

    /// Its address, for structs.
    pub fn address(&self) -> u64 {
        self.memory.address + (self.start * size_of::<T>()) as u64
    }

    /// `len` elements of it, from `start` on.
    ///
    /// # Panics
    /// If it has not so many.
    pub fn part(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "elements {start} … {} of {}", start + len, self.len);
        Self { start: self.start + start, len, ..self.clone() }
    }

    /// This and what follows it, if `next` begins in the same memory where this ends.
    pub fn joined(&self, next: &Self) -> Option<Self> {
        let follows = Arc::ptr_eq(&self.memory, &next.memory) && self.start + self.len == next.start;
        follows.then(|| Self { len: self.len + next.len, ..self.clone() })
    }

    /// Overwrites the content.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn write(&self, values: &[T]) -> Result<(), CudaError> {
        assert_eq!(values.len(), self.len, "a buffer is written as a whole");
        if values.is_empty() {
            return Ok(());
        }
        let driver = self.memory.inner.enter()?;
        // SAFETY: the buffer has as many bytes as the slice.
        let status =
            unsafe { (driver.to_device)(self.address(), values.as_ptr().cast(), size_of_val(values)) };
        checked("cuMemcpyHtoD", status)
    }

    /// Overwrites the content with zeros.
    pub fn clear(&self) -> Result<(), CudaError> {
        if self.is_empty() {
            return Ok(());
        }
        let driver = self.memory.inner.enter()?;
        // SAFETY: the buffer has so many bytes.
        let status = unsafe { (driver.set_bytes)(self.address(), 0, self.len * size_of::<T>()) };
        checked("cuMemsetD8", status)
    }

    /// Overwrites the content with that of `from`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy_from(&self, from: &Self) -> Result<(), CudaError> {
        assert_eq!(from.len, self.len, "a buffer is copied as a whole");
        if self.is_empty() {
            return Ok(());
        }
        let driver = self.memory.inner.enter()?;
        // SAFETY: both buffers have so many bytes.
        let status = unsafe { (driver.on_device)(self.address(), from.address(), self.len * size_of::<T>()) };
        checked("cuMemcpyDtoD", status)
    }

    /// Waits for the work before and copies the content.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn read(&self, to: &mut [T]) -> Result<(), CudaError> {
        assert_eq!(to.len(), self.len, "a buffer is read as a whole");
        if to.is_empty() {
            return Ok(());
        }
        let driver = self.memory.inner.enter()?;
        // SAFETY: the slice has as many bytes as the buffer, and any bits are a valid element.
        let status = unsafe { (driver.to_host)(to.as_mut_ptr().cast(), self.address(), size_of_val(to)) };
        checked("cuMemcpyDtoH", status)
    }

    /// Waits for the work before; the content.
    pub fn to_vec(&self) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::default(); self.len];
        self.read(&mut values)?;
        Ok(values)
    }
}
