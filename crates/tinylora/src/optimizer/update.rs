//! One optimizer step on a short vector. Each element is computed in f64 and rounded once to f32, in order, so
//! that the result depends on nothing but the arguments. Parameters and state change together or not at all.

use serde::{Deserialize, Serialize};

use super::natural::{Fisher, MOST_PARAMETERS, natural_step};
use crate::recipe::{OptimizerKind, OptimizerSection, decimal};

/// Why a step was not done. Parameters and state are as before.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum OptimizerError {
    /// A gradient element is NaN or infinite.
    #[error(
        "step {step}: the gradient of trained parameter {element} (of {count}) is {value}; nothing was changed. A lower learning rate or adapter.scale usually helps"
    )]
    GradientNotFinite {
        /// The step, 0 is the first.
        step: u64,
        /// Index of the first such element.
        element: usize,
        /// Number of parameters.
        count: usize,
        /// NaN or ±infinity.
        value: f32,
    },
    /// The step would make a parameter or the optimizer's state NaN or infinite.
    #[error(
        "step {step}: the update would make trained parameter {element} (of {count}) not finite ({value}); nothing was changed. Lower the learning rate ({learning_rate})"
    )]
    UpdateNotFinite {
        /// The step, 0 is the first.
        step: u64,
        /// Index of the first such element.
        element: usize,
        /// Number of parameters.
        count: usize,
        /// The first value that is not finite.
        value: f32,
        /// The step's learning rate.
        learning_rate: f32,
    },
    /// The natural gradient of too many parameters.
    #[error(
        "optimizer.kind = \"natural\" inverts a matrix of {count} × {count} numbers for {count} trained parameters; at most {most} are possible: train fewer (adapter.u, adapter.n_tie), or use \"adamw\" or \"sgd\""
    )]
    TooManyParameters {
        /// Number of parameters.
        count: usize,
        /// The limit.
        most: usize,
    },
    /// The natural gradient without scores.
    #[error(
        "step {step}: optimizer.kind = \"natural\" needs the scores of sampled completions, and there are none"
    )]
    NoFisher {
        /// The step, 0 is the first.
        step: u64,
    },
    /// The damped Fisher matrix is not positive definite.
    #[error(
        "step {step}: the damped Fisher matrix ({count} × {count}) is not positive definite at row {row}; nothing was changed. Raise optimizer.damping; where that does not help, the scores overflowed: lower the learning rate"
    )]
    FisherNotPositive {
        /// The step, 0 is the first.
        step: u64,
        /// Row of the factorization.
        row: usize,
        /// Number of parameters.
        count: usize,
    },
    /// Vectors of different lengths.
    #[error(
        "step {step}: {parameters} parameters, {gradient} gradient elements and an optimizer state of {state} do not fit together"
    )]
    Lengths {
        /// The step, 0 is the first.
        step: u64,
        /// Length of the parameters.
        parameters: usize,
        /// Length of the gradient.
        gradient: usize,
        /// Length of the state.
        state: usize,
    },
}

/// What an optimizer remembers between steps. n is the number of parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerState {
    /// AdamW.
    Adamw {
        /// Updates done.
        updates: u64,
        /// Running mean of the gradient, (n).
        mean: Vec<f32>,
        /// Running mean of its square, (n).
        square: Vec<f32>,
    },
    /// SGD.
    Sgd {
        /// Updates done.
        updates: u64,
        /// Momentum, (n).
        momentum: Vec<f32>,
    },
    /// The natural gradient, which remembers nothing.
    Natural {
        /// Updates done.
        updates: u64,
        /// n
        parameters: usize,
    },
}

impl OptimizerState {
    /// The state before the first update of n parameters.
    pub fn new(kind: OptimizerKind, n: usize) -> Self {
        match kind {
            OptimizerKind::Adamw => Self::Adamw { updates: 0, mean: vec![0.0; n], square: vec![0.0; n] },
            OptimizerKind::Sgd => Self::Sgd { updates: 0, momentum: vec![0.0; n] },
            OptimizerKind::Natural => Self::Natural { updates: 0, parameters: n },
        }
    }

