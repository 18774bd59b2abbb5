//! A folder that PEFT saved enters, a standalone adapter leaves. The file's own A, B and P are taken as they are;
//! only where a TinyLoRA file leaves P out is it drawn again, as PyTorch draws it.
//!
//! Modules of a smaller rank than the others get zeros up to the largest rank, which changes no result.

use std::path::Path;

use super::error::InteropError;
use super::peft_config::{PeftConfig, PeftType, module_name};
use super::peft_files::{Loaded, Part, PeftTensors};
use super::torch_random;
use crate::adapter::{BaseIdentity, Factors, Method, Module, ModuleFactors, Standalone};

/// Far above the ranks in use; bounds r² before anything of that size is made.
const LARGEST_RANK: usize = 4096;

/// Reads a folder with `adapter_config.json` and `adapter_model.safetensors`: TinyLoRA, LoRA, rsLoRA or LoRA-XS.
/// `base` is the model that it was trained on; its sizes are checked against every tensor.
pub fn import_peft(folder: &Path, base: &BaseIdentity) -> Result<Standalone, InteropError> {
    let config = PeftConfig::read(folder)?;
    let method = config.peft_type()?;
    let modules = config.modules(base.num_layers as usize)?;
    let mut tensors = PeftTensors::read(folder)?;
    let adapter = match method {
        PeftType::TinyLora => tinylora(&config, base, modules, &mut tensors)?,
        PeftType::Lora => lora(&config, base, modules, &mut tensors)?,
    };
    // What was not taken belongs to something that would be lost.
    let left = tensors.modules.into_values().chain(tensors.v.into_values()).next();
    match left {
        None => Ok(adapter),
        Some(loaded) => Err(InteropError::UnexpectedTensor {
            file: tensors.file,
            tensor: loaded.name,
            shape: loaded.shape,
            reason: "adapter_config.json does not ask for it".into(),
        }),
    }
}

/// One module's numbers at its own rank.
struct OneModule {
    rank: usize,
    /// (r, in)
    a: Vec<f32>,
    /// (out, r)
    b: Vec<f32>,
    /// (u, r, r)
    p: Vec<f32>,
}

fn tinylora(
    config: &PeftConfig,
    base: &BaseIdentity,
    modules: Vec<Module>,
    tensors: &mut PeftTensors,
) -> Result<Standalone, InteropError> {
    let (r, u) = (config.count("r", 2)?, config.count("u", 64)?);
    let tying = config.number("weight_tying", 0.0, (0.0, 1.0))?;
    let seed = config.seed("projection_seed", 42)?;
    let saved = tensors.modules.keys().any(|(_, part)| *part == Part::P);
    if !saved && config.has_process_seeds() {
        return Err(config.bad(
            "peft_version",
            "versions before 0.20 drew P from a seed that changed with each process, and this file leaves P out: \
             train it again, or save it with save_projection = true from the process that still has it"
                .into(),
        ));
    }
    let mut parts = Vec::with_capacity(modules.len());
    for (index, &module) in modules.iter().enumerate() {
        let (n, k) = base.shape(module.target);
        // PEFT lowers the rank where a matrix has fewer singular values.
        let rank = r.min(n).min(k);
        let a = factor(tensors, module, Part::A, "tinylora_A", &[rank, k])?;
        let b = factor(tensors, module, Part::B, "tinylora_B", &[n, rank])?;
        let p = if saved {
            factor(tensors, module, Part::P, "tinylora_P", &[u, rank, rank])?
        } else {
            let deviation = 1.0 / (rank as f64).sqrt();
            torch_random::normal(seed.wrapping_add(index as u64), deviation, u * rank * rank)
        };
        parts.push(OneModule { rank, a, b, p });
    }
    let groups = peft_groups(modules.len(), tying);
    let num_groups = groups.iter().max().map_or(0, |last| last + 1);
    let mut v = Vec::with_capacity(num_groups * u);
    for group in 0..num_groups {
        let name = format!("base_model.tinylora_v.{group}");
        let Some(loaded) = tensors.v.remove(&group) else {
            let reason =
                format!("{} modules at weight_tying {tying} make {num_groups} groups", modules.len());
            let file = tensors.file.clone();
            return Err(InteropError::MissingTensor { file, tensor: name, shape: vec![u], reason });
        };
        v.extend(shaped(tensors, loaded, &[u])?);
    }
    let saved = if saved { "P from the file" } else { "P drawn again" };
    let source = format!("PEFT {}, TinyLoRA, {saved}, projection seed {seed}", config.version());
    Ok(assemble(Method::TinyLora, base, modules, groups, u, v, parts, source))
}

