//! What a run tells the outside: plain data for files and displays.

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl` (docs: the command-line contract).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are the contract's
pub struct StepMetrics {
    pub step: u64,
    pub epoch: f64,
    pub reward_mean: f64,
    pub accuracy: f64,
    pub reward_std: f64,
    pub active_group_fraction: f64,
    pub completion_tokens_mean: f64,
    pub truncated_fraction: f64,
    pub entropy: f64,
    pub kl: f64,
    pub ratio_min: f64,
    pub ratio_max: f64,
    pub logprob_gap_max: f64,
    pub grad_norm: f64,
    pub v_norm: f64,
    pub learning_rate: f64,
    pub rollout_tokens: u64,
    pub rollout_seconds: f64,
    pub train_tokens: u64,
    pub train_seconds: f64,
    pub adapter_version: u64,
    pub rss_bytes: u64,
}

/// One line of `samples.jsonl`: what the model wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct SampleRecord {
    pub step: u64,
    pub problem: String,
    pub prompt: String,
    pub gold: String,
    pub completion: String,
    pub reward: f64,
    pub advantage: f64,
    pub tokens: u64,
    pub truncated: bool,
}

/// Accuracy on the held-out problems, as `summary.json` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalResult {
    /// Problems.
    pub n: usize,
    /// Fraction right when sampling, by the run's scorer; null if not measured.
    pub sampled_accuracy: Option<f64>,
    /// Fraction right when decoding greedily; null if not measured.
    pub greedy_accuracy: Option<f64>,
    /// 95 % interval (Wilson) of the sampled accuracy, or of the greedy one where only that was measured.
    pub sampled_ci95: [f64; 2],
    /// The same for the greedy accuracy.
    pub greedy_ci95: [f64; 2],
    /// Fraction right by the strict rule, sampled (greedy where only that was measured).
    pub strict: f64,
    /// Fraction right by the flexible rule, likewise.
    pub flexible: f64,
    /// Mean length of the completions, in tokens.
    pub completion_tokens_mean: f64,
    /// Fraction of completions that were cut at their largest length.
    pub truncated_fraction: f64,
}

/// What a run is about to use, in bytes; told before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct MemoryPlan {
    pub limit: u64,
    pub weights: u64,
    pub kv_cache: u64,
    pub activations: u64,
}

/// News from a run, in the order in which they happen.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// Loading: what, done, total (layers, modules; total 0 if unknown).
    Loading {
        /// What is being done.
        what: &'a str,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// A message for the person.
    Message(String),
    /// Memory that the run will take.
    Memory(MemoryPlan),
    /// The run starts (or goes on) at this step of so many.
    Start {
        /// Steps already done.
        done: u64,
        /// Steps in all.
        steps: u64,
        /// Trained numbers.
        trainable: usize,
    },
    /// Completions of the current step's rollout, or of an evaluation, that are finished.
    Rollout {
        /// What: "rollout", "evaluation before" ….
        what: &'a str,
        /// Finished completions.
        done: usize,
        /// Completions in all.
        total: usize,
        /// Sampled tokens so far.
        tokens: u64,
    },
    /// A step is done; `v` is the adapter after it.
    Step {
        /// Its metrics.
        metrics: &'a StepMetrics,
        /// The trained numbers.
        v: &'a [f32],
    },
    /// A sample worth showing.
    Sample(&'a SampleRecord),
    /// An evaluation is done ("before", "after", "step 20").
    Evaluation {
        /// Which.
        when: &'a str,
        /// What came out.
        result: &'a EvalResult,
    },
    /// A checkpoint was written.
    Checkpoint(&'a std::path::Path),
}
