//! Adapters of one specification enter, how they differ or their weighted mean leaves. Their numbers mean the same
//! things (same base, same P, same factors), so that v may be added; adapters of other kinds are refused.

use super::any::AnyAdapter;
use super::spec::{TinyLoraSpec, round_to};
use super::{AdapterFile, RunMetadata, Standalone};

/// Why adapters can't be compared or mixed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CombineError {
    /// Their numbers mean different things.
    #[error(
        "{first} and {other} can't be combined: {what} is {in_first} in the first and {in_other} in the other; \
         only adapters of one base and one specification have numbers that may be added"
    )]
    Differ {
        /// Name of the first.
        first: String,
        /// Name of the other.
        other: String,
        /// What differs.
        what: &'static str,
        /// In the first.
        in_first: String,
        /// In the other.
        in_other: String,
    },
    /// LoRA's factors are trained: a mean of them is no mean of updates.
    #[error(
        "{name} is {method}, whose factors are trained: the mean of two such adapters is not the mean of their \
         updates; merge them into the base model one after the other instead"
    )]
    Method {
        /// Name.
        name: String,
        /// Method.
        method: &'static str,
    },
    /// Nothing to mix.
    #[error("there is no adapter to mix")]
    Nothing,
}

/// How two adapters differ, both of one specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Second minus first, (G · u).
    pub values: Vec<f32>,
    /// |v| of the first.
    pub first_norm: f64,
    /// |v| of the second.
    pub second_norm: f64,
    /// |second − first|
    pub distance: f64,
    /// Cosine of the angle between both; None if one is zero.
    pub cosine: Option<f64>,
}

/// How the second adapter differs from the first. Each has the name that messages call it.
pub fn difference(
    first: (&str, &AnyAdapter),
    second: (&str, &AnyAdapter),
) -> Result<Difference, CombineError> {
    check_same(first, second)?;
    let (a, b) = (first.1.v(), second.1.v());
    let dot =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum() };
    let values: Vec<f32> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let (first_norm, second_norm) = (dot(a, a).sqrt(), dot(b, b).sqrt());
    let product = first_norm * second_norm;
    let distance = a.iter().zip(b).map(|(&a, &b)| (f64::from(b) - f64::from(a)).powi(2)).sum::<f64>().sqrt();
    let cosine = (product > 0.0).then(|| dot(a, b) / product);
    Ok(Difference { values, first_norm, second_norm, distance, cosine })
}

/// Σ weight · v over the adapters, summed in f64 in their order and rounded once to the first one's storage
/// precision. Equal weights that add up to 1 give the average, (1 − t, t) the point t of the way.
pub fn mix(adapters: &[(&str, &AnyAdapter, f64)], name: &str) -> Result<AnyAdapter, CombineError> {
    let Some((&(first_name, first, _), others)) = adapters.split_first() else {
        return Err(CombineError::Nothing);
    };
    check_same((first_name, first), (first_name, first))?;
    for &(other_name, other, _) in others {
        check_same((first_name, first), (other_name, other))?;
    }
    let mut v: Vec<f32> = (0..first.v().len())
        .map(|i| {
            adapters.iter().map(|(_, adapter, weight)| weight * f64::from(adapter.v()[i])).sum::<f64>() as f32
        })
        .collect();
    Ok(match first {
        AnyAdapter::Seeded(file) => {
            round_to(file.spec.storage_precision, &mut v);
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let run = RunMetadata { name: name.to_owned(), version, ..RunMetadata::default() };
            AnyAdapter::Seeded(AdapterFile { v, run, ..file.clone() })
        }
        AnyAdapter::Standalone(adapter) => {
            AnyAdapter::Standalone(Standalone { v, source: name.to_owned(), ..adapter.clone() })
        }
    })
}

/// An error unless the numbers of both mean the same.
fn check_same(first: (&str, &AnyAdapter), other: (&str, &AnyAdapter)) -> Result<(), CombineError> {
    let differ = |what: &'static str, in_first: String, in_other: String| CombineError::Differ {
        first: first.0.to_owned(),
        other: other.0.to_owned(),
        what,
        in_first,
        in_other,
    };
    let (a, b) = (first.1.base(), other.1.base());
    if a.check(first.0, b).is_err() {
        return Err(differ("the base model", a.describe(), b.describe()));
    }
    match (first.1, other.1) {
        (AnyAdapter::Seeded(a), AnyAdapter::Seeded(b)) => match spec_difference(&a.spec, &b.spec) {
            None => Ok(()),
            Some((what, a, b)) => Err(differ(what, a, b)),
        },
        (AnyAdapter::Standalone(a), AnyAdapter::Standalone(b)) => {
            for (name, adapter) in [(first.0, a), (other.0, b)] {
                if adapter.method != super::Method::TinyLora {
                    let method = adapter.method.name();
                    return Err(CombineError::Method { name: name.to_owned(), method });
                }
            }
            standalone_difference(a, b).map_or(Ok(()), |(what, a, b)| Err(differ(what, a, b)))
        }
        _ => Err(differ("the kind of file", kind(first.1).into(), kind(other.1).into())),
    }
}

fn kind(adapter: &AnyAdapter) -> &'static str {
    match adapter {
        AnyAdapter::Seeded(_) => "an adapter with seeded projections",
        AnyAdapter::Standalone(_) => "an adapter with factors of its own",
    }
}

/// The first setting that changes what v means, if any; how v started and how it is stored don't.
fn spec_difference(a: &TinyLoraSpec, b: &TinyLoraSpec) -> Option<(&'static str, String, String)> {
    let targets = |spec: &TinyLoraSpec| spec.targets.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
    [
        ("the rank", a.rank.to_string(), b.rank.to_string()),
        ("u", a.u.to_string(), b.u.to_string()),
        ("n_tie", a.n_tie.to_string(), b.n_tie.to_string()),
        ("the tying", format!("{:?}", a.tying), format!("{:?}", b.tying)),
        ("the list of targets", targets(a), targets(b)),
        ("the projection seed", a.projection_seed.to_string(), b.projection_seed.to_string()),
        ("the projection", format!("{:?}", a.projection), format!("{:?}", b.projection)),
        ("the scale", a.scale.to_string(), b.scale.to_string()),
    ]
    .into_iter()
    .find(|(_, a, b)| a != b)
}

fn standalone_difference(a: &Standalone, b: &Standalone) -> Option<(&'static str, String, String)> {
    let sizes = [
        ("the rank", a.rank().to_string(), b.rank().to_string()),
        ("u", a.u.to_string(), b.u.to_string()),
        ("the number of modules", a.modules.len().to_string(), b.modules.len().to_string()),
        ("the number of groups", a.num_groups().to_string(), b.num_groups().to_string()),
    ];
    let contents = [
        ("the list of modules", a.modules == b.modules),
        ("the grouping", a.groups == b.groups),
        ("P", a.p == b.p),
        ("the factors", a.factors == b.factors),
    ];
    sizes.into_iter().find(|(_, a, b)| a != b).or_else(|| {
        let (what, _) = contents.into_iter().find(|(_, same)| !same)?;
        Some((what, "one thing".into(), "another".into()))
    })
}

#[cfg(test)]
#[path = "combine_tests.rs"]
mod tests;
