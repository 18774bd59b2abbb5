//! A checkpoint enters, the bytes of its file leave, and back.
//!
//! Layout, little-endian: 8 bytes `TLRACKPT`; u32 version; u32 length h of the header; u64 length of the whole
//! file; h bytes of JSON; the f32 arrays v, then AdamW's mean and square or SGD's momentum (the natural gradient has
//! none), then an older v for each of the header's `history`, each of the header's `numbers` elements; 32 bytes sha256
//! of everything before. Floats of the state are raw, so that they come back bit for bit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CheckpointError;
use crate::optimizer::OptimizerState;
use crate::recipe::OptimizerKind;

const MAGIC: [u8; 8] = *b"TLRACKPT";
const VERSION: u32 = 1;
const FRAME_BYTES: usize = 24;
const HASH_BYTES: usize = 32;

/// Everything that a run needs to go on as if it had never stopped. Randomness needs no state of its own: every
/// draw is a function of the recipe's seed and one of the counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint<'a> {
    /// Steps done: the next step has this number (0 is the first).
    pub step: u64,
    /// Version of the adapter: updates of v since the start.
    pub adapter_version: u64,
    /// The resolved recipe, TOML.
    pub recipe: String,
    /// sha256 of the base's weights.
    pub base_sha256: [u8; 32],
    /// (G · u)
    pub v: Cow<'a, [f32]>,
    /// The optimizer's state, of as many numbers as v.
    pub optimizer: Cow<'a, OptimizerState>,
    /// Positions in the data and in the random streams.
    pub counters: Counters,
    /// Version and v at the beginning of earlier steps, oldest first, where they are still needed for sampling.
    pub history: Vec<(u64, Vec<f32>)>,
    /// Length in bytes of each log at this step, by its path in the run's folder. What is beyond was written by
    /// steps that are not in the checkpoint.
    pub logs: BTreeMap<String, u64>,
    /// What the run's summary needs from before (evaluation before training, seconds so far, …).
    pub carried: serde_json::Value,
}

/// How much of each stream was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Problems taken from the training data: epoch and row follow from it.
    pub problems: u64,
    /// Completions sampled: the number of the next sampling stream.
    pub completions: u64,
}

/// The JSON part.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    step: u64,
    adapter_version: u64,
    numbers: usize,
    optimizer: OptimizerKind,
    updates: u64,
    counters: Counters,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<u64>,
    logs: BTreeMap<String, u64>,
    base_sha256: [u8; 32],
    carried: serde_json::Value,
    recipe: String,
}

/// The bytes of the file.
///
/// Panics if v, the optimizer's state and an older v have different lengths.
pub fn to_bytes(checkpoint: &Checkpoint<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Output::new(checkpoint).write(&mut out).expect("memory takes all that is written");
    out
}

/// A checkpoint on its way into a file: nothing of it is copied.
pub(super) struct Output<'a> {
    header: Vec<u8>,
    arrays: Vec<&'a [f32]>,
    /// Bytes of the file.
    pub length: usize,
}

/// Numbers that are turned into bytes at once.
const PIECE: usize = 1 << 16;

impl<'a> Output<'a> {
    /// Panics if v, the optimizer's state and an older v have different lengths.
    pub fn new(checkpoint: &'a Checkpoint<'_>) -> Self {
        assert_eq!(checkpoint.v.len(), checkpoint.optimizer.len(), "one state a parameter");
        let mut arrays: Vec<&[f32]> = vec![&checkpoint.v];
        let optimizer = match &*checkpoint.optimizer {
            OptimizerState::Adamw { mean, square, .. } => {
                arrays.extend([&mean[..], square]);
                OptimizerKind::Adamw
            }
            OptimizerState::Sgd { momentum, .. } => {
                arrays.push(momentum);
                OptimizerKind::Sgd
            }
            OptimizerState::Natural { .. } => OptimizerKind::Natural,
        };
        arrays.extend(checkpoint.history.iter().map(|(_, v)| &v[..]));
        assert!(arrays.iter().all(|array| array.len() == checkpoint.v.len()), "arrays of one length");
        let header = serde_json::to_vec(&Header {
            step: checkpoint.step,
            adapter_version: checkpoint.adapter_version,
            numbers: checkpoint.v.len(),
            optimizer,
            updates: checkpoint.optimizer.updates(),
            counters: checkpoint.counters,
            history: checkpoint.history.iter().map(|(version, _)| *version).collect(),
            logs: checkpoint.logs.clone(),
            base_sha256: checkpoint.base_sha256,
            carried: checkpoint.carried.clone(),
            recipe: checkpoint.recipe.clone(),
        })
        .expect("plain data is JSON");
        let floats = checkpoint.v.len() * arrays.len();
        let length = FRAME_BYTES + header.len() + 4 * floats + HASH_BYTES;
        Self { header, arrays, length }
    }

