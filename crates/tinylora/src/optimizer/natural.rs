//! The natural gradient: scores of sampled completions and a gradient enter, a step leaves.
//!
//! The Fisher matrix of the policy over v (k numbers) is the mean outer product of scores,
//!
//! ```text
//! F = 1/T Σ_i S_i S_iᵀ,   S_i = ∂ ln p(completion i) / ∂v = Σ_t s_it,   s_it = ∂ ln p(token t) / ∂v
//! ```
//!
//! over completions that the policy itself sampled, T tokens in all. Its expectation is that of 1/T Σ_it s_it s_itᵀ: in
//! E[S Sᵀ] = Σ_t E[s_t s_tᵀ] + Σ_{t≠u} E[s_t s_uᵀ] the terms t < u vanish, since s_t is a function of what came before
//! token u and E[s_u | what came before] = ∂/∂v Σ p = 0. Either kind of score gives the exact Fisher matrix, per token, of the
//! distribution over completions, so ½ δᵀFδ is KL(π_v ‖ π_{v+δ}) a token, to second order.
//!
//! With λ = damping · tr F / k the step is
//!
//! ```text
//! δ = −η (F + λI)⁻¹ g,   scaled so that ½ δᵀFδ ≤ kl_bound
//! ```
//!
//! (Amari 1998; the bound as in TRPO, Schulman et al. 2015, eq. 12 to 14). The system is solved by Cholesky in f64. That takes
//! k³/3 operations and k² numbers, so k is limited.

use super::update::OptimizerError;

/// More parameters than this have no Fisher matrix: 128 MiB twice, and about seven seconds a step.
pub const MOST_PARAMETERS: usize = 4096;

/// The Fisher matrix of k parameters, as it grows.
#[derive(Debug, Clone)]
pub struct Fisher {
    parameters: usize,
    tokens: usize,
    /// Σ S Sᵀ (k, k); the upper triangle stays 0.
    sum: Vec<f64>,
}

impl Fisher {
    /// Of no scores yet.
    pub fn new(parameters: usize) -> Self {
        Self { parameters, tokens: 0, sum: vec![0.0; parameters * parameters] }
    }

    /// Adds a score (k) of so many tokens. The order of scores is that of the sums.
    ///
    /// # Panics
    /// If the score has another length.
    pub fn push(&mut self, score: &[f32], tokens: usize) {
        assert_eq!(score.len(), self.parameters, "a number a parameter");
        self.tokens += tokens;
        for (row, &s) in self.sum.chunks_exact_mut(self.parameters.max(1)).zip(score) {
            let s = f64::from(s);
            row.iter_mut().zip(score).for_each(|(sum, &other)| *sum += s * f64::from(other));
        }
    }

    /// k
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    fn entry(&self, row: usize, column: usize) -> f64 {
        self.sum[row * self.parameters + column] / self.tokens.max(1) as f64
    }

    fn mean_of_diagonal(&self) -> f64 {
        (0..self.parameters).map(|i| self.entry(i, i)).sum::<f64>() / self.parameters.max(1) as f64
    }

    /// ½ δᵀFδ
    pub fn half_form(&self, step: &[f64]) -> f64 {
        let rows = self.sum.chunks_exact(self.parameters.max(1)).zip(step);
        let form: f64 = rows.map(|(row, d)| d * row.iter().zip(step).map(|(f, d)| f * d).sum::<f64>()).sum();
        0.5 * form / self.tokens.max(1) as f64
    }
}

/// δ for the gradient (k) of the loss; see the top of the file. `step` is for messages.
pub(super) fn natural_step(
    fisher: &Fisher,
    gradient: &[f32],
    learning_rate: f64,
    (damping, kl_bound): (f64, f64),
    step: u64,
) -> Result<Vec<f64>, OptimizerError> {
    let mean = fisher.mean_of_diagonal();
    if mean == 0.0 {
        // No score moves with v: neither does v.
        return Ok(vec![0.0; gradient.len()]);
    }
    let k = fisher.parameters;
    let mut lower: Vec<f64> = (0..k * k).map(|i| fisher.entry(i / k, i % k)).collect();
    (0..k).for_each(|i| lower[i * k + i] += damping * mean);
    if let Err(row) = factor(&mut lower, k) {
        return Err(OptimizerError::FisherNotPositive { step, row, count: k });
    }
    let mut delta: Vec<f64> = gradient.iter().map(|&g| f64::from(g)).collect();
    solve(&lower, &mut delta);
    delta.iter_mut().for_each(|d| *d *= -learning_rate);
    let change = fisher.half_form(&delta);
    if change > kl_bound {
        let factor = (kl_bound / change).sqrt();
        delta.iter_mut().for_each(|d| *d *= factor);
    }
    Ok(delta)
}

