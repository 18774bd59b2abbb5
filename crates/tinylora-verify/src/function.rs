//! Elementary functions of numbers. An argument enters, its image leaves, with an error bound from the derivative;
//! exact results (√4, 2³, 5!) stay exact. Branches are the principal ones, and odd roots of negative reals are real.

use crate::magnitude::Magnitude;
use crate::number::{Ball, Field, Float, Number, Outcome, Stop, size};
use dashu_base::{Sign, UnsignedAbs};
use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

/// Arguments of trigonometric functions and exponents are below 2^this.
const ARGUMENT_BITS: i64 = 64;
/// Factorials up to this are exact.
const FACTORIAL: i64 = 1000;
/// Roots up to this are looked for among the exact numbers.
const ROOT: u64 = 64;

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Function {
    Exp,
    Ln,
    Sqrt,
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Asin,
    Acos,
    Atan,
    Acot,
    Asec,
    Acsc,
    Sinh,
    Cosh,
    Tanh,
    Asinh,
    Acosh,
    Atanh,
    Abs,
    Floor,
    Ceil,
    Sign,
    Factorial,
    Re,
    Im,
    Conj,
    Arg,
}

impl Field<'_> {
    fn real(re: Float, error: Magnitude, cut: bool) -> Number {
        Number::Ball(Ball { re, im: None, error, cut })
    }

    /// π.
    pub fn pi(&mut self) -> Number {
        let re = Float::pi(self.precision);
        let error = size(&re).shifted(1 - self.precision as i64);
        Self::real(re, error, false)
    }

    /// The image of a number.
    pub fn apply(&mut self, function: Function, x: &Number) -> Outcome<Number> {
        self.work(20)?;
        let one = Number::int(1);
        match function {
            Function::Exp => self.exp(x),
            Function::Ln => self.ln(x),
            Function::Sqrt => self.pow(x, &Number::Exact(RBig::from_parts(1.into(), 2u8.into()))),
            Function::Sin => self.sin(x),
            Function::Cos => self.cos(x),
            Function::Tan => {
                let (s, c) = (self.sin(x)?, self.cos(x)?);
                self.divide(&s, &c)
            }
            Function::Cot => {
                let (s, c) = (self.sin(x)?, self.cos(x)?);
                self.divide(&c, &s)
            }
            Function::Sec => {
                let c = self.cos(x)?;
                self.invert(&c)
            }
            Function::Csc => {
                let s = self.sin(x)?;
                self.invert(&s)
            }
            Function::Asin | Function::Acos | Function::Atan => self.inverse_trigonometric(function, x),
            Function::Acot => {
                let t = self.apply(Function::Atan, x)?;
                let half = self.half_pi()?;
                self.subtract(&half, &t)
            }
            Function::Asec => {
                let x = self.invert(x)?;
                self.apply(Function::Acos, &x)
            }
            Function::Acsc => {
                let x = self.invert(x)?;
                self.apply(Function::Asin, &x)
            }
            Function::Sinh | Function::Cosh | Function::Tanh => self.hyperbolic(function, x),
            Function::Asinh | Function::Acosh => {
                let square = self.multiply(x, x)?;
                let inner = match function {
                    Function::Asinh => self.add(&square, &one)?,
                    _ => self.subtract(&square, &one)?,
                };
                let root = self.apply(Function::Sqrt, &inner)?;
                let sum = self.add(x, &root)?;
                self.ln(&sum)
            }
            Function::Atanh => {
                let (up, down) = (self.add(&one, x)?, self.subtract(&one, x)?);
                let quotient = self.divide(&up, &down)?;
                let ln = self.ln(&quotient)?;
                self.divide(&ln, &Number::int(2))
            }
            Function::Abs => self.modulus(x),
            Function::Floor | Function::Ceil => self.whole(function, x),
            Function::Sign => match self.sign(x) {
                Some(Sign::Positive) => Ok(one),
                Some(Sign::Negative) => Ok(Number::int(-1)),
                None if matches!(x, Number::Exact(_)) => Ok(Number::int(0)),
                None => Err(Stop::Undefined),
            },
            Function::Factorial => self.factorial(x),
            Function::Re | Function::Im | Function::Conj => self.part(function, x),
            Function::Arg => {
                let ln = self.ln(x)?;
                self.part(Function::Im, &ln)
            }
        }
    }

    fn half_pi(&mut self) -> Outcome<Number> {
        let pi = self.pi();
        self.divide(&pi, &Number::int(2))
    }

    fn part(&mut self, function: Function, x: &Number) -> Outcome<Number> {
        let ball = match (x, function) {
            (Number::Exact(_), Function::Im) => return Ok(Number::int(0)),
            (Number::Exact(_), _) => return Ok(x.clone()),
            (Number::Ball(ball), _) => ball,
        };
        Ok(match (function, &ball.im) {
            (Function::Re, _) => Self::real(ball.re.clone(), ball.error, ball.cut),
            (Function::Im, None) => Number::int(0),
            (Function::Im, Some(im)) => Self::real(im.clone(), ball.error, ball.cut),
            (_, im) => Number::Ball(Ball { im: im.clone().map(|im| -im), ..ball.clone() }),
        })
    }

    /// e^x.
    pub fn exp(&mut self, x: &Number) -> Outcome<Number> {
        if matches!(x, Number::Exact(x) if x.is_zero()) {
            return Ok(Number::int(1));
        }
        self.work(20)?;
        let x = self.ball(x)?;
        if self.size(&x).log2() > 20 {
            return Err(Stop::TooLarge);
        }
        let (modulus, rounding) = self.rounded(self.context().exp(x.re.repr(), None))?;
        // |e^(z+δ) - e^z| ≤ |e^z| · 2|δ| for |δ| < 1.
        if x.error.log2() >= 0 {
            return Err(Stop::Undefined);
        }
        let error = size(&modulus).times(x.error).shifted(1).plus(rounding);
        let radius = Self::real(modulus, error, x.cut);
        let Some(im) = x.im else { return Ok(radius) };
        let turn = self.turn(&im)?;
        self.multiply(&radius, &turn)
    }

    /// cos y + i sin y.
    fn turn(&mut self, y: &Float) -> Outcome<Number> {
        if size(y).log2() > ARGUMENT_BITS {
            return Err(Stop::TooLarge);
        }
        let (re, e1) = self.rounded(self.context().cos(y.repr(), None))?;
        let (im, e2) = self.rounded(self.context().sin(y.repr(), None))?;
        Ok(Number::Ball(Ball { re, im: Some(im), error: e1.plus(e2), cut: false }))
    }

    /// The principal logarithm.
    pub fn ln(&mut self, x: &Number) -> Outcome<Number> {
        if matches!(x, Number::Exact(x) if x.is_one()) {
            return Ok(Number::int(0));
        }
        self.work(20)?;
        let x = self.ball(x)?;
        let least = self.least(&x).ok_or(Stop::Undefined)?;
        let error = x.error.shifted(1 - least);
        let real = self.modulus(&Number::Ball(x.clone()))?;
        let real = self.ball(&real)?;
        let (re, rounding) = self.rounded(self.context().ln(real.re.repr(), None))?;
        let error = error.plus(real.error.shifted(1 - least)).plus(rounding);
        if x.im.is_none() && x.re.sign() == Sign::Positive {
            return Ok(Self::real(re, error, x.cut));
        }
        let (im, rounding) = match &x.im {
            None => {
                let Number::Ball(pi) = self.pi() else { return Err(Stop::Undefined) };
                (pi.re, pi.error)
            }
            // On the negative axis itself the side cannot be told, so there is no value.
            Some(im) if x.re.sign() == Sign::Negative && !x.error.below(size(im).shifted(-1)) => {
                if !im.repr().significand().is_zero() || !x.error.is_zero() {
                    return Err(Stop::Undefined);
                }
                let Number::Ball(pi) = self.pi() else { return Err(Stop::Undefined) };
                (pi.re, pi.error)
            }
            Some(im) => self.rounded(self.context().atan2(im.repr(), x.re.repr(), None))?,
        };
        Ok(Number::Ball(Ball { re, im: Some(im), error: error.plus(rounding), cut: x.cut }))
    }

    fn sin(&mut self, x: &Number) -> Outcome<Number> {
        self.circular(x, true)
    }

    fn cos(&mut self, x: &Number) -> Outcome<Number> {
        self.circular(x, false)
    }

    fn circular(&mut self, x: &Number, sine: bool) -> Outcome<Number> {
        if matches!(x, Number::Exact(x) if x.is_zero()) {
            return Ok(Number::int(i64::from(!sine)));
        }
        self.work(20)?;
        let ball = self.ball(x)?;
        if ball.im.is_some() {
            // sin z = (e^{iz} - e^{-iz}) / 2i, cos z = (e^{iz} + e^{-iz}) / 2
            let i = self.i();
            let iz = self.multiply(&i, x)?;
            let up = self.exp(&iz)?;
            let down = self.invert(&up)?;
            let (sum, two) = if sine {
                (self.subtract(&up, &down)?, self.multiply(&i, &Number::int(2))?)
            } else {
                (self.add(&up, &down)?, Number::int(2))
            };
            return self.divide(&sum, &two);
        }
        if self.size(&ball).log2() > ARGUMENT_BITS {
            return Err(Stop::TooLarge);
        }
        let context = self.context();
        let result = if sine { context.sin(ball.re.repr(), None) } else { context.cos(ball.re.repr(), None) };
        let (re, rounding) = self.rounded(result)?;
        Ok(Self::real(re, ball.error.plus(rounding), ball.cut))
    }

    /// The imaginary unit.
    pub fn i(&mut self) -> Number {
        Number::Ball(Ball { re: Float::ZERO, im: Some(Float::ONE), error: Magnitude::ZERO, cut: false })
    }

    fn hyperbolic(&mut self, function: Function, x: &Number) -> Outcome<Number> {
        let up = self.exp(x)?;
        let down = self.invert(&up)?;
        let (difference, sum) = (self.subtract(&up, &down)?, self.add(&up, &down)?);
        match function {
            Function::Sinh => self.divide(&difference, &Number::int(2)),
            Function::Cosh => self.divide(&sum, &Number::int(2)),
            _ => self.divide(&difference, &sum),
        }
    }

    fn inverse_trigonometric(&mut self, function: Function, x: &Number) -> Outcome<Number> {
        if function == Function::Acos {
            let asin = self.inverse_trigonometric(Function::Asin, x)?;
            let half = self.half_pi()?;
            return self.subtract(&half, &asin);
        }
        if function == Function::Asin {
            if let Number::Exact(exact) = x
                && exact.is_one()
            {
                return self.half_pi();
            }
            // asin x = atan(x / √(1 - x²)) inside (-1, 1)
            let square = self.multiply(x, x)?;
            let inner = self.subtract(&Number::int(1), &square)?;
            if self.sign(&inner) != Some(Sign::Positive) {
                if matches!(x, Number::Exact(x) if (-x.clone()).is_one()) {
                    let half = self.half_pi()?;
                    return self.negate(&half);
                }
                return Err(Stop::Undefined);
            }
            let root = self.apply(Function::Sqrt, &inner)?;
            let quotient = self.divide(x, &root)?;
            return self.inverse_trigonometric(Function::Atan, &quotient);
        }
        let ball = self.ball(x)?;
        if ball.im.is_some() {
            return Err(Stop::Undefined);
        }
        let (re, rounding) = self.rounded(self.context().atan(ball.re.repr(), None))?;
        Ok(Self::real(re, ball.error.plus(rounding), ball.cut))
    }

    fn whole(&mut self, function: Function, x: &Number) -> Outcome<Number> {
        let nearest = |x: &RBig| if function == Function::Floor { x.floor() } else { x.ceil() };
        let ball = match x {
            Number::Exact(x) => return Ok(Number::Exact(nearest(x).into())),
            Number::Ball(ball) if ball.im.is_none() && ball.error.log2() < -8 => ball,
            Number::Ball(_) => return Err(Stop::Undefined),
        };
        if self.size(ball).log2() > self.precision as i64 {
            return Err(Stop::TooLarge);
        }
        let mid = rational(&ball.re).ok_or(Stop::TooLarge)?;
        let radius =
            RBig::from_parts(1.into(), UBig::ONE << (-ball.error.log2() - 1).clamp(0, 4096) as usize);
        let (low, high) = (nearest(&(&mid - &radius)), nearest(&(&mid + &radius)));
        // A whole number within the error cannot be placed; only an exact one could.
        if low == high { Ok(Number::Exact(low.into())) } else { Err(Stop::Undefined) }
    }

    fn factorial(&mut self, x: &Number) -> Outcome<Number> {
        let n = x.as_int().ok_or(Stop::Undefined)?;
        if n < 0 {
            return Err(Stop::Undefined);
        }
        if n > FACTORIAL {
            return Err(Stop::TooLarge);
        }
        self.fuel.spend(1 + n.unsigned_abs() * 8)?;
        let product = (2..=n).fold(IBig::ONE, |product, k| product * IBig::from(k));
        Ok(Number::Exact(product.into()))
    }

    /// a^b, principal value; a real odd root of a negative real.
    pub fn pow(&mut self, a: &Number, b: &Number) -> Outcome<Number> {
        if let Some(n) = b.as_int() {
            let small = n.unsigned_abs() <= 1 << 20;
            if small || matches!(a, Number::Exact(x) if x.is_zero() || x.is_one() || (-x.clone()).is_one()) {
                return self.power(a, n);
            }
        }
        if let Number::Exact(x) = a
            && x.is_zero()
        {
            return match self.sign(b) {
                Some(Sign::Positive) => Ok(Number::int(0)),
                _ => Err(Stop::Undefined),
            };
        }
        if let Number::Exact(exponent) = b
            && !exponent.is_int()
            && let Some(root) = self.rational_power(a, exponent)?
        {
            return Ok(root);
        }
        let ln = self.ln(a)?;
        let product = self.multiply(b, &ln)?;
        self.exp(&product)
    }

    /// a^(p/q): exact where the root is, real for negative reals and odd q; none where neither helps.
    fn rational_power(&mut self, a: &Number, exponent: &RBig) -> Outcome<Option<Number>> {
        let (p, q) = (exponent.numerator(), exponent.denominator());
        let (Ok(p), Ok(q)) = (i64::try_from(p.clone()), u64::try_from(q.clone())) else { return Ok(None) };
        if q > ROOT || p.unsigned_abs() > 1 << 16 {
            return Ok(None);
        }
        match self.sign(a) {
            Some(Sign::Negative) if q % 2 == 1 => {
                let positive = self.negate(a)?;
                let root = self.pow(&positive, &Number::Exact(exponent.clone()))?;
                return if p % 2 == 0 { Ok(Some(root)) } else { Ok(Some(self.negate(&root)?)) };
            }
            Some(Sign::Negative) if q == 2 => {
                let positive = self.negate(a)?;
                let root = self.pow(&positive, &Number::Exact(exponent.clone()))?;
                let i = self.i();
                let turn = self.power(&i, p.rem_euclid(4))?;
                return Ok(Some(self.multiply(&root, &turn)?));
            }
            Some(Sign::Positive) => {}
            _ => return self.root_near_zero(a, p, q),
        }
        if let Number::Exact(x) = a {
            self.work(4 * q)?;
            let n = x.numerator().clone().unsigned_abs();
            let d = x.denominator().clone();
            if let (Some(n), Some(d)) = (exact_root(&n, q), exact_root(&d, q)) {
                let root = Number::Exact(RBig::from_parts(n.into(), d));
                return Ok(Some(self.power(&root, p)?));
            }
        }
        if q == 2 {
            let ball = self.ball(a)?;
            let least = self.least(&ball).ok_or(Stop::Undefined)?;
            let (re, rounding) = self.rounded(self.context().sqrt(ball.re.repr()))?;
            let error = ball.error.shifted(-least.div_euclid(2)).plus(rounding);
            return Ok(Some(self.power(&Self::real(re, error, ball.cut), p)?));
        }
        Ok(None)
    }

    /// A positive root of what may be 0: all that is known is that it is small.
    fn root_near_zero(&mut self, a: &Number, p: i64, q: u64) -> Outcome<Option<Number>> {
        let Number::Ball(ball) = a else { return Ok(None) };
        if p < 0 || self.excludes_zero(ball) {
            return Ok(None);
        }
        let most = self.size(ball).plus(ball.error).log2() + 1;
        let error = Magnitude::power((most * p).div_euclid(q as i64) + 1);
        let im = (q.is_multiple_of(2) || ball.im.is_some()).then_some(Float::ZERO);
        Ok(Some(Number::Ball(Ball { re: Float::ZERO, im, error, cut: ball.cut })))
    }
}

