//! Completions enter, a long-running external command's numbers leave. One JSON line goes to its standard
//! input for each completion, `{"id", "question", "gold", "completion", "truncated"}`, and one line
//! `{"reward": number}` must come back for each, in order. If the answer has an `"id"`, it must be the
//! completion's.
//!
//! The command is started once. If it ends, is late, or writes anything else, it is stopped for good and the
//! batch is an error: no reward is ever made up, and no batch is half scored. It runs in a process group of
//! its own, so that Ctrl-C reaches the run alone, and the whole group is ended with the grader.
//!
//! Three threads (writer, reader of answers, reader of standard error) keep full pipes from blocking anything.

use super::{RewardError, RewardItem};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A longer answer is no answer.
const LONGEST_LINE: u64 = 1 << 20;
/// How much of its standard error is kept for messages.
const STDERR_TAIL: usize = 4096;
/// How much of a bad line is shown.
const SHOWN: usize = 200;
/// How long the first batch waits for lines too many, which later batches find waiting.
const GRACE: Duration = Duration::from_millis(50);

/// A running external command.
#[derive(Debug)]
pub struct CommandGrader {
    command: String,
    limit: Duration,
    child: Child,
    /// Batches for the writer thread; gone once the command is stopped.
    batches: Option<Sender<Vec<u8>>>,
    answers: Receiver<Vec<u8>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    stderr_closed: Receiver<()>,
    graded: bool,
}

/// What went wrong, before it is dressed with the command, its status and its standard error.
enum Failure {
    Ended { answered: usize },
    TimedOut { answered: usize },
    BadAnswer { index: usize, line: String, message: String },
    TooMany { line: String },
}

impl CommandGrader {
    /// Starts the command (program and arguments; not a shell line). `limit` is for each batch.
    pub fn start(command: &[String], limit: Duration) -> Result<Self, RewardError> {
        let name = command.join(" ");
        let (program, arguments) = command.split_first().ok_or_else(|| RewardError::Start {
            command: String::new(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "the command is empty"),
        })?;
        let mut builder = Command::new(program);
        builder.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut builder, 0);
        let mut child =
            builder.spawn().map_err(|source| RewardError::Start { command: name.clone(), source })?;

        let (batches, batch_receiver) = channel();
        let (answer_sender, answers) = channel();
        let (closed_sender, stderr_closed) = channel();
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        if let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        {
            let tail = Arc::clone(&stderr);
            std::thread::spawn(move || write_batches(input, &batch_receiver));
            std::thread::spawn(move || read_answers(output, &answer_sender));
            std::thread::spawn(move || keep_tail(errors, &tail, &closed_sender));
        }
        let batches = Some(batches);
        Ok(Self { command: name, limit, child, batches, answers, stderr, stderr_closed, graded: false })
    }

    /// The rewards of a batch, in order. After an error every further call is one.
    pub fn grade(&mut self, items: &[RewardItem]) -> Result<Vec<f32>, RewardError> {
        let Some(batches) = &self.batches else {
            return Err(RewardError::Stopped { command: self.command.clone() });
        };
        // A line that came after the last batch was due belongs to nothing.
        if let Ok(line) = self.answers.try_recv() {
            return Err(self.fail(Failure::TooMany { line: shorten(&line) }, items.len()));
        }
        let mut lines = Vec::new();
        for item in items {
            lines.extend_from_slice(request(item).as_bytes());
            lines.push(b'\n');
        }
        // The writer has ended only if the command no longer reads; then no answer comes either.
        let _ = batches.send(lines);
        self.collect(items).map_err(|failure| self.fail(failure, items.len()))
    }

    fn collect(&mut self, items: &[RewardItem]) -> Result<Vec<f32>, Failure> {
        let deadline = Instant::now() + self.limit;
        let mut rewards = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let line = match self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => return Err(Failure::TimedOut { answered: i }),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Ended { answered: i }),
            };
            let reward = reward_of(&line, &item.problem.id).map_err(|message| Failure::BadAnswer {
                index: i + 1,
                line: shorten(&line),
                message,
            })?;
            rewards.push(reward);
        }
        let grace = if self.graded { Duration::ZERO } else { GRACE };
        self.graded = true;
        match self.answers.recv_timeout(grace) {
            Ok(line) => Err(Failure::TooMany { line: shorten(&line) }),
            Err(_) => Ok(rewards),
        }
    }

    /// Stops the command and tells everything that is known.
    fn fail(&mut self, failure: Failure, expected: usize) -> RewardError {
        if let Failure::Ended { .. } = failure {
            // Its output is closed: it is about to end, with a status of its own, unless it only closed that.
            wait_briefly(&mut self.child);
        }
        let status = self.stop();
        let command = self.command.clone();
        let stderr = self.stderr_text();
        match failure {
            Failure::Ended { answered } => RewardError::Ended { command, status, answered, expected, stderr },
            Failure::TimedOut { answered } => {
                let seconds = self.limit.as_secs_f64();
                RewardError::TimedOut { command, seconds, answered, expected, stderr }
            }
            Failure::BadAnswer { index, line, message } => {
                RewardError::BadAnswer { command, index, line, message, stderr }
            }
            Failure::TooMany { line } => RewardError::TooMany { command, line, stderr },
        }
    }

    /// Ends the command and everything it started; its exit status.
    fn stop(&mut self) -> String {
        self.batches = None;
        #[cfg(unix)]
        if let Ok(id) = i32::try_from(self.child.id()) {
            // Also what is left of the group of a command that has ended by itself.
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => format!("exit status unknown: {error}"),
        }
    }

    fn stderr_text(&self) -> String {
        // Its last words may still be on the way.
        let _ = self.stderr_closed.recv_timeout(Duration::from_millis(500));
        let tail: Vec<u8> = match self.stderr.lock() {
            Ok(tail) => tail.iter().copied().collect(),
            Err(_) => Vec::new(),
        };
        let text = String::from_utf8_lossy(&tail);
        match text.trim() {
            "" => String::new(),
            text => format!("; its standard error ends:\n{text}"),
        }
    }
}

