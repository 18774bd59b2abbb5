//! The products of a model's linear layers by themselves, as fractions of the machine's peak.

use super::Peak;
use crate::model::ModuleKind;
use crate::model::config::ModelConfig;
use serde::Serialize;
use std::time::Instant;
use tinylora_compute::product::{BackwardTerm, Product, product, product_backward};
use tinylora_compute::{Cpu, PackedMatrix, Precision};

/// One product, y = x Wᵀ or dx = dy W.
#[derive(Debug, Clone, Serialize)]
pub struct ProductRow {
    /// Layer: q_proj, …
    pub layer: &'static str,
    /// forward or backward
    pub direction: &'static str,
    /// Rows of x.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// FLOP/s, median.
    pub flops: f64,
    /// Of the peak.
    pub fraction_of_peak: f64,
}

/// A run takes at least so many seconds, so that small products are repeated.
const LEAST_SECONDS: f64 = 0.02;

/// Measures forward and backward products of the four shapes of a block at each number of rows.
pub fn products(
    cpu: &Cpu,
    config: &ModelConfig,
    peak: Peak,
    rows: &[usize],
    repeats: usize,
) -> Vec<ProductRow> {
    let mut found = Vec::new();
    for kind in [ModuleKind::Q, ModuleKind::K, ModuleKind::Gate, ModuleKind::Down] {
        let (n, k) = kind.shape(config);
        let numbers = |count: usize| (0..count).map(|i| (i % 251) as f32 * 0.01 - 1.0).collect::<Vec<f32>>();
        let weight = PackedMatrix::from_slice(cpu, (n, k), Precision::Bf16, &numbers(n * k));
        for &m in rows {
            let (x, dy) = (numbers(m * k), numbers(m * n));
            let (mut y, mut dx) = (vec![0.0; m * n], vec![0.0; m * k]);
            let forward = &mut || {
                product(cpu, &x, m, &mut [Product { weight: &weight, bias: None, side: None, out: &mut y }]);
            };
            let term = BackwardTerm { weight: &weight, gradient: &dy, side: None };
            let backward = &mut || product_backward(cpu, std::slice::from_ref(&term), m, &mut dx);
            let directions: [(&'static str, &mut dyn FnMut()); 2] =
                [("forward", forward), ("backward", backward)];
            for (direction, run) in directions {
                let flops = 2.0 * (m * n * k) as f64 / median_seconds(repeats, run);
                let fraction_of_peak = flops / peak.matmul_flops;
                found.push(ProductRow { layer: kind.name(), direction, m, n, k, flops, fraction_of_peak });
            }
        }
    }
    found
}

fn median_seconds(repeats: usize, run: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    run();
    let times = (LEAST_SECONDS / start.elapsed().as_secs_f64()).ceil().clamp(1.0, 1e4) as usize;
    let mut seconds: Vec<f64> = (0..repeats.max(1))
        .map(|_| {
            let start = Instant::now();
            (0..times).for_each(|_| run());
            start.elapsed().as_secs_f64() / times as f64
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
