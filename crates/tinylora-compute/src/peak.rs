//! What this machine could do at most: the fastest stream of multiply-adds and the fastest reading of memory that the
//! kernel's own instructions give. Rates of real work are stated as fractions of these.

use crate::buffer::Buffer;
use crate::kernel::{Cpu, Simd, dispatch};
use crate::lanes::{LANES, Lanes};
use crate::tiles::TileUnit;
use std::hint::black_box;
use std::time::Instant;

/// How often each peak is measured; the best counts.
const TRIES: usize = 5;
/// Steps of the chains, about 20 ms.
const STEPS: usize = 4_000_000;
/// f32 elements that each thread reads: 128 MiB, more than any cache's share.
const ELEMENTS: usize = 32 << 20;

/// FLOP/s of all threads together, a multiply-add being two: with bf16 products where the kernel has them, in tiles where
/// it has those.
pub fn multiply_add_rate(cpu: &Cpu) -> f64 {
    let mut best = 0f64;
    for _ in 0..TRIES {
        let start = Instant::now();
        cpu.parallel(cpu.threads(), |_| {
            black_box(dispatch(cpu.kernel(), Chains { seed: black_box(1.0) }));
        });
        let flops = dispatch(cpu.kernel(), Flops) * cpu.threads() as f64;
        best = best.max(flops / start.elapsed().as_secs_f64());
    }
    best
}

/// Bytes/s that all threads together read from memory.
pub fn read_rate(cpu: &Cpu) -> f64 {
    let memory: Vec<Buffer<f32>> = (0..cpu.threads())
        .map(|_| {
            let mut part = Buffer::zeroed_in_huge_pages(ELEMENTS);
            part.fill(1.0);
            part
        })
        .collect();
    let mut best = 0f64;
    for _ in 0..TRIES {
        let start = Instant::now();
        cpu.parallel(memory.len(), |part| {
            black_box(dispatch(cpu.kernel(), Read { from: &memory[part] }));
        });
        let bytes = memory.len() * ELEMENTS * size_of::<f32>();
        best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Independent sums: enough to hide an instruction's latency, few enough for sixteen registers of half the width.
const CHAINS: usize = 6 * 2;

/// Steps of tiles, about 20 ms too.
const TILE_STEPS: usize = STEPS / 4;

/// FLOPs of [`Chains`].
struct Flops;

impl Simd for Flops {
    type Output = f64;
    #[inline(always)]
    fn run<L: Lanes>(self) -> f64 {
        let terms = if L::DOT_BF16 { 2 } else { 1 };
        let flops = if L::Tiles::PRESENT {
            // Four tiles of sixteen by sixteen sums, sixteen pairs a step.
            2 * terms * 4 * LANES.pow(3) * TILE_STEPS / L::Tiles::SLOWNESS
        } else {
            2 * terms * LANES * CHAINS * STEPS
        };
        flops as f64
    }
}

struct Chains {
    seed: f32,
}

impl Simd for Chains {
    type Output = f32;
    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        if L::Tiles::PRESENT {
            // SAFETY: `dispatch` has the instruction set.
            unsafe {
                let mut unit = L::Tiles::begin();
                for _ in 0..TILE_STEPS / L::Tiles::SLOWNESS {
                    unit.idle_step();
                }
            }
            return 0.0;
        }
        // Two rounds of six where a value takes two registers: twelve would not fit.
        let rounds = if L::TILE_PANELS == 2 { 1 } else { 2 };
        let mut total = 0.0;
        // SAFETY: `dispatch` has the instruction set.
        unsafe {
            for round in 0..rounds {
                total += if L::TILE_PANELS == 2 {
                    chains::<L, CHAINS>(self.seed)
                } else {
                    chains::<L, { CHAINS / 2 }>(self.seed + round as f32)
                };
            }
        }
        total
    }
}

#[inline(always)]
unsafe fn chains<L: Lanes, const N: usize>(seed: f32) -> f32 {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut sums = [L::splat(0.0); N];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = L::splat(seed + i as f32);
        }
        let factor = L::splat(seed * 1e-3);
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = if L::DOT_BF16 { sum.dot_bf16(0x3A83_3A83, factor) } else { factor.fma(factor, *sum) };
            }
        }
        sums.iter().map(|sum| sum.sum()).sum()
    }
}

struct Read<'a> {
    from: &'a [f32],
}

impl Simd for Read<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        // SAFETY: `dispatch` has the instruction set; whole chunks are read.
        unsafe {
            let mut sums = [L::splat(0.0); 4];
            for chunk in self.from.chunks_exact(4 * LANES) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(L::load(chunk.as_ptr().add(i * LANES)));
                }
            }
            sums.iter().map(|sum| sum.sum()).sum()
        }
    }
}
