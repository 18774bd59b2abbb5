//! `tinylora chat`: lines of a person enter, answers leave as they are written. The whole conversation is given to
//! the model each time; what no longer fits is left out from its beginning.

use crate::args::ChatArgs;
use crate::draw::Tone;
use crate::failure::INTERRUPTED;
use crate::generate::print_part;
use crate::interrupt;
use crate::open::{self, Opened};
use crate::screen::{Screen, stdout_style};
use anyhow::{Result, bail};
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tinylora::inference::{Engine, EngineError, GenerateOptions, Progress, Request, Sampling};
use tinylora::rollout::{TextStop, TextStream};
use tinylora::tokenizer::{Message, Tokenizer};
use tinylora_compute::attention::BLOCK_TOKENS;

const HELP: &str = "/reset  forget the conversation\n/quit   leave (also Ctrl-D)\n/help   these lines\nCtrl-C  stop an answer";

/// Runs the command.
pub fn run(args: &ChatArgs) -> Result<()> {
    let sampling = open::sampling(args.temperature, args.sampling.top_p, args.sampling.top_k)?;
    let max_tokens = open::max_tokens(args.sampling.max_tokens)?;
    let cpu = open::device(args.model.numerics.into(), args.model.device)?;
    let screen = Screen::stderr();
    let opened = Opened::new(&cpu, &args.model, 0, &screen)?;
    let tokenizer = &opened.base.tokenizer;
    if !tokenizer.has_chat_template() {
        bail!(
            "{} has no chat template, so it cannot hold a conversation; use `tinylora generate --raw` or its \
             instruct variant",
            args.model.model
        );
    }
    let room = opened.base.model.positions();
    if max_tokens >= room {
        bail!("--max-tokens {max_tokens}: {} takes {room} tokens, the question included", args.model.model);
    }
    let system = args.system.clone().map(|content| Message { role: "system".into(), content });
    let mut chat = Chat {
        opened: &opened,
        stop: TextStop::new(tokenizer, &args.sampling.stop),
        engine: Engine::new(&cpu, &opened.base.model, room.div_ceil(BLOCK_TOKENS) + 2),
        args,
        sampling,
        control: Control::install()?,
        turns: 0,
    };
    screen.print(&format!("{}: type a message, or /help", args.model.model));
    chat.talk(system)
}

/// What Ctrl-C has to know.
struct Control {
    answering: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Control {
    fn install() -> Result<Self> {
        let control = Self { answering: Arc::default(), stop: Arc::default() };
        let (answering, stop) = (control.answering.clone(), control.stop.clone());
        let idle = AtomicUsize::new(0);
        interrupt::on_press(move |_| {
            if answering.load(Ordering::Relaxed) {
                idle.store(0, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
            } else if idle.fetch_add(1, Ordering::Relaxed) == 0 {
                eprintln!("\n(Ctrl-C again to leave)");
                print_prompt();
            } else {
                std::process::exit(INTERRUPTED.into());
            }
        })?;
        Ok(control)
    }
}

struct Chat<'a> {
    opened: &'a Opened,
    stop: TextStop<'a>,
    engine: Engine<'a>,
    args: &'a ChatArgs,
    sampling: Sampling,
    control: Control,
    /// Answers so far; each has a random stream of its own.
    turns: u64,
}

impl Chat<'_> {
    fn talk(&mut self, system: Option<Message>) -> Result<()> {
        let mut history: Vec<Message> = system.iter().cloned().collect();
        let mut lines = std::io::stdin().lock().lines();
        loop {
            print_prompt();
            let Some(line) = lines.next().transpose()? else {
                print_part("\n");
                return Ok(());
            };
            match line.trim() {
                "" => {}
                "/quit" | "/exit" => return Ok(()),
                "/help" => eprintln!("{HELP}"),
                "/reset" => {
                    history = system.iter().cloned().collect();
                    eprintln!("(a new conversation)");
                }
                command if command.starts_with('/') && !command.contains(' ') => {
                    eprintln!("{command} is no command:\n{HELP}");
                }
                text => {
                    history.push(Message { role: "user".into(), content: text.to_owned() });
                    match self.answer(&mut history)? {
                        Some(content) => history.push(Message { role: "assistant".into(), content }),
                        // A question that does not fit is not remembered.
                        None => drop(history.pop()),
                    }
                }
            }
        }
    }

    /// The model's answer, printed as it comes; None: the last message alone is too long.
    fn answer(&mut self, history: &mut Vec<Message>) -> Result<Option<String>> {
        let tokenizer = &self.opened.base.tokenizer;
        let room = self.opened.base.model.positions() - self.args.sampling.max_tokens;
        let Some(prompt) = fitting(tokenizer, history, room)? else {
            eprintln!("(that is too long: the model has room for {room} tokens before its answer)");
            return Ok(None);
        };
        let request = Request {
            prompt,
            samples: 1,
            adapter: 0,
            seed: self.args.sampling.seed,
            stream: self.turns,
            max_tokens: self.args.sampling.max_tokens,
            sampling: self.sampling,
        };
        self.turns += 1;
        let Control { answering, stop } = &self.control;
        stop.store(false, Ordering::Relaxed);
        answering.store(true, Ordering::Relaxed);
        let options = GenerateOptions { max_batch: 1, stop: &self.stop, interrupt: stop };
        let mut text = TextStream::new(tokenizer, &self.args.sampling.stop);
        let mut said = String::new();
        let mut say = |part: String| {
            print_part(&part);
            said.push_str(&part);
        };
        let policy = self.opened.policy();
        let result = self.engine.generate(policy, &[request], &options, &mut |progress| {
            if let Progress::Token { token, .. } = progress {
                say(text.push(token.token));
            }
        });
        answering.store(false, Ordering::Relaxed);
        say(text.finish());
        print_part("\n");
        match result {
            Ok(_) => {}
            Err(EngineError::Interrupted) => eprintln!("(stopped)"),
            Err(error) => return Err(error.into()),
        }
        Ok(Some(said))
    }
}

/// The conversation's tokens; its oldest turns are left out until at most `room` are needed. None: even the last
/// message alone is too long.
fn fitting(tokenizer: &Tokenizer, history: &mut Vec<Message>, room: usize) -> Result<Option<Vec<u32>>> {
    loop {
        let prompt = tokenizer.encode_chat(history, true)?;
        if prompt.len() <= room {
            return Ok(Some(prompt));
        }
        let first = usize::from(history[0].role == "system");
        if first + 1 >= history.len() {
            return Ok(None);
        }
        // A question goes with its answer.
        let turn = history[first + 1..].iter().position(|message| message.role == "user");
        history.drain(first..first + 1 + turn.unwrap_or(0));
        eprintln!("(the beginning of the conversation no longer fits and is left out)");
    }
}

/// Shown only to a person.
fn print_prompt() {
    if std::io::stdin().is_terminal() {
        let mut out = std::io::stdout().lock();
        let prompt = stdout_style().paint(Tone::Accent, "> ");
        // Whoever has gone away is noticed by the next answer.
        let _ = write!(out, "{prompt}").and_then(|()| out.flush());
    }
}
