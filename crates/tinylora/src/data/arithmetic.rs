//! An arithmetic task enters; its training stream, held-out set, worked examples and prompts leave.
//! No problem is ever both trained on and held out.
//!
//! A problem's side is decided by a hash of its *class*: what it asks, with the order of exchangeable
//! numbers taken out (and, in word problems, without names and things). Held-out problems and worked
//! examples are drawn from streams of a fixed seed, so that runs with other seeds are compared on the same
//! prompts; the training stream has the run's seed.

use super::{DataError, Problem, words};
use crate::random::{Purpose, Stream};
use crate::recipe::{AnswerFormat, ArithmeticKind, ArithmeticTask, ExampleForm, WorkedForm};
use crate::tokenizer::Message;
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// Seed of what is the same in all runs.
const FIXED_SEED: u64 = 0;
const REMEDY: &str = "widen task.min and task.max, raise task.terms, or change task.held_out_share";

/// One arithmetic step `left op right = result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub left: i64,
    pub op: char,
    pub right: i64,
    pub result: i64,
}

impl Operation {
    /// Works out `left op right`; `/` must be exact.
    pub(super) fn new(left: i64, op: char, right: i64) -> Self {
        let result = match op {
            '+' => left + right,
            '-' => left - right,
            '*' => left * right,
            _ => left / right,
        };
        Self { left, op, right, result }
    }
}

/// A drawn problem, before it becomes text for a model.
#[derive(Debug, Clone)]
pub(super) struct Drawn {
    /// What the problem asks, without the order of exchangeable numbers: decides the side.
    pub class: String,
    /// Tells problems of a set apart; without the names and things of word problems.
    pub id: String,
    pub question: String,
    /// In order; the last one's result is the answer.
    pub operations: Vec<Operation>,
}

impl Drawn {
    fn answer(&self) -> i64 {
        self.operations.last().map_or(0, |operation| operation.result)
    }

    fn problem(self) -> Problem {
        let gold = self.answer().to_string();
        Problem { id: self.id, question: self.question, gold }
    }
}

/// Random numbers of one stream, one after the other.
pub(super) struct Draws {
    stream: Stream,
    next: u64,
}

impl Draws {
    fn new(seed: u64, purpose: Purpose, stream: u64) -> Self {
        Self { stream: Stream::new(seed, purpose, stream), next: 0 }
    }

    /// Uniform in `0..n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.next += 1;
        self.stream.below(self.next - 1, n as u64) as usize
    }

    /// Uniform in `low..=high`.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        self.next += 1;
        low + self.stream.below(self.next - 1, (high - low) as u64 + 1) as i64
    }

    /// One of a list.
    pub(super) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// A prepared arithmetic task.
#[derive(Debug)]
pub(super) struct Arithmetic {
    task: ArithmeticTask,
    seed: u64,
    held_out: Vec<Problem>,
    example_ids: HashSet<String>,
    /// Everything before the question; the same for every prompt.
    prefix: String,
    /// Worked examples as (question, answer), where they are turns of the conversation.
    turns: Vec<(String, String)>,
}

impl Arithmetic {
    /// Draws the held-out problems and the worked examples.
    pub(super) fn open(task: &ArithmeticTask, seed: u64, held_out: usize) -> Result<Self, DataError> {
        let held_out = draw_held_out(task, held_out)?;
        let examples = draw_examples(task)?;
        let example_ids = examples.iter().map(|e| e.id.clone()).collect();
        let prefix = prefix(task, &examples);
        let turns = match task.example_form {
            ExampleForm::Text => Vec::new(),
            ExampleForm::Turns => {
                let turn = |e: &Drawn| (e.question.clone(), worked(task, e).trim_start().to_owned());
                examples.iter().map(turn).collect()
            }
        };
        let this = Self { task: task.clone(), seed, held_out, example_ids, prefix, turns };
        // A stream with nothing to give would never end.
        let mut draws = Draws::new(FIXED_SEED, Purpose::TrainProblems, 0);
        match (0..100_000).any(|_| this.may_train(&draw(task, &mut draws))) {
            true => Ok(this),
            false => Err(DataError::NothingToTrain { what: describe(task), remedy: REMEDY }),
        }
    }

    pub(super) fn train_batch(&self, step: u64, n: usize) -> Vec<Problem> {
        let first = step * n as u64;
        (first..first + n as u64).map(|position| self.train_problem(position)).collect()
    }

