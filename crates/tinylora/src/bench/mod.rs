//! A loaded model enters, its speed leaves: prefill, decode, training and a whole GRPO step, each as tokens a second
//! and as a fraction of what this machine could do. Tokens and adapters are random; nothing is learned.

mod account;
mod products;
mod setup;
mod shapes;
mod work;

pub use account::OperationShare;
pub use products::{ProductRow, products};
pub use setup::{SetupRow, setup};
pub use shapes::{NAMES, first_layers, shape, shape_of};

use crate::adapter::{AdapterError, FactorError};
use crate::gradient::GradientError;
use crate::inference::EngineError;
use crate::model::Model;
use account::Spent;
use serde::Serialize;
use std::cell::Cell;
use std::time::Instant;
use tinylora_compute::{Cpu, peak};
use work::{Bench, Cost};

/// What is measured, and how often.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Each row is the median of so many runs.
    pub repeats: usize,
    /// Decode at these numbers of sequences.
    pub decode: Vec<usize>,
    /// Prefill and training of these numbers of sequences of 160 tokens.
    pub sequences: Vec<usize>,
    /// The whole GRPO step of the quick start's size: 12 prompts of 60 tokens, 8 samples of 24 tokens each.
    pub step: bool,
    /// Bytes that a run may use; 0: as much as a run uses by itself.
    pub memory: u64,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { repeats: 5, decode: vec![1, 8, 32, 64, 128], sequences: vec![8, 32], step: true, memory: 0 }
    }
}

/// Everything measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// "cpu" or "cuda"
    pub device: String,
    /// Instruction set, or the GPU's name.
    pub kernel: String,
    /// Threads.
    pub threads: usize,
    /// What the machine could do at most.
    pub peak: Peak,
    /// One a measurement.
    pub rows: Vec<BenchRow>,
}

