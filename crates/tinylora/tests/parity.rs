//! The engine against transformers and PEFT, on a tiny random model of every family: logits, log-probs, losses,
//! gradients by name, and ten steps of AdamW. The stored files say how they were made (`golden/README.md`).

mod common;

use common::case::{curve, gradient, groups, logits, tiny_case};
use common::relative_error;
use tinylora::gradient::{GradientWorkspace, completion_logprobs};
use tinylora::model::{Adapters, Policy, R};

const NAMES: [&str; 8] =
    ["llama2", "llama2-bf16", "llama2-tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

/// Norms, softmax and products add up in another order than PyTorch does.
const OTHER_ORDER: f64 = 1e-5;

#[test]
fn logits_and_logprobs() {
    for name in NAMES {
        let case = tiny_case(name);
        let r = case.projections.r_matrices(&case.v);
        for s in 0..4 {
            let tokens = case.golden.ids(&format!("tokens.{s}"));
            let base = logits(&case, &tokens, None);
            case.golden.check(name, &format!("logits.base.{s}"), &base, OTHER_ORDER);
            let adapted = logits(&case, &tokens, Some(&r));
            case.golden.check(name, &format!("logits.adapter.{s}"), &adapted, OTHER_ORDER);
            // v = 0 is the base model, bit for bit.
            let zero = logits(&case, &tokens, Some(&vec![0.0; r.len()]));
            assert!(zero.iter().zip(&base).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: v = 0");
        }
        for (tempered, inverse_temperature) in [("", 1.0), ("_tempered", 1.0 / 0.7)] {
            let groups = groups(&case.golden);
            let rs = [R::Matrices(r.clone())];
            let adapters = Adapters { factors: Some(&case.factors), r: &rs };
            let mut workspace = GradientWorkspace::default();
            let logprobs = completion_logprobs(
                &case.cpu,
                Policy::new(&case.model, adapters),
                &groups,
                inverse_temperature,
                &mut workspace,
            )
            .expect("finite");
            for (s, found) in logprobs.iter().flatten().enumerate() {
                let tensor = format!("logprobs.adapter{tempered}.{s}");
                let prompt = case.golden.ids("prompt_lengths")[s] as usize;
                let stored = &case.golden.get(&tensor)[prompt - 1..];
                let error = relative_error(stored, found);
                assert!(error <= OTHER_ORDER, "{name}: {tensor} is off by {error:.1e}");
            }
        }
    }
}

#[test]
fn losses_and_gradients_by_name() {
    for name in NAMES {
        let case = tiny_case(name);
        for loss in ["nll", "grpo", "grpo_sequence", "grpo_tempered", "clipped", "kl"] {
            let (value, dr, dv) = gradient(&case, loss, &case.v, 10_000);
            let what = format!("{name} {loss}");
            case.golden.check(&what, &format!("loss.{loss}"), &[value], OTHER_ORDER);
            case.golden.check(&what, &format!("dv.{loss}"), &dv, 1e-4);
            if case.golden.has(&format!("dR.{loss}")) {
                case.golden.check(&what, &format!("dR.{loss}"), &dr, 1e-4);
            }
            // Cut into micro-batches the sum is the same up to rounding.
            let (_, _, cut) = gradient(&case, loss, &case.v, 30);
            assert!(relative_error(&dv, &cut) < 1e-5, "{what}: micro-batches");
        }
    }
}

#[test]
fn ten_steps_of_adamw() {
    for name in NAMES {
        let case = tiny_case(name);
        for loss in ["nll", "grpo"] {
            let (losses, vs) = curve(&case, loss);
            let what = format!("{name} curve");
            case.golden.check(&what, &format!("curve.{loss}.loss"), &losses, 1e-4);
            case.golden.check(&what, &format!("curve.{loss}.v"), &vs, 1e-4);
        }
    }
}

/// The checks above can fail: a mistake of each kind is far outside the tolerance.
#[test]
fn planted_errors_are_caught() {
    let case = tiny_case("qwen3");
    let tokens = case.golden.ids("tokens.0");
    let r = case.projections.r_matrices(&case.v);
    let off = |r: &[f32]| case.golden.error("logits.adapter.0", &logits(&case, &tokens, Some(r)));
    assert!(off(&r) < OTHER_ORDER);
    let transposed: Vec<f32> = r.chunks_exact(4).flat_map(|r| [r[0], r[2], r[1], r[3]]).collect();
    assert!(off(&transposed) > 1e-2, "R transposed");
    let mut last = r.clone();
    last[r.len() - 4..].fill(0.0);
    assert!(off(&last) > 1e-2, "the last module without adapter");
    let mut other = tokens.clone();
    other.swap(0, 1);
    let swapped = case.golden.error("logits.adapter.0", &logits(&case, &other, Some(&r)));
    assert!(swapped > 1e-2, "two tokens swapped");
    let (_, _, wrong) = gradient(&case, "nll", &case.v, 10_000);
    assert!(case.golden.error("dv.grpo", &wrong) > 1e-2, "the gradient of another loss");
}
