//! Two expressions enter, whether they have the same value everywhere leaves. Constants are compared once; what has
//! variables is compared at seeded points, exactly where the arithmetic is rational. A difference counts only where a
//! ball excludes 0; equality only where the ball around the difference is very small. Neither: more precision, then
//! out of fuel.

use crate::evaluate::{Point, evaluate};
use crate::expr::Expr;
use crate::fuel::Fuel;
use crate::number::{Field, Number, Outcome, Stop};
use dashu_base::Sign;
use dashu_ratio::RBig;

/// Bits of a float at first, and at most.
const PRECISION: usize = 192;
const MOST: usize = 8192;
/// A difference below 2^-this of the values is none.
const CLOSE_BITS: i64 = 100;
/// Points that must agree, and points that are tried.
const AGREE: usize = 4;
const POINTS: usize = 16;

/// Values of variables: positive whole numbers first (for factorials), then fractions below and above 1, then negative.
const WHOLE: [i64; 12] = [5, 3, 7, 4, 11, 6, 9, 8, 13, 10, 12, 14];
const FRACTIONS: [(i64, u64); 14] = [
    (3, 7),
    (5, 11),
    (2, 13),
    (11, 17),
    (7, 19),
    (13, 23),
    (4, 9),
    (17, 7),
    (23, 11),
    (19, 13),
    (31, 9),
    (29, 17),
    (37, 19),
    (41, 23),
];

/// The values of the variables at the k-th point.
fn point(names: &[&str], k: usize) -> Point {
    let value = |j: usize| {
        if k < 3 {
            return Number::int(WHOLE[(k * 5 + j) % WHOLE.len()]);
        }
        let half = FRACTIONS.len() / 2;
        let (n, d) = match k % 2 {
            0 => FRACTIONS[(k + j * 3) % half],
            _ => FRACTIONS[half + (k + j * 3) % half],
        };
        // Each round of the table moves the variables apart.
        let n = n + (d as i64) * (j / half) as i64;
        let negative = k >= 9 && !(k + j).is_multiple_of(3);
        Number::Exact(RBig::from_parts((if negative { -n } else { n }).into(), d.into()))
    };
    Point {
        values: names.iter().enumerate().map(|(j, name)| (name.to_string(), value(j))).collect(),
        minus: false,
    }
}

/// What a difference shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// Exactly none.
    Zero,
    /// None that can be seen, between values below 2^this.
    Near(i64),
    /// There is one.
    Apart,
    /// The error is too large to tell.
    Unclear,
}

/// Whether two numbers are the same.
fn difference(a: &Number, b: &Number, field: &mut Field) -> Outcome<Sight> {
    let difference = match field.subtract(a, b)? {
        Number::Exact(x) => return Ok(if x.is_zero() { Sight::Zero } else { Sight::Apart }),
        Number::Ball(ball) => ball,
    };
    if field.excludes_zero(&difference) {
        return Ok(Sight::Apart);
    }
    let (a, b) = (field.ball(a)?, field.ball(b)?);
    let scale = field.size(&a).log2().max(field.size(&b).log2());
    let vanish = scale < -CLOSE_BITS && !field.excludes_zero(&a) && !field.excludes_zero(&b);
    let limit = if vanish { -CLOSE_BITS } else { scale - CLOSE_BITS };
    if !difference.error.is_zero() && difference.error.log2() > limit {
        return Ok(Sight::Unclear);
    }
    if difference.cut { Err(Stop::TooLarge) } else { Ok(Sight::Near(scale)) }
}

/// Runs a test with more and more precision until it is clear. To be sure, what looks equal is looked at once more
/// with so many bits that a difference next to large terms, as in 10⁶⁰ + √2 and 10⁶⁰ + √3, would show.
fn with_precision(
    sure: bool,
    fuel: &mut Fuel,
    mut test: impl FnMut(&mut Field) -> Outcome<Sight>,
) -> Outcome<bool> {
    let mut precision = PRECISION;
    while precision <= MOST {
        precision = match test(&mut Field::new(precision, fuel))? {
            Sight::Zero => return Ok(true),
            Sight::Apart => return Ok(false),
            Sight::Unclear => 4 * precision,
            Sight::Near(scale) => {
                let enough = if sure { 3 * PRECISION + 2 * scale.max(0) as usize } else { 0 };
                if precision >= enough {
                    return Ok(true);
                }
                enough
            }
        };
    }
    Err(Stop::OutOfFuel)
}

