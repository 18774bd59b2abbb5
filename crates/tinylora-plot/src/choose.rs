//! Rows of one size enter, the best of their settings with its mean and intervals leaves: the paper's choice, the learning
//! rate whose mean over seeds is highest.

use crate::options::{Interval, Measure};
use crate::row::Row;
use std::collections::{BTreeMap, BTreeSet};
use tinylora::statistics::{mean as mean_of, student_95, wilson_of_fraction_95};

/// The mean accuracy of runs that differ in their seed alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Each run's.
    pub values: Vec<f64>,
    /// 95 % interval of the mean over seeds; none where there is one, or all are equal.
    pub over_seeds: Option<[f64; 2]>,
    /// 95 % interval over the problems of one evaluation; none where their number is not known.
    pub over_problems: Option<[f64; 2]>,
    /// Problems of one evaluation.
    pub problems: usize,
}

impl Mean {
    /// The interval to draw.
    pub fn interval(&self, kind: Interval) -> Option<[f64; 2]> {
        match kind {
            Interval::Seeds => self.over_seeds.or(self.over_problems),
            Interval::Problems => self.over_problems,
        }
    }
}

/// The mean of rows, of which at least one has this accuracy.
pub fn mean(rows: &[&Row], measure: Measure) -> Option<Mean> {
    let values: Vec<f64> = rows.iter().filter_map(|row| row.after(measure)).collect();
    if values.is_empty() {
        return None;
    }
    let value = mean_of(&values);
    let differ = values.iter().any(|other| *other != values[0]);
    let within = |[low, high]: [f64; 2]| [low.max(0.0), high.min(1.0)];
    // Seeds share their problems: more seeds don't make more of them.
    let problems = rows.iter().map(|row| row.problems()).min().unwrap_or(0);
    Some(Mean {
        value,
        over_seeds: student_95(&values).filter(|_| differ).map(within),
        over_problems: (problems > 0).then(|| wilson_of_fraction_95(value, problems)),
        values,
        problems,
    })
}

/// The best setting of a size.
#[derive(Debug, Clone)]
pub struct Best<'a> {
    /// Its runs.
    pub rows: Vec<&'a Row>,
    /// Their accuracy.
    pub mean: Mean,
    /// Learning rates that were tried.
    pub rates: usize,
    /// Settings besides the rate that were tried.
    pub experiments: usize,
    /// Settings that had fewer seeds and were not considered.
    pub aside: usize,
}

impl Best<'_> {
    /// The learning rate that was chosen.
    pub fn rate(&self) -> f64 {
        self.rows[0].rate
    }
}

/// The best of all settings that have as many seeds as any has: one lucky run does not beat a mean of three. Of equal
/// ones the one with the smallest rate. None of rows without this accuracy.
pub fn best<'a>(rows: &[&'a Row], measure: Measure) -> Option<Best<'a>> {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.after(measure).is_some()).collect();
    let mut settings: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in &rows {
        // The bits of positive numbers are in the order of the numbers.
        settings.entry((row.rate.to_bits(), row.experiment())).or_default().push(row);
    }
    let seeds = |rows: &[&Row]| rows.iter().map(|row| row.seed).collect::<BTreeSet<_>>().len();
    let most = settings.values().map(|rows| seeds(rows)).max()?;
    let all = settings.len();
    let (rates, experiments): (BTreeSet<_>, BTreeSet<_>) = settings.keys().cloned().unzip();
    let full: Vec<Vec<&Row>> = settings.into_values().filter(|rows| seeds(rows) == most).collect();
    let aside = all - full.len();
    let candidates = full.into_iter().filter_map(|rows| Some((mean(&rows, measure)?, rows)));
    let (mean, rows) = candidates.reduce(|a, b| if b.0.value > a.0.value { b } else { a })?;
    Some(Best { rows, mean, rates: rates.len(), experiments: experiments.len(), aside })
}

/// The accuracy before training: the mean over seeds, each counted once.
pub fn baseline(rows: &[&Row], measure: Measure) -> Option<f64> {
    let seeds: BTreeMap<u64, f64> =
        rows.iter().filter_map(|row| Some((row.seed, row.before(measure)?))).collect();
    let values: Vec<f64> = seeds.into_values().collect();
    (!values.is_empty()).then(|| mean_of(&values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::row;

    #[test]
    fn the_mean_over_seeds_decides_and_a_lone_seed_does_not() {
        let rows = [
            row(13, 1e-3, 1, 0.5),
            row(13, 1e-3, 2, 0.7),
            row(13, 1e-2, 1, 0.55),
            row(13, 1e-2, 2, 0.55),
            row(13, 1e-1, 1, 0.99),
        ];
        let all: Vec<&Row> = rows.iter().collect();
        let found = best(&all, Measure::Sampled).unwrap();
        assert_eq!((found.rate(), found.rates, found.experiments, found.aside), (1e-3, 3, 1, 1));
        assert!((found.mean.value - 0.6).abs() < 1e-12);
        let [low, high] = found.mean.over_seeds.unwrap();
        assert!(low == 0.0 && high == 1.0, "two seeds that far apart tell nothing: {low} {high}");
        let [low, high] = found.mean.over_problems.unwrap();
        assert!(0.5 < low && low < 0.6 && 0.6 < high && high < 0.7, "{low} {high}");
    }

    #[test]
    fn equal_seeds_fall_back_to_the_interval_over_problems() {
        let rows = [row(1, 1e-3, 1, 0.0), row(1, 1e-3, 2, 0.0)];
        let mean = mean(&rows.iter().collect::<Vec<_>>(), Measure::Sampled).unwrap();
        assert_eq!((mean.value, mean.over_seeds), (0.0, None));
        let [low, high] = mean.interval(Interval::Seeds).unwrap();
        assert!(low == 0.0 && high > 0.01);
        assert!(best(&[], Measure::Sampled).is_none());
        assert!(best(&rows.iter().collect::<Vec<_>>(), Measure::Greedy).is_none());
    }

    #[test]
    fn the_baseline_counts_a_seed_once() {
        let mut rows = [row(1, 1e-3, 1, 0.5), row(4, 1e-3, 1, 0.5), row(4, 1e-3, 2, 0.5)];
        for (row, before) in rows.iter_mut().zip([0.1, 0.1, 0.2]) {
            row.before.as_mut().unwrap().sampled_accuracy = Some(before);
        }
        let found = baseline(&rows.iter().collect::<Vec<_>>(), Measure::Sampled).unwrap();
        assert!((found - 0.15).abs() < 1e-12);
    }
}
