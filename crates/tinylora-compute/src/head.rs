//! The language-model head: log-probs, entropies, sampling and gradients over the vocabulary in chunks, so
//! that a [tokens, vocabulary] array never exists.
//!
//! M rows, D width, V vocabulary. Every row's logits are seen chunk by chunk (256 tokens); each chunk leaves
//! its maximum m, `Σ e^(l−m)` and `Σ l·e^(l−m)`, and these are joined in order. Sampling picks a chunk by its
//! share and computes that chunk's logits again, bit for bit. Logits are `x Eᵀ` times 1/temperature.

mod tiled;

use crate::account::Operation;
use crate::kernel::{Cpu, Kernel, Simd, dispatch};
use crate::lanes::{LANES, Lanes, exp};
use crate::operand::{Operand, Round, held_in_tiles, pairs_for, reads_pairs};
use crate::packed::{Data, PackedMatrix, SendPointer};
use crate::product::{product_at, with_scratch};
use crate::recycled::Recycled;
use crate::tile::{Block, Element, Fetch, Jumps, Pair, Start};
use tiled::TiledSum;

/// Vocabulary entries a chunk.
pub const VOCABULARY_CHUNK: usize = 256;
/// Rows a task of the statistics pass.
const ROWS: usize = 96;
/// Chunks a task of the statistics pass.
const RUN: usize = 8;
/// Rows a task of the gradient pass.
const GRADIENT_ROWS: usize = 64;
/// The same in matrix tiles at most: embeddings are turned round once a task, which is to be little beside the products.
const TILED_GRADIENT_ROWS: usize = 512;
/// Inner indices handled at once (as in products; a block boundary does not change the chain).
const INNER: usize = 640;

/// What a row's softmax needs besides a logit: `log p = logit − log_normalizer`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Distribution {
    /// ln Σ eˡ
    pub log_normalizer: f32,
    /// −Σ p ln p, in nats.
    pub entropy: f32,
    /// p of the most probable token, 1 / Σ e^(l − largest l).
    pub share_of_largest: f32,
}

/// A token and its logit (times 1/temperature).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Choice {
    /// Token id.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
}

/// Statistics of M rows.
pub struct HeadStatistics {
    inverse_temperature: f32,
    chunks: usize,
    /// (M, chunks): maximum, Σ e^(l−m), Σ l·e^(l−m)
    sums: Recycled<[f32; 3]>,
    /// (M)
    pub rows: Recycled<Distribution>,
}

/// Passes over the vocabulary once for all rows of x (M, D).
///
/// # Panics
/// If a length does not fit.
pub fn head_statistics(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    inverse_temperature: f32,
) -> HeadStatistics {
    let _clock = cpu.clock(Operation::Head);
    let rows = row_count(head, x);
    let pairs = pairs_for(cpu, head, x, head.columns());
    let x = Operand::new(cpu, x, &pairs, head.columns());
    let chunks = head.rows().div_ceil(VOCABULARY_CHUNK);
    let mut sums = Recycled::<[f32; 3]>::arbitrary(rows * chunks);
    let to = SendPointer(sums.as_mut_ptr());
    let runs = chunks.div_ceil(RUN);
    cpu.parallel(rows.div_ceil(ROWS) * runs, |task| {
        let (first_row, run) = (task / runs * ROWS, task % runs);
        let rows = ROWS.min(rows - first_row);
        with_scratch(rows * VOCABULARY_CHUNK, |logits| {
            for chunk in run * RUN..(run * RUN + RUN).min(chunks) {
                let x = x.rows(first_row, rows);
                let count = chunk_logits(cpu.kernel(), head, x, chunk, inverse_temperature, logits);
                for (row, logits) in logits.chunks_exact(VOCABULARY_CHUNK).enumerate() {
                    let sums = dispatch(cpu.kernel(), Summarise { logits: &logits[..count] });
                    // SAFETY: each (row, chunk) is written by one task.
                    unsafe { *to.get().add((first_row + row) * chunks + chunk) = sums }
                }
            }
        });
    });
    finish(cpu, inverse_temperature, chunks, sums)
}

fn row_count(head: &PackedMatrix, x: &[f32]) -> usize {
    let width = head.columns();
    assert_eq!(x.len() % width, 0, "whole rows of {width}");
    x.len() / width
}

