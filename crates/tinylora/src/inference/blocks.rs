//! Who owns which KV block: a free list with counts of owners, since samples share their prompt's blocks.

use tinylora_compute::attention::{BLOCK_TOKENS, Span};

/// The blocks of one KV cache.
#[derive(Debug)]
pub struct BlockPool {
    owners: Vec<u32>,
    free: Vec<u32>,
    most_used: usize,
}

impl BlockPool {
    /// All of `blocks` free.
    pub fn new(blocks: usize) -> Self {
        // Low numbers first, so that a small run touches little memory.
        Self { owners: vec![0; blocks], free: (0..blocks as u32).rev().collect(), most_used: 0 }
    }

    /// Number of free blocks.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// The largest number of blocks that were in use at once.
    pub fn most_used(&self) -> usize {
        self.most_used
    }

    /// Takes a free block, with one owner.
    pub fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.owners[block as usize] = 1;
        self.most_used = self.most_used.max(self.owners.len() - self.free.len());
        Some(block)
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
            self.free.push(block);
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
        let mut pool = BlockPool::new(3);
        let taken: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((taken.len(), pool.free(), pool.most_used()), (3, 0, 3));
        taken.iter().for_each(|&block| pool.release(block));
        assert_eq!(pool.free(), 3);
    }

    #[test]
    fn spans_fill_blocks_in_order() {
        let counts = |tokens| spans_of(&[7, 2, 5], tokens).map(|s| (s.block, s.count)).collect::<Vec<_>>();
        assert_eq!(counts(16), [(7, 16)]);
        assert_eq!(counts(33), [(7, 16), (2, 16), (5, 1)]);
    }
}