/// Limits of this machine, measured with this kernel and all threads.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peak {
    /// Multiply-adds in registers, two FLOP each, in the kernel's fastest form; on a GPU those of a large product.
    pub matmul_flops: f64,
    /// Reading of memory; on a GPU reading and writing in a copy.
    pub memory_bytes_per_second: f64,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct BenchRow {
    /// prefill, decode, train or grpo_step
    pub what: &'static str,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// New tokens of each sequence.
    pub new: usize,
    /// Tokens of the kind measured, a second: of prompts (prefill), new ones (decode, grpo_step), all (train).
    pub tokens_per_second: f64,
    /// Time that the limits alone would take, as a fraction of the time it took.
    pub fraction_of_peak: f64,
    /// Which limit that is: "matmul" or "memory".
    pub limit: &'static str,
    /// Median.
    pub seconds: f64,
    /// Fastest and slowest run.
    pub seconds_range: [f64; 2],
    /// Of the batch's slots, those that stood empty at the end of the generation; 0 where all completions are of one length,
    /// as they are here.
    pub empty_slot_fraction: f64,
    /// Where the time went, if account is kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationShare>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Generation failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The GPU has no room.
    #[error(transparent)]
    Device(#[from] crate::model::DeviceError),
    /// Training failed.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// No adapter fits the model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A matrix has no factors.
    #[error(transparent)]
    Factors(#[from] FactorError),
}

/// Measures the limits of the machine, or of the GPU that the model is on.
pub fn measure_peak(cpu: &Cpu, model: &Model) -> Result<Peak, BenchError> {
    let (matmul_flops, memory_bytes_per_second) = match model.gpu_peak() {
        Some(peak) => peak?,
        None => (peak::multiply_add_rate(cpu), peak::read_rate(cpu)),
    };
    Ok(Peak { matmul_flops, memory_bytes_per_second })
}

/// From so many seconds on a first run counts like the others.
const LONG_SECONDS: f64 = 30.0;
/// Tokens of the sequences that are prefilled or trained on.
const LENGTH: usize = 160;
/// Prompt and new tokens of decode, as llama.cpp's batched-bench has them.
const DECODE: (usize, usize) = (64, 64);
/// Prompts, samples, tokens of a prompt and of a completion of the GRPO step.
const STEP: (usize, usize, usize, usize) = (12, 8, 60, 24);

/// Measures one row after the other; `done` is told each as it comes.
///
/// # Errors
/// If the model's numbers overflow, as they may with damaged weights.
pub fn bench(
    cpu: &Cpu,
    model: &Model,
    peak: Peak,
    options: &BenchOptions,
    done: &mut dyn FnMut(&BenchRow),
) -> Result<BenchReport, BenchError> {
    let mut bench = Bench::new(cpu, model, options.memory)?;
    let mut rows = Vec::new();
    let empty = Cell::new(0.0);
    let spent = Spent::new(cpu);
    let mut measure =
        |what, (batch, prompt, new): (usize, usize, usize), tokens, cost: Cost, run: &mut Run<'_>| {
            // What is touched first is slower (pages, branch predictors), by less than a second.
            let first = run()?;
            let mut seconds = if first >= LONG_SECONDS { vec![first] } else { Vec::new() };
            if seconds.is_empty() {
                // Nor does the account: the first run of all spends half of its time on memory.
                spent.take();
            }
            while seconds.len() < options.repeats.max(1) {
                seconds.push(run()?);
            }
            let operations = spent.take();
            seconds.sort_by(f64::total_cmp);
            let median = seconds[seconds.len() / 2];
            let (matmul, memory) =
                (cost.flops / peak.matmul_flops, cost.bytes / peak.memory_bytes_per_second);
            let row = BenchRow {
                what,
                batch,
                prompt,
                new,
                tokens_per_second: tokens as f64 / median,
                fraction_of_peak: matmul.max(memory) / median,
                limit: if matmul >= memory { "matmul" } else { "memory" },
                seconds: median,
                seconds_range: [seconds[0], seconds[seconds.len() - 1]],
                empty_slot_fraction: empty.take(),
                operations,
            };
            done(&row);
            rows.push(row);
            Ok::<(), BenchError>(())
        };
    for &batch in &options.decode {
        let (prompt, new) = DECODE;
        let cost = Cost::decode(cpu, model, batch, prompt, new);
        measure("decode", (batch, prompt, new), batch * new, cost, &mut || {
            // With one token more than the prompt gives, less with the prompt alone: decode by itself.
            let alone = spent.less(bench.generate(batch, 1, prompt, 1)?);
            let seconds = spent.more(bench.generate(batch, 1, prompt, new + 1)?) - alone;
            empty.set(bench.take_empty_slots());
            Ok(seconds)
        })?;
    }
    for &batch in &options.sequences {
        let cost = Cost::prefill(model, batch, LENGTH);
        measure("prefill", (batch, LENGTH, 0), batch * LENGTH, cost, &mut || {
            Ok(spent.more(bench.generate(batch, 1, LENGTH, 1)?))
        })?;
        let cost = Cost::train(model, batch, 1, LENGTH - 1, 1);
        measure("train", (batch, 0, LENGTH), batch * LENGTH, cost, &mut || {
            Ok(spent.more(bench.train(batch, 1, 1, LENGTH - 1)?))
        })?;
    }
    if options.step {
        let (prompts, samples, prompt, new) = STEP;
        let batch = prompts * samples;
        let recorded = bench.recorded_rows(prompts, samples, prompt, new) > 0;
        let train = Cost::train(model, prompts, prompt, new, samples);
        let cost = Cost::prefill(model, prompts, prompt)
            + Cost::decode(cpu, model, batch, prompt, new)
            + if recorded { train.without_forward(model, prompts, prompt, new, samples) } else { train };
        measure("grpo_step", (batch, prompt, new), batch * new, cost, &mut || {
            let seconds = bench.step(prompts, samples, prompt, new)?;
            empty.set(bench.take_empty_slots());
            Ok(spent.more(seconds))
        })?;
    }
    Ok(BenchReport {
        device: model.device_name().into(),
        kernel: model.kernel_name(cpu).into(),
        threads: cpu.threads(),
        peak,
        rows,
    })
}

/// One run of a measurement: its seconds.
type Run<'a> = dyn FnMut() -> Result<f64, BenchError> + 'a;

/// Seconds that `work` takes.
fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<f64, E> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}
