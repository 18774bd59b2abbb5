//! Attention, backward. The softmax weights are computed again from queries and keys, bit for bit as in the
//! forward pass; gradients of a shared context are summed group by group, in order.
//!
//! Where the store rounds keys and values, the gradient passes the rounding as if it were not there.
//! With P the weights and D = Σ do · o:  dV = Pᵀ dO,  dS = scale · P ∘ (dO Vᵀ − D),  dQ = dS K,  dK = dSᵀ Q.

use super::forward::{Next, Seen, UnitHead, Work, check, extent, gather, probabilities, seen_blocks};
use super::{BLOCK_TOKENS, Group, Heads, KvLayer, Unit, Units, length};
use crate::account::Operation;
use crate::kernel::{Cpu, Simd, dispatch};
use crate::lanes::{LANES, Lanes};
use crate::packed::SendPointer;
use crate::tile::{Block, Fetch, Jumps, Start};
use std::collections::HashMap;

/// Gradients (T, H · d), (T, KV · d), (T, KV · d); the latter two are added to.
pub struct AttentionGradient<'a> {
    /// ∂L/∂q, overwritten.
    pub q: &'a mut [f32],
    /// ∂L/∂k, added to.
    pub k: &'a mut [f32],
    /// ∂L/∂v, added to.
    pub v: &'a mut [f32],
}

/// The gradient of [`super::attention`]. The own context of every member must be exactly its rows;
/// `shared_rows[g]` names the batch row of each token of group g's shared context.
///
/// # Panics
/// If a length does not fit.
pub fn attention_backward(
    cpu: &Cpu,
    heads: Heads,
    store: &KvLayer,
    groups: &[Group],
    shared_rows: &[Vec<u32>],
    (q, out, gradient): (&[f32], &[f32], &[f32]),
    result: AttentionGradient<'_>,
) {
    let _clock = cpu.clock(Operation::Attention);
    check(heads, store, groups, q.len());
    let width = heads.keys * heads.size;
    let rows = q.len() / (heads.queries * heads.size);
    assert!(out.len() == q.len() && gradient.len() == q.len() && result.q.len() == q.len());
    assert!(result.k.len() == rows * width && result.v.len() == rows * width);
    assert_eq!(groups.len(), shared_rows.len());
    for (group, shared_rows) in groups.iter().zip(shared_rows) {
        assert_eq!(length(&group.shared), shared_rows.len(), "a row for each shared token");
        assert!(shared_rows.iter().all(|&row| (row as usize) < rows), "shared rows exist");
        assert!(group.members.iter().all(|m| length(&m.own) == m.rows), "own context = own rows");
    }
    let padded = store.padded();
    // Gradients of shared contexts: for each group and key head (tokens, 2 · padded d): k, then v.
    let mut offsets = Vec::with_capacity(groups.len());
    let mut total = 0;
    for shared in shared_rows {
        offsets.push(total);
        total += shared.len() * heads.keys * 2 * padded;
    }
    let mut shared_sums = vec![0f32; total];
    let sums = SendPointer(shared_sums.as_mut_ptr());
    let to = Pointers {
        q: SendPointer(result.q.as_mut_ptr()),
        k: SendPointer(result.k.as_mut_ptr()),
        v: SendPointer(result.v.as_mut_ptr()),
    };
    cpu.parallel(groups.len() * heads.keys, |task| {
        let (index, key_head) = (task / heads.keys, task % heads.keys);
        let len = shared_rows[index].len() * 2 * padded;
        // SAFETY: each task has its own part of the sums.
        let shared =
            unsafe { std::slice::from_raw_parts_mut(sums.get().add(offsets[index] + key_head * len), len) };
        let task = GroupTask { heads, store, group: &groups[index], key_head, q, out, gradient, to };
        dispatch(cpu.kernel(), Backward { task, index, shared });
    });
    for (index, rows) in shared_rows.iter().enumerate() {
        for key_head in 0..heads.keys {
            let len = rows.len() * 2 * padded;
            let sums = &shared_sums[offsets[index] + key_head * len..][..len];
            for (sum, &row) in sums.chunks_exact(2 * padded).zip(rows) {
                let at = row as usize * width + key_head * heads.size;
                let (dk, dv) = sum.split_at(padded);
                result.k[at..][..heads.size].iter_mut().zip(dk).for_each(|(to, x)| *to += x);
                result.v[at..][..heads.size].iter_mut().zip(dv).for_each(|(to, x)| *to += x);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Pointers {
    q: SendPointer<f32>,
    k: SendPointer<f32>,
    v: SendPointer<f32>,
}

#[derive(Clone, Copy)]
struct GroupTask<'a> {
    heads: Heads,
    store: &'a KvLayer,
    group: &'a Group,
    key_head: usize,
    q: &'a [f32],
    out: &'a [f32],
    gradient: &'a [f32],
    to: Pointers,
}

struct Backward<'a> {
    task: GroupTask<'a>,
    index: usize,
    /// (shared tokens, 2 · padded d)
    shared: &'a mut [f32],
}

/// Buffers of one unit, n queries each.
struct Buffers {
    q: Vec<f32>,
    out: Vec<f32>,
    gradient: Vec<f32>,
    dq: Vec<f32>,
    weights: Vec<f32>,
    dscores: Vec<f32>,
}

/// One head's keys and values of all blocks that a group sees, turned round once for all its units.
struct Turned {
    /// Place of each block.
    places: HashMap<u32, usize>,
    /// (blocks, 16 tokens, padded d)
    keys: Vec<f32>,
    /// (blocks, d, 16 tokens)
    values: Vec<f32>,
    /// 16 · padded d
    block: usize,
}

impl Turned {
    fn new(store: &KvLayer, group: &Group, key_head: usize) -> Self {
        let padded = store.padded();
        let block = BLOCK_TOKENS * padded;
        let spans = group.shared.iter().chain(group.members.iter().flat_map(|member| &member.own));
        let mut places = HashMap::new();
        for span in spans {
            let next = places.len();
            places.entry(span.block).or_insert(next);
        }
        let (mut keys, mut values) = (vec![0f32; places.len() * block], vec![0f32; places.len() * block]);
        for (&number, &place) in &places {
            store.keys_by_row(number, key_head, &mut keys[place * block..][..block]);
            store.values_by_column(number, key_head, &mut values[place * block..][..block]);
        }
        Self { places, keys, values, block }
    }

    fn keys(&self, block: u32) -> &[f32] {
        &self.keys[self.places[&block] * self.block..][..self.block]
    }

    fn values(&self, block: u32) -> &[f32] {
        &self.values[self.places[&block] * self.block..][..self.block]
    }
}

impl Simd for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let task = self.task;
        let per_key = task.heads.queries / task.heads.keys;
        let padded = task.store.padded();
        // Own gradients of all members, (rows, padded d) each.
        let own_rows: usize = task.group.members.iter().map(|m| m.rows).sum();
        let mut own = vec![0f32; own_rows * 2 * padded];
        let turned = Turned::new(task.store, task.group, task.key_head);
        let mut units = Units::new();
        units.add(self.index, task.group, per_key);
        for unit in (0..units.len()).map(|index| units.get(index)) {
            let (queries, context) = extent(task.heads, task.group, &unit);
            let seen = seen_blocks(task.heads, task.group, &unit);
            let stride = context.next_multiple_of(LANES);
            let mut buffers = Buffers {
                q: vec![0.0; queries * padded],
                out: vec![0.0; queries * padded],
                gradient: vec![0.0; queries * padded],
                dq: vec![0.0; queries * padded],
                weights: vec![0.0; queries * stride],
                dscores: vec![0.0; queries * stride],
            };
            // SAFETY: the arguments were checked, and the buffers have the unit's extents.
            unsafe {
                task.weights_and_scores::<L>((&unit, &seen), stride, context, &turned, &mut buffers);
                task.gradients::<L>((&unit, &seen), stride, &turned, &mut buffers, self.shared, &mut own);
            }
            task.scatter_queries(&unit, padded, &buffers.dq);
        }
        task.add_own(padded, &own);
    }
}

