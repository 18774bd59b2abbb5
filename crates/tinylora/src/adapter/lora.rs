//! LoRA: `W' = W + s · B A` with trained A (r, in) and B (out, r), s = alpha / r or alpha / √r. The recipe's `[adapter]`
//! table and a model's sizes enter; the numbers that training starts from leave, and what they are of each module.
//!
//! The numbers are one list: of each module, depth first, A, then Bᵀ (r, out).

use super::factors::{Factors, ModuleFactors};
use super::spec::{AdapterError, Module, Target, parse_targets, round_to, storage_bytes};
use crate::model::config::ModelConfig;
use crate::random::{Purpose, Stream};
use crate::recipe::{AdapterSection, StoragePrecision};

/// A checked LoRA specification for one model.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    /// r
    pub rank: usize,
    /// alpha
    pub alpha: f32,
    /// Whether s is alpha / √r.
    pub rslora: bool,
    /// Adapted kinds of modules, in a block's order, each once.
    pub targets: Vec<Target>,
    /// Blocks of the model.
    pub layers: usize,
    /// Precision that the numbers are rounded to after every update.
    pub storage_precision: StoragePrecision,
    /// (outputs, inputs) of each target.
    pub shapes: Vec<(usize, usize)>,
}

/// An adapter's file counts its bytes in 32 bits.
const MOST_BYTES: usize = u32::MAX as usize - (1 << 20);

impl LoraSpec {
    /// Checks the recipe's table against the model's sizes.
    pub fn new(section: &AdapterSection, config: &ModelConfig) -> Result<Self, AdapterError> {
        if section.rank == 0 {
            return Err(AdapterError::Zero { key: "rank" });
        }
        if !(section.alpha.is_finite() && section.alpha != 0.0) {
            let (value, wanted) = (section.alpha, "it must be a finite number other than 0");
            return Err(AdapterError::BadNumber { key: "alpha", value, wanted });
        }
        let targets = parse_targets(&section.targets)?;
        let spec = Self {
            rank: section.rank,
            alpha: section.alpha,
            rslora: section.rslora,
            shapes: targets.iter().map(|target| target.shape(config)).collect(),
            targets,
            layers: config.num_layers,
            storage_precision: section.storage_precision,
        };
        let bytes = 4 * (spec.trainable_parameters() + spec.layers * spec.targets.len() * spec.rank.pow(2));
        if bytes > MOST_BYTES {
            let (rank, numbers) = (spec.rank, spec.trainable_parameters());
            return Err(AdapterError::FileTooLarge { rank, numbers, bytes, limit: MOST_BYTES });
        }
        Ok(spec)
    }

