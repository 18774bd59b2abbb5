//! Equality of the qwen scorer: two normalised answers enter, the rule that finds them equal leaves.

use crate::compare::{approximately, same};
use crate::expr::{Expr, Relation};
use crate::fuel::{Fuel, OutOfFuel};
use crate::number::Stop;
use crate::parse::parse_begin;

/// Relative tolerance between numbers.
const TOLERANCE: f64 = 1e-4;
/// Tuples in tuples up to this depth.
const DEPTH: usize = 4;

type Rule = Result<Option<&'static str>, OutOfFuel>;

/// The rule by which a prediction equals the gold answer, if one does.
pub fn equal(prediction: &str, gold: &str, depth: usize, fuel: &mut Fuel) -> Rule {
    fuel.spend(10)?;
    if prediction.trim().to_lowercase() == gold.trim().to_lowercase() {
        return Ok(Some("the same text"));
    }
    if matches!(gold, "A" | "B" | "C" | "D" | "E") && choice(prediction) == gold {
        return Ok(Some("the same choice"));
    }
    if let (Some(a), Some(b)) = (digits(prediction), digits(gold)) {
        let close = [b / 100.0, b, b * 100.0].into_iter().any(|b| is_close(b, a));
        return Ok(close.then_some("numbers, the gold as it is, as a hundredth or as a hundredfold"));
    }
    if prediction.is_empty() || depth > DEPTH {
        return Ok(None);
    }
    let (gold, prediction) = (gold.trim(), prediction.trim());
    if brackets_aside(prediction, gold) {
        return Ok(Some("the same text without brackets"));
    }
    if items(prediction, gold, depth, fuel)? {
        return Ok(Some("item by item"));
    }
    if matrices(prediction, gold, depth, fuel)? {
        return Ok(Some("entry by entry"));
    }
    if let Some(rule) = equations(prediction, gold, depth, fuel)? {
        return Ok(Some(rule));
    }
    Ok(symbolic(prediction, gold, fuel)?.then_some("the same expression"))
}

