//! Products with frozen matrices: `y = x Wᵀ + bias + z Sᵀ` (forward) and `dx = dy W + dz Sᵀ` (backward),
//! both from the same packed copy of W.
//!
//! M rows (tokens), K inputs, N outputs, r rank of the side path. Each element is one chain over the inner
//! index, ascending, then over the rank; blocking and threads never change it.

use crate::account::Operation;
use crate::kernel::{Cpu, Simd, dispatch};
use crate::lanes::{LANES, Lanes};
use crate::operand::{Operand, pairs_for, reads_pairs};
use crate::packed::{Data, PackedMatrix, Precision, SendPointer};
use crate::recycled::Recycled;
use crate::tile::{Block, Element, Fetch, Jumps, Pair, SideTerms, Start};
use crate::tiles::{self, STEP};
use few_rows::FewRows;
use std::cell::RefCell;

/// Inner indices handled at once: a panel of so many stays in the first-level cache.
const INNER_BLOCK: usize = 640;
/// Products that share x at most: q, k and v.
const MOST_PRODUCTS: usize = 3;
/// Rows handled at once where there are more than twice as many: so many rows of an inner block take half of a small second-level
/// cache, of which another program may have the other half. Of pairs twice as many.
const ROW_BLOCK: usize = 48;
/// The same in matrix tiles, where weights that don't come from the first-level cache cost more than rows that don't: at most,
/// and where rows are shared out at all.
const TILED_ROW_BLOCK: usize = 320;
const LEAST_TILED_ROWS: usize = 128;

/// A thin matrix S (columns, r) for the side path, in panels `[column / 16][r][16]`.
pub struct SideMatrix {
    columns: usize,
    rank: usize,
    panels: Vec<f32>,
}

impl SideMatrix {
    /// From r rows of `columns` numbers each (row s holds `S[·][s]`).
    ///
    /// # Panics
    /// If `rows` is not `rank · columns` long.
    pub fn new(columns: usize, rank: usize, rows: &[f32]) -> Self {
        assert_eq!(rows.len(), columns * rank, "{rank} rows of {columns}");
        let mut panels = vec![0.0; columns.div_ceil(LANES) * rank * LANES];
        for s in 0..rank {
            for (column, &value) in rows[s * columns..][..columns].iter().enumerate() {
                panels[(column / LANES * rank + s) * LANES + column % LANES] = value;
            }
        }
        Self { columns, rank, panels }
    }

    /// r
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Element (column, s).
    pub fn get(&self, column: usize, s: usize) -> f32 {
        self.panels[(column / LANES * self.rank + s) * LANES + column % LANES]
    }
}

/// The side path of one product: `+ z Sᵀ`.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// (M, stride), of which columns `offset .. offset + r` are used.
    pub z: &'a [f32],
    /// Row length of `z`.
    pub stride: usize,
    /// First column used.
    pub offset: usize,
    /// S
    pub matrix: &'a SideMatrix,
}

/// One of several products that share x.
pub struct Product<'a> {
    /// W (N, K)
    pub weight: &'a PackedMatrix,
    /// (N), padded with at least 0 to a multiple of 16; see [`padded_bias`].
    pub bias: Option<&'a [f32]>,
    /// Low-rank side path.
    pub side: Option<Side<'a>>,
    /// y (M, N)
    pub out: &'a mut [f32],
}

/// A bias with zeros appended up to a multiple of sixteen.
pub fn padded_bias(bias: &[f32]) -> Vec<f32> {
    let mut padded = bias.to_vec();
    padded.resize(bias.len().next_multiple_of(LANES), 0.0);
    padded
}

struct Job<'a> {
    weight: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    side: Option<Side<'a>>,
    out: SendPointer<f32>,
    first_task: usize,
    panels_a_task: usize,
}

