//! Upper bounds of errors: a float with an exponent that does not overflow. Every operation rounds up. Only sums,
//! products and powers of two are used, which IEEE 754 defines to the bit on every machine.

/// A number ≥ 0, as `m · 2^e` with 1 ≤ m < 2, or 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Magnitude {
    m: f64,
    e: i64,
}

/// Makes up for the rounding of one f64 operation.
const UP: f64 = 1.0 + 4.0 * f64::EPSILON;
/// Beyond this difference of exponents the smaller term is below the rounding of the larger.
const APART: i64 = 60;

impl Magnitude {
    /// Nothing.
    pub const ZERO: Self = Self { m: 0.0, e: 0 };

    /// 2^e.
    pub fn power(e: i64) -> Self {
        Self { m: 1.0, e }
    }

    /// Whether it is 0.
    pub fn is_zero(self) -> bool {
        self.m == 0.0
    }

    /// ⌊log₂⌋; very small for 0.
    pub fn log2(self) -> i64 {
        if self.is_zero() { i64::MIN / 4 } else { self.e }
    }

    /// At least the sum.
    pub fn plus(self, other: Self) -> Self {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (large, small) = if self.e >= other.e { (self, other) } else { (other, self) };
        let apart = large.e - small.e;
        let addend = if apart > APART { f64::EPSILON } else { small.m / (1u64 << apart) as f64 };
        Self { m: (large.m + addend) * UP, e: large.e }.normal()
    }

    /// At least the product.
    pub fn times(self, other: Self) -> Self {
        if self.is_zero() || other.is_zero() {
            return Self::ZERO;
        }
        Self { m: self.m * other.m * UP, e: self.e + other.e }.normal()
    }

    /// At least the quotient by 2^e.
    pub fn shifted(self, e: i64) -> Self {
        if self.is_zero() { self } else { Self { m: self.m, e: self.e + e } }
    }

    /// Whether it is below the other.
    pub fn below(self, other: Self) -> bool {
        if self.is_zero() || other.is_zero() {
            return self.is_zero() && !other.is_zero();
        }
        (self.e, self.m) < (other.e, other.m)
    }

    fn normal(mut self) -> Self {
        while self.m >= 2.0 {
            self.m *= 0.5;
            self.e += 1;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_products_are_not_too_small() {
        let three = Magnitude::power(0).plus(Magnitude::power(1));
        assert_eq!(three.log2(), 1);
        assert!(Magnitude::power(1).below(three) && three.below(Magnitude::power(2)));
        let nine = three.times(three);
        assert_eq!(nine.log2(), 3);
        let far = Magnitude::power(0).plus(Magnitude::power(-1000));
        assert!(Magnitude::power(0).below(far) && far.log2() == 0);
        assert!(Magnitude::ZERO.below(Magnitude::power(-5000)) && !Magnitude::ZERO.below(Magnitude::ZERO));
        assert!(Magnitude::ZERO.times(three).is_zero());
        assert_eq!(three.shifted(7).log2(), 8);
    }
}
