//! The recipe's `[adapter]` table and a model's sizes enter, a checked specification leaves: which modules
//! are adapted, in which order, and which of them share a v. No weights and no factors are touched here.

use crate::model::config::ModelConfig;
use crate::random::{Purpose, Stream};
use crate::recipe::{AdapterKind, AdapterSection, Projection, StoragePrecision, Tying};

/// What is wrong with an adapter's specification.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum AdapterError {
    /// A target's name is unknown.
    #[error(
        "adapter.targets: \"{name}\" is no module; the modules are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    )]
    UnknownTarget {
        /// The name as given.
        name: String,
    },
    /// No target at all.
    #[error("adapter.targets is empty: name at least one module, such as \"q_proj\"")]
    NoTargets,
    /// A count that must be positive is 0.
    #[error("adapter.{key} is 0; it must be at least 1")]
    Zero {
        /// The key in the recipe.
        key: &'static str,
    },
    /// The rank is larger than a matrix has singular values.
    #[error(
        "adapter.rank = {rank}, but {target} is a {rows} × {columns} matrix; the rank may be at most {limit}"
    )]
    RankTooLarge {
        /// The rank as given.
        rank: usize,
        /// The module.
        target: &'static str,
        /// Output size.
        rows: usize,
        /// Input size.
        columns: usize,
        /// The smaller of both.
        limit: usize,
    },
    /// A number that must be finite (and, for init_bound, not negative) isn't.
    #[error("adapter.{key} = {value}: {wanted}")]
    BadNumber {
        /// The key in the recipe.
        key: &'static str,
        /// The value as given.
        value: f32,
        /// What is allowed.
        wanted: &'static str,
    },
    /// More than an adapter's file can hold.
    #[error(
        "adapter.rank = {rank} trains {numbers} numbers, a file of {bytes} bytes; an adapter's file holds at most {limit}: lower the rank or name fewer targets"
    )]
    FileTooLarge {
        /// The rank as given.
        rank: usize,
        /// Trained numbers.
        numbers: usize,
        /// Bytes of the file.
        bytes: usize,
        /// Bytes that are possible.
        limit: usize,
    },
    /// `tying = "none"` together with `n_tie = "all"`.
    #[error(
        "adapter.tying = \"none\" gives each module its own v, but adapter.n_tie = \"all\" ties every module: drop one of the two"
    )]
    ConflictingTying,
    /// Explicit projections of a wrong size.
    #[error(
        "the projections have {found} numbers; {modules} modules × u {u} × r {rank} × r {rank} are {expected}"
    )]
    ProjectionSize {
        /// Numbers given.
        found: usize,
        /// Numbers needed.
        expected: usize,
        /// M
        modules: usize,
        /// u
        u: usize,
        /// r
        rank: usize,
    },
}

pub use crate::model::ModuleKind as Target;

/// One adapted module; ordered depth first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Module {
    /// Block number.
    pub layer: usize,
    /// Which matrix of the block.
    pub target: Target,
}

impl std::fmt::Display for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "layer {} {}", self.layer, self.target.name())
    }
}

/// A checked TinyLoRA specification for one model. With the base model it determines everything of an
/// adapter but v.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyLoraSpec {
    /// r
    pub rank: usize,
    /// u
    pub u: usize,
    /// Modules that share one v; 0: all.
    pub n_tie: usize,
    /// How modules are put into groups.
    pub tying: Tying,
    /// Adapted kinds of modules, in a block's order, each once.
    pub targets: Vec<Target>,
    /// Blocks of the model.
    pub layers: usize,
    /// Seed of P.
    pub projection_seed: u64,
    /// Distribution of P.
    pub projection: Projection,
    /// Bound of v's uniform start; 0: zeros.
    pub init_bound: f32,
    /// Factor on the whole update.
    pub scale: f32,
    /// Precision of the stored v.
    pub storage_precision: StoragePrecision,
}

