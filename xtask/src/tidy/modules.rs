//! In the engine a module imports only from modules that `lib.rs` declares before it, so that data flows one way.
//! And scoring knows no model: `reward` and `advantage` import neither `model` nor `inference`.

use super::code::{code_only, inline_modules, is_word};
use super::tree::{File, Tree};

const SOURCE: &str = "crates/tinylora/src/";
/// Pairs (module, what it never imports) that the order alone would allow.
const APART: [(&str, &str); 4] =
    [("reward", "model"), ("reward", "inference"), ("advantage", "model"), ("advantage", "inference")];

/// Imports against the order.
pub fn check(tree: &Tree) -> Vec<String> {
    let Some(lib) = tree.get("crates/tinylora/src/lib.rs") else {
        return vec![format!("{SOURCE}lib.rs: not found")];
    };
    let order = declared(&lib.text);
    let mut problems = Vec::new();
    for file in tree.rust().filter(|file| file.path.starts_with(SOURCE)) {
        let path = module_path(&file.path[SOURCE.len()..]);
        let Some(own) = path.first().and_then(|name| order.iter().position(|m| m == name)) else { continue };
        for (line, name) in imports(file, path.len()) {
            let Some(other) = order.iter().position(|m| *m == name) else { continue };
            let apart = APART.contains(&(order[own].as_str(), &name));
            if other > own || apart {
                let reason = if apart { "scoring knows no model" } else { "it stands after it in lib.rs" };
                let path = &file.path;
                problems.push(format!("{path}:{line}: `{}` imports `{name}`: {reason}", order[own]));
            }
        }
    }
    problems
}

/// The modules in the order of their declarations.
fn declared(lib: &str) -> Vec<String> {
    let name = |line: &str| Some(line.trim().strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    lib.lines().filter_map(name).collect()
}

/// `model/weights/mod.rs` → model, weights; `random.rs` → random.
fn module_path(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(String::from).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

/// (line, first name) of every path that starts at the crate's root: by `crate::`, or by as many `super::` as there are
/// modules around it (`depth` for the file, and one for each inline module).
fn imports(file: &File, depth: usize) -> Vec<(usize, String)> {
    let code = code_only(&file.text);
    let inline = inline_modules(&code);
    let line_of = |at: usize| code[..at].matches('\n').count();
    let mut found = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        if is_word(&code, at, "crate") {
            found.extend(
                first_names(&code[at + word.len()..]).into_iter().map(|name| (line_of(at) + 1, name)),
            );
        }
    }
    let mut next = 0;
    for (at, _) in code.match_indices("super::") {
        if at < next || !is_word(&code, at, "super") {
            continue;
        }
        let supers = code[at..].split("super::").skip(1).position(|between| !between.is_empty());
        let supers = supers.map_or(1, |last| last + 1);
        next = at + supers * "super::".len();
        let line = line_of(at);
        let around = depth + inline.iter().filter(|m| m.first <= line && line <= m.last).count();
        if supers == around {
            found.extend(first_names(&code[next..]).into_iter().map(|name| (line + 1, name)));
        }
    }
    found
}

/// `a::b` → a; `{a, b::{c, d}}` → a, b.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
            }
            '}' if depth == 0 => {
                names.push(name(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted;

    const LIB: (&str, &str) = (
        "crates/tinylora/src/lib.rs",
        "pub mod data;\npub mod model;\npub mod inference;\npub mod reward;\npub mod train;\n",
    );

    fn found(path: &str, text: &str) -> Vec<String> {
        super::check(&planted(&[LIB, (path, text)]))
    }

    #[test]
    fn an_import_from_a_later_module_is_found_however_it_is_written() {
        let path = "crates/tinylora/src/model/weights/mod.rs";
        assert!(found(path, "use crate::data::Row;\nuse super::config;\n").is_empty());
        assert!(found(path, "// use crate::train::Run;\nlet a = \"crate::train::\";\n").is_empty());
        for wrong in [
            "\nuse crate::train::Run;\n",
            "\nuse crate::{data::{Row, b}, train::Run};\n",
            "\nuse super::super::train::Run;\n",
            "\nfn a(b: crate::train::Run) {}\n",
        ] {
            let problems = found(path, wrong);
            assert_eq!(problems.len(), 1, "{wrong}: {problems:?}");
            assert!(
                problems[0]
                    .starts_with("crates/tinylora/src/model/weights/mod.rs:2: `model` imports `train`")
            );
        }
        let inside =
            "mod tests {\n    use super::super::super::train::Run;\n    use super::super::train::Own;\n}\n";
        assert_eq!(found(path, inside).len(), 1);
    }

    #[test]
    fn scoring_that_knows_a_model_is_found() {
        assert_eq!(found("crates/tinylora/src/reward/mod.rs", "use crate::inference::Engine;\n").len(), 1);
        assert!(found("crates/tinylora/src/reward/mod.rs", "use crate::data::Problem;\n").is_empty());
    }
}
