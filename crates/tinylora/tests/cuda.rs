//! The engine on a GPU against the engine on the CPU: tiny models of every family, on the emulated driver (or with
//! `TINYLORA_CUDA_DRIVER` and `TINYLORA_CUDA_KERNELS` on a real one). Products round activations to bf16 there, so that
//! numbers agree to bf16's digits; what must be the same bits is sampling and training on one device.
#![cfg(feature = "cuda")]

#[path = "cuda/all_weights.rs"]
mod all_weights;
mod common;
#[path = "../../tinylora-compute/src/cuda/emulated/build.rs"]
mod emulated;

use common::case::{Case, groups, logits_with, tiny_case};
use common::{load, peft_adapter, relative_error, tiny_files};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tinylora::adapter::{FactorKey, FactorSketches, LoraSpec, TinyLoraSpec, load_or_compute_factors};
use tinylora::gradient::{
    CompletionGradient, CompletionView, GradientWorkspace, TrainingCompletion, TrainingGroup,
    accumulate_batches, accumulate_completions, completion_logprobs, micro_batches, scores,
};
use tinylora::inference::{Completion, Engine, GenerateOptions, Request, Sampling, Stop};
use tinylora::model::{Adapters, GpuOptions, Gradients, Model, Policy, R, SideFactors, with_gpu};
use tinylora::random::{Purpose, Stream};
use tinylora::recipe::{AdapterKind, AdapterSection, FisherScores, WeightDtype};
use tinylora_compute::{Cpu, Kernel, Precision};

const FAMILIES: [&str; 7] = ["llama2", "llama2-tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

/// All families, and some with products on `wgmma`.
fn families() -> impl Iterator<Item = (&'static str, bool)> {
    let on_wgmma = ["qwen2", "llama3", "gemma3"];
    FAMILIES.into_iter().map(|name| (name, false)).chain(on_wgmma.into_iter().map(|name| (name, true)))
}

/// The CPU with a GPU beside it, which replays graphs.
fn gpu(wgmma: bool) -> Option<Cpu> {
    gpu_with(1, true, wgmma)
}

fn gpu_with(count: usize, graphs: bool, wgmma: bool) -> Option<Cpu> {
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tinylora-compute/src/cuda");
    let given = given("TINYLORA_CUDA_DRIVER").zip(given("TINYLORA_CUDA_KERNELS"));
    let real = given.is_some();
    let (driver, kernels) = match given {
        Some(given) => given,
        None => emulated::emulated_driver(&cuda)?,
    };
    // The emulated driver's third GPU is a Hopper.
    let first = if wgmma && !real { 2 } else { 0 };
    let report = |text: &str| panic!("{text}");
    let options = GpuOptions {
        numbers: (first..first + count).collect(),
        memory: None,
        kernels,
        driver: Some(driver),
        graphs,
        wgmma,
        report,
    };
    match with_gpu(Cpu::new(Kernel::best_exact(), 2), &options) {
        Err(error) if wgmma && real => {
            eprintln!("skipped: {error}");
            None
        }
        opened => Some(opened.expect("the device opens")),
    }
}

/// A family's case with bf16 weights on the host, and the same model with its factors on the GPU.
struct Both {
    host: Case,
    gpu: Cpu,
    model: Model,
    factors: SideFactors,
    r: R,
}

fn both(name: &str) -> Option<Both> {
    both_on(name, false)
}

fn both_on(name: &str, wgmma: bool) -> Option<Both> {
    let gpu = gpu(wgmma)?;
    let mut host = tiny_case(name);
    host.model = load(&host.cpu, &tiny_files(name), Precision::Bf16);
    let model = load(&gpu, &tiny_files(name), Precision::Bf16);
    let modules: Vec<String> = serde_json::from_value(host.golden.json["modules"].clone()).expect("names");
    let (factors, _) = peft_adapter(name, &modules);
    let factors = SideFactors::beside(&gpu, &model, host.factors.rank(), &factors).expect("room");
    let r = R::Matrices(host.projections.r_matrices(&host.v));
    Some(Both { host, gpu, model, factors, r })
}

/// Either device's (handle, model, factors).
type On<'a> = (&'a Cpu, &'a Model, &'a SideFactors);

impl Both {
    fn host(&self) -> On<'_> {
        (&self.host.cpu, &self.host.model, &self.host.factors)
    }

    fn gpu(&self) -> On<'_> {
        (&self.gpu, &self.model, &self.factors)
    }
}

