//! Matrix tiles: sixteen rows by sixteen columns of sums, sixteen pairs of bf16 a step. AMX has them as
//! registers; the emulation does the same in plain Rust, bit for bit, on every processor.
//!
//! One step adds to each sum `Σ even + Σ odd`, the sixteen products of the pairs' first halves and those of their
//! second halves, each summed in order from 0. So a chain advances by thirty-two terms at a time, and blocks of
//! the inner index begin at multiples of [`STEP`] pairs wherever a product is cut.

mod emulated;
pub use emulated::EmulatedTiles;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use amx::AmxTiles;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use amx::is_available as amx_is_available;

use crate::lanes::{LANES, Lanes};
use crate::tile::{Block, Fetch, Pair, Start, prefetch};
use std::cell::Cell;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Pairs of the inner index that a step takes.
pub(crate) const STEP: usize = 16;

/// Four tiles of sums: two by two, number `2 · row + column`.
///
/// # Safety
/// Every method needs the processor's tile unit and valid pointers: of sums sixteen rows of sixteen f32, of
/// operands sixteen rows of sixteen pairs, `stride` units of four bytes apart.
#[allow(clippy::missing_safety_doc)] // said once, for the whole trait
pub trait TileUnit: Sized {
    /// Whether there is one at all.
    const PRESENT: bool;
    /// How many times slower than AMX, about: what measures it does so much less.
    const SLOWNESS: usize = 1;
    /// Takes the unit for this thread; it is free again when the value is dropped.
    unsafe fn begin() -> Self;
    /// Sets a tile of sums to 0.
    unsafe fn zero(&mut self, tile: usize);
    /// Loads a tile of sums.
    unsafe fn load(&mut self, tile: usize, from: *const f32, stride: usize);
    /// Stores a tile of sums.
    unsafe fn store(&mut self, tile: usize, to: *mut f32, stride: usize);
    /// One step of R by P tiles of sums: rows `a[r]` with their stride, panels `b[p]` without gaps.
    unsafe fn step<const R: usize, const P: usize>(
        &mut self,
        a: [*const u32; 2],
        a_stride: [usize; 2],
        b: [*const u32; 2],
    );
    /// A step of two by two tiles without reading memory: what the unit could do at most.
    unsafe fn idle_step(&mut self);
}

/// For lanes without tiles.
pub struct NoTiles;

#[allow(clippy::undocumented_unsafe_blocks)]
impl TileUnit for NoTiles {
    const PRESENT: bool = false;
    unsafe fn begin() -> Self {
        unreachable!("these lanes have no tiles")
    }
    unsafe fn zero(&mut self, _: usize) {}
    unsafe fn load(&mut self, _: usize, _: *const f32, _: usize) {}
    unsafe fn store(&mut self, _: usize, _: *mut f32, _: usize) {}
    unsafe fn step<const R: usize, const P: usize>(
        &mut self,
        _: [*const u32; 2],
        _: [usize; 2],
        _: [*const u32; 2],
    ) {
    }
    unsafe fn idle_step(&mut self) {}
}

