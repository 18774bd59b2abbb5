//! What passes between the layers and the head: hidden states and their gradients, where the model computes; and what can go
//! wrong there. Nothing here computes but sums of rows.

use super::all_weights::{WeightLayout, WeightSums};
use super::cuda::{GpuDirections, GpuHidden, GpuMaster, GpuModel, GpuWeightSums};
use super::gradients::Gradients;
use super::load::Model;
use crate::random::Stream;
use std::sync::Arc;

/// Why a device can't do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The GPU, its driver or its memory.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] tinylora_compute::cuda::CudaError),
    /// A build without the feature.
    #[error(
        "this build has no GPU support (its feature `cuda` is off): use the cpu device, or build with the feature"
    )]
    NotBuilt,
    /// f32 weights.
    #[error("on a GPU weights are bf16: set model.dtype = \"bf16\" (--dtype bf16), or use the cpu device")]
    Dtype,
    /// A replacement of what is trained that failed before.
    #[error(
        "what is trained lies on the GPU partly old and partly new, as replacing it failed before: start again from the \
         last checkpoint"
    )]
    Mixture,
    /// GPUs that may round differently.
    #[error(
        "GPUs of one kind alone share a run, since others may round differently: {first} and {other} were asked for \
         (TINYLORA_GPU)"
    )]
    Mixed {
        /// Name of the first.
        first: String,
        /// Name of one that differs.
        other: String,
    },
    /// Heads of a size that no kernel has.
    #[error(
        "the kernels for GPUs serve heads of up to 256 numbers and up to 64 query heads a key head (32 above 128 numbers), \
         but the model has {queries} query heads and {keys} key heads of {size}: use the cpu device"
    )]
    Heads {
        /// Query heads.
        queries: usize,
        /// Key heads.
        keys: usize,
        /// d
        size: usize,
    },
}

/// Hidden states after the last norm (n, D): what the head reads.
pub enum Hidden {
    /// f32, row by row.
    Host {
        /// D
        width: usize,
        /// (n, D)
        values: Vec<f32>,
    },
    /// bf16 on the GPU.
    Gpu(GpuHidden),
}

impl Hidden {
    /// n
    pub fn rows(&self) -> usize {
        match self {
            Self::Host { width, values } => values.len() / width,
            Self::Gpu(hidden) => hidden.rows(),
        }
    }

    /// The numbers, if they are on the host.
    pub fn host(&self) -> Option<&[f32]> {
        match self {
            Self::Host { values, .. } => Some(values),
            Self::Gpu(_) => None,
        }
    }

    /// Some of the rows, in this order.
    pub fn pick(&self, rows: &[usize]) -> Self {
        match self {
            &Self::Host { width, ref values } => {
                let picked = rows.iter().flat_map(|&row| &values[row * width..][..width]);
                Self::Host { width, values: picked.copied().collect() }
            }
            Self::Gpu(hidden) => Self::Gpu(hidden.pick(rows)),
        }
    }

    /// The same into hidden states that are overwritten; on the host their memory is used again.
    pub fn pick_into(&self, rows: &[usize], to: &mut Self) {
        match (self, to) {
            (&Self::Host { width, ref values }, Self::Host { values: picked, .. }) => {
                picked.clear();
                rows.iter().for_each(|&row| picked.extend_from_slice(&values[row * width..][..width]));
            }
            (_, to) => *to = self.pick(rows),
        }
    }

    /// Takes the first rows away.
    pub fn drop_first(&mut self, count: usize) {
        match self {
            Self::Host { width, values } => drop(values.drain(..count * *width)),
            Self::Gpu(hidden) => hidden.drop_first(count),
        }
    }

    /// Adds the rows of another, which is of the same model.
    ///
    /// # Panics
    /// If one is on a GPU and the other isn't.
    pub fn append(&mut self, other: &Self) {
        match (self, other) {
            (Self::Host { values, .. }, Self::Host { values: more, .. }) => values.extend_from_slice(more),
            (Self::Gpu(hidden), Self::Gpu(more)) => hidden.append(more),
            _ => panic!("hidden states of two devices"),
        }
    }
}

/// Gradients with respect to hidden states (n, D): of each row's log-prob and, where it is asked for, of its entropy.
pub enum Directions {
    /// On the host.
    Host {
        /// D
        width: usize,
        /// ∂ ln p / ∂ hidden (n, D); after [`Self::combine`] the loss's gradient.
        log: Vec<f32>,
        /// ∂ entropy / ∂ hidden (n, D); empty where it was not asked for.
        entropy: Vec<f32>,
    },
    /// On the GPU.
    Gpu(GpuDirections),
}

impl Directions {
    /// Whether there are gradients of entropies.
    pub fn has_entropies(&self) -> bool {
        match self {
            Self::Host { entropy, .. } => !entropy.is_empty(),
            Self::Gpu(directions) => directions.has_entropies(),
        }
    }

    /// Turns them into the gradient of a loss with these slopes, ∂L/∂ ln p and ∂L/∂ entropy (n).
    pub fn combine(&mut self, slopes: &[f32], entropy_slopes: &[f32]) -> Result<(), DeviceError> {
        match self {
            Self::Host { width, log, entropy } => {
                for (row, (&slope, &entropy_slope)) in slopes.iter().zip(entropy_slopes).enumerate() {
                    let row = row * *width..(row + 1) * *width;
                    log[row.clone()].iter_mut().for_each(|x| *x *= slope);
                    if entropy_slope != 0.0 {
                        for (x, entropy) in log[row.clone()].iter_mut().zip(&entropy[row]) {
                            *x += entropy_slope * entropy;
                        }
                    }
                }
                Ok(())
            }
            Self::Gpu(directions) => directions.combine(slopes, entropy_slopes),
        }
    }
}

