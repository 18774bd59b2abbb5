//! The events of a run enter; a live block on a terminal, or a line a step elsewhere, leaves on standard error.
//! What is drawn is decided by [`block`] and [`lines`] from plain data alone; nothing here knows how to train.

mod block;
mod lines;
mod runs;
mod view;

use crate::screen::Screen;
use std::time::Instant;
use tinylora::train::Event;
use view::View;

pub use block::summary as summary_of_numbers;
pub use lines::{accuracy as accuracy_line, memory as memory_line};
pub use runs::RunsDisplay;

/// Shows a run.
pub struct RunDisplay {
    screen: Screen,
    clock: Instant,
    view: View,
}

impl RunDisplay {
    /// Nothing is shown yet.
    pub fn new(screen: Screen) -> Self {
        Self { screen, clock: Instant::now(), view: View::default() }
    }

    /// Takes one event.
    pub fn take(&mut self, event: &Event<'_>) {
        let now = self.clock.elapsed();
        let news = self.view.take(event, now);
        let style = self.screen.style();
        if self.screen.is_live() {
            if let Some(text) = lines::above_block(event, &news, style, self.screen.width()) {
                self.screen.print(&text);
            }
            self.screen.show(&block::render(&self.view, now, style, self.screen.width()));
        } else if let Some(text) = lines::plain(event, &self.view, &news) {
            self.screen.print(&text);
        }
    }

    /// Takes the block away.
    pub fn finish(&self) {
        self.screen.clear();
    }
}

#[cfg(test)]
mod tests;
