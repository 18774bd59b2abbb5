//! The tree names no machine: no absolute path of someone's folder, no package registry, and the Hub's address only
//! where it is a default.

use super::tree::Tree;

/// (text, where it may stand); in two pieces, so that this file does not break its own rule.
const PLACES: [(&str, &[&str]); 8] = [
    (concat!("/wo", "rk/"), &[]),
    (concat!("/ho", "me/"), &[]),
    (concat!("/ro", "ot/"), &[]),
    (concat!("/Use", "rs/"), &[]),
    (concat!("pypi", ".org"), &[]),
    (concat!("pythonhosted", ".org"), &[]),
    (concat!("crates", ".io"), &[]),
    (concat!("huggingface", ".co"), &["crates/tinylora/src/hub/", "docs/references.md"]),
];

/// Places that stand where they may not.
pub fn check(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tree.files.iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (number, line) in file.text.lines().enumerate() {
            for (place, may) in PLACES {
                if line.contains(place) && !may.iter().any(|start| file.path.starts_with(start)) {
                    problems.push(format!("{}:{}: names {place}", file.path, number + 1));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted;

    #[test]
    fn names_of_places_are_found() {
        let hub = concat!("const ENDPOINT: &str = \"https://huggingface", ".co\";");
        assert!(super::check(&planted(&[("crates/tinylora/src/hub/options.rs", hub)])).is_empty());
        assert_eq!(super::check(&planted(&[("README.md", hub)])).len(), 1);
        let folder = concat!("cd /ho", "me/ann/models");
        assert_eq!(super::check(&planted(&[("docs/a.md", folder)])).len(), 1);
        assert!(super::check(&planted(&[("docs/a.md", "cd ./models")])).is_empty());
    }
}