    pub(super) fn held_out(&self) -> &[Problem] {
        &self.held_out
    }

    pub(super) fn prompt_text(&self, problem: &Problem) -> String {
        format!("{}Question: {}\nAnswer:", self.prefix, problem.question)
    }

    /// The conversation up to the question: turns, or everything in one message.
    pub(super) fn messages(&self, problem: &Problem) -> Vec<Message> {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        if self.turns.is_empty() {
            return vec![message("user", &self.prompt_text(problem))];
        }
        let turns = self.turns.iter();
        turns
            .flat_map(|(question, answer)| [message("user", question), message("assistant", answer)])
            .chain([message("user", &problem.question)])
            .collect()
    }

    /// The problem at a position of the endless stream: the first that may be trained on among those
    /// drawn for the position.
    fn train_problem(&self, position: u64) -> Problem {
        let mut draws = Draws::new(self.seed, Purpose::TrainProblems, position);
        loop {
            let drawn = draw(&self.task, &mut draws);
            if self.may_train(&drawn) {
                return drawn.problem();
            }
        }
    }

    fn may_train(&self, drawn: &Drawn) -> bool {
        !is_held_out(&self.task, &drawn.class) && !self.example_ids.contains(&drawn.id)
    }
}

/// The side of a class: a share of the hash's range is held out, so that a larger share keeps what a
/// smaller one held out.
fn is_held_out(task: &ArithmeticTask, class: &str) -> bool {
    let hash = Sha256::digest(format!("tinylora held-out 1\n{class}"));
    let head = hash.iter().take(8).fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    (head as f64) < task.held_out_share * 2f64.powi(64)
}

fn draw_held_out(task: &ArithmeticTask, n: usize) -> Result<Vec<Problem>, DataError> {
    let mut draws = Draws::new(FIXED_SEED, Purpose::HeldOutProblems, 0);
    // Enough to find every problem of a space of about n (which takes n ln n draws), with room.
    let limit = (64.0 * (n + 64) as f64 / task.held_out_share) as u64;
    let (mut problems, mut seen) = (Vec::new(), HashSet::new());
    for _ in 0..limit {
        if problems.len() == n {
            break;
        }
        let drawn = draw(task, &mut draws);
        if is_held_out(task, &drawn.class) && seen.insert(drawn.id.clone()) {
            problems.push(drawn.problem());
        }
    }
    match problems.len() {
        found if found == n => Ok(problems),
        available => Err(DataError::HeldOut {
            asked: n,
            available,
            what: format!("the held-out share {} of {}", task.held_out_share, describe(task)),
            remedy: "lower eval.problems, widen task.min and task.max, or raise task.terms or task.held_out_share",
        }),
    }
}

/// Worked examples from the training side, all of them different (and of different stories, while there
/// are stories left).
fn draw_examples(task: &ArithmeticTask) -> Result<Vec<Drawn>, DataError> {
    let mut draws = Draws::new(FIXED_SEED, Purpose::Examples, 0);
    let mut examples: Vec<Drawn> = Vec::new();
    let story = |drawn: &Drawn| drawn.id.split(':').nth(1).map(String::from);
    for attempt in 0..100_000 {
        if examples.len() == task.examples {
            break;
        }
        let drawn = draw(task, &mut draws);
        let repeats =
            examples.iter().any(|e| e.id == drawn.id || (attempt < 2000 && story(e) == story(&drawn)));
        if !repeats && !is_held_out(task, &drawn.class) {
            examples.push(drawn);
        }
    }
    match examples.len() {
        found if found == task.examples => Ok(examples),
        available => {
            Err(DataError::Examples { asked: task.examples, available, what: describe(task), remedy: REMEDY })
        }
    }
}

/// The task in a few words, for messages.
fn describe(task: &ArithmeticTask) -> String {
    let (min, max, terms) = (task.min, task.max, task.terms);
    let kind = match task.problems {
        ArithmeticKind::Sum => "sums",
        ArithmeticKind::Difference => "differences",
        ArithmeticKind::Product => "products",
        ArithmeticKind::Chain => "chains",
        ArithmeticKind::WordOneStep => {
            return format!("one-step word problems with numbers from {min} to {max}");
        }
        ArithmeticKind::WordTwoStep => {
            return format!("two-step word problems with numbers from {min} to {max}");
        }
    };
    format!("{kind} of {terms} numbers from {min} to {max}")
}

