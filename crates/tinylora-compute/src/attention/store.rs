//! The KV cache of one layer: blocks of sixteen tokens, so that sixteen scores come out of one pass over a
//! block. Keys and values are f32, or are rounded to 16 bits as they are written: keys, whose errors the exponential multiplies, to
//! half precision, which has three more binary digits than bf16; values, whose errors are averaged, to bf16. Who owns which block is
//! the caller's affair.

use crate::account::Operation;
use crate::buffer::Buffer;
use crate::kernel::Cpu;
use crate::lanes::LANES;
use crate::packed::{Precision, SendPointer};
use crate::rounding::{bf16_bits, f16_bits};
use crate::tile::Half;

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
    tokens: Tokens,
}

/// Keys are `[block][head][d][16 tokens]`.
enum Tokens {
    F32 {
        keys: Buffer<f32>,
        /// `[block][head][16 tokens][d, padded to 16]`
        values: Buffer<f32>,
    },
    In16Bits {
        /// Half precision.
        keys: Buffer<u16>,
        /// `[block][head][8][d, padded to 16]`: neighbouring tokens are a pair of bf16, the first in the low half.
        values: Buffer<u32>,
    },
}

/// Keys of one head of a block, as they are held.
#[derive(Clone, Copy)]
pub(super) enum Keys<'a> {
    F32(&'a [f32]),
    F16(&'a [Half]),
}

/// Values of one head of a block, as they are held.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u32]),
}

/// Units of values of one head of a block.
fn value_units(precision: Precision, size: usize) -> usize {
    let padded = size.next_multiple_of(LANES) * BLOCK_TOKENS;
    if precision == Precision::Bf16 { padded / 2 } else { padded }
}

impl KvLayer {
    /// Room for so many blocks; with [`Precision::Bf16`] in 16 bits.
    pub fn new(precision: Precision, blocks: usize, heads: usize, size: usize) -> Self {
        let keys = blocks * heads * size * BLOCK_TOKENS;
        let values = blocks * heads * value_units(precision, size);
        let tokens = match precision {
            Precision::F32 => Tokens::F32 {
                keys: Buffer::zeroed_in_huge_pages(keys),
                values: Buffer::zeroed_in_huge_pages(values),
            },
            Precision::Bf16 => Tokens::In16Bits {
                keys: Buffer::zeroed_in_huge_pages(keys),
                values: Buffer::zeroed_in_huge_pages(values),
            },
        };
        Self { heads, size, blocks, tokens }
    }

    /// Bytes that one block of one layer takes.
    pub fn block_bytes(precision: Precision, heads: usize, size: usize) -> usize {
        let key = if precision == Precision::Bf16 { size_of::<u16>() } else { size_of::<f32>() };
        heads * (size * BLOCK_TOKENS * key + value_units(precision, size) * size_of::<u32>())
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// How keys and values are held.
    pub fn precision(&self) -> Precision {
        match self.tokens {
            Tokens::F32 { .. } => Precision::F32,
            Tokens::In16Bits { .. } => Precision::Bf16,
        }
    }

    /// d padded to whole lanes.
    pub(super) fn padded(&self) -> usize {
        self.size.next_multiple_of(LANES)
    }

    /// `[d][16]` of one head of a block, with all that follows it in the store, for runs of blocks at [`KvLayer::block_stride`].
    pub(super) fn keys_from(&self, block: u32, head: usize) -> Keys<'_> {
        let start = (block as usize * self.heads + head) * self.size * BLOCK_TOKENS;
        match &self.tokens {
            Tokens::F32 { keys, .. } => Keys::F32(&keys[start..]),
            Tokens::In16Bits { keys, .. } => Keys::F16(Half::of(&keys[start..])),
        }
    }

    /// Elements from a block's keys of one head to the next block's.
    pub(super) fn block_stride(&self) -> usize {
        self.heads * self.size * BLOCK_TOKENS
    }

