//! Linear layers that share their input, with bias and side path: forward and backward.
//!
//! Forward:  p = A x,  z = R p,  y = W x + b + B z.
//! Backward: t = Bᵀ dy,  dp = Rᵀ t,  dx = Σ (Wᵀ dy + Aᵀ dp);  dR += t pᵀ, or where A and B are trained
//! dA += dp xᵀ,  dB += dy zᵀ.

use super::gradients::Gradients;
use super::pass::Pass;
use super::side::{GroupSide, ModuleSide, R};
use tinylora_compute::PackedMatrix;
use tinylora_compute::account::Operation;
use tinylora_compute::outer::{Columns, add_outer};
use tinylora_compute::product::{BackwardTerm, Product, Side, product, product_backward};
use tinylora_compute::rows::for_chunks;

/// W (out, in) and its bias.
pub(super) struct Linear {
    pub weight: PackedMatrix,
    pub bias: Option<Vec<f32>>,
}

/// Scratch numbers of a side path, (T, Σ r).
#[derive(Default)]
pub(super) struct SideScratch {
    z: Vec<f32>,
    t: Vec<f32>,
    member: Vec<f32>,
}

/// Sets the length; what was there before is arbitrary afterwards.
pub(super) fn resize(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() > len {
        buffer.truncate(len);
    } else {
        buffer.resize(len, 0.0);
    }
}

/// `outs[i] = linears[i](x)` for linear layers that share x (T, in). `p` (T, Σ r) is kept for backward.
pub(super) fn linear_forward<const N: usize>(
    pass: &Pass<'_>,
    linears: [&Linear; N],
    side: Option<&GroupSide>,
    x: &[f32],
    p: &mut Vec<f32>,
    scratch: &mut SideScratch,
    outs: [&mut Vec<f32>; N],
) {
    let rows = pass.rows();
    let side = side.filter(|side| side.project.is_some());
    if let Some(side) = side {
        let _clock = pass.cpu.clock(Operation::SidePath);
        let project = side.project.as_ref().expect("filtered above");
        resize(p, rows * side.width());
        product(pass.cpu, x, rows, &mut [Product { weight: project, bias: None, side: None, out: p }]);
        resize(&mut scratch.z, p.len());
        apply_r::<false>(pass, side, p, &mut scratch.z);
    }
    let mut outs = outs.into_iter();
    let mut products: [Product; N] = std::array::from_fn(|index| {
        let (linear, out) = (linears[index], outs.next().expect("an output for each layer"));
        resize(out, rows * linear.weight.rows());
        Product {
            weight: &linear.weight,
            bias: linear.bias.as_deref(),
            side: side.and_then(|side| {
                let member = side.members[index].as_ref()?;
                let (stride, offset) = (side.width(), member.offset);
                Some(Side { z: &scratch.z, stride, offset, matrix: &member.expand })
            }),
            out,
        }
    });
    product(pass.cpu, x, rows, &mut products);
}

/// The gradient of [`linear_forward`]: adds to `sums` and gives dx (T, in), where that is wanted. `x` is the input (T, in);
/// it is looked at only where the sums want inputs, and may be anything otherwise.
pub(super) fn linear_backward(
    pass: &Pass<'_>,
    linears: &[&Linear],
    side: Option<&GroupSide>,
    gradients: &[&[f32]],
    x: &[f32],
    p: &[f32],
    scratch: &mut SideScratch,
    sums: &mut Gradients,
    dx: Option<&mut Vec<f32>>,
) {
    let rows = pass.rows();
    let side = side.filter(|side| side.project.is_some());
    if let Some(side) = side {
        let _clock = pass.cpu.clock(Operation::SidePath);
        let (width, rank) = (side.width(), pass.rank());
        resize(&mut scratch.t, rows * width);
        for (member, dy) in side.members.iter().zip(gradients) {
            let Some(member) = member else { continue };
            resize(&mut scratch.member, rows * rank);
            let out = &mut scratch.member[..];
            product(
                pass.cpu,
                dy,
                rows,
                &mut [Product { weight: &member.reduce, bias: None, side: None, out }],
            );
            for (row, t) in scratch.member.chunks_exact(rank).enumerate() {
                scratch.t[row * width + member.offset..][..rank].copy_from_slice(t);
            }
            if let Gradients::R(dr) = sums {
                add_r_gradient(pass, member, (width, p), &scratch.member, dr);
            }
        }
        resize(&mut scratch.z, rows * width);
        apply_r::<true>(pass, side, &scratch.t, &mut scratch.z);
        if let Gradients::Factors(sums) = sums {
            add_factor_gradients(pass, side, gradients, x, p, scratch, sums);
        }
    }
    let Some(dx) = dx else { return };
    resize(dx, rows * linears[0].weight.columns());
    let terms: Vec<BackwardTerm> = linears
        .iter()
        .zip(gradients)
        .enumerate()
        .map(|(index, (linear, gradient))| BackwardTerm {
            weight: &linear.weight,
            gradient,
            side: side.and_then(|side| {
                let member = side.members[index].as_ref()?;
                let (stride, offset) = (side.width(), member.offset);
                Some(Side { z: &scratch.z, stride, offset, matrix: &member.back })
            }),
        })
        .collect();
    product_backward(pass.cpu, &terms, rows, dx);
}

