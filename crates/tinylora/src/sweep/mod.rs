//! A sweep's runs enter, their folders and a table of results leave. One copy of the weights and of the factors serves all runs of
//! a model, runs that can share batches sample together, and what is measured before training is measured once.

mod cost;
mod plan;
mod results;
mod time;
mod together;

pub use cost::{Cost, estimate};
#[cfg(any(test, fuzzing))]
pub(crate) use plan::parse;
pub use plan::{Plan, PlanError, Run, describe, load};
pub use results::{BestRate, ResultRow, best_rates};
pub use time::{TimeLeft, finished_runs, most_seconds, time_left, work};
pub use together::{AtOnce, groups};

use crate::atomic_file;
use crate::base::Base;
use crate::recipe::{ModelSection, Numerics};
use crate::rollout::BatchProgress;
use crate::run_folder::{SUMMARY_FILE, read_summary};
use crate::train::{self, Event, Outcome, Shared, TrainError, TrainOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use tinylora_compute::Cpu;
use together::{Ended, Place, run_together, shares};

/// A line a finished run.
pub const RESULTS_FILE: &str = "results.jsonl";

/// News from a sweep. Runs have numbers from 1.
pub enum SweepEvent<'a> {
    /// A run begins, or goes on.
    Run {
        /// Its number.
        number: usize,
        /// Runs in all.
        of: usize,
        /// The run.
        run: &'a Run,
        /// It was finished earlier.
        done: bool,
    },
    /// News from a run.
    Train {
        /// Its number.
        number: usize,
        /// The news.
        event: Event<'a>,
    },
    /// Completions of runs that sample together.
    Batch(BatchProgress),
    /// A run is over, for good or for now.
    End {
        /// Its number.
        number: usize,
        /// What went wrong, where something did; the other runs go on.
        failed: Option<&'a TrainError>,
    },
}

/// Who is told the news: by one run at a time, but from different threads.
pub type Report<'a> = dyn FnMut(SweepEvent<'_>) + Send + 'a;

/// How a sweep ended.
#[derive(Debug)]
pub struct SweepOutcome {
    /// The finished runs, in their order.
    pub rows: Vec<ResultRow>,
    /// Runs that failed, by their numbers; with `resume` they go on from where they were.
    pub failed: Vec<(usize, TrainError)>,
    /// Stopped by request; the rest is done with `resume`.
    pub interrupted: bool,
}

/// Does all runs, each in `options.out/runs/NAME`, and keeps `options.out/results.jsonl`. With `options.resume` finished runs
/// are read, and stopped ones go on. `cpu` gives the device for a recipe's numerics. What a run leaves in its folder does
/// not depend on which others it samples with.
pub fn sweep(
    cpu: &dyn Fn(&crate::recipe::Recipe) -> Cpu,
    plan: &Plan,
    options: &TrainOptions<'_>,
    report: &mut Report<'_>,
) -> Result<SweepOutcome, TrainError> {
    let (runs, mut waiting) = (&plan.runs[..], Vec::new());
    let mut table = Table { out: &options.out, runs, rows: BTreeMap::new(), failed: Vec::new() };
    for (index, run) in runs.iter().enumerate() {
        if options.resume && table.folder(index).join(SUMMARY_FILE).is_file() {
            report(SweepEvent::Run { number: index + 1, of: runs.len(), run, done: true });
            table.add(index)?;
        } else {
            waiting.push(index);
        }
    }
    let report = Mutex::new(report);
    let tell = |event: SweepEvent<'_>| (report.lock().unwrap_or_else(PoisonError::into_inner))(event);
    let stopped = || options.interrupt.load(Ordering::Relaxed);
    let mut loaded: Option<(Cpu, Base, Shared, Numerics)> = None;
    while !waiting.is_empty() && !stopped() {
        // Runs of the model that is there come first.
        let next = loaded.as_ref().and_then(|(_, base, _, numerics)| {
            let models = waiting.iter().map(|&index| &runs[index].recipe.model);
            let fits = |model: &ModelSection| {
                let loaded = (base.files.reference == model.reference, base.dtype() == model.dtype);
                loaded == (true, true) && *numerics == model.numerics
            };
            models.into_iter().position(fits)
        });
        let index = waiting.remove(next.unwrap_or(0));
        let recipe = &runs[index].recipe;
        if next.is_none() {
            drop(loaded.take()); // two models at once may not fit
            let device = cpu(recipe);
            let mut tell = |event: Event<'_>| tell(SweepEvent::Train { number: index + 1, event });
            let base = train::open_base(&device, recipe, options, &mut tell)?;
            loaded = Some((device, base, Shared::default(), recipe.model.numerics));
        }
        let (cpu, base, shared, _) = loaded.as_ref().expect("loaded above");
        let place = Place { cpu, base, shared, runs, options, report: &tell };
        if shares(recipe) {
            waiting.insert(0, index);
            run_together(place, &mut waiting, plan.at_once, &mut |end| table.take(end, &tell))?;
        } else {
            table.take((index, place.train(index, None)), &tell)?;
        }
    }
    let Table { rows, failed, .. } = table;
    let interrupted = rows.len() + failed.len() < runs.len();
    Ok(SweepOutcome { rows: rows.into_values().collect(), failed, interrupted })
}

/// What is done of a sweep.
struct Table<'a> {
    out: &'a Path,
    runs: &'a [Run],
    /// By their places in the list.
    rows: BTreeMap<usize, ResultRow>,
    failed: Vec<(usize, TrainError)>,
}

impl Table<'_> {
    fn folder(&self, index: usize) -> PathBuf {
        self.out.join("runs").join(&self.runs[index].name)
    }

    /// Takes a run that is over, for good or for now.
    fn take(&mut self, (index, end): Ended, tell: &dyn Fn(SweepEvent<'_>)) -> Result<(), TrainError> {
        let number = index + 1;
        tell(SweepEvent::End { number, failed: end.as_ref().err() });
        match end {
            Ok(Outcome::Done(_)) => self.add(index),
            Ok(Outcome::Interrupted { .. }) => Ok(()),
            Err(error) => {
                self.failed.push((number, error));
                Ok(())
            }
        }
    }

    /// Adds a finished run's row and writes `results.jsonl` and `best.json`, whole or not at all.
    fn add(&mut self, index: usize) -> Result<(), TrainError> {
        let row = ResultRow::new(&self.runs[index], &read_summary(&self.folder(index))?);
        self.rows.insert(index, row);
        let line = |row: &ResultRow| serde_json::to_string(row).expect("plain data is JSON") + "\n";
        let lines: String = self.rows.values().map(line).collect();
        atomic_file::write(&self.out.join(RESULTS_FILE), lines.as_bytes())?;
        let rows: Vec<ResultRow> = self.rows.values().cloned().collect();
        let best = serde_json::to_string_pretty(&best_rates(&rows)).expect("plain data is JSON") + "\n";
        Ok(atomic_file::write(&self.out.join("best.json"), best.as_bytes())?)
    }
}
