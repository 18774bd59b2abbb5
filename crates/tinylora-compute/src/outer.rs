//! Sums of outer products, `C += Yᵀ X` over the rows of a batch: the gradient of a matrix that is trained.
//!
//! T rows (tokens), M columns of Y (outputs), N columns of X (inputs). Each element is one chain over the rows,
//! ascending, from what C holds; blocking and threads never change it.

use crate::kernel::{Cpu, Simd, dispatch};
use crate::lanes::{LANES, Lanes};
use crate::packed::SendPointer;
use crate::product::with_scratch;
use crate::tile::{Block, Fetch, Jumps, Start};

/// Rows of the batch handled at once: so many rows of a task's columns stay in the second-level cache.
const BATCH_BLOCK: usize = 256;
/// Rows of C a task.
const ROWS: usize = 192;
/// Panels of sixteen columns of C a task.
const PANELS: usize = 4;

/// Columns `offset .. offset + columns` of a matrix with rows of `stride` numbers.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// (T, stride)
    pub values: &'a [f32],
    /// Numbers from one row to the next.
    pub stride: usize,
    /// First column.
    pub offset: usize,
    /// How many.
    pub columns: usize,
}

impl<'a> Columns<'a> {
    /// All columns of a matrix (T, columns).
    pub fn all(values: &'a [f32], columns: usize) -> Self {
        Self { values, stride: columns, offset: 0, columns }
    }

    fn check(&self, rows: usize) {
        assert!(self.offset + self.columns <= self.stride, "columns lie within a row");
        assert_eq!(self.values.len(), rows * self.stride, "{rows} rows of {}", self.stride);
    }
}

/// `sums (M, N) += Yᵀ X` for Y (T, M) and X (T, N).
///
/// # Panics
/// If a length does not fit.
pub fn add_outer(cpu: &Cpu, y: Columns<'_>, x: Columns<'_>, rows: usize, sums: &mut [f32]) {
    y.check(rows);
    x.check(rows);
    assert_eq!(sums.len(), y.columns * x.columns, "sums are (M = {}, N = {})", y.columns, x.columns);
    if rows == 0 || sums.is_empty() {
        return;
    }
    let panels = x.columns.div_ceil(LANES);
    // A thin C gives too few tasks by its rows.
    let row_tasks = y.columns.div_ceil(ROWS);
    let panels_a_task = (panels * row_tasks / (cpu.threads() * 4)).clamp(1, PANELS);
    let panel_tasks = panels.div_ceil(panels_a_task);
    let to = SendPointer(sums.as_mut_ptr());
    cpu.parallel(row_tasks * panel_tasks, |task| {
        let (first_row, first_panel) = (task % row_tasks * ROWS, task / row_tasks * panels_a_task);
        // The scratch memory is taken out here: a closure inside of `run` would be compiled without the kernel's
        // instruction set.
        with_scratch(panels_a_task * BATCH_BLOCK * LANES, |scratch| {
            let work = Outer { y, x, rows, to, first_row, first_panel, panels: panels_a_task, scratch };
            dispatch(cpu.kernel(), work);
        });
    });
}

struct Outer<'a> {
    y: Columns<'a>,
    x: Columns<'a>,
    rows: usize,
    to: SendPointer<f32>,
    first_row: usize,
    first_panel: usize,
    panels: usize,
    /// Panels of X, `[panel][row of the batch][16]`.
    scratch: &'a mut [f32],
}

impl Simd for Outer<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (n, first_column) = (self.x.columns, self.first_panel * LANES);
        let columns = (self.panels * LANES).min(n - first_column);
        for start in (0..self.rows).step_by(BATCH_BLOCK) {
            let inner = BATCH_BLOCK.min(self.rows - start);
            for panel in 0..columns.div_ceil(LANES) {
                let used = LANES.min(columns - panel * LANES);
                let to = &mut self.scratch[panel * inner * LANES..][..inner * LANES];
                for (row, to) in to.chunks_exact_mut(LANES).enumerate() {
                    let from = (start + row) * self.x.stride + self.x.offset + first_column + panel * LANES;
                    to[..used].copy_from_slice(&self.x.values[from..][..used]);
                    to[used..].fill(0.0);
                }
            }
            // SAFETY: extents were checked in `add_outer`; a task writes only its rows and columns of the sums.
            unsafe {
                let first = start * self.y.stride + self.y.offset + self.first_row;
                Block::<f32> {
                    inner,
                    a: self.y.values.as_ptr().add(first),
                    a_row: 1,
                    a_inner: self.y.stride,
                    b: self.scratch.as_ptr(),
                    b_panel: inner * LANES,
                    b_inner: LANES,
                    jumps: Jumps::NONE,
                    fetch: Fetch::Nothing,
                    c: self.to.get().add(self.first_row * n + first_column),
                    c_row: n,
                    rows: ROWS.min(self.y.columns - self.first_row),
                    columns,
                    start: Start::Output,
                    side: None,
                }
                .run::<L>();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use crate::testing::numbers;

    /// T, M, N, and columns of Y and X beside those used.
    const SHAPES: [(usize, usize, usize, usize); 8] = [
        (1, 1, 1, 0),
        (3, 2, 17, 5),
        (300, 8, 130, 0),
        (257, 193, 33, 2),
        (256, 16, 64, 1),
        (513, 3, 1000, 3),
        (40, 400, 70, 0),
        (5, 70, 1, 4),
    ];

    #[test]
    fn every_kernel_is_the_chain() {
        for (seed, (t, m, n, more)) in SHAPES.into_iter().enumerate() {
            let seed = seed as u32 * 10;
            let (y, x) = (numbers(seed, t * (m + more)), numbers(seed + 1, t * (n + more)));
            let before = numbers(seed + 2, m * n);
            let mut wanted = before.clone();
            for row in 0..t {
                for i in 0..m {
                    for j in 0..n {
                        let (y, x) = (y[row * (m + more) + more + i], x[row * (n + more) + more / 2 + j]);
                        wanted[i * n + j] = y.mul_add(x, wanted[i * n + j]);
                    }
                }
            }
            for kernel in Kernel::available() {
                for threads in [1, 3] {
                    let mut got = before.clone();
                    let y = Columns { values: &y, stride: m + more, offset: more, columns: m };
                    let x = Columns { values: &x, stride: n + more, offset: more / 2, columns: n };
                    add_outer(&Cpu::new(kernel, threads), y, x, t, &mut got);
                    let same = got.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "({t}, {m}, {n}) {} {threads} threads", kernel.name());
                }
            }
        }
    }
}
