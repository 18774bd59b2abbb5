//! What a person may choose about figures: plain data, nothing is done here.

use std::fmt;

/// A figure that can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FigureKind {
    /// Accuracy against the size of the update (the paper's Figures 1 and 2).
    Size,
    /// The smallest update that gives most of the gain (Figure 3).
    Fraction,
    /// Accuracy by bytes, for each precision and way of tying (Figure 4).
    Precision,
    /// Accuracy by rank, u and n_tie (Figures 6 to 9).
    Ablation,
    /// Accuracy by learning rate, for each size.
    Rates,
    /// Reward, length, KL and more over the steps of runs (Figure 5).
    Steps,
    /// Accuracy on benchmarks.
    Benchmarks,
}

impl FigureKind {
    /// All of them, in the order in which they are drawn.
    pub const ALL: [Self; 7] = [
        Self::Size,
        Self::Fraction,
        Self::Precision,
        Self::Ablation,
        Self::Rates,
        Self::Steps,
        Self::Benchmarks,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Fraction => "fraction",
            Self::Precision => "precision",
            Self::Ablation => "ablation",
            Self::Rates => "rates",
            Self::Steps => "steps",
            Self::Benchmarks => "benchmarks",
        }
    }
}

impl fmt::Display for FigureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the size of an update is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// Trained numbers.
    #[default]
    Numbers,
    /// Bytes as they are stored.
    Bytes,
}

/// Which 95 % interval is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interval {
    /// Of the mean over seeds, by Student's t; where there is one seed, or all are equal, that over problems.
    #[default]
    Seeds,
    /// Over the problems of one evaluation (Wilson), at the mean over seeds.
    Problems,
}

/// How the completions were chosen whose accuracy is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Sampled.
    Sampled,
    /// Decoded greedily.
    Greedy,
}

impl Measure {
    /// The axis label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sampled => "sampled accuracy (%)",
            Self::Greedy => "greedy accuracy (%)",
        }
    }
}

/// Choices; the default draws all that the data allows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlotOptions {
    /// The figures; empty: all that the data allows.
    pub figures: Vec<FigureKind>,
    /// What sizes are counted in.
    pub unit: Unit,
    /// Which interval.
    pub interval: Interval,
    /// Which accuracy; `None`: sampled, or greedy where no run was sampled.
    pub measure: Option<Measure>,
    /// Results of this task alone.
    pub task: Option<String>,
    /// Results of this model alone.
    pub model: Option<String>,
    /// A heading.
    pub title: Option<String>,
    /// Pixels of a PNG for each unit of the drawing; 0 stands for [`PlotOptions::SCALE`].
    pub scale: f32,
}

impl PlotOptions {
    /// The usual scale: 3 pixels a unit, about 300 a printed inch.
    pub const SCALE: f32 = 3.0;
}
