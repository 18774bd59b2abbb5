//! Adapter files of a loaded base enter, sets leave whose members can share a batch: the factors are common, each
//! has its own R. A sequence of the batch names its adapter by its place in the set. Nothing here trains.

use super::adapter::factors_of;
use super::{Base, BaseError, Loading};
use crate::adapter::{AdapterFile, AnyAdapter, FactorSketch, Factors, Module, Projections, Standalone};
use crate::model::{Adapters, ModuleFactors, R, SideFactors};
use std::path::Path;
use tinylora_compute::Cpu;

/// Adapters that share their factors.
pub struct AdapterSet {
    /// A and B.
    pub factors: SideFactors,
    /// The adapted modules, in the order of R.
    pub modules: Vec<Module>,
    /// Which of the given adapters are in the set; their places here are their numbers in a batch.
    pub members: Vec<usize>,
    /// R of each member.
    pub matrices: Vec<R>,
}

impl AdapterSet {
    /// The set as a forward pass takes it.
    pub fn adapters(&self) -> Adapters<'_> {
        Adapters { factors: Some(&self.factors), r: &self.matrices }
    }
}

/// A set while it is collected.
struct Collected {
    factors: Factors,
    modules: Vec<Module>,
    /// Fingerprints, where the factors are those of the base itself; None: of a file.
    sketches: Option<Vec<FactorSketch>>,
    members: Vec<usize>,
    matrices: Vec<R>,
}

/// Sorts adapters, each with the name that messages call it, into as few sets as their factors allow. Each is
/// checked against the base; factors of seeded adapters are computed or read once a set.
pub fn adapter_sets(
    cpu: &Cpu,
    base: &Base,
    adapters: &[(&str, &AnyAdapter)],
    cache: &Path,
    report: &mut dyn FnMut(Loading),
) -> Result<Vec<AdapterSet>, BaseError> {
    let mut sets: Vec<Collected> = Vec::new();
    for (index, (name, adapter)) in adapters.iter().enumerate() {
        adapter.base().check(name, &base.identity)?;
        let (set, r) = match adapter {
            AnyAdapter::Seeded(file) => seeded(cpu, base, name, file, cache, &mut sets, report)?,
            AnyAdapter::Standalone(adapter) => standalone(adapter, &mut sets)?,
        };
        sets[set].members.push(index);
        sets[set].matrices.push(r);
    }
    sets.into_iter().map(|set| pack(cpu, base, set)).collect()
}

/// A and B of an adapter's base, checked against the fingerprints in its file.
pub fn checked_factors(
    cpu: &Cpu,
    base: &Base,
    name: &str,
    file: &AdapterFile,
    cache: &Path,
    report: &mut dyn FnMut(Loading),
) -> Result<Factors, BaseError> {
    file.check_base(name, &base.identity)?;
    let factors = factors_of(cpu, base, &file.spec, cache, report)?;
    file.check_factors(name, &factors.sketches())?;
    Ok(factors)
}

/// The number of the set that a seeded adapter belongs to, and its R.
fn seeded(
    cpu: &Cpu,
    base: &Base,
    name: &str,
    file: &AdapterFile,
    cache: &Path,
    sets: &mut Vec<Collected>,
    report: &mut dyn FnMut(Loading),
) -> Result<(usize, R), BaseError> {
    let r = R::Matrices(Projections::new(&file.spec).r_matrices(&file.v));
    let modules: Vec<Module> = file.spec.modules().collect();
    for (number, set) in sets.iter().enumerate() {
        if let Some(sketches) = &set.sketches
            && set.factors.rank == file.spec.rank
            && set.modules == modules
        {
            file.check_factors(name, sketches)?;
            return Ok((number, r));
        }
    }
    let factors = checked_factors(cpu, base, name, file, cache, report)?;
    let sketches = Some(factors.sketches());
    sets.push(Collected { factors, modules, sketches, members: vec![], matrices: vec![] });
    Ok((sets.len() - 1, r))
}

fn standalone(adapter: &Standalone, sets: &mut Vec<Collected>) -> Result<(usize, R), BaseError> {
    // LoRA's R is a multiple of the identity.
    let r = R::Matrices(adapter.r_matrices()?).simplified(adapter.modules.len(), adapter.rank());
    let fits = |set: &Collected| set.modules == adapter.modules && set.factors == adapter.factors;
    if let Some(set) = sets.iter().position(fits) {
        return Ok((set, r));
    }
    let (factors, modules) = (adapter.factors.clone(), adapter.modules.clone());
    sets.push(Collected { factors, modules, sketches: None, members: vec![], matrices: vec![] });
    Ok((sets.len() - 1, r))
}

fn pack(cpu: &Cpu, base: &Base, set: Collected) -> Result<AdapterSet, BaseError> {
    let Collected { factors, modules, members, matrices, .. } = set;
    let packed = side_factors(cpu, base, &modules, &factors)?;
    Ok(AdapterSet { factors: packed, modules, members, matrices })
}

/// A and B as the forward pass takes them.
pub(super) fn side_factors(
    cpu: &Cpu,
    base: &Base,
    modules: &[Module],
    factors: &Factors,
) -> Result<SideFactors, BaseError> {
    let modules: Vec<ModuleFactors> = modules
        .iter()
        .zip(&factors.modules)
        .map(|(module, factors)| ModuleFactors {
            layer: module.layer,
            kind: module.target,
            a: factors.a.clone(),
            b: factors.b.clone(),
        })
        .collect();
    Ok(SideFactors::beside(cpu, &base.model, factors.rank, &modules)?)
}
