//! The frozen matrices of all adapted modules enter, their factors A = Vᵀ and B = UΣ leave: computed once and
//! kept on disk. Nothing here changes a weight or knows v.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tinylora_compute::Cpu;

use super::factor_cache::{self, FactorKey};
use super::fingerprint::{FactorSketch, sketch_factors};
use super::spec::{Module, TinyLoraSpec};
use super::svd::{SvdFailure, truncated_svd};
use crate::model::Frozen;

/// Why there are no factors.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FactorError {
    /// Not one matrix a module.
    #[error("{found} matrices for {expected} adapted modules")]
    ModuleCount {
        /// Matrices given.
        found: usize,
        /// M
        expected: usize,
    },
    /// A matrix with fewer singular values than the rank.
    #[error("{module}: a {rows} × {columns} matrix has no {rank} singular values: lower adapter.rank")]
    RankTooLarge {
        /// The module.
        module: String,
        /// n
        rows: usize,
        /// k
        columns: usize,
        /// r
        rank: usize,
    },
    /// A weight is NaN, infinite or absurdly large.
    #[error(
        "{module}: the weights are not finite, or so large that their squares overflow f32: the model's file is damaged or of an unsupported kind"
    )]
    NotFinite {
        /// The module.
        module: String,
    },
    /// The GPU failed, or has no memory.
    #[error("{module}: {reason}")]
    Device {
        /// The module.
        module: String,
        /// What it says.
        reason: String,
    },
    /// The iteration did not end.
    #[error(
        "{module}: the singular vectors did not converge: residual {residual:.1e} after {restarts} restarts"
    )]
    NotConverged {
        /// The module.
        module: String,
        /// ‖Wᵀu − σv‖/σ
        residual: f64,
        /// Restarts done.
        restarts: usize,
    },
}

/// Factors of one module.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleFactors {
    /// Vᵀ, (r, in).
    pub a: Vec<f32>,
    /// UΣ, (out, r).
    pub b: Vec<f32>,
}

/// Factors of all adapted modules, depth first.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// r
    pub rank: usize,
    /// (M)
    pub modules: Vec<ModuleFactors>,
}

impl Factors {
    /// The fingerprints of all modules, for [`super::AdapterFile::check_factors`] and
    /// [`super::FactorSketches::new`].
    pub fn sketches(&self) -> Vec<FactorSketch> {
        let modules = self.modules.iter().enumerate();
        modules.map(|(index, module)| sketch_factors(index, self.rank, &module.a, &module.b)).collect()
    }
}

/// What happens on the way to the factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactorEvent {
    /// They were read from the cache.
    Loaded {
        /// The file.
        path: PathBuf,
    },
    /// A file of the cache was not taken; they are computed again and the file is replaced.
    CacheRefused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A module's factors were computed.
    Computed {
        /// Modules done so far.
        done: usize,
        /// M
        total: usize,
    },
    /// They could not be kept; the next run computes them again.
    CacheNotWritten {
        /// Why.
        reason: String,
    },
}

impl std::fmt::Display for FactorEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loaded { path } => write!(f, "factors read from {}", path.display()),
            Self::CacheRefused { path, reason } => {
                write!(f, "{} is not used ({reason}); computing the factors again", path.display())
            }
            Self::Computed { done, total } => write!(f, "factors: {done} of {total} matrices"),
            Self::CacheNotWritten { reason } => {
                write!(f, "the factors could not be cached and will be computed again next time: {reason}")
            }
        }
    }
}