fn logprobs((cpu, model, factors): On<'_>, r: &R, groups: &[TrainingGroup]) -> Vec<f32> {
    let mut workspace = GradientWorkspace::default();
    let policy = Policy::new(model, Adapters { factors: Some(factors), r: std::slice::from_ref(r) });
    let all = completion_logprobs(cpu, policy, groups, 1.0 / 0.7, &mut workspace).expect("finite");
    all.into_iter().flatten().flatten().collect()
}

/// (loss, dL/dR) of −Σ advantage · ln p, and where `entropies` less a tenth of the entropy.
fn gradient(on: On<'_>, r: &R, groups: &[TrainingGroup], entropies: bool, most: usize) -> (f64, Vec<f32>) {
    let numbers = on.2.modules() * on.2.rank() * on.2.rank();
    match summed(on, r, groups, entropies, most, Gradients::R(vec![vec![0.0; numbers]])) {
        (total, Gradients::R(dr)) => (total, dr.into_iter().flatten().map(|x| x as f32).collect()),
        _ => panic!("made above"),
    }
}

/// The same with any kind of sums, which are 0.
fn summed(
    (cpu, model, factors): On<'_>,
    r: &R,
    groups: &[TrainingGroup],
    entropies: bool,
    most: usize,
    sums: Gradients,
) -> (f64, Gradients) {
    let policy = Policy::new(model, Adapters { factors: Some(factors), r: std::slice::from_ref(r) });
    summed_by(cpu, policy, groups, entropies, most, sums)
}

/// The same of any policy.
fn summed_by(
    cpu: &Cpu,
    policy: Policy<'_>,
    groups: &[TrainingGroup],
    entropies: bool,
    most: usize,
    mut sums: Gradients,
) -> (f64, Gradients) {
    let mut workspace = GradientWorkspace::default();
    let (settings, mut total) = ((1.0, entropies), 0.0);
    let mut loss = |view: CompletionView<'_>| {
        let bonus = if entropies { -0.1 } else { 0.0 };
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        CompletionGradient {
            loss: -f64::from(view.sample.advantage) * sum(view.logprobs) + bonus * sum(view.entropies),
            slopes: vec![-view.sample.advantage; view.logprobs.len()],
            entropy_slope: bonus as f32,
        }
    };
    for batch in micro_batches(groups, most) {
        total += accumulate_completions(cpu, policy, &batch, settings, &mut loss, &mut workspace, &mut sums)
            .expect("finite");
    }
    (total, sums)
}

struct Never;

impl Stop for Never {
    fn is_end(&self, _: usize, tokens: &[u32]) -> bool {
        tokens.last() == Some(&7)
    }
}

fn generate(
    (cpu, model, factors): On<'_>,
    r: &R,
    requests: &[Request],
    max_batch: usize,
) -> Vec<Vec<Completion>> {
    let interrupt = AtomicBool::new(false);
    // The second is a multiple of the identity, as adapters of LoRA are.
    let rs = [r.clone(), R::Multiples(vec![0.3; factors.modules()])];
    let policy = Policy::new(model, Adapters { factors: Some(factors), r: &rs });
    let options = GenerateOptions { max_batch, stop: &Never, interrupt: &interrupt };
    Engine::new(cpu, model, 200).generate(policy, requests, &options, &mut |_| {}).expect("generates")
}

fn requests(groups: &[TrainingGroup], sampling: Sampling) -> Vec<Request> {
    let request = |(index, group): (usize, &TrainingGroup)| Request {
        prompt: group.prompt.clone(),
        samples: 3,
        adapter: 0,
        seed: 3,
        stream: 10 * index as u64,
        max_tokens: 8,
        sampling,
    };
    groups.iter().enumerate().map(request).collect()
}

/// Completions as a batch to train on.
fn trained(requests: &[Request], completions: &[Vec<Completion>]) -> Vec<TrainingGroup> {
    let group = |(request, samples): (&Request, &Vec<Completion>)| TrainingGroup {
        prompt: request.prompt.clone(),
        completions: samples
            .iter()
            .enumerate()
            .map(|(index, sample)| TrainingCompletion {
                tokens: sample.tokens.iter().map(|token| token.token).collect(),
                old_logprobs: sample.tokens.iter().map(|token| token.logprob).collect(),
                supports: sample.tokens.iter().filter_map(|token| token.support.clone()).collect(),
                // All of one sign: where samples are the same, the rest would be rounding alone.
                advantage: 0.5 * (index as f32 + 1.0),
                ..Default::default()
            })
            .collect(),
    };
    requests.iter().zip(completions).map(group).collect()
}

