//! Crates depend one way: verify and compute ← tinylora ← plot, serve ← cli; xtask depends on none of them.

use super::metadata::Package;

const ORDER: [&str; 6] =
    ["tinylora-verify", "tinylora-compute", "tinylora", "tinylora-plot", "tinylora-serve", "tinylora-cli"];

/// Dependencies against the order, and crates that have no place in it.
pub fn check(packages: &[Package]) -> Vec<String> {
    let place = |name: &str| ORDER.iter().position(|crate_| *crate_ == name);
    let mut problems = Vec::new();
    for package in packages.iter().filter(|package| package.own) {
        let name = &package.name;
        let own = match place(name) {
            Some(own) => own,
            None if name == "xtask" => 0,
            None => {
                problems.push(format!("Cargo.toml: crate `{name}` has no place in the order {ORDER:?}"));
                continue;
            }
        };
        for dependency in &package.own_dependencies {
            if place(dependency).is_none_or(|other| other >= own) {
                problems
                    .push(format!("Cargo.toml: crate `{name}` depends on `{dependency}`, against {ORDER:?}"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, on: &str) -> Package {
        Package { name: name.into(), own: true, own_dependencies: vec![on.into()], ..Package::default() }
    }

    #[test]
    fn a_dependency_backwards_is_found() {
        assert!(
            check(&[package("tinylora", "tinylora-compute"), package("tinylora-cli", "tinylora")]).is_empty()
        );
        assert_eq!(check(&[package("tinylora", "tinylora-serve")]).len(), 1);
        assert_eq!(check(&[package("tinylora-compute", "tinylora-compute")]).len(), 1);
        assert_eq!(check(&[package("xtask", "tinylora")]).len(), 1);
        assert_eq!(check(&[package("tinylora-new", "tinylora")]).len(), 1);
    }
}
