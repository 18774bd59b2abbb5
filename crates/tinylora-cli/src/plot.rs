//! `tinylora plot`: folders of results enter, a file with figures leaves; its name on standard output, notes on standard
//! error.

use crate::failure::Usage;
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use tinylora_plot::{FigureKind, Format, Interval, Measure, PlotError, PlotOptions, Unit};

/// `tinylora plot`
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// Folders of sweeps, runs or evaluations, or folders that hold such folders
    #[arg(value_name = "DIR", required = true)]
    pub folders: Vec<PathBuf>,
    /// The file to write; its end decides what: .svg, .png or .html (a page with tables)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Draw these figures, with commas between [default: all that the results allow]
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',')]
    pub figure: Vec<FigureArg>,
    /// Count sizes in trained numbers or in stored bytes
    #[arg(long, value_enum, default_value_t = By::Numbers)]
    pub by: By,
    /// Draw the 95 % interval over seeds (Student's t) or over the problems of an evaluation (Wilson)
    #[arg(long, value_enum, default_value_t = IntervalArg::Seeds)]
    pub interval: IntervalArg,
    /// Draw this accuracy [default: sampled, or greedy where no run was sampled]
    #[arg(long, value_enum)]
    pub accuracy: Option<Accuracy>,
    /// Only results of this task
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Only results of this model
    #[arg(long, value_name = "REF")]
    pub model: Option<String>,
    /// A heading
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// Pixels of a PNG for each unit of the drawing; 3 is about 300 an inch in print
    #[arg(long, value_name = "N", default_value_t = PlotOptions::SCALE, value_parser = scale)]
    pub scale: f32,
}

/// Names of the figures.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FigureArg {
    /// Accuracy by the size of the update
    Size,
    /// The smallest update that gives 90, 95 and 99 % of the gain
    Fraction,
    /// Accuracy by bytes, for each storage precision and tying
    Precision,
    /// Accuracy by rank, u and n_tie
    Ablation,
    /// Accuracy by learning rate, for each size
    Rates,
    /// Reward, length, KL, entropy, loss and gradient norm by step
    Steps,
    /// Accuracy on benchmarks
    Benchmarks,
}

/// `--by`
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "lower")]
pub enum By {
    /// Trained numbers
    Numbers,
    /// Stored bytes
    Bytes,
}

/// `--interval`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum IntervalArg {
    /// Of the mean over seeds
    Seeds,
    /// Over the problems of an evaluation
    Problems,
}

/// `--accuracy`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Accuracy {
    /// Of sampled completions
    Sampled,
    /// Of greedy ones
    Greedy,
}

/// Runs the command.
pub fn run(args: &PlotArgs) -> Result<()> {
    // A name that says nothing is wrong usage, before anything is read.
    Format::of(&args.out).map_err(|error| Usage(error.to_string()))?;
    let options = PlotOptions {
        figures: args.figure.iter().map(|figure| kind(*figure)).collect(),
        unit: match args.by {
            By::Numbers => Unit::Numbers,
            By::Bytes => Unit::Bytes,
        },
        interval: match args.interval {
            IntervalArg::Seeds => Interval::Seeds,
            IntervalArg::Problems => Interval::Problems,
        },
        measure: args.accuracy.map(|accuracy| match accuracy {
            Accuracy::Sampled => Measure::Sampled,
            Accuracy::Greedy => Measure::Greedy,
        }),
        task: args.task.clone(),
        model: args.model.clone(),
        title: args.title.clone(),
        scale: args.scale,
    };
    let drawn = tinylora_plot::plot(&args.folders, &args.out, &options).map_err(|error| match error {
        PlotError::MixedTasks { .. } | PlotError::Filter { .. } | PlotError::TooLarge { .. } => {
            anyhow::Error::from(Usage(error.to_string()))
        }
        error => error.into(),
    })?;
    for note in &drawn.notes {
        eprintln!("note: {note}");
    }
    let mut names: Vec<&str> = drawn.figures.iter().map(|figure| figure.name()).collect();
    names.dedup();
    eprintln!("drawn: {}", names.join(", "));
    println!("{}", args.out.display());
    Ok(())
}

fn kind(figure: FigureArg) -> FigureKind {
    match figure {
        FigureArg::Size => FigureKind::Size,
        FigureArg::Fraction => FigureKind::Fraction,
        FigureArg::Precision => FigureKind::Precision,
        FigureArg::Ablation => FigureKind::Ablation,
        FigureArg::Rates => FigureKind::Rates,
        FigureArg::Steps => FigureKind::Steps,
        FigureArg::Benchmarks => FigureKind::Benchmarks,
    }
}

fn scale(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(scale) if scale > 0.0 && scale <= 100.0 => Ok(scale),
        _ => Err("a number above 0, at most 100".into()),
    }
}
