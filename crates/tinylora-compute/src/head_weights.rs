//! The gradient of the language-model head's matrix, over the vocabulary in chunks: [tokens, vocabulary] never exists.
//!
//! M rows, D width, V vocabulary. `dE_v += Σ_rows w_v x` with `w_v = (a (1[v = target] − p_v) − b p_v (ln p_v + H)) / T`,
//! where a and b are the loss's slopes by the row's log-prob and entropy. Each element is one chain over the rows.

use crate::head::{Distribution, Exponentials, VOCABULARY_CHUNK, chunk_logits};
use crate::kernel::{Cpu, dispatch};
use crate::operand::{Operand, pairs_for};
use crate::outer::{Columns, add_outer};
use crate::packed::{PackedMatrix, SendPointer};
use crate::product::with_scratch;

/// Chunks of the vocabulary handled at once.
const CHUNKS: usize = 4;
/// Rows a task of the logits.
const ROWS: usize = 64;

/// The loss's slopes at each row.
#[derive(Clone, Copy)]
pub struct HeadSlopes<'a> {
    /// The row's token (M).
    pub targets: &'a [u32],
    /// ∂loss / ∂ ln p of that token (M).
    pub logprobs: &'a [f32],
    /// ∂loss / ∂ entropy (M).
    pub entropies: &'a [f32],
}

/// `sums (V, D) += dE`, for rows x (M, D) whose softmax is known.
///
/// # Panics
/// If a length does not fit or a token is outside the vocabulary.
pub fn add_head_weight_gradient(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    rows: &[Distribution],
    slopes: HeadSlopes<'_>,
    inverse_temperature: f32,
    sums: &mut [f32],
) {
    let (m, width) = (rows.len(), head.columns());
    assert_eq!(x.len(), m * width, "{m} rows of {width}");
    assert!(slopes.targets.len() == m && slopes.logprobs.len() == m && slopes.entropies.len() == m);
    assert!(slopes.targets.iter().all(|&token| (token as usize) < head.rows()), "tokens of the vocabulary");
    assert_eq!(sums.len(), head.rows() * width, "sums are (V = {}, D = {width})", head.rows());
    let pairs = pairs_for(cpu, head, x, width);
    let operand = Operand::new(cpu, x, &pairs, width);
    let chunks = head.rows().div_ceil(VOCABULARY_CHUNK);
    let stride = CHUNKS.min(chunks) * VOCABULARY_CHUNK;
    let mut weights = vec![0f32; m * stride];
    for first in (0..chunks).step_by(CHUNKS) {
        let count = CHUNKS.min(chunks - first);
        let to = SendPointer(weights.as_mut_ptr());
        cpu.parallel(m.div_ceil(ROWS) * count, |task| {
            let (first_row, chunk) = (task / count * ROWS, task % count);
            let block = ROWS.min(m - first_row);
            with_scratch(block * VOCABULARY_CHUNK, |logits| {
                let x = operand.rows(first_row, block);
                let used = chunk_logits(cpu.kernel(), head, x, first + chunk, inverse_temperature, logits);
                for (row, logits) in logits.chunks_exact_mut(VOCABULARY_CHUNK).enumerate() {
                    let at = first_row + row;
                    // SAFETY: each task writes its own rows and chunk.
                    let out = unsafe {
                        let start = to.get().add(at * stride + chunk * VOCABULARY_CHUNK);
                        std::slice::from_raw_parts_mut(start, used)
                    };
                    let token = slopes.targets[at] as usize;
                    let token = token.checked_sub((first + chunk) * VOCABULARY_CHUNK);
                    let slopes = (slopes.logprobs[at], slopes.entropies[at]);
                    weigh(cpu, &rows[at], slopes, &mut logits[..used], out);
                    if let Some(out) = token.and_then(|token| out.get_mut(token)) {
                        *out += slopes.0;
                    }
                    out.iter_mut().for_each(|out| *out *= inverse_temperature);
                }
            });
        });
        let start = first * VOCABULARY_CHUNK;
        let columns = (count * VOCABULARY_CHUNK).min(head.rows() - start);
        let y = Columns { values: &weights, stride, offset: 0, columns };
        add_outer(cpu, y, Columns::all(x, width), m, &mut sums[start * width..][..columns * width]);
    }
}