    /// Its lists of n numbers.
    pub fn lists(&self) -> Vec<&[f32]> {
        match self {
            Self::Adamw { mean, square, .. } => vec![mean, square],
            Self::Sgd { momentum, .. } => vec![momentum],
            Self::Natural { .. } => Vec::new(),
        }
    }

    /// The same to be written to.
    pub fn lists_mut(&mut self) -> Vec<&mut [f32]> {
        match self {
            Self::Adamw { mean, square, .. } => vec![mean, square],
            Self::Sgd { momentum, .. } => vec![momentum],
            Self::Natural { .. } => Vec::new(),
        }
    }

    /// Updates done.
    pub fn updates(&self) -> u64 {
        match self {
            Self::Adamw { updates, .. } | Self::Sgd { updates, .. } | Self::Natural { updates, .. } => {
                *updates
            }
        }
    }

    /// n
    pub fn len(&self) -> usize {
        match self {
            Self::Adamw { mean, .. } => mean.len(),
            Self::Sgd { momentum, .. } => momentum.len(),
            Self::Natural { parameters, .. } => *parameters,
        }
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One step: checks the gradient, clips it to `max_grad_norm`, updates state and parameters; returns the
/// gradient's norm before clipping. The kind of the state decides the rule; `step` is for messages.
///
/// - AdamW (Loshchilov and Hutter 2019, algorithm 2, with PyTorch's order): p ← p·(1 − lr·λ);
///   m ← β₁m + (1 − β₁)g; s ← β₂s + (1 − β₂)g²; p ← p − lr/(1 − β₁ᵗ) · m / (√s/√(1 − β₂ᵗ) + ε).
/// - SGD: p ← p·(1 − lr·λ); b ← β₁b + g; p ← p − lr·b, or with Nesterov's look ahead p ← p − lr·(g + β₁b) (Sutskever et
///   al. 2013, in PyTorch's form).
/// - The natural gradient needs scores as well: [`apply_natural`].
pub fn apply(
    settings: &OptimizerSection,
    step: u64,
    learning_rate: f32,
    gradient: &[f32],
    state: &mut OptimizerState,
    parameters: &mut [f32],
) -> Result<f32, OptimizerError> {
    apply_with(settings, step, learning_rate, gradient, None, state, parameters)
}

/// The same for the natural gradient: p ← p·(1 − lr·λ) + δ, with δ and the Fisher matrix as at the top of `natural.rs`.
pub fn apply_natural(
    settings: &OptimizerSection,
    step: u64,
    learning_rate: f32,
    gradient: &[f32],
    fisher: &Fisher,
    state: &mut OptimizerState,
    parameters: &mut [f32],
) -> Result<f32, OptimizerError> {
    apply_with(settings, step, learning_rate, gradient, Some(fisher), state, parameters)
}

fn apply_with(
    settings: &OptimizerSection,
    step: u64,
    learning_rate: f32,
    gradient: &[f32],
    fisher: Option<&Fisher>,
    state: &mut OptimizerState,
    parameters: &mut [f32],
) -> Result<f32, OptimizerError> {
    let count = parameters.len();
    if gradient.len() != count || state.len() != count || fisher.is_some_and(|f| f.parameters() != count) {
        let (parameters, gradient, state) = (count, gradient.len(), state.len());
        return Err(OptimizerError::Lengths { step, parameters, gradient, state });
    }
    check_finite(step, gradient)?;
    let mut clipped = gradient.to_vec();
    let norm = clip_gradient(&mut clipped, settings.max_grad_norm);

    let (new_state, new_parameters) = match &*state {
        OptimizerState::Adamw { updates, mean, square } => {
            adamw(settings, learning_rate, &clipped, *updates + 1, mean, square, parameters)
        }
        OptimizerState::Sgd { updates, momentum } => {
            sgd(settings, learning_rate, &clipped, *updates + 1, momentum, parameters)
        }
        OptimizerState::Natural { updates, .. } => {
            let fisher = fisher.ok_or(OptimizerError::NoFisher { step })?;
            let limits = (decimal(settings.damping), decimal(settings.kl_bound));
            let delta = natural_step(fisher, &clipped, f64::from(learning_rate), limits, step)?;
            let keep = 1.0 - f64::from(learning_rate) * decimal(settings.weight_decay);
            let moved = parameters.iter().zip(delta).map(|(&p, d)| (f64::from(p) * keep + d) as f32);
            (OptimizerState::Natural { updates: *updates + 1, parameters: count }, moved.collect())
        }
    };
    if let Some((element, value)) = first_not_finite(&new_parameters).or_else(|| new_state.first_not_finite())
    {
        return Err(OptimizerError::UpdateNotFinite { step, element, count, value, learning_rate });
    }
    *state = new_state;
    parameters.copy_from_slice(&new_parameters);
    Ok(norm)
}

/// An error if the optimizer cannot have so many parameters.
pub fn check_size(kind: OptimizerKind, count: usize) -> Result<(), OptimizerError> {
    match kind {
        OptimizerKind::Natural if count > MOST_PARAMETERS => {
            Err(OptimizerError::TooManyParameters { count, most: MOST_PARAMETERS })
        }
        OptimizerKind::Adamw | OptimizerKind::Sgd | OptimizerKind::Natural => Ok(()),
    }
}

/// Bytes of the state of n parameters, while an update makes the next one: the state and the parameters, twice.
pub fn state_bytes(kind: OptimizerKind, n: usize) -> u64 {
    let arrays = match kind {
        OptimizerKind::Adamw => 2 * 2 + 1,
        OptimizerKind::Sgd => 2 + 1,
        OptimizerKind::Natural => 1,
    };
    let fisher = if kind == OptimizerKind::Natural { 2 * 8 * n * n } else { 0 };
    (4 * arrays * n + fisher) as u64
}

/// An error if an element of the gradient is NaN or infinite.
pub fn check_finite(step: u64, gradient: &[f32]) -> Result<(), OptimizerError> {
    match first_not_finite(gradient) {
        None => Ok(()),
        Some((element, value)) => {
            Err(OptimizerError::GradientNotFinite { step, element, count: gradient.len(), value })
        }
    }
}

/// Scales the gradient by min(1, max_norm / (norm + 1e-6)), as PyTorch does, and returns the norm before;
/// `max_norm` 0 scales nothing.
pub fn clip_gradient(gradient: &mut [f32], max_norm: f32) -> f32 {
    let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    let factor = f64::from(max_norm) / (norm + 1e-6);
    if max_norm > 0.0 && factor < 1.0 {
        gradient.iter_mut().for_each(|g| *g = (f64::from(*g) * factor) as f32);
    }
    norm as f32
}

impl OptimizerState {
    fn first_not_finite(&self) -> Option<(usize, f32)> {
        match self {
            Self::Adamw { mean, square, .. } => first_not_finite(mean).or_else(|| first_not_finite(square)),
            Self::Sgd { momentum, .. } => first_not_finite(momentum),
            Self::Natural { .. } => None,
        }
    }
}

fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}

fn adamw(
    settings: &OptimizerSection,
    learning_rate: f32,
    gradient: &[f32],
    updates: u64,
    mean: &[f32],
    square: &[f32],
    parameters: &[f32],
) -> (OptimizerState, Vec<f32>) {
    let (beta1, beta2) = (decimal(settings.beta1), decimal(settings.beta2));
    let (lr, epsilon) = (f64::from(learning_rate), decimal(settings.epsilon));
    let keep = 1.0 - lr * decimal(settings.weight_decay);
    let t = updates as f64;
    let (correction1, correction2) = (1.0 - beta1.powf(t), 1.0 - beta2.powf(t));
    let mut new_mean = Vec::with_capacity(mean.len());
    let mut new_square = Vec::with_capacity(mean.len());
    let mut new_parameters = Vec::with_capacity(mean.len());
    for (((&g, &m), &s), &p) in gradient.iter().zip(mean).zip(square).zip(parameters) {
        let g = f64::from(g);
        let m = (beta1 * f64::from(m) + (1.0 - beta1) * g) as f32;
        let s = (beta2 * f64::from(s) + (1.0 - beta2) * g * g) as f32;
        let denominator = (f64::from(s) / correction2).sqrt() + epsilon;
        // 0/0 only with ε = 0 and a gradient that was always 0: no movement.
        let direction = if m == 0.0 { 0.0 } else { f64::from(m) / correction1 / denominator };
        new_parameters.push((f64::from(p) * keep - lr * direction) as f32);
        new_mean.push(m);
        new_square.push(s);
    }
    (OptimizerState::Adamw { updates, mean: new_mean, square: new_square }, new_parameters)
}

fn sgd(
    settings: &OptimizerSection,
    learning_rate: f32,
    gradient: &[f32],
    updates: u64,
    momentum: &[f32],
    parameters: &[f32],
) -> (OptimizerState, Vec<f32>) {
    let beta = decimal(settings.beta1);
    let lr = f64::from(learning_rate);
    let keep = 1.0 - lr * decimal(settings.weight_decay);
    let momentum: Vec<f32> =
        momentum.iter().zip(gradient).map(|(&b, &g)| (beta * f64::from(b) + f64::from(g)) as f32).collect();
    let mut new_parameters = Vec::with_capacity(parameters.len());
    for ((&b, &g), &p) in momentum.iter().zip(gradient).zip(parameters) {
        let (b, g) = (f64::from(b), f64::from(g));
        let direction = if settings.nesterov { g + beta * b } else { b };
        new_parameters.push((f64::from(p) * keep - lr * direction) as f32);
    }
    (OptimizerState::Sgd { updates, momentum }, new_parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn numbers(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    }

    /// The ten steps of golden/optimizer.py, with the parameters of each compared to PyTorch's.
    fn largest_error(name: &str, settings: &OptimizerSection) -> f32 {
        let golden: Value = serde_json::from_str(include_str!("../../../../golden/optimizer.json")).unwrap();
        let (scales, targets) = (numbers(&golden["scales"]), numbers(&golden["targets"]));
        let mut p = numbers(&golden["start"]);
        let mut state = OptimizerState::new(settings.kind, p.len());
        let mut largest = 0f32;
        for step in 0..10 {
            let gradient: Vec<f32> = (0..p.len()).map(|i| scales[i] * (p[i] - targets[i])).collect();
            let rate = (0.05 * (step + 1) as f64 / 10.0) as f32;
            let norm = apply(settings, step as u64, rate, &gradient, &mut state, &mut p).unwrap();
            let expected = golden[name]["norms"][step].as_f64().unwrap() as f32;
            largest = largest.max((norm - expected).abs() / expected);
            for (p, expected) in p.iter().zip(numbers(&golden[name]["parameters"][step])) {
                largest = largest.max((p - expected).abs() / expected.abs().max(0.1));
            }
        }
        assert_eq!(state.updates(), 10);
        largest
    }

    fn adamw_settings() -> OptimizerSection {
        OptimizerSection { beta2: 0.99, weight_decay: 0.1, max_grad_norm: 0.75, ..Default::default() }
    }

    #[test]
    fn ten_steps_agree_with_pytorch() {
        let adamw = largest_error("adamw", &adamw_settings());
        assert!(adamw < 1e-6, "{adamw}");
        let sgd = OptimizerSection { kind: OptimizerKind::Sgd, max_grad_norm: 0.75, ..Default::default() };
        let nesterov = OptimizerSection { nesterov: true, ..sgd.clone() };
        let (sgd, nesterov) = (largest_error("sgd", &sgd), largest_error("nesterov", &nesterov));
        assert!(sgd < 1e-6 && nesterov < 1e-6, "{sgd} {nesterov}");
    }

    #[test]
    fn planted_errors_are_seen() {
        for planted in [
            OptimizerSection { epsilon: 1e-4, ..adamw_settings() },
            OptimizerSection { weight_decay: 0.0999, ..adamw_settings() },
            OptimizerSection { beta2: 0.9901, ..adamw_settings() },
        ] {
            assert!(largest_error("adamw", &planted) > 1e-6, "{planted:?}");
        }
        let planted =
            OptimizerSection { kind: OptimizerKind::Sgd, max_grad_norm: 0.7501, ..Default::default() };
        assert!(largest_error("sgd", &planted) > 1e-6);
        assert!(largest_error("nesterov", &planted) > 1e-6);
    }

    #[test]
    fn clipping_returns_the_norm_before() {
        let mut gradient = [3.0, 4.0];
        assert_eq!(clip_gradient(&mut gradient, 0.0), 5.0);
        assert_eq!(clip_gradient(&mut gradient, 6.0), 5.0);
        assert_eq!(gradient, [3.0, 4.0]);
        assert_eq!(clip_gradient(&mut gradient, 1.0), 5.0);
        assert!((gradient[0] - 0.6).abs() < 1e-6 && (gradient[1] - 0.8).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_finite_changes_nothing() {
        for kind in [OptimizerKind::Adamw, OptimizerKind::Sgd] {
            let settings = OptimizerSection { kind, max_grad_norm: 0.0, ..Default::default() };
            let mut state = OptimizerState::new(kind, 3);
            let mut p = [1.0, 2.0, 3.0];
            apply(&settings, 0, 0.1, &[1.0, 2.0, 3.0], &mut state, &mut p).unwrap();
            let before = (state.clone(), p);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let error = apply(&settings, 7, 0.1, &[0.0, bad, bad], &mut state, &mut p).unwrap_err();
                let message = error.to_string();
                assert!(message.contains("step 7") && message.contains("parameter 1 (of 3)"), "{message}");
            }
            // The squared gradient of AdamW, or SGD's step, overflows.
            let error = apply(&settings, 8, 1e6, &[1e38, 0.0, 0.0], &mut state, &mut p).unwrap_err();
            assert!(matches!(error, OptimizerError::UpdateNotFinite { step: 8, element: 0, .. }), "{error}");
            let error = apply(&settings, 9, 0.1, &[0.0; 2], &mut state, &mut p).unwrap_err();
            assert!(matches!(error, OptimizerError::Lengths { gradient: 2, .. }), "{error}");
            assert_eq!((state, p), before);
        }
    }

    #[test]
    fn the_natural_gradient_needs_scores_and_has_its_limits() {
        let kind = OptimizerKind::Natural;
        let settings = OptimizerSection { kind, max_grad_norm: 0.0, ..Default::default() };
        let mut state = OptimizerState::new(kind, 2);
        let mut p = [1.0, 2.0];
        let error = apply(&settings, 3, 0.1, &[1.0, 0.0], &mut state, &mut p).unwrap_err();
        assert_eq!(error, OptimizerError::NoFisher { step: 3 });
        let error =
            apply_natural(&settings, 3, 0.1, &[1.0, 0.0], &Fisher::new(3), &mut state, &mut p).unwrap_err();
        assert!(matches!(error, OptimizerError::Lengths { .. }), "{error}");
        assert_eq!((p, state.updates()), ([1.0, 2.0], 0));

        let mut fisher = Fisher::new(2);
        fisher.push(&[2.0, 0.0], 1);
        fisher.push(&[0.0, 1.0], 1);
        // F = diag(2, 1/2); damping so small that f32 does not see it; no bound that is reached.
        let settings = OptimizerSection { damping: 1e-9, kl_bound: 100.0, ..settings };
        apply_natural(&settings, 3, 0.5, &[1.0, 1.0], &fisher, &mut state, &mut p).unwrap();
        assert_eq!((p, state.updates()), ([0.75, 1.0], 1));
        assert!(check_size(kind, MOST_PARAMETERS).is_ok());
        let message = check_size(kind, 4097).unwrap_err().to_string();
        assert!(message.contains("4097") && message.contains("at most 4096"), "{message}");
        assert!(check_size(OptimizerKind::Adamw, 1 << 30).is_ok());
    }

    #[test]
    fn state_survives_json_bit_for_bit() {
        let mut state = OptimizerState::new(OptimizerKind::Adamw, 3);
        let mut p = [1.0, 2.0, 3.0];
        for step in 0..3 {
            let gradient = [1.0 / 3.0, -1e-20, 2.7e12];
            apply(&OptimizerSection::default(), step, 1e-3, &gradient, &mut state, &mut p).unwrap();
        }
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<OptimizerState>(&text).unwrap(), state);
    }

    #[test]
    fn a_gradient_of_zero_moves_nothing_even_with_epsilon_zero() {
        let settings = OptimizerSection { epsilon: 0.0, ..Default::default() };
        let mut state = OptimizerState::new(OptimizerKind::Adamw, 1);
        let mut p = [1.0];
        apply(&settings, 0, 0.1, &[0.0], &mut state, &mut p).unwrap();
        assert_eq!(p, [1.0]);
    }
}
