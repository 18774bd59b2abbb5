//! `dx = dy W` of a few rows and a bf16 matrix: W is read once, as it lies, and nothing of it is kept. With so few rows
//! unpacked panels of a block that others read again would cost more than the multiply-adds.
//!
//! M rows, W (N, K); the same chains as any other product backward.

use crate::kernel::Simd;
use crate::lanes::{LANES, Lanes};
use crate::packed::SendPointer;
use crate::tile::prefetch;

/// M at most.
pub(super) const MOST_ROWS: usize = 8;
/// Panels of sixteen columns of dx that a task holds at once: eight rows of them in a first-level cache.
pub(super) const PANELS: usize = 128;
/// Cache lines of W fetched ahead.
const AHEAD: usize = 32;
/// Rows whose sums stay in registers while sixteen rows of W go by.
const GROUP: usize = 4;

/// One task.
pub(super) struct FewRows<'a> {
    /// W in pairs of columns, `[row / 16][column / 2][row % 16]`.
    pub weight: &'a [u32],
    /// dy (M, N)
    pub gradient: &'a [f32],
    /// dx (M, K)
    pub out: SendPointer<f32>,
    pub rows: usize,
    pub n: usize,
    pub columns: usize,
    /// Whether dx starts at 0, or at what it holds.
    pub from_zero: bool,
    /// Panels of columns.
    pub first_panel: usize,
    pub last_panel: usize,
}

impl Simd for FewRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let pairs_a_panel = self.columns.div_ceil(2);
        let last_column = (self.last_panel * LANES).min(self.columns);
        // SAFETY: extents were checked in `product_backward`; a task writes only its columns of `out`; the instruction set is
        // that of `dispatch`.
        unsafe {
            if self.from_zero {
                let first_column = self.first_panel * LANES;
                for row in 0..self.rows {
                    let out = self.out.get().add(row * self.columns + first_column);
                    std::slice::from_raw_parts_mut(out, last_column - first_column).fill(0.0);
                }
            }
            let mut turned = [0u32; LANES / 2 * LANES];
            for first_row in (0..self.n).step_by(LANES) {
                let count = LANES.min(self.n - first_row);
                let panel = self.weight.as_ptr().add(first_row / LANES * pairs_a_panel * LANES);
                for column in (self.first_panel * LANES..last_column).step_by(LANES) {
                    let from = panel.add(column / 2 * LANES);
                    let width = LANES.min(self.columns - column);
                    for line in 0..LANES / 2 {
                        prefetch(from.wrapping_add((line + AHEAD) * LANES));
                    }
                    if width == LANES {
                        L::turn_pairs(from, turned.as_mut_ptr());
                        let out = (self.out.get().add(column), self.columns);
                        self.groups::<L>(&turned, first_row, count, out);
                    } else {
                        self.last_columns::<L>(from, (first_row, count), (column, width));
                    }
                }
            }
        }
    }
}

impl FewRows<'_> {
    /// Adds what `count` rows of W, turned to pairs of rows, give to sixteen columns of dx; `out` points at them, and beside it is
    /// how far a row is from the next.
    ///
    /// # Safety
    /// The rows are W's, `out` has sixteen numbers a row, and the processor has `L`'s instruction set.
    #[inline(always)]
    unsafe fn groups<L: Lanes>(
        &self,
        turned: &[u32; LANES / 2 * LANES],
        first_row: usize,
        count: usize,
        (out, out_row): (*mut f32, usize),
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            for first in (0..self.rows).step_by(GROUP) {
                let gradient = self.gradient.as_ptr().add(first * self.n + first_row);
                let out = (out.add(first * out_row), out_row);
                match self.rows - first {
                    1 => group::<L, 1>(turned, count, (gradient, self.n), out),
                    2 => group::<L, 2>(turned, count, (gradient, self.n), out),
                    3 => group::<L, 3>(turned, count, (gradient, self.n), out),
                    _ => group::<L, GROUP>(turned, count, (gradient, self.n), out),
                }
            }
        }
    }

    /// The same of the last columns, which are fewer than sixteen.
    ///
    /// # Safety
    /// `from` has pairs of so many columns; the rest as for `groups`.
    #[inline(always)]
    unsafe fn last_columns<L: Lanes>(
        &self,
        from: *const u32,
        (first_row, count): (usize, usize),
        (column, width): (usize, usize),
    ) {
        let mut whole = [0u32; LANES / 2 * LANES];
        let mut turned = [0u32; LANES / 2 * LANES];
        let mut sums = [0f32; MOST_ROWS * LANES];
        // SAFETY: passed on to the caller; pairs past the last column stay 0.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), width.div_ceil(2) * LANES);
            L::turn_pairs(whole.as_ptr(), turned.as_mut_ptr());
            let out = self.out.get().add(column);
            let held = sums.as_mut_ptr();
            for row in 0..self.rows {
                std::ptr::copy_nonoverlapping(out.add(row * self.columns), held.add(row * LANES), width);
            }
            self.groups::<L>(&turned, first_row, count, (held, LANES));
            for row in 0..self.rows {
                std::ptr::copy_nonoverlapping(held.add(row * LANES), out.add(row * self.columns), width);
            }
        }
    }
}

/// M rows' sums over `count` rows of W, ascending. `gradient` points at the first of them, a row's length beside it.
///
/// # Safety
/// As for [`FewRows::groups`].
#[inline(always)]
unsafe fn group<L: Lanes, const M: usize>(
    turned: &[u32; LANES / 2 * LANES],
    count: usize,
    (gradient, stride): (*const f32, usize),
    (out, out_row): (*mut f32, usize),
) {
    // SAFETY: passed on to the caller.
    unsafe {
        // Loops, no closures: those would be compiled without the instruction set.
        let mut sums = [L::splat(0.0); M];
        for row in 0..M {
            sums[row] = L::load(out.add(row * out_row));
        }
        for pair in 0..count / 2 {
            let from = turned.as_ptr().add(pair * LANES);
            let (upper, lower) = (L::load_bf16_low(from), L::load_bf16_high(from));
            for row in 0..M {
                let gradient = gradient.add(row * stride + 2 * pair);
                let sum = upper.fma(L::splat(*gradient), sums[row]);
                sums[row] = lower.fma(L::splat(*gradient.add(1)), sum);
            }
        }
        if !count.is_multiple_of(2) {
            let upper = L::load_bf16_low(turned.as_ptr().add(count / 2 * LANES));
            for row in 0..M {
                sums[row] = upper.fma(L::splat(*gradient.add(row * stride + count - 1)), sums[row]);
            }
        }
        for row in 0..M {
            sums[row].store(out.add(row * out_row));
        }
    }
}
