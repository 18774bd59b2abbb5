//! An adapter enters, its update of one module leaves as two factors: ΔW = (B R) A. Nothing here is written.

use super::error::InteropError;
use crate::adapter::{Module, Standalone};

/// The update of one module.
pub(super) struct Delta<'a> {
    pub module: Module,
    /// A (r, in)
    pub a: &'a [f32],
    /// B R (out, r), summed in f64 and rounded once.
    pub br: Vec<f32>,
    pub rank: usize,
}

/// The updates of all modules, in their order.
pub(super) fn deltas(adapter: &Standalone) -> Result<Vec<Delta<'_>>, InteropError> {
    let rank = adapter.rank();
    let r = adapter.r_matrices()?;
    let parts = adapter.modules.iter().zip(&adapter.factors.modules).zip(r.chunks_exact(rank * rank));
    Ok(parts
        .map(|((&module, factors), r)| Delta {
            module,
            a: &factors.a,
            br: product(&factors.b, r, rank),
            rank,
        })
        .collect())
}

/// B (out, r) · R (r, r)
fn product(b: &[f32], r: &[f32], rank: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(b.len());
    for row in b.chunks_exact(rank) {
        out.extend((0..rank).map(|j| {
            let sum: f64 =
                row.iter().enumerate().map(|(i, &b)| f64::from(b) * f64::from(r[i * rank + j])).sum();
            sum as f32
        }));
    }
    out
}

impl Delta<'_> {
    /// Row `row` of the update, (in), in f32.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        out.fill(0.0);
        let inputs = out.len();
        for (&factor, a) in self.br[row * self.rank..][..self.rank].iter().zip(self.a.chunks_exact(inputs)) {
            out.iter_mut().zip(a).for_each(|(out, &a)| *out = factor.mul_add(a, *out));
        }
    }
}
