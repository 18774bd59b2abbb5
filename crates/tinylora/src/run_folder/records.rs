//! What a run writes down, as plain data: the lines of its logs and the results of its evaluations.

use serde::{Deserialize, Deserializer, Serialize};

/// One line of `metrics.jsonl` (docs: the command-line contract). JSON has no infinities and no NaN: such a number
/// is null in the file, and NaN when it is read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are the contract's
pub struct StepMetrics {
    pub step: u64,
    #[serde(deserialize_with = "null_is_nan")]
    pub epoch: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub reward_mean: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub accuracy: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub reward_std: f64,
    #[serde(default)]
    pub prompts: u64,
    #[serde(deserialize_with = "null_is_nan")]
    pub active_group_fraction: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub completion_tokens_mean: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub truncated_fraction: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub entropy: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub kl: f64,
    #[serde(default, deserialize_with = "null_is_nan")]
    pub clipped_fraction: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub ratio_min: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub ratio_max: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub logprob_gap_max: f64,
    #[serde(default, deserialize_with = "null_is_nan")]
    pub loss: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub v_norm: f64,
    #[serde(deserialize_with = "null_is_nan")]
    pub learning_rate: f64,
    pub rollout_tokens: u64,
    #[serde(deserialize_with = "null_is_nan")]
    pub rollout_seconds: f64,
    #[serde(default, deserialize_with = "null_is_nan")]
    pub empty_slot_fraction: f64,
    pub train_tokens: u64,
    #[serde(deserialize_with = "null_is_nan")]
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
    /// What the verifier said of those completions, where it is the scorer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<VerdictCounts>,
}

/// How many completions got which verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct VerdictCounts {
    pub equal: usize,
    pub different: usize,
    pub gold_unparsed: usize,
    pub prediction_unparsed: usize,
    pub out_of_fuel: usize,
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
