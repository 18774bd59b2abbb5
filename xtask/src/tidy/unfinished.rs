//! What is in the tree is finished: no marks of later work, no stubs.

use super::code::{code_only, is_word};
use super::tree::Tree;

/// Words for people, in any file; in two pieces, so that this file does not break its own rule.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Macros that stand for missing code.
const STUBS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// Marks in any text, stubs in code.
pub fn check(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tree.files.iter().filter(|file| file.path != "Cargo.lock" && !file.path.ends_with(".json")) {
        let code = if file.path.ends_with(".rs") { code_only(&file.text) } else { String::new() };
        for (found, text) in
            MARKS.iter().map(|mark| (mark, &file.text)).chain(STUBS.iter().map(|stub| (stub, &code)))
        {
            for (at, _) in text.match_indices(found).filter(|(at, _)| is_word(text, *at, found)) {
                let line = text[..at].matches('\n').count() + 1;
                problems.push(format!("{}:{line}: {found}", file.path));
            }
        }
        if file.path.ends_with(".rs") && file.text.starts_with("//! placeholder") {
            problems.push(format!("{}:1: a placeholder", file.path));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted;

    #[test]
    fn unfinished_work_is_found() {
        assert!(super::check(&planted(&[("a.rs", "let s = \"todo!\"; // mastodon\n")])).is_empty());
        for text in [
            "\ntodo!();",
            "\nlet x = unimplemented!(\"later\");",
            "\ndbg!(x)",
            concat!("\n// TO", "DO: more"),
        ] {
            let problems = super::check(&planted(&[("a.rs", text)]));
            assert_eq!(problems.len(), 1, "{text}");
            assert!(problems[0].starts_with("a.rs:2: "));
        }
        assert_eq!(super::check(&planted(&[("a.rs", "//! placeholder\n")])).len(), 1);
        assert_eq!(super::check(&planted(&[("a.md", concat!("FIX", "ME"))])).len(), 1);
    }
}