fn prefix(task: &ArithmeticTask, examples: &[Drawn]) -> String {
    if examples.is_empty() {
        let how = match task.answer_format {
            AnswerFormat::Hashes => {
                "End your answer with a line of the form \"#### n\", where n is the result."
            }
            AnswerFormat::Boxed => "Put the result within \\boxed{}.",
            AnswerFormat::Plain => "Answer with the result alone on the last line.",
        };
        return format!("{how}\n\n");
    }
    examples
        .iter()
        .map(|example| format!("Question: {}\nAnswer:{}\n\n", example.question, worked(task, example)))
        .collect()
}

/// A worked example's answer: ` #### 21`, or ` 7 + 5 = 12. 12 + 9 = 21.` and the answer on its own line.
fn worked(task: &ArithmeticTask, example: &Drawn) -> String {
    let answer = example.answer();
    let shown = match task.answer_format {
        AnswerFormat::Hashes => format!("#### {answer}"),
        AnswerFormat::Boxed => format!("\\boxed{{{answer}}}"),
        AnswerFormat::Plain => answer.to_string(),
    };
    match task.worked {
        WorkedForm::Direct => format!(" {shown}"),
        WorkedForm::Steps => {
            let steps = example
                .operations
                .iter()
                .map(|o| format!(" {} {} {} = {}.", number(o.left), o.op, number(o.right), o.result));
            format!("{}\n{shown}", steps.collect::<String>())
        }
    }
}

/// A number within an expression: negative ones in parentheses.
fn number(n: i64) -> String {
    if n < 0 { format!("({n})") } else { n.to_string() }
}

fn draw(task: &ArithmeticTask, draws: &mut Draws) -> Drawn {
    match task.problems {
        ArithmeticKind::Sum => expression("sum", &numbers(task, draws), &vec!['+'; task.terms - 1]),
        ArithmeticKind::Product => expression("product", &numbers(task, draws), &vec!['*'; task.terms - 1]),
        ArithmeticKind::Difference => {
            let mut numbers = numbers(task, draws);
            // The first draw is the result, so that it lies in the range.
            numbers[0] = numbers.iter().sum();
            expression("difference", &numbers, &vec!['-'; task.terms - 1])
        }
        ArithmeticKind::Chain => {
            let numbers = numbers(task, draws);
            let ops: Vec<char> = (1..task.terms).map(|_| *draws.pick(&['+', '-', '*'])).collect();
            expression("chain", &numbers, &ops)
        }
        ArithmeticKind::WordOneStep => words::one_step(draws, task.min, task.max),
        ArithmeticKind::WordTwoStep => words::two_step(draws, task.min, task.max),
    }
}

fn numbers(task: &ArithmeticTask, draws: &mut Draws) -> Vec<i64> {
    (0..task.terms).map(|_| draws.between(task.min, task.max)).collect()
}

/// A problem of numbers joined by operators, worked from left to right.
fn expression(kind: &str, numbers: &[i64], ops: &[char]) -> Drawn {
    let mut operations: Vec<Operation> = Vec::new();
    let mut text = number(numbers[0]);
    let mut id = format!("{kind}:{}", number(numbers[0]));
    for (i, (&op, &right)) in ops.iter().zip(&numbers[1..]).enumerate() {
        let left = operations.last().map_or(numbers[0], |o| o.result);
        operations.push(Operation::new(left, op, right));
        // Only a change of the operator needs parentheses to be unambiguous.
        if i > 0 && ops[i - 1] != op {
            text = format!("({text})");
            id = format!("{kind}:({})", &id[kind.len() + 1..]);
        }
        text.push_str(&format!(" {op} {}", number(right)));
        id.push_str(&format!("{op}{}", number(right)));
    }
    Drawn {
        class: format!("{kind}:{}", class(numbers, ops)),
        id,
        question: format!("What is {text}?"),
        operations,
    }
}

