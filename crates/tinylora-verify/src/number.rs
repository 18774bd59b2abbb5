//! Numbers: exact rationals as long as they stay exact and small, else balls, complex values with an upper bound of
//! their error. Operands enter, results leave; what has no value at a point is [`Stop::Undefined`].

use crate::fuel::{Fuel, OutOfFuel};
use crate::magnitude::Magnitude;
use dashu_base::{Abs, Approximation, BitTest, Sign, UnsignedAbs};
use dashu_float::round::mode::HalfEven;
use dashu_float::{Context, FBig, Repr};
use dashu_int::{IBig, UBig};
use dashu_ratio::RBig;

/// A binary float.
pub type Float = FBig<HalfEven, 2>;

/// Numerator and denominator of an exact number have at most so many bits together.
const EXACT_BITS: usize = 1 << 15;
/// Floats have exponents up to this; what is larger has no value here.
const EXPONENT: i64 = 1 << 20;

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Division by zero, a function outside its domain, or something that is not a number.
    Undefined,
    /// Too large to be written down.
    TooLarge,
    /// The steps ran out.
    OutOfFuel,
}

impl From<OutOfFuel> for Stop {
    fn from(_: OutOfFuel) -> Self {
        Self::OutOfFuel
    }
}

/// A value or the reason why there is none.
pub type Outcome<T> = Result<T, Stop>;

/// A complex number that is known up to an error.
#[derive(Debug, Clone)]
pub struct Ball {
    /// Real part.
    pub re: Float,
    /// Imaginary part; none: the number is real.
    pub im: Option<Float>,
    /// Distance from the true value at most.
    pub error: Magnitude,
    /// It comes from an exact number that was too large to be kept: two such balls are never called equal.
    pub cut: bool,
}

/// A number.
#[derive(Debug, Clone)]
pub enum Number {
    /// Exactly this.
    Exact(RBig),
    /// This, up to an error.
    Ball(Ball),
}

/// The precision that balls are computed with, and the fuel that it takes.
#[derive(Debug)]
pub struct Field<'a> {
    /// Bits of a float.
    pub precision: usize,
    /// Steps that are left.
    pub fuel: &'a mut Fuel,
}

/// Upper bound of a float's size.
pub fn size(x: &Float) -> Magnitude {
    if x.repr().significand().is_zero() {
        return Magnitude::ZERO;
    }
    let digits = x.repr().significand().unsigned_abs().bit_len() as i64;
    Magnitude::power(x.repr().exponent() as i64 + digits)
}

fn bits(x: &RBig) -> usize {
    x.numerator().unsigned_abs().bit_len() + x.denominator().bit_len()
}

impl Number {
    /// A whole number.
    pub fn int(n: i64) -> Self {
        Self::Exact(RBig::from(n))
    }

    /// The whole number that it certainly is, if it is small.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Exact(x) if x.is_int() => i64::try_from(x.numerator().clone()).ok(),
            _ => None,
        }
    }
}

