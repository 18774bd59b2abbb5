//! Numbers enter, their bytes in a storage type leave, and how much of an update outlives the rounding.

use crate::gguf::TensorType;
use crate::model::weights::decode;

/// How merged weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum OutputType {
    F32,
    Bf16,
    F16,
    /// Blocks of 32 with a scale in f16; GGUF alone.
    Q8_0,
}

impl OutputType {
    /// As messages and options call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    pub(super) fn tensor_type(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::Bf16 => TensorType::BF16,
            Self::F16 => TensorType::F16,
            Self::Q8_0 => TensorType::Q8_0,
        }
    }

    /// Bytes of so many numbers, whole blocks of them.
    pub(super) fn bytes(self, numbers: usize) -> u64 {
        let dtype = self.tensor_type();
        (numbers / dtype.block_len() * dtype.block_bytes()) as u64
    }

    /// Rounds each number to the nearest, ties to even, and appends its bytes.
    pub(super) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => values.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Self::Bf16 => values.iter().for_each(|&x| out.extend(half::bf16::from_f32(x).to_le_bytes())),
            Self::F16 => values.iter().for_each(|&x| out.extend(half::f16::from_f32(x).to_le_bytes())),
            Self::Q8_0 => {
                values.chunks_exact(TensorType::Q8_0.block_len()).for_each(|block| q8_0(block, out))
            }
        }
    }

    /// What [`OutputType::encode`] makes of the numbers, read back.
    fn rounded(self, values: &[f32]) -> Vec<f32> {
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; values.len()]);
        self.encode(values, &mut bytes);
        decode::decode(self.tensor_type(), &bytes, &mut back).expect("whole blocks that were just written");
        back
    }
}

/// A block of 32: d = max |x| / 127 in f16, then each x / d as a signed byte.
fn q8_0(block: &[f32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let d = largest / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    out.extend(half::f16::from_f32(d).to_le_bytes());
    out.extend(block.iter().map(|x| ((x * inverse).round() as i8) as u8));
}

/// How much of an update outlives rounding: Δ is the update, Δ′ = round(W + Δ) − round(W) what of it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Survival {
    /// ‖Δ‖²
    delta: f64,
    /// ⟨Δ′, Δ⟩
    along: f64,
    /// ‖Δ′ − Δ‖²
    error: f64,
    changed: u64,
    entries: u64,
}

impl Survival {
    /// Takes in a row of W and of Δ, stored in this type.
    pub(super) fn add(&mut self, dtype: OutputType, weights: &[f32], delta: &[f32], merged: &[f32]) {
        let (before, after) = (dtype.rounded(weights), dtype.rounded(merged));
        for ((&before, &after), &delta) in before.iter().zip(&after).zip(delta) {
            let (stored, delta) = (f64::from(after) - f64::from(before), f64::from(delta));
            self.delta += delta * delta;
            self.along += stored * delta;
            self.error += (stored - delta).powi(2);
            self.changed += u64::from(before != after);
        }
        self.entries += delta.len() as u64;
    }

    /// ⟨Δ′, Δ⟩ / ‖Δ‖²: 1 if the update is there in full along its own direction; None if the update is 0.
    pub fn kept(&self) -> Option<f64> {
        (self.delta > 0.0).then(|| self.along / self.delta)
    }

    /// ‖Δ′ − Δ‖ / ‖Δ‖: what rounding adds, in units of the update; None if the update is 0.
    pub fn noise(&self) -> Option<f64> {
        (self.delta > 0.0).then(|| (self.error / self.delta).sqrt())
    }

    /// Share of the adapted matrices' numbers that changed at all.
    pub fn changed(&self) -> f64 {
        self.changed as f64 / self.entries.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_keeps_an_update_that_bf16_loses() {
        let weights: Vec<f32> = (0..64).map(|i| 0.5 + 0.01 * i as f32).collect();
        let delta = vec![1e-5f32; 64];
        let merged: Vec<f32> = weights.iter().zip(&delta).map(|(w, d)| w + d).collect();
        let of = |dtype| {
            let mut survival = Survival::default();
            survival.add(dtype, &weights, &delta, &merged);
            survival
        };
        let whole = of(OutputType::F32);
        assert!((whole.kept().unwrap() - 1.0).abs() < 0.01 && whole.noise().unwrap() < 0.01);
        assert_eq!(whole.changed(), 1.0);
        let lost = of(OutputType::Bf16);
        assert!(lost.changed() < 0.1 && lost.noise().unwrap() > 0.9, "{lost:?}");
        assert_eq!(Survival::default().kept(), None);
    }

    #[test]
    fn blocks_of_q8_0_read_back_within_half_a_step() {
        let values: Vec<f32> =
            (0..64).map(|i| (i as f32 * 0.7).sin() * if i < 32 { 3.0 } else { 0.01 }).collect();
        let back = OutputType::Q8_0.rounded(&values);
        for (block, back) in values.chunks(32).zip(back.chunks(32)) {
            let step = block.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
            assert!(block.iter().zip(back).all(|(x, y)| (x - y).abs() <= 0.51 * step), "{step}");
        }
        assert_eq!(OutputType::Q8_0.rounded(&[0.0; 32]), [0.0; 32]);
        assert_eq!(OutputType::Q8_0.bytes(64), 68);
    }
}
