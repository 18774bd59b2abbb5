//! Matrices in the one layout that every product reads, forward and backward.
//!
//! A matrix W (n rows = outputs, k columns = inputs) is cut into panels of sixteen rows. In f32 a panel is
//! `[k][16]`; in bf16 it is `[⌈k/2⌉][16][2]`: two neighbouring inner indices of the same output make one
//! 32-bit unit. A tile of sixteen units by sixteen pairs is also exactly what AMX and AVX-512-BF16 read.

use crate::buffer::Buffer;
use crate::kernel::Cpu;
use crate::lanes::{LANES, Lanes};
use crate::tile::Pair;
use half::bf16;
use std::sync::Mutex;

/// How the numbers are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// bfloat16, rounded to nearest even.
    Bf16,
    /// IEEE single.
    F32,
}

pub(crate) enum Data {
    Bf16(Buffer<u32>),
    F32(Buffer<f32>),
}

/// A matrix W (n, k). Its numbers change only as a whole.
pub struct PackedMatrix {
    n: usize,
    k: usize,
    pub(crate) data: Data,
}

impl PackedMatrix {
    /// Packs a matrix whose rows `read(first_row, out)` gives; `out` is a whole number of rows. The reader is
    /// called from all threads of the device; the first error ends the packing.
    pub fn pack<E: Send>(
        cpu: &Cpu,
        (n, k): (usize, usize),
        precision: Precision,
        read: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let panels = n.div_ceil(LANES);
        let units = if precision == Precision::Bf16 { k.div_ceil(2) } else { k } * LANES;
        let mut matrix = Self {
            n,
            k,
            data: match precision {
                Precision::Bf16 => Data::Bf16(Buffer::zeroed_in_huge_pages(panels * units)),
                Precision::F32 => Data::F32(Buffer::zeroed_in_huge_pages(panels * units)),
            },
        };
        matrix.fill(cpu, read)?;
        Ok(matrix)
    }

