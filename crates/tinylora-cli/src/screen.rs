//! Where a command shows what it is doing: standard error. On a terminal a few lines at the bottom are drawn again
//! and again while other lines scroll by above them; elsewhere there are only lines, without control characters.

use crate::draw::Style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// A handle to standard error; clones write to the same place.
#[derive(Clone)]
pub struct Screen {
    /// Present on a terminal.
    block: Option<ProgressBar>,
}

/// How often the block is drawn.
const FRAME: Duration = Duration::from_millis(120);

impl Screen {
    /// Standard error as it is: a block only where it can be drawn (see [`is_live`]).
    pub fn stderr() -> Self {
        let live = is_live(std::io::stderr().is_terminal(), |name| std::env::var(name).ok());
        if !live {
            return Self { block: None };
        }
        let block = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(20));
        let template = ProgressStyle::with_template("{spinner:.cyan} {msg}").expect("a valid template");
        block.set_style(template.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
        Self { block: Some(block) }
    }

    /// Whether there is a block.
    pub fn is_live(&self) -> bool {
        self.block.is_some()
    }

    /// How to draw.
    pub fn style(&self) -> Style {
        if self.is_live() { Style::Ansi } else { Style::Plain }
    }

    /// Columns that a line may have: those of the terminal, or 100.
    pub fn width(&self) -> usize {
        let columns = console::Term::stderr().size_checked().map(|(_, columns)| usize::from(columns));
        columns.filter(|_| self.is_live()).unwrap_or(100)
    }

    /// Replaces the block, if there is one. The first line stands beside the spinner.
    pub fn show(&self, lines: &[String]) {
        let Some(block) = &self.block else { return };
        if block.is_finished() {
            block.reset();
        }
        // The last column stays free: some terminals begin a new line there.
        let most = self.width().saturating_sub(3).max(10);
        let lines: Vec<_> = lines.iter().map(|line| console::truncate_str(line, most, "…")).collect();
        block.set_message(lines.join("\n  "));
        block.enable_steady_tick(FRAME);
    }

    /// Writes lines for good, above the block.
    pub fn print(&self, text: &str) {
        match &self.block {
            Some(block) => block.suspend(|| eprintln_ignoring_errors(text)),
            None => eprintln_ignoring_errors(text),
        }
    }

    /// Takes the block away.
    pub fn clear(&self) {
        if let Some(block) = &self.block {
            block.disable_steady_tick();
            block.finish_and_clear();
        }
    }
}

/// Whether a block can be drawn: on a terminal that is not dumb, unless `NO_COLOR` asks for plain text.
fn is_live(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && variable("TERM").is_none_or(|term| term != "dumb")
}

/// How to draw on standard output.
pub fn stdout_style() -> Style {
    let live = is_live(std::io::stdout().is_terminal(), |name| std::env::var(name).ok());
    if live { Style::Ansi } else { Style::Plain }
}

/// A run must not die because whoever watched it has gone.
fn eprintln_ignoring_errors(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_where_a_block_cannot_be_drawn_or_is_not_wanted() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        };
        assert!(is_live(true, with(&[("TERM", "xterm-256color")])));
        assert!(is_live(true, with(&[("NO_COLOR", "")])));
        assert!(!is_live(false, with(&[])));
        assert!(!is_live(true, with(&[("NO_COLOR", "1")])));
        assert!(!is_live(true, with(&[("TERM", "dumb")])));
    }
}