thread_local! {
    /// The left-hand operand's ragged ends, padded with zeros.
    static PADDED: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Computes a block of pairs in tiles.
///
/// # Safety
/// As for [`Block::run`]; `L` has tiles.
#[inline(always)]
pub(crate) unsafe fn run<L: Lanes>(block: &Block<Pair>) {
    // Taken out and put back: a closure would be compiled without the kernel's instruction set.
    let mut padded = PADDED.take();
    // SAFETY: passed on to the caller.
    unsafe {
        let left = Left::new(block, &mut padded);
        let mut tiles = Tiles::<L> { block, left: &left, unit: L::Tiles::begin() };
        let panels = block.columns.div_ceil(LANES);
        let groups = block.rows.div_ceil(2 * ROWS);
        for panel in (0..panels).step_by(2) {
            for group in 0..groups {
                let at = (2 * group, panel);
                let ahead = matches!(block.fetch, Fetch::NextPanels) && group == 0;
                match (block.rows > (2 * group + 1) * ROWS, panel + 1 < panels) {
                    (true, true) => tiles.square::<2, 2>(at, ahead),
                    (true, false) => tiles.square::<2, 1>(at, ahead),
                    (false, true) => tiles.square::<1, 2>(at, ahead),
                    (false, false) => tiles.square::<1, 1>(at, ahead),
                }
            }
        }
    }
    PADDED.set(padded);
}

/// Where the left-hand operand's tiles are: in place, or, at its ragged ends, in a padded copy.
struct Left {
    a: *const u32,
    a_row: usize,
    /// Whole tiles of rows; whole steps.
    tiles: usize,
    steps: usize,
    /// (tiles, 16, 16): the last step of whole tiles of rows, where the inner index ends within it.
    ends: *const u32,
    /// (16, ⌈inner / 16⌉ · 16): the last rows, where they are fewer than a tile's.
    last: *const u32,
    last_row: usize,
}

impl Left {
    unsafe fn new(block: &Block<Pair>, padded: &mut Vec<u32>) -> Self {
        let (tiles, steps) = (block.rows / ROWS, block.inner / STEP);
        let (rows_left, inner_left) = (block.rows % ROWS, block.inner % STEP);
        let last_row = block.inner.next_multiple_of(STEP);
        let ends = if inner_left > 0 { tiles * ROWS * STEP } else { 0 };
        padded.clear();
        padded.resize(ends + if rows_left > 0 { ROWS * last_row } else { 0 }, 0);
        debug_assert!(block.a_inner == 1, "pairs are neighbours");
        // SAFETY: the caller vouches for `rows` by `inner` pairs.
        unsafe {
            if inner_left > 0 {
                for (row, to) in padded[..ends].chunks_exact_mut(STEP).enumerate() {
                    let from = block.a.add(row * block.a_row + steps * STEP);
                    std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), inner_left);
                }
            }
            for (row, to) in padded[ends..].chunks_exact_mut(last_row.max(1)).take(rows_left).enumerate() {
                let from = block.a.add((tiles * ROWS + row) * block.a_row);
                std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), block.inner);
            }
            let (ends, last) = (padded.as_ptr(), padded[ends..].as_ptr());
            Self { a: block.a, a_row: block.a_row, tiles, steps, ends, last, last_row }
        }
    }

    /// A tile's first pair and the distance of its rows.
    #[inline(always)]
    unsafe fn tile(&self, tile: usize, step: usize) -> (*const u32, usize) {
        // SAFETY: within the block or its padded copy.
        unsafe {
            if tile >= self.tiles {
                (self.last.add(step * STEP), self.last_row)
            } else if step >= self.steps {
                (self.ends.add(tile * ROWS * STEP), STEP)
            } else {
                (self.a.add(tile * ROWS * self.a_row + step * STEP), self.a_row)
            }
        }
    }
}

struct Tiles<'a, L: Lanes> {
    block: &'a Block<Pair>,
    left: &'a Left,
    unit: L::Tiles,
}

