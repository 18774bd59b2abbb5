//! How the tokens of a batch are averaged: a loss and the batch's totals enter, each completion gets the weight of
//! its tokens. With N completions of c_i tokens, T tokens in all, G groups of T_g tokens:
//!
//! | loss | weight of a token |
//! |---|---|
//! | GRPO, GSPO | 1 / (N c_i) |
//! | Dr. GRPO | 1 / (N · largest length) |
//! | DAPO, CISPO | 1 / T |
//! | BNPO | 1 / (G T_g) |

use super::super::pack::TrainingGroup;
use crate::recipe::GrpoLoss;

/// What a batch has in all, groups without an advantage included, completions that are left out of the loss not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchTotals {
    /// G: groups that have a completion.
    pub groups: usize,
    /// N
    pub completions: usize,
    /// T
    pub tokens: usize,
    /// Tokens that a completion may have at most.
    pub max_tokens: usize,
}

/// Sets the weight of every completion. Groups must be whole: cut them into micro-batches afterwards.
pub fn weigh(groups: &mut [TrainingGroup], loss: GrpoLoss, totals: BatchTotals) {
    let completions = totals.completions as f64;
    for group in groups {
        let of_group: usize = group.completions.iter().map(|completion| completion.tokens.len()).sum();
        for completion in &mut group.completions {
            completion.weight = match loss {
                GrpoLoss::Grpo | GrpoLoss::Gspo => 1.0 / (completions * completion.tokens.len() as f64),
                GrpoLoss::DrGrpo => 1.0 / (completions * totals.max_tokens as f64),
                GrpoLoss::Dapo | GrpoLoss::Cispo => 1.0 / totals.tokens as f64,
                GrpoLoss::Bnpo => 1.0 / (totals.groups as f64 * of_group as f64),
            };
        }
    }
}
