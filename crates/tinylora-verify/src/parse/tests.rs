//! What texts mean, and what is refused.

use super::*;

fn parsed(text: &str) -> Parsed<Expr> {
    parse(text, &mut Fuel::new(100_000))
}

fn same(a: &str, b: &str) {
    assert_eq!(parsed(a).unwrap(), parsed(b).unwrap(), "{a} and {b}");
}

#[test]
fn one_meaning_in_several_spellings() {
    same("\\frac12", "\\frac{1}{2}");
    same("\\dfrac{1}{2}", "\\left(\\tfrac 1 2\\right)");
    same("2\\sqrt3", "2 \\sqrt{3}");
    same("x^{10}", "x^10");
    same("\\sin^{-1} x", "\\arcsin(x)");
    same("\\{1,2\\}", "\\left\\{1, 2\\right\\}");
    same("137 \\frac{1}{2}", "137+\\frac12");
    same("2 1/2", "2+1/2");
    same("1023_4", "75");
    same("y^{\\prime}", "y'");
    same("90^{\\circ}", "90°");
    same("x\\text{ and }y", "x, y");
}

#[test]
fn kinds_of_answers() {
    assert!(matches!(parsed("(1,2)"), Ok(Expr::Group('(', items, ')')) if items.len() == 2));
    assert!(matches!(parsed("[1,2)"), Ok(Expr::Group('[', _, ')'))));
    assert!(matches!(parsed("(1,2)\\cup[3,\\infty)"), Ok(Expr::Union(items)) if items.len() == 2));
    assert!(matches!(parsed("1<x\\le 3"), Ok(Expr::Chain(sides, _)) if sides.len() == 3));
    assert!(matches!(parsed("15\\text{ cm}^2"), Ok(Expr::Quantity(_, unit)) if unit == "cm^2"));
    assert!(
        matches!(parsed("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), Ok(Expr::Matrix(rows)) if rows.len() == 2)
    );
    assert!(matches!(parsed("\\{x|-2\\leq x<1\\}"), Ok(Expr::Builder(..))));
    assert!(matches!(parsed("\\pm 3"), Ok(Expr::PlusMinus(_, false))));
    assert!(matches!(parsed("\\text{no solution}"), Ok(Expr::Text(_))));
    assert!(matches!(parsed("f(x)=x+1"), Ok(Expr::Chain(sides, _)) if matches!(sides[0], Expr::Call(..))));
    assert!(matches!(parsed("x(x+1)"), Ok(Expr::Multiply(_))));
}

#[test]
fn what_is_no_expression_is_refused() {
    for text in ["", "{", "}", "\\frac{1}", "1+", "3 4", ")", "\\begin{pmatrix}1", "^", "(1,", "\\sqrt"] {
        assert!(parsed(text).is_err(), "{text}: {:?}", parsed(text));
    }
}

#[test]
fn nesting_is_limited() {
    let deep = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    assert!(parsed(&deep(10)).is_ok());
    for text in [deep(5000), "{".repeat(9000), "x^".repeat(5000), "-".repeat(9000), "\\sqrt".repeat(3000)] {
        assert!(parsed(&text).is_err());
    }
}
