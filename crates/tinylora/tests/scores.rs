//! What losses beyond the plain ones need of the training pass, on the tiny models: scores of single completions and tokens,
//! and the gradient of the entropy.

mod common;

use common::case::{Case, gradient, groups, logits, tiny_case};
use common::relative_error;
use tinylora::gradient::{
    CompletionGradient, CompletionView, GradientWorkspace, TrainingCompletion, TrainingGroup,
    accumulate_completions, scores,
};
use tinylora::model::{Adapters, Gradients, Policy, R};
use tinylora::recipe::FisherScores;

/// ∂ ln p / ∂v of each completion or token, and how many tokens each is of; about `most` rows at once.
fn all_scores(case: &Case, kind: FisherScores, most: usize) -> Vec<(usize, Vec<f32>)> {
    scores_of(case, &groups(&case.golden), kind, most)
}

fn scores_of(
    case: &Case,
    groups: &[TrainingGroup],
    kind: FisherScores,
    most: usize,
) -> Vec<(usize, Vec<f32>)> {
    let r = [R::Matrices(case.projections.r_matrices(&case.v))];
    let policy = Policy::new(&case.model, Adapters { factors: Some(&case.factors), r: &r });
    let mut workspace = GradientWorkspace::default();
    let mut all = Vec::new();
    let mut each = |tokens: usize, dr: &[f64]| {
        let dr: Vec<f32> = dr.iter().map(|&x| x as f32).collect();
        all.push((tokens, case.projections.v_gradient(&dr)));
    };
    let settings = (kind, 1.0, most);
    scores(&case.cpu, policy, groups, settings, &mut workspace, &mut each).expect("finite");
    all
}

