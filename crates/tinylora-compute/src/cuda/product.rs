//! Products with frozen matrices and their low-rank side path on the GPU, forward and backward, from one copy of a matrix.
//!
//! M rows, N outputs, K inputs, r rank. Rows of bf16 operands are padded to a multiple of eight numbers ([`padded`]), since
//! they are copied in pieces of sixteen bytes; what fills them up is never read.

use super::device::{Argument, Device, Launch};
use super::error::CudaError;
use super::memory::DeviceBuffer;
use super::tensor_map::TensorMap;

/// Up to so many rows the kernel for few rows is taken. Both give the same bits.
pub(super) const FEW_ROWS: usize = 64;

/// Length of a row of bf16 numbers in memory.
pub fn padded(width: usize) -> usize {
    width.next_multiple_of(8)
}

/// Rows of bf16 numbers: an activation (M, width), each row `stride` numbers after the last.
#[derive(Clone)]
pub struct Rows {
    /// The numbers, as their bits.
    pub data: DeviceBuffer<u16>,
    /// M
    pub rows: usize,
    /// Numbers of a row.
    pub width: usize,
    /// From one row to the next; a multiple of eight.
    pub stride: usize,
}

impl Rows {
    /// Rows that fill a buffer from its beginning on.
    ///
    /// # Panics
    /// If the buffer is too short.
    pub fn new(data: &DeviceBuffer<u16>, rows: usize, width: usize) -> Self {
        let stride = padded(width);
        Self { data: data.part(0, rows * stride), rows, width, stride }
    }

    /// Some columns of all rows; only for kernels that read number by number.
    pub fn columns(&self, first: usize, width: usize) -> Self {
        assert!(first + width <= self.width, "columns {first} … {} of {}", first + width, self.width);
        let data = self.data.part(first, self.data.len() - first);
        Self { data, width, ..*self }
    }

    /// Some of the rows.
    pub fn range(&self, first: usize, rows: usize) -> Self {
        let data = self.data.part(first * self.stride, rows * self.stride);
        Self { data, rows, ..*self }
    }
}

/// A frozen matrix W (N, K) in bf16.
#[derive(Clone)]
pub struct Matrix {
    /// The numbers, as their bits.
    pub data: DeviceBuffer<u16>,
    /// N
    pub rows: usize,
    /// K
    pub columns: usize,
}

impl Matrix {
    /// From one row to the next.
    pub fn stride(&self) -> usize {
        padded(self.columns)
    }

    /// Some of its rows.
    pub fn range(&self, first: usize, rows: usize) -> Self {
        let stride = self.stride();
        Self { data: self.data.part(first * stride, rows * stride), rows, columns: self.columns }
    }
}

/// What a product adds to its sum: z (M, stride) times rows of a panel (rank, columns). Columns below `ends[0]` take z from
/// `starts[0]` on, those below `ends[1]` from `starts[1]` on, the rest from `starts[2]` on.
#[derive(Clone)]
pub struct Side {
    /// (M, stride)
    pub z: DeviceBuffer<f32>,
    /// (rank, columns)
    pub panel: DeviceBuffer<f32>,
    /// Numbers of a row of z.
    pub stride: usize,
    /// r
    pub rank: usize,
    /// First columns of the second and the third member.
    pub ends: [usize; 2],
    /// Where each member's numbers begin in a row of z.
    pub starts: [usize; 3],
}

