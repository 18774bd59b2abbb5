//! A sweep's TOML enters, the list of its runs leaves, each with a checked recipe. Nothing here runs.
//!
//! ```toml
//! recipe = "recipes/quickstart.toml"
//! at_once = 0                            # runs that sample together; 0: as many as fill a batch
//!
//! [set]                                  # for every run
//! "train.steps" = 30
//!
//! [grid]                                 # every combination
//! "optimizer.learning_rate" = [2e-3, 1e-2]
//! seed = [1, 2, 3]
//!
//! [[zip]]                                # these go together, value by value
//! "adapter.u" = [1, 13]
//! "adapter.n_tie" = [16, "all"]
//! ```

use crate::recipe::{Recipe, RecipeError};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// More runs than this are a mistake.
const MOST_RUNS: usize = 10_000;

/// What is wrong with a sweep's file: wrong usage.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("cannot read the sweep {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{path}: not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: String,
        /// What the parser found.
        message: String,
    },
    /// A key or a value that no sweep has.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// A run whose recipe cannot run.
    #[error("{path}: run {number} ({settings}): {source}")]
    Run {
        /// The file.
        path: String,
        /// The run, from 1.
        number: usize,
        /// What sets it apart.
        settings: String,
        /// What is wrong.
        source: Box<RecipeError>,
    },
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its folder: a number, and the values that set it apart.
    pub name: String,
    /// The swept keys with this run's values: those of the zips, then those of the grid, each in alphabetical order.
    pub settings: Vec<(String, Value)>,
    /// The whole recipe.
    pub recipe: Recipe,
}

/// A whole sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its runs.
    pub runs: Vec<Run>,
    /// How many that can share batches sample together; 0: as many as fill a batch.
    pub at_once: usize,
}

/// Reads a sweep and checks every run. `overrides` (KEY=VALUE) apply to all runs and come last.
pub fn load(path: &Path, overrides: &[String]) -> Result<Plan, PlanError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| PlanError::Read { path: name, source })?;
    parse(path, &text, overrides)
}

/// As [`load`], from the text of the file.
pub(crate) fn parse(path: &Path, text: &str, overrides: &[String]) -> Result<Plan, PlanError> {
    let name = path.display().to_string();
    let table: Table = toml::from_str(text)
        .map_err(|e| PlanError::Syntax { path: name.clone(), message: e.message().into() })?;
    let content = |message: String| PlanError::Content { path: name.clone(), message };
    let known = ["recipe", "at_once", "set", "grid", "zip"];
    if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(content(format!("unknown key `{key}`; a sweep has {}", known.join(", "))));
    }
    let Some(Value::String(recipe)) = table.get("recipe") else {
        return Err(content("`recipe` is missing: name the recipe that the runs change".into()));
    };
    // As in a recipe, file names are relative to the folder in which the command runs; beside the sweep also does.
    let beside = path.parent().map(|folder| folder.join(recipe)).filter(|path| path.is_file());
    let recipe =
        if Path::new(recipe).is_file() { PathBuf::from(recipe) } else { beside.unwrap_or(recipe.into()) };
    let at_once = match table.get("at_once") {
        None => 0,
        Some(Value::Integer(runs)) if (0..=MOST_RUNS as i64).contains(runs) => *runs as usize,
        Some(other) => {
            return Err(content(format!(
                "`at_once` is {other}: write how many runs sample together, 1 for one by one, 0 for as many as fill a batch"
            )));
        }
    };
    let axes = axes(&table).map_err(content)?;
    let count = axes.iter().try_fold(1usize, |count, axis| count.checked_mul(axis.len()));
    match count {
        Some(count) if count <= MOST_RUNS => {}
        _ => return Err(content(format!("more than {MOST_RUNS} runs: sweep less at once"))),
    }
    let fixed: Vec<String> = section(&table, "set")
        .map_err(content)?
        .iter()
        .flat_map(|table| table.iter())
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let runs: Result<Vec<Run>, PlanError> = combinations(&axes)
        .into_iter()
        .enumerate()
        .map(|(index, settings)| {
            let swept = settings.iter().map(|(key, value)| format!("{key}={value}"));
            let all: Vec<String> =
                fixed.iter().cloned().chain(swept).chain(overrides.iter().cloned()).collect();
            let recipe = Recipe::load(&recipe, &all).map_err(|source| PlanError::Run {
                path: name.clone(),
                number: index + 1,
                settings: describe(&settings),
                source: Box::new(source),
            })?;
            Ok(Run { name: folder_name(index + 1, &settings), settings, recipe })
        })
        .collect();
    Ok(Plan { runs: runs?, at_once })
}

/// `learning_rate 0.01, seed 2`
pub fn describe(settings: &[(String, Value)]) -> String {
    let short = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let parts: Vec<String> =
        settings.iter().map(|(key, value)| format!("{} {}", short(key), plain(value))).collect();
    if parts.is_empty() { "the recipe as it is".into() } else { parts.join(", ") }
}

/// One axis of the product: what is set at each of its points.
type Axis = Vec<Vec<(String, Value)>>;

