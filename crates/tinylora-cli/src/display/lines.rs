//! Events enter, lines that stay leave: those above the live block, and the whole course of a run where there is
//! no block.

use super::view::View;
use crate::draw::{Style, Tone};
use crate::format;
use crate::loading::News;
use tinylora::run_folder::EvalResult;
use tinylora::train::{Event, MemoryPlan, SampleRecord, StepMetrics};

/// What scrolls by above the block.
pub fn above_block(event: &Event<'_>, news: &News, style: Style, width: usize) -> Option<String> {
    match event {
        Event::Loading(_) => match news {
            News::Message(text) => Some(text.clone()),
            _ => None,
        },
        Event::Message(text) => Some(text.clone()),
        Event::Memory(plan) => Some(style.paint(Tone::Faint, &memory(plan))),
        Event::Sample(sample) => Some(sample_lines(sample, style, width)),
        Event::Evaluation { when, result } => {
            Some(format!("{}  {}", style.paint(Tone::Strong, &evaluation_name(when)), accuracy(result)))
        }
        _ => None,
    }
}

/// What a run without a terminal says, if the event is worth a line.
pub fn plain(event: &Event<'_>, view: &View, news: &News) -> Option<String> {
    match event {
        Event::Loading(_) => match news {
            News::Message(text) | News::Begins(text) => Some(text.clone()),
            News::GoesOn => None,
        },
        Event::Rollout { what, total, .. } => match news {
            News::Begins(_) if *what != "rollout" => Some(format!("{what}: {total} completions …")),
            _ => None,
        },
        Event::Message(text) => Some(text.clone()),
        Event::Memory(plan) => Some(memory(plan)),
        Event::Start { done: 0, steps, trainable } => {
            Some(format!("training {trainable} numbers for {steps} steps"))
        }
        Event::Start { done, steps, trainable } => {
            Some(format!("training {trainable} numbers, going on after step {done} of {steps}"))
        }
        Event::Step { metrics, .. } => Some(step(metrics, view)),
        Event::Sample(sample) => Some(sample_line(sample)),
        Event::Evaluation { when, result } => {
            Some(format!("{}: {}", evaluation_name(when), accuracy(result)))
        }
        Event::Checkpoint(path) => Some(format!("saved {}", path.display())),
    }
}

/// What a run will take of the machine's memory.
pub fn memory(plan: &MemoryPlan) -> String {
    let optimizer = if plan.optimizer_on_gpu { ", with the optimizer's state" } else { "" };
    let recorded = match plan.recorded {
        0 => String::new(),
        bytes => format!(" ({} of them from sampling)", format::bytes(bytes)),
    };
    format!(
        "memory: weights {}, trained {}{optimizer}, KV cache {}, activations {}{recorded}; the limit is {}",
        format::bytes(plan.weights),
        format::bytes(plan.trained),
        format::bytes(plan.kv_cache),
        format::bytes(plan.activations),
        format::bytes(plan.limit)
    )
}

/// Accuracies of an evaluation with their intervals.
pub fn accuracy(result: &EvalResult) -> String {
    let one = |name: &str, value: Option<f64>, [low, high]: [f64; 2]| {
        let value = format::percent(value?);
        Some(format!("{name} {value} ({:.1}–{:.1})", 100.0 * low, 100.0 * high))
    };
    let parts = [
        one("sampled", result.sampled_accuracy, result.sampled_ci95),
        one("greedy", result.greedy_accuracy, result.greedy_ci95),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{} right of {} problems", parts.join(", "), result.n)
}

fn evaluation_name(when: &str) -> String {
    format!("evaluation {when}")
}

fn step(metrics: &StepMetrics, view: &View) -> String {
    let left = match view.left() {
        Some(left) if view.done < view.steps => format!(", about {} left", format::duration(left)),
        _ => String::new(),
    };
    let what = if is_supervised(metrics) {
        format!("loss {:.3}, length {:.1} tokens", metrics.loss, metrics.completion_tokens_mean)
    } else {
        format!(
            "reward {:.3}, accuracy {}, length {:.1} tokens, {} cut off, sampling {}",
            metrics.reward_mean,
            format::percent(metrics.accuracy),
            metrics.completion_tokens_mean,
            format::percent(metrics.truncated_fraction),
            format::rate(metrics.rollout_tokens, metrics.rollout_seconds),
        )
    };
    format!(
        "step {}/{}: {what}, training {}, rate {}, gradient {}, |v| {}{left}",
        metrics.step,
        view.steps,
        format::rate(metrics.train_tokens, metrics.train_seconds),
        format::short(metrics.learning_rate),
        format::short(metrics.grad_norm),
        format::short(metrics.v_norm),
    )
}

/// Whether nothing was sampled, so that there is a loss but no reward.
pub fn is_supervised(metrics: &StepMetrics) -> bool {
    metrics.reward_mean.is_nan()
}

fn sample_line(sample: &SampleRecord) -> String {
    format!(
        "sample of step {}: \"{}\" → \"{}\" (reward {}, answer {})",
        sample.step,
        format::one_line(question(sample), 80),
        format::one_line(&sample.completion, 160),
        sample.reward,
        format::one_line(&sample.gold, 40)
    )
}

/// Lines of a completion that are shown at most.
const SAMPLE_LINES: usize = 5;

fn sample_lines(sample: &SampleRecord, style: Style, width: usize) -> String {
    let tone = if sample.reward > 0.0 { Tone::Up } else { Tone::Down };
    let reward = style.paint(tone, &format!("reward {}", sample.reward));
    let wanted = format::one_line(&sample.gold, 40);
    let head =
        format!("── sample of step {}, {reward}, answer {wanted}, {} tokens", sample.step, sample.tokens);
    let most = width.saturating_sub(4).max(20);
    let prompt = style.paint(Tone::Faint, &format::one_line(question(sample), most));
    let mut lines = vec![head, format!("   {prompt}")];
    let completion = format::harmless(sample.completion.trim());
    let mut written = completion.lines().filter(|line| !line.trim().is_empty());
    lines.extend(
        written.by_ref().take(SAMPLE_LINES).map(|line| format!("   {}", format::one_line(line, most))),
    );
    let more = written.count();
    if more > 0 {
        lines.push(format!("   … {more} more lines"));
    }
    lines.join("\n")
}

/// What was asked: the prompt's last line that holds something, but for a label such as `Answer:`.
fn question(sample: &SampleRecord) -> &str {
    let holds_something = |line: &&str| !line.trim().is_empty() && !line.trim_end().ends_with(':');
    sample.prompt.lines().rev().find(holds_something).unwrap_or("")
}
