//! What runs on one base share: its factors, the buffers of the gradient, and measurements before training, each made once.

use crate::base::{Base, FactorStore};
use crate::evaluate::Evaluation;
use crate::gradient::GradientWorkspace;
use crate::recipe::{
    AdapterSection, GrpoSection, Learner, OptimizerSection, Recipe, SftSection, TrainSection,
};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// For runs on one base, one after the other or each in a thread of its own.
#[derive(Default)]
pub struct Shared {
    /// Evaluations before training, by everything that they depend on; None: a run is at it.
    baselines: Mutex<BTreeMap<String, Option<Evaluation>>>,
    pub(super) factors: FactorStore,
    workspace: Mutex<GradientWorkspace>,
}

/// A measurement before training.
pub(super) enum Baseline<'a> {
    /// It was made.
    Known(Evaluation),
    /// Another run is at it.
    Begun,
    /// It is to be made, and kept for others.
    Missing(Unmade<'a>),
}

/// A measurement that a run has taken on; if it is dropped, another may take it on.
pub(super) struct Unmade<'a> {
    shared: &'a Shared,
    key: Option<String>,
}

impl Shared {
    /// The measurement that a recipe begins with.
    pub(super) fn baseline(&self, base: &Base, recipe: &Recipe) -> Baseline<'_> {
        let Some(key) = key(base, recipe) else {
            return Baseline::Missing(Unmade { shared: self, key: None });
        };
        let mut baselines = lock(&self.baselines);
        match baselines.get(&key) {
            Some(Some(evaluation)) => Baseline::Known(evaluation.clone()),
            Some(None) => Baseline::Begun,
            None => {
                baselines.insert(key.clone(), None);
                Baseline::Missing(Unmade { shared: self, key: Some(key) })
            }
        }
    }

    /// The buffers, for one at a time.
    pub(super) fn workspace(&self) -> MutexGuard<'_, GradientWorkspace> {
        lock(&self.workspace)
    }
}

impl Unmade<'_> {
    /// Keeps what was measured.
    pub fn keep(mut self, evaluation: &Evaluation) {
        if let Some(key) = self.key.take() {
            lock(&self.shared.baselines).insert(key, Some(evaluation.clone()));
        }
    }
}

impl Drop for Unmade<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            lock(&self.shared.baselines).remove(key);
        }
    }
}

/// Everything that a measurement depends on. With v = 0 the adapter has no say in it. None where v does not start at 0, so that
/// each run has a beginning of its own.
fn key(base: &Base, recipe: &Recipe) -> Option<String> {
    let same = Recipe {
        name: "baseline".into(),
        learner: Learner::default(),
        adapter: AdapterSection::default(),
        grpo: GrpoSection::default(),
        sft: SftSection::default(),
        optimizer: OptimizerSection::default(),
        train: TrainSection::default(),
        ..recipe.clone()
    };
    (recipe.adapter.init_bound == 0.0).then(|| format!("{}\n{}", base.sha256, same.to_toml()))
}

/// A run that panicked leaves nothing half done behind: maps change in one call, and buffers are overwritten before use.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
