//! The completions of a problem enter, those that are worth a row leave.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// A completion and what it is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct Collected {
    pub completion: String,
    pub reward: f32,
    pub right: bool,
    pub tokens: usize,
    pub truncated: bool,
}

/// Which of the completions that may be kept come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choose {
    /// As they were sampled.
    First,
    /// Those with the fewest tokens; of equal ones the first.
    Shortest,
}

/// Which completions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// Wrong ones and those that were cut off as well.
    pub all: bool,
    /// At most so many a problem; 0: no limit.
    pub most: usize,
    /// Which come first.
    pub choose: Choose,
    /// Keep completions that say the same.
    pub duplicates: bool,
}

impl Selection {
    /// The rows of one problem, each with its sample's number. One that was cut off would teach to stop in the middle, and
    /// one without text nothing.
    pub fn of<'a>(&self, samples: &'a [Collected]) -> Vec<(usize, &'a Collected)> {
        let mut seen = HashSet::new();
        let mut rows: Vec<(usize, &Collected)> = samples
            .iter()
            .enumerate()
            .filter(|(_, sample)| self.all || (sample.right && !sample.truncated))
            .filter(|(_, sample)| !sample.completion.trim().is_empty())
            .filter(|(_, sample)| self.duplicates || seen.insert(&sample.completion))
            .collect();
        if self.choose == Choose::Shortest {
            rows.sort_by_key(|(_, sample)| sample.tokens);
        }
        if self.most > 0 {
            rows.truncate(self.most);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept() {
        let sample = |completion: &str, right: bool, truncated: bool| Collected {
            completion: completion.into(),
            reward: f32::from(right),
            right,
            tokens: completion.len(),
            truncated,
        };
        let samples = [
            sample("three", true, false),
            sample("no", false, false),
            sample("six", true, false),
            sample("three", true, false),
            sample("cut", true, true),
            sample(" ", true, false),
        ];
        let plain = Selection { all: false, most: 0, choose: Choose::First, duplicates: false };
        let numbers = |selection: Selection| -> Vec<usize> {
            selection.of(&samples).into_iter().map(|(number, _)| number).collect()
        };
        assert_eq!(numbers(plain), [0, 2]);
        assert_eq!(numbers(Selection { duplicates: true, ..plain }), [0, 2, 3]);
        assert_eq!(numbers(Selection { choose: Choose::Shortest, ..plain }), [2, 0]);
        assert_eq!(numbers(Selection { choose: Choose::Shortest, most: 1, ..plain }), [2]);
        assert_eq!(numbers(Selection { most: 1, ..plain }), [0]);
        assert_eq!(numbers(Selection { all: true, ..plain }), [0, 1, 2, 4]);
    }
}
