//! From a recipe to everything that a step needs: folder, base, adapter, data, memory; and back from a
//! checkpoint.

use super::lessons::{LessonError, Lessons, ReadError, Reader};
use super::memory::{self, MemoryError, MemoryPlan};
use super::shared::{Baseline, Shared};
use super::{Carried, Event, State};
use crate::adapter::{AdapterFileError, RunMetadata};
use crate::atomic_file::AtomicFileError;
use crate::base::{Base, BaseError, FullModel, Loading, Trained, TrainedSpec};
use crate::checkpoint::{self, CheckpointError};
use crate::data::{DataError, Problem, TaskData};
use crate::evaluate::{EvalSettings, EvaluateError, Evaluation, evaluate};
use crate::gradient::GradientError;
use crate::hub::{self, HubOptions};
use crate::inference::{Engine, EngineError, Progress, Sampling};
use crate::interop::{self, InteropError, NewWeights, OutputType};
use crate::model::weights::Weights;
use crate::model::{MemorySizes, Recording};
use crate::optimizer::{OptimizerError, OptimizerState, check_size};
use crate::recipe::{AdapterKind, AdapterSection, Learner, Recipe, TaskSection, WeightDtype};
use crate::reward::{RewardError, Rewarder};
use crate::rollout::{Sampler, Seat, Turns, encode_prompt};
use crate::run_folder::{
    ADAPTER_FILE, AdapterSummary, EvalResult, MODEL_FOLDER, ModelSummary, RunFolder, RunFolderError,
    StoppedRun, Summary,
};
use crate::tokenizer::{Tokenizer, TokenizerError};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tinylora_compute::{Cpu, Precision};

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
    Interop(#[from] InteropError),
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
    #[error(transparent)]
    Lesson(#[from] LessonError),
    #[error(
        "optimizer.kind = \"natural\" measures the policy in R, which adapter.kind = \"{kind}\" does not train: use \"adamw\" or \"sgd\""
    )]
    NaturalKind {
        /// `adapter.kind`
        kind: &'static str,
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

impl From<ReadError> for TrainError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Lesson(error) => Self::Lesson(error),
            ReadError::Data(error) => Self::Data(error),
        }
    }
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
        let optimizer = OptimizerState::new(kind, session.trained.numbers().len());
        let fresh =
            State { step: 0, problems: 0, history: VecDeque::new(), optimizer, carried: Carried::default() };
        let stopped = match self {
            Self::Fresh(folder) => return session.begin(folder, fresh),
            Self::Stopped(stopped) => stopped,
        };
        let Some((path, checkpoint)) = checkpoint::latest(&stopped.checkpoints())? else {
            report(Event::Message("no checkpoint yet: starting from the beginning".to_owned()));
            return session.begin(stopped.truncate_to(&BTreeMap::new())?, fresh);
        };
        checkpoint::check_base(&checkpoint, &session.base.identity.sha256)?;
        for difference in checkpoint::check_recipe(&checkpoint, &session.recipe.to_toml())? {
            report(Event::Message(format!("changed since the run began: {difference}")));
        }
        let folder = stopped.truncate_to(&checkpoint.logs)?;
        folder.write_recipe(session.recipe)?;
        session.trained.set(session.cpu, &checkpoint.v, checkpoint.adapter_version)?;
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
            optimizer: checkpoint.optimizer.into_owned(),
            carried,
        };
        session.begin(folder, state)
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
    pub trained: Trained,
    spec: TrainedSpec,
    pub sampler: Sampler<'a>,
    pub shared: &'a Shared,
    pub data: TaskData,
    /// What supervised finetuning learns from.
    pub lessons: Lessons,
    pub rewarder: Rewarder,
    pub plan: MemoryPlan,
    /// What sampling keeps for training, between steps.
    pub recording: Option<Recording>,
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
        (shared, turns): (&'a Shared, Option<Turns<'a>>),
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, TrainError> {
        let data = TaskData::open(recipe, &options.hub, &mut |progress| {
            report(Event::Loading(Loading::Hub(progress)));
        })?;
        let rewarder = Rewarder::open(&recipe.reward, recipe.task.answer_format())?;
        let held_out = with_prompts(&base.tokenizer, recipe, &data, data.held_out(recipe.eval.problems)?)?;
        let longest = longest_prompt(&base.tokenizer, recipe, &data, &held_out)?;
        let reader =
            Reader { recipe, tokenizer: &base.tokenizer, data: &data, positions: base.model.positions() };
        let lessons = lessons(reader, &held_out, &options.hub, report)?;
        let longest = longest.max(behind_prompt(&lessons, recipe));
        let spec = TrainedSpec::new(&recipe.adapter, &base.model.config).map_err(BaseError::from)?;
        check_size(recipe.optimizer.kind, spec.trainable_parameters())?;
        let sizes = MemorySizes::of(cpu, &base.model.config, base.model.precision());
        let weights = base.model.bytes() as u64;
        let plan = memory::plan((sizes, &base.model.config), weights, &spec, recipe, longest)?;
        // Runs that sample together keep nothing for training.
        let plan = if turns.is_some() { plan.without_recording() } else { plan };
        report(Event::Memory(plan));
        if matches!(spec, TrainedSpec::Full(_)) {
            let weights = Weights::open(&base.files).map_err(BaseError::from)?;
            interop::check_trained(&weights, &base.files, &base.tokenizer)?;
        }
        let cache = hub::cache_dir(&options.hub).join("factors");
        let section = (&recipe.adapter, recipe.seed);
        let trained = Trained::new(cpu, base, section, &shared.factors, &cache, &mut |loading| {
            report(Event::Loading(loading));
        })?;
        let sampler = match (turns, &trained) {
            (Some(turns), Trained::Projected(adapter)) => {
                Sampler::Seat(Seat::new(turns, Arc::clone(&adapter.factors), plan.needs()))
            }
            _ => Sampler::Own(Engine::new(cpu, &base.model, plan.kv_blocks)),
        };
        let steps = match recipe.train.steps {
            0 => {
                let epoch = steps_per_epoch(&data, &lessons, recipe).unwrap_or(0);
                (epoch * recipe.train.epochs) as u64
            }
            steps => steps as u64,
        };
        Ok(Self {
            cpu,
            recipe,
            base,
            trained,
            spec,
            sampler,
            shared,
            data,
            lessons,
            rewarder,
            recording: None,
            plan,
            steps,
            held_out,
            interrupt: options.interrupt,
        })
    }

    /// Puts the optimizer's state where the optimizer computes.
    fn begin(&mut self, folder: RunFolder, state: State) -> Result<(RunFolder, State), TrainError> {
        if self.plan.optimizer_on_gpu {
            self.trained.keep_on_gpu(&state.optimizer.lists())?;
        }
        Ok((folder, state))
    }

    /// Steps of one pass over what is learned from; none where it has no end.
    pub fn steps_per_epoch(&self) -> Option<usize> {
        steps_per_epoch(&self.data, &self.lessons, self.recipe)
    }

    /// How examples are read.
    pub fn reader(&self) -> Reader<'_> {
        let Self { recipe, base, data, .. } = self;
        Reader { recipe, tokenizer: &base.tokenizer, data, positions: base.model.positions() }
    }

    /// Problems with their prompts' tokens.
    pub fn prompts(&self, problems: Vec<Problem>) -> Result<Vec<(Problem, Vec<u32>)>, TrainError> {
        with_prompts(&self.base.tokenizer, self.recipe, &self.data, problems)
    }

    /// What the held-out problems give before training; None if the run was asked to stop meanwhile. What another run on the base
    /// measured, or is about to, is not measured again.
    pub fn baseline(&mut self, report: &mut dyn FnMut(Event<'_>)) -> Result<Option<Evaluation>, TrainError> {
        let shared = self.shared;
        loop {
            match shared.baseline(self.base, self.recipe) {
                Baseline::Known(evaluation) => return Ok(Some(evaluation)),
                Baseline::Missing(unmade) => {
                    let evaluation = self.evaluate("evaluation before", report)?;
                    if let Some(evaluation) = &evaluation {
                        unmade.keep(evaluation);
                    }
                    return Ok(evaluation);
                }
                Baseline::Begun => match self.sampler.wait() {
                    Ok(()) => {}
                    Err(EngineError::Interrupted) => return Ok(None),
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    /// Evaluates on the held-out problems; None if the run was asked to stop meanwhile.
    pub fn evaluate(
        &mut self,
        what: &str,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Evaluation>, TrainError> {
        let eval = &self.recipe.eval;
        let settings = EvalSettings {
            samples: eval.samples,
            greedy: eval.greedy,
            sampling: Sampling { temperature: eval.temperature, top_p: eval.top_p, top_k: 0 },
            max_tokens: if eval.max_tokens > 0 { eval.max_tokens } else { self.recipe.rollout.max_tokens },
            max_batch: self.plan.max_batch,
            seed: self.recipe.seed,
            stop: &self.recipe.rollout.stop,
            interrupt: self.interrupt,
        };
        let total = self.held_out.len() * (eval.samples + usize::from(eval.greedy));
        let (mut done, mut tokens) = (0, 0);
        report(Event::Rollout { what, done, total, tokens });
        let evaluation = evaluate(
            &mut self.sampler,
            &self.base.tokenizer,
            self.trained.policy(self.base),
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

    /// Writes what was trained into the run's folder: an adapter's file, or of all weights the folder of a model, in the
    /// place of one that an earlier end of the run left. Gives its size in bytes.
    pub fn write_trained(&self, folder: &Path, steps: u64) -> Result<u64, TrainError> {
        if let Trained::Full(full) = &self.trained {
            return self.write_model(full, &folder.join(MODEL_FOLDER));
        }
        let run = RunMetadata {
            name: self.recipe.name.clone(),
            task: task_name(self.recipe),
            steps,
            seed: self.recipe.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(self.trained.write(self.base, run, &folder.join(ADAPTER_FILE))?)
    }

    fn write_model(&self, full: &FullModel, out: &Path) -> Result<u64, TrainError> {
        let weights = Weights::open(&self.base.files).map_err(BaseError::from)?;
        let matrices = match self.base.dtype() {
            WeightDtype::Bf16 => OutputType::Bf16,
            WeightDtype::F32 => OutputType::F32,
        };
        let failed = |source| TrainError::Write { path: out.to_owned(), source };
        if out.exists() {
            std::fs::remove_dir_all(out).map_err(failed)?;
        }
        let new = NewWeights { find: &|name| full.tensor(name), matrices };
        interop::write_trained(new, &weights, &self.base.files, &self.base.tokenizer, out)?;
        let mut bytes = 0;
        for entry in std::fs::read_dir(out).map_err(failed)? {
            bytes += entry.and_then(|entry| entry.metadata()).map_err(failed)?.len();
        }
        Ok(bytes)
    }

    pub fn summary(&self, state: &State, eval_after: Option<EvalResult>, file_bytes: u64) -> Summary {
        let carried = &state.carried;
        let rate = |tokens: u64, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
        Summary {
            model: ModelSummary {
                reference: self.base.files.reference.clone(),
                sha256: self.base.sha256.clone(),
                family: format!("{:?}", self.base.model.config.family).to_lowercase(),
                parameters: self.base.model.config.parameters,
            },
            adapter: adapter_summary(&self.spec, &self.recipe.adapter, file_bytes),
            task: task_name(self.recipe),
            seed: self.recipe.seed,
            steps: state.step,
            interrupted: false,
            eval_before: carried.eval_before.clone(),
            eval_after,
            wall_seconds: carried.wall_seconds,
            rollout_tokens_per_second: rate(carried.rollout_tokens, carried.rollout_seconds),
            rollout_empty_slot_fraction: carried.occupancy.empty_fraction(),
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

fn adapter_summary(spec: &TrainedSpec, section: &AdapterSection, file_bytes: u64) -> AdapterSummary {
    let lora = spec.kind() == AdapterKind::Lora;
    AdapterSummary {
        kind: spec.kind().name().to_owned(),
        rank: section.rank,
        u: section.u,
        n_tie: section.n_tie,
        tying: section.tying,
        alpha: lora.then_some(section.alpha),
        rslora: lora.then_some(section.rslora),
        trainable_parameters: spec.trainable_parameters(),
        payload_bytes: spec.payload_bytes(),
        file_bytes,
    }
}

/// The memory that a run on this device will take, estimated from files that are here already: nothing is downloaded, and no
/// weights are loaded.
pub fn plan(cpu: &Cpu, recipe: &Recipe, options: &HubOptions) -> Result<MemoryPlan, TrainError> {
    // Without a Hub and without a path to pip only what is cached is found.
    let here = HubOptions { offline: true, path: None, ..options.clone() };
    let files = hub::resolve(&recipe.model.reference, &here, &mut |_| {}).map_err(BaseError::from)?;
    let weights = Weights::open(&files).map_err(BaseError::from)?;
    let tokenizer = Tokenizer::open(&files)?;
    let data = TaskData::open(recipe, &here, &mut |_| {})?;
    let held_out = with_prompts(&tokenizer, recipe, &data, data.held_out(recipe.eval.problems)?)?;
    let longest = longest_prompt(&tokenizer, recipe, &data, &held_out)?;
    let config = weights.config();
    let reader = Reader { recipe, tokenizer: &tokenizer, data: &data, positions: config.max_positions };
    let lessons = lessons(reader, &held_out, &here, &mut |_| {})?;
    let longest = longest.max(behind_prompt(&lessons, recipe));
    let spec = TrainedSpec::new(&recipe.adapter, config).map_err(BaseError::from)?;
    check_size(recipe.optimizer.kind, spec.trainable_parameters())?;
    let (bytes_each, precision) = match recipe.model.dtype {
        WeightDtype::Bf16 => (2, Precision::Bf16),
        WeightDtype::F32 => (4, Precision::F32),
    };
    Ok(memory::plan(
        (MemorySizes::of(cpu, config, precision), config),
        config.parameters * bytes_each,
        &spec,
        recipe,
        longest,
    )?)
}

/// What a supervised run learns from; any other, nothing. Tells what was left out.
fn lessons(
    reader: Reader<'_>,
    held_out: &[(Problem, Vec<u32>)],
    hub: &HubOptions,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Lessons, TrainError> {
    if reader.recipe.learner != Learner::Sft {
        return Ok(Lessons::Endless);
    }
    let held_out = held_out.iter().map(|(_, prompt)| &prompt[..]).collect();
    let (lessons, told) = reader.open(&held_out, hub, &mut |progress| {
        report(Event::Loading(Loading::Hub(progress)));
    })?;
    told.into_iter().for_each(|line| report(Event::Message(line)));
    Ok(lessons)
}

/// Tokens of the longest example but for those that the plan counts as new ones anyway.
fn behind_prompt(lessons: &Lessons, recipe: &Recipe) -> usize {
    lessons.longest().saturating_sub(recipe.rollout.max_tokens)
}

fn steps_per_epoch(data: &TaskData, lessons: &Lessons, recipe: &Recipe) -> Option<usize> {
    let per_step = recipe.problems_per_step();
    match (recipe.learner, lessons.count()) {
        (Learner::Sft, Some(count)) => Some(count.div_ceil(per_step)),
        _ => data.steps_per_epoch(per_step),
    }
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
        TaskSection::Nothing => recipe.sft.data.clone(),
    }
}
