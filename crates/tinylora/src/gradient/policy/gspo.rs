//! GSPO (Zheng et al. 2025, eq. 5 and 7): one ratio a completion, s = exp(1/c Σ_t ln ρ_t), the geometric mean of
//! its tokens'. The loss of each of the c tokens is −min(s A, clip(s) A), and ∂s/∂ ln p_t = s/c.

use super::{Clip, CompletionView, PolicyStatistics, PolicyTerm, importance_of, log_ratios};

pub(super) fn term(view: CompletionView<'_>, clip: Clip, statistics: &mut PolicyStatistics) -> PolicyTerm {
    let advantage = f64::from(view.sample.advantage);
    let tokens = view.logprobs.len();
    let ratio = (log_ratios(view).sum::<f64>() / tokens as f64).exp();
    let (plain, bounded) = (ratio * advantage, ratio.clamp(clip.low, clip.high) * advantage);
    let stopped = bounded < plain;
    statistics.see_ratio(ratio, if stopped { tokens } else { 0 });
    // Σ_t of the tokens' importance weights: c where the policy itself sampled.
    let weights: f64 = (0..tokens).map(|token| importance_of(view, token)).sum();
    let slope = if stopped { 0.0 } else { -plain * weights / tokens as f64 };
    PolicyTerm { loss: -weights * plain.min(bounded), slopes: vec![slope; tokens] }
}
