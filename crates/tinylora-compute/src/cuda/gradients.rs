//! Gradients of weights that are trained, on the GPU: matrices, biases, norms. Activations and their gradients enter, sums in
//! f32 are added to.
//!
//! M rows, N outputs, K inputs, D width. `parts` is scratch of at least [`parts_len`] numbers.

use super::device::{Argument, Device, Launch};
use super::error::CudaError;
use super::memory::DeviceBuffer;
use super::product::{Matrix, Rows, int, join, operands, pair};
use super::rows::{HeadTurn, Norm};

/// Rows whose part of a vector's gradient is summed before the parts are joined, and those of a head's.
const ROWS: usize = 512;
const HEAD_ROWS: usize = 64;

/// Numbers of scratch for vectors of `width` numbers, and for heads of `head`, over so many rows.
pub fn parts_len(rows: usize, width: usize, head: usize) -> usize {
    (rows.div_ceil(ROWS) * width).max(rows.div_ceil(HEAD_ROWS) * head)
}

/// dW += dyᵀ x, for dy (M, Σ N) and x (M, K): `sums` are those of up to three matrices (N, K) whose outputs lie side by side
/// in dy.
///
/// # Panics
/// If sizes don't fit.
pub fn add_outer_products(
    device: &Device,
    dy: &Rows,
    x: &Rows,
    sums: &[DeviceBuffer<f32>],
) -> Result<(), CudaError> {
    let (outputs, inputs) = (dy.width, x.width);
    assert_eq!(dy.rows, x.rows, "rows of both sides");
    assert!((1..=3).contains(&sums.len()) && sums.iter().all(|sums| sums.len().is_multiple_of(inputs)));
    let mut end = 0;
    let ends: Vec<usize> = sums
        .iter()
        .map(|sums| {
            end += sums.len() / inputs;
            end
        })
        .collect();
    assert_eq!(end, outputs, "sums of all outputs");
    let at = |index: usize| sums.get(index).map_or(0, DeviceBuffer::address);
    let end = |index: usize| ends.get(index).copied().unwrap_or(outputs);
    let places = [at(0), at(1), at(2), pair(end(0), end(1))];
    // As a product's operands: the rows of dy are the inner index.
    let right = Matrix { data: x.data.clone(), rows: x.rows, columns: inputs };
    assert_eq!(right.stride(), x.stride, "rows one after the other");
    let mut operands = operands(dy, &right, inputs, dy.rows);
    operands[3] = pair(outputs, inputs);
    let arguments = [Argument::Struct(&operands), Argument::Struct(&places)];
    let blocks = [outputs.div_ceil(128) as u32, inputs.div_ceil(128) as u32, 1];
    let launch = Launch { blocks, threads: 256, shared: 65536 };
    // SAFETY: the arguments are the kernel's; sums have room as checked.
    unsafe { device.launch_some("outer_products", launch, &arguments) }
}

/// sums (D) += Σ_rows dy: the gradient of a bias.
///
/// # Panics
/// If sizes don't fit.
pub fn add_column_sums(
    device: &Device,
    dy: &Rows,
    parts: &DeviceBuffer<f32>,
    sums: &DeviceBuffer<f32>,
) -> Result<(), CudaError> {
    assert!(sums.len() == dy.width && parts.len() >= parts_len(dy.rows, dy.width, 0), "room for sums");
    let pieces = dy.rows.div_ceil(ROWS);
    let arguments = [dy.data.argument(), int(dy.stride), int(dy.rows), int(dy.width), parts.argument()];
    // SAFETY: the arguments are the kernel's, with room as checked.
    unsafe { device.launch_some("column_sums", columns(dy.width, pieces), &arguments)? };
    join(device, parts, pieces, sums)
}

fn columns(width: usize, pieces: usize) -> Launch {
    Launch { blocks: [width.div_ceil(128) as u32, pieces as u32, 1], threads: 128, shared: 0 }
}

impl Norm {
    /// sums (D) += the gradient of the norm's weight, given its input and ∂L/∂(its output), both (M, D). `scales` is room
    /// for M numbers.
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn add_weight_gradient(
        &self,
        device: &Device,
        (x, dy): (&DeviceBuffer<f32>, &DeviceBuffer<f32>),
        scales: &DeviceBuffer<f32>,
        parts: &DeviceBuffer<f32>,
        sums: &DeviceBuffer<f32>,
    ) -> Result<(), CudaError> {
        let (rows, width) = (scales.len(), self.weight.len());
        assert!(x.len() >= rows * width && dy.len() >= rows * width, "rows of the norm");
        assert!(sums.len() == width && parts.len() >= parts_len(rows, width, 0), "room for sums");
        let arguments =
            [x.argument(), Argument::Float(self.epsilon), int(rows), int(width), scales.argument()];
        let launch = Launch { blocks: [rows.div_ceil(4) as u32, 1, 1], threads: 128, shared: 0 };
        // SAFETY: the arguments are the kernel's, with room as checked.
        unsafe { device.launch_some("norm_scales", launch, &arguments)? };
        let pieces = rows.div_ceil(ROWS);
        let arguments =
            [x.argument(), dy.argument(), scales.argument(), int(rows), int(width), parts.argument()];
        // SAFETY: as above.
        unsafe { device.launch_some("norm_slopes", columns(width, pieces), &arguments)? };
        join(device, parts, pieces, sums)
    }
}

impl HeadTurn {
    /// Where there are norms of q and k heads: their sums (d) += the gradients of their weights, from dq (M, H · d) and dk
    /// (M, K · d) as for [`HeadTurn::backward`].
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn add_weight_gradients(
        &self,
        device: &Device,
        qkv: &Rows,
        positions: &DeviceBuffer<u32>,
        (dq, dk): (&DeviceBuffer<f32>, &DeviceBuffer<f32>),
        parts: &DeviceBuffer<f32>,
        (q_sums, k_sums): (&DeviceBuffer<f32>, &DeviceBuffer<f32>),
    ) -> Result<(), CudaError> {
        let ((queries, keys, size), rows) = (self.shape, qkv.rows);
        assert!(size <= 256 && parts.len() >= parts_len(rows, 0, size), "heads of a size that is served");
        let pieces = rows.div_ceil(HEAD_ROWS);
        for (first, heads, dy, sums) in [(0, queries, dq, q_sums), (queries * size, keys, dk, k_sums)] {
            assert!(dy.len() >= rows * heads * size && sums.len() == size, "gradients of all heads");
            let arguments = [
                qkv.data.argument(),
                int(qkv.stride),
                int(first),
                int(heads),
                int(size),
                positions.argument(),
                self.turns.argument(),
                Argument::Float(self.epsilon),
                dy.argument(),
                int(rows),
                parts.argument(),
            ];
            let launch = Launch { blocks: [pieces as u32, 1, 1], threads: 128, shared: 0 };
            // SAFETY: the arguments are the kernel's, with room as checked; positions lie in the table.
            unsafe { device.launch_some("head_norm_slopes", launch, &arguments)? };
            join(device, parts, pieces, sums)?;
        }
        Ok(())
    }
}
