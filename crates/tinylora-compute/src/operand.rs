//! The left-hand operand of products with frozen matrices, in the form that the kernel multiplies: f32, or, where
//! the kernel has bf16 products and the matrix is bf16, pairs of bf16 rounded to nearest even.

use crate::kernel::{Cpu, Kernel, Simd, dispatch};
use crate::lanes::{LANES, Lanes};
use crate::packed::{PackedMatrix, Precision, SendPointer};
use crate::recycled::Recycled;
use crate::rounding::bf16_bits;
use crate::tiles::{self, STEP, TileUnit};

/// Rows a rounding task: whole tiles.
const ROWS: usize = 2 * tiles::ROWS;

/// Rows x (M, K).
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    /// (M, K)
    pub x: &'a [f32],
    /// Neighbours in one unit, the first in the low half, 0 after an odd end. Empty, where f32 is read. Else (M, ⌈K/2⌉), or
    /// for matrix tiles `[⌈M/16⌉][⌈K/32⌉][16 rows][16 pairs]`, 0 after a row's end, whatever it is after the last row.
    pub pairs: &'a [u32],
    /// K
    pub inner: usize,
    /// Whether pairs lie in tiles.
    in_tiles: bool,
}

impl<'a> Operand<'a> {
    /// x, with what [`pairs_for`] gave for it and the kernel.
    pub fn new(cpu: &Cpu, x: &'a [f32], pairs: &'a [u32], inner: usize) -> Self {
        Self { x, pairs, inner, in_tiles: cpu.kernel().has_tiles() }
    }

    /// Rows `first .. first + count` alone. They may begin within a tile, and then be one tile's at most.
    pub fn rows(self, first: usize, count: usize) -> Self {
        let pairs = if self.pairs.is_empty() { self.pairs } else { &self.pairs[self.first_pair(first)..] };
        Self { x: &self.x[first * self.inner..][..count * self.inner], pairs, ..self }
    }

    fn first_pair(&self, row: usize) -> usize {
        let width = row_of_pairs(self.in_tiles, self.inner);
        if !self.in_tiles {
            return row * width;
        }
        let (tile, within) = (row / tiles::ROWS, row % tiles::ROWS);
        tile * tiles::ROWS * width + within * STEP
    }
}

/// Pairs of a row of K numbers, as they are held.
fn row_of_pairs(in_tiles: bool, inner: usize) -> usize {
    if in_tiles { inner.div_ceil(2).next_multiple_of(STEP) } else { inner.div_ceil(2) }
}

/// Whether products of this kernel with this matrix read pairs.
pub(crate) fn reads_pairs(kernel: Kernel, matrix: &PackedMatrix) -> bool {
    kernel.rounds_activations() && matrix.precision() == Precision::Bf16
}

/// The pairs that products with `matrix` read of x (M, K): for [`Operand::pairs`]. Empty, where they read f32.
pub(crate) fn pairs_for(cpu: &Cpu, matrix: &PackedMatrix, x: &[f32], inner: usize) -> Recycled<u32> {
    if !reads_pairs(cpu.kernel(), matrix) || inner == 0 {
        return Recycled::empty();
    }
    let in_tiles = cpu.kernel().has_tiles();
    let (rows, width) = (x.len() / inner, row_of_pairs(in_tiles, inner));
    // A tile may be read from any of its rows on, so the last one has another behind it.
    let held = if in_tiles {
        (rows.next_multiple_of(tiles::ROWS) * width) + tiles::ROWS * STEP
    } else {
        rows * width
    };
    let mut pairs = Recycled::<u32>::arbitrary(held);
    let to = SendPointer(pairs.as_mut_ptr());
    cpu.parallel(rows.div_ceil(ROWS), |task| {
        let first = task * ROWS;
        let count = ROWS.min(rows - first);
        let held = if in_tiles { count.next_multiple_of(tiles::ROWS) } else { count } * width;
        // SAFETY: each task has its own rows, which are whole tiles.
        let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(first * width), held) };
        let x = &x[first * inner..][..count * inner];
        dispatch(cpu.kernel(), Round { x, inner, to });
    });
    pairs
}

/// Units of M rows of K numbers in tiles. A tile may be read from any of its rows on, so the last one has another behind it.
pub(crate) fn held_in_tiles(rows: usize, inner: usize) -> usize {
    rows.next_multiple_of(tiles::ROWS) * row_of_pairs(true, inner) + tiles::ROWS * STEP
}

/// Rounds rows x (M, K) to pairs, as the kernel reads them.
pub(crate) struct Round<'a> {
    pub x: &'a [f32],
    pub inner: usize,
    pub to: &'a mut [u32],
}

impl Simd for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let in_tiles = L::Tiles::PRESENT;
        let width = row_of_pairs(in_tiles, self.inner);
        let step = if in_tiles { tiles::ROWS * STEP } else { STEP };
        for (row, x) in self.x.chunks_exact(self.inner).enumerate() {
            let start = if in_tiles {
                row / tiles::ROWS * tiles::ROWS * width + row % tiles::ROWS * STEP
            } else {
                row * width
            };
            let to = &mut self.to[start..];
            let (whole, rest) = x.as_chunks::<{ 2 * LANES }>();
            for (at, x) in whole.iter().enumerate() {
                // SAFETY: thirty-two numbers, and room for their sixteen pairs.
                unsafe { L::round_pairs(x.as_ptr(), to[at * step..][..STEP].as_mut_ptr()) };
            }
            if !rest.is_empty() {
                let to = &mut to[whole.len() * step..];
                let to = &mut to[..if in_tiles { STEP } else { rest.len().div_ceil(2) }];
                to.fill(0);
                for (to, pair) in to.iter_mut().zip(rest.chunks(2)) {
                    *to = bf16_bits(pair[0]) | bf16_bits(pair.get(1).copied().unwrap_or(0.0)) << 16;
                }
            }
        }
    }
}
