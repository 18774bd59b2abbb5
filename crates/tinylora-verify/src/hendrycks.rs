//! The rule that the MATH data set came with (Hendrycks et al. 2021, "Measuring Mathematical Problem Solving"): the last
//! box of the prediction, and equality of normalised text. Units after `\text{ `, degrees, dollar and percent signs go,
//! fractions and roots get their braces, short left sides of `=` go, a/b of whole numbers is a fraction.

use crate::extract::{boxed, closing};
use crate::{Explanation, Gold, Prediction, Verdict};

/// Scores a prediction.
pub fn verdict(gold: Gold, prediction: Prediction) -> Explanation {
    let gold_text = last_box(gold.0).unwrap_or_else(|| gold.0.trim().to_string());
    let gold_text = normal(&gold_text);
    let found = last_box(prediction.0).map(|text| normal(&text));
    let explanation = Explanation::new(&gold_text, found.as_deref().unwrap_or_default());
    if gold_text.is_empty() {
        return explanation.with(Verdict::GoldUnparsed, "nothing is left of the gold answer");
    }
    match found.filter(|found| !found.is_empty()) {
        None => explanation.with(Verdict::PredictionUnparsed, "there is no box with an answer"),
        Some(found) if found == gold_text => explanation.with(Verdict::Equal, "the same normalised text"),
        Some(_) => explanation.with(Verdict::Different, "another text"),
    }
}

fn last_box(text: &str) -> Option<String> {
    let at = text.rfind("\\boxed").max(text.rfind("\\fbox"))?;
    let rest = &text[at..];
    if let Some(rest) = rest.strip_prefix("\\boxed ") {
        return Some(rest.split('$').next().unwrap_or_default().into());
    }
    let open = rest.find('{')?;
    closing(&rest[open..]).map(|end| rest[open + 1..open + end].to_string()).or_else(|| boxed(rest))
}

fn normal(text: &str) -> String {
    let mut text = text.replace('\n', "").replace("\\!", "").replace("\\\\", "\\");
    for (from, to) in
        [("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", "")]
    {
        text = text.replace(from, to);
    }
    text = text.replace("^\\circ", "").replace("\\$", "");
    // A unit, where it is the only words: only what stands before it counts.
    if text.matches("\\text{ ").count() == 1 {
        text = text.split("\\text{ ").next().unwrap_or_default().to_string();
    }
    text = text.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.");
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    if let Some((left, right)) = text.split_once('=')
        && left.chars().count() <= 2
        && !right.contains('=')
    {
        text = right.to_string();
    }
    let text = fractions(&roots(&text).replace(' ', ""));
    let text = if text == "0.5" { "\\frac{1}{2}".into() } else { text };
    slashed(&text).unwrap_or(text)
}

/// `\sqrt3` with braces.
fn roots(text: &str) -> String {
    let mut parts = text.split("\\sqrt");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        out.push_str("\\sqrt");
        match part.chars().next() {
            Some(c) if c != '{' => {
                out.push_str(&format!("{{{c}}}"));
                out.push_str(&part[c.len_utf8()..]);
            }
            _ => out.push_str(part),
        }
    }
    out
}

/// `\frac12` and `\frac1{2}` with braces; the text as it is where a fraction has no two operands.
pub fn fractions(text: &str) -> String {
    let mut parts = text.split("\\frac");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        out.push_str("\\frac");
        if part.starts_with('{') {
            out.push_str(part);
            continue;
        }
        let mut chars = part.chars();
        let (Some(a), Some(b)) = (chars.next(), chars.next()) else { return text.to_string() };
        let rest = chars.as_str();
        if b == '{' {
            out.push_str(&format!("{{{a}}}{b}{rest}"));
        } else {
            out.push_str(&format!("{{{a}}}{{{b}}}{rest}"));
        }
    }
    out
}

/// `a/b` of whole numbers as a fraction.
fn slashed(text: &str) -> Option<String> {
    let (a, b) = text.split_once('/')?;
    let whole = |text: &str| text.parse::<i64>().is_ok_and(|n| n.to_string() == text);
    (whole(a) && whole(b)).then(|| format!("\\frac{{{a}}}{{{b}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_text_decides() {
        for (gold, prediction, expected) in [
            ("\\frac{1}{2}", "\\boxed{\\frac12}", Verdict::Equal),
            ("\\frac{1}{2}", "\\boxed{0.5}", Verdict::Equal),
            ("\\frac{1}{2}", "\\boxed{1/2}", Verdict::Equal),
            ("5", "\\boxed{5\\text{ cm}}", Verdict::Equal),
            ("x+1", "\\boxed{1+x}", Verdict::Different),
            ("5", "5", Verdict::PredictionUnparsed),
            ("\\text{ east}", "\\boxed{\\text{ west}}", Verdict::GoldUnparsed),
            ("5", "\\boxed{y=5}", Verdict::Equal),
        ] {
            assert_eq!(verdict(Gold(gold), Prediction(prediction)).verdict, expected, "{gold} {prediction}");
        }
    }
}
