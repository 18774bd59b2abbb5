//! `tinylora train`: a recipe enters, a run's folder and a report leave.

use crate::args::TrainArgs;
use crate::display::{RunDisplay, memory_line};
use crate::failure::{DONE, INTERRUPTED};
use crate::screen::{Screen, stdout_style};
use crate::{interrupt, open, report};
use anyhow::Result;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tinylora::adapter::load;
use tinylora::base::BaseError;
use tinylora::checkpoint;
use tinylora::data::{DataError, benchmark::BenchmarkError};
use tinylora::hub::{HubError, HubOptions};
use tinylora::recipe::{AdapterKind, Recipe};
use tinylora::train::{Outcome, TrainError, TrainOptions, plan, train};

/// Runs the command; gives the exit status.
pub fn run(args: &TrainArgs) -> Result<u8> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    if args.dry_run {
        return dry_run(&recipe);
    }
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    let cpu = open::device(recipe.model.numerics, args.device)?;
    let screen = Screen::stderr();
    let mut display = RunDisplay::new(screen.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let checkpoints = out.join("checkpoints");
    interrupt::finish_and_save(screen.clone(), stop.clone(), move || {
        let newest = checkpoint::list(&checkpoints).ok().and_then(|mut all| all.pop());
        match newest {
            Some((_, path)) => format!("stopped; the last checkpoint is {}", path.display()),
            None => "stopped; nothing was saved yet".into(),
        }
    })?;
    let options =
        TrainOptions { out: out.clone(), resume: args.resume, hub: HubOptions::from_env(), interrupt: &stop };
    let outcome = train(&cpu, &recipe, &options, &mut |event| display.take(&event));
    display.finish();
    match outcome? {
        Outcome::Done(summary) => {
            if summary.adapter.kind == AdapterKind::Full.name() {
                print!("{}", report::render(&summary, &[], &out, stdout_style()));
                return Ok(DONE);
            }
            let adapter = out.join("adapter.tinylora");
            let adapter = load(&adapter.to_string_lossy())?;
            print!("{}", report::render(&summary, adapter.v(), &out, stdout_style()));
            Ok(DONE)
        }
        Outcome::Interrupted { step, checkpoint } => {
            screen.print(&interrupted(step, checkpoint.as_deref(), args));
            Ok(INTERRUPTED)
        }
    }
}

/// The complete recipe on standard output, what it takes on standard error.
fn dry_run(recipe: &Recipe) -> Result<u8> {
    print!("{}", recipe.to_toml());
    let screen = Screen::stderr();
    let cpu = open::host(recipe.model.numerics)?;
    match plan(&cpu, recipe, &HubOptions::from_env()) {
        Ok(plan) => screen.print(&memory_line(&plan)),
        // Nothing is fetched for an estimate.
        Err(TrainError::Base(BaseError::Hub(HubError::NoPip { .. } | HubError::Offline { .. }))) => {
            let model = report::shell_word(&recipe.model.reference);
            screen.print(&format!(
                "memory: not known before the model is here; `tinylora model pull {model}` fetches it"
            ));
        }
        Err(TrainError::Data(
            DataError::Benchmark(BenchmarkError::Hub(HubError::Offline { what, .. }))
            | DataError::Hub(HubError::Offline { what, .. }),
        )) => {
            screen
                .print(&format!("memory: not known before the data of {what} are here; a run fetches them"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(DONE)
}

fn interrupted(step: u64, checkpoint: Option<&Path>, args: &TrainArgs) -> String {
    let Some(checkpoint) = checkpoint else {
        return "stopped before the first step; nothing was saved".into();
    };
    let mut command = format!("tinylora train {}", report::shell_word(&args.recipe.display().to_string()));
    if let Some(out) = &args.out {
        command.push_str(&format!(" --out {}", report::shell_word(&out.display().to_string())));
    }
    for set in &args.set {
        command.push_str(&format!(" --set {}", report::shell_word(set)));
    }
    format!("stopped after step {step}, saved in {}\ngo on with: {command} --resume", checkpoint.display())
}
