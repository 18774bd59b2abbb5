//! Scalars enter, the bytes of TensorBoard's event files leave; nothing here opens a file.
//!
//! An event file is a row of records: u64 length; masked CRC-32C of those 8 bytes; the payload; masked CRC-32C of
//! the payload; all little-endian. A payload is the protobuf message `Event` (1: wall_time, double; 2: step,
//! int64; 3: file_version, string, in the first event; 5: summary). `Summary` repeats 1: `Value` (1: tag, string;
//! 2: simple_value, float). TensorBoard reads all files of a folder whose name contains `tfevents`, in the order
//! of their names.

use super::records::{EvalResult, StepMetrics};

const FILE_VERSION: &str = "brain.Event:2";
const NAME_START: &str = "events.out.tfevents.";
const NAME_END: &str = ".tinylora";

/// Name of a run's event file number `number`. Names are in the order of numbers; a time would not be, where clocks
/// are set back.
pub(super) fn file_name(number: u32) -> String {
    format!("{NAME_START}{number:06}{NAME_END}")
}

/// The number in a name, None if it is no name of this module.
pub(super) fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix(NAME_START)?.strip_suffix(NAME_END)?.parse().ok()
}

/// The record that every file starts with. `wall_time`: seconds since 1970.
pub(super) fn first_record(wall_time: f64) -> Vec<u8> {
    let mut event = wall_time_field(wall_time);
    put_bytes(&mut event, 3, FILE_VERSION.as_bytes());
    record(&event)
}

/// One record with scalars of a step.
pub(super) fn scalars_record(wall_time: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, tag.as_bytes());
        put_key(&mut entry, 2, Wire::Fixed32);
        entry.extend((*value as f32).to_le_bytes());
        put_bytes(&mut summary, 1, &entry);
    }
    let mut event = wall_time_field(wall_time);
    if step != 0 {
        put_key(&mut event, 2, Wire::Varint);
        put_varint(&mut event, step);
    }
    put_bytes(&mut event, 5, &summary);
    record(&event)
}

/// What is shown of a step.
pub(super) fn scalars_of_step(m: &StepMetrics) -> Vec<(&'static str, f64)> {
    let per_second = |tokens: u64, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    let all = [
        ("reward/mean", m.reward_mean),
        ("reward/std", m.reward_std),
        ("reward/active_group_fraction", m.active_group_fraction),
        ("reward/prompts", m.prompts as f64),
        ("accuracy", m.accuracy),
        ("completion/tokens_mean", m.completion_tokens_mean),
        ("completion/truncated_fraction", m.truncated_fraction),
        ("policy/entropy", m.entropy),
        ("policy/kl", m.kl),
        ("policy/clipped_fraction", m.clipped_fraction),
        ("policy/ratio_min", m.ratio_min),
        ("policy/ratio_max", m.ratio_max),
        ("policy/logprob_gap_max", m.logprob_gap_max),
        ("optimizer/loss", m.loss),
        ("optimizer/grad_norm", m.grad_norm),
        ("optimizer/v_norm", m.v_norm),
        ("optimizer/learning_rate", m.learning_rate),
        ("progress/epoch", m.epoch),
        ("progress/adapter_version", m.adapter_version as f64),
        ("speed/rollout_tokens_per_second", per_second(m.rollout_tokens, m.rollout_seconds)),
        ("speed/empty_slot_fraction", m.empty_slot_fraction),
        ("speed/train_tokens_per_second", per_second(m.train_tokens, m.train_seconds)),
        ("memory/rss_bytes", m.rss_bytes as f64),
    ];
    // What a learner does not measure is no point of a curve.
    let measured = |(_, value): &(&str, f64)| !(value.is_nan() && m.reward_mean.is_nan());
    all.into_iter().filter(measured).collect()
}

/// What is shown of an evaluation; what was not measured is left out.
pub(super) fn scalars_of_evaluation(result: &EvalResult) -> Vec<(&'static str, f64)> {
    let measured = [
        ("eval/sampled_accuracy", result.sampled_accuracy),
        ("eval/greedy_accuracy", result.greedy_accuracy),
        ("eval/strict", Some(result.strict)),
        ("eval/flexible", Some(result.flexible)),
        ("eval/completion_tokens_mean", Some(result.completion_tokens_mean)),
        ("eval/truncated_fraction", Some(result.truncated_fraction)),
    ];
    measured.into_iter().filter_map(|(tag, value)| Some((tag, value?))).collect()
}

fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(payload.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(payload);
    out.extend(masked_crc(payload).to_le_bytes());
    out
}

/// Rotated and shifted, so that a CRC of data that holds CRCs stays a good one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli): reflected polynomial 0x82F63B78, start and final value all ones.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// Protobuf's wire types, as far as they occur.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

fn wall_time_field(seconds: f64) -> Vec<u8> {
    let mut out = Vec::new();
    put_key(&mut out, 1, Wire::Fixed64);
    out.extend(seconds.to_le_bytes());
    out
}

fn put_key(out: &mut Vec<u8>, field: u64, wire: Wire) {
    put_varint(out, field << 3 | wire as u64);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, Wire::Bytes);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits a byte, lowest first; the top bit says that more follow.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The check value of CRC-32C, and RFC 3720, appendix B.4.
    #[test]
    fn crc_known_answers() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    /// What the Python package `tensorboard` 2.21 serialises and frames for the same events.
    #[test]
    fn records_known_bytes() {
        assert_eq!(
            hex(&first_record(1_700_000_000.5)),
            "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110"
        );
        let scalars = [("reward/mean", 0.25), ("accuracy", 0.0)];
        assert_eq!(
            hex(&scalars_record(1_700_000_000.5, 300, &scalars)),
            "33000000000000000ca720560900002040fc54d94110ac022a250a120a0b7265776172642f6d65616e150000803e\
             0a0f0a0861636375726163791500000000d58c6f7d"
        );
    }

    #[test]
    fn names_sort_by_number() {
        assert_eq!(number_of(&file_name(17)), Some(17));
        assert!(file_name(2) < file_name(10) && file_name(99_999) < file_name(100_000));
        assert_eq!(number_of("events.out.tfevents.1700000000.host"), None);
    }
}
