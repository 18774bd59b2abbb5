//! The optimizer's step for very many parameters: the formulas of [`super::apply`], in place and on all threads.
//! Everything is looked at before anything is changed, so that parameters and state change together or not at all.
//! The norm is a sum of blocks' sums, so the number of threads has no say in it.

use super::update::{OptimizerError, OptimizerState};
use crate::recipe::{OptimizerKind, OptimizerSection, decimal};
use std::sync::Mutex;
use tinylora_compute::Cpu;
use tinylora_compute::rows::for_chunks_of;

/// Parameters handled at once, and those of a block's sum.
const BLOCK: usize = 1 << 16;

/// One step as [`super::apply`] does it; returns the gradient's norm before clipping. The gradient may be clipped in place.
///
/// # Panics
/// If the state is that of the natural gradient: the recipe refused it.
pub fn apply_in_place(
    cpu: &Cpu,
    settings: &OptimizerSection,
    (step, learning_rate): (u64, f32),
    gradient: &mut [f32],
    state: &mut OptimizerState,
    parameters: &mut [f32],
) -> Result<f32, OptimizerError> {
    let count = parameters.len();
    if gradient.len() != count || state.len() != count {
        let (parameters, gradient, state) = (count, gradient.len(), state.len());
        return Err(OptimizerError::Lengths { step, parameters, gradient, state });
    }
    let found = first_where(cpu, [&mut *gradient], |[g]| (!g.is_finite()).then_some(*g));
    if let Some((element, value)) = found {
        return Err(OptimizerError::GradientNotFinite { step, element, count, value });
    }
    let norm = clip(cpu, gradient, settings.max_grad_norm);
    let bad =
        |(element, value)| OptimizerError::UpdateNotFinite { step, element, count, value, learning_rate };
    match state {
        OptimizerState::Adamw { updates, mean, square } => {
            let rule = Adamw::new(settings, learning_rate, *updates + 1);
            let not_finite = |[g, m, s, p]: [&mut f32; 4]| {
                let (m, s, p) = rule.step(*g, *m, *s, *p);
                [p, m, s].into_iter().find(|x| !x.is_finite())
            };
            let all = [&mut *gradient, mean.as_mut_slice(), square.as_mut_slice(), &mut *parameters];
            first_where(cpu, all, not_finite).map_or(Ok(()), |found| Err(bad(found)))?;
            first_where(cpu, [gradient, mean, square, parameters], |[g, m, s, p]| {
                (*m, *s, *p) = rule.step(*g, *m, *s, *p);
                None
            });
            *updates += 1;
        }
        OptimizerState::Sgd { updates, momentum } => {
            let (beta, lr) = (decimal(settings.beta1), f64::from(learning_rate));
            let keep = 1.0 - lr * decimal(settings.weight_decay);
            let rule = |g: f32, b: f32, p: f32| {
                let b = (beta * f64::from(b) + f64::from(g)) as f32;
                let (wide, g) = (f64::from(b), f64::from(g));
                let direction = if settings.nesterov { g + beta * wide } else { wide };
                (b, (f64::from(p) * keep - lr * direction) as f32)
            };
            let not_finite = |[g, b, p]: [&mut f32; 3]| {
                let (b, p) = rule(*g, *b, *p);
                [p, b].into_iter().find(|x| !x.is_finite())
            };
            let all = [&mut *gradient, momentum.as_mut_slice(), &mut *parameters];
            first_where(cpu, all, not_finite).map_or(Ok(()), |found| Err(bad(found)))?;
            first_where(cpu, [gradient, momentum, parameters], |[g, b, p]| {
                (*b, *p) = rule(*g, *b, *p);
                None
            });
            *updates += 1;
        }
        OptimizerState::Natural { .. } => panic!("the natural gradient has a size limit"),
    }
    Ok(norm)
}

/// Bytes of the state of n parameters, which [`apply_in_place`] changes where it stands.
pub fn state_bytes_in_place(kind: OptimizerKind, n: usize) -> u64 {
    let arrays = match kind {
        OptimizerKind::Adamw => 2,
        OptimizerKind::Sgd => 1,
        OptimizerKind::Natural => 0,
    };
    4 * arrays * n as u64
}

/// AdamW with everything that is the same for all parameters.
struct Adamw {
    beta1: f64,
    beta2: f64,
    lr: f64,
    epsilon: f64,
    keep: f64,
    correction1: f64,
    correction2: f64,
}

impl Adamw {
    fn new(settings: &OptimizerSection, learning_rate: f32, updates: u64) -> Self {
        let (beta1, beta2, lr) = (decimal(settings.beta1), decimal(settings.beta2), f64::from(learning_rate));
        let t = updates as f64;
        Self {
            beta1,
            beta2,
            lr,
            epsilon: decimal(settings.epsilon),
            keep: 1.0 - lr * decimal(settings.weight_decay),
            correction1: 1.0 - beta1.powf(t),
            correction2: 1.0 - beta2.powf(t),
        }
    }

    /// (mean, square, parameter) after the step.
    #[inline]
    fn step(&self, g: f32, m: f32, s: f32, p: f32) -> (f32, f32, f32) {
        let g = f64::from(g);
        let m = (self.beta1 * f64::from(m) + (1.0 - self.beta1) * g) as f32;
        let s = (self.beta2 * f64::from(s) + (1.0 - self.beta2) * g * g) as f32;
        let denominator = (f64::from(s) / self.correction2).sqrt() + self.epsilon;
        let direction = if m == 0.0 { 0.0 } else { f64::from(m) / self.correction1 / denominator };
        (m, s, (f64::from(p) * self.keep - self.lr * direction) as f32)
    }
}

