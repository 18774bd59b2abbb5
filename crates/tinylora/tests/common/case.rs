//! A model with an adapter and its golden file, and the quantities that are compared.

use super::{Tensors, golden, load, peft_adapter, tiny_files};
use tinylora::adapter::Projections;
use tinylora::gradient::{
    BatchTotals, CompletionGradient, CompletionView, GradientWorkspace, PolicyLoss, TrainingCompletion,
    TrainingGroup, accumulate_completions, micro_batches, weigh,
};
use tinylora::model::{
    Adapters, Batch, Gradients, Keep, KeptActivations, KvCache, Model, Policy, R, SideFactors, forward,
};
use tinylora::recipe::{GrpoLoss, GrpoSection};
use tinylora_compute::attention::{Group, Member, Span};
use tinylora_compute::product::{Product, product};
use tinylora_compute::{Cpu, Kernel, Precision};

pub struct Case {
    pub cpu: Cpu,
    pub model: Model,
    pub golden: Tensors,
    pub factors: SideFactors,
    pub projections: Projections,
    pub v: Vec<f32>,
}

/// A tiny model with the adapter that PEFT saved.
pub fn tiny_case(name: &str) -> Case {
    let cpu = Cpu::new(Kernel::best_exact(), 2);
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
pub fn logits(case: &Case, tokens: &[u32], r: Option<&[f32]>) -> Vec<f32> {
    let r = r.map(|r| R::Matrices(r.to_vec()));
    logits_with(case, &case.model, tokens, r.as_ref().map(|r| (&case.factors, r)))
}

/// The same with any model of the case's form, and any factors with their R.
pub fn logits_with(
    case: &Case,
    model: &Model,
    tokens: &[u32],
    adapter: Option<(&SideFactors, &R)>,
) -> Vec<f32> {
    let mut batch = Batch::default();
    for (i, &token) in tokens.iter().enumerate() {
        batch.push(token, i, ((i / 16) as u32, (i % 16) as u32), 0);
    }
    let n = tokens.len();
    let own =
        (0..n.div_ceil(16)).map(|b| Span { block: b as u32, count: 16.min(n - 16 * b) as u32 }).collect();
    batch.groups.push(Group { shared: vec![], members: vec![Member { first_row: 0, rows: n, own }] });
    let mut cache = KvCache::new(&case.cpu, model, n.div_ceil(16));
    let outputs: Vec<u32> = (0..n as u32).collect();
    let rs: Vec<R> = adapter.iter().map(|(_, r)| (*r).clone()).collect();
    let adapters = Adapters { factors: adapter.map(|(factors, _)| factors), r: &rs };
    let mut kept = KeptActivations::default();
    let policy = Policy::new(model, adapters);
    let hidden = forward(&case.cpu, policy, &batch, &outputs, &mut cache, &mut kept, Keep::Nothing)
        .expect("on the host");
    let mut logits = vec![0.0; n * model.config.vocab_size];
    let head = model.head();
    let hidden = hidden.host().expect("on the host");
    product(&case.cpu, hidden, n, &mut [Product { weight: head, bias: None, side: None, out: &mut logits }]);
    logits
}

pub fn groups(golden: &Tensors) -> Vec<TrainingGroup> {
    let prompts = golden.ids("prompt_lengths");
    let mut groups: Vec<TrainingGroup> = Vec::new();
    for (s, &prompt) in prompts.iter().enumerate() {
        let tokens = golden.ids(&format!("tokens.{s}"));
        let (prompt, completion) = tokens.split_at(prompt as usize);
        // Neighbours with the same prompt are samples of one group.
        if groups.last().is_none_or(|group| group.prompt != prompt) {
            groups.push(TrainingGroup { prompt: prompt.to_vec(), completions: vec![] });
        }
        let base = golden.get(&format!("logprobs.base.{s}"));
        groups.last_mut().expect("pushed above").completions.push(TrainingCompletion {
            tokens: completion.to_vec(),
            old_logprobs: golden.get(&format!("old_logprobs.{s}")).to_vec(),
            reference_logprobs: base[prompt.len() - 1..].to_vec(),
            advantage: golden.get("advantages")[s],
            ..Default::default()
        });
    }
    groups
}

/// A named golden loss under a policy, its gradient added to `sums`; micro-batches of at most `most` rows.
pub fn accumulate_loss(
    case: &Case,
    name: &str,
    policy: Policy<'_>,
    most: usize,
    sums: &mut Gradients,
) -> f32 {
    let mut groups = groups(&case.golden);
    let count: usize = groups.iter().flat_map(|g| &g.completions).map(|c| c.tokens.len()).sum();
    for completion in groups.iter_mut().flat_map(|group| &mut group.completions) {
        match name {
            "kl" => completion.advantage = 0.0,
            _ => completion.reference_logprobs.clear(),
        }
    }
    weigh(
        &mut groups,
        GrpoLoss::Dapo,
        BatchTotals { groups: 3, completions: 4, tokens: count, max_tokens: 24 },
    );
    let section = GrpoSection {
        loss: GrpoLoss::Dapo,
        clip_low: 0.2,
        clip_high: 0.28,
        kl_coefficient: if name == "kl" { 1.0 } else { 0.0 },
        ..Default::default()
    };
    let mut clipped = PolicyLoss::new(&section);
    let n = count as f64;
    let linear = |view: CompletionView<'_>, weight: f64| CompletionGradient {
        loss: -weight * view.logprobs.iter().map(|&l| f64::from(l)).sum::<f64>(),
        slopes: vec![-weight as f32; view.logprobs.len()],
        entropy_slope: 0.0,
    };
    let mut loss = |view: CompletionView<'_>| {
        let advantage = f64::from(view.sample.advantage);
        match name {
            "nll" => linear(view, 1.0 / n),
            "grpo" | "grpo_tempered" => linear(view, advantage / n),
            "grpo_sequence" => linear(view, advantage / (4.0 * view.logprobs.len() as f64)),
            "clipped" | "kl" => clipped.completion(view),
            other => panic!("{other}"),
        }
    };
    let inverse_temperature = if name.ends_with("tempered") { 1.0 / 0.7 } else { 1.0 };
    let mut workspace = GradientWorkspace::default();
    let mut total = 0.0;
    for batch in micro_batches(&groups, most) {
        let result = accumulate_completions(
            &case.cpu,
            policy,
            &batch,
            (inverse_temperature, false),
            &mut loss,
            &mut workspace,
            sums,
        );
        total += result.expect("finite");
    }
    total as f32
}

