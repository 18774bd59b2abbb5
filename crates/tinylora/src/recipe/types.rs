//! The resolved run settings, one struct a table of the recipe. Every field is present and valid:
//! what the user left out has been filled in, so that a written-out recipe reproduces the run.

use super::Benchmark;
use super::learning::{GrpoSection, Learner, OptimizerSection, SftSection};
use super::prompts::{PromptFormat, prompt_format};
use serde::{Deserialize, Serialize};

/// A complete, validated recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run; the default output folder is `runs/<name>`.
    pub name: String,
    /// Seed of everything random in the run (task problems, sampling, initialisation).
    #[serde(default)]
    pub seed: u64,
    /// How the adapter learns.
    #[serde(default)]
    pub learner: Learner,
    /// The base model.
    pub model: ModelSection,
    /// What is trained.
    #[serde(default)]
    pub adapter: AdapterSection,
    /// Where problems come from.
    pub task: TaskSection,
    /// How a completion becomes a score.
    #[serde(default)]
    pub reward: RewardSection,
    /// How completions are sampled during training.
    #[serde(default)]
    pub rollout: RolloutSection,
    /// The loss of reinforcement learning.
    #[serde(default)]
    pub grpo: GrpoSection,
    /// Supervised finetuning, where that is the learner.
    #[serde(default)]
    pub sft: SftSection,
    /// Optimizer and learning-rate schedule.
    #[serde(default)]
    pub optimizer: OptimizerSection,
    /// Length of the run, checkpoints, evaluation during training.
    #[serde(default)]
    pub train: TrainSection,
    /// Held-out evaluation.
    #[serde(default)]
    pub eval: EvalSection,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A model reference (folder, `.gguf`, `org/name@revision`, short name, `pypi:…`).
    #[serde(rename = "ref")]
    pub reference: String,
    /// Precision in which matrices are held in memory.
    #[serde(default)]
    pub dtype: WeightDtype,
    /// Whether products may round activations to bf16 where the processor multiplies bf16.
    #[serde(default)]
    pub numerics: Numerics,
    /// Memory that weights, trained numbers, KV cache and kept activations may take together, in bytes.
    /// Written as a number or as text such as `"8 GiB"`. 0 means three quarters of the machine's memory.
    #[serde(default, with = "super::forms::bytes")]
    pub memory: u64,
    /// Use the model's chat template for prompts. Off: the prompt is plain text.
    #[serde(default = "yes")]
    pub chat_template: bool,
    /// System message put before every prompt; empty: none (the template may add its own).
    #[serde(default)]
    pub system: String,
}

/// Precision of the frozen matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// bfloat16 weights, f32 accumulation.
    #[default]
    Bf16,
    /// f32 weights: the reference mode of the parity tests.
    F32,
}

/// What a faster product may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numerics {
    /// Activations stay f32: the same bits on every processor, gradients within 1e-4 of f32 elsewhere.
    #[default]
    Exact,
    /// The fastest that the processor has: the KV cache of a bf16 model is in 16 bits, and with its bf16 products activations are
    /// rounded to bf16, which moves gradients by some per cent. Sampling and training still agree to the bit.
    Fast,
}

/// `[adapter]`: `W' = W + scale · U Σ R Vᵀ`, where TinyLoRA (paper, section 4) has `R = Σ_i v_i P_i`, and LoRA-XS trains R;
/// or `W' = W + alpha/rank · B A`, where LoRA trains A and B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterSection {
    /// What is trained.
    pub kind: AdapterKind,
    /// r: how many singular triplets of each matrix are kept; for LoRA, rows of A and columns of B.
    pub rank: usize,
    /// u: how many numbers each v holds.
    pub u: usize,
    /// How many modules share one v; 0 (written `"all"`): every module. 1 where `tying` is none.
    #[serde(with = "super::forms::n_tie")]
    pub n_tie: usize,
    /// Which modules share.
    pub tying: Tying,
    /// Module names that get the adapter.
    pub targets: Vec<String>,
    /// Seed of the fixed random P.
    pub projection_seed: u64,
    /// Distribution of P's entries.
    pub projection: Projection,
    /// v starts uniform in ±init_bound; 0 means zeros.
    pub init_bound: f32,
    /// Factor on the whole update.
    pub scale: f32,
    /// LoRA: the update is multiplied by alpha / rank.
    pub alpha: f32,
    /// LoRA: by alpha / √rank instead (Kalajdzievski 2023).
    pub rslora: bool,
    /// Precision in which v is stored; v is rounded to it after every update.
    pub storage_precision: StoragePrecision,
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdapterKind {
    /// u numbers and as many fixed random matrices.
    #[serde(rename = "tinylora")]
    TinyLora,
    /// r² numbers a module: R itself (Bałazy et al. 2024, arXiv 2405.17604).
    #[serde(rename = "lora-xs")]
    LoraXs,
    /// All weights of the model, without an adapter.
    #[serde(rename = "full")]
    Full,
    /// A and B of each module (Hu et al. 2021).
    #[serde(rename = "lora")]
    Lora,
}

