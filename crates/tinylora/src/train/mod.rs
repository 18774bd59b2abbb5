//! A recipe enters, a trained adapter leaves: the loop of rollouts, rewards, advantages, gradients and updates.
//! Read it from [`train`] down.

mod fisher;
mod lessons;
mod memory;
mod rollouts;
mod setup;
mod sft;
mod step;
mod update;

pub use lessons::LessonError;
pub use memory::{MemoryError, MemoryPlan};
pub use setup::{TrainError, TrainOptions, plan};

use crate::atomic_file;
use crate::base::Base;
use crate::checkpoint::{self, Checkpoint, Counters};
use crate::evaluate::Evaluation;
use crate::inference::Occupancy;
use crate::optimizer::OptimizerState;
use crate::recipe::{
    AdapterSection, GrpoSection, Learner, OptimizerSection, Recipe, SftSection, TrainSection,
};
use crate::run_folder::{EvalResult, RunFolder, Summary};
pub use setup::open_base;
use setup::{Session, Start};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tinylora_compute::Cpu;

pub use crate::run_folder::{SampleRecord, StepMetrics};

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All steps are done.
    Done(Box<Summary>),
    /// Stopped by request; `--resume` goes on from the checkpoint.
    Interrupted {
        /// Steps done.
        step: u64,
        /// The state; None if nothing was done yet.
        checkpoint: Option<PathBuf>,
    },
}

