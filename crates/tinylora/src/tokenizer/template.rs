//! Messages enter, the text of a conversation leaves, written by the template that the model ships.
//!
//! A template is a program from outside. It sees the messages, the names of the special tokens and the date, and
//! nothing else: no files, no other templates, no environment. Its steps, the text it makes, its nesting and its
//! own length are limited; the engine leaves one gap, a list that is joined to itself more than 32 times, whose
//! memory costs no steps. The surroundings are those that transformers gives it: `trim_blocks`, `lstrip_blocks`,
//! loop controls, `{% generation %}`, `raise_exception`, `strftime_now`, `tojson` as Python writes JSON, and the
//! methods of Python's strings and dictionaries.

use std::io::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use super::Message;
use super::error::TokenizerError;

/// Steps of one rendering; 64 bytes of text that the template makes count as one step. A long conversation takes
/// some ten thousand. Also bounds the memory, to about 128 MB in the worst case.
const FUEL: u64 = 2_000_000;
/// Bytes of the finished text.
const MAX_OUTPUT: usize = 16 << 20;
/// Bytes of the template itself; the longest of known models have some 20 kB.
const MAX_SOURCE: usize = 1 << 20;
/// Nested calls and blocks.
const MAX_DEPTH: usize = 300;
/// Nested lists and dictionaries in `tojson`.
const MAX_JSON_DEPTH: usize = 64;

const NAME: &str = "chat_template";

/// A compiled template.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    /// File and key, for messages.
    origin: String,
    /// `bos_token` and its like.
    names: Vec<(String, String)>,
}

/// Where a template comes from, before it is compiled.
#[derive(Debug)]
pub(super) struct Source {
    /// File and key.
    pub(super) origin: String,
    /// The template.
    pub(super) text: String,
}

/// What a template says by `raise_exception`.
#[derive(Debug)]
struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl ChatTemplate {
    /// `names` are variables such as `bos_token`; `unix_seconds` is the time that `strftime_now` tells, in UTC.
    pub(super) fn new(
        source: Source,
        names: Vec<(String, String)>,
        unix_seconds: u64,
    ) -> Result<ChatTemplate, TokenizerError> {
        let Source { origin, text } = source;
        if text.len() > MAX_SOURCE {
            let limit = format!("{MAX_SOURCE} bytes for a template, it has {}", text.len());
            return Err(TokenizerError::TemplateLimit { template: origin, limit });
        }
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let mut environment = Environment::new();
        environment.set_debug(false);
        environment.set_syntax(syntax.map_err(|error| problem(&origin, &error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_DEPTH);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
        });
        environment.add_function("strftime_now", move |format: String| strftime(&format, unix_seconds));
        environment
            .add_template_owned(NAME, plain_generation_blocks(&text))
            .map_err(|error| problem(&origin, &error))?;
        Ok(ChatTemplate { environment, origin, names })
    }

    pub(super) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let messages = messages.iter().map(|message| {
            Value::from_pairs([
                ("role", Value::from(message.role.as_str())),
                ("content", Value::from(message.content.as_str())),
            ])
        });
        let fixed = [
            ("messages", messages.collect::<Value>()),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        let names = self.names.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let context = Value::from_pairs(fixed.into_iter().chain(names));

        let mut output = Limited(Vec::new());
        let template = self.environment.get_template(NAME).map_err(|error| problem(&self.origin, &error))?;
        template.render_captured_to(context, &mut output).map_err(|error| problem(&self.origin, &error))?;
        Ok(String::from_utf8_lossy(&output.0).into_owned())
    }
}

/// Takes so much text and no more.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(std::io::Error::other("output limit"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The error of the template engine in this module's words.
fn problem(origin: &str, error: &Error) -> TokenizerError {
    let template = origin.to_owned();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Refusal(message)) = current.downcast_ref::<Refusal>() {
            return TokenizerError::TemplateRefusal { template, message: message.clone() };
        }
        if let Some(engine) = current.downcast_ref::<Error>() {
            let limit = match engine.kind() {
                ErrorKind::OutOfFuel => format!("{FUEL} steps"),
                ErrorKind::WriteFailure => format!("{MAX_OUTPUT} bytes of text"),
                _ if engine.detail().is_some_and(|detail| detail.contains("recursion limit")) => {
                    format!("{MAX_DEPTH} levels of nesting")
                }
                _ => String::new(),
            };
            if !limit.is_empty() {
                return TokenizerError::TemplateLimit { template, limit };
            }
        }
        cause = current.source();
    }
    let mut problem = match error.line() {
        Some(line) => format!("line {line}: {error}"),
        None => error.to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(current) = cause {
        problem.push_str(&format!(": {current}"));
        cause = current.source();
    }
    TokenizerError::Template { template, problem }
}

