//! Log-probs under the policy that sampled and under the one that is trained enter, a weight for each token leaves:
//! w = π/π_sampler, truncated (Yao et al. 2025, "truncated importance sampling") or masked (Ling team 2025,
//! "IcePop") beyond a cap. The weights have no gradient.

use crate::recipe::{ImportanceRule, decimal};

/// The weights of one completion's tokens (n); empty, which means 1, where the rule is off. `policy` is ln π before the first
/// update on the batch.
pub fn importance_weights(sampler: &[f32], policy: &[f32], rule: ImportanceRule, cap: f32) -> Vec<f64> {
    let cap = decimal(cap);
    let ratios = sampler.iter().zip(policy).map(|(old, now)| (f64::from(*now) - f64::from(*old)).exp());
    match rule {
        ImportanceRule::Off => Vec::new(),
        ImportanceRule::Truncate => ratios.map(|ratio| ratio.min(cap)).collect(),
        ImportanceRule::Mask => ratios.map(|r| if r > cap || r < 1.0 / cap { 0.0 } else { r }).collect(),
    }
}