/// Where a product goes.
pub enum Out<'a> {
    /// Rounded, to rows.
    Bf16(&'a Rows),
    /// (M, columns)
    F32(&'a DeviceBuffer<f32>),
    /// Added to (M, columns).
    Add(&'a DeviceBuffer<f32>),
}

/// Two numbers of 32 bits as one word.
pub(super) fn pair(low: usize, high: usize) -> u64 {
    let bits = |x: usize| u64::from(u32::try_from(x).expect("sizes fit 32 bits"));
    bits(low) | bits(high) << 32
}

pub(super) fn int(x: usize) -> Argument<'static> {
    Argument::Int(i32::try_from(x).expect("sizes fit 31 bits"))
}

/// struct Operands
pub(super) fn operands(x: &Rows, w: &Matrix, columns: usize, inner: usize) -> [u64; 5] {
    assert!(
        x.stride.is_multiple_of(8) && x.data.address().is_multiple_of(16),
        "copied in pieces of 16 bytes"
    );
    [x.data.address(), w.data.address(), pair(x.stride, w.stride()), pair(x.rows, columns), pair(inner, 0)]
}

/// y = x Wᵀ + bias + side path.
///
/// # Panics
/// If sizes don't fit.
pub fn forward(
    device: &Device,
    x: &Rows,
    w: &Matrix,
    bias: Option<&DeviceBuffer<f32>>,
    side: Option<&Side>,
    out: Out<'_>,
) -> Result<(), CudaError> {
    assert_eq!(x.width, w.columns, "inputs of a product");
    assert!(bias.is_none_or(|bias| bias.len() == w.rows), "a bias for each output");
    product(device, Way::Forward, x, w, bias, side, out)
}

/// dx = dy W + side path.
///
/// # Panics
/// If sizes don't fit.
pub fn backward(
    device: &Device,
    dy: &Rows,
    w: &Matrix,
    side: Option<&Side>,
    out: Out<'_>,
) -> Result<(), CudaError> {
    assert!(dy.width == w.rows, "outputs of a product");
    product(device, Way::Back, dy, w, None, side, out)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

fn product(
    device: &Device,
    way: Way,
    x: &Rows,
    w: &Matrix,
    bias: Option<&DeviceBuffer<f32>>,
    side: Option<&Side>,
    out: Out<'_>,
) -> Result<(), CudaError> {
    let (columns, inner) = if way == Way::Back { (w.columns, w.rows) } else { (w.rows, w.columns) };
    let (store, to, row) = match out {
        Out::Bf16(rows) => {
            let room = rows.rows >= x.rows && rows.width >= columns && rows.stride.is_multiple_of(2);
            assert!(room, "room for a product");
            ("bf16", rows.data.argument(), rows.stride)
        }
        Out::F32(buffer) | Out::Add(buffer) => {
            assert!(buffer.len() >= x.rows * columns, "room for a product");
            (if matches!(out, Out::Add(_)) { "add" } else { "f32" }, buffer.argument(), columns)
        }
    };
    let side = side.map_or([0; 6], |side| {
        assert!(side.z.len() >= x.rows * side.stride && side.panel.len() >= side.rank * columns);
        let ([end0, end1], [at0, at1, at2]) = (side.ends, side.starts);
        let (z, panel) = (side.z.address(), side.panel.address());
        [z, panel, pair(side.stride, side.rank), pair(end0, end1), pair(at0, at1), pair(at2, 0)]
    });
    let bias = bias.map_or(Argument::Buffer(0), DeviceBuffer::argument);
    let rest = [bias, Argument::Struct(&side), to, int(row)];
    let operands = operands(x, w, columns, inner);
    if device.has_wgmma() {
        return on_wgmma(device, way, x, w, (columns, inner), store, &rest);
    }
    let shape = match way {
        Way::Forward if x.rows <= FEW_ROWS => "few",
        Way::Forward => "large",
        Way::Back => "back",
    };
    let (tile_rows, tile_columns, threads, shared) = match shape {
        "few" => (16, 64, 128, 40960),
        _ => (128, 128, 256, 65536),
    };
    let arguments = [&[Argument::Struct(&operands)], &rest[..]].concat();
    let blocks = [x.rows.div_ceil(tile_rows) as u32, columns.div_ceil(tile_columns) as u32, 1];
    let launch = Launch { blocks, threads, shared };
    // SAFETY: the arguments are the kernel's; the buffers have room for the sizes given, as checked here and where
    // they were made.
    unsafe { device.launch_some(&format!("product_{shape}_{store}"), launch, &arguments) }
}

/// A kernel on `wgmma`: the rows of its tile, its groups of 64 outputs, and the places of its ring in shared memory. All
/// give the same bits.
#[derive(Debug, PartialEq, Eq)]
struct Ring {
    tokens: usize,
    groups: usize,
    stages: usize,
}

/// As kernels/wgmma.cu has them.
const RINGS: [Ring; 6] = [
    Ring { tokens: 8, groups: 1, stages: 10 },
    Ring { tokens: 16, groups: 1, stages: 10 },
    Ring { tokens: 32, groups: 1, stages: 8 },
    Ring { tokens: 64, groups: 1, stages: 6 },
    Ring { tokens: 128, groups: 1, stages: 4 },
    Ring { tokens: 256, groups: 2, stages: 4 },
];
/// Inner indices of a place, and outputs of a group.
const BOX: usize = 64;
/// The backward pass has no smaller tile.
const LEAST_BACK: usize = 64;

impl Ring {
    /// The smallest tile that has all rows; for more rows the largest, unless it would leave processors idle.
    fn of(way: Way, rows: usize, columns: usize, processors: usize) -> &'static Self {
        let [small @ .., most] = &RINGS;
        let wanted = if way == Way::Back { rows.max(LEAST_BACK) } else { rows };
        let enough = small.iter().find(|ring| ring.tokens >= wanted);
        enough.unwrap_or(if most.tiles(rows, columns) < processors { &small[small.len() - 1] } else { most })
    }

    fn tiles(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.tokens) * columns.div_ceil(BOX * self.groups)
    }

    /// For each group four warps, and one more that fetches, or four where groups trade registers.
    fn threads(&self) -> u32 {
        128 * self.groups as u32 + if self.groups > 1 { 128 } else { 32 }
    }

    /// The ring on a boundary of 1024 bytes, two barriers for each place, and eight ranks of the side path.
    fn shared(&self) -> usize {
        let place = 2 * BOX * (BOX * self.groups + self.tokens);
        1024 + self.stages * (place + 16) + 8 * self.tokens * size_of::<f32>()
    }
}

