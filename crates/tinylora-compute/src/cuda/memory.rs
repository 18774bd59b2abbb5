//! Memory on a GPU: buffers with the types of their elements, each a part of an allocation that is given back when the last
//! of them is gone. Everything that is done with them is queued.

use super::device::{Argument, Inner};
use super::driver::{Address, checked};
use super::error::CudaError;
use super::queue::Fetched;
use crate::buffer::Zeroable;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// One allocation; given back when the last buffer in it is gone.
pub(super) struct Memory {
    pub inner: Arc<Inner>,
    pub address: Address,
    /// What was asked for, and what was allocated.
    pub wanted: usize,
    pub bytes: usize,
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
    /// The first `len` elements of an allocation that has so many.
    pub(super) fn new(memory: Memory, len: usize) -> Self {
        Self { memory: Arc::new(memory), start: 0, len, element: PhantomData }
    }

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
        self.memory.inner.note_use(&self.memory);
        self.memory.address + (self.start * size_of::<T>()) as u64
    }

    /// The same memory as elements of another type, which any bits are valid for, as they are for these.
    ///
    /// # Panics
    /// If it is not on a boundary of such elements, or does not hold a whole number of them.
    pub fn cast<U: Zeroable>(&self) -> DeviceBuffer<U> {
        let (start, len, size) = (self.start * size_of::<T>(), self.len * size_of::<T>(), size_of::<U>());
        assert!(start.is_multiple_of(size) && len.is_multiple_of(size), "bytes {start} and {len} in {size}s");
        let memory = Arc::clone(&self.memory);
        DeviceBuffer { memory, start: start / size, len: len / size, element: PhantomData }
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

    /// Overwrites the content; `values` may change afterwards.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn write(&self, values: &[T]) -> Result<(), CudaError> {
        assert_eq!(values.len(), self.len, "a buffer is written as a whole");
        let inner = &self.memory.inner;
        let driver = inner.enter()?;
        inner.assert_not_recording();
        // SAFETY: numbers without padding, as their bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        let mut ring = inner.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the buffer has as many bytes as the slice.
        unsafe { ring.send(driver, inner.stream, self.address(), bytes) }
    }

    /// Overwrites the content with zeros.
    pub fn clear(&self) -> Result<(), CudaError> {
        if self.is_empty() {
            return Ok(());
        }
        let (driver, bytes) = (self.memory.inner.enter()?, self.len * size_of::<T>());
        // SAFETY: the buffer has so many bytes.
        let status = unsafe { (driver.set_bytes)(self.address(), 0, bytes, self.memory.inner.queue()) };
        checked("cuMemsetD8Async", status)
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
        let (driver, bytes) = (self.memory.inner.enter()?, self.len * size_of::<T>());
        let (to, from, stream) = (self.address(), from.address(), self.memory.inner.queue());
        // SAFETY: both buffers have so many bytes.
        checked("cuMemcpyDtoDAsync", unsafe { (driver.on_device)(to, from, bytes, stream) })
    }

    /// The content as the work queued so far leaves it, on its way to the host.
    pub fn fetch(&self) -> Result<Fetched<T>, CudaError> {
        self.memory.inner.assert_not_recording();
        // SAFETY: so many elements lie there; they are numbers.
        unsafe { Fetched::new(&self.memory.inner, self.address(), self.len) }
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
        let inner = &self.memory.inner;
        let driver = inner.enter()?;
        inner.assert_not_recording();
        let bytes = size_of_val(to);
        // SAFETY: the slice has as many bytes as the buffer, and any bits are a valid element. It is left when the copy is done.
        unsafe {
            let status = (driver.to_host_later)(to.as_mut_ptr().cast(), self.address(), bytes, inner.stream);
            let waited = (driver.stream_wait)(inner.stream);
            checked("cuMemcpyDtoHAsync", status)?;
            checked("cuStreamSynchronize", waited)
        }
    }

    /// Waits for the work before; the content.
    pub fn to_vec(&self) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::default(); self.len];
        self.read(&mut values)?;
        Ok(values)
    }
}
