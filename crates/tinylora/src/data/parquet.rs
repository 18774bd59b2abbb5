//! A parquet file and the names of fields enter, rows with these fields leave. Fields are columns or, with dots, parts
//! of structs (`reward_model.ground_truth`); lists other than conversations and dates are refused. Of other columns nothing
//! is read.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::{ConvertedType, LogicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};
use serde_json::Value;

/// Values that are read at once from one column.
const BATCH: usize = 1024;

/// A column's values, in order; null where there is none.
pub(crate) type Column = Vec<Value>;

/// The wanted fields of all rows, one list of values a field. Err: what is wrong, without the file's name.
pub(crate) fn columns(file: impl ChunkReader + 'static, fields: &[&str]) -> Result<Vec<Column>, String> {
    // A damaged file can make the library panic; that must not end the program.
    let read = catch_unwind(AssertUnwindSafe(|| read(file, fields)));
    read.unwrap_or_else(|_| Err("the file is damaged: the library for parquet could not go on".to_owned()))
}

/// The names of all columns, parts of structs with dots.
pub(crate) fn names(file: impl ChunkReader + 'static) -> Result<Vec<String>, String> {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let reader =
            SerializedFileReader::new(file).map_err(|error| format!("not a usable parquet file: {error}"))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        // A list's column has a path of its own; a reader of rows knows it by its first part.
        let name = |column: &std::sync::Arc<ColumnDescriptor>| match column.max_rep_level() {
            0 => column.path().parts().join("."),
            _ => column.path().parts()[0].clone(),
        };
        Ok(schema.columns().iter().map(name).collect())
    }));
    read.unwrap_or_else(|_| Err("the file is damaged: the library for parquet could not go on".to_owned()))
}

/// A field whose values are lists of messages: each an array of `{"role", "content"}`.
pub(crate) fn messages(file: impl ChunkReader + 'static, field: &str) -> Result<Column, String> {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let reader =
            SerializedFileReader::new(file).map_err(|error| format!("not a usable parquet file: {error}"))?;
        let (roles, contents) =
            (part_of_list(&reader, field, "role")?, part_of_list(&reader, field, "content")?);
        let conversation = |(row, (roles, contents)): (usize, (Vec<Value>, Vec<Value>))| {
            if roles.len() != contents.len() {
                return Err(format!("row {}: a message of \"{field}\" has no role or no content", row + 1));
            }
            let message = |(role, content)| serde_json::json!({"role": role, "content": content});
            Ok(Value::Array(roles.into_iter().zip(contents).map(message).collect()))
        };
        roles.into_iter().zip(contents).enumerate().map(conversation).collect()
    }));
    read.unwrap_or_else(|_| Err("the file is damaged: the library for parquet could not go on".to_owned()))
}

/// Of each row the texts of one part of a list's structs.
fn part_of_list<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
    field: &str,
    part: &str,
) -> Result<Vec<Vec<Value>>, String> {
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let is_wanted = |column: &std::sync::Arc<ColumnDescriptor>| {
        let parts = column.path().parts();
        let of_field = parts.first().is_some_and(|first| first == field);
        of_field
            && parts.len() > 1
            && parts.last().is_some_and(|last| last == part)
            && column.max_rep_level() == 1
    };
    let place = schema.columns().iter().position(is_wanted).ok_or_else(|| {
        format!(
            "field \"{field}\" holds no messages: they are lists of structs with \"role\" and \"content\""
        )
    })?;
    let descriptor = schema.column(place);
    let damaged = |error: parquet::errors::ParquetError| format!("not a usable parquet file: {error}");
    let mut lists = Vec::new();
    for number in 0..reader.num_row_groups() {
        let group = reader.get_row_group(number).map_err(damaged)?;
        let ColumnReader::ByteArrayColumnReader(mut values) =
            group.get_column_reader(place).map_err(damaged)?
        else {
            return Err(format!("field \"{field}\": \"{part}\" is no text"));
        };
        loop {
            let (mut there, mut again, mut found) = (Vec::new(), Vec::new(), Vec::new());
            let (records, _, _) = values
                .read_records(BATCH, Some(&mut there), Some(&mut again), &mut found)
                .map_err(damaged)?;
            if records == 0 {
                break;
            }
            let mut found = found.into_iter();
            for (there, again) in there.into_iter().zip(again) {
                if again == 0 {
                    lists.push(Vec::new());
                }
                if there == descriptor.max_def_level()
                    && let (Some(bytes), Some(list)) = (found.next(), lists.last_mut())
                {
                    let text = std::str::from_utf8(bytes.data());
                    let text =
                        text.map_err(|_| format!("field \"{field}\" holds bytes that are no UTF-8"))?;
                    list.push(Value::from(text));
                }
            }
        }
    }
    Ok(lists)
}

