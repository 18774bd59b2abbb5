//! Quantised blocks of GGUF enter, f32 leave: thirty-two or 256 numbers a block, of few bits each, with scales of their own. The
//! layouts are those of ggml's `ggml-common.h`; the names of fields are its names. Checked against the `gguf` package.
//!
//! Own code, since the library that has it, candle-core, brings forty crates and took a seventh of the time that the whole
//! program takes to compile, for these two pages. All are functions of one block: `block` has the type's bytes, `out` its numbers.

use half::f16;

/// f16 at byte `at`.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// As a signed number.
#[inline(always)]
fn signed(byte: u8) -> f32 {
    f32::from(byte.cast_signed())
}

/// Low four bits of sixteen bytes, then the high ones: thirty-two numbers of four bits.
#[inline(always)]
fn nibbles(quants: &[u8], mut number: impl FnMut(usize, u8)) {
    for (i, &byte) in quants.iter().enumerate() {
        number(i, byte & 15);
        number(i + quants.len(), byte >> 4);
    }
}

/// d · (q − 8): `d` f16, `qs` 16.
pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    nibbles(&block[2..], |i, q| out[i] = (f32::from(q) - 8.0) * d);
}

/// d · q + m: `d`, `m` f16, `qs` 16.
pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    nibbles(&block[4..], |i, q| out[i] = f32::from(q) * d + m);
}

/// The fifth bits of thirty-two numbers, at bit 4.
#[inline(always)]
fn fifth(bits: &[u8], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

/// d · (q − 16): `d` f16, `qh` 4, `qs` 16.
pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    nibbles(&block[6..], |i, q| out[i] = (f32::from(q | fifth(&block[2..6], i)) - 16.0) * d);
}

/// d · q + m: `d`, `m` f16, `qh` 4, `qs` 16.
pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    nibbles(&block[8..], |i, q| out[i] = f32::from(q | fifth(&block[4..8], i)) * d + m);
}

/// d · q: `d` f16, `qs` 32 signed bytes.
pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    out.iter_mut().zip(&block[2..]).for_each(|(x, &q)| *x = signed(q) * d);
}

/// d · q: `d` f32, `qs` 256 signed bytes, `bsums` 16 i16 that only products use.
pub(super) fn q8_k(block: &[u8], out: &mut [f32]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    out.iter_mut().zip(&block[4..]).for_each(|(x, &q)| *x = d * signed(q));
}

/// Where two bits of the numbers from 16 j on, of 256, lie: from which byte of 64 on, and how far up.
#[inline(always)]
fn two_bits(j: usize) -> (usize, usize) {
    (j / 8 * 32 + j % 2 * 16, j % 8 / 2 * 2)
}

/// d · scale · q − dmin · min, sixteen numbers a scale: `scales` 16 (scale low, min high), `qs` 64, `d`, `dmin` f16.
pub(super) fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(block, 80), half(block, 82));
    for (j, out) in out.chunks_exact_mut(16).enumerate() {
        let (at, shift) = two_bits(j);
        let (dl, ml) = (d * f32::from(scales[j] & 15), dmin * f32::from(scales[j] >> 4));
        for (x, &q) in out.iter_mut().zip(&qs[at..]) {
            *x = dl * f32::from(q >> shift & 3) - ml;
        }
    }
}

/// d · (scale − 32) · (q − 4), the third bit in `hmask`: `hmask` 32, `qs` 64, `scales` 12 (sixteen of six bits: low four in the
/// first eight bytes, high two in the last four), `d` f16.
pub(super) fn q3_k(block: &[u8], out: &mut [f32]) {
    let (hmask, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (j, out) in out.chunks_exact_mut(16).enumerate() {
        let (at, shift) = two_bits(j);
        let (low, high) = (scales[j % 8] >> (j / 8 * 4) & 15, scales[8 + j % 4] >> (j / 4 * 2) & 3);
        let dl = d * (f32::from(high << 4 | low) - 32.0);
        for ((x, &q), &high) in out.iter_mut().zip(&qs[at..]).zip(&hmask[j % 2 * 16..]) {
            *x = dl * (f32::from((high >> (j / 2) & 1) << 2 | q >> shift & 3) - 4.0);
        }
    }
}

/// Scale and min `j` of eight, six bits each in twelve bytes, of Q4_K and Q5_K.
#[inline(always)]
fn scale_and_min(scales: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        let (low, scale, min) = (scales[j + 4], scales[j - 4], scales[j]);
        (low & 15 | scale >> 6 << 4, low >> 4 | min >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d · scale · q − dmin · min, thirty-two numbers a scale: `d`, `dmin` f16, `scales` 12, `qs` 128 (each 32 bytes: 32 low
/// halves, 32 high ones).
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, qs) = (&block[4..16], &block[16..]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(scales, j);
        let (dl, ml) = (d * scale, dmin * min);
        for (x, &q) in out.iter_mut().zip(&qs[j / 2 * 32..]) {
            *x = dl * f32::from(q >> (j % 2 * 4) & 15) - ml;
        }
    }
}

/// The same with a fifth bit in `qh`: `d`, `dmin` f16, `scales` 12, `qh` 32, `qs` 128.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, qh, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(scales, j);
        let (dl, ml) = (d * scale, dmin * min);
        for ((x, &q), &high) in out.iter_mut().zip(&qs[j / 2 * 32..]).zip(qh) {
            *x = dl * f32::from(q >> (j % 2 * 4) & 15 | (high >> j & 1) << 4) - ml;
        }
    }
}

/// d · scale · (q − 32), sixteen numbers a scale: `ql` 128 (each 64 bytes: 64 low halves, 64 high ones), `qh` 64, `scales` 16
/// signed bytes, `d` f16.
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (j, out) in out.chunks_exact_mut(16).enumerate() {
        let (at, shift) = two_bits(j);
        let dl = d * signed(scales[j]);
        let low = ql[j / 8 * 64 + j % 4 * 16..].iter().map(|q| q >> (j % 8 / 4 * 4) & 15);
        for ((x, low), &high) in out.iter_mut().zip(low).zip(&qh[at..]) {
            *x = dl * (f32::from((high >> shift & 3) << 4 | low) - 32.0);
        }
    }
}