fn sampled_logprobs(groups: &[TrainingGroup]) -> Vec<f32> {
    groups.iter().flat_map(|g| &g.completions).flat_map(|c| c.old_logprobs.clone()).collect()
}

#[test]
fn log_probs_and_gradients_agree_with_the_cpu() {
    for (name, wgmma) in families() {
        let Some(both) = both_on(name, wgmma) else { return };
        let groups = groups(&both.host.golden);
        let (host, gpu) = (both.host(), both.gpu());
        let (a, b) = (logprobs(host, &both.r, &groups), logprobs(gpu, &both.r, &groups));
        let largest = a.iter().zip(&b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        let ((loss, wanted), (found_loss, found)) =
            (gradient(host, &both.r, &groups, false, 10_000), gradient(gpu, &both.r, &groups, false, 10_000));
        let off = relative_error(&wanted, &found);
        println!(
            "{name}, wgmma {wgmma}: log-probs off by {largest:.1e}, loss {loss:.4} and {found_loss:.4}, dL/dR off by {off:.1e}"
        );
        // Logits of these random models are large: bf16's rounding of the last hidden state alone moves them by parts of themselves.
        let range = a.iter().fold(0f32, |most, a| most.max(a.abs()));
        assert!(largest < 0.01 * range, "{name}: log-probs of up to {range} are off by {largest}");
        assert!((loss - found_loss).abs() < 0.02 * loss.abs().max(1.0), "{name}: {loss} {found_loss}");
        assert!(off < 0.05, "{name}: dL/dR is off by {off}");
        // Cut into micro-batches it is the same gradient but for the order of sums.
        let (_, cut) = gradient(gpu, &both.r, &groups, false, 20);
        let off = relative_error(&found, &cut);
        assert!(off < 0.02, "{name}: cut into micro-batches it is off by {off}");
        if name == "qwen2" {
            let ((_, wanted), (_, found)) = (
                gradient(host, &both.r, &groups, true, 10_000),
                gradient(gpu, &both.r, &groups, true, 10_000),
            );
            let off = relative_error(&wanted, &found);
            println!("{name}: with the entropy's gradient off by {off:.1e}");
            assert!(off < 0.05, "{name}: with entropies dL/dR is off by {off}");
        }
    }
}

/// How far tokens lie beside the random numbers that chose them, at most, by the CPU's distribution after the same text: 0
/// where the number points into the token's share, and otherwise what rounding moved the share by.
fn beyond_the_drawn_number(both: &Both, requests: &[Request], completions: &[Vec<Completion>]) -> f64 {
    let (vocabulary, mut most) = (both.model.config.vocab_size, 0f64);
    for (request, samples) in requests.iter().zip(completions) {
        for (sample, completion) in samples.iter().enumerate() {
            let mut text = request.prompt.clone();
            text.extend(completion.tokens.iter().map(|token| token.token));
            let adapter = Some((&both.host.factors, &both.r));
            let logits = logits_with(&both.host, &both.host.model, &text, adapter);
            let stream = Stream::new(3, Purpose::Sampling, request.stream + sample as u64);
            let rows = logits.chunks_exact(vocabulary).skip(request.prompt.len() - 1);
            for (counter, (logits, token)) in rows.zip(&completion.tokens).enumerate() {
                let held = |id: usize| {
                    token.support.as_ref().is_none_or(|held| held.binary_search(&(id as u32)).is_ok())
                };
                let weight = |(id, &logit): (usize, &f32)| {
                    if held(id) { f64::from(logit / 0.7).exp() } else { 0.0 }
                };
                let weights: Vec<f64> = logits.iter().enumerate().map(weight).collect();
                if let Some(support) = &token.support {
                    let other = support_difference(logits, support);
                    assert!(other < 0.03, "a support differs from the CPU's by a share of {other}");
                }
                let below = weights[..token.token as usize].iter().sum::<f64>();
                let all = weights.iter().sum::<f64>();
                let (from, to) = (below / all, (below + weights[token.token as usize]) / all);
                let uniform = stream.uniform(counter as u64);
                most = most.max(from - uniform).max(uniform - to);
            }
        }
    }
    most
}

/// By how much a support misses what top-k 5 and top-p 0.9 make of the CPU's distribution: the share that is lacking, that is
/// too much, or by which a token that was left out is more likely than one that wasn't.
fn support_difference(logits: &[f32], support: &[u32]) -> f64 {
    let mut weights: Vec<(f64, bool)> = (0u32..)
        .zip(logits)
        .map(|(id, &logit)| (f64::from(logit / 0.7).exp(), support.binary_search(&id).is_ok()))
        .collect();
    weights.sort_by(|a, b| b.0.total_cmp(&a.0));
    let all: f64 = weights[..5].iter().map(|(weight, _)| weight).sum();
    let of = |wanted: bool| {
        weights.iter().filter(move |(_, held)| *held == wanted).map(|(weight, _)| weight / all)
    };
    let (held, least) = (of(true).sum::<f64>(), of(true).fold(1.0, f64::min));
    assert!((1..=5).contains(&support.len()));
    let lacking = if support.len() < 5 { 0.9 - held } else { 0.0 };
    lacking.max(held - least - 0.9).max(of(false).fold(0.0, f64::max) - least)
}

#[test]
fn what_is_sampled_is_what_is_trained_on_whatever_shares_the_batch() {
    // It takes longest, so that it would be alone at the end: half of the families on a thread of their own.
    let half = |start: usize| {
        let of_families =
            families().skip(start).step_by(2).map(|(name, wgmma)| sampled_and_trained(name, wgmma));
        of_families.collect::<Option<Vec<_>>>()
    };
    let halves = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        let own = half(0);
        Some([own?, other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?])
    });
    let Some(halves) = halves else { return };
    let (mut same, mut contexts, mut beyond) = (0, 0, 0f64);
    for (same_here, contexts_here, beyond_here) in halves.into_iter().flatten() {
        (same, contexts, beyond) = (same + same_here, contexts + contexts_here, beyond.max(beyond_here));
    }
    println!(
        "{same} of {contexts} tokens after the same text are those of the CPU; at most {beyond:.1e} beside"
    );
    assert!(
        same * 10 >= contexts * 9,
        "{same} of {contexts} tokens after the same text are those of the CPU"
    );
}

