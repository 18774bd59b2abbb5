//! Tests of comparing and mixing adapters.

use super::super::file::tests::adapter as seeded;
use super::super::standalone_layout::tests::adapter as standalone;
use super::super::{AnyAdapter, Method};
use super::*;
use crate::recipe::StoragePrecision;

fn with_v(v: impl Fn(usize) -> f32) -> AnyAdapter {
    let mut file = seeded(StoragePrecision::Fp32);
    file.v.iter_mut().enumerate().for_each(|(i, x)| *x = v(i));
    file.into()
}

#[test]
fn differences_and_mixtures_are_what_they_say() {
    let (a, b) = (with_v(|i| i as f32), with_v(|i| i as f32 + 2.0));
    let difference = difference(("a", &a), ("b", &b)).unwrap();
    assert!(difference.values.iter().all(|&x| x == 2.0));
    assert!((difference.distance - (4.0 * 13.0f64).sqrt()).abs() < 1e-12);
    assert!(difference.cosine.is_some_and(|cosine| cosine < 1.0));
    let mean = mix(&[("a", &a, 0.5), ("b", &b, 0.5)], "mean").unwrap();
    assert!(mean.v().iter().enumerate().all(|(i, &x)| x == i as f32 + 1.0));
    let third = mix(&[("a", &a, 0.7), ("b", &b, 0.3)], "at 0.3").unwrap();
    assert!(third.v().iter().enumerate().all(|(i, &x)| (x - i as f32 - 0.6).abs() < 1e-6));
    assert_eq!(mix(&[("a", &a, 1.0), ("b", &b, 0.0)], "a").unwrap().v(), a.v());
    // Rounded to the storage precision, so that the file holds what was made.
    let coarse = AnyAdapter::from(seeded(StoragePrecision::Bf16));
    let mixed = mix(&[("a", &coarse, 0.3), ("b", &coarse, 0.3)], "m").unwrap();
    let bytes = mixed.to_bytes().unwrap();
    assert_eq!(AnyAdapter::from_bytes("x", &bytes).unwrap(), mixed);
}

#[test]
fn adapters_whose_numbers_mean_other_things_are_refused() {
    let a = with_v(|_| 1.0);
    let refused = |b: &AnyAdapter| difference(("a", &a), ("b", b)).unwrap_err().to_string();
    let changed = |change: fn(&mut AdapterFile)| {
        let mut file = seeded(StoragePrecision::Fp32);
        change(&mut file);
        AnyAdapter::from(file)
    };
    let seed = refused(&changed(|file| file.spec.projection_seed += 1));
    assert!(
        seed.starts_with("a and b can't be combined: the projection seed is 42 in the first and 43"),
        "{seed}"
    );
    assert!(refused(&changed(|file| file.base.sha256[0] ^= 1)).contains("the base model is"));
    assert!(refused(&changed(|file| file.spec.scale = 2.0)).contains("the scale is 1.5 in the first and 2"));
    assert!(refused(&standalone().into()).contains("the base model is"));
    // How v was started and is stored does not change what it means.
    let other = changed(|file| file.spec.init_bound = 0.0);
    difference(("a", &a), ("b", &other)).unwrap();
    assert_eq!(mix(&[], "m"), Err(CombineError::Nothing));
}

#[test]
fn standalone_adapters_mix_where_only_v_differs() {
    let a = standalone();
    let mut b = standalone();
    b.v.iter_mut().for_each(|x| *x += 1.0);
    let (a, b) = (AnyAdapter::from(a), AnyAdapter::from(b));
    let mean = mix(&[("a", &a, 0.5), ("b", &b, 0.5)], "mean").unwrap();
    assert!(mean.v().iter().zip(a.v()).all(|(m, a)| *m == a + 0.5));
    let mut other = standalone();
    other.p[0] += 1.0;
    let message = difference(("a", &a), ("b", &other.into())).unwrap_err().to_string();
    assert!(message.contains(": P is one thing"), "{message}");
    let mut lora = standalone();
    lora.method = Method::Lora;
    let lora = AnyAdapter::from(lora);
    assert!(matches!(mix(&[("a", &lora, 1.0)], "m"), Err(CombineError::Method { .. })));
}
