//! Decoding on a GPU while nothing joins the batch: a step is queued before the host knows the tokens of the one before, which
//! stay on the GPU as the next one's input. The host packs lists, looks for ends and writes text while the GPU computes. A
//! sequence that turns out to have ended has one row too many under way, whose token is dropped: since no row depends on
//! others, that changes nothing but the time of a row.

use super::{EngineError, Lane, Progress, Run, Sequence};
use crate::inference::sampling::{Sampled, Sampling};
use crate::model::{Decode, Policy, Queued, queue_decode};
use crate::random::{Purpose, Stream};
use std::sync::atomic::Ordering;

/// A step that is under way.
struct OnTheWay {
    queued: Queued,
    /// (request, sample) of each row.
    rows: Vec<(usize, usize)>,
}

impl Run<'_> {
    /// How all running sequences choose their tokens, if steps can be queued: all in one way and by the GPU alone, and no
    /// sample waits for a place that there is.
    pub(super) fn queued_sampling(&self, policy: Policy<'_>) -> Option<Sampling> {
        let sampling = self.requests[self.active.first()?.request].sampling;
        let same = |sequence: &Sequence| self.requests[sequence.request].sampling == sampling;
        let joins = !self.ready.is_empty() && self.active.len() < self.options.max_batch;
        let can =
            policy.model.is_on_gpu() && !sampling.is_truncated() && !joins && self.active.iter().all(same);
        can.then_some(sampling)
    }

    /// Decodes until something could join the batch, or nothing is left in it: one step at least.
    pub(super) fn decode_ahead(
        &mut self,
        lane: &mut Lane<'_>,
        policy: Policy<'_>,
        sampling: Sampling,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), EngineError> {
        let sequences = self.active.len();
        let mut last: Option<OnTheWay> = None;
        loop {
            if self.options.interrupt.load(Ordering::Relaxed) {
                return Err(EngineError::Interrupted);
            }
            let waiting = !self.is_dry();
            let next = match waiting && self.active.len() < sequences {
                true => None,
                false => self.queue_next(lane, policy, sampling, last.as_ref())?,
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
        if rows.is_empty() {
            return Ok(None);
        }
        let decode = Decode {
            batch: &step.batch,
            sources: &sources,
            inverse_temperature: sampling.inverse_temperature(),
            greedy: sampling.temperature <= 0.0,
            draws: &draws,
        };
        let queued = queue_decode(policy, &decode, cache, buffers)?;
        Ok(Some(OnTheWay { queued: queued.expect("a model on a GPU"), rows }))
    }

    /// Takes the tokens of a step, but those of sequences that had ended before it.
    fn receive(
        &mut self,
        lane: &mut Lane<'_>,
        step: OnTheWay,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), EngineError> {
        let (mut at, tokens) = (0, step.queued.wait()?);
        self.count.step(self.active.len(), self.is_dry());
        for (key, (token, logprob, entropy)) in step.rows.into_iter().zip(tokens) {
            // Both are in that order.
            let Some(sequence) = self.active.get_mut(at) else { break };
            if (sequence.request, sequence.sample) == key {
                sequence.take(Sampled { token, logprob, entropy, support: None }, observe)?;
                at += 1;
            }
        }
        self.retire(&mut lane.pool, observe);
        Ok(())
    }
}