/// Of a family: tokens after the same text that are those of the CPU, all of these, and how far tokens lie beside the numbers
/// that chose them.
fn sampled_and_trained(name: &str, wgmma: bool) -> Option<(usize, usize, f64)> {
    let (mut same, mut contexts, mut beyond) = (0, 0, 0f64);
    let both = both_on(name, wgmma)?;
    let plain = Sampling { temperature: 0.7, top_p: 1.0, top_k: 0 };
    let truncated = Sampling { top_k: 5, top_p: 0.9, ..plain };
    for (sampling, count) in [(plain, usize::MAX), (truncated, 1)] {
        let requests = requests(&groups(&both.host.golden), sampling);
        let requests = &requests[..count.min(requests.len())];
        let completions = generate(both.gpu(), &both.r, requests, 16);
        let few = generate(both.gpu(), &both.r, requests, 2);
        assert_eq!(completions, few, "{name}: completions depend on the batch");
        let groups = trained(requests, &completions);
        let trained = logprobs(both.gpu(), &both.r, &groups);
        assert_eq!(sampled_logprobs(&groups), trained, "{name}: a gap between sampling and training");
        let host = generate(both.host(), &both.r, requests, 16);
        for (a, b) in host.iter().flatten().zip(completions.iter().flatten()) {
            let first = a.tokens.iter().zip(&b.tokens).position(|(a, b)| a.token != b.token);
            // After the first difference they go on from different texts.
            same += first.unwrap_or(a.tokens.len());
            contexts += first.map_or(a.tokens.len(), |first| first + 1);
        }
        let far = beyond_the_drawn_number(&both, requests, &completions);
        assert!(far < 0.03, "{name}: a token lies {far} beside the number that chose it");
        beyond = beyond.max(far);
        let ((_, wanted), (_, found)) = (
            gradient(both.host(), &both.r, &groups, false, 10_000),
            gradient(both.gpu(), &both.r, &groups, false, 10_000),
        );
        let off = relative_error(&wanted, &found);
        // Likely tokens have small gradients, in which rounding weighs more (0.06 seen).
        println!("{name}, top_k {}: dL/dR of samples is off by {off:.1e}", sampling.top_k);
        assert!(off < 0.1, "{name}, top_k {}: dL/dR of samples is off by {off}", sampling.top_k);
    }
    Some((same, contexts, beyond))
}

