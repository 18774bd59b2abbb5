//! Who owns which KV block: a free list with counts of owners, since samples share their prompt's blocks.

use tinylora_compute::attention::{BLOCK_TOKENS, Span};

/// The blocks of one KV cache. A sequence's blocks follow one another where they can: attention reads a run of blocks faster
/// than as many single ones.
#[derive(Debug)]
pub struct BlockPool {
    owners: Vec<u32>,
    /// A bit each, eight blocks a byte.
    free: Vec<u8>,
    used: usize,
    most_used: usize,
}

impl BlockPool {
    /// All of `blocks` free.
    pub fn new(blocks: usize) -> Self {
        let mut free = vec![u8::MAX; blocks / 8];
        if !blocks.is_multiple_of(8) {
            free.push((1 << (blocks % 8)) - 1);
        }
        Self { owners: vec![0; blocks], free, used: 0, most_used: 0 }
    }

    /// Number of free blocks.
    pub fn free(&self) -> usize {
        self.owners.len() - self.used
    }

    /// The largest number of blocks that were in use at once.
    pub fn most_used(&self) -> usize {
        self.most_used
    }

    /// Takes a free block, with one owner: for a sequence that has `before` as its last block and may want `more` of them, this
    /// one included. Low numbers first, so that a small run touches little memory.
    pub fn take(&mut self, before: Option<u32>, more: usize) -> Option<u32> {
        let block = before
            .map(|before| before + 1)
            .filter(|&next| self.is_free(next))
            .or_else(|| self.beginning(more.clamp(1, 8).next_power_of_two()))
            .or_else(|| self.beginning(1))?;
        self.free[block as usize / 8] &= !(1 << (block % 8));
        self.owners[block as usize] = 1;
        self.used += 1;
        self.most_used = self.most_used.max(self.used);
        Some(block)
    }

    fn is_free(&self, block: u32) -> bool {
        self.free.get(block as usize / 8).is_some_and(|byte| byte >> (block % 8) & 1 == 1)
    }

    /// The first of `run` free blocks at a multiple of `run`, which is 1, 2, 4 or 8.
    fn beginning(&self, run: usize) -> Option<u32> {
        let all = u8::MAX >> (8 - run);
        self.free.iter().enumerate().find_map(|(byte, &free)| {
            let at = (0..8).step_by(run).find(|at| free >> at & all == all)?;
            Some((8 * byte + at) as u32)
        })
    }

    /// Gives up one owner's claim; the last one frees the block.
    ///
    /// # Panics
    /// If the block has no owner.
    pub fn release(&mut self, block: u32) {
        let owners = &mut self.owners[block as usize];
        assert!(*owners > 0, "block {block} is released twice");
        *owners -= 1;
        if *owners == 0 {
            self.free[block as usize / 8] |= 1 << (block % 8);
            self.used -= 1;
        }
    }
}

/// The spans of `tokens` tokens that fill `blocks` in order.
pub fn spans_of(blocks: &[u32], tokens: usize) -> impl Iterator<Item = Span> + '_ {
    blocks
        .iter()
        .enumerate()
        .take(tokens.div_ceil(BLOCK_TOKENS))
        .map(move |(i, &block)| Span { block, count: BLOCK_TOKENS.min(tokens - i * BLOCK_TOKENS) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back() {
        for blocks in [0, 3, 8, 13] {
            let mut pool = BlockPool::new(blocks);
            for more in [1, 5] {
                let mut taken: Vec<u32> = std::iter::from_fn(|| pool.take(None, more)).collect();
                assert_eq!((taken.len(), pool.free(), pool.most_used()), (blocks, 0, blocks));
                taken.iter().for_each(|&block| pool.release(block));
                assert_eq!(pool.free(), blocks);
                taken.sort_unstable();
                assert!(taken.iter().copied().eq(0..blocks as u32), "each once: {taken:?}");
            }
        }
    }

    #[test]
    fn a_sequences_blocks_follow_one_another() {
        let mut pool = BlockPool::new(20);
        let mut sequences = [vec![], vec![], vec![]];
        for step in 0..3 {
            for blocks in &mut sequences {
                let next = pool.take(blocks.last().copied(), 3 - step);
                blocks.push(next.expect("there are enough"));
            }
        }
        assert_eq!(sequences, [[0, 1, 2], [4, 5, 6], [8, 9, 10]]);
        // Where no run is free, what is left.
        let rest: Vec<u32> = std::iter::from_fn(|| pool.take(None, 8)).collect();
        assert_eq!((rest.len(), rest[0], pool.free()), (11, 3, 0));
    }

    #[test]
    fn spans_fill_blocks_in_order() {
        let counts = |tokens| spans_of(&[7, 2, 5], tokens).map(|s| (s.block, s.count)).collect::<Vec<_>>();
        assert_eq!(counts(16), [(7, 16)]);
        assert_eq!(counts(33), [(7, 16), (2, 16), (5, 1)]);
    }
}
