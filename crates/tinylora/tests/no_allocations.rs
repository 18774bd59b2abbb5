//! A decode step in steady state asks the system for no memory: forward pass with an adapter, head, sampling and the
//! scheduler's own lists. Counted by an allocator of this test's own program, over all threads.
//!
//! What is not counted here: an observer's and a stop rule's own memory (a stop text decodes tokens), sampling with top-k or
//! top-p (which holds whole rows of logits), the steps in which prompts are taken in or sequences end, and sequences of more than
//! 1024 tokens, whose lists grow by doubling.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tinylora::bench::{first_layers, shape};
use tinylora::inference::{Engine, GenerateOptions, Progress, Request, Sampling, Stop};
use tinylora::model::{Adapters, Model, ModuleFactors, ModuleKind, Policy, R, SideFactors};
use tinylora_compute::{Cpu, Kernel, Precision};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counted.
struct Counting;

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Completions go on to their largest length.
struct Never;

impl Stop for Never {
    fn is_end(&self, _: usize, _: &[u32]) -> bool {
        false
    }
}

const NEW: usize = 48;
const RANK: usize = 2;

#[test]
fn a_decode_step_allocates_nothing() {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before, "the count works");

    let mut config = first_layers(shape("smollm2-135m").expect("known"), 2);
    config.vocab_size = 1000;
    config.intermediate_size = 320;
    for kernel in Kernel::available() {
        for precision in [Precision::Bf16, Precision::F32] {
            // In bf16 the cache is in 16 bits, too.
            let cpu = Cpu::new(kernel, 2).with_rounding();
            let model = Model::random(&cpu, config.clone(), precision, 256).expect("it fits");
            let numbers = |count: usize| (0..count).map(|i| (i % 7) as f32 * 1e-3).collect::<Vec<f32>>();
            let modules: Vec<ModuleFactors> = (0..config.num_layers)
                .flat_map(|layer| ModuleKind::ALL.map(|kind| (layer, kind)))
                .map(|(layer, kind)| {
                    let (n, k) = kind.shape(&config);
                    ModuleFactors { layer, kind, a: numbers(RANK * k), b: numbers(n * RANK) }
                })
                .collect();
            let factors = SideFactors::new(&cpu, &config, RANK, &modules);
            let r = [R::Matrices(numbers(modules.len() * RANK * RANK))];
            let policy = Policy::new(&model, Adapters { factors: Some(&factors), r: &r });
            let counts = counts_after_steps(&cpu, policy);
            // The first calls of each size fill the buffers. From then on, over ends of blocks, nothing.
            let late = &counts[NEW / 3..];
            let steps: Vec<u64> = late.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(
                steps.iter().all(|&count| count == 0),
                "{} {precision:?}: allocations in steps {} and on: {steps:?}",
                kernel.name(),
                NEW / 3
            );
        }
    }
}

/// Allocations so far after each token of the last sequence.
fn counts_after_steps(cpu: &Cpu, policy: Policy<'_>) -> Vec<u64> {
    let requests: Vec<Request> = (0..5)
        .map(|index| Request {
            prompt: (0..20 + index).collect(),
            samples: 3,
            adapter: 0,
            seed: 3,
            stream: u64::from(index) * 3,
            max_tokens: NEW,
            sampling: Sampling { temperature: if index % 2 == 0 { 1.0 } else { 0.0 }, top_p: 1.0, top_k: 0 },
        })
        .collect();
    let mut engine = Engine::new(cpu, policy.model, 200);
    let interrupt = AtomicBool::new(false);
    let options = GenerateOptions { max_batch: 15, stop: &Never, interrupt: &interrupt };
    let mut counts = Vec::with_capacity(NEW);
    let done = engine.generate(policy, &requests, &options, &mut |progress| {
        if let Progress::Token { request: 4, sample: 2, .. } = progress {
            counts.push(ALLOCATIONS.load(Ordering::Relaxed));
        }
    });
    assert_eq!(done.expect("finite").len(), requests.len());
    assert_eq!(counts.len(), NEW);
    counts
}
