//! The gradient of every weight and steps of AdamW on all of them, against PyTorch (`golden/full.py`), on a tiny model of
//! every family; and against slopes of the engine's own loss.

mod common;

use common::case::{Case, groups, tiny_case};
use common::{Tensors, golden, relative_error, tiny_files};
use std::collections::BTreeMap;
use std::sync::Arc;
use tinylora::gradient::{
    CompletionGradient, CompletionView, GradientWorkspace, TrainingGroup, accumulate_completions,
};
use tinylora::model::weights::Weights;
use tinylora::model::{Gradients, Model, Policy, WeightLayout, WeightSums};
use tinylora::optimizer::{OptimizerState, apply_in_place};
use tinylora::recipe::{OptimizerKind, OptimizerSection};
use tinylora_compute::{Cpu, Kernel};

const NAMES: [&str; 8] =
    ["llama2", "llama2-bf16", "llama2-tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

/// A model with the list of all its weights.
struct Full {
    case: Case,
    layout: Arc<WeightLayout>,
    numbers: Vec<f32>,
    groups: Vec<TrainingGroup>,
}

fn full(name: &str) -> Full {
    let case = tiny_case(name);
    let weights = Weights::open(&tiny_files(name)).expect("the weights open");
    let layout = WeightLayout::new(&case.model.config);
    let mut numbers = vec![0.0; layout.len()];
    for (name, _) in &layout.tensors {
        weights.read_rows(name, 0, &mut numbers[layout.find(name).expect("named")]).expect("readable");
    }
    let mut groups = groups(&case.golden);
    groups.iter_mut().flat_map(|group| &mut group.completions).for_each(|c| c.reference_logprobs.clear());
    Full { case, layout: Arc::new(layout), numbers, groups }
}

impl Full {
    fn pack(&self, cpu: &Cpu, numbers: &[f32]) -> Model {
        let (config, precision) = (self.case.model.config.clone(), self.case.model.precision());
        Model::from_numbers(cpu, (config, &self.layout), numbers, precision, 1024).expect("finite")
    }

    /// Mean of −ln p less `bonus` times the mean entropy, and its gradient.
    fn loss(&self, cpu: &Cpu, model: &Model, bonus: f64) -> (f64, Vec<f32>) {
        let count: usize = self.groups.iter().flat_map(|g| &g.completions).map(|c| c.tokens.len()).sum();
        let weight = 1.0 / count as f64;
        let mut loss = |view: CompletionView<'_>| {
            let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
            CompletionGradient {
                loss: -weight * (sum(view.logprobs) + bonus * sum(view.entropies)),
                slopes: vec![-weight as f32; view.logprobs.len()],
                entropy_slope: (-weight * bonus) as f32,
            }
        };
        let mut sums = Gradients::Weights(WeightSums::new(Arc::clone(&self.layout)));
        let mut workspace = GradientWorkspace::default();
        let loss = accumulate_completions(
            cpu,
            Policy::plain(model),
            &self.groups,
            (1.0, bonus != 0.0),
            &mut loss,
            &mut workspace,
            &mut sums,
        );
        let Gradients::Weights(sums) = sums else { unreachable!("made above") };
        (loss.expect("finite"), sums.numbers)
    }
}

#[test]
fn gradients_of_every_weight_are_pytorchs() {
    for name in NAMES {
        let full = full(name);
        let stored = Tensors::open(&golden().join("models").join(name).join("weights.safetensors"));
        let model = full.pack(&full.case.cpu, &full.numbers);
        let (loss, gradient) = full.loss(&full.case.cpu, &model, 0.0);
        assert!(relative_error(&stored.get("losses")[..1], &[loss as f32]) < 1e-5, "{name}: {loss}");
        for (tensor, _) in &full.layout.tensors {
            let found = &gradient[full.layout.find(tensor).expect("named")];
            let error = relative_error(stored.get(&format!("gradient.{tensor}")), found);
            assert!(error <= 1e-4, "{name}: {tensor} is off by {error:.1e}");
        }
        // The test can fail: a gradient of another tensor of the same shape is far off.
        let found = &gradient[full.layout.find("model.layers.0.mlp.up_proj.weight").expect("named")];
        let other = stored.get("gradient.model.layers.0.mlp.gate_proj.weight");
        assert!(relative_error(other, found) > 1e-2, "{name}");
        // On other threads the same bits.
        let one = Cpu::new(Kernel::best_exact(), 1);
        assert!(full.loss(&one, &model, 0.0).1 == gradient, "{name}: threads");
    }
}

#[test]
fn five_steps_of_adamw_are_pytorchs() {
    // Rounding the weights to bf16 after each step is another curve.
    for name in NAMES.into_iter().filter(|name| !name.ends_with("bf16")) {
        let full = full(name);
        let cpu = &full.case.cpu;
        let stored = Tensors::open(&golden().join("models").join(name).join("weights.safetensors"));
        let settings = OptimizerSection {
            kind: OptimizerKind::Adamw,
            weight_decay: 0.1,
            max_grad_norm: 1.0,
            ..Default::default()
        };
        let mut numbers = full.numbers.clone();
        let mut state = OptimizerState::new(OptimizerKind::Adamw, numbers.len());
        let mut model = full.pack(cpu, &numbers);
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for step in 0..6 {
            let (loss, mut gradient) = full.loss(cpu, &model, 0.0);
            losses.push(loss as f32);
            let norm = apply_in_place(cpu, &settings, (step, 1e-3), &mut gradient, &mut state, &mut numbers);
            norms.push(norm.expect("finite"));
            model.repack(cpu, &full.layout, &numbers, None).expect("on the host");
        }
        for (what, found) in [("losses", &losses), ("norms", &norms)] {
            let error = relative_error(stored.get(what), found);
            assert!(error <= 1e-4, "{name}: {what} are off by {error:.1e}: {found:?}");
        }
        assert!(losses[5] < losses[0] - 0.01, "{name}: it learns: {losses:?}");
        // Packed in place or anew, the model is the same.
        let (again, anew) = (full.loss(cpu, &model, 0.0), full.loss(cpu, &full.pack(cpu, &numbers), 0.0));
        assert!(again == anew, "{name}");
    }
}

/// With the entropy in the loss, which PyTorch's file does not have: along its own gradient the loss of each tensor falls
/// as the gradient says.
#[test]
fn slopes_with_an_entropy_bonus() {
    for name in ["llama3", "gemma3"] {
        let full = full(name);
        let cpu = &full.case.cpu;
        let (_, gradient) = full.loss(cpu, &full.pack(cpu, &full.numbers), 0.5);
        let mut errors = BTreeMap::new();
        for (tensor, _) in &full.layout.tensors {
            let range = full.layout.find(tensor).expect("named");
            let norm = gradient[range.clone()].iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            let step = 5e-3 / norm.max(1e-2);
            let moved = |sign: f64| {
                let mut numbers = full.numbers.clone();
                for (x, &g) in numbers[range.clone()].iter_mut().zip(&gradient[range.clone()]) {
                    *x += (sign * step * f64::from(g) / norm) as f32;
                }
                full.loss(cpu, &full.pack(cpu, &numbers), 0.5).0
            };
            let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
            errors.insert(tensor.clone(), (slope - norm).abs() / norm);
        }
        let wrong: Vec<_> = errors.iter().filter(|(_, error)| **error > 0.02).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }
}
