//! The one inner loop of all products: a register tile of M rows by P panels of sixteen columns.
//! Nothing here knows threads or blocking.

use crate::kernel::Simd;
use crate::lanes::{LANES, Lanes};
use crate::rounding::f16_value;
use crate::tiles::{self, STEP, TileUnit};

/// How the operands lie in memory and are multiplied. The type is that of the right-hand operand's units.
pub(crate) trait Element: Copy + Sized {
    /// The left-hand operand.
    type Left: Copy;
    /// Two values of the inner index share one unit of the right-hand operand alone.
    const PAIRED: bool;
    /// Whether the lanes' processor multiplies operands of this kind in matrix tiles.
    #[inline(always)]
    fn in_tiles<L: Lanes>() -> bool {
        false
    }
    /// The distance of the left-hand operand's rows of `inner` elements, in tiles that of sixteen rows by sixteen.
    #[inline(always)]
    fn row_units<L: Lanes>(inner: usize) -> usize {
        if Self::in_tiles::<L>() { inner.next_multiple_of(STEP) } else { inner }
    }
    /// Where the left-hand operand's inner index `start` lies, a multiple of [`STEP`] in tiles.
    #[inline(always)]
    fn inner_units<L: Lanes>(start: usize) -> usize {
        if Self::in_tiles::<L>() { start * tiles::ROWS } else { start }
    }
    /// The block, with the instructions that these lanes have for operands of this kind.
    ///
    /// # Safety
    /// As for [`Block::run`].
    unsafe fn run<L: Lanes>(block: &Block<Self>);
    /// Values at even inner indices (all, if not paired).
    unsafe fn low<L: Lanes>(from: *const Self) -> L;
    /// Values at odd inner indices, if paired.
    #[inline(always)]
    unsafe fn high<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { Self::low(from) }
    }
    /// `sum + left · right`
    unsafe fn term<L: Lanes>(left: Self::Left, right: L, sum: L) -> L;
}

impl Element for f32 {
    type Left = f32;
    const PAIRED: bool = false;
    #[inline(always)]
    unsafe fn run<L: Lanes>(block: &Block<Self>) {
        // SAFETY: passed on to the caller.
        unsafe {
            if block.a_inner == 1 {
                L::Plain::apart(InLanes::<_, false>(block));
            } else {
                L::Plain::apart(InLanes::<_, true>(block));
            }
        }
    }
    #[inline(always)]
    unsafe fn low<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn term<L: Lanes>(left: f32, right: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::splat(left).fma(right, sum) }
    }
}

/// A pair of bf16 at inner indices 2i (low half) and 2i + 1 (high half).
impl Element for u32 {
    type Left = f32;
    const PAIRED: bool = true;
    #[inline(always)]
    unsafe fn run<L: Lanes>(block: &Block<Self>) {
        // SAFETY: passed on to the caller.
        unsafe { L::Plain::apart(InLanes::<_, false>(block)) }
    }
    #[inline(always)]
    unsafe fn low<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_bf16_low(from) }
    }
    #[inline(always)]
    unsafe fn high<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_bf16_high(from) }
    }
    #[inline(always)]
    unsafe fn term<L: Lanes>(left: f32, right: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::splat(left).fma(right, sum) }
    }
}

/// A number of half precision.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Half(u16);

impl Half {
    /// Bits as what they are.
    pub(crate) fn of(bits: &[u16]) -> &[Self] {
        // SAFETY: transparent.
        unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
    }

    /// Widened exactly.
    pub(crate) fn value(self) -> f32 {
        f16_value(self.0)
    }
}

impl Element for Half {
    type Left = f32;
    const PAIRED: bool = false;
    #[inline(always)]
    unsafe fn run<L: Lanes>(block: &Block<Self>) {
        // SAFETY: passed on to the caller.
        unsafe { L::Plain::apart(InLanes::<_, false>(block)) }
    }
    #[inline(always)]
    unsafe fn low<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_f16(from.cast()) }
    }
    #[inline(always)]
    unsafe fn term<L: Lanes>(left: f32, right: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::splat(left).fma(right, sum) }
    }
}

/// Pairs of bf16 on both sides, multiplied two at a time; one inner index is one pair.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pair(pub u32);

impl Pair {
    /// Packed units as what they are.
    pub(crate) fn of(units: &[u32]) -> &[Self] {
        // SAFETY: transparent.
        unsafe { std::slice::from_raw_parts(units.as_ptr().cast(), units.len()) }
    }

    /// Scratch memory as pairs.
    pub(crate) fn scratch(units: &mut [f32]) -> &mut [Self] {
        // SAFETY: any four bytes are a pair, and any pair an f32.
        unsafe { std::slice::from_raw_parts_mut(units.as_mut_ptr().cast(), units.len()) }
    }
}

