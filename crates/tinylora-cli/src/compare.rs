//! `tinylora eval compare`: the folders of two evaluations enter, a table or an object leaves on standard output.

use crate::args::CompareArgs;
use crate::eval_text;
use crate::failure::Usage;
use crate::screen::stdout_style;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tinylora::evaluate::{
    BENCHMARK_SUMMARY_FILE, BenchmarkSummary, Comparison, compare, read_benchmark_summary, read_results,
};

/// What `--json` prints.
#[derive(Serialize)]
struct Told {
    first: String,
    second: String,
    benchmarks: BTreeMap<String, Of>,
}

#[derive(Serialize)]
struct Of {
    #[serde(flatten)]
    comparison: Comparison,
    /// Settings that differ besides model and adapter.
    settings_differ: Vec<String>,
}

/// Runs the command.
pub fn run(args: &CompareArgs) -> Result<()> {
    let (first, second) = (evaluations(&args.first)?, evaluations(&args.second)?);
    let mut told = Told {
        first: args.first.display().to_string(),
        second: args.second.display().to_string(),
        benchmarks: BTreeMap::new(),
    };
    for (name, (folder, summary)) in &first {
        let Some((other_folder, other)) = second.get(name) else {
            eprintln!("{name} is in A only and is left out");
            continue;
        };
        let comparison = compare(&read_results(folder)?, &read_results(other_folder)?, args.seed)
            .with_context(|| format!("{name} of {} and {}", args.first.display(), args.second.display()))?;
        let settings_differ = other_settings(summary, other);
        if !args.json {
            println!("{}", eval_text::comparison(&summary.title, &comparison, stdout_style()).trim_end());
            if !settings_differ.is_empty() {
                println!("  settings    they differ in {}", settings_differ.join("; "));
            }
        }
        told.benchmarks.insert(name.clone(), Of { comparison, settings_differ });
    }
    for name in second.keys().filter(|name| !first.contains_key(*name)) {
        eprintln!("{name} is in B only and is left out");
    }
    if told.benchmarks.is_empty() {
        let message =
            format!("{} and {} have no benchmark in common", args.first.display(), args.second.display());
        return Err(Usage(message).into());
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    }
    Ok(())
}

/// Finished evaluations in a folder or one level below it, by benchmark.
fn evaluations(folder: &Path) -> Result<BTreeMap<String, (PathBuf, BenchmarkSummary)>> {
    let mut folders = vec![folder.to_owned()];
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    for entry in entries {
        folders.push(entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path());
    }
    let mut found = BTreeMap::new();
    for folder in folders.iter().filter(|folder| folder.join(BENCHMARK_SUMMARY_FILE).is_file()) {
        let summary = read_benchmark_summary(folder)?;
        let name = summary.settings.benchmark.clone();
        if let Some((other, _)) = found.insert(name.clone(), (folder.clone(), summary)) {
            let message = format!(
                "{} and {} are both evaluations on {name}: name one of them",
                PathBuf::from(&other).display(),
                folder.display()
            );
            return Err(Usage(message).into());
        }
    }
    if found.is_empty() {
        let message = format!(
            "{} has no finished evaluation (no {BENCHMARK_SUMMARY_FILE}): one that was interrupted is finished with --resume",
            folder.display()
        );
        return Err(Usage(message).into());
    }
    Ok(found)
}

/// What differs besides what is being compared: the model and the adapter.
fn other_settings(first: &BenchmarkSummary, second: &BenchmarkSummary) -> Vec<String> {
    let mut second = second.settings.clone();
    second.model_sha256 = first.settings.model_sha256.clone();
    second.adapter_sha256 = first.settings.adapter_sha256.clone();
    first
        .settings
        .differences(&second)
        .into_iter()
        .map(|text| text.replace("was", "A").replace("now", "B"))
        .collect()
}
