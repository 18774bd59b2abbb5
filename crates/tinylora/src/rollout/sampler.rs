//! Requests of one run enter, its completions leave: from an engine of its own, or from a batch that it shares with other runs.
//! Either way they are the same bits.

use super::stop::TextStop;
use super::together::Seat;
use crate::inference::{Completion, Engine, EngineError, GenerateOptions, Occupancy, Progress, Request};
use crate::model::{Policy, Recording};
use std::sync::atomic::AtomicBool;

/// What samples for a run.
pub enum Sampler<'a> {
    /// An engine that nobody else uses.
    Own(Engine<'a>),
    /// A place among runs that wait for one another and generate together.
    Seat(Seat<'a>),
}

impl<'a> Sampler<'a> {
    /// Completes all requests: for each, its samples in order. At most `max_batch` sequences run at once; in a shared batch it may
    /// be the largest number that a run of it asks for, and `observe` is told nothing, as whoever hands out the seats tells
    /// of the whole batch.
    ///
    /// # Panics
    /// In a shared batch, if the policy is not one adapter on its common factors.
    pub fn generate(
        &mut self,
        policy: Policy<'_>,
        requests: Vec<Request>,
        stop: TextStop<'a>,
        (max_batch, interrupt): (usize, &'a AtomicBool),
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        match self {
            Self::Own(engine) => {
                let options = GenerateOptions { max_batch, stop: &stop, interrupt };
                engine.generate(policy, &requests, &options, observe)
            }
            Self::Seat(seat) => seat.generate(policy, requests, stop, (max_batch, interrupt)),
        }
    }

    /// From now on adds what is computed to a recording, until it is taken back; a shared batch does not.
    pub fn record(&mut self, recording: Recording) {
        if let Self::Own(engine) = self {
            engine.record(recording);
        }
    }

    /// Gives the recording back, where there is one.
    pub fn take_recording(&mut self) -> Option<Recording> {
        match self {
            Self::Own(engine) => engine.take_recording(),
            Self::Seat(_) => None,
        }
    }

    /// Lets other runs go on until the next batch is done; an error if there are none to wait for, or no more batches.
    pub fn wait(&mut self) -> Result<(), EngineError> {
        match self {
            Self::Own(_) => Err(EngineError::Interrupted),
            Self::Seat(seat) => seat.wait(),
        }
    }

    /// How full the batch was since this was asked last; nothing of a shared batch, which isn't this run's.
    pub fn take_occupancy(&mut self) -> Occupancy {
        match self {
            Self::Own(engine) => engine.take_occupancy(),
            Self::Seat(_) => Occupancy::default(),
        }
    }

    /// Seconds so far in which this run waited for the work of others; its share of common batches is not among them.
    pub fn seconds_of_others(&self) -> f64 {
        match self {
            Self::Own(_) => 0.0,
            Self::Seat(seat) => seat.seconds_of_others(),
        }
    }
}
