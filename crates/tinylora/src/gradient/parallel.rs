//! Micro-batches enter, one gradient leaves: one micro-batch after the other, or on all devices that the model lies on, each of
//! which takes every n-th. A micro-batch's sums begin at 0 and are added on the host in the order of micro-batches; the loss
//! is asked on the calling thread in the order of completions. So the bits don't depend on how many devices there are.

use super::accumulate::{
    CompletionGradient, CompletionView, GradientError, GradientWorkspace, accumulate_completions,
};
use super::pack::TrainingGroup;
use crate::model::{Gradients, Policy};
use std::sync::mpsc::{Receiver, Sender, channel};
use tinylora_compute::Cpu;

/// What a device's thread says.
enum News {
    /// A completion's log-probs and entropies, for which it waits for the loss.
    Completion { at: (usize, usize), logprobs: Vec<f32>, entropies: Vec<f32> },
    /// A micro-batch is done.
    Done(Result<(f64, Gradients), GradientError>),
}

/// Adds the gradient of `Σ loss(completion)` over all micro-batches to `sums`; gives the loss. See
/// [`accumulate_completions`].
pub fn accumulate_batches(
    cpu: &Cpu,
    policy: Policy<'_>,
    batches: &[Vec<TrainingGroup>],
    settings: (f32, bool),
    loss: &mut dyn FnMut(CompletionView<'_>) -> CompletionGradient,
    workspace: &mut GradientWorkspace,
    sums: &mut Gradients,
) -> Result<f64, GradientError> {
    let devices = policy.model.devices().min(batches.len());
    let zeros = match sums.zeros() {
        Some(zeros) if devices > 1 => zeros,
        _ => {
            let mut total = 0.0;
            for batch in batches {
                total += accumulate_completions(cpu, policy, batch, settings, loss, workspace, sums)?;
            }
            return Ok(total);
        }
    };
    let mut workspaces = std::mem::take(&mut workspace.others);
    workspaces.resize_with(workspaces.len().max(devices - 1), GradientWorkspace::default);
    let total = std::thread::scope(|scope| {
        let all = std::iter::once(&mut *workspace).chain(&mut workspaces).take(devices);
        let threads: Vec<(Receiver<News>, Sender<CompletionGradient>)> = all
            .enumerate()
            .map(|(device, workspace)| {
                let ((tell, told), (answer, answered)) = (channel(), channel());
                let (policy, zeros) = (policy.on(device), &zeros);
                scope.spawn(move || {
                    for batch in batches.iter().skip(device).step_by(devices) {
                        let mut part = zeros.zeros().expect("there are some");
                        let mut ask = |view: CompletionView<'_>| asked(view, &tell, &answered);
                        let done = accumulate_completions(
                            cpu, policy, batch, settings, &mut ask, workspace, &mut part,
                        );
                        let failed = done.is_err();
                        if tell.send(News::Done(done.map(|loss| (loss, part)))).is_err() || failed {
                            return;
                        }
                    }
                });
                (told, answer)
            })
            .collect();
        join_in_order(batches, &threads, loss, sums)
    });
    workspace.others = workspaces;
    total
}

/// Answers the threads and adds what they find, in the order of micro-batches.
fn join_in_order(
    batches: &[Vec<TrainingGroup>],
    threads: &[(Receiver<News>, Sender<CompletionGradient>)],
    loss: &mut dyn FnMut(CompletionView<'_>) -> CompletionGradient,
    sums: &mut Gradients,
) -> Result<f64, GradientError> {
    let mut total = 0.0;
    for (number, batch) in batches.iter().enumerate() {
        let (told, answer) = &threads[number % threads.len()];
        loop {
            match told.recv() {
                Ok(News::Completion { at, logprobs, entropies }) => {
                    let sample = &batch[at.0].completions[at.1];
                    let view = CompletionView { at, sample, logprobs: &logprobs, entropies: &entropies };
                    // A thread that panicked is seen at the next news.
                    let _ = answer.send(loss(view));
                }
                Ok(News::Done(done)) => {
                    let (loss, part) = done?;
                    total += loss;
                    sums.add(&part);
                    break;
                }
                Err(_) => panic!("a device's thread panicked"),
            }
        }
    }
    Ok(total)
}

/// The loss of a completion, from the calling thread; where that has given up, anything.
fn asked(
    view: CompletionView<'_>,
    tell: &Sender<News>,
    answered: &Receiver<CompletionGradient>,
) -> CompletionGradient {
    let (logprobs, entropies) = (view.logprobs.to_vec(), view.entropies.to_vec());
    let answer = match tell.send(News::Completion { at: view.at, logprobs, entropies }) {
        Ok(()) => answered.recv().ok(),
        Err(_) => None,
    };
    answer.unwrap_or_else(|| CompletionGradient {
        slopes: vec![0.0; view.logprobs.len()],
        ..Default::default()
    })
}