    /// Writes everything, piece by piece.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update(bytes);
            out.write_all(bytes)
        };
        put(&MAGIC)?;
        put(&VERSION.to_le_bytes())?;
        put(&u32::try_from(self.header.len()).expect("a header is far below 4 GiB").to_le_bytes())?;
        put(&(self.length as u64).to_le_bytes())?;
        put(&self.header)?;
        let mut bytes = Vec::with_capacity(4 * PIECE);
        for piece in self.arrays.iter().flat_map(|array| array.chunks(PIECE)) {
            bytes.clear();
            piece.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
            put(&bytes)?;
        }
        let hash = hash.finalize();
        out.write_all(hash.as_slice())
    }
}

/// Reads a checkpoint file.
pub fn load(path: &Path) -> Result<Checkpoint<'static>, CheckpointError> {
    let bytes = std::fs::read(path).map_err(|source| CheckpointError::Io {
        path: path.into(),
        action: "read",
        source,
    })?;
    from_bytes(path, &bytes)
}

/// The checkpoint in the bytes of a file; `path` is for messages.
pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Checkpoint<'static>, CheckpointError> {
    let header_length = check_frame(path, bytes)?;
    let bad = |message: String| CheckpointError::BadContent { path: path.into(), message };
    let content = &bytes[FRAME_BYTES..bytes.len() - HASH_BYTES];
    let (header, mut floats) = content
        .split_at_checked(header_length)
        .ok_or_else(|| bad(format!("a header of {header_length} bytes in {}", content.len())))?;
    let header: Header =
        serde_json::from_slice(header).map_err(|error| bad(format!("its header: {error}")))?;
    let of_optimizer = match header.optimizer {
        OptimizerKind::Adamw => 2,
        OptimizerKind::Sgd => 1,
        OptimizerKind::Natural => 0,
    };
    let arrays = 1 + of_optimizer + header.history.len();
    if header.numbers.checked_mul(4 * arrays) != Some(floats.len()) {
        let message = format!("{} bytes for {arrays} arrays of {} numbers", floats.len(), header.numbers);
        return Err(bad(message));
    }
    let mut array = || -> Vec<f32> {
        let (taken, rest) = floats.split_at(4 * header.numbers);
        floats = rest;
        taken.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let v = array();
    let updates = header.updates;
    let optimizer = match header.optimizer {
        OptimizerKind::Adamw => OptimizerState::Adamw { updates, mean: array(), square: array() },
        OptimizerKind::Sgd => OptimizerState::Sgd { updates, momentum: array() },
        OptimizerKind::Natural => OptimizerState::Natural { updates, parameters: header.numbers },
    };
    let history = header.history.iter().map(|&version| (version, array())).collect();
    Ok(Checkpoint {
        step: header.step,
        adapter_version: header.adapter_version,
        recipe: header.recipe,
        base_sha256: header.base_sha256,
        v: v.into(),
        optimizer: Cow::Owned(optimizer),
        counters: header.counters,
        history,
        logs: header.logs,
        carried: header.carried,
    })
}

