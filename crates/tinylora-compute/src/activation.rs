//! Gated activations, forward and backward: `h = act(gate) · up`, element by element.

use crate::account::Operation;
use crate::kernel::{Cpu, Simd, dispatch};
use crate::lanes::{LANES, Lanes, sigmoid, tanh};
use crate::packed::SendPointer;

/// The gate's function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// x · sigmoid(x)
    Silu,
    /// x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))
    GeluTanh,
}

/// Elements a task.
const CHUNK: usize = 8192;

/// `out = act(gate) · up`
///
/// # Panics
/// If the lengths differ.
pub fn gated(cpu: &Cpu, kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let _clock = cpu.clock(Operation::Activations);
    assert!(gate.len() == up.len() && gate.len() == out.len());
    let len = gate.len();
    let out = SendPointer(out.as_mut_ptr());
    cpu.parallel(len.div_ceil(CHUNK), |task| {
        let range = task * CHUNK..(task * CHUNK + CHUNK).min(len);
        // SAFETY: tasks write disjoint ranges.
        let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(range.start), range.len()) };
        dispatch(cpu.kernel(), Forward { kind, gate: &gate[range.clone()], up: &up[range], out });
    });
}

/// Turns (gate, up) in place into (∂L/∂gate, ∂L/∂up), given ∂L/∂out.
///
/// # Panics
/// If the lengths differ.
pub fn gated_backward(cpu: &Cpu, kind: Gate, gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    let _clock = cpu.clock(Operation::Activations);
    assert!(gate.len() == up.len() && gate.len() == gradient.len());
    let len = gate.len();
    let (gate, up) = (SendPointer(gate.as_mut_ptr()), SendPointer(up.as_mut_ptr()));
    cpu.parallel(len.div_ceil(CHUNK), |task| {
        let range = task * CHUNK..(task * CHUNK + CHUNK).min(len);
        // SAFETY: tasks write disjoint ranges.
        let (gate, up) = unsafe {
            (
                std::slice::from_raw_parts_mut(gate.get().add(range.start), range.len()),
                std::slice::from_raw_parts_mut(up.get().add(range.start), range.len()),
            )
        };
        dispatch(cpu.kernel(), Backward { kind, gate, up, gradient: &gradient[range] });
    });
}

/// (act(x), act'(x))
#[inline(always)]
unsafe fn value_and_slope<L: Lanes>(kind: Gate, x: L) -> (L, L) {
    // SAFETY: L's features are the caller's.
    unsafe {
        let one = L::splat(1.0);
        match kind {
            Gate::Silu => {
                let s = sigmoid(x);
                let y = x.mul(s);
                (y, s.add(y.mul(one.sub(s))))
            }
            Gate::GeluTanh => {
                let root = L::splat(0.797_884_6);
                let x2 = x.mul(x);
                let cubic = x2.mul(L::splat(0.044_715)).fma(x, x);
                let t = tanh(cubic.mul(root));
                let half = L::splat(0.5);
                let above = half.mul(one.add(t));
                let inner = x2.fma(L::splat(3.0 * 0.044_715), one).mul(root);
                let slope = half.mul(x).mul(one.sub(t.mul(t))).fma(inner, above);
                (x.mul(above), slope)
            }
        }
    }
}

struct Forward<'a> {
    kind: Gate,
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Simd for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let whole = self.gate.len() / LANES * LANES;
        // SAFETY: full chunks in place; the tail through padded copies.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                let (value, _) = value_and_slope(self.kind, L::load(self.gate.as_ptr().add(i)));
                value.mul(L::load(self.up.as_ptr().add(i))).store(self.out.as_mut_ptr().add(i));
            }
            let rest = self.gate.len() - whole;
            if rest > 0 {
                let (gate, up) = (padded(&self.gate[whole..]), padded(&self.up[whole..]));
                let (value, _) = value_and_slope(self.kind, L::load(gate.as_ptr()));
                let mut out = [0f32; LANES];
                value.mul(L::load(up.as_ptr())).store(out.as_mut_ptr());
                self.out[whole..].copy_from_slice(&out[..rest]);
            }
        }
    }
}

