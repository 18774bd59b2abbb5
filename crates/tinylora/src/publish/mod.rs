//! An adapter, what is known of its run and a repository's name enter, the files of a model repository leave: the adapter
//! itself, its form for PEFT, and a model card. Nothing here speaks with the Hub; [`crate::hub::upload`] does.

mod card;

use std::path::{Path, PathBuf};

use crate::adapter::{AdapterFileError, AnyAdapter, Standalone};
use crate::hub::UploadFile;
use crate::interop::{InteropError, export_peft};
use crate::run_folder::{ADAPTER_FILE, RECIPE_FILE, SUMMARY_FILE, Summary, read_summary};

/// Name of the model card.
pub const CARD: &str = "README.md";

/// Why an adapter can't be made ready.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The adapter can't be written.
    #[error(transparent)]
    Adapter(#[from] AdapterFileError),
    /// It can't be written for PEFT.
    #[error(transparent)]
    Interop(#[from] InteropError),
    /// A file can't be read or removed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The run's folder can't be read.
    #[error(transparent)]
    Run(#[from] crate::run_folder::RunFolderError),
    /// The run is that of another adapter.
    #[error(
        "{}: this run trained another adapter: {difference}. Name the folder of the adapter's own run, or none", folder.display()
    )]
    OtherRun {
        /// The folder.
        folder: PathBuf,
        /// What differs.
        difference: String,
    },
}

/// What a run's folder says of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// `summary.json`
    pub summary: Summary,
    /// `recipe.toml`, where it is there.
    pub recipe: Option<String>,
}

/// An adapter on its way.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// As it is stored.
    pub adapter: &'a AnyAdapter,
    /// The same with its factors.
    pub standalone: &'a Standalone,
    /// What its run says, if there was one.
    pub run: Option<&'a RunRecord>,
    /// The base's name on the Hub, `org/name`.
    pub base_model: &'a str,
    /// The repository that it goes to, `org/name`.
    pub repo: &'a str,
}

/// Reads a run's folder and checks that its run is the adapter's.
pub fn read_run(folder: &Path, adapter: &AnyAdapter) -> Result<RunRecord, PublishError> {
    let summary = read_summary(folder)?;
    let other = |difference: String| PublishError::OtherRun { folder: folder.to_owned(), difference };
    let sha256: String = adapter.base().sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    if summary.model.sha256 != sha256 {
        return Err(other(format!("its base has the sha256 {}, not {sha256}", summary.model.sha256)));
    }
    let numbers = adapter.trained_numbers();
    if summary.adapter.trainable_parameters != numbers {
        return Err(other(format!("it has {} numbers, not {numbers}", summary.adapter.trainable_parameters)));
    }
    if let Some(run) = adapter.run()
        && (run.steps, run.seed) != (summary.steps, summary.seed)
    {
        return Err(other(format!(
            "{} steps with seed {}, not {} with seed {}",
            summary.steps, summary.seed, run.steps, run.seed
        )));
    }
    let recipe = std::fs::read_to_string(folder.join(RECIPE_FILE)).ok();
    Ok(RunRecord { summary, recipe })
}

/// The files of the repository. `work` is a folder that isn't there; it is used and removed.
pub fn files(publication: &Publication<'_>, work: &Path) -> Result<Vec<UploadFile>, PublishError> {
    let mut files =
        vec![UploadFile { path: ADAPTER_FILE.to_owned(), content: publication.adapter.to_bytes()? }];
    let peft = for_peft(publication, work);
    let removed = std::fs::remove_dir_all(work);
    files.extend(peft?);
    removed.map_err(|source| PublishError::Io { path: work.to_owned(), source })?;
    if let Some(run) = publication.run {
        let summary = serde_json::to_string_pretty(&run.summary).expect("plain data is JSON") + "\n";
        files.push(UploadFile { path: SUMMARY_FILE.to_owned(), content: summary.into_bytes() });
        if let Some(recipe) = &run.recipe {
            files.push(UploadFile { path: RECIPE_FILE.to_owned(), content: recipe.clone().into_bytes() });
        }
    }
    let card = card::card(publication)?;
    files.push(UploadFile { path: CARD.to_owned(), content: card.into_bytes() });
    Ok(files)
}

/// The two files that PEFT loads, with the base by its name on the Hub.
fn for_peft(publication: &Publication<'_>, work: &Path) -> Result<Vec<UploadFile>, PublishError> {
    let mut adapter = publication.standalone.clone();
    adapter.base.reference = publication.base_model.to_owned();
    export_peft(&adapter, work)?;
    let mut files = Vec::new();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let path = work.join(name);
        let content = std::fs::read(&path).map_err(|source| PublishError::Io { path, source })?;
        files.push(UploadFile { path: name.to_owned(), content });
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
