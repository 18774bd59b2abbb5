//! Files of rows enter (JSONL, JSON or parquet); problems leave, in an order that is a pure function of seed and
//! position. A row that cannot be used is an error with its file, line and field; no row is skipped silently.

use super::{DataError, Fetch, Problem, source};
use crate::hub::{DataRole, HubError};
use crate::random::{Purpose, Stream};
use crate::recipe::JsonlTask;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::Path;

/// The rows of a task.
#[derive(Debug)]
pub(super) struct Rows {
    template: String,
    seed: u64,
    train: Vec<Problem>,
    held_out: Vec<Problem>,
}

impl Rows {
    /// Reads the files and sets the held-out rows apart.
    pub(super) fn open(
        task: &JsonlTask,
        seed: u64,
        held_out: usize,
        fetch: Fetch<'_>,
    ) -> Result<Self, DataError> {
        let mut train = read(task, &task.train, "task.train", DataRole::Train, fetch)?;
        let held_out = if task.test.is_empty() {
            if held_out > train.len() {
                return Err(too_few(
                    held_out,
                    train.len(),
                    &task.train,
                    "lower eval.problems or set task.test",
                ));
            }
            train.split_off(train.len() - held_out)
        } else {
            let mut test = match held_out {
                0 => Vec::new(),
                _ => read(task, &task.test, "task.test", DataRole::HeldOut, fetch)?,
            };
            if held_out > test.len() {
                return Err(too_few(held_out, test.len(), &task.test, "lower eval.problems"));
            }
            test.truncate(held_out);
            test
        };
        let questions: HashSet<&str> = held_out.iter().map(|p| p.question.trim()).collect();
        train.retain(|p| !questions.contains(p.question.trim()));
        if train.is_empty() {
            let remedy =
                "add rows, or lower eval.problems; rows whose question is held out are not trained on";
            return Err(DataError::NothingToTrain { what: task.train.clone(), remedy });
        }
        Ok(Self { template: task.template.clone(), seed, train, held_out })
    }

    /// Takes rows that were read elsewhere: trained on are those of `train` whose question is not held out, held out
    /// the first `wanted` of `held_out`. `file` names the training rows.
    pub(super) fn of(
        mut train: Vec<Problem>,
        mut held_out: Vec<Problem>,
        seed: u64,
        wanted: usize,
        file: &str,
    ) -> Result<Self, DataError> {
        if wanted > held_out.len() {
            return Err(too_few(wanted, held_out.len(), "the test split", "lower eval.problems"));
        }
        held_out.truncate(wanted);
        let questions: HashSet<&str> = held_out.iter().map(|p| p.question.trim()).collect();
        train.retain(|p| !questions.contains(p.question.trim()));
        if train.is_empty() {
            let remedy = "give other training rows; those whose question is held out are not trained on";
            return Err(DataError::NothingToTrain { what: file.to_owned(), remedy });
        }
        Ok(Self { template: "{question}".into(), seed, train, held_out })
    }

    /// Takes every row of `task.train` as held out: for evaluations, which train on nothing.
    pub(super) fn open_all_held_out(task: &JsonlTask, fetch: Fetch<'_>) -> Result<Self, DataError> {
        let held_out = read(task, &task.train, "task.train", DataRole::HeldOut, fetch)?;
        Ok(Self { template: task.template.clone(), seed: 0, train: Vec::new(), held_out })
    }

    pub(super) fn train_problems(&self, first: u64, n: usize) -> Vec<Problem> {
        let rows = self.train.len() as u64;
        if rows == 0 {
            return Vec::new();
        }
        let mut order = (u64::MAX, Vec::new());
        let mut batch = Vec::with_capacity(n);
        for position in first..first + n as u64 {
            let epoch = position / rows;
            if order.0 != epoch {
                order = (epoch, permutation(self.seed, epoch, self.train.len()));
            }
            batch.push(self.train[order.1[(position % rows) as usize]].clone());
        }
        batch
    }

    pub(super) fn held_out(&self) -> &[Problem] {
        &self.held_out
    }

    pub(super) fn training_rows(&self) -> &[Problem] {
        &self.train
    }

    pub(super) fn prompt_text(&self, problem: &Problem) -> String {
        self.template.replace("{question}", &problem.question)
    }
}

/// The gold answer that an answer text gives: what follows its last `####` (GSM8K), or else the whole
/// text; trimmed, and without thousands commas in the first case.
pub fn gold_of_answer(answer: &str) -> String {
    match answer.rsplit_once("####") {
        Some((_, gold)) => gold.replace(',', "").trim().to_string(),
        None => answer.trim().to_string(),
    }
}

fn too_few(asked: usize, available: usize, file: &str, remedy: &'static str) -> DataError {
    DataError::HeldOut { asked, available, what: file.to_string(), remedy }
}

/// The order of the rows in an epoch (Fisher and Yates).
pub(crate) fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    let stream = Stream::new(seed, Purpose::Shuffle, epoch);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, stream.below(i as u64, i as u64 + 1) as usize);
    }
    order
}

