//! The scheduler: requests enter, completions leave. A step packs the prompts that start now and one token of
//! every running sequence into one batch; whenever a sequence ends, the next one takes its place.
//!
//! Common beginnings of prompts, and the prompt of a request's samples, are computed once and attended to
//! once (see [`super::prefix`]). What a sequence samples depends on its prompt, adapter and stream alone.

mod ahead;
mod error;
mod lanes;

pub use error::EngineError;

use super::blocks::{BlockPool, spans_of};
use super::occupancy::{Count, Occupancy};
use super::prefix::PrefixTree;
use super::sampling::{Sampled, Sampling, sample_hidden};
use super::step::{SampleBuffers, Step};
use crate::model::{
    DeviceError, Hidden, Keep, KeptActivations, KvCache, Model, NO_ROW, Policy, Recording, forward_into,
};
use crate::random::{Purpose, Stream};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use tinylora_compute::Cpu;
use tinylora_compute::attention::{BLOCK_TOKENS, Member, Span};

/// A prompt and how to continue it.
#[derive(Debug, Clone)]
pub struct Request {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// How many completions.
    pub samples: usize,
    /// Which adapter of those given applies.
    pub adapter: u32,
    /// Seed of its sampling.
    pub seed: u64,
    /// Number of the first sample's random stream; the others follow.
    pub stream: u64,
    /// Largest number of tokens of a completion.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Settings of a whole call.
pub struct GenerateOptions<'a> {
    /// Sequences that run at once at most.
    pub max_batch: usize,
    /// What ends a completion.
    pub stop: &'a dyn Stop,
    /// Set from outside to give up.
    pub interrupt: &'a AtomicBool,
}

/// What ends a completion.
pub trait Stop: Sync {
    /// Whether a completion of the request (an index) is at its end; called after every token.
    fn is_end(&self, request: usize, tokens: &[u32]) -> bool;
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// By an end token or a stop text.
    Stop,
    /// At its largest length.
    Length,
}

/// One completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Its tokens, an end token included.
    pub tokens: Vec<Sampled>,
    /// Why it ended.
    pub finish: Finish,
}

/// What an observer is told.
#[derive(Debug)]
pub enum Progress<'a> {
    /// One more token of a completion.
    Token {
        /// Index of the request.
        request: usize,
        /// Which of its samples.
        sample: usize,
        /// The token.
        token: &'a Sampled,
    },
    /// A completion ended.
    Finished {
        /// Index of the request.
        request: usize,
        /// Which of its samples.
        sample: usize,
    },
}

/// The inference engine for models of one shape: KV caches and buffers that are used from call to call.
pub struct Engine<'a> {
    lanes: Vec<Lane<'a>>,
}

/// What one device computes with.
struct Lane<'a> {
    cpu: &'a Cpu,
    cache: KvCache,
    pool: BlockPool,
    buffers: KeptActivations,
    occupancy: Occupancy,
    step: Step,
    /// What the head reads (rows, D).
    hidden: Hidden,
    samples: SampleBuffers,
    /// Where activations go, if anybody wants them.
    recording: Option<Recording>,
}

/// Prompt tokens that one step takes in at most, unless a single prompt is longer.
const PREFILL_TOKENS: usize = 1024;

impl<'a> Engine<'a> {
    /// An engine for models like `model`, with room for `blocks` KV blocks of sixteen tokens on each device that it lies on.
    pub fn new(cpu: &'a Cpu, model: &Model, blocks: usize) -> Self {
        let lane = |device| Lane {
            cpu,
            cache: KvCache::new(cpu, model, blocks),
            pool: BlockPool::new(blocks),
            buffers: KeptActivations::default(),
            occupancy: Occupancy::default(),
            step: Step::default(),
            hidden: model.no_hidden(device),
            samples: SampleBuffers::new(model, device),
            recording: None,
        };
        Self { lanes: (0..model.devices()).map(lane).collect() }
    }

    /// From now on adds what it computes to a recording, until that is taken back; on a GPU it does not. All requests until then
    /// are of one policy and its adapter 0.
    pub fn record(&mut self, recording: Recording) {
        if let [lane] = &mut self.lanes[..] {
            lane.recording = Some(recording);
        }
    }

    /// Gives the recording back.
    pub fn take_recording(&mut self) -> Option<Recording> {
        self.lanes.iter_mut().find_map(|lane| lane.recording.take())
    }

    /// The largest number of KV blocks that were in use at once on one device.
    pub fn most_blocks_used(&self) -> usize {
        self.lanes.iter().map(|lane| lane.pool.most_used()).max().unwrap_or(0)
    }

