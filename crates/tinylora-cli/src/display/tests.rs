//! A run's events are played, and the pictures compared.

use super::*;
use crate::draw::Style;
use crate::loading::News;
use std::time::Duration;
use tinylora::base::Loading;
use tinylora::run_folder::EvalResult;
use tinylora::train::{SampleRecord, StepMetrics};

pub(super) fn metrics(step: u64, reward: f64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0.0,
        reward_mean: reward,
        accuracy: reward,
        reward_std: 0.1,
        prompts: 12,
        active_group_fraction: 0.5,
        completion_tokens_mean: 21.25,
        truncated_fraction: 0.02,
        entropy: 1.0,
        kl: 0.0,
        clipped_fraction: 0.0,
        ratio_min: 1.0,
        ratio_max: 1.0,
        logprob_gap_max: 0.0,
        loss: 1.5,
        grad_norm: 0.0123,
        v_norm: 0.5,
        learning_rate: 0.01,
        rollout_tokens: 2040,
        rollout_seconds: 4.0,
        empty_slot_fraction: 0.1,
        train_tokens: 3000,
        train_seconds: 2.0,
        adapter_version: step,
        rss_bytes: 0,
    }
}

fn evaluation() -> EvalResult {
    EvalResult {
        n: 64,
        sampled_accuracy: Some(0.25),
        greedy_accuracy: Some(0.5),
        sampled_ci95: [0.16, 0.37],
        greedy_ci95: [0.38, 0.62],
        strict: 0.25,
        flexible: 0.3,
        completion_tokens_mean: 20.0,
        truncated_fraction: 0.0,
        verdicts: None,
    }
}

fn sample() -> SampleRecord {
    SampleRecord {
        step: 2,
        problem: "sum:3+4".into(),
        prompt: "Answer with #### n.\n\nWhat is 3 + 4?\nAnswer:".into(),
        gold: "7".into(),
        completion: "3 + 4 = 7\n\n#### 7\x1b[2J".into(),
        reward: 1.0,
        advantage: 0.5,
        tokens: 9,
        truncated: false,
    }
}

/// Two of four steps, with the third's rollout going on.
fn played(v: &[f32]) -> View {
    let seconds = Duration::from_secs;
    let mut view = View::default();
    view.take(&Event::Loading(Loading::Weights { done: 2, total: 4 }), seconds(0));
    view.take(&Event::Start { done: 0, steps: 4, trainable: v.len() }, seconds(1));
    let (first, second) = (metrics(1, 0.25), metrics(2, 0.5));
    view.take(&Event::Step { metrics: &first, v }, seconds(7));
    view.take(&Event::Step { metrics: &second, v }, seconds(13));
    view.take(&Event::Rollout { what: "rollout", done: 48, total: 96, tokens: 1100 }, seconds(14));
    view
}

#[test]
fn the_block_of_a_run() {
    let lines = block::render(&played(&[0.1, -0.2, 0.0]), Duration::from_secs(15), Style::Plain, 80);
    let half = format!("{}{}", "█".repeat(12), "░".repeat(12));
    let expected = [
        format!("step 2/4  {half}  14 s, about 12 s left"),
        "reward       0.500  ▁█".into(),
        "accuracy    50.0 %  ▁█".into(),
        "length    21.2 tokens, 2.0 % cut off    groups with signal 50.0 %".into(),
        "speed     sampling 510 tokens/s    training 1.50k tokens/s".into(),
        "learning  rate 0.0100    gradient 0.0123    |v| 0.500".into(),
        "v         ▄▄      ".into(),
        "±0.200    ▔▔▔██▔▔▔".into(),
        format!("rollout              {half} 48/96 completions, 1.10k tokens"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn many_numbers_are_summed_up() {
    let v: Vec<f32> = (0..1000).map(|i| i as f32 / 1000.0 - 0.5).collect();
    let lines = block::render(&played(&v), Duration::from_secs(15), Style::Plain, 80);
    assert_eq!(
        lines[6],
        "v         1,000 numbers, -0.5000 to +0.4990, the first -0.5000 -0.4990 -0.4980 -0.4970"
    );
}

#[test]
fn loading_is_a_line_before_there_are_steps() {
    let mut view = View::default();
    view.take(&Event::Loading(Loading::Factors { done: 1, total: 2 }), Duration::ZERO);
    let lines = block::render(&view, Duration::ZERO, Style::Plain, 80);
    assert_eq!(lines, [format!("factorising          {}{} 1/2 matrices", "█".repeat(12), "░".repeat(12))]);
}

#[test]
fn a_log_has_a_line_a_step_and_no_control_characters() {
    let mut view = View::default();
    let (metrics, evaluation, sample) = (metrics(1, 0.25), evaluation(), sample());
    let events = [
        Event::Loading(Loading::Weights { done: 0, total: 30 }),
        Event::Loading(Loading::Weights { done: 1, total: 30 }),
        Event::Rollout { what: "evaluation before", done: 1, total: 128, tokens: 9 },
        Event::Rollout { what: "evaluation before", done: 2, total: 128, tokens: 12 },
        Event::Evaluation { when: "before", result: &evaluation },
        Event::Start { done: 0, steps: 4, trainable: 13 },
        Event::Rollout { what: "rollout", done: 1, total: 96, tokens: 9 },
        Event::Step { metrics: &metrics, v: &[0.5] },
        Event::Sample(&sample),
        Event::Checkpoint(std::path::Path::new("runs/q/checkpoints/step-000001.ckpt")),
    ];
    let mut log = Vec::new();
    for (second, event) in events.iter().enumerate() {
        let news = view.take(event, Duration::from_secs(second as u64));
        log.extend(lines::plain(event, &view, &news));
    }
    let expected = [
        "loading the weights …",
        "evaluation before: 128 completions …",
        "evaluation before: sampled 25.0 % (16.0–37.0), greedy 50.0 % (38.0–62.0) right of 64 problems",
        "training 13 numbers for 4 steps",
        "step 1/4: reward 0.250, accuracy 25.0 %, length 21.2 tokens, 2.0 % cut off, sampling 510 tokens/s, \
         training 1.50k tokens/s, rate 0.0100, gradient 0.0123, |v| 0.500, about 6.0 s left",
        "sample of step 2: \"What is 3 + 4?\" → \"3 + 4 = 7 ⏎  ⏎ #### 7\u{fffd}[2J\" (reward 1, answer 7)",
        "saved runs/q/checkpoints/step-000001.ckpt",
    ];
    assert_eq!(log, expected);
    assert!(log.iter().all(|line| !line.contains(char::is_control)));
}

#[test]
fn a_sample_above_the_block() {
    let sample = sample();
    let text = lines::above_block(&Event::Sample(&sample), &News::GoesOn, Style::Plain, 60).unwrap();
    assert_eq!(
        text,
        "── sample of step 2, reward 1, answer 7, 9 tokens\n   What is 3 + 4?\n   3 + 4 = 7\n   #### 7\u{fffd}[2J"
    );
}