    /// Overwrites all numbers.
    fn fill<E: Send>(
        &mut self,
        cpu: &Cpu,
        read: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let (n, k, precision) = (self.n, self.k, self.precision());
        let units = if precision == Precision::Bf16 { k.div_ceil(2) } else { k } * LANES;
        let failure = Mutex::new(None);
        let base = match &mut self.data {
            Data::Bf16(buffer) => SendPointer(buffer.as_mut_ptr().cast::<u8>()),
            Data::F32(buffer) => SendPointer(buffer.as_mut_ptr().cast::<u8>()),
        };
        cpu.parallel(n.div_ceil(LANES), |panel| {
            let first = panel * LANES;
            let count = LANES.min(n - first);
            let mut rows = vec![0f32; count * k];
            if let Err(error) = read(first, &mut rows) {
                failure.lock().expect("no panic while held").get_or_insert(error);
                return;
            }
            // SAFETY: each task writes its own panel of the buffer, which is `panels * units` units long;
            // both unit types have four bytes.
            let to =
                unsafe { std::slice::from_raw_parts_mut(base.get().cast::<u32>().add(panel * units), units) };
            for (row, values) in rows.chunks_exact(k.max(1)).enumerate() {
                match precision {
                    Precision::F32 => {
                        for (i, &value) in values.iter().enumerate() {
                            to[i * LANES + row] = value.to_bits();
                        }
                    }
                    Precision::Bf16 => {
                        for (i, pair) in values.chunks(2).enumerate() {
                            let low = u32::from(bf16::from_f32(pair[0]).to_bits());
                            let high = pair.get(1).map_or(0, |&x| u32::from(bf16::from_f32(x).to_bits()));
                            to[i * LANES + row] = low | high << 16;
                        }
                    }
                }
            }
        });
        match failure.into_inner().expect("no panic while held") {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Packs a matrix (n, k) that lies in memory row by row.
    ///
    /// # Panics
    /// If `values` is not n · k long.
    pub fn from_slice(cpu: &Cpu, (n, k): (usize, usize), precision: Precision, values: &[f32]) -> Self {
        assert_eq!(values.len(), n * k, "a {n} × {k} matrix");
        let packed: Result<Self, std::convert::Infallible> =
            Self::pack(cpu, (n, k), precision, |row, out| {
                out.copy_from_slice(&values[row * k..][..out.len()]);
                Ok(())
            });
        match packed {
            Ok(matrix) => matrix,
        }
    }

    /// The sizes of a matrix whose numbers lie elsewhere, as on a GPU: nothing can be computed with it.
    pub fn without_data((n, k): (usize, usize)) -> Self {
        Self { n, k, data: Data::Bf16(Buffer::zeroed(0)) }
    }

    /// Replaces all numbers by those of a matrix of the same size that lies in memory row by row, in place.
    ///
    /// # Panics
    /// If `values` is not n · k long.
    pub fn repack(&mut self, cpu: &Cpu, values: &[f32]) {
        let (n, k) = (self.n, self.k);
        assert_eq!(values.len(), n * k, "a {n} × {k} matrix");
        let filled: Result<(), std::convert::Infallible> = self.fill(cpu, |row, out| {
            out.copy_from_slice(&values[row * k..][..out.len()]);
            Ok(())
        });
        match filled {
            Ok(()) => {}
        }
    }

    /// n: rows, outputs.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// k: columns, inputs.
    pub fn columns(&self) -> usize {
        self.k
    }

    /// How the numbers are held.
    pub fn precision(&self) -> Precision {
        match self.data {
            Data::Bf16(_) => Precision::Bf16,
            Data::F32(_) => Precision::F32,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::Bf16(buffer) => size_of_val(&**buffer),
            Data::F32(buffer) => size_of_val(&**buffer),
        }
    }

    /// Element (row, column), widened.
    #[inline]
    pub fn get(&self, row: usize, column: usize) -> f32 {
        let (panel, lane) = (row / LANES, row % LANES);
        match &self.data {
            Data::F32(data) => data[(panel * self.k + column) * LANES + lane],
            Data::Bf16(data) => {
                let unit = data[(panel * self.k.div_ceil(2) + column / 2) * LANES + lane];
                f32::from_bits(if column.is_multiple_of(2) { unit << 16 } else { unit & 0xFFFF_0000 })
            }
        }
    }

    /// Copies one row, times a factor, to `out` (k).
    pub fn copy_row(&self, row: usize, factor: f32, out: &mut [f32]) {
        for (column, value) in out.iter_mut().enumerate() {
            *value = self.get(row, column) * factor;
        }
    }

    /// Rows `16 · panel ..` as `[row][16]` f32 for the inner index running over rows: element (i, j) is
    /// `W[first_row + i][16 · column_panel + j]`. Columns past the end are 0.
    ///
    /// # Safety
    /// The processor has `L`'s instruction set.
    #[inline(always)]
    pub(crate) unsafe fn unpack_transposed<L: Lanes>(
        &self,
        first_row: usize,
        rows: usize,
        column_panel: usize,
        out: &mut [f32],
    ) {
        debug_assert_eq!(first_row % LANES, 0);
        let first_column = column_panel * LANES;
        let columns = LANES.min(self.k - first_column);
        for start in (0..rows).step_by(LANES) {
            let panel = (first_row + start) / LANES;
            let count = LANES.min(rows - start);
            let out = &mut out[start * LANES..][..count * LANES];
            match &self.data {
                Data::F32(data) => {
                    let from = &data[(panel * self.k + first_column) * LANES..];
                    for column in 0..LANES {
                        for row in 0..count {
                            out[row * LANES + column] =
                                if column < columns { from[column * LANES + row] } else { 0.0 };
                        }
                    }
                }
                Data::Bf16(data) => {
                    let pairs = columns.div_ceil(2);
                    let from =
                        &data[(panel * self.k.div_ceil(2) + first_column / 2) * LANES..][..pairs * LANES];
                    if (count, columns) == (LANES, LANES) {
                        let mut turned = [0u32; LANES / 2 * LANES];
                        // SAFETY: sixteen rows by eight pairs, whole rows of `out`; the instruction set is the caller's.
                        unsafe {
                            L::turn_pairs(from.as_ptr(), turned.as_mut_ptr());
                            // Not zipped chunks: those were calls, as often as there are rows.
                            for pair in 0..LANES / 2 {
                                let (from, to) = (
                                    turned.as_ptr().add(pair * LANES),
                                    out.as_mut_ptr().add(2 * pair * LANES),
                                );
                                L::load_bf16_low(from).store(to);
                                L::load_bf16_high(from).store(to.add(LANES));
                            }
                        }
                        continue;
                    }
                    for (row, out) in out.chunks_exact_mut(LANES).enumerate() {
                        for (units, out) in from.chunks_exact(LANES).zip(out.chunks_exact_mut(2)) {
                            // After an odd end the high half is 0.
                            out[0] = f32::from_bits(units[row] << 16);
                            out[1] = f32::from_bits(units[row] & 0xFFFF_0000);
                        }
                        out[2 * pairs..].fill(0.0);
                    }
                }
            }
        }
    }

    /// The same of a bf16 matrix in pairs of neighbouring rows, `[row / 2][16]`, for products of pairs: element (i, j)
    /// is `W[first_row + 2i][16 · column_panel + j]` (low half) and the same of the next row. Past the ends 0.
    ///
    /// # Safety
    /// The processor has `L`'s instruction set.
    #[inline(always)]
    pub(crate) unsafe fn unpack_transposed_pairs<L: Lanes>(
        &self,
        first_row: usize,
        rows: usize,
        column_panel: usize,
        out: &mut [Pair],
    ) {
        debug_assert_eq!(first_row % LANES, 0);
        let Data::Bf16(data) = &self.data else { unreachable!("pairs are of bf16 matrices") };
        let first_column = column_panel * LANES;
        let column_pairs = LANES.min(self.k - first_column).div_ceil(2);
        for start in (0..rows).step_by(LANES) {
            let panel = (first_row + start) / LANES;
            // Rows past the last are 0 in the packed panel.
            let count = LANES.min(rows - start).div_ceil(2);
            let out = &mut out[start / 2 * LANES..][..count * LANES];
            let from =
                &data[(panel * self.k.div_ceil(2) + first_column / 2) * LANES..][..column_pairs * LANES];
            if (count, column_pairs) == (LANES / 2, LANES / 2) {
                // SAFETY: half of sixteen units by sixteen each; the instruction set is the caller's.
                unsafe { L::turn_pairs(from.as_ptr(), out.as_mut_ptr().cast()) };
                continue;
            }
            for (row, out) in out.chunks_exact_mut(LANES).enumerate() {
                for (units, out) in from.chunks_exact(LANES).zip(out.chunks_exact_mut(2)) {
                    let (upper, lower) = (units[2 * row], units[2 * row + 1]);
                    out[0] = Pair(upper & 0xFFFF | lower << 16);
                    out[1] = Pair(upper >> 16 | lower & 0xFFFF_0000);
                }
                out[2 * column_pairs..].fill(Pair(0));
            }
        }
    }
}

/// A pointer that tasks on several threads may use for disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct SendPointer<T>(pub *mut T);
// SAFETY: whoever uses the pointer vouches for disjoint places.
unsafe impl<T> Send for SendPointer<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SendPointer<T> {}
impl<T> SendPointer<T> {
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}
