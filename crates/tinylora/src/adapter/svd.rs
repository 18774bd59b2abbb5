//! One frozen matrix enters, its r largest singular triplets leave. Nothing here knows of modules or files.
//!
//! Block Lanczos iteration with thick restarts on the smaller of WᵀW and WWᵀ (Golub, Luk and Overton 1981; Wu and Simon 2000),
//! with full orthogonalization. Products run in f32 where the matrix lies, and their order of summation is fixed
//! there; all small algebra runs on the host in f64 in one order. So the result depends on the weights alone, not on threads
//! or the instruction set, but that a GPU's products round otherwise than the host's.
//!
//! Legend: W (n, k), d = min(n, k), b block size, m basis size; vectors are rows.

use tinylora_compute::Cpu;

use super::symmetric::{eigenvectors, norm};
use crate::model::{DeviceError, Frozen};
use crate::random::{Purpose, Stream};

/// Changes whenever the result may change by more than rounding; part of the cache's key.
pub(super) const ALGORITHM_VERSION: u32 = 2;
/// Seed of the start vectors.
const SEED: u64 = 0x7376_6431;
/// Vectors of a block beyond r. On SmolLM2 r + 2 costs half the work of r + 6 at the same number of products.
const OVERSAMPLING: usize = 2;
/// Blocks of the basis at which it is restarted, and of Ritz vectors that it keeps then: of a random matrix (3584, 18944) with
/// r = 2 that is 73 products, with twice the basis 65, without the kept ones 161.
const BLOCKS: usize = 16;
const KEPT_BLOCKS: usize = 4;
/// Blocks after which the Ritz vectors are looked at.
const CHECK_BLOCKS: usize = 4;
/// Converged: ‖Wᵀu − σv‖ ≤ this · σ.
const TOLERANCE: f64 = 1e-6;
/// Accepted where rounding lets nothing more improve: ‖Wᵀu − σv‖ ≤ this · σ₁.
const FLOOR: f64 = 1e-4;
/// Looks without progress after which rounding is taken to be the limit.
const PATIENCE: usize = 6;
const MAX_RESTARTS: usize = 300;

/// The r largest singular triplets of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TruncatedSvd {
    /// A = Vᵀ, (r, k).
    pub a: Vec<f32>,
    /// B = UΣ, (n, r).
    pub b: Vec<f32>,
    /// Largest ‖Wᵀu − σv‖/σ of the r triplets (0 where σ is 0).
    pub residual: f64,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SvdFailure {
    /// The matrix has a NaN or an infinity, or numbers whose squares overflow.
    NotFinite,
    /// The residual after all restarts.
    NotConverged { residual: f64, restarts: usize },
    /// What the GPU says.
    Device(String),
}

impl From<DeviceError> for SvdFailure {
    fn from(error: DeviceError) -> Self {
        Self::Device(error.to_string())
    }
}

/// Computes them. `stream` sets the start vectors; 1 ≤ rank ≤ min(n, k). Signs are canonical: the component of
/// each u that is largest in absolute value (the first of equals) is positive.
pub(super) fn truncated_svd(
    cpu: &Cpu,
    weight: &Frozen<'_>,
    rank: usize,
    stream: u64,
) -> Result<TruncatedSvd, SvdFailure> {
    let exact = cpu.exact();
    let cpu = &exact;
    let operator = Operator { cpu, weight, over_columns: weight.columns() <= weight.rows() };
    let d = operator.dimension();
    let block = (rank + OVERSAMPLING).min(d);
    let stream = Stream::new(SEED, Purpose::Factors, stream);
    let start: Vec<f32> = (0..block * d).map(|i| (2.0 * stream.uniform(i as u64) - 1.0) as f32).collect();

    let space = Krylov::new(d, start);
    let mut search = Search { operator, rank, block, space, progress: Progress::NONE };
    for _ in 0..MAX_RESTARTS {
        if let Some(found) = search.until_restart()? {
            return Ok(found);
        }
    }
    Err(SvdFailure::NotConverged { residual: search.progress.best, restarts: MAX_RESTARTS })
}

/// The iteration's state.
struct Search<'a> {
    operator: Operator<'a>,
    rank: usize,
    block: usize,
    space: Krylov,
    progress: Progress,
}