impl Element for Pair {
    type Left = u32;
    const PAIRED: bool = false;
    #[inline(always)]
    fn in_tiles<L: Lanes>() -> bool {
        L::Tiles::PRESENT
    }
    #[inline(always)]
    unsafe fn run<L: Lanes>(block: &Block<Self>) {
        // SAFETY: passed on to the caller.
        unsafe {
            if const { L::Tiles::PRESENT } {
                L::apart(InTiles(block));
            } else if const { L::DOT_BF16 } {
                L::apart(InLanes::<_, false>(block));
            } else {
                unreachable!("these lanes have no product of pairs");
            }
        }
    }
    #[inline(always)]
    unsafe fn low<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller; the bits travel as they are.
        unsafe { L::load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn term<L: Lanes>(left: u32, right: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { sum.dot_bf16(left, right) }
    }
}

/// What the accumulators hold before the first term.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    Zero,
    /// The bias of each column, from this pointer on.
    Bias(*const f32),
    /// What the output holds: the chain goes on.
    Output,
}

/// Terms that continue the chain after the inner loop: `Σ_s z[row][s] · side[s][column]`.
#[derive(Clone, Copy)]
pub(crate) struct SideTerms {
    pub z: *const f32,
    pub z_row: usize,
    pub rank: usize,
    /// `[panel][rank][16]`
    pub panels: *const f32,
}

/// `c[row][column] = start + Σ_i a[row][i] · b[i][column] (+ side)` for a block of rows and panels.
#[derive(Clone, Copy)]
pub(crate) struct Block<E: Element> {
    pub inner: usize,
    pub a: *const E::Left,
    /// Elements from one row of `a` to the next, and from one inner index to the next (1, but for f32); where it lies in tiles,
    /// see [`Element::row_units`].
    pub a_row: usize,
    pub a_inner: usize,
    pub b: *const E,
    /// Units from one panel to the next, and from one inner index (or pair) to the next.
    pub b_panel: usize,
    pub b_inner: usize,
    pub jumps: Jumps,
    pub fetch: Fetch,
    pub c: *mut f32,
    pub c_row: usize,
    pub rows: usize,
    /// Columns; the last panel may be partly used, its memory is whole.
    pub columns: usize,
    pub start: Start,
    pub side: Option<SideTerms>,
}

/// Where `b` goes on elsewhere, as from one block of a KV cache to the next: after each `every` inner indices (or pairs), `by`
/// units further than it would.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Jumps {
    pub every: usize,
    pub by: usize,
}

impl Jumps {
    /// `b` lies in one piece.
    pub const NONE: Self = Self { every: usize::MAX, by: 0 };
}

/// What is fetched into the cache during a block: operands that come from memory lie in pieces of a page or so, of which
/// the processor's own prefetching loses sight at every end.
#[derive(Clone, Copy)]
pub(crate) enum Fetch {
    Nothing,
    /// The panels of `b` that follow.
    NextPanels,
    /// What lies so many units behind `b` (before it, if negative), panel by panel: what is wanted next.
    Behind(isize),
}

/// Which tile of a column of tiles, for what is fetched ahead.
#[derive(Clone, Copy)]
struct Ahead {
    tile: usize,
    tiles: usize,
}

/// Asks for a cache line; any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, without effect on what the program means.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A block in registers. GAPS: the left-hand operand's inner indices don't lie next to each other.
struct InLanes<'a, E: Element, const GAPS: bool>(&'a Block<E>);

impl<E: Element, const GAPS: bool> Simd for InLanes<'_, E, GAPS> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        assert!(GAPS || self.0.a_inner == 1, "only f32 may have gaps");
        // SAFETY: the caller of `Block::run` vouches for the block, and the lanes for themselves.
        unsafe { self.0.in_lanes::<L, GAPS>() }
    }
}

/// A block in matrix tiles.
struct InTiles<'a>(&'a Block<Pair>);

impl Simd for InTiles<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: as for `InLanes`.
        unsafe { tiles::run::<L>(self.0) }
    }
}

/// Rows of the highest tile of so many panels.
const fn highest<L: Lanes, E: Element>(panels: usize) -> usize {
    match panels {
        4 if L::TILE_PANELS == 2 => 3,
        4 => 1,
        2 if L::TILE_PANELS == 1 => 3,
        // Widening bf16 takes registers: one row less, and nothing is spilled.
        _ if E::PAIRED => L::TILE_ROWS_BF16,
        _ => L::TILE_ROWS,
    }
}

