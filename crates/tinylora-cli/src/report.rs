//! A finished run's summary enters, what a person wants to know at its end leaves.

use crate::display::summary_of_numbers;
use crate::draw::{Style, Tone};
use crate::format;
use std::path::Path;
use std::time::Duration;
use tinylora::recipe::AdapterKind;
use tinylora::run_folder::{ADAPTER_FILE, EvalResult, MODEL_FOLDER, Summary};

/// More trained numbers than this are summed up.
const MOST_NUMBERS: usize = 16;

/// The report of a run in the folder `out` whose trained numbers are `v`.
pub fn render(summary: &Summary, v: &[f32], out: &Path, style: Style) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        text.push_str(&format!("{}{value}\n", style.paint(Tone::Faint, &format!("{name:<18}"))));
    };
    row("done", &format!("{} steps in {}", summary.steps, format::duration(seconds(summary.wall_seconds))));
    if let (Some(before), Some(after)) = (&summary.eval_before, &summary.eval_after) {
        let (from, to) = (before.sampled_accuracy, after.sampled_accuracy);
        if let Some(line) = change(from, before.sampled_ci95, to, after.sampled_ci95, style) {
            row("accuracy, sampled", &line);
        }
        let (from, to) = (before.greedy_accuracy, after.greedy_accuracy);
        if let Some(line) = change(from, before.greedy_ci95, to, after.greedy_ci95, style) {
            row("accuracy, greedy", &line);
        }
        row("measured on", &measured_on(before, after));
    }
    let adapter = &summary.adapter;
    let count = format::grouped(adapter.trainable_parameters as u64);
    let size = format::bytes(adapter.payload_bytes);
    let full = adapter.kind == AdapterKind::Full.name();
    if full {
        row("trained", &format!("all {count} numbers of the model ({size})"));
    } else {
        let frozen = format::grouped(summary.model.parameters);
        row("trained", &format!("{count} numbers ({size}) beside {frozen} frozen ones"));
        // The numbers of LoRA are its factors.
        if adapter.kind != AdapterKind::Lora.name() {
            row("v", &numbers(v));
        }
    }
    row(
        "speed",
        &format!(
            "sampling {:.0} tokens/s, training {:.0} tokens/s",
            summary.rollout_tokens_per_second, summary.train_tokens_per_second
        ),
    );
    if summary.peak_rss_bytes > 0 {
        row("peak memory", &format::bytes(summary.peak_rss_bytes));
    }
    let (what, name) = if full { ("model", MODEL_FOLDER) } else { ("adapter", ADAPTER_FILE) };
    let file = out.join(name).display().to_string();
    row(what, &style.paint(Tone::Strong, &format!("{file} ({})", format::bytes(adapter.file_bytes))));
    let model = if full { &file } else { &summary.model.reference };
    text.push_str(&commands(model, (!full).then_some(&file), out, style));
    text
}

/// `12.3 % (9.6–15.6) → 31.0 % (27.1–35.2)`, where both were measured.
fn change(
    from: Option<f64>,
    from_ci: [f64; 2],
    to: Option<f64>,
    to_ci: [f64; 2],
    style: Style,
) -> Option<String> {
    let (from, to) = (from?, to?);
    let interval = |[low, high]: [f64; 2]| format!("({:.1}–{:.1})", 100.0 * low, 100.0 * high);
    let tone = if to > from { Tone::Up } else { Tone::Strong };
    let to = style.paint(tone, &format::percent(to));
    Some(format!("{} {} → {to} {}", format::percent(from), interval(from_ci), interval(to_ci)))
}

fn measured_on(before: &EvalResult, after: &EvalResult) -> String {
    format!(
        "{} held-out problems, 95 % intervals; completions of {:.0} → {:.0} tokens",
        before.n, before.completion_tokens_mean, after.completion_tokens_mean
    )
}

fn numbers(v: &[f32]) -> String {
    if v.len() > MOST_NUMBERS {
        return summary_of_numbers(v);
    }
    let row = |row: &[f32]| row.iter().map(|x| format!("{x:+.5}")).collect::<Vec<_>>().join(" ");
    v.chunks(8).map(row).collect::<Vec<_>>().join(&format!("\n{:18}", ""))
}

