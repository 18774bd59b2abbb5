//! Building the program compiles nothing that building the tests compiles again: each of its dependencies has the features
//! that the tests ask of it. A feature too few, and all that stands on the package is compiled twice, for minutes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, bail};

/// Packages by name and version, each with the lists of features that it is compiled with: one, or one more for build scripts.
type Features = BTreeMap<String, Vec<String>>;

/// Dependencies of the program that the tests compile again.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let program = ask(root, &["--package", "tinylora-cli", "--edges", "normal,build"])?;
    let tests = ask(root, &["--workspace", "--edges", "normal,build,dev"])?;
    Ok(differences(&program, &tests))
}

fn ask(root: &Path, what: &[&str]) -> Result<Features> {
    let output = crate::cargo()
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}|{f}"])
        .args(what)
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("cargo tree ended with {}", output.status);
    }
    Ok(read(&String::from_utf8(output.stdout)?))
}

/// Lines `NAME vVERSION (more)|FEATURE,FEATURE (*)`.
fn read(lines: &str) -> Features {
    let mut all = Features::new();
    for line in lines.lines() {
        let (package, features) = line.trim_end_matches(" (*)").split_once('|').unwrap_or((line, ""));
        let lists = all.entry(package.to_owned()).or_default();
        if !lists.iter().any(|known| known == features) {
            lists.push(features.to_owned());
        }
    }
    all
}

fn differences(program: &Features, tests: &Features) -> Vec<String> {
    let mut problems = Vec::new();
    for (package, lists) in program {
        let theirs = tests.get(package).map(Vec::as_slice).unwrap_or_default();
        for features in lists.iter().filter(|list| !theirs.contains(list)) {
            problems.push(format!(
                "crates/tinylora/Cargo.toml: `{package}` has the features [{features}] in the program and [{}] in tests, which \
                 therefore compile all that needs it once more; ask for those of the tests, beside `getrandom`",
                theirs.join("] or [")
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_tests_alone_ask_for_is_found() {
        let program = read("a v1.0.0|std\nb v2.0.0|\na v1.0.0|std (*)\nc v1.0.0 (proc-macro)|derive\n");
        let tests = read(
            "a v1.0.0|std\nb v2.0.0|std\nc v1.0.0 (proc-macro)|derive\nc v1.0.0 (proc-macro)|\nd v1.0.0|\n",
        );
        let found = differences(&program, &tests);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("`b v2.0.0` has the features [] in the program and [std] in tests"),
            "{found:?}"
        );
        assert!(differences(&program, &program).is_empty());
    }
}