    /// Values of one head of a block, with all that follows it in the store, for runs of blocks: [`KvLayer::value_strides`] apart.
    pub(super) fn values_from(&self, block: u32, head: usize) -> Values<'_> {
        let start = (block as usize * self.heads + head) * value_units(self.precision(), self.size);
        match &self.tokens {
            Tokens::F32 { values, .. } => Values::F32(&values[start..]),
            Tokens::In16Bits { values, .. } => Values::Bf16(&values[start..]),
        }
    }

    /// Units from one head's values of a block to the next head's, and to the next block's.
    pub(super) fn value_strides(&self) -> (usize, usize) {
        let head = value_units(self.precision(), self.size);
        (head, self.heads * head)
    }

    /// Keys of one head of a block turned round, `[16 tokens][d, padded to 16]`, widened.
    pub(super) fn keys_by_row(&self, block: u32, head: usize, out: &mut [f32]) {
        let padded = self.padded();
        let mut put = |i: usize, token: usize, x: f32| out[token * padded + i] = x;
        match self.keys_from(block, head) {
            Keys::F32(keys) => {
                for (i, lane) in keys.chunks_exact(LANES).take(self.size).enumerate() {
                    lane.iter().enumerate().for_each(|(token, &x)| put(i, token, x));
                }
            }
            Keys::F16(keys) => {
                for (i, lane) in keys.chunks_exact(LANES).take(self.size).enumerate() {
                    lane.iter().enumerate().for_each(|(token, x)| put(i, token, x.value()));
                }
            }
        }
    }

    /// Values of one head of a block turned round, `[d][16 tokens]`, widened.
    pub(super) fn values_by_column(&self, block: u32, head: usize, out: &mut [f32]) {
        let padded = self.padded();
        match self.values_from(block, head) {
            Values::F32(values) => {
                for (token, row) in values.chunks_exact(padded).take(BLOCK_TOKENS).enumerate() {
                    for (i, &x) in row[..self.size].iter().enumerate() {
                        out[i * LANES + token] = x;
                    }
                }
            }
            Values::Bf16(values) => {
                for (pair, row) in values.chunks_exact(padded).take(BLOCK_TOKENS / 2).enumerate() {
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
        let to = match &mut self.tokens {
            Tokens::F32 { keys, values } => {
                Target::F32(SendPointer(keys.as_mut_ptr()), SendPointer(values.as_mut_ptr()))
            }
            Tokens::In16Bits { keys, values } => {
                Target::In16Bits(SendPointer(keys.as_mut_ptr()), SendPointer(values.as_mut_ptr().cast()))
            }
        };
        const ROWS: usize = 32;
        cpu.parallel(places.len().div_ceil(ROWS), |task| {
            for row in task * ROWS..(task * ROWS + ROWS).min(places.len()) {
                let (block, at) = (places[row].0 as usize, places[row].1 as usize);
                for head in 0..heads {
                    let from = row * width + head * size;
                    let (key, value) = (&keys[from..][..size], &values[from..][..size]);
                    // SAFETY: places were checked and differ, so no two tasks write the same element.
                    unsafe { to.write((block * heads + head, at), padded, (key, value)) };
                }
            }
        });
    }
}

/// Where keys and values go.
#[derive(Clone, Copy)]
enum Target {
    F32(SendPointer<f32>, SendPointer<f32>),
    /// Values as halves of units: two tokens of a pair may be written by different threads.
    In16Bits(SendPointer<u16>, SendPointer<u16>),
}

impl Target {
    /// One token's key and value (d) of one head of a block: token `at` of place `index` among all blocks' heads.
    ///
    /// # Safety
    /// The place lies in the store, and nobody else writes it.
    unsafe fn write(self, (index, at): (usize, usize), padded: usize, (key, value): (&[f32], &[f32])) {
        let first_key = index * key.len() * BLOCK_TOKENS + at;
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                Self::F32(keys, values) => {
                    for (i, &x) in key.iter().enumerate() {
                        *keys.get().add(first_key + i * BLOCK_TOKENS) = x;
                    }
                    let to = values.get().add((index * BLOCK_TOKENS + at) * padded);
                    std::ptr::copy_nonoverlapping(value.as_ptr(), to, value.len());
                }
                Self::In16Bits(keys, values) => {
                    let half = if cfg!(target_endian = "little") { at % 2 } else { 1 - at % 2 };
                    let first_value = (index * BLOCK_TOKENS + at - at % 2) * padded + half;
                    for (i, (&k, &v)) in key.iter().zip(value).enumerate() {
                        *keys.get().add(first_key + i * BLOCK_TOKENS) = f16_bits(k);
                        *values.get().add(first_value + 2 * i) = bf16_bits(v) as u16;
                    }
                }
            }
        }
    }
}
