//! Attention, forward. Queries and a KV store enter, the heads' outputs leave.

use super::store::Held;
use super::{BLOCK_TOKENS, Group, Heads, KvLayer, Span, Unit, Units, length};
use crate::account::Operation;
use crate::kernel::{Cpu, Simd, dispatch};
use crate::lanes::{LANES, Lanes, exp};
use crate::packed::SendPointer;
use crate::product::with_scratch;
use crate::recycled::{Recycled, recyclable};
use crate::tile::{Block, Element, Fetch, Start};

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
        let unit = &units.get(first / heads.keys);
        let group = &groups[unit.group];
        let (queries, context) = extent(heads, group, unit);
        let scratch = queries * (2 * store.padded() + context.next_multiple_of(LANES));
        // Taken out here: a closure inside of `run` would be compiled without the kernel's instruction set.
        with_scratch(scratch, |scratch| {
            for key_head in first % heads.keys..first % heads.keys + heads_a_task {
                let fetch = heads_a_task > 1;
                let work =
                    Forward { heads, store, group, unit, key_head, q, out, fetch, scratch: &mut *scratch };
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

struct Forward<'a> {
    heads: Heads,
    store: &'a KvLayer,
    group: &'a Group,
    unit: &'a Unit<'a>,
    key_head: usize,
    q: &'a [f32],
    out: SendPointer<f32>,
    /// Whether the next key head is this task's next work.
    fetch: bool,
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
        let (queries, context) = extent(self.heads, self.group, self.unit);
        let (stride, padded) = (context.next_multiple_of(LANES), self.store.padded());
        let (q, rest) = scratch.split_at_mut(queries * padded);
        let (scores, out) = rest.split_at_mut(queries * stride);
        let mut work = Work { queries, context, stride, q, scores };
        gather(self.heads, self.group, self.unit, self.key_head, self.q, padded, work.q);
        // SAFETY: `check` has checked all spans and rows; the scratch has the extents of `Work`.
        unsafe {
            let fetch = self.fetch;
            probabilities::<L>(
                self.heads,
                self.store,
                self.group,
                self.unit,
                (self.key_head, fetch),
                &mut work,
            );
            self.weighted_values::<L>(&work, out);
        }
        self.scatter(padded, out);
    }
}

impl Forward<'_> {
    #[inline(always)]
    unsafe fn weighted_values<L: Lanes>(&self, work: &Work<'_>, out: &mut [f32]) {
        let padded = self.store.padded();
        out.fill(0.0);
        for &Seen { span, at, first, rows } in seen_blocks(self.heads, self.group, self.unit).iter() {
            let weights = &work.scores[first * work.stride + at..];
            let to = Rows { first: out[first * padded..].as_mut_ptr(), stride: padded, count: rows };
            let tokens = span.count as usize;
            // SAFETY: passed on to the caller.
            unsafe {
                match self.store.values(span.block, self.key_head) {
                    Held::F32(values) => {
                        mix::<L, f32>((weights, work.stride), tokens, (values, self.fetch), to)
                    }
                    Held::Bf16(values) => {
                        mix::<L, u32>((weights, work.stride), tokens, (values, self.fetch), to)
                    }
                }
            }
        }
    }

    fn scatter(&self, padded: usize, out: &[f32]) {
        let Heads { queries, keys, size, .. } = self.heads;
        let per_key = queries / keys;
        let mut from = 0;
        for piece in self.unit.pieces {
            let first = self.group.members[piece.member].first_row + piece.first;
            for row in first..first + piece.rows {
                for head in self.key_head * per_key..(self.key_head + 1) * per_key {
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

/// Fills `work.scores` with the softmax weights of every query; 0 where a query does not see.
///
/// # Safety
/// The processor has `L`'s instruction set, and `check` has passed.
#[inline(always)]
pub(super) unsafe fn probabilities<L: Lanes>(
    heads: Heads,
    store: &KvLayer,
    group: &Group,
    unit: &Unit<'_>,
    (key_head, fetch): (usize, bool),
    work: &mut Work<'_>,
) {
    let (stride, padded) = (work.stride, store.padded());
    let seen = seen_blocks(heads, group, unit);
    let mut next = 0;
    while next < seen.len() {
        // Blocks that follow one another in the store and the context are one product: more chains side by side.
        let Seen { span, at, first, rows } = seen[next];
        let mut columns = span.count as usize;
        next += 1;
        while let Some(more) = seen.get(next)
            && columns.is_multiple_of(BLOCK_TOKENS)
            && more.span.block as usize == span.block as usize + columns / BLOCK_TOKENS
            && more.at == at + columns
            && (more.first, more.rows) == (first, rows)
        {
            columns += more.span.count as usize;
            next += 1;
        }
        let keys = store.keys_from(span.block, key_head);
        // SAFETY: passed on to the caller.
        unsafe {
            Block::<f32> {
                inner: heads.size,
                a: work.q.as_ptr().add(first * padded),
                a_row: padded,
                a_inner: 1,
                b: keys.as_ptr(),
                b_panel: store.block_stride(),
                b_inner: LANES,
                fetch: if fetch { Fetch::Behind(heads.size * BLOCK_TOKENS) } else { Fetch::Nothing },
                c: work.scores.as_mut_ptr().add(first * stride + at),
                c_row: stride,
                rows,
                columns,
                start: Start::Zero,
                side: None,
            }
            .run::<L>();
        }
    }
    let per_key = heads.queries / heads.keys;
    let shared = length(&group.shared);
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

/// Rows of results, `stride` apart.
#[derive(Clone, Copy)]
struct Rows {
    first: *mut f32,
    stride: usize,
    count: usize,
}

/// `to[query] += Σ weight[query][token] · value[token]` over the first tokens of one block.
///
/// # Safety
/// As for [`Block::run`].
#[inline(always)]
unsafe fn mix<L: Lanes, E: Element<Left = f32>>(
    (weights, stride): (&[f32], usize),
    tokens: usize,
    (values, fetch): (&[E], bool),
    to: Rows,
) {
    let block = Block::<E> {
        inner: tokens,
        a: weights.as_ptr(),
        a_row: stride,
        a_inner: 1,
        b: values.as_ptr(),
        b_panel: LANES,
        b_inner: to.stride,
        fetch: if fetch { Fetch::Behind(values.len()) } else { Fetch::Nothing },
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
        scores.iter_mut().for_each(|x| *x *= share);
    }
}