/// A = L Lᵀ in place, from and to the lower triangle (k, k); the row where A turned out not to be positive.
fn factor(a: &mut [f64], k: usize) -> Result<(), usize> {
    for row in 0..k {
        let (above, this) = a.split_at_mut(row * k);
        for column in 0..row {
            let other = &above[column * k..][..column + 1];
            let sum = dot(&this[..column], &other[..column]);
            this[column] = (this[column] - sum) / other[column];
        }
        let pivot = this[row] - dot(&this[..row], &this[..row]);
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(row);
        }
        this[row] = pivot.sqrt();
    }
    Ok(())
}

/// x ← (L Lᵀ)⁻¹ x
fn solve(lower: &[f64], x: &mut [f64]) {
    let k = x.len();
    for row in 0..k {
        let sum = dot(&lower[row * k..][..row], &x[..row]);
        x[row] = (x[row] - sum) / lower[row * k + row];
    }
    for row in (0..k).rev() {
        x[row] /= lower[row * k + row];
        let value = x[row];
        x[..row].iter_mut().zip(&lower[row * k..]).for_each(|(x, l)| *x -= l * value);
    }
}

/// Four sums, joined in order: faster than one, and the same on every machine.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0f64; 4];
    let (a_parts, b_parts) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_parts.zip(b_parts) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64, n: usize) -> Vec<f32> {
        let stream = crate::random::Stream::new(seed, crate::random::Purpose::Weights, 0);
        (0..n as u64).map(|i| stream.normal(i) as f32).collect()
    }

    fn fisher(scores: &[f32], k: usize) -> Fisher {
        let mut fisher = Fisher::new(k);
        scores.chunks_exact(k).for_each(|score| fisher.push(score, 3));
        fisher
    }

    #[test]
    fn the_step_solves_the_damped_system() {
        for (k, n) in [(1, 5), (2, 1), (13, 40), (70, 20), (129, 300)] {
            let scores = numbers(k as u64, k * n);
            let fisher = fisher(&scores, k);
            let gradient = numbers(99, k);
            let (damping, rate) = (0.1, 0.5);
            let delta = natural_step(&fisher, &gradient, rate, (damping, f64::INFINITY), 0).unwrap();
            // F written out again, from the scores.
            let f = |i: usize, j: usize| -> f64 {
                let products = scores.chunks_exact(k).map(|s| f64::from(s[i]) * f64::from(s[j]));
                products.sum::<f64>() / (3 * n) as f64
            };
            let lambda = damping * (0..k).map(|i| f(i, i)).sum::<f64>() / k as f64;
            for i in 0..k {
                let left: f64 = (0..k).map(|j| f(i, j) * delta[j]).sum::<f64>() + lambda * delta[i];
                let right = -rate * f64::from(gradient[i]);
                assert!((left - right).abs() < 1e-10 * (1.0 + right.abs()), "k {k}, {i}: {left} {right}");
            }
        }
    }

    /// A choice among five with probabilities p = n/16 by softmax: F = diag(p) − ppᵀ, and for the expected reward
    /// Σ p r the natural gradient is r − mean r (up to what all logits share, which changes nothing).
    #[test]
    fn a_softmax_moves_along_its_rewards() {
        let counts = [1, 2, 3, 4, 6];
        let p = counts.map(|n| n as f32 / 16.0);
        let rewards = [1.0f32, 0.0, -0.5, 2.0, 0.25];
        let mut fisher = Fisher::new(5);
        for (chosen, count) in counts.into_iter().enumerate() {
            // ∂ ln p(chosen) / ∂ logits = e_chosen − p, as often as it is chosen.
            let score: Vec<f32> = (0..5).map(|i| f32::from(i == chosen) - p[i]).collect();
            (0..count).for_each(|_| fisher.push(&score, 1));
        }
        for i in 0..5 {
            for j in 0..5 {
                let wanted = f32::from(i == j) * p[i] - p[i] * p[j];
                assert!((fisher.entry(i, j) - f64::from(wanted)).abs() < 1e-7);
            }
        }
        let expected: f32 = p.iter().zip(rewards).map(|(p, r)| p * r).sum();
        // Of the loss −Σ p r.
        let gradient: Vec<f32> = p.iter().zip(rewards).map(|(p, r)| -p * (r - expected)).collect();
        let free = natural_step(&fisher, &gradient, 1.0, (1e-4, f64::INFINITY), 0).unwrap();
        let mean = rewards.iter().sum::<f32>() / 5.0;
        for (d, r) in free.iter().zip(rewards) {
            assert!((d - f64::from(r - mean)).abs() < 3e-3, "{d} {}", r - mean);
        }
        // In the trust region: the same direction, exactly at its border.
        let bound = 1e-5;
        let bounded = natural_step(&fisher, &gradient, 1.0, (1e-4, bound), 0).unwrap();
        assert!((fisher.half_form(&bounded) / bound - 1.0).abs() < 1e-12);
        let ratio = bounded[0] / free[0];
        assert!(ratio < 1.0 && bounded.iter().zip(&free).all(|(b, f)| (b - ratio * f).abs() < 1e-12));
        // And ½ δᵀFδ is the KL of the step, to second order.
        let moved: Vec<f64> = p.iter().zip(&bounded).map(|(&p, d)| f64::from(p) * d.exp()).collect();
        let total: f64 = moved.iter().sum();
        let kl: f64 =
            p.iter().zip(&moved).map(|(&p, m)| f64::from(p) * (f64::from(p) * total / m).ln()).sum();
        assert!((kl / bound - 1.0).abs() < 0.02, "{kl}");
    }

    /// Two tokens, each from three, the second's logits depending on the first: scores of whole completions and of
    /// tokens have the same mean outer product, in exact expectation over all nine completions.
    #[test]
    fn cross_terms_of_a_sequence_vanish() {
        let theta: Vec<f64> = numbers(5, 12).into_iter().map(f64::from).collect();
        // Logits θ_0..3 at first, then θ_{3 + 3·first + token}.
        let row = |first: Option<usize>| first.map_or(0, |first| 3 + 3 * first);
        let p = |first: Option<usize>, token: usize| {
            let logits = &theta[row(first)..][..3];
            logits[token].exp() / logits.iter().map(|l| l.exp()).sum::<f64>()
        };
        let score = |first: Option<usize>, token: usize| -> Vec<f64> {
            let mut score = vec![0.0; 12];
            (0..3).for_each(|i| score[row(first) + i] = f64::from(i == token) - p(first, i));
            score
        };
        let (mut sequences, mut tokens, mut mixed) = (vec![0.0; 144], vec![0.0; 144], 0f64);
        for first in 0..3 {
            for second in 0..3 {
                let probability = p(None, first) * p(Some(first), second);
                let (a, b) = (score(None, first), score(Some(first), second));
                for i in 0..144 {
                    let (x, y) = (i / 12, i % 12);
                    sequences[i] += probability * (a[x] + b[x]) * (a[y] + b[y]);
                    tokens[i] += probability * (a[x] * a[y] + b[x] * b[y]);
                    mixed = mixed.max((a[x] * b[y]).abs());
                }
            }
        }
        assert!(mixed > 0.1, "single completions have cross terms");
        assert!(sequences.iter().zip(&tokens).all(|(s, t)| (s - t).abs() < 1e-14));
    }

    #[test]
    fn scores_that_are_not_finite_are_an_error() {
        let mut fisher = Fisher::new(2);
        fisher.push(&[1.0, f32::INFINITY], 1);
        let error = natural_step(&fisher, &[1.0, 1.0], 1.0, (0.1, 1.0), 7).unwrap_err();
        assert!(matches!(error, OptimizerError::FisherNotPositive { step: 7, count: 2, .. }), "{error}");
        assert_eq!(natural_step(&Fisher::new(2), &[0.0; 2], 1.0, (0.1, 1.0), 0).unwrap(), [0.0; 2]);
    }
}