#[test]
fn factors_of_the_gpu_are_those_of_the_cpu_but_for_rounding() {
    // With a rank of 7 there are more vectors than a kernel takes at once.
    for (name, rank) in [("qwen2", 2), ("gemma3", 7)] {
        let Some(both) = both(name) else { return };
        let section = AdapterSection { rank, ..Default::default() };
        let spec = TinyLoraSpec::new(&section, &both.model.config).expect("fits");
        let cache = tempfile::tempdir().expect("a temporary folder");
        let key = FactorKey { weights_sha256: [1; 32], dtype: WeightDtype::Bf16 };
        let factors = |(cpu, model, _): On<'_>| {
            let weights: Vec<_> =
                spec.modules().map(|module| model.frozen(module.layer, module.target)).collect();
            load_or_compute_factors(cpu, cache.path(), &key, &spec, &weights, &|_| {}).expect("they converge")
        };
        let files = || std::fs::read_dir(cache.path()).expect("a folder").count();
        let (host, gpu) = (factors(both.host()), factors(both.gpu()));
        // What one device computed is not taken for the other.
        assert!(host != gpu && files() == 2, "{name}: {} files", files());
        assert!(gpu == factors(both.gpu()) && files() == 2, "{name}: read from the cache");
        std::fs::read_dir(cache.path()).expect("a folder").for_each(|file| {
            std::fs::remove_file(file.expect("readable").path()).expect("removable");
        });
        assert!(gpu == factors(both.gpu()), "{name}: computed again they have other bits");
        // An adapter's file of one device is taken on the other.
        FactorSketches::new(&host.sketches()).compare(&gpu.sketches()).expect("the same base");
        let mut most = 0f64;
        for (index, (host, gpu)) in host.modules.iter().zip(&gpu.modules).enumerate() {
            let off = relative_error(&host.a, &gpu.a).max(relative_error(&host.b, &gpu.b));
            // Vectors of singular values that are close turn into each other: 1e-6 of residual over the gap.
            assert!(off < 1e-3, "{name}, module {index}: factors are off by {off}");
            most = most.max(off);
        }
        println!("{name}: factors are off by {most:.1e} at most");
    }
}

#[test]
fn two_gpus_give_the_bits_of_one() {
    let Some(mut one) = both("llama3") else { return };
    let Some(mut two) = both("llama3") else { return };
    two.gpu = gpu_with(2, true, false).expect("as above");
    two.model = load(&two.gpu, &tiny_files("llama3"), Precision::Bf16);
    assert_eq!((one.model.devices(), two.model.devices()), (1, 2));
    let config = one.model.config.clone();
    let section = AdapterSection { kind: AdapterKind::Lora, rank: 3, ..Default::default() };
    let spec = LoraSpec::new(&section, &config).expect("fits");
    let modules: Vec<_> = spec.modules().map(|module| (module.layer, module.target)).collect();
    let mut numbers = spec.init(3);
    numbers.iter_mut().enumerate().for_each(|(i, x)| *x += 0.02 * (i as f32 * 0.7).sin());
    let r = R::Multiples(vec![spec.scale(); modules.len()]);
    for both in [&mut one, &mut two] {
        let zeros = vec![0.0; numbers.len()];
        let made = SideFactors::from_numbers_beside(&both.gpu, &both.model, 3, &modules, &zeros);
        both.factors = made.expect("there is room");
        both.factors.replace(&both.gpu, &config, &modules, &numbers).expect("there is room");
    }
    let sampling = Sampling { temperature: 0.7, top_p: 1.0, top_k: 0 };
    let requests = requests(&groups(&one.host.golden), sampling);
    let completions = generate(one.gpu(), &r, &requests, 16);
    assert_eq!(generate(two.gpu(), &r, &requests, 16), completions, "what is sampled");
    let groups = trained(&requests, &completions);
    for cut in [20, 60] {
        let batches = micro_batches(&groups, cut);
        assert!(batches.len() > 1, "there is something to share");
        let sums = |both: &Both| {
            let adapters = Adapters { factors: Some(&both.factors), r: std::slice::from_ref(&r) };
            let (mut sums, mut seen) = (Gradients::Factors(vec![0.0; numbers.len()]), Vec::new());
            let mut loss = |view: CompletionView<'_>| {
                seen.push(view.logprobs.to_vec());
                let slopes = vec![-view.sample.advantage; view.logprobs.len()];
                CompletionGradient { loss: f64::from(view.logprobs[0]), slopes, entropy_slope: 0.0 }
            };
            let (policy, mut workspace) = (Policy::new(&both.model, adapters), GradientWorkspace::default());
            let settings = (1.0 / 0.7, false);
            let total = accumulate_batches(
                &both.gpu,
                policy,
                &batches,
                settings,
                &mut loss,
                &mut workspace,
                &mut sums,
            );
            let Gradients::Factors(sums) = sums else { panic!("made above") };
            (total.expect("finite"), sums, seen)
        };
        let (a, b) = (sums(&one), sums(&two));
        assert!(a.1.iter().any(|x| *x != 0.0));
        assert!(a == b, "cut into {} micro-batches", batches.len());
    }
    // The first error in the order of micro-batches is told, and no thread waits for ever.
    let mut bad = micro_batches(&groups, 20);
    bad.truncate(3);
    let broken = R::Multiples(vec![f32::NAN; modules.len()]);
    let adapters = Adapters { factors: Some(&two.factors), r: std::slice::from_ref(&broken) };
    let (mut sums, mut workspace) =
        (Gradients::Factors(vec![0.0; numbers.len()]), GradientWorkspace::default());
    let policy = Policy::new(&two.model, adapters);
    let mut loss = |_: CompletionView<'_>| panic!("there are no log-probs");
    let error =
        accumulate_batches(&two.gpu, policy, &bad, (1.0, false), &mut loss, &mut workspace, &mut sums)
            .expect_err("not finite");
    assert!(error.to_string().contains("in the training pass"), "{error}");
}

