//! A completion and a gold answer enter; whether they agree leaves, by the rules that evaluation harnesses
//! use. An empty answer never agrees with anything.
//!
//! - **strict** finds an answer in the form that was asked for and compares *text*: thousands commas, `$`,
//!   outer blanks and one final full stop are removed on both sides, and the rest must be the same, so
//!   `18.0` is not `18`. For `#### n` this is verl's GSM8K rule (the last match of `#### (-?[0-9.,]+)` in the last
//!   300 characters), with the final full stop dropped as lm-evaluation-harness does.
//! - **flexible** takes the last number anywhere and compares *values*: `18.0`, `18.` and `$18` are 18.
//!   As in the harnesses a minus sign directly before a digit belongs to the number: the last number of `20-2` is -2.

use crate::recipe::AnswerFormat;
use tinylora_verify::gsm8k::{clean, hashes};
use tinylora_verify::{Gold, Prediction, Scorer, Verdict, verify};

/// Whether the last `#### n` of the completion's last 300 characters is the gold answer.
pub fn gsm8k_strict(completion: &str, gold: &str) -> bool {
    equals_strictly(strict(AnswerFormat::Hashes, completion).as_deref(), gold)
}

/// Whether the content of the last `\boxed{…}` is the gold answer.
pub fn boxed_strict(completion: &str, gold: &str) -> bool {
    equals_strictly(strict(AnswerFormat::Boxed, completion).as_deref(), gold)
}

/// Whether the last line that is not blank is the gold answer.
pub fn plain_strict(completion: &str, gold: &str) -> bool {
    equals_strictly(strict(AnswerFormat::Plain, completion).as_deref(), gold)
}

/// Whether the last number of the completion equals the gold answer.
pub fn flexible(completion: &str, gold: &str) -> bool {
    verify(Scorer::Gsm8kFlexible, Gold(gold), Prediction(completion)) == Verdict::Equal
}

/// The answer that the strict rule of a form finds, cleaned; none where the form is missed.
pub fn strict(format: AnswerFormat, completion: &str) -> Option<String> {
    let found = match format {
        AnswerFormat::Hashes => return hashes(completion),
        AnswerFormat::Boxed => last_boxed(completion),
        AnswerFormat::Plain => completion.lines().rfind(|line| !line.trim().is_empty()),
    };
    found.map(clean)
}

/// Whether a cleaned answer is the gold answer.
pub(super) fn equals_strictly(found: Option<&str>, gold: &str) -> bool {
    found.is_some_and(|found| !found.is_empty() && found == clean(gold))
}

/// The content of the last `\boxed{…}`; none where its braces do not close.
fn last_boxed(text: &str) -> Option<&str> {
    const MARK: &str = "\\boxed{";
    let content = &text[text.rfind(MARK)? + MARK.len()..];
    let mut depth = 1;
    for (i, byte) in content.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&content[..i]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_hashes() {
        for (completion, gold, expected) in [
            ("#### 18", "18", true),
            ("#### 18.", "18", true),
            ("#### 18.0", "18", false),
            ("#### 18.0", "18.0", true),
            ("#### 1,234", "1234", true),
            ("#### 1234", "1,234", true),
            ("#### -5", "-5", true),
            ("#### 5", "$5", true),
            ("#### $18", "18", false),
            ("####18", "18", false),
            ("####  18", "18", false),
            ("##### 18", "18", true),
            ("#### 17\n#### 18", "18", true),
            ("#### 18\n#### 17", "18", false),
            ("#### 18\n#### none", "18", true),
            ("#### 18 apples", "18", true),
            ("#### 18%", "18", true),
            ("#### 1/2", "1", true),
            ("the answer is 18", "18", false),
            ("", "18", false),
            ("#### ", "", false),
            ("#### .", "", false),
            ("#### ,", "", false),
            ("#### -", "-", false),
            ("#### 18\n\nQuestion: What is 3 + 4?\nAnswer: #### 7", "18", false),
        ] {
            assert_eq!(gsm8k_strict(completion, gold), expected, "{completion:?} {gold:?}");
        }
    }

    #[test]
    fn strict_looks_at_the_last_300_characters() {
        let tail = |n: usize| format!("#### 18{}", "é".repeat(n));
        assert!(gsm8k_strict(&tail(293), "18"));
        assert!(!gsm8k_strict(&tail(294), "18"), "the first # is out");
    }

    #[test]
    fn flexible_numbers() {
        for (completion, gold, expected) in [
            ("so 18.0.", "18", true),
            ("$1,234.50 in all", "1234.5", true),
            ("18 of 20", "18", false),
            ("costs $18", "18", true),
            ("-7", "-7", true),
            ("20-2", "-2", true),
            ("is 5...", "5", true),
            (".5", "0.5", true),
            ("007", "7", true),
            ("-0", "0", true),
            ("version 1.2.3", "3", false),
            ("no number, none.", "0", false),
            ("", "", false),
            ("5", "five", false),
            ("100", "1", false),
            ("18 ,", "18", true),
            ("99999999999999999999999999999999999999991", "99999999999999999999999999999999999999990", false),
            ("٣", "3", false),
        ] {
            assert_eq!(flexible(completion, gold), expected, "{completion:?} {gold:?}");
        }
    }

    #[test]
    fn strict_boxed_and_plain() {
        assert!(boxed_strict("so \\boxed{17}, no, \\boxed{ 1,018. } it is 3", "1018"));
        assert!(boxed_strict("\\boxed{$18$}", "18"));
        assert!(boxed_strict("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"));
        assert!(!boxed_strict("\\boxed{18} \\boxed{1", "18"), "the last one is cut off");
        assert!(!boxed_strict("\\boxed{}", ""));
        assert!(plain_strict("7 + 11 = 18.\n 18. \n\n", "18"));
        assert!(plain_strict("18", "18"));
        assert!(!plain_strict("it is 18", "18"));
        assert!(!plain_strict("18\nQuestion:", "18"));
        assert!(!plain_strict(" \n", ""));
    }
}
