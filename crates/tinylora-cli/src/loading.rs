//! News from downloads and loading enter, a line at the bottom of the terminal or a few plain lines leave.

use crate::format;
use crate::meter::{Meter, Unit};
use crate::screen::Screen;
use std::time::{Duration, Instant};
use tinylora::base::Loading;
use tinylora::hub::Progress;

/// What a piece of news is for whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A piece of work begins; told in a line.
    Begins(String),
    /// A line that stays.
    Message(String),
    /// Nothing new besides the count.
    GoesOn,
}

/// Brings the meter up to date with the news.
pub fn advance(meter: &mut Option<Meter>, news: &Loading, now: Duration) -> News {
    match news {
        Loading::Hub(progress) => advance_hub(meter, progress, now),
        Loading::Weights { done, total } => {
            work(meter, "loading the weights", "layers", (*done, *total), now)
        }
        Loading::Factors { done, total } => work(meter, "factorising", "matrices", (*done, *total), now),
        Loading::Message(text) => News::Message(text.clone()),
    }
}

fn advance_hub(meter: &mut Option<Meter>, progress: &Progress, now: Duration) -> News {
    match progress {
        Progress::Started { what, total_bytes } => {
            let total = total_bytes.unwrap_or(0);
            let what = format!("fetching {what}");
            let size = if total > 0 { format!(" ({})", format::bytes(total)) } else { String::new() };
            let line = format!("{what}{size} …");
            *meter = Some(Meter { what, done: 0, total, unit: Unit::Bytes, began: now });
            News::Begins(line)
        }
        Progress::Advanced { bytes } => {
            if let Some(meter) = meter {
                meter.done += bytes;
            }
            News::GoesOn
        }
        Progress::Verifying => work(meter, "checking the sha256", "reading the whole file", (0, 0), now),
        Progress::Finished => {
            *meter = None;
            News::GoesOn
        }
        Progress::Message(text) => News::Message(text.clone()),
    }
}

/// Brings the meter of a piece of work up to date, or begins it. A count that falls begins it anew.
pub fn work(
    meter: &mut Option<Meter>,
    what: &str,
    unit: &'static str,
    (done, total): (u64, u64),
    now: Duration,
) -> News {
    if let Some(meter) = meter.as_mut().filter(|meter| meter.what == what && meter.done <= done) {
        (meter.done, meter.total) = (done, total);
        return News::GoesOn;
    }
    *meter = Some(Meter { what: what.to_owned(), done, total, unit: Unit::Things(unit), began: now });
    News::Begins(format!("{what} …"))
}

/// Shows how far loading is, for commands that do nothing else at length.
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
    pub fn take(&mut self, news: &Loading) {
        let now = self.clock.elapsed();
        match advance(&mut self.meter, news, now) {
            News::Message(text) => self.screen.print(&text),
            News::Begins(text) if !self.screen.is_live() => self.screen.print(&text),
            _ => {}
        }
        let line = self.meter.as_ref().map(|meter| meter.line(now, self.screen.style()));
        self.screen.show(&line.into_iter().collect::<Vec<_>>());
    }

    /// Shows completions that are being written.
    pub fn completions(&mut self, what: &str, done: u64, total: u64) {
        let now = self.clock.elapsed();
        match work(&mut self.meter, what, "completions", (done, total), now) {
            News::Begins(text) if !self.screen.is_live() => self.screen.print(&text),
            _ => {}
        }
        let line = self.meter.as_ref().map(|meter| meter.line(now, self.screen.style()));
        self.screen.show(&line.into_iter().collect::<Vec<_>>());
    }

    /// Takes the block away.
    pub fn finish(&self) {
        self.screen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_counted_in_bytes() {
        let mut meter = None;
        let mut take = |progress| advance(&mut meter, &Loading::Hub(progress), Duration::ZERO);
        let started = Progress::Started { what: "m.gguf".into(), total_bytes: Some(2048) };
        assert_eq!(take(started), News::Begins("fetching m.gguf (2.00 KiB) …".into()));
        assert_eq!(take(Progress::Advanced { bytes: 1000 }), News::GoesOn);
        assert_eq!(take(Progress::Advanced { bytes: 24 }), News::GoesOn);
        assert_eq!(take(Progress::Message("hello".into())), News::Message("hello".into()));
        assert_eq!(meter.as_ref().map(|meter| (meter.done, meter.total)), Some((1024, 2048)));
        advance(&mut meter, &Loading::Hub(Progress::Finished), Duration::ZERO);
        assert_eq!(meter, None);
    }

    #[test]
    fn work_begins_once() {
        let mut meter = None;
        let mut take = |done| advance(&mut meter, &Loading::Weights { done, total: 3 }, Duration::ZERO);
        assert_eq!(take(0), News::Begins("loading the weights …".into()));
        assert_eq!((take(1), take(3)), (News::GoesOn, News::GoesOn));
        assert_eq!(take(0), News::Begins("loading the weights …".into()));
    }
}
