//! What `cargo metadata` says of the workspace and of everything that it depends on, as two plain types.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A package of the lock file.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The licence expression; empty where the package gives none.
    pub licence: String,
    /// A member of this workspace.
    pub own: bool,
    /// The workspace members that it depends on.
    pub own_dependencies: Vec<String>,
}

/// Asks cargo. Packages for other systems are included, so cargo may have to download them once.
pub fn packages(root: &Path) -> Result<Vec<Package>> {
    let output = crate::cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("cargo metadata ended with {}", output.status);
    }
    let value: Value = serde_json::from_slice(&output.stdout).context("what cargo metadata printed")?;
    let packages = value["packages"].as_array().context("cargo metadata lists no packages")?;
    Ok(packages.iter().map(package).collect())
}

fn package(value: &Value) -> Package {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let dependencies = value["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    Package {
        name: text(&value["name"]),
        licence: text(&value["license"]),
        own: value["source"].is_null(),
        own_dependencies: dependencies
            .iter()
            .filter(|d| d["path"].is_string())
            .map(|d| text(&d["name"]))
            .collect(),
    }
}
