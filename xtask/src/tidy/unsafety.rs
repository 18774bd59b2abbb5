//! Unsafe code stands in `tinylora-compute` alone, each block with its reason. Other places are listed here, each
//! with why it can't be otherwise.

use super::code::{code_only, is_word};
use super::tree::{File, Tree};

const HOME: &str = "crates/tinylora-compute/src/";
/// (file, number of lines with unsafe code): two map a file into memory, for which memmap2 has no safe call, and a test
/// counts allocations, for which an allocator is needed.
const ELSEWHERE: [(&str, usize); 3] = [
    ("crates/tinylora/src/gguf/mod.rs", 1),
    ("crates/tinylora/src/model/weights/mod.rs", 1),
    ("crates/tinylora/tests/no_allocations.rs", 7),
];
/// A reason may stand so many lines above the block.
const NEAR: usize = 8;
/// A file of one-line wrappers may give one reason for all of them.
const FOR_ALL: &str = "SAFETY (of every block below):";

/// Unsafe code in other crates, and blocks without a reason.
pub fn check(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tree.rust() {
        let lines = unsafe_lines(file);
        let allowed = ELSEWHERE.iter().find(|(path, _)| *path == file.path).map_or(0, |(_, count)| *count);
        if !file.path.starts_with(HOME) && lines.len() > allowed {
            let line = lines[allowed] + 1;
            problems.push(format!("{}:{line}: unsafe code outside of tinylora-compute", file.path));
        }
        problems.extend(
            lines
                .into_iter()
                .filter(|&line| !has_reason(file, line))
                .map(|line| format!("{}:{}: unsafe code without a `SAFETY:` comment", file.path, line + 1)),
        );
    }
    problems
}

/// Lines (from 0) with the word `unsafe`.
fn unsafe_lines(file: &File) -> Vec<usize> {
    let code = code_only(&file.text);
    let has = |line: &str| line.match_indices("unsafe").any(|(at, _)| is_word(line, at, "unsafe"));
    code.lines().enumerate().filter(|(_, line)| has(line)).map(|(number, _)| number).collect()
}

/// Blocks and implementations need a reason; for an `unsafe fn` its documentation, which clippy sees to.
fn has_reason(file: &File, line: usize) -> bool {
    let lines: Vec<&str> = file.text.lines().collect();
    let needs = lines[line].contains("unsafe {") || lines[line].contains("unsafe impl");
    let near = || lines[line.saturating_sub(NEAR)..=line].iter().any(|line| line.contains("SAFETY:"));
    let for_all = || lines[..line].iter().any(|line| line.contains(FOR_ALL));
    !needs || near() || for_all()
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted;

    #[test]
    fn unsafe_code_in_the_wrong_place_or_without_a_reason_is_found() {
        let good = "// SAFETY: n is inside the buffer.\nlet a = unsafe { *p.add(n) };\n// unsafe { }\n";
        let home = "crates/tinylora-compute/src/a.rs";
        let map = "crates/tinylora/src/gguf/mod.rs";
        assert!(super::check(&planted(&[(home, good), (map, good)])).is_empty());
        assert_eq!(super::check(&planted(&[("crates/tinylora/src/a.rs", good)])).len(), 1);
        assert_eq!(super::check(&planted(&[(map, &good.repeat(2))])).len(), 1);
        assert_eq!(super::check(&planted(&[(home, "\nlet a = unsafe { *p };\n")])).len(), 1);
        let all =
            "// SAFETY (of every block below): the caller vouches for p.\n".to_owned() + &"\n".repeat(20);
        assert!(super::check(&planted(&[(home, &format!("{all}unsafe {{ *p }}\n"))])).is_empty());
        assert_eq!(super::check(&planted(&[(home, "unsafe impl Send for A {}\n")])).len(), 1);
    }
}
