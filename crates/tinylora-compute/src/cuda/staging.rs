//! Pinned memory through which much goes to a GPU: while one half is copied, the other is filled.

use super::device::{Device, Inner};
use super::driver::{Handle, checked};
use super::error::CudaError;
use super::memory::DeviceBuffer;
use std::sync::Arc;

/// Two halves of pinned memory.
pub struct Staging {
    inner: Arc<Inner>,
    halves: [Half; 2],
    turn: usize,
    len: usize,
}

struct Half {
    memory: *mut u16,
    /// When the copy from it is done.
    copied: Handle,
}

impl Device {
    /// Room for `len` numbers in each half.
    pub fn staging(&self, len: usize) -> Result<Staging, CudaError> {
        let none = || Half { memory: std::ptr::null_mut(), copied: std::ptr::null_mut() };
        let inner = Arc::clone(self.inner());
        let mut staging = Staging { inner, halves: [none(), none()], turn: 0, len };
        let driver = self.inner().enter()?;
        for half in &mut staging.halves {
            let mut memory = std::ptr::null_mut();
            // SAFETY: address and event are written. What is made here is freed when the whole is dropped.
            unsafe {
                checked("cuMemHostAlloc", (driver.host_allocate)(&mut memory, len.max(1) * 2, 0))?;
                half.memory = memory.cast();
                half.memory.write_bytes(0, len);
                checked("cuEventCreate", (driver.event_create)(&mut half.copied, 0))?;
            }
        }
        Ok(staging)
    }
}

impl Staging {
    /// Lets `fill` write as many numbers as `to` has, then begins to copy them there.
    ///
    /// # Panics
    /// If `to` is longer than a half.
    pub fn send<E: From<CudaError>>(
        &mut self,
        to: &DeviceBuffer<u16>,
        fill: impl FnOnce(&mut [u16]) -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(to.len() <= self.len, "no more than a half");
        let driver = self.inner.enter()?;
        let half = &self.halves[self.turn];
        self.turn = 1 - self.turn;
        // SAFETY: an event that is never recorded is done at once; after it nobody reads this half. It has room for
        // `len` numbers, and only this function, which has the whole for itself, touches it.
        let numbers = unsafe {
            checked("cuEventSynchronize", (driver.event_wait)(half.copied))?;
            std::slice::from_raw_parts_mut(half.memory, to.len())
        };
        fill(numbers)?;
        let stream = self.inner.stream;
        // SAFETY: both sides have so many bytes; the half isn't written again before its event.
        unsafe {
            let bytes = 2 * to.len();
            let status = (driver.to_device_later)(to.address(), half.memory.cast(), bytes, stream);
            checked("cuMemcpyHtoDAsync", status)?;
            checked("cuEventRecord", (driver.event_record)(half.copied, stream))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let Ok(driver) = self.inner.enter() else { return };
        for half in &self.halves {
            // SAFETY: made in `staging` where they are not null, and freed once, after the last copy.
            unsafe {
                if !half.copied.is_null() {
                    (driver.event_wait)(half.copied);
                    (driver.event_destroy)(half.copied);
                }
                if !half.memory.is_null() {
                    (driver.host_free)(half.memory.cast());
                }
            }
        }
    }
}
