//! Text enters, ids leave, by SentencePiece's BPE: beginning with single characters, the neighbours whose union
//! has the highest score are joined, again and again (Kudo and Richardson 2018, and `llama.cpp` for files that
//! hold scores and no merges). Characters that are no token become bytes. Nothing here reads files or decodes.

use std::collections::{BinaryHeap, HashMap};

use aho_corasick::{AhoCorasick, MatchKind};

/// SentencePiece writes a space so.
pub(super) const SPACE: &str = "▁";

/// What a vocabulary is made from.
pub(super) struct Parts {
    /// Tokens that merging may produce: text with [`SPACE`] for spaces, id, score.
    pub(super) merged: Vec<(String, u32, f32)>,
    /// Tokens that are taken whole wherever they stand in a text, spelled likewise.
    pub(super) whole: Vec<(String, u32)>,
    /// The ids of the 256 bytes, as far as there are any.
    pub(super) bytes: [Option<u32>; 256],
    /// The id for what cannot be expressed.
    pub(super) unknown: Option<u32>,
    /// A space is put before the text and before what follows a token that was taken whole.
    pub(super) space_prefix: bool,
}

/// An encoder.
#[derive(Debug)]
pub(super) struct Spm {
    merged: HashMap<Box<str>, (u32, f32)>,
    /// Bytes of the longest token, so that long candidates need no look-up.
    longest: usize,
    whole: Option<AhoCorasick>,
    whole_ids: Vec<u32>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    space_prefix: bool,
}

/// A character, or several that have been joined, in a doubly linked list.
struct Symbol {
    begin: usize,
    /// 0 once it was joined to the one before.
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be joined.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Of both together: shows whether one of them has changed since.
    len: usize,
}

