//! The summary and the records of an evaluation enter, one page of HTML leaves that shows them to people: no other file,
//! no network. The numbers stand in the page as text; the list of problems is drawn by the page's own script.

use super::record::{BenchmarkSummary, ResultRecord};
use super::tally::{BenchmarkResult, GroupResult};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

const FRAME: &str = include_str!("page/frame.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// Longer completions are cut in the page; `results.jsonl` has them whole.
const LONGEST: usize = 20_000;
/// Where all completions have more bytes than this, those that are right are left out of the page.
const MOST_BYTES: usize = 48 << 20;

/// A problem as the script reads it.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    question: &'a str,
    gold: &'a str,
    groups: &'a BTreeMap<String, String>,
    tries: Vec<Try<'a>>,
}

#[derive(Serialize)]
struct Try<'a> {
    right: bool,
    verdict: &'a str,
    answer: &'a str,
    read: &'a str,
    why: &'a str,
    scorers: &'a BTreeMap<String, bool>,
    tokens: usize,
    cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// Characters that the page leaves out.
    #[serde(skip_serializing_if = "is_zero")]
    missing: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// The page.
pub fn render(summary: &BenchmarkSummary, records: &[ResultRecord]) -> String {
    let settings = &summary.settings;
    let model = settings.model.rsplit('/').next().unwrap_or(&settings.model);
    let title = match &settings.adapter {
        None => format!("{} · {model}", summary.title),
        Some(adapter) => format!("{} · {model} with {adapter}", summary.title),
    };
    let parts = [
        ("TITLE", escape(&title)),
        ("STYLE", STYLE.to_owned()),
        ("SETTINGS", escape(&settings_line(summary))),
        ("HEADLINE", headline(&summary.result)),
        ("CARDS", cards(&summary.result, settings.max_tokens)),
        ("SCORERS", scorers(&summary.result, &settings.scorer)),
        ("GROUPS", groups(&summary.result)),
        ("DATA", data(records)),
        ("SCRIPT", SCRIPT.to_owned()),
        ("FOOT", escape(&foot(summary))),
    ];
    // One pass over the frame, so that nothing in a part is taken for a place.
    let mut page = String::new();
    let mut pieces = FRAME.split("@@");
    page.push_str(pieces.next().unwrap_or_default());
    while let (Some(name), Some(after)) = (pieces.next(), pieces.next()) {
        let part = parts.iter().find(|(known, _)| *known == name);
        page.push_str(part.map_or("", |(_, text)| text));
        page.push_str(after);
    }
    page
}

fn settings_line(summary: &BenchmarkSummary) -> String {
    let settings = &summary.settings;
    let decoding = match settings.samples {
        0 => "greedy".to_owned(),
        n => format!("{n} samples each at temperature {}, top-p {}", settings.temperature, settings.top_p),
    };
    let template = if settings.chat_template { "chat template" } else { "plain text" };
    let shots = match settings.shots {
        0 => "no worked examples".to_owned(),
        1 => "1 worked example".to_owned(),
        n => format!("{n} worked examples"),
    };
    format!(
        "{decoding}; prompt format {} ({template}, {shots}); scorer {}; at most {} tokens; seed {}",
        settings.prompt_format, settings.scorer, settings.max_tokens, settings.seed
    )
}

