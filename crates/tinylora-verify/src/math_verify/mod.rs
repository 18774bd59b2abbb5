//! The rules of Math-Verify 0.8 with its default settings: anchors by priority, the rightmost match first, boxes joined,
//! floats rounded to six places, an inequality as gold accepts an interval but not the reverse. What neither side
//! understands is compared as text.

mod candidates;
mod compare;
mod normalize;

use crate::fuel::Fuel;
use crate::number::Stop;
use crate::{Explanation, Gold, Prediction, Verdict};
use candidates::extracted;

/// Only this much of a text's end is searched, in bytes.
const TAIL: usize = 16_000;

/// Scores a prediction.
pub fn verdict(gold: Gold, prediction: Prediction, fuel: &mut Fuel) -> Explanation {
    let marked = |text: &str| {
        text.contains('$') || text.contains("boxed") || text.contains("\\(") || text.contains("\\[")
    };
    let gold_text = if marked(gold.0) { gold.0.to_string() } else { format!("${}$", gold.0) };
    let read = |text: &str, fuel: &mut Fuel| extracted(crate::extract::tail(text, TAIL), fuel);
    let (gold, prediction) = match (read(&gold_text, fuel), read(prediction.0, fuel)) {
        (Ok(gold), Ok(prediction)) => (gold, prediction),
        _ => {
            return Explanation::new("", "").with(Verdict::OutOfFuel, "it takes more steps than are allowed");
        }
    };
    let mut explanation = Explanation::new(&gold.text, &prediction.text);
    let shown =
        |found: &candidates::Found| found.value.as_ref().map_or("not understood".into(), crate::show::show);
    (explanation.gold_reading, explanation.prediction_reading) = (shown(&gold), shown(&prediction));
    if gold.value.is_none() && gold.text.trim().is_empty() {
        return explanation.with(Verdict::GoldUnparsed, "there is no gold answer");
    }
    if prediction.value.is_none() && prediction.text.trim().is_empty() {
        return explanation.with(Verdict::PredictionUnparsed, "no answer is found in the prediction");
    }
    if !gold.text.trim().is_empty() && gold.text.trim() == prediction.text.trim() {
        return explanation.with(Verdict::Equal, "the same normalised text");
    }
    match (&gold.value, &prediction.value) {
        (Some(a), Some(b)) => match compare::equal(a, b, fuel) {
            Ok(true) => explanation.with(Verdict::Equal, "the same value"),
            Ok(false) | Err(Stop::Undefined | Stop::TooLarge) => {
                explanation.with(Verdict::Different, "another value")
            }
            Err(Stop::OutOfFuel) => {
                explanation.with(Verdict::OutOfFuel, "it takes more steps than are allowed")
            }
        },
        (None, _) => explanation.with(Verdict::GoldUnparsed, "the gold answer is not understood"),
        (_, None) => explanation.with(Verdict::PredictionUnparsed, "the prediction is not understood"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_verdicts() {
        for (gold, prediction, expected) in [
            ("$28\\%$", "28 percent", Verdict::Equal),
            ("$1/3$", "\\boxed{0.333333}", Verdict::Equal),
            ("$1/3$", "\\boxed{0.33}", Verdict::Different),
            ("$x < 3$", "$(-\\infty, 3)$", Verdict::Equal),
            ("$(-\\infty, 3)$", "$x < 3$", Verdict::Different),
            ("$5$", "so it is \\boxed{x = 5}", Verdict::Equal),
            ("$x = 5$", "so it is \\boxed{y = 5}", Verdict::Different),
            ("$(1,2)$", "\\boxed{1,2}", Verdict::Equal),
            ("$[1,2]$", "\\boxed{(1,2)}", Verdict::Different),
            ("$15\\text{ cm}^2$", "\\boxed{15}", Verdict::Equal),
            (
                "$12$",
                "The answer is 12. We used 3 rules, but the final answer is $12$. I hope it is correct.",
                Verdict::Equal,
            ),
            ("$12$", "nothing", Verdict::PredictionUnparsed),
        ] {
            let told = verdict(Gold(gold), Prediction(prediction), &mut Fuel::new(crate::FUEL));
            assert_eq!(told.verdict, expected, "{gold} {prediction}: {told:?}");
        }
    }
}
