//! When a completion is at its end: the model's end tokens, and texts given by the user.

use crate::inference::Stop;
use crate::tokenizer::Tokenizer;

/// Ends a completion at an end token, or as soon as its text contains one of the stop texts.
#[derive(Clone)]
pub struct TextStop<'a> {
    tokenizer: &'a Tokenizer,
    texts: Vec<String>,
    longest: usize,
}

impl<'a> TextStop<'a> {
    /// Empty texts are left out.
    pub fn new(tokenizer: &'a Tokenizer, texts: &[String]) -> Self {
        let texts: Vec<String> = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        Self { tokenizer, texts, longest }
    }
}

impl Stop for TextStop<'_> {
    fn is_end(&self, _request: usize, tokens: &[u32]) -> bool {
        let Some(last) = tokens.last() else { return false };
        if self.tokenizer.end_tokens().contains(last) {
            return true;
        }
        if self.texts.is_empty() {
            return false;
        }
        // A token has at least one byte, so a text that ends with the last token lies in so many tokens; a few
        // more, as a stop text may begin inside a token.
        let tail = &tokens[tokens.len().saturating_sub(self.longest + 4)..];
        let text = self.tokenizer.decode(tail);
        self.texts.iter().any(|stop| text.contains(stop))
    }
}
