//! `tinylora generate`: prompts enter, completions leave on standard output.

use crate::args::{GenerateArgs, SamplingArgs};
use crate::format;
use crate::open::{self, Opened};
use crate::screen::Screen;
use crate::{interrupt, messages};
use anyhow::Result;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::sync::atomic::AtomicBool;
use tinylora::inference::{Completion, Engine, Finish, GenerateOptions, Progress, Request, Sampling};
use tinylora::rollout::{TextStop, TextStream, text_of};
use tinylora::tokenizer::{Message, Tokenizer};
use tinylora_compute::Cpu;
use tinylora_compute::attention::BLOCK_TOKENS;

/// What is to be completed.
enum Input {
    /// Text as it stands.
    Text(String),
    /// A conversation, through the chat template.
    Chat(Vec<Message>),
}

/// One line of `--json`.
#[derive(Serialize)]
struct Output<'a> {
    prompt_tokens: &'a [u32],
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    text: String,
    finish_reason: &'static str,
}

/// Sequences that run together.
const MOST_AT_ONCE: usize = 32;

/// Runs the command.
pub fn run(args: &GenerateArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    let sampling = open::sampling(args.temperature, args.sampling.top_p, args.sampling.top_k)?;
    let max_tokens = open::max_tokens(args.sampling.max_tokens)?;
    let inputs = inputs(args)?;
    let cpu = open::device(args.model.numerics.into(), args.model.device)?;
    let positions = inputs.iter().map(most_tokens).max().unwrap_or(0) + max_tokens;
    let opened = Opened::new(&cpu, &args.model, positions, &Screen::stderr())?;
    let tokenizer = &opened.base.tokenizer;
    let prompts: Result<Vec<Vec<u32>>> =
        inputs.into_iter().map(|input| encode(tokenizer, input, args.raw)).collect();
    let prompts = prompts?;
    let stream = !args.json && prompts.len() == 1;
    let completions = complete(&cpu, &opened, &prompts, sampling, &args.sampling, stream)?;
    let mut out = std::io::stdout().lock();
    for (prompt, completion) in prompts.iter().zip(&completions) {
        let tokens: Vec<u32> = completion.tokens.iter().map(|token| token.token).collect();
        if args.json {
            let output = Output {
                prompt_tokens: prompt,
                logprobs: completion.tokens.iter().map(|token| token.logprob).collect(),
                text: text_of(tokenizer, &tokens, &args.sampling.stop),
                tokens,
                finish_reason: finish_reason(completion.finish),
            };
            writeln!(out, "{}", serde_json::to_string(&output)?)?;
        } else if !stream {
            writeln!(out, "{}", for_stdout(&text_of(tokenizer, &tokens, &args.sampling.stop)))?;
        }
    }
    Ok(())
}

/// As OpenAI's interface names it.
fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

fn inputs(args: &GenerateArgs) -> Result<Vec<Input>> {
    match (&args.prompt, &args.messages) {
        (_, Some(path)) => {
            let text = messages::read(path)?;
            let all = messages::conversations(&path.display().to_string(), &text)?;
            Ok(all.into_iter().map(Input::Chat).collect())
        }
        (prompt, None) => Ok(vec![Input::Text(prompt.clone().unwrap_or_default())]),
    }
}

/// Tokens that a prompt has at most: one a byte, and what a chat template may write around it.
fn most_tokens(input: &Input) -> usize {
    const TEMPLATE: usize = 512;
    const AROUND_A_MESSAGE: usize = 32;
    TEMPLATE
        + match input {
            Input::Text(text) => text.len(),
            Input::Chat(messages) => messages
                .iter()
                .map(|message| message.content.len() + message.role.len() + AROUND_A_MESSAGE)
                .sum(),
        }
}

fn encode(tokenizer: &Tokenizer, input: Input, raw: bool) -> Result<Vec<u32>> {
    Ok(match input {
        Input::Text(text) if !raw && tokenizer.has_chat_template() => {
            tokenizer.encode_chat(&[Message { role: "user".into(), content: text }], true)?
        }
        Input::Text(text) => tokenizer.encode(&text, true)?,
        Input::Chat(messages) => tokenizer.encode_chat(&messages, true)?,
    })
}

fn complete(
    cpu: &Cpu,
    opened: &Opened,
    prompts: &[Vec<u32>],
    sampling: Sampling,
    args: &SamplingArgs,
    stream: bool,
) -> Result<Vec<Completion>> {
    let base = &opened.base;
    let request = |(index, prompt): (usize, &Vec<u32>)| Request {
        prompt: prompt.clone(),
        samples: 1,
        adapter: 0,
        seed: args.seed,
        stream: index as u64,
        max_tokens: args.max_tokens,
        sampling,
    };
    let requests: Vec<Request> = prompts.iter().enumerate().map(request).collect();
    let stop = TextStop::new(&base.tokenizer, &args.stop);
    let interrupt = AtomicBool::new(false);
    let at_once = prompts.len().min(MOST_AT_ONCE);
    let options = GenerateOptions { max_batch: at_once, stop: &stop, interrupt: &interrupt };
    let mut text = TextStream::new(&base.tokenizer, &args.stop);
    let mut observe = |progress: Progress<'_>| {
        if let (Progress::Token { token, .. }, true) = (progress, stream) {
            print_part(&text.push(token.token));
        }
    };
    let mut engine = Engine::new(cpu, &base.model, blocks(prompts, args.max_tokens, at_once));
    let completions = engine.generate(opened.policy(), &requests, &options, &mut observe)?;
    if stream {
        print_part(&format!("{}\n", text.finish()));
    }
    Ok(completions.into_iter().flatten().collect())
}

/// KV blocks for so many of the longest prompts with their completions.
fn blocks(prompts: &[Vec<u32>], max_tokens: usize, at_once: usize) -> usize {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    at_once * (longest.div_ceil(BLOCK_TOKENS) + max_tokens.div_ceil(BLOCK_TOKENS) + 1)
}

/// Writes a part of an answer at once. A reader that has gone away ends the program quietly.
pub fn print_part(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(for_stdout(text).as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(crate::failure::FAILED.into());
    }
}

/// On a terminal without what could steer it; elsewhere as it is.
fn for_stdout(text: &str) -> String {
    if std::io::stdout().is_terminal() { format::harmless(text) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_line_reads_back_exactly() {
        let logprobs = vec![-0.1f32, -1.0e-7, -12.345_679];
        let output = Output {
            prompt_tokens: &[1, 2],
            tokens: vec![3, 4, 5],
            logprobs: logprobs.clone(),
            text: "a\"b".into(),
            finish_reason: finish_reason(Finish::Length),
        };
        let line = serde_json::to_string(&output).unwrap();
        assert_eq!(
            line,
            r#"{"prompt_tokens":[1,2],"tokens":[3,4,5],"logprobs":[-0.1,-1e-7,-12.345679],"text":"a\"b","finish_reason":"length"}"#
        );
    }

    #[test]
    fn blocks_hold_prompt_and_completion() {
        assert_eq!(blocks(&[vec![0; 17], vec![0; 3]], 16, 2), 2 * (2 + 1 + 1));
    }
}
