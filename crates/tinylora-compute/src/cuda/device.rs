//! One GPU: discovery, memory with a budget, kernels by name. Names and sizes enter, buffers and finished work leave. Work
//! is queued in order on one stream; reading a buffer waits for it.

use super::driver::{Address, Driver, Handle, checked};
use super::error::CudaError;
use super::images::{Images, Unit, architecture};
use crate::buffer::Zeroable;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::rc::Rc;

/// The oldest driver interface that loads what the kernels are compiled to, as the driver counts.
const OLDEST: i32 = 13000;
/// Attribute numbers of the driver's interface.
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;
const FUNCTION_SHARED_BYTES: i32 = 8;
/// Shared memory that a kernel has without asking.
const SHARED_UNASKED: usize = 48 << 10;

/// A GPU in use by one thread.
pub struct Device {
    inner: Rc<Inner>,
    images: Images,
    modules: RefCell<BTreeMap<Unit, Handle>>,
    functions: RefCell<BTreeMap<String, Handle>>,
    name: String,
    architecture: &'static str,
}

/// What buffers hold on to.
struct Inner {
    driver: Driver,
    device: i32,
    used: Cell<usize>,
    budget: usize,
}

impl Drop for Inner {
    fn drop(&mut self) {
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
    /// GPU number `number`, of which at most `budget` bytes are used; `driver` is the system's, or the library given.
    pub fn open(
        number: usize,
        budget: usize,
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
        let inner = Rc::new(Inner { driver, device, used: Cell::new(0), budget });
        Ok(Self {
            inner,
            images,
            modules: RefCell::default(),
            functions: RefCell::default(),
            name,
            architecture,
        })
    }

    /// The GPU's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.inner.used.get()
    }

    /// A buffer of `len` elements with arbitrary content; `what` names it in an error.
    pub fn buffer<T: Zeroable>(&self, what: &str, len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        let Inner { driver, used, budget, .. } = &*self.inner;
        let (used, budget) = (used.get(), *budget);
        // Never nothing, so that every buffer has an address.
        let wanted = len.saturating_mul(size_of::<T>()).max(16);
        if wanted > budget - used.min(budget) {
            return Err(CudaError::OutOfBudget { what: what.to_owned(), wanted, used, budget });
        }
        let mut address: Address = 0;
        // SAFETY: the address is written.
        match unsafe { (driver.allocate)(&mut address, wanted) } {
            0 => {}
            2 => {
                let (mut free, mut total) = (0, 0);
                // SAFETY: both are written.
                checked("cuMemGetInfo", unsafe { (driver.memory_info)(&mut free, &mut total) })?;
                return Err(CudaError::OutOfMemory { what: what.to_owned(), wanted, used, free });
            }
            code => return Err(CudaError::Driver { call: "cuMemAlloc", code }),
        }
        self.inner.used.set(used + wanted);
        Ok(DeviceBuffer { inner: Rc::clone(&self.inner), address, len, bytes: wanted, element: PhantomData })
    }

    /// A buffer with a copy of `values`.
    pub fn upload<T: Zeroable>(&self, what: &str, values: &[T]) -> Result<DeviceBuffer<T>, CudaError> {
        let mut buffer = self.buffer(what, values.len())?;
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
        // SAFETY: the pointers are to arguments that live through the call, which copies them; the rest is the caller's.
        let status = unsafe {
            let start = self.inner.driver.launch;
            start(function, x, y, z, threads, 1, 1, shared, none, pointers.as_mut_ptr(), std::ptr::null_mut())
        };
        checked("cuLaunchKernel", status)
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: no arguments.
        checked("cuCtxSynchronize", unsafe { (self.inner.driver.synchronize)() })
    }

    fn function(&self, kernel: &str, shared: usize) -> Result<Handle, CudaError> {
        let driver = &self.inner.driver;
        let known = self.functions.borrow().get(kernel).copied();
        let function = match known {
            Some(function) => function,
            None => {
                let no_kernel = || CudaError::NoKernel { name: kernel.to_owned() };
                let module = self.module(Unit::of(kernel).ok_or_else(no_kernel)?)?;
                let name = CString::new(kernel).map_err(|_| no_kernel())?;
                let mut function = std::ptr::null_mut();
                // SAFETY: a loaded module and a name that ends in 0.
                let status = unsafe { (driver.function)(&mut function, module, name.as_ptr()) };
                checked("cuModuleGetFunction", status)?;
                self.functions.borrow_mut().insert(kernel.to_owned(), function);
                function
            }
        };
        if shared > SHARED_UNASKED {
            // SAFETY: a function of a loaded module.
            let status =
                unsafe { (driver.set_function_attribute)(function, FUNCTION_SHARED_BYTES, shared as i32) };
            checked("cuFuncSetAttribute", status)?;
        }
        Ok(function)
    }

    fn module(&self, unit: Unit) -> Result<Handle, CudaError> {
        if let Some(&module) = self.modules.borrow().get(&unit) {
            return Ok(module);
        }
        let image = self.images.read(&unit, self.architecture)?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is machine code that our compiler made (its name has the hash of its sources).
        let status = unsafe { (self.inner.driver.load_module)(&mut module, image.as_ptr().cast()) };
        checked("cuModuleLoadData", status)?;
        self.modules.borrow_mut().insert(unit, module);
        Ok(module)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for &module in self.modules.borrow().values() {
            // SAFETY: loaded once and unloaded once; its functions are not used any more.
            unsafe { (self.inner.driver.unload_module)(module) };
        }
    }
}

/// Memory on the GPU; given back when dropped.
pub struct DeviceBuffer<T> {
    inner: Rc<Inner>,
    address: Address,
    len: usize,
    bytes: usize,
    element: PhantomData<T>,
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
        Argument::Buffer(self.address)
    }

    /// Its address, for structs.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Overwrites the content.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn write(&mut self, values: &[T]) -> Result<(), CudaError> {
        assert_eq!(values.len(), self.len, "a buffer is written as a whole");
        // SAFETY: the buffer has as many bytes as the slice.
        let status = unsafe {
            (self.inner.driver.to_device)(self.address, values.as_ptr().cast(), size_of_val(values))
        };
        checked("cuMemcpyHtoD", status)
    }

    /// Waits for the work before and copies the content.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn read(&self, to: &mut [T]) -> Result<(), CudaError> {
        assert_eq!(to.len(), self.len, "a buffer is read as a whole");
        // SAFETY: the slice has as many bytes as the buffer, and any bits are a valid element.
        let status =
            unsafe { (self.inner.driver.to_host)(to.as_mut_ptr().cast(), self.address, size_of_val(to)) };
        checked("cuMemcpyDtoH", status)
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        self.inner.used.set(self.inner.used.get() - self.bytes);
        // SAFETY: allocated once and freed once; the driver waits for work that uses it.
        unsafe { (self.inner.driver.free)(self.address) };
    }
}
