//! CISPO (MiniMax 2025, eq. 4 and 5): Σ_t −clip(ρ_t) A ln p_t, in which the clipped ratio is a weight without a
//! gradient. No token loses its gradient; it is only bounded.

use super::{Clip, CompletionView, PolicyStatistics, PolicyTerm, importance_of, log_ratios};

pub(super) fn term(view: CompletionView<'_>, clip: Clip, statistics: &mut PolicyStatistics) -> PolicyTerm {
    let advantage = f64::from(view.sample.advantage);
    let mut term = PolicyTerm { loss: 0.0, slopes: Vec::with_capacity(view.logprobs.len()) };
    for (token, (log_ratio, logprob)) in log_ratios(view).zip(view.logprobs).enumerate() {
        let ratio = log_ratio.exp();
        let bounded = ratio.clamp(clip.low, clip.high);
        statistics.see_ratio(ratio, usize::from(bounded != ratio));
        let slope = -importance_of(view, token) * bounded * advantage;
        term.loss += slope * f64::from(*logprob);
        term.slopes.push(slope);
    }
    term
}
