//! Documents agree with the tree: ARCHITECTURE.md names every crate and module and nothing that isn't there, every page
//! of the guide is in its SUMMARY.md, and links between documents lead somewhere.

use super::tree::Tree;

/// All three.
pub fn check(tree: &Tree) -> Vec<String> {
    let mut problems = code_map(tree);
    problems.extend(summary(tree));
    problems.extend(links(tree));
    problems
}

/// In ARCHITECTURE.md a heading `` ## `folder/` `` opens the map of a folder; below it, `file.rs` and `module/` in
/// backquotes are relative to that folder, or to the module that the row begins with. Elsewhere they are full paths.
fn code_map(tree: &Tree) -> Vec<String> {
    let Some(file) = tree.get("ARCHITECTURE.md") else { return vec!["ARCHITECTURE.md: not found".into()] };
    let exists = |path: &str| {
        tree.files.iter().any(|f| f.path == path || (path.ends_with('/') && f.path.starts_with(path)))
    };
    let (mut problems, mut folder, mut named) = (Vec::new(), String::new(), Vec::new());
    for (number, line) in file.text.lines().enumerate() {
        if line.starts_with('#') {
            folder = quoted(line).next().filter(|name| name.ends_with('/')).unwrap_or_default().to_owned();
        }
        let names: Vec<&str> = quoted(line).filter(|name| is_path(name)).collect();
        let row = names.first().filter(|name| name.ends_with('/')).copied().unwrap_or_default();
        for name in names {
            let places = [format!("{folder}{row}{name}"), format!("{folder}{name}"), name.to_owned()];
            match places.into_iter().find(|path| exists(path)) {
                Some(path) => named.push(path),
                None => problems.push(format!("ARCHITECTURE.md:{}: `{name}` does not exist", number + 1)),
            }
        }
    }
    for path in modules(tree) {
        if !named.contains(&path) {
            problems.push(format!("ARCHITECTURE.md: the code map lacks `{path}`"));
        }
    }
    problems
}

/// The texts in backquotes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_path(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    plain && (name.ends_with(".rs") || (name.ends_with('/') && !name.starts_with('.')))
}

/// What the map must name: each crate's source folder, and each file and folder directly in it.
fn modules(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.rust() {
        let mut parts = file.path.split('/');
        let (Some("crates"), Some(name), Some("src"), Some(module)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let folder = format!("crates/{name}/src/");
        let module =
            if parts.next().is_some() { format!("{folder}{module}/") } else { format!("{folder}{module}") };
        for path in [folder, module] {
            if !path.ends_with("/lib.rs") && !path.ends_with("/main.rs") && !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

fn summary(tree: &Tree) -> Vec<String> {
    let Some(summary) = tree.get("docs/SUMMARY.md") else { return vec!["docs/SUMMARY.md: not found".into()] };
    let listed: Vec<&str> = targets(&summary.text).map(|(_, target)| target).collect();
    let pages = tree.files.iter().filter_map(|file| file.path.strip_prefix("docs/"));
    let missing =
        pages.filter(|page| page.ends_with(".md") && *page != "SUMMARY.md" && !listed.contains(page));
    missing.map(|page| format!("docs/SUMMARY.md: lacks the page {page}")).collect()
}

/// Relative links of all Markdown files.
fn links(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = file.path.rfind('/').map_or("", |end| &file.path[..=end]);
        for (line, target) in targets(&file.text) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains(':') {
                continue;
            }
            let path = resolved(&format!("{folder}{target}"));
            let there = tree.files.iter().any(|f| {
                f.path == path
                    || f.path
                        .strip_prefix(path.trim_end_matches('/'))
                        .is_some_and(|rest| rest.starts_with('/'))
            });
            if !there {
                problems.push(format!("{}:{line}: the link to {target} leads nowhere", file.path));
            }
        }
    }
    problems
}

/// (line, target) of each `](target)`.
fn targets(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(number, line)| {
        line.split("](").skip(1).filter_map(move |rest| Some((number + 1, rest.split_once(')')?.0)))
    })
}

/// `docs/../recipes/a` → `recipes/a`.
fn resolved(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted;

    const MAP: &str = "# Map\n\n## `crates/tinylora/src/`\n\n- `data/` problems: `rows.rs`\n- `random.rs`\n";
    const SOURCES: [(&str, &str); 3] = [
        ("crates/tinylora/src/lib.rs", ""),
        ("crates/tinylora/src/data/mod.rs", ""),
        ("crates/tinylora/src/random.rs", ""),
    ];

    fn problems(map: &str, summary: &str, more: &[(&str, &str)]) -> Vec<String> {
        let mut files = SOURCES.to_vec();
        files.extend([("ARCHITECTURE.md", map), ("docs/SUMMARY.md", summary)]);
        files.extend_from_slice(more);
        super::check(&planted(&files))
    }

    #[test]
    fn a_map_that_is_not_the_tree_is_found() {
        let map = MAP.replace(": `rows.rs`", "");
        assert_eq!(problems(&map, "", &[]), Vec::<String>::new());
        assert_eq!(problems(MAP, "", &[]).len(), 1, "rows.rs does not exist");
        assert_eq!(problems(MAP, "", &[("crates/tinylora/src/data/rows.rs", "")]), Vec::<String>::new());
        assert_eq!(problems(&map.replace("`random.rs`", "`chance.rs`"), "", &[]).len(), 2);
        assert_eq!(problems(&map, "", &[("crates/tinylora/src/train/mod.rs", "")]).len(), 1);
        assert_eq!(problems(&map, "", &[("crates/other/src/lib.rs", "")]).len(), 1);
    }

    #[test]
    fn pages_without_a_place_and_links_to_nowhere_are_found() {
        let map = MAP.replace(": `rows.rs`", "");
        let page = ("docs/a.md", "[up](../ARCHITECTURE.md) [out](https://example.org/) [here](#a)");
        assert_eq!(problems(&map, "[a](a.md)", &[page]), Vec::<String>::new());
        assert_eq!(problems(&map, "", &[page]).len(), 1);
        assert_eq!(problems(&map, "[a](a.md)\n[b](b.md)", &[page]).len(), 1);
        assert_eq!(problems(&map, "[a](a.md)", &[("docs/a.md", "[up](../GONE.md)")]).len(), 1);
    }
}
