//! Rotary position embedding in the rotate-half convention: element i of a head turns with element
//! i + head_dim/2. The backward pass is the turn by the negative angle.

use crate::account::Operation;
use crate::kernel::Cpu;
use crate::packed::SendPointer;

/// Cosines and sines of every position up to a maximum, for one set of inverse frequencies.
pub struct RopeTable {
    half: usize,
    /// `[position][half]` (cos, sin)
    turns: Vec<(f32, f32)>,
}

impl RopeTable {
    /// Tables for positions `0 .. positions`; the angle is rounded to f32 before cos and sin, as the
    /// reference implementations do.
    pub fn new(inverse_frequencies: &[f32], positions: usize) -> Self {
        let turns = (0..positions)
            .flat_map(|position| {
                inverse_frequencies.iter().map(move |&frequency| {
                    let angle = f64::from(position as f32 * frequency);
                    (angle.cos() as f32, angle.sin() as f32)
                })
            })
            .collect();
        Self { half: inverse_frequencies.len(), turns }
    }

    /// Cosine and sine of each position and frequency, one after the other.
    pub fn numbers(&self) -> Vec<f32> {
        self.turns.iter().flat_map(|&(cosine, sine)| [cosine, sine]).collect()
    }

    /// Number of positions covered.
    pub fn positions(&self) -> usize {
        self.turns.len().checked_div(self.half).unwrap_or(0)
    }
}

/// Turns every head of every row of `x` (T, heads · head_dim) in place, to `positions` (T).
///
/// # Panics
/// If a length does not fit or a position is not in the table.
pub fn rope(cpu: &Cpu, table: &RopeTable, positions: &[u32], head_dim: usize, x: &mut [f32]) {
    turn::<false>(cpu, table, positions, head_dim, x);
}

/// The gradient of [`rope`], in place.
///
/// # Panics
/// As [`rope`].
pub fn rope_backward(cpu: &Cpu, table: &RopeTable, positions: &[u32], head_dim: usize, dx: &mut [f32]) {
    turn::<true>(cpu, table, positions, head_dim, dx);
}

fn turn<const BACK: bool>(cpu: &Cpu, table: &RopeTable, positions: &[u32], head_dim: usize, x: &mut [f32]) {
    let _clock = cpu.clock(Operation::Rope);
    const ROWS: usize = 16;
    if positions.is_empty() {
        return;
    }
    let (width, half) = (x.len() / positions.len(), table.half);
    assert!(x.len() == width * positions.len() && width % head_dim == 0 && head_dim == 2 * half);
    let data = SendPointer(x.as_mut_ptr());
    cpu.parallel(positions.len().div_ceil(ROWS), |task| {
        for row in task * ROWS..(task * ROWS + ROWS).min(positions.len()) {
            let turns = &table.turns[positions[row] as usize * half..][..half];
            // SAFETY: each row is written by one task.
            let row = unsafe { std::slice::from_raw_parts_mut(data.get().add(row * width), width) };
            for head in row.chunks_exact_mut(head_dim) {
                let (low, high) = head.split_at_mut(half);
                for ((a, b), &(cos, sin)) in low.iter_mut().zip(high).zip(turns) {
                    let sin = if BACK { -sin } else { sin };
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;

    #[test]
    fn turns_and_turns_back() {
        let cpu = Cpu::new(Kernel::Scalar, 2);
        let table = RopeTable::new(&[1.0, 0.1, 0.01], 50);
        let x: Vec<f32> = (0..40 * 12).map(|i| (i % 13) as f32 - 6.0).collect();
        let positions: Vec<u32> = (0..40).map(|i| (i * 7 % 50) as u32).collect();
        let mut y = x.clone();
        rope(&cpu, &table, &positions, 6, &mut y);
        // Row 1 is at position 7: its first pair turns by 7 radians, its second by 0.7.
        let (cos, sin) = (0.7f32.cos(), 0.7f32.sin());
        assert!((y[13] - (x[13] * cos - x[16] * sin)).abs() < 1e-5);
        assert!((y[16] - (x[16] * cos + x[13] * sin)).abs() < 1e-5);
        rope_backward(&cpu, &table, &positions, 6, &mut y);
        assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
