//! The clipped surrogate, token by token (Schulman et al. 2017, eq. 7; Shao et al. 2024, eq. 3):
//! Σ_t −min(ρ_t A, clip(ρ_t) A). GRPO, Dr. GRPO, DAPO and BNPO differ in their weights alone.

use super::{Clip, CompletionView, PolicyStatistics, PolicyTerm, importance_of, log_ratios};

pub(super) fn term(view: CompletionView<'_>, clip: Clip, statistics: &mut PolicyStatistics) -> PolicyTerm {
    let advantage = f64::from(view.sample.advantage);
    let mut term = PolicyTerm { loss: 0.0, slopes: Vec::with_capacity(view.logprobs.len()) };
    for (token, log_ratio) in log_ratios(view).enumerate() {
        let ratio = log_ratio.exp();
        let (plain, bounded) = (ratio * advantage, ratio.clamp(clip.low, clip.high) * advantage);
        // Where the clipped term is the smaller one it is constant.
        let stopped = bounded < plain;
        statistics.see_ratio(ratio, usize::from(stopped));
        let weight = importance_of(view, token);
        term.loss -= weight * plain.min(bounded);
        term.slopes.push(if stopped { 0.0 } else { -weight * plain });
    }
    term
}
