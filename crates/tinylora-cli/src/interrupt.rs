//! Ctrl-C, and requests of the system to end: what is done about them is decided here.

use crate::failure::INTERRUPTED;
use crate::screen::Screen;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Calls `press` in a thread of its own each time, with the number of the press from 1 on. Called once a process.
pub fn on_press(mut press: impl FnMut(usize) + Send + 'static) -> Result<()> {
    let presses = AtomicUsize::new(0);
    ctrlc::set_handler(move || press(presses.fetch_add(1, Ordering::Relaxed) + 1))
        .context("cannot handle Ctrl-C")
}

/// For commands that have nothing to save.
pub fn leave_at_once() -> Result<()> {
    on_press(|_| std::process::exit(INTERRUPTED.into()))
}

/// For runs. First press: `stop` is set, so that the step is finished and saved. Second press: out, at once; `last_words`
/// says what is kept (nothing is shown where it is empty).
pub fn finish_and_save(
    screen: Screen,
    stop: Arc<AtomicBool>,
    last_words: impl Fn() -> String + Send + 'static,
) -> Result<()> {
    on_press(move |press| {
        stop.store(true, Ordering::Relaxed);
        if press == 1 {
            screen.print("finishing this step, then saving (Ctrl-C again: stop at once)");
            return;
        }
        screen.clear();
        let words = last_words();
        if !words.is_empty() {
            screen.print(&words);
        }
        std::process::exit(INTERRUPTED.into());
    })
}