/// Scales the gradient by min(1, max_norm / (norm + 1e-6)) and returns the norm before.
fn clip(cpu: &Cpu, gradient: &mut [f32], max_norm: f32) -> f32 {
    let sums = Mutex::new(vec![0f64; gradient.len().div_ceil(BLOCK)]);
    for_chunks_of(cpu, [&mut *gradient], BLOCK, |first, [block]| {
        let sum = block.iter().map(|&g| f64::from(g).powi(2)).sum();
        sums.lock().expect("no panic while held")[first / BLOCK] = sum;
    });
    let sums = sums.into_inner().expect("no panic while held");
    let (norm, factor) = norm_and_factor(&sums, max_norm);
    if factor < 1.0 {
        for_chunks_of(cpu, [gradient], BLOCK, |_, [block]| {
            block.iter_mut().for_each(|g| *g = (f64::from(*g) * factor) as f32);
        });
    }
    norm as f32
}

/// The norm from sums of squares of blocks, and what the gradient is multiplied with; 1 leaves it.
pub(super) fn norm_and_factor(sums: &[f64], max_norm: f32) -> (f64, f64) {
    let norm = sums.iter().sum::<f64>().sqrt();
    let factor = f64::from(max_norm) / (norm + 1e-6);
    (norm, if max_norm > 0.0 && factor < 1.0 { factor } else { 1.0 })
}

/// Calls `look` for each element of equally long slices; the first element for which it gives a number, and that.
fn first_where<const N: usize>(
    cpu: &Cpu,
    slices: [&mut [f32]; N],
    look: impl Fn([&mut f32; N]) -> Option<f32> + Sync,
) -> Option<(usize, f32)> {
    let first: Mutex<Option<(usize, f32)>> = Mutex::new(None);
    for_chunks_of(cpu, slices, BLOCK, |start, slices| {
        let mut iterators = slices.map(|slice| slice.iter_mut());
        let len = iterators[0].len();
        let mut found = None;
        for at in 0..len {
            let element = iterators.each_mut().map(|slice| slice.next().expect("equally long"));
            let value = look(element);
            found = found.or(value.map(|value| (start + at, value)));
        }
        if let Some(found) = found {
            let mut first = first.lock().expect("no panic while held");
            if first.is_none_or(|(at, _)| found.0 < at) {
                *first = Some(found);
            }
        }
    });
    first.into_inner().expect("no panic while held")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::apply;
    use tinylora_compute::Kernel;

    fn numbers(seed: u64, n: usize) -> Vec<f32> {
        let stream = crate::random::Stream::new(seed, crate::random::Purpose::Initialisation, 0);
        (0..n as u64).map(|i| (stream.uniform(i) - 0.5) as f32).collect()
    }

    /// Within one block even the norm is the same sum; over many, threads change nothing.
    #[test]
    fn the_bits_of_the_plain_step_on_any_threads() {
        for kind in [OptimizerKind::Adamw, OptimizerKind::Sgd] {
            let settings =
                OptimizerSection { kind, weight_decay: 0.1, max_grad_norm: 1.0, ..Default::default() };
            for (n, same_norm) in [(1, true), (3000, true), (3 * BLOCK + 7, false)] {
                let run = |threads: usize| {
                    let cpu = Cpu::new(Kernel::best_exact(), threads);
                    let (mut p, mut state) = (numbers(1, n), OptimizerState::new(kind, n));
                    let mut norms = Vec::new();
                    for step in 0..3 {
                        let mut g = numbers(10 + step, n);
                        let result =
                            apply_in_place(&cpu, &settings, (step, 1e-3), &mut g, &mut state, &mut p);
                        norms.push(result.unwrap());
                    }
                    (p, state, norms)
                };
                assert!(run(1) == run(3), "{kind:?} {n}");
                let (mut p, mut state) = (numbers(1, n), OptimizerState::new(kind, n));
                let mut norms = Vec::new();
                for step in 0..3 {
                    norms.push(
                        apply(&settings, step, 1e-3, &numbers(10 + step, n), &mut state, &mut p).unwrap(),
                    );
                }
                if same_norm {
                    assert!(run(2) == (p, state, norms), "{kind:?} {n}");
                } else {
                    assert!(run(2).0.iter().zip(&p).all(|(a, b)| (a - b).abs() < 1e-6));
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_changes_nothing() {
        let cpu = Cpu::new(Kernel::best_exact(), 2);
        let n = 2 * BLOCK;
        let settings =
            OptimizerSection { kind: OptimizerKind::Sgd, max_grad_norm: 0.0, ..Default::default() };
        let (mut p, mut state) = (numbers(1, n), OptimizerState::new(OptimizerKind::Sgd, n));
        let mut g = numbers(2, n);
        (g[BLOCK + 3], g[n - 1]) = (f32::NAN, f32::INFINITY);
        let error = apply_in_place(&cpu, &settings, (4, 1.0), &mut g, &mut state, &mut p).unwrap_err();
        assert!(matches!(error, OptimizerError::GradientNotFinite { element, .. } if element == BLOCK + 3));
        let mut g = numbers(2, n);
        g[BLOCK + 9] = 1e30;
        let error = apply_in_place(&cpu, &settings, (4, 1e30), &mut g, &mut state, &mut p).unwrap_err();
        assert!(
            matches!(error, OptimizerError::UpdateNotFinite { element, .. } if element == BLOCK + 9),
            "{error}"
        );
        assert!(p == numbers(1, n) && state == OptimizerState::new(OptimizerKind::Sgd, n));
    }
}