fn foot(summary: &BenchmarkSummary) -> String {
    let settings = &summary.settings;
    format!(
        "Data {} (sha256 {}…). {:.0} s, {:.0} tokens a second on {} threads ({}). tinylora {} ({}).",
        settings.data,
        settings.data_sha256.chars().take(12).collect::<String>(),
        summary.wall_seconds,
        summary.tokens_per_second,
        summary.threads,
        summary.kernel,
        summary.version,
        summary.commit.chars().take(12).collect::<String>()
    )
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

fn interval([low, high]: [f64; 2]) -> String {
    format!("{:.1}–{:.1} %", 100.0 * low, 100.0 * high)
}

fn headline(result: &BenchmarkResult) -> String {
    let of = if result.samples == 1 {
        format!("{} of {} problems", result.verdicts.equal, result.n)
    } else {
        format!("{} problems, average of {} samples each", result.n, result.samples)
    };
    format!(
        "<div class=\"big\">{}<small> right</small></div>{}<p>{of}. With other problems of this kind one would \
         expect {} (95 % interval).</p>",
        percent(result.accuracy),
        bar(result.accuracy, result.ci95),
        interval(result.ci95)
    )
}

/// A bar of 0 to 100 %, with the interval as a darker stretch.
fn bar(value: f64, [low, high]: [f64; 2]) -> String {
    format!(
        "<div class=\"bar\"><i style=\"width:{:.2}%\"></i><b style=\"left:{:.2}%;width:{:.2}%\"></b></div>",
        100.0 * value,
        100.0 * low,
        100.0 * (high - low)
    )
}

fn cards(result: &BenchmarkResult, max_tokens: usize) -> String {
    let mut cards = String::new();
    let mut card = |value: String, what: &str| {
        let _ = write!(cards, "<div class=\"card\"><b>{value}</b>{what}</div>");
    };
    for pass in result.pass_at.iter().filter(|pass| pass.k > 1) {
        let what = format!("at least one of {} right ({})", pass.k, interval(pass.ci95));
        card(percent(pass.value), &what);
    }
    card(percent(result.no_answer_fraction), "of completions without an answer that can be found");
    card(percent(result.truncated_fraction), &format!("of completions cut off at {max_tokens} tokens"));
    card(format!("{:.0}", result.completion_tokens_mean), "tokens in a completion, on average");
    if result.verdicts.out_of_fuel > 0 {
        let what = "completions whose answer was too large to be decided; they count as wrong";
        card(result.verdicts.out_of_fuel.to_string(), what);
    }
    if result.without_gold > 0 {
        let what = "problems whose data has no right answer; they count as wrong";
        card(result.without_gold.to_string(), what);
    }
    cards
}

fn scorers(result: &BenchmarkResult, decides: &str) -> String {
    let mut rows = String::new();
    for (name, value) in &result.scorers {
        let note = if name == decides { "decides here" } else { "" };
        let _ = write!(
            rows,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"note\">{note}</td></tr>",
            escape(name),
            percent(*value)
        );
    }
    rows
}

fn groups(result: &BenchmarkResult) -> String {
    let mut tables = String::new();
    for (kind, groups) in &result.groups {
        let _ = write!(tables, "<table><caption>By {}</caption>", escape(label(kind)));
        let mut sorted: Vec<(&String, &GroupResult)> = groups.iter().collect();
        // Numbers by value, names by accuracy.
        if !sorted.iter().all(|(name, _)| name.parse::<f64>().is_ok()) {
            sorted.sort_by(|(_, a), (_, b)| b.accuracy.total_cmp(&a.accuracy).then(b.n.cmp(&a.n)));
        }
        for (name, group) in sorted {
            let _ = write!(
                tables,
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"wide\">{}</td><td class=\"note\">{}</td></tr>",
                escape(name),
                percent(group.accuracy),
                bar(group.accuracy, group.ci95),
                if group.n == 1 { "1 problem".to_owned() } else { format!("{} problems", group.n) }
            );
        }
        tables.push_str("</table>");
    }
    tables
}

/// What a kind of group is called where there is room.
fn label(kind: &str) -> &str {
    match kind {
        "steps" => "computations in the data's own solution",
        kind => kind,
    }
}

/// The problems as JSON that can stand in a script element: no `<` that could end it.
fn data(records: &[ResultRecord]) -> String {
    let bytes: usize = records.iter().map(|record| record.completion.len()).sum();
    let leave_out = bytes > MOST_BYTES;
    let problems: Vec<Shown<'_>> = records
        .chunk_by(|a, b| a.problem == b.problem)
        .map(|samples| Shown {
            id: &samples[0].problem,
            question: &samples[0].question,
            gold: &samples[0].gold,
            groups: &samples[0].groups,
            tries: samples.iter().map(|record| shown(record, leave_out)).collect(),
        })
        .collect();
    serde_json::to_string(&problems).expect("plain data is JSON").replace('<', "\\u003c")
}

fn shown(record: &ResultRecord, leave_out: bool) -> Try<'_> {
    // The end is what holds the answer.
    let whole = &record.completion;
    let mut start = whole.len().saturating_sub(LONGEST);
    while !whole.is_char_boundary(start) {
        start += 1;
    }
    Try {
        right: record.right,
        verdict: &record.verdict,
        answer: &record.answer,
        read: &record.read_as,
        why: &record.because,
        scorers: &record.scorers,
        tokens: record.tokens,
        cut: record.truncated,
        text: (!leave_out || !record.right).then_some(&whole[start..]),
        missing: whole[..start].chars().count(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::record::judge;
    use super::super::record::tests::{asked, settings, written};
    use super::super::tally::tally;
    use super::*;
    use tinylora_verify::Scorer;

    fn page(texts: &[&str]) -> String {
        let records: Vec<ResultRecord> = texts
            .iter()
            .enumerate()
            .map(|(number, text)| {
                judge(&asked(number, "2", "1 & <2>"), 0, written(text), Scorer::Robust, &[Scorer::Qwen])
            })
            .collect();
        let summary = BenchmarkSummary {
            title: "MATH500".into(),
            settings: settings(),
            result: tally(&records),
            wall_seconds: 1.0,
            tokens_per_second: 2.0,
            device: "cpu".into(),
            kernel: "scalar".into(),
            threads: 1,
            version: "0".into(),
            commit: "0".into(),
        };
        render(&summary, &records)
    }

    #[test]
    fn the_page_stands_alone_and_cannot_be_broken_out_of() {
        let evil = "</script><script>alert(1)</script> @@TITLE@@ \\boxed{3}";
        let page = page(&["so \\boxed{2}", evil, ""]);
        assert!(!page.contains("alert(1)</script>") && !page.contains("<2>"));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("33.3 %") && page.contains("1 of 3 problems") && page.contains("qwen"));
        assert_eq!(page.matches("MATH500 · m").count(), 2, "in the head and as heading");
        assert!(page.contains("@@TITLE@@ "), "what a model wrote stays as it is");
        assert_eq!(page.matches("<script").count(), 2);
        let data =
            page.split("type=\"application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
        let problems: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(problems.as_array().unwrap().len(), 3);
        assert_eq!(problems[1]["tries"][0]["text"], evil);
        assert_eq!(problems[2]["tries"][0]["verdict"], "prediction_unparsed");
    }

    #[test]
    fn long_completions_keep_their_end() {
        let text = format!("{}é \\boxed{{2}}", "x".repeat(30_000));
        let page = page(&[&text]);
        assert!(page.len() < 60_000 && page.contains("\\\\boxed{2}"));
        assert!(page.contains("\"missing\":10"), "about ten thousand characters are missing");
    }
}
