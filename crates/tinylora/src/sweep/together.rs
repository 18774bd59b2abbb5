//! Runs of a sweep that can sample together do: each in a thread of its own, of which one works at a time, until all wait for
//! completions. Then one batch is generated for all of them, and each goes on in turn. When one ends, the next begins.
//! Which runs these are, and how many at once, is decided from their recipes alone.

use super::SweepEvent;
use super::plan::Run;
use crate::base::Base;
use crate::inference::Engine;
use crate::model::MemorySizes;
use crate::recipe::{Learner, Recipe};
use crate::rollout::{Answer, Ask, BatchProgress, Job, Turns, blocks_together, generate_together};
use crate::run_folder::RECIPE_FILE;
use crate::train::{self, Event, Outcome, Shared, TrainError, TrainOptions};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{Scope, ScopedJoinHandle};
use tinylora_compute::Cpu;

/// Runs at once unless more are asked for: more hardly pay, and one waits longer for the first that ends.
const MOST_AT_ONCE: usize = 16;

/// How many runs sample together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtOnce {
    /// As many as this; 0: as many as fill a batch.
    pub runs: usize,
    /// Sequences that fill a batch, where a recipe doesn't say.
    pub batch: usize,
}

impl AtOnce {
    /// Whether a further run begins beside these.
    fn takes(self, active: &[&Recipe], next: &Recipe) -> bool {
        if active.is_empty() {
            return true;
        }
        if self.runs > 0 {
            return active.len() < self.runs;
        }
        let fill = |recipe: &Recipe| match recipe.rollout.max_batch {
            0 => self.batch,
            batch => batch,
        };
        let batch = active.iter().map(|recipe| fill(recipe)).fold(fill(next), usize::min);
        let sequences: usize = active.iter().map(|recipe| sequences(recipe)).sum();
        active.len() < MOST_AT_ONCE && sequences.saturating_add(self::sequences(next)) <= batch
    }
}

/// Sequences of a step.
fn sequences(recipe: &Recipe) -> usize {
    recipe.rollout.prompts_per_step.saturating_mul(recipe.rollout.samples_per_prompt)
}

/// Whether a run can share a batch: it samples, with an adapter on factors of the base.
pub(super) fn shares(recipe: &Recipe) -> bool {
    recipe.learner == Learner::Grpo && recipe.adapter.kind.is_projected()
}

/// Whether two runs can share one batch: the same weights and the same factors.
fn share_a_batch(a: &Recipe, b: &Recipe) -> bool {
    let targets = |recipe: &Recipe| {
        let mut targets = recipe.adapter.targets.clone();
        targets.sort_unstable();
        targets
    };
    shares(a)
        && shares(b)
        && a.model == b.model
        && a.adapter.rank == b.adapter.rank
        && targets(a) == targets(b)
}

/// How many runs begin together in each group of those that can share batches, with the size of the group; runs that share with
/// none are groups of one.
pub fn groups(runs: &[Run], at_once: AtOnce) -> Vec<(usize, usize)> {
    let mut waiting: Vec<&Recipe> = runs.iter().map(|run| &run.recipe).collect();
    let mut groups = Vec::new();
    while let Some(&first) = waiting.first() {
        let (group, rest): (Vec<&Recipe>, Vec<&Recipe>) =
            waiting.iter().partition(|&&recipe| std::ptr::eq(recipe, first) || share_a_batch(recipe, first));
        let mut active = Vec::new();
        for &recipe in group.iter().filter(|_| shares(first)) {
            if !at_once.takes(&active, recipe) {
                break;
            }
            active.push(recipe);
        }
        groups.push((active.len().max(1), group.len()));
        waiting = rest;
    }
    groups
}

/// What runs on one base have in common.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub cpu: &'a Cpu,
    pub base: &'a Base,
    pub shared: &'a Shared,
    pub runs: &'a [Run],
    pub options: &'a TrainOptions<'a>,
    /// Told by one run at a time.
    pub report: &'a (dyn Fn(SweepEvent<'_>) + Sync),
}

impl<'a> Place<'a> {
    fn folder(&self, index: usize) -> PathBuf {
        self.options.out.join("runs").join(&self.runs[index].name)
    }

    /// One run, alone or in turn with others, from its beginning or its newest checkpoint.
    pub fn train(&self, index: usize, turns: Option<Turns<'a>>) -> Result<Outcome, TrainError> {
        let (number, run, out) = (index + 1, &self.runs[index], self.folder(index));
        (self.report)(SweepEvent::Run { number, of: self.runs.len(), run, done: false });
        let one = TrainOptions {
            resume: self.options.resume && out.join(RECIPE_FILE).is_file(),
            out,
            hub: self.options.hub.clone(),
            interrupt: self.options.interrupt,
        };
        let mut tell = |event: Event<'_>| (self.report)(SweepEvent::Train { number, event });
        train::train_on(self.cpu, self.base, &run.recipe, &one, (self.shared, turns), &mut tell)
    }
}

