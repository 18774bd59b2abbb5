//! Decoding on a GPU while no prompt is computed: a step is queued before the host knows the tokens of the one before, which
//! stay on the GPU as the next one's input. The host packs lists, looks for ends and writes text while the GPU computes. A
//! sequence that turns out to have ended has one row too many under way, whose token is dropped: since no row depends on
//! others, that changes nothing but the time of a row. Samples whose prompt is computed join in such a step, where others have
//! ended; their first token comes from what the prompt left.

use super::{EngineError, Lane, Progress, Run, Sequence};
use crate::inference::sampling::{Sampled, Sampling};
use crate::model::{Decode, Hidden, Policy, Queued, queue_decode};
use crate::random::{Purpose, Stream};
use std::sync::atomic::Ordering;

/// A step that is under way.
struct OnTheWay {
    queued: Queued,
    /// (request, sample) of each row.
    rows: Vec<(usize, usize)>,
    /// Whether nothing waited for a place when it was queued.
    dry: bool,
}

impl Run<'_> {
    /// How all running sequences choose their tokens, if steps can be queued: all in one way and by the GPU alone, a sample
    /// that would join now as well.
    pub(super) fn queued_sampling(&self, policy: Policy<'_>) -> Option<Sampling> {
        let sampling = self.requests[self.active.first()?.request].sampling;
        let same = |sequence: &Sequence| self.requests[sequence.request].sampling == sampling;
        let can = policy.model.is_on_gpu() && !sampling.is_truncated() && !self.joins_otherwise(sampling);
        (can && self.active.iter().all(same)).then_some(sampling)
    }

    /// Whether there is a place for a sample that chooses its tokens in another way than the batch.
    fn joins_otherwise(&self, sampling: Sampling) -> bool {
        let next = self.ready.front().filter(|_| self.active.len() < self.options.max_batch);
        next.is_some_and(|&(request, _)| self.requests[request].sampling != sampling)
    }

    /// Decodes until a prompt could be computed, something joins that can't be queued, or nothing is left in the batch: one
    /// step at least.
    pub(super) fn decode_ahead(
        &mut self,
        lane: &mut Lane<'_>,
        policy: Policy<'_>,
        sampling: Sampling,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), EngineError> {
        // Those that were there, and those that joined.
        let mut sequences = self.active.len();
        let mut last: Option<OnTheWay> = None;
        loop {
            if self.options.interrupt.load(Ordering::Relaxed) {
                return Err(EngineError::Interrupted);
            }
            // What has ended may have left room for a prompt.
            let room = self.active.len() < sequences
                && self.active.len() + self.ready.len() < self.options.max_batch;
            let next = match room && self.next < self.requests.len() || self.joins_otherwise(sampling) {
                true => None,
                false => {
                    let before = self.active.len();
                    let next = self.queue_next(lane, policy, sampling, last.as_ref())?;
                    sequences += self.active.len() - before;
                    next
                }
            };
            if let Some(last) = last {
                self.receive(lane, last, observe)?;
            }
            match next {
                None => return Ok(()),
                next => last = next,
            }
        }
    }

    /// Queues the step after `last`, whose tokens are not known here; None if no sequence goes on.
    fn queue_next(
        &mut self,
        lane: &mut Lane<'_>,
        policy: Policy<'_>,
        sampling: Sampling,
        last: Option<&OnTheWay>,
    ) -> Result<Option<OnTheWay>, EngineError> {
        let Lane { pool, cache, buffers, step, .. } = lane;
        step.clear();
        let (mut rows, mut sources, mut draws) = (Vec::new(), Vec::new(), Vec::new());
        let last = last.map_or(&[][..], |last| &last.rows);
        // Both are in the order in which sequences joined: rows before this one were passed.
        let mut passed = 0;
        for index in 0..self.active.len() {
            let sequence = &self.active[index];
            let (key, request) = ((sequence.request, sequence.sample), &self.requests[sequence.request]);
            let source = last[passed..].iter().position(|&row| row == key).map(|row| passed + row);
            passed = source.map_or(passed, |row| row + 1);
            let done = sequence.ids.len() + usize::from(source.is_some());
            if done >= request.max_tokens {
                continue;
            }
            let token = if source.is_some() { 0 } else { sequence.ids[done - 1] };
            let number = request.stream + sequence.sample as u64;
            draws.push((Stream::new(request.seed, Purpose::Sampling, number), done as u64));
            sources.push(source.map(|row| row as u32));
            rows.push(key);
            self.push_sequence(pool, step, (index, token, done));
        }
        let mut ends = Vec::new();
        while self.active.len() < self.options.max_batch {
            let same = |&&(request, _): &&(usize, usize)| self.requests[request].sampling == sampling;
            let Some(&(request, sample)) = self.ready.front().filter(same) else { break };
            self.ready.pop_front();
            let (number, seed) = (self.requests[request].stream + sample as u64, self.requests[request].seed);
            draws.push((Stream::new(seed, Purpose::Sampling, number), 0));
            rows.push((request, sample));
            ends.push(self.tree.ends[request]);
            self.active.push(Sequence::new(request, sample, self.requests[request].max_tokens));
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let of_prompt = |&end: &usize| self.nodes[end].hidden.as_ref().expect("the prompt is computed");
        let joins: Vec<&Hidden> = ends.iter().map(of_prompt).collect();
        let decode = Decode {
            batch: &step.batch,
            joins: &joins,
            sources: &sources,
            inverse_temperature: sampling.inverse_temperature(),
            greedy: sampling.temperature <= 0.0,
            draws: &draws,
        };
        let queued = queue_decode(policy, &decode, cache, buffers)?;
        Ok(Some(OnTheWay { queued: queued.expect("a model on a GPU"), rows, dry: self.is_dry() }))
    }

    /// Takes the tokens of a step, but those of sequences that had ended before it.
    fn receive(
        &mut self,
        lane: &mut Lane<'_>,
        step: OnTheWay,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), EngineError> {
        let (mut at, tokens) = (0, step.queued.wait()?);
        for (key, (token, logprob, entropy)) in step.rows.into_iter().zip(tokens) {
            // Both are in that order.
            let Some(sequence) = self.active.get_mut(at) else { break };
            if (sequence.request, sequence.sample) == key {
                sequence.take(Sampled { token, logprob, entropy, support: None }, observe)?;
                at += 1;
            }
        }
        self.count.step(at, step.dry);
        self.retire(&mut lane.pool, observe);
        Ok(())
    }
}
