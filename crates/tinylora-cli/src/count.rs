//! `tinylora adapter count`: a model's name enters, how many numbers each method would train on it leaves. Of the model no more
//! than its configuration is read.

use crate::eval::unknown;
use crate::failure::Usage;
use crate::format::{bytes, grouped};
use crate::interrupt;
use crate::loading::LoadingDisplay;
use crate::screen::Screen;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::path::Path;
use tinylora::adapter::{CountMethod, CountSizes, CountTable, Target, count};
use tinylora::base::Loading;
use tinylora::bench;
use tinylora::hub::{self, HubOptions, ModelFiles, ModelLayout};
use tinylora::model::config::ModelConfig;
use tinylora::model::weights::Weights;
use tinylora::recipe::nearest;

/// `tinylora adapter count`
#[derive(Debug, Args)]
pub struct CountArgs {
    /// The model: as elsewhere (see tinylora --help), or a well-known shape such as qwen2.5-7b; no weights are fetched
    /// but of models in one file
    #[arg(long, value_name = "REF")]
    pub model: String,
    /// Ranks of LoRA, LoRA-XS and VeRA
    #[arg(long, value_name = "R,…", value_delimiter = ',', default_value = "1,8,64,256")]
    pub rank: Vec<usize>,
    /// u of TinyLoRA: numbers in each v
    #[arg(long, value_name = "U,…", value_delimiter = ',', default_value = "1,13")]
    pub u: Vec<usize>,
    /// n_tie of TinyLoRA: modules that share one v, or all
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "all,16,1")]
    pub n_tie: Vec<String>,
    /// Adapted modules [default: all seven of a layer]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub targets: Vec<String>,
    /// Print one object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `--json`
#[derive(Serialize)]
struct Output<'a> {
    model: &'a str,
    #[serde(flatten)]
    table: &'a CountTable,
}

/// Runs the command.
pub fn run(args: &CountArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    let sizes = sizes(args)?;
    let config = config(&args.model)?;
    let table = count(&config, &sizes).map_err(|error| Usage(error.to_string()))?;
    match args.json {
        true => println!("{}", serde_json::to_string(&Output { model: &args.model, table: &table })?),
        false => print!("{}", text(&args.model, &table)),
    }
    Ok(())
}

fn sizes(args: &CountArgs) -> Result<CountSizes> {
    let names: Vec<&str> = Target::ALL.iter().map(|target| target.name()).collect();
    if let Some(other) = args.targets.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(unknown("--targets", other, &names));
    }
    let n_tie = args.n_tie.iter().map(|text| match text.as_str() {
        "all" => Ok(0),
        text => match text.parse() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(Usage(format!("--n-tie {text}: it must be a number from 1, or all")).into()),
        },
    });
    Ok(CountSizes {
        targets: match args.targets.is_empty() {
            true => names.iter().map(|name| (*name).to_owned()).collect(),
            false => args.targets.clone(),
        },
        ranks: args.rank.clone(),
        u: args.u.clone(),
        n_tie: n_tie.collect::<Result<_>>()?,
    })
}

/// A well-known shape, or what the model's own files say.
fn config(reference: &str) -> Result<ModelConfig> {
    if !Path::new(reference).exists()
        && let Some(shape) = bench::shape_of(reference)
    {
        return Ok(shape);
    }
    let mut display = LoadingDisplay::new(Screen::stderr());
    let found = hub::resolve_config(reference, &HubOptions::from_env(), &mut |progress| {
        display.take(&Loading::Hub(progress));
    });
    display.finish();
    let path = found.map_err(|error| match nearest(reference, bench::NAMES.into_iter()) {
        Some(near) => anyhow::anyhow!("{error}\nthere is a shape called {near}"),
        None => error.into(),
    })?;
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
        let files = ModelFiles { reference: reference.to_owned(), layout: ModelLayout::Gguf { path } };
        return Ok(Weights::open(&files)?.config().clone());
    }
    Ok(ModelConfig::from_config_file(&path)?)
}

fn text(model: &str, table: &CountTable) -> String {
    let mut text = format!(
        "{model}: {} parameters, n = {} layers, m = {} modules a layer ({}), d = {}\n\n",
        grouped(table.parameters),
        table.layers,
        table.targets.len(),
        table.targets.join(", "),
        table.hidden_size
    );
    text.push_str(&format!(
        "{:<16} {:<14} {:>15} {:>10} {:>10}   {:<12} {:>17}\n",
        "method", "sizes", "numbers", "bf16", "f32", "paper's form", "with n, m, d, …"
    ));
    for row in &table.rows {
        let (method, sizes) = match row.method {
            CountMethod::Full => ("full finetuning", String::new()),
            CountMethod::Lora { rank } => ("LoRA", format!("r {rank}")),
            CountMethod::LoraXs { rank } => ("LoRA-XS", format!("r {rank}")),
            CountMethod::Vera { rank } => ("VeRA", format!("r {rank}")),
            CountMethod::TinyLora { u, n_tie: 0 } => ("TinyLoRA", format!("u {u}, all tied")),
            CountMethod::TinyLora { u, n_tie } => ("TinyLoRA", format!("u {u}, n_tie {n_tie}")),
        };
        let or_dash = |number: Option<u64>, show: fn(u64) -> String| number.map_or("–".to_owned(), show);
        text.push_str(&format!(
            "{method:<16} {sizes:<14} {:>15} {:>10} {:>10}   {:<12} {:>17}\n",
            or_dash(row.numbers, grouped),
            or_dash(row.bytes_bf16, bytes),
            or_dash(row.bytes_f32, bytes),
            row.form,
            grouped(row.form_numbers),
        ));
    }
    if table.rows.iter().any(|row| row.numbers.is_none()) {
        text.push_str("\n–: the rank is larger than the smallest of these matrices allows\n");
    }
    text
}
