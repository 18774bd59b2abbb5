//! Hidden states and their gradients on the GPU, and the head: sampling, log-probs, directions.

use super::load::GpuModel;
use super::weights::GpuWeightSums;
use crate::model::hidden::DeviceError;
use crate::random::Stream;
use half::bf16;
use std::sync::Arc;
use tinylora_compute::cuda::head::{Draw, HeadRows};
use tinylora_compute::cuda::product::{self, Matrix, Out, Rows, padded};
use tinylora_compute::cuda::rows::{self, Norm, Scatter};
use tinylora_compute::cuda::{CudaError, Device, DeviceBuffer};

/// Hidden states (n, D): rows that may lie in several places.
#[derive(Clone)]
pub struct GpuHidden {
    /// Which of the model's GPUs they are on.
    index: usize,
    width: usize,
    rows: Vec<DeviceBuffer<u16>>,
}

impl GpuHidden {
    /// norm(raw), rounded.
    pub(super) fn normed(model: &GpuModel, raw: &DeviceBuffer<f32>, count: usize) -> Result<Self, CudaError> {
        let (device, norm): (&Device, &Norm) = (&model.device, &model.final_norm);
        let width = norm.weight.len();
        let stride = padded(width);
        let data = device.buffer("hidden states", count * stride)?;
        norm.forward(device, raw, &Rows::new(&data, count, width))?;
        Ok(Self {
            index: model.index,
            width,
            rows: (0..count).map(|row| data.part(row * stride, stride)).collect(),
        })
    }

    /// Which of the model's GPUs they are on.
    pub fn index(&self) -> usize {
        self.index
    }

    /// n
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Some of the rows, in this order.
    pub fn pick(&self, rows: &[usize]) -> Self {
        Self { rows: rows.iter().map(|&row| self.rows[row].clone()).collect(), ..*self }
    }

    /// The only row.
    pub(super) fn single(&self) -> &DeviceBuffer<u16> {
        assert_eq!(self.rows.len(), 1, "one row");
        &self.rows[0]
    }

    /// Takes the first rows away.
    pub fn drop_first(&mut self, count: usize) {
        self.rows.drain(..count);
    }

    /// Adds the rows of another.
    pub fn append(&mut self, other: &Self) {
        self.rows.extend_from_slice(&other.rows);
    }

    /// The rows one after the other: as they lie, if they do, or copied.
    pub(super) fn together(&self, device: &Device) -> Result<Rows, CudaError> {
        let mut runs: Vec<DeviceBuffer<u16>> = Vec::new();
        for row in &self.rows {
            match runs.last().and_then(|run| run.joined(row)) {
                Some(joined) => *runs.last_mut().expect("there is a last one") = joined,
                None => runs.push(row.clone()),
            }
        }
        let data = match <[_; 1]>::try_from(runs) {
            Ok([one]) => one,
            Err(runs) => {
                let data = device.buffer("hidden states", self.rows.len() * padded(self.width))?;
                let mut at = 0;
                for run in runs {
                    data.part(at, run.len()).copy_from(&run)?;
                    at += run.len();
                }
                data
            }
        };
        Ok(Rows::new(&data, self.rows.len(), self.width))
    }
}

/// Rows of f32 (n, D).
pub struct GpuRows {
    data: DeviceBuffer<f32>,
}

/// ∂ ln p / ∂ hidden (n, D), and of the entropy where it was asked for.
pub struct GpuDirections {
    index: usize,
    device: Arc<Device>,
    width: usize,
    log: DeviceBuffer<f32>,
    /// −∂ entropy / ∂ hidden, without the factor 1/temperature.
    entropy: Option<DeviceBuffer<f32>>,
    inverse_temperature: f32,
    /// Of the rows: hidden states, targets, and what their distributions need.
    x: Rows,
    targets: DeviceBuffer<u32>,
    shares: DeviceBuffer<f32>,
}

impl GpuDirections {
    /// Which of the model's GPUs they are on.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether there are gradients of entropies.
    pub fn has_entropies(&self) -> bool {
        self.entropy.is_some()
    }

    /// Turns them into the gradient of a loss with these slopes.
    pub fn combine(&mut self, slopes: &[f32], entropy_slopes: &[f32]) -> Result<(), DeviceError> {
        let device = &*self.device;
        rows::scale(device, &self.log, &device.upload("slopes", slopes)?, self.width)?;
        if let Some(entropy) = self.entropy.take() {
            let factors: Vec<f32> =
                entropy_slopes.iter().map(|slope| -slope * self.inverse_temperature).collect();
            rows::scale(device, &entropy, &device.upload("slopes", &factors)?, self.width)?;
            let same: Vec<u32> = (0..slopes.len() as u32).collect();
            Scatter::new(device, &same)?.add(device, &entropy, self.width, &self.log)?;
        }
        Ok(())
    }

    /// Puts rows in the place of those numbered `at`: gradients of log-probs, or of entropies, as [`GpuModel::weighted`] gives them.
    pub fn replace(&self, entropies: bool, at: &[usize], with: &GpuRows) -> Result<(), DeviceError> {
        let to = if entropies { self.entropy.as_ref().expect("asked for") } else { &self.log };
        for (number, row) in at.iter().enumerate() {
            let from = with.data.part(number * self.width, self.width);
            to.part(row * self.width, self.width).copy_from(&from)?;
        }
        Ok(())
    }

