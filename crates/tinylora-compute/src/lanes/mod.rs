//! Sixteen f32 lanes, the one vector type in which every kernel is written. Each instruction set implements
//! about fifteen primitives; all of them give the same bits, because each lane does the same IEEE operations.

mod scalar;
pub(crate) use scalar::Scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;

use crate::kernel::Simd;
use crate::rounding::{bf16_bits, f16_value};
use crate::tiles::TileUnit;

/// Number of lanes.
pub(crate) const LANES: usize = 16;

/// Sixteen f32 numbers.
///
/// # Safety
/// Every method needs a processor with the instruction set of the type; the pointers given must be valid
/// for sixteen elements.
#[allow(clippy::missing_safety_doc)] // said once, for the whole trait
pub(crate) trait Lanes: Copy {
    /// Rows of the register tile of a product over one panel (16 columns).
    const TILE_ROWS: usize;
    /// The same where the panel is bf16.
    const TILE_ROWS_BF16: usize;
    /// Panels that such a tile spans.
    const TILE_PANELS: usize;
    /// Inner indices that a turn of a tile's loop takes, so that the loop's own instructions are few beside the multiply-adds.
    /// Where registers are many, more than one makes the compiler keep too much in them, and sums are pushed out to memory.
    const TURN: usize;
    /// Whether [`Lanes::dot_bf16`] is one instruction, and products with bf16 matrices use it.
    const DOT_BF16: bool = false;
    /// The matrix tiles in which such products are made instead, if there are any.
    type Tiles: TileUnit;

    /// Those that make products of single numbers: lanes that differ in products of pairs alone share that code.
    type Plain: Lanes;

    /// Runs a piece of work as a function of its own, compiled with the instruction set: once, however many call it.
    unsafe fn apart<S: Simd>(work: S) -> S::Output;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// Sixteen numbers from memory, any alignment.
    unsafe fn load(from: *const f32) -> Self;
    /// Sixteen numbers to memory, any alignment.
    unsafe fn store(self, to: *mut f32);
    /// The low halves of sixteen pairs of bf16, widened.
    unsafe fn load_bf16_low(from: *const u32) -> Self;
    /// The high halves of sixteen pairs of bf16, widened.
    unsafe fn load_bf16_high(from: *const u32) -> Self;
    /// Sixteen numbers of half precision, widened.
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: passed on to the caller; arrays may be read unaligned.
        unsafe { Self::load(from.cast::<[u16; LANES]>().read_unaligned().map(f16_value).as_ptr()) }
    }
    /// self + other
    unsafe fn add(self, other: Self) -> Self;
    /// self − other
    unsafe fn sub(self, other: Self) -> Self;
    /// self · other
    unsafe fn mul(self, other: Self) -> Self;
    /// self / other
    unsafe fn div(self, other: Self) -> Self;
    /// self · factor + addend, rounded once
    unsafe fn fma(self, factor: Self, addend: Self) -> Self;
    /// self + the two products of a pair of bf16 with each lane's own pair, where [`Lanes::DOT_BF16`].
    unsafe fn dot_bf16(self, pair: u32, pairs: Self) -> Self {
        let _ = (pair, pairs);
        unreachable!("these lanes have no bf16 product")
    }
    /// Rounds thirty-two numbers to bf16, ties to even: sixteen pairs of neighbours, the first in the low half. Denormal numbers
    /// may become 0, as products of pairs take them for 0 anyway.
    unsafe fn round_pairs(from: *const f32, to: *mut u32) {
        // SAFETY: passed on to the caller.
        let (from, to) = unsafe { (&*from.cast::<[[f32; 2]; LANES]>(), &mut *to.cast::<[u32; LANES]>()) };
        for (to, [low, high]) in to.iter_mut().zip(from) {
            *to = bf16_bits(*low) | bf16_bits(*high) << 16;
        }
    }
    /// Turns sixteen rows of sixteen bf16 round, from pairs of columns `[8][16 rows]` to pairs of rows `[8][16 columns]`.
    unsafe fn turn_pairs(from: *const u32, to: *mut u32) {
        // SAFETY: passed on to the caller.
        let (from, to) =
            unsafe { (&*from.cast::<[[u32; LANES]; 8]>(), &mut *to.cast::<[[[u32; 2]; LANES / 2]; 8]>()) };
        for (row, to) in to.iter_mut().enumerate() {
            for (units, to) in from.iter().zip(to) {
                let (upper, lower) = (units[2 * row], units[2 * row + 1]);
                *to = [upper & 0xFFFF | lower << 16, upper >> 16 | lower & 0xFFFF_0000];
            }
        }
    }
    /// The larger of each pair (no NaN expected).
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each pair (no NaN expected).
    unsafe fn min(self, other: Self) -> Self;
    /// The nearest whole number, ties to even.
    unsafe fn round(self) -> Self;
    /// 2ⁿ for whole n in −126 ..= 127.
    unsafe fn exp2_whole(self) -> Self;
    /// The sum by the fixed tree.
    unsafe fn sum(self) -> f32;
    /// The largest lane.
    unsafe fn largest(self) -> f32;
}

/// eˣ to about 1 ulp; x below −87 gives the value at −87 (about 1.6e-38), x above 88 the value at 88.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L) -> L {
    // SAFETY: passed on to the caller.
    unsafe {
        let x = x.max(L::splat(-87.0)).min(L::splat(88.0));
        // x = n ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody and Waite).
        let n = x.mul(L::splat(std::f32::consts::LOG2_E)).round();
        let r = n.fma(L::splat(-0.693_359_4), x);
        let r = n.fma(L::splat(2.121_944_4e-4), r);
        let mut p = L::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p.fma(r, L::splat(c));
        }
        let p = p.fma(r.mul(r), r).add(L::splat(1.0));
        p.mul(n.exp2_whole())
    }
}

/// 1 / (1 + e⁻ˣ)
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn sigmoid<L: Lanes>(x: L) -> L {
    // SAFETY: passed on to the caller.
    unsafe {
        let one = L::splat(1.0);
        one.div(one.add(exp(L::splat(0.0).sub(x))))
    }
}

/// tanh x = 2 sigmoid(2x) − 1
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn tanh<L: Lanes>(x: L) -> L {
    // SAFETY: passed on to the caller.
    unsafe { L::splat(2.0).fma(sigmoid(x.add(x)), L::splat(-1.0)) }
}
