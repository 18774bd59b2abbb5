//! `adapter_config.json` enters, the settings that an import needs leave; settings that would change the result and
//! that can't be taken over are refused with the reason. No tensor is read here.

use std::path::{Path, PathBuf};

use fancy_regex::Regex;
use serde_json::Value;

use super::error::{InteropError, io};
use crate::adapter::{Module, Target};

/// The file's name in a folder.
pub(super) const CONFIG: &str = "adapter_config.json";
/// Configurations have a few kilobytes.
const LARGEST: u64 = 4 << 20;

/// A configuration as it stands in the file.
pub(crate) struct PeftConfig {
    file: PathBuf,
    json: Value,
}

/// Which of PEFT's methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeftType {
    TinyLora,
    Lora,
}

/// Settings that must be absent, null, false or empty, and why.
const REFUSED: [(&str, &str); 12] = [
    ("modules_to_save", "whole modules that were trained besides the adapter are no part of an adapter here"),
    ("fan_in_fan_out", "weights of the other orientation (GPT-2's) do not occur in the supported families"),
    ("use_dora", "DoRA also rescales the base's weights, which an adapter here can't"),
    ("lora_bias", "biases that were trained besides the adapter can't be taken over"),
    ("layer_replication", "repeated layers make another base model"),
    ("trainable_token_indices", "trained token embeddings are no part of an adapter here"),
    ("target_parameters", "adapters on bare parameters (of experts) can't be taken over"),
    ("use_qalora", "QALoRA pools its input, which is no plain low-rank update"),
    ("alora_invocation_tokens", "an adapter that begins in mid-text can't be taken over"),
    ("use_bdlora", "block-diagonal factors can't be taken over"),
    ("lora_ga_config", "LoRA-GA changes the base's weights; save a converted adapter instead"),
    ("arrow_config", "routing among adapters can't be taken over"),
];

impl PeftConfig {
    /// Reads the configuration of a folder and refuses what can't be taken over.
    pub(super) fn read(folder: &Path) -> Result<Self, InteropError> {
        let file = folder.join(CONFIG);
        let not_one = |reason: String| InteropError::NotAnAdapter { folder: folder.to_owned(), reason };
        if !folder.is_dir() {
            return Err(not_one("it is not a folder".into()));
        }
        if !file.is_file() {
            return Err(not_one(format!("{CONFIG} is not in it")));
        }
        let size = std::fs::metadata(&file).map_err(io(&file, "read the file"))?.len();
        if size > LARGEST {
            return Err(not_one(format!("{CONFIG} has {size} bytes, more than the limit of {LARGEST}")));
        }
        let bytes = std::fs::read(&file).map_err(io(&file, "read the file"))?;
        Self::parse(file, &bytes)
    }

    /// The same from the bytes of a file, whose name is for messages.
    pub(crate) fn parse(file: PathBuf, bytes: &[u8]) -> Result<Self, InteropError> {
        let json = serde_json::from_slice(bytes)
            .map_err(|error| InteropError::Json { file: file.clone(), reason: error.to_string() })?;
        let config = Self { file, json };
        config.refuse()?;
        Ok(config)
    }

    fn refuse(&self) -> Result<(), InteropError> {
        if !self.json.is_object() {
            return Err(InteropError::Json { file: self.file.clone(), reason: "expected an object".into() });
        }
        for (key, reason) in REFUSED {
            let value = &self.json[key];
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if !off {
                return Err(self.bad(key, format!("it must be absent: {reason}")));
            }
        }
        match &self.json["bias"] {
            Value::Null => Ok(()),
            Value::String(bias) if bias == "none" => Ok(()),
            _ => {
                Err(self
                    .bad("bias", "it must be \"none\": trained biases are no part of an adapter here".into()))
            }
        }
    }

    /// PEFT's method.
    pub(super) fn peft_type(&self) -> Result<PeftType, InteropError> {
        match self.json["peft_type"].as_str() {
            Some("TINYLORA") => Ok(PeftType::TinyLora),
            Some("LORA") => Ok(PeftType::Lora),
            _ => Err(self.bad(
                "peft_type",
                "\"TINYLORA\" and \"LORA\" (also rsLoRA and LoRA-XS) can be taken over".into(),
            )),
        }
    }

    /// PEFT's version, where it says so.
    pub(super) fn version(&self) -> &str {
        self.json["peft_version"].as_str().unwrap_or("of an unknown version")
    }

    /// Whether the file says that it was saved by a version whose P can't be drawn again: before 0.20 every module
    /// had the same P, from a seed that changed with each process.
    pub(super) fn has_process_seeds(&self) -> bool {
        let mut parts = self.version().split('.').map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
        (parts.next(), parts.next()) <= (Some(0), Some(19))
    }

    /// A whole number above 0.
    pub(super) fn count(&self, key: &str, default: u64) -> Result<usize, InteropError> {
        match &self.json[key] {
            Value::Null => Ok(default as usize),
            value => match value.as_u64() {
                Some(count @ 1..=1_000_000) => Ok(count as usize),
                _ => Err(self.bad(key, "it must be a whole number from 1 to 1000000".into())),
            },
        }
    }

    /// A whole number that may be negative: seeds are taken modulo 2⁶⁴.
    pub(super) fn seed(&self, key: &str, default: u64) -> Result<u64, InteropError> {
        match &self.json[key] {
            Value::Null => Ok(default),
            value => value
                .as_u64()
                .or_else(|| value.as_i64().map(|seed| seed as u64))
                .ok_or_else(|| self.bad(key, "it must be a whole number of 64 bits".into())),
        }
    }

