//! A packed list of tokens: prefill, decode and training differ only in what stands here.

use tinylora_compute::attention::Group;

/// T tokens, each with its position, its place in the KV cache and its adapter; and which see which.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// Token ids (T).
    pub tokens: Vec<u32>,
    /// Position in its sequence, from 0 (T).
    pub positions: Vec<u32>,
    /// KV block and offset in it (T).
    pub places: Vec<(u32, u32)>,
    /// Which of the adapters applies (T).
    pub adapters: Vec<u32>,
    /// Every row is in exactly one member of one group.
    pub groups: Vec<Group>,
    /// For training: the row of each token of each group's shared context.
    pub shared_rows: Vec<Vec<u32>>,
}

impl Batch {
    /// T
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }
}

impl Batch {
    /// Adds a row.
    pub fn push(&mut self, token: u32, position: usize, place: (u32, u32), adapter: u32) {
        self.tokens.push(token);
        self.positions.push(position as u32);
        self.places.push(place);
        self.adapters.push(adapter);
    }
}