fn finish(cpu: &Cpu, inverse_temperature: f32, chunks: usize, sums: Recycled<[f32; 3]>) -> HeadStatistics {
    let mut rows = Recycled::empty();
    rows.extend(sums.chunks_exact(chunks).map(|sums| {
        let largest = sums.iter().fold(f32::NEG_INFINITY, |a, s| a.max(s[0]));
        // In f64: beside one likely token, the share of each of the many others is below f32's last digit.
        let (mut normalizer, mut weighted) = (0f64, 0f64);
        for [m, sum, product] in sums {
            let share = f64::from(dispatch(cpu.kernel(), Exp(m - largest)));
            normalizer += f64::from(*sum) * share;
            weighted += f64::from(*product) * share;
        }
        let log_normalizer = f64::from(largest) + normalizer.ln();
        let entropy = (log_normalizer - weighted / normalizer) as f32;
        Distribution {
            log_normalizer: log_normalizer as f32,
            entropy,
            share_of_largest: (1.0 / normalizer) as f32,
        }
    }));
    HeadStatistics { inverse_temperature, chunks, sums, rows }
}

/// Draws one token a row by inverting the distribution function at `uniforms` (each in [0, 1)).
///
/// # Panics
/// If a length does not fit.
pub fn sample(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    statistics: &HeadStatistics,
    uniforms: &[f64],
) -> Recycled<Choice> {
    choose(cpu, head, x, statistics, |row, sums| {
        let largest = sums.iter().fold(f32::NEG_INFINITY, |a, s| a.max(s[0]));
        let share = |s: &[f32; 3]| f64::from(s[1]) * f64::from(dispatch(cpu.kernel(), Exp(s[0] - largest)));
        let mut left = uniforms[row] * sums.iter().map(share).sum::<f64>();
        let mut last = 0;
        for (chunk, s) in sums.iter().enumerate() {
            let share = share(s);
            if share > 0.0 {
                last = chunk;
                if left < share {
                    // What is left, in units of this chunk's own sum.
                    return (chunk, Pick::Within(left / share * f64::from(s[1])));
                }
            }
            left -= share;
        }
        // Only rounding leads here.
        (last, Pick::Within(f64::INFINITY))
    })
}

/// The most probable token of each row; of equals the first.
///
/// # Panics
/// If a length does not fit.
pub fn greedy(cpu: &Cpu, head: &PackedMatrix, x: &[f32], statistics: &HeadStatistics) -> Recycled<Choice> {
    choose(cpu, head, x, statistics, |_, sums| {
        let mut best = 0;
        for (chunk, s) in sums.iter().enumerate() {
            if s[0] > sums[best][0] {
                best = chunk;
            }
        }
        (best, Pick::Largest)
    })
}

enum Pick {
    /// The token at which the running sum of e^(l−m) passes this.
    Within(f64),
    Largest,
}

fn choose(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    statistics: &HeadStatistics,
    pick: impl Fn(usize, &[[f32; 3]]) -> (usize, Pick) + Sync,
) -> Recycled<Choice> {
    let _clock = cpu.clock(Operation::Head);
    let (rows, width) = (row_count(head, x), head.columns());
    assert_eq!(statistics.rows.len(), rows);
    let pairs = pairs_for(cpu, head, x, width);
    let x = Operand::new(cpu, x, &pairs, width);
    let mut choices = Recycled::<Choice>::arbitrary(rows);
    let to = SendPointer(choices.as_mut_ptr());
    cpu.parallel(rows, |row| {
        let sums = &statistics.sums[row * statistics.chunks..][..statistics.chunks];
        let (chunk, pick) = pick(row, sums);
        let mut logits = [0f32; VOCABULARY_CHUNK];
        let x = x.rows(row, 1);
        let count = chunk_logits(cpu.kernel(), head, x, chunk, statistics.inverse_temperature, &mut logits);
        let logits = &logits[..count];
        let at = match pick {
            Pick::Largest => {
                let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
                (0..count).fold(0, better)
            }
            Pick::Within(target) => {
                let mut sum = 0.0;
                let mut last = 0;
                for (i, &logit) in logits.iter().enumerate() {
                    sum += f64::from(dispatch(cpu.kernel(), Exp(logit - sums[chunk][0])));
                    last = i;
                    if sum > target {
                        break;
                    }
                }
                last
            }
        };
        // SAFETY: each row is written by one task.
        unsafe {
            *to.get().add(row) = Choice { token: (chunk * VOCABULARY_CHUNK + at) as u32, logit: logits[at] };
        }
    });
    choices
}

