//! The source tree enters, the environment variable `TINYLORA_COMMIT` for the crate leaves: the commit that is
//! built, `-modified` behind it where the engine's sources differ from it, or "unknown". It never fails a build.

use std::path::Path;
use std::process::Command;

/// This package's folder in its repository. Sources that were unpacked inside another repository must not
/// take that one's commit for theirs.
const PREFIX: &str = "crates/tinylora/";
/// The engine's sources: a change in them compiles the crate again anyway.
const SOURCES: [&str; 2] = ["src", "../tinylora-compute/src"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TINYLORA_COMMIT");
    let given = std::env::var("TINYLORA_COMMIT").ok();
    let commit = given
        .filter(|text| !text.is_empty() && !text.contains(char::is_whitespace))
        .or_else(from_git)
        .unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=TINYLORA_COMMIT={commit}");
}

fn from_git() -> Option<String> {
    if git(&["rev-parse", "--show-prefix"])? != PREFIX {
        return None;
    }
    // HEAD's log grows with every commit and checkout; where it is switched off, HEAD and its branch tell most.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", "packed-refs", branch.as_str()] {
        watch_if_there(&git(&["rev-parse", "--git-path", name]).unwrap_or_default());
    }
    SOURCES.iter().for_each(|folder| watch_if_there(folder));

    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["--no-optional-locks", "status", "--porcelain", "--"];
    status.extend(SOURCES);
    let modified = git(&status).is_none_or(|changes| !changes.is_empty());
    Some(if modified { format!("{commit}-modified") } else { commit })
}

/// Watching a file that does not exist would run this program in every build.
fn watch_if_there(path: &str) {
    if !path.is_empty() && Path::new(path).exists() {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// What git prints, without the white space around it; None if there is no git, or it refuses.
fn git(arguments: &[&str]) -> Option<String> {
    // Variables that git sets for its hooks would lead to another work tree.
    let output = Command::new("git")
        .args(arguments)
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