impl Search<'_> {
    /// Grows the basis until the Ritz vectors converge, or it is full, or nothing gets better; then restarts it.
    fn until_restart(&mut self) -> Result<Option<TruncatedSvd>, SvdFailure> {
        loop {
            let exhausted = self.grow()?;
            let vectors = self.space.ritz_vectors();
            let (x, ax) = self.space.ritz(&vectors, self.rank);
            let estimate = residual(&x, &ax, self.space.d, self.rank)?;
            self.progress.look(estimate.relative);
            let stuck = exhausted || self.progress.stalled >= PATIENCE;
            if estimate.relative <= TOLERANCE || (stuck && (self.space.pure || exhausted)) {
                if let Some(found) = self.verified(&vectors)? {
                    return Ok(Some(found));
                }
                self.space.pure = false;
            } else if !stuck && !self.full() {
                continue;
            }
            // What can't grow any more is asked until it is out of patience.
            if !exhausted && (stuck || !self.space.pure) {
                self.progress = Progress::NONE;
            }
            self.space.restart(&self.operator, &vectors, KEPT_BLOCKS * self.block)?;
            return Ok(None);
        }
    }

    /// So many blocks more, as far as there is room. True if there is nothing more to find.
    fn grow(&mut self) -> Result<bool, SvdFailure> {
        for _ in 0..CHECK_BLOCKS {
            if !self.space.grow(&self.operator)? {
                return Ok(true);
            }
            if self.full() {
                break;
            }
        }
        Ok(false)
    }

    fn full(&self) -> bool {
        self.space.size() + self.block > BLOCKS * self.block
    }

    /// The first Ritz vectors, if they have converged: rounding has its part in what the images say, so they are asked themselves.
    fn verified(&mut self, vectors: &[f64]) -> Result<Option<TruncatedSvd>, SvdFailure> {
        let d = self.space.d;
        let mut x = Vec::with_capacity(self.block * d);
        extend_basis(&mut x, &self.space.ritz(vectors, self.block).0, d);
        let (y, ax) = self.operator.apply(&x)?;
        let check = residual(&x, &ax, d, self.rank)?;
        self.progress.look(check.relative);
        Ok(self.progress.ended(&check).then(|| self.operator.triplets(&x, &y, self.rank, check.relative)))
    }
}

/// Whether it still gets better.
struct Progress {
    /// Smallest residual so far, in units of each σ.
    best: f64,
    /// Looks without a smaller one.
    stalled: usize,
}

impl Progress {
    const NONE: Self = Self { best: f64::INFINITY, stalled: 0 };

    fn look(&mut self, relative: f64) {
        self.stalled = if relative < 0.7 * self.best { 0 } else { self.stalled + 1 };
        self.best = self.best.min(relative);
    }

    fn ended(&self, residual: &Residual) -> bool {
        residual.relative <= TOLERANCE || (self.stalled >= PATIENCE && residual.absolute <= FLOOR)
    }
}

/// WᵀW where W has at most as many columns as rows, else WWᵀ.
struct Operator<'a> {
    cpu: &'a Cpu,
    weight: &'a Frozen<'a>,
    over_columns: bool,
}

impl Operator<'_> {
    /// d
    fn dimension(&self) -> usize {
        self.weight.columns().min(self.weight.rows())
    }

    /// Rows x (c, d) → y, the rows on the other side of W (c, max(n, k)), and back to (c, d).
    fn apply(&self, x: &[f32]) -> Result<(Vec<f32>, Vec<f32>), SvdFailure> {
        let (cpu, weight) = (self.cpu, self.weight);
        if self.over_columns {
            let y = weight.forward(cpu, x)?;
            let z = weight.backward(cpu, &y)?;
            Ok((y, z))
        } else {
            let y = weight.backward(cpu, x)?;
            let z = weight.forward(cpu, &y)?;
            Ok((y, z))
        }
    }

    /// Ritz vectors x (b, d) and what W makes of them → A and B of the first r.
    fn triplets(&self, x: &[f32], y: &[f32], rank: usize, residual: f64) -> TruncatedSvd {
        let (n, k) = (self.weight.rows(), self.weight.columns());
        let (d, other) = (n.min(k), n.max(k));
        let (mut a, mut b) = (vec![0f32; rank * k], vec![0f32; n * rank]);
        for triplet in 0..rank {
            let x = &x[triplet * d..][..d];
            let y = &y[triplet * other..][..other];
            let sigma = dot(y, y).sqrt();
            // Of v and u, x is a unit vector and y is σ times a unit vector.
            let over_sigma = if sigma > 0.0 { 1.0 / sigma } else { 0.0 };
            let (v, v_factor, u, u_factor) =
                if self.over_columns { (x, 1.0, y, 1.0) } else { (y, over_sigma, x, sigma) };
            let sign = canonical_sign(u);
            for (a, &v) in a[triplet * k..][..k].iter_mut().zip(v) {
                *a = (sign * v_factor * f64::from(v)) as f32;
            }
            for (row, &u) in u.iter().enumerate() {
                b[row * rank + triplet] = (sign * u_factor * f64::from(u)) as f32;
            }
        }
        TruncatedSvd { a, b, residual }
    }
}

