//! From a recipe to everything that a step needs: folder, base, adapter, data, memory; and back from a
//! checkpoint.

use super::memory::{self, MemoryError, MemoryPlan};
use super::{Carried, Event, State};
use crate::adapter::{AdapterFileError, RunMetadata, TinyLoraSpec};
use crate::atomic_file::AtomicFileError;
use crate::base::{Adapter, Base, BaseError, Loading};
use crate::checkpoint::{self, CheckpointError};
use crate::data::{DataError, Problem, TaskData};
use crate::evaluate::{EvalSettings, EvaluateError, Evaluation, evaluate};
use crate::gradient::{GradientError, GradientWorkspace};
use crate::hub::{self, HubOptions};
use crate::inference::{Engine, EngineError, Progress, Sampling};
use crate::model::MemorySizes;
use crate::model::weights::Weights;
use crate::optimizer::{OptimizerError, OptimizerState, check_size};
use crate::recipe::{AdapterKind, Recipe, TaskSection, WeightDtype};
use crate::reward::{RewardError, Rewarder};
use crate::rollout::{TextStop, encode_prompt};
use crate::run_folder::{
    AdapterSummary, EvalResult, ModelSummary, RunFolder, RunFolderError, StoppedRun, Summary,
};
use crate::tokenizer::{Tokenizer, TokenizerError};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tinylora_compute::Cpu;

/// Where a run's files go and how it is told to stop.
pub struct TrainOptions<'a> {
    /// The run's folder.
    pub out: PathBuf,
    /// Go on from the newest checkpoint in it.
    pub resume: bool,
    /// Where models come from.
    pub hub: HubOptions,
    /// Set from outside: the current step is finished, then the state is saved.
    pub interrupt: &'a AtomicBool,
}

/// Why a run stopped. What was done up to the newest checkpoint is kept.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each passes on its source
pub enum TrainError {
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Reward(#[from] RewardError),
    #[error(transparent)]
    Gradient(#[from] GradientError),
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    RunFolder(#[from] RunFolderError),
    #[error(transparent)]
    AdapterFile(#[from] AdapterFileError),
    #[error(transparent)]
    AtomicFile(#[from] AtomicFileError),
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    #[error(
        "{problem} has no solution to learn from (learner = \"sft\"): JSONL rows need one in task.answer_field; \
         for data without solutions use learner = \"grpo\""
    )]
    NoSolution {
        /// The problem.
        problem: String,
    },
    #[error(
        "the solution of {problem} has {tokens} tokens, but rollout.max_tokens is {limit}: raise it to {tokens} or \
         more, or leave the row out"
    )]
    LongSolution {
        /// The problem.
        problem: String,
        /// Tokens of its solution, the end token included.
        tokens: usize,
        /// `rollout.max_tokens`.
        limit: usize,
    },
    #[error(
        "the loss of step {step} is {loss}; nothing was updated. Lower the learning rate and resume with --resume"
    )]
    LossNotFinite {
        /// Step.
        step: u64,
        /// What came out.
        loss: f64,
    },
}

impl From<EvaluateError> for TrainError {
    fn from(error: EvaluateError) -> Self {
        match error {
            EvaluateError::Engine(error) => Self::Engine(error),
            EvaluateError::Reward(error) => Self::Reward(error),
        }
    }
}

/// Where a run begins: in a new folder, or in that of a run that was stopped.
pub(super) enum Start {
    Fresh(RunFolder),
    Stopped(StoppedRun),
}

impl Start {
    pub fn open(recipe: &Recipe, options: &TrainOptions<'_>) -> Result<Self, TrainError> {
        Ok(match options.resume {
            false => Self::Fresh(RunFolder::create(&options.out, recipe)?),
            true => Self::Stopped(RunFolder::open(&options.out)?),
        })
    }

    /// The state at the start: fresh, or that of the newest checkpoint, with the logs cut to it.
    pub fn restore(
        self,
        session: &mut Session<'_>,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<(RunFolder, State), TrainError> {
        let kind = session.recipe.optimizer.kind;
        let optimizer = OptimizerState::new(kind, session.adapter.v().len());
        let fresh =
            State { step: 0, problems: 0, history: VecDeque::new(), optimizer, carried: Carried::default() };
        let stopped = match self {
            Self::Fresh(folder) => return Ok((folder, fresh)),
            Self::Stopped(stopped) => stopped,
        };
        let Some((path, checkpoint)) = checkpoint::latest(&stopped.checkpoints())? else {
            report(Event::Message("no checkpoint yet: starting from the beginning".to_owned()));
            return Ok((stopped.truncate_to(&BTreeMap::new())?, fresh));
        };
        checkpoint::check_base(&checkpoint, &session.base.identity.sha256)?;
        for difference in checkpoint::check_recipe(&checkpoint, &session.recipe.to_toml())? {
            report(Event::Message(format!("changed since the run began: {difference}")));
        }
        let folder = stopped.truncate_to(&checkpoint.logs)?;
        folder.write_recipe(session.recipe)?;
        session.adapter.set(&checkpoint.v, checkpoint.adapter_version);
        report(Event::Message(format!(
            "resuming from {} (step {} of {})",
            path.display(),
            checkpoint.step,
            session.steps
        )));
        let carried = serde_json::from_value(checkpoint.carried).unwrap_or_default();
        let state = State {
            step: checkpoint.step,
            problems: checkpoint.counters.problems,
            history: checkpoint.history.into(),
            optimizer: checkpoint.optimizer,
            carried,
        };
        Ok((folder, state))
    }
}

