//! Factors A (r, in) and B (out, r) enter, a few numbers that tell them from other factors leave. The
//! numbers agree between machines up to rounding, so they are compared with tolerances, never bit for bit.
//! No file is read or written here.
//!
//! Two kinds: every module has one coarse byte, which sees that a singular vector has the other sign or was
//! replaced; eight modules, spread over the depth, have four f32 numbers, which see small differences.

use super::spec::Module;
use crate::random::{Purpose, Stream};

/// How many modules have their exact numbers kept, at most.
pub(super) const FINE_MODULES: usize = 8;
/// Steps of the coarse byte for a difference of 1.
const COARSE_STEPS: f32 = 24.0;
/// Coarse bytes may differ by this: one step of rounding on each side.
const COARSE_TOLERANCE: i16 = 1;
/// Largest difference of the fine numbers: σ relative, projections (whose size is about 1) absolute.
const FINE_TOLERANCE: f32 = 1e-3;
/// Seed of the random directions; a part of the file format.
const SEED: u64 = 0x7431_6C6F_7261;

/// What is kept of one module's factors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FactorSketch {
    /// The module's number, depth first.
    pub module: u32,
    /// σ₁, σ_r, the projection of U's columns, that of V's columns: random unit-variance directions, summed
    /// over the r vectors and divided by √r.
    pub values: [f32; 4],
}

impl FactorSketch {
    /// Names of the values, for messages.
    pub const NAMES: [&str; 4] =
        ["largest singular value", "smallest kept singular value", "projection of U", "projection of V"];

    /// Changes by about 2 if one vector changes its sign.
    fn coarse(&self) -> i8 {
        let value = (self.values[2] + self.values[3]) * COARSE_STEPS;
        value.round().clamp(-127.0, 127.0) as i8
    }
}

/// The numbers of one module of factors A = Vᵀ (r, in) and B = UΣ (out, r).
///
/// Panics if the sizes are not multiples of the rank; factors always are.
pub fn sketch_factors(module: usize, rank: usize, a: &[f32], b: &[f32]) -> FactorSketch {
    assert!(
        rank > 0 && a.len().is_multiple_of(rank) && b.len().is_multiple_of(rank),
        "A is (r, in), B is (out, r)"
    );
    let (columns, rows) = (a.len() / rank, b.len() / rank);
    let stream = Stream::new(SEED, Purpose::Factors, module as u64);
    let (mut u_projection, mut v_projection) = (0f64, 0f64);
    let mut singular_values = Vec::with_capacity(rank);
    for k in 0..rank {
        let column = || (0..rows).map(|row| f64::from(b[row * rank + k]));
        let sigma = column().map(|x| x * x).sum::<f64>().sqrt();
        let start = k * (rows + columns);
        let u: f64 = column().enumerate().map(|(row, x)| x * sign(&stream, start + row)).sum();
        let a = &a[k * columns..][..columns];
        let v: f64 = a.iter().enumerate().map(|(i, &x)| f64::from(x) * sign(&stream, start + rows + i)).sum();
        u_projection += if sigma > 0.0 { u / sigma } else { 0.0 };
        v_projection += v;
        singular_values.push(sigma as f32);
    }
    let norm = (rank as f64).sqrt();
    let values = [
        singular_values[0],
        singular_values[rank - 1],
        (u_projection / norm) as f32,
        (v_projection / norm) as f32,
    ];
    FactorSketch { module: module as u32, values }
}

/// +1 or −1; 128 signs a draw.
fn sign(stream: &Stream, index: usize) -> f64 {
    let word = stream.words((index / 128) as u64)[index % 128 / 32];
    if word >> (index % 32) & 1 == 0 { 1.0 } else { -1.0 }
}

/// What an adapter file keeps of all factors.
#[derive(Debug, Clone, PartialEq)]
pub struct FactorSketches {
    /// (M): one byte a module.
    pub coarse: Vec<i8>,
    /// min(M, 8) modules, spread evenly.
    pub fine: Vec<FactorSketch>,
}

/// Factors that are not those of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct SketchMismatch {
    /// The module's number.
    pub module: usize,
    /// Which number.
    pub what: &'static str,
    /// In the file.
    pub expected: f32,
    /// Of the factors at hand.
    pub found: f32,
}

impl FactorSketches {
    /// Takes what a file keeps from the sketches of all modules, in their order.
    pub fn new(all: &[FactorSketch]) -> Self {
        let fine = fine_modules(all.len()).map(|module| all[module]).collect();
        Self { coarse: all.iter().map(FactorSketch::coarse).collect(), fine }
    }

