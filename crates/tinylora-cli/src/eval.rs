//! `tinylora eval`: problems enter, accuracies with 95 % intervals leave on standard output, and every completion
//! in a file if a folder is given.

use crate::args::EvalArgs;
use crate::display::accuracy_line;
use crate::failure::Usage;
use crate::loading::LoadingDisplay;
use crate::open::{self, Opened};
use crate::screen::Screen;
use crate::{format, interrupt};
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tinylora::base::Loading;
use tinylora::data::{DataError, Problem, TaskData};
use tinylora::evaluate::{EvalSettings, Evaluation, evaluate_each};
use tinylora::hub::HubOptions;
use tinylora::inference::{Engine, Progress, Sampling};
use tinylora::model::{Adapters, KvCache, Model};
use tinylora::recipe::{AnswerFormat, JsonlTask, Recipe, Scorer, TaskSection};
use tinylora::reward::Rewarder;
use tinylora::rollout::{TextStop, encode_prompt};
use tinylora::run_folder::EvalResult;
use tinylora_compute::Cpu;
use tinylora_compute::attention::BLOCK_TOKENS;

/// How a question is put to the model.
struct PromptFormat {
    name: &'static str,
    system: &'static str,
    template: &'static str,
    answer: AnswerFormat,
    /// Built-in tasks show the form in a worked example instead of asking for it.
    for_tasks: bool,
}

const GSM8K: &str = "{question} Let's think step by step and output the final answer after \"####\".";
const BOXED: &str = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.";
const ASSISTANT: &str = "You are a helpful assistant.";
const BOXED_SYSTEM: &str = "Please reason step by step, and put your final answer within \\boxed{}.";
const ABEL: &str = "Question:\n{question}\nAnswer:\nLet's think step by step.\n";

#[rustfmt::skip]
const PROMPT_FORMATS: [PromptFormat; 7] = [
    PromptFormat { name: "hashes", system: "", template: GSM8K, answer: AnswerFormat::Hashes, for_tasks: true },
    PromptFormat { name: "boxed", system: "", template: BOXED, answer: AnswerFormat::Boxed, for_tasks: true },
    PromptFormat { name: "plain", system: "", template: "{question}", answer: AnswerFormat::Plain, for_tasks: true },
    PromptFormat { name: "gsm8k", system: "", template: GSM8K, answer: AnswerFormat::Hashes, for_tasks: false },
    PromptFormat { name: "qwen-boxed", system: ASSISTANT, template: BOXED, answer: AnswerFormat::Boxed, for_tasks: false },
    PromptFormat { name: "qwen25-math-cot", system: BOXED_SYSTEM, template: "{question}", answer: AnswerFormat::Boxed, for_tasks: false },
    PromptFormat { name: "abel", system: "", template: ABEL, answer: AnswerFormat::Boxed, for_tasks: false },
];

const SCORERS: [(&str, Scorer); 9] = [
    ("robust", Scorer::Robust),
    ("qwen", Scorer::Qwen),
    ("qwen-units", Scorer::QwenUnits),
    ("math-verify", Scorer::MathVerify),
    ("math", Scorer::Math),
    ("gsm8k-strict", Scorer::Gsm8kStrict),
    ("gsm8k-flexible", Scorer::Gsm8kFlexible),
    ("boxed", Scorer::Boxed),
    ("plain", Scorer::Plain),
];

/// Where no recipe is given: only task, scorer and `[eval]` of it matter.
const MADE_RECIPE: &str = "\
name = 'eval'
[model]
ref = '-'
[task]
kind = 'arithmetic'
problems = 'sum'
[train]
steps = 1
[eval]
max_tokens = 256";

const TASKS: [&str; 6] = ["sum", "difference", "product", "chain", "word-one-step", "word-two-step"];

/// Memory for keys and values.
const KV_BYTES: usize = 3 << 30;
/// Sequences that run together at most.
const MOST_AT_ONCE: usize = 128;

