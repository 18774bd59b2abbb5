//! Attention, forward. Queries and a KV store enter, the heads' outputs leave.

use super::store::{Keys, Values};
use super::{BLOCK_TOKENS, Group, Heads, KvLayer, Span, Unit, Units, length};
use crate::account::Operation;
use crate::kernel::{Cpu, Simd, dispatch};
use crate::lanes::{LANES, Lanes, exp};
use crate::packed::SendPointer;
use crate::product::with_scratch;
use crate::recycled::{Recycled, recyclable};
use crate::tile::{Block, Element, Fetch, Half, Jumps, Start};

/// Units a thread from which on a task has all heads of one: with fewer, the threads could not share them out evenly.
const UNITS_A_THREAD: usize = 8;

/// `out = softmax(scale · q Kᵀ) V` for every row of every group. `q` and `out` are (T, H · d). The keys and
/// values of the rows must already be in the store. Rows in no group are left alone.
///
/// # Panics
/// If a length does not fit.
pub fn attention(cpu: &Cpu, heads: Heads, store: &KvLayer, groups: &[Group], q: &[f32], out: &mut [f32]) {
    let _clock = cpu.clock(Operation::Attention);
    check(heads, store, groups, q.len());
    assert_eq!(q.len(), out.len());
    let per_key = heads.queries / heads.keys;
    let mut units = Units::new();
    groups.iter().enumerate().for_each(|(index, group)| units.add(index, group, per_key));
    let out = SendPointer(out.as_mut_ptr());
    // A task has all heads of a unit, so that the next head's keys and values are on their way while one is worked on; but
    // one head, where there are few units.
    let heads_a_task = if units.len() >= UNITS_A_THREAD * cpu.threads() { heads.keys } else { 1 };
    cpu.parallel(units.len() * heads.keys / heads_a_task, |task| {
        let first = task * heads_a_task;
        let index = first / heads.keys;
        let unit = &units.get(index);
        let group = &groups[unit.group];
        let seen = seen_blocks(heads, group, unit);
        let (queries, context) = extent(heads, group, unit);
        let scratch = queries * (2 * store.padded() + context.next_multiple_of(LANES));
        // Taken out here: a closure inside of `run` would be compiled without the kernel's instruction set.
        with_scratch(scratch, |scratch| {
            for key_head in first % heads.keys..first % heads.keys + heads_a_task {
                let next = if heads_a_task == 1 {
                    Next::NOTHING
                } else if key_head + 1 < heads.keys {
                    Next { shared: Some(0), own: Some(0), heads: 1 }
                } else if index + 1 < units.len() {
                    Next::unit(groups, unit, &units.get(index + 1), heads.keys)
                } else {
                    Next::NOTHING
                };
                let work = Forward {
                    task: UnitHead { heads, store, group, unit, seen: &seen, key_head, next },
                    q,
                    out,
                    scratch: &mut *scratch,
                };
                dispatch(cpu.kernel(), work);
            }
        });
    });
}

pub(super) fn check(heads: Heads, store: &KvLayer, groups: &[Group], q: usize) {
    assert!(heads.keys > 0 && heads.queries.is_multiple_of(heads.keys), "key heads divide query heads");
    let width = heads.queries * heads.size;
    for group in groups {
        let spans = group.shared.iter().chain(group.members.iter().flat_map(|m| &m.own));
        for span in spans {
            let whole =
                (span.block as usize) < store.blocks() && (1..=BLOCK_TOKENS as u32).contains(&span.count);
            assert!(whole, "span {span:?} lies in a store of {} blocks", store.blocks());
        }
        for member in &group.members {
            assert!((member.first_row + member.rows) * width <= q, "the rows of {member:?} exist");
            assert!(length(&member.own) + length(&group.shared) >= member.rows, "rows are in their context");
        }
    }
}

/// Buffers of one unit and key head: n queries over a context of at most `context` tokens.
pub(super) struct Work<'a> {
    pub queries: usize,
    pub context: usize,
    /// Row length of the score rows.
    pub stride: usize,
    /// (n, padded d)
    pub q: &'a mut [f32],
    /// (n, stride)
    pub scores: &'a mut [f32],
}

/// One key head of a unit.
#[derive(Clone, Copy)]
pub(super) struct UnitHead<'a> {
    pub heads: Heads,
    pub store: &'a KvLayer,
    pub group: &'a Group,
    pub unit: &'a Unit<'a>,
    /// What [`seen_blocks`] gives.
    pub seen: &'a [Seen],
    pub key_head: usize,
    /// What this thread works on next.
    pub next: Next,
}

/// Where the keys and values lie that are wanted next, from those that are wanted now: so many blocks further, if they are to be
/// fetched, and so many heads.
#[derive(Clone, Copy)]
pub(super) struct Next {
    /// Of the common beginning.
    shared: Option<isize>,
    /// Of the members' own blocks, as far as they lie alike.
    own: Option<isize>,
    heads: isize,
}

