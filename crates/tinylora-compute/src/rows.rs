//! Simple operations on rows of numbers, shared out over the threads.

use crate::account::Operation;
use crate::kernel::Cpu;
use crate::packed::SendPointer;

/// Elements a task.
const CHUNK: usize = 1 << 14;
/// `out = x + y`; what `out` held is dropped.
///
/// # Panics
/// If the lengths differ.
pub fn sum(cpu: &Cpu, x: &[f32], y: &[f32], out: &mut Vec<f32>) {
    let _clock = cpu.clock(Operation::Residual);
    assert_eq!(x.len(), y.len());
    out.truncate(x.len());
    out.resize(x.len(), 0.0);
    for_chunks(cpu, out, CHUNK, |start, out| {
        for ((out, &x), &y) in out.iter_mut().zip(&x[start..]).zip(&y[start..]) {
            *out = x + y;
        }
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

/// The same for slices of one length, which are cut at the same places.
///
/// # Panics
/// If the lengths differ.
pub fn for_chunks_of<const N: usize>(
    cpu: &Cpu,
    slices: [&mut [f32]; N],
    chunk: usize,
    work: impl Fn(usize, [&mut [f32]; N]) + Sync,
) {
    let len = slices.first().map_or(0, |slice| slice.len());
    assert!(slices.iter().all(|slice| slice.len() == len), "slices of one length");
    let slices = slices.map(|slice| SendPointer(slice.as_mut_ptr()));
    cpu.parallel(len.div_ceil(chunk.max(1)), |task| {
        let start = task * chunk;
        // SAFETY: chunks are disjoint parts of each slice, and the slices are borrowed for as long as this runs.
        let part = |slice: SendPointer<f32>| unsafe {
            std::slice::from_raw_parts_mut(slice.get().add(start), chunk.min(len - start))
        };
        work(start, slices.map(part));
    });
}