/// The group of each of `modules` modules, as PEFT ties them: runs of ⌊M / G⌋ with the remainder in the last, where
/// G = round(M · (1 − tying)), halves to even, at least 1.
pub(super) fn peft_groups(modules: usize, tying: f64) -> Vec<usize> {
    let count = ((modules as f64 * (1.0 - tying)).round_ties_even() as usize).max(1);
    let size = (modules / count).max(1);
    (0..modules).map(|index| (index / size).min(count - 1)).collect()
}

fn lora(
    config: &PeftConfig,
    base: &BaseIdentity,
    modules: Vec<Module>,
    tensors: &mut PeftTensors,
) -> Result<Standalone, InteropError> {
    let method =
        if tensors.modules.keys().any(|(_, part)| *part == Part::R) { Method::LoraXs } else { Method::Lora };
    let alpha = config.number("lora_alpha", 8.0, (-1e9, 1e9))?;
    let rank_stabilised = config.flag("use_rslora")?;
    let mut parts = Vec::with_capacity(modules.len());
    for &module in &modules {
        let (n, k) = base.shape(module.target);
        let rank = lora_rank(tensors, module, k)?;
        let a = factor(tensors, module, Part::A, "lora_A.weight", &[rank, k])?;
        let b = factor(tensors, module, Part::B, "lora_B.weight", &[n, rank])?;
        let alpha = config.pattern_number("alpha_pattern", module)?.unwrap_or(alpha);
        let scaling = alpha / if rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        let p = match method {
            Method::LoraXs => {
                let r =
                    factor(tensors, module, Part::R, "default_lora_latent_mapping.weight", &[rank, rank])?;
                r.into_iter().map(|r| (scaling * f64::from(r)) as f32).collect()
            }
            _ => (0..rank * rank).map(|i| if i % (rank + 1) == 0 { scaling as f32 } else { 0.0 }).collect(),
        };
        parts.push(OneModule { rank, a, b, p });
    }
    let kind = match (method, rank_stabilised) {
        (Method::LoraXs, _) => "LoRA-XS",
        (_, true) => "rsLoRA",
        (_, false) => "LoRA",
    };
    let source = format!("PEFT {}, {kind}, alpha {alpha}", config.version());
    let groups = vec![0; modules.len()];
    Ok(assemble(method, base, modules, groups, 1, vec![1.0], parts, source))
}

/// A module's rank is that of its A: `rank_pattern` may give each another.
fn lora_rank(tensors: &PeftTensors, module: Module, inputs: usize) -> Result<usize, InteropError> {
    let Some(a) = tensors.modules.get(&(module, Part::A)) else { return Ok(1) };
    match a.shape[..] {
        [rank, k] if k == inputs && (1..=LARGEST_RANK).contains(&rank) => Ok(rank),
        _ => {
            Err(tensors.bad_shape(a, format!("{module} needs [r, {inputs}] with r from 1 to {LARGEST_RANK}")))
        }
    }
}

/// A tensor of a module, of exactly this shape.
fn factor(
    tensors: &mut PeftTensors,
    module: Module,
    part: Part,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f32>, InteropError> {
    let full = format!("base_model.model.{}.{name}", module_name(module));
    let reason =
        "adapter_config.json adapts this module; the file is incomplete or the base model is another one";
    let loaded = tensors.take(module, part, &full, shape, reason)?;
    shaped(tensors, loaded, shape)
}

fn shaped(tensors: &PeftTensors, loaded: Loaded, shape: &[usize]) -> Result<Vec<f32>, InteropError> {
    if loaded.shape == shape {
        return Ok(loaded.values);
    }
    let expected =
        format!("adapter_config.json and the base model ask for {shape:?}; is it the right base model?");
    Err(tensors.bad_shape(&loaded, expected))
}

/// All modules at the largest rank among them.
fn assemble(
    method: Method,
    base: &BaseIdentity,
    modules: Vec<Module>,
    groups: Vec<usize>,
    u: usize,
    v: Vec<f32>,
    parts: Vec<OneModule>,
    source: String,
) -> Standalone {
    let rank = parts.iter().map(|part| part.rank).max().unwrap_or(1);
    let mut p = Vec::with_capacity(parts.len() * u * rank * rank);
    let mut factors = Factors { rank, modules: Vec::with_capacity(parts.len()) };
    for part in parts {
        let own = part.rank;
        for matrix in part.p.chunks_exact(own * own) {
            p.extend(widened(matrix, own, rank));
            p.resize(p.len() + (rank - own) * rank, 0.0);
        }
        let mut a = part.a;
        a.resize(a.len() / own * rank, 0.0);
        factors.modules.push(ModuleFactors { a, b: widened(&part.b, own, rank) });
    }
    Standalone { method, base: base.clone(), modules, groups, u, v, p, factors, source, run: None }
}

/// Rows of `own` numbers with zeros appended up to `rank`.
pub(super) fn widened(rows: &[f32], own: usize, rank: usize) -> Vec<f32> {
    rows.chunks_exact(own)
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, rank - own)))
        .collect()
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
