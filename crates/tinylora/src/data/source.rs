//! Files of rows enter, their rows leave one by one: JSON lines, a JSON array of objects, or parquet. Nothing here
//! knows what a row means.

use std::path::Path;

use serde_json::{Map, Value};

use super::{DataError, parquet};

/// What is done with a row: its place in the file (the line of JSON lines, else the row, from 1), and its fields.
pub(super) type EachRow<'a> = &'a mut dyn FnMut(usize, &Map<String, Value>) -> Result<(), String>;

/// Reads a file's rows in order. `key` is the recipe's setting that names it; of a parquet file only `fields` are read.
pub(super) fn read(
    path: &Path,
    key: &'static str,
    fields: &[&str],
    each: EachRow<'_>,
) -> Result<(), DataError> {
    let file = path.display().to_string();
    let unread = |source| DataError::Read { file: file.clone(), key, source };
    if has_ending(&file, "parquet") {
        let opened = std::fs::File::open(path).map_err(unread)?;
        return rows_of_columns(&file, parquet::columns(opened, fields), fields, each);
    }
    text(&file, &std::fs::read(path).map_err(unread)?, each)
}

/// Reads the conversations of a parquet file: each row has the one field, a list of messages.
pub(super) fn read_messages(
    path: &Path,
    key: &'static str,
    field: &str,
    each: EachRow<'_>,
) -> Result<(), DataError> {
    let file = path.display().to_string();
    let opened =
        std::fs::File::open(path).map_err(|source| DataError::Read { file: file.clone(), key, source })?;
    let column = parquet::messages(opened, field);
    rows_of_columns(&file, column.map(|column| vec![column]), &[field], each)
}

/// The names of a parquet file's fields; none for files whose rows say themselves what they have.
pub(super) fn field_names(path: &Path, key: &'static str) -> Result<Option<Vec<String>>, DataError> {
    let file = path.display().to_string();
    if !has_ending(&file, "parquet") {
        return Ok(None);
    }
    let opened =
        std::fs::File::open(path).map_err(|source| DataError::Read { file: file.clone(), key, source })?;
    parquet::names(opened).map(Some).map_err(|message| DataError::File { file, message })
}

/// The rows of parquet columns.
fn rows_of_columns(
    file: &str,
    columns: Result<Vec<Vec<Value>>, String>,
    fields: &[&str],
    each: EachRow<'_>,
) -> Result<(), DataError> {
    let columns =
        columns.map_err(|message| DataError::File { file: file.to_owned(), message: message.clone() })?;
    let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
    for row in 1.. {
        let values: Vec<Value> = columns.iter_mut().filter_map(Iterator::next).collect();
        if values.is_empty() {
            break;
        }
        let object = fields.iter().map(|field| (*field).to_owned()).zip(values).collect();
        each(row, &object).map_err(at(file, row))?;
    }
    Ok(())
}

/// The rows of JSON text: an array of objects, or an object a line.
pub(super) fn text(file: &str, bytes: &[u8], each: EachRow<'_>) -> Result<(), DataError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    // A line of JSON lines is an object, so what begins with a bracket in a .json file is one array.
    if first == Some(&b'[') && has_ending(file, "json") {
        let rows: Vec<Value> = serde_json::from_slice(bytes)
            .map_err(|error| at(file, error.line())(format!("not JSON: {error}")))?;
        for (index, row) in rows.iter().enumerate() {
            object(row).and_then(|object| each(index + 1, object)).map_err(at(file, index + 1))?;
        }
        return Ok(());
    }
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let parsed = parse_line(line);
        parsed
            .and_then(|value| object(&value).and_then(|object| each(index + 1, object)))
            .map_err(at(file, index + 1))?;
    }
    Ok(())
}

fn parse_line(line: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(line).map_err(|e| format!("byte {} is not UTF-8", e.valid_up_to() + 1))?;
    serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))
}

fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| "expected a JSON object".to_owned())
}

fn has_ending(file: &str, ending: &str) -> bool {
    Path::new(file).extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

fn at(file: &str, line: usize) -> impl Fn(String) -> DataError {
    let file = file.to_owned();
    move |message| DataError::Line { file: file.clone(), line, message }
}
