//! The KV cache of one layer: blocks of sixteen tokens, so that sixteen scores come out of one pass over a
//! block. Who owns which block is the caller's affair.

use crate::buffer::Buffer;
use crate::kernel::Cpu;
use crate::lanes::LANES;
use crate::packed::SendPointer;

/// Tokens a block.
pub const BLOCK_TOKENS: usize = LANES;

/// The first `count` tokens of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Number of the block.
    pub block: u32,
    /// Tokens used, 1 ..= 16.
    pub count: u32,
}

/// Keys and values of one layer, f32.
pub struct KvLayer {
    heads: usize,
    size: usize,
    blocks: usize,
    /// `[block][head][d][16 tokens]`
    keys: Buffer<f32>,
    /// `[block][head][16 tokens][d, padded to 16]`
    values: Buffer<f32>,
}

impl KvLayer {
    /// Room for so many blocks.
    pub fn new(blocks: usize, heads: usize, size: usize) -> Self {
        Self {
            heads,
            size,
            blocks,
            keys: Buffer::zeroed(blocks * heads * size * BLOCK_TOKENS),
            values: Buffer::zeroed(blocks * heads * size.next_multiple_of(LANES) * BLOCK_TOKENS),
        }
    }

    /// Bytes that one block of one layer takes.
    pub fn block_bytes(heads: usize, size: usize) -> usize {
        heads * (size + size.next_multiple_of(LANES)) * BLOCK_TOKENS * size_of::<f32>()
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// d padded to whole lanes.
    pub(super) fn padded(&self) -> usize {
        self.size.next_multiple_of(LANES)
    }

    /// `[d][16]` of one head of a block.
    pub(super) fn keys(&self, block: u32, head: usize) -> &[f32] {
        let len = self.size * BLOCK_TOKENS;
        &self.keys[(block as usize * self.heads + head) * len..][..len]
    }

    /// The same with all that follows it in the store, for runs of blocks at [`KvLayer::block_stride`].
    pub(super) fn keys_from(&self, block: u32, head: usize) -> &[f32] {
        &self.keys[(block as usize * self.heads + head) * self.size * BLOCK_TOKENS..]
    }

    /// Elements from a block's keys of one head to the next block's.
    pub(super) fn block_stride(&self) -> usize {
        self.heads * self.size * BLOCK_TOKENS
    }

    /// `[16][padded d]` of one head of a block.
    pub(super) fn values(&self, block: u32, head: usize) -> &[f32] {
        let len = self.padded() * BLOCK_TOKENS;
        &self.values[(block as usize * self.heads + head) * len..][..len]
    }

    /// Puts the keys and values (T, heads · d) of T tokens at their places (block, offset), which differ.
    ///
    /// # Panics
    /// If a length does not fit or a place is outside the store.
    pub fn write(&mut self, cpu: &Cpu, places: &[(u32, u32)], keys: &[f32], values: &[f32]) {
        let (heads, size, padded) = (self.heads, self.size, self.padded());
        let width = heads * size;
        assert!(keys.len() == places.len() * width && values.len() == keys.len());
        let inside =
            |&(block, at): &(u32, u32)| (block as usize) < self.blocks && (at as usize) < BLOCK_TOKENS;
        assert!(places.iter().all(inside), "every place lies in the store of {} blocks", self.blocks);
        let (to_keys, to_values) =
            (SendPointer(self.keys.as_mut_ptr()), SendPointer(self.values.as_mut_ptr()));
        const ROWS: usize = 32;
        cpu.parallel(places.len().div_ceil(ROWS), |task| {
            for row in task * ROWS..(task * ROWS + ROWS).min(places.len()) {
                let (block, at) = (places[row].0 as usize, places[row].1 as usize);
                for head in 0..heads {
                    let from = row * width + head * size;
                    // SAFETY: places were checked and differ, so no two tasks write the same element.
                    unsafe {
                        let key = to_keys.get().add((block * heads + head) * size * BLOCK_TOKENS + at);
                        for (i, &x) in keys[from..][..size].iter().enumerate() {
                            *key.add(i * BLOCK_TOKENS) = x;
                        }
                        let value =
                            to_values.get().add(((block * heads + head) * BLOCK_TOKENS + at) * padded);
                        std::ptr::copy_nonoverlapping(values[from..].as_ptr(), value, size);
                    }
                }
            }
        });
    }
}