    /// How full the batches were in all calls since this was asked last.
    pub fn take_occupancy(&mut self) -> Occupancy {
        let mut all = Occupancy::default();
        self.lanes.iter_mut().for_each(|lane| all += std::mem::take(&mut lane.occupancy));
        all
    }

    /// Completes all requests: for each, its samples in order. On several devices each completes a share of them; what a sequence
    /// samples is the same.
    pub fn generate(
        &mut self,
        policy: Policy<'_>,
        requests: &[Request],
        options: &GenerateOptions<'_>,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        check(policy.model, requests)?;
        match &mut self.lanes[..] {
            [lane] => lane.generate(policy, requests, options, observe),
            lanes => lanes::generate(lanes, policy, requests, options, observe),
        }
    }
}

impl Lane<'_> {
    fn generate(
        &mut self,
        policy: Policy<'_>,
        requests: &[Request],
        options: &GenerateOptions<'_>,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let mut run = Run::new(requests, options, self.pool.free());
        let result = run.finish_all(self, policy, observe);
        // An interrupted run still holds blocks.
        for block in run.held_blocks() {
            self.pool.release(block);
        }
        self.occupancy += run.count.occupancy();
        result?;
        Ok(run.results.into_iter().map(|samples| samples.into_iter().map(Option::unwrap).collect()).collect())
    }
}

fn check(model: &Model, requests: &[Request]) -> Result<(), EngineError> {
    let vocabulary = model.config.vocab_size;
    for (index, request) in requests.iter().enumerate() {
        let (prompt, new, positions) = (request.prompt.len(), request.max_tokens, model.positions());
        if prompt == 0 {
            return Err(EngineError::EmptyPrompt { request: index });
        }
        if let Some(&token) = request.prompt.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { request: index, token, vocabulary });
        }
        if prompt + new > positions {
            let wanted = prompt + new;
            return Err(EngineError::TooLong { request: index, wanted, prompt, new, positions });
        }
    }
    Ok(())
}

/// A node of the prompts' trees.
struct NodeState {
    blocks: Vec<u32>,
    computed: bool,
    /// Samples that are not finished and need the node.
    users: usize,
    /// The last token's hidden state (1, D), where a prompt ends here and is needed.
    hidden: Option<Hidden>,
    is_end: bool,
    /// The last token's row in the recording.
    recorded: u32,
    /// The same for all requests through the node.
    adapter: u32,
}

/// A running sequence.
struct Sequence {
    request: usize,
    sample: usize,
    blocks: Vec<u32>,
    tokens: Vec<Sampled>,
    ids: Vec<u32>,
    /// The row of its last token but one in the recording.
    recorded: u32,
}

/// Tokens that a sequence has room for when it begins; longer ones grow.
const ROOM: usize = 1024;

impl Sequence {
    fn new(request: usize, sample: usize, max_tokens: usize) -> Self {
        let room = max_tokens.min(ROOM);
        Self {
            request,
            sample,
            blocks: Vec::with_capacity(room.div_ceil(BLOCK_TOKENS)),
            tokens: Vec::with_capacity(room),
            ids: Vec::with_capacity(room),
            recorded: NO_ROW,
        }
    }

    /// Adds a token.
    fn take(&mut self, token: Sampled, observe: &mut dyn FnMut(Progress<'_>)) -> Result<(), EngineError> {
        if !token.logprob.is_finite() {
            let (request, value) = (self.request, token.logprob);
            return Err(EngineError::NotFinite { request, token: token.token, value });
        }
        observe(Progress::Token { request: self.request, sample: self.sample, token: &token });
        self.ids.push(token.token);
        self.tokens.push(token);
        Ok(())
    }
}

struct Run<'a> {
    requests: &'a [Request],
    options: &'a GenerateOptions<'a>,
    tree: PrefixTree,
    nodes: Vec<NodeState>,
    /// Next request to take in.
    next: usize,
    /// Samples whose prompt is computed, waiting for a place: (request, sample).
    ready: VecDeque<(usize, usize)>,
    active: Vec<Sequence>,
    /// Blocks promised to samples but not yet taken.
    reserved: usize,
    blocks: usize,
    results: Vec<Vec<Option<Completion>>>,
    count: Count,
}

