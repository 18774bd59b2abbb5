//! A file or data set of examples enters, what supervised finetuning learns from leaves: conversations, prompts with
//! completions, or questions with answers. A row that cannot be used is an error with its file, line and field; nothing
//! here tokenizes.

use super::jsonl::{file_name, value_at};
use super::{DataError, Fetch, source};
use crate::hub::{self, DataRole, HubError, HubOptions, Progress};
use crate::recipe::{ExampleFormat, SftSection};
use crate::tokenizer::Message;
use serde_json::{Map, Value};
use std::path::Path;

/// A row to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// File and line, such as `chats.jsonl:12`.
    pub id: String,
    /// What it says.
    pub content: Content,
}

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A conversation that the assistant ends.
    Conversation {
        /// Its messages.
        messages: Vec<Message>,
        /// Messages of the prompt: what the assistant says among them is not learned.
        given: usize,
    },
    /// A prompt as it stands and its completion.
    Completion {
        /// Of a conversation the user's message.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// A question, to be put as the task puts its own, and its answer.
    Answer {
        /// The question alone.
        question: String,
        /// What is learned.
        answer: String,
    },
}

const FORMATS: [ExampleFormat; 3] =
    [ExampleFormat::Messages, ExampleFormat::PromptCompletion, ExampleFormat::QuestionAnswer];

/// Reads all rows of `sft.data`, fetching what is missing.
pub fn read_examples(
    section: &SftSection,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Example>, DataError> {
    read(section, &mut |reference, role| hub::resolve_data(reference, role, options, &mut *progress))
}

const KEY: &str = "sft.data";

fn read(section: &SftSection, fetch: Fetch<'_>) -> Result<Vec<Example>, DataError> {
    let files = fetch(&section.data, DataRole::Train).map_err(|error| match error {
        HubError::NoSuchPath { path } => DataError::Read {
            file: path.display().to_string(),
            key: KEY,
            source: std::io::ErrorKind::NotFound.into(),
        },
        other => DataError::Hub(other),
    })?;
    let mut examples = Vec::new();
    let mut format = None;
    for path in &files.paths {
        read_file(section, path, &mut format, &mut examples)?;
    }
    match examples.is_empty() {
        false => Ok(examples),
        true => Err(DataError::NothingToTrain {
            what: section.data.clone(),
            remedy: "it has no rows; name another file as sft.data",
        }),
    }
}

/// The rows of one file. The first row of all decides what they are.
fn read_file(
    section: &SftSection,
    path: &Path,
    format: &mut Option<ExampleFormat>,
    examples: &mut Vec<Example>,
) -> Result<(), DataError> {
    let name = file_name(path);
    let mut columns = None;
    if let Some(names) = source::field_names(path, KEY)? {
        let found = detect(section, &|field| names.iter().any(|name| name == field), &names);
        let found = found.map_err(|message| DataError::File { file: path.display().to_string(), message })?;
        columns = Some(*format.get_or_insert(found));
    }
    let mut take = |place: usize, row: &Map<String, Value>| {
        let format = match *format {
            Some(format) => format,
            None => {
                let names: Vec<String> = row.keys().cloned().collect();
                *format.insert(detect(section, &|field| value_at(row, field).is_some(), &names)?)
            }
        };
        examples.push(Example { id: format!("{name}:{place}"), content: content(section, format, row)? });
        Ok(())
    };
    match columns {
        None => source::read(path, KEY, &[], &mut take),
        Some(ExampleFormat::Messages) => source::read_messages(path, KEY, &section.messages_field, &mut take),
        Some(format) => source::read(path, KEY, &fields(section, format), &mut take),
    }
}

/// The fields of a format.
fn fields(section: &SftSection, format: ExampleFormat) -> Vec<&str> {
    match format {
        ExampleFormat::Auto => Vec::new(),
        ExampleFormat::Messages => vec![&section.messages_field],
        ExampleFormat::PromptCompletion => vec![&section.prompt_field, &section.completion_field],
        ExampleFormat::QuestionAnswer => vec![&section.question_field, &section.answer_field],
    }
}

/// The format that is asked for, or the one whose fields are there; `names` are those that are, for messages.
fn detect(
    section: &SftSection,
    has: &dyn Fn(&str) -> bool,
    names: &[String],
) -> Result<ExampleFormat, String> {
    if section.format != ExampleFormat::Auto {
        return Ok(section.format);
    }
    let fits = |format: &ExampleFormat| fields(section, *format).into_iter().all(has);
    let found: Vec<ExampleFormat> = FORMATS.into_iter().filter(fits).collect();
    let quoted = |format: &ExampleFormat| serde_json::json!(format).to_string();
    match found[..] {
        [format] => Ok(format),
        [] => Err(format!(
            "the rows have {}: neither \"{}\" nor \"{}\" and \"{}\" nor \"{}\" and \"{}\" are among them; name the \
             fields, by sft.messages_field, or sft.prompt_field and sft.completion_field, or sft.question_field and \
             sft.answer_field",
            names.join(", "),
            section.messages_field,
            section.prompt_field,
            section.completion_field,
            section.question_field,
            section.answer_field,
        )),
        _ => Err(format!(
            "the rows have {}, so they may be {}: say which by sft.format",
            names.join(", "),
            found.iter().map(quoted).collect::<Vec<_>>().join(" or "),
        )),
    }
}

fn content(section: &SftSection, format: ExampleFormat, row: &Map<String, Value>) -> Result<Content, String> {
    match format {
        ExampleFormat::Auto => unreachable!("rows are read once their format is known"),
        ExampleFormat::Messages => {
            let key = &section.messages_field;
            let messages = messages(key, field(row, key, "messages_field")?)?;
            ends_with_assistant(key, &messages)?;
            Ok(Content::Conversation { messages, given: 0 })
        }
        ExampleFormat::PromptCompletion => {
            let (asked, said) = (&section.prompt_field, &section.completion_field);
            let prompt = field(row, asked, "prompt_field")?;
            let completion = field(row, said, "completion_field")?;
            match (prompt, completion) {
                (Value::Array(_), _) => {
                    let mut all = messages(asked, prompt)?;
                    let given = all.len();
                    all.extend(one_or_more(said, completion, "assistant")?);
                    ends_with_assistant(said, &all)?;
                    Ok(Content::Conversation { messages: all, given })
                }
                (_, Value::Array(_)) => {
                    let mut all = one_or_more(asked, prompt, "user")?;
                    all.extend(messages(said, completion)?);
                    ends_with_assistant(said, &all)?;
                    Ok(Content::Conversation { messages: all, given: 1 })
                }
                _ => Ok(Content::Completion {
                    prompt: text(asked, prompt)?,
                    completion: text(said, completion)?,
                }),
            }
        }
        ExampleFormat::QuestionAnswer => {
            let (asked, said) = (&section.question_field, &section.answer_field);
            Ok(Content::Answer {
                question: text(asked, field(row, asked, "question_field")?)?,
                answer: text(said, field(row, said, "answer_field")?)?,
            })
        }
    }
}

fn field<'a>(row: &'a Map<String, Value>, key: &str, setting: &str) -> Result<&'a Value, String> {
    value_at(row, key).ok_or_else(|| {
        let known: Vec<&str> = row.keys().map(String::as_str).collect();
        format!("no field \"{key}\" (sft.{setting}); the row has: {}", known.join(", "))
    })
}

