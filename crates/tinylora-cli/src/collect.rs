//! `tinylora collect`: a recipe enters, right answers to its training problems leave in a file that supervised
//! finetuning reads.

use crate::eval::room;
use crate::failure::{DONE, INTERRUPTED, Usage};
use crate::loading::LoadingDisplay;
use crate::open::{self, Opened};
use crate::precision::{DeviceArg, Dtype};
use crate::report::shell_word;
use crate::screen::Screen;
use crate::{format, interrupt};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tinylora::base::Loading;
use tinylora::collect::{Asked, Choose, CollectRun, CollectSummary, Selection, collect};
use tinylora::data::TaskData;
use tinylora::hub::{self, HubOptions};
use tinylora::inference::{Engine, Sampling};
use tinylora::recipe::{Recipe, WeightDtype};
use tinylora::reward::Rewarder;
use tinylora::rollout::encode_prompt;

/// `tinylora collect`
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// The recipe, a TOML file: model, task, scorer and sampling are its own
    #[arg(value_name = "RECIPE.toml")]
    pub recipe: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: PathBuf,
    /// Change one setting of the recipe; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Sample with an adapter: an adapter.tinylora file, or its text form "tinylora:…" [default: none]
    #[arg(long, value_name = "FILE")]
    pub adapter: Option<String>,
    /// Problems of the training side, in its order [default: all of a data set, 512 of an arithmetic task]
    #[arg(long, value_name = "N")]
    pub problems: Option<usize>,
    /// Completions a problem
    #[arg(long, value_name = "K", default_value_t = 8)]
    pub samples: usize,
    /// Randomness of the choice of tokens [default: rollout.temperature]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Which completions are written: right (and not cut off), or all
    #[arg(long, value_enum, hide_possible_values = true, value_name = "right|all", default_value = "right")]
    pub keep: Keep,
    /// At most this many a problem; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub most: usize,
    /// Which come first under --most: first (as sampled) or shortest
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "first|shortest",
        default_value = "first"
    )]
    pub choose: Order,
    /// Keep completions of a problem that say the same
    #[arg(long)]
    pub duplicates: bool,
    /// cpu, cuda (an NVIDIA GPU) or auto (a GPU if there is one) [default: TINYLORA_DEVICE, else cpu]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "DEVICE")]
    pub device: Option<DeviceArg>,
    /// Go on with what was begun; begin where nothing was
    #[arg(long)]
    pub resume: bool,
}

/// `--keep`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Keep {
    /// Right and whole.
    Right,
    /// All.
    All,
}

/// `--choose`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// As sampled.
    First,
    /// By length.
    Shortest,
}

/// Of a task without an end.
const USUAL_PROBLEMS: usize = 512;

/// Runs the command; gives the exit status.
pub fn run(args: &CollectArgs) -> Result<u8> {
    if args.samples == 0 || args.samples > 1 << 16 || args.problems == Some(0) {
        return Err(Usage("--samples must be 1 to 65536, and --problems at least 1".into()).into());
    }
    let recipe = recipe(args)?;
    let screen = Screen::stderr();
    let stop = Arc::new(AtomicBool::new(false));
    watch_interrupts(screen.clone(), stop.clone())?;
    let data = open_data(&recipe, &screen)?;
    let cpu = open::device(recipe.model.numerics, args.device)?;
    let dtype = match recipe.model.dtype {
        WeightDtype::Bf16 => Dtype::Bf16,
        WeightDtype::F32 => Dtype::F32,
    };
    let adapters: Vec<&str> = args.adapter.as_deref().into_iter().collect();
    let opened = Opened::with(&cpu, &recipe.model.reference, &adapters, dtype, 0, &screen)?;
    let tokenizer = &opened.base.tokenizer;
    let problems = problems(args, &recipe, &data, &opened)?;
    let longest = problems.iter().map(|asked| asked.tokens.len()).max().unwrap_or(0);
    let total = problems.len() * args.samples;
    let (at_once, blocks) = room(&cpu, &opened.base.model, longest, recipe.rollout.max_tokens, 1, total);
    let settings = settings(args, &recipe, &opened.base.sha256, problems.len())?;
    let run = CollectRun {
        problems: &problems,
        chat: recipe.model.chat_template && tokenizer.has_chat_template(),
        samples: args.samples,
        sampling: Sampling {
            temperature: recipe.rollout.temperature,
            top_p: recipe.rollout.top_p,
            top_k: recipe.rollout.top_k,
        },
        max_tokens: recipe.rollout.max_tokens,
        max_batch: at_once,
        seed: recipe.seed,
        stop: &recipe.rollout.stop,
        settings: &settings,
        selection: Selection {
            all: args.keep == Keep::All,
            most: args.most,
            choose: if args.choose == Order::Shortest { Choose::Shortest } else { Choose::First },
            duplicates: args.duplicates,
        },
        interrupt: &stop,
    };
    let mut rewarder = Rewarder::open(&recipe.reward, recipe.task.answer_format())?;
    let mut engine = Engine::new(&cpu, &opened.base.model, blocks);
    let mut display = LoadingDisplay::new(screen.clone());
    let place = (&*args.out, args.resume);
    let collected =
        collect(&mut engine, tokenizer, opened.policy(), &run, &mut rewarder, place, &mut |done, of, _| {
            display.completions("completions", done as u64, of as u64);
        });
    display.finish();
    match collected? {
        Some(summary) => {
            println!("{}", told(&summary, args));
            Ok(DONE)
        }
        None => {
            screen.print("stopped; what is finished is kept, go on with the same command and --resume");
            Ok(INTERRUPTED)
        }
    }
}