/// The factors from the cache folder, or computed and put there. `weights` has one matrix a module, in the order
/// of [`TinyLoraSpec::modules`]. A cache file that is broken, or a folder that cannot be written, is told to
/// `report` and is no error.
pub fn load_or_compute_factors(
    cpu: &Cpu,
    cache: &Path,
    key: &FactorKey,
    spec: &TinyLoraSpec,
    weights: &[Frozen<'_>],
    report: &(dyn Fn(FactorEvent) + Sync),
) -> Result<Factors, FactorError> {
    check(spec, weights)?;
    let key = key.text(spec, weights.iter().any(|weight| matches!(weight, Frozen::Gpu(_))));
    let path = cache.join(factor_cache::file_name(&key));
    match factor_cache::read(&path, &key, spec.rank, weights) {
        Ok(Some(factors)) => {
            report(FactorEvent::Loaded { path });
            return Ok(factors);
        }
        Ok(None) => {}
        Err(reason) => report(FactorEvent::CacheRefused { path: path.clone(), reason }),
    }
    let factors = compute_factors(cpu, spec, weights, report)?;
    if let Err(reason) = factor_cache::write(&path, &key, &factors) {
        report(FactorEvent::CacheNotWritten { reason });
    }
    Ok(factors)
}

/// Computes the factors, a module a thread. They depend on the weights alone, and in their last digits on whether these lie on
/// the host or on a GPU.
pub fn compute_factors(
    cpu: &Cpu,
    spec: &TinyLoraSpec,
    weights: &[Frozen<'_>],
    report: &(dyn Fn(FactorEvent) + Sync),
) -> Result<Factors, FactorError> {
    check(spec, weights)?;
    let names: Vec<Module> = spec.modules().collect();
    let total = weights.len();
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let results: Mutex<Vec<Option<Result<ModuleFactors, FactorError>>>> = Mutex::new(vec![None; total]);
    std::thread::scope(|scope| {
        for _ in 0..cpu.threads().min(total) {
            scope.spawn(|| {
                // Modules are independent: whole modules on single threads need no waiting for each other.
                let single = Cpu::new(cpu.kernel(), 1);
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(weight) = weights.get(index) else { break };
                    let result = factor(&single, weight, spec.rank, index as u64, names[index]);
                    stop.fetch_or(result.is_err(), Ordering::Relaxed);
                    results.lock().expect("no panic while held")[index] = Some(result);
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    report(FactorEvent::Computed { done, total });
                }
            });
        }
    });
    // After an error later modules may be missing; the error itself is in the list.
    let results = results.into_inner().expect("no panic while held");
    let modules: Result<Vec<ModuleFactors>, FactorError> = results.into_iter().flatten().collect();
    Ok(Factors { rank: spec.rank, modules: modules? })
}

fn factor(
    cpu: &Cpu,
    weight: &Frozen<'_>,
    rank: usize,
    stream: u64,
    module: Module,
) -> Result<ModuleFactors, FactorError> {
    match truncated_svd(cpu, weight, rank, stream) {
        Ok(svd) => Ok(ModuleFactors { a: svd.a, b: svd.b }),
        Err(SvdFailure::Device(reason)) => Err(FactorError::Device { module: module.to_string(), reason }),
        Err(SvdFailure::NotFinite) => Err(FactorError::NotFinite { module: module.to_string() }),
        Err(SvdFailure::NotConverged { residual, restarts }) => {
            Err(FactorError::NotConverged { module: module.to_string(), residual, restarts })
        }
    }
}

fn check(spec: &TinyLoraSpec, weights: &[Frozen<'_>]) -> Result<(), FactorError> {
    let (found, expected) = (weights.len(), spec.num_modules());
    if found != expected {
        return Err(FactorError::ModuleCount { found, expected });
    }
    for (module, weight) in spec.modules().zip(weights) {
        let (rows, columns, rank) = (weight.rows(), weight.columns(), spec.rank);
        if rank == 0 || rank > rows.min(columns) {
            return Err(FactorError::RankTooLarge { module: module.to_string(), rows, columns, rank });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::spec::tests::config;
    use super::*;
    use crate::random::{Purpose, Stream};
    use crate::recipe::{AdapterSection, WeightDtype};
    use tinylora_compute::{Kernel, PackedMatrix, Precision};

    pub fn spec(layers: usize) -> TinyLoraSpec {
        TinyLoraSpec::new(&AdapterSection::default(), &config(layers)).unwrap()
    }

    pub fn weights(cpu: &Cpu, spec: &TinyLoraSpec, bad: Option<usize>) -> Vec<PackedMatrix> {
        let config = config(spec.layers);
        let modules = spec.modules().enumerate();
        modules
            .map(|(index, module)| {
                let (n, k) = module.target.shape(&config);
                let stream = Stream::new(3, Purpose::Weights, index as u64);
                let mut w: Vec<f32> = (0..n * k).map(|i| stream.normal(i as u64) as f32).collect();
                if bad == Some(index) {
                    w[0] = f32::NAN;
                }
                PackedMatrix::from_slice(cpu, (n, k), Precision::Bf16, &w)
            })
            .collect()
    }

    fn frozen(weights: &[PackedMatrix]) -> Vec<Frozen<'_>> {
        weights.iter().map(Frozen::from).collect()
    }

    #[test]
    fn threads_do_not_matter_and_every_module_is_reported() {
        let spec = spec(3);
        let mut results = Vec::new();
        for threads in [1, 4] {
            let cpu = Cpu::new(Kernel::best(), threads);
            let weights = weights(&cpu, &spec, None);
            let reports = Mutex::new(Vec::new());
            let factors = compute_factors(&cpu, &spec, &frozen(&weights), &|event| {
                reports.lock().unwrap().push(event);
            })
            .unwrap();
            assert_eq!(reports.lock().unwrap().len(), 21);
            for (module, weight) in factors.modules.iter().zip(&weights) {
                assert_eq!((module.a.len(), module.b.len()), (2 * weight.columns(), 2 * weight.rows()));
            }
            results.push(factors);
        }
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0].sketches().len(), 21);
    }

    #[test]
    fn a_bad_matrix_is_named() {
        let spec = spec(3);
        let cpu = Cpu::new(Kernel::best(), 2);
        let weights = weights(&cpu, &spec, Some(9));
        let weights = frozen(&weights);
        let error = compute_factors(&cpu, &spec, &weights, &|_| {}).unwrap_err();
        assert_eq!(error, FactorError::NotFinite { module: "layer 1 v_proj".into() });
        let error = compute_factors(&cpu, &spec, &weights[..20], &|_| {}).unwrap_err();
        assert_eq!(error, FactorError::ModuleCount { found: 20, expected: 21 });
    }

    #[test]
    fn computed_once_then_read_and_a_broken_cache_is_replaced() {
        let spec = spec(2);
        let cpu = Cpu::new(Kernel::best(), 2);
        let weights = weights(&cpu, &spec, None);
        let weights = frozen(&weights);
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("factors");
        let key = FactorKey { weights_sha256: [7; 32], dtype: WeightDtype::Bf16 };
        let run = |key: &FactorKey, spec: &TinyLoraSpec| {
            let events = Mutex::new(Vec::new());
            let report = |event| match event {
                FactorEvent::Computed { .. } => {}
                event => events.lock().unwrap().push(event),
            };
            let factors = load_or_compute_factors(&cpu, &cache, key, spec, &weights, &report).unwrap();
            (factors, events.into_inner().unwrap())
        };
        let (first, events) = run(&key, &spec);
        assert_eq!(events, []);
        let (second, events) = run(&key, &spec);
        assert_eq!(first, second);
        let [FactorEvent::Loaded { path }] = &events[..] else { panic!("{events:?}") };

        let good = std::fs::read(path).unwrap();
        for at in [0, 9, 30, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(path, if at == 30 { &good[..300] } else { &bad }).unwrap();
            let (again, events) = run(&key, &spec);
            assert!(matches!(&events[..], [FactorEvent::CacheRefused { .. }]), "{events:?}");
            assert_eq!(again, first);
            assert_eq!(std::fs::read(path).unwrap(), good);
        }
        // Another base, precision or rank has a file of its own.
        run(&FactorKey { weights_sha256: [8; 32], ..key }, &spec);
        run(&FactorKey { dtype: WeightDtype::F32, ..key }, &spec);
        run(&key, &TinyLoraSpec { rank: 1, ..spec.clone() });
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 4);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let spec = spec(1);
        let cpu = Cpu::new(Kernel::best(), 1);
        let weights = weights(&cpu, &spec, None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        let events = Mutex::new(Vec::new());
        let key = FactorKey { weights_sha256: [7; 32], dtype: WeightDtype::Bf16 };
        let report = |event| events.lock().unwrap().push(event);
        load_or_compute_factors(&cpu, &file, &key, &spec, &frozen(&weights), &report).unwrap();
        let last = events.lock().unwrap().pop().unwrap();
        assert!(last.to_string().contains("could not be cached"), "{last}");
    }
}