/// `summary.json` of an evaluation.
#[derive(Serialize)]
struct Summary<'a> {
    model: &'a str,
    model_sha256: &'a str,
    adapter: Option<&'a str>,
    problems: &'a str,
    seed: u64,
    eval: &'a EvalResult,
    wall_seconds: f64,
    device: &'static str,
    kernel: &'static str,
    threads: usize,
    version: &'static str,
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    let recipe = recipe(args)?;
    let screen = Screen::stderr();
    let data = open_data(args, &recipe, &screen)?;
    let problems = match args.limit {
        Some(limit) => data.held_out(limit)?,
        None => data.all_held_out().to_vec(),
    };
    let cpu = open::device()?;
    let adapters: Vec<&str> = args.adapter.iter().map(String::as_str).collect();
    let opened = Opened::with(&cpu, &args.model, &adapters, args.dtype, 0, &screen)?;
    let mut prompts = Vec::with_capacity(problems.len());
    for problem in problems {
        let prompt = data.prompt(&problem);
        let tokens = encode_prompt(&opened.base.tokenizer, &prompt, recipe.model.chat_template)?;
        prompts.push((problem, tokens));
    }
    let start = Instant::now();
    let evaluations = measure(&cpu, &opened, &recipe, &prompts, &screen)?;
    let wall = start.elapsed();
    for (index, evaluation) in evaluations.iter().enumerate() {
        let adapter = args.adapter.get(index).map(String::as_str);
        if let (Some(name), true) = (adapter, evaluations.len() > 1) {
            println!("{name}");
        }
        println!("{}", accuracy_line(&evaluation.result));
        println!("{}", details(&evaluation.result, wall));
        if let Some(out) = &args.out {
            let out = if evaluations.len() > 1 { out.join(index.to_string()) } else { out.clone() };
            write(&out, args, adapter, &recipe, &opened, &cpu, evaluation, wall)?;
        }
    }
    Ok(())
}

/// The problems: of a file all rows, of a task as many as asked for. A small task may have fewer than the 512 that
/// are the default.
fn open_data(args: &EvalArgs, recipe: &Recipe, screen: &Screen) -> Result<TaskData> {
    let options = HubOptions::from_env();
    let mut display = LoadingDisplay::new(screen.clone());
    let mut progress = |progress| display.take(&Loading::Hub(progress));
    let opened = match &recipe.task {
        TaskSection::Jsonl(task) if args.data.is_some() => {
            TaskData::for_evaluation(task, &recipe.model.system, &options, &mut progress)
        }
        _ => match TaskData::open(recipe, &options, &mut progress) {
            Err(DataError::HeldOut { available, .. }) if args.task.is_some() && args.limit.is_none() => {
                let mut smaller = recipe.clone();
                smaller.eval.problems = available;
                TaskData::open(&smaller, &options, &mut progress)
            }
            opened => opened,
        },
    };
    display.finish();
    Ok(opened?)
}

fn details(result: &EvalResult, wall: Duration) -> String {
    format!(
        "strict {}, flexible {}, completions of {:.1} tokens, {} cut off, {}",
        format::percent(result.strict),
        format::percent(result.flexible),
        result.completion_tokens_mean,
        format::percent(result.truncated_fraction),
        format::duration(wall)
    )
}

/// The settings of the evaluation as a recipe: the one given, or one made of the options.
fn recipe(args: &EvalArgs) -> Result<Recipe> {
    let mut recipe = match &args.recipe {
        Some(path) => Recipe::load(path, &[])?,
        None => made_recipe(args)?,
    };
    recipe.model.reference = args.model.clone();
    let eval = &mut recipe.eval;
    eval.samples = args.samples.unwrap_or(eval.samples);
    eval.temperature = args.temperature.unwrap_or(eval.temperature);
    eval.top_p = args.top_p.unwrap_or(eval.top_p);
    eval.problems = args.limit.unwrap_or(eval.problems);
    eval.max_tokens = args.max_tokens.unwrap_or(eval.max_tokens);
    eval.greedy |= eval.samples == 0;
    recipe.seed = args.seed.unwrap_or(recipe.seed);
    recipe.validate()?;
    Ok(recipe)
}

