//! Where Math-Verify looks for an answer: formulas and numbers after its anchors, by priority, the one that ends last
//! first. A text enters, the first candidate that is understood leaves.

use super::normalize::{normalized, read};
use crate::expr::Expr;
use crate::fuel::{Fuel, OutOfFuel};
use regex::Regex;
use std::sync::LazyLock;

/// So many candidates of a text are tried at most.
const TRIES: usize = 40;
/// Formulas joined by "and", "or" or a comma, at most.
const JOINED: usize = 6;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What it was understood as.
    pub value: Option<Expr>,
    /// The text of the first candidate, normalised.
    pub text: String,
}

/// A formula between its marks.
#[derive(Debug, Clone)]
struct Formula {
    start: usize,
    end: usize,
    content: String,
    percent: bool,
}

/// What may be the answer.
#[derive(Debug, Clone)]
enum Candidate {
    /// Formulas that belong together.
    Formulas(Vec<Formula>),
    /// From the first box to the last brace.
    Box(String),
    /// A number or an arithmetic expression without marks.
    Plain { text: String, percent: bool },
}

struct Patterns {
    final_is_hope: Regex,
    final_is: Regex,
    answer_colon: Regex,
    answer: Regex,
    joint: Regex,
    percent: Regex,
    plain: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let regex = |pattern: &str| Regex::new(pattern).expect("a pattern of this file");
    let number = r"(?:-?[1-9]\d{0,2}(?:[ ,]\d{3})+(?:\.\d+)?|-?\d+[.,]\d+|\.\d+|-?\d+)";
    let percent = r"(\s*(?:%|[Pp]ercent|[Pp]ercentage|[Pp]ct))?";
    let signs = r"+\-*×/^()÷";
    let expression =
        format!(r"(-?\(?-?\d[\d.\s{signs}]*[{signs}][\d.\s{signs}]+\)?)(?:\*\*)?(?:[.,:\s)$]|$)");
    Patterns {
        final_is_hope: regex(r"(?i:final answer is):?\s*"),
        final_is: regex(r"(?is:final answer.{0,100}?)\sis:?\s*"),
        answer_colon: regex(r"(?i:answer):"),
        answer: regex(r"(?i:answer)"),
        joint: regex(r"^\s*(?:,?and|,?or|,)\s*"),
        percent: regex(r"^\s*(?:\\?%|[Pp]ercentage|[Pp]ercent|[Pp]ct)"),
        plain: regex(&format!(r"(?:^|\s|=)(?:\*\*)?(?:{expression}|[$€£¥₹₽]?({number}){percent})")),
    }
});

/// The first candidate that is understood, or the text of the first one.
pub fn extracted(text: &str, fuel: &mut Fuel) -> Result<Found, OutOfFuel> {
    let formulas = formulas(text);
    let mut first: Option<String> = None;
    let mut tries = 0;
    for priority in 0..5 {
        let mut candidates = at_priority(priority, text, &formulas);
        candidates.sort_by_key(|(start, end, _)| (std::cmp::Reverse(*end), *start));
        for (_, _, candidate) in candidates {
            tries += 1;
            if tries > TRIES {
                break;
            }
            fuel.spend(5)?;
            let (value, shown) = understood(&candidate, fuel)?;
            if !shown.is_empty() {
                first.get_or_insert(shown);
            }
            if value.is_some() {
                return Ok(Found { value, text: first.unwrap_or_default() });
            }
        }
    }
    Ok(Found { value: None, text: first.unwrap_or_default() })
}

type Placed = (usize, usize, Candidate);

fn at_priority(priority: usize, text: &str, formulas: &[Formula]) -> Vec<Placed> {
    let p = &*PATTERNS;
    let mut found = Vec::new();
    match priority {
        0 => after(text, formulas, &p.final_is_hope, 0, true, &mut found),
        1 => {
            after(text, formulas, &p.final_is, 0, false, &mut found);
            boxes(text, formulas, &mut found);
        }
        2 => after(text, formulas, &p.answer_colon, 50, false, &mut found),
        3 => after(text, formulas, &p.answer, 50, false, &mut found),
        _ => {
            let mut last = 0;
            for (k, formula) in formulas.iter().enumerate() {
                if formula.start >= last {
                    let group = group(text, &formulas[k..]);
                    last = group.last().map_or(last, |formula| formula.end);
                    found.push((formula.start, last, Candidate::Formulas(group)));
                }
            }
            found.extend(plain(text, 0));
        }
    }
    found
}

