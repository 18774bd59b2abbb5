//! Serving a base model and its adapters over HTTP, in the shapes of OpenAI's interface: options enter, requests
//! are answered until somebody says stop. The only crate with async code.
//!
//! One thread owns the engine. All requests that wait are run together in one batch, whichever adapter each names;
//! a batch runs to its end, so a request that comes later waits for the next one.

mod engine;
mod http;
pub mod wire;

use engine::{Job, Loaded};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tinylora::adapter::{self, AdapterFileError, AnyAdapter, Target};
use tinylora::base::{AdapterSet, Base, BaseError, Loading, adapter_sets};
use tinylora::hub::{HubOptions, cache_dir};
use tinylora::model::{KvCache, R, kv_precision};
use tinylora::recipe::WeightDtype;
use tinylora_compute::Cpu;
use tinylora_compute::attention::BLOCK_TOKENS;
use tokio::sync::{mpsc, oneshot};

/// What is served, and how.
pub struct ServeOptions {
    /// Where computing happens.
    pub cpu: Cpu,
    /// Where models come from.
    pub hub: HubOptions,
    /// Address to listen at.
    pub host: String,
    /// Port; 0: any free one.
    pub port: u16,
    /// Reference of the base model; also its name in requests.
    pub model: String,
    /// Precision of the weights.
    pub dtype: WeightDtype,
    /// Names of adapters with their files or text forms.
    pub adapters: Vec<(String, String)>,
    /// Sequences that run at once at most.
    pub max_batch: usize,
    /// Memory for keys and values; one sequence of full length has room in any case.
    pub cache_bytes: usize,
    /// Largest body of a request.
    pub body_bytes: usize,
    /// Requests that wait at most.
    pub waiting: usize,
}

impl ServeOptions {
    /// A base model without adapters at 127.0.0.1:8080, for callers on the same machine only.
    pub fn new(cpu: Cpu, hub: HubOptions, model: &str) -> Self {
        Self {
            cpu,
            hub,
            host: "127.0.0.1".into(),
            port: 8080,
            model: model.to_owned(),
            dtype: WeightDtype::Bf16,
            adapters: Vec::new(),
            max_batch: 32,
            cache_bytes: 1 << 30,
            body_bytes: 1 << 20,
            waiting: 256,
        }
    }
}

/// What a server tells whoever shows it.
#[derive(Debug)]
pub enum News {
    /// The model is being loaded.
    Loading(Loading),
    /// Requests are answered from now on.
    Listening(SocketAddr),
    /// No new requests; those begun are finished.
    Stopping,
}

/// Why there is no server (any more).
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The model or an adapter can't be loaded.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// An adapter's file can't be read.
    #[error(transparent)]
    AdapterFile(#[from] AdapterFileError),
    /// Two models of one name.
    #[error("two models would be called \"{name}\"; give each adapter a name of its own")]
    Name {
        /// The name.
        name: String,
    },
    /// Adapters of different shape cannot share a batch.
    #[error(
        "adapter {other} has rank {other_rank} on {other_targets}, but {first} has rank {first_rank} on \
         {first_targets}; adapters that are served together must have the same factors: start one server for each kind"
    )]
    MixedAdapters {
        /// The first adapter's name.
        first: String,
        /// Its rank.
        first_rank: usize,
        /// Its targets.
        first_targets: String,
        /// The name of the one that differs.
        other: String,
        /// Its rank.
        other_rank: usize,
        /// Its targets.
        other_targets: String,
    },
    /// The address can't be had.
    #[error("cannot listen at {host}:{port}: {source}; choose another host or port")]
    Listen {
        /// Host.
        host: String,
        /// Port.
        port: u16,
        /// The reason.
        source: std::io::Error,
    },
    /// The system refuses threads, sockets or signals.
    #[error("the server cannot run: {0}")]
    System(#[from] std::io::Error),
    /// The engine's thread broke down.
    #[error("the engine stopped unexpectedly; what it said stands above")]
    EngineStopped,
}

/// Serves until Ctrl-C (or SIGTERM): then answers that are being written are finished; at the second one they are
/// broken off. Must not be called from async code.
pub fn serve(options: ServeOptions, report: &mut dyn FnMut(News)) -> Result<(), ServeError> {
    run(options, signals, report)
}

/// The same, but each message of `stops` counts as one Ctrl-C; so does the end of the channel.
pub fn serve_until(
    options: ServeOptions,
    stops: mpsc::Receiver<()>,
    report: &mut dyn FnMut(News),
) -> Result<(), ServeError> {
    run(options, || Ok(stops), report)
}

/// A message for each signal to end.
fn signals() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let (mut signal, sender) = (signal(kind)?, sender.clone());
            tokio::spawn(
                async move { while signal.recv().await.is_some() && sender.send(()).await.is_ok() {} },
            );
        }
    }
    #[cfg(not(unix))]
    tokio::spawn(
        async move { while tokio::signal::ctrl_c().await.is_ok() && sender.send(()).await.is_ok() {} },
    );
    Ok(receiver)
}

