//! Sets of real numbers as spans. An interval, a union, a finite set, {x | …} or an inequality in one variable enters;
//! its spans leave.

use crate::compare::rational;
use crate::expr::{Expr, Relation};
use crate::fuel::Fuel;
use dashu_base::Sign;
use dashu_ratio::RBig;

/// All numbers between two ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Lower end.
    pub low: Expr,
    /// It belongs to the span.
    pub low_closed: bool,
    /// Upper end.
    pub high: Expr,
    /// It belongs to the span.
    pub high_closed: bool,
}

fn minus_infinity() -> Expr {
    Expr::Negate(Box::new(Expr::Infinity))
}

fn span(low: Expr, low_closed: bool, high: Expr, high_closed: bool) -> Span {
    Span { low, low_closed, high, high_closed }
}

/// The spans of a set; none where it is no set of this kind.
pub fn spans(expr: &Expr, fuel: &mut Fuel) -> Option<Vec<Span>> {
    match expr {
        Expr::Group(open @ ('(' | '['), items, close @ (')' | ']')) if items.len() == 2 => {
            Some(vec![span(items[0].clone(), *open == '[', items[1].clone(), *close == ']')])
        }
        Expr::Set(items) => {
            Some(items.iter().map(|item| span(item.clone(), true, item.clone(), true)).collect())
        }
        Expr::Union(items) => {
            let parts = items.iter().map(|item| spans(item, fuel)).collect::<Option<Vec<_>>>()?;
            Some(parts.into_iter().flatten().collect())
        }
        Expr::Symbol(name) if name == "mathbb(R)" => {
            Some(vec![span(minus_infinity(), false, Expr::Infinity, false)])
        }
        Expr::Builder(_, condition) => spans(condition, fuel),
        Expr::List(items) if items.iter().all(|item| matches!(item, Expr::Chain(..))) => {
            let parts = items.iter().map(|item| spans(item, fuel)).collect::<Option<Vec<_>>>()?;
            Some(parts.into_iter().flatten().collect())
        }
        Expr::Chain(sides, relations) => inequality(sides, relations, fuel),
        _ => None,
    }
}

fn flipped(relation: Relation) -> Relation {
    match relation {
        Relation::Less => Relation::Greater,
        Relation::LessEqual => Relation::GreaterEqual,
        Relation::Greater => Relation::Less,
        Relation::GreaterEqual => Relation::LessEqual,
        other => other,
    }
}

fn inequality(sides: &[Expr], relations: &[Relation], fuel: &mut Fuel) -> Option<Vec<Span>> {
    match (sides, relations) {
        ([_, set], [Relation::In]) => spans(set, fuel),
        ([a, b], [relation]) => match (a.symbols().len(), b.symbols().len()) {
            (1, 0) => half(a, *relation, b.clone(), fuel),
            (0, 1) => half(b, flipped(*relation), a.clone(), fuel),
            _ => None,
        },
        ([a, x, b], [first, second])
            if x.symbols().len() == 1 && a.symbols().is_empty() && b.symbols().is_empty() =>
        {
            let one = half(x, flipped(*first), a.clone(), fuel)?;
            let two = half(x, *second, b.clone(), fuel)?;
            intersection(one, two)
        }
        _ => None,
    }
}

/// The solutions of `x relation bound`, x a variable, |variable|, or linear in one.
fn half(x: &Expr, relation: Relation, bound: Expr, fuel: &mut Fuel) -> Option<Vec<Span>> {
    if let Expr::Apply(crate::function::Function::Abs, inner) = x
        && matches!(**inner, Expr::Symbol(_))
    {
        return around_zero(relation, bound);
    }
    let (relation, bound) =
        if matches!(x, Expr::Symbol(_)) { (relation, bound) } else { solved(x, relation, &bound, fuel)? };
    let all = (minus_infinity(), Expr::Infinity);
    Some(match relation {
        Relation::Less => vec![span(all.0, false, bound, false)],
        Relation::LessEqual => vec![span(all.0, false, bound, true)],
        Relation::Greater => vec![span(bound, false, all.1, false)],
        Relation::GreaterEqual => vec![span(bound, true, all.1, false)],
        Relation::NotEqual => {
            vec![span(all.0, false, bound.clone(), false), span(bound, false, all.1, false)]
        }
        Relation::Equal | Relation::In => return None,
    })
}

/// |x| < c and the like, for c > 0.
fn around_zero(relation: Relation, bound: Expr) -> Option<Vec<Span>> {
    let minus = Expr::Negate(Box::new(bound.clone()));
    Some(match relation {
        Relation::Less => vec![span(minus, false, bound, false)],
        Relation::LessEqual => vec![span(minus, true, bound, true)],
        Relation::Greater => {
            vec![span(minus_infinity(), false, minus, false), span(bound, false, Expr::Infinity, false)]
        }
        Relation::GreaterEqual => {
            vec![span(minus_infinity(), false, minus, true), span(bound, true, Expr::Infinity, false)]
        }
        _ => return None,
    })
}

/// `a·x + b relation c` as `x relation d`, with rational numbers.
fn solved(x: &Expr, relation: Relation, bound: &Expr, fuel: &mut Fuel) -> Option<(Relation, Expr)> {
    let name = x.symbols().into_iter().next()?.to_string();
    let mut at = |value: i64| rational(&x.replaced(&name, &Expr::int(value)), fuel);
    let (v0, v1, v2, v5) = (at(0)?, at(1)?, at(2)?, at(5)?);
    let slope = &v1 - &v0;
    let linear = &v2 - &v1 == slope && &v5 - &v2 == &slope * RBig::from(3);
    if slope.is_zero() || !linear {
        return None;
    }
    let value = (rational(bound, fuel)? - v0) / &slope;
    let relation = if slope.sign() == Sign::Negative { flipped(relation) } else { relation };
    Some((relation, Expr::Number(value, None)))
}

/// The common part, where each side bounds one end, or |x| lies in a range.
fn intersection(one: Vec<Span>, two: Vec<Span>) -> Option<Vec<Span>> {
    let infinite = |x: &Expr| *x == Expr::Infinity || *x == minus_infinity();
    let pair = |a: &Span, b: &Span| -> Option<Span> {
        let (low, high) = if infinite(&a.high) && infinite(&b.low) {
            (a, b)
        } else if infinite(&b.high) && infinite(&a.low) {
            (b, a)
        } else {
            return None;
        };
        Some(span(low.low.clone(), low.low_closed, high.high.clone(), high.high_closed))
    };
    match (one.as_slice(), two.as_slice()) {
        ([a], [b]) => pair(a, b).map(|span| vec![span]),
        // a ≤ |x| ≤ b
        ([left, right], [inner]) | ([inner], [left, right]) => Some(vec![
            span(inner.low.clone(), inner.low_closed, left.high.clone(), left.high_closed),
            span(right.low.clone(), right.low_closed, inner.high.clone(), inner.high_closed),
        ]),
        _ => None,
    }
}
