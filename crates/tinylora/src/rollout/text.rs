//! Tokens enter one by one, text leaves as soon as it is certain: whole characters, nothing of a stop text and
//! nothing behind it.

use crate::tokenizer::{StreamDecoder, Tokenizer};

/// The text of one completion while it is written.
pub struct TextStream {
    decoder: StreamDecoder,
    cut: StopCut,
}

impl TextStream {
    /// Nothing is written yet.
    pub fn new(tokenizer: &Tokenizer, stop: &[String]) -> Self {
        Self { decoder: tokenizer.stream_decoder(), cut: StopCut::new(stop) }
    }

    /// The text that has become certain with this token.
    pub fn push(&mut self, token: u32) -> String {
        let text = self.decoder.push(token).unwrap_or_default();
        self.cut.push(&text)
    }

    /// The rest of the text.
    pub fn finish(mut self) -> String {
        let text = self.decoder.finish().unwrap_or_default();
        let mut rest = self.cut.push(&text);
        rest.push_str(&self.cut.finish());
        rest
    }
}

/// Holds back what may turn out to be the beginning of a stop text.
struct StopCut {
    stop: Vec<String>,
    held: String,
    ended: bool,
}

impl StopCut {
    fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|text| !text.is_empty()).cloned().collect();
        Self { stop, held: String::new(), ended: false }
    }

    fn push(&mut self, text: &str) -> String {
        if self.ended {
            return String::new();
        }
        self.held.push_str(text);
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.ended = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let may_begin = |at: usize| self.stop.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let certain = self.held.char_indices().map(|(at, _)| at).find(|&at| may_begin(at));
        let rest = self.held.split_off(certain.unwrap_or(self.held.len()));
        std::mem::replace(&mut self.held, rest)
    }

    fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// A whole completion's text, cut before the first stop text.
pub fn text_of(tokenizer: &Tokenizer, tokens: &[u32], stop: &[String]) -> String {
    let mut stream = TextStream::new(tokenizer, stop);
    let mut text: String = tokens.iter().map(|&token| stream.push(token)).collect();
    text.push_str(&stream.finish());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stop: &[&str], parts: &[&str]) -> Vec<String> {
        let mut cut = StopCut::new(&stop.iter().map(|text| text.to_string()).collect::<Vec<_>>());
        let mut out: Vec<String> = parts.iter().map(|part| cut.push(part)).collect();
        out.push(cut.finish());
        out
    }

    #[test]
    fn without_stop_texts_everything_passes_at_once() {
        assert_eq!(run(&[], &["a", "bc"]), ["a", "bc", ""]);
    }

    #[test]
    fn a_possible_beginning_is_held_until_it_is_decided() {
        assert_eq!(run(&["\n\n"], &["a\n", "b\n", "\nc", "d"]), ["a", "\nb", "", "", ""]);
        assert_eq!(run(&["END"], &["xE", "N", "X", "EN"]), ["x", "", "ENX", "", "EN"]);
        assert_eq!(run(&["éa"], &["é", "b"]), ["", "éb", ""]);
    }

    #[test]
    fn the_first_of_several_ends_the_text() {
        assert_eq!(run(&["bb", "a"], &["xxbba"]), ["xx", ""]);
        assert_eq!(run(&["aab"], &["aa", "ab", "c"]), ["", "a", "", ""]);
    }
}