impl Next {
    pub const NOTHING: Self = Self { shared: None, own: None, heads: 0 };

    /// From a unit's last head to the next unit's first.
    fn unit(groups: &[Group], from: &Unit<'_>, to: &Unit<'_>, heads: usize) -> Self {
        let shared = |unit: &Unit<'_>| groups[unit.group].shared.first();
        let own = |unit: &Unit<'_>| groups[unit.group].members[unit.pieces[0].member].own.first();
        let distance =
            |from: Option<&Span>, to: Option<&Span>| Some(to?.block as isize - from?.block as isize);
        Self {
            // A common beginning of both is in the cache.
            shared: if from.group == to.group { None } else { distance(shared(from), shared(to)) },
            own: distance(own(from), own(to)),
            heads: 1 - heads.cast_signed(),
        }
    }

    /// What to fetch while blocks of the common beginning, or own ones, are read; heads and blocks are so many units long.
    fn fetch(self, is_shared: bool, head: usize, block: usize) -> Fetch {
        let blocks = if is_shared { self.shared } else { self.own };
        blocks.map_or(Fetch::Nothing, |blocks| {
            Fetch::Behind(blocks * block.cast_signed() + self.heads * head.cast_signed())
        })
    }
}

struct Forward<'a> {
    task: UnitHead<'a>,
    q: &'a [f32],
    out: SendPointer<f32>,
    /// (queries, 2 · padded d + stride)
    scratch: &'a mut [f32],
}

/// (number of queries, longest context) of a unit.
pub(super) fn extent(heads: Heads, group: &Group, unit: &Unit<'_>) -> (usize, usize) {
    let rows: usize = unit.pieces.iter().map(|piece| piece.rows).sum();
    let own = unit.pieces.iter().map(|piece| length(&group.members[piece.member].own)).max().unwrap_or(0);
    (rows * heads.queries / heads.keys, length(&group.shared) + own)
}

impl Simd for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        let scratch = std::mem::take(&mut self.scratch);
        let UnitHead { heads, store, group, unit, key_head, .. } = self.task;
        let (queries, context) = extent(heads, group, unit);
        let (stride, padded) = (context.next_multiple_of(LANES), store.padded());
        let (q, rest) = scratch.split_at_mut(queries * padded);
        let (scores, out) = rest.split_at_mut(queries * stride);
        let mut work = Work { queries, context, stride, q, scores };
        gather(heads, group, unit, key_head, self.q, padded, work.q);
        // SAFETY: `check` has checked all spans and rows; the scratch has the extents of `Work`.
        unsafe {
            probabilities::<L>(&self.task, &mut work);
            self.task.weighted_values::<L>(&work, out);
        }
        self.scatter(padded, out);
    }
}

impl UnitHead<'_> {
    #[inline(always)]
    unsafe fn weighted_values<L: Lanes>(&self, work: &Work<'_>, out: &mut [f32]) {
        let (padded, shared) = (self.store.padded(), length(&self.group.shared));
        out.fill(0.0);
        let mut left = self.seen;
        while let Some((Seen { span, at, first, rows }, tokens)) = next_run(&mut left) {
            let weights = &work.scores[first * work.stride + at..];
            let to = Rows { first: out[first * padded..].as_mut_ptr(), stride: padded, count: rows };
            let (head, block) = self.store.value_strides();
            let lie = Lie { fetch: self.next.fetch(at < shared, head, block), to_next_block: block - head };
            // SAFETY: passed on to the caller.
            unsafe {
                match self.store.values_from(span.block, self.key_head) {
                    Values::F32(values) => mix::<L, f32>((weights, work.stride), tokens, (values, lie), to),
                    Values::Bf16(values) => mix::<L, u32>((weights, work.stride), tokens, (values, lie), to),
                }
            }
        }
    }
}

impl Forward<'_> {
    fn scatter(&self, padded: usize, out: &[f32]) {
        let UnitHead { heads, group, unit, key_head, .. } = self.task;
        let Heads { queries, keys, size, .. } = heads;
        let per_key = queries / keys;
        let mut from = 0;
        for piece in unit.pieces {
            let first = group.members[piece.member].first_row + piece.first;
            for row in first..first + piece.rows {
                for head in key_head * per_key..(key_head + 1) * per_key {
                    // SAFETY: the row exists (`check`), and one unit alone writes it for this key head.
                    unsafe {
                        let to = self.out.get().add((row * queries + head) * size);
                        std::ptr::copy_nonoverlapping(out[from * padded..].as_ptr(), to, size);
                    }
                    from += 1;
                }
            }
        }
    }
}

