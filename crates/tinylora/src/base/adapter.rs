//! A TinyLoRA or LoRA-XS adapter in training on a loaded base: its factors, projections and numbers, ready for the forward pass.

use super::adapter_set::side_factors;
use super::{Base, BaseError, Loading};
use crate::adapter::{
    AdapterFile, FactorEvent, FactorKey, FactorSketches, Factors, Module, Projections, RunMetadata,
    TinyLoraSpec, load_or_compute_factors,
};
use crate::model::{Adapters, Frozen, Gradients, R, SideFactors};
use crate::recipe::AdapterSection;
use std::path::Path;
use std::sync::mpsc;
use tinylora_compute::Cpu;

/// An adapter in use. Its version counts the changes of v, so that a rollout can say which it came from.
pub struct Adapter {
    /// What it is.
    pub spec: TinyLoraSpec,
    /// A and B of the base.
    pub factors: SideFactors,
    projections: Projections,
    sketches: FactorSketches,
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
        let v = spec.init_v(seed);
        let factors = factors_of(cpu, base, &spec, cache, report)?;
        Self::assemble(cpu, base, spec, &factors, v)
    }

    fn assemble(
        cpu: &Cpu,
        base: &Base,
        spec: TinyLoraSpec,
        factors: &Factors,
        v: Vec<f32>,
    ) -> Result<Self, BaseError> {
        let modules: Vec<Module> = spec.modules().collect();
        let projections = Projections::new(&spec);
        Ok(Self {
            factors: side_factors(cpu, base, &modules, factors)?,
            sketches: FactorSketches::new(&factors.sketches()),
            r: [R::Matrices(projections.r_matrices(&v))],
            projections,
            spec,
            v,
            version: 0,
        })
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
        Adapters { factors: Some(&self.factors), r: &self.r }
    }

    /// What goes into a file.
    pub fn to_file(&self, base: &Base, run: RunMetadata) -> AdapterFile {
        AdapterFile {
            spec: self.spec.clone(),
            v: self.v.clone(),
            base: base.identity.clone(),
            factors: self.sketches.clone(),
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