/// `y = x Wᵀ + bias + z Sᵀ` for several W that share x (M, K).
///
/// # Panics
/// If a length does not fit, or there are more than three.
pub fn product(cpu: &Cpu, x: &[f32], rows: usize, outputs: &mut [Product<'_>]) {
    let _clock = cpu.clock(Operation::Products);
    let Some(first) = outputs.first() else { return };
    let first_weight = first.weight;
    let inner = first_weight.columns();
    assert_eq!(x.len(), rows * inner, "x is (M = {rows}, K = {inner})");
    if rows == 0 {
        return;
    }
    let all_panels: usize = outputs.iter().map(|o| o.weight.rows().div_ceil(LANES)).sum();
    let row_block = if reads_pairs(cpu.kernel(), first_weight) { 2 * ROW_BLOCK } else { ROW_BLOCK };
    let in_tiles = reads_pairs(cpu.kernel(), first_weight) && cpu.kernel().has_tiles();
    let cut = Cut::new(cpu.threads(), (rows, row_block), all_panels, in_tiles);
    let mut tasks = 0;
    assert!(outputs.len() <= MOST_PRODUCTS, "{} products share x, more than {MOST_PRODUCTS}", outputs.len());
    let mut outputs = outputs.iter_mut();
    let jobs: [Option<Job>; MOST_PRODUCTS] = std::array::from_fn(|_| {
        outputs.next().map(|o| {
            let n = o.weight.rows();
            assert_eq!(o.weight.columns(), inner, "all products of a group share x");
            assert_eq!(o.out.len(), rows * n, "y is (M = {rows}, N = {n})");
            assert!(o.bias.is_none_or(|b| b.len() >= n.next_multiple_of(LANES)), "the bias is padded");
            check_side(o.side, rows, n);
            let first_task = tasks;
            tasks += n.div_ceil(LANES).div_ceil(cut.panels_a_task);
            Job {
                weight: o.weight,
                bias: o.bias,
                side: o.side,
                out: SendPointer(o.out.as_mut_ptr()),
                first_task,
                panels_a_task: cut.panels_a_task,
            }
        })
    });
    let pairs = pairs_for(cpu, first_weight, x, inner);
    let reads_pairs =
        |job: &Job| reads_pairs(cpu.kernel(), job.weight) == reads_pairs(cpu.kernel(), first_weight);
    assert!(jobs.iter().flatten().all(reads_pairs), "all products of a group have one precision");
    let x = Operand::new(cpu, x, &pairs, inner);
    // Block of rows by block: a thread's share are rows, where there are blocks enough.
    cpu.parallel(tasks * rows.div_ceil(cut.row_block), |task| {
        let (block, task) = (task / tasks, task % tasks);
        let job = jobs.iter().flatten().rfind(|job| job.first_task <= task).expect("the first has task 0");
        let first_row = block * cut.row_block;
        let rows = cut.row_block.min(rows - first_row);
        let work = Forward { job, x: x.rows(first_row, rows), first_row, rows, chunk: task - job.first_task };
        dispatch(cpu.kernel(), work);
    });
}

/// How a product is cut into tasks.
struct Cut {
    row_block: usize,
    panels_a_task: usize,
}

impl Cut {
    fn new(threads: usize, (rows, most): (usize, usize), panels: usize, in_tiles: bool) -> Self {
        let row_block = if in_tiles {
            // As many blocks as threads, or a multiple: then each thread keeps to its own rows from operation to operation. With
            // few rows all of them, as each block reads all weights.
            let blocks = if rows < LEAST_TILED_ROWS * threads {
                1
            } else {
                rows.div_ceil(TILED_ROW_BLOCK).next_multiple_of(threads)
            };
            rows.div_ceil(blocks).next_multiple_of(2 * tiles::ROWS)
        } else if panels < threads * 4 {
            // A thin matrix, such as a side path's, gives too few tasks by its panels alone.
            (rows / (threads * 4)).next_multiple_of(8).clamp(8, most)
        } else if rows <= 2 * ROW_BLOCK {
            // One block, so that weights are read once.
            rows
        } else {
            rows.div_ceil(rows.div_ceil(most))
        };
        let row_blocks = rows.div_ceil(row_block);
        // Even, since a register tile spans two panels.
        let panels_a_task = (panels * row_blocks / (threads * 8)).next_multiple_of(2).clamp(2, 64);
        Self { row_block, panels_a_task }
    }
}

fn check_side(side: Option<Side<'_>>, rows: usize, columns: usize) {
    if let Some(side) = side {
        assert_eq!(side.matrix.columns, columns, "the side matrix fits the output");
        assert!(
            side.z.len() >= rows * side.stride && side.offset + side.matrix.rank <= side.stride,
            "z fits"
        );
    }
}

/// The same in tiles, where sums that leave their tiles cost more than panels that leave the cache.
const TILED_INNER_BLOCK: usize = 1024;

/// Inner blocks of near-equal length: whole steps of tiles, so that a chain in them is cut nowhere else.
fn inner_block(inner: usize, in_tiles: bool) -> usize {
    let blocks = inner.div_ceil(if in_tiles { TILED_INNER_BLOCK } else { INNER_BLOCK }).max(1);
    inner.div_ceil(blocks).next_multiple_of(STEP)
}

struct Forward<'a> {
    job: &'a Job<'a>,
    x: Operand<'a>,
    first_row: usize,
    rows: usize,
    chunk: usize,
}

