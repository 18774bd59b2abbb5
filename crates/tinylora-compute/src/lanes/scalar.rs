//! The portable lanes, which are also the reference for the others.

use super::{LANES, Lanes};
use crate::kernel::Simd;
use crate::tiles::{NoTiles, TileUnit};
use std::marker::PhantomData;

/// Sixteen plain f32; with tiles, products with bf16 matrices are made in them.
pub(crate) struct Scalar<T = NoTiles>([f32; LANES], PhantomData<T>);

impl<T> Clone for Scalar<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Scalar<T> {}

impl<T> Scalar<T> {
    #[inline(always)]
    fn of(lanes: [f32; LANES]) -> Self {
        Self(lanes, PhantomData)
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self::of(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl<T: TileUnit> Lanes for Scalar<T> {
    const DOT_BF16: bool = T::PRESENT;
    type Tiles = T;
    const TILE_ROWS: usize = 4;
    const TILE_ROWS_BF16: usize = 4;
    const TILE_PANELS: usize = 1;
    const TURN: usize = 1;
    type Plain = Scalar;

    #[inline(never)]
    unsafe fn apart<S: Simd>(work: S) -> S::Output {
        work.run::<Self>()
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self::of([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for sixteen elements; arrays of f32 may be read unaligned.
        Self::of(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16_low(from: *const u32) -> Self {
        // SAFETY: as above.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        Self::of(pairs.map(|pair| f32::from_bits(pair << 16)))
    }
    #[inline(always)]
    unsafe fn load_bf16_high(from: *const u32) -> Self {
        // SAFETY: as above.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        Self::of(pairs.map(|pair| f32::from_bits(pair & 0xFFFF_0000)))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self::of(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], addend.0[i])))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self::of(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        Self::of(self.0.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let x = self.0;
        let eight: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
}
