//! Groups enter, packed batches leave: prompts once, each completion after its prompt, all in one list.

use crate::inference::{prefix::PrefixTree, spans_of};
use crate::model::{Batch, NO_ROW};
use tinylora_compute::attention::{BLOCK_TOKENS, Group, Member};

/// A prompt and its completions.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingGroup {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// The samples.
    pub completions: Vec<TrainingCompletion>,
}

/// One completion, with what the loss needs of each of its n tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainingCompletion {
    /// At least one token.
    pub tokens: Vec<u32>,
    /// Which of them the loss is over (n); empty: all. The head is computed for these alone, and a loss sees no others.
    pub learned: Vec<bool>,
    /// ln p of each before the first update on the batch (n): what the ratio compares with.
    pub old_logprobs: Vec<f32>,
    /// ln p of each under the base model (n); empty where no KL is wanted.
    pub reference_logprobs: Vec<f32>,
    /// Ids that each was sampled from (n); empty: the whole vocabulary.
    pub supports: Vec<Vec<u32>>,
    /// Importance weight of each, π/π_sampler, bounded (n); empty: 1.
    pub importance: Vec<f64>,
    /// The completion's advantage.
    pub advantage: f32,
    /// Weight of each of its tokens in the loss.
    pub weight: f64,
}

impl TrainingCompletion {
    /// The places of the tokens that the loss is over.
    pub fn learned(&self) -> impl Iterator<Item = usize> + '_ {
        let is_learned = |token: &usize| self.learned.get(*token).copied().unwrap_or(true);
        (0..self.tokens.len()).filter(is_learned)
    }
}

/// Where a completion's token is predicted: the output row, and what was sampled there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub row: u32,
    pub group: usize,
    pub completion: usize,
    pub token: usize,
}

/// A batch to train on.
#[derive(Default)]
pub(super) struct Packed {
    pub batch: Batch,
    pub targets: Vec<Target>,
    /// KV blocks that the batch uses, from 0 on.
    pub blocks: usize,
    /// The row before each in its sequence, or [`NO_ROW`].
    pub before: Vec<u32>,
}

/// Rows that the groups take when packed together.
pub fn packed_tokens(groups: &[TrainingGroup]) -> usize {
    let prompts: Vec<&[u32]> = groups.iter().map(|group| &group.prompt[..]).collect();
    let completions = groups.iter().flat_map(|group| &group.completions);
    PrefixTree::new(&prompts).tokens() + completions.map(|c| c.tokens.len().saturating_sub(1)).sum::<usize>()
}

