//! Counts and measured numbers enter, estimates with their uncertainty leave. Resampling draws from seeded streams, so
//! every number is the same each time.

use crate::random::{Purpose, Stream};

/// The 97.5 % quantile of the standard normal distribution.
const Z_975: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % interval of a probability, from `successes` out of `n` (Wilson 1927). Unlike the normal
/// approximation it stays within [0, 1] and has a width at 0 and n successes. [0, 1] if n = 0.
pub fn wilson_95(successes: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let [low, high] = wilson(successes as f64 / n as f64, n as f64);
    // At the ends the interval reaches 0 or 1 exactly; rounding would miss that by an ulp.
    [if successes == 0 { 0.0 } else { low }, if successes >= n { 1.0 } else { high }]
}

/// A 95 % interval of the mean of `values`, each in [0, 1] and one a problem, over problems like these: Wilson's with an
/// effective number of problems, p(1 − p) / (variance of the mean), as for survey data (Korn and Graubard 1998). Where
/// every value is 0 or 1 that number is n and the interval is Wilson's. `most` bounds it: the number of independent
/// outcomes behind the values. [0, 1] of no values.
pub fn mean_95(values: &[f64], most: usize) -> [f64; 2] {
    if values.is_empty() {
        return [0.0, 1.0];
    }
    let (n, p) = (values.len() as f64, mean(values));
    if p <= 0.0 || p >= 1.0 {
        return wilson_95(if p <= 0.0 { 0 } else { values.len() }, values.len());
    }
    let variance = values.iter().map(|x| (x - p).powi(2)).sum::<f64>() / n;
    let effective = (p * (1.0 - p) * n / variance).clamp(n, (most as f64).max(n));
    wilson(p, effective)
}

/// Wilson's 95 % interval of a mean fraction over `n` problems, where the fraction is an average over samples or runs: no
/// narrower than problems that are each answered once allow. [0, 1] if n = 0.
pub fn wilson_of_fraction_95(fraction: f64, n: usize) -> [f64; 2] {
    if n == 0 { [0.0, 1.0] } else { wilson(fraction, n as f64) }
}

/// The 95 % interval of the mean of independent, about normal measurements, by Student's t; none of fewer than two.
pub fn student_95(values: &[f64]) -> Option<[f64; 2]> {
    if values.len() < 2 {
        return None;
    }
    let (mean, n) = (mean(values), values.len());
    let half = student_975(n - 1) * standard_deviation(values) / (n as f64).sqrt();
    Some([mean - half, mean + half])
}

/// The 97.5 % quantile of Student's t with `freedom` ≥ 1 degrees of freedom: the finite series of its distribution in
/// θ = atan(t / √freedom) (Abramowitz and Stegun 26.7.3 and 26.7.4), solved by bisection.
fn student_975(freedom: usize) -> f64 {
    if freedom > 10_000 {
        return Z_975; // less than 3e-4 above it
    }
    let odd = freedom % 2 == 1;
    let within = |angle: f64| {
        let cos2 = angle.cos().powi(2);
        let (mut term, mut sum) = (if odd { angle.cos() } else { 1.0 }, 0.0);
        let mut i = if odd { 2.0 } else { 1.0 };
        for _ in 0..freedom / 2 {
            sum += term;
            term *= cos2 * i / (i + 1.0);
            i += 2.0;
        }
        let series = sum * angle.sin();
        if odd { (angle + series) * std::f64::consts::FRAC_2_PI } else { series }
    };
    let (mut low, mut high) = (0.0, std::f64::consts::FRAC_PI_2);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if within(middle) < 0.95 { low = middle } else { high = middle }
    }
    low.tan() * (freedom as f64).sqrt()
}

/// Wilson's interval of a fraction that n outcomes gave; n need not be whole.
fn wilson(p: f64, n: f64) -> [f64; 2] {
    let z2 = Z_975 * Z_975;
    let middle = p + z2 / (2.0 * n);
    let half = Z_975 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).max(0.0).sqrt();
    let scale = 1.0 + z2 / n;
    [((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0)]
}

