//! Numbers in 16 bits: bf16 and half precision.

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
