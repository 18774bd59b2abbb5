//! Recipe text and overrides enter, a TOML table leaves whose keys are all known, whose values have the
//! right types and whose required keys are present. Ranges are not looked at.
//!
//! What is known is read off complete recipes (one a kind of task) rather than listed again: their keys
//! are the known keys, and a value has the right type if such a recipe can still be read with it.

use super::{Recipe, RecipeError};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

const KINDS: [&str; 4] = ["arithmetic", "jsonl", "benchmark", "none"];

const REQUIRED: [(&str, &str); 6] = [
    ("name", "the run's name, such as name = \"first-run\""),
    ("model.ref", "the base model, such as ref = \"smollm2-135m\""),
    ("task.kind", "\"arithmetic\", \"jsonl\", \"benchmark\" or \"none\""),
    ("task.name", "the benchmark, such as name = \"gsm8k\""),
    ("task.problems", "the kind of problems, such as problems = \"sum\""),
    ("task.train", "the training file, such as train = \"train.jsonl\""),
];

/// Reads, overrides and checks.
pub(super) fn read(file: &str, text: &str, overrides: &[String]) -> Result<Table, RecipeError> {
    let source = Source { file, text, spans: parse_spans(file, text)? };
    let mut table: Table = toml::from_str(text).map_err(|e| source.syntax(&e))?;
    let overrides: Vec<Override> =
        overrides.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;

    let kind = task_kind(&source, &table, &overrides)?;
    let complete = complete_recipe(&kind);
    for setting in &overrides {
        apply(setting, &complete, &kind, &mut table)?;
    }
    let place = |path: &[&str]| {
        let dotted = path.join(".");
        match overrides.iter().rev().find(|o| o.key == dotted) {
            Some(setting) => format!("--set {}", setting.text),
            None => source.place(path),
        }
    };
    check_table(&table, &complete, &kind, &place)?;
    for (key, meaning) in REQUIRED {
        // A benchmark has files of its own.
        let has_default = kind == "benchmark" && key == "task.train";
        if get(&complete, key).is_some() && get(&table, key).is_none() && !has_default {
            return Err(RecipeError::Missing { file: file.into(), key, meaning });
        }
    }
    Ok(table)
}

/// The recipe's text with the place of every key and value.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
    spans: Spanned<DeTable<'a>>,
}

fn parse_spans<'a>(file: &'a str, text: &'a str) -> Result<Spanned<DeTable<'a>>, RecipeError> {
    DeTable::parse(text).map_err(|e| syntax(file, text, &e))
}

fn syntax(file: &str, text: &str, error: &toml::de::Error) -> RecipeError {
    let place = match error.span() {
        Some(span) => at(file, text, span.start),
        None => file.to_string(),
    };
    RecipeError::Syntax { place, message: error.message().to_string() }
}

/// `file:line:column`, both counted from 1, the column in characters.
fn at(file: &str, text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("{file}:{line}:{column}")
}

impl Source<'_> {
    fn syntax(&self, error: &toml::de::Error) -> RecipeError {
        syntax(self.file, self.text, error)
    }

    /// Where the key of a path stands; the file alone for what is not in it.
    fn place(&self, path: &[&str]) -> String {
        let mut table = self.spans.get_ref();
        let mut start = None;
        for part in path {
            let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == part) else { break };
            // A leaf is pointed at by its value, a table and an unknown key by the key.
            start = Some(if value.get_ref().is_table() { key.span().start } else { value.span().start });
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        match start {
            Some(offset) => at(self.file, self.text, offset),
            None => self.file.to_string(),
        }
    }
}

/// One `--set KEY=VALUE`.
struct Override {
    text: String,
    key: String,
    raw: String,
    value: Value,
}

impl Override {
    fn parse(text: &str) -> Result<Self, RecipeError> {
        let refuse = |message: String| RecipeError::Override { text: text.into(), message };
        let (key, raw) = text
            .split_once('=')
            .ok_or_else(|| refuse("expected KEY=VALUE, such as optimizer.learning_rate=1e-3".into()))?;
        let (key, raw) = (key.trim(), raw.trim());
        if key.is_empty() {
            return Err(refuse("the key before `=` is empty".into()));
        }
        let parsed =
            toml::de::ValueDeserializer::parse(raw).and_then(<Value as serde::Deserialize>::deserialize);
        let value = match parsed {
            Ok(value) => value,
            // What starts like a list, a table or quoted text was meant as one.
            Err(e) if raw.starts_with(['[', '{', '"', '\'']) => {
                return Err(refuse(format!("not a TOML value: {}", e.message())));
            }
            Err(_) => Value::String(raw.into()),
        };
        Ok(Self { text: text.into(), key: key.into(), raw: raw.into(), value })
    }
}