/// `out = −a p − b p (ln p + H)` from logits, which are overwritten.
fn weigh(cpu: &Cpu, row: &Distribution, (a, b): (f32, f32), logits: &mut [f32], out: &mut [f32]) {
    let (top, entropy) = (row.log_normalizer, row.entropy);
    if b == 0.0 {
        out.fill(-a);
    } else {
        out.iter_mut().zip(&*logits).for_each(|(out, logit)| *out = -a - b * (logit - top + entropy));
    }
    dispatch(cpu.kernel(), Exponentials { logits, top });
    out.iter_mut().zip(&*logits).for_each(|(out, p)| *out *= p);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::head_statistics;
    use crate::kernel::Kernel;
    use crate::packed::Precision;
    use crate::testing::numbers;

    /// Σ a ln p + b H over the rows, in f64.
    fn loss(e: &[f32], x: &[f32], width: usize, slopes: HeadSlopes<'_>, inverse_temperature: f64) -> f64 {
        let of_row = |(row, x): (usize, &[f32])| {
            let dot = |e: &[f32]| e.iter().zip(x).map(|(&e, &x)| f64::from(e) * f64::from(x)).sum::<f64>();
            let logits: Vec<f64> = e.chunks(width).map(|e| dot(e) * inverse_temperature).collect();
            let normalizer = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
            let entropy = -logits.iter().map(|l| (l - normalizer).exp() * (l - normalizer)).sum::<f64>();
            let logprob = logits[slopes.targets[row] as usize] - normalizer;
            f64::from(slopes.logprobs[row]) * logprob + f64::from(slopes.entropies[row]) * entropy
        };
        x.chunks(width).enumerate().map(of_row).sum()
    }

    #[test]
    fn the_slope_of_the_loss_in_every_kernel() {
        let (m, width, vocabulary) = (70, 19, 1100);
        let (e, x) = (numbers(1, vocabulary * width), numbers(2, m * width));
        let targets: Vec<u32> = (0..m as u32).map(|row| row * 37 % vocabulary as u32).collect();
        let (logprobs, entropies) = (numbers(3, m), numbers(4, m));
        let slopes = HeadSlopes { targets: &targets, logprobs: &logprobs, entropies: &entropies };
        let mut first: Option<Vec<f32>> = None;
        for kernel in Kernel::available() {
            for threads in [1, 3] {
                let cpu = Cpu::new(kernel, threads);
                let head = PackedMatrix::from_slice(&cpu, (vocabulary, width), Precision::F32, &e);
                let rows = head_statistics(&cpu, &head, &x, 0.8).rows;
                let mut sums = vec![0f32; vocabulary * width];
                add_head_weight_gradient(&cpu, &head, &x, &rows, slopes, 0.8, &mut sums);
                let same = first.get_or_insert_with(|| sums.clone());
                assert!(same.iter().zip(&sums).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", kernel.name());
            }
        }
        let found = first.unwrap();
        for at in [0, 5, 37 * width + 3, 255 * width, 256 * width + 18, 1024 * width + 7, found.len() - 1] {
            let shifted = |by: f32| {
                let mut e = e.clone();
                e[at] += by;
                (f64::from(e[at]), loss(&e, &x, width, slopes, f64::from(0.8f32)))
            };
            let ((high, up), (low, down)) = (shifted(1e-2), shifted(-1e-2));
            let slope = (up - down) / (high - low);
            assert!(
                (slope - f64::from(found[at])).abs() < 1e-4 * slope.abs().max(0.05),
                "{at}: {slope} {}",
                found[at]
            );
        }
    }
}
