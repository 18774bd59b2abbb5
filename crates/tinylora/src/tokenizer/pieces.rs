//! Ids enter, text leaves, at once or a token at a time. The bytes of every token are kept in one table, so that
//! the text of a whole list is by construction what its stream gives. Nothing here encodes.

use std::sync::Arc;

/// What each id stands for.
#[derive(Debug)]
pub(super) struct Pieces {
    /// The bytes of all tokens, one after another.
    bytes: Vec<u8>,
    /// End of each token's bytes; its begin is the end of the one before.
    ends: Vec<usize>,
    /// Whether `decode` leaves the token out.
    special: Vec<bool>,
    join: Join,
}

/// How the tokens of a text are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// One after another.
    Plain,
    /// One after another, and one space at the very beginning is dropped: SentencePiece put it there.
    DropFirstSpace,
    /// With a space between two tokens (a tokenizer.json without a decoder).
    Spaced,
}

impl Pieces {
    pub(super) fn new(join: Join) -> Pieces {
        Pieces { bytes: Vec::new(), ends: Vec::new(), special: Vec::new(), join }
    }

    /// The next id. An id that no token has gets no bytes.
    pub(super) fn push(&mut self, bytes: &[u8], special: bool) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.special.push(special);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// `None` for an id beyond the vocabulary: models have padded heads, and such an id has no text.
    fn get(&self, id: u32) -> Option<(&[u8], bool)> {
        let index = id as usize;
        let end = *self.ends.get(index)?;
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some((&self.bytes[begin..end], self.special[index]))
    }

    pub(super) fn decode(self: &Arc<Pieces>, ids: &[u32], with_special: bool) -> String {
        let mut stream = StreamDecoder::new(self.clone(), with_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id).unwrap_or_default());
        }
        text.push_str(&stream.finish().unwrap_or_default());
        text
    }
}

/// Decodes a token at a time and never splits a character: what `push` and at last `finish` return is, put
/// together, what [`decode`](super::Tokenizer::decode) gives for all the ids.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    pieces: Arc<Pieces>,
    with_special: bool,
    /// Whether a token has been taken.
    begun: bool,
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl StreamDecoder {
    pub(super) fn new(pieces: Arc<Pieces>, with_special: bool) -> StreamDecoder {
        StreamDecoder { pieces, with_special, begun: false, pending: Vec::new() }
    }

    /// The text that the next token completes, if any. Bytes that cannot become UTF-8 give U+FFFD.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let (mut bytes, special) = self.pieces.get(id)?;
        if bytes.is_empty() || (special && !self.with_special) {
            return None;
        }
        match self.pieces.join {
            Join::DropFirstSpace if !self.begun => bytes = bytes.strip_prefix(b" ").unwrap_or(bytes),
            Join::Spaced if self.begun => self.pending.push(b' '),
            _ => (),
        }
        self.begun = true;
        self.pending.extend_from_slice(bytes);
        self.take_complete()
    }

    /// The end of the text: a character that was never completed gives U+FFFD.
    pub fn finish(&mut self) -> Option<String> {
        self.begun = false;
        let pending = std::mem::take(&mut self.pending);
        (!pending.is_empty()).then(|| String::from_utf8_lossy(&pending).into_owned())
    }

    fn take_complete(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut rest = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            // A chunk that ends the input and may still become a character waits for the next token.
            let at_end = rest + chunk.valid().len() + invalid.len() == self.pending.len();
            rest += chunk.valid().len();
            let waits =
                at_end && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if !invalid.is_empty() && !waits {
                text.push(char::REPLACEMENT_CHARACTER);
                rest += invalid.len();
            }
        }
        self.pending.drain(..rest);
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(join: Join, tokens: &[(&[u8], bool)]) -> Arc<Pieces> {
        let mut pieces = Pieces::new(join);
        for (bytes, special) in tokens {
            pieces.push(bytes, *special);
        }
        Arc::new(pieces)
    }

    fn stream(pieces: &Arc<Pieces>, ids: &[u32]) -> Vec<Option<String>> {
        let mut stream = StreamDecoder::new(pieces.clone(), false);
        let mut parts: Vec<_> = ids.iter().map(|&id| stream.push(id)).collect();
        parts.push(stream.finish());
        parts
    }

    #[test]
    fn a_character_in_three_tokens_comes_out_once() {
        let table =
            pieces(Join::Plain, &[(b"a", false), (b"\xe2", false), (b"\x82", false), (b"\xac!", false)]);
        let expected = [Some("a".into()), None, None, Some("€!".into()), None];
        assert_eq!(stream(&table, &[0, 1, 2, 3]), expected);
    }

    #[test]
    fn invalid_bytes_become_replacement_characters() {
        let table = pieces(Join::Plain, &[(b"\xff", false), (b"\xe2\x82", false), (b"x", false)]);
        assert_eq!(table.decode(&[0, 2, 1, 2, 1], false), "\u{fffd}x\u{fffd}x\u{fffd}");
        assert_eq!(stream(&table, &[1, 2]), [None, Some("\u{fffd}x".into()), None]);
    }

    #[test]
    fn decode_is_lossy_utf8_of_the_bytes() {
        let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
        let tokens: Vec<(&[u8], bool)> = bytes.iter().map(|byte| (&byte[..], false)).collect();
        let table = pieces(Join::Plain, &tokens);
        let mut state = 1_u32;
        for _ in 0..2000 {
            let ids: Vec<u32> = (0..12)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    [state >> 24, 0xf0 | (state >> 28), 0x80 | (state >> 26)][(state >> 8) as usize % 3]
                })
                .collect();
            let raw: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
            assert_eq!(table.decode(&ids, false), String::from_utf8_lossy(&raw), "{raw:x?}");
        }
    }

    #[test]
    fn special_tokens_are_left_out_and_unknown_ids_are_empty() {
        let table = pieces(Join::Plain, &[(b"a", false), (b"<end>", true)]);
        assert_eq!(table.decode(&[0, 1, 7, 0], false), "aa");
        assert_eq!(table.decode(&[0, 1, 7, 0], true), "a<end>a");
    }

    #[test]
    fn only_the_first_space_is_dropped() {
        let table = pieces(Join::DropFirstSpace, &[(b" a", false), (b"<s>", true)]);
        assert_eq!(table.decode(&[1, 0, 0], false), "a a");
        assert_eq!(table.decode(&[1, 0, 0], true), "<s> a a");
    }

    #[test]
    fn a_vocabulary_of_words_is_joined_by_spaces() {
        let table = pieces(Join::Spaced, &[(b"one", false), (b"two", false)]);
        assert_eq!(table.decode(&[0, 1, 1], false), "one two two");
    }
}
