//! Simple operations on rows of numbers, shared out over the threads.

use crate::kernel::Cpu;
use crate::packed::SendPointer;

/// Elements a task.
const CHUNK: usize = 1 << 14;

/// `out += x`
///
/// # Panics
/// If the lengths differ.
pub fn add(cpu: &Cpu, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for_chunks(cpu, out, CHUNK, |start, out| {
        out.iter_mut().zip(&x[start..]).for_each(|(out, &x)| *out += x);
    });
}

/// Calls `work(first_element, chunk)` for chunks of `out`, on all threads.
pub fn for_chunks(cpu: &Cpu, out: &mut [f32], chunk: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let len = out.len();
    let out = SendPointer(out.as_mut_ptr());
    cpu.parallel(len.div_ceil(chunk.max(1)), |task| {
        let start = task * chunk;
        // SAFETY: chunks are disjoint parts of `out`.
        let part = unsafe { std::slice::from_raw_parts_mut(out.get().add(start), chunk.min(len - start)) };
        work(start, part);
    });
}
