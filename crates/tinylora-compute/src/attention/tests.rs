//! Attention against a plain reference, and the numerics contract on every instruction set.

use super::*;
use crate::kernel::{Cpu, Kernel};
use crate::packed::Precision;
use crate::testing::numbers;

/// A prompt of `prompt` tokens shared by samples of the given lengths, packed: prompt rows first.
struct Layout {
    groups: Vec<Group>,
    shared_rows: Vec<Vec<u32>>,
    places: Vec<(u32, u32)>,
    /// Each row's ancestors-and-self rows, in order.
    context: Vec<Vec<usize>>,
    blocks: usize,
}

fn layout(prompt: usize, samples: &[usize]) -> Layout {
    let mut blocks = 0;
    let mut spans = |tokens: usize| -> Vec<Span> {
        let spans = (0..tokens.div_ceil(BLOCK_TOKENS)).map(|i| Span {
            // Blocks in a mixed-up order, as a real allocator gives them.
            block: (blocks + i) as u32 ^ 1,
            count: BLOCK_TOKENS.min(tokens - i * BLOCK_TOKENS) as u32,
        });
        let spans: Vec<Span> = spans.collect();
        blocks += spans.len().next_multiple_of(2);
        spans
    };
    let shared = spans(prompt);
    let mut members = Vec::new();
    let mut first_row = prompt;
    for &rows in samples {
        members.push(Member { first_row, rows, own: spans(rows) });
        first_row += rows;
    }
    let place = |spans: &[Span]| -> Vec<(u32, u32)> {
        spans.iter().flat_map(|span| (0..span.count).map(|at| (span.block, at))).collect()
    };
    let mut places = place(&shared);
    let mut context: Vec<Vec<usize>> = (0..prompt).map(|row| (0..=row).collect()).collect();
    for member in &members {
        places.extend(place(&member.own));
        for row in 0..member.rows {
            context.push((0..prompt).chain(member.first_row..=member.first_row + row).collect());
        }
    }
    let prompt_group =
        Group { shared: vec![], members: vec![Member { first_row: 0, rows: prompt, own: shared.clone() }] };
    Layout {
        groups: vec![prompt_group, Group { shared, members }],
        shared_rows: vec![vec![], (0..prompt as u32).collect()],
        places,
        context,
        blocks,
    }
}

fn visible(heads: Heads, context: &[usize]) -> &[usize] {
    &context[heads.window.map_or(0, |w| context.len().saturating_sub(w))..]
}

/// Plain f64 attention.
fn exact(heads: Heads, context: &[Vec<usize>], q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let (d, per_key) = (heads.size, heads.queries / heads.keys);
    let mut out = vec![0.0; q.len()];
    for (row, context) in context.iter().enumerate() {
        for head in 0..heads.queries {
            let query = &q[(row * heads.queries + head) * d..][..d];
            let seen = visible(heads, context);
            let at = |token: usize| (token * heads.keys + head / per_key) * d;
            let scores: Vec<f64> = seen
                .iter()
                .map(|&t| f64::from(heads.scale) * (0..d).map(|i| query[i] * k[at(t) + i]).sum::<f64>())
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (&t, s) in seen.iter().zip(&scores) {
                for i in 0..d {
                    out[(row * heads.queries + head) * d + i] += (s - top).exp() / sum * v[at(t) + i];
                }
            }
        }
    }
    out
}

fn to_f64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// What the store holds of these keys and values.
fn held(precision: Precision, keys: &[f32], values: &[f32]) -> [Vec<f64>; 2] {
    match precision {
        Precision::F32 => [to_f64(keys), to_f64(values)],
        Precision::Bf16 => [
            keys.iter().map(|&x| half::f16::from_f32(x).to_f64()).collect(),
            values.iter().map(|&x| half::bf16::from_f32(x).to_f64()).collect(),
        ],
    }
}

