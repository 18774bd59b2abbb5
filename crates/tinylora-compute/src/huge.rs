//! Memory for matrices in huge pages (2 MiB), where the system has them: a processor that reads weights from one end to
//! the other looks up five hundred times fewer pages, and its own fetching ahead does not stop at each of them.
//!
//! Matrices are smaller than a page, so they share slabs. A slab is given back when the last matrix in it is dropped.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::{Arc, Mutex, Weak};

/// A huge page.
const PAGE: usize = 2 << 20;
/// Bytes of a slab that is shared.
const SLAB: usize = 32 * PAGE;
/// Less than this isn't worth a place in a slab: such memory comes and goes.
pub(crate) const LEAST: usize = 256 << 10;
/// Places begin on cache lines.
const ALIGNMENT: usize = 64;

/// A stretch of memory that begins on a huge page.
pub(crate) struct Slab {
    allocation: *mut u8,
    layout: Layout,
    begin: *mut u8,
}

// SAFETY: a slab is only memory; who has a place in it vouches for what is done there.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn new(bytes: usize) -> Self {
        // With the smallest alignment the system's fresh pages, which are zero already, are given as they are.
        let layout = Layout::from_size_align(bytes + PAGE, 16).expect("buffer size overflows");
        // SAFETY: the layout's size is not 0.
        let allocation = unsafe { alloc_zeroed(layout) };
        if allocation.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: there is a page more than was asked for.
        let begin = unsafe { allocation.add(allocation.align_offset(PAGE)) };
        #[cfg(target_os = "linux")]
        // SAFETY: the range is ours. It is a wish: a system without huge pages refuses, and nothing is lost.
        unsafe {
            libc::madvise(begin.cast(), bytes, libc::MADV_HUGEPAGE);
        }
        Self { allocation, layout, begin }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.allocation, self.layout) }
    }
}

/// The slab that still has room, and how much of it is taken.
static CURRENT: Mutex<(Weak<Slab>, usize)> = Mutex::new((Weak::new(), 0));

/// `bytes` zero bytes on a cache line, and the slab that has to live as long.
pub(crate) fn take(bytes: usize) -> (Arc<Slab>, *mut u8) {
    let bytes = bytes.next_multiple_of(ALIGNMENT);
    if bytes > SLAB / 4 {
        let slab = Arc::new(Slab::new(bytes));
        let begin = slab.begin;
        return (slab, begin);
    }
    let mut current = CURRENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (slab, used) = match current.0.upgrade() {
        Some(slab) if current.1 + bytes <= SLAB => (slab, current.1),
        _ => (Arc::new(Slab::new(SLAB)), 0),
    };
    *current = (Arc::downgrade(&slab), used + bytes);
    // SAFETY: the slab has room for `used + bytes`.
    let place = unsafe { slab.begin.add(used) };
    (slab, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_zero_apart_and_aligned() {
        let mut places = Vec::new();
        for i in 0..200usize {
            let bytes = LEAST + 1000 * i;
            let (slab, place) = take(bytes);
            assert_eq!(place as usize % ALIGNMENT, 0);
            // SAFETY: the place is ours while the slab lives.
            let bytes = unsafe { std::slice::from_raw_parts_mut(place, bytes) };
            assert!(bytes.iter().all(|&byte| byte == 0), "place {i}");
            bytes.fill(i as u8);
            places.push((slab, bytes, i as u8));
            if i % 3 == 2 {
                places.swap_remove(i / 3);
            }
        }
        assert!(places.iter().all(|(_, bytes, value)| bytes.iter().all(|byte| byte == value)));
    }

    #[test]
    fn what_is_larger_than_a_slab_has_its_own() {
        let (slab, place) = take(3 * SLAB);
        assert_eq!(place as usize % PAGE, 0);
        assert_eq!(Arc::strong_count(&slab), 1);
    }
}
