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

#[cfg(test)]
mod tests {
    use super::*;
    use tinylora::evaluate::{BenchmarkResult, BenchmarkSettings, tally};

    /// A summary with this accuracy and no completions behind it.
    fn summary(benchmark: Benchmark, accuracy: f64, ci95: [f64; 2]) -> BenchmarkSummary {
        let settings = serde_json::json!({
            "benchmark": benchmark.name(), "data": "d", "data_sha256": "0", "problems": 1, "model": "m",
            "model_sha256": "0", "dtype": "bf16", "products": "f32", "adapter": null, "adapter_sha256": null,
            "prompt_format": "chat", "chat_template": true, "shots": 0, "examples": "own", "scorer": "robust",
            "samples": 0, "temperature": 1.0, "top_p": 1.0, "max_tokens": 1, "stop": [], "seed": 0,
        });
        let settings: BenchmarkSettings = serde_json::from_value(settings).expect("all its keys");
        BenchmarkSummary {
            title: benchmark.about().title.into(),
            settings,
            result: BenchmarkResult { accuracy, ci95, ..tally(&[]) },
            wall_seconds: 1.0,
            tokens_per_second: 1.0,
            device: "cpu".into(),
            kernel: "scalar".into(),
            threads: 1,
            version: "0".into(),
            commit: "0".into(),
        }
    }

    /// The paper's Table 2 for Qwen2.5-7B-Instruct with 13 parameters: its average of 50.1 comes out.
    #[test]
    fn averages_are_the_papers() {
        let of = [91.8, 74.6, 27.1, 36.3, 16.0, 54.5];
        let all: Vec<BenchmarkSummary> = AVERAGES[0]
            .of
            .iter()
            .zip(of)
            .map(|(set, value)| summary(*set, value / 100.0, [value / 100.0 - 0.06, value / 100.0 + 0.06]))
            .collect();
        let text = overview(&all.iter().collect::<Vec<_>>(), Style::Plain);
        let last = text.lines().last().unwrap();
        // Six intervals of ± 6 points: ± 6 / √6 = 2.4 for their mean.
        assert!(last.starts_with("average") && last.contains("50.1 %  (47.6–52.5)"), "{text}");
        assert_eq!(text.lines().count(), 7);
        let five = overview(&all[1..].iter().collect::<Vec<_>>(), Style::Plain);
        assert!(
            !five.contains("average") && five.lines().count() == 5,
            "a part of the sets has no average: {five}"
        );
        assert_eq!(overview(&[&all[0]], Style::Plain), "");
    }
}
