//! One step's batch and all buffers that go with it, used again at the next step: in decode no step asks for memory.

use super::sampling::Sampled;
use crate::model::{Batch, Hidden, Model};
use crate::random::Stream;
use tinylora_compute::attention::{Group, Member, Span};

/// What a group has in common: the node of the prompts' tree that it follows, and whether it decodes.
pub(super) type GroupKey = (Option<usize>, bool);

/// Where a step's rows come from.
#[derive(Default)]
pub(super) struct Step {
    pub batch: Batch,
    /// Rows whose hidden states are wanted.
    pub outputs: Vec<u32>,
    /// Which row of the recording each row follows; see [`Step::follow`].
    pub before: Vec<u32>,
    /// The first row's number in the recording.
    pub first_recorded: u32,
    /// Nodes whose last row is among the outputs, in order; the running sequences follow.
    pub ends: Vec<usize>,
    /// Which group of the batch has this key; sorted.
    known: Vec<(GroupKey, usize)>,
    spare_spans: Vec<Vec<Span>>,
    spare_members: Vec<Vec<Member>>,
}

impl Step {
    /// Empties the step; its vectors keep their memory.
    pub fn clear(&mut self) {
        for mut group in self.batch.groups.drain(..) {
            for member in group.members.drain(..) {
                self.spare_spans.push(member.own);
            }
            self.spare_spans.push(group.shared);
            self.spare_members.push(group.members);
        }
        self.spare_spans.iter_mut().for_each(Vec::clear);
        let Batch { tokens, positions, places, adapters, shared_rows, .. } = &mut self.batch;
        for list in [tokens, positions, adapters, &mut self.outputs, &mut self.before] {
            list.clear();
        }
        places.clear();
        shared_rows.clear();
        self.ends.clear();
        self.known.clear();
    }

    /// Notes that the next row follows one that has this number in the recording; gives its own.
    pub fn follow(&mut self, before: u32) -> u32 {
        self.before.push(before);
        self.first_recorded + self.batch.rows() as u32
    }

    /// A list of spans.
    pub fn spans(&mut self, spans: impl Iterator<Item = Span>) -> Vec<Span> {
        let mut list = self.spare_spans.pop().unwrap_or_else(|| Vec::with_capacity(SPANS));
        list.extend(spans);
        list
    }

    /// Adds rows to the group of this key; `shared` tells what its context begins with, if it is the first.
    pub fn add_member(&mut self, key: GroupKey, member: Member, shared: impl FnOnce(&mut Vec<Span>)) {
        let index = match self.known.binary_search_by_key(&key, |&(key, _)| key) {
            Ok(place) => self.known[place].1,
            Err(place) => {
                let mut spans = self.spans(std::iter::empty());
                shared(&mut spans);
                let members = self.spare_members.pop().unwrap_or_default();
                self.batch.groups.push(Group { shared: spans, members });
                self.known.insert(place, (key, self.batch.groups.len() - 1));
                self.batch.groups.len() - 1
            }
        };
        self.batch.groups[index].members.push(member);
    }
}

/// Room of a list of spans at first: 1024 tokens.
const SPANS: usize = 64;

/// Buffers of sampling.
pub(super) struct SampleBuffers {
    /// Of each running sequence.
    pub sampled: Vec<Option<Sampled>>,
    /// Sequences that are sampled together, their random numbers, hidden states and tokens.
    pub rows: Vec<usize>,
    pub draws: Vec<(Stream, u64)>,
    pub uniforms: Vec<f64>,
    pub picked: Hidden,
    pub tokens: Vec<Sampled>,
}

impl SampleBuffers {
    /// Empty ones, where the model computes, on one of its devices.
    pub fn new(model: &Model, device: usize) -> Self {
        let picked = model.no_hidden(device);
        let (sampled, rows, draws, uniforms, tokens) = Default::default();
        Self { sampled, rows, draws, uniforms, picked, tokens }
    }
}