impl Model {
    /// Sums of 0 for the gradients of all weights, where the model computes; with several GPUs on the first.
    pub fn weight_sums(&self, layout: &Arc<WeightLayout>) -> Result<Gradients, DeviceError> {
        let layout = Arc::clone(layout);
        Ok(match self.gpus.first() {
            None => Gradients::Weights(WeightSums::new(layout)),
            Some(gpu) => Gradients::GpuWeights(GpuWeightSums::new(gpu, layout)?),
        })
    }

    /// Room for a master copy of all n weights on the first GPU, and for so many lists of the optimizer's.
    ///
    /// # Panics
    /// If the model is on the host.
    pub(crate) fn room_for_master(&self, n: usize, lists: usize) -> Result<GpuMaster, DeviceError> {
        GpuMaster::new(self.gpus.first().expect("a model on a GPU"), n, lists)
    }

    /// No hidden states, to begin with, on one of the devices that it lies on.
    pub fn no_hidden(&self, device: usize) -> Hidden {
        match self.gpus.get(device) {
            None => Hidden::Host { width: self.config.hidden_size, values: Vec::new() },
            Some(gpu) => Hidden::Gpu(gpu.no_hidden()),
        }
    }

    fn on_gpu<'a>(&'a self, hidden: &'a Hidden) -> (&'a GpuModel, &'a GpuHidden) {
        match hidden {
            Hidden::Gpu(hidden) => (&self.gpus[hidden.index()], hidden),
            Hidden::Host { .. } => panic!("hidden states on the host"),
        }
    }

    /// On the GPU: (token, log-prob, entropy) of each row, chosen by its stream's number at a counter, or with `greedy` the
    /// most probable token.
    ///
    /// # Panics
    /// If the model is on the host, as for the three functions that follow.
    pub fn choose(
        &self,
        hidden: &Hidden,
        inverse_temperature: f32,
        draws: &[(Stream, u64)],
        greedy: bool,
    ) -> Result<Vec<(u32, f32, f32)>, DeviceError> {
        let (gpu, hidden) = self.on_gpu(hidden);
        gpu.choose(hidden, inverse_temperature, draws, greedy)
    }

    /// On the GPU: all logits of a few rows, times 1/temperature (n · V).
    pub fn logits(&self, hidden: &Hidden, inverse_temperature: f32) -> Result<Vec<f32>, DeviceError> {
        let (gpu, hidden) = self.on_gpu(hidden);
        gpu.logits(hidden, inverse_temperature)
    }

    /// On the GPU: ln p of each row's token.
    pub fn logprobs(
        &self,
        hidden: &Hidden,
        tokens: &[u32],
        inverse_temperature: f32,
    ) -> Result<Vec<f32>, DeviceError> {
        let (gpu, hidden) = self.on_gpu(hidden);
        gpu.logprobs(hidden, tokens, inverse_temperature)
    }

    /// On the GPU: ln p of each row's token, entropies, and their gradients, those of entropies where they are wanted.
    pub fn directions(
        &self,
        hidden: &Hidden,
        tokens: &[u32],
        inverse_temperature: f32,
        entropies: bool,
    ) -> Result<(Vec<f32>, Vec<f32>, Directions), DeviceError> {
        let (gpu, hidden) = self.on_gpu(hidden);
        let (logprobs, entropies, directions) =
            gpu.directions(hidden, tokens, inverse_temperature, entropies)?;
        Ok((logprobs, entropies, Directions::Gpu(directions)))
    }
}

impl GpuWeightSums {
    /// Adds the gradient of the head's matrix for a loss with these slopes by log-probs and by entropies (n).
    ///
    /// # Panics
    /// If the model is on the host.
    pub(crate) fn add_head(
        &self,
        model: &Model,
        directions: &Directions,
        slopes: (&[f32], &[f32]),
    ) -> Result<(), DeviceError> {
        let Directions::Gpu(directions) = directions else { panic!("a model on the host") };
        directions.add_head_gradient(&model.gpus[directions.index()], slopes, self)
    }

    /// Adds Σ weight · hidden of a few rows to the head's sums, for whole rows of weights (n · V).
    ///
    /// # Panics
    /// If the model is on the host.
    pub(crate) fn add_head_weights(
        &self,
        model: &Model,
        hidden: &Hidden,
        weights: &[f32],
    ) -> Result<(), DeviceError> {
        let (gpu, hidden) = model.on_gpu(hidden);
        self.add_head_rows(gpu, hidden, weights)
    }
}

impl Directions {
    /// On the GPU: puts Σ_v weight_v E_v in the place of the rows `at`, for whole rows of weights (n · V): times
    /// `inverse_temperature` the gradients of log-probs, or with `entropies` those of entropies.
    ///
    /// # Panics
    /// If the model is on the host.
    pub fn replace(
        &self,
        model: &Model,
        entropies: bool,
        at: &[usize],
        weights: &mut [f32],
        inverse_temperature: f32,
    ) -> Result<(), DeviceError> {
        let Self::Gpu(directions) = self else { panic!("a model on the host") };
        let gpu = &model.gpus[directions.index()];
        let mut factor = inverse_temperature;
        if entropies {
            // Kept with the other sign, and the factor comes last.
            weights.iter_mut().for_each(|x| *x = -*x);
            factor = 1.0;
        }
        directions.replace(entropies, at, &gpu.weighted(weights, factor)?)
    }
}
