//! Random pieces of answers in random order: no scorer panics or takes long, and threads change no verdict. The
//! variable TINYLORA_FUZZ sets the number of pairs.

use std::time::{Duration, Instant};
use tinylora_verify::{Gold, Prediction, Scorer, Verdict, verify};

/// A verdict takes at most this long, on a machine that does other things as well.
const LONGEST: Duration = Duration::from_secs(1);

const PIECES: [&str; 72] = [
    "0",
    "1",
    "2",
    "7",
    "9",
    "12",
    "0.5",
    "3.14",
    "1,000",
    "10^{9}",
    "x",
    "y",
    "n",
    "e",
    "i",
    "\\pi",
    "A",
    "+",
    "-",
    "*",
    "/",
    "^",
    "_",
    "=",
    "<",
    "\\le",
    "\\ge",
    "\\ne",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\\{",
    "\\}",
    "|",
    ",",
    ";",
    ".",
    ":",
    "!",
    "%",
    "'",
    " ",
    "$",
    "\\frac",
    "\\sqrt",
    "\\sqrt[3]",
    "\\sin",
    "\\ln",
    "\\log_",
    "\\binom",
    "\\sum_{k=1}^",
    "\\cup",
    "\\in",
    "\\pm",
    "\\infty",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "\\text{ cm}",
    "\\boxed{",
    "\\left(",
    "\\right)",
    "and",
    "answer is ",
    "final answer is $",
    "####",
    "é",
    "\\text{",
];

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn text(&mut self) -> String {
        let length = 1 + self.below(18);
        (0..length).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }

    /// A gold answer and the same with a few pieces changed, or two texts of their own.
    fn pair(&mut self) -> (String, String) {
        let gold = self.text();
        if self.below(2) == 0 {
            return (gold, self.text());
        }
        let mut chars: Vec<char> = gold.chars().collect();
        for _ in 0..1 + self.below(3) {
            let at = self.below(chars.len());
            match self.below(3) {
                0 => chars[at] = "x1+({$".chars().nth(self.below(6)).unwrap(),
                1 if chars.len() > 1 => drop(chars.remove(at)),
                _ => chars.insert(at, "y2-)}^".chars().nth(self.below(6)).unwrap()),
            }
        }
        (gold, chars.into_iter().collect())
    }
}

fn count(usual: u64) -> u64 {
    std::env::var("TINYLORA_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

#[test]
fn no_pair_panics_or_takes_long() {
    let mut times = Vec::new();
    for seed in 0..count(20_000) {
        let (gold, prediction) = Random(seed).pair();
        let scorer = Scorer::ALL[if seed % 4 == 0 { seed as usize / 4 % Scorer::ALL.len() } else { 0 }];
        let start = Instant::now();
        verify(scorer, Gold(&gold), Prediction(&prediction));
        let took = start.elapsed();
        assert!(took < LONGEST, "{scorer:?} took {took:?}: {gold:?} {prediction:?}");
        times.push(took);
    }
    times.sort();
    let percentile = times[times.len() * 99 / 100];
    println!(
        "{} pairs: p50 {:?}, p99 {percentile:?}, longest {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert!(percentile < Duration::from_millis(10));
}

#[test]
fn threads_change_nothing() {
    let n = count(20_000).min(50_000);
    let judge = |seed: u64| -> Vec<Verdict> {
        let (gold, prediction) = Random(seed).pair();
        [Scorer::Robust, Scorer::Qwen, Scorer::MathVerify]
            .map(|scorer| verify(scorer, Gold(&gold), Prediction(&prediction)))
            .to_vec()
    };
    let alone: Vec<_> = (0..n).map(judge).collect();
    let shares: Vec<Vec<_>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..16).map(|t| scope.spawn(move || (t..n).step_by(16).map(judge).collect::<Vec<_>>())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for seed in 0..n {
        assert_eq!(alone[seed as usize], shares[(seed % 16) as usize][(seed / 16) as usize], "seed {seed}");
    }
}
