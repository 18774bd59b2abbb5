//! A TinyLoRA or LoRA-XS adapter in training on a loaded base: its projections and numbers, ready for the forward pass, and the
//! base's factors, which any number of adapters share.

use super::adapter_set::side_factors;
use super::{Base, BaseError, Loading};
use crate::adapter::{
    AdapterFile, FactorEvent, FactorKey, FactorSketches, Factors, Module, Projections, RunMetadata,
    TinyLoraSpec, load_or_compute_factors,
};
use crate::model::{Adapters, Frozen, Gradients, R, SideFactors};
use crate::recipe::AdapterSection;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use tinylora_compute::Cpu;

/// A and B of a base, packed, and their fingerprints.
pub struct BaseFactors {
    /// As the forward pass takes them.
    pub side: SideFactors,
    rank: usize,
    modules: Vec<Module>,
    sketches: FactorSketches,
}

impl BaseFactors {
    /// Those that a specification needs, from the cache or computed.
    pub fn open(
        cpu: &Cpu,
        base: &Base,
        spec: &TinyLoraSpec,
        cache: &Path,
        report: &mut dyn FnMut(Loading),
    ) -> Result<Self, BaseError> {
        let factors = factors_of(cpu, base, spec, cache, report)?;
        let modules: Vec<Module> = spec.modules().collect();
        let side = side_factors(cpu, base, &modules, &factors)?;
        let sketches = FactorSketches::new(&factors.sketches());
        Ok(Self { side, rank: spec.rank, modules, sketches })
    }

    /// Whether an adapter of this specification on the same base needs the same ones.
    fn serve(&self, spec: &TinyLoraSpec) -> bool {
        self.rank == spec.rank && spec.modules().eq(self.modules.iter().copied())
    }
}

/// The factors of one base that were asked for last, so that runs on it share them.
#[derive(Default)]
pub struct FactorStore(Mutex<Option<Arc<BaseFactors>>>);

impl FactorStore {
    /// Those that a specification needs. Only the last ones are kept here.
    pub(super) fn get(
        &self,
        cpu: &Cpu,
        base: &Base,
        spec: &TinyLoraSpec,
        cache: &Path,
        report: &mut dyn FnMut(Loading),
    ) -> Result<Arc<BaseFactors>, BaseError> {
        let mut last = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(factors) = last.as_ref().filter(|factors| factors.serve(spec)) {
            return Ok(Arc::clone(factors));
        }
        *last = None; // both may not fit
        let factors = Arc::new(BaseFactors::open(cpu, base, spec, cache, report)?);
        *last = Some(Arc::clone(&factors));
        Ok(factors)
    }

    /// Lets go of them, for a run that needs none.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }
}

/// An adapter in use. Its version counts the changes of v, so that a rollout can say which it came from.
pub struct Adapter {
    /// What it is.
    pub spec: TinyLoraSpec,
    /// A and B of the base.
    pub factors: Arc<BaseFactors>,
    projections: Projections,
    v: Vec<f32>,
    r: [R; 1],
    version: u64,
}

impl Adapter {
    /// A fresh adapter, as the recipe has it; `seed` decides v's start where that is random.
    pub fn from_section(
        cpu: &Cpu,
        base: &Base,
        section: &AdapterSection,
        seed: u64,
        cache: &Path,
        report: &mut dyn FnMut(Loading),
    ) -> Result<Self, BaseError> {
        let spec = TinyLoraSpec::new(section, &base.model.config)?;
        let factors = Arc::new(BaseFactors::open(cpu, base, &spec, cache, report)?);
        Ok(Self::new(spec, seed, factors))
    }

    /// The same on factors that are there already.
    ///
    /// # Panics
    /// If they are those of another specification.
    pub(super) fn new(spec: TinyLoraSpec, seed: u64, factors: Arc<BaseFactors>) -> Self {
        assert!(factors.serve(&spec), "factors of rank {} for one of rank {}", factors.rank, spec.rank);
        let v = spec.init_v(seed);
        let projections = Projections::new(&spec);
        let r = [R::Matrices(projections.r_matrices(&v))];
        Self { spec, factors, projections, v, r, version: 0 }
    }

    /// The trained numbers (groups · u).
    pub fn v(&self) -> &[f32] {
        &self.v
    }

    /// Number of changes of v since the start of training.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Sets the numbers, already rounded to the storage precision, and the version.
    ///
    /// # Panics
    /// If there are not exactly as many as the specification has.
    pub fn set(&mut self, v: &[f32], version: u64) {
        assert_eq!(v.len(), self.v.len(), "as many numbers as the specification has");
        self.v.copy_from_slice(v);
        self.r = [R::Matrices(self.projections.r_matrices(v))];
        self.version = version;
    }

    /// dL/dv from dL/dR (modules · r · r).
    pub fn gradient(&self, dr: &[f64]) -> Vec<f32> {
        let dr: Vec<f32> = dr.iter().map(|&x| x as f32).collect();
        self.projections.v_gradient(&dr)
    }

    /// Sums of 0 for a backward pass.
    pub(super) fn sums(&self) -> Gradients {
        let rank = self.spec.rank;
        Gradients::R(vec![vec![0.0; self.spec.num_modules() * rank * rank]])
    }

    /// As the argument of a forward pass, in which it has number 0.
    pub fn adapters(&self) -> Adapters<'_> {
        Adapters { factors: Some(&self.factors.side), r: &self.r }
    }

    /// What goes into a file.
    pub fn to_file(&self, base: &Base, run: RunMetadata) -> AdapterFile {
        AdapterFile {
            spec: self.spec.clone(),
            v: self.v.clone(),
            base: base.identity.clone(),
            factors: self.factors.sketches.clone(),
            run,
        }
    }
}

pub(super) fn factors_of(
    cpu: &Cpu,
    base: &Base,
    spec: &TinyLoraSpec,
    cache: &Path,
    report: &mut dyn FnMut(Loading),
) -> Result<Factors, BaseError> {
    let weights: Vec<Frozen> =
        spec.modules().map(|module| base.model.frozen(module.layer, module.target)).collect();
    let key = FactorKey { weights_sha256: base.identity.sha256, dtype: base.dtype };
    // Factors are computed on several threads, but told of on this one.
    let (sender, receiver) = mpsc::channel();
    let factors = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let sender = sender;
            load_or_compute_factors(cpu, cache, &key, spec, &weights, &|event| {
                let _ = sender.send(event);
            })
        });
        for event in receiver {
            report(match event {
                FactorEvent::Computed { done, total } => {
                    Loading::Factors { done: done as u64, total: total as u64 }
                }
                other => Loading::Message(other.to_string()),
            });
        }
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    Ok(factors?)
}