/// Magic, length, hash and version; returns the header's length.
fn check_frame(path: &Path, bytes: &[u8]) -> Result<usize, CheckpointError> {
    if !bytes.starts_with(&MAGIC[..MAGIC.len().min(bytes.len())]) {
        return Err(CheckpointError::NotACheckpoint { path: path.into() });
    }
    let smallest = FRAME_BYTES + HASH_BYTES;
    let word = |at: usize| {
        bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).unwrap_or_default()
    };
    let expected = (u64::from(word(20)) << 32 | u64::from(word(16))).max(smallest as u64);
    let found = bytes.len() as u64;
    let version = word(8);
    if found >= smallest as u64 && version > VERSION {
        return Err(CheckpointError::OtherVersion { path: path.into(), found: version, known: VERSION });
    }
    if found != expected {
        return Err(CheckpointError::Length { path: path.into(), found, expected });
    }
    let (content, stored) = bytes.split_at(bytes.len() - HASH_BYTES);
    if Sha256::digest(content).as_slice() != stored {
        return Err(CheckpointError::Altered { path: path.into() });
    }
    if version != VERSION {
        return Err(CheckpointError::OtherVersion { path: path.into(), found: version, known: VERSION });
    }
    Ok(word(12) as usize)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::optimizer;
    use crate::recipe::OptimizerSection;
    use proptest::prelude::*;

    /// A checkpoint after some updates of n numbers.
    pub fn checkpoint(step: u64, kind: OptimizerKind, n: usize) -> Checkpoint<'static> {
        let settings = OptimizerSection { kind, ..Default::default() };
        let mut state = OptimizerState::new(kind, n);
        let mut v: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        for step in 0..3 {
            let gradient: Vec<f32> = v.iter().map(|x| x * x - 0.1).collect();
            let mut fisher = optimizer::Fisher::new(if kind == OptimizerKind::Natural { n } else { 0 });
            let updated = match kind {
                OptimizerKind::Natural => {
                    fisher.push(&gradient, 1);
                    optimizer::apply_natural(&settings, step, 0.01, &gradient, &fisher, &mut state, &mut v)
                }
                _ => optimizer::apply(&settings, step, 0.01, &gradient, &mut state, &mut v),
            };
            updated.unwrap();
        }
        Checkpoint {
            step,
            adapter_version: 3,
            recipe: "name = \"test\"\nseed = 7\n[train]\nsteps = 40\n".into(),
            base_sha256: std::array::from_fn(|i| i as u8),
            v: v.into(),
            optimizer: Cow::Owned(state),
            counters: Counters { problems: 12 * step, completions: 96 * step },
            history: vec![],
            logs: BTreeMap::from([("metrics.jsonl".into(), 1234), ("tensorboard/events".into(), 88)]),
            carried: serde_json::json!({"wall_seconds": 0.1, "eval_before": {"n": 512}}),
        }
    }

    #[test]
    fn saved_and_loaded_are_equal() {
        for kind in [OptimizerKind::Adamw, OptimizerKind::Sgd, OptimizerKind::Natural] {
            for n in [0, 1, 13, 300] {
                let mut checkpoint = checkpoint(10, kind, n);
                assert_eq!(from_bytes(Path::new("x"), &to_bytes(&checkpoint)).unwrap(), checkpoint);
                checkpoint.history = vec![(7, vec![-0.0; n]), (8, checkpoint.v.to_vec())];
                assert_eq!(from_bytes(Path::new("x"), &to_bytes(&checkpoint)).unwrap(), checkpoint);
            }
        }
    }

    #[test]
    fn odd_floats_keep_their_bits() {
        let mut checkpoint = checkpoint(1, OptimizerKind::Sgd, 3);
        checkpoint.v = vec![-0.0, f32::MIN_POSITIVE / 8.0, f32::MAX].into();
        let loaded = from_bytes(Path::new("x"), &to_bytes(&checkpoint)).unwrap();
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&loaded.v), bits(&checkpoint.v));
    }

    #[test]
    fn every_changed_byte_every_cut_and_every_addition_is_seen() {
        let bytes = to_bytes(&checkpoint(10, OptimizerKind::Adamw, 13));
        for at in 0..bytes.len() {
            for change in [1u8, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                assert!(from_bytes(Path::new("x"), &changed).is_err(), "byte {at} ^ {change}");
            }
            assert!(from_bytes(Path::new("x"), &bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(from_bytes(Path::new("x"), &[&bytes[..], b"\0"].concat()).is_err());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let good = to_bytes(&checkpoint(10, OptimizerKind::Adamw, 13));
        let read = |bytes: &[u8]| from_bytes(Path::new("run/step-000010.ckpt"), bytes).unwrap_err();
        assert!(matches!(read(b"TINYLORA and more"), CheckpointError::NotACheckpoint { .. }));
        let error = read(&good[..100]);
        assert!(matches!(error, CheckpointError::Length { found: 100, .. }), "{error}");
        assert!(error.to_string().contains("run/step-000010.ckpt"), "{error}");
        let mut altered = good.clone();
        altered[good.len() / 2] ^= 1;
        assert!(matches!(read(&altered), CheckpointError::Altered { .. }));

        let rehashed = |change: fn(&mut Vec<u8>)| {
            let mut bytes = good[..good.len() - HASH_BYTES].to_vec();
            change(&mut bytes);
            let hash = Sha256::digest(&bytes);
            bytes.extend(hash.as_slice());
            let length = bytes.len() as u64;
            assert_eq!(length, good.len() as u64);
            bytes
        };
        assert!(matches!(read(&rehashed(|b| b[8] = 2)), CheckpointError::OtherVersion { found: 2, .. }));
        assert!(matches!(read(&rehashed(|b| b[8] = 0)), CheckpointError::OtherVersion { found: 0, .. }));
        assert!(matches!(read(&rehashed(|b| b[15] = 9)), CheckpointError::BadContent { .. }));
        assert!(matches!(read(&rehashed(|b| b[24] = b'[')), CheckpointError::BadContent { .. }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = MAGIC.to_vec();
            framed.extend(&bytes);
            prop_assert!(from_bytes(Path::new("x"), &bytes).is_err());
            prop_assert!(from_bytes(Path::new("x"), &framed).is_err());
        }
    }
}
