//! The rewards of one group (the G completions of one prompt) enter; group-relative advantages leave. It
//! knows neither text nor model, and no group sees another.
//!
//! GRPO (Shao et al. 2024, equation for outcome supervision): A_i = (r_i − mean(r)) / std(r). As in TRL and
//! verl, std is that of the sample (divided by G − 1), and 10⁻⁶ is added to it as in verl. Without scaling
//! ("Dr. GRPO", Liu et al. 2025), A_i = r_i − mean(r).

/// Added to the standard deviation.
const EPSILON: f64 = 1e-6;

/// The advantages of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantages {
    /// One a completion, in the order of the rewards; exact zeros where the group is not active.
    pub values: Vec<f32>,
    /// Whether rewards differ. A group whose rewards are all equal teaches nothing and can be skipped.
    pub active: bool,
}

/// Advantages of a group's rewards, which must be finite (a [`crate::reward::Rewarder`] gives no others).
/// Computed in f64, in order; rewards are compared exactly, so that rounding never makes a group active.
pub fn group_advantages(rewards: &[f32], scale_advantages: bool) -> Advantages {
    let active = rewards.iter().any(|r| *r != rewards[0]);
    if !active {
        return Advantages { values: vec![0.0; rewards.len()], active };
    }
    let n = rewards.len() as f64;
    let mean = rewards.iter().map(|r| f64::from(*r)).sum::<f64>() / n;
    let squares: f64 = rewards.iter().map(|r| (f64::from(*r) - mean).powi(2)).sum();
    let divisor = if scale_advantages { (squares / (n - 1.0)).sqrt() + EPSILON } else { 1.0 };
    let values = rewards.iter().map(|r| ((f64::from(*r) - mean) / divisor) as f32).collect();
    Advantages { values, active }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_four() {
        // mean 1/4, sample variance (3·(1/4)² + (3/4)²) / 3 = 1/4
        let scaled = group_advantages(&[0.0, 1.0, 0.0, 0.0], true);
        assert!(scaled.active);
        let unit = 1.0 / (0.5 + 1e-6);
        assert_eq!(scaled.values, [-0.25, 0.75, -0.25, -0.25].map(|a: f64| (a * unit) as f32));
        assert_eq!(group_advantages(&[0.0, 1.0, 0.0, 0.0], false).values, [-0.25, 0.75, -0.25, -0.25]);
    }

    #[test]
    fn equal_rewards_are_exactly_inactive() {
        for reward in [0.0, 1.0, 0.1, 1.0 / 3.0, -7.7e20] {
            for n in [1, 2, 3, 7, 8] {
                let advantages = group_advantages(&vec![reward; n], true);
                assert_eq!(advantages, Advantages { values: vec![0.0; n], active: false });
            }
        }
        assert!(!group_advantages(&[0.0, -0.0], true).active);
        assert!(!group_advantages(&[], true).active);
    }

    #[test]
    fn the_smallest_difference_is_active() {
        let next = f32::from_bits(1.0f32.to_bits() + 1);
        let advantages = group_advantages(&[1.0, next], false);
        assert!(advantages.active);
        assert!(advantages.values[0] < 0.0 && advantages.values[1] > 0.0);
    }

    #[test]
    fn advantages_sum_to_zero() {
        let rewards: Vec<f32> = (0..8).map(|i| (i * i % 5) as f32 * 0.3).collect();
        for scale in [false, true] {
            let sum: f32 = group_advantages(&rewards, scale).values.iter().sum();
            assert!(sum.abs() < 1e-6, "{sum}");
        }
    }
}