impl Simd for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let inner = self.job.weight.columns();
        match &self.job.weight.data {
            Data::Bf16(data) if L::DOT_BF16 => {
                self.blocks::<L, Pair>(self.x.pairs, inner.div_ceil(2), Pair::of(data), inner.div_ceil(2));
            }
            Data::Bf16(data) => self.blocks::<L, u32>(self.x.x, inner, data, inner.div_ceil(2)),
            Data::F32(data) => self.blocks::<L, f32>(self.x.x, inner, data, inner),
        }
    }
}

impl Forward<'_> {
    /// `x` is (M, inner) of what the element multiplies by.
    #[inline(always)]
    fn blocks<L: Lanes, E: Element>(&self, x: &[E::Left], inner: usize, data: &[E], units_a_panel: usize) {
        let job = self.job;
        let n = job.weight.rows();
        let first_panel = self.chunk * job.panels_a_task;
        let last_panel = (first_panel + job.panels_a_task).min(n.div_ceil(LANES));
        let step = inner_block(inner, E::in_tiles::<L>());
        for start in (0..inner.max(1)).step_by(step) {
            let last = start + step >= inner;
            // SAFETY: extents were checked in `product`; a task writes only its rows and panels of `out`.
            unsafe {
                Block {
                    inner: step.min(inner - start),
                    a: x.as_ptr().add(E::inner_units::<L>(start)),
                    a_row: E::row_units::<L>(inner),
                    a_inner: 1,
                    b: data.as_ptr().add(
                        (first_panel * units_a_panel + if E::PAIRED { start / 2 } else { start }) * LANES,
                    ),
                    b_panel: units_a_panel * LANES,
                    b_inner: LANES,
                    jumps: Jumps::NONE,
                    fetch: Fetch::NextPanels,
                    c: job.out.get().add(self.first_row * n + first_panel * LANES),
                    c_row: n,
                    rows: self.rows,
                    columns: (last_panel * LANES).min(n) - first_panel * LANES,
                    start: match (start, job.bias) {
                        (0, None) => Start::Zero,
                        (0, Some(bias)) => Start::Bias(bias.as_ptr().add(first_panel * LANES)),
                        _ => Start::Output,
                    },
                    side: job.side.filter(|_| last).map(|side| side_terms(side, self.first_row, first_panel)),
                }
                .run::<L>();
            }
        }
    }
}

#[inline(always)]
fn side_terms(side: Side<'_>, row: usize, panel: usize) -> SideTerms {
    let rank = side.matrix.rank;
    // SAFETY: `check_side` has checked the extents.
    unsafe {
        SideTerms {
            z: side.z.as_ptr().add(row * side.stride + side.offset),
            z_row: side.stride,
            rank,
            panels: side.matrix.panels.as_ptr().add(panel * rank * LANES),
        }
    }
}

/// One of several terms of an activation gradient: `dy W + dz Sᵀ`.
pub struct BackwardTerm<'a> {
    /// W (N, K)
    pub weight: &'a PackedMatrix,
    /// dy (M, N)
    pub gradient: &'a [f32],
    /// Low-rank side path, over K columns.
    pub side: Option<Side<'a>>,
}

