//! Attention over a paged KV cache, forward and backward. A query's result is a pure function of the query
//! and of the keys and values it sees, in their order: never of blocks, batches or threads.
//!
//! T tokens, H query heads, G = H / KV heads, d head size, C context length.
//!
//! Scores are chains over d; the softmax is taken over the context in order, in sixteen lanes; the weighted
//! sum of values is a chain over the context. Queries that share the beginning of their context (the samples
//! of one prompt) read its blocks once, together.

mod backward;
mod forward;
mod store;

use crate::recycled::{Recycled, recyclable};

pub use backward::{AttentionGradient, attention_backward};
pub use forward::attention;
pub use store::{BLOCK_TOKENS, KvLayer, Span};

/// Shape of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// H
    pub queries: usize,
    /// Key/value heads.
    pub keys: usize,
    /// d
    pub size: usize,
    /// Scores are q · k times this.
    pub scale: f32,
    /// A token sees only so many tokens, itself included.
    pub window: Option<usize>,
}

/// Segments whose contexts begin with the same blocks.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The common beginning.
    pub shared: Vec<Span>,
    /// The segments.
    pub members: Vec<Member>,
}

/// Consecutive rows of the batch that belong to one sequence.
#[derive(Debug, Clone)]
pub struct Member {
    /// First row.
    pub first_row: usize,
    /// Number of rows; they are the last tokens of the context.
    pub rows: usize,
    /// The context after the shared part, the rows themselves included.
    pub own: Vec<Span>,
}

fn length(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.count as usize).sum()
}

/// Some rows of one member.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    member: usize,
    /// Within the member.
    first: usize,
    rows: usize,
}

/// Rows of a group that are worked on together.
#[derive(Debug, Clone, Copy)]
struct Unit<'a> {
    group: usize,
    pieces: &'a [Piece],
}

/// Units of some groups, in order.
struct Units {
    pieces: Recycled<Piece>,
    /// (group, first piece, piece after the last one)
    units: Recycled<(usize, usize, usize)>,
}

recyclable!(Piece, (usize, usize, usize));

impl Units {
    fn new() -> Self {
        Self { pieces: Recycled::empty(), units: Recycled::empty() }
    }

    fn len(&self) -> usize {
        self.units.len()
    }

    fn get(&self, index: usize) -> Unit<'_> {
        let (group, first, end) = self.units[index];
        Unit { group, pieces: &self.pieces[first..end] }
    }

    /// Cuts a group's rows into units of about 32 queries a key head.
    fn add(&mut self, index: usize, group: &Group, queries_a_row: usize) {
        let most = (32 / queries_a_row).max(1);
        let (mut held, mut start) = (0, self.pieces.len());
        for (member, segment) in group.members.iter().enumerate() {
            let mut first = 0;
            while first < segment.rows {
                let rows = (segment.rows - first).min(most - held);
                self.pieces.push(Piece { member, first, rows });
                held += rows;
                first += rows;
                if held == most {
                    self.units.push((index, start, self.pieces.len()));
                    (held, start) = (0, self.pieces.len());
                }
            }
        }
        if held > 0 {
            self.units.push((index, start, self.pieces.len()));
        }
    }
}

#[cfg(test)]
mod tests;