fn recipe(args: &CollectArgs) -> Result<Recipe> {
    let temperature = args.temperature.map(|temperature| format!("rollout.temperature={temperature:?}"));
    let overrides: Vec<String> = args.set.iter().cloned().chain(temperature).collect();
    Ok(Recipe::load(&args.recipe, &overrides)?)
}

/// First press: what is finished is kept. Second press: out, at once.
fn watch_interrupts(screen: Screen, stop: Arc<AtomicBool>) -> Result<()> {
    interrupt::on_press(move |press| {
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if press > 1 {
            screen.clear();
            std::process::exit(INTERRUPTED.into());
        }
    })
}

fn open_data(recipe: &Recipe, screen: &Screen) -> Result<TaskData> {
    let mut display = LoadingDisplay::new(screen.clone());
    let opened = TaskData::open(recipe, &HubOptions::from_env(), &mut |progress| {
        display.take(&Loading::Hub(progress));
    });
    display.finish();
    Ok(opened?)
}

/// The problems, each once, with their prompts.
fn problems(args: &CollectArgs, recipe: &Recipe, data: &TaskData, opened: &Opened) -> Result<Vec<Asked>> {
    let all = data.training_rows().map(<[_]>::len);
    let wanted = args.problems.unwrap_or(all.unwrap_or(USUAL_PROBLEMS));
    let wanted = all.map_or(wanted, |all| wanted.min(all));
    let mut seen = HashSet::new();
    let mut problems = Vec::with_capacity(wanted);
    for problem in data.train_problems(0, wanted) {
        // A small arithmetic task draws some problems twice.
        if !seen.insert(problem.id.clone()) {
            continue;
        }
        let prompt = data.prompt(&problem);
        let tokens = encode_prompt(&opened.base.tokenizer, &prompt, recipe.model.chat_template)?;
        problems.push(Asked { problem, prompt, tokens });
    }
    if problems.is_empty() {
        return Err(Usage("the recipe's task has no problems to answer".into()).into());
    }
    Ok(problems)
}

/// What decides the completions.
fn settings(args: &CollectArgs, recipe: &Recipe, sha256: &str, problems: usize) -> Result<String> {
    let adapter = match args.adapter.as_deref() {
        None => "none".to_owned(),
        Some(text) if text.starts_with("tinylora:") => text.to_owned(),
        Some(file) => {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
            hub::bytes_sha256(&bytes)
        }
    };
    let samples = args.samples;
    Ok(format!(
        "model {sha256}\nadapter {adapter}\nproblems {problems}\nsamples {samples}\n{}",
        recipe.to_toml()
    ))
}

fn told(summary: &CollectSummary, args: &CollectArgs) -> String {
    let share = |part: usize, of: usize| format::percent(part as f64 / of.max(1) as f64);
    let out = shell_word(&args.out.display().to_string());
    let mut text = format!(
        "{} of {} completions are right ({}); {} rows of {} of {} problems in {out}",
        summary.right,
        summary.completions,
        share(summary.right, summary.completions),
        summary.rows,
        summary.with_rows,
        summary.problems,
    );
    if summary.rows > 0 {
        let recipe = shell_word(&args.recipe.display().to_string());
        text.push_str(&format!(
            "\nlearn from them: tinylora train {recipe} --set learner=sft --set sft.data={out}"
        ));
    }
    text
}