/// The kind of task, which decides the keys of `[task]`.
fn task_kind(source: &Source, table: &Table, overrides: &[Override]) -> Result<String, RecipeError> {
    let wrong = |place: String, found: &Value| {
        let nearest = found.as_str().and_then(|word| nearest(word, KINDS.into_iter()));
        let hint = nearest.map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
        RecipeError::WrongType {
            place,
            key: "task.kind".into(),
            message: format!("{found} is not \"arithmetic\", \"jsonl\", \"benchmark\" or \"none\"{hint}"),
        }
    };
    let known = |value: &Value| value.as_str().filter(|k| KINDS.contains(k)).map(String::from);
    if let Some(setting) = overrides.iter().rev().find(|o| o.key == "task.kind") {
        return known(&setting.value).ok_or_else(|| wrong(format!("--set {}", setting.text), &setting.value));
    }
    match get(table, "task.kind") {
        Some(value) => known(value).ok_or_else(|| wrong(source.place(&["task", "kind"]), value)),
        // Another error names the absent key, once the keys that are there have been looked at.
        None if get(table, "task.name").is_some() => Ok("benchmark".into()),
        None if get(table, "task.train").is_some() => Ok("jsonl".into()),
        None => Ok("arithmetic".into()),
    }
}

/// A recipe with every key there is for this kind of task.
fn complete_recipe(kind: &str) -> Table {
    let task = match kind {
        "jsonl" => "kind = \"jsonl\"\ntrain = \"a\"",
        "benchmark" => "kind = \"benchmark\"\nname = \"gsm8k\"",
        "none" => "kind = \"none\"",
        _ => "kind = \"arithmetic\"\nproblems = \"sum\"",
    };
    let text = format!("name = \"a\"\n[model]\nref = \"a\"\n[task]\n{task}\n");
    let recipe: Recipe = toml::from_str(&text).expect("the shortest recipe is readable");
    Table::try_from(&recipe).expect("a recipe is a table")
}

fn get<'a>(table: &'a Table, dotted: &str) -> Option<&'a Value> {
    match dotted.split_once('.') {
        Some((head, rest)) => get(table.get(head)?.as_table()?, rest),
        None => table.get(dotted),
    }
}

/// Puts an override into the table. Unknown keys are refused here, as the table may lack their place.
fn apply(setting: &Override, complete: &Table, kind: &str, table: &mut Table) -> Result<(), RecipeError> {
    let parts: Vec<&str> = setting.key.split('.').collect();
    let place = || format!("--set {}", setting.text);
    let (section, key) = match parts[..] {
        [key] => (None, key),
        [section, key] => (Some(section), key),
        _ => (Some(parts[0]), parts[parts.len() - 1]),
    };
    if let Some(section) = section
        && !complete.get(section).is_some_and(Value::is_table)
    {
        return Err(unknown(place(), None, section, complete, kind));
    }
    let known = match section {
        Some(section) => complete[section].as_table().expect("looked at above"),
        None => complete,
    };
    if parts.len() > 2 || !known.contains_key(key) {
        return Err(unknown(place(), section, &parts[section.iter().len()..].join("."), complete, kind));
    }
    if known[key].is_table() {
        let message =
            format!("[{key}] is a table: set one of its keys, such as {key}.{}", first_key(&known[key]));
        return Err(RecipeError::Override { text: setting.text.clone(), message });
    }
    let path: Vec<&str> = section.into_iter().chain([key]).collect();
    let mut value = setting.value.clone();
    if type_error(complete, &path, &value).is_some() {
        // A name may look like a number or a date: `name=2024`.
        let text = Value::String(setting.raw.clone());
        if type_error(complete, &path, &text).is_none() {
            value = text;
        }
    }
    let target = match section {
        None => table,
        Some(section) => match table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => inner,
            // `check_table` tells that the file has something else there.
            _ => return Ok(()),
        },
    };
    target.insert(key.into(), value);
    Ok(())
}