fn made_recipe(args: &EvalArgs) -> Result<Recipe> {
    let name = args.prompt_format.as_deref().unwrap_or("hashes");
    let known: Vec<&PromptFormat> =
        PROMPT_FORMATS.iter().filter(|format| format.for_tasks || args.data.is_some()).collect();
    let names: Vec<&str> = known.iter().map(|format| format.name).collect();
    let format = known.iter().find(|format| format.name == name);
    let format = format.ok_or_else(|| unknown("--prompt-format", name, &names))?;
    let mut recipe = Recipe::from_toml(MADE_RECIPE, &[])?;
    recipe.model.system = format.system.into();
    recipe.task = match (&args.data, &args.task) {
        (Some(file), _) => TaskSection::Jsonl(JsonlTask {
            train: file.clone(),
            test: String::new(),
            question_field: args.question_field.clone(),
            answer_field: args.answer_field.clone(),
            template: format.template.into(),
            answer_format: format.answer,
        }),
        (None, task) => {
            let task = task.as_deref().unwrap_or_default();
            if !TASKS.contains(&task) {
                return Err(unknown("--task", task, &TASKS));
            }
            let answer = format.name;
            let overrides = [format!("task.problems=\"{task}\""), format!("task.answer_format=\"{answer}\"")];
            Recipe::from_toml(MADE_RECIPE, &overrides)?.task
        }
    };
    recipe.reward.scorer = match (&args.scorer, format.answer) {
        (Some(name), _) => {
            let names = SCORERS.map(|(name, _)| name);
            let scorer = SCORERS.iter().find(|(known, _)| known == name);
            scorer.ok_or_else(|| unknown("--scorer", name, &names))?.1
        }
        (None, AnswerFormat::Hashes) => Scorer::Gsm8kStrict,
        (None, AnswerFormat::Boxed) => Scorer::Boxed,
        (None, AnswerFormat::Plain) => Scorer::Plain,
    };
    Ok(recipe)
}

fn unknown(option: &str, name: &str, known: &[&str]) -> anyhow::Error {
    Usage(format!("{option} {name}: unknown; known are {}", known.join(", "))).into()
}

fn measure(
    cpu: &Cpu,
    opened: &Opened,
    recipe: &Recipe,
    prompts: &[(Problem, Vec<u32>)],
    screen: &Screen,
) -> Result<Vec<Evaluation>> {
    let (model, tokenizer, eval) = (&opened.base.model, &opened.base.tokenizer, &recipe.eval);
    let stop = TextStop::new(tokenizer, &recipe.rollout.stop);
    let interrupt = AtomicBool::new(false);
    let max_tokens = if eval.max_tokens > 0 { eval.max_tokens } else { recipe.rollout.max_tokens };
    let longest = prompts.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    let total = prompts.len() * (eval.samples + usize::from(eval.greedy)) * opened.count().max(1);
    let (at_once, blocks) = room(model, longest, max_tokens, eval.samples.max(1), total);
    let settings = EvalSettings {
        samples: eval.samples,
        greedy: eval.greedy,
        sampling: Sampling { temperature: eval.temperature, top_p: eval.top_p, top_k: 0 },
        max_tokens,
        max_batch: at_once,
        seed: recipe.seed,
        stop: &stop,
        interrupt: &interrupt,
    };
    let mut rewarder = Rewarder::open(&recipe.reward, recipe.task.answer_format())?;
    let mut display = LoadingDisplay::new(screen.clone());
    let mut done = 0;
    let mut observe = |progress: Progress<'_>| {
        if let Progress::Finished { .. } = progress {
            done += 1;
            display.completions("evaluation", done, total as u64);
        }
    };
    let mut engine = Engine::new(cpu, model, blocks);
    let mut run = |adapters: Adapters<'_>, count: usize| {
        evaluate_each(&mut engine, tokenizer, adapters, count, prompts, settings, &mut rewarder, &mut observe)
    };
    let mut results: Vec<(usize, Evaluation)> = Vec::new();
    if opened.sets().is_empty() {
        results.extend(run(Adapters::NONE, 1)?.into_iter().enumerate());
    }
    for set in opened.sets() {
        let evaluations = set.with(|adapters| run(adapters, set.members.len()))?;
        results.extend(set.members.iter().copied().zip(evaluations));
    }
    display.finish();
    // As they were given, however they were sorted into sets.
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, evaluation)| evaluation).collect())
}