/// Collects a unit's rows of a (T, H · d) array for one key head: (n, padded d), zero-padded.
pub(super) fn gather(
    heads: Heads,
    group: &Group,
    unit: &Unit<'_>,
    key_head: usize,
    from: &[f32],
    padded: usize,
    to: &mut [f32],
) {
    let per_key = heads.queries / heads.keys;
    let mut rows = to.chunks_exact_mut(padded);
    for piece in unit.pieces {
        let first = group.members[piece.member].first_row + piece.first;
        for row in first..first + piece.rows {
            for head in key_head * per_key..(key_head + 1) * per_key {
                let to = rows.next().expect("one row a query");
                to[..heads.size]
                    .copy_from_slice(&from[(row * heads.queries + head) * heads.size..][..heads.size]);
                to[heads.size..].fill(0.0);
            }
        }
    }
}

/// One block of keys and values and who sees it.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    pub span: Span,
    /// Index of its first token in the context.
    pub at: usize,
    /// The first query of the unit that sees it, and how many do.
    pub first: usize,
    pub rows: usize,
}

recyclable!(Seen);

/// All blocks that the unit's queries see: the shared ones with all queries, each member's own with that piece's;
/// in context order for each query. A list and not a function that is called for each, since a closure would
/// be compiled without the kernel's instruction set.
pub(super) fn seen_blocks(heads: Heads, group: &Group, unit: &Unit<'_>) -> Recycled<Seen> {
    let per_key = heads.queries / heads.keys;
    let (queries, _) = extent(heads, group, unit);
    let shared = length(&group.shared);
    let first_seen = |piece: &super::Piece| {
        let member = &group.members[piece.member];
        let visible = shared + length(&member.own) - member.rows + piece.first + 1;
        heads.window.map_or(0, |window| visible.saturating_sub(window))
    };
    let earliest = unit.pieces.iter().map(first_seen).min().unwrap_or(0);
    let mut seen = Recycled::empty();
    let mut at = 0;
    for &span in &group.shared {
        if at + span.count as usize > earliest {
            seen.push(Seen { span, at, first: 0, rows: queries });
        }
        at += span.count as usize;
    }
    let mut query = 0;
    for piece in unit.pieces {
        let member = &group.members[piece.member];
        let visible = shared + length(&member.own) - member.rows + piece.first + piece.rows;
        let (first, rows) = (query, piece.rows * per_key);
        query += rows;
        let mut at = shared;
        for &span in &member.own {
            if at >= visible {
                break;
            }
            if at + span.count as usize > first_seen(piece) {
                seen.push(Seen { span, at, first, rows });
            }
            at += span.count as usize;
        }
    }
    seen
}

/// Takes the first block from a list, and those that follow it in the store and in the context and are seen by the same queries:
/// one product, with more chains side by side. Gives the first and the number of tokens in all.
#[inline(always)]
fn next_run(seen: &mut &[Seen]) -> Option<(Seen, usize)> {
    let (&first, mut rest) = seen.split_first()?;
    let mut tokens = first.span.count as usize;
    while let Some((more, others)) = rest.split_first()
        && tokens.is_multiple_of(BLOCK_TOKENS)
        && more.span.block as usize == first.span.block as usize + tokens / BLOCK_TOKENS
        && more.at == first.at + tokens
        && (more.first, more.rows) == (first.first, first.rows)
    {
        tokens += more.span.count as usize;
        rest = others;
    }
    *seen = rest;
    Some((first, tokens))
}

/// Fills `work.scores` with the softmax weights of every query; 0 where a query does not see.
///
/// # Safety
/// The processor has `L`'s instruction set, and `check` has passed.
#[inline(always)]
pub(super) unsafe fn probabilities<L: Lanes>(task: &UnitHead<'_>, work: &mut Work<'_>) {
    let &UnitHead { heads, store, group, unit, mut seen, key_head, next } = task;
    let (stride, padded, shared) = (work.stride, store.padded(), length(&group.shared));
    while let Some((Seen { span, at, first, rows }, columns)) = next_run(&mut seen) {
        let fetch = next.fetch(at < shared, heads.size * BLOCK_TOKENS, store.block_stride());
        // SAFETY: passed on to the caller.
        unsafe {
            let q = (work.q.as_ptr().add(first * padded), padded);
            let c = Rows { first: work.scores.as_mut_ptr().add(first * stride + at), stride, count: rows };
            match store.keys_from(span.block, key_head) {
                Keys::F32(keys) => {
                    scores::<L, f32>(q, heads.size, (keys, store.block_stride()), fetch, (c, columns));
                }
                Keys::F16(keys) => {
                    scores::<L, Half>(q, heads.size, (keys, store.block_stride()), fetch, (c, columns));
                }
            }
        }
    }
    let per_key = heads.queries / heads.keys;
    let mut query = 0;
    for piece in unit.pieces {
        let member = &group.members[piece.member];
        let before = shared + length(&member.own) - member.rows + piece.first;
        for row in 0..piece.rows {
            let visible = before + row + 1;
            let first = heads.window.map_or(0, |window| visible.saturating_sub(window));
            for _ in 0..per_key {
                let scores = &mut work.scores[query * stride..][..stride];
                scores[..first].fill(0.0);
                scores[visible..].fill(0.0);
                // SAFETY: passed on to the caller.
                unsafe { softmax::<L>(heads.scale, &mut scores[first..visible]) };
                query += 1;
            }
        }
    }
}