/// The logit (times 1/temperature) of one given token for each row.
///
/// # Panics
/// If a length does not fit or a token is outside the vocabulary.
pub fn logits_at(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    tokens: &[u32],
    inverse_temperature: f32,
) -> Vec<f32> {
    let _clock = cpu.clock(Operation::Head);
    let (rows, width) = (row_count(head, x), head.columns());
    assert_eq!(tokens.len(), rows);
    let mut logits = vec![0f32; rows];
    crate::rows::for_chunks(cpu, &mut logits, 8, |start, out| {
        for (i, out) in out.iter_mut().enumerate() {
            let row = start + i;
            *out =
                product_at(cpu, head, tokens[row] as usize, &x[row * width..][..width]) * inverse_temperature;
        }
    });
    logits
}

/// The gradient of a row's log-prob of its target token: `directions = ∂ ln p(target) / ∂x =
/// (E_target − Σ_v p_v E_v) / temperature`, (M, D), and the statistics and target logits of the same pass.
///
/// # Panics
/// If a length does not fit or a token is outside the vocabulary.
pub fn head_directions(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    targets: &[u32],
    inverse_temperature: f32,
    directions: &mut [f32],
) -> (HeadStatistics, Vec<f32>) {
    head_gradients(cpu, head, x, targets, inverse_temperature, directions, None)
}

/// The same, and the gradient of each row's entropy H (M, D): `∂H/∂x = −Σ_v p_v (ln p_v + H) E_v / temperature`,
/// exact over the vocabulary, for one more product a chunk.
///
/// # Panics
/// If a length does not fit or a token is outside the vocabulary.
pub fn head_directions_and_entropies(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    targets: &[u32],
    inverse_temperature: f32,
    directions: &mut [f32],
    entropy_directions: &mut [f32],
) -> (HeadStatistics, Vec<f32>) {
    head_gradients(cpu, head, x, targets, inverse_temperature, directions, Some(entropy_directions))
}

fn head_gradients(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    targets: &[u32],
    inverse_temperature: f32,
    directions: &mut [f32],
    entropy_directions: Option<&mut [f32]>,
) -> (HeadStatistics, Vec<f32>) {
    let _clock = cpu.clock(Operation::Head);
    let (rows, width) = (row_count(head, x), head.columns());
    assert!(targets.len() == rows && directions.len() == x.len());
    let with_entropy = entropy_directions.is_some();
    let entropy_directions = entropy_directions.unwrap_or_default();
    assert!(!with_entropy || entropy_directions.len() == x.len());
    let pairs = pairs_for(cpu, head, x, width);
    let operand = Operand::new(cpu, x, &pairs, width);
    let chunks = head.rows().div_ceil(VOCABULARY_CHUNK);
    let mut sums = Recycled::<[f32; 3]>::arbitrary(rows * chunks);
    let to_sums = SendPointer(sums.as_mut_ptr());
    let to = SendPointer(directions.as_mut_ptr());
    let to_entropy = SendPointer(entropy_directions.as_mut_ptr());
    let block = if cpu.kernel().has_tiles() {
        let blocks = rows.div_ceil(TILED_GRADIENT_ROWS).next_multiple_of(cpu.threads());
        rows.div_ceil(blocks).next_multiple_of(GRADIENT_ROWS).max(GRADIENT_ROWS)
    } else {
        GRADIENT_ROWS
    };
    cpu.parallel(rows.div_ceil(block), |task| {
        let first = task * block;
        let rows = block.min(rows - first);
        // SAFETY: each task has its own rows.
        let (sums, out) = unsafe {
            (
                std::slice::from_raw_parts_mut(to_sums.get().add(first * chunks), rows * chunks),
                std::slice::from_raw_parts_mut(to.get().add(first * width), rows * width),
            )
        };
        let weighted = with_entropy.then(|| {
            // SAFETY: as long as `directions`, and each task has its own rows.
            unsafe { std::slice::from_raw_parts_mut(to_entropy.get().add(first * width), rows * width) }
        });
        let x = operand.rows(first, rows);
        expected_embeddings(
            cpu.kernel(),
            head,
            x,
            &targets[first..][..rows],
            inverse_temperature,
            sums,
            out,
            weighted,
        );
    });
    let statistics = finish(cpu, inverse_temperature, chunks, sums);
    let logits = logits_at(cpu, head, x, targets, inverse_temperature);
    let without_target = !with_entropy && sums_in_tiles(cpu.kernel(), head);
    // With m = Σ p E and Z' = −ln p of the likeliest token, Σ p (ln p + H) E = Σ p l' E + (H − Z') m, where l' is
    // relative to the largest logit.
    let expected = &*directions;
    crate::rows::for_chunks(cpu, entropy_directions, width, |start, out| {
        let row = &statistics.rows[start / width];
        let share = row.share_of_largest;
        let factor = (f64::from(row.entropy) + f64::from(share).ln()) as f32;
        for (value, expected) in out.iter_mut().zip(&expected[start..]) {
            *value = -(*value + factor * expected) * share * inverse_temperature;
        }
    });
    // The running sums are relative to each row's largest logit: normalise, then subtract from the target.
    crate::rows::for_chunks(cpu, directions, width, |start, out| {
        let row = start / width;
        let others = if without_target {
            -(f64::from(logits[row]) - f64::from(statistics.rows[row].log_normalizer)).min(0.0).exp_m1()
                as f32
        } else {
            1.0
        };
        for (column, value) in out.iter_mut().enumerate() {
            let target = head.get(targets[row] as usize, column) * others;
            *value = (target - *value * statistics.rows[row].share_of_largest) * inverse_temperature;
        }
    });
    (statistics, logits)
}