impl<E: Element> Block<E> {
    /// Computes the block. Its loops are functions of their own, one for each kind of operand and instruction set: there are ten
    /// callers, and in each of them they would be compiled anew.
    ///
    /// # Safety
    /// The processor has `L`'s instruction set; all pointers are valid for the extents given (`b`, the bias
    /// only for `columns`, whole panels; `c` for `rows` × `columns`) and `c` is not shared.
    #[inline(always)]
    pub(crate) unsafe fn run<L: Lanes>(&self) {
        // SAFETY: passed on to the caller.
        unsafe { E::run::<L>(self) }
    }

    #[inline(always)]
    unsafe fn in_lanes<L: Lanes, const GAPS: bool>(&self) {
        let panels = self.columns.div_ceil(LANES);
        let mut panel = 0;
        while panel < panels {
            let left = panels - panel;
            // Few rows: several panels at once, so that there are enough independent chains.
            let together = match self.rows {
                1 if left >= 4 => 4,
                2 | 3 if L::TILE_PANELS == 2 && left >= 4 => 4,
                1..=3 if left >= 2 => 2,
                4.. if L::TILE_PANELS == 2 && left >= 2 => 2,
                _ => 1,
            };
            // SAFETY: passed on to the caller.
            unsafe {
                match together {
                    4 => self.columns_of::<L, 4, GAPS>(panel),
                    2 => self.columns_of::<L, 2, GAPS>(panel),
                    _ => self.columns_of::<L, 1, GAPS>(panel),
                }
            }
            panel += together;
        }
    }