/// Candidates that begin at most `gap` characters after an anchor.
fn after(text: &str, formulas: &[Formula], anchor: &Regex, gap: usize, hope: bool, found: &mut Vec<Placed>) {
    for anchor in anchor.find_iter(text) {
        let from = anchor.end();
        let begins = |start: usize| start >= from && text[from..start].chars().count() <= gap;
        let hoped = |end: usize| {
            let rest = text[end..].trim_start_matches('.').trim_start();
            !hope || rest.starts_with("I hope")
        };
        if let Some(k) = formulas.iter().position(|formula| begins(formula.start)) {
            let group = group(text, &formulas[k..]);
            let end = group.last().map_or(from, |formula| formula.end);
            if hoped(end) {
                found.push((anchor.start(), end, Candidate::Formulas(group)));
            }
        }
        let back =
            from - text[..from].chars().next_back().filter(|c| c.is_whitespace()).map_or(0, char::len_utf8);
        for (start, end, candidate) in plain(&text[back..], back).into_iter().take(1) {
            let near =
                text[from.min(start)..start].chars().count() <= gap + 1 || follows_equals(text, from, start);
            if near && hoped(end) {
                found.push((anchor.start(), end, candidate));
            }
        }
    }
}

/// Whether a number stands after the last `=` within a hundred characters.
fn follows_equals(text: &str, from: usize, start: usize) -> bool {
    let between = &text[from.min(start)..start];
    between.chars().count() <= 100 && between.trim_end().ends_with('=')
}

fn group(text: &str, formulas: &[Formula]) -> Vec<Formula> {
    let mut group = vec![formulas[0].clone()];
    for next in &formulas[1..] {
        let end = group.last().map_or(0, |formula| formula.end);
        let joined = next.start >= end
            && PATTERNS.joint.find(&text[end..]).is_some_and(|joint| end + joint.end() == next.start);
        if !joined || group.len() >= JOINED {
            break;
        }
        group.push(next.clone());
    }
    group
}

/// Formulas with a box in them, and all from the first box to the last brace.
fn boxes(text: &str, formulas: &[Formula], found: &mut Vec<Placed>) {
    let mut last = 0;
    for (k, formula) in formulas.iter().enumerate() {
        if formula.start >= last && formula.content.contains("\\boxed{") {
            let mut group = group(text, &formulas[k..]);
            let boxed = group.iter().take_while(|formula| formula.content.contains("\\boxed{")).count();
            group.truncate(boxed);
            last = group.last().map_or(last, |formula| formula.end);
            found.push((formula.start, last, Candidate::Formulas(group)));
        }
    }
    if let (Some(start), Some(end)) = (text.find("\\boxed{"), text.rfind('}'))
        && end > start + "\\boxed{".len()
    {
        found.push((start, end + 1, Candidate::Box(text[start..=end].to_string())));
    }
}

/// Numbers and arithmetic expressions without marks.
fn plain(text: &str, offset: usize) -> Vec<Placed> {
    let one = |captures: regex::Captures| {
        let whole = captures.get(0)?;
        let (inner, percent) = match (captures.get(1), captures.get(2)) {
            (Some(expression), _) => (expression.as_str(), false),
            (None, Some(number)) => (number.as_str(), captures.get(3).is_some()),
            _ => return None,
        };
        let candidate = Candidate::Plain { text: inner.trim().to_string(), percent };
        Some((offset + whole.start(), offset + whole.end(), candidate))
    };
    PATTERNS.plain.captures_iter(text).filter_map(one).collect()
}

/// All formulas, left to right.
fn formulas(text: &str) -> Vec<Formula> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match formula_at(text, at) {
            Some(formula) => {
                at = formula.end;
                found.push(formula);
            }
            None => at += 1,
        }
    }
    found
}