/// The second rank is more than is summed at once.
#[test]
fn lora_is_sampled_and_trained_as_on_the_cpu() {
    for (name, rank) in [("qwen2", 5), ("gemma3", 34)] {
        let Some(mut both) = both(name) else { return };
        let config = both.model.config.clone();
        let section = AdapterSection { kind: AdapterKind::Lora, rank, alpha: 40.0, ..Default::default() };
        let spec = LoraSpec::new(&section, &config).expect("fits");
        let modules: Vec<_> = spec.modules().map(|module| (module.layer, module.target)).collect();
        let mut numbers = spec.init(3);
        both.r = R::Multiples(vec![spec.scale(); modules.len()]);
        both.factors = SideFactors::from_numbers_beside(&both.gpu, &both.model, rank, &modules, &numbers)
            .expect("there is room");
        // B starts at 0; other numbers follow, as after a step.
        numbers.iter_mut().enumerate().for_each(|(i, x)| *x += 0.02 * (i as f32 * 0.7).sin());
        let before = logprobs(both.gpu(), &both.r, &groups(&both.host.golden));
        both.factors.replace(&both.gpu, &config, &modules, &numbers).expect("there is room");
        both.host.factors = SideFactors::from_numbers(&both.host.cpu, &config, rank, &modules, &numbers);
        assert_ne!(before, logprobs(both.gpu(), &both.r, &groups(&both.host.golden)), "{name}: the old ones");
        let requests =
            requests(&groups(&both.host.golden), Sampling { temperature: 0.7, top_p: 1.0, top_k: 0 });
        let samples = trained(&requests, &generate(both.gpu(), &both.r, &requests, 16));
        let gap = "a gap between sampling and training";
        assert_eq!(sampled_logprobs(&samples), logprobs(both.gpu(), &both.r, &samples), "{name}: {gap}");
        let groups = groups(&both.host.golden);
        let sums = |on, most| {
            let zeros = Gradients::Factors(vec![0.0; numbers.len()]);
            match summed(on, &both.r, &groups, false, most, zeros) {
                (loss, Gradients::Factors(sums)) => (loss, sums),
                _ => panic!("made above"),
            }
        };
        let ((loss, wanted), (found_loss, found)) = (sums(both.host(), 10_000), sums(both.gpu(), 10_000));
        assert!((loss - found_loss).abs() < 0.02 * loss.abs().max(1.0), "{name}: {loss} {found_loss}");
        let (wanted, parts) = (halves(&spec, &wanted), halves(&spec, &found));
        for (half, (wanted, found)) in ["A", "B"].into_iter().zip(wanted.iter().zip(&parts)) {
            let off = relative_error(wanted, found);
            println!("{name}, LoRA of rank {rank}: the gradient of {half} is off by {off:.1e}");
            assert!(off < 0.05, "{name}: the gradient of {half} is off by {off}");
        }
        let off = relative_error(&found, &sums(both.gpu(), 20).1);
        assert!(off < 0.02, "{name}: cut into micro-batches it is off by {off}");
        // The emulated driver fails at such a number. What is left of both is not computed with.
        let good = std::mem::replace(&mut numbers[0], f32::from_bits(0x7fc0_dead));
        let error = both.factors.replace(&both.gpu, &config, &modules, &numbers).expect_err("a failing copy");
        assert!(error.to_string().contains("700"), "{error}");
        let policy = Policy::new(
            &both.model,
            Adapters { factors: Some(&both.factors), r: std::slice::from_ref(&both.r) },
        );
        let error = completion_logprobs(&both.gpu, policy, &groups, 1.0, &mut GradientWorkspace::default())
            .expect_err("half old and half new");
        assert!(error.to_string().contains("partly old"), "{error}");
        numbers[0] = good;
        both.factors.replace(&both.gpu, &config, &modules, &numbers).expect("it works again");
        assert_eq!(sampled_logprobs(&samples), logprobs(both.gpu(), &both.r, &samples), "{name}: {gap}");
    }
}