/// Finds and loads the base that a recipe names.
pub fn open_base(
    cpu: &Cpu,
    recipe: &Recipe,
    options: &TrainOptions<'_>,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Base, TrainError> {
    let model = &recipe.model;
    Ok(Base::open(cpu, &model.reference, model.dtype, 0, &options.hub, &mut |loading| {
        report(Event::Loading(loading));
    })?)
}

/// Everything of a run that lives as long as the process.
pub(super) struct Session<'a> {
    pub cpu: &'a Cpu,
    pub recipe: &'a Recipe,
    pub base: &'a Base,
    pub adapter: Adapter,
    pub engine: Engine<'a>,
    pub workspace: GradientWorkspace,
    pub data: TaskData,
    pub rewarder: Rewarder,
    pub plan: MemoryPlan,
    /// Steps in all.
    pub steps: u64,
    /// Held-out problems with their prompts.
    held_out: Vec<(Problem, Vec<u32>)>,
    interrupt: &'a AtomicBool,
}

impl<'a> Session<'a> {
    pub fn new(
        cpu: &'a Cpu,
        recipe: &'a Recipe,
        options: &TrainOptions<'a>,
        base: &'a Base,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, TrainError> {
        let data = TaskData::open(recipe, &options.hub, &mut |progress| {
            report(Event::Loading(Loading::Hub(progress)));
        })?;
        let rewarder = Rewarder::open(&recipe.reward, recipe.task.answer_format())?;
        let held_out = with_prompts(&base.tokenizer, recipe, &data, data.held_out(recipe.eval.problems)?)?;
        let longest = longest_prompt(&base.tokenizer, recipe, &data, &held_out)?;
        let sizes = MemorySizes::of(cpu, &base.model.config);
        let plan = memory::plan(sizes, base.model.bytes() as u64, recipe, longest)?;
        report(Event::Memory(plan));
        let cache = hub::cache_dir(&options.hub).join("factors");
        let adapter =
            Adapter::from_section(cpu, base, &recipe.adapter, recipe.seed, &cache, &mut |loading| {
                report(Event::Loading(loading));
            })?;
        check_size(recipe.optimizer.kind, adapter.v().len())?;
        let steps = match recipe.train.steps {
            0 => {
                let epoch = data.steps_per_epoch(recipe.problems_per_step()).unwrap_or(0);
                (epoch * recipe.train.epochs) as u64
            }
            steps => steps as u64,
        };
        Ok(Self {
            cpu,
            recipe,
            base,
            adapter,
            engine: Engine::new(cpu, &base.model, plan.kv_blocks),
            workspace: GradientWorkspace::new(&base.model),
            data,
            rewarder,
            plan,
            steps,
            held_out,
            interrupt: options.interrupt,
        })
    }

    /// Problems with their prompts' tokens.
    pub fn prompts(&self, problems: Vec<Problem>) -> Result<Vec<(Problem, Vec<u32>)>, TrainError> {
        with_prompts(&self.base.tokenizer, self.recipe, &self.data, problems)
    }