fn read(file: impl ChunkReader + 'static, fields: &[&str]) -> Result<Vec<Column>, String> {
    let damaged = |error: parquet::errors::ParquetError| format!("not a usable parquet file: {error}");
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let places = fields.iter().map(|field| place(&schema, field)).collect::<Result<Vec<_>, _>>()?;
    let mut columns = vec![Column::new(); fields.len()];
    for number in 0..reader.num_row_groups() {
        let group = reader.get_row_group(number).map_err(damaged)?;
        for (&place, column) in places.iter().zip(&mut columns) {
            let descriptor = schema.column(place);
            let values = group.get_column_reader(place).map_err(damaged)?;
            append(values, &descriptor, column)?;
        }
        let lengths: BTreeSet<usize> = columns.iter().map(Vec::len).collect();
        if lengths.len() > 1 {
            return Err(format!("not a usable parquet file: its columns have {lengths:?} values"));
        }
    }
    Ok(columns)
}

/// The number of the column that a field names.
fn place(schema: &SchemaDescriptor, field: &str) -> Result<usize, String> {
    let name = |column: &ColumnDescriptor| column.path().parts().join(".");
    let all = schema.columns();
    if let Some(found) = all.iter().position(|column| name(column) == field) {
        return match all[found].max_rep_level() {
            0 => Ok(found),
            _ => Err(a_list(field)),
        };
    }
    let inside = format!("{field}.");
    let parts: Vec<String> = all.iter().map(|column| name(column)).collect();
    let below: Vec<&String> = parts.iter().filter(|name| name.starts_with(&inside)).collect();
    if below.is_empty() {
        let roots = schema.root_schema().get_fields().iter().map(|root| root.name());
        let known: Vec<&str> = roots.collect();
        return Err(format!("no field \"{field}\"; the file has: {}", known.join(", ")));
    }
    let lists = all.iter().any(|column| name(column).starts_with(&inside) && column.max_rep_level() > 0);
    if lists {
        return Err(a_list(field));
    }
    let below: Vec<&str> = below.into_iter().map(String::as_str).collect();
    Err(format!("field \"{field}\" has parts; name one of them: {}", below.join(", ")))
}

fn a_list(field: &str) -> String {
    format!("field \"{field}\" holds lists, and text or a number is needed; name another field")
}

/// Reads the rest of a column of one group of rows.
fn append(reader: ColumnReader, descriptor: &ColumnDescriptor, out: &mut Column) -> Result<(), String> {
    let field = descriptor.path().parts().join(".");
    let unreadable = |what: &str| {
        Err(format!("field \"{field}\" holds {what}, and text or a number is needed; name another field"))
    };
    let unsigned = matches!(
        descriptor.logical_type_ref(),
        Some(LogicalType::Integer(integer)) if !integer.is_signed
    ) || matches!(
        descriptor.converted_type(),
        ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
    );
    let is_number = matches!(descriptor.logical_type_ref(), None | Some(LogicalType::Integer(_)));
    match reader {
        ColumnReader::ByteArrayColumnReader(reader) => values(reader, descriptor, out, |bytes: ByteArray| {
            let text = std::str::from_utf8(bytes.data());
            text.map(Value::from).map_err(|_| format!("field \"{field}\" holds bytes that are no UTF-8"))
        }),
        ColumnReader::BoolColumnReader(reader) => values(reader, descriptor, out, |x| Ok(Value::from(x))),
        ColumnReader::Int32ColumnReader(reader) if is_number => values(reader, descriptor, out, |x| {
            Ok(if unsigned { Value::from(x as u32) } else { Value::from(x) })
        }),
        ColumnReader::Int64ColumnReader(reader) if is_number => values(reader, descriptor, out, |x| {
            Ok(if unsigned { Value::from(x as u64) } else { Value::from(x) })
        }),
        ColumnReader::FloatColumnReader(reader) => values(reader, descriptor, out, |x| {
            // By its shortest decimal form, not by the f64 that is nearest.
            let number = format!("{x}").parse::<f64>().unwrap_or(f64::from(x));
            Ok(Value::from(number))
        }),
        ColumnReader::DoubleColumnReader(reader) => values(reader, descriptor, out, |x| Ok(Value::from(x))),
        ColumnReader::Int32ColumnReader(_) | ColumnReader::Int64ColumnReader(_) => {
            unreadable("dates, times or decimals")
        }
        ColumnReader::Int96ColumnReader(_) => unreadable("times"),
        ColumnReader::FixedLenByteArrayColumnReader(_) => unreadable("bytes"),
    }
}

