//! The default scorer. Both texts are extracted, read as expressions or words, and compared by what they mean.

use crate::equal::Judge;
use crate::expr::Expr;
use crate::extract::{self, Found};
use crate::fuel::Fuel;
use crate::number::Stop;
use crate::parse::{ParseError, parse};
use crate::words;
use crate::{Explanation, Gold, Prediction, Verdict};

/// Text that is not understood is compared as text up to this length.
const TEXT: usize = 2000;

/// What a text was read as.
#[derive(Debug, Clone, PartialEq)]
enum Reading {
    /// An expression or words.
    Value(Expr),
    /// Not understood; only the same text is the same.
    Raw,
    /// No answer.
    Nothing(ParseError),
}

/// Scores a prediction.
pub fn verdict(gold: Gold, prediction: Prediction, fuel: &mut Fuel) -> Explanation {
    let gold_found = extract::gold(gold.0);
    let mut explanation = Explanation::new(&gold_found.text, "");
    let gold_reading = read(&gold_found.text, fuel);
    explanation.gold_reading = shown(&gold_reading, &gold_found);
    if let Reading::Nothing(error) = gold_reading {
        return explanation.with(Verdict::of(error, Verdict::GoldUnparsed), "the gold answer says nothing");
    }
    let Some(found) = extract::prediction(prediction.0) else {
        return explanation.with(Verdict::PredictionUnparsed, "no answer is found in the prediction");
    };
    explanation.prediction = found.text.clone();
    let reading = read(&found.text, fuel);
    explanation.prediction_reading = shown(&reading, &found);
    if let Reading::Nothing(error) = reading {
        return explanation
            .with(Verdict::of(error, Verdict::PredictionUnparsed), "the prediction says nothing");
    }
    if bare(&gold_found.text) == bare(&found.text) {
        return explanation.with(Verdict::Equal, "the same text");
    }
    let (gold_value, value) = match (gold_reading, reading) {
        (Reading::Value(gold), Reading::Value(prediction)) => (gold, prediction),
        (Reading::Raw, _) => {
            return explanation.with(Verdict::GoldUnparsed, "the gold answer is not understood");
        }
        _ => return explanation.with(Verdict::PredictionUnparsed, "the prediction is not understood"),
    };
    if let (Expr::Symbol(letter), Some(choice)) = (&gold_value, choice(&found.text))
        && letter.len() == 1
        && letter.starts_with(|c: char| c.is_ascii_uppercase())
    {
        let verdict = if *letter == choice { Verdict::Equal } else { Verdict::Different };
        return explanation.with(verdict, "the letter of the choice");
    }
    let mut judge = Judge { fuel, rule: "another value" };
    let result = judge.equal(&gold_value, &value);
    let rule = judge.rule;
    let result = match result {
        Ok(false) => with_decimal_comma(&gold_found.text, &found.text, fuel),
        other => other,
    };
    match result {
        Ok(true) => explanation.with(Verdict::Equal, rule),
        Ok(false) | Err(Stop::Undefined) => explanation.with(Verdict::Different, "another value"),
        Err(Stop::TooLarge | Stop::OutOfFuel) => {
            explanation.with(Verdict::OutOfFuel, "too large to be decided within the limit")
        }
    }
}

/// `1,22` may be a decimal where the other side is one.
fn with_decimal_comma(gold: &str, prediction: &str, fuel: &mut Fuel) -> Result<bool, Stop> {
    let bare = |text: &str| text.trim_matches(['$', ' ', '.']).to_string();
    let (gold, prediction) = (bare(gold), bare(prediction));
    let number = |text: &str, mark: char| {
        let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        text.trim_start_matches('-').split_once(mark).is_some_and(|(a, b)| digits(a) && digits(b))
    };
    let is_pair =
        number(&gold, ',') && number(&prediction, '.') || number(&gold, '.') && number(&prediction, ',');
    if !is_pair {
        return Ok(false);
    }
    let value = |text: &str, fuel: &mut Fuel| parse(&text.replace(',', "."), fuel);
    match (value(&gold, fuel), value(&prediction, fuel)) {
        (Ok(Expr::Number(a, _)), Ok(Expr::Number(b, _))) => Ok(a == b),
        (Ok(a), Ok(b)) => Ok(a == b),
        _ => Ok(false),
    }
}

/// The letter of a choice that is given with its text, as in `(B) 12`.
fn choice(text: &str) -> Option<String> {
    let plain = ["\\textbf", "\\text", "\\mathrm", "\\mathbf", "{", "}", "$"]
        .iter()
        .fold(text.to_string(), |t, mark| t.replace(mark, ""));
    let rest = plain.trim_start().strip_prefix('(')?;
    let (letter, rest) = rest.split_once(')')?;
    let letter = letter.trim();
    let single = letter.len() == 1 && letter.starts_with(|c: char| c.is_ascii_uppercase());
    (single && !rest.trim().is_empty()).then(|| letter.to_string())
}

/// Without blanks and dollar signs.
fn bare(text: &str) -> String {
    let text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac");
    let text = text.replace("\\left", "").replace("\\right", "");
    text.chars()
        .filter(|c| !c.is_whitespace() && *c != '$')
        .collect::<String>()
        .trim_end_matches('.')
        .to_string()
}