    /// Evaluates on the held-out problems; None if the run was asked to stop meanwhile.
    pub fn evaluate(
        &mut self,
        what: &str,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Evaluation>, TrainError> {
        let eval = &self.recipe.eval;
        let stop = TextStop::new(&self.base.tokenizer, &self.recipe.rollout.stop);
        let settings = EvalSettings {
            samples: eval.samples,
            greedy: eval.greedy,
            sampling: Sampling { temperature: eval.temperature, top_p: eval.top_p, top_k: 0 },
            max_tokens: if eval.max_tokens > 0 { eval.max_tokens } else { self.recipe.rollout.max_tokens },
            max_batch: self.plan.max_batch,
            seed: self.recipe.seed,
            stop: &stop,
            interrupt: self.interrupt,
        };
        let total = self.held_out.len() * (eval.samples + usize::from(eval.greedy));
        let (mut done, mut tokens) = (0, 0);
        let matrices = [self.adapter.matrices()];
        let evaluation = evaluate(
            &mut self.engine,
            &self.base.tokenizer,
            self.adapter.adapters(&matrices),
            &self.held_out,
            settings,
            &mut self.rewarder,
            &mut |progress| match progress {
                Progress::Token { .. } => tokens += 1,
                Progress::Finished { .. } => {
                    done += 1;
                    report(Event::Rollout { what, done, total, tokens });
                }
            },
        );
        match evaluation {
            Ok(evaluation) => Ok(Some(evaluation)),
            Err(EvaluateError::Engine(EngineError::Interrupted)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the adapter; gives the file's size in bytes.
    pub fn write_adapter(&self, path: &Path, steps: u64) -> Result<u64, TrainError> {
        let run = RunMetadata {
            name: self.recipe.name.clone(),
            task: task_name(self.recipe),
            steps,
            seed: self.recipe.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let file = self.adapter.to_file(self.base, run);
        file.write(path)?;
        Ok(file.to_bytes()?.len() as u64)
    }

    pub fn summary(&self, state: &State, eval_after: Option<EvalResult>, file_bytes: u64) -> Summary {
        let (spec, carried) = (&self.adapter.spec, &state.carried);
        let rate = |tokens: u64, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
        Summary {
            model: ModelSummary {
                reference: self.base.files.reference.clone(),
                sha256: self.base.sha256.clone(),
                family: format!("{:?}", self.base.model.config.family).to_lowercase(),
                parameters: self.base.model.config.parameters,
            },
            adapter: AdapterSummary {
                kind: match spec.kind() {
                    AdapterKind::TinyLora => "tinylora".to_owned(),
                    AdapterKind::LoraXs => "lora-xs".to_owned(),
                },
                rank: spec.rank,
                u: spec.u,
                n_tie: spec.n_tie,
                tying: spec.tying,
                trainable_parameters: spec.trainable_parameters(),
                payload_bytes: spec.payload_bytes() as u64,
                file_bytes,
            },
            task: task_name(self.recipe),
            seed: self.recipe.seed,
            steps: state.step,
            interrupted: false,
            eval_before: carried.eval_before.clone(),
            eval_after,
            wall_seconds: carried.wall_seconds,
            rollout_tokens_per_second: rate(carried.rollout_tokens, carried.rollout_seconds),
            train_tokens_per_second: rate(carried.train_tokens, carried.train_seconds),
            peak_rss_bytes: crate::run_folder::peak_rss_bytes(),
            device: self.base.model.device_name().to_owned(),
            kernel: self.base.model.kernel_name(self.cpu).to_owned(),
            threads: self.cpu.threads(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: crate::run_folder::COMMIT.to_owned(),
        }
    }
}

/// The memory that a run will take, estimated from files that are here already: nothing is downloaded, and no
/// weights are loaded.
pub fn plan(recipe: &Recipe, options: &HubOptions) -> Result<MemoryPlan, TrainError> {
    // Without a Hub and without a path to pip only what is cached is found.
    let here = HubOptions { offline: true, path: None, ..options.clone() };
    let files = hub::resolve(&recipe.model.reference, &here, &mut |_| {}).map_err(BaseError::from)?;
    let weights = Weights::open(&files).map_err(BaseError::from)?;
    let tokenizer = Tokenizer::open(&files)?;
    let data = TaskData::open(recipe, &here, &mut |_| {})?;
    let held_out = with_prompts(&tokenizer, recipe, &data, data.held_out(recipe.eval.problems)?)?;
    let longest = longest_prompt(&tokenizer, recipe, &data, &held_out)?;
    let config = weights.config();
    let spec = TinyLoraSpec::new(&recipe.adapter, config).map_err(BaseError::from)?;
    check_size(recipe.optimizer.kind, spec.trainable_parameters())?;
    let bytes_each = match recipe.model.dtype {
        WeightDtype::Bf16 => 2,
        WeightDtype::F32 => 4,
    };
    Ok(memory::plan(MemorySizes::on_host(config), config.parameters * bytes_each, recipe, longest)?)
}

/// Tokens that prompts have at most: later ones may be somewhat longer than those looked at.
fn longest_prompt(
    tokenizer: &Tokenizer,
    recipe: &Recipe,
    data: &TaskData,
    held_out: &[(Problem, Vec<u32>)],
) -> Result<usize, TrainError> {
    let first = data.train_batch(0, recipe.rollout.prompts_per_step);
    let first = with_prompts(tokenizer, recipe, data, first)?;
    let longest = held_out.iter().chain(&first).map(|(_, prompt)| prompt.len()).max().unwrap_or(1);
    Ok(longest + longest / 2)
}

fn with_prompts(
    tokenizer: &Tokenizer,
    recipe: &Recipe,
    data: &TaskData,
    problems: Vec<Problem>,
) -> Result<Vec<(Problem, Vec<u32>)>, TrainError> {
    let encode = |problem: Problem| {
        let prompt = data.prompt(&problem);
        Ok((problem, encode_prompt(tokenizer, &prompt, recipe.model.chat_template)?))
    };
    problems.into_iter().map(encode).collect()
}

fn task_name(recipe: &Recipe) -> String {
    match &recipe.task {
        TaskSection::Arithmetic(task) => {
            let kind = serde_json::to_value(task.problems).expect("a plain name");
            format!("arithmetic/{}", kind.as_str().unwrap_or_default())
        }
        TaskSection::Jsonl(task) => task.train.clone(),
        TaskSection::Benchmark(task) => task.name.name().to_owned(),
    }
}
