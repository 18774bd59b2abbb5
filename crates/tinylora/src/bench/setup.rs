//! What comes before the first step of a new base: the truncated SVD of every matrix that an adapter is on.

use super::BenchError;
use crate::adapter::{TinyLoraSpec, compute_factors};
use crate::model::{Frozen, Model};
use crate::recipe::AdapterSection;
use serde::Serialize;
use std::time::Instant;
use tinylora_compute::Cpu;

/// The factors of all matrices, computed once, not read from the cache.
#[derive(Debug, Clone, Serialize)]
pub struct SetupRow {
    /// Matrices.
    pub modules: usize,
    /// Singular triplets of each.
    pub rank: usize,
    /// Weights in these matrices.
    pub weights: usize,
    /// Time for all.
    pub seconds: f64,
}

/// Computes them for the default adapter: all seven kinds of linear layers, rank 2.
///
/// # Errors
/// If a matrix has numbers that are no numbers, or does not converge.
pub fn setup(cpu: &Cpu, model: &Model) -> Result<SetupRow, BenchError> {
    let spec = TinyLoraSpec::new(&AdapterSection::default(), &model.config)?;
    let matrices: Vec<Frozen> =
        spec.modules().map(|module| model.frozen(module.layer, module.target)).collect();
    let start = Instant::now();
    compute_factors(cpu, &spec, &matrices, &|_| {})?;
    let seconds = start.elapsed().as_secs_f64();
    let weights = matrices.iter().map(|matrix| matrix.rows() * matrix.columns()).sum();
    Ok(SetupRow { modules: matrices.len(), rank: spec.rank, weights, seconds })
}
