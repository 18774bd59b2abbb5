//! `tinylora sweep`: a list of runs enters, their folders and a table leave.

use crate::args::SweepArgs;
use crate::display::RunsDisplay;
use crate::failure::{DONE, INTERRUPTED, Usage};
use crate::precision::DeviceArg;
use crate::screen::Screen;
use crate::{format, interrupt, open, report};
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tinylora::hub::HubOptions;
use tinylora::model::usual_batch;
use tinylora::recipe::Numerics;
use tinylora::sweep::{
    AtOnce, BestRate, Cost, Plan, ResultRow, Run, SweepEvent, SweepOutcome, TimeLeft, best_rates, describe,
    estimate, finished_runs, groups, load, most_seconds, sweep, time_left,
};
use tinylora::train::TrainOptions;
use tinylora_compute::peak::multiply_add_rate;

/// Runs the command; gives the exit status.
pub fn run(args: &SweepArgs) -> Result<u8> {
    let mut plan = load(&args.sweep, &args.set).map_err(|error| Usage(error.to_string()))?;
    plan.at_once = args.at_once.map_or(plan.at_once, |runs| runs as usize);
    let stem = args.sweep.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let out = args.out.clone().unwrap_or_else(|| Path::new("sweeps").join(stem));
    if args.dry_run {
        let together = together(&plan, DeviceArg::or_environment(args.device)?);
        print!("{}{together}{}", planned(&plan.runs)?, duration(&plan.runs, &out, args.device)?);
        return Ok(DONE);
    }
    if !args.resume && out.join("runs").exists() {
        let out = out.display();
        return Err(Usage(format!(
            "{out} holds a sweep already: go on with --resume, or name another --out"
        ))
        .into());
    }
    let kinds: BTreeSet<bool> =
        plan.runs.iter().map(|run| run.recipe.model.numerics == Numerics::Fast).collect();
    for fast in kinds {
        open::device(if fast { Numerics::Fast } else { Numerics::Exact }, args.device)?; // an error now, not in the middle
    }
    let screen = Screen::stderr();
    let stop = Arc::new(AtomicBool::new(false));
    interrupt::finish_and_save(screen.clone(), stop.clone(), String::new)?;
    let options =
        TrainOptions { out: out.clone(), resume: args.resume, hub: HubOptions::from_env(), interrupt: &stop };
    let device = |recipe: &tinylora::recipe::Recipe| {
        open::device(recipe.model.numerics, args.device).expect("tried before the first run")
    };
    let mut watch = Watch {
        display: RunsDisplay::new(screen.clone()),
        screen: screen.clone(),
        plan: &plan,
        out: &out,
        active: 0,
    };
    let outcome = sweep(&device, &plan, &options, &mut |event| watch.take(event));
    watch.display.finish();
    let SweepOutcome { rows, mut failed, interrupted } = outcome?;
    if interrupted {
        screen.print(&stopped(&rows, &plan.runs, args, &out));
        return Ok(INTERRUPTED);
    }
    print!("{}", table(&best_rates(&rows), &rows));
    println!("{}", out.join("results.jsonl").display());
    if failed.is_empty() {
        return Ok(DONE);
    }
    let count = failed.len();
    let (number, error) = failed.swap_remove(0);
    Err(anyhow::Error::new(error).context(format!(
        "{count} of {} runs failed, first run {number}; with --resume they are tried again from where they stopped",
        plan.runs.len()
    )))
}

/// Shows what happens.
struct Watch<'a> {
    display: RunsDisplay,
    screen: Screen,
    plan: &'a Plan,
    out: &'a Path,
    active: usize,
}

impl Watch<'_> {
    fn take(&mut self, event: SweepEvent<'_>) {
        match event {
            SweepEvent::Run { number, of, run, done: true } => {
                self.screen
                    .print(&format!("run {number} of {of}: {}: done earlier", describe(&run.settings)));
            }
            SweepEvent::Run { number, of, run, done: false } => {
                let what = describe(&run.settings);
                self.screen.print(&format!("run {number} of {of}: {what}"));
                let left = self.left();
                if let Some(left) = &left {
                    self.screen.print(&still(left));
                }
                self.active += 1;
                let head = self.head(left);
                self.display.begin(number, what, head);
            }
            SweepEvent::Train { number, event } => self.display.take(number, &event),
            SweepEvent::Batch(progress) => self.display.batch(progress),
            SweepEvent::End { number, failed } => {
                self.active -= 1;
                let head = self.head(self.left());
                self.display.end(number, head);
                if let Some(error) = failed {
                    let name = &self.plan.runs[number - 1].name;
                    self.screen.print(&format!(
                        "run {number} failed: {error}\n  its folder is {name}; the others go on"
                    ));
                }
            }
        }
    }

    fn left(&self) -> Option<TimeLeft> {
        let share = |index: usize| self.display.share(index + 1);
        time_left(&self.plan.runs, &finished_runs(self.out), &share)
    }

    /// `12 runs at once, 7 of 54 done, about 31 min left`
    fn head(&self, left: Option<TimeLeft>) -> String {
        let runs = self.plan.runs.len();
        let (done, time) = match left {
            Some(left) => (runs - left.runs, format!(", about {} left", seconds(left.seconds))),
            None => (0, String::new()),
        };
        format!("{} runs at once, {done} of {runs} done{time}", self.active)
    }
}

fn seconds(seconds: f64) -> String {
    format::duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
}

