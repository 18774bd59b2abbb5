//! Ctrl-C, and requests of the system to end: what is done about them is decided here.

use crate::failure::INTERRUPTED;
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

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