fn exact_root(n: &UBig, q: u64) -> Option<UBig> {
    let root = n.nth_root(q as usize);
    (root.pow(q as usize) == *n).then_some(root)
}

/// The float as a fraction.
fn rational(x: &Float) -> Option<RBig> {
    let (significand, exponent) = x.repr().clone().into_parts();
    if exponent.unsigned_abs() > 1 << 16 {
        return None;
    }
    let power = UBig::ONE << exponent.unsigned_abs();
    Some(if exponent >= 0 {
        RBig::from(significand * IBig::from(power))
    } else {
        RBig::from_parts(significand, power)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuel::Fuel;

    fn with<T>(f: impl FnOnce(&mut Field) -> T) -> T {
        let mut fuel = Fuel::new(1_000_000);
        f(&mut Field::new(192, &mut fuel))
    }

    fn is_zero(field: &mut Field, x: &Number) -> bool {
        let ball = field.ball(x).unwrap();
        !field.excludes_zero(&ball) && (ball.error.is_zero() || ball.error.log2() < -150)
    }

    #[test]
    fn exact_roots_and_powers() {
        with(|f| {
            assert_eq!(f.apply(Function::Sqrt, &Number::int(144)).unwrap().as_int(), Some(12));
            let third = Number::Exact(RBig::from_parts(1.into(), 3u8.into()));
            assert_eq!(f.pow(&Number::int(-27), &third).unwrap().as_int(), Some(-3));
            assert_eq!(f.apply(Function::Factorial, &Number::int(5)).unwrap().as_int(), Some(120));
            assert!(matches!(f.apply(Function::Factorial, &Number::int(100_000)), Err(Stop::TooLarge)));
            let two = f.apply(Function::Sqrt, &Number::int(2)).unwrap();
            let again = f.multiply(&two, &two).unwrap();
            let rest = f.subtract(&again, &Number::int(2)).unwrap();
            assert!(is_zero(f, &rest));
        });
    }

    #[test]
    fn identities_hold_within_the_error() {
        with(|f| {
            let x = Number::Exact(RBig::from_parts(13.into(), 7u8.into()));
            let (s, c) = (f.apply(Function::Sin, &x).unwrap(), f.apply(Function::Cos, &x).unwrap());
            let (s2, c2) = (f.power(&s, 2).unwrap(), f.power(&c, 2).unwrap());
            let sum = f.add(&s2, &c2).unwrap();
            let rest = f.subtract(&sum, &Number::int(1)).unwrap();
            assert!(is_zero(f, &rest));
            let ln = f.ln(&x).unwrap();
            let back = f.exp(&ln).unwrap();
            let rest = f.subtract(&back, &x).unwrap();
            assert!(is_zero(f, &rest));
            let quarter = Number::Exact(RBig::from_parts(1.into(), 4u8.into()));
            let angle = f.apply(Function::Acos, &quarter).unwrap();
            let cosine = f.apply(Function::Cos, &angle).unwrap();
            let rest = f.subtract(&cosine, &quarter).unwrap();
            assert!(is_zero(f, &rest));
        });
    }

    #[test]
    fn euler_and_complex_logarithms() {
        with(|f| {
            let (i, pi) = (f.i(), f.pi());
            let angle = f.multiply(&i, &pi).unwrap();
            let minus_one = f.exp(&angle).unwrap();
            let rest = f.add(&minus_one, &Number::int(1)).unwrap();
            assert!(is_zero(f, &rest));
            let ln = f.ln(&Number::int(-1)).unwrap();
            let rest = f.subtract(&ln, &angle).unwrap();
            assert!(is_zero(f, &rest));
        });
    }

    #[test]
    fn floors_are_exact_or_refused() {
        with(|f| {
            let pi = f.pi();
            assert_eq!(f.apply(Function::Floor, &pi).unwrap().as_int(), Some(3));
            assert_eq!(f.apply(Function::Ceil, &pi).unwrap().as_int(), Some(4));
            let root = f.apply(Function::Sqrt, &Number::int(2)).unwrap();
            let two = f.multiply(&root, &root).unwrap();
            assert!(matches!(f.apply(Function::Floor, &two), Err(Stop::Undefined)));
        });
    }
}