    /// A finite number in a range.
    pub(super) fn number(&self, key: &str, default: f64, range: (f64, f64)) -> Result<f64, InteropError> {
        match &self.json[key] {
            Value::Null => Ok(default),
            value => match value.as_f64() {
                Some(x) if x.is_finite() && (range.0..=range.1).contains(&x) => Ok(x),
                _ => Err(self.bad(key, format!("it must be a number from {} to {}", range.0, range.1))),
            },
        }
    }

    /// true or false; absent is false.
    pub(super) fn flag(&self, key: &str) -> Result<bool, InteropError> {
        match &self.json[key] {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.bad(key, "it must be true or false".into())),
        }
    }

    /// The value for a module in a table of patterns such as `alpha_pattern`: of the first key that matches the end
    /// of the module's name.
    pub(super) fn pattern_number(&self, key: &str, module: Module) -> Result<Option<f64>, InteropError> {
        let Value::Object(table) = &self.json[key] else { return Ok(None) };
        let name = module_name(module);
        for (pattern, value) in table {
            if self.matches(key, &format!(r"^(.*\.)?({pattern})$"), &name)? {
                let number = value.as_f64().filter(|x| x.is_finite());
                let wanted = || self.bad(key, format!("`{pattern}` must have a finite number"));
                return number.map(Some).ok_or_else(wanted);
            }
        }
        Ok(None)
    }

    /// The adapted modules among those of a model with so many layers, depth first, by the rules of PEFT.
    pub(crate) fn modules(&self, layers: usize) -> Result<Vec<Module>, InteropError> {
        let mut modules = Vec::new();
        for layer in 0..layers {
            for target in Target::ALL {
                let module = Module { layer, target };
                let name = module_name(module);
                if !self.named(&self.json["exclude_modules"], "exclude_modules", &name)?
                    && self.targeted(module, &name)?
                {
                    modules.push(module);
                }
            }
        }
        if modules.is_empty() {
            let wanted = format!("it names none of the linear layers of the {layers} blocks");
            return Err(self.bad("target_modules", wanted));
        }
        Ok(modules)
    }

    fn targeted(&self, module: Module, name: &str) -> Result<bool, InteropError> {
        let targets = &self.json["target_modules"];
        let found = match targets {
            // PEFT's own choice for the supported families.
            Value::Null => matches!(module.target, Target::Q | Target::V),
            Value::String(word) if word == "all-linear" => true,
            _ => self.named(targets, "target_modules", name)?,
        };
        // PEFT looks at layer numbers only where the targets are a list.
        if !found || targets.is_string() {
            return Ok(found);
        }
        match &self.json["layers_to_transform"] {
            Value::Null => return Ok(true),
            Value::Array(list) if list.is_empty() => return Ok(true),
            _ => {}
        }
        match &self.json["layers_pattern"] {
            Value::Null => {}
            Value::Array(list) if list.is_empty() || list.iter().any(|word| word == "layers") => {}
            Value::String(word) if word.is_empty() || word == "layers" => {}
            _ => {
                return Err(self.bad(
                    "layers_pattern",
                    "the blocks of the supported families stand in \"layers\"".into(),
                ));
            }
        }
        match &self.json["layers_to_transform"] {
            Value::Array(list) => Ok(list.iter().any(|number| number.as_u64() == Some(module.layer as u64))),
            Value::Number(number) => Ok(number.as_u64() == Some(module.layer as u64)),
            _ => Err(self.bad("layers_to_transform", "it must be a layer's number or a list of them".into())),
        }
    }

    /// Whether a list (names or ends of names) or a pattern (of the whole name) names a module.
    fn named(&self, names: &Value, key: &str, module: &str) -> Result<bool, InteropError> {
        match names {
            Value::Null => Ok(false),
            Value::String(pattern) => self.matches(key, &format!("^(?:{pattern})$"), module),
            Value::Array(list) => {
                let mut found = false;
                for name in list {
                    let Some(name) = name.as_str() else {
                        return Err(self.bad(key, "it must be a list of names".into()));
                    };
                    found |= module == name
                        || module.strip_suffix(name).is_some_and(|before| before.ends_with('.'));
                }
                Ok(found)
            }
            _ => Err(self.bad(key, "it must be a pattern or a list of names".into())),
        }
    }

    fn matches(&self, key: &str, pattern: &str, text: &str) -> Result<bool, InteropError> {
        let matched = Regex::new(pattern).and_then(|regex| regex.is_match(text));
        matched.map_err(|error| self.bad(key, format!("the pattern {pattern:?} can't be used: {error}")))
    }

    /// An error about a setting.
    pub(super) fn bad(&self, key: &str, wanted: String) -> InteropError {
        let mut found = self.json[key].to_string();
        if found == "null" {
            found = "absent".into();
        } else if let Some((end, _)) = found.char_indices().nth(200) {
            found.truncate(end);
            found.push('…');
        }
        InteropError::Setting { file: self.file.clone(), key: key.to_owned(), found, wanted }
    }
}

/// The name of a module in the base model, as PEFT's patterns see it.
pub(super) fn module_name(module: Module) -> String {
    format!("model.layers.{}.{}", module.layer, module.target.path())
}
