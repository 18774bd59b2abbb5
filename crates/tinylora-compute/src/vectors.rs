//! Gradients of vectors that every row shares: biases and the weights of RMS norms (T rows, D columns).
//!
//! Each element is one chain over the rows, ascending, in f64, rounded once when it is added; threads and instruction sets
//! change nothing.

use crate::kernel::Cpu;
use crate::rows::for_chunks;

/// Columns a task.
const COLUMNS: usize = 64;

/// `sums (D) += Σ_rows dy`: the gradient of a bias.
///
/// # Panics
/// If dy is not whole rows of D.
pub fn add_column_sums(cpu: &Cpu, dy: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    assert_eq!(dy.len() % width, 0, "whole rows of {width}");
    for_chunks(cpu, sums, COLUMNS, |first, sums| {
        let mut totals = [0f64; COLUMNS];
        for dy in dy.chunks_exact(width) {
            totals.iter_mut().zip(&dy[first..][..sums.len()]).for_each(|(t, &dy)| *t += f64::from(dy));
        }
        sums.iter_mut().zip(totals).for_each(|(sum, total)| *sum += total as f32);
    });
}

/// `sums (D) += Σ_rows dy · x / rms(x)`: the gradient of an RMS norm's weight, also where the factor is 1 + weight.
///
/// # Panics
/// If x and dy are not equally many whole rows of D.
pub fn add_norm_weight_gradient(cpu: &Cpu, x: &[f32], epsilon: f32, dy: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    assert_eq!(x.len(), dy.len());
    assert_eq!(dy.len() % width, 0, "whole rows of {width}");
    let mut scales = vec![0f32; x.len() / width];
    for_chunks(cpu, &mut scales, 16, |first, scales| {
        for (scale, x) in scales.iter_mut().zip(x[first * width..].chunks_exact(width)) {
            let squares = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
            *scale = (squares / width as f64 + f64::from(epsilon)).sqrt().recip() as f32;
        }
    });
    for_chunks(cpu, sums, COLUMNS, |first, sums| {
        let mut totals = [0f64; COLUMNS];
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(&scales);
        for ((x, dy), &scale) in rows {
            let columns = x[first..][..sums.len()].iter().zip(&dy[first..][..sums.len()]);
            for (total, (&x, &dy)) in totals.iter_mut().zip(columns) {
                *total += f64::from(dy) * f64::from(x) * f64::from(scale);
            }
        }
        sums.iter_mut().zip(totals).for_each(|(sum, total)| *sum += total as f32);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use crate::norm::rms_norm;
    use crate::testing::numbers;

    #[test]
    fn slopes_of_norm_and_bias_on_any_threads() {
        for (rows, width) in [(1, 1), (3, 70), (9, 576)] {
            let (x, dy, w) = (numbers(1, rows * width), numbers(2, rows * width), numbers(3, width));
            let before = numbers(4, width);
            let of = |threads| {
                let cpu = Cpu::new(Kernel::best_exact(), threads);
                let (mut norm, mut bias) = (before.clone(), before.clone());
                add_norm_weight_gradient(&cpu, &x, 1e-5, &dy, &mut norm);
                add_column_sums(&cpu, &dy, &mut bias);
                (norm, bias)
            };
            let (norm, bias) = of(1);
            assert!(of(3) == (norm.clone(), bias.clone()));
            let cpu = Cpu::new(Kernel::best_exact(), 1);
            for j in 0..width {
                // The norm is linear in its weight.
                let value = |step: f32| -> f64 {
                    let mut w = w.clone();
                    w[j] = step;
                    let mut y = vec![0.0; rows * width];
                    rms_norm(&cpu, &x, &w, 1e-5, &mut y);
                    y.iter().zip(&dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum()
                };
                let slope = value(1.0) - value(0.0);
                let found = f64::from(norm[j]) - f64::from(before[j]);
                assert!((slope - found).abs() < 1e-5 * (1.0 + slope.abs()), "{width} {j}: {slope} {found}");
                let sum: f64 = (0..rows).map(|row| f64::from(dy[row * width + j])).sum();
                assert!((f64::from(bias[j]) - f64::from(before[j]) - sum).abs() < 1e-5);
            }
        }
    }
}
