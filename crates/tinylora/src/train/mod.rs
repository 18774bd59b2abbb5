//! A recipe enters, a trained adapter leaves: the loop of rollouts, rewards, advantages, gradients and updates.

mod events;

pub use events::{EvalResult, Event, MemoryPlan, SampleRecord, StepMetrics};
