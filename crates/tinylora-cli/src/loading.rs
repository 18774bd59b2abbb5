//! News from downloads and loading enter, a line at the bottom of the terminal or a few plain lines leave.

use crate::meter::{Meter, Unit};
use crate::screen::Screen;
use std::time::Instant;
use tinylora::base::Loading;
use tinylora::hub::Progress;

/// Shows how far loading is.
pub struct LoadingDisplay {
    screen: Screen,
    clock: Instant,
    meter: Option<Meter>,
}

impl LoadingDisplay {
    /// Nothing is shown yet.
    pub fn new(screen: Screen) -> Self {
        Self { screen, clock: Instant::now(), meter: None }
    }

    /// Takes one piece of news.
    pub fn take(&mut self, news: Loading) {
        match news {
            Loading::Hub(progress) => self.take_hub(progress),
            Loading::Weights { done, total } => self.work("loading the weights", "layers", done, total),
            Loading::Factors { done, total } => self.work("factorising", "matrices", done, total),
            Loading::Message(text) => self.screen.print(&text),
        }
    }

    /// Takes news of a download.
    pub fn take_hub(&mut self, progress: Progress) {
        match progress {
            Progress::Started { what, total_bytes } => {
                let what = format!("fetching {what}");
                self.begin(what, total_bytes.unwrap_or(0), Unit::Bytes);
            }
            Progress::Advanced { bytes } => {
                if let Some(meter) = &mut self.meter {
                    meter.done += bytes;
                }
            }
            Progress::Verifying => self.begin("checking the sha256".into(), 0, Unit::Things("reads the whole file")),
            Progress::Finished => self.meter = None,
            Progress::Message(text) => self.screen.print(&text),
        }
        self.draw();
    }

    /// Takes the block away.
    pub fn finish(&self) {
        self.screen.clear();
    }

    fn work(&mut self, what: &str, unit: &'static str, done: u64, total: u64) {
        if self.meter.as_ref().is_none_or(|meter| meter.what != what) {
            self.begin(what.to_owned(), total, Unit::Things(unit));
        }
        if let Some(meter) = &mut self.meter {
            (meter.done, meter.total) = (done, total);
        }
        self.draw();
    }

    fn begin(&mut self, what: String, total: u64, unit: Unit) {
        if !self.screen.is_live() {
            let size = if unit == Unit::Bytes && total > 0 { crate::format::bytes(total) } else { String::new() };
            self.screen.print(format!("{what} … {size}").trim_end());
        }
        self.meter = Some(Meter { what, done: 0, total, unit, began: self.clock.elapsed() });
    }

    fn draw(&self) {
        let line = self.meter.as_ref().map(|meter| meter.line(self.clock.elapsed(), self.screen.style()));
        self.screen.show(&line.into_iter().collect::<Vec<_>>());
    }
}
