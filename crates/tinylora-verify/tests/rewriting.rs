//! A second opinion: random expressions, written anew by exact rules, stay equal; with one number changed they differ.
//! The value of the original is computed here by plain fractions, not by the crate.

use proptest::prelude::*;
use tinylora_verify::{Gold, Prediction, Scorer, Verdict, verify};

/// An expression over x and y with whole numbers.
#[derive(Debug, Clone)]
enum Tree {
    Number(i64),
    X,
    Y,
    Add(Box<Tree>, Box<Tree>),
    Subtract(Box<Tree>, Box<Tree>),
    Multiply(Box<Tree>, Box<Tree>),
    Power(Box<Tree>, u32),
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![(1i64..30).prop_map(Tree::Number), Just(Tree::X), Just(Tree::Y)];
    leaf.prop_recursive(4, 24, 2, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            pair.clone().prop_map(|(a, b)| Tree::Add(Box::new(a), Box::new(b))),
            pair.clone().prop_map(|(a, b)| Tree::Subtract(Box::new(a), Box::new(b))),
            pair.prop_map(|(a, b)| Tree::Multiply(Box::new(a), Box::new(b))),
            (inner, 2u32..4).prop_map(|(a, n)| Tree::Power(Box::new(a), n)),
        ]
    })
}