/// The rows of all files that a reference names.
fn read(
    task: &JsonlTask,
    reference: &str,
    key: &'static str,
    role: DataRole,
    fetch: Fetch<'_>,
) -> Result<Vec<Problem>, DataError> {
    let files = fetch(reference, role).map_err(|error| match error {
        HubError::NoSuchPath { path } => DataError::Read {
            file: path.display().to_string(),
            key,
            source: std::io::ErrorKind::NotFound.into(),
        },
        other => DataError::Hub(other),
    })?;
    let fields = [task.question_field.as_str(), task.answer_field.as_str()];
    let mut problems = Vec::new();
    for path in &files.paths {
        let name = file_name(path);
        source::read(path, key, &fields, &mut |place, row| {
            problems.push(problem(task, &name, place, row)?);
            Ok(())
        })?;
    }
    Ok(problems)
}

/// The rows of a text file's bytes; `file` is its name.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse(task: &JsonlTask, file: &str, bytes: &[u8]) -> Result<Vec<Problem>, DataError> {
    let mut problems = Vec::new();
    source::text(file, bytes, &mut |place, row| {
        problems.push(problem(task, &file_name(Path::new(file)), place, row)?);
        Ok(())
    })?;
    Ok(problems)
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn problem(task: &JsonlTask, file: &str, place: usize, row: &Map<String, Value>) -> Result<Problem, String> {
    let field = |key: &str, setting: &str| match value_at(row, key) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
        Some(Value::Number(n)) => Ok(n.to_string()),
        Some(Value::Bool(truth)) => Ok(truth.to_string()),
        Some(Value::String(_)) => Err(format!("field \"{key}\" is empty")),
        Some(Value::Object(parts)) => {
            let parts: Vec<String> = parts.keys().map(|part| format!("{key}.{part}")).collect();
            Err(format!("field \"{key}\" must be text or a number; it has parts: {}", parts.join(", ")))
        }
        Some(_) => Err(format!("field \"{key}\" must be text or a number")),
        None => {
            let known: Vec<&str> = row.keys().map(String::as_str).collect();
            Err(format!("no field \"{key}\" (task.{setting}); the row has: {}", known.join(", ")))
        }
    };
    let question = field(&task.question_field, "question_field")?;
    let solution = field(&task.answer_field, "answer_field")?;
    let gold = gold_of_answer(&solution);
    if gold.is_empty() {
        return Err(format!("field \"{}\" has nothing after its last \"####\"", task.answer_field));
    }
    Ok(Problem { id: format!("{file}:{place}"), question, gold, solution })
}