impl<'a> Run<'a> {
    fn new(requests: &'a [Request], options: &'a GenerateOptions<'a>, blocks: usize) -> Self {
        let tree = forest(requests);
        let mut nodes: Vec<NodeState> = tree
            .nodes
            .iter()
            .map(|_| NodeState {
                blocks: vec![],
                computed: false,
                users: 0,
                hidden: None,
                is_end: false,
                recorded: NO_ROW,
                adapter: 0,
            })
            .collect();
        for (request, &end) in requests.iter().zip(&tree.ends) {
            nodes[end].is_end = true;
            for node in tree.path(end) {
                nodes[node].users += request.samples;
                nodes[node].adapter = request.adapter;
            }
        }
        let results = requests.iter().map(|request| vec![None; request.samples]).collect();
        Self {
            requests,
            options,
            tree,
            nodes,
            next: 0,
            ready: VecDeque::new(),
            active: Vec::new(),
            reserved: 0,
            blocks,
            results,
            count: Count::default(),
        }
    }

    fn held_blocks(&self) -> Vec<u32> {
        let prompts = self.nodes.iter().flat_map(|node| &node.blocks);
        prompts.chain(self.active.iter().flat_map(|sequence| &sequence.blocks)).copied().collect()
    }

    fn finish_all(
        &mut self,
        lane: &mut Lane<'_>,
        policy: Policy<'_>,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), EngineError> {
        loop {
            if self.options.interrupt.load(Ordering::Relaxed) {
                return Err(EngineError::Interrupted);
            }
            let admitted = self.admit(&mut lane.pool)?;
            if admitted.is_empty() && self.active.is_empty() && self.ready.is_empty() {
                if self.next < self.requests.len() {
                    continue;
                }
                return Ok(());
            }
            if admitted.is_empty()
                && let Some(sampling) = self.queued_sampling(policy)
            {
                self.decode_ahead(lane, policy, sampling, observe)?;
                continue;
            }
            self.pack(lane, &admitted);
            if lane.step.batch.rows() == 0 {
                lane.hidden = policy.model.no_hidden(policy.device);
            } else {
                let Lane { step, cache, buffers, recording, .. } = lane;
                let rows = step.batch.rows();
                let recording = recording.as_mut().filter(|_| !policy.model.is_on_gpu());
                let keep = match recording.and_then(|recording| recording.taking(rows)) {
                    Some(recording) => Keep::Record(recording, &step.before),
                    None => Keep::Nothing,
                };
                let (batch, outputs) = (&step.batch, &step.outputs);
                forward_into(lane.cpu, policy, batch, outputs, cache, buffers, keep, &mut lane.hidden)?;
            }
            self.advance(lane, policy.model, observe)?;
        }
    }

    /// Takes in requests while there is room; gives the nodes to compute, parents first.
    fn admit(&mut self, pool: &mut BlockPool) -> Result<Vec<usize>, EngineError> {
        let mut admitted = Vec::new();
        let mut tokens = 0;
        while self.next < self.requests.len() && self.active.len() + self.ready.len() < self.options.max_batch
        {
            let (index, request) = (self.next, &self.requests[self.next]);
            let path = self.tree.path(self.tree.ends[index]);
            let new: Vec<usize> = path.into_iter().filter(|&node| !self.nodes[node].computed).collect();
            let count: usize = new.iter().map(|&node| self.tree.nodes[node].tokens.len()).sum();
            if !admitted.is_empty() && tokens + count > PREFILL_TOKENS {
                break;
            }
            let blocks = |node: &usize| self.tree.nodes[*node].tokens.len().div_ceil(BLOCK_TOKENS);
            let prompt: usize = new.iter().map(blocks).sum();
            let samples = request.samples * request.max_tokens.div_ceil(BLOCK_TOKENS);
            if prompt + samples + self.reserved > pool.free() {
                if self.active.is_empty() && self.ready.is_empty() {
                    return Err(EngineError::CacheTooSmall {
                        request: index,
                        wanted: prompt + samples,
                        samples: request.samples,
                        new: request.max_tokens,
                        prompt: request.prompt.len(),
                        blocks: self.blocks,
                    });
                }
                break;
            }
            self.reserved += samples;
            tokens += count;
            for node in new {
                let blocks = self.tree.nodes[node].tokens.len().div_ceil(BLOCK_TOKENS);
                let taken = &mut self.nodes[node].blocks;
                while taken.len() < blocks {
                    let next = pool.take(taken.last().copied(), blocks - taken.len());
                    taken.push(next.expect("counted above"));
                }
                self.nodes[node].computed = true;
                admitted.push(node);
            }
            self.ready.extend((0..request.samples).map(|sample| (index, sample)));
            self.next += 1;
            if request.samples == 0 || request.max_tokens == 0 {
                self.finish_empty(index, pool);
            }
        }
        Ok(admitted)
    }