impl AdapterKind {
    /// As a recipe names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TinyLora => "tinylora",
            Self::LoraXs => "lora-xs",
            Self::Full => "full",
            Self::Lora => "lora",
        }
    }

    /// Whether numbers make up R between factors of the base: TinyLoRA and LoRA-XS.
    pub fn is_projected(self) -> bool {
        matches!(self, Self::TinyLora | Self::LoraXs)
    }
}

/// How modules are put into groups that share one v.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tying {
    /// Modules in depth order, whatever their type: layer 0's q, k, v, o, gate, up, down, then layer 1's.
    Tiled,
    /// Modules of the same type, by depth: q of layer 0, 1, …, then k of layer 0, 1, …
    Structured,
    /// Each module has its own v.
    None,
}

/// Distribution of P.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// Independent normal entries with variance 1/r.
    Normal,
    /// Independent uniform entries with mean 0 and variance 1/r.
    Uniform,
    /// Not random: P_i has a single 1, at entry i, so that v is R. LoRA-XS.
    Basis,
}

/// Precision of the stored v.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoragePrecision {
    /// bfloat16: 13 numbers are 26 bytes.
    Bf16,
    /// IEEE half.
    Fp16,
    /// IEEE single.
    Fp32,
}

impl Default for AdapterSection {
    fn default() -> Self {
        Self {
            kind: AdapterKind::TinyLora,
            rank: 2,
            u: 1,
            n_tie: 16,
            tying: Tying::Tiled,
            targets: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
                .map(String::from)
                .to_vec(),
            projection_seed: 42,
            projection: Projection::Normal,
            init_bound: 0.0,
            scale: 1.0,
            alpha: 32.0,
            rslora: false,
            storage_precision: StoragePrecision::Fp32,
        }
    }
}

/// `[task]`: where problems come from, chosen by `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum TaskSection {
    /// Procedural arithmetic.
    Arithmetic(ArithmeticTask),
    /// A JSONL file.
    Jsonl(JsonlTask),
    /// A benchmark by name.
    Benchmark(BenchmarkTask),
    /// No problems: supervised finetuning on `sft.data`, without evaluation.
    #[serde(rename = "none")]
    Nothing,
}

/// Procedural arithmetic problems: an endless training stream and a held-out set that never meet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArithmeticTask {
    /// Which problems.
    pub problems: ArithmeticKind,
    /// How many numbers a sum, difference, product or chain has; word problems have their own.
    #[serde(default = "two")]
    pub terms: usize,
    /// Smallest operand. (The first number of a difference is drawn so that the *result* lies between
    /// `min` and `max`; word problems use no number below 2.)
    #[serde(default = "one_i64")]
    pub min: i64,
    /// Largest operand.
    #[serde(default = "twenty")]
    pub max: i64,
    /// Worked examples put before the question; the same ones for every prompt.
    #[serde(default = "one")]
    pub examples: usize,
    /// Where worked examples stand.
    #[serde(default)]
    pub example_form: ExampleForm,
    /// What a worked example shows before its answer.
    #[serde(default)]
    pub worked: WorkedForm,
    /// How the answer is asked for and shown in the worked examples.
    #[serde(default)]
    pub answer_format: AnswerFormat,
    /// Share of the problem space that is kept for the held-out set.
    #[serde(default = "one_fifth")]
    pub held_out_share: f64,
}