/// A field by its name; with dots, a part of an object: `reward_model.ground_truth`.
pub(super) fn value_at<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    row.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        value_at(row.get(first)?.as_object()?, rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TaskData;
    use crate::recipe::Recipe;
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn lines(range: std::ops::Range<usize>) -> String {
        range
            .map(|i| format!("{{\"question\": \"q{i}\", \"answer\": \"so it is\\n#### 1,0{i}\"}}\n"))
            .collect()
    }

    fn open(train: &Path, settings: &[&str]) -> Result<TaskData, String> {
        let text = format!(
            "name = \"a\"\n[model]\nref = \"m\"\n[task]\nkind = \"jsonl\"\ntrain = {train:?}\n[eval]\nproblems = 3\n"
        );
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        TaskData::open_local(&Recipe::from_toml(&text, &settings).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn epochs_are_permutations_and_positions_resume() {
        let train = file(&lines(0..23));
        let data = open(train.path(), &["task.template=Q: {question}"]).unwrap();
        assert_eq!(data.steps_per_epoch(8), Some(3));
        let golds: Vec<String> = data.held_out(3).unwrap().into_iter().map(|p| p.gold).collect();
        assert_eq!(golds, ["1020", "1021", "1022"], "the tail is held out");
        let all: Vec<Problem> = (0..10).flat_map(|step| data.train_batch(step, 8)).collect();
        let mut orders = Vec::new();
        for epoch in all.chunks_exact(20) {
            let mut questions: Vec<&str> = epoch.iter().map(|p| p.question.as_str()).collect();
            orders.push(questions.clone());
            questions.sort_unstable();
            questions.dedup();
            assert_eq!(questions.len(), 20, "every row once");
            assert!(!questions.contains(&"q21"));
        }
        assert_ne!(orders[0], orders[1]);
        let other = open(train.path(), &["seed=1"]).unwrap();
        assert_ne!(other.train_batch(0, 20), data.train_batch(0, 20));
        assert_eq!(other.held_out(3).unwrap(), data.held_out(3).unwrap());
        assert_eq!(open(train.path(), &[]).unwrap().train_batch(7, 8), all[56..64]);
        let name = train.path().file_name().unwrap().to_string_lossy();
        assert!(all[0].id.starts_with(&format!("{name}:")), "{}", all[0].id);
        assert_eq!(data.prompt_text(&all[0]), format!("Q: {}", all[0].question));
    }

    #[test]
    fn a_test_file_is_never_trained_on() {
        let (train, test) = (file(&lines(0..10)), file(&lines(8..14)));
        let setting = format!("task.test={}", test.path().display());
        let data = open(train.path(), &[&setting]).unwrap();
        assert_eq!(data.steps_per_epoch(1), Some(8), "q8 and q9 are held out");
        assert_eq!(data.held_out(3).unwrap()[0].question, "q8");
        let message = open(train.path(), &[&setting, "eval.problems=7"]).unwrap_err();
        assert!(
            message.starts_with("7 held-out problems are asked for, ") && message.contains(" gives 6: "),
            "{message}"
        );
        let message = open(train.path(), &["eval.problems=10"]).unwrap_err();
        assert!(message.contains("leaves no problem to train on"), "{message}");
    }

    #[test]
    fn bad_lines_are_named() {
        for (line, expected) in [
            ("{\"question\": \"x\"}", "no field \"answer\" (task.answer_field); the row has: question"),
            ("{\"question\": \"x\", \"answer\": [1]}", "field \"answer\" must be text or a number"),
            ("{\"question\": \" \", \"answer\": 1}", "field \"question\" is empty"),
            ("{\"question\": \"x\", \"answer\": \"#### \"}", "nothing after its last"),
            ("{\"question\": \"x\"", "not JSON"),
            ("[1]", "expected a JSON object"),
        ] {
            let train = file(&format!("{}\n{line}\n", lines(0..1)));
            let message = open(train.path(), &[]).unwrap_err();
            assert!(message.contains(":3: ") && message.contains(expected), "{message}");
        }
        let message = open(Path::new("no/such.jsonl"), &[]).unwrap_err();
        assert!(message.starts_with("cannot read no/such.jsonl (task.train): "), "{message}");
    }

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/data").join(name)
    }

    #[test]
    fn parquet_and_json_give_the_rows_that_jsonl_gives() {
        let open = |path: &Path| open(path, &["task.question_field=question", "task.answer_field=i16"]);
        let from_lines = open(&golden("types.jsonl")).unwrap();
        let rows: Vec<serde_json::Value> = std::fs::read_to_string(golden("types.jsonl"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let array = folder.path().join("types.json");
        std::fs::write(&array, format!("\n{}", serde_json::to_string_pretty(&rows).unwrap())).unwrap();
        for path in [golden("types.parquet"), array] {
            let found = open(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            for (found, lines) in found.all_held_out().iter().zip(from_lines.all_held_out()) {
                assert_eq!((&found.question, &found.gold), (&lines.question, &lines.gold));
                assert_eq!(found.id, lines.id.replace("types.jsonl", &name));
            }
            assert_eq!(found.train_batch(0, 2).len(), 2);
        }
    }

    #[test]
    fn fields_may_be_parts_and_bad_rows_of_parquet_are_named() {
        let nested = file("{\"q\": {\"text\": \"x\"}, \"m\": {\"a\": {\"b\": true}}}\n").into_temp_path();
        let settings =
            |answer: &str| ["task.question_field=q.text".to_owned(), format!("task.answer_field={answer}")];
        let read = |answer: &str| {
            let settings = settings(answer);
            let settings: Vec<&str> =
                settings.iter().map(String::as_str).chain(["eval.problems=0"]).collect();
            open(&nested, &settings).map(|data| data.train_batch(0, 1)[0].gold.clone())
        };
        assert_eq!(read("m.a.b").unwrap(), "true");
        assert!(read("m.a").unwrap_err().contains("it has parts: m.a.b"), "{:?}", read("m.a"));
        assert!(read("m.x").unwrap_err().contains("no field \"m.x\" (task.answer_field)"));
        let message = open(&golden("plain.zstd.parquet"), &[]).unwrap_err();
        assert!(message.contains("plain.zstd.parquet:42: field \"answer\" must be text"), "{message}");
        let message = open(&golden("plain.zstd.parquet"), &["task.answer_field=tags"]).unwrap_err();
        assert!(message.contains("plain.zstd.parquet: field \"tags\" holds lists"), "{message}");
    }

    #[test]
    fn golds() {
        assert_eq!(gold_of_answer("a #### 5\n#### 70,000\n"), "70000");
        assert_eq!(gold_of_answer(" (1, 2) "), "(1, 2)");
        assert_eq!(gold_of_answer("#### -3.5"), "-3.5");
    }

    /// Runs where the public data is at hand, in the folder that TINYLORA_TEST_DATA names.
    #[test]
    fn gsm8k_is_understood() {
        let Some(folder) = std::env::var_os("TINYLORA_TEST_DATA") else {
            eprintln!("skipped: TINYLORA_TEST_DATA is not set");
            return;
        };
        let gsm8k = Path::new(&folder).join("gsm8k");
        let test = format!("task.test={}", gsm8k.join("test.jsonl").display());
        let data = open(&gsm8k.join("train.jsonl"), &[&test, "eval.problems=1319"]).unwrap();
        assert_eq!(data.steps_per_epoch(64), Some(117));
        for problem in data.held_out(1319).unwrap().iter().chain(&data.train_batch(0, 7473)) {
            assert!(problem.gold.parse::<f64>().is_ok(), "{problem:?}");
        }
    }
}
