//! The policy-gradient loss of GRPO with ratio clipping (Schulman et al. 2017, eq. 7; Shao et al. 2024,
//! eq. 3), token or sequence mean, and an optional KL to the base by the estimator k3 (Schulman 2020).

use super::accumulate::{TokenGradient, TokenView};
use crate::recipe::{GrpoSection, LossReduction};

/// The loss of one batch, and what is counted on the way.
#[derive(Debug, Clone)]
pub struct PolicyLoss {
    clip: (f32, f32),
    kl_coefficient: f32,
    reduction: LossReduction,
    /// Completion tokens of the whole batch, groups without advantage included.
    tokens: usize,
    /// Completions of the whole batch, likewise.
    completions: usize,
    /// Counted so far.
    pub statistics: PolicyStatistics,
}

/// Statistics over the tokens seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyStatistics {
    /// Tokens seen.
    pub tokens: usize,
    /// Smallest ratio π/π_old.
    pub ratio_min: f32,
    /// Largest ratio.
    pub ratio_max: f32,
    /// Tokens whose gradient the clipping stopped.
    pub clipped: usize,
    /// Largest |ln p of sampling − ln p now|.
    pub logprob_gap_max: f32,
    /// Σ of the k3 estimates of KL(policy ‖ base).
    pub kl_sum: f64,
}

impl Default for PolicyStatistics {
    fn default() -> Self {
        Self { tokens: 0, ratio_min: 1.0, ratio_max: 1.0, clipped: 0, logprob_gap_max: 0.0, kl_sum: 0.0 }
    }
}

impl PolicyLoss {
    /// The loss of a batch with so many completion tokens and completions in all.
    pub fn new(section: &GrpoSection, tokens: usize, completions: usize) -> Self {
        Self {
            clip: (1.0 - section.clip_low, 1.0 + section.clip_high),
            kl_coefficient: section.kl_coefficient,
            reduction: section.loss,
            tokens,
            completions,
            statistics: PolicyStatistics::default(),
        }
    }

    /// `−min(ρ A, clip(ρ) A) + β k3`, weighted; ρ = π/π_old.
    pub fn token(&mut self, token: TokenView) -> TokenGradient {
        let weight = match self.reduction {
            LossReduction::Token => 1.0 / self.tokens as f64,
            LossReduction::Sequence => 1.0 / (self.completions as f64 * token.length as f64),
        };
        let ratio = (token.logprob - token.old).exp();
        let clipped = ratio.clamp(self.clip.0, self.clip.1);
        let (plain, bounded) = (ratio * token.advantage, clipped * token.advantage);
        // Where the clipped term is the smaller one it is constant.
        let stopped = bounded < plain;
        let statistics = &mut self.statistics;
        statistics.tokens += 1;
        statistics.ratio_min = statistics.ratio_min.min(ratio);
        statistics.ratio_max = statistics.ratio_max.max(ratio);
        statistics.clipped += usize::from(stopped);
        statistics.logprob_gap_max = statistics.logprob_gap_max.max((token.logprob - token.old).abs());
        let mut loss = -f64::from(plain.min(bounded));
        let mut slope = if stopped { 0.0 } else { -f64::from(plain) };
        if !token.reference.is_nan() {
            let difference = f64::from(token.reference) - f64::from(token.logprob);
            let k3 = difference.exp() - difference - 1.0;
            statistics.kl_sum += k3;
            loss += f64::from(self.kl_coefficient) * k3;
            slope += f64::from(self.kl_coefficient) * (1.0 - difference.exp());
        }
        TokenGradient { loss: loss * weight, slope: (slope * weight) as f32 }
    }
}
