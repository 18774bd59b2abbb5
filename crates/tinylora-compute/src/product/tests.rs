//! Products against a plain reference, and the numerics contract on every instruction set.

use super::*;
use crate::kernel::Kernel;
use crate::packed::Precision;
use crate::testing::numbers;
use half::bf16;

/// The contract, written out: one chain a element.
struct Reference {
    y: Vec<f32>,
    dx: Vec<f32>,
}

struct Case {
    rows: usize,
    k: usize,
    n: usize,
    rank: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    z: Vec<f32>,
    s: Vec<f32>,
    dy: Vec<f32>,
    dz: Vec<f32>,
    sk: Vec<f32>,
}

impl Case {
    fn new(seed: u32, (rows, k, n, rank): (usize, usize, usize, usize), precision: Precision) -> Self {
        let mut w = numbers(seed + 1, n * k);
        if precision == Precision::Bf16 {
            w.iter_mut().for_each(|w| *w = bf16::from_f32(*w).to_f32());
        }
        Self {
            rows,
            k,
            n,
            rank,
            x: numbers(seed, rows * k),
            w,
            bias: numbers(seed + 2, n),
            z: numbers(seed + 3, rows * (rank + 3)),
            s: numbers(seed + 4, rank * n),
            dy: numbers(seed + 5, rows * n),
            dz: numbers(seed + 6, rows * (rank + 3)),
            sk: numbers(seed + 7, rank * k),
        }
    }

    fn reference(&self) -> Reference {
        let Self { rows, k, n, rank, .. } = *self;
        let mut y = vec![0.0; rows * n];
        let mut dx = vec![0.0; rows * k];
        for row in 0..rows {
            for column in 0..n {
                let mut sum = self.bias[column];
                for i in 0..k {
                    sum = self.x[row * k + i].mul_add(self.w[column * k + i], sum);
                }
                for s in 0..rank {
                    sum = self.z[row * (rank + 3) + 1 + s].mul_add(self.s[s * n + column], sum);
                }
                y[row * n + column] = sum;
            }
            for column in 0..k {
                let mut sum = 0.0;
                for i in 0..n {
                    sum = self.dy[row * n + i].mul_add(self.w[i * k + column], sum);
                }
                for s in 0..rank {
                    sum = self.dz[row * (rank + 3) + 1 + s].mul_add(self.sk[s * k + column], sum);
                }
                dx[row * k + column] = sum;
            }
        }
        Reference { y, dx }
    }

    fn run(&self, cpu: &Cpu, precision: Precision) -> Reference {
        let Self { rows, k, n, rank, .. } = *self;
        let weight = PackedMatrix::from_slice(cpu, (n, k), precision, &self.w);
        let (side, back) = (SideMatrix::new(n, rank, &self.s), SideMatrix::new(k, rank, &self.sk));
        let mut y = vec![f32::NAN; rows * n];
        let mut dx = vec![f32::NAN; rows * k];
        let side = Side { z: &self.z, stride: rank + 3, offset: 1, matrix: &side };
        let bias = padded_bias(&self.bias);
        product(
            cpu,
            &self.x,
            rows,
            &mut [Product { weight: &weight, bias: Some(&bias), side: Some(side), out: &mut y }],
        );
        let side = Side { z: &self.dz, stride: rank + 3, offset: 1, matrix: &back };
        let term = BackwardTerm { weight: &weight, gradient: &self.dy, side: Some(side) };
        product_backward(cpu, &[term], rows, &mut dx);
        Reference { y, dx }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Rows, K, N, rank.
const SHAPES: [(usize, usize, usize, usize); 10] = [
    (1, 1, 1, 0),
    (1, 7, 130, 2),
    (2, 33, 47, 1),
    (3, 64, 96, 2),
    (5, 641, 17, 2),
    (6, 576, 32, 2),
    (7, 30, 16, 3),
    (49, 129, 545, 2),
    (97, 700, 40, 2),
    (100, 20, 1030, 5),
];

/// Odd and even shapes around every blocking boundary, all kernels, one to three threads, both precisions:
/// bit for bit the chain of the contract.
#[test]
fn every_kernel_is_the_chain() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        for precision in [Precision::F32, Precision::Bf16] {
            let case = Case::new(seed as u32 * 100, shape, precision);
            let wanted = case.reference();
            for kernel in Kernel::available() {
                for threads in [1, 3] {
                    let got = case.run(&Cpu::new(kernel, threads), precision);
                    let what = format!("{shape:?} {precision:?} {} {threads} threads", kernel.name());
                    if kernel.rounds_activations() && precision == Precision::Bf16 {
                        continue;
                    }
                    assert!(same_bits(&got.y, &wanted.y), "forward {what}");
                    assert!(same_bits(&got.dx, &wanted.dx), "backward {what}");
                }
            }
        }
    }
}