    /// Compares with the sketches of all modules of the factors at hand; the count must agree.
    pub fn compare(&self, all: &[FactorSketch]) -> Result<(), SketchMismatch> {
        if self.coarse.len() != all.len() {
            return Err(SketchMismatch {
                module: self.coarse.len().min(all.len()),
                what: "number of modules",
                expected: self.coarse.len() as f32,
                found: all.len() as f32,
            });
        }
        for fine in &self.fine {
            let module = fine.module as usize;
            for (k, what) in FactorSketch::NAMES.into_iter().enumerate() {
                let (expected, found) = (fine.values[k], all[module].values[k]);
                let unit = if k < 2 { expected.abs() } else { 1.0 };
                let difference = (found - expected).abs();
                if difference.is_nan() || difference > FINE_TOLERANCE * unit {
                    return Err(SketchMismatch { module, what, expected, found });
                }
            }
        }
        for (module, (&expected, sketch)) in self.coarse.iter().zip(all).enumerate() {
            let found = sketch.coarse();
            if (i16::from(found) - i16::from(expected)).abs() > COARSE_TOLERANCE {
                let what = "projection of U and V (rounded)";
                let (expected, found) = (f32::from(expected) / COARSE_STEPS, f32::from(found) / COARSE_STEPS);
                return Err(SketchMismatch { module, what, expected, found });
            }
        }
        Ok(())
    }
}

/// The modules whose exact numbers are kept: the first, the last and evenly between.
pub(super) fn fine_modules(modules: usize) -> impl Iterator<Item = usize> {
    let count = modules.min(FINE_MODULES);
    (0..count).map(move |i| if count == 1 { 0 } else { i * (modules - 1) / (count - 1) })
}

/// The module with a number, for messages.
pub(super) fn module_name(modules: impl Iterator<Item = Module>, number: usize) -> String {
    modules.skip(number).map(|module| module.to_string()).next().unwrap_or_else(|| format!("module {number}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Random factors with orthogonal-enough unit columns and singular values 3, 1.5, 1, …
    pub fn factors(module: usize, rank: usize, rows: usize, columns: usize) -> (Vec<f32>, Vec<f32>) {
        let stream = Stream::new(1, Purpose::Weights, module as u64);
        let mut a: Vec<f32> = (0..rank * columns).map(|i| stream.normal(i as u64) as f32).collect();
        let mut b: Vec<f32> = (0..rows * rank).map(|i| stream.normal((1 << 20) + i as u64) as f32).collect();
        for row in a.chunks_exact_mut(columns) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        for k in 0..rank {
            let norm = (0..rows).map(|row| b[row * rank + k].powi(2)).sum::<f32>().sqrt();
            let sigma = 3.0 / (k + 1) as f32;
            (0..rows).for_each(|row| b[row * rank + k] *= sigma / norm);
        }
        (a, b)
    }

    /// Sketches of `modules` random modules.
    pub fn sketches(modules: usize) -> Vec<FactorSketch> {
        (0..modules)
            .map(|module| {
                let (a, b) = factors(module, 2, 30, 40);
                sketch_factors(module, 2, &a, &b)
            })
            .collect()
    }

    #[test]
    fn values_are_what_they_say() {
        let (a, b) = factors(3, 2, 300, 400);
        let sketch = sketch_factors(3, 2, &a, &b);
        assert!((sketch.values[0] - 3.0).abs() < 1e-5 && (sketch.values[1] - 1.5).abs() < 1e-5);
        assert!(sketch.values[2..].iter().all(|x| x.abs() < 5.0 && *x != 0.0));
    }

    #[test]
    fn rounding_differences_pass_and_others_fail() {
        let all = sketches(21);
        let kept = FactorSketches::new(&all);
        assert_eq!(kept.fine.iter().map(|f| f.module).collect::<Vec<_>>(), [0, 2, 5, 8, 11, 14, 17, 20]);
        kept.compare(&all).unwrap();

        let mut near = all.clone();
        for sketch in &mut near {
            sketch.values.iter_mut().for_each(|x| *x *= 1.0 + 2e-4);
        }
        kept.compare(&near).unwrap();

        let mut other = all.clone();
        other[5].values[1] *= 1.002;
        let mismatch = kept.compare(&other).unwrap_err();
        assert_eq!((mismatch.module, mismatch.what), (5, "smallest kept singular value"));

        let mut nan = all.clone();
        nan[8].values[2] = f32::NAN;
        assert_eq!(kept.compare(&nan).unwrap_err().module, 8);
        assert_eq!(kept.compare(&all[..20]).unwrap_err().what, "number of modules");
    }

    #[test]
    fn a_changed_sign_is_seen_in_nearly_every_module() {
        let modules = 200;
        let all = sketches(modules);
        let kept = FactorSketches::new(&all);
        let mut seen = 0;
        for module in 0..modules {
            let (mut a, mut b) = factors(module, 2, 30, 40);
            a[40..].iter_mut().for_each(|x| *x = -*x);
            b.iter_mut().skip(1).step_by(2).for_each(|x| *x = -*x);
            let mut flipped = all.clone();
            flipped[module] = sketch_factors(module, 2, &a, &b);
            seen += usize::from(kept.compare(&flipped).is_err_and(|mismatch| mismatch.module == module));
        }
        assert!(seen >= modules * 94 / 100, "{seen} of {modules}");
    }

    #[test]
    fn few_modules_have_each_one_kept() {
        for modules in [0, 1, 2, 7] {
            assert_eq!(fine_modules(modules).collect::<Vec<_>>(), (0..modules).collect::<Vec<_>>());
        }
    }
}
