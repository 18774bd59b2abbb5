//! Which decode steps are queued launch by launch, which are recorded as a graph, and which are a graph that was recorded
//! before. Sizes and addresses enter, decisions leave; no GPU is touched here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What graphs are kept by: rows and parts of the longest context, both as launches have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// Rows, of which those behind the batch's own are empty.
    pub rows: usize,
    /// Parts in which contexts are walked.
    pub parts: usize,
}

/// The rows of launches for a batch of so many: a few sizes, so that few graphs serve all.
pub(super) fn rows_of_launches(rows: usize) -> usize {
    match rows {
        0..=16 => rows.next_power_of_two(),
        17..=64 => rows.next_multiple_of(16),
        65..=256 => rows.next_multiple_of(32),
        _ => rows.next_multiple_of(64),
    }
}

/// How a step is queued.
#[derive(Debug, PartialEq)]
pub(super) enum Next<'a, G> {
    /// Launch by launch.
    Launches,
    /// It is recorded, then the graph is queued.
    Record,
    /// A graph that is there.
    Replay(&'a G),
}

/// Graphs of type G of steps that depend on B: what the launches were given besides a [`Shape`].
pub(super) struct Book<B, G> {
    bound: Option<B>,
    /// None for shapes that were launched once, which makes room for their activations and loads their kernels.
    graphs: BTreeMap<Shape, Option<G>>,
    off: bool,
}

impl<B, G> Default for Book<B, G> {
    fn default() -> Self {
        Self { bound: None, graphs: BTreeMap::new(), off: false }
    }
}

impl<B: PartialEq, G> Book<B, G> {
    /// How a step of this shape is queued. A shape is launched once, recorded the second time, and then replayed; where what
    /// it is bound to is not what it was, all graphs are forgotten.
    pub fn next(&mut self, shape: Shape, bound: B) -> Next<'_, G> {
        if self.off {
            return Next::Launches;
        }
        if self.bound.as_ref() != Some(&bound) {
            self.graphs.clear();
            self.bound = Some(bound);
        }
        match self.graphs.entry(shape) {
            Entry::Vacant(entry) => {
                entry.insert(None);
                Next::Launches
            }
            Entry::Occupied(entry) => match entry.into_mut() {
                None => Next::Record,
                Some(graph) => Next::Replay(graph),
            },
        }
    }

    /// What was recorded for a shape that [`Self::next`] wanted recorded.
    pub fn keep(&mut self, shape: Shape, graph: G) {
        self.graphs.insert(shape, Some(graph));
    }

    /// No graphs from now on.
    pub fn give_up(&mut self) {
        (self.off, self.bound) = (true, None);
        self.graphs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sizes_serve_all_batches() {
        let sizes: Vec<usize> =
            [1, 2, 3, 5, 16, 17, 48, 49, 64, 65, 97, 255, 256, 257].map(rows_of_launches).into();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 48, 64, 64, 96, 128, 256, 256, 320]);
        assert!((1..1000).all(|rows| rows_of_launches(rows) >= rows));
        assert!((1..1000).all(|rows| rows_of_launches(rows_of_launches(rows)) == rows_of_launches(rows)));
    }

    #[test]
    fn a_shape_is_launched_then_recorded_then_replayed() {
        let mut book: Book<&str, u32> = Book::default();
        let (a, b) = (Shape { rows: 4, parts: 1 }, Shape { rows: 4, parts: 2 });
        assert_eq!(book.next(a, "memory"), Next::Launches);
        assert_eq!(book.next(b, "memory"), Next::Launches);
        assert_eq!(book.next(a, "memory"), Next::Record);
        // A recording that failed is tried again.
        assert_eq!(book.next(a, "memory"), Next::Record);
        book.keep(a, 7);
        assert_eq!(book.next(a, "memory"), Next::Replay(&7));
        assert_eq!(book.next(b, "memory"), Next::Record);
        assert_eq!(book.next(a, "memory"), Next::Replay(&7));
    }

    #[test]
    fn other_memory_or_adapters_make_all_graphs_stale() {
        let mut book: Book<&str, u32> = Book::default();
        let (a, b) = (Shape { rows: 1, parts: 1 }, Shape { rows: 2, parts: 1 });
        for shape in [a, b] {
            book.next(shape, "memory");
            book.keep(shape, 1);
        }
        assert_eq!(book.next(a, "other memory"), Next::Launches);
        assert_eq!(book.next(a, "other memory"), Next::Record);
        assert_eq!(book.next(b, "other memory"), Next::Launches);
        // Not even when the first comes back.
        assert_eq!(book.next(a, "memory"), Next::Launches);
    }

    #[test]
    fn once_given_up_there_are_none() {
        let mut book: Book<&str, u32> = Book::default();
        let shape = Shape { rows: 1, parts: 1 };
        book.next(shape, "memory");
        book.keep(shape, 1);
        book.give_up();
        assert!((0..3).all(|_| book.next(shape, "memory") == Next::Launches));
    }
}