fn formula_at(text: &str, at: usize) -> Option<Formula> {
    let rest = &text.as_bytes()[at..];
    let before = at.checked_sub(1).map(|at| text.as_bytes()[at]);
    let escaped = before == Some(b'\\');
    let digit = before.is_some_and(|c| c.is_ascii_digit());
    let made = |open: usize, close: &str, line: bool| -> Option<Formula> {
        let start = at + open;
        let content = &text[start..];
        let end = content
            .match_indices(close)
            .map(|(end, _)| end)
            .find(|end| !content[..*end].ends_with('\\') && *end > 0)?;
        let content = &content[..end];
        if content.is_empty() || line && content.contains('\n') {
            return None;
        }
        let mut end = start + end + close.len();
        let percent = PATTERNS.percent.find(&text[end..]);
        end += percent.map_or(0, |percent| percent.end());
        Some(Formula { start: at, end, content: content.into(), percent: percent.is_some() })
    };
    if rest.starts_with(b"$$")
        && !escaped
        && let Some(formula) = made(2, "$$", false)
    {
        return Some(formula);
    }
    if rest.starts_with(b"\\[") && !escaped {
        return made(2, "\\]", false);
    }
    if rest.starts_with(b"$") && !escaped && !digit {
        return made(1, "$", true);
    }
    if rest.starts_with(b"\\(") && !escaped {
        return made(2, "\\)", true);
    }
    fraction_at(text, at)
}

/// `\frac{1}{2}` without marks.
fn fraction_at(text: &str, at: usize) -> Option<Formula> {
    let rest = text.get(at..)?;
    let body = rest.strip_prefix("-\\frac{").or_else(|| rest.strip_prefix("\\frac{"))?;
    let number = |text: &str| {
        let digits = text.trim_start_matches('-');
        !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ','))
    };
    let (up, body) = body.split_once("}{")?;
    let (down, _) = body.split_once('}')?;
    if !number(up) || !number(down) {
        return None;
    }
    let prefix = rest.len() - rest.trim_start_matches('-').len() + "\\frac{".len();
    let end = prefix + up.len() + 2 + down.len() + 1;
    Some(Formula { start: at, end: at + end, content: rest[..end].into(), percent: false })
}

/// A candidate's value and its text.
fn understood(candidate: &Candidate, fuel: &mut Fuel) -> Result<(Option<Expr>, String), OutOfFuel> {
    match candidate {
        Candidate::Plain { text, percent } => {
            let number = plain_number(text);
            let value = read(&number, fuel)?;
            let value = if *percent { value.map(percentage) } else { value };
            Ok((value, number))
        }
        Candidate::Box(text) => {
            let text = normalized(text, true);
            Ok((read(&text, fuel)?, text))
        }
        Candidate::Formulas(formulas) => {
            let (mut values, mut texts) = (Vec::new(), Vec::new());
            for formula in formulas {
                let text = normalized(&formula.content, false);
                let value = read(&text, fuel)?;
                values.push(if formula.percent { value.map(percentage) } else { value });
                texts.push(text);
            }
            if values.len() > 1 && values.iter().all(Option::is_some) {
                let all = values.into_iter().flatten().flat_map(|value| match value {
                    Expr::List(items) | Expr::Set(items) => items,
                    other => vec![other],
                });
                return Ok((Some(Expr::List(all.collect())), texts.join(" and ")));
            }
            Ok((values.swap_remove(0), texts.swap_remove(0)))
        }
    }
}

fn percentage(value: Expr) -> Expr {
    Expr::Divide(Box::new(value), Box::new(Expr::int(100)))
}

/// `1,234.5`, `1 000` and `12,5` with one mark for decimals.
fn plain_number(text: &str) -> String {
    let groups = text.split([',', ' ']).skip(1);
    let thousands = text.contains([',', ' '])
        && !text.starts_with('0')
        && groups.clone().all(|group| group.split('.').next().is_some_and(|g| g.len() == 3))
        && text.chars().all(|c| c.is_ascii_digit() || "-., ".contains(c));
    let text = if thousands { text.replace([',', ' '], "") } else { text.replace(',', ".") };
    if text.starts_with('.') { format!("0{text}") } else { text }
}