impl GroupTask<'_> {
    /// Softmax weights, then `dscores = scale · P ∘ (dO Vᵀ − D)`.
    #[inline(always)]
    unsafe fn weights_and_scores<L: Lanes>(
        &self,
        (unit, seen): (&Unit<'_>, &[Seen]),
        stride: usize,
        context: usize,
        turned: &Turned,
        b: &mut Buffers,
    ) {
        let padded = self.store.padded();
        let heads = self.heads;
        for (from, to) in [(self.q, &mut b.q), (self.out, &mut b.out), (self.gradient, &mut b.gradient)] {
            gather(heads, self.group, unit, self.key_head, from, padded, to);
        }
        let queries = b.q.len() / padded;
        let mut work = Work { queries, context, stride, q: &mut b.q, scores: &mut b.weights };
        debug_assert!(work.queries * work.stride == work.scores.len() && work.context <= stride);
        // SAFETY: passed on to the caller.
        unsafe {
            let (store, group, key_head) = (self.store, self.group, self.key_head);
            let task = UnitHead { heads, store, group, unit, seen, key_head, next: Next::NOTHING };
            probabilities::<L>(&task, &mut work);
        }
        for &Seen { span, at, first, rows } in seen {
            // SAFETY: passed on to the caller.
            unsafe {
                Block::<f32> {
                    inner: heads.size,
                    a: b.gradient.as_ptr().add(first * padded),
                    a_row: padded,
                    a_inner: 1,
                    b: turned.values(span.block).as_ptr(),
                    b_panel: 0,
                    b_inner: LANES,
                    jumps: Jumps::NONE,
                    fetch: Fetch::Nothing,
                    c: b.dscores.as_mut_ptr().add(first * stride + at),
                    c_row: stride,
                    rows,
                    columns: span.count as usize,
                    start: Start::Zero,
                    side: None,
                }
                .run::<L>();
            }
        }
        for query in 0..queries {
            let (g, o) = (&b.gradient[query * padded..][..padded], &b.out[query * padded..][..padded]);
            let delta = g.iter().zip(o).fold(0f32, |sum, (&g, &o)| g.mul_add(o, sum));
            let weights = &b.weights[query * stride..][..stride];
            for (ds, &p) in b.dscores[query * stride..][..stride].iter_mut().zip(weights) {
                // Where p is 0 the score was never computed.
                *ds = if p == 0.0 { 0.0 } else { heads.scale * p * (*ds - delta) };
            }
        }
    }

    #[inline(always)]
    unsafe fn gradients<L: Lanes>(
        &self,
        (unit, seen): (&Unit<'_>, &[Seen]),
        stride: usize,
        turned: &Turned,
        b: &mut Buffers,
        shared: &mut [f32],
        own: &mut [f32],
    ) {
        let padded = self.store.padded();
        let per_key = self.heads.queries / self.heads.keys;
        let shared_length = length(&self.group.shared);
        let starts: Vec<usize> = self
            .group
            .members
            .iter()
            .scan(0, |at, member| Some(std::mem::replace(at, *at + member.rows)))
            .collect();
        for &Seen { span, at, first, rows } in seen {
            let (count, keys) = (span.count as usize, turned.keys(span.block));
            let to = if at < shared_length {
                &mut shared[at * 2 * padded..][..count * 2 * padded]
            } else {
                let piece = piece_of(unit, first / per_key);
                &mut own[(starts[piece] + at - shared_length) * 2 * padded..][..count * 2 * padded]
            };
            let (dk, dv) = (to.as_mut_ptr(), to[padded..].as_mut_ptr());
            for (a, from, to) in [(&b.dscores, &b.q, dk), (&b.weights, &b.gradient, dv)] {
                // Σ over queries of a[query][token] · from[query][·]
                let block = Block::<f32> {
                    inner: rows,
                    a: a[first * stride + at..].as_ptr(),
                    a_row: 1,
                    a_inner: stride,
                    b: from[first * padded..].as_ptr(),
                    b_panel: LANES,
                    b_inner: padded,
                    jumps: Jumps::NONE,
                    fetch: Fetch::Nothing,
                    c: to,
                    c_row: 2 * padded,
                    rows: count,
                    columns: padded,
                    start: Start::Output,
                    side: None,
                };
                // SAFETY: passed on to the caller.
                unsafe { block.run::<L>() };
            }
            // SAFETY: passed on to the caller.
            unsafe {
                Block::<f32> {
                    inner: count,
                    a: b.dscores.as_ptr().add(first * stride + at),
                    a_row: stride,
                    a_inner: 1,
                    b: keys.as_ptr(),
                    b_panel: LANES,
                    b_inner: padded,
                    jumps: Jumps::NONE,
                    fetch: Fetch::Nothing,
                    c: b.dq.as_mut_ptr().add(first * padded),
                    c_row: padded,
                    rows,
                    columns: padded,
                    start: Start::Output,
                    side: None,
                }
                .run::<L>();
            }
        }
    }

    fn scatter_queries(&self, unit: &Unit<'_>, padded: usize, dq: &[f32]) {
        let Heads { queries, keys, size, .. } = self.heads;
        let per_key = queries / keys;
        let mut from = dq.chunks_exact(padded);
        for piece in unit.pieces {
            let first = self.group.members[piece.member].first_row + piece.first;
            for row in first..first + piece.rows {
                for head in self.key_head * per_key..(self.key_head + 1) * per_key {
                    let from = from.next().expect("one row a query");
                    // SAFETY: the row exists (`check`), and one task alone writes it for this key head.
                    unsafe {
                        let to = self.to.q.get().add((row * queries + head) * size);
                        std::ptr::copy_nonoverlapping(from.as_ptr(), to, size);
                    }
                }
            }
        }
    }

    fn add_own(&self, padded: usize, own: &[f32]) {
        let (width, size) = (self.heads.keys * self.heads.size, self.heads.size);
        let mut sums = own.chunks_exact(2 * padded);
        for member in &self.group.members {
            for row in member.first_row..member.first_row + member.rows {
                let sum = sums.next().expect("one row a token");
                let at = row * width + self.key_head * size;
                for i in 0..size {
                    // SAFETY: the row exists (`check`), and one task alone adds to it for this key head.
                    unsafe {
                        *self.to.k.get().add(at + i) += sum[i];
                        *self.to.v.get().add(at + i) += sum[padded + i];
                    }
                }
            }
        }
    }
}

/// The member that a unit's row belongs to.
fn piece_of(unit: &Unit<'_>, row: usize) -> usize {
    let mut first = 0;
    for piece in unit.pieces {
        if row < first + piece.rows {
            return piece.member;
        }
        first += piece.rows;
    }
    unreachable!("row {row} is in the unit")
}
