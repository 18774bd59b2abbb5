//! 256 adapters in one batch: each sequence gives, bit for bit, what it gives alone with its own adapter.

mod common;

use common::case::{Case, tiny_case};
use std::sync::atomic::AtomicBool;
use tinylora::inference::{Completion, Engine, GenerateOptions, Request, Sampling, Stop};
use tinylora::model::{Adapters, Policy, R};

const MANY: usize = 256;
const NEW_TOKENS: usize = 12;

struct Never;

impl Stop for Never {
    fn is_end(&self, _request: usize, _tokens: &[u32]) -> bool {
        false
    }
}

/// Two samples of a prompt, by the adapter of this number among those given.
fn request(case: &Case, index: usize, adapter: u32) -> Request {
    // Half of the prompts begin alike, some are equal.
    let tokens = case.golden.ids(if index.is_multiple_of(2) { "tokens.0" } else { "tokens.2" });
    Request {
        prompt: tokens[..9 + index % 3].to_vec(),
        samples: 2,
        adapter,
        seed: 3,
        stream: 2 * index as u64,
        max_tokens: NEW_TOKENS,
        sampling: if index % 5 == 4 {
            Sampling::GREEDY
        } else {
            Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 }
        },
    }
}

fn generate(case: &Case, r: &[R], requests: &[Request], at_once: usize) -> Vec<Vec<Completion>> {
    let mut engine = Engine::new(&case.cpu, &case.model, 6 * at_once.max(2));
    let interrupt = AtomicBool::new(false);
    let options = GenerateOptions { max_batch: at_once, stop: &Never, interrupt: &interrupt };
    let adapters = Adapters { factors: Some(&case.factors), r };
    engine.generate(Policy::new(&case.model, adapters), requests, &options, &mut |_| {}).expect("generates")
}

fn bits(completions: &[Completion]) -> Vec<(u32, u32)> {
    completions.iter().flat_map(|c| &c.tokens).map(|token| (token.token, token.logprob.to_bits())).collect()
}

#[test]
fn each_row_is_what_it_is_alone() {
    for name in ["qwen3", "gemma3"] {
        let case = tiny_case(name);
        let r: Vec<R> = (0..MANY)
            .map(|i| {
                let v: Vec<f32> = case.v.iter().map(|v| v * (0.1 + 0.02 * i as f32)).collect();
                R::Matrices(case.projections.r_matrices(&v))
            })
            .collect();
        let requests: Vec<Request> = (0..MANY).map(|i| request(&case, i, i as u32)).collect();
        let together = generate(&case, &r, &requests, 2 * MANY);
        let mut same_as_neighbour = 0;
        for (index, found) in together.iter().enumerate() {
            let alone = generate(&case, &r[index..=index], &[request(&case, index, 0)], 2);
            assert_eq!(bits(found), bits(&alone[0]), "{name}: sequence {index}");
            let other = generate(&case, &[r[(index + 1) % MANY].clone()], &[request(&case, index, 0)], 2);
            same_as_neighbour += usize::from(bits(&other[0]) == bits(found));
        }
        // Another adapter is seen, or the comparison would show nothing.
        assert_eq!(same_as_neighbour, 0, "{name}");
    }
}
