//! v enters, the r×r matrices of all modules leave; their gradients enter, the gradient of v leaves. The
//! projections P are fixed: nothing here changes them, and nothing here knows of factors or weights.

use super::spec::{AdapterError, TinyLoraSpec};
use crate::random::{Purpose, Stream};
use crate::recipe::Projection;
use std::borrow::Cow;

/// The fixed random projections of one adapter and who shares which v.
#[derive(Debug, Clone, PartialEq)]
pub struct Projections {
    rank: usize,
    u: usize,
    scale: f32,
    /// (M): the group of each module.
    groups: Vec<usize>,
    /// G
    num_groups: usize,
    /// (M, u, r, r); empty: the basis, where P_i has a 1 at entry i.
    p: Vec<f32>,
}

impl Projections {
    /// Draws P: entry k of module m is draw k of the stream m of the projection seed, with mean 0 and
    /// variance 1/r, computed in f64 and rounded once. Of a basis nothing is kept.
    pub fn new(spec: &TinyLoraSpec) -> Self {
        let mut p = Vec::new();
        if spec.projection == Projection::Basis {
            assert_eq!(spec.u, spec.rank * spec.rank, "R has r² entries: recipes and files are checked");
        } else {
            let numbers = spec.u * spec.rank * spec.rank; // of one module
            let deviation = (1.0 / spec.rank as f64).sqrt();
            p.reserve_exact(spec.num_modules() * numbers);
            for module in 0..spec.num_modules() as u64 {
                let stream = Stream::new(spec.projection_seed, Purpose::Projection, module);
                p.extend((0..numbers as u64).map(|k| match spec.projection {
                    Projection::Normal => (deviation * stream.normal(k)) as f32,
                    // Uniform in ±√3·σ has variance σ².
                    Projection::Uniform => ((2.0 * stream.uniform(k) - 1.0) * 3f64.sqrt() * deviation) as f32,
                    Projection::Basis => unreachable!("looked at above"),
                }));
            }
        }
        Self {
            rank: spec.rank,
            u: spec.u,
            scale: spec.scale,
            groups: spec.groups(),
            num_groups: spec.num_groups(),
            p,
        }
    }

    /// Whether v is R itself: nothing is multiplied and nothing is kept.
    fn is_basis(&self) -> bool {
        self.p.is_empty() && !self.groups.is_empty()
    }

    /// Projections made elsewhere (a PEFT file, a reference): `groups` (M) with numbers 0 … G − 1,
    /// `p` (M, u, r, r).
    pub fn from_parts(
        rank: usize,
        u: usize,
        scale: f32,
        groups: Vec<usize>,
        p: Vec<f32>,
    ) -> Result<Self, AdapterError> {
        for (key, value) in [("rank", rank), ("u", u)] {
            if value == 0 {
                return Err(AdapterError::Zero { key });
            }
        }
        let modules = groups.len();
        let expected = modules * u * rank * rank;
        if p.len() != expected {
            return Err(AdapterError::ProjectionSize { found: p.len(), expected, modules, u, rank });
        }
        let num_groups = groups.iter().max().map_or(0, |last| last + 1);
        Ok(Self { rank, u, scale, groups, num_groups, p })
    }

    /// G · u: how many numbers v has.
    pub fn trainable_parameters(&self) -> usize {
        self.num_groups * self.u
    }

    /// M
    pub fn num_modules(&self) -> usize {
        self.groups.len()
    }

