//! An expression and values for its variables enter, its value leaves. What is no number (a tuple, words) is
//! undefined. An unknown function is a fixed polynomial of its arguments, so that f(x+1) is f(1+x) and not f(x).

use crate::expr::Expr;
use crate::function::Function;
use crate::number::{Field, Number, Outcome, Stop};
use dashu_base::{Gcd, UnsignedAbs};
use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

/// Sums and products over a range have at most so many terms.
const TERMS: i64 = 200;
/// Binomial coefficients are computed up to this upper number.
const BINOMIAL: i64 = 2000;

/// Values of variables, and which sign ± takes.
#[derive(Debug, Clone, Default)]
pub struct Point {
    /// By name.
    pub values: Vec<(String, Number)>,
    /// ± is minus.
    pub minus: bool,
}

impl Point {
    fn value(&self, name: &str) -> Option<&Number> {
        self.values.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value)
    }
}

/// The value of an expression at a point.
pub fn evaluate(expr: &Expr, point: &Point, field: &mut Field) -> Outcome<Number> {
    field.fuel.spend(1)?;
    match expr {
        Expr::Number(value, _) => Ok(Number::Exact(value.clone())),
        Expr::Symbol(name) => point.value(name).cloned().ok_or(Stop::Undefined),
        Expr::Pi => Ok(field.pi()),
        Expr::E => field.exp(&Number::int(1)),
        Expr::I => Ok(field.i()),
        Expr::Add(items) => fold(items, point, field, false),
        Expr::Multiply(items) => fold(items, point, field, true),
        Expr::Divide(a, b) => {
            let (a, b) = (evaluate(a, point, field)?, evaluate(b, point, field)?);
            field.divide(&a, &b)
        }
        Expr::Power(a, b) => {
            let exponent = evaluate(b, point, field)?;
            if **a == Expr::E {
                return field.exp(&exponent);
            }
            let base = evaluate(a, point, field)?;
            field.pow(&base, &exponent)
        }
        Expr::Root(a, degree) => {
            let (a, degree) = (evaluate(a, point, field)?, evaluate(degree, point, field)?);
            let exponent = field.invert(&degree)?;
            field.pow(&a, &exponent)
        }
        Expr::Negate(a) => {
            let a = evaluate(a, point, field)?;
            field.negate(&a)
        }
        Expr::PlusMinus(a, other) => {
            let a = evaluate(a, point, field)?;
            if point.minus != *other { field.negate(&a) } else { Ok(a) }
        }
        Expr::Apply(function, a) => {
            let a = evaluate(a, point, field)?;
            field.apply(*function, &a)
        }
        Expr::Log(a, base) => {
            let (a, base) = (evaluate(a, point, field)?, evaluate(base, point, field)?);
            let (a, base) = (field.ln(&a)?, field.ln(&base)?);
            field.divide(&a, &base)
        }
        Expr::Percent(a) => {
            let a = evaluate(a, point, field)?;
            field.divide(&a, &Number::int(100))
        }
        Expr::Degrees(a) => {
            let (a, pi) = (evaluate(a, point, field)?, field.pi());
            let product = field.multiply(&a, &pi)?;
            field.divide(&product, &Number::int(180))
        }
        Expr::Call(name, items) => call(name, items, point, field),
        Expr::Series(sum, low, high, body) => series(*sum, [low, high, body], point, field),
        _ => Err(Stop::Undefined),
    }
}

fn fold(items: &[Expr], point: &Point, field: &mut Field, product: bool) -> Outcome<Number> {
    let mut total: Option<Number> = None;
    for item in items {
        let value = evaluate(item, point, field)?;
        total = Some(match total {
            None => value,
            Some(total) if product => field.multiply(&total, &value)?,
            Some(total) => field.add(&total, &value)?,
        });
    }
    total.ok_or(Stop::Undefined)
}

fn series(sum: bool, [low, high, body]: [&Expr; 3], point: &Point, field: &mut Field) -> Outcome<Number> {
    let low = evaluate(low, point, field)?;
    let ends = match evaluate(high, point, field) {
        Ok(high) => Some(low.as_int().zip(high.as_int()).ok_or(Stop::Undefined)?),
        Err(Stop::Undefined) => None,
        Err(stop) => return Err(stop),
    };
    let Some((from, to)) = ends.filter(|(from, to)| to.saturating_sub(*from) <= TERMS) else {
        // An endless sum: compared by its terms, at a value of the index as of any variable.
        let mut inner = point.clone();
        inner.values.push(("#".into(), Number::Exact(RBig::from_parts(29.into(), 7u8.into()))));
        let body = evaluate(body, &inner, field)?;
        return unknown("series", &[low, body], field);
    };
    let mut total = Number::int(i64::from(!sum));
    let mut inner = point.clone();
    for k in from..=to {
        inner.values.push(("#".into(), Number::int(k)));
        let term = evaluate(body, &inner, field)?;
        inner.values.pop();
        total = if sum { field.add(&total, &term)? } else { field.multiply(&total, &term)? };
    }
    Ok(total)
}

