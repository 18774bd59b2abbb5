//! Attention on the GPU over a paged KV cache, forward and backward: which rows see which is laid out here, on the CPU, as
//! lists for the kernels.
//!
//! T rows, H query heads, G = H / key heads, d head size. A slot is a token's place in the cache.

use super::device::{Argument, Device, Launch};
use super::error::CudaError;
use super::images::padded_head;
use super::memory::DeviceBuffer;
use super::product::{Rows, int, pair};
use crate::attention::{BLOCK_TOKENS, Group, Heads, Span};
use std::collections::BTreeMap;

/// Contexts are walked in parts of so many tokens.
const SPLIT: usize = 1024;

/// Queries a block, and keys a tile.
fn block_rows(padded: usize) -> usize {
    if padded > 128 { 32 } else { 64 }
}

/// Whether the kernels serve heads of this shape.
pub fn is_served(heads: &Heads) -> bool {
    padded_head(heads.size).is_some_and(|padded| heads.queries / heads.keys.max(1) <= block_rows(padded))
}

fn length(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.count as usize).sum()
}

fn slots(spans: &[Span]) -> impl Iterator<Item = u32> + '_ {
    spans.iter().flat_map(|span| (0..span.count).map(|i| span.block * BLOCK_TOKENS as u32 + i))
}

/// The lists of a batch, as the kernels read them.
#[derive(Debug, Default, PartialEq)]
struct Lists {
    /// (shared_at, shared, first_piece, pieces) of each unit.
    units: Vec<i32>,
    /// (own_at, own, first_row, rows, before, first_query) of each piece.
    pieces: Vec<i32>,
    slots: Vec<u32>,
    /// Context of each row, itself included.
    contexts: Vec<u32>,
}

impl Lists {
    /// Parts in which the longest context is walked.
    fn parts(&self) -> usize {
        let longest = self.contexts.iter().copied().max().unwrap_or(0) as usize;
        longest.div_ceil(SPLIT).max(1)
    }

    fn new(groups: &[Group], rows: usize, most: usize, per_key: usize) -> Self {
        let mut lists = Self { contexts: vec![0; rows], ..Self::default() };
        for group in groups {
            let (shared_at, shared) = (lists.slots.len(), length(&group.shared));
            lists.slots.extend(slots(&group.shared));
            let mut held = most;
            for member in &group.members {
                let (own_at, own) = (lists.slots.len(), length(&member.own));
                lists.slots.extend(slots(&member.own));
                let before = shared + own - member.rows;
                for row in 0..member.rows {
                    lists.contexts[member.first_row + row] = (before + row + 1) as u32;
                }
                let mut done = 0;
                while done < member.rows {
                    if held == most {
                        let first_piece = lists.pieces.len() / 6;
                        lists.units.extend([shared_at, shared, first_piece, 0].map(|x| x as i32));
                        held = 0;
                    }
                    let count = (member.rows - done).min(most - held);
                    let piece = [own_at, own, member.first_row + done, count, before + done, held * per_key];
                    lists.pieces.extend(piece.map(|x| x as i32));
                    *lists.units.last_mut().expect("opened above") += 1;
                    (done, held) = (done + count, held + count);
                }
            }
        }
        lists
    }
}