    /// All rows of P panels, from `panel` on, in tiles of near-equal height: a last tile of one row would cost as
    /// much as one of four.
    #[inline(always)]
    unsafe fn columns_of<L: Lanes, const P: usize, const GAPS: bool>(&self, panel: usize) {
        let tiles = self.rows.div_ceil(const { highest::<L, E>(P) });
        let mut row = 0;
        for tile in 0..tiles {
            let height = self.rows / tiles + usize::from(tile < self.rows % tiles);
            // SAFETY: passed on to the caller; the heights add up to `self.rows`.
            unsafe {
                let at = (row, panel, Ahead { tile, tiles });
                match height {
                    1 => self.tile::<L, 1, P, GAPS>(at),
                    2 => self.tile::<L, 2, P, GAPS>(at),
                    3 => self.tile::<L, 3, P, GAPS>(at),
                    4 => self.tile::<L, 4, P, GAPS>(at),
                    5 => self.tile::<L, 5, P, GAPS>(at),
                    6 => self.tile::<L, 6, P, GAPS>(at),
                    7 => self.tile::<L, 7, P, GAPS>(at),
                    _ => self.tile::<L, 8, P, GAPS>(at),
                }
            }
            row += height;
        }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize, const P: usize, const GAPS: bool>(
        &self,
        (row, panel, ahead): (usize, usize, Ahead),
    ) {
        if const { M > highest::<L, E>(P) } {
            unreachable!("no tile of {P} panels has {M} rows");
        }
        // SAFETY: the caller vouches for the extents; partial panels go through `edge`.
        unsafe {
            let c = self.c.add(row * self.c_row + panel * LANES);
            let used = (self.columns - panel * LANES).min(P * LANES);
            let whole = used == P * LANES;
            let mut edge = [[[0f32; LANES]; P]; M];
            if !whole && matches!(self.start, Start::Output) {
                for (m, row) in edge.iter_mut().enumerate() {
                    std::ptr::copy_nonoverlapping(c.add(m * self.c_row), row.as_mut_ptr().cast(), used);
                }
            }
            let mut acc = [[L::splat(0.0); P]; M];
            for m in 0..M {
                for p in 0..P {
                    acc[m][p] = match self.start {
                        Start::Zero => L::splat(0.0),
                        Start::Bias(bias) => L::load(bias.add((panel + p) * LANES)),
                        Start::Output if whole => L::load(c.add(m * self.c_row + p * LANES)),
                        Start::Output => L::load(edge[m][p].as_ptr()),
                    };
                }
            }
            self.accumulate::<L, M, P, GAPS>(row, panel, ahead, &mut acc);
            if let Some(side) = &self.side {
                let z = side.z.add(row * side.z_row);
                for s in 0..side.rank {
                    for p in 0..P {
                        let b = L::load(side.panels.add(((panel + p) * side.rank + s) * LANES));
                        for m in 0..M {
                            acc[m][p] = L::splat(*z.add(m * side.z_row + s)).fma(b, acc[m][p]);
                        }
                    }
                }
            }
            for m in 0..M {
                for p in 0..P {
                    if whole {
                        acc[m][p].store(c.add(m * self.c_row + p * LANES));
                    } else {
                        acc[m][p].store(edge[m][p].as_mut_ptr());
                    }
                }
                if !whole {
                    std::ptr::copy_nonoverlapping(edge[m].as_ptr().cast(), c.add(m * self.c_row), used);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn accumulate<L: Lanes, const M: usize, const P: usize, const GAPS: bool>(
        &self,
        row: usize,
        panel: usize,
        ahead: Ahead,
        acc: &mut [[L; P]; M],
    ) {
        // SAFETY: as for `tile`; what is fetched ahead may lie anywhere.
        unsafe {
            let mut a = self.a.add(row * self.a_row);
            let mut b = self.b.add(panel * self.b_panel);
            let a_inner = if GAPS { self.a_inner } else { 1 };
            let step = if E::PAIRED { 2 } else { 1 };
            let steps = self.inner / step;
            // Of pairs each already makes two multiply-adds a sum.
            let turn = const { if E::PAIRED { 1 } else { L::TURN } };
            // Each tile over these panels fetches its share of the next ones, a little at every turn; where `b` jumps, the
            // first tile fetches all of them.
            let (first, last) = match (self.jumps == Jumps::NONE, ahead.tile) {
                (true, tile) => (tile * steps / ahead.tiles, (tile + 1) * steps / ahead.tiles),
                (false, 0) => (0, steps),
                (false, _) => (0, 0),
            };
            let stretch = (steps / (last - first).max(1)).max(1);
            let (lines, period) = ((turn / stretch).max(1), (stretch / turn).max(1));
            let (mut wait, behind) = match self.fetch {
                _ if first == last => (usize::MAX, 0),
                Fetch::Nothing => (usize::MAX, 0),
                Fetch::NextPanels => (0, (P * self.b_panel) as isize),
                Fetch::Behind(units) => (0, units),
            };
            let mut fetch = b.wrapping_offset(behind).wrapping_add(first * self.b_inner);
            let mut left = steps;
            while left > 0 {
                let piece = left.min(self.jumps.every);
                left -= piece;
                for _ in 0..piece / turn {
                    if wait == 0 {
                        for _ in 0..lines {
                            for p in 0..P {
                                prefetch(fetch.wrapping_add(p * self.b_panel));
                            }
                            fetch = fetch.wrapping_add(self.b_inner);
                        }
                        wait = period;
                    }
                    wait -= 1;
                    for i in 0..turn {
                        self.step::<L, M, P>(
                            a.add(i * step * a_inner),
                            a_inner,
                            b.add(i * self.b_inner),
                            acc,
                        );
                    }
                    a = a.add(turn * step * a_inner);
                    b = b.add(turn * self.b_inner);
                }
                for _ in 0..piece % turn {
                    self.step::<L, M, P>(a, a_inner, b, acc);
                    a = a.add(step * a_inner);
                    b = b.add(self.b_inner);
                }
                if piece == self.jumps.every {
                    b = b.wrapping_add(self.jumps.by);
                    fetch = fetch.wrapping_add(self.jumps.by);
                }
            }
            if E::PAIRED && self.inner % 2 == 1 {
                for p in 0..P {
                    let low: L = E::low(b.add(p * self.b_panel));
                    for m in 0..M {
                        acc[m][p] = E::term(*a.add(m * self.a_row), low, acc[m][p]);
                    }
                }
            }
        }
    }

    /// One inner index, or pair.
    #[inline(always)]
    unsafe fn step<L: Lanes, const M: usize, const P: usize>(
        &self,
        a: *const E::Left,
        a_inner: usize,
        b: *const E,
        acc: &mut [[L; P]; M],
    ) {
        // SAFETY: as for `tile`.
        unsafe {
            for p in 0..P {
                let a = anew::<L, _>(a, p);
                let low: L = E::low(b.add(p * self.b_panel));
                for m in 0..M {
                    acc[m][p] = E::term(*a.add(m * self.a_row), low, acc[m][p]);
                }
            }
            if E::PAIRED {
                for p in 0..P {
                    let (a, b) = (anew::<L, _>(a, p), anew::<L, _>(b, P - 1));
                    let high: L = E::high(b.add(p * self.b_panel));
                    for m in 0..M {
                        acc[m][p] = E::term(*a.add(m * self.a_row + a_inner), high, acc[m][p]);
                    }
                }
            }
        }
    }
}

/// The same pointer, of which the compiler doesn't know it: where registers are few, what was read from it for one panel is not
/// to be kept for the next, which would push a sum out of its register.
#[allow(clippy::pointers_in_nomem_asm_block)] // there is no instruction that could read
#[inline(always)]
fn anew<L: Lanes, T>(at: *const T, panel: usize) -> *const T {
    #[cfg(target_arch = "x86_64")]
    if panel > 0 && L::TILE_PANELS == 1 {
        let mut at = at;
        // SAFETY: no instruction.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags));
        }
        return at;
    }
    let _ = panel;
    at
}
