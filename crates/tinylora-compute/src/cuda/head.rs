//! The lm-head on the GPU, by chunks of the vocabulary: log-probs, entropies, sampling and gradients.
//!
//! M rows, D width, V vocabulary. Hidden states are rounded to bf16, as every operand of a product here; logits are x Eᵀ
//! times the row's 1/temperature.

use super::device::{Argument, Device, Launch};
use super::error::CudaError;
use super::gradients::add_outer_products;
use super::memory::DeviceBuffer;
use super::product::{self, FEW_ROWS, Matrix, Out, Rows, int, operands};

/// Vocabulary entries a chunk of the statistics.
const CHUNK: usize = 128;
/// Vocabulary entries whose probabilities are held at once for the gradient.
const SLAB: usize = 4096;
/// Threads and shared memory of the kernels for few rows and for many.
const FEW: (u32, usize) = (128, 73728);
const LARGE: (u32, usize) = (256, 65536);

/// M rows in front of the head.
pub struct HeadRows<'a> {
    /// E (V, D)
    pub head: &'a Matrix,
    /// (M, D)
    pub x: &'a Rows,
    /// 1/temperature (M)
    pub inverse_temperature: DeviceBuffer<f32>,
}

/// Statistics of M rows, on the GPU.
pub struct Statistics {
    sums: DeviceBuffer<f32>,
    distributions: DeviceBuffer<f32>,
    logits: Option<DeviceBuffer<f32>>,
}

/// A row's distribution over the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    /// ln Σ eˡ
    pub log_normalizer: f32,
    /// In nats.
    pub entropy: f32,
}

/// Where a row's random number comes from, or that the most probable token is taken.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Key and stream of the generator.
    pub key: [u32; 4],
    /// Its counter.
    pub counter: u64,
    /// No random number.
    pub greedy: bool,
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Id.
    pub token: u32,
    /// ln p
    pub logprob: f32,
    /// Of the distribution, in nats.
    pub entropy: f32,
}

/// Numbers of a choice on the GPU, of which the first is the token.
pub const CHOICE: usize = 4;

impl Draw {
    /// As the kernel reads it.
    pub fn words(&self) -> [u64; 4] {
        let [a, b, c, d] = self.key.map(u64::from);
        [a | b << 32, c | d << 32, self.counter, u64::from(self.greedy)]
    }
}

impl Choice {
    /// What the kernel wrote.
    pub fn of(words: &[u32]) -> Vec<Self> {
        let choice = |words: &[u32]| Self {
            token: words[0],
            logprob: f32::from_bits(words[2]),
            entropy: f32::from_bits(words[3]),
        };
        words.chunks_exact(CHOICE).map(choice).collect()
    }
}

impl<'a> HeadRows<'a> {
    /// Rows with one temperature.
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn new(
        device: &Device,
        head: &'a Matrix,
        x: &'a Rows,
        inverse_temperature: f32,
    ) -> Result<Self, CudaError> {
        assert_eq!(x.width, head.columns, "hidden states as wide as the head");
        let inverse = device.upload("temperatures", &vec![inverse_temperature; x.rows])?;
        Ok(Self { head, x, inverse_temperature: inverse })
    }

    /// Passes over the vocabulary once; with `targets` (M), their logits, too.
    pub fn statistics(
        &self,
        device: &Device,
        targets: Option<&DeviceBuffer<u32>>,
    ) -> Result<Statistics, CudaError> {
        let (rows, chunks) = (self.x.rows, self.head.rows.div_ceil(CHUNK));
        assert!(targets.is_none_or(|targets| targets.len() == rows), "a target for each row");
        let sums = device.buffer("sums of the vocabulary", rows * chunks * 3)?;
        let logits = targets.map(|_| device.buffer("logits of the targets", rows)).transpose()?;
        let few = rows <= FEW_ROWS;
        let (name, tile, (threads, shared)) =
            if few { ("head_statistics_few", 16, FEW) } else { ("head_statistics", 128, LARGE) };
        let operands = operands(self.x, self.head, self.head.rows, self.head.columns);
        let none = Argument::Buffer(0);
        let arguments = [
            Argument::Struct(&operands),
            self.inverse_temperature.argument(),
            targets.map_or(none, DeviceBuffer::argument),
            sums.argument(),
            logits.as_ref().map_or(none, DeviceBuffer::argument),
        ];
        let blocks = [rows.div_ceil(tile) as u32, chunks as u32, 1];
        // SAFETY: the arguments are the kernel's, with room for all rows and chunks; targets are below V.
        unsafe { device.launch_some(name, Launch { blocks, threads, shared }, &arguments)? };
        let distributions = device.buffer("distributions", rows * 3)?;
        let arguments = [sums.argument(), int(rows), int(chunks), distributions.argument()];
        let launch = Launch { blocks: [rows.div_ceil(4) as u32, 1, 1], threads: 128, shared: 0 };
        // SAFETY: as above.
        unsafe { device.launch_some("head_distribution", launch, &arguments)? };
        Ok(Statistics { sums, distributions, logits })
    }