fn commands(model: &str, adapter: Option<&String>, out: &Path, style: Style) -> String {
    let model = shell_word(model);
    let with = adapter.map_or(String::new(), |adapter| format!(" --adapter {}", shell_word(adapter)));
    let recipe = shell_word(&out.join("recipe.toml").display().to_string());
    let board = shell_word(&out.join("tensorboard").display().to_string());
    let lines = [
        Some(format!("tinylora chat --model {model}{with}")),
        Some(format!("tinylora eval --model {model}{with} --recipe {recipe}")),
        adapter.map(|adapter| format!("tinylora adapter inspect {}", shell_word(adapter))),
        Some(format!("tensorboard --logdir {board}")),
    ];
    let lines = lines.iter().flatten();
    let lines: Vec<String> = lines.map(|line| format!("  {}\n", style.paint(Tone::Accent, line))).collect();
    format!("\nTry it:\n{}", lines.concat())
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// A word as a shell takes it: in quotes where it needs them.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('~') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinylora::run_folder::{AdapterSummary, ModelSummary};

    fn result(accuracy: f64) -> EvalResult {
        EvalResult {
            n: 512,
            sampled_accuracy: Some(accuracy),
            greedy_accuracy: None,
            sampled_ci95: [accuracy - 0.03, accuracy + 0.03],
            greedy_ci95: [0.0, 1.0],
            strict: accuracy,
            flexible: accuracy,
            completion_tokens_mean: 21.4,
            truncated_fraction: 0.0,
            verdicts: None,
        }
    }

    fn summary() -> Summary {
        Summary {
            model: ModelSummary {
                reference: "smollm2-135m".into(),
                sha256: "00".repeat(32),
                family: "llama".into(),
                parameters: 134_515_008,
            },
            adapter: AdapterSummary {
                kind: "tinylora".into(),
                rank: 2,
                u: 13,
                n_tie: 0,
                tying: tinylora::recipe::Tying::Tiled,
                alpha: None,
                rslora: None,
                trainable_parameters: 13,
                payload_bytes: 26,
                file_bytes: 612,
            },
            task: "arithmetic/sum".into(),
            seed: 1,
            steps: 60,
            interrupted: false,
            eval_before: Some(result(0.123)),
            eval_after: Some(result(0.31)),
            wall_seconds: 303.0,
            rollout_tokens_per_second: 312.4,
            rollout_empty_slot_fraction: 0.1,
            train_tokens_per_second: 980.0,
            peak_rss_bytes: 0,
            device: "cpu".into(),
            kernel: "avx2".into(),
            threads: 2,
            version: "0.1.0".into(),
            commit: "unknown".into(),
        }
    }

    #[test]
    fn the_report_says_what_changed_and_what_to_do_next() {
        let text = render(
            &summary(),
            &[0.5, -0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            Path::new("runs/my run"),
            Style::Plain,
        );
        let expected = "\
done              60 steps in 5 min 3 s
accuracy, sampled 12.3 % (9.3–15.3) → 31.0 % (28.0–34.0)
measured on       512 held-out problems, 95 % intervals; completions of 21 → 21 tokens
trained           13 numbers (26 B) beside 134,515,008 frozen ones
v                 +0.50000 -0.25000 +0.00000 +0.00000 +0.00000 +0.00000 +0.00000 +0.00000
                  +1.00000
speed             sampling 312 tokens/s, training 980 tokens/s
adapter           runs/my run/adapter.tinylora (612 B)

Try it:
  tinylora chat --model smollm2-135m --adapter 'runs/my run/adapter.tinylora'
  tinylora eval --model smollm2-135m --adapter 'runs/my run/adapter.tinylora' --recipe 'runs/my run/recipe.toml'
  tinylora adapter inspect 'runs/my run/adapter.tinylora'
  tensorboard --logdir 'runs/my run/tensorboard'
";
        assert_eq!(text, expected);
    }

    #[test]
    fn words_for_the_shell() {
        assert_eq!(shell_word("runs/a-1.toml"), "runs/a-1.toml");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("task.max=5"), "task.max=5");
        assert_eq!(shell_word("stop=[\"a\"]"), "'stop=[\"a\"]'");
    }
}
