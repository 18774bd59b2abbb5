//! RMS norm, forward and backward, over rows of any length (T rows, D columns).
//!
//! `y = x · w / √(mean(x²) + ε)`; w stands for `1 + weight` where a family has it so.

use crate::account::Operation;
use crate::kernel::{Cpu, Simd, dispatch};
use crate::lanes::{LANES, Lanes};
use crate::packed::SendPointer;

/// Rows a task.
const ROWS: usize = 16;

/// `out = x · w / rms(x)` for each row of D numbers; `w` is (D).
///
/// # Panics
/// If a length does not fit.
pub fn rms_norm(cpu: &Cpu, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let _clock = cpu.clock(Operation::Norms);
    let d = weight.len();
    assert_eq!(x.len(), out.len());
    assert_eq!(x.len() % d, 0, "whole rows of {d}");
    let rows = x.len() / d;
    let out = SendPointer(out.as_mut_ptr());
    cpu.parallel(rows.div_ceil(ROWS), |task| {
        for row in task * ROWS..(task * ROWS + ROWS).min(rows) {
            // SAFETY: each row is written by one task.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(row * d), d) };
            dispatch(cpu.kernel(), Forward { x: &x[row * d..][..d], weight, epsilon, out });
        }
    });
}

/// Adds the gradient of [`rms_norm`]: `dx += ∂L/∂x` given `dy`, row by row.
///
/// # Panics
/// If a length does not fit.
pub fn rms_norm_backward(cpu: &Cpu, x: &[f32], weight: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32]) {
    let _clock = cpu.clock(Operation::Norms);
    let d = weight.len();
    assert!(x.len() == dy.len() && x.len() == dx.len());
    assert_eq!(x.len() % d, 0, "whole rows of {d}");
    let rows = x.len() / d;
    let dx = SendPointer(dx.as_mut_ptr());
    cpu.parallel(rows.div_ceil(ROWS), |task| {
        for row in task * ROWS..(task * ROWS + ROWS).min(rows) {
            // SAFETY: each row is written by one task.
            let dx = unsafe { std::slice::from_raw_parts_mut(dx.get().add(row * d), d) };
            let (x, dy) = (&x[row * d..][..d], &dy[row * d..][..d]);
            dispatch(cpu.kernel(), Backward { x, weight, epsilon, dy, dx });
        }
    });
}

/// Σ a·b·c in sixteen lanes; the tail fills the lanes from the first on.
#[inline(always)]
unsafe fn dot3<L: Lanes>(a: &[f32], b: &[f32], c: Option<&[f32]>) -> f32 {
    // SAFETY: full chunks are read in place, the tail from a padded copy; L's features are the caller's.
    unsafe {
        let mut sum = L::splat(0.0);
        let whole = a.len() / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let mut b = L::load(b.as_ptr().add(i));
            if let Some(c) = c {
                b = b.mul(L::load(c.as_ptr().add(i)));
            }
            sum = L::load(a.as_ptr().add(i)).fma(b, sum);
        }
        if whole < a.len() {
            let pad = |x: &[f32]| {
                let mut lanes = [0f32; LANES];
                lanes[..x.len() - whole].copy_from_slice(&x[whole..]);
                lanes
            };
            let mut tail = L::load(pad(b).as_ptr());
            if let Some(c) = c {
                tail = tail.mul(L::load(pad(c).as_ptr()));
            }
            sum = L::load(pad(a).as_ptr()).fma(tail, sum);
        }
        sum.sum()
    }
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Simd for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // SAFETY: the slices are equally long.
        let squares = unsafe { dot3::<L>(self.x, self.x, None) };
        let scale = 1.0 / (squares / self.x.len() as f32 + self.epsilon).sqrt();
        for ((out, &x), &w) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * scale * w;
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Simd for Backward<'_> {
    type Output = ();
    /// With s = 1/rms: `dx = s·w·dy − x·s³/D · Σ(x·w·dy)`.
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let d = self.x.len() as f32;
        // SAFETY: the slices are equally long.
        let (squares, projection) =
            unsafe { (dot3::<L>(self.x, self.x, None), dot3::<L>(self.x, self.weight, Some(self.dy))) };
        let scale = 1.0 / (squares / d + self.epsilon).sqrt();
        let along = scale * scale * scale * projection / d;
        for (((dx, &x), &w), &dy) in self.dx.iter_mut().zip(self.x).zip(self.weight).zip(self.dy) {
            *dx += scale * w * dy - x * along;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;

    #[test]
    fn matches_f64_and_finite_differences() {
        for d in [1, 15, 16, 40, 576] {
            let x: Vec<f32> = (0..2 * d).map(|i| ((i * 37 % 17) as f32 - 8.0) / 5.0 + 0.01).collect();
            let w: Vec<f32> = (0..d).map(|i| 0.5 + (i % 5) as f32 / 4.0).collect();
            let dy: Vec<f32> = (0..2 * d).map(|i| ((i * 11 % 7) as f32 - 3.0) / 3.0).collect();
            let exact = |x: &[f32]| -> Vec<f64> {
                let rows = x.chunks(d).flat_map(|row| {
                    let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / d as f64;
                    let scale = 1.0 / (mean + f64::from(1e-5f32)).sqrt();
                    row.iter()
                        .zip(&w)
                        .map(move |(&x, &w)| f64::from(x) * scale * f64::from(w))
                        .collect::<Vec<_>>()
                });
                rows.collect()
            };
            for kernel in Kernel::available() {
                let cpu = Cpu::new(kernel, 2);
                let mut y = vec![0.0; 2 * d];
                rms_norm(&cpu, &x, &w, 1e-5, &mut y);
                for (a, b) in y.iter().zip(exact(&x)) {
                    assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
                }
                let mut dx = vec![0.0; 2 * d];
                rms_norm_backward(&cpu, &x, &w, 1e-5, &dy, &mut dx);
                for i in 0..2 * d {
                    let loss = |delta: f32| -> f64 {
                        let mut x = x.clone();
                        x[i] += delta;
                        exact(&x).iter().zip(&dy).map(|(y, &g)| y * f64::from(g)).sum()
                    };
                    let slope = (loss(1e-3) - loss(-1e-3)) / 2e-3;
                    assert!(
                        (slope - f64::from(dx[i])).abs() < 2e-3 * (1.0 + slope.abs()),
                        "{slope} {}",
                        dx[i]
                    );
                }
            }
        }
    }
}