    /// Adds the gradient of the head's matrix for a loss with these slopes, by log-probs and by entropies.
    pub fn add_head_gradient(
        &self,
        gpu: &GpuModel,
        slopes: (&[f32], &[f32]),
        sums: &GpuWeightSums,
    ) -> Result<(), DeviceError> {
        let rows = HeadRows::new(&self.device, gpu.head(), &self.x, self.inverse_temperature)?;
        let (shares, targets, inverse) = (&self.shares, &self.targets, self.inverse_temperature);
        Ok(rows.add_weight_gradient(&self.device, shares, targets, slopes, inverse, &sums.head())?)
    }

    /// What they were turned into.
    pub(super) fn loss(&self) -> &DeviceBuffer<f32> {
        &self.log
    }
}

impl GpuModel {
    /// No rows.
    pub fn no_hidden(&self) -> GpuHidden {
        GpuHidden { index: self.index, width: self.final_norm.weight.len(), rows: Vec::new() }
    }

    /// Chooses (token, log-prob, entropy) for each row by its stream's number at a counter, or the most probable token.
    pub fn choose(
        &self,
        hidden: &GpuHidden,
        inverse_temperature: f32,
        draws: &[(Stream, u64)],
        greedy: bool,
    ) -> Result<Vec<(u32, f32, f32)>, DeviceError> {
        if draws.is_empty() {
            return Ok(Vec::new());
        }
        let device = &*self.device;
        let x = hidden.together(device)?;
        let rows = HeadRows::new(device, self.head(), &x, inverse_temperature)?;
        let statistics = rows.statistics(device, None)?;
        let draw = |&(stream, counter): &(Stream, u64)| Draw { key: stream.parts(), counter, greedy };
        let choices = rows.choose(device, &statistics, &draws.iter().map(draw).collect::<Vec<_>>())?;
        Ok(choices.into_iter().map(|choice| (choice.token, choice.logprob, choice.entropy)).collect())
    }

    /// All logits of a few rows, times 1/temperature (n · V).
    pub fn logits(&self, hidden: &GpuHidden, inverse_temperature: f32) -> Result<Vec<f32>, DeviceError> {
        let x = hidden.together(&self.device)?;
        Ok(HeadRows::new(&self.device, self.head(), &x, inverse_temperature)?.logits(&self.device)?)
    }

    /// ln p of each row's token.
    pub fn logprobs(
        &self,
        hidden: &GpuHidden,
        tokens: &[u32],
        inverse_temperature: f32,
    ) -> Result<Vec<f32>, DeviceError> {
        let device = &*self.device;
        let (x, targets) = (hidden.together(device)?, device.upload("targets", tokens)?);
        let rows = HeadRows::new(device, self.head(), &x, inverse_temperature)?;
        let statistics = rows.statistics(device, Some(&targets))?;
        let logits = statistics.target_logits()?;
        let distributions = statistics.distributions()?;
        Ok(logits.iter().zip(distributions).map(|(logit, row)| logit - row.log_normalizer).collect())
    }

    /// ln p of each row's token, entropies, and the gradients of both, that of entropies where it is wanted.
    pub fn directions(
        &self,
        hidden: &GpuHidden,
        tokens: &[u32],
        inverse_temperature: f32,
        entropies: bool,
    ) -> Result<(Vec<f32>, Vec<f32>, GpuDirections), DeviceError> {
        let device = &*self.device;
        let (x, targets) = (hidden.together(device)?, device.upload("targets", tokens)?);
        let rows = HeadRows::new(device, self.head(), &x, inverse_temperature)?;
        let statistics = rows.statistics(device, Some(&targets))?;
        let entropy = entropies.then(|| rows.entropy_sums(device, &statistics)).transpose()?;
        let directions = GpuDirections {
            index: self.index,
            device: Arc::clone(&self.device),
            width: hidden.width,
            log: rows.directions(device, &statistics, &targets)?,
            entropy,
            inverse_temperature,
            x: x.clone(),
            shares: statistics.shares(),
            targets,
        };
        let (logits, distributions) = (statistics.target_logits()?, statistics.distributions()?);
        let logprobs = logits.iter().zip(&distributions).map(|(logit, row)| logit - row.log_normalizer);
        Ok((logprobs.collect(), distributions.iter().map(|row| row.entropy).collect(), directions))
    }

    /// Σ_v weight_v E_v · `factor` for whole rows of weights (n · V), which are rounded to bf16.
    pub fn weighted(&self, weights: &[f32], factor: f32) -> Result<GpuRows, DeviceError> {
        let (device, head): (&Device, &Matrix) = (&self.device, self.head());
        let (rows, stride) = (weights.len() / head.rows, padded(head.rows));
        let mut bits = vec![0u16; rows * stride];
        for (to, from) in bits.chunks_mut(stride).zip(weights.chunks(head.rows)) {
            to.iter_mut().zip(from).for_each(|(to, &x)| *to = bf16::from_f32(x).to_bits());
        }
        let weights = Rows::new(&device.upload("weights of the vocabulary", &bits)?, rows, head.rows);
        let data = device.buffer("gradients of hidden states", rows * head.columns)?;
        product::backward(device, &weights, head, None, Out::F32(&data))?;
        rows::scale(device, &data, &device.upload("factors", &vec![factor; rows])?, head.columns)?;
        Ok(GpuRows { data })
    }
}
