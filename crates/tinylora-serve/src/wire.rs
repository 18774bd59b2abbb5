//! The body of a request enters, a checked [`Generation`] leaves; and the JSON of answers and errors, in the
//! shapes of OpenAI's interface. Nothing here knows a model, a tokenizer or HTTP.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tinylora::inference::Sampling;
use tinylora::tokenizer::Message;

/// Completions of one HTTP request at most (prompts × n).
pub const MOST_CHOICES: usize = 128;
/// Length of a completion when the request names none.
pub const DEFAULT_MAX_TOKENS: usize = 256;
/// Stop texts of a request at most.
const MOST_STOPS: usize = 16;
/// Bytes of a stop text at most.
const LONGEST_STOP: usize = 1024;
/// First seed that is refused: each seed stands for [`MOST_CHOICES`] random streams and more.
const SEED_LIMIT: u64 = 1 << 55;
/// Temperatures between which sampling stays exact.
const TEMPERATURES: std::ops::RangeInclusive<f32> = 0.01..=100.0;

/// What is to be generated, with every field checked on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The base's or an adapter's name.
    pub model: String,
    /// What is to be continued.
    pub input: Input,
    /// Largest number of tokens of a completion; None: the usual, or what there is room for.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// None: another each time.
    pub seed: Option<u64>,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Completions a prompt.
    pub n: usize,
    /// Whether the log-probs of the tokens are wanted.
    pub logprobs: bool,
    /// Whether the answer comes in parts.
    pub stream: bool,
    /// Whether a streamed answer ends with the numbers of tokens.
    pub include_usage: bool,
}

/// What is to be continued.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Texts as they stand.
    Texts(Vec<String>),
    /// Prompts that are tokens already.
    Tokens(Vec<Vec<u32>>),
    /// A conversation, through the chat template.
    Chat(Vec<Message>),
}

/// An answer that is none, as OpenAI has it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// What is wrong and what to do.
    pub message: String,
    /// `code`, for programs.
    pub code: &'static str,
    /// The field at fault.
    pub param: Option<String>,
}

impl ApiError {
    /// An error with this status.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None }
    }

    /// A field that holds what it may not.
    fn field(name: &str, problem: impl std::fmt::Display) -> Self {
        let param = Some(name.to_owned());
        Self { param, ..Self::new(400, "invalid_value", format!("`{name}`: {problem}")) }
    }

    /// `{"error": …}`
    pub fn body(&self) -> Value {
        let kind = if self.status < 500 { "invalid_request_error" } else { "server_error" };
        serde_json::json!({"error": {
            "message": self.message, "type": kind, "param": self.param, "code": self.code,
        }})
    }
}

/// Reads the body of `POST /v1/completions`.
pub fn completion(body: &[u8]) -> Result<Generation, ApiError> {
    let mut fields = Fields::parse(body)?;
    let input = match fields.required::<PromptField>("prompt")? {
        PromptField::Text(text) => Input::Texts(vec![text]),
        PromptField::Texts(texts) => Input::Texts(texts),
        PromptField::Tokens(tokens) => Input::Tokens(vec![tokens]),
        PromptField::ManyTokens(prompts) => Input::Tokens(prompts),
    };
    let logprobs = match fields.take::<u64>("logprobs")? {
        None => false,
        Some(0 | 1) => true,
        Some(_) => return Err(ApiError::field("logprobs", "0 or 1 is possible: those of the chosen tokens")),
    };
    let max_tokens = fields.take("max_tokens")?;
    fields.generation(input, max_tokens, logprobs)
}

/// Reads the body of `POST /v1/chat/completions`.
pub fn chat(body: &[u8]) -> Result<Generation, ApiError> {
    let mut fields = Fields::parse(body)?;
    let messages: Vec<MessageField> = fields.required("messages")?;
    if messages.is_empty() {
        return Err(ApiError::field("messages", "it is empty; give at least one message"));
    }
    let messages = messages.into_iter().map(MessageField::into_message).collect();
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    let (old, new) = (fields.take("max_tokens")?, fields.take("max_completion_tokens")?);
    fields.generation(Input::Chat(messages), new.or(old), logprobs)
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a text, a list of texts, a list of token ids or a list of such lists is wanted"
)]
enum PromptField {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts is wanted")]
enum StopField {
    Text(String),
    Texts(Vec<String>),
}

#[derive(Deserialize)]
struct MessageField {
    role: String,
    content: ContentField,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "content must be a text or a list of {\"type\": \"text\", \"text\": …}")]
