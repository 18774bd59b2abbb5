//! Counts and measured numbers enter, estimates with their uncertainty leave; nothing here is random.

/// The 97.5 % quantile of the standard normal distribution.
const Z_975: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % interval of a probability, from `successes` out of `n` (Wilson 1927). Unlike the normal
/// approximation it stays within [0, 1] and has a width at 0 and n successes. [0, 1] if n = 0.
pub fn wilson_95(successes: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (count, p, z2) = (n as f64, successes as f64 / n as f64, Z_975 * Z_975);
    let middle = p + z2 / (2.0 * count);
    let half = Z_975 * (p * (1.0 - p) / count + z2 / (4.0 * count * count)).max(0.0).sqrt();
    let scale = 1.0 + z2 / count;
    // At the ends the interval reaches 0 or 1 exactly; rounding would miss that by an ulp.
    let low = if successes == 0 { 0.0 } else { (middle - half) / scale };
    let high = if successes >= n { 1.0 } else { (middle + half) / scale };
    [low.max(0.0), high.min(1.0)]
}

/// The mean; NaN of no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation of a sample (divided by n − 1); 0 of fewer than two values.
pub fn standard_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Two systems on the same problems: how often which of them was right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paired {
    /// Problems.
    pub n: usize,
    /// Right in both.
    pub both: usize,
    /// Right only in the first.
    pub only_first: usize,
    /// Right only in the second.
    pub only_second: usize,
    /// Right in neither.
    pub neither: usize,
    /// Accuracy of the second minus accuracy of the first; 0 without problems.
    pub difference: f64,
    /// McNemar's exact p of a difference at least this large if both were equally good.
    pub p_value: f64,
}

/// Compares (first right, second right), one pair a problem.
pub fn compare_paired(pairs: impl IntoIterator<Item = (bool, bool)>) -> Paired {
    let mut counts = [[0usize; 2]; 2];
    for (first, second) in pairs {
        counts[usize::from(first)][usize::from(second)] += 1;
    }
    let [[neither, only_second], [only_first, both]] = counts;
    let n = both + only_first + only_second + neither;
    Paired {
        n,
        both,
        only_first,
        only_second,
        neither,
        difference: (only_second as f64 - only_first as f64) / n.max(1) as f64,
        p_value: mcnemar_exact(only_first, only_second),
    }
}

/// McNemar's exact two-sided test of two discordant counts: twice the smaller tail of Binomial(b + c, ½),
/// at most 1.
pub fn mcnemar_exact(b: usize, c: usize) -> f64 {
    let (n, k) = ((b + c) as f64, b.min(c));
    // ln of C(n, k) / 2ⁿ, the tail's largest term; its neighbours follow by ratios, so that nothing underflows
    // before the sum does.
    let largest = (1..=k).map(|i| ((n - k as f64 + i as f64) / i as f64).ln()).sum::<f64>()
        - n * std::f64::consts::LN_2;
    let (mut term, mut sum) = (1.0, 1.0);
    for i in (1..=k).rev() {
        term *= i as f64 / (n - i as f64 + 1.0);
        sum += term;
        if term < sum * f64::EPSILON {
            break;
        }
    }
    (2.0 * largest.exp() * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, relative: f64) -> bool {
        (a - b).abs() <= relative * b.abs()
    }

    /// The formula at 28 digits; 8 of 10 is also what R's `binom.confint(8, 10, methods = "wilson")` prints.
    #[test]
    fn wilson_known_values() {
        for (k, n, low, high) in [
            (8, 10, 0.490_162_471_536_641_8, 0.943_317_848_545_624_7),
            (263, 512, 0.470_438_143_382_605_9, 0.556_701_978_374_967_2),
            (0, 20, 0.0, 0.161_125_158_052_819_4),
            (512, 512, 0.992_553_024_277_117_1, 1.0),
        ] {
            let [a, b] = wilson_95(k, n);
            assert!((a - low).abs() < 1e-14 && (b - high).abs() < 1e-14, "{k} of {n}: {a} {b}");
        }
        assert_eq!(wilson_95(0, 20)[0], 0.0);
        assert_eq!(wilson_95(512, 512)[1], 1.0);
        assert_eq!(wilson_95(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn moments() {
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!(mean(&values), 5.0);
        assert!(close(standard_deviation(&values), (32.0f64 / 7.0).sqrt(), 1e-15));
        assert!(mean(&[]).is_nan());
        assert_eq!(standard_deviation(&[3.0]), 0.0);
        // A large common part must not eat the digits.
        assert!(close(standard_deviation(&[1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0]), 1.0, 1e-12));
    }

    /// From exact integers: 2 · Σ_{i ≤ k} C(n, i) / 2ⁿ.
    #[test]
    fn mcnemar_known_values() {
        for (b, c, p) in [
            (0, 0, 1.0),
            (5, 5, 1.0),
            (0, 3, 0.25),
            (1, 9, 22.0 / 1024.0),
            (59, 6, 4.964_650_327_128_617e-12),
            (400, 500, 0.000_956_444_136_918_946_1),
            (2000, 2500, 9.608_841_591_273_612e-14),
        ] {
            assert!(close(mcnemar_exact(b, c), p, 1e-10), "{b} {c}: {}", mcnemar_exact(b, c));
            assert_eq!(mcnemar_exact(b, c), mcnemar_exact(c, b));
        }
    }

    #[test]
    fn pairs_are_counted() {
        let pairs =
            [(true, true), (false, true), (false, true), (true, false), (false, false), (false, true)];
        let paired = compare_paired(pairs);
        let counts = (paired.n, paired.both, paired.only_first, paired.only_second, paired.neither);
        assert_eq!(counts, (6, 1, 1, 3, 1));
        assert!(close(paired.difference, 2.0 / 6.0, 1e-15));
        assert!(close(paired.p_value, 10.0 / 16.0, 1e-12)); // 2 · (1 + 4) / 2⁴
        assert_eq!(compare_paired([]).difference, 0.0);
    }
}
