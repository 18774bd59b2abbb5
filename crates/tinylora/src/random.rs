//! Counter-based random numbers: a key (seed, stream) and a counter enter, numbers leave. Nothing is
//! remembered between calls, so a draw never depends on what was drawn before, on threads or on batches.
//!
//! Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The ten rounds of Philox4x32.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

/// What a stream of random numbers is for; keeps the streams of one seed apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Sampling of tokens.
    Sampling = 1,
    /// Fixed random projections P.
    Projection = 2,
    /// Initial values of v.
    Initialisation = 3,
    /// Problems of procedural tasks, training side.
    TrainProblems = 4,
    /// Problems of procedural tasks, held-out side.
    HeldOutProblems = 5,
    /// Order of the rows of a data set.
    Shuffle = 6,
    /// Start vectors of iterative factorisations.
    Factors = 7,
    /// Worked examples of a prompt.
    Examples = 8,
    /// Confidence intervals by resampling.
    Bootstrap = 9,
    /// Weights of random test models.
    Weights = 10,
}

/// A stream of numbers: `draw(i)` is a pure function of (seed, purpose, stream, i).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    high: [u32; 2],
}

impl Stream {
    /// The stream number `stream` of a purpose.
    pub fn new(seed: u64, purpose: Purpose, stream: u64) -> Self {
        // One Philox call mixes seed and purpose into the key, so that near seeds give unrelated streams.
        let mixed = philox4x32([purpose as u32, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
        Self { key: [mixed[0], mixed[1]], high: [stream as u32, (stream >> 32) as u32] }
    }

    /// Its key, then its number: what a generator elsewhere needs.
    pub fn parts(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.high[0], self.high[1]]
    }

    /// Four random words at a counter.
    pub fn words(&self, counter: u64) -> [u32; 4] {
        philox4x32([counter as u32, (counter >> 32) as u32, self.high[0], self.high[1]], self.key)
    }

    /// Uniform in [0, 1) with 53 bits.
    pub fn uniform(&self, counter: u64) -> f64 {
        let w = self.words(counter);
        ((u64::from(w[0]) << 32 | u64::from(w[1])) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform integer in `0..n` (n > 0) by multiplication; the bias is below n / 2⁶⁴.
    pub fn below(&self, counter: u64, n: u64) -> u64 {
        let w = self.words(counter);
        ((u128::from(u64::from(w[0]) << 32 | u64::from(w[1])) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal (Box and Muller), computed in f64.
    pub fn normal(&self, counter: u64) -> f64 {
        let w = self.words(counter);
        let a = (f64::from(w[0]) + 0.5) * (1.0 / 4_294_967_296.0);
        let b = f64::from(w[1]) * (1.0 / 4_294_967_296.0);
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn normal_has_unit_moments() {
        let stream = Stream::new(3, Purpose::Projection, 0);
        let n = 20_000;
        let draws: Vec<f64> = (0..n).map(|i| stream.normal(i)).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn purposes_and_streams_differ() {
        let a = Stream::new(1, Purpose::Sampling, 0).words(0);
        assert_ne!(a, Stream::new(1, Purpose::Shuffle, 0).words(0));
        assert_ne!(a, Stream::new(1, Purpose::Sampling, 1).words(0));
        assert_ne!(a, Stream::new(2, Purpose::Sampling, 0).words(0));
    }
}