/// Where worked examples stand, for models with a chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExampleForm {
    /// Each is a turn of the conversation: the question from the user, the answer from the assistant.
    #[default]
    Turns,
    /// All are text in the user's one message, before the question.
    Text,
}

/// What a worked example shows before its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkedForm {
    /// Nothing: only the answer.
    #[default]
    Direct,
    /// Each operation with its result.
    Steps,
}

/// Kinds of procedural problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArithmeticKind {
    /// a + b + …
    Sum,
    /// a - b - …
    Difference,
    /// a * b * …
    Product,
    /// +, - and * mixed, from left to right; parentheses show the order: `(3 + 4) * 2`.
    Chain,
    /// One-step word problems.
    WordOneStep,
    /// Two-step word problems.
    WordTwoStep,
}

/// Answer formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerFormat {
    /// `#### n`, as in GSM8K.
    #[default]
    Hashes,
    /// `\boxed{n}`
    Boxed,
    /// The bare number.
    Plain,
}

/// Problems from a JSONL file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonlTask {
    /// The training file.
    pub train: String,
    /// The held-out file; empty: the last `[eval] problems` rows of the training file are held out.
    /// Training rows whose question is also held out are left out of training.
    #[serde(default)]
    pub test: String,
    /// Field with the question.
    #[serde(default = "question")]
    pub question_field: String,
    /// Field with the gold answer (GSM8K's `… #### n` is understood).
    #[serde(default = "answer")]
    pub answer_field: String,
    /// The prompt, with `{question}` in it.
    #[serde(default = "question_template")]
    pub template: String,
    /// The form in which the template asks for the answer; the strict score looks for it.
    #[serde(default)]
    pub answer_format: AnswerFormat,
}

/// Problems of a benchmark: trained on its training split, measured on its test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkTask {
    /// Which one.
    pub name: Benchmark,
    /// Its training rows: a file, or a folder with `NAME/train.jsonl` in it; empty: its file on the Hub.
    #[serde(default)]
    pub train: String,
    /// Its test rows, likewise; the first `[eval] problems` of them are held out.
    #[serde(default)]
    pub test: String,
    /// How a question is put, by name ([`super::PROMPT_FORMATS`]). Left out: as is usual for the benchmark.
    #[serde(default)]
    pub prompt_format: String,
    /// Worked examples before each question.
    #[serde(default)]
    pub shots: usize,
}

impl BenchmarkTask {
    /// The prompt format; none where the name is unknown.
    pub fn format(&self) -> Option<&'static PromptFormat> {
        let usual = self.name.about().prompt_format;
        prompt_format(if self.prompt_format.is_empty() { usual } else { &self.prompt_format })
    }
}

impl TaskSection {
    /// The form in which answers are asked for.
    pub fn answer_format(&self) -> AnswerFormat {
        match self {
            Self::Arithmetic(task) => task.answer_format,
            Self::Jsonl(task) => task.answer_format,
            Self::Nothing => AnswerFormat::default(),
            Self::Benchmark(task) => {
                task.format().map_or_else(AnswerFormat::default, |format| format.answer_for(task.name))
            }
        }
    }
}

/// `[reward]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSection {
    /// Which score is the reward. Left out, it follows the task's answer format.
    pub scorer: Scorer,
    /// External command (program and arguments), for `scorer = "command"`.
    pub command: Vec<String>,
    /// Seconds that the external command may take for one batch.
    pub timeout_seconds: f64,
    /// DAPO's soft overlong penalty: it begins so many tokens before `rollout.max_tokens`; 0: none.
    pub overlong_tokens: usize,
    /// What is taken from the reward at `rollout.max_tokens`; before it less, on a line.
    pub overlong_penalty: f32,
}

/// Scorers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scorer {
    /// The last `#### n` must equal the gold.
    Gsm8kStrict,
    /// The last number of the completion must equal the gold.
    Gsm8kFlexible,
    /// The last `\boxed{n}` must equal the gold.
    Boxed,
    /// The last line must be the gold.
    Plain,
    /// The external command's number.
    Command,
    /// The answer means what the gold means: [`tinylora_verify::Scorer::Robust`].
    Robust,
    /// Qwen2.5-Math's evaluation.
    Qwen,
    /// Qwen2.5-Math's evaluation with units kept, as for Minerva.
    QwenUnits,
    /// Math-Verify 0.8.
    MathVerify,
    /// The last box as normalised text (Hendrycks et al. 2021).
    Math,
}

