//! How far one piece of work is: done, total and time enter, a line leaves.

use crate::draw::{Style, bar};
use crate::format;
use std::time::Duration;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things with a name, such as "layers".
    Things(&'static str),
}

/// A piece of work that is going on.
#[derive(Debug, Clone, PartialEq)]
pub struct Meter {
    /// Its name.
    pub what: String,
    /// Units done.
    pub done: u64,
    /// Units in all; 0: not known.
    pub total: u64,
    /// What is counted.
    pub unit: Unit,
    /// When it began, on the clock of whoever shows it.
    pub began: Duration,
}

impl Meter {
    /// One line: name, bar, count, and for bytes the speed.
    pub fn line(&self, now: Duration, style: Style) -> String {
        let bar = if self.total > 0 { bar(self.done, self.total, 24, style) } else { String::new() };
        let counted = match (self.unit, self.total) {
            (Unit::Bytes, 0) => format::bytes(self.done),
            (Unit::Bytes, total) => format!("{} of {}", format::bytes(self.done), format::bytes(total)),
            (Unit::Things(name), 0) if self.done == 0 => format!("({name})"),
            (Unit::Things(name), 0) => format!("{} {name}", self.done),
            (Unit::Things(name), total) => format!("{}/{total} {name}", self.done),
        };
        let mut line = format!("{:<20} {bar} {counted}", self.what);
        if let Some(left) = self.left(now) {
            line.push_str(&format!(", {} left", format::duration(left)));
        }
        line.trim_end().to_owned()
    }

    /// Time left at the speed so far, once there is one to speak of.
    fn left(&self, now: Duration) -> Option<Duration> {
        let spent = now.saturating_sub(self.began).as_secs_f64();
        if spent < 2.0 || self.done == 0 || self.total <= self.done {
            return None;
        }
        Some(Duration::from_secs_f64(spent / self.done as f64 * (self.total - self.done) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let seconds = Duration::from_secs;
        let mut meter = Meter {
            what: "loading weights".into(),
            done: 3,
            total: 6,
            unit: Unit::Things("layers"),
            began: seconds(1),
        };
        let half = format!("{}{}", "█".repeat(12), "░".repeat(12));
        assert_eq!(meter.line(seconds(2), Style::Plain), format!("loading weights      {half} 3/6 layers"));
        assert!(meter.line(seconds(7), Style::Plain).ends_with("3/6 layers, 6.0 s left"));
        (meter.unit, meter.done, meter.total) = (Unit::Bytes, 2048, 0);
        assert_eq!(meter.line(seconds(2), Style::Plain), "loading weights       2.00 KiB");
    }
}
