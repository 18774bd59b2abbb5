//! All weights in training: their gradients against the CPU's, and weights that are replaced in place.

use super::common::case::{Case, groups, tiny_case};
use super::common::{relative_error, tiny_files};
use super::{FAMILIES, Never, gpu, requests, sampled_logprobs, summed_by, trained};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tinylora::gradient::{GradientWorkspace, TrainingGroup, completion_logprobs};
use tinylora::inference::{Completion, Engine, GenerateOptions, Request, Sampling};
use tinylora::model::weights::Weights;
use tinylora::model::{Gradients, Model, Policy, WeightLayout};
use tinylora_compute::{Cpu, Precision};

/// All weights of a family on both devices, moved away from those of the file.
struct AllWeights {
    host: Case,
    gpu: Cpu,
    layout: Arc<WeightLayout>,
    numbers: Vec<f32>,
    /// Packed anew on either device.
    models: [Model; 2],
}

fn all_weights(name: &str, wgmma: bool) -> Option<AllWeights> {
    let gpu = gpu(wgmma)?;
    let host = tiny_case(name);
    let weights = Weights::open(&tiny_files(name)).expect("the weights open");
    let layout = WeightLayout::new(&host.model.config);
    let mut numbers = vec![0.0; layout.len()];
    for (name, _) in &layout.tensors {
        weights.read_rows(name, 0, &mut numbers[layout.find(name).expect("named")]).expect("readable");
    }
    let model = |cpu| {
        let config = host.model.config.clone();
        Model::from_numbers(cpu, (config, &layout), &numbers, Precision::Bf16, 1024).expect("finite")
    };
    let mut models = [model(&host.cpu), model(&gpu)];
    numbers.iter_mut().enumerate().for_each(|(i, x)| *x += 0.02 * (i as f32 * 0.7).sin());
    for (cpu, model) in [&host.cpu, &gpu].into_iter().zip(&mut models) {
        model.repack(cpu, &layout, &numbers, None).expect("there is room");
    }
    Some(AllWeights { host, gpu, layout: Arc::new(layout), numbers, models })
}

impl AllWeights {
    /// (loss, gradient of every weight) on one of the two devices, as [`summed`].
    fn gradient(
        &self,
        device: usize,
        groups: &[TrainingGroup],
        entropies: bool,
        most: usize,
    ) -> (f64, Vec<f32>) {
        let (cpu, model) = ([&self.host.cpu, &self.gpu][device], &self.models[device]);
        let sums = model.weight_sums(&self.layout).expect("there is room");
        match summed_by(cpu, Policy::plain(model), groups, entropies, most, sums) {
            (loss, Gradients::Weights(sums)) => (loss, sums.numbers),
            (loss, Gradients::GpuWeights(sums)) => (loss, sums.into_numbers().expect("read")),
            _ => panic!("made above"),
        }
    }

    /// The most by which a tensor's gradient on the GPU is off; each at most by `limit`.
    fn compare(&self, what: &str, wanted: &[f32], found: &[f32], limit: f64) {
        let mut most = 0f64;
        for (tensor, _) in &self.layout.tensors {
            let range = self.layout.find(tensor).expect("named");
            let off = relative_error(&wanted[range.clone()], &found[range]);
            assert!(off < limit, "{what}: the gradient of {tensor} is off by {off:.1e}");
            most = most.max(off);
        }
        println!("{what}: gradients are off by at most {most:.1e}");
    }

    fn generate(&self, engine: &mut Engine<'_>, model: &Model, requests: &[Request]) -> Vec<Vec<Completion>> {
        let interrupt = AtomicBool::new(false);
        let options = GenerateOptions { max_batch: 16, stop: &Never, interrupt: &interrupt };
        engine.generate(Policy::plain(model), requests, &options, &mut |_| {}).expect("generates")
    }

    fn logprobs(&self, model: &Model, groups: &[TrainingGroup]) -> Vec<f32> {
        let (policy, mut workspace) = (Policy::plain(model), GradientWorkspace::default());
        let all = completion_logprobs(&self.gpu, policy, groups, 1.0 / 0.7, &mut workspace).expect("finite");
        all.into_iter().flatten().flatten().collect()
    }
}

