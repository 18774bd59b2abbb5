//! Hidden states enter, tokens with their log-probs leave. With top-k or top-p the log-probs are those of the
//! distribution that was sampled from, and the support goes with the token, so that training can use it.

use crate::model::{DeviceError, Hidden, Model};
use crate::random::Stream;
use tinylora_compute::head::{Choice, Distribution, greedy, head_statistics, sample};
use tinylora_compute::product::{Product, product};
use tinylora_compute::{Cpu, PackedMatrix};

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0: the most probable token, with its log-prob at temperature 1.
    pub temperature: f32,
    /// The smallest set of most probable tokens with at least this probability; 1 keeps all.
    pub top_p: f32,
    /// Only the k most probable tokens, before top-p; 0 keeps all.
    pub top_k: usize,
}

impl Sampling {
    /// The most probable token each time.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0 };

    /// Whether only a part of the vocabulary is sampled from.
    pub fn is_truncated(&self) -> bool {
        self.temperature > 0.0 && (self.top_p < 1.0 || self.top_k > 0)
    }

    /// The factor on logits.
    pub fn inverse_temperature(&self) -> f32 {
        if self.temperature > 0.0 { 1.0 / self.temperature } else { 1.0 }
    }
}

/// One sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Token id.
    pub token: u32,
    /// ln p, over the support.
    pub logprob: f32,
    /// Entropy of the distribution sampled from, in nats.
    pub entropy: f32,
    /// Ids sampled from, ascending; None: the whole vocabulary.
    pub support: Option<Vec<u32>>,
}

/// Rows whose whole logits are held at once, for top-k and top-p.
const TRUNCATED_ROWS: usize = 16;

/// Samples one token for each row of `hidden` where the model computes, and adds them to `sampled`; the number of a stream
/// at a counter decides: `draws`, and as numbers `uniforms`.
pub fn sample_hidden(
    cpu: &Cpu,
    model: &Model,
    hidden: &Hidden,
    sampling: Sampling,
    (draws, uniforms): (&[(Stream, u64)], &[f64]),
    sampled: &mut Vec<Sampled>,
) -> Result<(), DeviceError> {
    let inverse_temperature = sampling.inverse_temperature();
    match (hidden.host(), sampling.is_truncated()) {
        (Some(hidden), _) => sample_rows(cpu, model.head(), hidden, sampling, uniforms, sampled),
        (None, false) => {
            let greedy = sampling.temperature <= 0.0;
            let choices = model.choose(hidden, inverse_temperature, draws, greedy)?;
            let whole = |(token, logprob, entropy)| Sampled { token, logprob, entropy, support: None };
            sampled.extend(choices.into_iter().map(whole));
        }
        (None, true) => {
            let rows: Vec<usize> = (0..hidden.rows()).collect();
            for (rows, uniforms) in rows.chunks(TRUNCATED_ROWS).zip(uniforms.chunks(TRUNCATED_ROWS)) {
                let logits = model.logits(&hidden.pick(rows), inverse_temperature)?;
                let logits = logits.chunks_exact(model.config.vocab_size).zip(uniforms);
                sampled.extend(logits.map(|(logits, &uniform)| sample_truncated(logits, sampling, uniform)));
            }
        }
    }
    Ok(())
}

/// Samples one token for each row of `hidden` (n, D), with `uniforms[i]` in [0, 1) deciding, and adds them to `sampled`.
pub fn sample_rows(
    cpu: &Cpu,
    head: &PackedMatrix,
    hidden: &[f32],
    sampling: Sampling,
    uniforms: &[f64],
    sampled: &mut Vec<Sampled>,
) {
    let inverse_temperature = sampling.inverse_temperature();
    if sampling.is_truncated() {
        let rows = hidden.chunks(TRUNCATED_ROWS * head.columns()).zip(uniforms.chunks(TRUNCATED_ROWS));
        sampled.extend(rows.flat_map(|(hidden, uniforms)| truncated(cpu, head, hidden, sampling, uniforms)));
        return;
    }
    let statistics = head_statistics(cpu, head, hidden, inverse_temperature);
    let choices = if sampling.temperature > 0.0 {
        sample(cpu, head, hidden, &statistics, uniforms)
    } else {
        greedy(cpu, head, hidden, &statistics)
    };
    let pair = |(&Choice { token, logit }, row): (&Choice, &Distribution)| Sampled {
        token,
        logprob: logit - row.log_normalizer,
        entropy: row.entropy,
        support: None,
    };
    sampled.extend(choices.iter().zip(statistics.rows.iter()).map(pair));
}