/// dA += dp xᵀ and dB += dy zᵀ; dp stands in `scratch.z`, and z takes the place of t.
fn add_factor_gradients(
    pass: &Pass<'_>,
    side: &GroupSide,
    gradients: &[&[f32]],
    x: &[f32],
    p: &[f32],
    scratch: &mut SideScratch,
    sums: &mut [f32],
) {
    let (rows, rank, stride) = (pass.rows(), pass.rank(), side.width());
    apply_r::<false>(pass, side, p, &mut scratch.t);
    for (member, dy) in side.members.iter().zip(gradients) {
        let Some(member) = member else { continue };
        let (k, n) = (x.len() / rows.max(1), dy.len() / rows.max(1));
        let (da, db) = sums[member.start..][..rank * (k + n)].split_at_mut(rank * k);
        let columns = |values| Columns { values, stride, offset: member.offset, columns: rank };
        add_outer(pass.cpu, columns(&scratch.z), Columns::all(x, k), rows, da);
        add_outer(pass.cpu, columns(&scratch.t), Columns::all(dy, n), rows, db);
    }
}

/// dR += t pᵀ for each row, with the row's own R; t is (T, r), p (T, width).
fn add_r_gradient(
    pass: &Pass<'_>,
    member: &ModuleSide,
    (width, p): (usize, &[f32]),
    t: &[f32],
    dr: &mut [Vec<f64>],
) {
    let rank = pass.rank();
    for (row, t) in t.chunks_exact(rank).enumerate() {
        let p = &p[row * width + member.offset..][..rank];
        let dr = &mut dr[pass.adapter_of(row)][member.index * rank * rank..][..rank * rank];
        for (dr, &t) in dr.chunks_exact_mut(rank).zip(t) {
            dr.iter_mut().zip(p).for_each(|(dr, &p)| *dr += f64::from(t) * f64::from(p));
        }
    }
}

/// Rows a task of [`apply_r`].
const ROWS: usize = 128;

/// z = R p for each row and member, with the row's own R; or Rᵀ p.
fn apply_r<const TRANSPOSED: bool>(pass: &Pass<'_>, side: &GroupSide, p: &[f32], z: &mut [f32]) {
    let (width, rank) = (side.width(), pass.rank());
    for_chunks(pass.cpu, z, ROWS * width, |start, z| {
        let rows = p[start..].chunks_exact(width).zip(z.chunks_exact_mut(width));
        for (row, (p, z)) in rows.enumerate() {
            let r = pass.r_of(start / width + row);
            for member in side.members.iter().flatten() {
                let p = &p[member.offset..][..rank];
                let z = &mut z[member.offset..][..rank];
                match r {
                    R::Matrices(r) => {
                        let r = &r[member.index * rank * rank..][..rank * rank];
                        for (i, z) in z.iter_mut().enumerate() {
                            let at = |j: usize| if TRANSPOSED { r[j * rank + i] } else { r[i * rank + j] };
                            *z = p.iter().enumerate().fold(0.0, |sum, (j, &p)| at(j).mul_add(p, sum));
                        }
                    }
                    // The same bits: the sums above would add zeros to this one product.
                    R::Multiples(r) => {
                        z.iter_mut().zip(p).for_each(|(z, &p)| *z = r[member.index].mul_add(p, 0.0));
                    }
                }
            }
        }
    });
}