/// `dx = Σ (dy W + dz Sᵀ)` over terms, in order; dx is (M, K).
///
/// # Panics
/// If a length does not fit.
pub fn product_backward(cpu: &Cpu, terms: &[BackwardTerm<'_>], rows: usize, dx: &mut [f32]) {
    let _clock = cpu.clock(Operation::Products);
    let Some(first) = terms.first() else { return };
    let columns = first.weight.columns();
    assert_eq!(dx.len(), rows * columns, "dx is (M = {rows}, K = {columns})");
    for term in terms {
        let n = term.weight.rows();
        assert_eq!(term.weight.columns(), columns, "all terms give the same dx");
        assert_eq!(term.gradient.len(), rows * n, "dy is (M = {rows}, N = {n})");
        check_side(term.side, rows, columns);
    }
    if rows == 0 {
        return;
    }
    if rows <= few_rows::MOST_ROWS && terms.iter().all(|term| read_as_it_lies(cpu, term)) {
        return few_rows_backward(cpu, terms, rows, dx);
    }
    let pairs: Vec<Recycled<u32>> =
        terms.iter().map(|term| pairs_for(cpu, term.weight, term.gradient, term.weight.rows())).collect();
    let panels = columns.div_ceil(LANES);
    let panels_a_task = (panels / (cpu.threads() * 6)).clamp(1, 4);
    let panels_a_task = if cpu.kernel().has_tiles() { panels_a_task.div_ceil(3) * 2 } else { panels_a_task };
    let out = SendPointer(dx.as_mut_ptr());
    cpu.parallel(panels.div_ceil(panels_a_task), |task| {
        let first_panel = task * panels_a_task;
        let last_panel = (first_panel + panels_a_task).min(panels);
        // The scratch memory is taken out here: a closure inside of `run` would be compiled without the
        // kernel's instruction set, and each intrinsic in it would become a call.
        with_scratch((last_panel - first_panel) * OUTER_BLOCK * LANES, |scratch| {
            let work =
                Backward { terms, pairs: &pairs, out, rows, columns, first_panel, last_panel, scratch };
            dispatch(cpu.kernel(), work);
        });
    });
}

/// Whether W is read as it lies when rows are few: bf16, of which no pairs are multiplied, and no side path.
fn read_as_it_lies(cpu: &Cpu, term: &BackwardTerm<'_>) -> bool {
    term.side.is_none()
        && term.weight.precision() == Precision::Bf16
        && !reads_pairs(cpu.kernel(), term.weight)
}

fn few_rows_backward(cpu: &Cpu, terms: &[BackwardTerm<'_>], rows: usize, dx: &mut [f32]) {
    let columns = terms[0].weight.columns();
    let panels = columns.div_ceil(LANES);
    let panels_a_task = (panels / (cpu.threads() * 2)).clamp(1, few_rows::PANELS);
    let out = SendPointer(dx.as_mut_ptr());
    cpu.parallel(panels.div_ceil(panels_a_task), |task| {
        let first_panel = task * panels_a_task;
        let last_panel = (first_panel + panels_a_task).min(panels);
        for (index, term) in terms.iter().enumerate() {
            let Data::Bf16(weight) = &term.weight.data else { unreachable!("asked for before") };
            let work = FewRows {
                weight,
                gradient: term.gradient,
                out,
                rows,
                n: term.weight.rows(),
                columns,
                from_zero: index == 0,
                first_panel,
                last_panel,
            };
            dispatch(cpu.kernel(), work);
        }
    });
}

struct Backward<'a> {
    terms: &'a [BackwardTerm<'a>],
    /// The gradients' pairs, one list a term.
    pairs: &'a [Recycled<u32>],
    out: SendPointer<f32>,
    rows: usize,
    columns: usize,
    first_panel: usize,
    last_panel: usize,
    /// [`OUTER_BLOCK`] rows of all panels of the task.
    scratch: &'a mut [f32],
}

/// Rows of W unpacked at a time, at most.
const OUTER_BLOCK: usize = 512;

/// Blocks of rows of W of near-equal size: whole steps of tiles, so that a chain in them is cut nowhere else.
fn outer_block(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(2 * STEP).max(1)
}

/// Numbers of scratch memory that a thread takes at least: 256 KiB.
const LEAST_SCRATCH: usize = 1 << 16;

thread_local! {
    /// Unpacked panels of the thread's current task.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Gives `len` numbers of scratch memory that belongs to the thread; their values are arbitrary.
pub(crate) fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            // A context that grows by a token a step shall not ask for memory every few steps.
            scratch.resize(len.next_power_of_two().max(LEAST_SCRATCH), 0.0);
        }
        work(&mut scratch[..len])
    })
}

impl Simd for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (index, (term, pairs)) in self.terms.iter().zip(self.pairs).enumerate() {
            let n = term.weight.rows();
            let step = outer_block(n, if L::DOT_BF16 { OUTER_BLOCK } else { OUTER_BLOCK / 2 });
            for start in (0..n.max(1)).step_by(step) {
                let inner = step.min(n - start);
                let begin = if index == 0 && start == 0 { Start::Zero } else { Start::Output };
                let side = term.side.filter(|_| start + step >= n);
                if L::DOT_BF16 && term.weight.precision() == Precision::Bf16 {
                    let inner = inner.div_ceil(2);
                    for panel in 0..self.last_panel - self.first_panel {
                        let to = Pair::scratch(&mut self.scratch[panel * inner * LANES..][..inner * LANES]);
                        // SAFETY: `dispatch` has the instruction set.
                        unsafe {
                            let panel = self.first_panel + panel;
                            term.weight.unpack_transposed_pairs::<L>(start, 2 * inner, panel, to);
                        }
                    }
                    let a = pairs[Pair::inner_units::<L>(start / 2)..].as_ptr();
                    self.rows_of::<L, Pair>(a, Pair::row_units::<L>(n.div_ceil(2)), inner, begin, side);
                } else {
                    for panel in 0..self.last_panel - self.first_panel {
                        let to = &mut self.scratch[panel * inner * LANES..][..inner * LANES];
                        // SAFETY: `dispatch` has the instruction set.
                        unsafe {
                            term.weight.unpack_transposed::<L>(start, inner, self.first_panel + panel, to);
                        }
                    }
                    self.rows_of::<L, f32>(term.gradient[start..].as_ptr(), n, inner, begin, side);
                }
            }
        }
    }
}