    /// A request for no tokens is done when its prompt is.
    fn finish_empty(&mut self, index: usize, pool: &mut BlockPool) {
        self.ready.retain(|&(request, _)| request != index);
        for sample in 0..self.requests[index].samples {
            self.results[index][sample] = Some(Completion { tokens: vec![], finish: Finish::Length });
            self.leave(index, pool);
        }
    }

    fn pack(&mut self, lane: &mut Lane<'_>, admitted: &[usize]) {
        let Lane { step, pool, recording, .. } = lane;
        step.clear();
        step.first_recorded = recording.as_ref().map_or(0, |recording| recording.rows() as u32);
        for &node in admitted {
            let parent = self.tree.nodes[node].parent;
            let mut before = parent.map_or(NO_ROW, |parent| self.nodes[parent].recorded);
            self.nodes[node].recorded = before;
            if self.nodes[node].blocks.is_empty() {
                continue;
            }
            let (first_row, state) = (step.batch.rows(), &self.nodes[node]);
            let tokens = &self.tree.nodes[node].tokens;
            let adapter = state.adapter;
            for (i, &token) in tokens.iter().enumerate() {
                let place = (state.blocks[i / BLOCK_TOKENS], (i % BLOCK_TOKENS) as u32);
                before = step.follow(before);
                step.batch.push(token, self.tree.nodes[node].start + i, place, adapter);
            }
            let own = step.spans(spans_of(&state.blocks, tokens.len()));
            self.nodes[node].recorded = before;
            let state = &self.nodes[node];
            let member = Member { first_row, rows: tokens.len(), own };
            step.add_member((parent, false), member, |spans| self.shared_spans(parent, spans));
            if state.is_end {
                step.outputs.push((first_row + tokens.len() - 1) as u32);
                step.ends.push(node);
            }
        }
        for index in 0..self.active.len() {
            let ids = &self.active[index].ids;
            self.push_sequence(pool, step, (index, ids[ids.len() - 1], ids.len()));
        }
    }

    /// The row of a running sequence whose last token is `token`, with which it has `done`.
    fn push_sequence(
        &mut self,
        pool: &mut BlockPool,
        step: &mut Step,
        (index, token, done): (usize, u32, usize),
    ) {
        let (sequence, at) = (&mut self.active[index], done - 1);
        let request = &self.requests[sequence.request];
        if at.is_multiple_of(BLOCK_TOKENS) {
            let more = request.max_tokens.div_ceil(BLOCK_TOKENS) - sequence.blocks.len();
            let next = pool.take(sequence.blocks.last().copied(), more);
            sequence.blocks.push(next.expect("reserved when the request was taken in"));
            self.reserved -= 1;
        }
        let place = (sequence.blocks[at / BLOCK_TOKENS], (at % BLOCK_TOKENS) as u32);
        let end = self.tree.ends[sequence.request];
        let before = if at == 0 { self.nodes[end].recorded } else { sequence.recorded };
        sequence.recorded = step.follow(before);
        let (first_row, own) = (step.batch.rows(), step.spans(spans_of(&sequence.blocks, done)));
        step.batch.push(token, request.prompt.len() + at, place, request.adapter);
        step.outputs.push(first_row as u32);
        let end = Some(end);
        let member = Member { first_row, rows: 1, own };
        step.add_member((end, true), member, |spans| self.shared_spans(end, spans));
    }

    /// Adds the spans of everything up to a node, itself included.
    fn shared_spans(&self, node: Option<usize>, spans: &mut Vec<Span>) {
        let Some(node) = node else { return };
        self.shared_spans(self.tree.nodes[node].parent, spans);
        spans.extend(spans_of(&self.nodes[node].blocks, self.tree.nodes[node].tokens.len()));
    }

    /// Samples a token for every running sequence and for as many waiting ones as there are places.
    fn advance(
        &mut self,
        lane: &mut Lane<'_>,
        model: &Model,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), EngineError> {
        let Lane { step, hidden, samples, .. } = lane;
        for (i, &node) in step.ends.iter().enumerate() {
            self.nodes[node].hidden = Some(hidden.pick(&[i]));
        }
        hidden.drop_first(step.ends.len());
        while self.active.len() < self.options.max_batch {
            let Some((request, sample)) = self.ready.pop_front() else { break };
            let end = &self.nodes[self.tree.ends[request]];
            hidden.append(end.hidden.as_ref().expect("the prompt is computed"));
            self.active.push(Sequence::new(request, sample, self.requests[request].max_tokens));
        }
        self.count.step(self.active.len(), self.is_dry());
        self.sample(lane.cpu, model, hidden, samples)?;
        for (sequence, token) in self.active.iter_mut().zip(samples.sampled.drain(..)) {
            let token = token.expect("every row was sampled");
            sequence.take(token, observe)?;
        }
        self.retire(&mut lane.pool, observe);
        Ok(())
    }