/// For each row Σ_v e^(l_v − largest) E_v, in one pass: the running sum is scaled down whenever a chunk brings
/// a larger logit. Each chunk is summed from zero and then added: in one chain over the whole vocabulary the many
/// unlikely tokens would vanish beside the likely ones, one rounding each (measured: 1.5e-3 of the gradient of a mean NLL).
///
/// `weighted` gets Σ_v e^(l_v − largest) (l_v − largest) E_v in the same pass. When the largest logit rises by d, the
/// sum relative to it becomes e^(−d) times itself less d times the other sum.
///
/// In matrix tiles, weights are rounded to bf16, and sums go on from chunk to chunk, as each step of a tile sums thirty-two terms
/// from zero anyway. The row's target is left out then (a sum without `weighted` is meant): beside a likely target the rounding
/// of its weight would be as large as all others together.
fn expected_embeddings(
    kernel: Kernel,
    head: &PackedMatrix,
    x: Operand<'_>,
    targets: &[u32],
    inverse_temperature: f32,
    sums: &mut [[f32; 3]],
    out: &mut [f32],
    mut weighted: Option<&mut [f32]>,
) {
    let width = head.columns();
    let rows = x.x.len() / width;
    let chunks = sums.len() / rows;
    out.fill(0.0);
    let mut products = Vec::new();
    if let Some(weighted) = &mut weighted {
        weighted.fill(0.0);
        products = vec![0f32; rows * VOCABULARY_CHUNK];
    }
    let mut running = vec![f32::NEG_INFINITY; rows];
    let mut weights = vec![0f32; rows * VOCABULARY_CHUNK];
    let mut embeddings = vec![0f32; VOCABULARY_CHUNK * LANES];
    let mut part = vec![0f32; rows * LANES];
    let in_tiles = weighted.is_none() && sums_in_tiles(kernel, head);
    let mut pairs = vec![0u32; if in_tiles { held_in_tiles(rows, VOCABULARY_CHUNK) } else { 0 }];
    for chunk in 0..chunks {
        let count = chunk_logits(kernel, head, x, chunk, inverse_temperature, &mut weights);
        for row in 0..rows {
            let logits = &mut weights[row * VOCABULARY_CHUNK..][..count];
            let summary = dispatch(kernel, Summarise { logits });
            sums[row * chunks + chunk] = summary;
            if summary[0] > running[row] {
                let fall = running[row] - summary[0];
                let factor = dispatch(kernel, Exp(fall));
                let of_row = row * width..(row + 1) * width;
                if chunk > 0 {
                    if let Some(weighted) = &mut weighted {
                        for (sum, plain) in weighted[of_row.clone()].iter_mut().zip(&out[of_row.clone()]) {
                            *sum = (*sum + fall * plain) * factor;
                        }
                    }
                    out[of_row].iter_mut().for_each(|x| *x *= factor);
                }
                running[row] = summary[0];
            }
            if weighted.is_some() {
                let products = &mut products[row * VOCABULARY_CHUNK..][..count];
                products.iter_mut().zip(&*logits).for_each(|(out, logit)| *out = logit - running[row]);
                dispatch(kernel, Exponentials { logits, top: running[row] });
                products.iter_mut().zip(&*logits).for_each(|(out, weight)| *out *= weight);
            } else {
                dispatch(kernel, Exponentials { logits, top: running[row] });
            }
        }
        if in_tiles {
            for (weights, &target) in weights.chunks_exact_mut(VOCABULARY_CHUNK).zip(targets) {
                if let Some(at) = (target as usize).checked_sub(chunk * VOCABULARY_CHUNK)
                    && at < count
                {
                    weights[at] = 0.0;
                }
                weights[count..].fill(0.0);
            }
            dispatch(kernel, Round { x: &weights, inner: VOCABULARY_CHUNK, to: &mut pairs });
            let embeddings = Pair::scratch(&mut embeddings);
            let first = chunk * VOCABULARY_CHUNK;
            dispatch(kernel, TiledSum { head, first, count, weights: &pairs, rows, embeddings, out });
            continue;
        }
        for panel in 0..width.div_ceil(LANES) {
            let first = chunk * VOCABULARY_CHUNK;
            dispatch(kernel, Turn { head, first, count, panel, to: &mut embeddings });
            let columns = LANES.min(width - panel * LANES);
            let mut add = |weights: &[f32], out: &mut [f32]| {
                let embeddings = &embeddings;
                dispatch(kernel, WeightedSum { weights, embeddings, count, part: &mut part });
                for (out, part) in out.chunks_exact_mut(width).zip(part.chunks_exact(LANES)) {
                    let out = &mut out[panel * LANES..][..columns];
                    out.iter_mut().zip(part).for_each(|(out, part)| *out += part);
                }
            };
            add(&weights, out);
            if let Some(weighted) = &mut weighted {
                add(&products, weighted);
            }
        }
    }
}

