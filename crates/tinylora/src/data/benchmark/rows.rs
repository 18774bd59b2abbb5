//! The bytes of a benchmark's file enter, problems leave: question, gold answer, and what results are broken down by.
//! A row that cannot be used is an error with its file, line and field; none is skipped. A row without a gold answer
//! is kept, with an empty one.

use super::{BenchmarkError, BenchmarkProblem};
use crate::data::{Problem, gold_of_answer, parquet};
use crate::recipe::{Benchmark, GoldField, Split};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The rows of a JSONL file; `file` is its name.
pub fn parse(
    benchmark: Benchmark,
    split: Split,
    file: &str,
    bytes: &[u8],
) -> Result<Vec<BenchmarkProblem>, BenchmarkError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut problems = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let problem = object(line)
            .and_then(|row| problem(benchmark, split, index + 1, &row))
            .map_err(|message| BenchmarkError::Line { file: file.into(), line: index + 1, message })?;
        problems.push(problem);
    }
    if problems.is_empty() {
        return Err(BenchmarkError::Empty { file: file.into() });
    }
    Ok(problems)
}

/// The rows of a parquet file; `name` is what messages call it.
pub(super) fn of_parquet(
    benchmark: Benchmark,
    split: Split,
    name: &str,
    file: std::fs::File,
) -> Result<Vec<BenchmarkProblem>, BenchmarkError> {
    let failed = |line: usize| move |message| BenchmarkError::Line { file: name.into(), line, message };
    let rows = parquet_rows(benchmark, file).map_err(failed(0))?;
    if rows.is_empty() {
        return Err(BenchmarkError::Empty { file: name.into() });
    }
    let problem = |(row, object)| problem(benchmark, split, row, object).map_err(failed(row));
    (1..).zip(&rows).map(problem).collect()
}

/// Of each row the fields that are looked at, where the file has them.
fn parquet_rows(benchmark: Benchmark, file: std::fs::File) -> Result<Vec<Map<String, Value>>, String> {
    let known = parquet::names(file.try_clone().map_err(|error| error.to_string())?)?;
    let fields: Vec<&str> =
        wanted(benchmark).into_iter().filter(|field| known.iter().any(|name| name == field)).collect();
    let columns = parquet::columns(file, &fields)?;
    let rows = columns.first().map_or(0, Vec::len);
    let object = |row: usize| {
        let values = fields.iter().zip(&columns);
        values.map(|(field, column)| ((*field).to_owned(), column[row].clone())).collect()
    };
    Ok((0..rows).map(object).collect())
}

/// Every field that is looked at in a row.
fn wanted(benchmark: Benchmark) -> BTreeSet<&'static str> {
    let about = benchmark.about();
    let gold = match about.gold {
        GoldField::Hashes(field) | GoldField::First(field) => vec![field],
        GoldField::AnswerOrBox(answer, solution) => vec![answer, solution],
    };
    let groups = about.groups.iter().map(|(_, field)| *field);
    about.question.iter().copied().chain(gold).chain(groups).chain(["answer", "solution"]).collect()
}

fn object(line: &[u8]) -> Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(line).map_err(|e| format!("byte {} is not UTF-8", e.valid_up_to() + 1))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("expected a JSON object".into()),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

/// A row as a problem; its number counts from 1.
pub fn problem(
    benchmark: Benchmark,
    split: Split,
    number: usize,
    row: &Map<String, Value>,
) -> Result<BenchmarkProblem, String> {
    let about = benchmark.about();
    let question = about
        .question
        .iter()
        .find_map(|field| row.get(*field).and_then(Value::as_str))
        .ok_or_else(|| lacks(row, &format!("text in a field {}", about.question.join(" or "))))?;
    if question.trim().is_empty() {
        return Err("the question is empty".into());
    }
    let gold = gold(about.gold, row)?;
    let split = match split {
        Split::Train => "train/",
        Split::Test => "",
    };
    let id = format!("{}/{split}{number}", about.name);
    let mut groups = BTreeMap::new();
    for (name, field) in about.groups {
        if let Some(value) = row.get(*field).and_then(plain) {
            groups.insert((*name).to_owned(), value);
        }
    }
    if let (GoldField::Hashes(field), Some(worked)) = (about.gold, row.get("answer").and_then(Value::as_str))
    {
        debug_assert_eq!(field, "answer");
        groups.insert("steps".into(), steps(worked));
    }
    let solution = match about.gold {
        GoldField::Hashes(field) => row.get(field).and_then(Value::as_str).map(without_annotations),
        _ => row.get("solution").and_then(Value::as_str).map(str::to_owned),
    };
    let solution = solution.unwrap_or_default();
    let problem = Problem { id, question: question.to_owned(), gold, solution };
    Ok(BenchmarkProblem { problem, groups })
}