impl Backward<'_> {
    /// All rows of one block of unpacked panels; `a` is the gradient at the block's first inner index.
    #[inline(always)]
    fn rows_of<L: Lanes, E: Element>(
        &self,
        a: *const E::Left,
        a_row: usize,
        inner: usize,
        start: Start,
        side: Option<Side<'_>>,
    ) {
        // In tiles all of them: the unpacked panels are what stays in the cache.
        let block = if E::in_tiles::<L>() { self.rows } else { 48 };
        for row in (0..self.rows).step_by(block) {
            // SAFETY: extents were checked in `product_backward`; a task writes only its panels. The scratch memory
            // holds units of four bytes of either kind.
            unsafe {
                Block::<E> {
                    inner,
                    a: a.add(row * a_row),
                    a_row,
                    a_inner: 1,
                    b: self.scratch.as_ptr().cast(),
                    b_panel: inner * LANES,
                    b_inner: LANES,
                    jumps: Jumps::NONE,
                    fetch: Fetch::Nothing,
                    c: self.out.get().add(row * self.columns + self.first_panel * LANES),
                    c_row: self.columns,
                    rows: block.min(self.rows - row),
                    columns: (self.last_panel * LANES).min(self.columns) - self.first_panel * LANES,
                    start,
                    side: side.map(|side| side_terms(side, row, self.first_panel)),
                }
                .run::<L>();
            }
        }
    }
}

/// `W x` at one output, for one row x: the very bits that a product gives.
///
/// # Panics
/// If a length does not fit.
pub fn product_at(cpu: &Cpu, weight: &PackedMatrix, output: usize, x: &[f32]) -> f32 {
    assert!(output < weight.rows() && x.len() == weight.columns());
    // One row is one task, which runs here: `product_at` may be called from a task.
    let pairs = pairs_for(cpu, weight, x, x.len());
    dispatch(cpu.kernel(), At { weight, x: Operand::new(cpu, x, &pairs, x.len()), output })
}

struct At<'a> {
    weight: &'a PackedMatrix,
    x: Operand<'a>,
    output: usize,
}

impl Simd for At<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let pairs = self.x.inner.div_ceil(2);
        match &self.weight.data {
            Data::Bf16(data) if L::DOT_BF16 => {
                self.panel::<L, Pair>(self.x.pairs, pairs, Pair::of(data), pairs)
            }
            Data::Bf16(data) => self.panel::<L, u32>(self.x.x, self.x.inner, data, pairs),
            Data::F32(data) => self.panel::<L, f32>(self.x.x, self.x.inner, data, self.x.inner),
        }
    }
}

impl At<'_> {
    #[inline(always)]
    fn panel<L: Lanes, E: Element>(
        &self,
        x: &[E::Left],
        inner: usize,
        data: &[E],
        units_a_panel: usize,
    ) -> f32 {
        let mut out = [0f32; LANES];
        let panel = &data[self.output / LANES * units_a_panel * LANES..][..units_a_panel * LANES];
        // SAFETY: one row of x, one whole panel.
        unsafe {
            Block {
                inner,
                a: x.as_ptr(),
                a_row: E::row_units::<L>(inner),
                a_inner: 1,
                b: panel.as_ptr(),
                b_panel: 0,
                b_inner: LANES,
                jumps: Jumps::NONE,
                fetch: Fetch::Nothing,
                c: out.as_mut_ptr(),
                c_row: LANES,
                rows: 1,
                columns: LANES,
                start: Start::Zero,
                side: None,
            }
            .run::<L>();
        }
        out[self.output % LANES]
    }
}

mod few_rows;

#[cfg(test)]
mod tests;
