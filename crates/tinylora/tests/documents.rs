//! The TOML that README, guide and `recipes/` show enters; whether it is a recipe that would run is checked. No model is
//! opened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tinylora::recipe::Recipe;
use tinylora::sweep;

/// What a fragment of a recipe needs to be whole.
const REST: &str = "name = \"rest\"\n[model]\nref = \"smollm2-135m\"\n[task]\nkind = \"arithmetic\"\n\
                    problems = \"sum\"\n[train]\nsteps = 1\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The texts of all ```` ```toml ```` blocks.
fn toml_blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n```toml\n").skip(1).filter_map(|rest| rest.split_once("\n```")).map(|(block, _)| block)
}

/// A fragment's tables take the place of those in [`REST`]; a whole recipe stays as it is.
fn completed(block: &str) -> String {
    let mut recipe: toml::Table = block.parse().expect("TOML");
    if !recipe.contains_key("name") {
        let rest: toml::Table = REST.parse().expect("TOML");
        for (key, value) in rest {
            recipe.entry(key).or_insert(value);
        }
    }
    toml::to_string(&recipe).expect("it was TOML")
}

#[test]
fn recipes_in_documents_would_run() {
    let mut documents = vec![root().join("README.md")];
    let pages = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    documents.extend(pages.filter(|path| path.extension().is_some_and(|end| end == "md")));
    let mut blocks = 0;
    for path in documents {
        for block in toml_blocks(&std::fs::read_to_string(&path).unwrap()) {
            blocks += 1;
            if let Err(error) = Recipe::from_toml(&completed(block), &[]) {
                panic!("{}: {error}\n{block}", path.display());
            }
        }
    }
    assert!(blocks >= 4, "only {blocks} blocks were found");
}

#[test]
fn recipes_in_the_folder_would_run() {
    let mut recipes = 0;
    for entry in std::fs::read_dir(root().join("recipes")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "toml") {
            recipes += 1;
            Recipe::load(&path, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    assert!(recipes >= 1);
}

/// What `tinylora sweep --dry-run` does, on every sweep: no model is opened, nothing is fetched.
#[test]
fn sweeps_in_the_folder_would_run() {
    let mut sweeps = 0;
    for entry in std::fs::read_dir(root().join("recipes/sweeps")).unwrap() {
        let path = entry.unwrap().path();
        sweeps += 1;
        let runs = sweep::load(&path, &[]).unwrap_or_else(|error| panic!("{error}")).runs;
        for run in runs {
            let cost = sweep::estimate(&run.recipe);
            let cost = cost.unwrap_or_else(|error| panic!("{}: {}: {error}", path.display(), run.name));
            let known = cost.trainable_parameters.is_some_and(|count| count > 0);
            assert!(known, "{}: {}: its model has no known shape", path.display(), run.name);
        }
    }
    assert!(sweeps >= 13, "only {sweeps} sweeps were found");
}

#[test]
fn sizes_are_those_of_table_2() {
    let runs = sweep::load(&root().join("recipes/sweeps/table2-gsm8k.toml"), &[]).unwrap().runs;
    let sizes = |model: &str| {
        let of_model = runs.iter().filter(|run| run.recipe.model.reference == model);
        of_model
            .map(|run| sweep::estimate(&run.recipe).unwrap().trainable_parameters.unwrap())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(sizes("Qwen/Qwen2.5-3B-Instruct"), BTreeSet::from([16, 63, 252, 504, 8_064, 129_024]));
    assert_eq!(sizes("Qwen/Qwen2.5-7B-Instruct"), BTreeSet::from([13, 49, 196, 392, 6_272, 100_352]));
    assert_eq!(runs.len(), 3 * 6 * 7 * 3);
}