fn shown(reading: &Reading, found: &Found) -> String {
    let place = found.place.name();
    match reading {
        Reading::Value(Expr::Text(text)) => format!("words: {text} ({place})"),
        Reading::Value(value) => format!("{} ({place})", crate::show::show(value)),
        Reading::Raw => format!("not understood, compared as text ({place})"),
        Reading::Nothing(error) => format!("nothing: {error} ({place})"),
    }
}

fn read(text: &str, fuel: &mut Fuel) -> Reading {
    if !text.chars().any(char::is_alphanumeric) && !text.contains('∞') && !text.contains('∅') {
        return Reading::Nothing(ParseError::Empty);
    }
    let text = clean(extract::formula_at_end(text).unwrap_or(text));
    if let Some(value) = counted(&text.replace('$', " "), fuel) {
        return Reading::Value(value);
    }
    if (is_prose(&text) || extract::is_sentence(&text)) && text.len() <= TEXT {
        return Reading::Value(Expr::Text(words::plain(&text)));
    }
    match parse(&text, fuel) {
        Ok(value) => Reading::Value(value),
        Err(error @ ParseError::Fuel(_)) => Reading::Nothing(error),
        Err(error) if text.len() > TEXT || !text.chars().any(char::is_alphanumeric) => {
            Reading::Nothing(error)
        }
        Err(_) => match last_side(&text, fuel) {
            Some(value) => Reading::Value(value),
            None => Reading::Raw,
        },
    }
}

fn clean(text: &str) -> String {
    // Formulas on lines of their own are a list.
    let joined = text.trim().replace("$\n$", ", ");
    let mut text = joined.trim_matches('*').trim();
    for (open, close) in [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")] {
        let inner = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.contains('$')) {
            text = inner.trim();
        }
    }
    let text = text.trim_end_matches(['.', ',', ';']).trim_end();
    // An amount in words, `\text{12 apples}`, is no word.
    let inner = text.strip_prefix("\\text{").and_then(|rest| rest.strip_suffix('}')).map(str::trim);
    let text = inner
        .filter(|inner| inner.starts_with(|c: char| c.is_ascii_digit()) && !inner.contains('}'))
        .unwrap_or(text);
    // A choice with its bracket.
    match text.strip_suffix([')', ':', '.']) {
        Some(letter) if letter.len() == 1 && letter.chars().all(|c| c.is_ascii_uppercase()) => {
            letter.to_string()
        }
        _ => spaced_thousands(text),
    }
}

/// `1 000 000` as a number.
fn spaced_thousands(text: &str) -> String {
    let groups: Vec<&str> = text.split(' ').collect();
    let digits = |group: &&str| group.chars().all(|c| c.is_ascii_digit());
    let first = groups[0].trim_start_matches('-');
    let whole = groups.len() > 1
        && (1..=3).contains(&first.len())
        && digits(&first)
        && groups[1..].iter().all(|group| group.len() == 3 && digits(group));
    if whole { groups.concat() } else { text.to_string() }
}

/// A number and words after it: an amount with a unit.
fn counted(text: &str, fuel: &mut Fuel) -> Option<Expr> {
    let text = text.trim_start().trim_start_matches('\\').trim_start();
    let end = text.find(|c: char| !(c.is_ascii_digit() || "-.,/".contains(c)))?;
    let (number, rest) = text.split_at(end);
    let unit = rest.trim();
    let words = unit.split_whitespace();
    let plain = !unit.is_empty()
        && words.clone().all(|word| word.chars().all(|c| c.is_alphabetic() || "/.²³°".contains(c)));
    let known = words.clone().count() == 1 && unit.len() > 1 && words::is_unit(unit);
    let long = rest.starts_with(' ') && words.clone().any(|word| word.len() > 3);
    let joining = words.clone().any(|word| {
        matches!(
            word.to_lowercase().as_str(),
            "and" | "or" | "percent" | "percentage" | "pct" | "to" | "if" | "when"
        )
    });
    if !plain || joining || !(known || long) {
        return None;
    }
    match parse(number, fuel) {
        Ok(value) if value.is_scalar() => Some(Expr::Quantity(Box::new(value), unit.into())),
        _ => None,
    }
}

/// Whether text without commands is words.
fn is_prose(text: &str) -> bool {
    if text.contains(['\\', '^', '_', '=', '<', '>', '|']) {
        return false;
    }
    let known = [
        "sqrt", "arcsin", "arccos", "arctan", "infinity", "percent", "alpha", "beta", "gamma", "theta",
        "sinh", "cosh", "tanh", "floor", "ceil",
    ];
    let mut runs = text.split(|c: char| !c.is_ascii_alphabetic());
    runs.any(|run| {
        run.len() >= 4
            && !known.contains(&run)
            && !known.iter().any(|name| run.starts_with(name) && run.len() == name.len() + 1)
    })
}

/// What stands after the last `=` or `:`, where the whole is not understood.
fn last_side(text: &str, fuel: &mut Fuel) -> Option<Expr> {
    if text.contains([',', ';']) {
        return None;
    }
    let (before, last) = text.rsplit_once('=')?;
    if before.ends_with(['<', '>', '!', '\\']) {
        return None;
    }
    parse(last, fuel).ok().filter(Expr::is_scalar)
}