/// Numbers of all A and of all B.
fn halves(spec: &LoraSpec, numbers: &[f32]) -> [Vec<f32>; 2] {
    let (mut halves, mut rest) = ([Vec::new(), Vec::new()], numbers);
    for (n, k) in spec.shapes.iter().cycle().take(spec.num_modules()) {
        let (a, behind) = rest.split_at(spec.rank * k);
        let (b, behind) = behind.split_at(spec.rank * n);
        halves[0].extend_from_slice(a);
        halves[1].extend_from_slice(b);
        rest = behind;
    }
    halves
}

#[test]
fn graphs_replay_the_bits_of_launches() {
    graphs_replay(false);
}

#[test]
fn graphs_replay_the_bits_of_launches_on_wgmma() {
    graphs_replay(true);
}

fn graphs_replay(wgmma: bool) {
    let Some(with) = both_on("gemma3", wgmma) else { return };
    let Some(mut without) = both_on("gemma3", wgmma) else { return };
    without.gpu = gpu_with(1, false, wgmma).expect("as above");
    let (model, rank) = (load(&without.gpu, &tiny_files("gemma3"), Precision::Bf16), with.factors.rank());
    without.model = model;
    let modules: Vec<String> =
        serde_json::from_value(with.host.golden.json["modules"].clone()).expect("names");
    let (factors, _) = peft_adapter("gemma3", &modules);
    without.factors = SideFactors::beside(&without.gpu, &without.model, rank, &factors).expect("room");
    let mut requests =
        requests(&groups(&with.host.golden), Sampling { temperature: 0.7, top_p: 1.0, top_k: 0 });
    for (index, request) in requests.iter_mut().enumerate() {
        // Sequences end at different steps, so that batches shrink; some are of another adapter.
        (request.max_tokens, request.adapter) = (12 + 3 * index, index as u32 % 2);
    }
    let replayed = |both: &Both| both.gpu.gpu().expect("there is one").graph_launches();
    let (a, b) =
        (generate(with.gpu(), &with.r, &requests, 16), generate(without.gpu(), &with.r, &requests, 16));
    assert_eq!(a, b, "graphs change what is sampled");
    assert!(a.iter().flatten().any(|completion| completion.tokens.len() > 10), "long enough for replays");
    let steps = replayed(&with);
    assert!(steps > 5 && replayed(&without) == 0, "{steps} steps were graphs");
    // Another R after the first call: a graph must not go on with the old one. So with an engine that is used again.
    let interrupt = AtomicBool::new(false);
    let options = GenerateOptions { max_batch: 16, stop: &Never, interrupt: &interrupt };
    let mut engines = [&with, &without].map(|both| Engine::new(&both.gpu, &both.model, 200));
    let mut all = Vec::new();
    for factor in [1.0, -1.0] {
        let R::Matrices(r) = &with.r else { panic!("matrices") };
        let rs = [
            R::Matrices(r.iter().map(|x| x * factor).collect()),
            R::Multiples(vec![factor; with.factors.modules()]),
        ];
        let pair = [&with, &without].into_iter().zip(&mut engines).map(|(both, engine)| {
            let policy = Policy::new(&both.model, Adapters { factors: Some(&both.factors), r: &rs });
            engine.generate(policy, &requests, &options, &mut |_| {}).expect("generates")
        });
        let pair: Vec<_> = pair.collect();
        assert_eq!(pair[0], pair[1], "graphs change what is sampled with R times {factor}");
        all.push(pair[0].clone());
    }
    assert!(all[0] != all[1] && replayed(&with) > 2 * steps, "R matters, and graphs went on");
}

