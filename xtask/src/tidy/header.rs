//! Every Rust file starts with `//!`: what enters, what leaves, what it never does.

use super::tree::Tree;

/// Files that start otherwise.
pub fn check(tree: &Tree) -> Vec<String> {
    let silent =
        |text: &str| !text.lines().next().is_some_and(|line| line.len() > 10 && line.starts_with("//! "));
    let wrong = tree.rust().filter(|file| silent(&file.text));
    wrong
        .map(|file| format!("{}:1: the file does not start with `//!` and what it is for", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted;

    #[test]
    fn a_file_without_a_purpose_is_found() {
        let tree = planted(&[
            ("a.rs", "//! Text enters, ids leave.\nfn a() {}\n"),
            ("b.rs", "use x;\n//! Text.\n"),
            ("c.rs", "//!\n"),
        ]);
        let found = super::check(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("b.rs:1:") && found[1].starts_with("c.rs:1:"));
    }
}
