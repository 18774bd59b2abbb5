//! `tinylora sweep`: a list of runs enters, their folders and a table leave.

use crate::args::SweepArgs;
use crate::display::RunDisplay;
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
use tinylora::recipe::Numerics;
use tinylora::sweep::{
    BestRate, Cost, ResultRow, Run, SweepEvent, SweepOutcome, TimeLeft, best_rates, describe, estimate,
    finished_runs, load, most_seconds, sweep, time_left,
};
use tinylora::train::TrainOptions;
use tinylora_compute::peak::multiply_add_rate;

/// Runs the command; gives the exit status.
pub fn run(args: &SweepArgs) -> Result<u8> {
    let runs = load(&args.sweep, &args.set).map_err(|error| Usage(error.to_string()))?;
    let stem = args.sweep.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let out = args.out.clone().unwrap_or_else(|| Path::new("sweeps").join(stem));
    if args.dry_run {
        print!("{}{}", planned(&runs)?, duration(&runs, &out, args.device)?);
        return Ok(DONE);
    }
    if !args.resume && out.join("runs").exists() {
        let out = out.display();
        return Err(Usage(format!(
            "{out} holds a sweep already: go on with --resume, or name another --out"
        ))
        .into());
    }
    let kinds: BTreeSet<bool> = runs.iter().map(|run| run.recipe.model.numerics == Numerics::Fast).collect();
    for fast in kinds {
        open::device(if fast { Numerics::Fast } else { Numerics::Exact }, args.device)?; // an error now, not in the middle
    }
    let screen = Screen::stderr();
    let stop = Arc::new(AtomicBool::new(false));
    interrupt::finish_and_save(screen.clone(), stop.clone(), String::new)?;
    let options =
        TrainOptions { out: out.clone(), resume: args.resume, hub: HubOptions::from_env(), interrupt: &stop };
    let mut display: Option<RunDisplay> = None;
    let device = |recipe: &tinylora::recipe::Recipe| {
        open::device(recipe.model.numerics, args.device).expect("tried before the first run")
    };
    let outcome = sweep(&device, &runs, &options, &mut |event| match event {
        SweepEvent::Run { number, of, run, done } => {
            if let Some(finished) = display.take() {
                finished.finish();
            }
            let left = if done { None } else { time_left(&runs, &finished_runs(&out)) };
            let done = if done { ": done earlier" } else { "" };
            screen.print(&format!("run {number} of {of}: {}{done}", describe(&run.settings)));
            if let Some(left) = left {
                screen.print(&still(&left));
            }
        }
        SweepEvent::Train(event) => {
            display.get_or_insert_with(|| RunDisplay::new(screen.clone())).take(&event);
        }
    });
    if let Some(display) = display {
        display.finish();
    }
    match outcome? {
        SweepOutcome::Done(rows) => {
            print!("{}", table(&best_rates(&rows), &rows));
            println!("{}", out.join("results.jsonl").display());
            Ok(DONE)
        }
        SweepOutcome::Interrupted(rows) => {
            screen.print(&stopped(&rows, &runs, args, &out));
            Ok(INTERRUPTED)
        }
    }
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
    if let Some(left) = time_left(runs, &finished_runs(out)) {
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
            format::duration(Duration::from_secs_f64(seconds.min(1e9)))
        ),
        None => "time: not known before a run is done; it is told after the first one\n".to_owned(),
    })
}

/// Told from finished runs.
fn still(left: &TimeLeft) -> String {
    let time = format::duration(Duration::from_secs_f64(left.seconds.min(1e9)));
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
