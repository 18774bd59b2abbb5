//! NEON: four registers of four.

use super::Lanes;
use crate::kernel::Simd;
use crate::tiles::NoTiles;
use std::arch::aarch64::*;

/// Lanes 0..4, 4..8, 8..12, 12..16.
#[derive(Clone, Copy)]
pub(crate) struct Neon([float32x4_t; 4]);

impl Neon {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY (of every block below): NEON is part of AArch64; the trait's caller vouches for the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Neon {
    type Tiles = NoTiles;
    const TILE_ROWS: usize = 4;
    const TILE_ROWS_BF16: usize = 4;
    const TILE_PANELS: usize = 1;
    const TURN: usize = 1;
    type Plain = Self;

    #[inline(never)]
    unsafe fn apart<S: Simd>(work: S) -> S::Output {
        work.run::<Self>()
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self([vdupq_n_f32(x); 4]) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(std::array::from_fn(|i| vld1q_f32(from.add(4 * i)))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for (i, part) in self.0.into_iter().enumerate() {
            unsafe { vst1q_f32(to.add(4 * i), part) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_low(from: *const u32) -> Self {
        unsafe {
            Self(std::array::from_fn(|i| {
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(vld1q_u32(from.add(4 * i))))
            }))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_high(from: *const u32) -> Self {
        unsafe {
            let mask = vdupq_n_u32(0xFFFF_0000);
            Self(std::array::from_fn(|i| vreinterpretq_f32_u32(vandq_u32(vld1q_u32(from.add(4 * i)), mask))))
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|i| unsafe { vfmaq_f32(addend.0[i], self.0[i], factor.0[i]) }))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vmaxq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vminq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(self.0.map(|x| unsafe { vrndnq_f32(x) }))
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        Self(self.0.map(|n| unsafe {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        }))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let a = vaddq_f32(self.0[0], self.0[2]);
            let b = vaddq_f32(self.0[1], self.0[3]);
            let four = vaddq_f32(a, b);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(self.0[0], self.0[1]), vmaxq_f32(self.0[2], self.0[3]))) }
    }
}