/// How many runs sample together, for `--dry-run`.
fn together(plan: &Plan, device: DeviceArg) -> String {
    let at_once = AtOnce { runs: plan.at_once, batch: usual_batch(device == DeviceArg::Cuda) };
    let groups = groups(&plan.runs, at_once);
    let alone: usize = groups.iter().filter(|(together, _)| *together == 1).map(|(_, of)| of).sum();
    let mut parts: Vec<String> = groups
        .iter()
        .filter(|(together, _)| *together > 1)
        .map(|(together, of)| format!("{together} of {of} at once"))
        .collect();
    parts.dedup();
    if alone > 0 {
        parts.push(format!("{alone} one by one"));
    }
    format!("sampling together: {}\n", parts.join(", "))
}

/// What `--dry-run` prints: the runs, what each trains and at most costs.
fn planned(runs: &[Run]) -> Result<String> {
    let mut text = format!(
        "{:>5} {:>9} {:>10} {:>10} {:>13} {:>12}  settings\n",
        "run", "numbers", "bytes", "weights", "tokens a step", "tokens"
    );
    let tokens =
        |count: Option<u64>| count.map_or("–".to_owned(), |count| format!("≤ {}", format::count(count)));
    let (mut sum, mut open_ended) = (0u64, false);
    for (number, run) in (1..).zip(runs) {
        let Cost { trainable_parameters, payload_bytes, weight_bytes, tokens_per_step, tokens: all } =
            estimate(&run.recipe).map_err(|error| Usage(format!("run {number} ({}): {error}", run.name)))?;
        sum = sum.saturating_add(all.unwrap_or(0));
        open_ended |= all.is_none() && tokens_per_step.is_some();
        let bytes = |count: Option<u64>| count.map_or("–".to_owned(), format::bytes);
        let numbers = trainable_parameters.map_or("–".to_owned(), format::grouped);
        text.push_str(&format!(
            "{number:>5} {numbers:>9} {:>10} {:>10} {:>13} {:>12}  {}\n",
            bytes(payload_bytes),
            bytes(weight_bytes),
            tokens(tokens_per_step),
            tokens(all),
            describe(&run.settings),
        ));
    }
    let sampled = match (sum, open_ended) {
        (0, true) => "; how many tokens are sampled follows from the data's size".to_owned(),
        (0, false) => String::new(),
        (sum, true) => format!(
            "; at most {} sampled tokens where the steps are given, more by the data's size",
            format::count(sum)
        ),
        (sum, false) => format!("; at most {} sampled tokens in training", format::count(sum)),
    };
    text.push_str(&format!("{} runs{sampled}\n", runs.len()));
    Ok(text)
}

/// How long it takes, and how rough that is; on a GPU, only what finished runs tell.
fn duration(runs: &[Run], out: &Path, device: Option<DeviceArg>) -> Result<String> {
    if let Some(left) = time_left(runs, &finished_runs(out), &|_| 0.0) {
        return Ok(format!("{}\n", still(&left)));
    }
    let fast = runs.iter().any(|run| run.recipe.model.numerics == Numerics::Fast);
    let numerics = if fast { Numerics::Fast } else { Numerics::Exact };
    let most = match DeviceArg::or_environment(device)? {
        DeviceArg::Cpu => most_seconds(runs, multiply_add_rate(&open::host(numerics)?)),
        DeviceArg::Cuda | DeviceArg::Auto => None,
    };
    Ok(match most {
        Some(seconds) => format!(
            "time: at most about {} here. Very rough: half of the machine's measured multiply-adds, completions as long as \
             they may be (most are shorter), prompts left out. After the first run it is told from runs\n",
            self::seconds(seconds)
        ),
        None => "time: not known before a run is done; it is told after the first one\n".to_owned(),
    })
}

/// Told from finished runs.
fn still(left: &TimeLeft) -> String {
    let time = seconds(left.seconds);
    let runs = |count: usize| if count == 1 { "1 run".to_owned() } else { format!("{count} runs") };
    format!(
        "time: about {time} for {}, told from {} done (rough: lengths of completions differ from run to run)",
        runs(left.runs),
        runs(left.from)
    )
}

fn stopped(rows: &[ResultRow], runs: &[Run], args: &SweepArgs, out: &Path) -> String {
    let word = |path: &Path| report::shell_word(&path.display().to_string());
    format!(
        "stopped with {} of {} runs done; go on with\n  tinylora sweep {} --out {} --resume",
        rows.len(),
        runs.len(),
        word(&args.sweep),
        word(out)
    )
}

/// The best learning rate of each size.
fn table(best: &[BestRate], rows: &[ResultRow]) -> String {
    if best.is_empty() {
        return format!("{} runs, none with an evaluation (eval.problems = 0)\n", rows.len());
    }
    let mut text = format!(
        "{:<6} {:<10} {:>9} {:>10} {:>9} {:>6}   {:<22} {}\n",
        "", "method", "numbers", "bytes", "rate", "seeds", "accuracy (mean ± sd)", "greedy"
    );
    for row in best {
        let learner = format!("{:?}", row.learner).to_lowercase();
        let percent = |value: Option<f64>| value.map_or("–".to_owned(), format::percent);
        let spread = row.standard_deviation.map_or(String::new(), |sd| format!(" ± {:.1}", 100.0 * sd));
        let accuracy = format!("{} → {}{spread}", percent(row.baseline), format::percent(row.accuracy));
        let greedy = format!("{} → {}", percent(row.greedy_baseline), percent(row.greedy_accuracy));
        text.push_str(&format!(
            "{learner:<6} {:<10} {:>9} {:>10} {:>9} {:>6}   {accuracy:<22} {greedy}\n",
            row.method,
            row.trainable_parameters,
            format::bytes(row.bytes),
            format::short(row.learning_rate),
            row.seeds,
        ));
    }
    text
}
