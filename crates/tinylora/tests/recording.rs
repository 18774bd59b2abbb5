//! Training takes over what sampling computed: the same bits as with a forward pass of its own.

mod common;

use common::case::{Case, tiny_case};
use std::sync::atomic::AtomicBool;
use tinylora::gradient::{
    CompletionGradient, CompletionView, GradientWorkspace, TrainingCompletion, TrainingGroup,
    accumulate_completions, micro_batches,
};
use tinylora::inference::{Engine, GenerateOptions, Request, Sampling, Stop};
use tinylora::model::{Adapters, Gradients, Policy, R, Recording};
use tinylora_compute::{Cpu, Kernel};

/// Completions of different lengths: they end at tokens divisible by five.
struct Fives;

impl Stop for Fives {
    fn is_end(&self, _request: usize, tokens: &[u32]) -> bool {
        tokens.last().is_some_and(|token| token.is_multiple_of(5))
    }
}

/// Three prompts, of which two begin alike and one is the beginning of another, in batches of four sequences.
fn sample(case: &Case, r: &R, recording: Recording) -> (Vec<TrainingGroup>, Recording) {
    let tokens = case.golden.ids("tokens.0");
    let other = case.golden.ids("tokens.2");
    let prompts = [tokens[..9].to_vec(), tokens[..12].to_vec(), [&tokens[..5], &other[..20]].concat()];
    let request = |(index, prompt): (usize, &Vec<u32>)| Request {
        prompt: prompt.clone(),
        samples: 3,
        adapter: 0,
        seed: 5,
        stream: 3 * index as u64,
        max_tokens: 21,
        sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 },
    };
    let requests: Vec<Request> = prompts.iter().enumerate().map(request).collect();
    let mut engine = Engine::new(&case.cpu, &case.model, 24);
    engine.record(recording);
    let interrupt = AtomicBool::new(false);
    let options = GenerateOptions { max_batch: 4, stop: &Fives, interrupt: &interrupt };
    let adapters = Adapters { factors: Some(&case.factors), r: std::slice::from_ref(r) };
    let policy = Policy::new(&case.model, adapters);
    let completions = engine.generate(policy, &requests, &options, &mut |_| {}).expect("generates");
    let groups = prompts.into_iter().zip(completions).map(|(prompt, completions)| TrainingGroup {
        prompt,
        completions: completions
            .into_iter()
            .map(|completion| TrainingCompletion {
                tokens: completion.tokens.iter().map(|token| token.token).collect(),
                old_logprobs: completion.tokens.iter().map(|token| token.logprob).collect(),
                ..Default::default()
            })
            .collect(),
    });
    (groups.collect(), engine.take_recording().expect("it was given one"))
}

/// dL/dR of a loss, and the log-probs that it saw.
fn gradient(
    case: &Case,
    r: &R,
    groups: &[TrainingGroup],
    workspace: &mut GradientWorkspace,
) -> (Vec<u64>, Vec<u32>) {
    let R::Matrices(numbers) = r else { panic!("matrices") };
    let mut sums = Gradients::R(vec![vec![0f64; numbers.len()]]);
    let mut logprobs = Vec::new();
    let mut loss = |view: CompletionView<'_>| {
        logprobs.extend(view.logprobs.iter().map(|x| x.to_bits()));
        CompletionGradient {
            loss: 0.0,
            slopes: (0..view.logprobs.len()).map(|token| 0.3 - 0.1 * (token % 7) as f32).collect(),
            entropy_slope: 0.0,
        }
    };
    let adapters = Adapters { factors: Some(&case.factors), r: std::slice::from_ref(r) };
    let policy = Policy::new(&case.model, adapters);
    for batch in micro_batches(groups, 70) {
        let settings = (1.0, false);
        accumulate_completions(&case.cpu, policy, &batch, settings, &mut loss, workspace, &mut sums)
            .expect("finite");
    }
    let Gradients::R(sums) = sums else { panic!("made above") };
    (sums.into_iter().flatten().map(f64::to_bits).collect(), logprobs)
}

#[test]
fn the_same_bits_as_a_pass_of_its_own() {
    let exact = || Cpu::new(Kernel::best_exact(), 2);
    for (name, cpu) in [
        ("llama2", exact()),
        ("qwen2", exact()),
        ("qwen3", exact()),
        ("gemma3", exact()),
        ("llama2-bf16", exact().with_rounding()),
        ("llama2-bf16", Cpu::new(Kernel::AmxEmulated, 2)),
    ] {
        let mut case = tiny_case(name);
        case.cpu = cpu;
        let r = R::Matrices(case.projections.r_matrices(&case.v));
        let mut recording = Recording::default();
        recording.begin(1000);
        let (groups, mut recording) = sample(&case, &r, recording);
        let sampled: Vec<u32> = groups
            .iter()
            .flat_map(|group| &group.completions)
            .flat_map(|completion| completion.old_logprobs.iter().map(|x| x.to_bits()))
            .collect();
        assert!(
            groups.iter().flat_map(|group| &group.completions).any(|completion| completion.tokens.len() > 3)
        );

        let (expected, logprobs) = gradient(&case, &r, &groups, &mut GradientWorkspace::default());
        assert_eq!(logprobs, sampled, "{name}: sampling and training");
        for again in 0..2 {
            let mut workspace = GradientWorkspace::default();
            workspace.recording = Some(recording);
            assert_eq!(
                gradient(&case, &r, &groups, &mut workspace),
                (expected.clone(), logprobs.clone()),
                "{name}"
            );
            // It was not computed again: another policy changes nothing of what the loss sees.
            let other = R::Matrices(
                case.projections.r_matrices(&case.v.iter().map(|v| v + 1.0).collect::<Vec<f32>>()),
            );
            assert_eq!(gradient(&case, &other, &groups, &mut workspace).1, sampled, "{name}");
            let (_, seen) = gradient(&case, &other, &groups, &mut GradientWorkspace::default());
            assert_ne!(seen, sampled, "{name}: the other policy is another one");
            recording = workspace.recording.take().expect("put in above");
            if again == 0 {
                // In the memory of the first.
                recording.begin(1000);
                recording = sample(&case, &r, recording).1;
            }
        }

        // Without room for all of it, training computes what it needs.
        recording.begin(40);
        let (_, recording) = sample(&case, &r, recording);
        assert!(recording.rows() <= 40);
        let mut workspace = GradientWorkspace::default();
        workspace.recording = Some(recording);
        assert_eq!(
            gradient(&case, &r, &groups, &mut workspace),
            (expected, logprobs),
            "{name}: too little room"
        );
    }
}
