//! What a GPU does one after the other: the stream on which everything is queued, small things that go there through pinned
//! memory, and results that come back through pinned memory. The host waits for a ring that is full and for results that it
//! asks for, and for nothing else.
//!
//! There is one stream. A copy of a step's lists or results takes some microseconds of the milliseconds that a step takes; on
//! a stream of its own it would save those and need an event wherever one side reads what the other writes.

use super::device::Inner;
use super::driver::{Address, Driver, Handle, Status, checked};
use super::error::CudaError;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError};

/// Events without times.
const NO_TIMING: u32 = 2;
/// Segments of the ring, and their bytes.
const SEGMENTS: usize = 8;
const SEGMENT: usize = 256 << 10;

/// Pinned memory, and when the copies from it or to it are done.
pub(super) struct Pinned {
    pub memory: *mut u8,
    pub bytes: usize,
    pub copied: Handle,
}

impl Pinned {
    pub fn new(driver: &Driver, bytes: usize) -> Result<Self, CudaError> {
        let (mut memory, mut copied) = (std::ptr::null_mut::<c_void>(), std::ptr::null_mut());
        // SAFETY: event and address are written; both are freed in `free`.
        unsafe {
            checked("cuEventCreate", (driver.event_create)(&mut copied, NO_TIMING))?;
            let status = (driver.host_allocate)(&mut memory, bytes, 0);
            if let Err(error) = checked("cuMemHostAlloc", status) {
                (driver.event_destroy)(copied);
                return Err(error);
            }
            memory.cast::<u8>().write_bytes(0, bytes);
        }
        Ok(Self { memory: memory.cast(), bytes, copied })
    }

    /// Waits until no copy uses it.
    pub fn wait(&self, driver: &Driver) -> Result<(), CudaError> {
        // SAFETY: an event of ours; one that was never recorded is done.
        checked("cuEventSynchronize", unsafe { (driver.event_wait)(self.copied) })
    }

    /// Has [`Self::wait`] wait for all that is queued by now.
    pub fn mark(&self, driver: &Driver, stream: Handle) -> Result<(), CudaError> {
        // SAFETY: an event and a stream of ours.
        checked("cuEventRecord", unsafe { (driver.event_record)(self.copied, stream) })
    }

    /// Gives it back, after the last copy.
    pub fn free(self, driver: &Driver) {
        // SAFETY: made in `new`, freed once, and used by no copy after its event.
        unsafe {
            (driver.event_wait)(self.copied);
            (driver.event_destroy)(self.copied);
            (driver.host_free)(self.memory.cast());
        }
    }
}

/// Pinned memory through which small things go to the GPU, segment by segment: a segment is filled again when its copies are
/// done.
pub(super) struct Ring {
    segments: Vec<Pinned>,
    bytes: usize,
    turn: usize,
    filled: usize,
    /// For the test that shows what waiting is good for.
    #[cfg(test)]
    pub careless: bool,
}

impl Default for Ring {
    fn default() -> Self {
        Self::of(SEGMENT)
    }
}

impl Ring {
    /// A ring of segments of so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self {
            segments: Vec::new(),
            bytes,
            turn: 0,
            filled: 0,
            #[cfg(test)]
            careless: false,
        }
    }

    /// Queues a copy of `bytes` to an address on the GPU; the source may change afterwards.
    ///
    /// # Safety
    /// There is so much memory at the address.
    pub unsafe fn send(
        &mut self,
        driver: &Driver,
        stream: Handle,
        mut to: Address,
        mut bytes: &[u8],
    ) -> Result<(), CudaError> {
        while self.segments.len() < SEGMENTS {
            self.segments.push(Pinned::new(driver, self.bytes)?);
        }
        while !bytes.is_empty() {
            if self.filled == self.bytes {
                self.segments[self.turn].mark(driver, stream)?;
                self.turn = (self.turn + 1) % SEGMENTS;
                self.filled = 0;
                self.wait(driver)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.bytes - self.filled));
            // SAFETY: the segment has room for `now` from here on, and no copy reads it any more.
            let status = unsafe {
                let from = self.segments[self.turn].memory.add(self.filled);
                from.copy_from_nonoverlapping(now.as_ptr(), now.len());
                (driver.to_device_later)(to, from.cast(), now.len(), stream)
            };
            checked("cuMemcpyHtoDAsync", status)?;
            self.filled = (self.filled + now.len()).next_multiple_of(16).min(self.bytes);
            to += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn wait(&self, driver: &Driver) -> Result<(), CudaError> {
        #[cfg(test)]
        if self.careless {
            return Ok(());
        }
        self.segments[self.turn].wait(driver)
    }

    pub fn free(&mut self, driver: &Driver) {
        self.segments.drain(..).for_each(|segment| segment.free(driver));
    }
}

/// The content of a buffer at the place in the queue where it was fetched, on its way.
pub struct Fetched<T> {
    inner: Arc<Inner>,
    pinned: Option<Pinned>,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: the memory behind the pointer belongs to this value alone, and the driver's handles may be used from any thread.
unsafe impl<T: Send> Send for Fetched<T> {}

impl<T: Copy + Default> Fetched<T> {
    /// # Safety
    /// `len` elements lie at the address, and any bits are a valid element.
    pub(super) unsafe fn new(inner: &Arc<Inner>, from: Address, len: usize) -> Result<Self, CudaError> {
        let driver = inner.enter()?;
        let bytes = (len * size_of::<T>()).max(1);
        let mut returned = inner.returned.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = match returned.iter().position(|pinned| pinned.bytes >= bytes) {
            Some(found) => returned.swap_remove(found),
            None => Pinned::new(driver, bytes.next_power_of_two())?,
        };
        drop(returned);
        let fetched = Self { inner: Arc::clone(inner), pinned: Some(pinned), len, element: PhantomData };
        let pinned = fetched.pinned.as_ref().expect("set above");
        if len > 0 {
            let status: Status =
                // SAFETY: both sides have so many bytes; the host reads them after the event.
                unsafe { (driver.to_host_later)(pinned.memory.cast(), from, bytes, inner.stream) };
            checked("cuMemcpyDtoHAsync", status)?;
        }
        pinned.mark(driver, inner.stream)?;
        Ok(fetched)
    }

    /// Waits for it, and for the work that was queued before.
    pub fn wait(self) -> Result<Vec<T>, CudaError> {
        let pinned = self.pinned.as_ref().expect("there until this is dropped");
        pinned.wait(self.inner.enter()?)?;
        let mut values = vec![T::default(); self.len];
        // SAFETY: the copy is done, and any bits are a valid element.
        unsafe {
            let to = values.as_mut_ptr().cast::<u8>();
            to.copy_from_nonoverlapping(pinned.memory, self.len * size_of::<T>());
        }
        Ok(values)
    }
}

impl<T> Drop for Fetched<T> {
    fn drop(&mut self) {
        // A copy into it that nobody waited for comes before the next one into it.
        let mut returned = self.inner.returned.lock().unwrap_or_else(PoisonError::into_inner);
        returned.extend(self.pinned.take());
    }
}