fn first_key(table: &Value) -> &str {
    table.as_table().and_then(|t| t.keys().next()).map_or("", String::as_str)
}

/// Looks at every key and value.
fn check_table(
    table: &Table,
    complete: &Table,
    kind: &str,
    place: &dyn Fn(&[&str]) -> String,
) -> Result<(), RecipeError> {
    for (name, value) in table {
        let Some(known) = complete.get(name) else {
            return Err(unknown(place(&[name]), None, name, complete, kind));
        };
        let Value::Table(known) = known else {
            check_value(complete, &[name], value, place)?;
            continue;
        };
        let Value::Table(inner) = value else {
            let message = format!("expected the table [{name}], found {}", value.type_str());
            return Err(RecipeError::WrongType { place: place(&[name]), key: name.clone(), message });
        };
        for (key, value) in inner {
            if !known.contains_key(key) {
                return Err(unknown(place(&[name, key]), Some(name), key, complete, kind));
            }
            check_value(complete, &[name, key], value, place)?;
        }
    }
    Ok(())
}

fn check_value(
    complete: &Table,
    path: &[&str],
    value: &Value,
    place: &dyn Fn(&[&str]) -> String,
) -> Result<(), RecipeError> {
    match type_error(complete, path, value) {
        Some(message) => Err(RecipeError::WrongType { place: place(path), key: path.join("."), message }),
        None => Ok(()),
    }
}

/// Why a value cannot stand at a path: what reading a complete recipe with it says.
fn type_error(complete: &Table, path: &[&str], value: &Value) -> Option<String> {
    if path == ["task", "kind"] {
        return None; // looked at by `task_kind`, and a change would want other keys
    }
    let mut changed = complete.clone();
    let table = match path {
        [section, _] => changed[*section].as_table_mut()?,
        _ => &mut changed,
    };
    table.insert(path[path.len() - 1].into(), value.clone());
    let error = changed.try_into::<Recipe>().err()?;
    let mut message = error.message().to_string();
    for (technical, plain) in [
        ("expected usize", "expected a whole number from 0"),
        ("expected u64", "expected a whole number from 0"),
        ("expected i64", "expected a whole number"),
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("unknown variant", "unknown choice"),
    ] {
        message = message.replace(technical, plain);
    }
    if let Some(nearest) = value.as_str().and_then(|word| nearest_choice(word, &message)) {
        message.push_str(&format!("; did you mean \"{nearest}\"?"));
    }
    Some(message)
}

/// The nearest of the choices that serde lists in backquotes after "expected".
fn nearest_choice(word: &str, message: &str) -> Option<String> {
    let (_, choices) = message.strip_prefix("unknown choice")?.split_once("expected")?;
    nearest(word, choices.split('`').skip(1).step_by(2)).map(String::from)
}

fn unknown(place: String, section: Option<&str>, key: &str, complete: &Table, kind: &str) -> RecipeError {
    let table = match section {
        Some("task") => format!("in [task] of kind \"{kind}\""),
        Some(section) => format!("in [{section}]"),
        None => "at the top level".into(),
    };
    let known = match section {
        Some(section) => complete[section].as_table(),
        None => Some(complete),
    };
    let keys: Vec<&str> = known.into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    let elsewhere = complete
        .iter()
        .find(|(name, value)| Some(name.as_str()) != section && value.get(key).is_some())
        .map(|(name, _)| format!("{name}.{key}"))
        .or_else(|| complete.get(key).filter(|v| !v.is_table()).map(|_| key.to_string()));
    let hint = match (nearest(key, keys.iter().copied()), elsewhere) {
        (_, Some(path)) => format!("did you mean `{path}`?"),
        (Some(near), None) => format!("did you mean `{near}`?"),
        (None, None) => format!("known keys: {}", keys.join(", ")),
    };
    RecipeError::UnknownKey { place, table, key: key.into(), hint }
}

/// The nearest word by edit distance, if any is near.
pub fn nearest<'a>(word: &str, choices: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    let lower = word.to_lowercase().replace('-', "_");
    choices
        .map(|choice| (distance(&lower, &choice.replace('-', "_")), choice))
        .filter(|(d, choice)| *d <= limit && *d < choice.len())
        .min_by_key(|(d, _)| *d)
        .map(|(_, choice)| choice)
}

/// Edit distance with swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