fn is_real(x: &Number) -> bool {
    match x {
        Number::Exact(_) => true,
        Number::Ball(ball) => {
            ball.im.as_ref().is_none_or(|im| im.repr().significand().is_zero() && ball.error.is_zero())
        }
    }
}

/// Whether two expressions have the same value wherever both have one.
pub fn same(a: &Expr, b: &Expr, fuel: &mut Fuel) -> Outcome<bool> {
    fuel.spend(1)?;
    if a == b {
        return Ok(true);
    }
    if !a.is_scalar() || !b.is_scalar() {
        return Ok(false);
    }
    everywhere(&[a, b], fuel, |values, field| difference(&values[0], &values[1], field))
}

/// Whether a = c·b for a constant c ≠ 0, which must be positive for inequalities. Constants are never said to be
/// proportional, since all of them are.
pub fn proportional(a: &Expr, b: &Expr, positive: bool, fuel: &mut Fuel) -> Outcome<bool> {
    let constant = a.symbols().is_empty() && b.symbols().is_empty();
    if constant || !a.is_scalar() || !b.is_scalar() {
        return Ok(false);
    }
    let mut first: Option<(Number, Number)> = None;
    let mut sign_differs = false;
    let same = everywhere(&[a, b], fuel, |values, field| {
        let (x, y) = (&values[0], &values[1]);
        let Some((x0, y0)) = &first else {
            let (sx, sy) = (field.sign(x), field.sign(y));
            if sx.is_none() || sy.is_none() {
                return Err(Stop::Undefined);
            }
            sign_differs = sx != sy;
            first = Some((x.clone(), y.clone()));
            return Ok(Sight::Zero);
        };
        let (left, right) = (field.multiply(x, y0)?, field.multiply(y, x0)?);
        difference(&left, &right, field)
    })?;
    Ok(same && first.is_some() && !(positive && sign_differs))
}

/// Runs a test at points until enough of them agree; the first that disagrees decides.
fn everywhere(
    exprs: &[&Expr],
    fuel: &mut Fuel,
    mut test: impl FnMut(&[Number], &mut Field) -> Outcome<Sight>,
) -> Outcome<bool> {
    let mut names = std::collections::BTreeSet::new();
    for expr in exprs {
        names.extend(expr.symbols());
    }
    let names: Vec<&str> = names.into_iter().collect();
    let complex = names.is_empty() || exprs.iter().any(|expr| expr.any(&|part| *part == Expr::I));
    let tries = if names.is_empty() { 1 } else { POINTS };
    let mut too_large = false;
    // Real values first; where there are none at all, complex ones are compared.
    for complex in if complex { vec![true] } else { vec![false, true] } {
        let mut agreed = 0;
        for k in 0..tries {
            let point = point(&names, k);
            let outcome = with_precision(agreed == 0, fuel, |field| {
                let values =
                    exprs.iter().map(|expr| evaluate(expr, &point, field)).collect::<Outcome<Vec<_>>>()?;
                if !complex && !values.iter().all(is_real) {
                    return Err(Stop::Undefined);
                }
                test(&values, field)
            });
            match outcome {
                Ok(true) => agreed += 1,
                Ok(false) => return Ok(false),
                Err(Stop::Undefined) => {}
                Err(Stop::TooLarge) => too_large = true,
                Err(Stop::OutOfFuel) => return Err(Stop::OutOfFuel),
            }
            // Signs are mixed from the tenth point on, and at least two of those are looked at.
            if agreed >= AGREE && k >= 11 {
                return Ok(true);
            }
        }
        if agreed >= AGREE.min(tries) || agreed >= 2 {
            return Ok(true);
        }
    }
    if too_large { Err(Stop::TooLarge) } else { Ok(false) }
}

/// The exact value of a constant, if it is rational and seen to be.
pub fn rational(expr: &Expr, fuel: &mut Fuel) -> Option<RBig> {
    match evaluate(expr, &Point::default(), &mut Field::new(PRECISION, fuel)) {
        Ok(Number::Exact(value)) => Some(value),
        _ => None,
    }
}

