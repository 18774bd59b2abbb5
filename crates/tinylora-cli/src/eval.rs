//! `tinylora eval`: problems enter, accuracies with 95 % intervals leave on standard output, and every completion
//! in a file if a folder is given.

use crate::args::{EvalArgs, EvalCommand};
use crate::display::accuracy_line;
use crate::failure::{DONE, Usage};
use crate::loading::LoadingDisplay;
use crate::open::{self, Opened};
use crate::screen::Screen;
use crate::{benchmark, compare, format, interrupt};
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
use tinylora::model::{Adapters, KvCache, Model, Policy, kv_precision};
use tinylora::recipe::{
    AVERAGES, AnswerFormat, Benchmark, JsonlTask, PROMPT_FORMATS, Recipe, Scorer, TaskSection, nearest,
    prompt_format,
};
use tinylora::reward::Rewarder;
use tinylora::rollout::encode_prompt;
use tinylora::run_folder::EvalResult;
use tinylora_compute::Cpu;
use tinylora_compute::attention::BLOCK_TOKENS;

/// How the problems of a built-in task ask for their answers, in a worked example instead of words.
const TASK_FORMATS: [(&str, AnswerFormat); 3] =
    [("hashes", AnswerFormat::Hashes), ("boxed", AnswerFormat::Boxed), ("plain", AnswerFormat::Plain)];

/// How a question is put to the model.
struct Format {
    system: &'static str,
    template: &'static str,
    answer: AnswerFormat,
    /// Plain text even where the model has a chat template.
    plain: bool,
    stop: &'static [&'static str],
}

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

/// Runs the command; gives the exit status.
pub fn run(args: &EvalArgs) -> Result<u8> {
    if let Some(EvalCommand::Compare(args)) = &args.other {
        compare::run(args)?;
        return Ok(DONE);
    }
    match benchmark::named(args)? {
        Some(benchmarks) => benchmark::run(args, &benchmarks),
        None => run_task(args).map(|()| DONE),
    }
}

/// Problems of a task, a file or a recipe.
fn run_task(args: &EvalArgs) -> Result<()> {
    let benchmarks_only = [
        ("--shots", args.shots.is_some()),
        ("--shots-from", args.shots_from.is_some()),
        ("--resume", args.resume),
    ];
    if let Some((option, _)) = benchmarks_only.iter().find(|(_, given)| *given) {
        return Err(Usage(format!("{option} goes with a benchmark: --task gsm8k, say")).into());
    }
    interrupt::leave_at_once()?;
    let recipe = recipe(args)?;
    let screen = Screen::stderr();
    let data = open_data(args, &recipe, &screen)?;
    let problems = match args.limit {
        Some(limit) => data.held_out(limit)?,
        None => data.all_held_out().to_vec(),
    };
    let cpu = open::device(args.numerics.into(), args.device)?;
    let adapters: Vec<&str> = args.adapter.iter().map(String::as_str).collect();
    let opened = Opened::with(&cpu, args.model(), &adapters, args.dtype, 0, &screen)?;
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
    recipe.model.reference = args.model().to_owned();
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
    let format = chosen_format(args)?;
    let mut recipe = Recipe::from_toml(MADE_RECIPE, &[])?;
    recipe.model.system = format.system.into();
    recipe.model.chat_template = !format.plain;
    recipe.rollout.stop = format.stop.iter().map(|text| text.to_string()).collect();
    let field = |given: &Option<String>, usual: &str| given.clone().unwrap_or_else(|| usual.into());
    recipe.task = match (&args.data, &args.task) {
        (Some(file), None) => TaskSection::Jsonl(JsonlTask {
            train: file.clone(),
            test: String::new(),
            question_field: field(&args.question_field, "question"),
            answer_field: field(&args.answer_field, "answer"),
            template: format.template.into(),
            answer_format: format.answer,
        }),
        (_, task) => {
            let task = task.as_deref().unwrap_or_default();
            if !TASKS.contains(&task) {
                return Err(unknown_task(task));
            }
            if args.data.is_some() || args.question_field.is_some() || args.answer_field.is_some() {
                let message =
                    format!("--task {task} makes its own problems: leave out --data and its fields");
                return Err(Usage(message).into());
            }
            let answer = args.prompt_format.as_deref().unwrap_or("hashes");
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

/// The format that is asked for: of a task its answer's form alone, of a file any.
fn chosen_format(args: &EvalArgs) -> Result<Format> {
    let name = args.prompt_format.as_deref().unwrap_or("hashes");
    let of_file = args.data.is_some() && args.task.is_none();
    let of_task = TASK_FORMATS.iter().find(|(known, _)| *known == name);
    match (of_task, prompt_format(name).filter(|_| of_file)) {
        (Some(&(_, answer)), _) => {
            let asking = match answer {
                AnswerFormat::Hashes => prompt_format("gsm8k"),
                AnswerFormat::Boxed => prompt_format("qwen-boxed"),
                AnswerFormat::Plain => prompt_format("chat"),
            };
            let template = asking.map_or("{question}", |format| format.template);
            Ok(Format { system: "", template, answer, plain: false, stop: &[] })
        }
        (None, Some(format)) => Ok(Format {
            system: format.system,
            template: format.template,
            answer: format.answer.unwrap_or(AnswerFormat::Boxed),
            plain: format.plain,
            stop: format.stop,
        }),
        (None, None) => {
            let mut names: Vec<&str> = TASK_FORMATS.iter().map(|(name, _)| *name).collect();
            names.extend(PROMPT_FORMATS.iter().filter(|_| of_file).map(|format| format.name));
            Err(unknown("--prompt-format", name, &names))
        }
    }
}

/// All that `--task` knows, in the order in which help has it.
fn unknown_task(name: &str) -> anyhow::Error {
    let names: Vec<&str> = Benchmark::ALL
        .iter()
        .map(|benchmark| benchmark.name())
        .chain(AVERAGES.iter().map(|average| average.name))
        .chain(TASKS)
        .collect();
    unknown("--task", name, &names)
}

/// A name that is none of those known, as an error that offers the nearest.
pub fn unknown(option: &str, name: &str, known: &[&str]) -> anyhow::Error {
    let hint =
        nearest(name, known.iter().copied()).map_or(String::new(), |near| format!("; did you mean {near}?"));
    Usage(format!("{option} {name}: unknown; known are {}{hint}", known.join(", "))).into()
}

fn measure(
    cpu: &Cpu,
    opened: &Opened,
    recipe: &Recipe,
    prompts: &[(Problem, Vec<u32>)],
    screen: &Screen,
) -> Result<Vec<Evaluation>> {
    let (model, tokenizer, eval) = (&opened.base.model, &opened.base.tokenizer, &recipe.eval);
    let interrupt = AtomicBool::new(false);
    let max_tokens = if eval.max_tokens > 0 { eval.max_tokens } else { recipe.rollout.max_tokens };
    let longest = prompts.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    let total = prompts.len() * (eval.samples + usize::from(eval.greedy)) * opened.count().max(1);
    let (at_once, blocks) = room(cpu, model, longest, max_tokens, eval.samples.max(1), total);
    let settings = EvalSettings {
        samples: eval.samples,
        greedy: eval.greedy,
        sampling: Sampling { temperature: eval.temperature, top_p: eval.top_p, top_k: 0 },
        max_tokens,
        max_batch: at_once,
        seed: recipe.seed,
        stop: &recipe.rollout.stop,
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
        let policy = Policy::new(model, adapters);
        evaluate_each(&mut engine, tokenizer, policy, count, prompts, settings, &mut rewarder, &mut observe)
    };
    let mut results: Vec<(usize, Evaluation)> = Vec::new();
    if opened.sets().is_empty() {
        results.extend(run(Adapters::NONE, 1)?.into_iter().enumerate());
    }
    for set in opened.sets() {
        let evaluations = run(set.adapters(), set.members.len())?;
        results.extend(set.members.iter().copied().zip(evaluations));
    }
    display.finish();
    // As they were given, however they were sorted into sets.
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, evaluation)| evaluation).collect())
}