    /// Whether nothing waits any more.
    fn is_dry(&self) -> bool {
        self.next == self.requests.len() && self.ready.is_empty()
    }

    /// One token for every running sequence; those with the same settings in one pass over the head.
    fn sample(
        &self,
        cpu: &Cpu,
        model: &Model,
        hidden: &Hidden,
        buffers: &mut SampleBuffers,
    ) -> Result<(), DeviceError> {
        let SampleBuffers { sampled, rows, draws, uniforms, picked, tokens } = buffers;
        sampled.clear();
        sampled.resize(self.active.len(), None);
        while let Some(first) = sampled.iter().position(Option::is_none) {
            let sampling = self.requests[self.active[first].request].sampling;
            let same = |&i: &usize| {
                sampled[i].is_none() && self.requests[self.active[i].request].sampling == sampling
            };
            rows.clear();
            rows.extend((first..self.active.len()).filter(same));
            draws.clear();
            draws.extend(rows.iter().map(|&i| {
                let sequence = &self.active[i];
                let request = &self.requests[sequence.request];
                let number = request.stream + sequence.sample as u64;
                let stream = Stream::new(request.seed, Purpose::Sampling, number);
                (stream, sequence.ids.len() as u64)
            }));
            uniforms.clear();
            uniforms.extend(draws.iter().map(|(stream, counter)| stream.uniform(*counter)));
            hidden.pick_into(rows, picked);
            tokens.clear();
            sample_hidden(cpu, model, picked, sampling, (draws, uniforms), tokens)?;
            for (&row, token) in rows.iter().zip(tokens.drain(..)) {
                sampled[row] = Some(token);
            }
        }
        Ok(())
    }

    fn retire(&mut self, pool: &mut BlockPool, observe: &mut dyn FnMut(Progress<'_>)) {
        let mut index = 0;
        while index < self.active.len() {
            let sequence = &self.active[index];
            let request = &self.requests[sequence.request];
            if sequence.ids.is_empty() {
                // It has joined, and its first token is under way.
                index += 1;
                continue;
            }
            let finish = if self.options.stop.is_end(sequence.request, &sequence.ids) {
                Finish::Stop
            } else if sequence.ids.len() >= request.max_tokens {
                Finish::Length
            } else {
                index += 1;
                continue;
            };
            let sequence = self.active.remove(index);
            sequence.blocks.iter().for_each(|&block| pool.release(block));
            self.reserved -= request.max_tokens.div_ceil(BLOCK_TOKENS) - sequence.blocks.len();
            observe(Progress::Finished { request: sequence.request, sample: sequence.sample });
            self.results[sequence.request][sequence.sample] =
                Some(Completion { tokens: sequence.tokens, finish });
            self.leave(sequence.request, pool);
        }
    }

    /// One sample of a request needs its prompt no more.
    fn leave(&mut self, request: usize, pool: &mut BlockPool) {
        for node in self.tree.path(self.tree.ends[request]) {
            let state = &mut self.nodes[node];
            state.users -= 1;
            if state.users == 0 {
                state.blocks.drain(..).for_each(|block| pool.release(block));
                state.hidden = None;
            }
        }
    }
}

/// One prefix tree over all requests; those of different adapters share nothing, as their keys differ.
fn forest(requests: &[Request]) -> PrefixTree {
    let mut forest = PrefixTree { nodes: Vec::new(), ends: vec![0; requests.len()] };
    let mut by_adapter: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, request) in requests.iter().enumerate() {
        by_adapter.entry(request.adapter).or_default().push(index);
    }
    for indices in by_adapter.values() {
        let prompts: Vec<&[u32]> = indices.iter().map(|&index| &requests[index].prompt[..]).collect();
        let tree = PrefixTree::new(&prompts);
        let offset = forest.nodes.len();
        for (&index, end) in indices.iter().zip(tree.ends) {
            forest.ends[index] = end + offset;
        }
        forest.nodes.extend(tree.nodes.into_iter().map(|mut node| {
            node.parent = node.parent.map(|parent| parent + offset);
            node
        }));
    }
    forest
}