/// Whether |a - b| ≤ tolerance, for real constants.
pub fn within(a: &Expr, b: &Expr, tolerance: &RBig, fuel: &mut Fuel) -> Outcome<bool> {
    let mut field = Field::new(PRECISION, fuel);
    let (x, y) = (evaluate(a, &Point::default(), &mut field)?, evaluate(b, &Point::default(), &mut field)?);
    if !is_real(&x) || !is_real(&y) {
        return Ok(false);
    }
    let difference = field.subtract(&x, &y)?;
    let distance = field.modulus(&difference)?;
    let rest = field.subtract(&distance, &Number::Exact(tolerance.clone()))?;
    let zero = matches!(&rest, Number::Exact(x) if x.is_zero());
    Ok(zero || field.sign(&rest) == Some(Sign::Negative))
}

/// Whether two constants differ by at most a part of the larger.
pub fn approximately(a: &Expr, b: &Expr, tolerance: f64, fuel: &mut Fuel) -> Outcome<bool> {
    if !a.is_scalar() || !b.is_scalar() {
        return Ok(false);
    }
    let mut field = Field::new(PRECISION, fuel);
    let mut value = |expr: &Expr| -> Outcome<Option<f64>> {
        let value = evaluate(expr, &Point::default(), &mut field)?;
        if !is_real(&value) {
            return Ok(None);
        }
        Ok(Some(field.ball(&value)?.re.to_f64().value()))
    };
    Ok(match (value(a)?, value(b)?) {
        (Some(a), Some(b)) => (a - b).abs() <= tolerance * a.abs().max(b.abs()),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    fn equal(a: &str, b: &str) -> Outcome<bool> {
        let mut fuel = Fuel::new(1_000_000);
        let (a, b) = (parse(a, &mut fuel).unwrap(), parse(b, &mut fuel).unwrap());
        same(&a, &b, &mut fuel)
    }

    #[test]
    fn equal_expressions() {
        for (a, b) in [
            ("1/3", "\\frac{2}{6}"),
            ("\\sqrt{8}", "2\\sqrt2"),
            ("\\sqrt{5+2\\sqrt6}", "\\sqrt2+\\sqrt3"),
            ("(x+1)^2", "x^2+2x+1"),
            ("\\tan^2 y+1", "\\sec^2 y"),
            ("\\frac{x^2-1}{x-1}", "x+1"),
            ("\\ln(x^2)", "2\\ln|x|"),
            ("n!", "n(n-1)!"),
            ("\\binom{n}{2}", "n(n-1)/2"),
            ("e^{i\\pi}", "-1"),
            ("6-5i", "-5i+6"),
            ("\\sqrt{-4}", "2i"),
            ("\\log_2 8", "3"),
            ("10^{\\frac{-5-\\sqrt{13}}{6}}", "10^{-\\frac{5 + \\sqrt{13}}{6}}"),
            ("\\sum_{k=1}^{10} k", "55"),
            ("\\sum_{k=1}^{n} k", "\\frac{n(n+1)}{2}"),
            ("\\sin 30^\\circ", "1/2"),
            ("(-1)^{2n}", "1"),
            ("\\sqrt{1-x^2}", "\\sqrt{(1-x)(1+x)}"),
            ("\\sqrt[3]{-8}", "-2"),
            ("x^{1/2}x^{1/2}", "x"),
        ] {
            assert_eq!(equal(a, b), Ok(true), "{a} and {b}");
        }
    }

    #[test]
    fn different_expressions() {
        for (a, b) in [
            ("10000", "10001"),
            ("1/2^{99}", "1/2^{98}"),
            ("10^{60}+\\sqrt2", "10^{60}+\\sqrt3"),
            ("e^{\\pi\\sqrt{163}}", "262537412640768744"),
            ("\\sqrt{x^2}", "x"),
            ("|x|", "x"),
            ("x", "y"),
            ("f(x)", "f(y)"),
            ("x+2n+1", "x+1"),
            ("(-1)^n", "1"),
            ("2^x", "x^2"),
            ("0/0", "0"),
            ("\\frac{1+\\sqrt5}{2}", "2"),
            ("x^2+10^{-30}", "x^2"),
            ("\\pi", "3.14159265358979323846264338327950288419716939937510582097494459"),
        ] {
            assert_eq!(equal(a, b), Ok(false), "{a} and {b}");
        }
    }

    #[test]
    fn what_is_too_large_is_neither() {
        assert_eq!(equal("9^{9^{9^9}}", "9^{9^{9^9}}+1"), Err(Stop::TooLarge));
        assert_eq!(equal("10^{100000}", "10^{100000}+1"), Err(Stop::TooLarge));
        assert_eq!(equal("10^{100000}", "10^{100001}"), Ok(false));
    }
}