/// Loss and dL/dv of a loss over completions.
fn gradient_of(
    case: &Case,
    groups: &[TrainingGroup],
    v: &[f32],
    loss: &mut dyn FnMut(CompletionView<'_>) -> CompletionGradient,
) -> (f64, Vec<f32>) {
    let r = case.projections.r_matrices(v);
    let mut sums = Gradients::R(vec![vec![0f64; r.len()]]);
    let r = [R::Matrices(r)];
    let policy = Policy::new(&case.model, Adapters { factors: Some(&case.factors), r: &r });
    let mut workspace = GradientWorkspace::default();
    let settings = (1.0, true);
    let value = accumulate_completions(&case.cpu, policy, groups, settings, loss, &mut workspace, &mut sums);
    let Gradients::R(dr) = sums else { panic!("made above") };
    let dr: Vec<f32> = dr.into_iter().flatten().map(|x| x as f32).collect();
    (value.expect("finite"), case.projections.v_gradient(&dr))
}

/// Weighted by what a loss has as slopes, the scores add up to the gradient that autograd gave; each is that of its completion
/// alone; and a completion's is the sum of its tokens'.
#[test]
fn scores_add_up_to_gradients() {
    for name in ["llama2", "mistral", "qwen3", "gemma3"] {
        let case = tiny_case(name);
        let sequences = all_scores(&case, FisherScores::Sequence, 10_000);
        let lengths: Vec<usize> = sequences.iter().map(|(tokens, _)| *tokens).collect();
        assert_eq!(lengths, [14, 10, 24, 17]);
        assert_eq!(
            sequences,
            all_scores(&case, FisherScores::Sequence, 30),
            "{name}: bits of any micro-batch"
        );
        let advantages = case.golden.get("advantages");
        for loss in ["nll", "grpo", "grpo_sequence"] {
            let mut sum = vec![0f32; case.v.len()];
            for (s, (_, score)) in sequences.iter().enumerate() {
                let weight = match loss {
                    "nll" => 1.0 / 65.0,
                    "grpo" => advantages[s] / 65.0,
                    _ => advantages[s] / (4.0 * lengths[s] as f32),
                };
                sum.iter_mut().zip(score).for_each(|(sum, x)| *sum -= weight * x);
            }
            case.golden.check(name, &format!("dv.{loss}"), &sum, 1e-4);
        }
        let groups = groups(&case.golden);
        for (s, (_, score)) in sequences.iter().enumerate() {
            let mut seen = 0;
            let (_, alone) = gradient_of(&case, &groups, &case.v, &mut |view| {
                seen += 1;
                let slope = if seen - 1 == s { 1.0 } else { 0.0 };
                CompletionGradient { slopes: vec![slope; view.logprobs.len()], ..Default::default() }
            });
            let error = relative_error(&alone, score);
            assert!(error < 1e-4, "{name} completion {s}: {error:.1e}");
        }
        let tokens = all_scores(&case, FisherScores::Token, 500);
        assert_eq!(tokens.len(), 65);
        let mut tokens = tokens.into_iter();
        for (s, (length, score)) in sequences.iter().enumerate() {
            let mut sum = vec![0f32; score.len()];
            for (one, token) in tokens.by_ref().take(*length) {
                assert_eq!(one, 1);
                sum.iter_mut().zip(token).for_each(|(sum, x)| *sum += x);
            }
            let error = relative_error(score, &sum);
            assert!(error < 1e-4, "{name} completion {s}: tokens are off by {error:.1e}");
        }
        // The check can fail: another loss's weights are far off.
        let mut wrong = vec![0f32; case.v.len()];
        sequences.iter().for_each(|(_, score)| wrong.iter_mut().zip(score).for_each(|(w, x)| *w -= x / 65.0));
        assert!(case.golden.error("dv.grpo", &wrong) > 1e-2);
        let (_, _, whole) = gradient(&case, "nll", &case.v, 10_000);
        assert!(relative_error(&whole, &wrong) < 1e-4);
    }
}

/// ½ δᵀFδ with the Fisher matrix of one token's distribution, all tokens of the vocabulary weighted by their probabilities, is the KL
/// between the model before and after a small step δ.
#[test]
fn scores_of_the_whole_vocabulary_give_the_kl_of_a_step() {
    for name in ["llama2", "qwen3", "gemma3"] {
        let case = tiny_case(name);
        let prompt = groups(&case.golden)[0].prompt.clone();
        let log_p = |v: &[f32]| -> Vec<f64> {
            let all = logits(&case, &prompt, Some(&case.projections.r_matrices(v)));
            let last = &all[all.len() - case.model.config.vocab_size..];
            let normalizer = last.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
            last.iter().map(|&l| f64::from(l) - normalizer).collect()
        };
        let one = |token| TrainingCompletion { tokens: vec![token], ..Default::default() };
        let vocabulary = case.model.config.vocab_size as u32;
        let group = TrainingGroup { prompt: prompt.clone(), completions: (0..vocabulary).map(one).collect() };
        let scores = scores_of(&case, &[group], FisherScores::Sequence, 2000);
        let before = log_p(&case.v);
        let direction: Vec<f32> = (0..case.v.len()).map(|i| ((i * i + 1) as f32).sin()).collect();
        let form: f64 = scores
            .iter()
            .zip(&before)
            .map(|((_, score), log_p)| {
                let along: f64 = score.iter().zip(&direction).map(|(s, d)| f64::from(s * d)).sum();
                0.5 * log_p.exp() * along * along
            })
            .sum();
        // A step whose KL should be 1e-4: f32 sees that well, and the third order is small.
        let step = (1e-4 / form).sqrt();
        let moved: Vec<f32> = case.v.iter().zip(&direction).map(|(v, d)| v + step as f32 * d).collect();
        let kl: f64 = before.iter().zip(log_p(&moved)).map(|(b, a)| b.exp() * (b - a)).sum();
        assert!((kl / 1e-4 - 1.0).abs() < 0.05, "{name}: {kl:.3e}");
    }
}

/// The slope of the mean entropy (and of log-probs), along its own gradient, against differences; over the whole vocabulary and over
/// parts of it.
#[test]
fn entropy_has_its_slope() {
    for name in ["llama2", "qwen2", "gemma3"] {
        let case = tiny_case(name);
        for truncated in [false, true] {
            let mut groups = groups(&case.golden);
            let vocabulary = case.model.config.vocab_size as u32;
            for completion in groups.iter_mut().flat_map(|group| &mut group.completions) {
                let support = |&token: &u32| {
                    let mut ids: Vec<u32> = (0..40).map(|i| (token + 7 * i) % vocabulary).collect();
                    ids.sort_unstable();
                    ids
                };
                if truncated {
                    completion.supports = completion.tokens.iter().map(support).collect();
                }
            }
            for (of_entropy, of_logprob) in [(1.0, 0.0), (0.5, 0.25), (0.0, 1.0)] {
                let mut loss = |view: CompletionView<'_>| {
                    let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>() / 65.0;
                    CompletionGradient {
                        loss: f64::from(of_entropy) * sum(view.entropies)
                            + f64::from(of_logprob) * sum(view.logprobs),
                        slopes: vec![of_logprob / 65.0; view.logprobs.len()],
                        entropy_slope: of_entropy / 65.0,
                    }
                };
                let (_, dv) = gradient_of(&case, &groups, &case.v, &mut loss);
                let norm = dv.iter().map(|x| x * x).sum::<f32>().sqrt();
                assert!(norm > 1e-4, "{name}: {norm}");
                let h = 0.02;
                let at = |step: f32| -> Vec<f32> {
                    case.v.iter().zip(&dv).map(|(v, d)| v + step * d / norm).collect()
                };
                let (up, _) = gradient_of(&case, &groups, &at(h), &mut loss);
                let (down, _) = gradient_of(&case, &groups, &at(-h), &mut loss);
                let slope = (up - down) / (2.0 * f64::from(h));
                let off = (slope / f64::from(norm) - 1.0).abs();
                assert!(off < 0.01, "{name} truncated {truncated} {of_entropy} {of_logprob}: {slope} {norm}");
            }
        }
    }
}
