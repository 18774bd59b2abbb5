//! Why nothing was generated.

use crate::model::DeviceError;

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A prompt without tokens.
    #[error("request {request} has an empty prompt; give it at least one token")]
    EmptyPrompt {
        /// Index.
        request: usize,
    },
    /// Longer than the rope tables or the model allows.
    #[error(
        "request {request} may reach {wanted} tokens ({prompt} in the prompt, {new} new), but the model is set up \
         for {positions}; shorten the prompt or lower max_tokens"
    )]
    TooLong {
        /// Index.
        request: usize,
        /// Sum.
        wanted: usize,
        /// Prompt.
        prompt: usize,
        /// New tokens.
        new: usize,
        /// The limit.
        positions: usize,
    },
    /// One request alone does not fit the KV cache.
    #[error(
        "request {request} needs {wanted} KV blocks of 16 tokens ({samples} samples of up to {new} tokens after \
         {prompt}), but the cache has {blocks}; raise the memory limit, or lower max_tokens or the samples"
    )]
    CacheTooSmall {
        /// Index.
        request: usize,
        /// Blocks.
        wanted: usize,
        /// Samples.
        samples: usize,
        /// New tokens.
        new: usize,
        /// Prompt.
        prompt: usize,
        /// Blocks there are.
        blocks: usize,
    },
    /// The prompt has an id outside the vocabulary.
    #[error("request {request} has token {token}, but the vocabulary has {vocabulary}")]
    UnknownToken {
        /// Index.
        request: usize,
        /// Id.
        token: u32,
        /// Size.
        vocabulary: usize,
    },
    /// The hidden states are not numbers any more.
    #[error(
        "log-prob of token {token} of request {request} is {value}: the model's numbers overflowed; \
         check the adapter (v may be far too large) and the weights"
    )]
    NotFinite {
        /// Index.
        request: usize,
        /// Id.
        token: u32,
        /// What came out.
        value: f32,
    },
    /// The GPU failed, or has no memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl EngineError {
    /// The index of the request that it is about, where it is about one: whoever put requests of several together counts anew.
    pub fn request_mut(&mut self) -> Option<&mut usize> {
        match self {
            Self::EmptyPrompt { request }
            | Self::TooLong { request, .. }
            | Self::CacheTooSmall { request, .. }
            | Self::UnknownToken { request, .. }
            | Self::NotFinite { request, .. } => Some(request),
            Self::Device(_) | Self::Interrupted => None,
        }
    }
}