/// Sixteen columns of `count` embeddings from `first` on, turned round: (count, 16).
struct Turn<'a> {
    head: &'a PackedMatrix,
    first: usize,
    count: usize,
    panel: usize,
    to: &'a mut [f32],
}

impl Simd for Turn<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: `dispatch` has the instruction set.
        unsafe { self.head.unpack_transposed::<L>(self.first, self.count, self.panel, self.to) }
    }
}

/// Whether the weighted sum of embeddings is made in matrix tiles.
fn sums_in_tiles(kernel: Kernel, head: &PackedMatrix) -> bool {
    kernel.has_tiles() && reads_pairs(kernel, head)
}

/// `part = weights · embeddings`: (rows, 256) with its first `count` columns, (count, 16) → (rows, 16).
struct WeightedSum<'a> {
    weights: &'a [f32],
    embeddings: &'a [f32],
    count: usize,
    part: &'a mut [f32],
}

impl Simd for WeightedSum<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let rows = self.part.len() / LANES;
        assert!(self.weights.len() >= rows * VOCABULARY_CHUNK && self.count <= VOCABULARY_CHUNK);
        assert!(self.embeddings.len() >= self.count * LANES);
        // SAFETY: whole rows of each, as asserted.
        unsafe {
            Block::<f32> {
                inner: self.count,
                a: self.weights.as_ptr(),
                a_row: VOCABULARY_CHUNK,
                a_inner: 1,
                b: self.embeddings.as_ptr(),
                b_panel: 0,
                b_inner: LANES,
                jumps: Jumps::NONE,
                fetch: Fetch::Nothing,
                c: self.part.as_mut_ptr(),
                c_row: LANES,
                rows,
                columns: LANES,
                start: Start::Zero,
                side: None,
            }
            .run::<L>();
        }
    }
}

/// Logits of one chunk for the rows of x, at a row length of [`VOCABULARY_CHUNK`]; gives the chunk's size.
pub(crate) fn chunk_logits(
    kernel: Kernel,
    head: &PackedMatrix,
    x: Operand<'_>,
    chunk: usize,
    inverse_temperature: f32,
    out: &mut [f32],
) -> usize {
    let first = chunk * VOCABULARY_CHUNK;
    let count = VOCABULARY_CHUNK.min(head.rows() - first);
    dispatch(kernel, ChunkLogits { head, x, first, count, inverse_temperature, out });
    count
}

struct ChunkLogits<'a> {
    head: &'a PackedMatrix,
    x: Operand<'a>,
    first: usize,
    count: usize,
    inverse_temperature: f32,
    out: &'a mut [f32],
}