/// The product by a kernel on `wgmma`, with those of its arguments that it shares with the others as `rest`.
fn on_wgmma(
    device: &Device,
    way: Way,
    x: &Rows,
    w: &Matrix,
    (columns, inner): (usize, usize),
    store: &str,
    rest: &[Argument<'_>],
) -> Result<(), CudaError> {
    if x.rows == 0 || columns == 0 {
        return Ok(());
    }
    let ring = Ring::of(way, x.rows, columns, device.processors());
    let side = BOX as u32;
    let w_map = TensorMap::new(device, w.data.address(), (w.columns, w.rows), w.stride(), (side, side))?;
    let boxes = (side, ring.tokens as u32);
    let x_map = TensorMap::new(device, x.data.address(), (inner, x.rows), x.stride, boxes)?;
    let extent = [pair(x.rows, columns), pair(inner, 0)];
    let own = [Argument::Struct(w_map.words()), Argument::Struct(x_map.words()), Argument::Struct(&extent)];
    let tiles = ring.tiles(x.rows, columns);
    // Of the largest tiles a processor has one at a time: a block goes on from one to the next.
    let blocks = if ring.groups > 1 { tiles.min(device.processors()) } else { tiles };
    let launch = Launch { blocks: [blocks as u32, 1, 1], threads: ring.threads(), shared: ring.shared() };
    let back = if way == Way::Back { "back_" } else { "" };
    let kernel = format!("wgmma_{back}{}_{store}", ring.tokens);
    // SAFETY: the arguments are the kernel's; the buffers have room for the sizes given, as checked in `product` and
    // where they were made, and the maps say the same sizes.
    unsafe { device.launch(&kernel, launch, &[&own, rest].concat()) }
}

/// Adapted modules that share their input: their places among all adapted modules, in order; at most three.
#[derive(Clone, Debug)]
pub struct Members {
    /// r
    pub rank: usize,
    /// Place of each member's R.
    pub modules: Vec<usize>,
}

impl Members {
    /// Numbers of a row of p, z and t: r for each member.
    pub fn width(&self) -> usize {
        self.modules.len() * self.rank
    }

    fn words(&self) -> [u64; 3] {
        let at = |i: usize| self.modules.get(i).copied().unwrap_or(0);
        [pair(self.modules.len(), self.rank), pair(at(0), at(1)), pair(at(2), 0)]
    }
}

/// p[row][at ..] = A x, for A (columns, K) in f32; a row of p has `p_row` numbers.
///
/// # Panics
/// If sizes don't fit.
pub fn project(
    device: &Device,
    x: &Rows,
    a: &DeviceBuffer<f32>,
    p: &DeviceBuffer<f32>,
    (p_row, at): (usize, usize),
) -> Result<(), CudaError> {
    let columns = a.len() / x.width;
    assert!(p.len() >= x.rows * p_row && at + columns <= p_row, "room for a projection");
    let arguments = [
        x.data.argument(),
        int(x.stride),
        a.argument(),
        int(x.rows),
        int(x.width),
        int(columns),
        p.argument(),
        int(p_row),
        int(at),
    ];
    let blocks = [x.rows.div_ceil(4) as u32, columns.div_ceil(8) as u32, 1];
    // SAFETY: the arguments are the kernel's, with room as checked.
    unsafe { device.launch_some("side_project", Launch { blocks, threads: 128, shared: 0 }, &arguments) }
}

/// How R is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// R p
    Plain = 0,
    /// Rᵀ p
    Turned = 1,
    /// R is one number a module: a multiple of the identity.
    Multiples = 2,
}

