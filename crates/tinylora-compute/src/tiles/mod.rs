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
use crate::tile::{Block, Jumps, Pair, Start};

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Pairs of the inner index that a step takes.
pub(crate) const STEP: usize = 16;

/// Four tiles of sums: two by two, number `2 · row + column`.
///
/// # Safety
/// Every method needs the processor's tile unit and valid pointers: of sums sixteen rows of sixteen f32, `stride`
/// apart, of operands sixteen rows of sixteen pairs.
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
    /// One step of R by P tiles of sums: rows `a[r]` and panels `b[p]`, all without gaps.
    unsafe fn step<const R: usize, const P: usize>(&mut self, a: [*const u32; 2], b: [*const u32; 2]);
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
    unsafe fn step<const R: usize, const P: usize>(&mut self, _: [*const u32; 2], _: [*const u32; 2]) {}
    unsafe fn idle_step(&mut self) {}
}

/// Computes a block of pairs in tiles. The left-hand operand lies in tiles, see [`crate::operand::Operand`]. Nothing is fetched
/// ahead: panels are read from end to end, which the processor foresees, and asking for lines took a tenth of the time.
///
/// # Safety
/// As for [`Block::run`]; `L` has tiles, and of the left-hand operand whole tiles can be read.
#[inline(always)]
pub(crate) unsafe fn run<L: Lanes>(block: &Block<Pair>) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut tiles = Tiles::<L> { block, unit: L::Tiles::begin() };
        let panels = block.columns.div_ceil(LANES);
        let groups = block.rows.div_ceil(2 * ROWS);
        for panel in (0..panels).step_by(2) {
            for group in 0..groups {
                let at = (2 * group, panel);
                match (block.rows > (2 * group + 1) * ROWS, panel + 1 < panels) {
                    (true, true) => tiles.square::<2, 2>(at),
                    (true, false) => tiles.square::<2, 1>(at),
                    (false, true) => tiles.square::<1, 2>(at),
                    (false, false) => tiles.square::<1, 1>(at),
                }
            }
        }
    }
}

struct Tiles<'a, L: Lanes> {
    block: &'a Block<Pair>,
    unit: L::Tiles,
}

/// What begins on a cache line: a row of a tile across two of them takes twice as long.
#[repr(align(64))]
struct Lines<T>(T);

/// Terms of a side path that are added from registers.
const SIDE_REGISTERS: usize = 4;

impl<L: Lanes> Tiles<'_, L> {
    /// R by P tiles of sums, from tile of rows and panel `(row, panel)` on.
    #[inline(always)]
    unsafe fn square<const R: usize, const P: usize>(&mut self, (row, panel): (usize, usize)) {
        let block = self.block;
        // SAFETY: the caller of `run` vouches for the block's extents; ragged edges go through copies.
        unsafe {
            for r in 0..R {
                for p in 0..P {
                    self.begin(row + r, panel + p, 2 * r + p);
                }
            }
            let units = STEP * LANES;
            let rows = ROWS * block.a_row;
            let a = [block.a.add(row * rows), block.a.wrapping_add((row + R - 1) * rows)];
            let b = block.b.cast::<u32>().add(panel * block.b_panel);
            let b = [b, b.wrapping_add((P - 1) * block.b_panel)];
            let (whole, rest) = (block.inner / STEP, block.inner % STEP);
            debug_assert!(
                block.b_inner == LANES && block.a_inner == 1 && block.jumps == Jumps::NONE,
                "neither operand has gaps"
            );
            let step = |from: [*const u32; 2], at: usize| from.map(|from| from.wrapping_add(at * units));
            for at in 0..whole {
                self.unit.step::<R, P>(step(a, at), step(b, at));
            }
            if rest > 0 {
                let mut ends = Lines([[0u32; STEP * LANES]; 2]);
                let ends = &mut ends.0;
                for (from, end) in step(b, whole).into_iter().zip(&mut *ends).take(P) {
                    std::ptr::copy_nonoverlapping(from, end.as_mut_ptr(), rest * LANES);
                }
                self.unit.step::<R, P>(step(a, whole), [ends[0].as_ptr(), ends[1].as_ptr()]);
            }
            for r in 0..R {
                for p in 0..P {
                    self.finish(row + r, panel + p, 2 * r + p);
                }
            }
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
            match block.start {
                Start::Zero => self.unit.zero(tile),
                Start::Bias(bias) => {
                    let bias = bias.add(panel * LANES).cast::<[f32; LANES]>().read_unaligned();
                    let edge = Lines([bias; ROWS]);
                    self.unit.load(tile, edge.0.as_ptr().cast(), LANES);
                }
                Start::Output => {
                    let c = block.c.add(row * ROWS * block.c_row + panel * LANES);
                    let (rows, columns) = self.used(row, panel);
                    if (rows, columns) == (ROWS, LANES) {
                        self.unit.load(tile, c, block.c_row);
                        return;
                    }
                    let mut edge = Lines([[0f32; LANES]; ROWS]);
                    for (i, edge) in edge.0.iter_mut().enumerate().take(rows) {
                        std::ptr::copy_nonoverlapping(c.add(i * block.c_row), edge.as_mut_ptr(), columns);
                    }
                    self.unit.load(tile, edge.0.as_ptr().cast(), LANES);
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
            let mut sums = std::mem::MaybeUninit::<Lines<[[f32; LANES]; ROWS]>>::uninit();
            self.unit.store(tile, sums.as_mut_ptr().cast(), LANES);
            let sums = &mut sums.assume_init_mut().0[..rows];
            if let Some(side) = &block.side {
                let z = side.z.add(row * ROWS * side.z_row);
                let panels = side.panels.add(panel * side.rank * LANES);
                for first in (0..side.rank).step_by(SIDE_REGISTERS) {
                    let count = (side.rank - first).min(SIDE_REGISTERS);
                    let (z, panels) = (z.add(first), panels.add(first * LANES));
                    match count {
                        1 => add_side::<L, 1>(sums, (z, side.z_row), panels),
                        2 => add_side::<L, 2>(sums, (z, side.z_row), panels),
                        3 => add_side::<L, 3>(sums, (z, side.z_row), panels),
                        _ => add_side::<L, SIDE_REGISTERS>(sums, (z, side.z_row), panels),
                    }
                }
            }
            if columns == LANES {
                for (i, sums) in sums.iter().enumerate() {
                    L::load(sums.as_ptr()).store(c.add(i * block.c_row));
                }
            } else {
                for (i, sums) in sums.iter().enumerate() {
                    std::ptr::copy_nonoverlapping(sums.as_ptr(), c.add(i * block.c_row), columns);
                }
            }
        }
    }
}

/// `sums[row] += Σ_s z[row][s] · panels[s]` over N terms, in order.
///
/// # Safety
/// The processor has `L`'s instruction set, and there are so many rows of z and terms.
#[inline(always)]
unsafe fn add_side<L: Lanes, const N: usize>(
    sums: &mut [[f32; LANES]],
    (z, z_row): (*const f32, usize),
    panels: *const f32,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut terms = [L::splat(0.0); N];
        for (s, term) in terms.iter_mut().enumerate() {
            *term = L::load(panels.add(s * LANES));
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let mut sum = L::load(sums.as_ptr());
            for (s, term) in terms.iter().enumerate() {
                sum = L::splat(*z.add(row * z_row + s)).fma(*term, sum);
            }
            sum.store(sums.as_mut_ptr());
        }
    }
}
