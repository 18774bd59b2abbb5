//! An allocator for programs: memory on cache lines, and large pieces on huge pages.
//!
//! A vector of f32 may begin anywhere; the system's allocator puts large ones sixteen bytes behind a page's beginning. Then
//! each register of sixteen numbers lies across two cache lines, and a tile of AMX across thirty-two: loops of tiles took 1.2
//! (64 rows) to 1.5 times (512 rows) as long. The kernels give the same results wherever numbers lie, so this is about speed alone.
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: tinylora_compute::CacheLines = tinylora_compute::CacheLines;
//! # fn main() {
//! let numbers = Vec::<f32>::with_capacity(1000);
//! # #[cfg(unix)]
//! assert_eq!(numbers.as_ptr() as usize % 64, 0);
//! # }
//! ```

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, asked for more alignment where a piece is large enough for it to matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheLines;

/// Smaller pieces are left alone.
const LEAST: usize = 512;
const CACHE_LINE: usize = 64;
/// Pieces of at least two huge pages begin on one.
const HUGE_PAGE: usize = 2 << 20;
/// From here on, zeroed memory is what the system gives: its fresh pages are zero already and cost nothing until they are used.
const FRESH: usize = 128 << 10;

/// The layout that the system is asked for. Other systems than Unix want the same one back, and get it.
fn aligned(layout: Layout) -> Layout {
    let alignment = match layout.size() {
        _ if !cfg!(unix) => 1,
        0..LEAST => 1,
        size if size < 2 * HUGE_PAGE => CACHE_LINE,
        _ => HUGE_PAGE,
    };
    layout.align_to(alignment).unwrap_or(layout)
}

// SAFETY: everything is passed on to the system's allocator, which on Unix gives back memory of any alignment in the same way.
unsafe impl GlobalAlloc for CacheLines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let layout = aligned(layout);
        // SAFETY: passed on to the caller.
        let memory = unsafe { System.alloc(layout) };
        #[cfg(target_os = "linux")]
        if layout.align() == HUGE_PAGE && !memory.is_null() {
            // SAFETY: the range is ours. It is a wish: a system without huge pages refuses, and nothing is lost.
            unsafe { libc::madvise(memory.cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let layout = if layout.size() < FRESH { aligned(layout) } else { layout };
        // SAFETY: passed on to the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !cfg!(unix) {
            // SAFETY: passed on to the caller.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // SAFETY: the caller vouches for the layout and the new size; both pieces are as long as what is copied.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(memory, new, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            new
        }
    }
}