impl Field<'_> {
    /// A field of a precision.
    pub fn new(precision: usize, fuel: &mut Fuel) -> Field<'_> {
        Field { precision, fuel }
    }

    pub(crate) fn context(&self) -> Context<HalfEven> {
        Context::new(self.precision)
    }

    /// Spends fuel for an operation on floats.
    pub(crate) fn work(&mut self, steps: u64) -> Outcome<()> {
        Ok(self.fuel.spend(steps * (1 + self.precision as u64 / 256))?)
    }

    /// Takes a float operation's result: its value and its rounding error.
    pub(crate) fn rounded(
        &self,
        result: Result<Approximation<Float, dashu_float::round::Rounding>, dashu_float::FpError>,
    ) -> Outcome<(Float, Magnitude)> {
        let (value, inexact) = match result.map_err(|_| Stop::Undefined)? {
            Approximation::Exact(value) => (value, false),
            Approximation::Inexact(value, _) => (value, true),
        };
        let large = size(&value);
        if value.repr().is_infinite() || large.log2().abs() > EXPONENT && !large.is_zero() {
            return Err(Stop::TooLarge);
        }
        let error = if inexact { large.shifted(1 - self.precision as i64) } else { Magnitude::ZERO };
        Ok((value, error))
    }

    /// The number as a ball.
    pub fn ball(&mut self, x: &Number) -> Outcome<Ball> {
        match x {
            Number::Ball(ball) => Ok(ball.clone()),
            Number::Exact(x) => {
                self.work(1)?;
                let (n, d) = x.clone().into_parts();
                let numerator = Repr::new(n, 0);
                let (re, error) = if d == UBig::ONE && bits(x) <= self.precision {
                    (Float::from_repr(numerator, self.context()), Magnitude::ZERO)
                } else {
                    let denominator = Repr::new(IBig::from(d), 0);
                    self.rounded(self.context().div(&numerator, &denominator))?
                };
                Ok(Ball { re, im: None, error, cut: false })
            }
        }
    }

    /// Keeps an exact number if it is small enough, else makes it a ball.
    fn kept(&mut self, x: RBig) -> Outcome<Number> {
        let size = bits(&x);
        self.fuel.spend(1 + size as u64 / 512)?;
        if size <= EXACT_BITS {
            return Ok(Number::Exact(x));
        }
        let ball = self.ball(&Number::Exact(x))?;
        Ok(Number::Ball(Ball { cut: true, ..ball }))
    }

    fn add_floats(&mut self, a: &Float, b: &Float) -> Outcome<(Float, Magnitude)> {
        self.rounded(self.context().add(a.repr(), b.repr()))
    }

    pub(crate) fn multiply_floats(&mut self, a: &Float, b: &Float) -> Outcome<(Float, Magnitude)> {
        self.rounded(self.context().mul(a.repr(), b.repr()))
    }

    /// a + b.
    pub fn add(&mut self, a: &Number, b: &Number) -> Outcome<Number> {
        if let (Number::Exact(a), Number::Exact(b)) = (a, b) {
            return self.kept(a + b);
        }
        self.work(1)?;
        let (a, b) = (self.ball(a)?, self.ball(b)?);
        let (re, mut error) = self.add_floats(&a.re, &b.re)?;
        let im = match (&a.im, &b.im) {
            (Some(x), Some(y)) => {
                let (im, more) = self.add_floats(x, y)?;
                error = error.plus(more);
                Some(im)
            }
            (Some(x), None) | (None, Some(x)) => Some(x.clone()),
            (None, None) => None,
        };
        let error = error.plus(a.error).plus(b.error);
        Ok(Number::Ball(Ball { re, im, error, cut: a.cut || b.cut }))
    }

    /// -a.
    pub fn negate(&mut self, a: &Number) -> Outcome<Number> {
        self.work(1)?;
        Ok(match a {
            Number::Exact(x) => Number::Exact(-x.clone()),
            Number::Ball(ball) => Number::Ball(Ball {
                re: -ball.re.clone(),
                im: ball.im.clone().map(|im| -im),
                error: ball.error,
                cut: ball.cut,
            }),
        })
    }

    /// a - b.
    pub fn subtract(&mut self, a: &Number, b: &Number) -> Outcome<Number> {
        let b = self.negate(b)?;
        self.add(a, &b)
    }

    /// a · b.
    pub fn multiply(&mut self, a: &Number, b: &Number) -> Outcome<Number> {
        if let (Number::Exact(a), Number::Exact(b)) = (a, b) {
            self.fuel.spend(1 + (bits(a) + bits(b)) as u64 / 256)?;
            return self.kept(a * b);
        }
        self.work(2)?;
        let (a, b) = (self.ball(a)?, self.ball(b)?);
        let cut = a.cut || b.cut;
        let error =
            (self.size(&a).times(b.error)).plus(self.size(&b).times(a.error)).plus(a.error.times(b.error));
        let (re, rounding) = self.multiply_floats(&a.re, &b.re)?;
        let mut error = error.plus(rounding);
        let mut product = |x: &Float, y: &Float, error: &mut Magnitude| -> Outcome<Float> {
            let (value, rounding) = self.multiply_floats(x, y)?;
            *error = error.plus(rounding);
            Ok(value)
        };
        let (re, im) = match (&a.im, &b.im) {
            (None, None) => (re, None),
            (Some(im), None) => (re, Some(product(im, &b.re, &mut error)?)),
            (None, Some(im)) => (re, Some(product(im, &a.re, &mut error)?)),
            (Some(x), Some(y)) => {
                let square = product(x, y, &mut error)?;
                let (left, right) = (product(&a.re, y, &mut error)?, product(x, &b.re, &mut error)?);
                let (re, more) = self.add_floats(&re, &-square)?;
                let (im, again) = self.add_floats(&left, &right)?;
                error = error.plus(more).plus(again);
                (re, Some(im))
            }
        };
        Ok(Number::Ball(Ball { re, im, error, cut }))
    }

    /// 1 / a.
    pub fn invert(&mut self, a: &Number) -> Outcome<Number> {
        let ball = match a {
            Number::Exact(x) if x.is_zero() => return Err(Stop::Undefined),
            Number::Exact(x) => return Ok(Number::Exact(RBig::ONE / x.clone())),
            Number::Ball(ball) => ball,
        };
        self.work(4)?;
        let least = self.least(ball).ok_or(Stop::Undefined)?;
        // |1/(z+δ) - 1/z| ≤ |δ| / (|z| (|z| - |δ|)), and `least` is below |z| - |δ|.
        let error = ball.error.shifted(-2 * least);
        let one = Float::ONE;
        match &ball.im {
            None => {
                let (re, rounding) = self.rounded(self.context().div(one.repr(), ball.re.repr()))?;
                Ok(Number::Ball(Ball { re, im: None, error: error.plus(rounding), cut: ball.cut }))
            }
            Some(im) => {
                let (x2, e1) = self.multiply_floats(&ball.re, &ball.re)?;
                let (y2, e2) = self.multiply_floats(im, im)?;
                let (norm, e3) = self.add_floats(&x2, &y2)?;
                let (re, e4) = self.rounded(self.context().div(ball.re.repr(), norm.repr()))?;
                let (im, e5) = self.rounded(self.context().div((-im.clone()).repr(), norm.repr()))?;
                // The norm's error relative to the norm is also the quotient's.
                let relative = e1.plus(e2).plus(e3).shifted(-2 * least).shifted(-least + 1);
                let error = error.plus(relative).plus(e4).plus(e5);
                Ok(Number::Ball(Ball { re, im: Some(im), error, cut: ball.cut }))
            }
        }
    }

    /// a / b.
    pub fn divide(&mut self, a: &Number, b: &Number) -> Outcome<Number> {
        let inverse = self.invert(b)?;
        self.multiply(a, &inverse)
    }

    /// Upper bound of |z| of the midpoint.
    pub fn size(&self, ball: &Ball) -> Magnitude {
        let re = size(&ball.re);
        ball.im.as_ref().map_or(re, |im| re.plus(size(im)))
    }

    /// e with 2^e below every |z| of the ball; none where the ball reaches 0.
    pub fn least(&self, ball: &Ball) -> Option<i64> {
        let largest = |x: &Float| size(x).log2();
        let most = ball.im.as_ref().map_or(largest(&ball.re), |im| largest(&ball.re).max(largest(im)));
        if ball.error.is_zero() {
            return (most > i64::MIN / 8).then_some(most - 2);
        }
        // The size of a nonzero float is at most twice the float.
        (most > i64::MIN / 8 && ball.error.log2() + 4 <= most).then_some(most - 3)
    }

    /// Whether the ball may be 0 or surely is not; decided even where the error is close to the value.
    pub fn excludes_zero(&self, ball: &Ball) -> bool {
        let beyond = |x: &Float| {
            if x.repr().significand().is_zero() {
                return false;
            }
            ball.error.is_zero() || ball.error.below(size(x).shifted(-1))
        };
        beyond(&ball.re) || ball.im.as_ref().is_some_and(beyond)
    }

    /// The sign of a real number; none where the ball contains 0 or the number is not real.
    pub fn sign(&mut self, x: &Number) -> Option<Sign> {
        match x {
            Number::Exact(x) if x.is_zero() => None,
            Number::Exact(x) => Some(x.sign()),
            Number::Ball(ball) if ball.im.is_none() && self.excludes_zero(ball) => Some(ball.re.sign()),
            Number::Ball(_) => None,
        }
    }

    /// |a|.
    pub fn modulus(&mut self, a: &Number) -> Outcome<Number> {
        match a {
            Number::Exact(x) => Ok(Number::Exact(x.clone().abs())),
            Number::Ball(ball) => {
                self.work(2)?;
                let Some(im) = &ball.im else {
                    return Ok(Number::Ball(Ball { re: ball.re.clone().abs(), ..ball.clone() }));
                };
                let (re, rounding) = self.rounded(self.context().hypot(ball.re.repr(), im.repr()))?;
                Ok(Number::Ball(Ball { re, im: None, error: ball.error.plus(rounding), cut: ball.cut }))
            }
        }
    }

    /// aⁿ for a whole n, by squaring.
    pub fn power(&mut self, a: &Number, n: i64) -> Outcome<Number> {
        if n == 0 {
            return Ok(Number::int(1));
        }
        if n < 0 {
            let positive = self.power(a, n.checked_neg().ok_or(Stop::TooLarge)?)?;
            return self.invert(&positive);
        }
        if let Number::Exact(x) = a {
            let trivial = x.is_zero() || x.is_one() || (-x.clone()).is_one();
            let estimate = bits(x) as u64 * n.unsigned_abs();
            if trivial || estimate <= EXACT_BITS as u64 {
                self.fuel.spend(1 + if trivial { 0 } else { estimate / 128 })?;
                let n = if trivial { 2 - (n & 1) as isize } else { n as isize };
                return Ok(Number::Exact(x.pow(n)));
            }
        }
        let mut result: Option<Number> = None;
        let start = self.ball(a)?;
        let mut square = Number::Ball(Ball { cut: start.cut || matches!(a, Number::Exact(_)), ..start });
        let mut rest = n.unsigned_abs();
        loop {
            if rest & 1 == 1 {
                result = Some(match &result {
                    None => square.clone(),
                    Some(result) => self.multiply(result, &square)?,
                });
            }
            rest >>= 1;
            if rest == 0 {
                return result.ok_or(Stop::Undefined);
            }
            square = self.multiply(&square, &square)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(n: i64, d: u64) -> Number {
        Number::Exact(RBig::from_parts(n.into(), d.into()))
    }

    #[test]
    fn exact_numbers_stay_exact() {
        let mut fuel = Fuel::new(10_000);
        let mut field = Field::new(128, &mut fuel);
        let x = field.divide(&Number::int(1), &Number::int(3)).unwrap();
        let y = field.multiply(&x, &Number::int(6)).unwrap();
        assert_eq!(y.as_int(), Some(2));
        assert!(matches!(field.power(&ratio(1, 2), 99), Ok(Number::Exact(_))));
        assert!(matches!(field.divide(&x, &Number::int(0)), Err(Stop::Undefined)));
        assert_eq!(field.power(&Number::int(-1), 1_000_000_001).unwrap().as_int(), Some(-1));
    }

    #[test]
    fn what_is_too_large_is_marked_and_then_refused() {
        let mut fuel = Fuel::new(1_000_000);
        let mut field = Field::new(128, &mut fuel);
        assert!(matches!(field.power(&Number::int(10), 100_000), Ok(Number::Ball(Ball { cut: true, .. }))));
        assert!(matches!(field.power(&Number::int(9), 387_420_489), Err(Stop::TooLarge)));
    }

    #[test]
    fn i_times_i_is_exact() {
        let mut fuel = Fuel::new(1000);
        let mut field = Field::new(128, &mut fuel);
        let i =
            Number::Ball(Ball { re: Float::ZERO, im: Some(Float::ONE), error: Magnitude::ZERO, cut: false });
        let Number::Ball(square) = field.multiply(&i, &i).unwrap() else { panic!("exact") };
        assert!(square.error.is_zero() && square.re == -Float::ONE && square.im == Some(Float::ZERO));
        let Number::Ball(inverse) = field.invert(&i).unwrap() else { panic!("exact") };
        assert_eq!(inverse.im, Some(-Float::ONE));
    }

    #[test]
    fn a_ball_around_a_third_excludes_zero_and_a_difference_of_thirds_does_not() {
        let mut fuel = Fuel::new(1000);
        let mut field = Field::new(128, &mut fuel);
        let third = field.ball(&ratio(1, 3)).unwrap();
        assert!(field.excludes_zero(&third) && !third.error.is_zero());
        let Number::Ball(zero) = field.subtract(&Number::Ball(third.clone()), &ratio(1, 3)).unwrap() else {
            panic!("exact")
        };
        assert!(!field.excludes_zero(&zero) && zero.error.log2() < -120);
    }
}
