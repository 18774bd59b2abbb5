//! The one inner loop of all products: a register tile of M rows by P panels of sixteen columns.
//! Nothing here knows threads or blocking.

use crate::lanes::{LANES, Lanes};

/// How the right-hand operand's panels lie in memory.
pub(crate) trait Element: Copy {
    /// Two values of the inner index share one unit (bf16 pairs).
    const PAIRED: bool;
    /// Values at even inner indices (all, if not paired).
    unsafe fn low<L: Lanes>(from: *const Self) -> L;
    /// Values at odd inner indices.
    unsafe fn high<L: Lanes>(from: *const Self) -> L;
}

impl Element for f32 {
    const PAIRED: bool = false;
    #[inline(always)]
    unsafe fn low<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn high<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load(from) }
    }
}

/// A pair of bf16 at inner indices 2i (low half) and 2i + 1 (high half).
impl Element for u32 {
    const PAIRED: bool = true;
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
pub(crate) struct Block<E> {
    pub inner: usize,
    pub a: *const f32,
    /// Elements from one row of `a` to the next, and from one inner index to the next.
    pub a_row: usize,
    pub a_inner: usize,
    pub b: *const E,
    /// Units from one panel to the next, and from one inner index (or pair) to the next.
    pub b_panel: usize,
    pub b_inner: usize,
    pub c: *mut f32,
    pub c_row: usize,
    pub rows: usize,
    /// Columns; the last panel may be partly used, its memory is whole.
    pub columns: usize,
    pub start: Start,
    pub side: Option<SideTerms>,
}

impl<E: Element> Block<E> {
    /// Computes the block.
    ///
    /// # Safety
    /// The processor has `L`'s instruction set; all pointers are valid for the extents given (`b`, the bias
    /// only for `columns`, whole panels; `c` for `rows` × `columns`) and `c` is not shared.
    #[inline(always)]
    pub(crate) unsafe fn run<L: Lanes>(&self) {
        let panels = self.columns.div_ceil(LANES);
        let mut panel = 0;
        while panel < panels {
            let left = panels - panel;
            // SAFETY: passed on to the caller.
            unsafe {
                match self.rows {
                    1 if left >= 4 => self.columns_of::<L, 4>(panel),
                    1..=3 if left >= 2 => self.columns_of::<L, 2>(panel),
                    4.. if L::TILE_PANELS == 2 && left >= 2 => self.columns_of::<L, 2>(panel),
                    _ => self.columns_of::<L, 1>(panel),
                }
            }
            panel += match self.rows {
                1 if left >= 4 => 4,
                1..=3 if left >= 2 => 2,
                4.. if L::TILE_PANELS == 2 && left >= 2 => 2,
                _ => 1,
            };
        }
    }

    /// All rows of P panels, from `panel` on.
    #[inline(always)]
    unsafe fn columns_of<L: Lanes, const P: usize>(&self, panel: usize) {
        let mut row = 0;
        // SAFETY: passed on to the caller; only rows below `self.rows` are touched.
        unsafe {
            while row < self.rows {
                let left = self.rows - row;
                if P == 4 {
                    self.tile::<L, 1, P>(row, panel);
                    row += 1;
                } else if L::TILE_ROWS >= 8 && left >= 8 {
                    self.tile::<L, 8, P>(row, panel);
                    row += 8;
                } else if L::TILE_ROWS >= 6 && left >= 6 && (P == 1 || L::TILE_PANELS == 2) {
                    self.tile::<L, 6, P>(row, panel);
                    row += 6;
                } else if left >= 4 && (P == 1 || L::TILE_PANELS == 2) {
                    self.tile::<L, 4, P>(row, panel);
                    row += 4;
                } else if left >= 3 {
                    self.tile::<L, 3, P>(row, panel);
                    row += 3;
                } else if left >= 2 {
                    self.tile::<L, 2, P>(row, panel);
                    row += 2;
                } else {
                    self.tile::<L, 1, P>(row, panel);
                    row += 1;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes, const M: usize, const P: usize>(&self, row: usize, panel: usize) {
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
            self.accumulate(row, panel, &mut acc);
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
    unsafe fn accumulate<L: Lanes, const M: usize, const P: usize>(
        &self,
        row: usize,
        panel: usize,
        acc: &mut [[L; P]; M],
    ) {
        // SAFETY: as for `tile`.
        unsafe {
            let mut a = self.a.add(row * self.a_row);
            let mut b = self.b.add(panel * self.b_panel);
            let step = if E::PAIRED { 2 } else { 1 };
            for _ in 0..self.inner / step {
                let low: [L; P] = std::array::from_fn(|p| E::low(b.add(p * self.b_panel)));
                for m in 0..M {
                    let x = L::splat(*a.add(m * self.a_row));
                    for p in 0..P {
                        acc[m][p] = x.fma(low[p], acc[m][p]);
                    }
                }
                if E::PAIRED {
                    let high: [L; P] = std::array::from_fn(|p| E::high(b.add(p * self.b_panel)));
                    for m in 0..M {
                        let x = L::splat(*a.add(m * self.a_row + self.a_inner));
                        for p in 0..P {
                            acc[m][p] = x.fma(high[p], acc[m][p]);
                        }
                    }
                }
                a = a.add(step * self.a_inner);
                b = b.add(self.b_inner);
            }
            if E::PAIRED && self.inner % 2 == 1 {
                for p in 0..P {
                    let low: L = E::low(b.add(p * self.b_panel));
                    for m in 0..M {
                        acc[m][p] = L::splat(*a.add(m * self.a_row)).fma(low, acc[m][p]);
                    }
                }
            }
        }
    }
}