    /// Chooses a token for each row.
    ///
    /// # Panics
    /// If there is not a draw for each row.
    pub fn choose(
        &self,
        device: &Device,
        statistics: &Statistics,
        draws: &[Draw],
    ) -> Result<Vec<Choice>, CudaError> {
        let words: Vec<u64> = draws.iter().flat_map(Draw::words).collect();
        let draws = device.upload("draws", &words)?;
        let choices = device.buffer::<u32>("choices", CHOICE * self.x.rows)?;
        self.choose_to(device, statistics, &draws, &choices)?;
        Ok(Choice::of(&choices.to_vec()?))
    }

    /// The same from draws that are on the GPU ([`Draw::words`]), to `choices` there (M, [`CHOICE`]).
    ///
    /// # Panics
    /// If there is not a draw for each row, or no room for choices.
    pub fn choose_to(
        &self,
        device: &Device,
        statistics: &Statistics,
        draws: &DeviceBuffer<u64>,
        choices: &DeviceBuffer<u32>,
    ) -> Result<(), CudaError> {
        let rows = self.x.rows;
        assert!(draws.len() == 4 * rows && choices.len() >= CHOICE * rows, "a draw for each row");
        let operands = operands(self.x, self.head, self.head.rows, self.head.columns);
        let arguments = [
            Argument::Struct(&operands),
            self.inverse_temperature.argument(),
            statistics.sums.argument(),
            statistics.distributions.argument(),
            draws.argument(),
            choices.argument(),
        ];
        let launch = Launch { blocks: [rows as u32, 1, 1], threads: FEW.0, shared: FEW.1 };
        // SAFETY: as above.
        unsafe { device.launch_some("head_pick", launch, &arguments) }
    }

    /// All logits, times 1/temperature, row by row (M · V).
    pub fn logits(&self, device: &Device) -> Result<Vec<f32>, CudaError> {
        let vocabulary = self.head.rows;
        let out = device.buffer("logits", self.x.rows * vocabulary)?;
        product::forward(device, self.x, self.head, None, None, Out::F32(&out))?;
        let (mut logits, factors) = (out.to_vec()?, self.inverse_temperature.to_vec()?);
        for (row, factor) in logits.chunks_exact_mut(vocabulary).zip(factors) {
            row.iter_mut().for_each(|logit| *logit *= factor);
        }
        Ok(logits)
    }

    /// ∂ ln p(target) / ∂x of each row (M, D).
    pub fn directions(
        &self,
        device: &Device,
        statistics: &Statistics,
        targets: &DeviceBuffer<u32>,
    ) -> Result<DeviceBuffer<f32>, CudaError> {
        let out = self.weighted_embeddings(device, statistics, "head_probabilities")?;
        let arguments = [
            self.head.data.argument(),
            int(self.head.stride()),
            targets.argument(),
            self.inverse_temperature.argument(),
            int(self.head.columns),
            out.argument(),
        ];
        let launch = Launch { blocks: [self.x.rows as u32, 1, 1], threads: 256, shared: 0 };
        // SAFETY: as above.
        unsafe { device.launch_some("head_directions", launch, &arguments)? };
        Ok(out)
    }

    /// Minus ∂ entropy / ∂x of each row, without the factor 1/temperature: Σ_v p_v (ln p_v + H) E_v (M, D).
    pub fn entropy_sums(
        &self,
        device: &Device,
        statistics: &Statistics,
    ) -> Result<DeviceBuffer<f32>, CudaError> {
        self.weighted_embeddings(device, statistics, "head_entropies")
    }