/// Cuts groups into micro-batches of about `most` rows, in order; a group that is larger alone is cut between
/// its completions. Depends on lengths alone, so a run's micro-batches are the same each time.
pub fn micro_batches(groups: &[TrainingGroup], most: usize) -> Vec<Vec<TrainingGroup>> {
    let mut batches = Vec::new();
    let mut batch: Vec<TrainingGroup> = Vec::new();
    let mut held = 0;
    for group in groups {
        let mut open = false;
        for completion in &group.completions {
            let prompt = if open { 0 } else { group.prompt.len() };
            let rows = completion.tokens.len() + prompt;
            if held + rows > most && held > 0 {
                batches.push(std::mem::take(&mut batch));
                held = 0;
                open = false;
            }
            if !open {
                batch.push(TrainingGroup { prompt: group.prompt.clone(), completions: Vec::new() });
                held += group.prompt.len();
                open = true;
            }
            held += completion.tokens.len();
            let last = batch.last_mut().expect("opened above");
            last.completions.push(completion.clone());
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Packs groups into one batch for adapter 0.
pub(super) fn pack(groups: &[TrainingGroup]) -> Packed {
    let prompts: Vec<&[u32]> = groups.iter().map(|group| &group.prompt[..]).collect();
    let tree = PrefixTree::new(&prompts);
    let mut packed = Packed::default();
    let mut node_rows: Vec<Vec<u32>> = Vec::with_capacity(tree.nodes.len());
    let mut node_blocks: Vec<Vec<u32>> = Vec::with_capacity(tree.nodes.len());
    for node in &tree.nodes {
        let before =
            node.parent.map_or(NO_ROW, |parent| *node_rows[parent].last().expect("nodes have tokens"));
        let (rows, blocks) = packed.append(&node.tokens, node.start, before);
        let shared: Vec<usize> = node.parent.map_or(Vec::new(), |parent| tree.path(parent));
        packed.attend(&shared, &tree, &node_rows, &node_blocks, vec![member(&rows, &blocks)]);
        node_rows.push(rows);
        node_blocks.push(blocks);
    }
    for (index, group) in groups.iter().enumerate() {
        let end = tree.ends[index];
        let prompt_row = *node_rows[end].last().expect("nodes have tokens");
        let mut members = Vec::new();
        for (completion, sample) in group.completions.iter().enumerate() {
            // The last token predicts nothing that was sampled.
            let inputs = &sample.tokens[..sample.tokens.len() - 1];
            let (rows, blocks) = packed.append(inputs, group.prompt.len(), prompt_row);
            for token in sample.learned() {
                let row = if token == 0 { prompt_row } else { rows[token - 1] };
                packed.targets.push(Target { row, group: index, completion, token });
            }
            if !rows.is_empty() {
                members.push(member(&rows, &blocks));
            }
        }
        if !members.is_empty() {
            packed.attend(&tree.path(end), &tree, &node_rows, &node_blocks, members);
        }
    }
    packed
}

/// A prompt and the beginning of a completion, packed on their own: what the gradient of some of its tokens needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strand {
    pub group: usize,
    pub completion: usize,
    /// First token whose log-prob is wanted.
    pub first: usize,
    /// Last such token.
    pub last: usize,
}

impl Strand {
    /// Rows that it takes. The last token itself is no input.
    pub fn rows(&self, groups: &[TrainingGroup]) -> usize {
        groups[self.group].prompt.len() + self.last
    }
}

/// Packs strands into one batch that shares nothing: strand i is of adapter i, so that gradients come out one by one.
pub(super) fn pack_apart(groups: &[TrainingGroup], strands: &[Strand]) -> Packed {
    let mut packed = Packed::default();
    for (adapter, strand) in strands.iter().enumerate() {
        let Strand { group, completion, first, last } = *strand;
        let (prompt, sample) = (&groups[group].prompt, &groups[group].completions[completion]);
        let tokens = [&prompt[..], &sample.tokens[..last]].concat();
        let (rows, blocks) = packed.append(&tokens, 0, NO_ROW);
        let start = rows[0] as usize;
        packed.batch.adapters[start..].fill(adapter as u32);
        packed.batch.groups.push(Group { shared: Vec::new(), members: vec![member(&rows, &blocks)] });
        packed.batch.shared_rows.push(Vec::new());
        for token in first..=last {
            packed.targets.push(Target { row: rows[prompt.len() + token - 1], group, completion, token });
        }
    }
    packed
}

fn member(rows: &[u32], blocks: &[u32]) -> Member {
    Member { first_row: rows[0] as usize, rows: rows.len(), own: spans_of(blocks, rows.len()).collect() }
}

impl Packed {
    /// Adds a run of tokens that follow the row `before`; gives its rows and KV blocks.
    fn append(&mut self, tokens: &[u32], start: usize, before: u32) -> (Vec<u32>, Vec<u32>) {
        let first = self.batch.rows() as u32;
        let count = tokens.len().div_ceil(BLOCK_TOKENS);
        let blocks: Vec<u32> = (self.blocks..self.blocks + count).map(|block| block as u32).collect();
        self.blocks += count;
        for (i, &token) in tokens.iter().enumerate() {
            let place = (blocks[i / BLOCK_TOKENS], (i % BLOCK_TOKENS) as u32);
            self.before.push(if i == 0 { before } else { self.batch.rows() as u32 - 1 });
            self.batch.push(token, start + i, place, 0);
        }
        ((first..first + tokens.len() as u32).collect(), blocks)
    }

    fn attend(
        &mut self,
        path: &[usize],
        tree: &PrefixTree,
        rows: &[Vec<u32>],
        blocks: &[Vec<u32>],
        members: Vec<Member>,
    ) {
        let spans = path.iter().flat_map(|&node| spans_of(&blocks[node], tree.nodes[node].tokens.len()));
        self.batch.groups.push(Group { shared: spans.collect(), members });
        self.batch.shared_rows.push(path.iter().flat_map(|&node| rows[node].iter().copied()).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(prompt: usize, lengths: &[usize]) -> TrainingGroup {
        let completion = |&n: &usize| TrainingCompletion { tokens: vec![1; n], ..Default::default() };
        TrainingGroup { prompt: vec![2; prompt], completions: lengths.iter().map(completion).collect() }
    }

    #[test]
    fn micro_batches_keep_every_completion_in_order() {
        let groups = [group(10, &[5, 7, 3]), group(4, &[50]), group(6, &[1, 1, 1, 1])];
        for most in [1, 16, 30, 1000] {
            let batches = micro_batches(&groups, most);
            let lengths: Vec<usize> = batches
                .iter()
                .flatten()
                .flat_map(|group| group.completions.iter().map(|c| c.tokens.len()))
                .collect();
            assert_eq!(lengths, [5, 7, 3, 50, 1, 1, 1, 1]);
            assert!(batches.iter().flatten().all(|group| !group.completions.is_empty()));
        }
        assert_eq!(micro_batches(&groups, 1000).len(), 1);
        assert_eq!(micro_batches(&groups, 1).len(), 8);
    }

    #[test]
    fn only_what_is_learned_is_a_target() {
        let mut group = group(3, &[4]);
        group.completions[0].learned = vec![true, false, false, true];
        let packed = pack(&[group]);
        assert_eq!(packed.batch.rows(), 3 + 3);
        let targets: Vec<(u32, usize)> =
            packed.targets.iter().map(|target| (target.row, target.token)).collect();
        assert_eq!(targets, [(2, 0), (5, 3)]);
    }

    #[test]
    fn prompts_are_packed_once_and_every_token_has_its_target() {
        let packed = pack(&[group(20, &[3, 1, 5])]);
        assert_eq!(packed.batch.rows(), 20 + 2 + 4);
        let rows: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
        assert_eq!(rows, [19, 20, 21, 19, 19, 22, 23, 24, 25]);
        assert_eq!(packed.batch.positions[20..], [20, 21, 20, 21, 22, 23]);
    }
}