/// Sequences that run together, and KV blocks for them.
pub fn room(
    cpu: &Cpu,
    model: &Model,
    prompt: usize,
    new: usize,
    samples: usize,
    total: usize,
) -> (usize, usize) {
    let one = prompt.div_ceil(BLOCK_TOKENS) + new.div_ceil(BLOCK_TOKENS) + 1;
    let fitting =
        KV_BYTES / (one * KvCache::block_bytes(&model.config, kv_precision(cpu, model.precision()))).max(1);
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
        model: args.model(),
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
            for (name, answer) in TASK_FORMATS {
                let recipe = made(&["--task", task, "--prompt-format", name]).unwrap();
                assert_eq!(recipe.task.answer_format(), answer);
                assert_eq!(recipe.eval.problems, 512);
            }
        }
        for format in &PROMPT_FORMATS {
            let recipe = made(&["--data", "f.jsonl", "--prompt-format", format.name]).unwrap();
            assert_eq!(recipe.model.system, format.system);
            assert_eq!(recipe.model.chat_template, !format.plain);
        }
        for ((name, scorer), format) in SCORERS.into_iter().zip(["hashes", "hashes", "boxed", "plain"]) {
            let recipe = made(&["--task", "sum", "--scorer", name, "--prompt-format", format]).unwrap();
            assert_eq!(recipe.reward.scorer, scorer);
        }
        let error = made(&["--task", "sum", "--scorer", "boxed"]).unwrap_err();
        assert_eq!(crate::failure::status(&error), crate::failure::USAGE);
        let error = made(&["--task", "sum", "--data", "f.jsonl"]).unwrap_err();
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
        assert!(message.starts_with("--task sums: unknown; known are gsm8k, math, math500, "), "{message}");
        assert!(message.ends_with("word-one-step, word-two-step; did you mean sum?"), "{message}");
        let message = made(&["--task", "sum", "--prompt-format", "abel"]).unwrap_err().to_string();
        assert!(
            message.starts_with("--prompt-format abel: unknown; known are hashes, boxed, plain"),
            "{message}"
        );
    }
}
