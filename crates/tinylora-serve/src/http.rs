//! Routes: HTTP requests enter, jobs for the engine's thread leave; its events enter, one answer or a stream of
//! server-sent events leaves. Nothing here generates.

use crate::engine::{Event, Job, Loaded};
use crate::wire::{self, ApiError, DEFAULT_MAX_TOKENS, Generation, Input, TokenLogprob, Usage};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_core::Stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};
use tinylora::inference::{Finish, Request};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, unbounded_channel};

/// Random streams that belong to one seed.
const STREAMS_A_SEED: u64 = 256;

/// What the routes share.
pub struct App {
    loaded: Arc<Loaded>,
    jobs: Sender<Job>,
    started: u64,
    /// Number of the next answer; begins elsewhere at each start, so that unseeded answers differ.
    next: AtomicU64,
}

/// All routes; a body may have so many bytes.
pub fn router(loaded: Arc<Loaded>, jobs: Sender<Job>, body_bytes: usize) -> Router {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let next = AtomicU64::new(now.as_nanos() as u64);
    let app = Arc::new(App { loaded, jobs, started: now.as_secs(), next });
    Router::new()
        .route("/health", get(async || Json(json!({"status": "ok"}))))
        .route("/v1/models", get(models))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(async || failure(&ApiError::new(404, "not_found", "there is nothing at this path")))
        .method_not_allowed_fallback(async || {
            failure(&ApiError::new(405, "method_not_allowed", "this path takes another method"))
        })
        .layer(DefaultBodyLimit::max(body_bytes))
        .with_state(app)
}

fn failure(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(error.body())).into_response()
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let base = &app.loaded.names[0];
    let model = |(index, name): (usize, &String)| {
        let parent = (index > 0).then_some(base);
        json!({"id": name, "object": "model", "created": app.started, "owned_by": "tinylora", "parent": parent})
    };
    let data: Vec<Value> = app.loaded.names.iter().enumerate().map(model).collect();
    Json(json!({"object": "list", "data": data}))
}

type Body = Result<Bytes, BytesRejection>;

async fn completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let generation = checked(&headers, body).and_then(|body| wire::completion(&body));
    respond(&app, generation, false).await
}

async fn chat_completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let generation = checked(&headers, body).and_then(|body| wire::chat(&body));
    respond(&app, generation, true).await
}

/// Other content types are refused, as a page of a stranger could send them from a browser unasked.
fn checked(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        let message = "the body must be JSON: send the header Content-Type: application/json";
        return Err(ApiError::new(415, "unsupported_media_type", message));
    }
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(413, "body_too_large", rejection.body_text()),
        _ => ApiError::new(400, "bad_body", rejection.body_text()),
    })
}

async fn respond(app: &App, generation: Result<Generation, ApiError>, chat: bool) -> Response {
    let started = generation.and_then(|generation| {
        let stream = generation.stream;
        start(app, &generation, chat).map(|(reply, events)| (reply, events, stream))
    });
    match started {
        Err(error) => failure(&error),
        Ok((reply, events, true)) => {
            Sse::new(Chunks::new(reply, events)).keep_alive(KeepAlive::default()).into_response()
        }
        Ok((reply, events, false)) => match reply.collect(events).await {
            Ok(body) => Json(body).into_response(),
            Err(error) => failure(&error),
        },
    }
}

/// Puts the job into the queue.
fn start(
    app: &App,
    generation: &Generation,
    chat: bool,
) -> Result<(Reply, UnboundedReceiver<Event>), ApiError> {
    let number = app.next.fetch_add(1, Ordering::Relaxed);
    // Seeds lie below 2⁵⁵, so their streams are in the lower half of the numbers.
    let stream = match generation.seed {
        Some(seed) => seed * STREAMS_A_SEED,
        None => 1 << 63 | number.wrapping_mul(STREAMS_A_SEED),
    };
    let requests = requests(&app.loaded, generation, stream)?;
    let reply = Reply {
        chat,
        id: format!("{}-{number:016x}", if chat { "chatcmpl" } else { "cmpl" }),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        model: generation.model.clone(),
        choices: requests.iter().map(|request| request.samples).sum(),
        prompt_tokens: requests.iter().map(|request| request.prompt.len()).sum(),
        logprobs: generation.logprobs,
        include_usage: generation.include_usage,
    };
    let (sender, events) = unbounded_channel();
    let (stop, logprobs) = (generation.stop.clone(), generation.logprobs);
    app.jobs.try_send(Job { requests, stop, logprobs, events: sender }).map_err(|error| match error {
        TrySendError::Full(_) => ApiError::new(503, "overloaded", "too many requests wait; try again later"),
        TrySendError::Closed(_) => stopped(),
    })?;
    Ok((reply, events))
}