/// Kernels that round activations: those of this processor, and AMX's arithmetic on any.
fn rounding() -> impl Iterator<Item = Kernel> {
    Kernel::available().into_iter().chain([Kernel::AmxEmulated]).filter(|kernel| kernel.rounds_activations())
}

/// Kernels that round activations give the product of the rounded ones, and the same bits with any number of threads.
#[test]
fn rounding_kernels_are_near_the_chain() {
    let round = |numbers: &mut [f32]| numbers.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
    for kernel in rounding() {
        for (seed, shape) in SHAPES.into_iter().enumerate() {
            let mut case = Case::new(seed as u32 * 100, shape, Precision::Bf16);
            let unrounded = case.run(&Cpu::new(kernel, 1), Precision::Bf16);
            round(&mut case.x);
            round(&mut case.dy);
            let wanted = case.reference();
            for threads in [1, 3] {
                let got = case.run(&Cpu::new(kernel, threads), Precision::Bf16);
                assert!(same_bits(&got.y, &unrounded.y) && same_bits(&got.dx, &unrounded.dx), "{shape:?}");
                for (got, wanted) in got.y.iter().zip(&wanted.y).chain(got.dx.iter().zip(&wanted.dx)) {
                    // Up to 1030 terms of size 1/3, in another order.
                    assert!((got - wanted).abs() < 1e-4, "{shape:?} {}: {got} {wanted}", kernel.name());
                }
            }
        }
    }
}

/// AMX's chain, written out: thirty-two terms a step, even and odd ones apart.
#[test]
fn tiles_are_their_chain() {
    let cpu = Cpu::new(Kernel::AmxEmulated, 2);
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let mut case = Case::new(seed as u32 * 100, shape, Precision::Bf16);
        let got = case.run(&cpu, Precision::Bf16);
        case.x.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        let (rows, k, n, rank) = shape;
        for (row, column) in (0..rows).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let (x, w) = (&case.x[row * k..][..k], &case.w[column * k..][..k]);
            let mut sum = case.bias[column];
            for (x, w) in x.chunks(32).zip(w.chunks(32)) {
                let part = |first: usize| {
                    let terms = x.iter().zip(w).skip(first).step_by(2);
                    terms.fold(0f32, |sum, (x, w)| x.mul_add(*w, sum))
                };
                sum += part(0) + part(1);
            }
            for s in 0..rank {
                sum = case.z[row * (rank + 3) + 1 + s].mul_add(case.s[s * n + column], sum);
            }
            assert_eq!(
                got.y[row * n + column].to_bits(),
                sum.to_bits(),
                "{shape:?} row {row} column {column}"
            );
        }
    }
}

/// Where the processor has AMX, it gives the bits of its emulation.
#[test]
fn amx_is_its_emulation() {
    if !Kernel::Amx.is_available() {
        return;
    }
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(seed as u32 * 100, shape, Precision::Bf16);
        let wanted = case.run(&Cpu::new(Kernel::AmxEmulated, 1), Precision::Bf16);
        let got = case.run(&Cpu::new(Kernel::Amx, 2), Precision::Bf16);
        assert!(same_bits(&got.y, &wanted.y) && same_bits(&got.dx, &wanted.dx), "{shape:?}");
    }
}

/// A row's result does not depend on the batch that it stands in.
#[test]
fn rows_do_not_see_each_other() {
    for kernel in [Kernel::best(), Kernel::AmxEmulated] {
        rows_alone_and_together(&Cpu::new(kernel, 2));
    }
}