/// Text that says something, or a number or truth as text.
fn text(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
        Value::String(_) => Err(format!("field \"{key}\" is empty")),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        _ => Err(format!("field \"{key}\" must be text")),
    }
}

/// A list of messages, or text as one message.
fn one_or_more(key: &str, value: &Value, role: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::Array(_) => messages(key, value),
        _ => Ok(vec![Message { role: role.into(), content: text(key, value)? }]),
    }
}

fn messages(key: &str, value: &Value) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or_else(|| format!("field \"{key}\" must be a list of messages"))?;
    if list.is_empty() {
        return Err(format!("field \"{key}\" has no message"));
    }
    let message = |(index, value): (usize, &Value)| {
        let part = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        match (part("role"), part("content")) {
            (Some(role), Some(content)) => Ok(Message { role, content }),
            _ => Err(format!(
                "field \"{key}\", message {}: expected {{\"role\": text, \"content\": text}}",
                index + 1
            )),
        }
    };
    list.iter().enumerate().map(message).collect()
}

fn ends_with_assistant(key: &str, messages: &[Message]) -> Result<(), String> {
    match messages.last() {
        Some(last) if last.role == "assistant" && !last.content.trim().is_empty() => Ok(()),
        Some(last) if last.role == "assistant" => Err(format!("field \"{key}\": the last message is empty")),
        last => Err(format!(
            "field \"{key}\" ends with a message of \"{}\": the assistant must have the last word",
            last.map_or("nobody", |message| &message.role)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::DataFiles;
    use std::path::PathBuf;

    fn examples_of(
        name: &str,
        bytes: &[u8],
        change: impl FnOnce(&mut SftSection),
    ) -> Result<Vec<Example>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut section = SftSection { data: name.into(), ..SftSection::default() };
        change(&mut section);
        let mut fetch = |name: &str, _| Ok(DataFiles { name: name.into(), paths: vec![path.clone()] });
        read(&section, &mut fetch).map_err(|error| error.to_string())
    }

    fn of(text: &str) -> Result<Vec<Example>, String> {
        examples_of("a.jsonl", text.as_bytes(), |_| {})
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    #[test]
    fn every_format_is_told_by_its_fields() {
        let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 3}"#;
        let messages = vec![message("user", "a"), message("assistant", "b")];
        let examples = of(&format!("{chat}\n\n{chat}\n")).unwrap();
        assert_eq!(examples[1].id, "a.jsonl:3");
        assert_eq!(examples[1].content, Content::Conversation { messages: messages.clone(), given: 0 });
        let content = |text: &str| of(text).unwrap().remove(0).content;
        assert_eq!(
            content(r#"{"prompt": "a", "completion": "b", "reward": 1}"#),
            Content::Completion { prompt: "a".into(), completion: "b".into() }
        );
        let given = Content::Conversation { messages, given: 1 };
        assert_eq!(content(r#"{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}"#), given);
        assert_eq!(
            content(r#"{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}"#),
            given
        );
        assert_eq!(
            content(r#"{"question": "a", "answer": 7}"#),
            Content::Answer { question: "a".into(), answer: "7".into() }
        );
    }

    #[test]
    fn what_is_not_clear_is_asked_for() {
        let both = r#"{"question": "a", "answer": "b", "prompt": "c", "completion": "d"}"#;
        let message = of(both).unwrap_err();
        assert!(message.starts_with("a.jsonl:1: ") || message.contains("a.jsonl:1: "), "{message}");
        assert!(
            message.contains("\"prompt-completion\" or \"question-answer\": say which by sft.format"),
            "{message}"
        );
        let asked =
            examples_of("a.jsonl", both.as_bytes(), |section| section.format = ExampleFormat::QuestionAnswer);
        assert!(matches!(asked.unwrap()[0].content, Content::Answer { .. }));
        let message = of(r#"{"problem": "a", "solution": "b"}"#).unwrap_err();
        assert!(
            message.contains("the rows have problem, solution") && message.contains("sft.question_field"),
            "{message}"
        );
        let named = examples_of("a.jsonl", br#"{"meta": {"problem": "a"}, "solution": "b"}"#, |section| {
            (section.question_field, section.answer_field) = ("meta.problem".into(), "solution".into());
        });
        assert_eq!(named.unwrap()[0].content, Content::Answer { question: "a".into(), answer: "b".into() });
    }

    #[test]
    fn rows_that_teach_nothing_are_named() {
        for (row, expected) in [
            (r#"{"messages": []}"#, "\"messages\" has no message"),
            (r#"{"messages": "x"}"#, "must be a list of messages"),
            (r#"{"messages": [{"role": "user"}]}"#, "message 1: expected {\"role\""),
            (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "ends with a message of \"user\""),
            (r#"{"messages": [{"role": "assistant", "content": " "}]}"#, "the last message is empty"),
            (r#"{"prompt": "a", "completion": ""}"#, "\"completion\" is empty"),
            (r#"{"question": "a", "answer": {}}"#, "\"answer\" must be text"),
        ] {
            let message = of(row).unwrap_err();
            assert!(message.contains("a.jsonl:1: ") && message.contains(expected), "{row}: {message}");
        }
        let second = of("{\"question\": \"a\", \"answer\": \"b\"}\n{\"question\": \"a\"}").unwrap_err();
        assert!(second.contains("a.jsonl:2: no field \"answer\" (sft.answer_field)"), "{second}");
        assert!(of("").unwrap_err().contains("has no rows"));
    }

    #[test]
    fn parquet_rows_are_those_of_json() {
        let golden = |name: &str| -> PathBuf {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/data").join(name)
        };
        let read_golden = |name: &str, change: &dyn Fn(&mut SftSection)| {
            examples_of(name, &std::fs::read(golden(name)).unwrap(), change)
        };
        let contents =
            |examples: Vec<Example>| examples.into_iter().map(|example| example.content).collect::<Vec<_>>();
        // The first conversation of the file is empty, and both readers say so.
        for name in ["chats.parquet", "chats.jsonl"] {
            let message = read_golden(name, &|_| {}).unwrap_err();
            assert!(message.contains(&format!("{name}:1: ")), "{message}");
        }
        let few = |section: &mut SftSection| {
            (section.question_field, section.answer_field) = ("question".into(), "meta.level".into());
            section.format = ExampleFormat::QuestionAnswer;
        };
        let (parquet, json) = (read_golden("plain.zstd.parquet", &few), read_golden("plain.jsonl", &few));
        // Row 6 has no meta.
        assert!(parquet.unwrap_err().contains(":6: ") && json.unwrap_err().contains(":6: "));
        let rows = |section: &mut SftSection| {
            (section.prompt_field, section.completion_field) = ("question".into(), "required".into());
            section.format = ExampleFormat::PromptCompletion;
        };
        let (parquet, json) = (read_golden("types.parquet", &rows), read_golden("types.jsonl", &rows));
        assert_eq!(contents(parquet.unwrap()), contents(json.unwrap()));
    }
}