/// (loss, dL/dR, dL/dv) of a named golden loss at v; micro-batches of at most `most` rows.
pub fn gradient(case: &Case, name: &str, v: &[f32], most: usize) -> (f32, Vec<f32>, Vec<f32>) {
    let r = case.projections.r_matrices(v);
    let mut sums = Gradients::R(vec![vec![0f64; r.len()]]);
    let rs = [R::Matrices(r)];
    let policy = Policy::new(&case.model, Adapters { factors: Some(&case.factors), r: &rs });
    let total = accumulate_loss(case, name, policy, most, &mut sums);
    let Gradients::R(dr) = sums else { panic!("made above") };
    let dr: Vec<f32> = dr.into_iter().flatten().map(|x| x as f32).collect();
    let dv = case.projections.v_gradient(&dr);
    (total, dr, dv)
}

/// Losses before the first of ten AdamW steps (the golden file's learning rate) and after each, and v at the same times.
pub fn curve(case: &Case, loss: &str) -> (Vec<f32>, Vec<f32>) {
    let rate = case.golden.json["learning_rate"].as_f64().unwrap_or(1e-2);
    let mut v = case.v.clone();
    let (mut m, mut s) = (vec![0f64; v.len()], vec![0f64; v.len()]);
    let (mut losses, mut vs) = (Vec::new(), Vec::new());
    for step in 1..=11 {
        let (value, _, dv) = gradient(case, loss, &v, 10_000);
        losses.push(value);
        vs.extend_from_slice(&v);
        for i in 0..v.len() {
            let g = f64::from(dv[i]);
            m[i] = 0.9 * m[i] + 0.1 * g;
            s[i] = 0.999 * s[i] + 0.001 * g * g;
            let (mh, sh) = (m[i] / (1.0 - 0.9f64.powi(step)), s[i] / (1.0 - 0.999f64.powi(step)));
            v[i] -= (rate * mh / (sh.sqrt() + 1e-8)) as f32;
        }
    }
    (losses, vs)
}
