//! Where rows of bf16 numbers lie, as copies of tiles by the tensor memory accelerator want to know it: an address and sizes
//! enter, what the driver makes of them leaves, for a kernel's argument.

use super::device::Device;
use super::driver::checked;
use super::error::CudaError;

/// The driver's numbers for: bf16; 128 bytes of a tile's row swizzled; 128 bytes fetched into the cache.
const BF16: i32 = 9;
const SWIZZLE_128: i32 = 3;
const PROMOTION_128: i32 = 2;

/// As the driver lays it out, on the boundary that it wants.
#[repr(C, align(64))]
pub(super) struct TensorMap([u64; 16]);

impl TensorMap {
    /// `rows` rows of `columns` numbers, `stride` numbers apart, in boxes of so many (columns, rows). Outside of it there
    /// are zeros.
    pub fn new(
        device: &Device,
        address: u64,
        (columns, rows): (usize, usize),
        stride: usize,
        (box_columns, box_rows): (u32, u32),
    ) -> Result<Self, CudaError> {
        let mut map = Self([0; 16]);
        let (sizes, strides) = ([columns as u64, rows as u64], [2 * stride as u64]);
        let (boxes, steps) = ([box_columns, box_rows], [1, 1]);
        let driver = device.inner().enter()?;
        // SAFETY: the map is written, and the lists are of two dimensions; the memory itself is not touched.
        let status = unsafe {
            (driver.tensor_map)(
                map.0.as_mut_ptr().cast(),
                BF16,
                2,
                address as *mut _,
                sizes.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                0,
                SWIZZLE_128,
                PROMOTION_128,
                0,
            )
        };
        checked("cuTensorMapEncodeTiled", status)?;
        Ok(map)
    }

    /// For a kernel's argument.
    pub fn words(&self) -> &[u64] {
        &self.0
    }
}