/// z = R p for each of `rows` rows and member, with the row's own R of `r` (adapters · `length`), or as `how` says.
///
/// # Panics
/// If sizes don't fit.
pub fn apply_r(
    device: &Device,
    members: &Members,
    how: Apply,
    p: &DeviceBuffer<f32>,
    adapters: &DeviceBuffer<u32>,
    (r, length): (&DeviceBuffer<f32>, usize),
    z: &DeviceBuffer<f32>,
) -> Result<(), CudaError> {
    let (rows, width) = (adapters.len(), members.width());
    assert!(p.len() >= rows * width && z.len() >= rows * width, "room for a side path");
    let words = members.words();
    let arguments = [
        Argument::Struct(&words),
        int(how as usize),
        p.argument(),
        int(rows),
        adapters.argument(),
        r.argument(),
        int(length),
        z.argument(),
    ];
    let blocks = [(rows * width).div_ceil(128) as u32, 1, 1];
    // SAFETY: as above.
    unsafe { device.launch_some("side_apply", Launch { blocks, threads: 128, shared: 0 }, &arguments) }
}

/// `dR[adapter][module] += Σ t pᵀ` over the adapter's rows; `dr` is (adapters, `length`).
///
/// # Panics
/// If sizes don't fit.
pub fn r_gradient(
    device: &Device,
    members: &Members,
    t: &DeviceBuffer<f32>,
    p: &DeviceBuffer<f32>,
    adapters: &DeviceBuffer<u32>,
    (dr, length): (&DeviceBuffer<f64>, usize),
) -> Result<(), CudaError> {
    let (rows, width) = (adapters.len(), members.width());
    assert!(p.len() >= rows * width && t.len() >= rows * width && length > 0, "room for a side path");
    let words = members.words();
    let arguments = [
        Argument::Struct(&words),
        t.argument(),
        p.argument(),
        int(rows),
        adapters.argument(),
        dr.argument(),
        int(length),
    ];
    let rank = members.rank;
    let blocks = [(rank * rank) as u32, members.modules.len() as u32, (dr.len() / length) as u32];
    // SAFETY: as above.
    unsafe { device.launch_some("side_gradient", Launch { blocks, threads: 128, shared: 0 }, &arguments) }
}

