//! The KV cache of one layer: blocks of sixteen tokens, so that sixteen scores come out of one pass over a
//! block. Keys are f32; values are too, or are rounded to bf16 as they are written. Who owns which block is the caller's affair.

use crate::account::Operation;
use crate::buffer::Buffer;
use crate::kernel::Cpu;
use crate::lanes::LANES;
use crate::operand::bf16_bits;
use crate::packed::{Precision, SendPointer};

/// Tokens a block.
pub const BLOCK_TOKENS: usize = LANES;

/// The first `count` tokens of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Number of the block.
    pub block: u32,
    /// Tokens used, 1 ..= 16.
    pub count: u32,
}

/// Keys and values of one layer.
pub struct KvLayer {
    heads: usize,
    size: usize,
    blocks: usize,
    /// `[block][head][d][16 tokens]`
    keys: Buffer<f32>,
    values: Values,
}

enum Values {
    /// `[block][head][16 tokens][d, padded to 16]`
    F32(Buffer<f32>),
    /// `[block][head][8][d, padded to 16]`: neighbouring tokens are a pair of bf16, the first in the low half.
    Bf16(Buffer<u32>),
}

/// Values of one head of a block, as they are held.
#[derive(Clone, Copy)]
pub(super) enum Held<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u32]),
}

/// Units of (keys, values) of one head of a block.
fn units(values: Precision, size: usize) -> (usize, usize) {
    let padded = size.next_multiple_of(LANES) * BLOCK_TOKENS;
    (size * BLOCK_TOKENS, if values == Precision::Bf16 { padded / 2 } else { padded })
}

impl KvLayer {
    /// Room for so many blocks, with values in this precision; keys are f32.
    pub fn new(values: Precision, blocks: usize, heads: usize, size: usize) -> Self {
        let (keys, each) = units(values, size);
        let each = blocks * heads * each;
        Self {
            heads,
            size,
            blocks,
            keys: Buffer::zeroed_in_huge_pages(blocks * heads * keys),
            values: match values {
                Precision::F32 => Values::F32(Buffer::zeroed_in_huge_pages(each)),
                Precision::Bf16 => Values::Bf16(Buffer::zeroed_in_huge_pages(each)),
            },
        }
    }

    /// Bytes that one block of one layer takes.
    pub fn block_bytes(values: Precision, heads: usize, size: usize) -> usize {
        let (keys, values) = units(values, size);
        heads * (keys + values) * size_of::<u32>()
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// How values are held.
    pub fn precision(&self) -> Precision {
        match self.values {
            Values::F32(_) => Precision::F32,
            Values::Bf16(_) => Precision::Bf16,
        }
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

    /// Values of one head of a block.
    pub(super) fn values(&self, block: u32, head: usize) -> Held<'_> {
        let len = units(self.precision(), self.size).1;
        match self.values_from(block, head) {
            Held::F32(values) => Held::F32(&values[..len]),
            Held::Bf16(values) => Held::Bf16(&values[..len]),
        }
    }

    /// The same with all that follows it in the store, for runs of blocks: [`KvLayer::value_strides`] apart.
    pub(super) fn values_from(&self, block: u32, head: usize) -> Held<'_> {
        let start = (block as usize * self.heads + head) * units(self.precision(), self.size).1;
        match &self.values {
            Values::F32(values) => Held::F32(&values[start..]),
            Values::Bf16(values) => Held::Bf16(&values[start..]),
        }
    }

    /// Units from one head's values of a block to the next head's, and to the next block's.
    pub(super) fn value_strides(&self) -> (usize, usize) {
        let head = units(self.precision(), self.size).1;
        (head, self.heads * head)
    }

    /// Values of one head of a block turned round, `[d][16 tokens]`, widened.
    pub(super) fn values_by_column(&self, block: u32, head: usize, out: &mut [f32]) {
        let padded = self.padded();
        match self.values(block, head) {
            Held::F32(values) => {
                for (token, row) in values.chunks_exact(padded).enumerate() {
                    for (i, &x) in row[..self.size].iter().enumerate() {
                        out[i * LANES + token] = x;
                    }
                }
            }
            Held::Bf16(values) => {
                for (pair, row) in values.chunks_exact(padded).enumerate() {
                    for (i, &unit) in row[..self.size].iter().enumerate() {
                        let to = &mut out[i * LANES + 2 * pair..][..2];
                        (to[0], to[1]) = (f32::from_bits(unit << 16), f32::from_bits(unit & 0xFFFF_0000));
                    }
                }
            }
        }
    }

    /// Puts the keys and values (T, heads · d) of T tokens at their places (block, offset), which differ.
    ///
    /// # Panics
    /// If a length does not fit or a place is outside the store.
    pub fn write(&mut self, cpu: &Cpu, places: &[(u32, u32)], keys: &[f32], values: &[f32]) {
        let _clock = cpu.clock(Operation::KvCache);
        let (heads, size, padded) = (self.heads, self.size, self.padded());
        let width = heads * size;
        assert!(keys.len() == places.len() * width && values.len() == keys.len());
        let inside =
            |&(block, at): &(u32, u32)| (block as usize) < self.blocks && (at as usize) < BLOCK_TOKENS;
        assert!(places.iter().all(inside), "every place lies in the store of {} blocks", self.blocks);
        let to_keys = SendPointer(self.keys.as_mut_ptr());
        let to_values = match &mut self.values {
            Values::F32(values) => Target::F32(SendPointer(values.as_mut_ptr())),
            Values::Bf16(values) => Target::Bf16(SendPointer(values.as_mut_ptr().cast())),
        };
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
                        to_values.write(block * heads + head, at, padded, &values[from..][..size]);
                    }
                }
            }
        });
    }
}

/// Where values go.
#[derive(Clone, Copy)]
enum Target {
    F32(SendPointer<f32>),
    /// As halves of units: two tokens of a pair may be written by different threads.
    Bf16(SendPointer<u16>),
}

impl Target {
    /// One token's value (d) of one head of a block: token `at` of place `index` among all blocks' heads.
    ///
    /// # Safety
    /// The place lies in the store, and nobody else writes it.
    unsafe fn write(self, index: usize, at: usize, padded: usize, value: &[f32]) {
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                Self::F32(values) => {
                    let to = values.get().add((index * BLOCK_TOKENS + at) * padded);
                    std::ptr::copy_nonoverlapping(value.as_ptr(), to, value.len());
                }
                Self::Bf16(values) => {
                    let half = if cfg!(target_endian = "little") { at % 2 } else { 1 - at % 2 };
                    let to = values.get().add((index * BLOCK_TOKENS + at - at % 2) * padded + half);
                    for (i, &x) in value.iter().enumerate() {
                        *to.add(2 * i) = bf16_bits(x) as u16;
                    }
                }
            }
        }
    }
}
