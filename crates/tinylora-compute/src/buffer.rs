//! A fixed-size array on a 64-byte boundary (a cache line, and what AMX tile rows want).

use crate::huge::{self, Slab};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Plain numbers for which all-zero bytes are a valid value.
pub trait Zeroable: Copy + Default + Send + Sync + 'static {}
impl Zeroable for f32 {}
impl Zeroable for f64 {}
impl Zeroable for i32 {}
impl Zeroable for u16 {}
impl Zeroable for u32 {}
impl Zeroable for u64 {}

/// A cache line.
const ALIGNMENT: usize = 64;
/// What the allocator gives without asking: with more it would write zeros itself, where fresh pages of a large
/// allocation are zero already and cost nothing until they are used.
const FREE_ALIGNMENT: usize = 16;

/// `len` elements, zeroed, aligned to 64 bytes. Memory that is never written is never taken from the machine.
pub struct Buffer<T: Zeroable> {
    memory: Memory,
    pointer: *mut T,
    len: usize,
}

/// Where the elements live.
enum Memory {
    /// There are none.
    Nowhere,
    /// In an allocation of their own; they begin at its first cache line.
    Heap(*mut u8),
    /// In huge pages that others share.
    Slab { _alive: Arc<Slab> },
}

// SAFETY: the buffer owns its memory, and its elements are Send + Sync.
unsafe impl<T: Zeroable> Send for Buffer<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Zeroable> Sync for Buffer<T> {}

impl<T: Zeroable> Buffer<T> {
    /// Allocates `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            let pointer = std::ptr::NonNull::<T>::dangling().as_ptr();
            return Self { memory: Memory::Nowhere, pointer, len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not 0.
        let allocation = unsafe { alloc_zeroed(layout) };
        if allocation.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the layout has room for moving to the next cache line.
        let pointer = unsafe { allocation.add(allocation.align_offset(ALIGNMENT)) }.cast::<T>();
        Self { memory: Memory::Heap(allocation), pointer, len }
    }

    /// The same in huge pages, where the system has them and the buffer is large: for what is read as a whole, over and over.
    pub fn zeroed_in_huge_pages(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer size overflows");
        if bytes < huge::LEAST {
            return Self::zeroed(len);
        }
        let (slab, place) = huge::take(bytes);
        Self { memory: Memory::Slab { _alive: slab }, pointer: place.cast(), len }
    }

    fn layout(len: usize) -> Layout {
        let size = len.checked_mul(size_of::<T>()).and_then(|size| size.checked_add(ALIGNMENT));
        Layout::from_size_align(size.expect("buffer size overflows"), FREE_ALIGNMENT)
            .expect("buffer size overflows")
    }
}

impl<T: Zeroable> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Memory::Heap(allocation) = self.memory {
            // SAFETY: allocated in `zeroed` with this very layout.
            unsafe { dealloc(allocation, Self::layout(self.len)) }
        }
    }
}

impl<T: Zeroable> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements live at `pointer`.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }
}

impl<T: Zeroable> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl<T: Zeroable> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len);
        copy.copy_from_slice(self);
        copy
    }
}