fn gold(rule: GoldField, row: &Map<String, Value>) -> Result<String, String> {
    let text = |field: &str| row.get(field).and_then(plain);
    match rule {
        GoldField::Hashes(field) => {
            let answer = text(field).ok_or_else(|| lacks(row, &format!("text in the field {field}")))?;
            if !answer.contains("####") {
                return Err(format!("field \"{field}\" has no \"####\" before its answer"));
            }
            Ok(gold_of_answer(&answer))
        }
        GoldField::AnswerOrBox(answer, solution) => match (text(answer), text(solution)) {
            (Some(answer), _) => Ok(answer.trim().to_owned()),
            (None, Some(worked)) => last_box(&worked)
                .map(|answer| answer.trim().to_owned())
                .ok_or_else(|| format!("field \"{solution}\" has no \\boxed{{…}} that closes")),
            (None, None) => Err(lacks(row, &format!("text in a field {answer} or {solution}"))),
        },
        GoldField::First(field) => match row.get(field) {
            Some(Value::Array(list)) => match list.first().and_then(plain) {
                Some(answer) => Ok(answer.trim().to_owned()),
                None => Err(format!("field \"{field}\" is an empty list")),
            },
            _ => Err(lacks(row, &format!("a list in the field {field}"))),
        },
    }
}

fn lacks(row: &Map<String, Value>, what: &str) -> String {
    let known: Vec<&str> = row.keys().map(String::as_str).collect();
    format!("expected {what}; the row has: {}", known.join(", "))
}

/// Text, or a number as people write it: 27.0 is 27.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => match number.as_f64() {
            Some(x) if x.fract() == 0.0 && x.abs() < 9e15 => Some(format!("{x:.0}")),
            _ => Some(number.to_string()),
        },
        _ => None,
    }
}

/// The content of the last `\boxed{…}`, `\fbox{…}` or `\boxed x`.
pub fn last_box(text: &str) -> Option<&str> {
    let at = text.rfind("\\boxed").max(text.rfind("\\fbox"))?;
    let rest = text[at..].trim_start_matches("\\boxed").trim_start_matches("\\fbox");
    let Some(content) = rest.strip_prefix('{') else {
        let word = rest.trim_start().split([' ', '$', '\n', '.', ',']).next().unwrap_or_default();
        return (rest.starts_with(' ') && !word.is_empty()).then_some(word);
    };
    let mut depth = 1;
    for (index, byte) in content.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&content[..index]);
        }
    }
    None
}

/// GSM8K's solutions mark each computation as `<<2+3=5>>`: their number says how many steps a problem takes.
fn steps(worked: &str) -> String {
    worked.matches("<<").count().to_string()
}

