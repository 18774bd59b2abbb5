//! `tinylora score`: texts enter, the log-probability of each of their tokens leaves.

use crate::args::ScoreArgs;
use crate::open::{self, Opened};
use crate::screen::Screen;
use crate::{format, interrupt, messages};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::io::Write;
use tinylora::gradient::{GradientWorkspace, TrainingCompletion, TrainingGroup, completion_logprobs};
use tinylora_compute::Cpu;

/// Tokens that one pass takes at most, unless a single text is longer.
const TOKENS_AT_ONCE: usize = 1024;

/// One line of `--json`.
#[derive(Serialize)]
struct Output<'a> {
    tokens: &'a [u32],
    logprobs: Vec<Option<f32>>,
    total: f64,
    mean: Option<f64>,
    perplexity: Option<f64>,
}

/// Runs the command.
pub fn run(args: &ScoreArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    let name = args.text.display().to_string();
    let items = messages::score_items(&name, &messages::read(&args.text)?)?;
    let cpu = open::device(args.model.numerics.into(), args.model.device)?;
    let longest = items.iter().map(|(_, item)| most_tokens(item)).max().unwrap_or(0);
    let opened = Opened::new(&cpu, &args.model, longest, &Screen::stderr())?;
    let vocabulary = opened.base.model.config.vocab_size;
    let mut texts = Vec::with_capacity(items.len());
    for (line, item) in &items {
        let tokens = item.encode(&opened.base.tokenizer).with_context(|| format!("{name}, line {line}"))?;
        if tokens.is_empty() {
            bail!("{name}, line {line}: there is no token in it");
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            bail!("{name}, line {line}: token {token} is outside the vocabulary of {vocabulary}");
        }
        texts.push(tokens);
    }
    let mut workspace = GradientWorkspace::default();
    let mut totals = (0.0, 0);
    for batch in batches(&texts) {
        let scored = score(&cpu, &opened, batch, &mut workspace)?;
        for (tokens, logprobs) in batch.iter().zip(scored) {
            let output = output(tokens, &logprobs);
            totals = (totals.0 + output.total, totals.1 + logprobs.len());
            print(args.json, &opened, &output)?;
        }
    }
    if !args.json && texts.len() > 1 {
        let (mean, perplexity) = averages(totals.0, totals.1);
        println!(
            "{}",
            human_line(totals.0, totals.1, mean, perplexity, &format!("all {} texts", texts.len()))
        );
    }
    Ok(())
}

/// Tokens that a line has at most; see `generate`.
fn most_tokens(item: &messages::ScoreItem) -> usize {
    match item {
        messages::ScoreItem::Text { text } => text.len() + 16,
        messages::ScoreItem::Tokens { tokens } => tokens.len(),
        messages::ScoreItem::Messages { messages } => {
            512 + messages
                .iter()
                .map(|message| message.content.len() + message.role.len() + 32)
                .sum::<usize>()
        }
    }
}

/// Runs of texts that are scored together.
fn batches(texts: &[Vec<u32>]) -> impl Iterator<Item = &[Vec<u32>]> {
    let mut rest = texts;
    std::iter::from_fn(move || {
        let mut held = 0;
        let fits = |text: &&Vec<u32>| {
            held += text.len();
            held <= TOKENS_AT_ONCE
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(count);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

/// ln p of every token but the first of each text.
fn score(
    cpu: &Cpu,
    opened: &Opened,
    texts: &[Vec<u32>],
    workspace: &mut GradientWorkspace,
) -> Result<Vec<Vec<f32>>> {
    let group = |tokens: &Vec<u32>| TrainingGroup {
        prompt: tokens[..1].to_vec(),
        completions: vec![TrainingCompletion { tokens: tokens[1..].to_vec(), ..Default::default() }],
    };
    // A text of one token has nothing to predict and takes no part in the pass.
    let groups: Vec<TrainingGroup> = texts.iter().filter(|tokens| tokens.len() > 1).map(group).collect();
    let scored = completion_logprobs(cpu, opened.policy(), &groups, 1.0, workspace)?;
    let mut scored = scored.into_iter().flatten();
    let next =
        |tokens: &Vec<u32>| if tokens.len() > 1 { scored.next().unwrap_or_default() } else { Vec::new() };
    Ok(texts.iter().map(next).collect())
}

fn output<'a>(tokens: &'a [u32], logprobs: &[f32]) -> Output<'a> {
    let total = logprobs.iter().fold(0.0, |sum, &logprob| sum + f64::from(logprob));
    let (mean, perplexity) = averages(total, logprobs.len());
    Output {
        tokens,
        logprobs: std::iter::once(None).chain(logprobs.iter().copied().map(Some)).collect(),
        total,
        mean,
        perplexity,
    }
}

fn averages(total: f64, tokens: usize) -> (Option<f64>, Option<f64>) {
    let mean = (tokens > 0).then(|| total / tokens as f64);
    (mean, mean.map(|mean| (-mean).exp()))
}

fn print(json: bool, opened: &Opened, output: &Output<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(output)?)?;
    } else {
        let text = format::one_line(&opened.base.tokenizer.decode_with_special(output.tokens), 50);
        let scored = output.logprobs.len() - 1;
        writeln!(out, "{}", human_line(output.total, scored, output.mean, output.perplexity, &text))?;
    }
    Ok(())
}

fn human_line(total: f64, tokens: usize, mean: Option<f64>, perplexity: Option<f64>, text: &str) -> String {
    let of = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
    format!(
        "ln p {total:>10.3}   {tokens:>5} tokens   mean {:>8}   perplexity {:>9}   {text}",
        of(mean),
        perplexity.map_or("-".into(), |value| format!("{value:.2}"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_into_batches_in_order() {
        let texts: Vec<Vec<u32>> = [600, 400, 100, 5000, 3].map(|length| vec![0; length]).to_vec();
        let sizes: Vec<usize> = batches(&texts).map(<[_]>::len).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
        assert_eq!(batches(&[]).count(), 0);
    }

    #[test]
    fn the_first_token_has_no_logprob() {
        let line = serde_json::to_string(&output(&[5, 6, 7], &[-0.1, -0.3])).unwrap();
        assert!(line.starts_with(r#"{"tokens":[5,6,7],"logprobs":[null,-0.1,-0.3],"total":"#), "{line}");
        let alone = serde_json::to_string(&output(&[5], &[])).unwrap();
        assert_eq!(alone, r#"{"tokens":[5],"logprobs":[null],"total":0.0,"mean":null,"perplexity":null}"#);
    }

    #[test]
    fn perplexity_is_of_the_mean() {
        let (mean, perplexity) = averages(-2.0 * 2f64.ln(), 2);
        assert!((mean.unwrap() + 2f64.ln()).abs() < 1e-12 && (perplexity.unwrap() - 2.0).abs() < 1e-12);
    }
}