impl Drop for CommandGrader {
    fn drop(&mut self) {
        if self.batches.is_some() {
            self.stop();
        }
    }
}

fn request(item: &RewardItem) -> String {
    serde_json::json!({
        "id": item.problem.id,
        "question": item.problem.question,
        "gold": item.problem.gold,
        "completion": item.completion,
        "truncated": item.truncated,
    })
    .to_string()
}

/// The number in an answer line.
fn reward_of(line: &[u8], id: &str) -> Result<f32, String> {
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_string())?;
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        // Python's json module writes these.
        match ["NaN", "Infinity"].into_iter().find(|word| text.contains(word)) {
            Some(word) => format!("the reward is {word}, not a finite number"),
            None => format!("not JSON ({error})"),
        }
    })?;
    if let Some(other) = value.get("id").filter(|other| other.as_str() != Some(id)) {
        return Err(format!("its \"id\" is {other}, the completion's is \"{id}\""));
    }
    let reward = value.get("reward").ok_or("no \"reward\"")?;
    let number = reward.as_f64().ok_or_else(|| format!("\"reward\" is {reward}, not a number"))?;
    match (number as f32).is_finite() {
        true => Ok(number as f32),
        false => Err(format!("{number:e} is too large")),
    }
}

fn shorten(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

fn wait_briefly(child: &mut Child) {
    for _ in 0..50 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends, and so closes the command's input, when the grader is stopped or the command no longer reads.
fn write_batches(mut input: ChildStdin, batches: &Receiver<Vec<u8>>) {
    while let Ok(lines) = batches.recv() {
        if input.write_all(&lines).and_then(|()| input.flush()).is_err() {
            return;
        }
    }
}

/// Ends, and so hangs up, when the command closes its output. Blank lines are passed over.
fn read_answers(output: ChildStdout, answers: &Sender<Vec<u8>>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = line.trim_ascii();
        if !line.is_empty() && answers.send(line.to_vec()).is_err() {
            return;
        }
    }
}

fn keep_tail(mut errors: ChildStderr, tail: &Mutex<VecDeque<u8>>, closed: &Sender<()>) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = errors.read(&mut buffer) {
        if let Ok(mut tail) = tail.lock() {
            tail.extend(&buffer[..n]);
            let surplus = tail.len().saturating_sub(STDERR_TAIL);
            tail.drain(..surplus);
        }
    }
    // Nobody may be waiting.
    let _ = closed.send(());
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::data::Problem;

    fn start(script: &str, seconds: f64) -> CommandGrader {
        let command = ["sh", "-c", script].map(String::from);
        CommandGrader::start(&command, Duration::from_secs_f64(seconds)).unwrap()
    }

    fn problems(n: usize) -> Vec<Problem> {
        (0..n)
            .map(|i| Problem {
                id: format!("p{i}"),
                question: "q".into(),
                gold: i.to_string(),
                solution: String::new(),
            })
            .collect()
    }

    fn grade(grader: &mut CommandGrader, n: usize, completion: &str) -> Result<Vec<f32>, RewardError> {
        let problems = problems(n);
        let items: Vec<RewardItem> =
            problems.iter().map(|problem| RewardItem { problem, completion, truncated: false }).collect();
        grader.grade(&items)
    }

    fn error(script: &str, n: usize) -> RewardError {
        grade(&mut start(script, 0.5), n, "text").expect_err("must fail")
    }

    #[test]
    fn answers_come_in_order_over_batches() {
        let mut grader =
            start("i=0; while read -r line; do i=$((i+1)); echo \"{\\\"reward\\\": $i.5}\"; done", 10.0);
        assert_eq!(grade(&mut grader, 3, "x").unwrap(), [1.5, 2.5, 3.5]);
        assert_eq!(grade(&mut grader, 2, "x").unwrap(), [4.5, 5.5]);
        assert_eq!(grade(&mut grader, 0, "x").unwrap(), [0.0; 0]);
        assert_eq!(grade(&mut grader, 1, "x").unwrap(), [6.5]);
    }

    #[test]
    fn the_request_is_one_json_line() {
        let problem = Problem {
            id: "a".into(),
            question: "b\n\"c\"".into(),
            gold: "d".into(),
            solution: String::new(),
        };
        let line = request(&RewardItem { problem: &problem, completion: "e\r\nf", truncated: true });
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"id": "a", "question": "b\n\"c\"", "gold": "d", "completion": "e\r\nf", "truncated": true})
        );
    }

    /// Each side writes far more than a pipe holds before it reads: answers, requests and standard error.
    #[test]
    fn full_pipes_block_nothing() {
        let script = "yes error | head -c 300000 >&2; while read -r line; do echo \"{\\\"note\\\": \\\"$(printf %04000d 0)\\\", \\\"reward\\\": 1}\"; done";
        let mut grader = start(script, 30.0);
        assert_eq!(grade(&mut grader, 60, &"long ".repeat(4000)).unwrap(), [1.0; 60]);
    }

    #[test]
    fn a_dead_command_is_told_with_its_last_words() {
        let error = error("read -r a; echo '{\"reward\": 1}'; read -r b; echo 'out of ideas' >&2; exit 7", 3);
        let RewardError::Ended { answered: 1, expected: 3, status, stderr, .. } = &error else {
            panic!("{error}")
        };
        assert!(status.contains('7') && stderr.contains("out of ideas"), "{error}");
        assert!(matches!(super::tests::error("exit 0", 1), RewardError::Ended { answered: 0, .. }));
        assert!(
            matches!(super::tests::error("kill -9 $$", 1), RewardError::Ended { status, .. } if status.contains("signal: 9"))
        );
    }

    #[test]
    fn a_slow_command_is_stopped_for_good() {
        let mut grader = start("read -r a; echo '{\"reward\": 1}'; sleep 60", 0.3);
        let begun = Instant::now();
        let error = grade(&mut grader, 2, "x").unwrap_err();
        assert!(matches!(error, RewardError::TimedOut { answered: 1, expected: 2, .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(matches!(grade(&mut grader, 1, "x").unwrap_err(), RewardError::Stopped { .. }));
    }

    #[test]
    fn bad_answers_are_shown() {
        for (answer, expected) in [
            ("hello", "not JSON"),
            ("{\"reward\": NaN}", "the reward is NaN, not a finite number"),
            ("{\"reward\": -Infinity}", "Infinity"),
            ("{\"reward\": 1e39}", "too large"),
            ("{\"reward\": 1e400}", "not JSON"),
            ("{\"reward\": \"1\"}", "not a number"),
            ("{\"reward\": null}", "not a number"),
            ("{\"score\": 1}", "no \"reward\""),
            ("1.0", "no \"reward\""),
            ("{\"reward\": 1, \"id\": \"p9\"}", "the completion's is \"p1\""),
        ] {
            let script = format!(
                "read -r a; echo '{{\"reward\": 1, \"id\": \"p0\"}}'; read -r a; echo '{answer}'; read -r a"
            );
            let error = error(&script, 2);
            let RewardError::BadAnswer { index: 2, message, .. } = &error else {
                panic!("{answer}: {error}")
            };
            assert!(message.contains(expected), "{error}");
        }
    }

    #[test]
    fn lines_too_many_are_found() {
        let twice = "while read -r a; do echo '{\"reward\": 1}'; echo '{\"reward\": 0}'; done";
        assert!(matches!(error(twice, 1), RewardError::TooMany { .. }));
        // Later than the first batch waits: found by the next one.
        let late =
            "read -r a; echo '{\"reward\": 1}'; sleep 0.2; echo '{\"reward\": 0}'; read -r a; read -r a";
        let mut grader = start(late, 5.0);
        grade(&mut grader, 1, "x").unwrap();
        std::thread::sleep(Duration::from_millis(600));
        assert!(matches!(grade(&mut grader, 1, "x").unwrap_err(), RewardError::TooMany { .. }));
    }

    #[test]
    fn a_command_that_does_not_exist_is_named() {
        let error =
            CommandGrader::start(&["no-such-grader-anywhere".into()], Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("`no-such-grader-anywhere`"), "{error}");
        assert!(CommandGrader::start(&[], Duration::from_secs(1)).is_err());
    }

    /// The command and what it started are gone after the drop.
    #[test]
    fn dropping_ends_the_whole_group() {
        let mut grader = start("sleep 1000 & echo \"{\\\"reward\\\": $!}\"; read -r a; wait", 10.0);
        let sleeper = grade(&mut grader, 1, "x").unwrap()[0] as i32;
        let alive = || {
            // A process that has ended and waits for its parent is a zombie (state Z).
            std::fs::read_to_string(format!("/proc/{sleeper}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        };
        if !std::path::Path::new("/proc/self/stat").exists() {
            eprintln!("skipped: no /proc");
            return;
        }
        assert!(alive());
        drop(grader);
        for _ in 0..100 {
            if !alive() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("process {sleeper} is still there");
    }
}
