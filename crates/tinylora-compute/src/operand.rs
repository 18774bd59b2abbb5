//! The left-hand operand of products with frozen matrices, in the form that the kernel multiplies: f32, or, where
//! the kernel has bf16 products and the matrix is bf16, pairs of bf16 rounded to nearest even.

use crate::kernel::{Cpu, Kernel, Simd, dispatch};
use crate::lanes::{LANES, Lanes};
use crate::packed::{PackedMatrix, Precision, SendPointer};
use crate::recycled::Recycled;
use crate::tiles::{self, STEP, TileUnit};

/// Rows a rounding task: whole tiles.
const ROWS: usize = 2 * tiles::ROWS;

/// Rows x (M, K).
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    /// (M, K)
    pub x: &'a [f32],
    /// Neighbours in one unit, the first in the low half, 0 after an odd end. Empty, where f32 is read. Else (M, ⌈K/2⌉), or
    /// for matrix tiles `[⌈M/16⌉][⌈K/32⌉][16 rows][16 pairs]`, 0 after a row's end, whatever it is after the last row.
    pub pairs: &'a [u32],
    /// K
    pub inner: usize,
    /// Whether pairs lie in tiles.
    in_tiles: bool,
}

impl<'a> Operand<'a> {
    /// x, with what [`pairs_for`] gave for it and the kernel.
    pub fn new(cpu: &Cpu, x: &'a [f32], pairs: &'a [u32], inner: usize) -> Self {
        Self { x, pairs, inner, in_tiles: cpu.kernel().has_tiles() }
    }

    /// Rows `first .. first + count` alone. They may begin within a tile, and then be one tile's at most.
    pub fn rows(self, first: usize, count: usize) -> Self {
        let pairs = if self.pairs.is_empty() { self.pairs } else { &self.pairs[self.first_pair(first)..] };
        Self { x: &self.x[first * self.inner..][..count * self.inner], pairs, ..self }
    }

    fn first_pair(&self, row: usize) -> usize {
        let width = row_of_pairs(self.in_tiles, self.inner);
        if !self.in_tiles {
            return row * width;
        }
        let (tile, within) = (row / tiles::ROWS, row % tiles::ROWS);
        tile * tiles::ROWS * width + within * STEP
    }
}

/// Pairs of a row of K numbers, as they are held.
fn row_of_pairs(in_tiles: bool, inner: usize) -> usize {
    if in_tiles { inner.div_ceil(2).next_multiple_of(STEP) } else { inner.div_ceil(2) }
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
    let in_tiles = cpu.kernel().has_tiles();
    let (rows, width) = (x.len() / inner, row_of_pairs(in_tiles, inner));
    // A tile may be read from any of its rows on, so the last one has another behind it.
    let held = if in_tiles {
        (rows.next_multiple_of(tiles::ROWS) * width) + tiles::ROWS * STEP
    } else {
        rows * width
    };
    let mut pairs = Recycled::<u32>::arbitrary(held);
    let to = SendPointer(pairs.as_mut_ptr());
    cpu.parallel(rows.div_ceil(ROWS), |task| {
        let first = task * ROWS;
        let count = ROWS.min(rows - first);
        let held = if in_tiles { count.next_multiple_of(tiles::ROWS) } else { count } * width;
        // SAFETY: each task has its own rows, which are whole tiles.
        let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(first * width), held) };
        let x = &x[first * inner..][..count * inner];
        dispatch(cpu.kernel(), Round { x, inner, to });
    });
    pairs
}

/// Units of M rows of K numbers in tiles. A tile may be read from any of its rows on, so the last one has another behind it.
pub(crate) fn held_in_tiles(rows: usize, inner: usize) -> usize {
    rows.next_multiple_of(tiles::ROWS) * row_of_pairs(true, inner) + tiles::ROWS * STEP
}

/// Rounds rows x (M, K) to pairs, as the kernel reads them.
pub(crate) struct Round<'a> {
    pub x: &'a [f32],
    pub inner: usize,
    pub to: &'a mut [u32],
}

impl Simd for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let in_tiles = L::Tiles::PRESENT;
        let width = row_of_pairs(in_tiles, self.inner);
        let step = if in_tiles { tiles::ROWS * STEP } else { STEP };
        for (row, x) in self.x.chunks_exact(self.inner).enumerate() {
            let start = if in_tiles {
                row / tiles::ROWS * tiles::ROWS * width + row % tiles::ROWS * STEP
            } else {
                row * width
            };
            let to = &mut self.to[start..];
            let (whole, rest) = x.as_chunks::<{ 2 * LANES }>();
            for (at, x) in whole.iter().enumerate() {
                // SAFETY: thirty-two numbers, and room for their sixteen pairs.
                unsafe { L::round_pairs(x.as_ptr(), to[at * step..][..STEP].as_mut_ptr()) };
            }
            if !rest.is_empty() {
                let to = &mut to[whole.len() * step..];
                let to = &mut to[..if in_tiles { STEP } else { rest.len().div_ceil(2) }];
                to.fill(0);
                for (to, pair) in to.iter_mut().zip(rest.chunks(2)) {
                    *to = bf16_bits(pair[0]) | bf16_bits(pair.get(1).copied().unwrap_or(0.0)) << 16;
                }
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

/// The nearest number of half precision, ties to even; beyond its largest it is that, NaN stays NaN. Written out, so that it becomes
/// vector code.
#[inline(always)]
pub(crate) fn f16_bits(x: f32) -> u16 {
    let (sign, magnitude) = (x.to_bits() >> 16 & 0x8000, x.to_bits() & 0x7FFF_FFFF);
    let magnitude = magnitude.min(F16_MAX.to_bits());
    // Below 2⁻¹⁴ the last digit is 2⁻²⁴ everywhere, which is that of an f32 beside 1/2.
    let denormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = magnitude.wrapping_add(0xC800_0FFF + (magnitude >> 13 & 1)) >> 13;
    let rounded = if magnitude < 0x3880_0000 { denormal } else { normal };
    (sign | if x.is_nan() { 0x7E00 } else { rounded }) as u16
}

/// The largest number of half precision.
const F16_MAX: f32 = 65504.0;

/// Half precision, widened exactly.
#[inline(always)]
pub(crate) fn f16_value(bits: u16) -> f32 {
    let bits = u32::from(bits);
    // Its exponent is 112 less than the same bits' of an f32, also where both are denormal.
    let value = f32::from_bits((bits & 0x7FFF) << 13) * f32::from_bits(0x7780_0000);
    let endless = if value > F16_MAX { 0x7F80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | endless | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn half_precision_is_that_of_others() {
        for bits in 0..=u16::MAX {
            let (wanted, found) = (f16::from_bits(bits).to_f32(), f16_value(bits));
            assert!(wanted.to_bits() == found.to_bits() || wanted.is_nan() && found.is_nan(), "{bits:x}");
        }
        let ties = (0..=u16::MAX).map(f16_value).filter(|x| x.is_finite());
        let ties = ties.flat_map(|x| [x, x * (1.0 + 0.5f32.powi(11)), x + 0.5f32.powi(25)]);
        let any = (0..1_000_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        for x in ties.chain(any).chain([f32::INFINITY, f32::NEG_INFINITY, 65519.9, 65520.0]) {
            let wanted = f16::from_f32(x.clamp(-F16_MAX, F16_MAX));
            assert!(wanted.to_bits() == f16_bits(x) || x.is_nan() && f16_value(f16_bits(x)).is_nan(), "{x}");
        }
    }

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
