//! A name from `tokenizer.ggml.pre` enters, the rules by which byte-level BPE cuts text before merging leave.
//! Nothing here reads files.
//!
//! A GGUF file only names its rules; the expressions are those of the models' own tokenizer.json files, and
//! where none is public, those that llama.cpp uses under the name.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// How a family cuts text, and what llama.cpp assumes of it where a file says nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Each cuts the pieces that the one before left, into its matches and what is between them.
    cuts: &'static [&'static str],
    /// Text is brought to Unicode form NFC first.
    pub(super) nfc: bool,
    /// A piece that is a token as a whole is taken without merging.
    pub(super) whole_words: bool,
    /// Whether a text begins with the BOS token if `tokenizer.ggml.add_bos_token` is absent.
    pub(super) bos_by_default: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SINGLE_DIGIT: &str = r"\p{N}";

const PLAIN: Rules = Rules { cuts: &[], nfc: false, whole_words: false, bos_by_default: false };

/// Names and their rules.
const TABLE: &[(&[&str], Rules)] = &[
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        Rules {
            // Every digit is a piece of its own, also apart from a space before it.
            cuts: &[SINGLE_DIGIT, GPT2],
            ..PLAIN
        },
    ),
    (
        &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"],
        Rules { cuts: &[GPT2], ..PLAIN },
    ),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        Rules { cuts: &[LLAMA3], whole_words: true, bos_by_default: true, ..PLAIN },
    ),
    (&["dbrx", "smaug-bpe"], Rules { cuts: &[LLAMA3], ..PLAIN }),
    (&["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"], Rules { cuts: &[QWEN2], nfc: true, ..PLAIN }),
    (&["qwen35"], Rules { cuts: &[QWEN35], nfc: true, ..PLAIN }),
    (&["tekken"], Rules { cuts: &[TEKKEN], whole_words: true, bos_by_default: true, ..PLAIN }),
    (&["gpt-4o", "llama4"], Rules { cuts: &[GPT4O], ..PLAIN }),
    (
        &["default"],
        Rules {
            // llama.cpp's, which is what files written without a name are meant for.
            cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
            ..PLAIN
        },
    ),
];

/// The rules of a name.
pub(super) fn rules(name: &str) -> Option<Rules> {
    TABLE.iter().find(|(names, _)| names.contains(&name)).map(|(_, rules)| *rules)
}

/// All names, for messages.
pub(super) fn known_names() -> String {
    TABLE.iter().flat_map(|(names, _)| names.iter().copied()).collect::<Vec<_>>().join(", ")
}

/// The cuts, then bytes as letters.
pub(super) fn build(rules: &Rules) -> tokenizers::Result<PreTokenizerWrapper> {
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for cut in rules.cuts {
        let pattern = SplitPattern::Regex((*cut).to_owned());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
    }
    steps.push(ByteLevel::new(false, true, false).into());
    Ok(Sequence::new(steps).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn cut(name: &str, text: &str) -> Vec<String> {
        let mut string = PreTokenizedString::from(text);
        build(&rules(name).unwrap()).unwrap().pre_tokenize(&mut string).unwrap();
        let splits = string.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (begin, end), _)| text[begin..end].to_owned()).collect()
    }

    #[test]
    fn every_rule_compiles_and_loses_nothing() {
        let text = "I'll pay  $1234.50 naïvely,\r\n\n\t東京 ½ \u{301}it's OK \u{a0}!\n   ";
        for (names, _) in TABLE {
            assert_eq!(cut(names[0], text).concat(), text, "{}", names[0]);
        }
        assert!(rules("no-such").is_none());
        assert!(known_names().contains("smollm, starcoder"));
    }

    #[test]
    fn smollm_cuts_every_digit_and_the_space_before_it() {
        assert_eq!(cut("smollm", "a 123 b"), ["a", " ", "1", "2", "3", " b"]);
        assert_eq!(cut("gpt-2", "a 123 b"), ["a", " 123", " b"]);
    }

    #[test]
    fn digits_in_groups() {
        assert_eq!(cut("llama-bpe", "x=12345"), ["x", "=", "123", "45"]);
        assert_eq!(cut("qwen2", "x 123"), ["x", " ", "1", "2", "3"]);
        assert_eq!(cut("default", "12345"), ["123", "45"]);
    }

    #[test]
    fn contractions_and_runs_of_spaces() {
        assert_eq!(cut("gpt-2", "we'll   see"), ["we", "'ll", "  ", " see"]);
        assert_eq!(cut("llama-bpe", "WE'LL\n\n see"), ["WE", "'LL", "\n\n", " see"]);
    }
}
