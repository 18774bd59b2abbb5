//! Equality as Math-Verify has it, gold and prediction not exchangeable. Values enter, whether they are equal leaves.

use crate::compare::{proportional, rational, same, within};
use crate::equal::{Judge, prepared};
use crate::expr::{Expr, Relation};
use crate::fuel::Fuel;
use crate::number::Outcome;
use dashu_ratio::RBig;

/// Places to which floats are rounded.
const PLACES: isize = 6;

/// Whether the prediction equals the gold answer.
pub fn equal(gold: &Expr, prediction: &Expr, fuel: &mut Fuel) -> Outcome<bool> {
    let (gold, prediction) = (prepared(gold), prepared(prediction));
    pair(&gold, &prediction, fuel)
}

fn is_equation(expr: &Expr) -> bool {
    matches!(expr, Expr::Chain(_, relations) if relations.iter().all(|relation| *relation == Relation::Equal))
}

fn right(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Chain(sides, _) => sides.last(),
        _ => None,
    }
}

fn is_assignment(expr: &Expr) -> bool {
    matches!(expr, Expr::Chain(sides, _) if is_equation(expr) && of_symbols(&sides[0]))
}

fn of_symbols(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) => true,
        Expr::Number(..) | Expr::Pi | Expr::E | Expr::I | Expr::Infinity => false,
        other => {
            let children = other.children();
            !children.is_empty() && children.into_iter().all(of_symbols)
        }
    }
}

fn pair(gold: &Expr, prediction: &Expr, fuel: &mut Fuel) -> Outcome<bool> {
    fuel.spend(5)?;
    let (mut a, mut b) = (gold.clone(), prediction.clone());
    match (is_equation(gold), is_equation(prediction)) {
        (false, true) => b = right(prediction).cloned().unwrap_or(b),
        (true, false) if is_assignment(gold) => a = right(gold).cloned().unwrap_or(a),
        _ => {}
    }
    if a == b {
        return Ok(true);
    }
    match (&a, &b) {
        (Expr::List(x) | Expr::Set(x), Expr::List(y) | Expr::Set(y)) => items(x, y, fuel),
        (Expr::Group(_, x, _), Expr::List(y) | Expr::Set(y))
        | (Expr::List(x) | Expr::Set(x), Expr::Group(_, y, _))
            if open(&a) && open(&b) =>
        {
            if x.len() == 2 {
                in_order(x, y, fuel)
            } else {
                items(x, y, fuel)
            }
        }
        (Expr::Group(o, x, c), Expr::Group(p, y, d)) => {
            Ok(((o == p && c == d) || x.len() > 2) && in_order(x, y, fuel)?)
        }
        (Expr::List(x) | Expr::Set(x), y) if x.len() == 1 => pair(&x[0], y, fuel),
        (x, Expr::List(y) | Expr::Set(y)) if y.len() == 1 => pair(x, &y[0], fuel),
        (Expr::Matrix(x), Expr::Matrix(y)) => {
            let shaped = x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.len() == y.len());
            let flat = |rows: &[Vec<Expr>]| rows.iter().flatten().cloned().collect::<Vec<_>>();
            Ok(shaped && in_order(&flat(x), &flat(y), fuel)?)
        }
        // A set as gold does not accept an inequality.
        (x, Expr::Chain(..)) if !matches!(x, Expr::Chain(..)) => Ok(false),
        (x, y) if x.is_scalar() && y.is_scalar() => scalars(x, y, fuel),
        (Expr::Chain(x, r), Expr::Chain(y, s)) if r.len() == 1 && r == s && r[0] == Relation::Equal => {
            equations(x, y, fuel)
        }
        (x, y) => Judge { fuel, rule: "" }.equal(x, y),
    }
}

/// The same sides, or the same difference up to a factor; names of variables count.
fn equations(gold: &[Expr], prediction: &[Expr], fuel: &mut Fuel) -> Outcome<bool> {
    if gold[0] == prediction[0] {
        return pair(&gold[1], &prediction[1], fuel);
    }
    let difference =
        |sides: &[Expr]| Expr::Add(vec![sides[0].clone(), Expr::Negate(Box::new(sides[1].clone()))]);
    proportional(&difference(gold), &difference(prediction), false, fuel)
}

/// Round brackets, or none.
fn open(expr: &Expr) -> bool {
    matches!(expr, Expr::Group('(', _, ')') | Expr::List(_) | Expr::Set(_))
}

fn in_order(a: &[Expr], b: &[Expr], fuel: &mut Fuel) -> Outcome<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(b) {
        if !pair(a, b, fuel)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// As sets: in any order, equal items once.
fn items(a: &[Expr], b: &[Expr], fuel: &mut Fuel) -> Outcome<bool> {
    if a.len() != b.len() || a.len() > 100 {
        return Ok(false);
    }
    let mut free = vec![true; b.len()];
    for x in a {
        let mut found = None;
        for (k, y) in b.iter().enumerate() {
            if free[k] && pair(x, y, fuel)? {
                found = Some(k);
                break;
            }
        }
        match found {
            Some(k) => free[k] = false,
            None => return Ok(false),
        }
    }
    Ok(true)
}

fn scalars(a: &Expr, b: &Expr, fuel: &mut Fuel) -> Outcome<bool> {
    if same(a, b, fuel)? {
        return Ok(true);
    }
    let float = |expr: &Expr| expr.any(&|part| matches!(part, Expr::Number(_, Some(_))));
    if a.symbols().is_empty() && b.symbols().is_empty() && (atom(a) || atom(b)) && (float(a) || float(b)) {
        return rounded(a, b, fuel);
    }
    Ok(spelled(a).is_some_and(|letters| spelled(b) == Some(letters)))
}

fn atom(expr: &Expr) -> bool {
    match expr {
        Expr::Number(..) => true,
        Expr::Negate(x) => atom(x),
        Expr::Divide(x, y) => atom(x) && atom(y),
        _ => false,
    }
}

/// Both rounded to six places are the same.
fn rounded(a: &Expr, b: &Expr, fuel: &mut Fuel) -> Outcome<bool> {
    let scale = RBig::from(10).pow(PLACES);
    match (rational(a, fuel), rational(b, fuel)) {
        (Some(a), Some(b)) => Ok((a * &scale).round() == (b * &scale).round()),
        _ => within(a, b, &(RBig::from_parts(1.into(), 2u8.into()) / scale), fuel),
    }
}

/// The letters of a symbol or of a product of symbols.
fn spelled(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Symbol(name) => Some(name.to_lowercase()),
        Expr::E => Some("e".into()),
        Expr::I => Some("i".into()),
        Expr::Multiply(items) => items.iter().map(spelled).collect(),
        _ => None,
    }
}