enum ContentField {
    Text(String),
    Parts(Vec<PartField>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum PartField {
    Text { text: String },
}

impl MessageField {
    fn into_message(self) -> Message {
        let content = match self.content {
            ContentField::Text(text) => text,
            ContentField::Parts(parts) => parts.into_iter().map(|PartField::Text { text }| text).collect(),
        };
        Message { role: self.role, content }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Fields that clients send and that change nothing here.
const IGNORED: [&str; 4] = ["user", "metadata", "store", "service_tier"];

/// The fields of a request that nobody has taken yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let bad = |problem: String| ApiError::new(400, "invalid_json", problem);
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(bad("the body must be a JSON object".into())),
            Err(error) => Err(bad(format!("the body is no JSON: {error}"))),
        }
    }

    /// null is the same as nothing.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                serde_json::from_value(value).map(Some).map_err(|error| ApiError::field(name, error))
            }
        }
    }

    fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| ApiError::field(name, "it is missing"))
    }

    fn generation(
        mut self,
        input: Input,
        max_tokens: Option<usize>,
        logprobs: bool,
    ) -> Result<Generation, ApiError> {
        if max_tokens == Some(0) {
            return Err(ApiError::field("max_tokens", "it must be at least 1"));
        }
        let stream_options: StreamOptions = self.take("stream_options")?.unwrap_or_default();
        let generation = Generation {
            model: self.required("model")?,
            sampling: self.sampling()?,
            seed: self.take("seed")?,
            stop: self.stop()?,
            n: self.take("n")?.unwrap_or(1),
            stream: self.take("stream")?.unwrap_or(false),
            include_usage: stream_options.include_usage,
            input,
            max_tokens,
            logprobs,
        };
        if generation.seed.is_some_and(|seed| seed >= SEED_LIMIT) {
            return Err(ApiError::field("seed", format!("it must be below {SEED_LIMIT}")));
        }
        let prompts = match &generation.input {
            Input::Texts(texts) => texts.len(),
            Input::Tokens(prompts) => prompts.len(),
            Input::Chat(_) => 1,
        };
        if prompts == 0 {
            return Err(ApiError::field("prompt", "it is an empty list; give at least one prompt"));
        }
        if generation.n == 0 || generation.n > MOST_CHOICES / prompts.min(MOST_CHOICES + 1) {
            let most = format!("1 to {MOST_CHOICES} completions in all are possible");
            return Err(ApiError::field("n", format!("{} for {prompts} prompts: {most}", generation.n)));
        }
        self.finish()?;
        Ok(generation)
    }

    fn sampling(&mut self) -> Result<Sampling, ApiError> {
        let temperature: f32 = self.take("temperature")?.unwrap_or(1.0);
        let top_p: f32 = self.take("top_p")?.unwrap_or(1.0);
        let top_k: usize = self.take("top_k")?.unwrap_or(0);
        if temperature != 0.0 && !TEMPERATURES.contains(&temperature) {
            let wanted = "it must be 0, or between 0.01 and 100";
            return Err(ApiError::field("temperature", format!("{temperature}: {wanted}")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(ApiError::field("top_p", format!("{top_p}: it must be above 0 and at most 1")));
        }
        Ok(Sampling { temperature, top_p, top_k })
    }

    fn stop(&mut self) -> Result<Vec<String>, ApiError> {
        let stop = match self.take::<StopField>("stop")? {
            None => Vec::new(),
            Some(StopField::Text(text)) => vec![text],
            Some(StopField::Texts(texts)) => texts,
        };
        if stop.len() > MOST_STOPS || stop.iter().any(|text| text.is_empty() || text.len() > LONGEST_STOP) {
            let wanted = format!("up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} bytes are possible");
            return Err(ApiError::field("stop", wanted));
        }
        Ok(stop)
    }

    /// Refuses what would be silently left undone; settings that ask for the usual are fine.
    fn finish(self) -> Result<(), ApiError> {
        for (name, value) in &self.0 {
            let is = |wanted: f64| value.as_f64() == Some(wanted);
            let usual = match name.as_str() {
                name if IGNORED.contains(&name) => true,
                "frequency_penalty" | "presence_penalty" | "top_logprobs" => is(0.0),
                "best_of" => is(1.0),
                "echo" => *value == Value::Bool(false),
                "logit_bias" => value.as_object().is_some_and(Map::is_empty),
                "tools" => value.as_array().is_some_and(Vec::is_empty),
                "response_format" => value["type"] == "text",
                _ => false,
            };
            if !usual && !value.is_null() {
                let problem = format!("`{name}`: this field, or its value, is not supported; leave it out");
                let param = Some(name.clone());
                return Err(ApiError { param, ..ApiError::new(400, "unsupported_field", problem) });
            }
        }
        Ok(())
    }
}

/// Numbers of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Of all prompts.
    pub prompt_tokens: usize,
    /// Of all completions, end tokens included.
    pub completion_tokens: usize,
    /// The sum.
    pub total_tokens: usize,
}

