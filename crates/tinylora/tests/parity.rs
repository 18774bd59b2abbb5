//! The engine against transformers and PEFT, on a tiny random model of every family: logits, log-probs, losses,
//! gradients by name, and ten steps of AdamW. The stored files say how they were made (`golden/README.md`).

mod common;

use common::{Tensors, golden, load, peft_adapter, relative_error, tiny_files};
use tinylora::adapter::Projections;
use tinylora::gradient::{
    GradientWorkspace, PolicyLoss, TokenGradient, TokenView, TrainingCompletion, TrainingGroup, accumulate,
    completion_logprobs, micro_batches,
};
use tinylora::model::{Adapters, Batch, KeptActivations, KvCache, Model, SideFactors, forward};
use tinylora::recipe::{GrpoSection, LossReduction};
use tinylora_compute::attention::{Group, Member, Span};
use tinylora_compute::product::{Product, product};
use tinylora_compute::{Cpu, Kernel, Precision};

const NAMES: [&str; 8] =
    ["llama2", "llama2-bf16", "llama2-tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

/// Norms, softmax and products add up in another order than PyTorch does.
const OTHER_ORDER: f64 = 1e-5;

struct Case {
    cpu: Cpu,
    model: Model,
    golden: Tensors,
    factors: SideFactors,
    projections: Projections,
    v: Vec<f32>,
}

fn case(name: &str) -> Case {
    let cpu = Cpu::new(Kernel::best(), 2);
    let precision = if name.ends_with("bf16") { Precision::Bf16 } else { Precision::F32 };
    let model = load(&cpu, &tiny_files(name), precision);
    let golden = Tensors::open(&golden().join("models").join(name).join("golden.safetensors"));
    let modules: Vec<String> = serde_json::from_value(golden.json["modules"].clone()).expect("names");
    let (factors, p) = peft_adapter(name, &modules);
    let rank = factors[0].a.len() / factors[0].kind.shape(&model.config).1;
    let u = golden.shape("v")[1];
    let groups = golden.ids("group_of_module").into_iter().map(|g| g as usize).collect();
    let projections = Projections::from_parts(rank, u, 1.0, groups, p).expect("sizes fit");
    let factors = SideFactors::new(&cpu, &model.config, rank, &factors);
    Case { v: golden.get("v").to_vec(), cpu, model, golden, factors, projections }
}

/// All logits of one sequence, as one segment.
fn logits(case: &Case, tokens: &[u32], r: Option<&[f32]>) -> Vec<f32> {
    let mut batch = Batch::default();
    for (i, &token) in tokens.iter().enumerate() {
        batch.push(token, i, ((i / 16) as u32, (i % 16) as u32), 0);
    }
    let n = tokens.len();
    let own =
        (0..n.div_ceil(16)).map(|b| Span { block: b as u32, count: 16.min(n - 16 * b) as u32 }).collect();
    batch.groups.push(Group { shared: vec![], members: vec![Member { first_row: 0, rows: n, own }] });
    let mut cache = KvCache::new(&case.model, n.div_ceil(16));
    let outputs: Vec<u32> = (0..n as u32).collect();
    let rs: Vec<&[f32]> = r.into_iter().collect();
    let adapters = Adapters { factors: r.map(|_| &case.factors), r: &rs };
    let mut kept = KeptActivations::default();
    let hidden = forward(&case.cpu, &case.model, adapters, &batch, &outputs, &mut cache, &mut kept, false);
    let mut logits = vec![0.0; n * case.model.config.vocab_size];
    let head = case.model.head();
    product(&case.cpu, &hidden, n, &mut [Product { weight: head, bias: None, side: None, out: &mut logits }]);
    logits
}

fn groups(golden: &Tensors) -> Vec<TrainingGroup> {
    let prompts = golden.ids("prompt_lengths");
    let mut groups: Vec<TrainingGroup> = Vec::new();
    for (s, &prompt) in prompts.iter().enumerate() {
        let tokens = golden.ids(&format!("tokens.{s}"));
        let (prompt, completion) = tokens.split_at(prompt as usize);
        if s % 2 == 0 {
            groups.push(TrainingGroup { prompt: prompt.to_vec(), completions: vec![] });
        }
        assert_eq!(groups[s / 2].prompt, prompt, "pairs share their prompt");
        let base = golden.get(&format!("logprobs.base.{s}"));
        groups[s / 2].completions.push(TrainingCompletion {
            tokens: completion.to_vec(),
            old_logprobs: golden.get(&format!("old_logprobs.{s}")).to_vec(),
            reference_logprobs: base[prompt.len() - 1..].to_vec(),
            supports: vec![],
            advantage: golden.get("advantages")[s],
        });
    }
    groups
}

/// (loss, dL/dR, dL/dv) of a named golden loss at v; micro-batches of at most `most` rows.
fn gradient(case: &Case, name: &str, v: &[f32], most: usize) -> (f32, Vec<f32>, Vec<f32>) {
    let groups = groups(&case.golden);
    let count: usize = groups.iter().flat_map(|g| &g.completions).map(|c| c.tokens.len()).sum();
    let section = GrpoSection {
        loss: LossReduction::Token,
        clip_low: 0.2,
        clip_high: 0.28,
        kl_coefficient: if name == "kl" { 1.0 } else { 0.0 },
        ..Default::default()
    };
    let mut policy = PolicyLoss::new(&section, count, 4);
    let n = count as f64;
    let linear = |token: TokenView, weight: f64| TokenGradient {
        loss: -weight * f64::from(token.logprob),
        slope: -weight as f32,
    };
    let mut loss = |token: TokenView| match name {
        "nll" => linear(token, 1.0 / n),
        "grpo" | "grpo_tempered" => linear(token, f64::from(token.advantage) / n),
        "grpo_sequence" => linear(token, f64::from(token.advantage) / (4.0 * token.length as f64)),
        "clipped" => policy.token(TokenView { reference: f32::NAN, ..token }),
        "kl" => policy.token(TokenView { advantage: 0.0, ..token }),
        other => panic!("{other}"),
    };
    let inverse_temperature = if name.ends_with("tempered") { 1.0 / 0.7 } else { 1.0 };
    let r = case.projections.r_matrices(v);
    let mut dr = vec![0f64; r.len()];
    let mut workspace = GradientWorkspace::new(&case.model);
    let mut total = 0.0;
    for batch in micro_batches(&groups, most) {
        let rs = [&r[..]];
        let adapters = Adapters { factors: Some(&case.factors), r: &rs };
        let result = accumulate(
            &case.cpu,
            &case.model,
            adapters,
            &batch,
            inverse_temperature,
            &mut loss,
            &mut workspace,
            &mut dr,
        );
        total += result.expect("finite");
    }
    let dr: Vec<f32> = dr.into_iter().map(|x| x as f32).collect();
    let dv = case.projections.v_gradient(&dr);
    (total as f32, dr, dv)
}

#[test]
fn logits_and_logprobs() {
    for name in NAMES {
        let case = case(name);
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
            let rs = [&r[..]];
            let adapters = Adapters { factors: Some(&case.factors), r: &rs };
            let mut workspace = GradientWorkspace::new(&case.model);
            let logprobs = completion_logprobs(
                &case.cpu,
                &case.model,
                adapters,
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
        let case = case(name);
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
        let case = case(name);
        for loss in ["nll", "grpo"] {
            let mut v = case.v.clone();
            let (mut m, mut s) = (vec![0f64; v.len()], vec![0f64; v.len()]);
            let (mut losses, mut vs) = (Vec::new(), Vec::new());
            for step in 1..=11 {
                let (value, _, dv) = gradient(&case, loss, &v, 10_000);
                losses.push(value);
                vs.extend_from_slice(&v);
                for i in 0..v.len() {
                    let g = f64::from(dv[i]);
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    s[i] = 0.999 * s[i] + 0.001 * g * g;
                    let (mh, sh) = (m[i] / (1.0 - 0.9f64.powi(step)), s[i] / (1.0 - 0.999f64.powi(step)));
                    v[i] -= (1e-2 * mh / (sh.sqrt() + 1e-8)) as f32;
                }
            }
            let what = format!("{name} curve");
            case.golden.check(&what, &format!("curve.{loss}.loss"), &losses, 1e-4);
            case.golden.check(&what, &format!("curve.{loss}.v"), &vs, 1e-4);
        }
    }
}

/// The checks above can fail: a mistake of each kind is far outside the tolerance.
#[test]
fn planted_errors_are_caught() {
    let case = case("qwen3");
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
