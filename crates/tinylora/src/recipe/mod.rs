//! TOML text and `--set` overrides enter, a validated [`Recipe`] leaves; nothing here opens a model or
//! data, or fills anything in later: a recipe that left this module can be run as it stands.
//!
//! Text → table (`raw`: unknown keys, wrong types, each with its place) → [`Recipe`] (defaults
//! resolved) → `validate` (ranges and combinations).

mod benchmark;
mod forms;
mod learning;
mod prompts;
mod raw;
mod types;
mod validate;

pub use benchmark::{AVERAGES, About, Average, Benchmark, GoldField, HubFile, Split};
pub(crate) use forms::decimal;
pub use learning::*;
pub use prompts::{PROMPT_FORMATS, PromptFormat, prompt_format};
pub use raw::nearest;
pub use types::*;

use std::path::Path;

/// What is wrong with a recipe or an override: wrong usage, to be mended in the file or the command.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read the recipe {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{place}: not valid TOML: {message}")]
    Syntax {
        /// File, line and column.
        place: String,
        /// What the parser found.
        message: String,
    },
    /// An override that is not `KEY=VALUE`, or whose key is no setting.
    #[error("--set {text}: {message}")]
    Override {
        /// The override as it was given.
        text: String,
        /// What is wrong.
        message: String,
    },
    /// A key that no recipe has.
    #[error("{place}: unknown key `{key}` {table}; {hint}")]
    UnknownKey {
        /// File, line and column, or the override.
        place: String,
        /// Where the key stands, such as "in `[rollout]`".
        table: String,
        /// The key.
        key: String,
        /// The nearest known key, or all known keys.
        hint: String,
    },
    /// A value of the wrong type.
    #[error("{place}: `{key}`: {message}")]
    WrongType {
        /// File, line and column, or the override.
        place: String,
        /// The dotted key.
        key: String,
        /// What was found and what is expected.
        message: String,
    },
    /// A key without a default is absent.
    #[error("{file}: `{key}` is missing: {meaning}")]
    Missing {
        /// The file.
        file: String,
        /// The dotted key.
        key: &'static str,
        /// What to write there.
        meaning: &'static str,
    },
    /// A value of the right type outside of what is allowed.
    #[error("{key} = {value} is not possible: {allowed}")]
    Invalid {
        /// The dotted key.
        key: &'static str,
        /// The value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The reason above, in a named file.
    #[error("{file}: {reason}")]
    InFile {
        /// The file.
        file: String,
        /// What is wrong in it.
        reason: Box<RecipeError>,
    },
}

impl Recipe {
    /// Reads a recipe file. Overrides are `KEY=VALUE` with a dotted key and a TOML value; a value that is
    /// not TOML is taken as text (`model.ref=smollm2-135m`). They are applied before anything is checked.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| RecipeError::Read { file: file.clone(), source })?;
        Self::parse(&file, &text, overrides)
    }

    /// As [`Recipe::load`], from text. Messages call it "recipe".
    pub fn from_toml(text: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        Self::parse("recipe", text, overrides)
    }

    /// The complete, resolved recipe; reading it back gives an equal one.
    ///
    /// # Panics
    /// Where a recipe that was put together by hand has a seed above `i64::MAX`, which TOML cannot hold;
    /// [`Recipe::validate`] refuses it.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a validated recipe fits into TOML")
    }

    /// Problems that a step takes from the training stream.
    pub fn problems_per_step(&self) -> usize {
        match self.learner {
            Learner::Grpo => self.rollout.prompts_per_step,
            Learner::Sft => self.sft.examples_per_step,
        }
    }

    /// Checks every range and combination, as loading does; for recipes that were changed in memory.
    pub fn validate(&self) -> Result<(), RecipeError> {
        validate::validate(self)
    }

    fn parse(file: &str, text: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let table = raw::read(file, text, overrides)?;
        let mut recipe: Recipe = table.clone().try_into().map_err(|e: toml::de::Error| {
            RecipeError::Syntax { place: file.into(), message: e.message().into() }
        })?;
        resolve(&mut recipe, &table);
        recipe
            .validate()
            .map_err(|reason| RecipeError::InFile { file: file.into(), reason: Box::new(reason) })?;
        Ok(recipe)
    }
}

/// Fills in the defaults that depend on other fields.
fn resolve(recipe: &mut Recipe, given: &toml::Table) {
    let is_given = |section: &str, key: &str| given.get(section).and_then(|s| s.get(key)).is_some();
    let adapter = &mut recipe.adapter;
    if adapter.kind == AdapterKind::LoraXs {
        if !is_given("adapter", "u") {
            adapter.u = adapter.rank * adapter.rank;
        }
        if !is_given("adapter", "tying") && !is_given("adapter", "n_tie") {
            adapter.tying = Tying::None;
        }
        if !is_given("adapter", "projection") {
            adapter.projection = Projection::Basis;
        }
    }
    if adapter.kind == AdapterKind::Full {
        // There is no adapter: its sizes mean nothing here, whatever a recipe for another kind says.
        let AdapterSection { rank, projection_seed, projection, .. } = AdapterSection::default();
        (adapter.rank, adapter.u, adapter.tying) = (rank, 1, Tying::None);
        (adapter.projection_seed, adapter.projection) = (projection_seed, projection);
    }
    if adapter.kind == AdapterKind::Lora {
        // What only the other kinds have says nothing here, so that a recipe or a sweep can change its kind alone.
        let own = adapter.clone();
        *adapter = AdapterSection {
            kind: own.kind,
            rank: own.rank,
            targets: own.targets,
            alpha: own.alpha,
            rslora: own.rslora,
            storage_precision: own.storage_precision,
            tying: Tying::None,
            ..AdapterSection::default()
        };
    }
    if adapter.tying == Tying::None {
        adapter.n_tie = 1;
    }
    let grpo = &mut recipe.grpo;
    let (low, high) = grpo.loss.default_clip();
    if !is_given("grpo", "clip_low") {
        grpo.clip_low = low;
    }
    if !is_given("grpo", "clip_high") {
        grpo.clip_high = high;
    }
    if !is_given("grpo", "scale_advantages") {
        grpo.scale_advantages = grpo.loss != GrpoLoss::DrGrpo;
    }
    if !is_given("optimizer", "max_grad_norm") && recipe.optimizer.kind == OptimizerKind::Natural {
        recipe.optimizer.max_grad_norm = 0.0;
    }
    if recipe.task == TaskSection::Nothing && !is_given("eval", "problems") {
        recipe.eval.problems = 0;
    }
    if let TaskSection::Benchmark(task) = &mut recipe.task
        && let Some(format) = task.format()
    {
        task.prompt_format = format.name.into();
        if !is_given("model", "chat_template") {
            recipe.model.chat_template = !format.plain;
        }
        if !is_given("model", "system") {
            recipe.model.system = format.system.into();
        }
        if !is_given("rollout", "stop") {
            recipe.rollout.stop = format.stop.iter().map(|text| (*text).into()).collect();
        }
        if !is_given("reward", "scorer") {
            recipe.reward.scorer = Scorer::Robust;
        }
    } else if !is_given("reward", "scorer") {
        recipe.reward.scorer = match recipe.task.answer_format() {
            AnswerFormat::Hashes => Scorer::Gsm8kStrict,
            AnswerFormat::Boxed => Scorer::Boxed,
            AnswerFormat::Plain => Scorer::Plain,
        };
    }
}

#[cfg(test)]
mod tests;