    /// Adds the gradient of the head's matrix to `sums` (V, D), for the loss's slopes by each row's log-prob and by its
    /// entropy (M) and [`Statistics::shares`]. Weights of the vocabulary are rounded to bf16.
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn add_weight_gradient(
        &self,
        device: &Device,
        distributions: &DeviceBuffer<f32>,
        targets: &DeviceBuffer<u32>,
        slopes: (&[f32], &[f32]),
        inverse_temperature: f32,
        sums: &DeviceBuffer<f32>,
    ) -> Result<(), CudaError> {
        let (rows, vocabulary, width) = (self.x.rows, self.head.rows, self.head.columns);
        assert!(slopes.0.len() == rows && slopes.1.len() == rows && targets.len() == rows, "for each row");
        assert!(sums.len() == vocabulary * width && distributions.len() == 3 * rows, "sums of the head");
        let slopes: Vec<f32> = slopes
            .0
            .iter()
            .zip(slopes.1)
            .flat_map(|(&a, &b)| [a, b].map(|x| x * inverse_temperature))
            .collect();
        let slopes = device.upload("slopes", &slopes)?;
        let slab = SLAB.min(vocabulary.next_multiple_of(CHUNK));
        let weights = device.buffer("weights of the vocabulary", rows * slab)?;
        for first in (0..vocabulary).step_by(slab) {
            let left = self.head.range(first, vocabulary - first);
            let operands = operands(self.x, &left, left.rows, left.columns);
            let arguments = [
                Argument::Struct(&operands),
                self.inverse_temperature.argument(),
                distributions.argument(),
                targets.argument(),
                slopes.argument(),
                int(first),
                weights.argument(),
                int(slab),
            ];
            let blocks = [rows.div_ceil(128) as u32, (slab / CHUNK) as u32, 1];
            let launch = Launch { blocks, threads: LARGE.0, shared: LARGE.1 };
            // SAFETY: as above; all slabs but the last are whole.
            unsafe { device.launch_some("head_slopes", launch, &arguments)? };
            let count = slab.min(left.rows);
            let weights = Rows { data: weights.clone(), rows, width: count, stride: slab };
            add_outer_products(device, &weights, self.x, &[sums.part(first * width, count * width)])?;
        }
        Ok(())
    }

    /// Σ_v w_v E_v for weights of a kernel's making (M, D), slab by slab.
    fn weighted_embeddings(
        &self,
        device: &Device,
        statistics: &Statistics,
        kernel: &str,
    ) -> Result<DeviceBuffer<f32>, CudaError> {
        let rows = self.x.rows;
        let out = device.zeroed("gradients of hidden states", rows * self.head.columns)?;
        let slab = SLAB.min(self.head.rows.next_multiple_of(CHUNK));
        let weights = device.buffer("probabilities", rows * slab)?;
        for first in (0..self.head.rows).step_by(slab) {
            let left = self.head.range(first, self.head.rows - first);
            let operands = operands(self.x, &left, left.rows, left.columns);
            let arguments = [
                Argument::Struct(&operands),
                self.inverse_temperature.argument(),
                statistics.distributions.argument(),
                weights.argument(),
                int(slab),
            ];
            let blocks = [rows.div_ceil(128) as u32, (slab / CHUNK) as u32, 1];
            let launch = Launch { blocks, threads: LARGE.0, shared: LARGE.1 };
            // SAFETY: as above; all slabs but the last are whole.
            unsafe { device.launch_some(kernel, launch, &arguments)? };
            let count = slab.min(left.rows);
            let weights = Rows { data: weights.clone(), rows, width: count, stride: slab };
            product::backward(device, &weights, &left.range(0, count), None, Out::Add(&out))?;
        }
        Ok(out)
    }
}

impl Statistics {
    /// Of each row the logarithm of the normalizer, the entropy and the largest logit, on the GPU (M, 3).
    pub fn shares(&self) -> DeviceBuffer<f32> {
        self.distributions.clone()
    }

    /// Waits; what each row's log-probs need.
    pub fn distributions(&self) -> Result<Vec<Distribution>, CudaError> {
        let numbers = self.distributions.to_vec()?;
        let row = |n: &[f32]| Distribution { log_normalizer: n[0], entropy: n[1] };
        Ok(numbers.chunks_exact(3).map(row).collect())
    }

    /// Waits; the targets' logits; none without targets.
    pub fn target_logits(&self) -> Result<Vec<f32>, CudaError> {
        self.logits.as_ref().map_or(Ok(Vec::new()), DeviceBuffer::to_vec)
    }
}
