//! The two rules for GSM8K. Strict: the last `#### n` of the last 300 characters, compared as text (verl's rule, with
//! a final full stop dropped as lm-evaluation-harness does). Flexible: the last number anywhere, compared by value. A
//! minus sign directly before a digit belongs to the number. An empty answer never agrees with anything.

use crate::{Explanation, Gold, Prediction, Verdict};

/// Only so many last characters are searched for `#### n`.
const LAST_CHARACTERS: usize = 300;

/// Scores by the strict rule.
pub fn strict(gold: Gold, prediction: Prediction) -> Explanation {
    let gold = clean(gold.0);
    let found = hashes(prediction.0);
    told(gold, found, |a, b| a == b, "the same text after ####")
}

/// Scores by the flexible rule.
pub fn flexible(gold: Gold, prediction: Prediction) -> Explanation {
    let gold = canonical(clean(gold.0)).unwrap_or_default();
    let found = last_number(prediction.0).and_then(canonical);
    told(gold, found, |a, b| a == b, "the last number has the same value")
}

/// The number of the last `#### n`, cleaned.
pub fn hashes(completion: &str) -> Option<String> {
    last_hashes(last_characters(completion, LAST_CHARACTERS)).map(clean)
}

fn told(
    gold: String,
    found: Option<String>,
    same: impl Fn(&str, &str) -> bool,
    rule: &'static str,
) -> Explanation {
    let explanation = Explanation::new(&gold, found.as_deref().unwrap_or_default());
    if gold.is_empty() {
        return explanation.with(Verdict::GoldUnparsed, "the gold answer is empty or no number");
    }
    match found.filter(|found| !found.is_empty()) {
        None => explanation.with(Verdict::PredictionUnparsed, "no answer of the form is found"),
        Some(found) if same(&found, &gold) => explanation.with(Verdict::Equal, rule),
        Some(_) => explanation.with(Verdict::Different, "another answer"),
    }
}

/// Without outer blanks, commas, dollar signs and one final full stop.
pub fn clean(text: impl AsRef<str>) -> String {
    let bare: String = text.as_ref().trim().chars().filter(|c| !matches!(c, ',' | '$')).collect();
    bare.strip_suffix('.').unwrap_or(&bare).trim().to_string()
}

fn last_characters(text: &str, n: usize) -> &str {
    match text.char_indices().rev().nth(n - 1) {
        Some((start, _)) => &text[start..],
        None => text,
    }
}

/// The last match of `#### (-?[0-9.,]+)`.
fn last_hashes(text: &str) -> Option<&str> {
    text.rmatch_indices("#### ").find_map(|(start, mark)| {
        let rest = &text[start + mark.len()..];
        let sign = usize::from(rest.starts_with('-'));
        let digits = rest[sign..].bytes().take_while(|b| is_number_byte(*b)).count();
        (digits > 0).then(|| &rest[..sign + digits])
    })
}

fn is_number_byte(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.' || byte == b','
}

/// The last match of `-?[0-9.,]+` with a digit in it.
fn last_number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let last_digit = bytes.iter().rposition(u8::is_ascii_digit)?;
    let end = last_digit + 1 + bytes[last_digit + 1..].iter().take_while(|b| is_number_byte(**b)).count();
    let start = last_digit - bytes[..last_digit].iter().rev().take_while(|b| is_number_byte(**b)).count();
    let start = if start > 0 && bytes[start - 1] == b'-' { start - 1 } else { start };
    Some(&text[start..end])
}

/// One text for each value: no commas, no leading or trailing zeros, no `-0`; none for what is no decimal.
fn canonical(text: impl AsRef<str>) -> Option<String> {
    let bare = text.as_ref().replace(',', "");
    let bare = bare.trim_end_matches('.');
    let (negative, digits) = match bare.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, bare),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    if !all_digits || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let zero = whole.is_empty() && fraction.is_empty();
    let sign = if negative && !zero { "-" } else { "" };
    Some(format!("{sign}{whole}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Different, Equal, GoldUnparsed, PredictionUnparsed};

    #[test]
    fn strict_compares_text() {
        for (prediction, gold, expected) in [
            ("#### 18", "18", Equal),
            ("#### 18.", "18", Equal),
            ("#### 18.0", "18", Different),
            ("#### 1,234", "1234", Equal),
            ("#### 5", "$5", Equal),
            ("####18", "18", PredictionUnparsed),
            ("#### 17\n#### 18", "18", Equal),
            ("#### 18\n#### none", "18", Equal),
            ("the answer is 18", "18", PredictionUnparsed),
            ("#### ", "", GoldUnparsed),
            ("#### .", "18", PredictionUnparsed),
        ] {
            assert_eq!(strict(Gold(gold), Prediction(prediction)).verdict, expected, "{prediction:?}");
        }
        let tail = |n: usize| format!("#### 18{}", "é".repeat(n));
        assert_eq!(strict(Gold("18"), Prediction(&tail(293))).verdict, Equal);
        assert_eq!(strict(Gold("18"), Prediction(&tail(294))).verdict, PredictionUnparsed);
    }

    #[test]
    fn flexible_compares_values() {
        for (prediction, gold, expected) in [
            ("so 18.0.", "18", Equal),
            ("$1,234.50 in all", "1234.5", Equal),
            ("18 of 20", "18", Different),
            ("20-2", "-2", Equal),
            ("-0", "0", Equal),
            ("no number, none.", "0", PredictionUnparsed),
            ("5", "five", GoldUnparsed),
            (
                "99999999999999999999999999999999999999991",
                "99999999999999999999999999999999999999990",
                Different,
            ),
        ] {
            assert_eq!(flexible(Gold(gold), Prediction(prediction)).verdict, expected, "{prediction:?}");
        }
    }
}
