//! A reference enters, everything that stays fixed leaves: the model in memory, its tokenizer and its identity;
//! and with a specification or a file, an adapter on it. Nothing here trains or samples.

mod adapter;
mod adapter_set;
mod full;
mod lora;
mod trained;

pub use adapter::{Adapter, BaseFactors, FactorStore};
pub use adapter_set::{AdapterSet, adapter_sets, checked_factors};
pub use full::FullModel;
pub use lora::LoraAdapter;
pub use trained::{Trained, TrainedSpec};

use crate::adapter::{AdapterError, AdapterFileError, BaseIdentity, FactorError};
use crate::hub::{self, HubError, HubOptions, ModelFiles};
use crate::model::weights::{Weights, WeightsError};
use crate::model::{DeviceError, Model, ModelError};
use crate::recipe::WeightDtype;
use crate::tokenizer::{Tokenizer, TokenizerError};
use tinylora_compute::{Cpu, Precision};

/// What loading tells whoever shows it.
#[derive(Debug, Clone)]
pub enum Loading {
    /// A download.
    Hub(hub::Progress),
    /// Blocks of weights packed, of so many.
    Weights {
        /// Done.
        done: u64,
        /// In all.
        total: u64,
    },
    /// Matrices factorised, of so many.
    Factors {
        /// Done.
        done: u64,
        /// In all.
        total: u64,
    },
    /// A line for people.
    Message(String),
}

/// Why a base model or an adapter can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The reference leads to no files.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The weights can't be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights don't make a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer can't be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The adapter's specification doesn't fit the model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The adapter's file doesn't fit the model.
    #[error(transparent)]
    AdapterFile(#[from] AdapterFileError),
    /// The factors can't be computed.
    #[error(transparent)]
    Factors(#[from] FactorError),
    /// The GPU can't hold it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The tokenizer has more ids than the model has rows.
    #[error(
        "the tokenizer of {reference} knows {tokens} tokens, but the model's embedding has {rows} rows; \
         the files do not belong together"
    )]
    Vocabulary {
        /// The model.
        reference: String,
        /// Tokens.
        tokens: usize,
        /// Rows.
        rows: usize,
    },
}

/// A frozen base model.
pub struct Base {
    /// Where it came from.
    pub files: ModelFiles,
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What an adapter is bound to.
    pub identity: BaseIdentity,
    /// sha256 of the weights, hex.
    pub sha256: String,
    dtype: WeightDtype,
}

/// How many positions the rope tables cover when nothing asks for more.
const DEFAULT_POSITIONS: usize = 8192;

impl Base {
    /// Finds, checks and loads a model. `positions` is the longest sequence wanted, in tokens; 0: what the model
    /// was made for, at most 8192.
    pub fn open(
        cpu: &Cpu,
        reference: &str,
        dtype: WeightDtype,
        positions: usize,
        options: &HubOptions,
        report: &mut dyn FnMut(Loading),
    ) -> Result<Self, BaseError> {
        let files = hub::resolve(reference, options, &mut |progress| report(Loading::Hub(progress)))?;
        let sha256 = hub::weights_sha256(&files, options, &mut |progress| report(Loading::Hub(progress)))?;
        let weights = Weights::open(&files)?;
        let tokenizer = Tokenizer::open(&files)?;
        let longest = weights.config().max_positions;
        let positions = if positions == 0 { longest.min(DEFAULT_POSITIONS) } else { positions };
        if positions > longest {
            report(Loading::Message(format!(
                "sequences may reach {positions} tokens, but the model was made for {longest}: quality falls beyond"
            )));
        }
        let precision = match dtype {
            WeightDtype::Bf16 => Precision::Bf16,
            WeightDtype::F32 => Precision::F32,
        };
        let model = Model::load(cpu, &weights, precision, positions, &mut |done, total| {
            report(Loading::Weights { done, total });
        })?;
        let (tokens, rows) = (tokenizer.vocab_size(), model.config.vocab_size);
        if tokens > rows {
            return Err(BaseError::Vocabulary { reference: reference.to_owned(), tokens, rows });
        }
        let identity = BaseIdentity::new(reference, digest(&sha256), dtype, &model.config);
        Ok(Self { files, model, tokenizer, identity, sha256, dtype })
    }

    /// Precision of the matrices.
    pub fn dtype(&self) -> WeightDtype {
        self.dtype
    }
}

/// The bytes of a hex sha256 that we made ourselves.
fn digest(hex: &str) -> [u8; 32] {
    std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("a hex sha256"))
}