/// (first_row, rows, first_run, runs) of each tile of keys, and (first_row, rows, before, at) of each run of rows that sees a
/// tile. The own context of every member must be exactly its rows.
fn key_lists(groups: &[Group], shared_rows: &[Vec<u32>], most: usize) -> (Vec<i32>, Vec<i32>) {
    // Of each row that begins a member: the groups whose shared beginning holds it, and where.
    let mut seen_by: BTreeMap<usize, Vec<(usize, usize)>> =
        groups.iter().flat_map(|group| &group.members).map(|member| (member.first_row, Vec::new())).collect();
    for (index, rows) in shared_rows.iter().enumerate() {
        for (at, &row) in rows.iter().enumerate() {
            if let Some(seen_by) = seen_by.get_mut(&(row as usize)) {
                seen_by.push((index, at));
            }
        }
    }
    let (mut tiles, mut runs) = (Vec::new(), Vec::new());
    for group in groups {
        let shared = length(&group.shared);
        for member in &group.members {
            for start in (0..member.rows).step_by(most) {
                let first_run = runs.len() / 4;
                let mut push = |run: [usize; 4]| runs.extend(run.map(|x| x as i32));
                push([member.first_row, member.rows, shared, shared + start]);
                for &(other, at) in &seen_by[&member.first_row] {
                    let before = length(&groups[other].shared);
                    for seeing in &groups[other].members {
                        push([seeing.first_row, seeing.rows, before, at + start]);
                    }
                }
                let count = runs.len() / 4 - first_run;
                let tile = [member.first_row + start, most.min(member.rows - start), first_run, count];
                tiles.extend(tile.map(|x| x as i32));
            }
        }
    }
    (tiles, runs)
}

/// Who sees what in a batch of T rows of which each is the last of its sequence, on the host: what [`Plan::over`] takes from the
/// GPU's memory, where it may be changed from one step to the next.
pub struct DecodeLists {
    lists: Lists,
}

impl DecodeLists {
    /// Of a batch whose rows are in `groups`.
    ///
    /// # Panics
    /// If the kernels don't serve such heads.
    pub fn new(heads: &Heads, rows: usize, groups: &[Group]) -> Self {
        let (most, per_key) = most_rows(heads);
        Self { lists: Lists::new(groups, rows, most, per_key) }
    }

    /// Parts in which the longest context is walked.
    pub fn parts(&self) -> usize {
        self.lists.parts()
    }

    /// Units, pieces and contexts, with nothing in the place of units and pieces that there are not, for one of each a row;
    /// then slots.
    pub fn words(&self) -> impl Iterator<Item = u32> + '_ {
        let rows = self.lists.contexts.len();
        let padded = |list: &[i32], len: usize| {
            assert!(list.len() <= len, "at most one unit and one piece a row");
            let zeros = len - list.len();
            list.iter().map(|&x| x as u32).chain(std::iter::repeat_n(0, zeros)).collect::<Vec<u32>>()
        };
        let (units, pieces) = (padded(&self.lists.units, 4 * rows), padded(&self.lists.pieces, 6 * rows));
        let behind = self.lists.contexts.iter().chain(&self.lists.slots).copied();
        units.into_iter().chain(pieces).chain(behind)
    }

    /// Numbers of [`Self::words`] before the slots, for so many rows.
    pub fn fixed_words(rows: usize) -> usize {
        11 * rows
    }
}

/// Rows a unit at most, and queries a key head.
fn most_rows(heads: &Heads) -> (usize, usize) {
    assert!(is_served(heads), "heads that the kernels serve");
    let per_key = heads.queries / heads.keys;
    (block_rows(padded_head(heads.size).expect("served")) / per_key, per_key)
}

/// Who sees what in a batch of T rows, on the GPU; the same for all layers.
pub struct Plan {
    padded: usize,
    rows: usize,
    parts: usize,
    units: (DeviceBuffer<i32>, usize),
    pieces: DeviceBuffer<i32>,
    slots: DeviceBuffer<u32>,
    contexts: DeviceBuffer<u32>,
    keys: Option<KeyPlan>,
}

/// For the backward pass.
struct KeyPlan {
    tiles: (DeviceBuffer<i32>, usize),
    runs: DeviceBuffer<i32>,
}

