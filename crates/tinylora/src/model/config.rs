//! A family as a table of differences: what `config.json` or GGUF metadata says, in one plain struct
//! that the forward pass reads. Nothing here reads weights.

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
    /// Token embeddings are multiplied by this (Gemma: √D rounded to bf16 as transformers does), else 1.
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

impl RopeConfig {
    /// Inverse frequencies after scaling, `head_dim / 2` numbers, computed in f64 and rounded once to f32.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let _ = head_dim;
        unimplemented!()
    }
}