impl Scorer {
    /// The verifier's rules that it stands for; none for those that look at the task's form or run a command.
    pub fn rules(self) -> Option<tinylora_verify::Scorer> {
        match self {
            Self::Robust => Some(tinylora_verify::Scorer::Robust),
            Self::Qwen => Some(tinylora_verify::Scorer::Qwen),
            Self::QwenUnits => Some(tinylora_verify::Scorer::QwenUnits),
            Self::MathVerify => Some(tinylora_verify::Scorer::MathVerify),
            Self::Math => Some(tinylora_verify::Scorer::Math),
            Self::Gsm8kStrict | Self::Gsm8kFlexible | Self::Boxed | Self::Plain | Self::Command => None,
        }
    }
}

impl Default for RewardSection {
    fn default() -> Self {
        Self {
            scorer: Scorer::Gsm8kStrict,
            command: Vec::new(),
            timeout_seconds: 60.0,
            overlong_tokens: 0,
            overlong_penalty: 1.0,
        }
    }
}

/// `[rollout]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutSection {
    /// Prompts a step.
    pub prompts_per_step: usize,
    /// G: samples a prompt.
    pub samples_per_prompt: usize,
    /// Largest number of tokens of a completion.
    pub max_tokens: usize,
    /// Sampling temperature (> 0).
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens with at least this probability; 1 keeps all.
    pub top_p: f32,
    /// Only the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// A completion ends when its text contains one of these (besides the model's end tokens).
    pub stop: Vec<String>,
    /// Sequences decoded together at most; 0: as many as memory allows.
    pub max_batch: usize,
    /// Further rounds of sampling at most, each with as many prompts as groups with an advantage are missing.
    pub refill_rounds: usize,
    /// Completions are sampled by the adapter of so many steps before.
    pub staleness: usize,
}

impl Default for RolloutSection {
    fn default() -> Self {
        Self {
            prompts_per_step: 64,
            samples_per_prompt: 4,
            max_tokens: 1024,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            stop: Vec::new(),
            max_batch: 0,
            refill_rounds: 0,
            staleness: 0,
        }
    }
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// Steps of the run (a step: one batch of rollouts and its updates); 0: from `epochs`.
    pub steps: usize,
    /// Passes over the training file, where the task has an end.
    pub epochs: usize,
    /// Save a checkpoint every this many steps (the last step is always saved); 0: only the last.
    pub checkpoint_every: usize,
    /// Checkpoints kept; older ones are removed; 0 keeps all.
    pub keep_checkpoints: usize,
    /// Evaluate every this many steps; 0: only before and after.
    pub eval_every: usize,
    /// Write a sample to the display every this many steps; 0: never.
    pub sample_every: usize,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            steps: 0,
            epochs: 3,
            checkpoint_every: 10,
            keep_checkpoints: 3,
            eval_every: 0,
            sample_every: 5,
        }
    }
}

/// `[eval]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Held-out problems; 0: no evaluation.
    pub problems: usize,
    /// Temperature of the sampled accuracy.
    pub temperature: f32,
    /// Nucleus of the sampled accuracy.
    pub top_p: f32,
    /// Samples a problem for the sampled accuracy; 0: greedy only.
    pub samples: usize,
    /// Also decode greedily.
    pub greedy: bool,
    /// Largest number of tokens of a completion; 0: as in `[rollout]`.
    pub max_tokens: usize,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self { problems: 512, temperature: 1.0, top_p: 1.0, samples: 1, greedy: true, max_tokens: 0 }
    }
}

fn yes() -> bool {
    true
}
fn one() -> usize {
    1
}
fn two() -> usize {
    2
}
fn one_i64() -> i64 {
    1
}
fn twenty() -> i64 {
    20
}
fn one_fifth() -> f64 {
    0.2
}
fn question() -> String {
    "question".into()
}
fn answer() -> String {
    "answer".into()
}
fn question_template() -> String {
    "{question}".into()
}