impl TinyLoraSpec {
    /// Checks the recipe's table against the model's sizes.
    pub fn new(section: &AdapterSection, config: &ModelConfig) -> Result<Self, AdapterError> {
        for (key, value) in [("rank", section.rank), ("u", section.u)] {
            if value == 0 {
                return Err(AdapterError::Zero { key });
            }
        }
        if !section.scale.is_finite() {
            return Err(AdapterError::BadNumber {
                key: "scale",
                value: section.scale,
                wanted: "it must be a finite number",
            });
        }
        if !(section.init_bound.is_finite() && section.init_bound >= 0.0) {
            return Err(AdapterError::BadNumber {
                key: "init_bound",
                value: section.init_bound,
                wanted: "it must be finite and not negative",
            });
        }
        if section.tying == Tying::None && section.n_tie == 0 {
            return Err(AdapterError::ConflictingTying);
        }
        let targets = parse_targets(&section.targets)?;
        for target in &targets {
            let (rows, columns) = target.shape(config);
            let limit = rows.min(columns);
            if section.rank > limit {
                let (rank, target) = (section.rank, target.name());
                return Err(AdapterError::RankTooLarge { rank, target, rows, columns, limit });
            }
        }
        Ok(Self {
            rank: section.rank,
            u: section.u,
            n_tie: section.n_tie,
            tying: section.tying,
            targets,
            layers: config.num_layers,
            projection_seed: section.projection_seed,
            projection: section.projection,
            init_bound: section.init_bound,
            scale: section.scale,
            storage_precision: section.storage_precision,
        })
    }

    /// The adapted modules, depth first: layer 0's targets in a block's order, then layer 1's. This is the
    /// order of every array "of modules" in this crate.
    pub fn modules(&self) -> impl Iterator<Item = Module> + '_ {
        (0..self.layers).flat_map(|layer| self.targets.iter().map(move |&target| Module { layer, target }))
    }

    /// M
    pub fn num_modules(&self) -> usize {
        self.layers * self.targets.len()
    }

    /// What R is made of.
    pub fn kind(&self) -> AdapterKind {
        match self.projection {
            Projection::Basis => AdapterKind::LoraXs,
            Projection::Normal | Projection::Uniform => AdapterKind::TinyLora,
        }
    }

    /// For each module the number of its group, 0 … G − 1.
    ///
    /// - `n_tie = "all"`: one group, whatever the mode (the paper's full tying: u parameters in all).
    /// - tiled: modules in their depth-first order are cut into runs of n_tie.
    /// - structured: the modules of one type, by depth, are cut into runs of n_tie; a run never spans two
    ///   types, so the last run of each type may be short. Groups are numbered type by type.
    /// - none: each module has its own; n_tie is not looked at.
    pub fn groups(&self) -> Vec<usize> {
        let modules = self.num_modules();
        if self.n_tie == 0 {
            return vec![0; modules];
        }
        match self.tying {
            Tying::Tiled => (0..modules).map(|index| index / self.n_tie).collect(),
            Tying::Structured => {
                let kinds = self.targets.len();
                let per_kind = self.layers.div_ceil(self.n_tie);
                (0..modules).map(|index| (index % kinds) * per_kind + (index / kinds) / self.n_tie).collect()
            }
            Tying::None => (0..modules).collect(),
        }
    }

    /// G
    pub fn num_groups(&self) -> usize {
        self.groups().last().map_or(0, |last| last + 1)
    }

    /// G · u
    pub fn trainable_parameters(&self) -> usize {
        self.num_groups() * self.u
    }

    /// Bytes of v as stored.
    pub fn payload_bytes(&self) -> usize {
        self.trainable_parameters() * storage_bytes(self.storage_precision)
    }

    /// The v that training starts from: zeros, or uniform in ±init_bound, rounded to the storage precision.
    /// Zeros train: dL/dv_i = ⟨dL/dR, P_i⟩ does not vanish at v = 0, and the first forward is the base's.
    pub fn init_v(&self, seed: u64) -> Vec<f32> {
        let stream = Stream::new(seed, Purpose::Initialisation, 0);
        let bound = f64::from(self.init_bound);
        let mut v: Vec<f32> = (0..self.trainable_parameters() as u64)
            .map(|i| ((2.0 * stream.uniform(i) - 1.0) * bound) as f32)
            .map(|x| if self.init_bound == 0.0 { 0.0 } else { x })
            .collect();
        round_to(self.storage_precision, &mut v);
        v
    }
}