fn is_close(a: f64, b: f64) -> bool {
    a == b || a.is_finite() && b.is_finite() && (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

/// The last capital A to E that stands alone.
fn choice(text: &str) -> String {
    let text = text.trim_matches('\n').trim_end_matches('.').trim_end_matches('/').trim_matches(' ');
    let text = text.trim_start_matches(':');
    let upper = text.to_uppercase();
    let mut words = upper.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let last = words.rfind(|word| matches!(*word, "A" | "B" | "C" | "D" | "E"));
    last.map_or_else(|| text.trim().trim_matches('.').to_string(), String::from)
}

/// A number with commas removed, or a percentage.
fn digits(text: &str) -> Option<f64> {
    let text = text.replace(',', "");
    let number = |text: &str| text.trim().parse::<f64>().ok();
    number(&text).or_else(|| {
        let text = text.strip_suffix('%')?;
        Some(number(text.strip_suffix('\\').unwrap_or(text))? / 100.0)
    })
}

fn brackets_aside(prediction: &str, gold: &str) -> bool {
    let within = |text: &str, open, close| text.starts_with(open) && text.ends_with(close);
    let (mut a, mut b) = (prediction, gold);
    let square = within(prediction, '[', ']') && !gold.starts_with('(');
    let round = within(prediction, '(', ')') && !gold.starts_with('[');
    if square || round {
        a = a.trim_matches(['[', ']', '(', ')']);
        b = b.trim_matches(['[', ']', '(', ')']);
    }
    let bare = |text: &str| text.replace(['{', '}', '(', ')'], "").to_lowercase();
    bare(a) == bare(b)
}

/// `(a,b)` and `[c,d]`: cut at commas and compared in order, whatever the brackets.
fn items(prediction: &str, gold: &str, depth: usize, fuel: &mut Fuel) -> Result<bool, OutOfFuel> {
    let inner = |text: &str| -> Option<Vec<String>> {
        let begins = text.starts_with(['(', '[']);
        let closes = text.char_indices().skip(2).any(|(_, c)| matches!(c, ')' | ']'));
        if !begins || !closes {
            return None;
        }
        let mut chars = text.chars();
        chars.next();
        chars.next_back();
        Some(chars.as_str().split(',').map(String::from).collect())
    };
    let (Some(a), Some(b)) = (inner(prediction), inner(gold)) else { return Ok(false) };
    all_equal(&a, &b, depth, fuel)
}

fn all_equal(a: &[String], b: &[String], depth: usize, fuel: &mut Fuel) -> Result<bool, OutOfFuel> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(b) {
        if equal(a, b, depth + 1, fuel)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn matrices(prediction: &str, gold: &str, depth: usize, fuel: &mut Fuel) -> Result<bool, OutOfFuel> {
    const OPEN: &str = "\\begin{pmatrix}";
    const CLOSE: &str = "\\end{pmatrix}";
    let cells = |text: &str| -> Option<Vec<Vec<String>>> {
        let inner = text.strip_prefix(OPEN)?.strip_suffix(CLOSE)?;
        let rows = inner.split("\\\\").map(str::trim).filter(|row| !row.is_empty());
        Some(rows.map(|row| row.split('&').map(String::from).collect()).collect())
    };
    let (Some(a), Some(b)) = (cells(prediction), cells(gold)) else { return Ok(false) };
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(&b) {
        if !all_equal(a, b, depth, fuel)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equations(prediction: &str, gold: &str, depth: usize, fuel: &mut Fuel) -> Rule {
    let count = |text: &str| text.matches('=').count();
    let sides = |text: &str| {
        let (left, right) = text.split_once('=').unwrap_or((text, ""));
        (left.trim().to_string(), right.trim().to_string())
    };
    let short = |text: &str| text.split('=').next().is_some_and(|left| left.trim().chars().count() <= 2);
    match (count(prediction), count(gold)) {
        (1, 1) => {
            let difference = |(left, right): (String, String)| format!("{left} - ({right})");
            let (a, b) = (difference(sides(prediction)), difference(sides(gold)));
            let same = symbolic(&a, &b, fuel)? || symbolic(&format!("-({a})"), &b, fuel)?;
            Ok(same.then_some("the same equation up to its sign"))
        }
        (1, 0) if short(prediction) => equal(&sides(prediction).1, gold, depth + 1, fuel),
        (0, 1) if short(gold) => equal(prediction, &sides(gold).1, depth + 1, fuel),
        _ => Ok(None),
    }
}

/// Whether the original's parsers know such a thing: no tuples, sets or words.
fn is_formula(expr: &Expr) -> bool {
    !expr.any(&|part| {
        matches!(
            part,
            Expr::Group(..)
                | Expr::Set(_)
                | Expr::List(_)
                | Expr::Union(_)
                | Expr::Text(_)
                | Expr::Builder(..)
        )
    })
}

/// Whether both are read as the same expression, each up to the first thing that is not understood.
fn symbolic(prediction: &str, gold: &str, fuel: &mut Fuel) -> Result<bool, OutOfFuel> {
    if prediction == gold {
        return Ok(true);
    }
    // Commas in braces are not understood there.
    if prediction.contains("{,}") || gold.contains("{,}") {
        return Ok(false);
    }
    let read = |text: &str, fuel: &mut Fuel| parse_begin(text, fuel).ok().filter(is_formula);
    let (Some(a), Some(b)) = (read(prediction, fuel), read(gold, fuel)) else { return Ok(false) };
    if a == b {
        return Ok(true);
    }
    let judged = match (&a, &b) {
        (Expr::Chain(x, r), Expr::Chain(y, s)) if r.as_slice() == [Relation::Equal] && r == s => {
            let difference =
                |sides: &[Expr]| Expr::Add(vec![sides[0].clone(), Expr::Negate(Box::new(sides[1].clone()))]);
            let (a, b) = (difference(x), difference(y));
            match same(&a, &b, fuel) {
                Ok(false) => same(&a, &Expr::Negate(Box::new(b)), fuel),
                other => other,
            }
        }
        (Expr::Chain(x, r), Expr::Chain(y, s)) => {
            let sides = r == s && x.len() == y.len();
            let mut all = Ok(sides);
            for (x, y) in x.iter().zip(y) {
                if all == Ok(true) {
                    all = same(x, y, fuel);
                }
            }
            all
        }
        (Expr::Matrix(x), Expr::Matrix(y)) => {
            let mut all = Ok(x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.len() == y.len()));
            for (x, y) in x.iter().flatten().zip(y.iter().flatten()) {
                if all == Ok(true) {
                    all = same(x, y, fuel);
                }
            }
            all
        }
        (a, b) => match same(a, b, fuel) {
            Ok(false) => approximately(a, b, TOLERANCE, fuel),
            other => other,
        },
    };
    match judged {
        Ok(equal) => Ok(equal),
        Err(Stop::OutOfFuel) => Err(OutOfFuel),
        Err(Stop::Undefined | Stop::TooLarge) => Ok(false),
    }
}
