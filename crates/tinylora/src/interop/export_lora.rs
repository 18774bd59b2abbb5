//! A standalone adapter enters, a plain LoRA in PEFT's form leaves, for programs that know nothing else: lora_A = A,
//! lora_B = B R, alpha = r, so that the scaling is 1.

use std::path::Path;

use serde_json::json;

use super::delta::deltas;
use super::error::InteropError;
use super::export_peft::{PEFT_VERSION, target_modules, write_folder};
use super::import::widened;
use super::peft_config::module_name;
use crate::adapter::Standalone;

/// Writes a folder with a LoRA of rank `rank` (None: the adapter's own), filled up with zeros.
pub fn export_lora(adapter: &Standalone, rank: Option<usize>, folder: &Path) -> Result<(), InteropError> {
    let own = adapter.rank();
    let rank = checked_rank(own, rank)?;
    let mut tensors = Vec::with_capacity(2 * adapter.modules.len());
    for delta in deltas(adapter)? {
        let (n, k) = adapter.base.shape(delta.module.target);
        let name = |part: &str| format!("base_model.model.{}.lora_{part}.weight", module_name(delta.module));
        let mut a = delta.a.to_vec();
        a.resize(rank * k, 0.0);
        tensors.push((name("A"), vec![rank, k], a));
        tensors.push((name("B"), vec![n, rank], widened(&delta.br, own, rank)));
    }
    let config = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": adapter.base.reference,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "r": rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": target_modules(adapter),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    write_folder(folder, &config, &tensors)
}

/// The rank to write: at least the adapter's own.
pub(super) fn checked_rank(own: usize, wanted: Option<usize>) -> Result<usize, InteropError> {
    match wanted {
        None => Ok(own),
        Some(wanted) if wanted >= own => Ok(wanted),
        Some(wanted) => Err(InteropError::RankTooSmall { wanted, rank: own }),
    }
}
