//! A family as a table of differences: what `config.json` or GGUF metadata says, in one plain struct
//! that the forward pass reads. Nothing here reads weights.
//!
//! [`ModelConfig::from_config_file`] follows transformers 5.23, in both spellings of the rope settings (before
//! version 5: `rope_theta` and `rope_scaling`; since: `rope_parameters`); [`ModelConfig::from_gguf`] follows
//! llama.cpp. What neither forward pass here can do is an error that names file, key and value.

mod from_gguf;
mod from_json;
mod tensors;

use std::path::PathBuf;

pub(crate) use tensors::count_parameters;
pub use tensors::expected_tensors;

/// Everything the forward pass must know of a model. All sizes in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which family.
    pub family: Family,
    /// V
    pub vocab_size: usize,
    /// D
    pub hidden_size: usize,
    /// F
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// H: query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Size of one head (not always D / H).
    pub head_dim: usize,
    /// ε of every RMS norm.
    pub rms_norm_eps: f32,
    /// RMS norms multiply by (1 + w) instead of w (Gemma, as in `config.json` weights). Where a GGUF file
    /// has already added the 1, the loader takes it off, so that this field means the same for both.
    pub norm_plus_one: bool,
    /// Gate activation of the MLP.
    pub activation: Activation,
    /// Token embeddings are multiplied by this: 1, or √D for Gemma. transformers rounds √D to the type of the
    /// embedding matrix in memory, so with f32 weights, the reference here, it is √D rounded to f32; with bf16
    /// weights it would be √D rounded to bf16 (33.94 instead of 33.941 at D = 1152).
    pub embedding_scale: f32,
    /// q, k, v projections have biases (Qwen2).
    pub qkv_bias: bool,
    /// RMS norm of each q and k head before rope (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// A second norm after attention and after the MLP, before the residual is added (Gemma).
    pub sandwich_norms: bool,
    /// Scores are q·k times this (usually 1/√head_dim; Gemma: query_pre_attn_scalar^-½).
    pub attention_scale: f32,
    /// The rope tables in use.
    pub ropes: Vec<RopeConfig>,
    /// For each layer, its rope table and window.
    pub layers: Vec<LayerConfig>,
    /// The head is the embedding matrix.
    pub tied_head: bool,
    /// Longest sequence the model was made for, in tokens.
    pub max_positions: usize,
    /// Number of parameters, as stored (a tied head counted once).
    pub parameters: u64,
}

/// Supported families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2, Llama 3.x, SmolLM2.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2, Qwen2.5.
    Qwen2,
    /// Qwen3 (dense).
    Qwen3,
    /// Gemma 3 (text).
    Gemma3,
}

/// Gate activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·sigmoid(x)
    Silu,
    /// tanh approximation of GELU
    GeluTanh,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Index into `ModelConfig::ropes`.
    pub rope: usize,
    /// A token sees only the last `window` tokens, itself included; None: all.
    pub window: Option<usize>,
}

/// One rope table.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// Rope frequency changes.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All frequencies divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's smooth change between low and high frequencies.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths longer than `original_max / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original_max / high_freq_factor` stay.
        high_freq_factor: f64,
        /// Context length of pre-training.
        original_max: f64,
    },
    /// The divisors of each frequency, given as data (`rope_freqs.weight` in GGUF), head_dim / 2 numbers.
    Factors(
        /// divisors
        Vec<f64>,
    ),
}

/// Why a model's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The operating system says no.
    #[error("{}: cannot read the file: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Not JSON, or not an object.
    #[error("{}: not a model configuration: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A key that must be there is not.
    #[error("{}: the key `{key}` is missing", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The key, with the keys around it.
        key: String,
    },
    /// A value of another type, out of range, or one that contradicts another value.
    #[error("{}: `{key}` is {value}, expected {expected}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The key, with the keys around it.
        key: String,
        /// As in the file.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// A model that exists but that this program cannot run.
    #[error("{}: `{key}` is {value}, which is not supported; supported: {supported}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The key, with the keys around it.
        key: String,
        /// As in the file.
        value: String,
        /// What is.
        supported: String,
    },
    /// GGUF metadata are malformed.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
}

impl RopeConfig {
    /// Inverse frequencies after scaling, `head_dim / 2` numbers, computed in f64 and rounded once to f32.
    ///
    /// Frequency i is θ^(-2i / head_dim) before scaling. `RopeScaling::Factors` must have `head_dim / 2` numbers, as
    /// every configuration that was read from a file has.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / head_dim as f64);
        (0..head_dim / 2).map(|i| self.scaling.apply(i, plain(i)) as f32).collect()
    }
}

impl RopeScaling {
    /// Frequency number `i` after scaling.
    fn apply(&self, i: usize, frequency: f64) -> f64 {
        match self {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Factors(factors) => frequency / factors[i],
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength < original_max / high_freq_factor {
                    frequency
                } else if wavelength > original_max / low_freq_factor {
                    frequency / factor
                } else {
                    let share =
                        (original_max / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - share) * frequency / factor + share * frequency
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