impl ChunkLogits<'_> {
    /// `x` is (M, width) of what the element multiplies by.
    #[inline(always)]
    fn product<L: Lanes, E: Element>(
        &mut self,
        x: &[E::Left],
        width: usize,
        data: &[E],
        units_a_panel: usize,
    ) {
        let rows = self.x.x.len() / self.x.inner;
        assert!(self.out.len() >= rows * VOCABULARY_CHUNK);
        for start in (0..width.max(1)).step_by(INNER) {
            let unit = if E::PAIRED { start / 2 } else { start };
            // SAFETY: the chunk lies in the matrix, and `out` holds a whole chunk a row.
            unsafe {
                Block {
                    inner: INNER.min(width - start),
                    a: x.as_ptr().add(E::inner_units::<L>(start)),
                    a_row: E::row_units::<L>(width),
                    a_inner: 1,
                    b: data.as_ptr().add((self.first / LANES * units_a_panel + unit) * LANES),
                    b_panel: units_a_panel * LANES,
                    b_inner: LANES,
                    jumps: Jumps::NONE,
                    fetch: Fetch::NextPanels,
                    c: self.out.as_mut_ptr(),
                    c_row: VOCABULARY_CHUNK,
                    rows,
                    columns: self.count,
                    start: if start == 0 { Start::Zero } else { Start::Output },
                    side: None,
                }
                .run::<L>();
            }
        }
        if self.inverse_temperature != 1.0 {
            for row in self.out.chunks_exact_mut(VOCABULARY_CHUNK).take(rows) {
                row[..self.count].iter_mut().for_each(|x| *x *= self.inverse_temperature);
            }
        }
    }
}

impl Simd for ChunkLogits<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let (x, width) = (self.x, self.head.columns());
        let pairs = width.div_ceil(2);
        match &self.head.data {
            Data::Bf16(data) if L::DOT_BF16 => self.product::<L, Pair>(x.pairs, pairs, Pair::of(data), pairs),
            Data::Bf16(data) => self.product::<L, u32>(x.x, width, data, pairs),
            Data::F32(data) => self.product::<L, f32>(x.x, width, data, width),
        }
    }
}

struct Summarise<'a> {
    logits: &'a [f32],
}

impl Simd for Summarise<'_> {
    type Output = [f32; 3];
    #[inline(always)]
    fn run<L: Lanes>(self) -> [f32; 3] {
        let whole = self.logits.len() / LANES * LANES;
        let rest = self.logits.len() - whole;
        // SAFETY: whole chunks in place, the tail through a copy.
        unsafe {
            let mut tail = [f32::NEG_INFINITY; LANES];
            tail[..rest].copy_from_slice(&self.logits[whole..]);
            let mut largest = L::load(tail.as_ptr());
            for i in (0..whole).step_by(LANES) {
                largest = largest.max(L::load(self.logits.as_ptr().add(i)));
            }
            let largest = largest.largest();
            let top = L::splat(largest);
            let (mut sum, mut product) = (L::splat(0.0), L::splat(0.0));
            for i in (0..whole).step_by(LANES) {
                let x = L::load(self.logits.as_ptr().add(i));
                let e = exp(x.sub(top));
                sum = sum.add(e);
                product = e.fma(x, product);
            }
            if rest > 0 {
                let mut e = [0f32; LANES];
                exp(L::load(tail.as_ptr()).sub(top)).store(e.as_mut_ptr());
                e[rest..].fill(0.0);
                tail[rest..].fill(0.0);
                let e = L::load(e.as_ptr());
                sum = sum.add(e);
                product = e.fma(L::load(tail.as_ptr()), product);
            }
            [largest, sum.sum(), product.sum()]
        }
    }
}

/// `logits = e^(logits − top)` in place.
pub(crate) struct Exponentials<'a> {
    pub logits: &'a mut [f32],
    pub top: f32,
}

impl Simd for Exponentials<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (whole, rest) = self.logits.as_chunks_mut::<LANES>();
        // SAFETY: sixteen elements each.
        unsafe {
            let top = L::splat(self.top);
            for chunk in whole {
                exp(L::load(chunk.as_ptr()).sub(top)).store(chunk.as_mut_ptr());
            }
            if !rest.is_empty() {
                let mut lanes = [0f32; LANES];
                lanes[..rest.len()].copy_from_slice(rest);
                exp(L::load(lanes.as_ptr()).sub(top)).store(lanes.as_mut_ptr());
                rest.copy_from_slice(&lanes[..rest.len()]);
            }
        }
    }
}

/// eˣ of one number, with the lanes' polynomial.
struct Exp(f32);

impl Simd for Exp {
    type Output = f32;
    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let mut lanes = [0f32; LANES];
        // SAFETY: sixteen elements.
        unsafe { exp(L::splat(self.0)).store(lanes.as_mut_ptr()) };
        lanes[0]
    }
}

#[cfg(test)]
mod tests;