impl Usage {
    /// Both, and their sum.
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// A token with its log-prob.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Its text, special tokens as they are written.
    pub text: String,
    /// ln p in the distribution that it was chosen from.
    pub logprob: f32,
}

/// `logprobs` of `/v1/completions`; `offset` is where the first token's text begins, in characters.
pub fn completion_logprobs(tokens: &[TokenLogprob], offset: usize) -> Value {
    let mut at = offset;
    let offsets: Vec<usize> = tokens
        .iter()
        .map(|token| {
            let begin = at;
            at += token.text.chars().count();
            begin
        })
        .collect();
    serde_json::json!({
        "tokens": tokens.iter().map(|token| &token.text).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": null,
        "text_offset": offsets,
    })
}

/// `logprobs` of `/v1/chat/completions`.
pub fn chat_logprobs(tokens: &[TokenLogprob]) -> Value {
    let content: Vec<Value> = tokens
        .iter()
        .map(|token| {
            let bytes = token.text.as_bytes();
            serde_json::json!({"token": token.text, "logprob": token.logprob, "bytes": bytes, "top_logprobs": []})
        })
        .collect();
    serde_json::json!({"content": content, "refusal": null})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_the_usual_value() {
        let read = completion(br#"{"model": "m", "prompt": "p", "stop": null, "user": "u", "echo": false}"#);
        let wanted = Generation {
            model: "m".into(),
            input: Input::Texts(vec!["p".into()]),
            max_tokens: None,
            sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 },
            seed: None,
            stop: vec![],
            n: 1,
            logprobs: false,
            stream: false,
            include_usage: false,
        };
        assert_eq!(read, Ok(wanted));
    }

    #[test]
    fn prompts_are_texts_or_tokens() {
        let input = |prompt: &str| {
            completion(format!(r#"{{"model": "m", "prompt": {prompt}}}"#).as_bytes()).map(|g| g.input)
        };
        assert_eq!(input(r#"["a", "b"]"#), Ok(Input::Texts(vec!["a".into(), "b".into()])));
        assert_eq!(input("[1, 2]"), Ok(Input::Tokens(vec![vec![1, 2]])));
        assert_eq!(input("[[1], [2]]"), Ok(Input::Tokens(vec![vec![1], vec![2]])));
        assert!(input("[]").is_err() && input("7").is_err());
    }

    #[test]
    fn messages_are_texts_or_parts() {
        let body = br#"{"model": "m", "max_completion_tokens": 3, "logprobs": true, "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}"#;
        let read = chat(body).unwrap();
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        assert_eq!(read.input, Input::Chat(vec![message("system", "s"), message("user", "ab")]));
        assert_eq!((read.max_tokens, read.logprobs), (Some(3), true));
        let image = br#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#;
        assert_eq!(chat(image).unwrap_err().param.as_deref(), Some("messages"));
    }

    #[test]
    fn errors_name_the_field() {
        for (field, value) in [
            ("max_tokens", "0"),
            ("max_tokens", "\"8\""),
            ("temperature", "-1"),
            ("temperature", "1e-30"),
            ("top_p", "0"),
            ("top_p", "1.5"),
            ("n", "129"),
            ("n", "0"),
            ("seed", "-1"),
            ("seed", "36028797018963968"),
            ("stop", "[\"\"]"),
            ("logprobs", "5"),
            ("stream", "1"),
            ("stream_options", "{\"else\": 1}"),
            ("frequency_penalty", "0.5"),
            ("temprature", "1"),
        ] {
            let body = format!(r#"{{"model": "m", "prompt": "p", "{field}": {value}}}"#);
            let error = completion(body.as_bytes()).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (400, Some(field)), "{field} {value}");
            assert!(error.message.contains(field), "{}", error.message);
        }
        assert_eq!(completion(b"[]").unwrap_err().code, "invalid_json");
        assert_eq!(completion(b"{").unwrap_err().code, "invalid_json");
        assert_eq!(completion(b"{\"prompt\": \"p\"}").unwrap_err().param.as_deref(), Some("model"));
    }

    #[test]
    fn logprobs_have_openais_shape() {
        let token = |text: &str, logprob| TokenLogprob { text: text.into(), logprob };
        let tokens = [token("é", -0.5), token("ab", -1.0)];
        let wanted = serde_json::json!({
            "tokens": ["é", "ab"], "token_logprobs": [-0.5, -1.0], "top_logprobs": null, "text_offset": [3, 4]});
        assert_eq!(completion_logprobs(&tokens, 3), wanted);
        assert_eq!(chat_logprobs(&tokens)["content"][0]["bytes"], serde_json::json!([195, 169]));
    }
}
