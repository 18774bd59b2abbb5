//! A decode step that is queued: lists of a batch enter, tokens leave later, when they are waited for. The next step may be
//! queued before they are known to the host.

use super::batch::Batch;
use super::cuda::{self, GpuQueued};
use super::hidden::{DeviceError, Hidden};
use super::kept::KeptActivations;
use super::pass::{KvCache, Policy};
use crate::random::Stream;

/// One row for each sequence of a batch, rows of sequences that begin behind them, and how each one's next token is chosen.
pub struct Decode<'a> {
    /// Rows that are the last of their sequences.
    pub batch: &'a Batch,
    /// Of each sequence that begins, the hidden state (1, D) of its prompt's last token, which its first token comes from.
    pub joins: &'a [&'a Hidden],
    /// The row of the step before whose token is this row's, in the place of the one in the batch.
    pub sources: &'a [Option<u32>],
    /// The factor on logits.
    pub inverse_temperature: f32,
    /// The most probable token is taken.
    pub greedy: bool,
    /// Where each row's random number comes from, those of `joins` last: a stream at a counter.
    pub draws: &'a [(Stream, u64)],
}

/// Tokens that are on their way.
pub struct Queued(GpuQueued);

impl Queued {
    /// Waits for them: (token, log-prob, entropy) of each row.
    pub fn wait(self) -> Result<Vec<(u32, f32, f32)>, DeviceError> {
        self.0.wait()
    }
}

/// Queues a step, which writes its keys and values to `cache`; None where steps are not queued, since the model is on the host.
///
/// # Errors
/// Of the GPU's driver or its memory.
///
/// # Panics
/// If the batch does not fit the cache, the model or the adapters.
pub fn queue_decode(
    policy: Policy<'_>,
    step: &Decode<'_>,
    cache: &mut KvCache,
    kept: &mut KeptActivations,
) -> Result<Option<Queued>, DeviceError> {
    let Some(gpu) = policy.model.gpus.get(policy.device) else { return Ok(None) };
    let (config, cache, kept) = (&policy.model.config, cache.gpu(), &mut kept.gpu);
    Ok(Some(Queued(cuda::queue(gpu, config, policy.adapters, step, cache, kept)?)))
}