fn stopped() -> ApiError {
    ApiError::new(500, "engine_stopped", "the engine has stopped; the server must be started again")
}

/// The engine's requests, one a prompt, each known to fit.
fn requests(loaded: &Loaded, generation: &Generation, stream: u64) -> Result<Vec<Request>, ApiError> {
    let Some(adapter) = loaded.names.iter().position(|name| *name == generation.model) else {
        let known = loaded.names.join(", ");
        let message = format!("model \"{}\" is not served here; these are: {known}", generation.model);
        let param = Some("model".to_owned());
        return Err(ApiError { param, ..ApiError::new(404, "model_not_found", message) });
    };
    let prompts = prompts(loaded, &generation.input)?;
    let too_long = |message: String| ApiError::new(413, "context_length_exceeded", message);
    let (positions, mut requests) = (loaded.base.model.positions(), Vec::new());
    for (index, prompt) in prompts.into_iter().enumerate() {
        let length = prompt.len();
        let room = positions.saturating_sub(length);
        let max_tokens = generation.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS.min(room.max(1)));
        if max_tokens > room {
            return Err(too_long(format!(
                "the prompt has {length} tokens and {max_tokens} may follow, but the model takes {positions} in \
                 all; shorten the prompt or lower max_tokens"
            )));
        }
        let request = Request {
            prompt,
            samples: generation.n,
            adapter: adapter as u32,
            // The same always: the seed that was asked for is in the streams' numbers.
            seed: 0,
            stream: stream + (index * generation.n) as u64,
            max_tokens,
            sampling: generation.sampling,
        };
        let blocks = loaded.blocks_of(&request);
        if blocks > loaded.blocks {
            return Err(too_long(format!(
                "the request needs {blocks} cache blocks, but the server has {}; lower max_tokens or n",
                loaded.blocks
            )));
        }
        requests.push(request);
    }
    Ok(requests)
}

fn prompts(loaded: &Loaded, input: &Input) -> Result<Vec<Vec<u32>>, ApiError> {
    let tokenizer = &loaded.base.tokenizer;
    let bad = |message: String| ApiError::new(400, "invalid_prompt", message);
    let prompts = match input {
        Input::Tokens(prompts) => Ok(prompts.clone()),
        Input::Texts(texts) => texts.iter().map(|text| tokenizer.encode(text, true)).collect(),
        Input::Chat(messages) => tokenizer.encode_chat(messages, true).map(|prompt| vec![prompt]),
    };
    let prompts: Vec<Vec<u32>> = prompts.map_err(|error| bad(error.to_string()))?;
    if prompts.iter().any(Vec::is_empty) {
        return Err(bad("a prompt without tokens can't be continued; give at least one".into()));
    }
    let vocabulary = loaded.base.model.config.vocab_size;
    if let Some(token) = prompts.iter().flatten().find(|&&token| token as usize >= vocabulary) {
        return Err(bad(format!("the prompt has token {token}, but the vocabulary has {vocabulary}")));
    }
    Ok(prompts)
}

/// What all parts of one answer share.
struct Reply {
    chat: bool,
    id: String,
    created: u64,
    model: String,
    choices: usize,
    prompt_tokens: usize,
    logprobs: bool,
    include_usage: bool,
}

/// As OpenAI's interface names it.
fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// A completion so far.
#[derive(Default)]
struct Choice {
    text: String,
    tokens: Vec<TokenLogprob>,
    finish: Option<&'static str>,
}

impl Reply {
    fn logprobs(&self, tokens: &[TokenLogprob], offset: usize) -> Value {
        match (self.logprobs, self.chat) {
            (false, _) => Value::Null,
            (true, false) => wire::completion_logprobs(tokens, offset),
            (true, true) => wire::chat_logprobs(tokens),
        }
    }

