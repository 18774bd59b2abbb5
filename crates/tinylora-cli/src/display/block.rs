//! What is known of a run enters, the lines of the live block leave.

use super::lines::is_supervised;
use super::view::View;
use crate::draw::{self, Style, Tone};
use crate::format;
use std::time::Duration;
use tinylora::train::StepMetrics;

/// More trained numbers than this are told in words.
const MOST_COLUMNS: usize = 24;

/// The block, at most ten lines. The first line stands beside the spinner.
pub fn render(view: &View, now: Duration, style: Style, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if view.steps > 0 {
        lines.push(step_line(view, now, style));
    }
    if let Some(metrics) = &view.last {
        let course = (width.saturating_sub(40)).clamp(8, 60);
        let mut line =
            |name, values: &[f64], last| lines.push(course_line(name, values, last, style, course));
        if is_supervised(metrics) {
            line("loss", &view.losses, format!("{:.3}", metrics.loss));
        } else {
            line("reward", &view.rewards, format!("{:.3}", metrics.reward_mean));
            line("accuracy", &view.accuracies, format::percent(metrics.accuracy));
        }
        lines.extend(metric_lines(metrics, style));
        lines.extend(number_lines(&view.v, style));
    }
    if let Some(meter) = &view.meter {
        let tokens = if view.tokens > 0 && view.steps > 0 {
            format!(", {} tokens", format::count(view.tokens))
        } else {
            String::new()
        };
        lines.push(format!("{}{tokens}", meter.line(now, style)));
    }
    lines
}

fn step_line(view: &View, now: Duration, style: Style) -> String {
    let bar = draw::bar(view.done, view.steps, 24, style);
    let step = style.paint(Tone::Strong, &format!("step {}/{}", view.done, view.steps));
    let gone = view.started.map_or(Duration::ZERO, |started| now.saturating_sub(started));
    let left = match view.left() {
        Some(left) if view.done < view.steps => format!(", about {} left", format::duration(left)),
        _ => String::new(),
    };
    format!("{step}  {bar}  {}{left}", format::duration(gone))
}

fn course_line(name: &str, values: &[f64], now: String, style: Style, width: usize) -> String {
    let course = style.paint(Tone::Up, &draw::sparkline(values, width));
    format!("{}{}  {course}", label(name, style), style.paint(Tone::Strong, &format!("{now:>8}")))
}

fn metric_lines(metrics: &StepMetrics, style: Style) -> Vec<String> {
    let supervised = is_supervised(metrics);
    let lines = [
        (
            "length",
            if supervised {
                format!("{:.1} tokens", metrics.completion_tokens_mean)
            } else {
                format!(
                    "{:.1} tokens, {} cut off    groups with signal {}",
                    metrics.completion_tokens_mean,
                    format::percent(metrics.truncated_fraction),
                    format::percent(metrics.active_group_fraction)
                )
            },
        ),
        (
            "speed",
            if supervised {
                format!("training {}", format::rate(metrics.train_tokens, metrics.train_seconds))
            } else {
                format!(
                    "sampling {}    training {}",
                    format::rate(metrics.rollout_tokens, metrics.rollout_seconds),
                    format::rate(metrics.train_tokens, metrics.train_seconds)
                )
            },
        ),
        (
            "learning",
            format!(
                "rate {}    gradient {}    |v| {}",
                format::short(metrics.learning_rate),
                format::short(metrics.grad_norm),
                format::short(metrics.v_norm)
            ),
        ),
    ];
    lines.into_iter().map(|(name, text)| format!("{}{text}", label(name, style))).collect()
}

/// The trained numbers: a chart, or its summary where they are many.
fn number_lines(v: &[f32], style: Style) -> Vec<String> {
    if v.is_empty() {
        return Vec::new();
    }
    if v.len() > MOST_COLUMNS {
        return vec![format!("{}{}", label("v", style), summary(v))];
    }
    let [above, below] = draw::columns(v, style);
    let most = format!("±{:.3}", draw::largest(v));
    vec![format!("{}{above}", label("v", style)), format!("{}{below}", label(&most, style))]
}

/// Many numbers in words.
pub fn summary(v: &[f32]) -> String {
    let low = v.iter().copied().fold(f32::INFINITY, f32::min);
    let high = v.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let first: Vec<String> = v.iter().take(4).map(|x| format!("{x:+.4}")).collect();
    format!(
        "{} numbers, {low:+.4} to {high:+.4}, the first {}",
        format::grouped(v.len() as u64),
        first.join(" ")
    )
}

fn label(name: &str, style: Style) -> String {
    style.paint(Tone::Faint, &format!("{name:<9} "))
}