    /// r
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// P itself, (M, u, r, r).
    pub fn values(&self) -> Cow<'_, [f32]> {
        if !self.is_basis() {
            return Cow::Borrowed(&self.p);
        }
        let square = self.rank * self.rank;
        let entry = |k: usize| f32::from(u8::from(k / square == k % square));
        Cow::Owned((0..self.groups.len()).flat_map(|_| (0..square * square).map(entry)).collect())
    }

    /// The group of each module, (M).
    pub fn groups(&self) -> &[usize] {
        &self.groups
    }

    /// R = scale · Σ_i v_i P_i of every module, (M, r, r), summed in f64 in the order of i.
    ///
    /// Panics if `v` does not have G · u numbers: files and checkpoints are checked where they are read.
    pub fn r_matrices(&self, v: &[f32]) -> Vec<f32> {
        assert_eq!(v.len(), self.trainable_parameters(), "v has G · u numbers");
        let square = self.rank * self.rank;
        let mut r = Vec::with_capacity(self.groups.len() * square);
        if self.is_basis() {
            for &group in &self.groups {
                let v = &v[group * square..][..square];
                r.extend(v.iter().map(|&v| (f64::from(self.scale) * f64::from(v)) as f32));
            }
            return r;
        }
        for (&group, p) in self.groups.iter().zip(self.p.chunks_exact(self.u * square)) {
            let v = &v[group * self.u..][..self.u];
            r.extend((0..square).map(|entry| {
                let sum: f64 = v.iter().enumerate().fold(0.0, |sum, (i, &v)| {
                    sum + f64::from(v) * f64::from(p[i * square + entry]) // one rounding a product
                });
                (f64::from(self.scale) * sum) as f32
            }));
        }
        r
    }

    /// dL/dv_i = scale · Σ_{modules of the group} ⟨dL/dR, P_i⟩, (G · u), from dL/dR of every module,
    /// (M, r, r). Summed in f64, modules in their order, so that the result does not depend on threads.
    ///
    /// Panics if `d_r` does not have M · r · r numbers.
    pub fn v_gradient(&self, d_r: &[f32]) -> Vec<f32> {
        let square = self.rank * self.rank;
        assert_eq!(d_r.len(), self.groups.len() * square, "dL/dR has M · r · r numbers");
        let mut sums = vec![0f64; self.trainable_parameters()];
        if self.is_basis() {
            for (&group, d_r) in self.groups.iter().zip(d_r.chunks_exact(square)) {
                sums[group * square..].iter_mut().zip(d_r).for_each(|(sum, &d)| *sum += f64::from(d));
            }
        }
        let modules = d_r.chunks_exact(square).zip(self.p.chunks_exact(self.u * square));
        for (&group, (d_r, p)) in self.groups.iter().zip(modules) {
            for (sum, p) in sums[group * self.u..].iter_mut().zip(p.chunks_exact(square)) {
                *sum += d_r.iter().zip(p).map(|(&d, &p)| f64::from(d) * f64::from(p)).sum::<f64>();
            }
        }
        sums.into_iter().map(|sum| (f64::from(self.scale) * sum) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::config;
    use super::*;
    use crate::recipe::{AdapterKind, AdapterSection, Tying};

    fn spec(change: impl FnOnce(&mut AdapterSection)) -> TinyLoraSpec {
        let mut section = AdapterSection::default();
        change(&mut section);
        TinyLoraSpec::new(&section, &config(6)).unwrap()
    }

    #[test]
    fn a_basis_is_what_stored_matrices_would_be() {
        for (rank, tying, n_tie) in [(1, Tying::None, 1), (2, Tying::Tiled, 3), (3, Tying::Structured, 2)] {
            let spec = spec(|s| {
                (s.kind, s.projection) = (AdapterKind::LoraXs, Projection::Basis);
                (s.rank, s.u, s.tying, s.n_tie, s.scale) = (rank, rank * rank, tying, n_tie, 0.5);
            });
            let basis = Projections::new(&spec);
            let stored = basis.values().into_owned();
            let stored =
                Projections::from_parts(rank, spec.u, 0.5, spec.groups(), stored).expect("sizes fit");
            let v: Vec<f32> = (0..spec.trainable_parameters()).map(|i| (i as f32 * 0.37).sin()).collect();
            let r = basis.r_matrices(&v);
            assert_eq!(r, stored.r_matrices(&v));
            assert_eq!(r[..rank * rank], v[..rank * rank].iter().map(|x| x * 0.5).collect::<Vec<_>>());
            assert_eq!(basis.v_gradient(&r), stored.v_gradient(&r));
        }
    }

    #[test]
    fn projections_have_variance_one_over_r() {
        for projection in [Projection::Normal, Projection::Uniform] {
            for rank in [1, 2, 4] {
                let p = Projections::new(&spec(|s| (s.projection, s.rank, s.u) = (projection, rank, 40)));
                let n = p.values().len() as f64;
                let mean = p.values().iter().map(|&x| f64::from(x)).sum::<f64>() / n;
                let variance = p.values().iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
                assert!(mean.abs() < 0.1, "{mean}");
                assert!((variance * rank as f64 - 1.0).abs() < 0.1, "{projection:?} r {rank}: {variance}");
            }
        }
    }

    #[test]
    fn each_module_has_its_own_projection_and_seeds_matter() {
        let p = Projections::new(&spec(|_| {}));
        assert_ne!(p.values()[..4], p.values()[4..8]);
        assert_eq!(p, Projections::new(&spec(|_| {})));
        assert_ne!(p.values(), Projections::new(&spec(|s| s.projection_seed = 43)).values());
        // More numbers a module leave the first ones as they were.
        let longer = Projections::new(&spec(|s| s.u = 3));
        assert_eq!(p.values()[4..8], longer.values()[12..16]);
    }

    /// The sequence is part of the adapter file's meaning: it must never change. The numbers were computed
    /// apart, from the formulas in docs/adapter-format.md.
    #[test]
    fn the_first_projection_is_pinned() {
        let p = Projections::new(&spec(|_| {}));
        let expected =
            [0.49383402, 1.0488439, -1.5579245, -1.1052171, -0.773_619_2, 0.22027534, 1.0137345, -0.12627102];
        for (value, expected) in p.values().iter().zip(expected) {
            assert!((value - expected).abs() <= 1e-6, "{:?}", &p.values()[..8]);
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        for (u, n_tie, tying, rank) in [
            (1, 16, Tying::Tiled, 2),
            (3, 4, Tying::Structured, 2),
            (13, 0, Tying::Tiled, 2),
            (2, 1, Tying::None, 3),
        ] {
            let spec = spec(|s| (s.u, s.n_tie, s.tying, s.rank, s.scale) = (u, n_tie, tying, rank, 1.7));
            let projections = Projections::new(&spec);
            let stream = Stream::new(9, Purpose::Weights, 0);
            // L(R) = Σ c_k (R_k + R_k²), so dL/dR_k = c_k (1 + 2 R_k).
            let c: Vec<f64> =
                (0..spec.num_modules() * rank * rank).map(|k| stream.normal(k as u64)).collect();
            let loss = |v: &[f32]| -> f64 {
                let r = projections.r_matrices(v);
                r.iter().zip(&c).map(|(&r, c)| c * (f64::from(r) + f64::from(r).powi(2))).sum()
            };
            let v: Vec<f32> = (0..spec.trainable_parameters())
                .map(|i| 0.3 * stream.normal(1000 + i as u64) as f32)
                .collect();
            let d_r: Vec<f32> = projections
                .r_matrices(&v)
                .iter()
                .zip(&c)
                .map(|(&r, c)| (c * (1.0 + 2.0 * f64::from(r))) as f32)
                .collect();
            let gradient = projections.v_gradient(&d_r);
            assert_eq!(gradient.len(), v.len());
            for i in 0..v.len() {
                let h = 1.0 / 64.0; // the loss is quadratic in v: central differences are exact but for rounding
                let (mut up, mut down) = (v.clone(), v.clone());
                up[i] += h;
                down[i] -= h;
                let numeric = (loss(&up) - loss(&down)) / f64::from(up[i] - down[i]);
                let tolerance = 2e-4 * (1.0 + numeric.abs());
                assert!(
                    (numeric - f64::from(gradient[i])).abs() < tolerance,
                    "{i}: {numeric} {}",
                    gradient[i]
                );
            }
        }
    }

    #[test]
    fn zeros_give_no_update_but_a_gradient() {
        let spec = spec(|_| {});
        let projections = Projections::new(&spec);
        assert!(projections.r_matrices(&spec.init_v(0)).iter().all(|&x| x == 0.0));
        let gradient = projections.v_gradient(&vec![1.0; spec.num_modules() * 4]);
        assert!(gradient.iter().all(|&x| x != 0.0));
    }

    #[test]
    fn explicit_parts_are_checked() {
        let parts = Projections::from_parts(2, 1, 1.0, vec![0, 0, 1], vec![1.0; 12]).unwrap();
        assert_eq!((parts.trainable_parameters(), parts.num_modules(), parts.rank()), (2, 3, 2));
        assert_eq!(parts.r_matrices(&[1.0, 3.0])[8..], [3.0; 4]);
        let error = Projections::from_parts(2, 1, 1.0, vec![0, 0, 1], vec![1.0; 11]).unwrap_err();
        assert!(error.to_string().contains("11 numbers") && error.to_string().contains("12"), "{error}");
        assert!(Projections::from_parts(0, 1, 1.0, vec![], vec![]).is_err());
    }
}