/// Runs of `+` and `-`, and runs of `*`, with their numbers sorted: the same for all orders that ask the same.
fn class(numbers: &[i64], ops: &[char]) -> String {
    let additive = |op: char| op != '*';
    let mut runs: Vec<(bool, Vec<i64>)> = Vec::new();
    let first = ops.first().is_none_or(|&op| additive(op));
    runs.push((first, vec![numbers[0]]));
    for (&op, &n) in ops.iter().zip(&numbers[1..]) {
        let signed = if op == '-' { -n } else { n };
        match runs.last_mut() {
            Some((kind, run)) if *kind == additive(op) => run.push(signed),
            _ => runs.push((additive(op), vec![signed])),
        }
    }
    let texts = runs.iter_mut().map(|(additive, run)| {
        run.sort_unstable();
        format!("{}{run:?}", if *additive { '+' } else { '*' })
    });
    texts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TaskData;
    use crate::recipe::Recipe;

    fn recipe(settings: &[&str]) -> Recipe {
        let text = "name = \"a\"\n[model]\nref = \"m\"\n[task]\nkind = \"arithmetic\"\nproblems = \"sum\"\nterms = 3\n[train]\nsteps = 5\n[eval]\nproblems = 200\n";
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Recipe::from_toml(text, &settings).unwrap()
    }

    fn open(settings: &[&str]) -> TaskData {
        TaskData::open_local(&recipe(settings)).unwrap()
    }

    const KINDS: [&str; 6] = ["sum", "difference", "product", "chain", "word-one-step", "word-two-step"];

    /// Works out an expression as it is written, by the usual precedence and parentheses.
    fn evaluate(text: &str) -> i64 {
        fn sum(s: &mut &[u8]) -> i64 {
            let mut value = product(s);
            while let Some(op @ (b'+' | b'-')) = s.first().copied() {
                *s = &s[1..];
                let right = product(s);
                value = if op == b'+' { value + right } else { value - right };
            }
            value
        }
        fn product(s: &mut &[u8]) -> i64 {
            let mut value = atom(s);
            while s.first() == Some(&b'*') {
                *s = &s[1..];
                value *= atom(s);
            }
            value
        }
        fn atom(s: &mut &[u8]) -> i64 {
            if s.first() == Some(&b'(') {
                *s = &s[1..];
                let value = sum(s);
                *s = &s[1..];
                return value;
            }
            let digits =
                s.iter().enumerate().take_while(|(i, c)| c.is_ascii_digit() || (*i == 0 && **c == b'-'));
            let n = digits.count();
            let value = std::str::from_utf8(&s[..n]).unwrap().parse().unwrap();
            *s = &s[n..];
            value
        }
        let text: String = text.split_whitespace().collect();
        sum(&mut text.as_bytes())
    }

    #[test]
    fn answers_follow_from_the_text() {
        for kind in &KINDS[..4] {
            let data = open(&[&format!("task.problems={kind}"), "task.terms=4", "task.min=-9", "task.max=9"]);
            for problem in data.train_batch(3, 300) {
                let text = problem.question.strip_prefix("What is ").unwrap().strip_suffix('?').unwrap();
                assert_eq!(evaluate(text).to_string(), problem.gold, "{problem:?}");
            }
        }
    }

    #[test]
    fn a_difference_stays_in_the_range() {
        for problem in open(&["task.problems=difference"]).train_batch(0, 200) {
            assert!((1..=20).contains(&problem.gold.parse::<i64>().unwrap()), "{problem:?}");
        }
    }

    #[test]
    fn training_and_held_out_never_meet() {
        for kind in KINDS {
            let data = open(&[&format!("task.problems={kind}"), "task.examples=3"]);
            let held_out = data.held_out(200).unwrap();
            let sorted = |p: &Problem| {
                let mut parts: Vec<String> =
                    p.id.split(['+', '*']).map(|s| s.rsplit(':').next().unwrap().into()).collect();
                parts.sort();
                match kind {
                    "sum" | "product" => parts.join(" "),
                    _ => p.id.clone(),
                }
            };
            let ids: HashSet<String> = held_out.iter().map(|p| p.id.clone()).collect();
            assert_eq!(ids.len(), 200, "{kind}: held-out problems differ");
            let classes: HashSet<String> = held_out.iter().map(sorted).collect();
            let prompt = data.prompt_text(&held_out[0]);
            for problem in data.train_batch(0, 5000) {
                assert!(!classes.contains(&sorted(&problem)), "{kind}: {problem:?}");
                assert!(
                    !prompt.contains(&format!("Question: {}\n", problem.question)),
                    "{kind}: a worked example"
                );
            }
        }
    }

    #[test]
    fn the_stream_depends_on_position_alone() {
        let data = open(&[]);
        let once = data.train_batch(0, 12);
        let parts: Vec<Problem> = (0..3).flat_map(|step| data.train_batch(step, 4)).collect();
        assert_eq!(once, parts);
        assert_eq!(open(&[]).train_batch(2, 4), data.train_batch(2, 4));
        assert_ne!(open(&["seed=1"]).train_batch(2, 4), data.train_batch(2, 4));
    }

    #[test]
    fn the_held_out_set_is_the_same_for_all_seeds() {
        let (a, b) = (open(&[]), open(&["seed=7", "task.examples=2", "eval.problems=50"]));
        assert_eq!(a.held_out(50).unwrap(), b.held_out(50).unwrap());
        let problem = &a.held_out(1).unwrap()[0];
        assert_eq!(a.prompt_text(problem), open(&["seed=7"]).prompt_text(problem));
        assert!(b.held_out(51).is_err());
        assert_eq!(a.steps_per_epoch(8), None);
    }

    #[test]
    fn a_space_that_is_too_small_is_refused() {
        let error = |settings: &[&str]| TaskData::open_local(&recipe(settings)).unwrap_err().to_string();
        let message = error(&["task.terms=2", "task.max=10", "eval.problems=512"]);
        assert!(message.starts_with("512 held-out problems are asked for, the held-out share 0.2 of sums of 2 numbers from 1 to 10 gives "), "{message}");
        assert!(error(&["task.max=1", "eval.problems=0", "task.examples=2"]).contains("task.examples = 2"));
        assert!(
            error(&["task.max=1", "eval.problems=0", "task.examples=1"]).contains("no problem to train on")
        );
        // Every last one is found: all 100 ordered pairs, or about the share of them.
        let available =
            message.split("gives ").nth(1).unwrap().split(':').next().unwrap().parse::<usize>().unwrap();
        assert!((5..40).contains(&available), "{available}");
        open(&["task.terms=2", "task.max=10", &format!("eval.problems={available}")]);
    }

    #[test]
    fn prompts() {
        let problem =
            Problem { id: String::new(), question: "What is 3 + 14 + 6?".into(), gold: "23".into() };
        let direct = open(&[]).prompt_text(&problem);
        let lines: Vec<&str> = direct.lines().collect();
        assert!(lines[0].starts_with("Question: What is ") && lines[0].ends_with('?'), "{direct}");
        let sum = evaluate(lines[0].strip_prefix("Question: What is ").unwrap().strip_suffix('?').unwrap());
        assert_eq!(
            lines[1..],
            [&format!("Answer: #### {sum}"), "", "Question: What is 3 + 14 + 6?", "Answer:"]
        );
        assert!(direct.ends_with("Answer:"));

        let steps = open(&["task.worked=steps", "task.answer_format=boxed"]).prompt_text(&problem);
        let lines: Vec<&str> = steps.lines().collect();
        assert!(lines[1].starts_with("Answer: ") && lines[1].ends_with(&format!(" = {sum}.")), "{steps}");
        assert_eq!(lines[2], format!("\\boxed{{{sum}}}"));

        let bare = open(&["task.examples=0"]).prompt_text(&problem);
        assert_eq!(
            bare,
            "End your answer with a line of the form \"#### n\", where n is the result.\n\nQuestion: What is 3 + 14 + 6?\nAnswer:"
        );
        let prompt = open(&["model.system=Be brief.", "task.examples=0"]).prompt(&problem);
        assert_eq!(prompt.messages[0].role, "system");
        assert_eq!(prompt.text, format!("Be brief.\n\n{bare}"));
        assert_eq!(open(&["task.example_form=text"]).prompt(&problem).messages.len(), 1);
        let turns = open(&["task.worked=steps"]).prompt(&problem).messages;
        let roles: Vec<&str> = turns.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "user"]);
        assert!(turns[1].content.ends_with(&format!(".\n#### {sum}")), "{}", turns[1].content);
        assert_eq!(turns[2].content, problem.question);
    }

    #[test]
    fn chains_show_their_order() {
        let chain = expression("chain", &[3, 4, 2, 5], &['+', '*', '-']);
        assert_eq!(chain.question, "What is ((3 + 4) * 2) - 5?");
        assert_eq!(chain.id, "chain:((3+4)*2)-5");
        assert_eq!(chain.answer(), 9);
        assert_eq!(class(&[3, 4, 2], &['+', '*']), class(&[4, 3, 2], &['+', '*']));
        assert_eq!(class(&[9, 4, 2], &['-', '-']), class(&[9, 2, 4], &['-', '-']));
        assert_ne!(class(&[3, 4, 2], &['+', '*']), class(&[3, 2, 4], &['+', '*']));
        assert_eq!(expression("chain", &[-3, 2], &['*']).question, "What is (-3) * 2?");
    }
}