/// How a run ended, with its place in the list.
pub(super) type Ended = (usize, Result<Outcome, TrainError>);

/// A run in a thread of its own, which waits.
struct Active<'scope, 'a> {
    index: usize,
    asks: Receiver<Ask<'a>>,
    answers: Sender<Answer>,
    thread: ScopedJoinHandle<'scope, Result<Outcome, TrainError>>,
    ask: Ask<'a>,
}

/// Does the first of the waiting runs and all that can share its batches, and takes them from the list; those that an interrupt
/// keeps from beginning stay there.
pub(super) fn run_together<'a>(
    place: Place<'a>,
    waiting: &mut Vec<usize>,
    wanted: usize,
    ended: &mut dyn FnMut(Ended) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let recipe = |index: usize| &place.runs[index].recipe;
    let Some(&first) = waiting.first() else { return Ok(()) };
    let sizes = MemorySizes::of(place.cpu, &place.base.model.config, place.base.model.precision());
    let at_once = AtOnce { runs: wanted, batch: sizes.max_batch };
    let mut engine = None;
    std::thread::scope(|scope| {
        let mut active: Vec<Active<'_, 'a>> = Vec::new();
        loop {
            while !place.options.interrupt.load(Ordering::Relaxed) {
                let next = waiting.iter().position(|&index| share_a_batch(recipe(index), recipe(first)));
                let recipes: Vec<&Recipe> = active.iter().map(|run| recipe(run.index)).collect();
                let Some(next) = next.filter(|&at| at_once.takes(&recipes, recipe(waiting[at]))) else {
                    break;
                };
                match begin(place, scope, waiting.remove(next)) {
                    Ok(run) => active.push(run),
                    Err(end) => ended(*end)?,
                }
            }
            if active.is_empty() {
                return Ok(());
            }
            let answers = answer(place, &mut engine, &active);
            let mut left = Vec::with_capacity(active.len());
            for (run, answer) in active.drain(..).zip(answers) {
                match go_on(run, answer) {
                    Ok(run) => left.push(run),
                    Err(end) => ended(*end)?,
                }
            }
            active = left;
        }
    })
}

/// Lets a run begin, until it waits or ends.
fn begin<'scope, 'a: 'scope>(
    place: Place<'a>,
    scope: &'scope Scope<'scope, '_>,
    index: usize,
) -> Result<Active<'scope, 'a>, Box<Ended>> {
    let (ask, asks) = mpsc::channel();
    let (answers, receiver) = mpsc::channel();
    let thread = scope.spawn(move || place.train(index, Some(Turns { ask, answers: receiver })));
    wait((index, asks, answers, thread))
}

/// Gives a run its answer and lets it go on, until it waits or ends.
fn go_on<'scope, 'a>(run: Active<'scope, 'a>, answer: Answer) -> Result<Active<'scope, 'a>, Box<Ended>> {
    // A run that is not there to take it has ended, which is seen next.
    let _ = run.answers.send(answer);
    wait((run.index, run.asks, run.answers, run.thread))
}

type Working<'scope, 'a> =
    (usize, Receiver<Ask<'a>>, Sender<Answer>, ScopedJoinHandle<'scope, Result<Outcome, TrainError>>);

fn wait<'scope, 'a>(
    (index, asks, answers, thread): Working<'scope, 'a>,
) -> Result<Active<'scope, 'a>, Box<Ended>> {
    match asks.recv() {
        Ok(ask) => Ok(Active { index, asks, answers, thread, ask }),
        // Its end of the channel is gone: so is the run.
        Err(_) => {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Err(Box::new((index, outcome)))
        }
    }
}

/// One batch for all that wait for completions; an empty answer for the others.
fn answer<'a>(
    place: Place<'a>,
    engine: &mut Option<(Engine<'a>, usize)>,
    active: &[Active<'_, 'a>],
) -> Vec<Answer> {
    let jobs: Vec<&Job<'a>> = active
        .iter()
        .filter_map(|run| match &run.ask {
            Ask::Completions(job) => Some(&**job),
            Ask::Turn => None,
        })
        .collect();
    let turn = || Answer { completions: Ok(Vec::new()), seconds: 0.0 };
    if jobs.is_empty() {
        return active.iter().map(|_| turn()).collect();
    }
    let needs: Vec<_> = jobs.iter().map(|job| job.needs).collect();
    let blocks = blocks_together(&needs);
    if engine.as_ref().is_none_or(|(_, has)| *has < blocks) {
        *engine = None; // both may not fit
    }
    let (engine, _) =
        engine.get_or_insert_with(|| (Engine::new(place.cpu, &place.base.model, blocks), blocks));
    let mut tell = |progress: BatchProgress| (place.report)(SweepEvent::Batch(progress));
    let mut answers = generate_together(engine, &place.base.model, &jobs, &mut tell).into_iter();
    let of = |run: &Active<'_, 'a>| match run.ask {
        Ask::Completions(_) => answers.next().expect("an answer for each job"),
        Ask::Turn => turn(),
    };
    active.iter().map(of).collect()
}
