//! All weights of a model as one list of numbers: which tensor stands where, and the sums of their gradients, to which
//! the layers' backward passes add. Tensors have their Hugging Face names, shapes and values (a norm's 1 is not in them).

use super::config::{ModelConfig, expected_tensors};
use super::pass::Pass;
use super::side::ModuleKind;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tinylora_compute::outer::{Columns, add_outer};
use tinylora_compute::vectors::{add_column_sums, add_norm_weight_gradient};

/// Name of the embedding, which is the head as well where that is tied.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the head where it is a matrix of its own.
pub const HEAD: &str = "lm_head.weight";
/// Name of the last norm.
pub const FINAL_NORM: &str = "model.norm.weight";

/// Where each tensor stands.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightLayout {
    /// Names and shapes, (out, in) or (n), in the list's order.
    pub tensors: Vec<(String, Vec<usize>)>,
    places: BTreeMap<String, (Range<usize>, usize)>,
    len: usize,
}

impl WeightLayout {
    /// The tensors of a model, one after the other.
    pub fn new(config: &ModelConfig) -> Self {
        let tensors = expected_tensors(config);
        let (mut places, mut len) = (BTreeMap::new(), 0);
        for (name, shape) in &tensors {
            let count: usize = shape.iter().product();
            let row = shape.last().copied().unwrap_or(1);
            places.insert(name.clone(), (len..len + count, if shape.len() > 1 { row } else { count }));
            len += count;
        }
        Self { tensors, places, len }
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The place of a tensor; None if the model has none of this name. A tied head is the embedding.
    pub fn find(&self, name: &str) -> Option<Range<usize>> {
        let own = self.places.get(name);
        let tied = || self.places.get(EMBEDDING).filter(|_| name == HEAD);
        own.or_else(tied).map(|(range, _)| range.clone())
    }

    pub(super) fn range(&self, name: &str) -> Range<usize> {
        self.find(name).unwrap_or_else(|| panic!("{name} is a tensor of the model"))
    }

    /// Copies whole rows of a tensor, from row `first` on, until `out` is full.
    pub(super) fn copy_rows(&self, numbers: &[f32], name: &str, first: usize, out: &mut [f32]) {
        let (range, row) = &self.places[name];
        out.copy_from_slice(&numbers[range.start + first * row..][..out.len()]);
    }
}

/// Name of a block's tensor.
pub(super) fn in_layer(layer: usize, path: &str) -> String {
    format!("model.layers.{layer}.{path}")
}

/// Sums of the gradients of all weights.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightSums {
    layout: Arc<WeightLayout>,
    /// As the layout has it.
    pub numbers: Vec<f32>,
}

impl WeightSums {
    /// Zeros.
    pub fn new(layout: Arc<WeightLayout>) -> Self {
        Self { numbers: vec![0.0; layout.len()], layout }
    }

    /// A tensor's sums.
    pub fn of(&mut self, name: &str) -> &mut [f32] {
        &mut self.numbers[self.layout.range(name)]
    }

    /// dW += dyᵀ x and db += Σ dy of a block's linear layers that share x (T, in).
    pub(super) fn add_linears(
        &mut self,
        pass: &Pass<'_>,
        layer: usize,
        kinds: &[ModuleKind],
        gradients: &[&[f32]],
        x: &[f32],
    ) {
        let rows = pass.rows();
        for (kind, dy) in kinds.iter().zip(gradients) {
            let (outputs, inputs) = kind.shape(&pass.model.config);
            let sums = self.of(&in_layer(layer, &format!("{}.weight", kind.path())));
            add_outer(pass.cpu, Columns::all(dy, outputs), Columns::all(x, inputs), rows, sums);
            let bias = in_layer(layer, &format!("{}.bias", kind.path()));
            if self.layout.places.contains_key(&bias) {
                add_column_sums(pass.cpu, dy, self.of(&bias));
            }
        }
    }

    /// The gradient of a norm's weight, given its input and the gradient of its output.
    pub(super) fn add_norm(&mut self, pass: &Pass<'_>, name: &str, x: &[f32], dy: &[f32]) {
        let epsilon = pass.model.config.rms_norm_eps;
        add_norm_weight_gradient(pass.cpu, x, epsilon, dy, self.of(name));
    }

    /// The embedding's part: each token's row gets the gradient of its copies. dx is (T, D).
    pub(super) fn add_embedding(&mut self, pass: &Pass<'_>, dx: &[f32]) {
        let (width, scale) = (pass.model.config.hidden_size, pass.model.config.embedding_scale);
        let sums = self.of(EMBEDDING);
        for (&token, dx) in pass.batch.tokens.iter().zip(dx.chunks_exact(width)) {
            let row = &mut sums[token as usize * width..][..width];
            row.iter_mut().zip(dx).for_each(|(sum, dx)| *sum = dx.mul_add(scale, *sum));
        }
    }
}
