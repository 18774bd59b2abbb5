//! The result of a run as `summary.json` has it (docs: the command-line contract), and what it says of this program
//! and process.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{RunFolderError, failed};
use super::records::EvalResult;
use crate::recipe::Tying;

/// Name of the file in a run's folder.
pub const SUMMARY_FILE: &str = "summary.json";

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit from which this program was built, with `-modified` behind it where the sources differed; "unknown"
/// where it was built outside of its repository.
pub const COMMIT: &str = match option_env!("TINYLORA_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// A run's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The base.
    pub model: ModelSummary,
    /// What was trained.
    pub adapter: AdapterSummary,
    /// The task's name.
    pub task: String,
    /// The run's seed.
    pub seed: u64,
    /// Steps done.
    pub steps: u64,
    /// Whether the run was stopped before its last step.
    pub interrupted: bool,
    /// Held-out problems before training; null if not measured.
    pub eval_before: Option<EvalResult>,
    /// The same problems with the same seeds after training; null if not measured.
    pub eval_after: Option<EvalResult>,
    /// Seconds of the whole run, those before a resume included.
    pub wall_seconds: f64,
    /// Sampled tokens a second of rollout.
    pub rollout_tokens_per_second: f64,
    /// Share of the batch's slots that were empty at the ends of rollouts, when no prompt was waiting.
    #[serde(default)]
    pub rollout_empty_slot_fraction: f64,
    /// Trained tokens a second of training passes.
    pub train_tokens_per_second: f64,
    /// Largest resident memory; 0 where the system does not tell.
    pub peak_rss_bytes: u64,
    /// "cpu" or "cuda".
    pub device: String,
    /// The kernels' path, such as "avx2".
    pub kernel: String,
    /// Threads that computed.
    pub threads: usize,
    /// [`VERSION`] of the program that finished the run.
    pub version: String,
    /// [`COMMIT`] of the program that finished the run.
    pub commit: String,
}

/// The base model of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// The reference in the recipe.
    #[serde(rename = "ref")]
    pub reference: String,
    /// sha256 of its weights, hexadecimal.
    pub sha256: String,
    /// Family, such as "llama".
    pub family: String,
    /// Numbers in the base.
    pub parameters: u64,
}

/// The adapter of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterSummary {
    /// "tinylora", "lora-xs" or "lora".
    pub kind: String,
    /// r
    pub rank: usize,
    /// u
    pub u: usize,
    /// Modules that share one v.
    pub n_tie: usize,
    /// Which modules share.
    pub tying: Tying,
    /// LoRA's alpha.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f32>,
    /// Whether LoRA is scaled by alpha / √rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rslora: Option<bool>,
    /// Trained numbers.
    pub trainable_parameters: usize,
    /// Bytes of the stored v.
    pub payload_bytes: u64,
    /// Bytes of the adapter's file.
    pub file_bytes: u64,
}

/// Reads the summary in a run's folder.
pub fn read_summary(folder: &Path) -> Result<Summary, RunFolderError> {
    let path = folder.join(SUMMARY_FILE);
    let text = std::fs::read_to_string(&path).map_err(failed(&path, "read"))?;
    serde_json::from_str(&text).map_err(|error| RunFolderError::BadLine {
        line: error.line(),
        message: format!("no summary of a run: {error}"),
        path,
    })
}

/// Resident memory of this process in bytes; 0 where the system does not tell.
pub fn rss_bytes() -> u64 {
    own_status("VmRSS:")
}

/// Largest resident memory of this process so far in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    own_status("VmHWM:")
}

fn own_status(key: &str) -> u64 {
    // Only Linux has this file.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    bytes_in_status(&status, key).unwrap_or(0)
}

/// `VmRSS:     1234 kB` → 1234 · 1024.
fn bytes_in_status(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Summary {
        Summary {
            model: ModelSummary {
                reference: "smollm2-135m".into(),
                sha256: "ab".repeat(32),
                family: "llama".into(),
                parameters: 134_515_008,
            },
            adapter: AdapterSummary {
                kind: "tinylora".into(),
                rank: 2,
                u: 1,
                n_tie: 16,
                tying: Tying::Tiled,
                alpha: None,
                rslora: None,
                trainable_parameters: 14,
                payload_bytes: 28,
                file_bytes: 700,
            },
            task: "sum".into(),
            seed: 1,
            steps: 100,
            interrupted: false,
            eval_before: Some(EvalResult {
                n: 512,
                sampled_accuracy: Some(0.25),
                greedy_accuracy: None,
                sampled_ci95: [0.2, 0.3],
                greedy_ci95: [0.0, 1.0],
                strict: 0.25,
                flexible: 0.3,
                completion_tokens_mean: 12.5,
                truncated_fraction: 0.0,
                verdicts: None,
            }),
            eval_after: None,
            wall_seconds: 12.5,
            rollout_tokens_per_second: 100.0,
            rollout_empty_slot_fraction: 0.2,
            train_tokens_per_second: 200.0,
            peak_rss_bytes: 1 << 30,
            device: "cpu".into(),
            kernel: "avx2".into(),
            threads: 2,
            version: VERSION.into(),
            commit: COMMIT.into(),
        }
    }

    /// Scripts rely on the names.
    #[test]
    fn keys_are_those_of_the_contract() {
        let json = serde_json::to_value(example()).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let top = "model adapter task seed steps interrupted eval_before eval_after wall_seconds \
                   rollout_tokens_per_second rollout_empty_slot_fraction train_tokens_per_second peak_rss_bytes device kernel threads version commit";
        assert_eq!(keys(&json).join(" "), top);
        assert_eq!(keys(&json["model"]).join(" "), "ref sha256 family parameters");
        let adapter = "kind rank u n_tie tying trainable_parameters payload_bytes file_bytes";
        assert_eq!(keys(&json["adapter"]).join(" "), adapter);
        let eval = keys(&json["eval_before"]);
        for key in ["n", "sampled_accuracy", "greedy_accuracy", "sampled_ci95", "strict", "flexible"] {
            assert!(eval.iter().any(|k| k == key), "{key}");
        }
        assert_eq!(json["adapter"]["tying"], "tiled");
        assert_eq!(json["eval_before"]["greedy_accuracy"], serde_json::Value::Null);
    }

    #[test]
    fn memory_is_read_from_the_status() {
        let status = "Name:\tx\nVmPeak:\t 99999 kB\nVmHWM:\t  6016 kB\nVmRSS:\t  5888 kB\n";
        assert_eq!(bytes_in_status(status, "VmHWM:"), Some(6016 * 1024));
        assert_eq!(bytes_in_status(status, "VmRSS:"), Some(5888 * 1024));
        assert_eq!(bytes_in_status("Name:\tx\n", "VmRSS:"), None);
        if cfg!(target_os = "linux") {
            assert!(rss_bytes() > 1 << 20 && peak_rss_bytes() >= 1 << 20);
        }
    }

    #[test]
    fn version_and_commit_are_words() {
        assert_eq!(VERSION, env!("CARGO_PKG_VERSION"));
        assert!(!COMMIT.is_empty() && !COMMIT.contains(char::is_whitespace), "{COMMIT:?}");
    }
}