fn cases() -> impl Iterator<Item = (Precision, (Heads, usize, &'static [usize]))> {
    let of = |precision| CASES.into_iter().map(move |case| (precision, case));
    of(Precision::F32).chain(of(Precision::Bf16))
}

const CASES: [(Heads, usize, &[usize]); 5] = [
    (Heads { queries: 9, keys: 3, size: 64, scale: 0.125, window: None }, 37, &[20, 1, 33, 5]),
    (Heads { queries: 4, keys: 2, size: 24, scale: 0.3, window: Some(8) }, 19, &[9, 30]),
    (Heads { queries: 2, keys: 2, size: 10, scale: 1.0, window: None }, 16, &[16]),
    (Heads { queries: 8, keys: 1, size: 32, scale: 0.2, window: Some(70) }, 50, &[40, 3, 3]),
    (Heads { queries: 6, keys: 2, size: 15, scale: 0.4, window: None }, 21, &[7, 18]),
];

#[test]
fn forward_matches_f64_on_every_kernel_with_the_same_bits() {
    for (precision, (heads, prompt, samples)) in cases() {
        let l = layout(prompt, samples);
        let rows = l.context.len();
        let (qw, kw) = (heads.queries * heads.size, heads.keys * heads.size);
        let (q, k, v) = (numbers(1, rows * qw), numbers(2, rows * kw), numbers(3, rows * kw));
        let [held_k, held_v] = held(precision, &k, &v);
        let wanted = exact(heads, &l.context, &to_f64(&q), &held_k, &held_v);
        let mut first: Option<Vec<u32>> = None;
        for kernel in Kernel::available() {
            let cpu = Cpu::new(kernel, 2);
            let mut store = KvLayer::new(precision, l.blocks, heads.keys, heads.size);
            store.write(&cpu, &l.places, &k, &v);
            let mut out = vec![0.0; rows * qw];
            attention(&cpu, heads, &store, &l.groups, &q, &mut out);
            for (a, b) in out.iter().zip(&wanted) {
                assert!((f64::from(*a) - b).abs() < 2e-6, "{a} {b}");
            }
            let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
            assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits, "{}", kernel.name());
        }
    }
}

/// Many sequences that decode, each with a beginning of its own: enough for a task to have all heads of one. Their blocks follow one
/// another, or lie anywhere.
#[test]
fn where_blocks_lie_changes_no_bit() {
    let heads = Heads { queries: 6, keys: 2, size: 20, scale: 0.4, window: None };
    let lengths: Vec<(usize, usize)> = (0..40).map(|i| (16 * (i % 3), 1 + 7 * i % 90)).collect();
    let spans = |first: usize, tokens: usize, place: &dyn Fn(usize) -> usize| -> Vec<Span> {
        let block = |at: usize| Span {
            block: place(first + at / BLOCK_TOKENS) as u32,
            count: (tokens - at).min(BLOCK_TOKENS) as u32,
        };
        (0..tokens).step_by(BLOCK_TOKENS).map(block).collect()
    };
    let blocks: usize = lengths.iter().map(|(shared, own)| shared / 16 + own.div_ceil(16)).sum();
    // 11 shares no factor with the number of blocks, so each gets another place.
    assert!(!blocks.is_multiple_of(11));
    let orders: [&dyn Fn(usize) -> usize; 2] = [&|block| block, &|block| block * 11 % blocks];
    for precision in [Precision::F32, Precision::Bf16] {
        let mut first: Option<Vec<u32>> = None;
        for kernel in Kernel::available() {
            for place in orders {
                let cpu = Cpu::new(kernel, 2);
                let mut store = KvLayer::new(precision, blocks, heads.keys, heads.size);
                let (mut groups, mut next, mut token) = (vec![], 0, 0);
                for (first_row, &(shared, own)) in lengths.iter().enumerate() {
                    let width = heads.keys * heads.size;
                    let group = Group {
                        shared: spans(next, shared, place),
                        members: vec![Member {
                            first_row,
                            rows: 1,
                            own: spans(next + shared / 16, own, place),
                        }],
                    };
                    let all = group.shared.iter().chain(&group.members[0].own);
                    let places: Vec<(u32, u32)> =
                        all.flat_map(|span| (0..span.count).map(|at| (span.block, at))).collect();
                    let (k, v) =
                        (numbers(token, places.len() * width), numbers(token + 1, places.len() * width));
                    store.write(&cpu, &places, &k, &v);
                    next += (shared / 16) + own.div_ceil(16);
                    token += 2;
                    groups.push(group);
                }
                let q = numbers(1000, lengths.len() * heads.queries * heads.size);
                let mut out = vec![0.0; q.len()];
                attention(&cpu, heads, &store, &groups, &q, &mut out);
                let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
                assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits, "{}", kernel.name());
            }
        }
    }
}

