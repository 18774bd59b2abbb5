//! A sweep's runs enter, their folders and a table of results leave. One copy of the weights serves all runs of a
//! model, and what is measured before training is measured once.

mod cost;
mod plan;
mod results;
mod time;

pub use cost::{Cost, estimate};
#[cfg(any(test, fuzzing))]
pub(crate) use plan::parse;
pub use plan::{PlanError, Run, describe, load};
pub use results::{BestRate, ResultRow, best_rates};
pub use time::{TimeLeft, finished_runs, most_seconds, time_left, work};

use crate::atomic_file;
use crate::base::Base;
use crate::run_folder::{RECIPE_FILE, SUMMARY_FILE, read_summary};
use crate::train::{self, Baselines, Event, Outcome, TrainError, TrainOptions};
use std::path::Path;
use std::sync::atomic::Ordering;
use tinylora_compute::Cpu;

/// A line a finished run.
pub const RESULTS_FILE: &str = "results.jsonl";

/// News from a sweep.
pub enum SweepEvent<'a> {
    /// A run begins, or goes on.
    Run {
        /// Its number, from 1.
        number: usize,
        /// Runs in all.
        of: usize,
        /// The run.
        run: &'a Run,
        /// It was finished earlier.
        done: bool,
    },
    /// News from the current run.
    Train(Event<'a>),
}

/// How a sweep ended.
#[derive(Debug)]
pub enum SweepOutcome {
    /// All runs are done.
    Done(Vec<ResultRow>),
    /// Stopped by request, so many runs done; the rest is done with `resume`.
    Interrupted(Vec<ResultRow>),
}

/// Does all runs, each in `options.out/runs/NAME`, and keeps `options.out/results.jsonl`. With `options.resume` finished runs
/// are read, and a stopped one goes on. `cpu` gives the device for a recipe's numerics.
pub fn sweep(
    cpu: &dyn Fn(&crate::recipe::Recipe) -> Cpu,
    runs: &[Run],
    options: &TrainOptions<'_>,
    report: &mut dyn FnMut(SweepEvent<'_>),
) -> Result<SweepOutcome, TrainError> {
    let mut rows = Vec::with_capacity(runs.len());
    let mut baselines = Baselines::default();
    let mut loaded: Option<(Cpu, Base)> = None;
    for (index, run) in runs.iter().enumerate() {
        let out = options.out.join("runs").join(&run.name);
        let done = options.resume && out.join(SUMMARY_FILE).is_file();
        report(SweepEvent::Run { number: index + 1, of: runs.len(), run, done });
        if !done {
            if options.interrupt.load(Ordering::Relaxed) {
                return Ok(SweepOutcome::Interrupted(rows));
            }
            let device = cpu(&run.recipe);
            let fits = loaded.as_ref().is_some_and(|(cpu, base)| {
                cpu.kernel() == device.kernel()
                    && base.files.reference == run.recipe.model.reference
                    && base.dtype() == run.recipe.model.dtype
            });
            let one = TrainOptions {
                resume: options.resume && out.join(RECIPE_FILE).is_file(),
                out: out.clone(),
                hub: options.hub.clone(),
                interrupt: options.interrupt,
            };
            let mut tell = |event: Event<'_>| report(SweepEvent::Train(event));
            if !fits {
                drop(loaded.take()); // two models at once may not fit
                let base = train::open_base(&device, &run.recipe, &one, &mut tell)?;
                loaded = Some((device, base));
            }
            let (cpu, base) = loaded.as_ref().expect("loaded above");
            match train::train_on(cpu, base, &run.recipe, &one, &mut baselines, &mut tell)? {
                Outcome::Done(_) => {}
                Outcome::Interrupted { .. } => return Ok(SweepOutcome::Interrupted(rows)),
            }
        }
        rows.push(ResultRow::new(run, &read_summary(&out)?));
        write(&options.out, &rows)?;
    }
    Ok(SweepOutcome::Done(rows))
}

/// `results.jsonl` and `best.json`, whole or not at all.
fn write(out: &Path, rows: &[ResultRow]) -> Result<(), TrainError> {
    let line = |row: &ResultRow| serde_json::to_string(row).expect("plain data is JSON") + "\n";
    atomic_file::write(&out.join(RESULTS_FILE), rows.iter().map(line).collect::<String>().as_bytes())?;
    let best = serde_json::to_string_pretty(&best_rates(rows)).expect("plain data is JSON") + "\n";
    Ok(atomic_file::write(&out.join("best.json"), best.as_bytes())?)
}
