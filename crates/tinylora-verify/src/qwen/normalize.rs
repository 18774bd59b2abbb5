//! Normalisation of the qwen scorer: an answer's text enters, the text that is compared leaves.

use super::units::without_units;
use crate::hendrycks::fractions;
use regex::Regex;
use std::sync::LazyLock;

struct Patterns {
    array: Regex,
    last_text: Regex,
    text: Regex,
    mbox: Regex,
    zeros: Regex,
    last_zeros: Regex,
    root: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let regex = |pattern| Regex::new(pattern).expect("a pattern of this file");
    Patterns {
        array: regex(r"\\begin\{array\}\{.*?\}"),
        last_text: regex(r"\\text\{.*?\}$"),
        text: regex(r"\\text\{(.*?)\}"),
        mbox: regex(r"\\mbox\{.*?\}"),
        zeros: regex(r"(\d+)\.0*([^\d])"),
        last_zeros: regex(r"(\d+)\.0*$"),
        root: regex(r"\\sqrt(\w+)"),
    }
});

/// The normalised text.
pub fn stripped(text: &str, keep_units: bool) -> String {
    let p = &*PATTERNS;
    let text = text.trim().replace('\n', "");
    let text = text.trim_end_matches('.').replace("\\!", "");
    let text = p.array.replace_all(&text, "\\begin{pmatrix}").replace("\\end{array}", "\\end{pmatrix}");
    let mut text = text.replace("bmatrix", "pmatrix");
    let renamed = [
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\neq", "\\ne"),
        ("\\leq", "\\le"),
        ("\\geq", "\\ge"),
        ("\\left", ""),
        ("\\right", ""),
        ("\\{", "{"),
        ("\\}", "}"),
    ];
    for (from, to) in renamed {
        text = text.replace(from, to);
    }
    let without = p.last_text.replace(&text, "").trim().to_string();
    if !without.is_empty() && without != text {
        text = without;
    }
    if !keep_units {
        text = without_units(&text);
    }
    for mark in ["^{\\circ}", "^\\circ", "\\$", "$", "\\(", "\\)"] {
        text = text.replace(mark, "");
    }
    text = word_number(&text).unwrap_or(text);
    text = p.text.replace_all(&text, "$1").into_owned();
    for name in ["x=", "y=", "z=", "x\\in", "y\\in", "z\\in", "x\\to", "y\\to", "z\\to"] {
        text = text.replace(name, "");
    }
    text = text.replace("\\emptyset", "{}").replace("(-\\infty,\\infty)", "\\mathbb{R}");
    text = text.replace("\\%", "").replace('%', "").replace(" .", " 0.").replace("{.", "{0.");
    text = text.replace("infinity", "\\infty");
    if !text.contains("\\infty") {
        text = text.replace("inf", "\\infty");
    }
    text = text.replace("and", "").replace("\\mathbf", "");
    text = p.mbox.replace_all(&text, "").into_owned();
    if text.contains('j') && !text.contains('i') {
        text = text.replace('j', "i");
    }
    text = p.zeros.replace_all(&text, "$1$2").into_owned();
    text = p.last_zeros.replace_all(&text, "$1").into_owned();
    finished(text)
}

fn finished(mut text: String) -> String {
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    if let Some((left, right)) = text.split_once('=')
        && !right.contains('=')
        && left.chars().count() <= 2
    {
        text = right.to_string();
    }
    let text = PATTERNS.root.replace_all(&text, "\\sqrt{$1}").replace(' ', "");
    let text = fractions(&text);
    slashed(&text).unwrap_or(text)
}

/// `a/b` of whole numbers or with roots as a fraction.
fn slashed(text: &str) -> Option<String> {
    let (a, b) = text.split_once('/')?;
    if b.contains('/') {
        return None;
    }
    let fits = |text: &str| text.contains("sqrt") || text.parse::<i64>().is_ok_and(|n| n.to_string() == text);
    (fits(a) && fits(b)).then(|| format!("\\frac{{{a}}}{{{b}}}"))
}

const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/// A number in words, other words ignored; digits without leading zeros.
fn word_number(text: &str) -> Option<String> {
    let text = text.replace('-', " ").to_lowercase();
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        let digits = text.trim_start_matches('0');
        return Some(if digits.is_empty() { "0".into() } else { digits.into() });
    }
    let (mut total, mut part, mut found) = (0u64, 0u64, false);
    for word in text.split_whitespace() {
        let scale = match word {
            "thousand" => 1000,
            "million" => 1_000_000,
            "billion" => 1_000_000_000,
            _ => 0,
        };
        if let Some(n) = ONES.iter().position(|name| *name == word) {
            part = part.checked_add(n as u64)?;
        } else if let Some(n) = TENS.iter().position(|name| *name == word) {
            part = part.checked_add(10 * (n as u64 + 2))?;
        } else if word == "hundred" {
            part = part.max(1).checked_mul(100)?;
        } else if scale > 0 {
            total = total.checked_add(part.max(1).checked_mul(scale)?)?;
            part = 0;
        } else {
            continue;
        }
        found = true;
    }
    found.then(|| (total + part).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised() {
        for (text, expected) in [
            ("\\dfrac{1}{2}", "\\frac{1}{2}"),
            ("1/2", "\\frac{1}{2}"),
            ("\\frac12", "\\frac{1}{2}"),
            ("\\sqrt3", "\\sqrt{3}"),
            ("5.00", "5"),
            ("x = 3", "3"),
            ("x=3", "3"),
            ("k=3", "3"),
            ("90^\\circ", "90"),
            ("20\\%", "20"),
            ("twenty one", "21"),
            ("080", "80"),
            ("2+3j", "2+3i"),
            ("5\\text{ cm}", "5"),
            ("\\$12.50", "12.50"),
        ] {
            assert_eq!(stripped(text, false), expected, "{text}");
        }
        assert_eq!(stripped("5 cm", true), "5cm");
    }
}
