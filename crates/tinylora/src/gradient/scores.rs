//! Scores: ∂ ln p / ∂R of single completions or tokens, one after the other, for the Fisher matrix.
//!
//! A backward pass gives sums over rows, and where completions share the rows of their prompt, the gradients of all of them
//! meet there. So here nothing is shared: every completion (or every token, with all before it) is packed with a prompt
//! of its own and names an adapter of its own, all with the same R, and the backward pass sums for each adapter apart.
//! Exact, at the price of computing a prompt once for each completion, or everything before a token once for it.

use super::accumulate::{GradientError, GradientWorkspace, HeadPass, check_finite};
use super::pack::{Strand, TrainingGroup, pack_apart};
use crate::model::{Adapters, Gradients, Keep, Policy, R, backward, forward};
use crate::recipe::FisherScores;
use tinylora_compute::Cpu;

/// Tells `each` the scores of all completions of `groups` in order (or of all their tokens): the number of tokens that it is
/// the score of, and ∂ ln p / ∂R (modules · r · r). The policy has one adapter. At most about `most` rows are computed at once.
/// Gives the number of rows in all.
pub fn scores(
    cpu: &Cpu,
    policy: Policy<'_>,
    groups: &[TrainingGroup],
    (kind, inverse_temperature, most): (FisherScores, f32, usize),
    workspace: &mut GradientWorkspace,
    each: &mut dyn FnMut(usize, &[f64]),
) -> Result<usize, GradientError> {
    let strands = strands(groups, kind);
    let (mut first, mut all_rows) = (0, 0);
    while first < strands.len() {
        let (mut end, mut rows) = (first, 0);
        while end < strands.len() && (end == first || rows + strands[end].rows(groups) <= most) {
            rows += strands[end].rows(groups);
            end += 1;
        }
        let some = &strands[first..end];
        for (strand, dr) in
            some.iter().zip(backward_apart(cpu, policy, groups, some, inverse_temperature, workspace)?)
        {
            each(strand.last - strand.first + 1, &dr);
        }
        (first, all_rows) = (end, all_rows + rows);
    }
    Ok(all_rows)
}

fn strands(groups: &[TrainingGroup], kind: FisherScores) -> Vec<Strand> {
    let mut strands = Vec::new();
    for (group, of_group) in groups.iter().enumerate() {
        for (completion, sample) in of_group.completions.iter().enumerate() {
            let last = sample.tokens.len() - 1;
            match kind {
                FisherScores::Sequence => strands.push(Strand { group, completion, first: 0, last }),
                FisherScores::Token => {
                    let token = |token| Strand { group, completion, first: token, last: token };
                    strands.extend((0..=last).map(token));
                }
            }
        }
    }
    strands
}

/// dR of each strand.
fn backward_apart(
    cpu: &Cpu,
    policy: Policy<'_>,
    groups: &[TrainingGroup],
    strands: &[Strand],
    inverse_temperature: f32,
    workspace: &mut GradientWorkspace,
) -> Result<Vec<Vec<f64>>, GradientError> {
    let packed = pack_apart(groups, strands);
    let Policy { model, adapters, .. } = policy;
    workspace.make_room(cpu, model, packed.blocks);
    let outputs: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
    let copies: Vec<R> = vec![adapters.r[0].clone(); strands.len()];
    let policy = Policy::new(model, Adapters { r: &copies, ..adapters });
    let GradientWorkspace { cache, kept, .. } = workspace;
    let hidden = forward(cpu, policy, &packed.batch, &outputs, cache, kept, Keep::Everything)?;
    let head = HeadPass::new(cpu, model, groups, &packed, &hidden, inverse_temperature, false)?;
    check_finite(&packed.targets, &head.logprobs)?;
    let numbers = adapters.factors.map_or(0, |factors| factors.modules() * factors.rank() * factors.rank());
    let mut sums = Gradients::R(vec![vec![0f64; numbers]; strands.len()]);
    backward(cpu, policy, &packed.batch, &outputs, &head.directions, cache, kept, &mut sums)?;
    let Gradients::R(dr) = sums else { unreachable!("made above") };
    Ok(dr)
}
