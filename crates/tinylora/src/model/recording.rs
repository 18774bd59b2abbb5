//! What sampling computed, kept for training: rows enter as they are sampled, and leave as the activations of a training
//! batch. Sampling and training give the same bits, whatever the batch, so a step that trains with the policy that sampled
//! need not compute its forward pass again.
//!
//! A row is known by the row before it in its sequence and by its token, so that the same beginning is the same row.

use super::batch::Batch;
use super::config::ModelConfig;
use super::hidden::Hidden;
use super::kept::{KeptActivations, LayerKept};
use super::linear::resize;
use super::load::Model;
use super::pass::{KvCache, gather};
use std::collections::HashMap;
use tinylora_compute::Cpu;
use tinylora_compute::norm::rms_norm;
use tinylora_compute::rows::for_chunks;

/// The row before a sequence's first.
pub const NO_ROW: u32 = u32::MAX;

/// Activations of rows that one policy computed on the host.
#[derive(Default)]
pub struct Recording {
    /// Rows that there is memory for.
    capacity: usize,
    /// Of each layer what is kept of it, then its keys and values as the cache takes them.
    layers: Vec<[Numbers; LayerKept::FIELDS + 2]>,
    /// The last layer's output.
    output: Numbers,
    /// Each row by the one before it and its token; of several that are the same, the first.
    known: HashMap<(u32, u32), u32>,
    /// Of each row the first that is the same: samples that begin alike have rows of their own.
    first: Vec<u32>,
    /// Whether rows were left out, so that what follows them would be found nowhere.
    full: bool,
}

/// So many numbers of each row. What is behind the last row was written in an earlier step: its memory is used again.
#[derive(Default)]
struct Numbers {
    width: usize,
    values: Vec<f32>,
}

/// Numbers that a thread copies at a time.
const CHUNK: usize = 1 << 14;

impl Numbers {
    /// Adds rows behind `rows` others; there will be `capacity` of them.
    fn take(&mut self, cpu: &Cpu, rows: usize, (new, new_rows): (&[f32], usize), capacity: usize) {
        self.width = new.len() / new_rows.max(1);
        let range = rows * self.width..rows * self.width + new.len();
        if self.values.len() < range.end {
            // Once for all rows: memory is taken as it is written to, and lists that grow are copied.
            self.values.reserve_exact((capacity * self.width).saturating_sub(self.values.len()));
            self.values.resize(range.end, 0.0);
        }
        for_chunks(cpu, &mut self.values[range], CHUNK, |start, to| {
            to.copy_from_slice(&new[start..][..to.len()]);
        });
    }

    /// These rows of it.
    fn pick(&self, cpu: &Cpu, rows: &[u32], to: &mut Vec<f32>) {
        let width = self.width;
        resize(to, rows.len() * width);
        for_chunks(cpu, to, width, |start, to| {
            to.copy_from_slice(&self.values[rows[start / width] as usize * width..][..width]);
        });
    }
}

impl Recording {
    /// Forgets all rows; from now on there may be so many. The memory of those that were stays, for the next ones.
    pub fn begin(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.full = false;
        self.known.clear();
        self.first.clear();
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.first.len()
    }

    /// Itself, if there is room for so many rows more. Once there is not, there never is again.
    pub(crate) fn taking(&mut self, rows: usize) -> Option<&mut Self> {
        self.full |= self.rows() + rows > self.capacity;
        (!self.full).then_some(self)
    }

    /// Bytes of one row.
    pub fn row_bytes(config: &ModelConfig) -> usize {
        super::kept::layers_bytes_per_token(config) + config.hidden_size * size_of::<f32>()
    }

    /// Adds what a pass left of its rows in one layer, with their keys and values.
    pub(super) fn take_layer(
        &mut self,
        cpu: &Cpu,
        index: usize,
        rows: usize,
        kept: &mut LayerKept,
        [k, v]: [&mut Vec<f32>; 2],
    ) {
        self.layers.resize_with(self.layers.len().max(index + 1), Default::default);
        let (before, capacity) = (self.rows(), self.capacity);
        for (all, new) in self.layers[index].iter_mut().zip(kept.fields_mut().into_iter().chain([k, v])) {
            all.take(cpu, before, (new, rows), capacity);
        }
    }

    /// Ends a pass over rows with these tokens, each after the row in `before`.
    pub(super) fn take_rows(&mut self, cpu: &Cpu, output: &[f32], tokens: &[u32], before: &[u32]) {
        assert_eq!(tokens.len(), before.len(), "each row has one before it, or none");
        self.output.take(cpu, self.first.len(), (output, tokens.len()), self.capacity);
        for (&token, &before) in tokens.iter().zip(before) {
            let before = if before == NO_ROW { NO_ROW } else { self.first[before as usize] };
            let row = self.first.len() as u32;
            self.first.push(*self.known.entry((before, token)).or_insert(row));
        }
    }

    /// The rows of a batch, of which `before` has the row in the batch that each follows; None unless all are here.
    pub fn find(&self, batch: &Batch, before: &[u32]) -> Option<Vec<u32>> {
        let mut found: Vec<u32> = Vec::with_capacity(batch.rows());
        for (&token, &before) in batch.tokens.iter().zip(before) {
            let before = if before == NO_ROW { NO_ROW } else { found[before as usize] };
            found.push(*self.known.get(&(before, token))?);
        }
        Some(found)
    }

    /// Leaves in `cache` and `kept` what a forward pass of the batch that keeps everything would, and gives the same hidden
    /// states. `rows` are those of the batch.
    ///
    /// # Panics
    /// If the batch doesn't fit the cache, or the model is on a GPU.
    pub fn recall(
        &self,
        cpu: &Cpu,
        model: &Model,
        (batch, rows): (&Batch, &[u32]),
        outputs: &[u32],
        cache: &mut KvCache,
        kept: &mut KeptActivations,
    ) -> Hidden {
        assert_eq!(rows.len(), batch.rows(), "a recorded row for each");
        kept.layers.resize_with(self.layers.len().max(kept.layers.len()), LayerKept::default);
        kept.kept_rows = Some(rows.len());
        let scratch = &mut kept.scratch;
        for ((record, kept), store) in self.layers.iter().zip(&mut kept.layers).zip(cache.host()) {
            let own = kept.fields_mut().into_iter().chain([&mut scratch.k, &mut scratch.v]);
            record.iter().zip(own).for_each(|(numbers, to)| numbers.pick(cpu, rows, to));
            store.write(cpu, &batch.places, &scratch.k, &scratch.v);
        }
        self.output.pick(cpu, rows, &mut scratch.out);
        gather(&scratch.out, outputs, model.config.hidden_size, &mut scratch.raw);
        let mut values = vec![0.0; scratch.raw.len()];
        rms_norm(cpu, &scratch.raw, &model.final_norm, model.config.rms_norm_eps, &mut values);
        Hidden::Host { width: model.config.hidden_size, values }
    }
}