fn values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    descriptor: &ColumnDescriptor,
    out: &mut Column,
    convert: impl Fn(T::T) -> Result<Value, String>,
) -> Result<(), String> {
    let full = descriptor.max_def_level();
    loop {
        let (mut levels, mut found) = (Vec::new(), Vec::new());
        let (records, _, _) = reader
            .read_records(BATCH, Some(&mut levels), None, &mut found)
            .map_err(|error| format!("not a usable parquet file: {error}"))?;
        if records == 0 {
            return Ok(());
        }
        let mut found = found.into_iter();
        for row in 0..records {
            // Columns that have a value in every row have no levels.
            let there = full == 0 || levels.get(row) == Some(&full);
            out.push(match there.then(|| found.next()).flatten() {
                Some(value) => convert(value)?,
                None => Value::Null,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;
    use std::path::{Path, PathBuf};

    /// Files that `golden/parquet_files.py` writes.
    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/data").join(name)
    }

    fn stored(name: &str) -> Vec<Map<String, Value>> {
        let text = std::fs::read_to_string(golden(name)).expect("a golden file");
        text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
    }

    fn found(name: &str, fields: &[&str]) -> Result<Vec<Column>, String> {
        columns(std::fs::File::open(golden(name)).expect("a golden file"), fields)
    }

    #[test]
    fn every_compression_gives_the_rows() {
        let rows = stored("plain.jsonl");
        assert!(rows.len() > 3 * 16, "several groups of rows");
        for compression in ["none", "snappy", "gzip", "lz4", "zstd"] {
            let fields = ["question", "answer", "meta.answer", "meta.level"];
            let columns = found(&format!("plain.{compression}.parquet"), &fields).expect(compression);
            for (row, stored) in rows.iter().enumerate() {
                let value = |column: usize| columns[column][row].clone();
                assert_eq!(value(0), stored["question"], "{compression} {row}");
                assert_eq!(value(1), stored["answer"], "{compression} {row}");
                // A struct may be null as a whole, or have parts that are.
                assert_eq!(value(2), stored["meta"]["answer"], "{compression} {row}");
                assert_eq!(value(3), stored["meta"]["level"], "{compression} {row}");
            }
            assert!(columns.iter().all(|column| column.len() == rows.len()));
        }
    }

    #[test]
    fn every_plain_type_gives_its_value() {
        let rows = stored("types.jsonl");
        for field in rows[0].keys() {
            let column = &found("types.parquet", &[field]).unwrap_or_else(|why| panic!("{field}: {why}"))[0];
            let stored: Vec<&Value> = rows.iter().map(|row| &row[field]).collect();
            assert_eq!(column.iter().collect::<Vec<_>>(), stored, "{field}");
        }
    }

    #[test]
    fn lists_of_messages_are_conversations() {
        let rows = stored("chats.jsonl");
        let opened = |name: &str| std::fs::File::open(golden(name)).expect("a golden file");
        let column = messages(opened("chats.parquet"), "messages").expect("lists of messages");
        let stored: Vec<&Value> = rows.iter().map(|row| &row["messages"]).collect();
        assert_eq!(column.iter().collect::<Vec<_>>(), stored);
        for (file, field) in [("chats.parquet", "source"), ("types.parquet", "list")] {
            assert!(messages(opened(file), field).unwrap_err().contains("holds no messages"), "{field}");
        }
    }

    #[test]
    fn what_is_no_text_or_number_is_refused_by_name() {
        let message = |field: &str| found("types.parquet", &[field]).expect_err(field);
        for field in ["list", "messages", "messages.content"] {
            assert!(message(field).contains(&format!("\"{field}")), "{}", message(field));
        }
        assert!(message("messages").contains("holds lists"), "{}", message("messages"));
        assert!(message("day").contains("dates"), "{}", message("day"));
        assert!(message("price").contains("decimals") || message("price").contains("bytes"));
        assert!(message("raw").contains("no UTF-8"), "{}", message("raw"));
        let parts = message("meta");
        assert!(parts.contains("meta.answer, meta.level"), "{parts}");
        let unknown = message("nothing");
        assert!(unknown.contains("no field \"nothing\"; the file has: question, "), "{unknown}");
        let message =
            columns(std::fs::File::open(golden("types.jsonl")).expect("there"), &["a"]).unwrap_err();
        assert!(message.contains("not a usable parquet file"), "{message}");
    }
}
