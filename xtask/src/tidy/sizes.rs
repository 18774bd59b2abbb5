//! Files and functions stay short enough to be read at once. Tests do not count; kernels, whose functions are long
//! because one loop must stay in one place, may be longer in functions but not in files.

use super::code::{code_only, functions, inline_modules};
use super::tree::Tree;

const FILE_LINES: usize = 700;
const FUNCTION_LINES: usize = 90;
const KERNELS: &str = "crates/tinylora-compute/src/";
/// (file or file::function, reason)
const EXCEPTIONS: [(&str, &str); 0] = [];

/// Files and functions over the limits.
pub fn check(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    let listed = |what: &str| EXCEPTIONS.iter().any(|(name, _)| *name == what);
    for file in tree.rust().filter(|file| !is_test_file(&file.path)) {
        let code = code_only(&file.text);
        let tests: Vec<_> = inline_modules(&code).into_iter().filter(|m| m.name == "tests").collect();
        let in_tests = |line: usize| tests.iter().any(|t| t.first <= line && line <= t.last);
        let lines = (0..file.text.lines().count()).filter(|&line| !in_tests(line)).count();
        if lines > FILE_LINES && !listed(&file.path) {
            problems.push(format!("{}:1: {lines} lines without tests, over {FILE_LINES}", file.path));
        }
        if file.path.starts_with(KERNELS) {
            continue;
        }
        for function in functions(&code).into_iter().filter(|f| !in_tests(f.first)) {
            let lines = function.last - function.first + 1;
            if lines > FUNCTION_LINES && !listed(&format!("{}::{}", file.path, function.name)) {
                let (path, line, name) = (&file.path, function.first + 1, &function.name);
                problems.push(format!("{path}:{line}: `{name}` has {lines} lines, over {FUNCTION_LINES}"));
            }
        }
    }
    problems
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("tests.rs") || path.ends_with("testing.rs")
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted;

    fn problems(path: &str, text: &str) -> usize {
        super::check(&planted(&[(path, text)])).len()
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let long_function = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(90));
        let long_file = "const A: u8 = 0;\n".repeat(701);
        let long_tests = format!("mod tests {{\n{}}}\n", "    const A: u8 = 0;\n".repeat(701));
        assert_eq!(problems("crates/tinylora/src/a.rs", &long_function), 1);
        assert_eq!(problems("crates/tinylora-compute/src/a.rs", &long_function), 0);
        assert_eq!(problems("crates/tinylora-compute/src/a.rs", &long_file), 1);
        assert_eq!(problems("crates/tinylora/src/a.rs", &long_tests), 0);
        assert_eq!(problems("crates/tinylora/src/a/tests.rs", &long_file), 0);
    }
}