#[test]
fn gradients_of_every_weight_agree_with_the_cpu() {
    for name in FAMILIES {
        let Some(all) = all_weights(name, false) else { return };
        let what = format!("{name}, all weights");
        let groups = groups(&all.host.golden);
        let (loss, wanted) = all.gradient(0, &groups, false, 10_000);
        let (found_loss, found) = all.gradient(1, &groups, false, 10_000);
        assert!((loss - found_loss).abs() < 0.02 * loss.abs().max(1.0), "{what}: {loss} {found_loss}");
        all.compare(&what, &wanted, &found, 0.05);
        // The test can fail: a gradient of another tensor of the same shape is far off.
        let of =
            |tensor: &str| all.layout.find(&format!("model.layers.0.mlp.{tensor}.weight")).expect("named");
        assert!(relative_error(&wanted[of("up_proj")], &found[of("gate_proj")]) > 0.2, "{what}");
        assert!(found == all.gradient(1, &groups, false, 10_000).1, "{what}: other bits the second time");
        all.compare(&format!("{what}, cut"), &found, &all.gradient(1, &groups, false, 20).1, 0.03);
        if name == "qwen2" {
            let (wanted, found) =
                (all.gradient(0, &groups, true, 10_000).1, all.gradient(1, &groups, true, 10_000).1);
            all.compare(&format!("{what}, with entropies"), &wanted, &found, 0.05);
        }
    }
}

#[test]
fn all_weights_are_sampled_as_they_are_trained_and_replaced_in_place() {
    for (name, wgmma) in [("gemma3", false), ("qwen2", true)] {
        let Some(mut all) = all_weights(name, wgmma) else { return };
        let plain = Sampling { temperature: 0.7, top_p: 1.0, top_k: 0 };
        let of = |sampling| requests(&groups(&all.host.golden), sampling);
        let (plain, truncated) = (of(plain), of(Sampling { top_k: 5, top_p: 0.9, ..plain }));
        let (config, mut numbers) = (all.host.model.config.clone(), all.numbers.clone());
        let anew = |numbers: &[f32]| {
            Model::from_numbers(&all.gpu, (config.clone(), &all.layout), numbers, Precision::Bf16, 1024)
                .expect("there is room")
        };
        // An engine that has recorded graphs goes on with other numbers in the same memory.
        let mut sampled = Vec::new();
        let mut model = anew(&numbers);
        let mut engine = Engine::new(&all.gpu, &model, 200);
        for change in [0.0, 0.05] {
            numbers.iter_mut().enumerate().for_each(|(i, x)| *x += change * (i as f32 * 0.3).cos());
            model.repack(&all.gpu, &all.layout, &numbers, None).expect("there is room");
            let completions = all.generate(&mut engine, &model, &plain);
            let fresh = anew(&numbers);
            let same = all.generate(&mut Engine::new(&all.gpu, &fresh, 200), &fresh, &plain);
            assert_eq!(completions, same, "{name}: replaced or packed anew");
            let groups = trained(&plain, &completions);
            assert_eq!(sampled_logprobs(&groups), all.logprobs(&model, &groups), "{name}: a gap");
            sampled.push(completions);
        }
        assert!(sampled[0] != sampled[1], "{name}: the numbers matter");
        // Completions with supports of their own, which the head's gradient takes row by row.
        let completions = all.generate(&mut engine, &model, &truncated);
        let supported = trained(&truncated, &completions);
        assert!(supported.iter().flat_map(|group| &group.completions).any(|c| !c.supports.is_empty()));
        assert_eq!(sampled_logprobs(&supported), all.logprobs(&model, &supported), "{name}: a gap");
        for (cpu, model) in [&all.host.cpu, &all.gpu].into_iter().zip(&mut all.models) {
            model.repack(cpu, &all.layout, &numbers, None).expect("there is room");
        }
        for entropies in [false, true] {
            let (_, wanted) = all.gradient(0, &supported, entropies, 10_000);
            let (_, found) = all.gradient(1, &supported, entropies, 10_000);
            let what = format!("{name}, wgmma {wgmma}, supports, entropies {entropies}");
            // Gradients of few tokens that all but cancel keep few of bf16's digits.
            all.compare(&what, &wanted, &found, 0.15);
            let head = all.layout.find("lm_head.weight").expect("there is one, or it is tied");
            let off = relative_error(&wanted[head.clone()], &found[head]);
            assert!(off < 0.05, "{what}: the head's is off by {off:.1e}");
        }
        // The emulated driver fails at such a number. What is left of both is not computed with.
        let norm = all.layout.find("model.norm.weight").expect("named").start;
        let good = std::mem::replace(&mut numbers[norm], f32::from_bits(0x7fc0_dead));
        let error = model.repack(&all.gpu, &all.layout, &numbers, None).expect_err("a failing copy");
        assert!(error.to_string().contains("700"), "{error}");
        numbers[norm] = good;
        let (policy, mut workspace) = (Policy::plain(&model), GradientWorkspace::default());
        let error = completion_logprobs(&all.gpu, policy, &supported, 1.0, &mut workspace)
            .expect_err("half old and half new");
        assert!(error.to_string().contains("partly old"), "{error}");
        model.repack(&all.gpu, &all.layout, &numbers, None).expect("it works again");
        assert_eq!(sampled_logprobs(&supported), all.logprobs(&model, &supported), "{name}: again");
    }
}
