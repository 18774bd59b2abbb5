//! Golden files enter, tensors and a model leave; and the measure of agreement.
#![allow(dead_code)] // each test program uses its own part

pub mod case;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tinylora::hub::{ModelFiles, ModelLayout};
use tinylora::model::weights::Weights;
use tinylora::model::{Model, ModuleFactors, ModuleKind};
use tinylora_compute::{Cpu, Precision};

/// The folder `golden/`.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
}

/// A file of tensors, each as f32 with its shape.
pub struct Tensors {
    values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    tolerances: BTreeMap<String, f64>,
    /// The JSON file beside it.
    pub json: serde_json::Value,
}

impl Tensors {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a golden file is whole");
        let values = file
            .iter()
            .map(|(name, view)| {
                let words = view.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
                let values = match view.dtype() {
                    safetensors::Dtype::F32 => words.map(f32::from_le_bytes).collect(),
                    safetensors::Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
                    other => panic!("{name} is {other:?}"),
                };
                (name.to_owned(), (view.shape().to_vec(), values))
            })
            .collect();
        let json = std::fs::read_to_string(path.with_extension("json")).unwrap_or_else(|_| "{}".into());
        let json: serde_json::Value = serde_json::from_str(&json).expect("golden JSON");
        let tolerances = json["tensors"].as_object().map(|tensors| {
            tensors
                .iter()
                .map(|(name, t)| (name.clone(), t["tolerance"].as_f64().expect("a number")))
                .collect()
        });
        Self { values, tolerances: tolerances.unwrap_or_default(), json }
    }

    pub fn get(&self, name: &str) -> &[f32] {
        &self.values.get(name).unwrap_or_else(|| panic!("golden tensor {name}")).1
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.values.get(name).unwrap_or_else(|| panic!("golden tensor {name}")).0
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.get(name).iter().map(|&x| x as u32).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The stored tolerance of a tensor.
    pub fn tolerance(&self, name: &str) -> f64 {
        *self.tolerances.get(name).unwrap_or_else(|| panic!("tolerance of {name}"))
    }

    /// max |found − stored| / max |stored|
    pub fn error(&self, name: &str, found: &[f32]) -> f64 {
        let stored = self.get(name);
        assert_eq!(stored.len(), found.len(), "length of {name}");
        relative_error(stored, found)
    }

    /// Fails if the tensor is off by more than its tolerance (or `at_least`, where that is larger).
    pub fn check(&self, what: &str, name: &str, found: &[f32], at_least: f64) {
        let (error, limit) = (self.error(name, found), self.tolerance(name).max(at_least));
        assert!(error <= limit, "{what}: {name} is off by {error:.2e}, more than {limit:.0e}");
    }
}

pub fn relative_error(stored: &[f32], found: &[f32]) -> f64 {
    let largest = stored.iter().fold(0f64, |a, &b| a.max(f64::from(b).abs()));
    let off = stored.iter().zip(found).fold(0f64, |a, (&s, &f)| {
        let difference = (f64::from(s) - f64::from(f)).abs();
        if difference.is_nan() { f64::INFINITY } else { a.max(difference) }
    });
    off / largest.max(1e-30)
}

/// The files of a tiny model.
pub fn tiny_files(name: &str) -> ModelFiles {
    let folder = golden().join("models").join(name);
    let mut weights: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the model's folder")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("model")))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    weights.sort();
    ModelFiles {
        reference: name.to_owned(),
        layout: ModelLayout::HuggingFace {
            config: folder.join("config.json"),
            weights,
            tokenizer: folder.join("tokenizer.json"),
            tokenizer_config: None,
            chat_template: None,
            generation_config: None,
        },
    }
}

pub fn load(cpu: &Cpu, files: &ModelFiles, precision: Precision) -> Model {
    let weights = Weights::open(files).expect("the weights open");
    Model::load(cpu, &weights, precision, 1024, &mut |_, _| {}).expect("the model loads")
}

/// The real models' folder, from `TINYLORA_TEST_MODELS`; None, with a printed reason, where it is not given.
pub fn real_model(file: &str) -> Option<ModelFiles> {
    let Ok(folder) = std::env::var("TINYLORA_TEST_MODELS") else {
        eprintln!("skipped: TINYLORA_TEST_MODELS names no folder with {file}");
        return None;
    };
    let path = Path::new(&folder).join(file);
    if !path.is_file() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(ModelFiles { reference: file.to_owned(), layout: ModelLayout::Gguf { path } })
}

/// Layer and kind of a module name such as `model.layers.3.mlp.up_proj`.
pub fn module_of(name: &str) -> (usize, ModuleKind) {
    let rest = name.strip_prefix("model.layers.").expect("a layer's module");
    let (layer, path) = rest.split_once('.').expect("layer.path");
    let kind = ModuleKind::ALL.into_iter().find(|kind| kind.path() == path).expect("a known module");
    (layer.parse().expect("a number"), kind)
}

/// PEFT's adapter of a tiny model: the factors, and P of all modules (modules, u, r, r).
pub fn peft_adapter(name: &str, modules: &[String]) -> (Vec<ModuleFactors>, Vec<f32>) {
    let file = Tensors::open(&golden().join("models").join(name).join("adapter/adapter_model.safetensors"));
    let mut p = Vec::new();
    let factors = modules
        .iter()
        .map(|module| {
            let tensor =
                |part: &str| file.get(&format!("base_model.model.{module}.tinylora_{part}")).to_vec();
            p.extend(tensor("P"));
            let (layer, kind) = module_of(module);
            ModuleFactors { layer, kind, a: tensor("A"), b: tensor("B") }
        })
        .collect();
    (factors, p)
}