/// The 95 % interval of a mean of independent estimates, from theirs (Zou and Donner 2008, MOVER): the distances to
/// each end add up as squares. (estimate, interval) each; [0, 1] of none.
pub fn mean_of_independent_95(estimates: &[(f64, [f64; 2])]) -> [f64; 2] {
    if estimates.is_empty() {
        return [0.0, 1.0];
    }
    let n = estimates.len() as f64;
    let middle = estimates.iter().map(|(p, _)| p).sum::<f64>() / n;
    let far = |end: usize| estimates.iter().map(|(p, ci)| (p - ci[end]).powi(2)).sum::<f64>().sqrt() / n;
    [(middle - far(0)).max(0.0), (middle + far(1)).min(1.0)]
}

/// The unbiased estimate of pass@k from `right` of `n` samples (Chen et al. 2021): the share of all sets of k samples
/// that have a right one, 1 − C(n − right, k) / C(n, k). `k` is at most `n`, and at least 1.
pub fn pass_at_k(n: usize, right: usize, k: usize) -> f64 {
    let wrong = n - right.min(n);
    if k > wrong {
        return 1.0;
    }
    1.0 - (wrong + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
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

/// Steps of the exact sign-flip test before it gives way to random flips.
const MOST_STEPS: u64 = 1 << 31;
/// Random flips, where there are too many to look at all.
const FLIPS: u64 = 100_000;

/// The p of a sign-flip test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignFlip {
    /// How often a sum at least as far from 0 comes out where each difference is as likely to be turned round.
    pub p_value: f64,
    /// All turns were counted; else so many random ones that it has about two digits.
    pub exact: bool,
}

/// The paired permutation test (Fisher 1935): two-sided, on differences in whole units, one a problem. Where each is
/// −1, 0 or 1 it is McNemar's exact test.
pub fn sign_flip(differences: &[i64], seed: u64) -> SignFlip {
    let mut sizes: Vec<u64> = differences.iter().map(|d| d.unsigned_abs()).filter(|d| *d > 0).collect();
    let unit = sizes.iter().copied().fold(0, greatest_common_divisor).max(1);
    sizes.iter_mut().for_each(|size| *size /= unit);
    let all: u64 = sizes.iter().sum();
    let seen = differences.iter().sum::<i64>().unsigned_abs() / unit;
    if seen == 0 {
        return SignFlip { p_value: 1.0, exact: true };
    }
    if all.saturating_mul(sizes.len() as u64) > MOST_STEPS {
        return random_flips(&sizes, seen, seed);
    }
    // share[s]: the probability that the differences which stay as they are add up to s.
    let mut share = vec![0.0f64; all as usize + 1];
    share[0] = 1.0;
    let mut reached = 0;
    for &size in &sizes {
        let size = size as usize;
        for sum in (0..=reached + size).rev() {
            let without = if sum <= reached { share[sum] } else { 0.0 };
            let with = if sum >= size && sum - size <= reached { share[sum - size] } else { 0.0 };
            share[sum] = 0.5 * (without + with);
        }
        reached += size;
    }
    // The sum of the turned ones is s − (all − s), at least `seen` where s ≥ (all + seen) / 2; the other tail is its mirror.
    let tail: f64 = share[(all + seen).div_ceil(2) as usize..].iter().rev().sum();
    SignFlip { p_value: (2.0 * tail).min(1.0), exact: true }
}

fn random_flips(sizes: &[u64], seen: u64, seed: u64) -> SignFlip {
    let mut as_far = 0u64;
    for flip in 0..FLIPS {
        let stream = Stream::new(seed, Purpose::Bootstrap, flip);
        let mut sum = 0i64;
        for (block, sizes) in sizes.chunks(128).enumerate() {
            let words = stream.words(block as u64);
            for (i, size) in sizes.iter().enumerate() {
                let turned = words[i / 32] >> (i % 32) & 1 == 1;
                sum += if turned { -(*size as i64) } else { *size as i64 };
            }
        }
        as_far += u64::from(sum.unsigned_abs() >= seen);
    }
    SignFlip { p_value: (as_far + 1) as f64 / (FLIPS + 1) as f64, exact: false }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The 95 % interval of a mean by resampling its values with replacement (percentiles of `resamples` means).
/// [0, 0] of no values.
pub fn bootstrap_95(values: &[f64], resamples: usize, seed: u64) -> [f64; 2] {
    if values.is_empty() || resamples == 0 {
        return [0.0, 0.0];
    }
    let n = values.len() as u64;
    let mut means: Vec<f64> = (0..resamples as u64)
        .map(|resample| {
            // Far from the streams of `random_flips`.
            let stream = Stream::new(seed, Purpose::Bootstrap, (1 << 40) + resample);
            let sum: f64 = (0..n).map(|i| values[stream.below(i, n) as usize]).sum();
            sum / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |quantile: f64| means[((quantile * resamples as f64) as usize).min(resamples - 1)];
    [at(0.025), at(0.975)]
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

    /// Quantiles as tables print them.
    #[test]
    fn student_known_values() {
        for (freedom, expected) in [
            (1, 12.706_204_736_2),
            (2, 4.302_652_729_7),
            (3, 3.182_446_305_3),
            (4, 2.776_445_105_2),
            (9, 2.262_157_162_7),
            (10, 2.228_138_852_0),
            (30, 2.042_272_456_3),
        ] {
            let found = student_975(freedom);
            assert!((found - expected).abs() < 1e-9, "{freedom}: {found}");
        }
        let [low, high] = student_95(&[0.5, 0.6, 0.7]).unwrap();
        assert!(
            close(high - 0.6, 4.302_652_729_7 * 0.1 / 3f64.sqrt(), 1e-9)
                && close(0.6 - low, high - 0.6, 1e-9)
        );
        assert_eq!(student_95(&[0.5]), None);
        assert_eq!(wilson_of_fraction_95(0.8, 10), wilson_95(8, 10));
        assert_eq!(wilson_of_fraction_95(0.3, 0), [0.0, 1.0]);
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

    /// pass@k against every set of k samples.
    #[test]
    fn pass_at_k_is_the_share_of_sets_with_a_right_one() {
        for n in 1..=8usize {
            for right in 0..=n {
                for k in 1..=n {
                    // The first `right` samples are the right ones.
                    let sets = (0u32..1 << n).filter(|set| set.count_ones() as usize == k);
                    let (mut all, mut passed) = (0, 0);
                    for set in sets {
                        all += 1;
                        passed += usize::from(set & ((1 << right) - 1) != 0);
                    }
                    let expected = f64::from(passed as u32) / f64::from(all);
                    assert!((pass_at_k(n, right, k) - expected).abs() < 1e-14, "{n} {right} {k}");
                }
            }
        }
        assert!(close(pass_at_k(32, 3, 1), 3.0 / 32.0, 1e-14));
    }

    #[test]
    fn the_interval_of_zeros_and_ones_is_wilsons() {
        for (right, n) in [(0, 7), (1, 7), (5, 7), (7, 7), (263, 512)] {
            let values: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i < right))).collect();
            let (mean, plain) = (mean_95(&values, n), wilson_95(right, n));
            assert!(
                (mean[0] - plain[0]).abs() < 1e-12 && (mean[1] - plain[1]).abs() < 1e-12,
                "{right} of {n}"
            );
        }
        assert_eq!(mean_95(&[], 0), [0.0, 1.0]);
        // Equal values are no certainty: their samples were few.
        let [low, high] = mean_95(&[0.5; 10], 20);
        assert!(low < 0.31 && high > 0.69, "{low} {high}");
    }

    /// Problems with chances of their own, several samples each: the interval of avg@k holds the true mean in about
    /// 95 of 100 runs.
    #[test]
    fn the_interval_of_averages_covers() {
        let (n, samples, runs) = (60, 8, 2000);
        for (power, truth) in [(1.0, 0.5), (3.0, 0.25), (15.0, 1.0 / 16.0)] {
            let mut held = 0;
            for run in 0..runs {
                let stream = Stream::new(7, Purpose::Bootstrap, run);
                let values: Vec<f64> = (0..n)
                    .map(|problem| {
                        let draw = |i: u64| stream.uniform(problem * 100 + i);
                        let chance = draw(0).powf(power);
                        let right = (1..=samples).filter(|&i| draw(i) < chance).count();
                        right as f64 / samples as f64
                    })
                    .collect();
                let [low, high] = mean_95(&values, (n * samples) as usize);
                held += usize::from(low <= truth && truth <= high);
            }
            let share = held as f64 / runs as f64;
            assert!((0.925..=0.985).contains(&share), "x^{power}: {share}");
        }
    }

    #[test]
    fn independent_intervals_add_up() {
        let [low, high] = mean_of_independent_95(&[(0.5, [0.4, 0.6]), (0.2, [0.15, 0.3])]);
        assert!(close(low, 0.35 - (0.01f64 + 0.0025).sqrt() / 2.0, 1e-12), "{low}");
        assert!(close(high, 0.35 + (0.01f64 + 0.01).sqrt() / 2.0, 1e-12), "{high}");
        assert_eq!(mean_of_independent_95(&[(0.5, [0.4, 0.6])]), [0.4, 0.6]);
    }

    /// Against all 2ⁿ turns.
    #[test]
    fn sign_flips_are_counted_exactly() {
        let stream = Stream::new(3, Purpose::Bootstrap, 0);
        for case in 0..60u64 {
            let n = 1 + stream.below(case * 100, 11);
            let scale = [1, 3, 8][case as usize % 3];
            let differences: Vec<i64> =
                (0..n).map(|i| (stream.below(case * 100 + 1 + i, 7) as i64 - 2) * scale).collect();
            let seen = differences.iter().sum::<i64>().abs();
            let as_far = (0u32..1 << n).filter(|turns| {
                let sum: i64 = differences
                    .iter()
                    .enumerate()
                    .map(|(i, d)| if turns >> i & 1 == 1 { -d } else { *d })
                    .sum();
                sum.abs() >= seen
            });
            let expected = as_far.count() as f64 / f64::from(1u32 << n);
            let told = sign_flip(&differences, 0);
            assert!(
                told.exact && (told.p_value - expected).abs() < 1e-12,
                "{differences:?}: {told:?} {expected}"
            );
        }
        let ones = |b: usize, c: usize| [vec![-1; b], vec![1; c]].concat();
        for (b, c) in [(0, 3), (1, 9), (59, 6), (400, 500)] {
            assert!(close(sign_flip(&ones(b, c), 0).p_value, mcnemar_exact(b, c), 1e-9), "{b} {c}");
        }
        assert_eq!(sign_flip(&[], 0), SignFlip { p_value: 1.0, exact: true });
    }

    #[test]
    fn random_flips_come_near_and_repeat() {
        let sizes = [5, 3, 3, 2, 7, 1, 4, 4, 2, 6];
        let differences: Vec<i64> =
            sizes.iter().enumerate().map(|(i, d)| if i < 8 { *d } else { -*d }).collect();
        let exact = sign_flip(&differences, 0).p_value;
        let sizes: Vec<u64> = sizes.iter().map(|d| *d as u64).collect();
        let seen = differences.iter().sum::<i64>().unsigned_abs();
        let told = random_flips(&sizes, seen, 1);
        assert!(!told.exact && (told.p_value - exact).abs() < 0.005, "{told:?} {exact}");
        assert_eq!(told, random_flips(&sizes, seen, 1));
    }

    /// Three values: all 27 resamples are equally likely.
    #[test]
    fn the_bootstrap_is_that_of_all_resamples() {
        let values = [0.0, 1.0, 5.0];
        let mut means: Vec<f64> =
            (0..27).map(|i| (values[i % 3] + values[i / 3 % 3] + values[i / 9]) / 3.0).collect();
        means.sort_by(f64::total_cmp);
        // 1/27 > 2.5 %: the percentiles are the least and the largest mean.
        assert_eq!(bootstrap_95(&values, 20_000, 1), [means[0], means[26]]);
        let many: Vec<f64> = (0..400).map(|i| f64::from(i % 4)).collect();
        let [low, high] = bootstrap_95(&many, 4000, 2);
        let half = 1.96 * standard_deviation(&many) / 20.0;
        assert!((low - (1.5 - half)).abs() < 0.02 && (high - (1.5 + half)).abs() < 0.02, "{low} {high}");
        assert_eq!(bootstrap_95(&many, 4000, 2), [low, high]);
    }
}
