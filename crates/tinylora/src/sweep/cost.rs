//! A recipe enters, what its run would train and at most cost leaves, from the shapes of known models. Nothing is opened or
//! fetched; what can't be told without the model or the data is left out.

use crate::adapter::AdapterError;
use crate::base::TrainedSpec;
use crate::bench::shape_of;
use crate::recipe::{Learner, Recipe, WeightDtype};

/// What a run is known to cost before it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Trained numbers; None: a model whose shape is not known here.
    pub trainable_parameters: Option<u64>,
    /// Bytes they are stored in.
    pub payload_bytes: Option<u64>,
    /// Bytes of the frozen weights in memory.
    pub weight_bytes: Option<u64>,
    /// Completion tokens sampled in a step, if each is as long as it may be; None: supervised finetuning samples none.
    /// Groups that are refilled are not counted.
    pub tokens_per_step: Option<u64>,
    /// The same of all steps; None: how many there are follows from the data.
    pub tokens: Option<u64>,
}

/// Estimates; an error is an adapter that the model cannot have.
pub fn estimate(recipe: &Recipe) -> Result<Cost, AdapterError> {
    let config = shape_of(&recipe.model.reference);
    let spec = config.as_ref().map(|config| TrainedSpec::new(&recipe.adapter, config)).transpose()?;
    let width = match recipe.model.dtype {
        WeightDtype::Bf16 => 2,
        WeightDtype::F32 => 4,
    };
    let rollout = &recipe.rollout;
    let tokens_per_step = (recipe.learner == Learner::Grpo).then(|| {
        [rollout.samples_per_prompt, rollout.max_tokens]
            .iter()
            .fold(rollout.prompts_per_step as u64, |product, &factor| product.saturating_mul(factor as u64))
    });
    let steps = (recipe.train.steps > 0).then_some(recipe.train.steps as u64);
    Ok(Cost {
        trainable_parameters: spec.as_ref().map(|spec| spec.trainable_parameters() as u64),
        payload_bytes: spec.as_ref().map(|spec| spec.payload_bytes()),
        weight_bytes: config.map(|config| config.parameters.saturating_mul(width)),
        tokens_per_step,
        tokens: tokens_per_step.zip(steps).map(|(tokens, steps)| tokens.saturating_mul(steps)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quickstart(overrides: &[&str]) -> Recipe {
        let text = include_str!("../../../../recipes/quickstart.toml");
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Recipe::from_toml(text, &overrides).unwrap()
    }

    #[test]
    fn the_quick_start_is_counted() {
        let cost = estimate(&quickstart(&[])).unwrap();
        assert_eq!((cost.trainable_parameters, cost.payload_bytes), (Some(13), Some(52)));
        assert_eq!(cost.weight_bytes, Some(2 * 134_515_008));
        assert_eq!((cost.tokens_per_step, cost.tokens), (Some(8 * 16 * 20), Some(8 * 16 * 20 * 18)));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let cost = estimate(&quickstart(&["model.ref=someone/else", "learner=sft"])).unwrap();
        assert_eq!((cost.trainable_parameters, cost.weight_bytes), (None, None));
        assert_eq!((cost.tokens_per_step, cost.tokens), (None, None));
        assert!(estimate(&quickstart(&["adapter.rank=1000"])).is_err(), "k_proj has 192 rows");
    }
}
