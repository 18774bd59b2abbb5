//! `--device`, `--dtype` and `--numerics`, as every command that runs a model has them.

use crate::failure::Usage;
use clap::ValueEnum;
use tinylora::recipe::{Numerics, WeightDtype};

/// `--dtype`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// bfloat16, two bytes a weight
    Bf16,
    /// float32, four bytes a weight
    F32,
}

impl From<Dtype> for WeightDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => WeightDtype::Bf16,
            Dtype::F32 => WeightDtype::F32,
        }
    }
}

/// `--numerics`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NumericsArg {
    /// Activations and the KV cache stay f32.
    Exact,
    /// They may be rounded to 16 bits.
    Fast,
}

impl From<NumericsArg> for Numerics {
    fn from(numerics: NumericsArg) -> Self {
        match numerics {
            NumericsArg::Exact => Self::Exact,
            NumericsArg::Fast => Self::Fast,
        }
    }
}

/// `--device`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU if there is one that can be used.
    Auto,
}

impl DeviceArg {
    /// What the option says, or the environment, or the processor.
    pub fn or_environment(option: Option<Self>) -> Result<Self, Usage> {
        let wanted = std::env::var("TINYLORA_DEVICE").unwrap_or_default();
        match (option, wanted.as_str()) {
            (Some(option), _) => Ok(option),
            (None, "" | "cpu") => Ok(Self::Cpu),
            (None, "cuda") => Ok(Self::Cuda),
            (None, "auto") => Ok(Self::Auto),
            _ => Err(Usage(format!("TINYLORA_DEVICE={wanted}: it is cpu, cuda or auto"))),
        }
    }
}