fn run(
    options: ServeOptions,
    stops: impl FnOnce() -> std::io::Result<mpsc::Receiver<()>>,
    report: &mut dyn FnMut(News),
) -> Result<(), ServeError> {
    // Before the model, so that a port in use is found at once.
    let (host, port) = (options.host.clone(), options.port);
    let listener = std::net::TcpListener::bind((host.as_str(), port))
        .map_err(|source| ServeError::Listen { host, port, source })?;
    listener.set_nonblocking(true)?;
    let (waiting, body_bytes) = (options.waiting.max(1), options.body_bytes);
    let loaded = Arc::new(load(options, &mut |loading| report(News::Loading(loading)))?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let interrupt = Arc::new(AtomicBool::new(false));
    let (jobs, queue) = mpsc::channel::<Job>(waiting);
    let (alive, engine_ended) = oneshot::channel::<()>();
    let thread = {
        let (loaded, interrupt) = (loaded.clone(), interrupt.clone());
        std::thread::Builder::new().name("engine".into()).spawn(move || {
            let _alive = alive;
            engine::run(&loaded, queue, &interrupt);
        })?
    };
    let router = http::router(loaded, jobs, body_bytes);
    let result = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stops = stops()?;
        report(News::Listening(listener.local_addr()?));
        answer(listener, router, stops, engine_ended, report).await
    });
    // Whatever still runs is given up; without connections nobody can send jobs, and the engine's thread ends.
    interrupt.store(true, Ordering::Relaxed);
    drop(runtime);
    thread.join().map_err(|_| ServeError::EngineStopped)?;
    result
}

/// Answers requests until the first stop, then finishes those begun or is stopped a second time.
async fn answer(
    listener: tokio::net::TcpListener,
    router: axum::Router,
    mut stops: mpsc::Receiver<()>,
    mut engine_ended: oneshot::Receiver<()>,
    report: &mut dyn FnMut(News),
) -> Result<(), ServeError> {
    let (close, closed) = oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async {
        let _ = closed.await;
    });
    let mut server = tokio::spawn(async { server.await });
    let ended = |joined: Result<std::io::Result<()>, tokio::task::JoinError>| -> Result<(), ServeError> {
        Ok(joined.map_err(std::io::Error::other)??)
    };
    tokio::select! {
        joined = &mut server => return ended(joined),
        _ = &mut engine_ended => return Err(ServeError::EngineStopped),
        _ = stops.recv() => {}
    }
    report(News::Stopping);
    let _ = close.send(());
    tokio::select! {
        // The engine ends by itself once the server is gone.
        biased;
        joined = &mut server => ended(joined),
        Some(()) = stops.recv() => Ok(()),
    }
}

fn load(options: ServeOptions, report: &mut dyn FnMut(Loading)) -> Result<Loaded, ServeError> {
    let mut names = vec![options.model.clone()];
    let mut files: Vec<(&str, AnyAdapter)> = Vec::new();
    for (name, file) in &options.adapters {
        if names.contains(name) {
            return Err(ServeError::Name { name: name.clone() });
        }
        names.push(name.clone());
        files.push((name, adapter::load(file)?));
    }
    let (cpu, hub) = (options.cpu, &options.hub);
    let base = Base::open(&cpu, &options.model, options.dtype, 0, hub, report)?;
    let cache = cache_dir(hub).join("factors");
    let named: Vec<(&str, &AnyAdapter)> = files.iter().map(|(name, file)| (*name, file)).collect();
    let mut sets = adapter_sets(&cpu, &base, &named, &cache, report)?;
    if let [first, other, ..] = &sets[..] {
        return Err(mixed(&files, first, other));
    }
    let (factors, matrices) = match sets.pop() {
        None => (None, Vec::new()),
        Some(set) => {
            // The base itself: R = 0.
            let mut matrices = vec![R::Multiples(vec![0.0; set.modules.len()])];
            matrices.extend(set.matrices);
            (Some(set.factors), matrices)
        }
    };
    let one = base.model.positions().div_ceil(BLOCK_TOKENS) + 1;
    let affordable = options.cache_bytes
        / KvCache::block_bytes(&base.model.config, kv_precision(&cpu, base.model.precision())).max(1);
    let max_batch = options.max_batch.max(1);
    let blocks = affordable.min(one.saturating_mul(max_batch)).max(one);
    Ok(Loaded { cpu, base, factors, names, matrices, blocks, max_batch })
}

/// Two sets of adapters with different factors.
fn mixed(files: &[(&str, AnyAdapter)], first: &AdapterSet, other: &AdapterSet) -> ServeError {
    let name = |set: &AdapterSet| files[set.members[0]].0.to_owned();
    let targets = |set: &AdapterSet| {
        let kinds = Target::ALL.into_iter().filter(|&target| set.modules.iter().any(|m| m.target == target));
        kinds.map(|target| target.name()).collect::<Vec<_>>().join(", ")
    };
    ServeError::MixedAdapters {
        first: name(first),
        first_rank: first.factors.rank(),
        first_targets: targets(first),
        other: name(other),
        other_rank: other.factors.rank(),
        other_targets: targets(other),
    }
}
