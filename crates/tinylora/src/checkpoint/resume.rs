//! A checkpoint's recipe and base and those at hand enter; whether the run can go on leaves.

use std::collections::BTreeMap;

use super::{Checkpoint, CheckpointError};

/// Keys that may change between the start of a run and a resume: they say how long it goes, what is written
/// down and what it may take of the machine, but change no number of the steps that both runs have. With a falling
/// schedule `train.steps` and `train.epochs` do change the learning rates that are still to come.
pub const MAY_CHANGE: [&str; 9] = [
    "name",
    "reward.timeout_seconds",
    "rollout.max_batch",
    "train.checkpoint_every",
    "train.epochs",
    "train.eval_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.steps",
];

/// One key whose values differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The dotted key.
    pub key: String,
    /// In the checkpoint, as TOML; None if absent.
    pub saved: Option<String>,
    /// At hand, as TOML; None if absent.
    pub current: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".into());
        write!(f, "{}: {} in the run, {} now", self.key, show(&self.saved), show(&self.current))
    }
}

/// All keys whose values differ between two resolved recipes (TOML), in alphabetical order.
pub fn recipe_differences(saved: &str, current: &str) -> Result<Vec<Difference>, CheckpointError> {
    let mut saved = flatten(saved, "saved")?;
    let mut differences = Vec::new();
    for (key, value) in flatten(current, "current")? {
        let before = saved.remove(&key);
        if before.as_ref() != Some(&value) {
            differences.push(Difference { key, saved: before, current: Some(value) });
        }
    }
    differences.extend(saved.into_iter().map(|(key, value)| Difference {
        key,
        saved: Some(value),
        current: None,
    }));
    differences.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(differences)
}

/// An error that lists every key that differs and must not; otherwise the differences that are allowed, so that
/// they can be shown.
pub fn check_recipe(checkpoint: &Checkpoint, current: &str) -> Result<Vec<Difference>, CheckpointError> {
    let (allowed, differences): (Vec<_>, Vec<_>) = recipe_differences(&checkpoint.recipe, current)?
        .into_iter()
        .partition(|difference| MAY_CHANGE.contains(&difference.key.as_str()));
    if differences.is_empty() { Ok(allowed) } else { Err(CheckpointError::RecipeDiffers { differences }) }
}

/// An error if the base's weights are not those of the run.
pub fn check_base(checkpoint: &Checkpoint, sha256: &[u8; 32]) -> Result<(), CheckpointError> {
    if checkpoint.base_sha256 == *sha256 {
        return Ok(());
    }
    let hex = |bytes: &[u8; 32]| bytes[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Err(CheckpointError::OtherBase { expected: hex(&checkpoint.base_sha256), found: hex(sha256) })
}

/// Dotted keys and their values as TOML; arrays are values.
fn flatten(text: &str, which: &'static str) -> Result<BTreeMap<String, String>, CheckpointError> {
    let table: toml::Table = toml::from_str(text)
        .map_err(|error| CheckpointError::RecipeUnreadable { which, message: error.to_string() })?;
    let mut flat = BTreeMap::new();
    let mut open = vec![(String::new(), table)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table {
            let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(table) => open.push((key, table)),
                value => drop(flat.insert(key, value.to_string())),
            }
        }
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::checkpoint;
    use super::*;
    use crate::recipe::OptimizerKind;

    #[test]
    fn the_same_recipe_in_another_order_is_the_same() {
        let checkpoint = checkpoint(1, OptimizerKind::Sgd, 1);
        let other = "seed = 7 # a comment\nname = 'test'\ntrain = { steps = 40 }\n";
        assert_eq!(check_recipe(&checkpoint, other).unwrap(), []);
    }

    #[test]
    fn the_length_may_change_and_is_reported() {
        let checkpoint = checkpoint(1, OptimizerKind::Sgd, 1);
        let longer = checkpoint.recipe.replace("40", "80") + "eval_every = 5\n";
        let allowed = check_recipe(&checkpoint, &longer).unwrap();
        let shown: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["train.eval_every: absent in the run, 5 now", "train.steps: 40 in the run, 80 now"]
        );
    }

    #[test]
    fn what_changes_the_numbers_is_refused_and_listed() {
        let checkpoint = checkpoint(1, OptimizerKind::Sgd, 1);
        let other = "name = \"test\"\nseed = 8\n[adapter]\ntargets = [\"q_proj\"]\n[train]\nsteps = 80\n";
        let error = check_recipe(&checkpoint, other).unwrap_err();
        let message = error.to_string();
        let CheckpointError::RecipeDiffers { differences } = error else { panic!("{message}") };
        assert_eq!(
            differences.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(),
            ["adapter.targets", "seed"]
        );
        for part in ["seed: 7 in the run, 8 now", "adapter.targets: absent in the run, [\"q_proj\"] now"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("train.steps"), "{message}");
        let error = check_recipe(&checkpoint, "seed = ").unwrap_err();
        assert!(matches!(error, CheckpointError::RecipeUnreadable { which: "current", .. }), "{error}");
    }

    #[test]
    fn another_base_is_refused() {
        let checkpoint = checkpoint(1, OptimizerKind::Sgd, 1);
        check_base(&checkpoint, &checkpoint.base_sha256).unwrap();
        let message = check_base(&checkpoint, &[0xab; 32]).unwrap_err().to_string();
        assert!(message.contains("0001020304050607") && message.contains("abababab"), "{message}");
    }

    /// A typo in the list would silently forbid a change.
    #[test]
    fn keys_that_may_change_exist() {
        let recipe = "name = 'x'\n[model]\nref = 'm'\n[task]\nkind = 'arithmetic'\nproblems = 'sum'\n";
        let recipe: crate::recipe::Recipe = toml::from_str(recipe).unwrap();
        let keys = flatten(&toml::to_string(&recipe).unwrap(), "saved").unwrap();
        for key in MAY_CHANGE {
            assert!(keys.contains_key(key), "{key}");
        }
    }
}
