//! The rules of Qwen2.5-Math's evaluation (QwenLM/Qwen2.5-Math, evaluation/parser.py and grader.py), which many tables of
//! results were made with, their mistakes included: tolerances of 1e-4, a hundredth and a hundredfold of the gold
//! accepted, brackets ignored, formulas read up to the first thing that is not understood. One difference: an empty
//! gold answer accepts nothing.

mod equal;
mod normalize;
mod units;

use crate::fuel::{Fuel, OutOfFuel};
use crate::{Explanation, Gold, Prediction, Verdict};

/// Scores a prediction. `keep_units`: units stay in both answers, as the original does for Minerva.
pub fn verdict(gold: Gold, prediction: Prediction, keep_units: bool, fuel: &mut Fuel) -> Explanation {
    let gold =
        if gold.0.contains("boxed") { extracted(gold.0) } else { gold.0.replace('$', "").trim().to_string() };
    let gold = normalize::stripped(&gold, keep_units);
    let found = normalize::stripped(&normalize::stripped(&extracted(prediction.0), keep_units), keep_units);
    let explanation = Explanation::new(&gold, &found);
    if gold.is_empty() {
        return explanation.with(Verdict::GoldUnparsed, "nothing is left of the gold answer");
    }
    if found.is_empty() {
        return explanation.with(Verdict::PredictionUnparsed, "no answer is found in the prediction");
    }
    match equal::equal(&found, &gold, 0, fuel) {
        Ok(Some(rule)) => explanation.with(Verdict::Equal, rule),
        Ok(None) => explanation.with(Verdict::Different, "no rule finds them equal"),
        Err(OutOfFuel) => explanation.with(Verdict::OutOfFuel, "it takes more steps than are allowed"),
    }
}

/// The answer in a completion.
fn extracted(text: &str) -> String {
    let after_last = |mark: &str| text.rsplit(mark).next().unwrap_or_default().trim().to_string();
    let answer =
        if let (Some((_, rest)), true) = (text.split_once("final answer is $"), text.contains("$. I hope")) {
            rest.split("$. I hope").next().unwrap_or_default().trim().to_string()
        } else if text.contains("boxed") {
            boxed(text.rsplit("boxed").next().unwrap_or_default())
        } else if text.contains("he answer is") {
            after_last("he answer is")
        } else if text.contains("final answer is") {
            after_last("final answer is")
        } else if let Some((_, rest)) = text.split_once("答案是") {
            let rest = rest.split("答案是").next().unwrap_or_default();
            rest.trim().split("\n\n").next().unwrap_or_default().trim().to_string()
        } else {
            last_number(&text.replace(',', "")).to_string()
        };
    let mut lines = answer.split('\n');
    let mut joined = lines.next().unwrap_or_default().to_string();
    lines.for_each(|line| joined.push_str(line.trim_start()));
    let answer = joined.strip_prefix(':').unwrap_or(&joined);
    let answer = answer.strip_suffix('.').unwrap_or(answer);
    answer.strip_suffix('/').unwrap_or(answer).to_string()
}

/// What stands in the braces that begin the text, also where they do not close; without braces, up to `$`.
fn boxed(text: &str) -> String {
    if !text.starts_with('{') {
        return text.split('$').next().unwrap_or_default().trim().to_string();
    }
    match crate::extract::closing(text) {
        Some(end) => text[1..end].to_string(),
        None => text[1..].to_string(),
    }
}

/// The last match of `-?\d*\.?\d+`.
fn last_number(text: &str) -> &str {
    let digit = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let (mut at, mut last) = (0, "");
    while at < text.len() {
        let mut end = at + usize::from(text.as_bytes()[at] == b'-');
        while digit(end) {
            end += 1;
        }
        let whole = end > at && digit(end - 1);
        if text.as_bytes().get(end) == Some(&b'.') && digit(end + 1) {
            end += 1;
            while digit(end) {
                end += 1;
            }
        } else if !whole {
            at += 1;
            continue;
        }
        last = &text[at..end];
        at = end;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(gold: &str, prediction: &str) -> Verdict {
        verdict(Gold(gold), Prediction(prediction), false, &mut Fuel::new(crate::FUEL)).verdict
    }

    #[test]
    fn extraction() {
        for (text, answer) in [
            ("The final answer is $12$. I hope it is correct.", "12"),
            ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
            ("so \\boxed 7$ it is", "7"),
            ("The answer is: 5.", " 5"),
            ("costs 1,234.50 or so", "1234.50"),
            ("from 3-4", "-4"),
            ("nothing", ""),
        ] {
            assert_eq!(extracted(text), answer, "{text}");
        }
    }

    #[test]
    fn known_verdicts() {
        for (gold, prediction, expected) in [
            ("0.5", "\\boxed{50}", Verdict::Equal),
            ("50", "\\boxed{5000}", Verdict::Equal),
            ("10000", "\\boxed{10001}", Verdict::Equal),
            ("[1,2]", "\\boxed{(1,2)}", Verdict::Equal),
            ("\\frac{1}{2}", "\\boxed{0.5}", Verdict::Equal),
            ("x^2+1", "\\boxed{1+x^2}", Verdict::Equal),
            ("5", "\\boxed{5 \\text{ cm}}", Verdict::Equal),
            ("A", "\\boxed{(A)}", Verdict::Equal),
            (
                "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
                "\\boxed{\\begin{bmatrix}1\\\\2\\end{bmatrix}}",
                Verdict::Equal,
            ),
            ("x=3", "\\boxed{3}", Verdict::Equal),
            ("p+q^2=3", "\\boxed{q^2+p=3}", Verdict::Equal),
            ("2", "\\boxed{3}", Verdict::Different),
            ("\\text{east}", "", Verdict::GoldUnparsed),
        ] {
            assert_eq!(verdict_of(gold, prediction), expected, "{gold} {prediction}");
        }
    }
}
