//! The rules of STYLE.md that a program can check. The source tree enters; every place that breaks a rule leaves,
//! one a line. Nothing is changed. One rule a file; each has a test that plants an error.

use std::path::Path;

use anyhow::{Result, bail};

mod code;
mod crates;
mod docs;
mod features;
mod header;
mod licences;
mod metadata;
mod modules;
mod places;
mod sizes;
mod tree;
mod unfinished;
mod unsafety;

use tree::Tree;

/// Checks all rules; the error counts what was printed.
pub fn run(root: &Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let packages = metadata::packages(root)?;
    let mut problems = Vec::new();
    problems.extend(header::check(&tree));
    problems.extend(modules::check(&tree));
    problems.extend(crates::check(&packages));
    problems.extend(unsafety::check(&tree));
    problems.extend(licences::check(&packages));
    problems.extend(unfinished::check(&tree));
    problems.extend(sizes::check(&tree));
    problems.extend(places::check(&tree));
    problems.extend(docs::check(&tree));
    problems.extend(features::check(root)?);
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} places break a rule (see STYLE.md)", problems.len());
    }
    println!("tidy: {} files and {} packages follow the rules", tree.files.len(), packages.len());
    Ok(())
}
