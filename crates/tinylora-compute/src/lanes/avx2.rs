//! AVX2, FMA and F16C: two registers of eight.

use super::Lanes;
use crate::kernel::Simd;
use crate::tiles::NoTiles;
use std::arch::x86_64::*;

/// Lanes 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

// SAFETY (of every block below): the trait's caller vouches for AVX2, FMA and F16C and for the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    type Tiles = NoTiles;
    const TILE_ROWS: usize = 6;
    const TILE_ROWS_BF16: usize = 5;
    const TILE_PANELS: usize = 1;
    const TURN: usize = 4;
    type Plain = Self;

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline(never)]
    unsafe fn apart<S: Simd>(work: S) -> S::Output {
        work.run::<Self>()
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_low(from: *const u32) -> Self {
        unsafe {
            let low =
                |at: *const u32| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_loadu_si256(at.cast())));
            Self(low(from), low(from.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_high(from: *const u32) -> Self {
        unsafe {
            let mask = _mm256_set1_epi32(0xFFFF_0000_u32 as i32);
            let high =
                |at: *const u32| _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(at.cast()), mask));
            Self(high(from), high(from.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        unsafe {
            let eight = |at: *const u16| _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
            Self(eight(from), eight(from.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn turn_pairs(from: *const u32, to: *mut u32) {
        unsafe {
            // In each half of a register: the low halves of two neighbours, then their high halves.
            let halves = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15,
            ));
            // Then four by four of these units of 64 bits.
            for rows in 0..2 {
                for columns in 0..2 {
                    let from = from.add(64 * columns + 8 * rows);
                    let row =
                        |i: usize| _mm256_shuffle_epi8(_mm256_loadu_si256(from.add(16 * i).cast()), halves);
                    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                    let (even0, odd0) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
                    let (even1, odd1) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
                    let to = to.add(64 * rows + 8 * columns);
                    let lower = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
                    let upper = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
                    _mm256_storeu_si256(to.cast(), lower(even0, even1));
                    _mm256_storeu_si256(to.add(16).cast(), lower(odd0, odd1));
                    _mm256_storeu_si256(to.add(32).cast(), upper(even0, even1));
                    _mm256_storeu_si256(to.add(48).cast(), upper(odd0, odd1));
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        unsafe {
            Self(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1))
        }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { Self(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe {
            let power = |n| {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            };
            Self(power(self.0), power(self.1))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
