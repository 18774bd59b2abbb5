//! The left-hand operand of products with frozen matrices, in the form that the kernel multiplies: f32, or, where
//! the kernel has bf16 products and the matrix is bf16, pairs of bf16 rounded to nearest even.

use crate::kernel::{Cpu, Kernel, Simd, dispatch};
use crate::lanes::Lanes;
use crate::packed::{PackedMatrix, Precision, SendPointer};
use crate::recycled::Recycled;

/// Rows a rounding task.
const ROWS: usize = 32;

/// Rows x (M, K).
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    /// (M, K)
    pub x: &'a [f32],
    /// (M, ⌈K/2⌉): neighbours in one unit, the first in the low half, 0 after an odd end. Empty, where f32 is read.
    pub pairs: &'a [u32],
    /// K
    pub inner: usize,
}

impl<'a> Operand<'a> {
    /// Rows `first .. first + count` alone.
    pub fn rows(self, first: usize, count: usize) -> Self {
        let width = self.inner.div_ceil(2);
        let pairs = if self.pairs.is_empty() { &[] } else { &self.pairs[first * width..][..count * width] };
        Self { x: &self.x[first * self.inner..][..count * self.inner], pairs, inner: self.inner }
    }
}

/// Whether products of this kernel with this matrix read pairs.
pub(crate) fn reads_pairs(kernel: Kernel, matrix: &PackedMatrix) -> bool {
    kernel.rounds_activations() && matrix.precision() == Precision::Bf16
}

/// The pairs that products with `matrix` read of x (M, K): for [`Operand::pairs`]. Empty, where they read f32.
pub(crate) fn pairs_for(cpu: &Cpu, matrix: &PackedMatrix, x: &[f32], inner: usize) -> Recycled<u32> {
    if !reads_pairs(cpu.kernel(), matrix) || inner == 0 {
        return Recycled::empty();
    }
    let (rows, width) = (x.len() / inner, inner.div_ceil(2));
    let mut pairs = Recycled::<u32>::arbitrary(rows * width);
    let to = SendPointer(pairs.as_mut_ptr());
    cpu.parallel(rows.div_ceil(ROWS), |task| {
        let first = task * ROWS;
        let count = ROWS.min(rows - first);
        // SAFETY: each task has its own rows.
        let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(first * width), count * width) };
        let x = &x[first * inner..][..count * inner];
        dispatch(cpu.kernel(), Round { x, inner, to });
    });
    pairs
}

struct Round<'a> {
    x: &'a [f32],
    inner: usize,
    to: &'a mut [u32],
}

impl Simd for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (x, to) in self.x.chunks_exact(self.inner).zip(self.to.chunks_exact_mut(self.inner.div_ceil(2))) {
            let (whole, rest) = x.as_chunks::<2>();
            for (to, [low, high]) in to.iter_mut().zip(whole) {
                *to = bf16_bits(*low) | bf16_bits(*high) << 16;
            }
            if let [last] = rest {
                to[whole.len()] = bf16_bits(*last);
            }
        }
    }
}

/// The nearest bf16, ties to even; NaN stays NaN. Written out, so that it becomes vector code.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7FC0 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounds_to_nearest_even() {
        let special = [0.0, -0.0, 1.0, -1.5, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 1e-42];
        let ties = (0..1000u32).map(|i| f32::from_bits(0x3F80_8000 + (i << 15)));
        let any = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        for x in special.into_iter().chain(ties).chain(any) {
            let wanted = bf16::from_f32(x);
            if x.is_nan() {
                assert!(f32::from_bits(bf16_bits(x) << 16).is_nan());
            } else {
                assert_eq!(bf16_bits(x), u32::from(wanted.to_bits()), "{x}");
            }
        }
    }
}