/// `{% generation %}` marks what the assistant wrote, for training masks that are not made here: such a block is
/// text in a scope of its own, which is what `{% with %}` is.
fn plain_generation_blocks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("{%") {
        let inner = begin + 2;
        plain.push_str(&rest[..inner]);
        rest = &rest[inner..];
        let Some(end) = rest.find("%}") else { break };
        let tag = &rest[..end];
        let word = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match word {
            "generation" => plain.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => plain.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => continue,
        }
        rest = &rest[end..];
    }
    plain.push_str(rest);
    plain
}

/// `json.dumps` of Python: `ensure_ascii=False`, and a space after commas and colons unless `separators` says
/// otherwise.
fn to_json(state: &State, value: &Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = args.get("indent")?;
    let indent = match &indent {
        None => None,
        Some(value) if value.is_none() || value.is_undefined() => None,
        Some(value) => match (value.as_str(), value.as_usize()) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(width)) if width <= 32 => Some(" ".repeat(width)),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent must be at most 32")),
        },
    };
    let separators: Option<Value> = args.get("separators")?;
    let mut comma = if indent.is_some() { "," } else { ", " }.to_owned();
    let mut colon = ": ".to_owned();
    if let Some(separators) = separators.filter(|value| !value.is_none()) {
        comma = separators.get_item_by_index(0)?.to_string();
        colon = separators.get_item_by_index(1)?.to_string();
    }
    let sort_keys = args.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ensure_ascii = args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    args.assert_all_used()?;
    let style = JsonStyle { indent, comma, colon, sort_keys, ensure_ascii };
    let mut text = String::new();
    write_json(&mut text, value, &style, state, 0)?;
    Ok(Value::from(text))
}

struct JsonStyle {
    indent: Option<String>,
    comma: String,
    colon: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

fn write_json(
    out: &mut String,
    value: &Value,
    style: &JsonStyle,
    state: &State,
    depth: usize,
) -> Result<(), Error> {
    // Lists may be lazy and endless: every value costs a step before it is asked for.
    state.consume_fuel(1)?;
    if depth > MAX_JSON_DEPTH || out.len() > MAX_OUTPUT {
        return Err(Error::new(
            ErrorKind::BadSerialization,
            "tojson: the value is nested too deep or too large",
        ));
    }
    let newline = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => write_json_string(out, value.as_str().unwrap_or_default(), style),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut empty = true;
            out.push('[');
            for item in value.try_iter()? {
                out.push_str(if empty { "" } else { &style.comma });
                empty = false;
                newline(out, depth + 1);
                write_json(out, &item, style, state, depth + 1)?;
            }
            if !empty {
                newline(out, depth);
            }
            out.push(']');
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            out.push('{');
            for (index, key) in keys.iter().enumerate() {
                out.push_str(if index > 0 { &style.comma } else { "" });
                newline(out, depth + 1);
                write_json_string(out, &key.to_string(), style);
                out.push_str(&style.colon);
                write_json(out, &value.get_item(key)?, style, state, depth + 1)?;
            }
            if !keys.is_empty() {
                newline(out, depth);
            }
            out.push('}');
        }
        kind => {
            let message = format!("tojson: a value of the kind {kind} has no JSON");
            return Err(Error::new(ErrorKind::BadSerialization, message));
        }
    }
    Ok(())
}

fn write_json_string(out: &mut String, text: &str, style: &JsonStyle) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            other if other < ' ' || (style.ensure_ascii && other > '~') => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// The codes of C's strftime that templates use, in English and UTC.
fn strftime(format: &str, unix_seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('Y') => text.push_str(&year.to_string()),
            Some('y') => text.push_str(&format!("{:02}", year % 100)),
            Some('m') => text.push_str(&format!("{month:02}")),
            Some('d') => text.push_str(&format!("{day:02}")),
            Some('B') => text.push_str(month_name),
            Some('b') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(day_name),
            Some('a') => text.push_str(&day_name[..3]),
            Some('H') => text.push_str(&format!("{:02}", seconds / 3600)),
            Some('M') => text.push_str(&format!("{:02}", seconds / 60 % 60)),
            Some('S') => text.push_str(&format!("{:02}", seconds % 60)),
            Some('F') => text.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('%') => text.push('%'),
            code => {
                let code = code.map(String::from).unwrap_or_default();
                let message = format!("strftime_now: the code %{code} is not supported");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
    }
    Ok(text)
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole cycles of 400 years first, so that any number takes few steps.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests;