/// Rows whose outer products are summed before the sums are joined.
const OUTER_ROWS: usize = 512;
/// Ranks at once at most: what bounds the room for parts.
const OUTER_RANKS: usize = 32;

/// Numbers of `parts` that [`add_outer`] needs for so many rows and columns.
pub fn outer_len(rows: usize, rank: usize, columns: usize) -> usize {
    rows.div_ceil(OUTER_ROWS) * rank.min(OUTER_RANKS) * columns
}

/// out (rank, columns) += Σ left rightᵀ over the rows, where left is `rank` numbers of each row of `left` (M, stride) from `at`
/// on: the gradients of A and Bᵀ. `parts` is scratch, see [`outer_len`].
///
/// # Panics
/// If sizes don't fit.
pub fn add_outer(
    device: &Device,
    (left, stride, at): (&DeviceBuffer<f32>, usize, usize),
    rank: usize,
    right: &Rows,
    parts: &DeviceBuffer<f32>,
    out: &DeviceBuffer<f32>,
) -> Result<(), CudaError> {
    let (rows, columns) = (right.rows, right.width);
    assert!(left.len() >= rows * stride && at + rank <= stride, "numbers of each row");
    assert!(out.len() == rank * columns && parts.len() >= outer_len(rows, rank, columns), "room for sums");
    let pieces = rows.div_ceil(OUTER_ROWS);
    for first in (0..rank).step_by(OUTER_RANKS) {
        let count = OUTER_RANKS.min(rank - first);
        let arguments = [
            left.argument(),
            int(stride),
            int(at + first),
            right.data.argument(),
            int(right.stride),
            int(rows),
            int(columns),
            int(count),
            parts.argument(),
        ];
        let blocks = [columns.div_ceil(128) as u32, count.div_ceil(8) as u32, pieces as u32];
        // SAFETY: the arguments are the kernel's, with room as checked.
        unsafe { device.launch_some("side_outer", Launch { blocks, threads: 128, shared: 0 }, &arguments)? };
        join(device, parts, pieces, &out.part(first * columns, count * columns))?;
    }
    Ok(())
}

/// out += Σ `parts[piece]` of so many pieces, each as long as `out`.
pub(super) fn join(
    device: &Device,
    parts: &DeviceBuffer<f32>,
    pieces: usize,
    out: &DeviceBuffer<f32>,
) -> Result<(), CudaError> {
    assert!(parts.len() >= pieces * out.len(), "parts of all sums");
    let arguments = [parts.argument(), int(pieces), int(out.len()), out.argument()];
    let launch = Launch { blocks: [out.len().div_ceil(128) as u32, 1, 1], threads: 128, shared: 0 };
    // SAFETY: the arguments are the kernel's, with room as checked.
    unsafe { device.launch_some("side_join", launch, &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_hold_all_rows_and_keep_processors_busy() {
        let tokens = |way, rows, columns| Ring::of(way, rows, columns, 132).tokens;
        let forward: Vec<usize> =
            [1, 8, 9, 33, 64, 65, 128].map(|rows| tokens(Way::Forward, rows, 3584)).into();
        assert_eq!(forward, [8, 8, 16, 64, 64, 128, 128]);
        // 28 of the largest tiles for 132 processors, then 296.
        assert_eq!((tokens(Way::Forward, 256, 3584), tokens(Way::Forward, 256, 37888)), (128, 256));
        assert_eq!((tokens(Way::Back, 1, 3584), tokens(Way::Back, 4096, 3584)), (64, 256));
        for ring in &RINGS {
            let blocks = if ring.groups == 1 { 2 } else { 1 };
            // A Hopper's shared memory, of which each block takes 1024 bytes more, and a block may ask for 232448.
            assert!(blocks * (ring.shared() + 1024) <= 233_472 && ring.shared() <= 232_448, "{ring:?}");
        }
    }
}
