//! Products of a frozen matrix on the GPU with a few f32 vectors, unrounded: the heavy part of a truncated SVD. Sums are f32
//! in one order.
//!
//! N outputs, K inputs, c vectors.

use super::device::{Device, Launch};
use super::error::CudaError;
use super::memory::DeviceBuffer;
use super::product::{Matrix, int};

/// Vectors that a kernel takes at once.
const VECTORS: usize = 8;
/// Rows whose sums are joined in f64.
const ROWS: usize = 256;

/// y (c, N) = x (c, K) Wᵀ.
///
/// # Panics
/// If x has no whole number of vectors.
pub fn forward(device: &Device, w: &Matrix, x: &[f32]) -> Result<Vec<f32>, CudaError> {
    let (n, k) = (w.rows, w.columns);
    assert!(x.len().is_multiple_of(k), "whole vectors");
    let mut y = Vec::with_capacity(x.len() / k * n);
    for x in x.chunks(VECTORS * k) {
        let count = x.len() / k;
        let (x, to) = (device.upload("vectors", x)?, device.buffer::<f32>("vectors", count * n)?);
        let arguments = [w.data.argument(), int(w.stride()), int(n), int(k)];
        let arguments = [&arguments[..], &[x.argument(), int(count), to.argument()]].concat();
        let launch = Launch { blocks: [n.div_ceil(4) as u32, 1, 1], threads: 128, shared: 0 };
        // SAFETY: the arguments are the kernel's; both sides have room for `count` vectors.
        unsafe { device.launch_some("thin_forward", launch, &arguments)? };
        y.extend(to.to_vec()?);
    }
    Ok(y)
}

/// x (c, K) = y (c, N) W.
///
/// # Panics
/// If y has no whole number of vectors.
pub fn backward(device: &Device, w: &Matrix, y: &[f32]) -> Result<Vec<f32>, CudaError> {
    let (n, k) = (w.rows, w.columns);
    assert!(y.len().is_multiple_of(n), "whole vectors");
    let (mut x, pieces) = (Vec::with_capacity(y.len() / n * k), n.div_ceil(ROWS));
    for y in y.chunks(VECTORS * n) {
        let (count, length) = (y.len() / n, y.len() / n * k);
        let y = device.upload("vectors", y)?;
        let parts: DeviceBuffer<f32> = device.buffer("parts of vectors", pieces * length)?;
        let arguments = [w.data.argument(), int(w.stride()), int(n), int(k)];
        let arguments = [&arguments[..], &[y.argument(), int(count), parts.argument()]].concat();
        let blocks = [k.div_ceil(128) as u32, pieces as u32, 1];
        // SAFETY: the arguments are the kernel's; there is room for `count` vectors in all pieces.
        unsafe { device.launch_some("thin_back", Launch { blocks, threads: 128, shared: 0 }, &arguments)? };
        let to = device.buffer::<f32>("vectors", length)?;
        let arguments = [parts.argument(), int(pieces), int(length), to.argument()];
        let blocks = [length.div_ceil(128) as u32, 1, 1];
        // SAFETY: as above.
        unsafe { device.launch_some("thin_join", Launch { blocks, threads: 128, shared: 0 }, &arguments)? };
        x.extend(to.to_vec()?);
    }
    Ok(x)
}