impl Plan {
    /// Of a batch whose rows are in `groups`; with `shared_rows` (a list for each group) for training, too.
    ///
    /// # Panics
    /// If the kernels don't serve such heads.
    pub fn new(
        device: &Device,
        heads: &Heads,
        rows: usize,
        groups: &[Group],
        shared_rows: Option<&[Vec<u32>]>,
    ) -> Result<Self, CudaError> {
        let (most, per_key) = most_rows(heads);
        let padded = padded_head(heads.size).expect("served");
        let lists = Lists::new(groups, rows, most, per_key);
        let what = "who sees what";
        let keys = match shared_rows {
            None => None,
            Some(shared_rows) => {
                let (tiles, runs) = key_lists(groups, shared_rows, block_rows(padded));
                let count = tiles.len() / 4;
                let tiles = (device.upload(what, &tiles)?, count);
                Some(KeyPlan { tiles, runs: device.upload(what, &runs)? })
            }
        };
        Ok(Self {
            padded,
            rows,
            parts: lists.parts(),
            units: (device.upload(what, &lists.units)?, lists.units.len() / 4),
            pieces: device.upload(what, &lists.pieces)?,
            slots: device.upload(what, &lists.slots)?,
            contexts: device.upload(what, &lists.contexts)?,
            keys,
        })
    }

    /// The words of [`DecodeLists`] for so many rows and parts, where they lie on the GPU, slots to the end. Launches cover a unit
    /// a row, so that they stay the same when the words change.
    ///
    /// # Panics
    /// If the kernels don't serve such heads.
    pub fn over(heads: &Heads, rows: usize, parts: usize, words: &DeviceBuffer<u32>) -> Self {
        most_rows(heads);
        let fixed = DecodeLists::fixed_words(rows);
        Self {
            padded: padded_head(heads.size).expect("served"),
            rows,
            parts,
            units: (words.part(0, 4 * rows).cast(), rows),
            pieces: words.part(4 * rows, 6 * rows).cast(),
            contexts: words.part(10 * rows, rows),
            slots: words.part(fixed, words.len() - fixed),
            keys: None,
        }
    }

    /// Numbers of `partial` that [`forward`] needs: results of contexts that are walked in parts.
    pub fn partial_len(&self, heads: &Heads) -> usize {
        if self.parts == 1 { 0 } else { self.parts * self.rows * heads.queries * (heads.size + 2) }
    }

    fn shared_bytes(&self, rows: usize) -> usize {
        rows * (self.padded + 8) * 2
    }
}

/// struct Attention
fn shape(heads: &Heads, q: &Rows, out: &Rows) -> [u64; 4] {
    assert!(q.width == heads.queries * heads.size && out.width == q.width, "rows of all heads");
    [
        pair(heads.queries, heads.keys),
        pair(heads.size, heads.window.unwrap_or(0)),
        pair(heads.scale.to_bits() as usize, q.stride),
        pair(out.stride, 0),
    ]
}

/// out = softmax(scale · q Kᵀ) V. lse (T, H) is for the backward pass; `partial` as [`Plan::partial_len`] says.
pub fn forward(
    device: &Device,
    plan: &Plan,
    heads: &Heads,
    q: &Rows,
    (keys, values): (&DeviceBuffer<u16>, &DeviceBuffer<u16>),
    (out, lse): (&Rows, &DeviceBuffer<f32>),
    partial: &DeviceBuffer<f32>,
) -> Result<(), CudaError> {
    let rows = plan.rows;
    assert!(q.rows == rows && out.rows == rows && lse.len() >= rows * heads.queries);
    assert!(partial.len() >= plan.partial_len(heads), "room for parts of contexts");
    let words = shape(heads, q, out);
    let arguments = [
        Argument::Struct(&words),
        q.data.argument(),
        keys.argument(),
        values.argument(),
        plan.units.0.argument(),
        plan.pieces.argument(),
        plan.slots.argument(),
        out.data.argument(),
        lse.argument(),
        partial.argument(),
        int(rows),
    ];
    let (block, padded) = (block_rows(plan.padded), plan.padded);
    let launch = Launch {
        blocks: [plan.units.1 as u32, heads.keys as u32, plan.parts as u32],
        threads: 2 * block as u32,
        shared: plan.shared_bytes(3 * block),
    };
    // SAFETY: the arguments are the kernel's; the lists were made for this batch, and its slots lie in the cache.
    unsafe { device.launch_some(&format!("attention_forward_{padded}"), launch, &arguments)? };
    if plan.parts == 1 {
        return Ok(());
    }
    let arguments = [
        Argument::Struct(&words),
        partial.argument(),
        plan.contexts.argument(),
        int(rows),
        out.data.argument(),
        lse.argument(),
    ];
    // SAFETY: as above.
    unsafe { device.launch_some(&format!("attention_join_{padded}"), per_query(rows, heads), &arguments) }
}

