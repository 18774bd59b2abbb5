//! How much slower is a batch in which every sequence has its own adapter than one in which all share one? A model's
//! file enters, tokens a second of both leave as JSON, runs of both kinds in turn.
//!
//!     cargo run --release --workspace --example many_adapters -- MODEL.gguf [SEQUENCES]

use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tinylora::adapter::Projections;
use tinylora::base::{Adapter, Base};
use tinylora::hub::{HubOptions, cache_dir};
use tinylora::inference::{Engine, GenerateOptions, Progress, Request, Sampling, Stop};
use tinylora::model::{Adapters, Policy, R};
use tinylora::recipe::{AdapterSection, WeightDtype};
use tinylora_compute::Cpu;

const PROMPT_TOKENS: usize = 16;
const NEW_TOKENS: usize = 16;
const ROUNDS: usize = 3;

struct Never;

impl Stop for Never {
    fn is_end(&self, _request: usize, _tokens: &[u32]) -> bool {
        false
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("which model? give a .gguf file or a folder")?;
    let sequences: usize = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let cpu = Cpu::from_env(false)?;
    let options = HubOptions::from_env();
    let base = Base::open(&cpu, &model, WeightDtype::Bf16, 0, &options, &mut |_| {})?;
    let section = AdapterSection { u: 13, n_tie: 0, init_bound: 0.02, ..AdapterSection::default() };
    let cache = cache_dir(&options).join("factors");
    let adapter = Adapter::from_section(&cpu, &base, &section, 1, &cache, &mut |_| {})?;
    let projections = Projections::new(&adapter.spec);
    let matrices = |i| R::Matrices(projections.r_matrices(&adapter.spec.init_v(i)));
    let r: Vec<R> = (0..sequences as u64).map(matrices).collect();
    let adapters = Adapters { factors: Some(&adapter.factors.side), r: &r };
    let blocks = sequences * (PROMPT_TOKENS + NEW_TOKENS).div_ceil(16) + sequences;
    let mut engine = Engine::new(&cpu, &base.model, blocks);
    let vocabulary = base.model.config.vocab_size as u32;
    let mut run = |own: bool| -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let request = |i: usize| Request {
            // Other tokens from the first on, so that neither kind of batch shares a beginning.
            prompt: (0..PROMPT_TOKENS).map(|t| ((i * 131 + t * 17 + 5) as u32) % vocabulary).collect(),
            samples: 1,
            adapter: if own { i as u32 } else { 0 },
            seed: 1,
            stream: i as u64,
            max_tokens: NEW_TOKENS,
            sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 },
        };
        let requests: Vec<Request> = (0..sequences).map(request).collect();
        let interrupt = AtomicBool::new(false);
        let options = GenerateOptions { max_batch: sequences, stop: &Never, interrupt: &interrupt };
        // Decoding alone is what comes after every sequence has its first token.
        let mut begun = vec![false; sequences];
        let (mut waiting, mut tokens, mut all_begun) = (sequences, 0usize, None);
        let start = Instant::now();
        engine.generate(Policy::new(&base.model, adapters), &requests, &options, &mut |progress| {
            let Progress::Token { request, .. } = progress else { return };
            if !std::mem::replace(&mut begun[request], true) {
                waiting -= 1;
                if waiting == 0 {
                    all_begun = Some(Instant::now());
                }
            } else if waiting == 0 {
                tokens += 1;
            }
        })?;
        let total = (sequences * (PROMPT_TOKENS + NEW_TOKENS)) as f64 / start.elapsed().as_secs_f64();
        let decode = all_begun.map_or(0.0, |from| tokens as f64 / from.elapsed().as_secs_f64());
        Ok((total, decode))
    };
    run(true)?; // warms caches up
    let (mut shared, mut own) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        shared.push(run(false)?);
        own.push(run(true)?);
    }
    println!(
        "{{\"sequences\": {sequences}, \"prompt_tokens\": {PROMPT_TOKENS}, \"new_tokens\": {NEW_TOKENS}, \
         \"kernel\": \"{}\", \"threads\": {},\n \"unit\": \"tokens a second: [prompt and new, decoding alone] of each round\",\n \
         \"one_shared_adapter\": {},\n \"one_adapter_each\": {}}}",
        cpu.kernel().name(),
        cpu.threads(),
        json(&shared),
        json(&own)
    );
    Ok(())
}

fn json(rounds: &[(f64, f64)]) -> String {
    let rounds: Vec<String> = rounds.iter().map(|(all, decode)| format!("[{all:.1}, {decode:.1}]")).collect();
    format!("[{}]", rounds.join(", "))
}
