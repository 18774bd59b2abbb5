//! A recipe enters, a trained adapter leaves: the loop of rollouts, rewards, advantages, gradients and updates.
//! Read it from [`train`] down.

mod fisher;
mod lessons;
mod memory;
mod rollouts;
mod setup;
mod sft;
mod shared;
mod step;
mod update;

pub use lessons::LessonError;
pub use memory::{MemoryError, MemoryPlan};
pub use setup::{TrainError, TrainOptions, plan};
pub use shared::Shared;

use crate::atomic_file;
use crate::base::Base;
use crate::checkpoint::{self, Checkpoint, Counters};
use crate::evaluate::Evaluation;
use crate::inference::Occupancy;
use crate::optimizer::OptimizerState;
use crate::recipe::{Learner, Recipe};
use crate::rollout::Turns;
use crate::run_folder::{EvalResult, RunFolder, Summary};
pub use setup::open_base;
use setup::{Session, Start};
use std::borrow::Cow;
use std::collections::VecDeque;
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
    run(cpu, &base, recipe, options, (place, start), (&Shared::default(), None), report)
}

/// The same on a base that is loaded already, with all that its runs share. With `turns` the run takes turns with others: its
/// completions are asked for there, unless it trains what no others can sample with.
pub fn train_on<'a>(
    cpu: &'a Cpu,
    base: &'a Base,
    recipe: &'a Recipe,
    options: &TrainOptions<'a>,
    (shared, turns): (&'a Shared, Option<Turns<'a>>),
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let start = Instant::now();
    let place = Start::open(recipe, options)?;
    run(cpu, base, recipe, options, (place, start), (shared, turns), report)
}

fn run<'a>(
    cpu: &'a Cpu,
    base: &'a Base,
    recipe: &'a Recipe,
    options: &TrainOptions<'a>,
    (place, start): (Start, Instant),
    share: (&'a Shared, Option<Turns<'a>>),
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let mut session = Session::new(cpu, recipe, options, base, share, report)?;
    let (mut folder, mut state) = place.restore(&mut session, report)?;
    let clock = Clock { start, before: state.carried.wall_seconds };
    let steps = session.steps;
    report(Event::Start { done: state.step, steps, trainable: session.trained.numbers().len() });
    if state.carried.eval_before.is_none() && recipe.eval.problems > 0 {
        match session.baseline(report)? {
            None => return Ok(Outcome::Interrupted { step: 0, checkpoint: None }),
            Some(evaluation) => {
                report(Event::Evaluation { when: "before", result: &evaluation.result });
                keep_evaluation(&mut folder, 0, "before", &evaluation)?;
                state.carried.eval_before = Some(evaluation.result);
                state.carried.wall_seconds = clock.seconds(&session);
                save(&session, &mut folder, &mut state, report)?;
            }
        }
    }
    while state.step < steps {
        if is_evaluated(recipe, state.step) {
            // After the checkpoint of this step, so that a run that goes on from there makes it again.
            let when = format!("step {}", state.step);
            let Some(evaluation) = session.evaluate(&when, report)? else {
                let checkpoint = Some(save(&session, &mut folder, &mut state, report)?);
                return Ok(Outcome::Interrupted { step: state.step, checkpoint });
            };
            report(Event::Evaluation { when: &when, result: &evaluation.result });
            keep_evaluation(&mut folder, state.step, &format!("step-{:06}", state.step), &evaluation)?;
        }
        match recipe.learner {
            Learner::Grpo => step::train_step(&mut session, &mut folder, &mut state, report)?,
            Learner::Sft => sft::train_step(&mut session, &mut folder, &mut state, report)?,
        }
        state.carried.wall_seconds = clock.seconds(&session);
        let stop = options.interrupt.load(Ordering::Relaxed);
        let every = recipe.train.checkpoint_every as u64;
        if stop || state.step == steps || (every > 0 && state.step.is_multiple_of(every)) {
            let path = save(&session, &mut folder, &mut state, report)?;
            if stop && state.step < steps {
                return Ok(Outcome::Interrupted { step: state.step, checkpoint: Some(path) });
            }
        }
    }
    finish(&mut session, &mut folder, state, clock, report)
}

/// Whether there is an evaluation between this step and the next.
fn is_evaluated(recipe: &Recipe, step: u64) -> bool {
    let every = recipe.train.eval_every as u64;
    recipe.eval.problems > 0 && every > 0 && step > 0 && step.is_multiple_of(every)
}

/// The time that a run takes.
#[derive(Clone, Copy)]
struct Clock {
    start: Instant,
    /// Seconds of earlier parts of the run.
    before: f64,
}

impl Clock {
    /// Seconds so far, without the work of other runs that it took turns with.
    fn seconds(self, session: &Session<'_>) -> f64 {
        self.before + self.start.elapsed().as_secs_f64() - session.sampler.seconds_of_others()
    }
}

/// The adapter's file, the evaluation after training and the summary.
fn finish(
    session: &mut Session<'_>,
    folder: &mut RunFolder,
    mut state: State,
    clock: Clock,
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
    state.carried.wall_seconds = clock.seconds(session);
    let summary = session.summary(&state, eval_after, bytes);
    folder.write_summary(&summary)?;
    Ok(Outcome::Done(Box::new(summary)))
}

/// Writes a checkpoint, after the logs that it counts on.
fn save(
    session: &Session<'_>,
    folder: &mut RunFolder,
    state: &mut State,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<PathBuf, TrainError> {
    session.trained.fetch_state(&mut state.optimizer.lists_mut())?;
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