fn padded(x: &[f32]) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

struct Backward<'a> {
    kind: Gate,
    gate: &'a mut [f32],
    up: &'a mut [f32],
    gradient: &'a [f32],
}

impl Simd for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let whole = self.gate.len() / LANES * LANES;
        let (gate, gate_rest) = self.gate.split_at_mut(whole);
        let (up, up_rest) = self.up.split_at_mut(whole);
        assert!(up.len() == whole && self.gradient.len() == whole + gate_rest.len());
        // SAFETY: full chunks in place; the tail through padded copies.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                let (gate, up) = (gate.as_mut_ptr().add(i), up.as_mut_ptr().add(i));
                Self::chunk::<L>(self.kind, gate, up, self.gradient.as_ptr().add(i));
            }
            let rest = gate_rest.len();
            if rest > 0 {
                let (mut gate, mut up) = (padded(gate_rest), padded(up_rest));
                let gradient = padded(&self.gradient[whole..]);
                Self::chunk::<L>(self.kind, gate.as_mut_ptr(), up.as_mut_ptr(), gradient.as_ptr());
                gate_rest.copy_from_slice(&gate[..rest]);
                up_rest.copy_from_slice(&up[..rest]);
            }
        }
    }
}

impl Backward<'_> {
    /// Sixteen elements in place.
    #[inline(always)]
    unsafe fn chunk<L: Lanes>(kind: Gate, gate: *mut f32, up: *mut f32, gradient: *const f32) {
        // SAFETY: L's features and sixteen elements are the caller's.
        unsafe {
            let (value, slope) = value_and_slope(kind, L::load(gate));
            let gradient = L::load(gradient);
            gradient.mul(L::load(up)).mul(slope).store(gate);
            gradient.mul(value).store(up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;

    fn exact(kind: Gate, x: f64) -> f64 {
        match kind {
            Gate::Silu => x / (1.0 + (-x).exp()),
            Gate::GeluTanh => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                0.5 * x * (1.0 + (root * (x + 0.044715 * x * x * x)).tanh())
            }
        }
    }

    #[test]
    fn values_and_slopes() {
        let n = 1003;
        let gate: Vec<f32> = (0..n).map(|i| (i as f32 - 500.0) / 40.0).collect();
        let up: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
        for kind in [Gate::Silu, Gate::GeluTanh] {
            let mut first: Option<Vec<f32>> = None;
            for kernel in Kernel::available() {
                let cpu = Cpu::new(kernel, 2);
                let mut out = vec![0.0; n];
                gated(&cpu, kind, &gate, &up, &mut out);
                let (mut dgate, mut dup) = (gate.clone(), up.clone());
                gated_backward(&cpu, kind, &mut dgate, &mut dup, &vec![1.0; n]);
                for i in 0..n {
                    let x = f64::from(gate[i]);
                    let slope = (exact(kind, x + 1e-4) - exact(kind, x - 1e-4)) / 2e-4;
                    assert!(
                        (f64::from(out[i]) - exact(kind, x) * f64::from(up[i])).abs() < 2e-5,
                        "{x} {}",
                        out[i]
                    );
                    assert!((f64::from(dup[i]) - exact(kind, x)).abs() < 1e-5);
                    assert!(
                        (f64::from(dgate[i]) - slope * f64::from(up[i])).abs() < 2e-5,
                        "{x} {}",
                        dgate[i]
                    );
                }
                let all: Vec<f32> = out.into_iter().chain(dgate).chain(dup).collect();
                match &first {
                    None => first = Some(all),
                    Some(first) => assert!(
                        first.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{} differs from scalar",
                        kernel.name()
                    ),
                }
            }
        }
    }
}