/// Bytes of one stored number.
pub(super) fn storage_bytes(precision: StoragePrecision) -> usize {
    match precision {
        StoragePrecision::Bf16 | StoragePrecision::Fp16 => 2,
        StoragePrecision::Fp32 => 4,
    }
}

/// Rounds each number to the nearest one of the storage precision, ties to even. Done after every update,
/// so that training sees what the file will hold (the paper's precision study).
pub fn round_to(precision: StoragePrecision, values: &mut [f32]) {
    for value in values {
        *value = match precision {
            StoragePrecision::Bf16 => half::bf16::from_f32(*value).to_f32(),
            StoragePrecision::Fp16 => half::f16::from_f32(*value).to_f32(),
            StoragePrecision::Fp32 => *value,
        };
    }
}

/// Names → kinds in a block's order; a name given twice counts once.
pub(super) fn parse_targets(names: &[String]) -> Result<Vec<Target>, AdapterError> {
    for name in names {
        if !Target::ALL.iter().any(|target| target.name() == name) {
            return Err(AdapterError::UnknownTarget { name: name.clone() });
        }
    }
    let targets: Vec<Target> =
        Target::ALL.into_iter().filter(|target| names.iter().any(|name| name == target.name())).collect();
    if targets.is_empty() { Err(AdapterError::NoTargets) } else { Ok(targets) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::config::{Activation, Family, LayerConfig, RopeConfig, RopeScaling};

    /// A small model of `layers` blocks.
    pub fn config(layers: usize) -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            vocab_size: 100,
            hidden_size: 12,
            intermediate_size: 20,
            num_layers: layers,
            num_heads: 3,
            num_kv_heads: 1,
            head_dim: 6,
            rms_norm_eps: 1e-5,
            norm_plus_one: false,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            qkv_bias: false,
            qk_norm: false,
            sandwich_norms: false,
            attention_scale: 0.5,
            ropes: vec![RopeConfig { theta: 1e4, scaling: RopeScaling::None }],
            layers: vec![LayerConfig { rope: 0, window: None }; layers],
            tied_head: true,
            max_positions: 64,
            parameters: 1234,
        }
    }

    fn spec(layers: usize, change: impl FnOnce(&mut AdapterSection)) -> TinyLoraSpec {
        let mut section = AdapterSection::default();
        change(&mut section);
        TinyLoraSpec::new(&section, &config(layers)).unwrap()
    }

    #[test]
    fn the_papers_parameter_counts() {
        // (layers, u, n_tie, mode, parameters): 28 layers are Qwen2.5-7B's 196 modules, 36 are 3B's 252.
        for (layers, u, n_tie, tying, parameters) in [
            (28, 1, 16, Tying::Tiled, 13),
            (28, 1, 4, Tying::Tiled, 49),
            (28, 1, 1, Tying::Tiled, 196),
            (28, 2, 1, Tying::None, 392),
            (36, 1, 16, Tying::Tiled, 16),
            (36, 1, 4, Tying::Tiled, 63),
            (36, 2, 16, Tying::None, 504),
            (30, 13, 0, Tying::Tiled, 13),
            (30, 13, 0, Tying::Structured, 13),
            (30, 1, 0, Tying::Tiled, 1),
            (28, 1, 16, Tying::Structured, 14),
        ] {
            let spec = spec(layers, |s| (s.u, s.n_tie, s.tying) = (u, n_tie, tying));
            assert_eq!(spec.trainable_parameters(), parameters, "{layers} {u} {n_tie} {tying:?}");
            let groups = spec.groups();
            assert_eq!(groups.len(), spec.num_modules());
            let mut seen: Vec<usize> = groups.clone();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, (0..spec.num_groups()).collect::<Vec<_>>(), "groups have no holes");
        }
    }

    #[test]
    fn tiled_groups_follow_depth_and_structured_groups_follow_type() {
        let targets = ["v_proj", "q_proj"].map(String::from).to_vec();
        let tiled = spec(3, |s| (s.n_tie, s.tying, s.targets) = (4, Tying::Tiled, targets.clone()));
        assert_eq!(tiled.targets, [Target::Q, Target::V]);
        let names: Vec<String> = tiled.modules().map(|m| m.to_string()).collect();
        assert_eq!(names[..3], ["layer 0 q_proj", "layer 0 v_proj", "layer 1 q_proj"]);
        assert_eq!(tiled.groups(), [0, 0, 0, 0, 1, 1]);

        let structured = spec(3, |s| (s.n_tie, s.tying, s.targets) = (2, Tying::Structured, targets));
        // q of layers 0, 1 | q of layer 2 | v of layers 0, 1 | v of layer 2
        assert_eq!(structured.groups(), [0, 2, 0, 2, 1, 3]);
        assert_eq!(structured.num_groups(), 4);
    }

    #[test]
    fn wrong_sections_are_named() {
        let fail = |change: fn(&mut AdapterSection)| {
            let mut section = AdapterSection::default();
            change(&mut section);
            TinyLoraSpec::new(&section, &config(2)).unwrap_err()
        };
        assert_eq!(fail(|s| s.rank = 0), AdapterError::Zero { key: "rank" });
        assert_eq!(fail(|s| s.u = 0), AdapterError::Zero { key: "u" });
        assert_eq!(fail(|s| s.targets.clear()), AdapterError::NoTargets);
        assert_eq!(
            fail(|s| s.targets.push("lm_head".into())),
            AdapterError::UnknownTarget { name: "lm_head".into() }
        );
        assert!(matches!(
            fail(|s| s.rank = 7),
            AdapterError::RankTooLarge { rank: 7, target: "k_proj", rows: 6, columns: 12, limit: 6 }
        ));
        assert!(matches!(fail(|s| s.scale = f32::NAN), AdapterError::BadNumber { key: "scale", .. }));
        assert!(matches!(fail(|s| s.init_bound = -1.0), AdapterError::BadNumber { key: "init_bound", .. }));
        assert_eq!(fail(|s| (s.tying, s.n_tie) = (Tying::None, 0)), AdapterError::ConflictingTying);
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        // bf16 has 8 bits of significand: 1 + 2⁻⁸ is half-way between 1 and 1 + 2⁻⁷, 1 + 3·2⁻⁸ between
        // 1 + 2⁻⁷ and 1 + 2⁻⁶.
        let mut values = [1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), 1.0 + 1.01 * 2f32.powi(-8)];
        round_to(StoragePrecision::Bf16, &mut values);
        assert_eq!(values, [1.0, 1.0 + 2f32.powi(-6), 1.0 + 2f32.powi(-7)]);
        let mut values = [1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11)];
        round_to(StoragePrecision::Fp16, &mut values);
        assert_eq!(values, [1.0, 1.0 + 2f32.powi(-9)]);
        let mut values = [0.1f32];
        round_to(StoragePrecision::Fp32, &mut values);
        assert_eq!(values, [0.1]);
    }

    #[test]
    fn initial_v_is_zero_or_uniform_and_rounded() {
        assert!(spec(2, |s| s.u = 13).init_v(5).iter().all(|x| x.to_bits() == 0));
        let spec = spec(2, |s| {
            (s.u, s.init_bound, s.storage_precision) = (500, 0.02, StoragePrecision::Bf16);
        });
        let v = spec.init_v(5);
        assert_eq!(v, spec.init_v(5));
        assert_ne!(v, spec.init_v(6));
        assert!(v.iter().all(|x| x.abs() <= 0.0201), "in the bound, up to rounding");
        assert!(v.iter().any(|x| *x > 0.018) && v.iter().any(|x| *x < -0.018));
        let mut rounded = v.clone();
        round_to(StoragePrecision::Bf16, &mut rounded);
        assert_eq!(v, rounded);
        assert_eq!(spec.payload_bytes(), 1000);
    }
}