/// As LaTeX; `style` picks among spellings.
fn latex(tree: &Tree, style: u64) -> String {
    let next = style.rotate_right(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (left, right) = (next ^ 0x55, next ^ 0xaa00);
    let bracket = |text: String| match style % 3 {
        0 => format!("({text})"),
        1 => format!("\\left({text}\\right)"),
        _ => format!("{{({text})}}"),
    };
    match tree {
        Tree::Number(n) if style.is_multiple_of(5) => format!("\\frac{{{}}}{{2}}", 2 * n),
        Tree::Number(n) => n.to_string(),
        Tree::X => "x".into(),
        Tree::Y => "y".into(),
        // Sums and products are turned around, differences become sums.
        Tree::Add(a, b) if style.is_multiple_of(2) => {
            format!("{}+{}", latex(b, right), bracket(latex(a, left)))
        }
        Tree::Add(a, b) => format!("{}+{}", latex(a, left), latex(b, right)),
        Tree::Subtract(a, b) if style.is_multiple_of(2) => {
            format!("-{}+{}", bracket(latex(b, right)), bracket(latex(a, left)))
        }
        Tree::Subtract(a, b) => format!("{}-{}", latex(a, left), bracket(latex(b, right))),
        Tree::Multiply(a, b) if style.is_multiple_of(4) => {
            // a·b = ((a+b)² - (a-b)²)/4
            let (x, y) = (bracket(latex(a, left)), bracket(latex(b, right)));
            format!("\\frac{{({x}+{y})^2-({x}-{y})^2}}{{4}}")
        }
        Tree::Multiply(a, b) => format!("{}\\cdot {}", bracket(latex(b, right)), bracket(latex(a, left))),
        Tree::Power(a, n) if style.is_multiple_of(2) => {
            let factor = bracket(latex(a, left));
            vec![factor; *n as usize].join("")
        }
        Tree::Power(a, n) => format!("{}^{{{n}}}", bracket(latex(a, left))),
    }
}

fn value(tree: &Tree, x: i128, y: i128) -> Option<i128> {
    match tree {
        Tree::Number(n) => Some(i128::from(*n)),
        Tree::X => Some(x),
        Tree::Y => Some(y),
        Tree::Add(a, b) => value(a, x, y)?.checked_add(value(b, x, y)?),
        Tree::Subtract(a, b) => value(a, x, y)?.checked_sub(value(b, x, y)?),
        Tree::Multiply(a, b) => value(a, x, y)?.checked_mul(value(b, x, y)?),
        Tree::Power(a, n) => value(a, x, y)?.checked_pow(*n),
    }
}

/// The tree with its k-th number changed.
fn changed(tree: &Tree, k: &mut usize) -> Tree {
    let mut pair = |a: &Tree, b: &Tree| (Box::new(changed(a, k)), Box::new(changed(b, k)));
    match tree {
        Tree::Number(n) => {
            let hit = *k == 0;
            *k = k.wrapping_sub(1);
            Tree::Number(if hit { n + 1 } else { *n })
        }
        Tree::X | Tree::Y => tree.clone(),
        Tree::Add(a, b) => {
            let (a, b) = pair(a, b);
            Tree::Add(a, b)
        }
        Tree::Subtract(a, b) => {
            let (a, b) = pair(a, b);
            Tree::Subtract(a, b)
        }
        Tree::Multiply(a, b) => {
            let (a, b) = pair(a, b);
            Tree::Multiply(a, b)
        }
        Tree::Power(a, n) => Tree::Power(Box::new(changed(a, k)), *n),
    }
}

fn verdict(gold: &str, prediction: &str) -> Verdict {
    verify(Scorer::Robust, Gold(gold), Prediction(&format!("so it is \\boxed{{{prediction}}}")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_anew_is_equal(tree in tree(), one in any::<u64>(), two in any::<u64>()) {
        let (gold, prediction) = (latex(&tree, one), latex(&tree, two));
        prop_assume!(gold.len() < 3000 && prediction.len() < 3000);
        let verdict = verdict(&gold, &prediction);
        // Nested deeper than allowed is refused, never called different.
        prop_assert!(verdict != Verdict::Different, "{} and {}", gold, prediction);
        if gold.len() < 200 && prediction.len() < 200 {
            prop_assert_eq!(verdict, Verdict::Equal, "{} and {}", gold, prediction);
        }
    }

    #[test]
    fn what_has_another_value_somewhere_is_different(tree in tree(), k in 0usize..4, style in any::<u64>()) {
        let other = changed(&tree, &mut { k });
        let points = [(2i128, 3i128), (5, 7), (-4, 11), (13, -6)];
        let differs = points.iter().any(|(x, y)| {
            matches!((value(&tree, *x, *y), value(&other, *x, *y)), (Some(a), Some(b)) if a != b)
        });
        prop_assume!(differs);
        let (gold, prediction) = (latex(&tree, 1), latex(&other, style));
        prop_assert_ne!(verdict(&gold, &prediction), Verdict::Equal, "{} and {}", gold, prediction);
    }

    #[test]
    fn fractions_decimals_and_percentages_agree(n in -9999i64..9999, places in 0u32..5) {
        let scale = 10i64.pow(places);
        let decimal = format!("{}{}.{:0width$}", if n < 0 { "-" } else { "" }, n.abs() / scale, n.abs() % scale, width = places as usize);
        let decimal = if places == 0 { n.to_string() } else { decimal };
        let fraction = format!("\\frac{{{n}}}{{{scale}}}");
        prop_assert_eq!(verdict(&decimal, &fraction), Verdict::Equal, "{} {}", decimal, fraction);
        prop_assert_eq!(verdict(&fraction, &decimal), Verdict::Equal);
        let next = format!("\\frac{{{}}}{{{scale}}}", n + 1);
        prop_assert_ne!(verdict(&decimal, &next), Verdict::Equal, "{} {}", decimal, next);
    }

    #[test]
    fn identities_of_functions(a in 1u32..40, b in 1u32..40, c in 2u32..9) {
        for (one, two) in [
            (format!("\\sqrt{{{}}}", a * b * b), format!("{b}\\sqrt{{{a}}}")),
            (format!("\\ln({})", a * b), format!("\\ln {a}+\\ln {b}")),
            (format!("\\sin({a}x+{b})"), format!("\\sin({a}x)\\cos({b})+\\cos({a}x)\\sin({b})")),
            (format!("e^{{{a}x}}e^{{{b}x}}"), format!("e^{{{}x}}", a + b)),
            (format!("\\log_{{{c}}} {}", c.pow(3)), "3".to_string()),
            (format!("\\frac{{{a}}}{{x}}+\\frac{{{b}}}{{y}}"), format!("\\frac{{{a}y+{b}x}}{{xy}}")),
        ] {
            prop_assert_eq!(verdict(&one, &two), Verdict::Equal, "{} {}", one, two);
            let three = format!("{two}+10^{{-30}}");
            prop_assert_ne!(verdict(&one, &three), Verdict::Equal, "{} {}", one, three);
        }
    }
}
