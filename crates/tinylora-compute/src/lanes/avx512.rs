//! AVX-512: one register of sixteen; with or without AVX512-BF16.

use super::Lanes;
use crate::kernel::Simd;
use crate::tiles::{NoTiles, TileUnit};
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::transmute;

/// Lanes 0..16. `DOT`: the processor has AVX512-BF16 too; T: and AMX.
pub(crate) struct Avx512<const DOT: bool, T = NoTiles>(__m512, PhantomData<T>);

impl<const DOT: bool, T> Clone for Avx512<DOT, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<const DOT: bool, T> Copy for Avx512<DOT, T> {}

impl<const DOT: bool, T> Avx512<DOT, T> {
    #[inline(always)]
    fn of(register: __m512) -> Self {
        Self(register, PhantomData)
    }
}

// SAFETY (of every block below): the trait's caller vouches for AVX-512 F, BW, VL, with `DOT` for BF16, and for the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const DOT: bool, T: TileUnit> Lanes for Avx512<DOT, T> {
    const TILE_ROWS: usize = 8;
    const TILE_ROWS_BF16: usize = 8;
    const TILE_PANELS: usize = 2;
    const TURN: usize = 1;
    const DOT_BF16: bool = DOT;
    type Tiles = T;
    type Plain = Avx512<false>;

    #[inline(always)]
    unsafe fn apart<S: Simd>(work: S) -> S::Output {
        unsafe { if const { DOT } { with_pairs::<Self, S>(work) } else { without_pairs::<Self, S>(work) } }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self::of(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self::of(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16_low(from: *const u32) -> Self {
        unsafe { Self::of(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_bf16_high(from: *const u32) -> Self {
        unsafe {
            let mask = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
            Self::of(_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), mask)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        unsafe { Self::of(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self::of(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self::of(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self::of(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Self::of(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        unsafe { Self::of(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, pair: u32, pairs: Self) -> Self {
        unsafe {
            let pair = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair.cast_signed()));
            let pairs = transmute::<__m512, __m512bh>(pairs.0);
            Self::of(_mm512_dpbf16_ps(self.0, pair, pairs))
        }
    }
    #[inline(always)]
    unsafe fn round_pairs(from: *const f32, to: *mut u32) {
        unsafe {
            if DOT {
                let (low, high) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
                let pairs = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.cast(), pairs);
            } else {
                unreachable!("these lanes have no pairs");
            }
        }
    }
    #[inline(always)]
    unsafe fn turn_pairs(from: *const u32, to: *mut u32) {
        unsafe {
            // In each quarter of a register: the low halves of two neighbours, then their high halves.
            let halves =
                _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
            let row = |i: usize| _mm512_shuffle_epi8(_mm512_loadu_si512(from.add(16 * i).cast()), halves);
            // Then eight by eight of these units of 64 bits.
            let (a, b) = (row(0), row(1));
            let (even0, odd0) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            let (a, b) = (row(2), row(3));
            let (even1, odd1) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            let (a, b) = (row(4), row(5));
            let (even2, odd2) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            let (a, b) = (row(6), row(7));
            let (even3, odd3) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            for (first, [a, b, c, d]) in [(0, [even0, even1, even2, even3]), (1, [odd0, odd1, odd2, odd3])] {
                const OUTER: i32 = 0b10_00_10_00;
                const INNER: i32 = 0b11_01_11_01;
                let (ab, cd) = (_mm512_shuffle_i64x2::<OUTER>(a, b), _mm512_shuffle_i64x2::<OUTER>(c, d));
                let to = to.add(16 * first);
                _mm512_storeu_si512(to.cast(), _mm512_shuffle_i64x2::<OUTER>(ab, cd));
                _mm512_storeu_si512(to.add(64).cast(), _mm512_shuffle_i64x2::<INNER>(ab, cd));
                let (ab, cd) = (_mm512_shuffle_i64x2::<INNER>(a, b), _mm512_shuffle_i64x2::<INNER>(c, d));
                _mm512_storeu_si512(to.add(32).cast(), _mm512_shuffle_i64x2::<OUTER>(ab, cd));
                _mm512_storeu_si512(to.add(96).cast(), _mm512_shuffle_i64x2::<INNER>(ab, cd));
            }
        }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Self::of(_mm512_max_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Self::of(_mm512_min_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Self::of(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self::of(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let low = _mm512_castps512_ps256(self.0);
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0)));
            let eight = _mm256_add_ps(low, high);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
#[inline(never)]
fn without_pairs<L: Lanes, S: Simd>(work: S) -> S::Output {
    work.run::<L>()
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
#[inline(never)]
fn with_pairs<L: Lanes, S: Simd>(work: S) -> S::Output {
    work.run::<L>()
}