#[test]
fn samples_join_steps_that_are_queued() {
    for wgmma in [false, true] {
        let Some(with) = both_on("qwen2", wgmma) else { return };
        let plain = Sampling { temperature: 0.7, top_p: 1.0, top_k: 0 };
        let mut requests = requests(&groups(&with.host.golden), plain);
        for (index, request) in requests.iter_mut().enumerate() {
            // More samples than places, which end at different steps; one request chooses its tokens otherwise.
            (request.samples, request.max_tokens) = (7, 5 + 3 * index);
            request.sampling.temperature = if index == 1 { 0.9 } else { 0.7 };
        }
        let launched = |both: &Both| both.gpu.gpu().expect("there is one").graph_launches();
        let together = generate(with.gpu(), &with.r, &requests, 64);
        let before = launched(&with);
        let joined = generate(with.gpu(), &with.r, &requests, 4);
        assert_eq!(joined, together, "samples that join choose other tokens");
        let tokens: usize = joined.iter().flatten().map(|completion| completion.tokens.len()).sum();
        let graphs = launched(&with) - before;
        println!("wgmma {wgmma}: {tokens} tokens, {graphs} steps were graphs");
        // At least half of the steps that four places need.
        assert!(graphs * 8 > tokens, "{graphs} steps of {tokens} tokens were graphs");
        let alone = generate(with.gpu(), &with.r, &requests, 1);
        assert_eq!(alone, together, "one place after the other");
        // Training at the temperature that all but one of the requests have.
        let of_plain = requests.into_iter().zip(joined).filter(|(request, _)| request.sampling == plain);
        let (requests, joined): (Vec<_>, Vec<_>) = of_plain.unzip();
        let trained = trained(&requests, &joined);
        assert_eq!(sampled_logprobs(&trained), logprobs(with.gpu(), &with.r, &trained), "a gap");
    }
}

#[test]
fn greedy_tokens_adapters_in_one_batch_and_scores() {
    let Some(both) = both("qwen3") else { return };
    let mut requests = requests(&groups(&both.host.golden), Sampling::GREEDY);
    for (index, request) in requests.iter_mut().enumerate() {
        request.adapter = index as u32 % 2;
        request.samples = 1;
    }
    let together = generate(both.gpu(), &both.r, &requests, 16);
    for (request, completion) in requests.iter().zip(&together) {
        let alone = generate(both.gpu(), &both.r, std::slice::from_ref(request), 1);
        assert_eq!(&alone[0], completion, "an adapter's completion depends on its neighbours");
    }
    let groups = trained(&requests, &together);
    let all_scores = |(cpu, model, factors): On<'_>| {
        let (mut workspace, mut all) = (GradientWorkspace::default(), Vec::new());
        let r = std::slice::from_ref(&both.r);
        let policy = Policy::new(model, Adapters { factors: Some(factors), r });
        let mut each = |_: usize, dr: &[f64]| all.extend(dr.iter().map(|&x| x as f32));
        let settings = (FisherScores::Sequence, 1.0, 1000);
        scores(cpu, policy, &groups, settings, &mut workspace, &mut each).expect("finite");
        all
    };
    let off = relative_error(&all_scores(both.host()), &all_scores(both.gpu()));
    assert!(off < 0.05, "scores are off by {off}");
}

#[test]
fn too_little_memory_is_an_error_with_the_numbers() {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tinylora-compute/src/cuda");
    let Some((driver, kernels)) = emulated::emulated_driver(&cuda) else { return };
    let options = GpuOptions {
        numbers: vec![0],
        memory: Some(50_000),
        kernels,
        driver: Some(driver),
        graphs: true,
        wgmma: false,
        report: |_| {},
    };
    let cpu = with_gpu(Cpu::new(Kernel::Scalar, 1), &options).expect("opens");
    let files = tiny_files("llama2");
    let weights = tinylora::model::weights::Weights::open(&files).expect("opens");
    let error = Model::load(&cpu, &weights, Precision::Bf16, 64, &mut |_, _| {}).err().expect("too small");
    assert!(error.to_string().contains("of the budget of 50000"), "{error}");
    let error = Model::load(&cpu, &weights, Precision::F32, 64, &mut |_, _| {}).err().expect("not on a GPU");
    assert!(error.to_string().contains("bf16"), "{error}");
}