fn call(name: &str, items: &[Expr], point: &Point, field: &mut Field) -> Outcome<Number> {
    if let ("det", [Expr::Matrix(rows)]) = (name, items) {
        return determinant(rows, point, field);
    }
    let mut values = Vec::with_capacity(items.len());
    for item in items {
        values.push(evaluate(item, point, field)?);
    }
    match (name, values.as_slice()) {
        ("binom", [n, k]) => binomial(n, k, field),
        ("mod", [a, b]) => {
            let quotient = field.divide(a, b)?;
            let whole = field.apply(Function::Floor, &quotient)?;
            let product = field.multiply(&whole, b)?;
            field.subtract(a, &product)
        }
        ("gcd" | "lcm", [_, ..]) => {
            let whole = |value: &Number| match value {
                Number::Exact(x) if x.is_int() => Ok(x.numerator().clone().unsigned_abs()),
                _ => Err(Stop::Undefined),
            };
            let mut total = whole(&values[0])?;
            for value in &values[1..] {
                let value = whole(value)?;
                field.fuel.spend(10)?;
                if total == UBig::ZERO || value == UBig::ZERO {
                    return Err(Stop::Undefined);
                }
                let gcd = (&total).gcd(&value);
                total = if name == "gcd" { gcd } else { total / gcd * value };
            }
            Ok(Number::Exact(RBig::from(IBig::from(total))))
        }
        ("max" | "min", [_, ..]) => {
            let mut best = values[0].clone();
            for value in &values[1..] {
                let difference = field.subtract(value, &best)?;
                let larger = field.sign(&difference) == Some(dashu_base::Sign::Positive);
                if larger == (name == "max") {
                    best = value.clone();
                }
            }
            Ok(best)
        }
        _ => unknown(name, &values, field),
    }
}

fn binomial(n: &Number, k: &Number, field: &mut Field) -> Outcome<Number> {
    let (n, k) = (n.as_int().ok_or(Stop::Undefined)?, k.as_int().ok_or(Stop::Undefined)?);
    if n < 0 || k < 0 {
        return Err(Stop::Undefined);
    }
    if k > n {
        return Ok(Number::int(0));
    }
    if n > BINOMIAL {
        return Err(Stop::TooLarge);
    }
    let k = k.min(n - k);
    field.fuel.spend(1 + k.unsigned_abs() * 8)?;
    let value = (0..k).fold(IBig::ONE, |value, j| value * IBig::from(n - j) / IBig::from(j + 1));
    Ok(Number::Exact(value.into()))
}

/// A polynomial that depends on the function's name: Σ c_j x_j + d_j x_j², and a constant.
fn unknown(name: &str, values: &[Number], field: &mut Field) -> Outcome<Number> {
    let seed = name.bytes().fold(7u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)) >> 40;
    let mut total = Number::int(seed as i64 % 89 + 2);
    for (j, value) in values.iter().enumerate() {
        let (c, d) = ((seed as i64 + 31 * j as i64) % 97 + 3, (seed as i64 + 17 * j as i64) % 53 + 2);
        let square = field.multiply(value, value)?;
        let (linear, square) =
            (field.multiply(value, &Number::int(c))?, field.multiply(&square, &Number::int(d))?);
        total = field.add(&total, &linear)?;
        total = field.add(&total, &square)?;
    }
    Ok(total)
}

/// By expansion along the first row, for up to five rows.
fn determinant(rows: &[Vec<Expr>], point: &Point, field: &mut Field) -> Outcome<Number> {
    if rows.len() > 5 || rows.iter().any(|row| row.len() != rows.len()) {
        return Err(Stop::Undefined);
    }
    let Some(first) = rows.first() else { return Ok(Number::int(1)) };
    let mut total = Number::int(0);
    for (j, item) in first.iter().enumerate() {
        let minor: Vec<Vec<Expr>> = rows[1..]
            .iter()
            .map(|row| row.iter().enumerate().filter(|(k, _)| *k != j).map(|(_, x)| x.clone()).collect())
            .collect();
        let (value, minor) = (evaluate(item, point, field)?, determinant(&minor, point, field)?);
        let product = field.multiply(&value, &minor)?;
        total = if j % 2 == 0 { field.add(&total, &product)? } else { field.subtract(&total, &product)? };
    }
    Ok(total)
}
