//! What an evaluation on benchmarks gave enters, text for people leaves.

use crate::draw::{Style, Tone};
use crate::format;
use std::path::Path;
use tinylora::evaluate::{BenchmarkSummary, Comparison, GroupResult};
use tinylora::recipe::{AVERAGES, Benchmark};
use tinylora::statistics::mean_of_independent_95;

/// Groups are shown on the screen up to this many of a kind; the page has them all.
const MOST_GROUPS: usize = 12;

/// One benchmark's results.
pub fn result(summary: &BenchmarkSummary, out: &Path, style: Style) -> String {
    let (result, settings) = (&summary.result, &summary.settings);
    let mut text = format!("{}\n", style.paint(Tone::Strong, &summary.title));
    let mut row = |name: &str, value: &str| {
        text.push_str(&format!("  {}{value}\n", style.paint(Tone::Faint, &format!("{name:<12}"))));
    };
    let how = match settings.samples {
        0 => "greedy".to_owned(),
        n => format!("average of {n} samples at temperature {}", settings.temperature),
    };
    row(
        "right",
        &format!(
            "{} {} of {} problems, {how}",
            style.paint(Tone::Strong, &format::percent(result.accuracy)),
            interval(result.ci95),
            format::grouped(result.n as u64)
        ),
    );
    if result.pass_at.len() > 1 {
        let passes = result.pass_at.iter().map(|pass| format!("{}: {}", pass.k, format::percent(pass.value)));
        row("pass at k", &passes.collect::<Vec<_>>().join(", "));
    }
    let by_scorer = |(name, value): (&String, &f64)| format!("{name} {}", format::percent(*value));
    row("by scorer", &result.scorers.iter().map(by_scorer).collect::<Vec<_>>().join(", "));
    row(
        "completions",
        &format!(
            "{} without an answer, {} cut off at {} tokens, {:.0} tokens on average",
            format::percent(result.no_answer_fraction),
            format::percent(result.truncated_fraction),
            settings.max_tokens,
            result.completion_tokens_mean
        ),
    );
    if result.without_gold > 0 {
        row(
            "note",
            &format!(
                "{} problems have no right answer in the data; they count as wrong",
                result.without_gold
            ),
        );
    }
    for (kind, groups) in &result.groups {
        let mut told: Vec<String> = groups.iter().take(MOST_GROUPS).map(group).collect();
        if groups.len() > MOST_GROUPS {
            told.push(format!("and {} more", groups.len() - MOST_GROUPS));
        }
        row(&format!("by {kind}"), &told.join(", "));
    }
    row(
        "took",
        &format!(
            "{}, {:.0} tokens a second",
            format::duration(
                std::time::Duration::try_from_secs_f64(summary.wall_seconds).unwrap_or_default()
            ),
            summary.tokens_per_second
        ),
    );
    row("report", &style.paint(Tone::Accent, &out.join("report.html").display().to_string()));
    text
}

fn group((name, group): (&String, &GroupResult)) -> String {
    format!("{name}: {} of {}", format::percent(group.accuracy), group.n)
}

/// All benchmarks in a line each, and the averages that are whole; empty for a single one.
pub fn overview(summaries: &[&BenchmarkSummary], style: Style) -> String {
    if summaries.len() < 2 {
        return String::new();
    }
    let width = summaries.iter().map(|summary| summary.title.chars().count()).max().unwrap_or(0).max(12);
    let mut text = String::new();
    for summary in summaries {
        let result = &summary.result;
        let accuracy = format!("{:>7}", format::percent(result.accuracy));
        text.push_str(&format!("{:<width$}  {accuracy}  {}\n", summary.title, interval(result.ci95)));
    }
    for average in &AVERAGES {
        let of: Option<Vec<(f64, [f64; 2])>> =
            average.of.iter().map(|benchmark| estimate(summaries, *benchmark)).collect();
        let Some(of) = of else { continue };
        let mean = of.iter().map(|(accuracy, _)| accuracy).sum::<f64>() / of.len() as f64;
        let value = style.paint(Tone::Strong, &format!("{:>7}", format::percent(mean)));
        let ci = interval(mean_of_independent_95(&of));
        text.push_str(&format!("{:<width$}  {value}  {ci}  {}\n", "average", average.title));
    }
    text
}

fn estimate(summaries: &[&BenchmarkSummary], benchmark: Benchmark) -> Option<(f64, [f64; 2])> {
    let summary = summaries.iter().find(|summary| summary.settings.benchmark == benchmark.name())?;
    Some((summary.result.accuracy, summary.result.ci95))
}

/// `(3.2–5.4)`
fn interval([low, high]: [f64; 2]) -> String {
    format!("({:.1}–{:.1})", 100.0 * low, 100.0 * high)
}

/// What a comparison says: numbers, then the sense of them.
pub fn comparison(title: &str, told: &Comparison, style: Style) -> String {
    let mut text = format!("{}\n", style.paint(Tone::Strong, title));
    let mut row = |name: &str, value: &str| {
        text.push_str(&format!("  {}{value}\n", style.paint(Tone::Faint, &format!("{name:<12}"))));
    };
    let samples = |n: usize| if n == 1 { String::new() } else { format!(", average of {n} samples") };
    row(
        "A",
        &format!("{} of {} problems{}", format::percent(told.accuracy[0]), told.n, samples(told.samples[0])),
    );
    row("B", &format!("{}{}", format::percent(told.accuracy[1]), samples(told.samples[1])));
    row(
        "B − A",
        &format!(
            "{:+.1} points, 95 % interval {:+.1} to {:+.1}",
            100.0 * told.difference,
            100.0 * told.ci95[0],
            100.0 * told.ci95[1]
        ),
    );
    if let Some([both, only_a, only_b, neither]) = told.table {
        row(
            "problems",
            &format!("right in both {both}, only in A {only_a}, only in B {only_b}, in neither {neither}"),
        );
    }
    row("p", &format!("{} ({})", format::short(told.p_value), told.test));
    let sense = match (told.p_value < 0.05, told.difference > 0.0) {
        (true, true) => style.paint(Tone::Up, "B is better than chance alone would explain (p below 0.05)"),
        (true, false) => {
            style.paint(Tone::Down, "A is better than chance alone would explain (p below 0.05)")
        }
        (false, _) => "these problems do not show which is better (p not below 0.05)".to_owned(),
    };
    row("so", &sense);
    if told.unpaired > 0 {
        row("note", &format!("{} problems are in one of the two only and do not count", told.unpaired));
    }
    text
}
