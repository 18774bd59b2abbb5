//! Random changes of good files, without feedback: seeds enter, are changed and parsed. A change is a function of its number
//! alone, so that a failure is found again: the message names the number.
//!
//! An ordinary test run does a few thousand changes a target; `cargo xtask fuzz TARGET N` does N.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{NAMES, Target, WORDS, target};
use crate::random::{Purpose, Stream};

/// Changes in an ordinary test run.
const FEW: u64 = 3000;
/// `FROM..TO`: the numbers of the changes to do.
const VARIABLE: &str = "TINYLORA_FUZZ";

/// Numbers at which parsers tend to break, in the width that is overwritten.
const EDGES: [u64; 12] =
    [0, 1, 2, 7, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
/// Draws of one change, one after the other.
struct Draws {
    stream: Stream,
    next: u64,
}

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.next += 1;
        self.stream.below(self.next, n.max(1) as u64) as usize
    }
}

/// Changes a copy of one of the seeds, once to eight times.
fn changed(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut draws = Draws { stream: Stream::new(1, Purpose::Shuffle, number), next: 0 };
    let mut bytes = seeds[draws.below(seeds.len())].clone();
    for _ in 0..=draws.below(8) {
        change(&mut bytes, seeds, &mut draws);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], draws: &mut Draws) {
    let at = draws.below(bytes.len());
    let length = (1 + draws.below(32)).min(bytes.len() - at);
    match draws.below(9) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << draws.below(8),
        1 if !bytes.is_empty() => bytes[at] = draws.below(256) as u8,
        2 => {
            let edge = EDGES[draws.below(EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][draws.below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&edge[..width]);
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..at + length)),
        5 => {
            let piece = bytes[at..at + length].to_vec();
            let to = draws.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        6 => {
            let word = WORDS[draws.below(WORDS.len())];
            bytes.splice(at..at, word.bytes());
        }
        7 => {
            let other = &seeds[draws.below(seeds.len())];
            let from = draws.below(other.len());
            let end = (from + 1 + draws.below(64)).min(other.len());
            bytes.splice(at..at, other[from..end].iter().copied());
        }
        _ => {
            // A digit of a number in text.
            if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                bytes[at + digit] = b'0' + draws.below(10) as u8;
            }
        }
    }
}

/// Runs the parser, which says whether it accepts the bytes, on all changes; prints how many it accepted.
fn fuzz(name: &str) {
    let Target { seeds, accepts: parse } = target(name).expect("a target of this name");
    let seeds = &seeds[..];
    for (index, seed) in seeds.iter().enumerate() {
        assert!(parse(seed.clone()), "{name}: seed {index} is good");
    }
    let range = std::env::var(VARIABLE).ok().map(|text| {
        let (from, to) = text.split_once("..").expect("FROM..TO");
        from.parse().expect("a number")..to.parse().expect("a number")
    });
    let range = range.unwrap_or(0..FEW);
    let start = Instant::now();
    let mut accepted = 0u64;
    for number in range.clone() {
        let bytes = changed(seeds, number);
        match catch_unwind(AssertUnwindSafe(|| parse(bytes))) {
            Ok(good) => accepted += u64::from(good),
            Err(_) => panic!("{name}: change number {number} makes the parser panic"),
        }
    }
    let count = range.end - range.start;
    assert!(accepted < count, "{name}: some change must be refused");
    println!(
        "{{\"parser\": \"{name}\", \"from\": {}, \"executions\": {count}, \"accepted\": {accepted}, \"panics\": 0, \
         \"seconds\": {:.1}}}",
        range.start,
        start.elapsed().as_secs_f64()
    );
}

/// A test for each target, by its name.
macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_test() {
            assert_eq!(NAMES, [$(stringify!($name)),*]);
        }
    };
}

tests!(
    safetensors gguf adapter checkpoint recipe sweep jsonl parquet benchmark_rows peft_config tokenizer template
);
