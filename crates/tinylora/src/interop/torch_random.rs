//! A seed enters, the numbers leave that PyTorch's CPU generator gives for it: `torch.normal(0, σ, size,
//! generator=Generator().manual_seed(seed))` in f32. Needed for PEFT files that leave P out.
//!
//! The generator is MT19937 (Matsumoto and Nishimura, 1998). PyTorch makes normal numbers of its output in two ways:
//! - fewer than 16: in f64, two 53-bit uniform numbers x and y give √(−2 ln(1 − y)) · (cos, sin)(2π x), one after
//!   the other;
//! - 16 and more: a 24-bit uniform number for each place, then in each block of 16 number j with number j + 8; the
//!   last block, if it is not full, is the last 16 places drawn anew.
//!
//! PyTorch's own results of the second kind differ in their last bits from one instruction set to another; they are
//! computed in f64 here and rounded once.

use std::f64::consts::TAU;

const N: usize = 624;
const M: usize = 397;
/// From here on numbers are made in blocks.
const BLOCK: usize = 16;

struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// PyTorch seeds with the low 32 bits.
    fn new(seed: u64) -> Self {
        let mut state = [0u32; N];
        state[0] = seed as u32;
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let matrix = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ matrix;
        }
        self.next = 0;
    }

    /// 24 bits, in [0, 1).
    fn uniform_f32(&mut self) -> f64 {
        f64::from(self.next_u32() & ((1 << 24) - 1)) / f64::from(1 << 24)
    }

    /// 53 bits, in [0, 1).
    fn uniform_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.next_u32()), u64::from(self.next_u32()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

/// `count` normal numbers with mean 0 and the given deviation.
pub(super) fn normal(seed: u64, deviation: f64, count: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed);
    if count < BLOCK {
        return few(&mut generator, deviation, count);
    }
    let mut values: Vec<f64> = (0..count).map(|_| generator.uniform_f32()).collect();
    for block in values.chunks_exact_mut(BLOCK) {
        pair(block);
    }
    if !count.is_multiple_of(BLOCK) {
        let last = &mut values[count - BLOCK..];
        last.fill_with(|| generator.uniform_f32());
        pair(last);
    }
    values.into_iter().map(|x| (x * deviation) as f32).collect()
}

fn few(generator: &mut Mt19937, deviation: f64, count: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let (x, y) = (generator.uniform_f64(), generator.uniform_f64());
        let radius = (-2.0 * (-y).ln_1p()).sqrt();
        let (sin, cos) = (TAU * x).sin_cos();
        values.extend([radius * cos, radius * sin].map(|z| (z * deviation) as f32));
    }
    values.truncate(count);
    values
}

/// Sixteen uniform numbers become sixteen normal ones.
fn pair(block: &mut [f64]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (x, y) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *x).ln()).sqrt();
        let (sin, cos) = (TAU * *y).sin_cos();
        (*x, *y) = (radius * cos, radius * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator's own test: output number 10,000 for the seed 5489 is in the C++ standard (26.6.3.2).
    #[test]
    fn the_ten_thousandth_number_is_the_standards() {
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    /// `torch.normal(0.0, 1 / r ** 0.5, (u, r, r), generator=torch.Generator().manual_seed(seed))`, torch 2.15, as
    /// bits; its AVX-512 and its plain code differ by up to 8 in the last place.
    #[test]
    fn the_numbers_are_torchs() {
        let bits = |x: &[i32]| -> Vec<f32> { x.iter().map(|&x| f32::from_bits(x as u32)).collect() };
        // Two numbers, in f64: every bit.
        assert_eq!(normal(43, 1.0, 2), bits(&[-1_088_029_283, -1_087_065_594]));
        // Sixteen: one block.
        let expected = bits(&[
            -1_084_799_812,
            1_065_104_339,
            1_069_456_039,
            -1_098_883_591,
            1_048_989_702,
            1_061_574_399,
            1_069_666_759,
            1_035_908_101,
            -1_092_140_130,
            1_064_454_116,
            -1_084_780_926,
            -1_089_890_437,
            1_062_126_366,
            1_059_622_696,
            1_016_585_652,
            -1_114_103_110,
        ]);
        near(&normal(8, 0.5f64.sqrt(), 16), &expected);
        // Twenty: the last sixteen are drawn anew.
        let expected = bits(&[
            1_068_394_379,
            1_065_786_644,
            1_059_261_463,
            -1_078_029_844,
            -1_089_913_724,
            1_061_368_387,
            1_058_076_124,
            1_066_933_447,
            1_048_630_726,
            -1_091_005_051,
            -1_095_590_604,
            1_043_258_136,
            -1_104_693_565,
            1_022_485_909,
            -1_103_746_829,
            1_058_776_745,
            -1_100_987_358,
            -1_097_907_405,
            1_058_107_072,
            -1_092_547_932,
        ]);
        near(&normal(42, 0.5f64.sqrt(), 20), &expected);
        assert!(normal(41, 1.0, 20).iter().zip(&expected).all(|(a, b)| (a - b).abs() > 1e-4), "another seed");
    }

    fn near(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-6 * expected.abs().max(0.1), "{found} {expected}");
        }
    }
}
