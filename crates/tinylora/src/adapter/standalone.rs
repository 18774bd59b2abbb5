//! An adapter that carries everything but the base model: v, who shares it, P, and the factors A and B. This is what
//! adapters of other programs become, since their factors can't be recomputed exactly, and what every export starts
//! from. Nothing here trains, and nothing reads another program's files.
//!
//! One form for three methods. Of each module ΔW = B R A with R = Σ_i v_i P_i:
//! - TinyLoRA: as it is;
//! - LoRA: v = 1, P = scaling · I;
//! - LoRA-XS: v = 1, P = scaling · R.

use super::any::AnyAdapter;
use super::file::{AdapterFile, AdapterFileError, BaseIdentity, RunMetadata};
use super::lora::LoraSpec;
use super::projections::Projections;
use super::spec::{AdapterError, Module};
use super::{Factors, standalone_layout};
use crate::atomic_file;
use crate::model::R;
use crate::recipe::Projection;
use std::path::Path;

/// How an adapter was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// R = Σ v_i P_i with fixed P, A and B.
    TinyLora,
    /// A and B trained, R a multiple of the identity.
    Lora,
    /// R trained, A and B fixed.
    LoraXs,
}

impl Method {
    /// As its authors write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TinyLora => "TinyLoRA",
            Self::Lora => "LoRA",
            Self::LoraXs => "LoRA-XS",
        }
    }
}

/// An adapter with its factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Standalone {
    /// How it was trained.
    pub method: Method,
    /// The base that it belongs to.
    pub base: BaseIdentity,
    /// The adapted modules, depth first, each once (M).
    pub modules: Vec<Module>,
    /// The group of each module, 0 … G − 1 (M).
    pub groups: Vec<usize>,
    /// Numbers a group.
    pub u: usize,
    /// (G · u)
    pub v: Vec<f32>,
    /// (M, u, r, r)
    pub p: Vec<f32>,
    /// A (r, in) and B (out, r) of each module.
    pub factors: Factors,
    /// Where it comes from, for people.
    pub source: String,
    /// The run that trained it here; None: it comes from elsewhere.
    pub run: Option<RunMetadata>,
}

impl Standalone {
    /// A seeded adapter with the factors of its base; its scale goes into P, so that v stays bit for bit. Of LoRA-XS v is
    /// R itself, and R leaves as the one P of a v of 1: r² numbers a module, where a basis written out has r⁴.
    pub fn from_seeded(file: &AdapterFile, factors: Factors) -> Self {
        let spec = &file.spec;
        let projections = Projections::new(spec);
        let (method, groups, u, v, p) = match spec.projection {
            Projection::Basis => {
                (Method::LoraXs, vec![0; spec.num_modules()], 1, vec![1.0], projections.r_matrices(&file.v))
            }
            Projection::Normal | Projection::Uniform => {
                let p = projections.values().iter().map(|&p| spec.scale * p).collect();
                (Method::TinyLora, spec.groups(), spec.u, file.v.clone(), p)
            }
        };
        Self {
            method,
            base: file.base.clone(),
            modules: spec.modules().collect(),
            groups,
            u,
            v,
            p,
            factors,
            source: format!("tinylora {}", file.run.version),
            run: Some(file.run.clone()),
        }
    }

    /// A LoRA adapter that was trained here.
    pub fn from_lora(spec: &LoraSpec, numbers: &[f32], base: BaseIdentity, run: RunMetadata) -> Self {
        let (rank, modules) = (spec.rank, spec.modules().collect::<Vec<_>>());
        let identity = (0..rank * rank).map(|at| if at % (rank + 1) == 0 { spec.scale() } else { 0.0 });
        Self {
            method: Method::Lora,
            base,
            groups: vec![0; modules.len()],
            u: 1,
            v: vec![1.0],
            p: identity.collect::<Vec<f32>>().repeat(modules.len()),
            factors: spec.factors(numbers),
            source: format!("tinylora {}", run.version),
            run: Some(run),
            modules,
        }
    }

    /// How many numbers its method trains.
    pub fn trained_numbers(&self) -> usize {
        match self.method {
            Method::TinyLora => self.v.len(),
            Method::Lora => self.factors.modules.iter().map(|module| module.a.len() + module.b.len()).sum(),
            Method::LoraXs => self.modules.len() * self.rank() * self.rank(),
        }
    }

    /// r
    pub fn rank(&self) -> usize {
        self.factors.rank
    }

    /// G
    pub fn num_groups(&self) -> usize {
        self.groups.iter().max().map_or(0, |last| last + 1)
    }

    /// P and the groups, ready to make R of v.
    pub fn projections(&self) -> Result<Projections, AdapterError> {
        Projections::from_parts(self.rank(), self.u, 1.0, self.groups.clone(), self.p.clone())
    }

    /// The number that every R is the identity times, if there is one.
    pub fn scale(&self) -> Option<f32> {
        let R::Multiples(scales) =
            R::Matrices(self.r_matrices().ok()?).simplified(self.modules.len(), self.rank())
        else {
            return None;
        };
        let first = *scales.first()?;
        scales.iter().all(|scale| *scale == first).then_some(first)
    }

    /// R of every module (M, r, r).
    pub fn r_matrices(&self) -> Result<Vec<f32>, AdapterError> {
        Ok(self.projections()?.r_matrices(&self.v))
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, AdapterFileError> {
        standalone_layout::encode(self)
    }

    /// Reads the bytes of a file; `name` is what messages call it.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, AdapterFileError> {
        standalone_layout::decode(name, bytes)
    }

    /// Writes a file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), AdapterFileError> {
        Ok(atomic_file::write(path, &self.to_bytes()?)?)
    }
}

impl From<Standalone> for AnyAdapter {
    fn from(adapter: Standalone) -> Self {
        Self::Standalone(adapter)
    }
}

impl From<AdapterFile> for AnyAdapter {
    fn from(file: AdapterFile) -> Self {
        Self::Seeded(file)
    }
}
