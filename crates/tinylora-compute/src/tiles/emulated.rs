//! Tiles in plain Rust, as the processor's manual defines their arithmetic. Denormal numbers, which AMX takes for
//! 0, are the one difference.

use super::{ROWS, STEP, TileUnit};
use crate::lanes::LANES;

/// Four tiles of sums in memory.
pub struct EmulatedTiles {
    sums: [[[f32; LANES]; ROWS]; 4],
}

// SAFETY (of every block below): the trait's caller vouches for the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl TileUnit for EmulatedTiles {
    const PRESENT: bool = true;
    const SLOWNESS: usize = 100;

    unsafe fn begin() -> Self {
        Self { sums: [[[0.0; LANES]; ROWS]; 4] }
    }

    unsafe fn zero(&mut self, tile: usize) {
        self.sums[tile] = [[0.0; LANES]; ROWS];
    }

    unsafe fn load(&mut self, tile: usize, from: *const f32, stride: usize) {
        for (row, sums) in self.sums[tile].iter_mut().enumerate() {
            *sums = unsafe { from.add(row * stride).cast::<[f32; LANES]>().read_unaligned() };
        }
    }

    unsafe fn store(&mut self, tile: usize, to: *mut f32, stride: usize) {
        for (row, sums) in self.sums[tile].iter().enumerate() {
            unsafe { to.add(row * stride).cast::<[f32; LANES]>().write_unaligned(*sums) };
        }
    }

    unsafe fn step<const R: usize, const P: usize>(&mut self, a: [*const u32; 2], b: [*const u32; 2]) {
        for r in 0..R {
            for (row, a) in (0..ROWS).map(|row| (row, unsafe { a[r].add(row * STEP) })) {
                let a = unsafe { a.cast::<[u32; STEP]>().read_unaligned() };
                for p in 0..P {
                    let (mut even, mut odd) = ([0f32; LANES], [0f32; LANES]);
                    for (k, &a) in a.iter().enumerate() {
                        let b = unsafe { b[p].add(k * LANES).cast::<[u32; LANES]>().read_unaligned() };
                        for lane in 0..LANES {
                            // Products of two bf16 are exact in f32.
                            even[lane] += f32::from_bits(a << 16) * f32::from_bits(b[lane] << 16);
                            odd[lane] +=
                                f32::from_bits(a & 0xFFFF_0000) * f32::from_bits(b[lane] & 0xFFFF_0000);
                        }
                    }
                    let sums = &mut self.sums[2 * r + p][row];
                    for lane in 0..LANES {
                        sums[lane] += even[lane] + odd[lane];
                    }
                }
            }
        }
    }

    unsafe fn idle_step(&mut self) {
        let zeros = [0u32; ROWS * STEP];
        unsafe { self.step::<2, 2>([zeros.as_ptr(); 2], [zeros.as_ptr(); 2]) };
    }
}