    /// Waits for all completions.
    async fn collect(self, mut events: UnboundedReceiver<Event>) -> Result<Value, ApiError> {
        let mut choices: Vec<Choice> = (0..self.choices).map(|_| Choice::default()).collect();
        let (mut open, mut completion_tokens) = (self.choices, 0);
        while open > 0 {
            match events.recv().await {
                None => return Err(stopped()),
                Some(Event::Failed(message)) => return Err(ApiError::new(500, "generation_failed", message)),
                Some(Event::Part { choice, text, token }) => {
                    choices[choice].text.push_str(&text);
                    choices[choice].tokens.extend(token);
                }
                Some(Event::Finished { choice, text, finish, tokens }) => {
                    choices[choice].text.push_str(&text);
                    choices[choice].finish = Some(finish_reason(finish));
                    completion_tokens += tokens;
                    open -= 1;
                }
            }
        }
        let choices: Vec<Value> =
            choices.iter().enumerate().map(|(index, choice)| self.choice(index, choice)).collect();
        let object = if self.chat { "chat.completion" } else { "text_completion" };
        let usage = Usage::new(self.prompt_tokens, completion_tokens);
        Ok(json!({"id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices, "usage": usage}))
    }

    fn choice(&self, index: usize, choice: &Choice) -> Value {
        let (finish, logprobs) = (choice.finish, self.logprobs(&choice.tokens, 0));
        if self.chat {
            let message = json!({"role": "assistant", "content": choice.text});
            json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
        } else {
            json!({"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": finish})
        }
    }

    /// One event of a stream.
    fn chunk(&self, choices: Value, usage: Option<Usage>) -> sse::Event {
        let object = if self.chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = json!({"id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices});
        if self.include_usage {
            chunk["usage"] = json!(usage);
        }
        sse::Event::default().data(chunk.to_string())
    }
}

/// A streamed answer.
struct Chunks {
    reply: Reply,
    events: UnboundedReceiver<Event>,
    ready: VecDeque<sse::Event>,
    /// Characters of each completion's tokens so far.
    offsets: Vec<usize>,
    /// Completions that are not finished.
    open: usize,
    completion_tokens: usize,
}

impl Chunks {
    fn new(reply: Reply, events: UnboundedReceiver<Event>) -> Self {
        let mut ready = VecDeque::new();
        for index in (0..reply.choices).filter(|_| reply.chat) {
            let delta = json!({"role": "assistant", "content": ""});
            let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
            ready.push_back(reply.chunk(json!([choice]), None));
        }
        let (offsets, open) = (vec![0; reply.choices], reply.choices);
        Self { reply, events, ready, offsets, open, completion_tokens: 0 }
    }

    fn take(&mut self, event: Option<Event>) {
        match event {
            None => self.fail(&stopped()),
            Some(Event::Failed(message)) => self.fail(&ApiError::new(500, "generation_failed", message)),
            Some(Event::Part { choice, text, token }) => self.part(choice, &text, token, None),
            Some(Event::Finished { choice, text, finish, tokens }) => {
                self.completion_tokens += tokens;
                self.part(choice, &text, None, Some(finish));
                self.open -= 1;
                if self.open == 0 {
                    self.end();
                }
            }
        }
    }

    fn part(&mut self, index: usize, text: &str, token: Option<TokenLogprob>, finish: Option<Finish>) {
        let tokens: Vec<TokenLogprob> = token.into_iter().collect();
        let logprobs = match tokens.is_empty() {
            true => Value::Null,
            false => self.reply.logprobs(&tokens, self.offsets[index]),
        };
        self.offsets[index] += tokens.iter().map(|token| token.text.chars().count()).sum::<usize>();
        let finish = finish.map(finish_reason);
        let choice = if self.reply.chat {
            let delta = if text.is_empty() { json!({}) } else { json!({"content": text}) };
            json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
        } else {
            json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
        };
        self.ready.push_back(self.reply.chunk(json!([choice]), None));
    }

    fn end(&mut self) {
        if self.reply.include_usage {
            let usage = Usage::new(self.reply.prompt_tokens, self.completion_tokens);
            self.ready.push_back(self.reply.chunk(json!([]), Some(usage)));
        }
        self.ready.push_back(sse::Event::default().data("[DONE]"));
    }

    fn fail(&mut self, error: &ApiError) {
        self.ready.push_back(sse::Event::default().data(error.body().to_string()));
        self.open = 0;
    }
}

impl Stream for Chunks {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.open == 0 {
                return Poll::Ready(None);
            }
            match self.events.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => self.take(event),
            }
        }
    }
}