impl<L: Lanes> Tiles<'_, L> {
    /// R by P tiles of sums, from tile of rows and panel `(row, panel)` on.
    #[inline(always)]
    unsafe fn square<const R: usize, const P: usize>(&mut self, (row, panel): (usize, usize), ahead: bool) {
        let block = self.block;
        // SAFETY: the caller of `run` vouches for the block's extents; ragged edges go through copies.
        unsafe {
            for r in 0..R {
                for p in 0..P {
                    self.begin(row + r, panel + p, 2 * r + p);
                }
            }
            let b = block.b.cast::<u32>().add(panel * block.b_panel);
            let units = STEP * LANES;
            let (whole, rest) = (block.inner / STEP, block.inner % STEP);
            debug_assert!(block.b_inner == LANES, "a panel has no gaps");
            for step in 0..whole {
                if ahead {
                    for line in 0..STEP * P {
                        let (p, line) = (line / STEP, line % STEP);
                        let next = step * units + line * LANES + (p + P) * block.b_panel;
                        prefetch(b.wrapping_add(next));
                    }
                }
                let right = std::array::from_fn(|p| b.wrapping_add(p * block.b_panel + step * units));
                self.step::<R, P>(row, step, right);
            }
            if rest > 0 {
                let mut ends = [[0u32; STEP * LANES]; 2];
                for (p, end) in ends.iter_mut().enumerate().take(P) {
                    let from = b.add(p * block.b_panel + whole * units);
                    std::ptr::copy_nonoverlapping(from, end.as_mut_ptr(), rest * LANES);
                }
                self.step::<R, P>(row, whole, [ends[0].as_ptr(), ends[1].as_ptr()]);
            }
            for r in 0..R {
                for p in 0..P {
                    self.finish(row + r, panel + p, 2 * r + p);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const P: usize>(&mut self, row: usize, step: usize, b: [*const u32; 2]) {
        // SAFETY: as for `square`.
        unsafe {
            let (first, stride) = self.left.tile(row, step);
            let (second, second_stride) =
                if R == 2 { self.left.tile(row + 1, step) } else { (first, stride) };
            self.unit.step::<R, P>([first, second], [stride, second_stride], b);
        }
    }

    /// Rows and columns of a tile that belong to the block.
    #[inline(always)]
    fn used(&self, row: usize, panel: usize) -> (usize, usize) {
        let (rows, columns) = (self.block.rows - row * ROWS, self.block.columns - panel * LANES);
        (rows.min(ROWS), columns.min(LANES))
    }

    #[inline(always)]
    unsafe fn begin(&mut self, row: usize, panel: usize, tile: usize) {
        let block = self.block;
        // SAFETY: as for `square`.
        unsafe {
            let mut edge = [[0f32; LANES]; ROWS];
            match block.start {
                Start::Zero => self.unit.zero(tile),
                Start::Bias(bias) => {
                    let bias = bias.add(panel * LANES).cast::<[f32; LANES]>().read_unaligned();
                    edge.fill(bias);
                    self.unit.load(tile, edge.as_ptr().cast(), LANES);
                }
                Start::Output => {
                    let c = block.c.add(row * ROWS * block.c_row + panel * LANES);
                    let (rows, columns) = self.used(row, panel);
                    if (rows, columns) == (ROWS, LANES) {
                        self.unit.load(tile, c, block.c_row);
                        return;
                    }
                    for (i, edge) in edge.iter_mut().enumerate().take(rows) {
                        std::ptr::copy_nonoverlapping(c.add(i * block.c_row), edge.as_mut_ptr(), columns);
                    }
                    self.unit.load(tile, edge.as_ptr().cast(), LANES);
                }
            }
        }
    }

    /// Stores a tile, the side path's terms added.
    #[inline(always)]
    unsafe fn finish(&mut self, row: usize, panel: usize, tile: usize) {
        let block = self.block;
        // SAFETY: as for `square`.
        unsafe {
            let c = block.c.add(row * ROWS * block.c_row + panel * LANES);
            let (rows, columns) = self.used(row, panel);
            if (rows, columns) == (ROWS, LANES) && block.side.is_none() {
                self.unit.store(tile, c, block.c_row);
                return;
            }
            let mut sums = [[0f32; LANES]; ROWS];
            self.unit.store(tile, sums.as_mut_ptr().cast(), LANES);
            for (i, sums) in sums.iter_mut().enumerate().take(rows) {
                if let Some(side) = &block.side {
                    let z = side.z.add((row * ROWS + i) * side.z_row);
                    let mut sum = L::load(sums.as_ptr());
                    for s in 0..side.rank {
                        let b = L::load(side.panels.add((panel * side.rank + s) * LANES));
                        sum = L::splat(*z.add(s)).fma(b, sum);
                    }
                    sum.store(sums.as_mut_ptr());
                }
                std::ptr::copy_nonoverlapping(sums.as_ptr(), c.add(i * block.c_row), columns);
            }
        }
    }
}
