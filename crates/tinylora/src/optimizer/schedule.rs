//! A step number enters, its learning rate leaves: a pure function of the recipe and the length of the run.

use crate::recipe::{OptimizerSection, Schedule};

/// The learning rate of step `step` (0 is the first) in a run of `total_steps`.
///
/// Warm-up over w steps: step s < w has the peak times (s + 1) / w, so that the first step already moves and
/// step w − 1 is at the peak. After it, with t = (s − w) / (total − w): constant 1, linear 1 − t, cosine
/// (1 + cos πt) / 2 times the peak; both reach 0 with the end of the run, so that the last step still moves.
/// Steps beyond the end have the rate of the end. Computed in f64.
pub fn learning_rate_at(settings: &OptimizerSection, step: u64, total_steps: u64) -> f32 {
    let warmup = settings.warmup_steps as u64;
    let factor = if step < warmup {
        (step + 1) as f64 / warmup as f64
    } else {
        let length = total_steps.saturating_sub(warmup).max(1);
        let t = ((step - warmup) as f64 / length as f64).min(1.0);
        match settings.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - t,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * t).cos()),
        }
    };
    (f64::from(settings.learning_rate) * factor) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, warmup_steps: usize, total: u64, steps: u64) -> Vec<f32> {
        let settings = OptimizerSection { learning_rate: 2.0, warmup_steps, schedule, ..Default::default() };
        (0..steps).map(|step| learning_rate_at(&settings, step, total)).collect()
    }

    #[test]
    fn constant_after_warm_up() {
        assert_eq!(rates(Schedule::Constant, 0, 3, 4), [2.0; 4]);
        assert_eq!(rates(Schedule::Constant, 4, 6, 6), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn linear_falls_to_zero_with_the_end() {
        assert_eq!(rates(Schedule::Linear, 0, 4, 6), [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]);
        assert_eq!(rates(Schedule::Linear, 2, 6, 7), [1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn cosine_is_symmetric() {
        let rates = rates(Schedule::Cosine, 0, 8, 9);
        assert_eq!(rates[0], 2.0);
        assert!((rates[4] - 1.0).abs() < 1e-6 && rates[8].abs() < 1e-6);
        for step in 0..=4 {
            assert!((rates[step] + rates[8 - step] - 2.0).abs() < 1e-6);
        }
    }

    #[test]
    fn odd_lengths_are_no_trap() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            for (warmup, total) in [(0, 0), (5, 3), (3, 3), (1, 1)] {
                let rates = rates(schedule, warmup, total, 10);
                assert!(rates.iter().all(|rate| (0.0..=2.0).contains(rate)), "{rates:?}");
            }
        }
    }
}