/// News from a run, in the order in which they happen.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// Loading of the model and its factors.
    Loading(crate::base::Loading),
    /// A message for the person.
    Message(String),
    /// Memory that the run will take.
    Memory(MemoryPlan),
    /// The run starts (or goes on).
    Start {
        /// Steps already done.
        done: u64,
        /// Steps in all.
        steps: u64,
        /// Trained numbers.
        trainable: usize,
    },
    /// Completions that are finished, of the current rollout or evaluation.
    Rollout {
        /// What: "rollout", "evaluation before" ….
        what: &'a str,
        /// Finished completions.
        done: usize,
        /// Completions in all.
        total: usize,
        /// Sampled tokens so far.
        tokens: u64,
    },
    /// A step is done.
    Step {
        /// Its metrics.
        metrics: &'a StepMetrics,
        /// The trained numbers after it.
        v: &'a [f32],
    },
    /// A sample worth showing.
    Sample(&'a SampleRecord),
    /// An evaluation is done.
    Evaluation {
        /// "before", "after" or "step N".
        when: &'a str,
        /// What came out.
        result: &'a EvalResult,
    },
    /// A checkpoint was written.
    Checkpoint(&'a std::path::Path),
}

/// What a run carries from step to step besides the adapter: all of it is in a checkpoint.
struct State {
    /// Steps done.
    step: u64,
    /// Problems taken from the training stream.
    problems: u64,
    /// Version and v at the beginning of each of the last `rollout.staleness` steps, oldest first.
    history: VecDeque<(u64, Vec<f32>)>,
    optimizer: OptimizerState,
    carried: Carried,
}

/// What the summary needs from earlier parts of a run.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
struct Carried {
    eval_before: Option<EvalResult>,
    wall_seconds: f64,
    rollout_tokens: u64,
    rollout_seconds: f64,
    #[serde(default)]
    occupancy: Occupancy,
    train_tokens: u64,
    train_seconds: f64,
}

/// Trains as the recipe says. Everything that happens is told to `report`; files go to the run's folder.
pub fn train(
    cpu: &Cpu,
    recipe: &Recipe,
    options: &TrainOptions<'_>,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let start = Instant::now();
    let place = Start::open(recipe, options)?;
    let base = open_base(cpu, recipe, options, report)?;
    run(cpu, &base, recipe, options, (place, start), &mut Baselines::default(), report)
}

/// The same on a base that is loaded already; measurements before training that `baselines` has are not made again.
pub fn train_on(
    cpu: &Cpu,
    base: &Base,
    recipe: &Recipe,
    options: &TrainOptions<'_>,
    baselines: &mut Baselines,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let start = Instant::now();
    let place = Start::open(recipe, options)?;
    run(cpu, base, recipe, options, (place, start), baselines, report)
}

/// Evaluations before training, by everything that they depend on. With v = 0 the adapter has no say in them.
#[derive(Debug, Default)]
pub struct Baselines(BTreeMap<String, Evaluation>);

impl Baselines {
    /// None where v does not start at 0, so that each run has a beginning of its own.
    fn key(base: &Base, recipe: &Recipe) -> Option<String> {
        let same = Recipe {
            name: "baseline".into(),
            learner: Learner::default(),
            adapter: AdapterSection::default(),
            grpo: GrpoSection::default(),
            sft: SftSection::default(),
            optimizer: OptimizerSection::default(),
            train: TrainSection::default(),
            ..recipe.clone()
        };
        (recipe.adapter.init_bound == 0.0).then(|| format!("{}\n{}", base.sha256, same.to_toml()))
    }
}

fn run(
    cpu: &Cpu,
    base: &Base,
    recipe: &Recipe,
    options: &TrainOptions<'_>,
    (place, start): (Start, Instant),
    baselines: &mut Baselines,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let mut session = Session::new(cpu, recipe, options, base, report)?;
    let (mut folder, mut state) = place.restore(&mut session, report)?;
    let before = state.carried.wall_seconds;
    let steps = session.steps;
    report(Event::Start { done: state.step, steps, trainable: session.trained.numbers().len() });
    if state.carried.eval_before.is_none() && recipe.eval.problems > 0 {
        let key = Baselines::key(base, recipe);
        let known = key.as_ref().and_then(|key| baselines.0.get(key)).cloned();
        let measured = match known {
            Some(evaluation) => Some(evaluation),
            None => session.evaluate("evaluation before", report)?,
        };
        match measured {
            None => return Ok(Outcome::Interrupted { step: 0, checkpoint: None }),
            Some(evaluation) => {
                if let Some(key) = key {
                    baselines.0.entry(key).or_insert_with(|| evaluation.clone());
                }
                report(Event::Evaluation { when: "before", result: &evaluation.result });
                keep_evaluation(&mut folder, 0, "before", &evaluation)?;
                state.carried.eval_before = Some(evaluation.result);
                state.carried.wall_seconds = before + start.elapsed().as_secs_f64();
                save(&session, &mut folder, &state, report)?;
            }
        }
    }
    while state.step < steps {
        match recipe.learner {
            Learner::Grpo => step::train_step(&mut session, &mut folder, &mut state, report)?,
            Learner::Sft => sft::train_step(&mut session, &mut folder, &mut state, report)?,
        }
        state.carried.wall_seconds = before + start.elapsed().as_secs_f64();
        let stop = options.interrupt.load(Ordering::Relaxed);
        let every = recipe.train.checkpoint_every as u64;
        if stop || state.step == steps || (every > 0 && state.step.is_multiple_of(every)) {
            let path = save(&session, &mut folder, &state, report)?;
            if stop && state.step < steps {
                return Ok(Outcome::Interrupted { step: state.step, checkpoint: Some(path) });
            }
        }
        let every = recipe.train.eval_every as u64;
        if every > 0 && state.step.is_multiple_of(every) && state.step < steps && recipe.eval.problems > 0 {
            let when = format!("step {}", state.step);
            if let Some(evaluation) = session.evaluate(&when, report)? {
                report(Event::Evaluation { when: &when, result: &evaluation.result });
                keep_evaluation(&mut folder, state.step, &format!("step-{:06}", state.step), &evaluation)?;
            }
        }
    }
    finish(&mut session, &mut folder, state, (start, before), report)
}

/// The adapter's file, the evaluation after training and the summary.
fn finish(
    session: &mut Session<'_>,
    folder: &mut RunFolder,
    mut state: State,
    (start, before): (Instant, f64),
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let bytes = session.write_trained(folder.path(), state.step)?;
    let mut eval_after = None;
    if session.recipe.eval.problems > 0 {
        match session.evaluate("evaluation after", report)? {
            None => {
                let checkpoint = checkpoint::latest(&folder.checkpoints())?.map(|(path, _)| path);
                return Ok(Outcome::Interrupted { step: state.step, checkpoint });
            }
            Some(evaluation) => {
                report(Event::Evaluation { when: "after", result: &evaluation.result });
                keep_evaluation(folder, state.step, "after", &evaluation)?;
                eval_after = Some(evaluation.result);
            }
        }
    }
    state.carried.wall_seconds = before + start.elapsed().as_secs_f64();
    let summary = session.summary(&state, eval_after, bytes);
    folder.write_summary(&summary)?;
    Ok(Outcome::Done(Box::new(summary)))
}

/// Writes a checkpoint, after the logs that it counts on.
fn save(
    session: &Session<'_>,
    folder: &mut RunFolder,
    state: &State,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<PathBuf, TrainError> {
    let checkpoint = Checkpoint {
        step: state.step,
        adapter_version: session.trained.version(),
        recipe: session.recipe.to_toml(),
        base_sha256: session.base.identity.sha256,
        v: Cow::Borrowed(session.trained.numbers()),
        optimizer: Cow::Borrowed(&state.optimizer),
        counters: Counters {
            problems: state.problems,
            completions: state.problems * session.recipe.rollout.samples_per_prompt as u64,
        },
        history: state.history.iter().cloned().collect(),
        logs: folder.lengths()?,
        carried: serde_json::to_value(&state.carried).expect("plain numbers"),
    };
    let path = checkpoint::save(&folder.checkpoints(), &checkpoint)?;
    if session.recipe.train.keep_checkpoints > 0 {
        checkpoint::keep_last(&folder.checkpoints(), session.recipe.train.keep_checkpoints)?;
    }
    report(Event::Checkpoint(&path));
    Ok(path)
}

/// The evaluation's numbers for TensorBoard, and every completion in `evaluations/NAME.jsonl`.
fn keep_evaluation(
    folder: &mut RunFolder,
    step: u64,
    name: &str,
    evaluation: &Evaluation,
) -> Result<(), TrainError> {
    folder.append_evaluation(step, &evaluation.result)?;
    let mut lines = String::new();
    for record in &evaluation.records {
        lines.push_str(&serde_json::to_string(record).expect("plain data is JSON"));
        lines.push('\n');
    }
    let path = folder.path().join("evaluations").join(format!("{name}.jsonl"));
    std::fs::create_dir_all(folder.path().join("evaluations"))
        .map_err(|source| TrainError::Write { path: path.clone(), source })?;
    Ok(atomic_file::write(&path, lines.as_bytes())?)
}
