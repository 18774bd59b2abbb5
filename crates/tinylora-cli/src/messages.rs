//! JSON lines enter, conversations or texts to score leave. Errors name file and line.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::io::Read;
use std::path::Path;
use tinylora::tokenizer::{Message, Tokenizer};

/// Reads a file, or standard input for `-`.
pub fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConversationLine {
    Whole { messages: Vec<Message> },
    One(Message),
}

/// The conversations of a file: one of all its lines where each is a message, else one a line.
pub fn conversations(name: &str, text: &str) -> Result<Vec<Vec<Message>>> {
    let mut whole = Vec::new();
    let mut single = Vec::new();
    for (number, line) in numbered(text) {
        let place = || format!("{name}, line {number}");
        match parse(line).with_context(place)? {
            ConversationLine::Whole { messages } if messages.is_empty() => {
                bail!("{}: \"messages\" is empty", place());
            }
            ConversationLine::Whole { messages } => whole.push(messages),
            ConversationLine::One(message) => single.push(message),
        }
        if !whole.is_empty() && !single.is_empty() {
            bail!("{}: a file holds either messages or conversations, a line each, not both", place());
        }
    }
    match (whole.is_empty(), single.is_empty()) {
        (true, true) => bail!("{name}: there is no message in it"),
        (true, false) => Ok(vec![single]),
        _ => Ok(whole),
    }
}

fn parse(line: &str) -> Result<ConversationLine> {
    // Through a value, so that what is not JSON is told apart from JSON of another form.
    let value: serde_json::Value = serde_json::from_str(line).context("not valid JSON")?;
    let form = "expected {\"role\": \"…\", \"content\": \"…\"} or {\"messages\": [such messages]}";
    serde_json::from_value(value).map_err(|_| anyhow::anyhow!(form))
}

/// One thing to score.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum ScoreItem {
    /// A text.
    Text {
        /// The text.
        text: String,
    },
    /// Token ids.
    Tokens {
        /// The ids.
        tokens: Vec<u32>,
    },
    /// A conversation, as the chat template writes it.
    Messages {
        /// The messages.
        messages: Vec<Message>,
    },
}

impl ScoreItem {
    /// The ids to score.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        Ok(match self {
            Self::Text { text } => tokenizer.encode(text, true)?,
            Self::Tokens { tokens } => tokens.clone(),
            Self::Messages { messages } => tokenizer.encode_chat(messages, false)?,
        })
    }
}

/// The lines of a file to score, with their numbers.
pub fn score_items(name: &str, text: &str) -> Result<Vec<(usize, ScoreItem)>> {
    let items: Result<Vec<_>> = numbered(text)
        .map(|(number, line)| {
            let place = || format!("{name}, line {number}");
            let value: serde_json::Value =
                serde_json::from_str(line).context("not valid JSON").with_context(place)?;
            let keys = ["text", "tokens", "messages"].iter().filter(|key| value.get(key).is_some()).count();
            let form = "expected one of {\"text\": \"…\"}, {\"tokens\": [ids]}, {\"messages\": […]}";
            if keys != 1 {
                bail!("{}: {form}", place());
            }
            let item = serde_json::from_value(value).map_err(|_| anyhow::anyhow!("{}: {form}", place()))?;
            Ok((number, item))
        })
        .collect();
    let items = items?;
    if items.is_empty() {
        bail!("{name}: there is no line in it");
    }
    Ok(items)
}

/// Lines that hold something, with their numbers.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    #[test]
    fn a_message_a_line_is_one_conversation() {
        let text = "{\"role\":\"system\",\"content\":\"s\"}\n\n{\"role\":\"user\",\"content\":\"u\"}\n";
        let conversations = conversations("f", text).unwrap();
        assert_eq!(conversations, [vec![message("system", "s"), message("user", "u")]]);
    }

    #[test]
    fn a_conversation_a_line_are_several() {
        let line = "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}\n";
        assert_eq!(
            conversations("f", &line.repeat(2)).unwrap(),
            [[message("user", "u")], [message("user", "u")]]
        );
    }

    #[test]
    fn mistakes_name_their_line() {
        let error = |text: &str| format!("{:#}", conversations("chat.jsonl", text).unwrap_err());
        assert!(
            error("{\"role\":\"user\",\"content\":\"u\"}\n{\"role\":1}")
                .starts_with("chat.jsonl, line 2: expected")
        );
        assert!(error("{oops").starts_with("chat.jsonl, line 1: not valid JSON"));
        assert!(error("\n").contains("no message"));
        assert!(error("{\"messages\":[]}").contains("is empty"));
        let both =
            "{\"role\":\"user\",\"content\":\"u\"}\n{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}";
        assert!(error(both).contains("line 2: a file holds either"));
    }

    #[test]
    fn what_to_score() {
        let text =
            "{\"text\":\"a\"}\n{\"tokens\":[1,2]}\n{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}";
        let items: Vec<ScoreItem> =
            score_items("f", text).unwrap().into_iter().map(|(_, item)| item).collect();
        assert_eq!(items[0], ScoreItem::Text { text: "a".into() });
        assert_eq!(items[1], ScoreItem::Tokens { tokens: vec![1, 2] });
        assert_eq!(items[2], ScoreItem::Messages { messages: vec![message("user", "u")] });
        let error = |text: &str| format!("{:#}", score_items("f", text).unwrap_err());
        assert!(error("{\"tokens\":[-1]}").starts_with("f, line 1: expected one of"));
        assert!(error("{\"text\":\"a\",\"tokens\":[1]}").starts_with("f, line 1: expected one of"));
        assert!(error("{\"prompt\":\"a\"}").starts_with("f, line 1: expected one of"));
    }
}