fn axes(table: &Table) -> Result<Vec<Axis>, String> {
    let mut axes = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let mut take = |key: &str, value: &Value| -> Result<Vec<Value>, String> {
        if seen.iter().any(|known| known == key) {
            return Err(format!("`{key}` is swept twice"));
        }
        seen.push(key.to_owned());
        match value {
            Value::Array(values) if !values.is_empty() => Ok(values.clone()),
            _ => Err(format!("`{key}` must be a list of values, such as [1, 2, 3]; it is {value}")),
        }
    };
    let zips = match table.get("zip") {
        None => Vec::new(),
        Some(Value::Array(zips)) => zips.clone(),
        Some(other) => return Err(format!("`zip` is {other}: write [[zip]] and keys with lists under it")),
    };
    for (number, zip) in zips.iter().enumerate() {
        let Value::Table(zip) = zip else {
            return Err(format!("zip {} is {zip}: write [[zip]] and keys with lists under it", number + 1));
        };
        let mut axis: Axis = Vec::new();
        for (key, value) in zip {
            let values = take(key, value)?;
            if axis.is_empty() {
                axis = vec![Vec::new(); values.len()];
            }
            if axis.len() != values.len() {
                let (found, wanted) = (values.len(), axis.len());
                return Err(format!("`{key}` has {found} values, the others of its [[zip]] have {wanted}"));
            }
            for (point, value) in axis.iter_mut().zip(values) {
                point.push((key.clone(), value));
            }
        }
        if !axis.is_empty() {
            axes.push(axis);
        }
    }
    for (key, value) in section(table, "grid")?.iter().flat_map(|table| table.iter()) {
        axes.push(take(key, value)?.into_iter().map(|value| vec![(key.clone(), value)]).collect());
    }
    Ok(axes)
}

fn section<'a>(table: &'a Table, key: &str) -> Result<Option<&'a Table>, String> {
    match table.get(key) {
        None => Ok(None),
        Some(Value::Table(inner)) => match inner.iter().find(|(_, value)| value.is_table()) {
            // [grid.adapter] would be a nested table: say how dotted keys are written.
            Some((name, _)) => {
                Err(format!("in [{key}] write whole keys in quotes, such as \"{name}.u\" = …"))
            }
            None => Ok(Some(inner)),
        },
        Some(other) => Err(format!("`{key}` is {other}: write [{key}] and keys under it")),
    }
}

/// The product of all axes; the last one changes fastest.
fn combinations(axes: &[Axis]) -> Vec<Vec<(String, Value)>> {
    axes.iter().fold(vec![Vec::new()], |runs, axis| {
        runs.iter()
            .flat_map(|run| axis.iter().map(move |point| [run.as_slice(), point.as_slice()].concat()))
            .collect()
    })
}

/// `007-u-13-learning_rate-0.01-seed-2`, at most 100 bytes.
fn folder_name(number: usize, settings: &[(String, Value)]) -> String {
    let mut name = format!("{number:03}");
    for (key, value) in settings {
        let short = key.rsplit('.').next().unwrap_or_default();
        let plain: String = plain(value)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
            .collect();
        name.push_str(&format!("-{short}-{plain}"));
    }
    name.truncate(100);
    name
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Plan, String> {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.toml");
        std::fs::copy(recipe, folder.path().join("base.toml")).unwrap();
        let path = folder.path().join("sweep.toml");
        std::fs::write(&path, text).unwrap();
        load(&path, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn grids_multiply_and_zips_go_together() {
        let runs = load_text(
            "recipe = \"base.toml\"\n[set]\n\"train.steps\" = 3\n[grid]\n\"optimizer.learning_rate\" = [1e-3, 1e-2]\n\
             seed = [1, 2, 3]\n[[zip]]\n\"adapter.u\" = [1, 13]\n\"adapter.n_tie\" = [16, \"all\"]\n",
        )
        .unwrap();
        let Plan { runs, at_once } = runs;
        assert_eq!((runs.len(), at_once), (12, 0));
        let of = |i: usize| {
            let r = &runs[i].recipe;
            (r.adapter.u, r.adapter.n_tie, r.optimizer.learning_rate, r.seed, r.train.steps)
        };
        assert_eq!(of(0), (1, 16, 1e-3, 1, 3));
        assert_eq!(of(1), (1, 16, 1e-3, 2, 3));
        assert_eq!(of(3), (1, 16, 1e-2, 1, 3));
        assert_eq!(of(11), (13, 0, 1e-2, 3, 3));
        assert_eq!(runs[11].name, "012-n_tie-all-u-13-learning_rate-0.01-seed-3");
        assert_eq!(describe(&runs[0].settings), "n_tie 16, u 1, learning_rate 0.001, seed 1");
    }

    #[test]
    fn mistakes_are_named_before_anything_runs() {
        for (text, expected) in [
            ("x = 1", "unknown key `x`; a sweep has recipe, at_once, set, grid, zip"),
            ("recipe = \"base.toml\"\nat_once = -1", "`at_once` is -1: write how many runs"),
            ("[grid]\nseed = [1]", "`recipe` is missing"),
            ("recipe = \"base.toml\"\n[grid]\nseed = 1", "`seed` must be a list"),
            ("recipe = \"base.toml\"\n[grid]\nseed = []", "`seed` must be a list"),
            (
                "recipe = \"base.toml\"\n[grid.adapter]\nu = [1]",
                "write whole keys in quotes, such as \"adapter.u\"",
            ),
            (
                "recipe = \"base.toml\"\n[grid]\n\"adapter.uu\" = [1]",
                "run 1 (uu 1): --set adapter.uu=1: unknown key",
            ),
            ("recipe = \"base.toml\"\n[grid]\nseed = [1, -1]", "run 2 (seed -1): "),
            ("recipe = \"base.toml\"\n[grid]\nseed = [1]\n[[zip]]\nseed = [2]", "`seed` is swept twice"),
            (
                "recipe = \"base.toml\"\n[[zip]]\n\"adapter.u\" = [1, 2]\nseed = [1]",
                "`seed` has 1 values, the others of its [[zip]] have 2",
            ),
            ("recipe = \"gone.toml\"", "cannot read the recipe"),
        ] {
            let message = load_text(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