fn per_query(rows: usize, heads: &Heads) -> Launch {
    Launch { blocks: [(rows * heads.queries).div_ceil(4) as u32, 1, 1], threads: 128, shared: 0 }
}

/// What the backward pass reads.
pub struct Backward<'a> {
    /// (T, H · d)
    pub q: &'a Rows,
    /// The cache.
    pub keys: &'a DeviceBuffer<u16>,
    /// The cache.
    pub values: &'a DeviceBuffer<u16>,
    /// Slot of each row.
    pub row_slots: &'a DeviceBuffer<u32>,
    /// What the forward pass gave.
    pub out: &'a Rows,
    /// (T, H)
    pub lse: &'a DeviceBuffer<f32>,
    /// Gradient of `out`.
    pub d_out: &'a Rows,
    /// (T, H), scratch.
    pub delta: &'a DeviceBuffer<f32>,
}

/// dq (T, H · d), dk and dv (T, K · d) are overwritten.
///
/// # Panics
/// If sizes don't fit, or the plan is not for training.
pub fn backward(
    device: &Device,
    plan: &Plan,
    heads: &Heads,
    b: &Backward<'_>,
    (dq, dk, dv): (&DeviceBuffer<f32>, &DeviceBuffer<f32>, &DeviceBuffer<f32>),
) -> Result<(), CudaError> {
    let (rows, padded, block) = (plan.rows, plan.padded, block_rows(plan.padded));
    let keys = plan.keys.as_ref().expect("a plan for training");
    let (all_q, all_k) = (rows * heads.queries * heads.size, rows * heads.keys * heads.size);
    assert!(dq.len() >= all_q && dk.len() >= all_k && dv.len() >= all_k, "room for gradients");
    assert!(b.delta.len().min(b.lse.len()) >= rows * heads.queries && b.d_out.stride == b.out.stride);
    let words = shape(heads, b.q, b.out);
    let first = Argument::Struct(&words);
    let arguments = [first, b.out.data.argument(), b.d_out.data.argument(), int(rows), b.delta.argument()];
    // SAFETY: as in `forward`.
    unsafe { device.launch_some(&format!("attention_delta_{padded}"), per_query(rows, heads), &arguments)? };
    let (q, k, v) = (b.q.data.argument(), b.keys.argument(), b.values.argument());
    let (d_out, lse, delta) = (b.d_out.data.argument(), b.lse.argument(), b.delta.argument());
    let (units, pieces, slots) = (plan.units.0.argument(), plan.pieces.argument(), plan.slots.argument());
    let arguments = [first, q, k, v, units, pieces, slots, d_out, lse, delta, int(plan.parts), dq.argument()];
    let launch = Launch {
        blocks: [plan.units.1 as u32, heads.keys as u32, 1],
        threads: 2 * block as u32,
        shared: plan.shared_bytes(4 * block),
    };
    // SAFETY: as in `forward`.
    unsafe { device.launch_some(&format!("attention_backward_queries_{padded}"), launch, &arguments)? };
    let (tiles, runs, row_slots) = (keys.tiles.0.argument(), keys.runs.argument(), b.row_slots.argument());
    let arguments = [first, q, k, v, tiles, runs, row_slots, d_out, lse, delta, dk.argument(), dv.argument()];
    let launch = Launch {
        blocks: [keys.tiles.1 as u32, heads.keys as u32, 1],
        threads: 2 * block as u32,
        // Two tiles of keys and values, two of the queries that pass by.
        shared: plan.shared_bytes(2 * block + block),
    };
    // SAFETY: as in `forward`.
    unsafe { device.launch_some(&format!("attention_backward_keys_{padded}"), launch, &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Member;

    fn span(block: u32, count: u32) -> Span {
        Span { block, count }
    }

    /// A prompt of 18 rows, then two completions of it, of 3 rows and 1.
    fn groups() -> (Vec<Group>, Vec<Vec<u32>>) {
        let prompt = vec![span(0, 16), span(1, 2)];
        let member = |first_row, rows, own| Member { first_row, rows, own };
        let groups = vec![
            Group { shared: vec![], members: vec![member(0, 18, prompt.clone())] },
            Group {
                shared: prompt,
                members: vec![member(18, 3, vec![span(5, 3)]), member(21, 1, vec![span(4, 1)])],
            },
        ];
        (groups, vec![vec![], (0..18).collect()])
    }

    #[test]
    fn queries_are_cut_into_units() {
        let (groups, _) = groups();
        let lists = Lists::new(&groups, 22, 16, 2);
        assert_eq!(lists.units, [0, 0, 0, 1, 0, 0, 1, 1, 18, 18, 2, 2]);
        assert_eq!(lists.pieces[..12], [0, 18, 0, 16, 0, 0, 0, 18, 16, 2, 16, 0]);
        // Both completions in one unit: queries 0 … 5 and 6 … 7.
        assert_eq!(lists.pieces[12..], [36, 3, 18, 3, 18, 0, 39, 1, 21, 1, 18, 6]);
        assert_eq!(lists.slots[36..], [80, 81, 82, 64]);
        assert_eq!(lists.contexts[16..], [17, 18, 19, 20, 21, 19]);
    }

    #[test]
    fn words_of_decoding_have_room_for_a_unit_and_a_piece_a_row() {
        let heads = Heads { queries: 4, keys: 2, size: 16, scale: 1.0, window: None };
        let member = |first_row, own| Member { first_row, rows: 1, own };
        let shared = vec![span(0, 16), span(1, 2)];
        let groups = [
            Group { shared, members: vec![member(0, vec![span(5, 3)]), member(1, vec![span(4, 1)])] },
            Group { shared: vec![], members: vec![member(2, vec![span(9, 1)])] },
        ];
        let lists = DecodeLists::new(&heads, 3, &groups);
        let words: Vec<u32> = lists.words().collect();
        assert_eq!(lists.parts(), 1);
        assert_eq!(words[..12], [0, 18, 0, 2, 22, 0, 2, 1, 0, 0, 0, 0]);
        assert_eq!(words[12..18], [18, 3, 0, 1, 20, 0]);
        assert_eq!(words[30..33], [21, 19, 1]);
        assert_eq!(DecodeLists::fixed_words(3), 33);
        assert_eq!(words[33 + 18..], [80, 81, 82, 64, 144]);
    }

    #[test]
    fn keys_know_who_sees_them() {
        let (groups, shared_rows) = groups();
        let (tiles, runs) = key_lists(&groups, &shared_rows, 16);
        assert_eq!(tiles, [0, 16, 0, 3, 16, 2, 3, 3, 18, 3, 6, 1, 21, 1, 7, 1]);
        assert_eq!(runs[..12], [0, 18, 0, 0, 18, 3, 18, 0, 21, 1, 18, 0]);
        assert_eq!(runs[12..24], [0, 18, 0, 16, 18, 3, 18, 16, 21, 1, 18, 16]);
        assert_eq!(runs[24..], [18, 3, 18, 18, 21, 1, 18, 18]);
    }

    #[test]
    fn heads_that_are_served() {
        let heads = |queries, keys, size| Heads { queries, keys, size, scale: 1.0, window: None };
        assert!(is_served(&heads(28, 4, 128)) && is_served(&heads(4, 1, 256)) && is_served(&heads(6, 2, 24)));
        assert!(!is_served(&heads(4, 1, 257)) && !is_served(&heads(65, 1, 64)));
    }
}
