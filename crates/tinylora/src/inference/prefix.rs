//! The common beginnings of prompts as a tree, so that each is computed once: the worked examples shared by
//! all problems, then each problem's own part, then its samples.

/// A run of tokens that follows its parent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node before; None at the beginning of a sequence.
    pub parent: Option<usize>,
    /// Position of the first token.
    pub start: usize,
    /// At least one token.
    pub tokens: Vec<u32>,
}

/// Nodes with parents before children, and for each prompt the node in which it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixTree {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// End node of each prompt.
    pub ends: Vec<usize>,
}

/// Beginnings shorter than this are computed again rather than shared.
const SHORTEST: usize = 8;

impl PrefixTree {
    /// The tree of `prompts`, none of which is empty. Equal prompts end in the same node.
    ///
    /// # Panics
    /// If a prompt is empty.
    pub fn new(prompts: &[&[u32]]) -> Self {
        assert!(prompts.iter().all(|prompt| !prompt.is_empty()), "a prompt has at least one token");
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&index| (prompts[index], index));
        let mut tree = Self { nodes: Vec::new(), ends: vec![0; prompts.len()] };
        tree.grow(prompts, &order, None, 0);
        tree
    }

    /// Adds the prompts named in `order` (sorted), which agree up to `from` and follow `parent`.
    fn grow(&mut self, prompts: &[&[u32]], order: &[usize], parent: Option<usize>, from: usize) {
        let mut rest = order;
        while let Some(&first) = rest.first() {
            if prompts[first].len() == from {
                // Ends exactly with the parent.
                self.ends[first] = parent.expect("prompts are not empty");
                rest = &rest[1..];
                continue;
            }
            // How many prompts share enough with the first one, and how much. In sorted order the common
            // beginning with the first only shrinks.
            let common = |index: usize| {
                let pairs = prompts[first][from..].iter().zip(&prompts[index][from..]);
                pairs.take_while(|(a, b)| a == b).count()
            };
            let mut shared = prompts[first].len() - from;
            let mut count = 1;
            for &index in &rest[1..] {
                let next = common(index);
                if next < SHORTEST && prompts[index] != prompts[first] {
                    break;
                }
                shared = shared.min(next);
                count += 1;
            }
            let node = self.nodes.len();
            self.nodes.push(Node {
                parent,
                start: from,
                tokens: prompts[first][from..from + shared].to_vec(),
            });
            self.grow(prompts, &rest[..count], Some(node), from + shared);
            rest = &rest[count..];
        }
    }

    /// The nodes from the root to `node`, itself included.
    pub fn path(&self, node: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(node), |&n| self.nodes[n].parent).collect();
        path.reverse();
        path
    }

    /// All tokens of the tree: what is computed.
    pub fn tokens(&self) -> usize {
        self.nodes.iter().map(|node| node.tokens.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_prompt_can_be_read_back(
            prompts in prop::collection::vec(prop::collection::vec(0u32..3, 1..40), 1..20),
        ) {
            let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let tree = PrefixTree::new(&views);
            for (prompt, &end) in prompts.iter().zip(&tree.ends) {
                let path = tree.path(end);
                let read: Vec<u32> = path.iter().flat_map(|&n| tree.nodes[n].tokens.clone()).collect();
                prop_assert_eq!(&read, prompt);
                for &node in &path {
                    let parent_end = tree.nodes[node].parent.map_or(0, |p| {
                        assert!(p < node);
                        tree.nodes[p].start + tree.nodes[p].tokens.len()
                    });
                    prop_assert_eq!(tree.nodes[node].start, parent_end);
                }
            }
        }
    }

    #[test]
    fn a_common_beginning_is_computed_once() {
        let prompts: Vec<Vec<u32>> = (0..10).map(|i| (0..40).chain([100 + i, 7, 7]).collect()).collect();
        let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let tree = PrefixTree::new(&views);
        assert_eq!(tree.tokens(), 40 + 10 * 3);
        assert_eq!(tree.nodes.len(), 11);
    }
}