fn truncated(
    cpu: &Cpu,
    head: &PackedMatrix,
    hidden: &[f32],
    sampling: Sampling,
    uniforms: &[f64],
) -> Vec<Sampled> {
    let vocabulary = head.rows();
    let mut logits = vec![0.0; uniforms.len() * vocabulary];
    product(
        cpu,
        hidden,
        uniforms.len(),
        &mut [Product { weight: head, bias: None, side: None, out: &mut logits }],
    );
    let inverse_temperature = sampling.inverse_temperature();
    let rows = logits.chunks_exact_mut(vocabulary).zip(uniforms);
    rows.map(|(logits, &uniform)| {
        logits.iter_mut().for_each(|logit| *logit *= inverse_temperature);
        sample_truncated(logits, sampling, uniform)
    })
    .collect()
}

fn sample_truncated(logits: &[f32], sampling: Sampling, uniform: f64) -> Sampled {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if sampling.top_k > 0 && sampling.top_k < order.len() {
        order.select_nth_unstable_by(sampling.top_k - 1, better);
        order.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        order.sort_unstable_by(better);
        let top = f64::from(logits[order[0] as usize]);
        let weight = |&id: &u32| (f64::from(logits[id as usize]) - top).exp();
        let wanted = f64::from(sampling.top_p) * order.iter().map(weight).sum::<f64>();
        let mut sum = 0.0;
        let keep = order.iter().position(|id| {
            sum += weight(id);
            sum >= wanted
        });
        order.truncate(keep.map_or(order.len(), |last| last + 1));
    }
    order.sort_unstable();
    let support: Vec<f32> = order.iter().map(|&id| logits[id as usize]).collect();
    let normalizer = support_normalizer(&support);
    let p = |logit: f32| f64::from(logit - normalizer).exp();
    let total: f64 = support.iter().map(|&logit| p(logit)).sum();
    let mut left = uniform * total;
    let chosen = support.iter().position(|&logit| {
        left -= p(logit);
        left < 0.0
    });
    let chosen = chosen.unwrap_or(support.len() - 1);
    let entropy: f64 = support.iter().map(|&logit| -p(logit) * f64::from(logit - normalizer)).sum();
    Sampled {
        token: order[chosen],
        logprob: support[chosen] - normalizer,
        entropy: entropy as f32,
        support: Some(order),
    }
}

/// ln Σ eˡ over a support's logits, in the order given: the same function for sampling and training.
pub fn support_normalizer(logits: &[f32]) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - top).exp()).sum();
    top + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truncated(logits: &[f32], top_p: f32, top_k: usize, uniform: f64) -> Sampled {
        sample_truncated(logits, Sampling { temperature: 1.0, top_p, top_k }, uniform)
    }

    #[test]
    fn supports_are_the_most_probable_tokens() {
        // Probabilities 0.5, 0.25, 0.125, 0.125 at ids 2, 0, 1, 3.
        let logits = [0.25f32, 0.125, 0.5, 0.125].map(f32::ln);
        assert_eq!(truncated(&logits, 1.0, 2, 0.0).support, Some(vec![0, 2]));
        assert_eq!(truncated(&logits, 0.75, 0, 0.0).support, Some(vec![0, 2]));
        assert_eq!(truncated(&logits, 0.76, 0, 0.0).support, Some(vec![0, 1, 2]));
        assert_eq!(truncated(&logits, 0.1, 0, 0.9).support, Some(vec![2]));
        // top-k first, then top-p of what is left: 2/3 and 1/3.
        assert_eq!(truncated(&logits, 0.6, 2, 0.0).support, Some(vec![2]));
    }

    #[test]
    fn log_probs_are_of_the_support() {
        let logits = [0.25f32, 0.125, 0.5, 0.125].map(f32::ln);
        let low = truncated(&logits, 1.0, 2, 0.3);
        let high = truncated(&logits, 1.0, 2, 0.34);
        assert_eq!((low.token, high.token), (0, 2));
        assert!((low.logprob - (1f32 / 3.0).ln()).abs() < 1e-6);
        assert!((high.logprob - (2f32 / 3.0).ln()).abs() < 1e-6);
        let entropy = -(2f32 / 3.0) * (2f32 / 3.0).ln() - (1f32 / 3.0) * (1f32 / 3.0).ln();
        assert!((low.entropy - entropy).abs() < 1e-6);
    }
}
