//! The weighted sum of embeddings in matrix tiles, for the head's gradient.

use super::VOCABULARY_CHUNK;
use crate::kernel::Simd;
use crate::lanes::{LANES, Lanes};
use crate::operand::held_in_tiles;
use crate::packed::PackedMatrix;
use crate::tile::{Block, Element, Fetch, Jumps, Pair, Start};

/// `out (rows, width) += weights · embeddings` over a chunk of the vocabulary: weights (rows, 256) in tiles.
pub(super) struct TiledSum<'a> {
    pub head: &'a PackedMatrix,
    pub first: usize,
    pub count: usize,
    pub weights: &'a [u32],
    pub rows: usize,
    /// Room for two panels.
    pub embeddings: &'a mut [Pair],
    pub out: &'a mut [f32],
}

impl Simd for TiledSum<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { head, first, count, weights, rows, embeddings, out } = self;
        let (width, inner) = (head.columns(), count.div_ceil(2));
        assert!(out.len() >= rows * width && weights.len() >= held_in_tiles(rows, VOCABULARY_CHUNK));
        assert!(count <= VOCABULARY_CHUNK && embeddings.len() >= VOCABULARY_CHUNK * LANES);
        let panels = width.div_ceil(LANES);
        for panel in (0..panels).step_by(2) {
            let columns = (2 * LANES).min(width - panel * LANES);
            // SAFETY: `dispatch` has the instruction set; whole rows of each, as asserted.
            unsafe {
                for (embeddings, panel) in
                    embeddings.chunks_exact_mut(inner * LANES).zip(panel..panels).take(2)
                {
                    head.unpack_transposed_pairs::<L>(first, count, panel, embeddings);
                }
                Block::<Pair> {
                    inner,
                    a: weights.as_ptr().cast(),
                    a_row: Pair::row_units::<L>(VOCABULARY_CHUNK / 2),
                    a_inner: 1,
                    b: embeddings.as_ptr(),
                    b_panel: inner * LANES,
                    b_inner: LANES,
                    jumps: Jumps::NONE,
                    fetch: Fetch::Nothing,
                    c: out.as_mut_ptr().add(panel * LANES),
                    c_row: width,
                    rows,
                    columns,
                    start: Start::Output,
                    side: None,
                }
                .run::<L>();
            }
        }
    }
}