/// Sequences that run together, and KV blocks for them.
fn room(model: &Model, prompt: usize, new: usize, samples: usize, total: usize) -> (usize, usize) {
    let one = prompt.div_ceil(BLOCK_TOKENS) + new.div_ceil(BLOCK_TOKENS) + 1;
    let fitting = KV_BYTES / (one * KvCache::block_bytes(&model.config)).max(1);
    let at_once = fitting.min(MOST_AT_ONCE).min(total).max(1);
    // The samples of a problem are taken in together.
    (at_once, one * at_once.max(samples))
}

fn write(
    out: &Path,
    args: &EvalArgs,
    adapter: Option<&str>,
    recipe: &Recipe,
    opened: &Opened,
    cpu: &Cpu,
    evaluation: &Evaluation,
    wall: Duration,
) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let recipe_name = args.recipe.as_ref().map(|path| path.display().to_string());
    let problems =
        args.task.as_deref().or(args.data.as_deref()).or(recipe_name.as_deref()).unwrap_or_default();
    let summary = Summary {
        model: &args.model,
        model_sha256: &opened.base.sha256,
        adapter,
        problems,
        seed: recipe.seed,
        eval: &evaluation.result,
        wall_seconds: wall.as_secs_f64(),
        device: "cpu",
        kernel: cpu.kernel().name(),
        threads: cpu.threads(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let mut samples = String::new();
    for record in &evaluation.records {
        samples.push_str(&serde_json::to_string(record)?);
        samples.push('\n');
    }
    tinylora::atomic_file::write(&out.join("samples.jsonl"), samples.as_bytes())?;
    let summary = serde_json::to_string_pretty(&summary)? + "\n";
    tinylora::atomic_file::write(&out.join("summary.json"), summary.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn made(options: &[&str]) -> Result<Recipe> {
        let line = ["tinylora", "eval", "--model", "m"].iter().chain(options);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Eval(args) => recipe(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_task_prompt_format_and_scorer_makes_a_recipe() {
        for task in TASKS {
            for format in PROMPT_FORMATS.iter().filter(|format| format.for_tasks) {
                let recipe = made(&["--task", task, "--prompt-format", format.name]).unwrap();
                assert_eq!(recipe.task.answer_format(), format.answer);
                assert_eq!(recipe.eval.problems, 512);
            }
        }
        for format in &PROMPT_FORMATS {
            let recipe = made(&["--data", "f.jsonl", "--prompt-format", format.name]).unwrap();
            assert_eq!(recipe.model.system, format.system);
        }
        for ((name, scorer), format) in SCORERS.into_iter().zip(["hashes", "hashes", "boxed", "plain"]) {
            let recipe = made(&["--task", "sum", "--scorer", name, "--prompt-format", format]).unwrap();
            assert_eq!(recipe.reward.scorer, scorer);
        }
        let error = made(&["--task", "sum", "--scorer", "boxed"]).unwrap_err();
        assert_eq!(crate::failure::status(&error), crate::failure::USAGE);
    }

    #[test]
    fn options_reach_the_recipe() {
        let recipe = made(&["--task", "chain", "--samples", "0", "--limit", "7", "--seed", "3"]).unwrap();
        assert_eq!(
            (recipe.eval.samples, recipe.eval.greedy, recipe.eval.problems, recipe.seed),
            (0, true, 7, 3)
        );
        assert_eq!(recipe.model.reference, "m");
    }

    #[test]
    fn unknown_names_tell_the_known_ones() {
        let message = made(&["--task", "sums"]).unwrap_err().to_string();
        assert_eq!(
            message,
            "--task sums: unknown; known are sum, difference, product, chain, word-one-step, word-two-step"
        );
        let message = made(&["--task", "sum", "--prompt-format", "abel"]).unwrap_err().to_string();
        assert_eq!(message, "--prompt-format abel: unknown; known are hashes, boxed, plain");
    }
}