/// `to[query][token] = q[query] · key[token]` over the columns of a run of blocks, `block_stride` apart.
///
/// # Safety
/// As for [`Block::run`].
#[inline(always)]
unsafe fn scores<L: Lanes, E: Element<Left = f32>>(
    (q, q_row): (*const f32, usize),
    size: usize,
    (keys, block_stride): (&[E], usize),
    fetch: Fetch,
    (to, columns): (Rows, usize),
) {
    let block = Block::<E> {
        inner: size,
        a: q,
        a_row: q_row,
        a_inner: 1,
        b: keys.as_ptr(),
        b_panel: block_stride,
        b_inner: LANES,
        jumps: Jumps::NONE,
        fetch,
        c: to.first,
        c_row: to.stride,
        rows: to.count,
        columns,
        start: Start::Zero,
        side: None,
    };
    // SAFETY: passed on to the caller.
    unsafe { block.run::<L>() }
}

/// Rows of results, `stride` apart.
#[derive(Clone, Copy)]
struct Rows {
    first: *mut f32,
    stride: usize,
    count: usize,
}

/// How values lie in the store.
#[derive(Clone, Copy)]
struct Lie {
    fetch: Fetch,
    /// Units from the end of one head's values in a block to those in the next block.
    to_next_block: usize,
}

/// `to[query] += Σ weight[query][token] · value[token]` over the first tokens of a run of blocks.
///
/// # Safety
/// As for [`Block::run`].
#[inline(always)]
unsafe fn mix<L: Lanes, E: Element<Left = f32>>(
    (weights, stride): (&[f32], usize),
    tokens: usize,
    (values, lie): (&[E], Lie),
    to: Rows,
) {
    let every = if E::PAIRED { BLOCK_TOKENS / 2 } else { BLOCK_TOKENS };
    let block = Block::<E> {
        inner: tokens,
        a: weights.as_ptr(),
        a_row: stride,
        a_inner: 1,
        b: values.as_ptr(),
        b_panel: LANES,
        b_inner: to.stride,
        jumps: if tokens > BLOCK_TOKENS { Jumps { every, by: lie.to_next_block } } else { Jumps::NONE },
        fetch: lie.fetch,
        c: to.first,
        c_row: to.stride,
        rows: to.count,
        columns: to.stride,
        start: Start::Output,
        side: None,
    };
    // SAFETY: passed on to the caller.
    unsafe { block.run::<L>() }
}

/// Softmax of `scale · scores` in place.
///
/// # Safety
/// The processor has `L`'s instruction set.
#[inline(always)]
unsafe fn softmax<L: Lanes>(scale: f32, scores: &mut [f32]) {
    let whole = scores.len() / LANES * LANES;
    let rest = scores.len() - whole;
    // SAFETY: whole chunks in place, the tail through a copy.
    unsafe {
        let mut tail = [f32::NEG_INFINITY; LANES];
        tail[..rest].copy_from_slice(&scores[whole..]);
        let mut tail_lanes = L::load(tail.as_ptr()).mul(L::splat(scale));
        let mut largest = tail_lanes;
        for i in (0..whole).step_by(LANES) {
            let x = L::load(scores.as_ptr().add(i)).mul(L::splat(scale));
            x.store(scores.as_mut_ptr().add(i));
            largest = largest.max(x);
        }
        let top = L::splat(largest.largest());
        let mut sum = L::splat(0.0);
        for i in (0..whole).step_by(LANES) {
            let e = exp(L::load(scores.as_ptr().add(i)).sub(top));
            e.store(scores.as_mut_ptr().add(i));
            sum = sum.add(e);
        }
        if rest > 0 {
            tail_lanes = exp(tail_lanes.sub(top));
            tail_lanes.store(tail.as_mut_ptr());
            tail[rest..].fill(0.0);
            sum = sum.add(L::load(tail.as_ptr()));
            scores[whole..].copy_from_slice(&tail[..rest]);
        }
        let share = 1.0 / sum.sum();
        for i in (0..whole).step_by(LANES) {
            L::load(scores.as_ptr().add(i)).mul(L::splat(share)).store(scores.as_mut_ptr().add(i));
        }
        scores[whole..].iter_mut().for_each(|x| *x *= share);
    }
}
