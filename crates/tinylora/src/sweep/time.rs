//! Runs enter, roughly how long they take leaves: from runs of the same sweep that are finished, else from the arithmetic that
//! they need at most and what the machine can do. Nothing runs here.

use super::plan::Run;
use super::results::ResultRow;
use crate::bench::shape_of;
use crate::model::ModuleKind;
use crate::recipe::{Learner, Recipe};
use std::collections::BTreeMap;
use std::path::Path;

/// What share of the multiply-adds per second that registers reach a whole step gets, as `tinylora bench` measures it: between
/// a third (decode with few sequences) and three quarters (training).
const SHARE_OF_PEAK: f64 = 0.5;

/// FLOPs of a run at most, as if each completion were as long as it may be, without prompts and attention; None where the
/// model's shape or the number of steps is not known beforehand.
pub fn work(recipe: &Recipe) -> Option<f64> {
    let config = shape_of(&recipe.model.reference)?;
    let block: usize = ModuleKind::ALL.iter().map(|kind| kind.shape(&config)).map(|(n, k)| n * k).sum();
    let weights = (block * config.num_layers + config.vocab_size * config.hidden_size) as f64;
    let steps = (recipe.train.steps > 0).then_some(recipe.train.steps as f64)?;
    let (rollout, eval) = (&recipe.rollout, &recipe.eval);
    let longest = rollout.max_tokens as f64;
    // Forward: a multiply-add a weight. Training: forward, and back to the activations.
    let of_step = match recipe.learner {
        Learner::Grpo => {
            let tokens = (rollout.prompts_per_step * rollout.samples_per_prompt) as f64 * longest;
            tokens * (2.0 + 4.0 * recipe.grpo.updates_per_batch as f64)
        }
        Learner::Sft => recipe.sft.examples_per_step as f64 * longest * 4.0,
    };
    let each = if eval.max_tokens > 0 { eval.max_tokens } else { rollout.max_tokens };
    let of_evaluation = (eval.problems * (eval.samples + usize::from(eval.greedy)) * each) as f64 * 2.0;
    let evaluations = match recipe.train.eval_every {
        0 => 2.0,
        every => 2.0 + (steps / every as f64).floor(),
    };
    Some(weights * (steps * of_step + evaluations * of_evaluation))
}

/// Seconds that `runs` take at most on a machine with so many FLOP/s; None if one's work is not known.
pub fn most_seconds(runs: &[Run], flops_per_second: f64) -> Option<f64> {
    let all: Option<f64> = runs.iter().map(|run| work(&run.recipe)).sum();
    all.map(|flops| flops / (flops_per_second * SHARE_OF_PEAK))
}

/// Time that is left, told from finished runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeLeft {
    /// Seconds.
    pub seconds: f64,
    /// Runs that are left.
    pub runs: usize,
    /// Finished runs that it is told from.
    pub from: usize,
}

/// Time for those of `runs` that have no row yet, by their work and the seconds that a unit of it took in the others; where
/// a run's work is not known, all count the same. `share` is what part of a run that has no row is done, by its place. None: nothing
/// is finished.
pub fn time_left(runs: &[Run], rows: &[ResultRow], share: &dyn Fn(usize) -> f64) -> Option<TimeLeft> {
    let seconds: BTreeMap<&str, f64> = rows.iter().map(|row| (row.name.as_str(), row.wall_seconds)).collect();
    let known: Option<Vec<f64>> = runs.iter().map(|run| work(&run.recipe)).collect();
    let works = known.unwrap_or_else(|| vec![1.0; runs.len()]);
    let (mut spent, mut done, mut left) = (0.0, 0.0, 0.0);
    let (mut from, mut missing) = (0, 0);
    for (index, (run, work)) in runs.iter().zip(works).enumerate() {
        match seconds.get(run.name.as_str()) {
            Some(seconds) => (spent, done, from) = (spent + seconds, done + work, from + 1),
            None => (left, missing) = (left + work * (1.0 - share(index)), missing + 1),
        }
    }
    (from > 0 && done > 0.0).then(|| TimeLeft { seconds: left * spent / done, runs: missing, from })
}

/// The finished runs of a sweep's folder; none where there is no table yet, or one of another version.
pub fn finished_runs(out: &Path) -> Vec<ResultRow> {
    let text = std::fs::read_to_string(out.join(super::RESULTS_FILE)).unwrap_or_default();
    text.lines().map(serde_json::from_str).collect::<Result<_, _>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::row;
    use super::*;

    fn run(name: &str, overrides: &[&str]) -> Run {
        let text = include_str!("../../../../recipes/quickstart.toml");
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        let recipe = Recipe::from_toml(text, &overrides).unwrap();
        Run { name: name.into(), settings: Vec::new(), recipe }
    }

    fn finished(name: &str, seconds: f64) -> ResultRow {
        ResultRow { name: name.into(), wall_seconds: seconds, ..row(13, 1e-3, 1, None) }
    }

    #[test]
    fn the_quick_starts_work_is_counted() {
        let weights = 106_168_320.0 + 49_152.0 * 576.0;
        let tokens = 18.0 * 8.0 * 16.0 * 20.0 * 6.0 + 2.0 * 512.0 * 2.0 * 20.0 * 2.0;
        let found = work(&run("a", &[]).recipe).unwrap();
        assert!((found / (weights * tokens) - 1.0).abs() < 1e-9, "{found}");
        assert_eq!(work(&run("a", &["model.ref=someone/else"]).recipe), None);
        assert_eq!(most_seconds(&[run("a", &[])], found), Some(2.0));
    }

    #[test]
    fn what_is_left_follows_from_what_is_done() {
        let runs = [run("a", &["eval.problems=0"]), run("b", &["eval.problems=0", "train.steps=36"])];
        let left = time_left(&runs, &[finished("a", 60.0)], &|_| 0.0).unwrap();
        assert!((left.seconds - 120.0).abs() < 1e-9);
        assert_eq!((left.runs, left.from), (1, 1));
        let left = time_left(&runs, &[finished("a", 60.0)], &|index| [0.0, 0.75][index]).unwrap();
        assert!((left.seconds - 30.0).abs() < 1e-9);
        let unknown = [runs[0].clone(), run("b", &["model.ref=someone/else"])];
        assert_eq!(time_left(&unknown, &[finished("a", 60.0)], &|_| 0.0).unwrap().seconds, 60.0);
        assert_eq!(time_left(&runs, &[finished("other", 60.0)], &|_| 0.0), None);
        let folder = tempfile::tempdir().unwrap();
        assert!(finished_runs(folder.path()).is_empty());
        let line = serde_json::to_string(&finished("a", 60.0)).unwrap();
        std::fs::write(folder.path().join("results.jsonl"), format!("{line}\n")).unwrap();
        assert_eq!(finished_runs(folder.path()), [finished("a", 60.0)]);
    }
}
