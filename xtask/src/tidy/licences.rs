//! Every dependency may be used under a permissive licence.

use super::metadata::Package;

/// Licences that ask for no more than a notice.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// (package, licence, reason)
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "webpki-roots",
    "CDLA-Permissive-2.0",
    "a table of root certificates; its licence is for data, and permissive",
)];

/// Packages that give no licence, or none that is allowed.
pub fn check(packages: &[Package]) -> Vec<String> {
    let listed =
        |p: &Package| EXCEPTIONS.iter().any(|(name, licence, _)| *name == p.name && *licence == p.licence);
    let wrong = packages.iter().filter(|p| !allowed(&p.licence) && !listed(p));
    wrong
        .map(|p| {
            format!("Cargo.lock: `{}` has the licence {:?}, which is not on the list", p.name, p.licence)
        })
        .collect()
}

/// An SPDX expression: alternatives (`OR`, in old packages `/`) of parts that all apply (`AND`). Parentheses are taken
/// as alternatives inside a part.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    split(&expression, " OR ").iter().any(|part| {
        split(part, " AND ").iter().all(|licence| {
            let licence = licence.trim();
            match licence.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
                Some(inner) => allowed(inner),
                None => ALLOWED.contains(&licence),
            }
        })
    })
}

/// Splits at a separator outside of parentheses.
fn split<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    for (at, _) in text.match_indices(separator) {
        let before = &text[start..at];
        if before.matches('(').count() == before.matches(')').count() {
            parts.push(before);
            start = at + separator.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-3.0",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 / MIT",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT AND GPL-2.0) OR GPL-3.0"] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_package_that_is_not_free_enough_is_found() {
        let package = |name: &str, licence: &str| Package {
            name: name.into(),
            licence: licence.into(),
            ..Package::default()
        };
        assert!(check(&[package("a", "MIT"), package("webpki-roots", "CDLA-Permissive-2.0")]).is_empty());
        assert_eq!(
            check(&[package("a", "AGPL-3.0"), package("b", ""), package("c", "CDLA-Permissive-2.0")]).len(),
            3
        );
    }
}