/// Decoding token by token, each sample alone, gives the same bits as the packed forward pass.
#[test]
fn decode_is_prefill_bit_for_bit() {
    for (precision, (heads, prompt, samples)) in cases() {
        let l = layout(prompt, samples);
        let rows = l.context.len();
        let (qw, kw) = (heads.queries * heads.size, heads.keys * heads.size);
        let (q, k, v) = (numbers(1, rows * qw), numbers(2, rows * kw), numbers(3, rows * kw));
        let cpu = Cpu::new(Kernel::best(), 2);
        let mut store = KvLayer::new(precision, l.blocks, heads.keys, heads.size);
        store.write(&cpu, &l.places, &k, &v);
        let mut all = vec![0.0; rows * qw];
        attention(&cpu, heads, &store, &l.groups, &q, &mut all);
        for (row, context) in l.context.iter().enumerate() {
            // One contiguous sequence in other blocks: no shared part, one row.
            let mut alone =
                KvLayer::new(precision, context.len().div_ceil(BLOCK_TOKENS), heads.keys, heads.size);
            let pick = |x: &[f32]| -> Vec<f32> {
                context.iter().flat_map(|&t| x[t * kw..][..kw].to_vec()).collect()
            };
            let places: Vec<(u32, u32)> = (0..context.len() as u32).map(|t| (t / 16, t % 16)).collect();
            alone.write(&cpu, &places, &pick(&k), &pick(&v));
            let own = (0..context.len().div_ceil(16))
                .map(|b| Span { block: b as u32, count: 16.min(context.len() - 16 * b) as u32 })
                .collect();
            let group = Group { shared: vec![], members: vec![Member { first_row: 0, rows: 1, own }] };
            let mut out = vec![0.0; qw];
            attention(&cpu, heads, &alone, &[group], &q[row * qw..][..qw], &mut out);
            let same = out.iter().zip(&all[row * qw..]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "row {row}");
        }
    }
}

#[test]
fn backward_matches_finite_differences_and_threads_do_not_matter() {
    for (precision, (heads, prompt, samples)) in cases() {
        let l = layout(prompt, samples);
        let rows = l.context.len();
        let (qw, kw) = (heads.queries * heads.size, heads.keys * heads.size);
        let (q, k, v) = (numbers(1, rows * qw), numbers(2, rows * kw), numbers(3, rows * kw));
        let gradient = numbers(4, rows * qw);
        let mut first: Option<Vec<f32>> = None;
        for (kernel, threads) in Kernel::available().into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 3)])
        {
            let cpu = Cpu::new(kernel, threads);
            let mut store = KvLayer::new(precision, l.blocks, heads.keys, heads.size);
            store.write(&cpu, &l.places, &k, &v);
            let mut out = vec![0.0; rows * qw];
            attention(&cpu, heads, &store, &l.groups, &q, &mut out);
            let (mut dq, mut dk, mut dv) = (vec![9.0; rows * qw], vec![0.0; rows * kw], vec![0.0; rows * kw]);
            let result = AttentionGradient { q: &mut dq, k: &mut dk, v: &mut dv };
            let inputs = (&q[..], &out[..], &gradient[..]);
            attention_backward(&cpu, heads, &store, &l.groups, &l.shared_rows, inputs, result);
            let all: Vec<f32> = [dq, dk, dv].concat();
            match &first {
                None => first = Some(all),
                Some(first) => assert!(first.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits())),
            }
        }
        let got = first.expect("scalar always runs");
        let [held_k, held_v] = held(precision, &k, &v);
        let values = [to_f64(&q), held_k, held_v];
        let loss = |values: &[Vec<f64>; 3]| -> f64 {
            let out = exact(heads, &l.context, &values[0], &values[1], &values[2]);
            out.iter().zip(&gradient).map(|(o, &g)| o * f64::from(g)).sum()
        };
        for (which, len) in [rows * qw, rows * kw, rows * kw].into_iter().enumerate() {
            let base = [0, rows * qw, rows * (qw + kw)][which];
            for step in 0..12 {
                let i = (step * 7919 + 13) % len;
                let mut shifted = values.clone();
                shifted[which][i] += 1e-5;
                let up = loss(&shifted);
                shifted[which][i] -= 2e-5;
                let slope = (up - loss(&shifted)) / 2e-5;
                assert!(
                    (slope - f64::from(got[base + i])).abs() < 1e-4,
                    "{which} {i}: {slope} {}",
                    got[base + i]
                );
            }
        }
    }
}