fn rows_alone_and_together(cpu: &Cpu) {
    let (k, n) = (1450, 77); // two blocks of pairs, and a step that is not whole
    let w = numbers(1, n * k);
    let weight = PackedMatrix::from_slice(cpu, (n, k), Precision::Bf16, &w);
    let x = numbers(2, 103 * k);
    let run = |x: &[f32]| {
        let rows = x.len() / k;
        let mut y = vec![0.0; rows * n];
        product(cpu, x, rows, &mut [Product { weight: &weight, bias: None, side: None, out: &mut y }]);
        y
    };
    let all = run(&x);
    for row in [0, 5, 50, 102] {
        let alone = run(&x[row * k..][..k]);
        assert!(same_bits(&alone, &all[row * n..][..n]));
        let dots: Vec<f32> = (0..n).map(|i| product_at(cpu, &weight, i, &x[row * k..][..k])).collect();
        assert!(same_bits(&dots, &alone));
    }
}

#[test]
fn two_terms_continue_one_chain() {
    let cpu = Cpu::new(Kernel::best(), 2);
    let (rows, k) = (9, 50);
    let (w1, w2) = (numbers(1, 20 * k), numbers(2, 35 * k));
    let (g1, g2) = (numbers(3, rows * 20), numbers(4, rows * 35));
    let pack = |n, w: &[f32]| PackedMatrix::from_slice(&cpu, (n, k), Precision::F32, w);
    let (p1, p2, both) = (pack(20, &w1), pack(35, &w2), pack(55, &[w1, w2].concat()));
    let joined: Vec<f32> =
        (0..rows).flat_map(|r| [&g1[r * 20..][..20], &g2[r * 35..][..35]].concat()).collect();
    let term = |weight, gradient| BackwardTerm { weight, gradient, side: None };
    let (mut a, mut b) = (vec![0.0; rows * k], vec![0.0; rows * k]);
    product_backward(&cpu, &[term(&p1, &g1), term(&p2, &g2)], rows, &mut a);
    product_backward(&cpu, &[term(&both, &joined)], rows, &mut b);
    assert!(same_bits(&a, &b));
}

/// Few rows backward through two bf16 matrices without a side path, which are read as they lie: the chain all the same.
#[test]
fn few_rows_are_the_chain() {
    for (seed, (n, k)) in
        [(1, 1), (7, 33), (16, 16), (47, 130), (130, 31), (70, 2400)].into_iter().enumerate()
    {
        let seed = 10 * seed as u32;
        let rounded = |seed, len| -> Vec<f32> {
            numbers(seed, len).into_iter().map(|w| bf16::from_f32(w).to_f32()).collect()
        };
        let (w1, w2) = (rounded(seed, n * k), rounded(seed + 1, (n + 3) * k));
        for rows in [1, 2, 3, 4, 5, 7, 8, 9] {
            let (g1, g2) = (numbers(seed + 2, rows * n), numbers(seed + 3, rows * (n + 3)));
            let mut wanted = vec![0f32; rows * k];
            for (i, sum) in wanted.iter_mut().enumerate() {
                let (row, column) = (i / k, i % k);
                for (w, g, n) in [(&w1, &g1, n), (&w2, &g2, n + 3)] {
                    for j in 0..n {
                        *sum = g[row * n + j].mul_add(w[j * k + column], *sum);
                    }
                }
            }
            for kernel in Kernel::available() {
                for threads in [1, 3] {
                    let cpu = Cpu::new(kernel, threads).exact();
                    let pack = |n, w: &[f32]| PackedMatrix::from_slice(&cpu, (n, k), Precision::Bf16, w);
                    let (p1, p2) = (pack(n, &w1), pack(n + 3, &w2));
                    let term = |weight, gradient| BackwardTerm { weight, gradient, side: None };
                    let mut dx = vec![f32::NAN; rows * k];
                    product_backward(&cpu, &[term(&p1, &g1), term(&p2, &g2)], rows, &mut dx);
                    assert!(
                        same_bits(&dx, &wanted),
                        "{rows} × {n} × {k} {} {threads} threads",
                        kernel.name()
                    );
                }
            }
        }
    }
}