    /// The adapted modules, depth first, as [`super::TinyLoraSpec::modules`].
    pub fn modules(&self) -> impl Iterator<Item = Module> + '_ {
        (0..self.layers).flat_map(|layer| self.targets.iter().map(move |&target| Module { layer, target }))
    }

    /// M
    pub fn num_modules(&self) -> usize {
        self.layers * self.targets.len()
    }

    /// Numbers of A and B of all modules.
    pub fn trainable_parameters(&self) -> usize {
        self.layers * self.shapes.iter().map(|(n, k)| self.rank * (n + k)).sum::<usize>()
    }

    /// Bytes of the numbers in the storage precision.
    pub fn payload_bytes(&self) -> usize {
        self.trainable_parameters() * storage_bytes(self.storage_precision)
    }

    /// s
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (f64::from(self.alpha) / if self.rslora { rank.sqrt() } else { rank }) as f32
    }

    /// The numbers that training starts from, rounded to the storage precision: A uniform in ±1/√in (Kaiming's
    /// bound with a = √5, as PEFT and PyTorch's linear layers have it), B = 0. The first forward pass is the base's.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(self.trainable_parameters());
        for index in 0..self.num_modules() {
            let (n, k) = self.shapes[index % self.shapes.len()];
            // Stream 0 is TinyLoRA's v.
            let stream = Stream::new(seed, Purpose::Initialisation, 1 + index as u64);
            let bound = 1.0 / (k as f64).sqrt();
            let a = (0..(self.rank * k) as u64).map(|i| ((2.0 * stream.uniform(i) - 1.0) * bound) as f32);
            numbers.extend(a);
            numbers.resize(numbers.len() + self.rank * n, 0.0);
        }
        round_to(self.storage_precision, &mut numbers);
        numbers
    }

    /// A and B of each module.
    ///
    /// # Panics
    /// If there are not exactly as many numbers as the modules have.
    pub fn factors(&self, numbers: &[f32]) -> Factors {
        assert_eq!(numbers.len(), self.trainable_parameters(), "as many numbers as the specification has");
        let (mut modules, mut rest, rank) = (Vec::with_capacity(self.num_modules()), numbers, self.rank);
        for index in 0..self.num_modules() {
            let (n, k) = self.shapes[index % self.shapes.len()];
            let (a, behind) = rest.split_at(rank * k);
            let (b, behind) = behind.split_at(rank * n);
            rest = behind;
            let b = (0..n).flat_map(|row| (0..rank).map(move |s| b[s * n + row])).collect();
            modules.push(ModuleFactors { a: a.to_vec(), b });
        }
        Factors { rank, modules }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::config;
    use super::*;

    fn spec(change: impl FnOnce(&mut AdapterSection)) -> Result<LoraSpec, AdapterError> {
        let mut section = AdapterSection { rank: 3, ..AdapterSection::default() };
        change(&mut section);
        LoraSpec::new(&section, &config(2))
    }

    #[test]
    fn counts_scales_and_order() {
        let spec = spec(|s| s.targets = ["down_proj", "q_proj"].map(String::from).to_vec()).unwrap();
        // q (18, 12) and down (12, 20).
        assert_eq!(spec.trainable_parameters(), 2 * 3 * (30 + 32));
        assert_eq!(spec.scale(), (32.0f64 / 3.0) as f32);
        let numbers: Vec<f32> = (0..spec.trainable_parameters()).map(|i| i as f32).collect();
        let factors = spec.factors(&numbers);
        assert_eq!(factors.modules.len(), 4);
        assert_eq!(factors.modules[0].a, numbers[..36]);
        // B of q: row 0 holds the first number of each row of Bᵀ.
        assert_eq!(factors.modules[0].b[..4], [36.0, 54.0, 72.0, 37.0]);
        assert_eq!(factors.modules[1].a[0], 90.0);
    }

    #[test]
    fn it_starts_at_the_base_and_a_is_in_its_bound() {
        let spec = spec(|s| s.rank = 40).unwrap();
        let numbers = spec.init(7);
        assert_eq!(numbers, spec.init(7));
        assert_ne!(numbers, spec.init(8));
        let factors = spec.factors(&numbers);
        assert_ne!(factors.modules[0].a, factors.modules[7].a, "each module has numbers of its own");
        for (module, factors) in spec.modules().zip(&factors.modules) {
            let (_, k) = module.target.shape(&config(2));
            let bound = 1.0 / (k as f32).sqrt();
            assert!(factors.b.iter().all(|b| *b == 0.0));
            assert!(factors.a.iter().all(|a| a.abs() <= bound));
            let square = factors.a.iter().map(|a| a * a).sum::<f32>() / factors.a.len() as f32;
            assert!(
                (square * 3.0 / (bound * bound) - 1.0).abs() < 0.2,
                "{module}: the variance of a uniform"
            );
        }
    }

    #[test]
    fn wrong_sections_are_named() {
        assert_eq!(spec(|s| s.rank = 0).unwrap_err(), AdapterError::Zero { key: "rank" });
        assert!(matches!(spec(|s| s.alpha = 0.0).unwrap_err(), AdapterError::BadNumber { key: "alpha", .. }));
        assert_eq!(spec(|s| s.targets.clear()).unwrap_err(), AdapterError::NoTargets);
        let message = spec(|s| s.rank = 100_000).unwrap_err().to_string();
        assert!(message.contains("adapter.rank = 100000"), "{message}");
        let square = spec(|s| (s.rank, s.rslora, s.alpha) = (4, true, 3.0)).unwrap();
        assert_eq!(square.scale(), 1.5);
    }
}
