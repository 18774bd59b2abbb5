//! Decides whether a written answer is the right one: a gold answer and a prediction enter, a [`Verdict`] leaves.
//! Nothing here reads files, starts threads or looks at a clock; work is limited by counting it, so that a verdict is
//! the same on every machine.
//!
//! ```
//! use tinylora_verify::{Gold, Prediction, Scorer, Verdict, verify};
//!
//! let gold = Gold("\\frac{1}{2}");
//! assert_eq!(verify(Scorer::Robust, gold, Prediction("so it is \\boxed{0.5}.")), Verdict::Equal);
//! assert_eq!(verify(Scorer::Robust, gold, Prediction("so it is \\boxed{5}.")), Verdict::Different);
//! ```
//!
//! [`Scorer::Robust`] is the one to use. The others are the rules of well-known evaluations, for comparable tables.

mod compare;
mod equal;
mod evaluate;
mod expr;
mod extract;
mod fuel;
mod function;
pub mod gsm8k;
mod hendrycks;
mod interval;
mod magnitude;
mod math_verify;
mod matrix;
mod number;
mod parse;
mod qwen;
mod robust;
mod show;
mod token;
mod words;

pub use fuel::OutOfFuel;

use fuel::Fuel;
use parse::ParseError;

/// The right answer, as a data set gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gold<'a>(pub &'a str);

/// What is to be judged: an answer, or a whole completion that holds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction<'a>(pub &'a str);

/// The rules by which answers are found and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Scorer {
    /// Exact values, typed answers, no guesses.
    #[default]
    Robust,
    /// Qwen2.5-Math's evaluation, which SimpleRL's tables use as well.
    Qwen,
    /// Qwen2.5-Math's evaluation as it treats Minerva: units stay.
    QwenUnits,
    /// Math-Verify 0.8.
    MathVerify,
    /// The last `#### n`, compared as text.
    Gsm8kStrict,
    /// The last number, compared by value.
    Gsm8kFlexible,
    /// The last box, compared as normalised text (Hendrycks et al. 2021).
    Math,
}

impl Scorer {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Robust,
        Self::Qwen,
        Self::QwenUnits,
        Self::MathVerify,
        Self::Gsm8kStrict,
        Self::Gsm8kFlexible,
        Self::Math,
    ];

    /// Its name on the command line and in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Robust => "robust",
            Self::Qwen => "qwen",
            Self::QwenUnits => "qwen-units",
            Self::MathVerify => "math-verify",
            Self::Gsm8kStrict => "gsm8k-strict",
            Self::Gsm8kFlexible => "gsm8k-flexible",
            Self::Math => "math",
        }
    }

    /// The scorer of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scorer| scorer.name() == name)
    }
}

/// What a prediction turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The gold answer.
    Equal,
    /// Another answer.
    Different,
    /// The gold answer is empty or not understood.
    GoldUnparsed,
    /// There is no answer in the prediction, or it is not understood.
    PredictionUnparsed,
    /// It would take more steps than are allowed.
    OutOfFuel,
}

impl Verdict {
    /// Its name in the results of a batch.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::GoldUnparsed => "gold_unparsed",
            Self::PredictionUnparsed => "prediction_unparsed",
            Self::OutOfFuel => "out_of_fuel",
        }
    }

    fn of(error: ParseError, otherwise: Self) -> Self {
        match error {
            ParseError::Fuel(_) => Self::OutOfFuel,
            _ => otherwise,
        }
    }
}

/// A verdict and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The verdict.
    pub verdict: Verdict,
    /// The gold answer as it was extracted.
    pub gold: String,
    /// What it was read as.
    pub gold_reading: String,
    /// The answer that was extracted from the prediction.
    pub prediction: String,
    /// What it was read as.
    pub prediction_reading: String,
    /// The rule that decided.
    pub rule: &'static str,
}

impl Explanation {
    fn new(gold: &str, prediction: &str) -> Self {
        Self {
            verdict: Verdict::Different,
            gold: gold.into(),
            gold_reading: String::new(),
            prediction: prediction.into(),
            prediction_reading: String::new(),
            rule: "",
        }
    }

    fn with(mut self, verdict: Verdict, rule: &'static str) -> Self {
        self.verdict = verdict;
        self.rule = rule;
        self
    }
}

/// Steps that one verdict may take unless it is told otherwise.
pub const FUEL: u64 = 400_000;

/// Judges a prediction.
pub fn verify(scorer: Scorer, gold: Gold, prediction: Prediction) -> Verdict {
    explain(scorer, gold, prediction, FUEL).verdict
}

/// Judges a prediction within a number of steps, and tells how.
pub fn explain(scorer: Scorer, gold: Gold, prediction: Prediction, fuel: u64) -> Explanation {
    let mut fuel = Fuel::new(fuel);
    match scorer {
        Scorer::Robust => robust::verdict(gold, prediction, &mut fuel),
        Scorer::Qwen => qwen::verdict(gold, prediction, false, &mut fuel),
        Scorer::QwenUnits => qwen::verdict(gold, prediction, true, &mut fuel),
        Scorer::MathVerify => math_verify::verdict(gold, prediction, &mut fuel),
        Scorer::Gsm8kStrict => gsm8k::strict(gold, prediction),
        Scorer::Gsm8kFlexible => gsm8k::flexible(gold, prediction),
        Scorer::Math => hendrycks::verdict(gold, prediction),
    }
}
