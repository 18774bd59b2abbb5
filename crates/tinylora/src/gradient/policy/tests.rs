//! Every loss against PyTorch's value and gradients, on the batches of golden/policy.json.

use super::*;
use crate::gradient::{TrainingCompletion, TrainingGroup};
use crate::recipe::ImportanceRule;
use serde_json::Value;

fn cases() -> Vec<Value> {
    let golden: Value = serde_json::from_str(include_str!("../../../../../golden/policy.json")).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().map_or(Vec::new(), |v| v.iter().map(|x| x.as_f64().unwrap() as f32).collect())
}

fn section(case: &Value) -> GrpoSection {
    let mut table = case.as_object().unwrap().clone();
    table.retain(|key, _| !["groups", "max_tokens", "value"].contains(&key.as_str()));
    serde_json::from_value(Value::Object(table)).unwrap()
}

/// A completion as stored, if it takes part, with its log-probs and entropies now.
fn completion(section: &GrpoSection, stored: &Value) -> Option<(TrainingCompletion, Vec<f32>, Vec<f32>)> {
    if section.mask_truncated && stored["truncated"].as_bool().unwrap() {
        return None;
    }
    let (logprobs, old) = (numbers(&stored["logprobs"]), numbers(&stored["old"]));
    let (rule, cap) = (section.importance, section.importance_cap);
    let sample = TrainingCompletion {
        tokens: vec![0; logprobs.len()],
        importance: importance_weights(&numbers(&stored["sampler"]), &old, rule, cap),
        old_logprobs: old,
        reference_logprobs: numbers(&stored["reference"]),
        advantage: stored["advantage"].as_f64().unwrap() as f32,
        ..Default::default()
    };
    let entropies = match numbers(&stored["entropies"]) {
        none if none.is_empty() => vec![0.0; logprobs.len()],
        entropies => entropies,
    };
    Some((sample, logprobs, entropies))
}

/// Largest difference of the value and of any slope, relative to each, under the given settings and total of tokens.
fn largest_error(case: &Value, section: &GrpoSection) -> f64 {
    let stored: Vec<&Vec<Value>> =
        case["groups"].as_array().unwrap().iter().map(|group| group.as_array().unwrap()).collect();
    let mut totals =
        BatchTotals { max_tokens: case["max_tokens"].as_u64().unwrap() as usize, ..Default::default() };
    let mut groups = Vec::new();
    let mut now = Vec::new();
    for group in &stored {
        let mut completions = Vec::new();
        for stored in *group {
            if let Some((sample, logprobs, entropies)) = completion(section, stored) {
                now.push((logprobs, entropies, stored["entropy_slope"].as_f64().unwrap_or(0.0)));
                totals.tokens += sample.tokens.len();
                completions.push(sample);
            }
        }
        totals.completions += completions.len();
        totals.groups += usize::from(!completions.is_empty());
        groups.push(TrainingGroup { prompt: vec![0], completions });
    }
    weigh(&mut groups, section.loss, totals);
    let mut loss = PolicyLoss::new(section);
    let (mut value, mut worst) = (0.0, 0f64);
    let mut see = |found: f64, stored: f64| {
        let error = (found - stored).abs() / stored.abs().max(1e-9);
        worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
    };
    let mut now = now.into_iter();
    for (group, stored) in groups.iter().zip(&stored) {
        let mut samples = group.completions.iter();
        for stored in *stored {
            let slopes = numbers(&stored["slopes"]);
            if completion(section, stored).is_none() {
                slopes.iter().for_each(|&slope| see(0.0, f64::from(slope)));
                continue;
            }
            let (logprobs, entropies, entropy_slope) = now.next().unwrap();
            let sample = samples.next().unwrap();
            let view = CompletionView { at: (0, 0), sample, logprobs: &logprobs, entropies: &entropies };
            let gradient = loss.completion(view);
            value += gradient.loss;
            see(f64::from(gradient.entropy_slope), entropy_slope);
            for (found, stored) in gradient.slopes.iter().zip(slopes) {
                see(f64::from(*found), f64::from(stored));
            }
        }
    }
    see(value, case["value"].as_f64().unwrap());
    worst
}

#[test]
fn values_and_slopes_are_pytorchs() {
    let cases = cases();
    assert_eq!(cases.len(), 54);
    let mut worst = 0f64;
    for case in &cases {
        let error = largest_error(case, &section(case));
        assert!(error <= 1e-5, "{}: off by {error:.1e}", case["loss"]);
        worst = worst.max(error);
    }
    eprintln!("largest relative difference {worst:.1e}");
}