/// −1 if the component that is largest in absolute value, the first of equals, is negative.
fn canonical_sign(u: &[f32]) -> f64 {
    let mut largest = 0f32;
    for &component in u {
        if component.abs() > largest.abs() {
            largest = component;
        }
    }
    if largest < 0.0 { -1.0 } else { 1.0 }
}

/// The largest residual of r Ritz pairs.
struct Residual {
    /// In units of each σ.
    relative: f64,
    /// In units of σ₁.
    absolute: f64,
}

/// Of x (b, d) and the operator's ax (b, d): ‖ax − θx‖/θ = ‖Wᵀu − σv‖/σ with θ = σ². What ax has along another of the r
/// vectors is left out where it is as small as rounding x to f32 can make it: that is as large a part of the other's θ, and would
/// hide that a vector beside a much larger one still gets better.
fn residual(x: &[f32], ax: &[f32], d: usize, rank: usize) -> Result<Residual, SvdFailure> {
    let mut result = Residual { relative: 0.0, absolute: 0.0 };
    let x: Vec<&[f32]> = x.chunks_exact(d).take(rank).collect();
    let ax: Vec<&[f32]> = ax.chunks_exact(d).take(rank).collect();
    let thetas: Vec<f64> = x.iter().zip(&ax).map(|(x, ax)| dot(x, ax)).collect();
    if thetas.iter().any(|theta| !theta.is_finite()) {
        return Err(SvdFailure::NotFinite);
    }
    let mut largest = 0f64; // σ₁
    for (i, (own, image)) in x.iter().zip(&ax).enumerate() {
        let theta = thetas[i];
        let mut rest: Vec<f64> = image.iter().map(|&x| f64::from(x)).collect();
        add_scaled(&mut rest, -theta, own);
        for (j, other) in x.iter().enumerate() {
            let along = dot_mixed(other, &rest);
            if j != i && along.abs() <= f64::from(f32::EPSILON) * theta.max(thetas[j]) {
                add_scaled(&mut rest, -along, other);
            }
        }
        let difference = norm(&rest);
        let sigma = theta.max(0.0).sqrt();
        largest = largest.max(sigma);
        // A σ of 0 (below what f32 can tell from 0): nothing to converge to.
        if sigma > 1e-7 * largest {
            result.relative = result.relative.max(difference / theta);
            result.absolute = result.absolute.max(difference / (sigma * largest));
        }
    }
    Ok(result)
}

/// A basis that grows by what the operator makes of its newest block.
struct Krylov {
    d: usize,
    /// (m, d), orthonormal.
    basis: Vec<f32>,
    /// (m, d): the operator applied to it.
    image: Vec<f32>,
    /// Basis · imageᵀ, row i of i + 1 entries: symmetric but for rounding, the mean of both halves.
    projected: Vec<Vec<f64>>,
    /// What comes next: (b, d), not yet orthogonal to the basis.
    candidates: Vec<f32>,
    /// Whether each row of the image is as exact as its own size allows. In a first basis all rows have a part of the largest
    /// singular vector, and what is left of their images where these cancel has the rounding of large numbers.
    pure: bool,
}

