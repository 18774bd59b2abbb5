//! A standalone adapter enters, the two files leave that PEFT loads as TinyLoRA. v leaves bit for bit, A, B and P as
//! they are.

use std::path::Path;

use serde_json::{Value, json};

use super::error::{InteropError, io};
use super::import::peft_groups;
use super::peft_config::{CONFIG, module_name};
use super::peft_files::WEIGHTS;
use super::safetensors_out::write_f32;
use super::staged::Staged;
use crate::adapter::{Standalone, Target};

/// The PEFT version whose files these are.
pub(super) const PEFT_VERSION: &str = "0.21.2";

/// Writes a folder that PEFT (0.20 or later) loads. An adapter that was no TinyLoRA has no P of a fixed kind; it leaves
/// as TinyLoRA all the same, with its R as P.
pub fn export_peft(adapter: &Standalone, folder: &Path) -> Result<(), InteropError> {
    let (tying, v) = tied(adapter);
    let (rank, u) = (adapter.rank(), adapter.u);
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (group, v) in v.chunks_exact(u).enumerate() {
        tensors.push((format!("base_model.tinylora_v.{group}"), vec![u], v.to_vec()));
    }
    for (index, &module) in adapter.modules.iter().enumerate() {
        let name = |part: &str| format!("base_model.model.{}.tinylora_{part}", module_name(module));
        let factors = &adapter.factors.modules[index];
        let p = &adapter.p[index * u * rank * rank..][..u * rank * rank];
        let (n, k) = adapter.base.shape(module.target);
        tensors.push((name("A"), vec![rank, k], factors.a.clone()));
        tensors.push((name("B"), vec![n, rank], factors.b.clone()));
        tensors.push((name("P"), vec![u, rank, rank], p.to_vec()));
    }
    let config = json!({
        "auto_mapping": null,
        "base_model_name_or_path": adapter.base.reference,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_v_bound": 0.02,
        "init_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "modules_to_save": null,
        "peft_type": "TINYLORA",
        "peft_version": PEFT_VERSION,
        "projection_seed": 42,
        "r": rank,
        "revision": null,
        "save_projection": true,
        "target_modules": target_modules(adapter),
        "task_type": "CAUSAL_LM",
        "tinylora_dropout": 0.0,
        "u": u,
        "weight_tying": tying,
    });
    write_folder(folder, &config, &tensors)
}

/// Writes both files of an adapter.
pub(super) fn write_folder(
    folder: &Path,
    config: &Value,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
) -> Result<(), InteropError> {
    let staged = Staged::folder(folder)?;
    write_f32(&staged.path().join(WEIGHTS), tensors)?;
    let file = staged.path().join(CONFIG);
    let text = serde_json::to_string_pretty(config).expect("plain data is JSON") + "\n";
    std::fs::write(&file, text).map_err(io(&file, "write the file"))?;
    staged.commit()
}

/// `weight_tying` and v by PEFT's groups. Groups that its formula can't make leave as one a module, v repeated.
fn tied(adapter: &Standalone) -> (f64, Vec<f32>) {
    let modules = adapter.modules.len();
    let tying =
        if adapter.num_groups() == 1 { 1.0 } else { 1.0 - adapter.num_groups() as f64 / modules as f64 };
    if peft_groups(modules, tying) == adapter.groups {
        return (tying, adapter.v.clone());
    }
    let v = adapter
        .groups
        .iter()
        .flat_map(|group| &adapter.v[group * adapter.u..][..adapter.u])
        .copied()
        .collect();
    (0.0, v)
}

/// Names of kinds where every layer has them all, else every module by its own name.
pub(super) fn target_modules(adapter: &Standalone) -> Vec<String> {
    let layers = adapter.base.num_layers as usize;
    let kinds: Vec<Target> = Target::ALL
        .into_iter()
        .filter(|&target| adapter.modules.iter().any(|module| module.target == target))
        .collect();
    let everywhere = adapter.modules.len() == layers * kinds.len();
    if everywhere {
        kinds.iter().map(|target| target.name().to_owned()).collect()
    } else {
        adapter.modules.iter().map(|&module| module_name(module)).collect()
    }
}