/// What is wrong on purpose is seen in at least one case.
#[test]
fn planted_errors_are_caught() {
    let caught = |name: &str, plant: &dyn Fn(&mut GrpoSection)| {
        let mut worst = 0f64;
        for case in cases() {
            let mut section = section(&case);
            plant(&mut section);
            worst = worst.max(largest_error(&case, &section));
        }
        assert!(worst > 1e-3, "{name}: {worst:.1e}");
    };
    caught("a clip bound off by 1 %", &|s| s.clip_high *= 1.01);
    caught("the other clip bound", &|s| s.clip_low = (s.clip_low * 1.01).min(1.0));
    caught("another estimator of the KL", &|s| {
        s.kl_estimator = match s.kl_estimator {
            KlEstimator::K1 => KlEstimator::K2,
            KlEstimator::K2 => KlEstimator::K3,
            KlEstimator::K3 => KlEstimator::K1,
        }
    });
    caught("no entropy", &|s| s.entropy_coefficient = 0.0);
    caught("no importance weights", &|s| s.importance = ImportanceRule::Off);
    caught("truncated for masked", &|s| {
        if s.importance == ImportanceRule::Mask {
            s.importance = ImportanceRule::Truncate;
        }
    });
    caught("another cap", &|s| s.importance_cap *= 1.01);
    caught("cut completions not masked", &|s| s.mask_truncated = false);
    for (wrong, right) in [
        (GrpoLoss::Dapo, GrpoLoss::Grpo),
        (GrpoLoss::Grpo, GrpoLoss::DrGrpo),
        (GrpoLoss::Bnpo, GrpoLoss::Dapo),
        (GrpoLoss::Dapo, GrpoLoss::Bnpo),
        (GrpoLoss::Grpo, GrpoLoss::Gspo),
        (GrpoLoss::Dapo, GrpoLoss::Cispo),
    ] {
        caught(&format!("{wrong:?} for {right:?}"), &|s| {
            if s.loss == right {
                s.loss = wrong;
            }
        });
    }
}

#[test]
fn statistics_count_what_the_loss_looked_at() {
    let sample = |old: [f32; 3], advantage: f32| TrainingCompletion {
        tokens: vec![0; 3],
        old_logprobs: old.to_vec(),
        advantage,
        weight: 1.0,
        ..Default::default()
    };
    let count = |loss: GrpoLoss, sample: &TrainingCompletion| {
        let mut loss = PolicyLoss::new(&GrpoSection { loss, ..Default::default() });
        let view = CompletionView { at: (0, 0), sample, logprobs: &[-1.0; 3], entropies: &[0.0; 3] };
        loss.completion(view);
        loss.statistics
    };
    // Ratios 1, e^0.3 and e^−0.5; with an advantage above 0 only the upper bound stops a token.
    let up = sample([-1.0, -1.3, -0.5], 1.0);
    let statistics = count(GrpoLoss::Dapo, &up);
    assert_eq!((statistics.tokens, statistics.clipped), (3, 1));
    assert!((statistics.ratio_max - 0.3f32.exp()).abs() < 1e-6);
    assert!((statistics.ratio_min - (-0.5f32).exp()).abs() < 1e-6);
    assert_eq!(statistics.logprob_gap_max, 0.5);
    assert_eq!(count(GrpoLoss::Dapo, &sample([-1.0, -1.3, -0.5], -1.0)).clipped, 1);
    assert_eq!(count(GrpoLoss::Cispo, &up).clipped, 2, "both sides bound the weight");
    // The mean log-ratio is −0.2/3: inside 20 %.
    let sequence = count(GrpoLoss::Gspo, &up);
    assert_eq!(sequence.clipped, 0);
    assert!((sequence.ratio_min - (-0.2f32 / 3.0).exp()).abs() < 1e-6 && sequence.ratio_max == 1.0);
    assert_eq!(count(GrpoLoss::Gspo, &sample([-2.0; 3], 1.0)).clipped, 3);
}

/// With one update a batch every ratio is 1, and all losses with the same weights have the same slopes.
#[test]
fn on_policy_all_losses_agree() {
    let sample = TrainingCompletion {
        tokens: vec![0; 2],
        old_logprobs: vec![-0.7, -1.9],
        advantage: 1.5,
        weight: 0.25,
        ..Default::default()
    };
    for loss in
        [GrpoLoss::Grpo, GrpoLoss::DrGrpo, GrpoLoss::Dapo, GrpoLoss::Bnpo, GrpoLoss::Gspo, GrpoLoss::Cispo]
    {
        let mut policy = PolicyLoss::new(&GrpoSection { loss, ..Default::default() });
        let view = CompletionView {
            at: (0, 0),
            sample: &sample,
            logprobs: &sample.old_logprobs,
            entropies: &[0.0; 2],
        };
        assert_eq!(policy.completion(view).slopes, [-0.375, -0.375], "{loss:?}");
    }
}