impl Ord for Candidate {
    /// The highest score first, then the leftmost.
    fn cmp(&self, other: &Candidate) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl Spm {
    /// The problem is a text too long or too much for the search automaton; real vocabularies are far from it.
    pub(super) fn new(parts: Parts) -> Result<Spm, String> {
        let (words, whole_ids): (Vec<String>, Vec<u32>) =
            parts.whole.into_iter().filter(|(word, _)| !word.is_empty()).unzip();
        let whole = match words.is_empty() {
            true => None,
            false => {
                let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&words);
                Some(automaton.map_err(|error| error.to_string())?)
            }
        };
        let longest = parts.merged.iter().map(|(text, ..)| text.len()).max().unwrap_or(0);
        let merged =
            parts.merged.into_iter().map(|(text, id, score)| (text.into_boxed_str(), (id, score))).collect();
        let Parts { bytes, unknown, space_prefix, .. } = parts;
        Ok(Spm { merged, longest, whole, whole_ids, bytes, unknown, space_prefix })
    }

    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    pub(super) fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// The ids of a text, or the character that cannot be expressed.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, char> {
        let text = text.replace(' ', SPACE);
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut at = 0;
        for found in self.whole.iter().flat_map(|automaton| automaton.find_iter(&text)) {
            self.encode_between(&text[at..found.start()], &mut ids)?;
            ids.push(self.whole_ids[found.pattern().as_usize()]);
            at = found.end();
        }
        self.encode_between(&text[at..], &mut ids)?;
        Ok(ids)
    }

    /// A stretch without tokens that are taken whole; it stands at the beginning or after such a token.
    fn encode_between(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), char> {
        if text.is_empty() {
            return Ok(());
        }
        if self.space_prefix {
            return self.merge(&[SPACE, text].concat(), ids);
        }
        self.merge(text, ids)
    }

    fn merge(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), char> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (index, (begin, character)) in text.char_indices().enumerate() {
            let previous = index.checked_sub(1);
            symbols.push(Symbol { begin, len: character.len_utf8(), previous, next: Some(index + 1) });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            queue.extend(self.candidate(text, &symbols, Some(right - 1), Some(right)));
        }
        while let Some(Candidate { left, right, len, .. }) = queue.pop() {
            if symbols[left].len == 0
                || symbols[right].len == 0
                || symbols[left].len + symbols[right].len != len
            {
                continue;
            }
            let after = symbols[right].next;
            symbols[right].len = 0;
            symbols[left].len = len;
            symbols[left].next = after;
            if let Some(after) = after {
                symbols[after].previous = Some(left);
            }
            queue.extend(self.candidate(text, &symbols, symbols[left].previous, Some(left)));
            queue.extend(self.candidate(text, &symbols, Some(left), after));
        }
        self.collect(text, &symbols, ids)
    }

    fn candidate(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
    ) -> Option<Candidate> {
        let (left, right) = (left?, right?);
        let begin = symbols[left].begin;
        let len = symbols[left].len + symbols[right].len;
        if len > self.longest {
            return None;
        }
        let &(_, score) = self.merged.get(&text[begin..begin + len])?;
        Some(Candidate { score, left, right, len })
    }

    /// The ids of what remains: tokens, else bytes, else one unknown for a stretch.
    fn collect(&self, text: &str, symbols: &[Symbol], ids: &mut Vec<u32>) -> Result<(), char> {
        let mut in_unknown = false;
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let piece = &text[symbol.begin..symbol.begin + symbol.len];
            if let Some(&(id, _)) = self.merged.get(piece) {
                ids.push(id);
                in_unknown = false;
                continue;
            }
            let as_bytes: Option<Vec<u32>> =
                piece.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
            if let Some(as_bytes) = as_bytes {
                ids.extend(as_bytes);
                in_unknown = false;
            } else if !in_unknown {
                ids.push(self.unknown.ok_or(piece.chars().next().unwrap_or_default())?);
                in_unknown = true;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids: 0 unknown, 1 `<end>` whole, then the merged tokens from 2, each scored less than the one before.
    fn spm(merged: &[&str], bytes: bool, space_prefix: bool) -> Spm {
        let merged =
            merged.iter().zip(2..).map(|(text, id)| ((*text).to_owned(), id, -(id as f32))).collect();
        let bytes = std::array::from_fn(|byte| bytes.then_some(100 + byte as u32));
        let whole = vec![("<end>".into(), 1)];
        Spm::new(Parts { merged, whole, bytes, unknown: Some(0), space_prefix }).unwrap()
    }

    #[test]
    fn the_best_score_is_joined_first() {
        // "bc" beats "ab", so "abc" is a·bc although "ab" comes first in the text.
        let spm = spm(&["bc", "ab", "a", "b", "c"], false, false);
        assert_eq!(spm.encode("abc"), Ok(vec![4, 2]));
        assert_eq!(spm.encode("abab"), Ok(vec![3, 3]));
    }

    #[test]
    fn equal_scores_are_joined_from_the_left() {
        let mut spm = spm(&["aa", "a"], false, false);
        spm.merged.get_mut("aa").unwrap().1 = 1.0;
        assert_eq!(spm.encode("aaa"), Ok(vec![2, 3]));
        assert_eq!(spm.encode("aaaaa"), Ok(vec![2, 2, 3]));
    }

    #[test]
    fn a_join_that_became_stale_is_not_made() {
        // After "bc" is joined, "ab" is stale; "abc" exists, so a·bc is joined to it.
        let spm = spm(&["bc", "ab", "abc", "a", "b", "c"], false, false);
        assert_eq!(spm.encode("abc"), Ok(vec![4]));
        assert_eq!(spm.encode("abcab"), Ok(vec![4, 3]));
    }

    #[test]
    fn whole_tokens_are_found_and_a_space_follows_them() {
        let spm = spm(&["▁a", "▁", "a"], false, true);
        assert_eq!(spm.encode("a<end>a"), Ok(vec![2, 1, 2]));
        assert_eq!(spm.encode("<end> a"), Ok(vec![1, 3, 2]));
        assert_eq!(spm.encode("<end>"), Ok(vec![1]));
        assert_eq!(spm.encode(""), Ok(vec![]));
    }

    #[test]
    fn strange_characters_become_bytes_or_one_unknown() {
        assert_eq!(spm(&["a"], true, false).encode("é"), Ok(vec![100 + 0xc3, 100 + 0xa9]));
        assert_eq!(spm(&["a"], false, false).encode("aééa"), Ok(vec![2, 0, 2]));
        let mut without = spm(&["a"], false, false);
        without.unknown = None;
        assert_eq!(without.encode("aé"), Err('é'));
    }

    #[test]
    fn long_text_takes_little_time() {
        let spm = spm(&["aa", "aaaa", "a", "▁"], false, false);
        let ids = spm.encode(&"a".repeat(400_000)).unwrap();
        assert_eq!(ids, vec![3; 100_000]);
    }
}
