//! The losses of GRPO: log-probs of one completion's tokens enter, its part of the loss and the slopes leave.
//!
//! Every loss is a weighted sum over tokens,
//!
//! ```text
//! L = Σ_i w_i [ policy loss of completion i + Σ_t (β KL_it − γ H_it) ]
//! ```
//!
//! with one weight w_i for all tokens of a completion ([`weigh`]), the policy loss by its name (a file each:
//! `clipped`, `gspo`, `cispo`), an estimate of the KL to the base (`kl`) and the exact entropy H. Everything is computed
//! in f64 and rounded once.

mod cispo;
mod clipped;
mod gspo;
mod importance;
mod kl;
mod weights;

pub use importance::importance_weights;
pub use weights::{BatchTotals, weigh};

use super::accumulate::{CompletionGradient, CompletionView};
use crate::recipe::{GrpoLoss, GrpoSection, KlEstimator, decimal};

/// The loss of one batch, and what is counted on the way.
#[derive(Debug, Clone)]
pub struct PolicyLoss {
    loss: GrpoLoss,
    clip: Clip,
    kl_coefficient: f64,
    kl_estimator: KlEstimator,
    entropy_coefficient: f64,
    /// Counted so far.
    pub statistics: PolicyStatistics,
}

/// What the ratio is kept between.
#[derive(Debug, Clone, Copy)]
struct Clip {
    low: f64,
    high: f64,
}

/// The policy loss of one completion, before the weight w_i: its value, and its slope for each token.
struct PolicyTerm {
    loss: f64,
    slopes: Vec<f64>,
}

/// Statistics over the tokens seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyStatistics {
    /// Tokens seen.
    pub tokens: usize,
    /// Smallest ratio π/π_old that the loss looked at: a token's, or with GSPO a completion's.
    pub ratio_min: f32,
    /// Largest ratio.
    pub ratio_max: f32,
    /// Tokens whose ratio was clipped to effect: without a gradient of their own, or with CISPO a bounded one.
    pub clipped: usize,
    /// Largest |ln p before the update − ln p now|.
    pub logprob_gap_max: f32,
    /// Σ of the k3 estimates of KL(policy ‖ base), whichever estimator the loss has.
    pub kl_sum: f64,
}

impl Default for PolicyStatistics {
    fn default() -> Self {
        Self { tokens: 0, ratio_min: 1.0, ratio_max: 1.0, clipped: 0, logprob_gap_max: 0.0, kl_sum: 0.0 }
    }
}

impl PolicyStatistics {
    fn see_ratio(&mut self, ratio: f64, tokens_clipped: usize) {
        self.ratio_min = self.ratio_min.min(ratio as f32);
        self.ratio_max = self.ratio_max.max(ratio as f32);
        self.clipped += tokens_clipped;
    }
}

impl PolicyLoss {
    /// The loss of a recipe.
    pub fn new(section: &GrpoSection) -> Self {
        Self {
            loss: section.loss,
            clip: Clip { low: 1.0 - decimal(section.clip_low), high: 1.0 + decimal(section.clip_high) },
            kl_coefficient: decimal(section.kl_coefficient),
            kl_estimator: section.kl_estimator,
            entropy_coefficient: decimal(section.entropy_coefficient),
            statistics: PolicyStatistics::default(),
        }
    }

    /// Whether [`CompletionView::entropies`] are looked at.
    pub fn wants_entropy(&self) -> bool {
        self.entropy_coefficient > 0.0
    }

    /// One completion's part of the loss.
    pub fn completion(&mut self, view: CompletionView<'_>) -> CompletionGradient {
        let weight = view.sample.weight;
        let statistics = &mut self.statistics;
        statistics.tokens += view.logprobs.len();
        for (now, old) in view.logprobs.iter().zip(&view.sample.old_logprobs) {
            statistics.logprob_gap_max = statistics.logprob_gap_max.max((now - old).abs());
        }
        let mut term = match self.loss {
            GrpoLoss::Grpo | GrpoLoss::DrGrpo | GrpoLoss::Dapo | GrpoLoss::Bnpo => {
                clipped::term(view, self.clip, statistics)
            }
            GrpoLoss::Gspo => gspo::term(view, self.clip, statistics),
            GrpoLoss::Cispo => cispo::term(view, self.clip, statistics),
        };
        for ((now, reference), slope) in
            view.logprobs.iter().zip(&view.sample.reference_logprobs).zip(&mut term.slopes)
        {
            let difference = f64::from(*reference) - f64::from(*now);
            statistics.kl_sum += kl::estimate(KlEstimator::K3, difference).0;
            let (value, derivative) = kl::estimate(self.kl_estimator, difference);
            term.loss += self.kl_coefficient * value;
            *slope += self.kl_coefficient * derivative;
        }
        if self.wants_entropy() {
            let entropy: f64 = view.entropies.iter().map(|&entropy| f64::from(entropy)).sum();
            term.loss -= self.entropy_coefficient * entropy;
        }
        CompletionGradient {
            loss: term.loss * weight,
            slopes: term.slopes.iter().map(|slope| (slope * weight) as f32).collect(),
            entropy_slope: (-self.entropy_coefficient * weight) as f32,
        }
    }
}

/// ln(π/π_old) of each token.
fn log_ratios<'a>(view: CompletionView<'a>) -> impl Iterator<Item = f64> + 'a {
    let pairs = view.logprobs.iter().zip(&view.sample.old_logprobs);
    pairs.map(|(now, old)| f64::from(*now) - f64::from(*old))
}

/// The importance weight of a token; 1 where the policy itself sampled.
fn importance_of(view: CompletionView<'_>, token: usize) -> f64 {
    view.sample.importance.get(token).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests;