impl Krylov {
    fn new(d: usize, candidates: Vec<f32>) -> Self {
        Self { d, basis: Vec::new(), image: Vec::new(), projected: Vec::new(), candidates, pure: false }
    }

    /// m
    fn size(&self) -> usize {
        self.basis.len() / self.d
    }

    /// Takes the next block in. False if nothing of it is new: the basis spans all that the operator makes of it.
    fn grow(&mut self, operator: &Operator) -> Result<bool, SvdFailure> {
        let start = self.basis.len();
        extend_basis(&mut self.basis, &self.candidates, self.d);
        if self.basis.len() == start {
            return Ok(false);
        }
        self.candidates = operator.apply(&self.basis[start..])?.1;
        self.image.extend(&self.candidates);
        self.project();
        Ok(true)
    }

    /// Rows of the projection that are missing.
    fn project(&mut self) {
        let d = self.d;
        for i in self.projected.len()..self.size() {
            let (basis, image) = (&self.basis[i * d..][..d], &self.image[i * d..][..d]);
            let entry = |j: usize| {
                0.5 * (dot(basis, &self.image[j * d..][..d]) + dot(&self.basis[j * d..][..d], image))
            };
            self.projected.push((0..=i).map(entry).collect());
        }
    }

    /// Coefficients of the Ritz vectors as rows (m, m), largest Ritz value first.
    fn ritz_vectors(&self) -> Vec<f64> {
        let m = self.size();
        let mut t = vec![0f64; m * m];
        for (i, row) in self.projected.iter().enumerate() {
            for (j, &entry) in row.iter().enumerate() {
                t[i * m + j] = entry;
                t[j * m + i] = entry;
            }
        }
        eigenvectors(&mut t, m)
    }

    /// The first Ritz vectors (c, d), and the operator applied to them.
    fn ritz(&self, vectors: &[f64], count: usize) -> (Vec<f32>, Vec<f32>) {
        let combined = |rows: &[f32]| -> Vec<f32> {
            let mut out = Vec::with_capacity(count * self.d);
            for vector in vectors.chunks_exact(self.size()).take(count) {
                let mut sum = vec![0f64; self.d];
                for (&weight, row) in vector.iter().zip(rows.chunks_exact(self.d)) {
                    add_scaled(&mut sum, weight, row);
                }
                out.extend(sum.iter().map(|&x| x as f32));
            }
            out
        };
        (combined(&self.basis), combined(&self.image))
    }

    /// Keeps so many Ritz vectors alone. What comes next is made orthogonal to the old basis first: all their residuals lie
    /// in it, so that the kept vectors and it span a Krylov space again. Their images are applied anew once, then combined.
    fn restart(&mut self, operator: &Operator, vectors: &[f64], count: usize) -> Result<(), SvdFailure> {
        let start = self.basis.len();
        extend_basis(&mut self.basis, &self.candidates, self.d);
        self.candidates = self.basis.split_off(start);
        (self.basis, self.image) = self.ritz(vectors, count);
        if !self.pure {
            self.image = operator.apply(&self.basis)?.1;
            self.pure = true;
        }
        if self.candidates.is_empty() {
            // Beside a much larger one the rest of an image was taken for rounding; in those of the Ritz vectors it may show.
            self.candidates.clone_from(&self.image);
        }
        self.projected.clear();
        self.project();
        Ok(())
    }
}

/// Appends to an orthonormal basis what is new in each candidate row: Gram and Schmidt in f64, twice, as what one pass leaves
/// grows from block to block. A candidate that is in the basis's span up to f32 rounding adds nothing.
fn extend_basis(basis: &mut Vec<f32>, candidates: &[f32], d: usize) {
    for candidate in candidates.chunks_exact(d) {
        let mut row: Vec<f64> = candidate.iter().map(|&x| f64::from(x)).collect();
        let before = norm(&row);
        for _ in 0..2 {
            for known in basis.chunks_exact(d) {
                let along = dot_mixed(known, &row);
                add_scaled(&mut row, -along, known);
            }
        }
        let after = norm(&row);
        if after.is_finite() && after > 1e-6 * before {
            basis.extend(row.iter().map(|&x| (x / after) as f32));
        }
    }
}

/// Eight partial sums, joined in order.
fn dot(x: &[f32], y: &[f32]) -> f64 {
    partial_sums(x, y, f64::from)
}