/// A worked solution without `<<…>>` and without its last line `#### n`.
fn without_annotations(worked: &str) -> String {
    let reasoning = worked.rsplit_once("####").map_or(worked, |(before, _)| before);
    let mut text = String::with_capacity(reasoning.len());
    let mut rest = reasoning;
    while let Some((before, after)) = rest.split_once("<<") {
        text.push_str(before);
        rest = after.split_once(">>").map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(benchmark: Benchmark, line: &str) -> Result<BenchmarkProblem, String> {
        parse(benchmark, Split::Test, "test.jsonl", line.as_bytes())
            .map(|mut problems| problems.remove(0))
            .map_err(|error| error.to_string())
    }

    /// A row in the form of each set's file, written for this test.
    /// The same rows, as the Hub's library writes them and as JSON lines.
    #[test]
    fn parquet_rows_are_those_of_json_lines() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/data");
        let text = std::fs::read_to_string(folder.join("plain.jsonl")).unwrap();
        let wanted: Vec<Map<String, Value>> =
            text.lines().map(|line| object(line.as_bytes()).unwrap()).collect();
        for compression in ["snappy", "zstd", "none"] {
            let name = format!("plain.{compression}.parquet");
            let open = || std::fs::File::open(folder.join(&name)).unwrap();
            let rows = parquet_rows(Benchmark::Gsm8k, open()).unwrap();
            assert_eq!(rows.len(), wanted.len());
            for (row, wanted) in rows.iter().zip(&wanted) {
                assert_eq!(row.len(), 2);
                assert!(row.iter().all(|(field, value)| wanted.get(field) == Some(value)), "{row:?}");
            }
            // The first row without an answer is named, as it is of JSON lines.
            let whole = of_parquet(Benchmark::Gsm8k, Split::Test, "plain", open()).unwrap_err();
            let lines = parse(Benchmark::Gsm8k, Split::Test, "plain", text.as_bytes()).unwrap_err();
            let start = |error: &BenchmarkError| error.to_string().chars().take(40).collect::<String>();
            assert_eq!(start(&whole), start(&lines));
            // No set finds its answer in what is none.
            let message = of_parquet(Benchmark::OlympiadBench, Split::Test, &name, open()).unwrap_err();
            assert!(message.to_string().contains("final_answer"), "{message}");
        }
    }

    #[test]
    fn every_sets_form_is_read() {
        for (benchmark, line, gold, groups) in [
            (
                Benchmark::Gsm8k,
                r#"{"question": "Two and three?", "answer": "It is 2+3=<<2+3=5>>5,000.\n#### 5,000"}"#,
                "5000",
                "steps=1",
            ),
            (
                Benchmark::Math,
                r#"{"problem": "Half?", "solution": "So $\\boxed{\\frac{1}{2}}$.", "level": "Level 2", "type": "Algebra"}"#,
                "\\frac{1}{2}",
                "level=Level 2 subject=Algebra",
            ),
            (
                Benchmark::Math500,
                r#"{"problem": "Two?", "solution": "\\boxed{3}", "answer": "2", "subject": "Algebra", "level": 5, "unique_id": "a"}"#,
                "2",
                "level=5 subject=Algebra",
            ),
            (
                Benchmark::Minerva,
                r#"{"problem": "How far?", "solution": "d = \\boxed{4.5e33} m", "type": "Dynamics", "idx": 0}"#,
                "4.5e33",
                "course=Dynamics",
            ),
            (
                Benchmark::Gaokao2023En,
                r#"{"question": "Find $x$.", "lang": "en", "answer": "$3$", "source": "a"}"#,
                "$3$",
                "",
            ),
            (Benchmark::Gaokao2023En, r#"{"question": "Prove it.", "answer": ""}"#, "", ""),
            (
                Benchmark::OlympiadBench,
                r#"{"question": "Find all.", "final_answer": ["$1,2$"], "subfield": "Algebra", "answer_type": "Tuple", "unit": null}"#,
                "$1,2$",
                "answer=Tuple field=Algebra",
            ),
            (
                Benchmark::CollegeMath,
                r#"{"question": "Simplify.", "answer": "$10-4 n$", "data_topic": "college_math.algebra"}"#,
                "$10-4 n$",
                "topic=college_math.algebra",
            ),
            (
                Benchmark::Aime24,
                r#"{"id": 60, "problem": "Find it.", "solution": "x", "answer": "204", "question": "Find it."}"#,
                "204",
                "",
            ),
            (Benchmark::Amc23, r#"{"id": 0, "problem": "Where?", "answer": 27.0}"#, "27", ""),
            (Benchmark::Amc23, r#"{"id": 0, "problem": "Where?", "answer": 0.5}"#, "0.5", ""),
        ] {
            let read = one(benchmark, line).unwrap_or_else(|error| panic!("{benchmark:?}: {error}"));
            assert_eq!(read.problem.gold, gold, "{benchmark:?}");
            let told: Vec<String> =
                read.groups.iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(told.join(" "), groups, "{benchmark:?}");
            assert_eq!(read.problem.id, format!("{}/1", benchmark.name()));
        }
        let worked =
            one(Benchmark::Gsm8k, r#"{"question": "q", "answer": "a <<1+1=2>>2 b\n#### 2"}"#).unwrap();
        assert_eq!(worked.problem.solution, "a 2 b");
    }

    #[test]
    fn bad_rows_are_named() {
        for (benchmark, line, expected) in [
            (Benchmark::Gsm8k, r#"{"question": "q", "answer": "5"}"#, "no \"####\""),
            (
                Benchmark::Gsm8k,
                r#"{"query": "q", "answer": "5"}"#,
                "question or problem; the row has: query, answer",
            ),
            (Benchmark::Math500, r#"{"problem": " ", "answer": "5"}"#, "the question is empty"),
            (Benchmark::Minerva, r#"{"problem": "q", "solution": "so \\boxed{5"}"#, "that closes"),
            (Benchmark::Minerva, r#"{"problem": "q"}"#, "answer or solution"),
            (Benchmark::OlympiadBench, r#"{"question": "q", "final_answer": []}"#, "an empty list"),
            (Benchmark::OlympiadBench, r#"{"question": "q", "final_answer": "5"}"#, "a list in the field"),
            (Benchmark::Amc23, "[1]", "expected a JSON object"),
            (Benchmark::Amc23, "{", "not JSON"),
            (Benchmark::Amc23, " ", "no rows"),
        ] {
            let message = one(benchmark, line).unwrap_err();
            assert!(message.contains("test.jsonl") && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn boxes() {
        assert_eq!(last_box("\\boxed{1} and \\fbox{\\frac{1}{2}}"), Some("\\frac{1}{2}"));
        assert_eq!(last_box("so $\\boxed 7$."), Some("7"));
        assert_eq!(last_box("\\boxed{1"), None);
        assert_eq!(last_box("none"), None);
        assert_eq!(last_box("\\boxed"), None);
    }
}
