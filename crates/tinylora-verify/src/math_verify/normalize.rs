//! What Math-Verify changes in a formula before it reads it: boxes are opened, units at the end go, joining words are
//! commas. A formula enters, its normalised text leaves; and that text enters, its value leaves.

use crate::expr::{Expr, Relation};
use crate::extract::closing;
use crate::fuel::{Fuel, OutOfFuel};
use crate::function::Function;
use crate::parse::{ParseError, parse_exactly};
use regex::Regex;
use std::sync::LazyLock;

/// Words at the end that are taken for units, besides the usual ones.
const SHORT_UNITS: &str =
    "o|t|h|c|l|s|g|m|d|ab|bc|st|th|by|am|pm|cc|mt|mp|rs|rd|lt|sq|gm|dm|kg|km|cm|mm|lb|ft|hr|yr";
const UNITS: &str = "feet|sue|digit|pound|meal|edge|student|children ticket|multiple|east|west|degree|deg|mph|kmph|kmh|mile|\
monkey|prime|ratio|tile|per|gain|way|no change|men|man|women|woman|soldier|pie|excess|inches|inch|noon|cent|gal|gallon|\
acre|rise|mark|toy|coin|profit|square|are|rupee|rounds|cubic|cube|mtr|ohm|number|day|hour|minute|min|minw|second|sec|\
hectare|more|unit|month|apple|liter|litre|loss|yard|pure|year|increase|decrease|less|Surface|metre|meter|sq m|cu cm|sq inch|cm 2";

struct Patterns {
    units: Regex,
    text_at_end: Regex,
    joint: Regex,
    text_joint: Regex,
    percent: Regex,
    text: Regex,
    removed: Regex,
    exponent: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let regex = |pattern: &str| Regex::new(pattern).expect("a pattern of this file");
    Patterns {
        units: regex(&format!(r"(\d|\}}|\s)\s*(?:{UNITS}|{SHORT_UNITS}|[a-hqst] .)(?:s|es)?\s*$")),
        text_at_end: regex(r"\\(?:text|mbox)\{.*?\}(?:\^\d|\{\^\d\})?$"),
        joint: regex(r"(^|[^a-zA-Z]),?\s*(?:and|or)([^a-zA-Z]|$)"),
        text_joint: regex(r",?\s*\\text\{\s*(?:and|or)\s*\}"),
        percent: regex(r"\\text\{(?:percentage|percent|pct)\}|\s*(?:percentage|percent|pct)"),
        text: regex(r"\\math(?:rm|it|bf)|\\text(?:normal|bf|it|rm)"),
        removed: regex(r"\\mathrm\{th\}|\\!\s*|\\text\s*\{\s*\}|\\displaystyle"),
        exponent: regex(r"(\d)e"),
    }
});

/// The normalised text of a formula. `last`: only the last box and those close before it count.
pub fn normalized(text: &str, last: bool) -> String {
    let p = &*PATTERNS;
    let text = opened(text, last);
    let text = text.replace("\\left", "").replace("\\right", "");
    let text = p.removed.replace_all(&text, "").replace("\\$", "").replace('$', "");
    let text = p.text.replace_all(&text, "\\text");
    let text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac");
    let text = text.replace("{,}", ",").replace(" .", " 0.").replace("{.", "{0.");
    let text = p.text_joint.replace_all(&text, ",");
    let text = p.joint.replace_all(&text, "$1,$2");
    let text = p.percent.replace_all(&text, "\\%");
    let text = text.replace("\\ldots", " ").replace(['\n', '\t'], " ").replace("infinity", "\\infty");
    let mut text = text.trim().to_string();
    let without = p.text_at_end.replace(&text, "").trim().to_string();
    if !without.is_empty() {
        text = without;
    }
    for _ in 0..2 {
        let without = p.units.replace(&text, "$1").into_owned();
        if !without.is_empty() {
            text = without;
        }
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    text.trim().to_string()
}

/// The contents of boxes, joined by commas; the text itself where there is none.
fn opened(text: &str, last: bool) -> String {
    let (mut contents, mut limit, mut begin): (Vec<String>, usize, Option<usize>) =
        (Vec::new(), text.len(), None);
    while let Some(start) = text[..limit].rfind("\\boxed").max(text[..limit].rfind("\\fbox")) {
        let mark = if text[start..].starts_with("\\boxed") { 6 } else { 5 };
        let open = start + mark + (text[start + mark..].len() - text[start + mark..].trim_start().len());
        let end = if text[open..].starts_with('{') { closing(&text[open..limit]) } else { None };
        let Some(end) = end else {
            if contents.is_empty() && open < text.len() {
                contents.push(text[open..].to_string());
            }
            break;
        };
        let content = text[open + 1..open + end].trim().to_string();
        if let (true, Some(begin)) = (last, begin) {
            let between = &text[(open + end + 1).min(begin)..begin];
            let separated = ["and", "or", ",", ";"].iter().any(|mark| between.contains(mark));
            let near = between.chars().count() < 10;
            let joined =
                near || contents.last() != Some(&content) && between.chars().count() < 70 && separated;
            if !joined {
                break;
            }
        }
        contents.push(content);
        begin = Some(start);
        limit = start;
    }
    if contents.is_empty() {
        return text.to_string();
    }
    contents.reverse();
    contents.join(",")
}

/// What a normalised text says, or what stands after its last `=`.
pub fn read(text: &str, fuel: &mut Fuel) -> Result<Option<Expr>, OutOfFuel> {
    // 3.6e-10 is 3.6·e - 10 there.
    let text = &*PATTERNS.exponent.replace_all(text, "$1 e");
    match parse_exactly(text, fuel) {
        Ok(value) => return Ok(Some(plain(&value))),
        Err(ParseError::Fuel(error)) => return Err(error),
        Err(_) => {}
    }
    if text.contains([',', ';']) || text.matches('=').count() < 2 {
        return Ok(None);
    }
    match parse_exactly(text.rsplit('=').next().unwrap_or_default(), fuel) {
        Ok(value) => Ok(Some(plain(&value))),
        Err(ParseError::Fuel(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Symbols in lower case, words as symbols, units as factors, degrees left out.
fn plain(value: &Expr) -> Expr {
    let value = value.map(&mut plain);
    match value {
        Expr::Symbol(name) => Expr::Symbol(name.to_lowercase()),
        Expr::Text(text) => Expr::Symbol(text.to_lowercase().replace([' ', '(', ')'], "")),
        Expr::Quantity(amount, unit) => {
            Expr::Multiply(vec![*amount, Expr::Symbol(unit.to_lowercase().replace(' ', ""))])
        }
        Expr::Degrees(amount) => *amount,
        Expr::Percent(amount) => Expr::Divide(amount, Box::new(Expr::int(100))),
        Expr::Apply(Function::Conj, amount) => Expr::Call("conj".into(), vec![*amount]),
        Expr::Chain(sides, relations) if relations == [Relation::In] => {
            Expr::Chain(sides, vec![Relation::Equal])
        }
        other => other,
    }
}