/// As [`dot`].
fn dot_mixed(x: &[f32], y: &[f64]) -> f64 {
    partial_sums(x, y, |y| y)
}

// Plain loops: of zipped chunks each step is a call, as iterators are compiled apart from what uses them.
#[inline(always)]
fn partial_sums<T: Copy>(x: &[f32], y: &[T], wide: impl Fn(T) -> f64) -> f64 {
    let mut sums = [0f64; 8];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    for at in 0..x.len().min(y.len()) {
        for i in 0..8 {
            sums[i] += f64::from(x[at][i]) * wide(y[at][i]);
        }
    }
    for i in 0..x_rest.len().min(y_rest.len()) {
        sums[i] += f64::from(x_rest[i]) * wide(y_rest[i]);
    }
    sums.iter().sum()
}

fn add_scaled(out: &mut [f64], factor: f64, x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out += factor * f64::from(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinylora_compute::{Kernel, PackedMatrix, Precision};

    fn cpu() -> Cpu {
        Cpu::new(Kernel::best(), 1)
    }

    /// W = Σ σ_i u_i v_iᵀ with random orthonormal u and v, and W's own numbers as f32.
    fn matrix(n: usize, k: usize, sigmas: &[f64], seed: u64) -> Vec<f32> {
        let stream = Stream::new(seed, Purpose::Weights, 0);
        let draw = |count: usize, from: u64| -> Vec<f32> {
            (0..count).map(|i| stream.normal(from + i as u64) as f32).collect()
        };
        let (mut u, mut v) = (Vec::new(), Vec::new());
        extend_basis(&mut u, &draw(sigmas.len() * n, 0), n);
        extend_basis(&mut v, &draw(sigmas.len() * k, 1 << 32), k);
        let mut w = vec![0f64; n * k];
        for (i, sigma) in sigmas.iter().enumerate() {
            for row in 0..n {
                let factor = sigma * f64::from(u[i * n + row]);
                add_scaled(&mut w[row * k..][..k], factor, &v[i * k..][..k]);
            }
        }
        w.iter().map(|&x| x as f32).collect()
    }

    fn svd(w: &[f32], n: usize, k: usize, rank: usize) -> TruncatedSvd {
        let cpu = cpu();
        let packed = PackedMatrix::from_slice(&cpu, (n, k), Precision::F32, w);
        truncated_svd(&cpu, &(&packed).into(), rank, 0).unwrap()
    }

    fn sigmas(result: &TruncatedSvd, rank: usize) -> Vec<f64> {
        (0..rank)
            .map(|j| result.b.iter().skip(j).step_by(rank).map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt())
            .collect()
    }

    /// ‖Wᵀu − σv‖/σ and ‖Wv − σu‖/σ in f64 from the result alone.
    fn worst_residual(w: &[f32], n: usize, k: usize, rank: usize, result: &TruncatedSvd) -> f64 {
        let mut worst = 0f64;
        for (j, sigma) in sigmas(result, rank).into_iter().enumerate() {
            let v: Vec<f64> = result.a[j * k..][..k].iter().map(|&x| f64::from(x)).collect();
            let u: Vec<f64> = (0..n).map(|row| f64::from(result.b[row * rank + j]) / sigma).collect();
            let (mut wv, mut wu) = (vec![0f64; n], vec![0f64; k]);
            for row in 0..n {
                wv[row] = dot_mixed(&w[row * k..][..k], &v) - sigma * u[row];
                add_scaled(&mut wu, u[row], &w[row * k..][..k]);
            }
            wu.iter_mut().zip(&v).for_each(|(x, v)| *x -= sigma * v);
            worst = worst.max(norm(&wv) / sigma).max(norm(&wu) / sigma);
        }
        worst
    }

    #[test]
    fn known_singular_values_of_all_shapes() {
        for (n, k) in [(70, 40), (40, 70), (48, 48), (5, 90), (90, 3)] {
            let count = n.min(k).min(30);
            let spectrum: Vec<f64> = (0..count).map(|i| 10.0 * 0.93f64.powi(i as i32)).collect();
            let w = matrix(n, k, &spectrum, 1);
            for rank in [1, 2, 3] {
                let result = svd(&w, n, k, rank);
                for (found, expected) in sigmas(&result, rank).iter().zip(&spectrum) {
                    assert!((found - expected).abs() < 1e-5 * expected, "{n}×{k}: {found} {expected}");
                }
                assert!(worst_residual(&w, n, k, rank, &result) < 3e-6, "{n}×{k} r {rank}");
                for j in 0..rank {
                    let u = result.b.iter().skip(j).step_by(rank);
                    let largest = u.fold(0f32, |a, &b| if b.abs() > a.abs() { b } else { a });
                    assert!(largest > 0.0);
                }
            }
        }
    }

    #[test]
    fn near_degenerate_values_converge() {
        let mut spectrum = vec![5.0, 5.0 * (1.0 - 1e-7), 5.0 * (1.0 - 2e-7), 4.999];
        spectrum.extend((0..60).map(|i| 4.9 - 0.01 * f64::from(i)));
        let w = matrix(160, 128, &spectrum, 2);
        let result = svd(&w, 160, 128, 2);
        assert!(worst_residual(&w, 160, 128, 2, &result) < 3e-6);
        let v = &result.a;
        assert!(dot(&v[..128], &v[128..]).abs() < 1e-6, "orthogonal");
        assert_eq!(result, svd(&w, 160, 128, 2));
    }

    /// The first images all have a part of the large one; what they leave of the second one's is rounded too coarsely.
    #[test]
    fn a_large_first_value_leaves_the_second_exact() {
        let mut spectrum = vec![40.0];
        spectrum.extend((0..150).map(|i| 1.0 - 0.002 * f64::from(i)));
        let w = matrix(220, 160, &spectrum, 7);
        let result = svd(&w, 220, 160, 2);
        let found = sigmas(&result, 2);
        assert!((found[0] - 40.0).abs() < 1e-4 && (found[1] - 1.0).abs() < 1e-5, "{found:?}");
        // A hundred-millionth of the first vector in the second is a hundred-thousandth of its residual.
        let residual = worst_residual(&w, 220, 160, 2, &result);
        assert!(residual < 1e-4, "{residual}");
    }

    #[test]
    fn a_wide_range_of_singular_values_ends_at_the_rounding_floor() {
        let w = matrix(96, 80, &[1e4, 1.0, 0.5, 0.25, 0.1], 3);
        let result = svd(&w, 96, 80, 2);
        let found = sigmas(&result, 2);
        assert!((found[0] / 1e4 - 1.0).abs() < 1e-5 && (found[1] - 1.0).abs() < 2e-2, "{found:?}");
    }

    #[test]
    fn rank_deficient_and_zero_matrices() {
        let result = svd(&matrix(30, 20, &[3.0], 4), 30, 20, 2);
        let found = sigmas(&result, 2);
        assert!((found[0] - 3.0).abs() < 1e-5 && found[1] < 1e-5, "{found:?}");
        let result = svd(&vec![0.0; 600], 30, 20, 2);
        assert!(result.b.iter().all(|&x| x == 0.0) && result.residual == 0.0);
        assert!(result.a.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn what_is_not_finite_is_said() {
        let cpu = cpu();
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let mut w = matrix(30, 20, &[3.0, 2.0], 4);
            w[77] = bad;
            let packed = PackedMatrix::from_slice(&cpu, (30, 20), Precision::F32, &w);
            assert_eq!(truncated_svd(&cpu, &(&packed).into(), 2, 0), Err(SvdFailure::NotFinite), "{bad}");
        }
    }

    #[test]
    fn kernels_and_threads_give_the_same_bits() {
        let spectrum: Vec<f64> = (0..40).map(|i| 10.0 * 0.97f64.powi(i)).collect();
        let w = matrix(150, 110, &spectrum, 5);
        let mut results = Vec::new();
        for kernel in Kernel::available() {
            for threads in [1, 3] {
                let cpu = Cpu::new(kernel, threads);
                let packed = PackedMatrix::from_slice(&cpu, (150, 110), Precision::Bf16, &w);
                results.push(truncated_svd(&cpu, &(&packed).into(), 2, 7).unwrap());
            }
        }
        assert!(results.iter().all(|result| *result == results[0]));
    }
}
