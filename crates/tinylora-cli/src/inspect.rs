//! `tinylora adapter inspect` and `tinylora model inspect | pull`: a file or reference enters, what it is leaves on
//! standard output. No model is loaded into memory.

use crate::draw::{self, Style, Tone};
use crate::format::{bytes, count, grouped};
use crate::interrupt;
use crate::loading::LoadingDisplay;
use crate::screen::{Screen, stdout_style};
use anyhow::Result;
use std::path::{Path, PathBuf};
use tinylora::adapter::{
    AdapterFile, AnyAdapter, BaseIdentity, Method, RunMetadata, Standalone, Target, load,
};
use tinylora::base::Loading;
use tinylora::gguf::TensorType;
use tinylora::hub::{self, HubOptions, ModelFiles, ModelLayout};
use tinylora::model::config::{ModelConfig, RopeScaling};
use tinylora::model::weights::Weights;
use tinylora::recipe::{AdapterKind, Projection, StoragePrecision, Tying, WeightDtype};
use tinylora::tokenizer::Tokenizer;

/// `tinylora adapter inspect FILE`
pub fn adapter(file: &str) -> Result<()> {
    let adapter = load(file)?;
    let size = adapter.to_bytes()?.len();
    let style = stdout_style();
    match &adapter {
        AnyAdapter::Seeded(adapter) => {
            print!("{}", describe_adapter(adapter, size, style));
            println!("\nas text\n  {}", adapter.to_text()?);
        }
        AnyAdapter::Standalone(adapter) => print!("{}", describe_standalone(adapter, size, style)),
    }
    Ok(())
}

/// More numbers than this are not drawn one by one.
const MOST_BARS: usize = 64;

fn describe_adapter(adapter: &AdapterFile, size: usize, style: Style) -> String {
    let (spec, base, run) = (&adapter.spec, &adapter.base, &adapter.run);
    let precision = match spec.storage_precision {
        StoragePrecision::Bf16 => "bf16",
        StoragePrecision::Fp16 => "fp16",
        StoragePrecision::Fp32 => "fp32",
    };
    let mut page = Page::new(style);
    page.heading("adapter");
    page.row(
        "file",
        format!("{}, of which the numbers {}", bytes(size as u64), bytes(spec.payload_bytes() as u64)),
    );
    page.row("trained numbers", format!("{} ({precision})", spec.trainable_parameters()));
    page.row(
        "kind",
        match spec.kind() {
            AdapterKind::TinyLora => {
                format!("TinyLoRA, rank {}, u {}, scale {}", spec.rank, spec.u, spec.scale)
            }
            AdapterKind::LoraXs => format!("LoRA-XS, rank {}, scale {}", spec.rank, spec.scale),
            // Other kinds have no file of this form.
            AdapterKind::Lora | AdapterKind::Full => {
                unreachable!("a specification is TinyLoRA's or LoRA-XS's")
            }
        },
    );
    page.row("sharing", sharing(spec.tying, spec.n_tie, spec.num_modules(), spec.num_groups()));
    page.row("modules", spec.targets.iter().map(|target| target.name()).collect::<Vec<_>>().join(", "));
    let seed = spec.projection_seed;
    page.row(
        "projections",
        match spec.projection {
            Projection::Normal => format!("normal, seed {seed}"),
            Projection::Uniform => format!("uniform, seed {seed}"),
            Projection::Basis => "none: the numbers are R".to_owned(),
        },
    );
    describe_run(&mut page, run);
    describe_base(&mut page, base);
    page.row("trained in", dtype_name(base.dtype).into());
    page.heading("numbers");
    page.text.push_str(&numbers(&adapter.v, style));
    page.text
}

fn describe_standalone(adapter: &Standalone, size: usize, style: Style) -> String {
    let mut page = Page::new(style);
    page.heading("adapter");
    page.row("file", format!("{}, with its own factors", bytes(size as u64)));
    page.row("trained numbers", grouped(adapter.trained_numbers() as u64));
    let scale = match adapter.scale() {
        Some(scale) if adapter.method == Method::Lora => format!(", scale {scale}"),
        _ => String::new(),
    };
    page.row("kind", format!("{}, rank {}{scale}", adapter.method.name(), adapter.rank()));
    page.row("source", adapter.source.clone());
    let kinds: Vec<&str> = Target::ALL
        .into_iter()
        .filter(|&target| adapter.modules.iter().any(|module| module.target == target))
        .map(|target| target.name())
        .collect();
    page.row("modules", format!("{} of {}", adapter.modules.len(), kinds.join(", ")));
    if adapter.method == Method::TinyLora {
        let groups = adapter.num_groups();
        let s = if groups == 1 { "" } else { "s" };
        page.row("sharing", format!("{groups} group{s} of {} numbers", adapter.u));
    }
    if let Some(run) = &adapter.run {
        describe_run(&mut page, run);
    }
    describe_base(&mut page, &adapter.base);
    if adapter.method == Method::TinyLora {
        page.heading("numbers");
        page.text.push_str(&numbers(&adapter.v, style));
    }
    page.text
}

fn describe_run(page: &mut Page, run: &RunMetadata) {
    if !run.name.is_empty() {
        let RunMetadata { name, task, steps, seed, version } = run;
        page.row("run", format!("{name}: {task}, {steps} steps, seed {seed}, tinylora {version}"));
    }
}

fn describe_base(page: &mut Page, base: &BaseIdentity) {
    page.heading("base model");
    page.row("reference", base.reference.clone());
    page.row("family", format!("{:?}, {} parameters", base.family, grouped(base.parameters)));
    page.row(
        "sizes",
        format!(
            "{} layers, hidden size {}, vocabulary {}",
            base.num_layers, base.hidden_size, base.vocab_size
        ),
    );
    page.row("sha256", base.sha256.iter().map(|byte| format!("{byte:02x}")).collect());
}

fn sharing(tying: Tying, n_tie: usize, modules: usize, groups: usize) -> String {
    match (tying, n_tie) {
        (_, 0) => format!("all {modules} modules share one v"),
        (Tying::None, _) => format!("each of {modules} modules has its own v"),
        (Tying::Tiled, n) => {
            format!("tiled, {n} neighbouring modules share one v: {modules} modules, {groups} groups")
        }
        (Tying::Structured, n) => {
            format!("structured, {n} modules of a kind share one v: {modules} modules, {groups} groups")
        }
    }
}

/// Each number with a bar, and what they are together.
fn numbers(v: &[f32], style: Style) -> String {
    let most = draw::largest(v);
    let mut text = String::new();
    for (index, &value) in v.iter().take(MOST_BARS).enumerate() {
        text.push_str(&format!("  {index:>4}  {value:>+12.6}  {}\n", draw::sideways(value, most, 20, style)));
    }
    if v.len() > MOST_BARS {
        text.push_str(&format!("  … {} more\n", grouped((v.len() - MOST_BARS) as u64)));
    }
    let norm = v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    text.push_str(&format!("  |v| = {norm:.6}, largest size {most:.6}\n"));
    text
}

/// `tinylora model inspect REF`
pub fn model(reference: &str) -> Result<()> {
    interrupt::leave_at_once()?;
    let options = HubOptions::from_env();
    let mut display = LoadingDisplay::new(Screen::stderr());
    let mut report = |progress| display.take(&Loading::Hub(progress));
    let files = hub::resolve(reference, &options, &mut report);
    let sha256 =
        files.as_ref().ok().map(|files| hub::weights_sha256(files, &options, &mut report)).transpose();
    display.finish();
    let (files, sha256) = (files?, sha256?.unwrap_or_default());
    let weights = Weights::open(&files)?;
    let tokenizer = Tokenizer::open(&files)?;
    print!("{}", describe_model(&files, &weights, &tokenizer, &sha256, stdout_style()));
    Ok(())
}

fn describe_model(
    files: &ModelFiles,
    weights: &Weights,
    tokenizer: &Tokenizer,
    sha256: &str,
    style: Style,
) -> String {
    let config = weights.config();
    let mut page = Page::new(style);
    page.heading("model");
    page.row("reference", files.reference.clone());
    page.row("files", place(files).display().to_string());
    page.row("sha256", sha256.to_owned());
    page.row("family", format!("{:?}", config.family));
    page.row("parameters", format!("{} ({})", grouped(config.parameters), count(config.parameters)));
    let stored =
        |(dtype, tensors, size): (TensorType, usize, u64)| format!("{dtype:?} {} in {tensors}", bytes(size));
    let stored: Vec<String> = weights.stored_types().into_iter().map(stored).collect();
    page.row("tensors", stored.join(", "));
    describe_config(&mut page, config);
    page.heading("text");
    page.row("tokenizer", format!("{} tokens", grouped(tokenizer.vocab_size() as u64)));
    let name = |id: &u32| format!("{} ({id})", tokenizer.decode_with_special(&[*id]));
    page.row("begins with", tokenizer.bos().as_ref().map_or("no token of its own".into(), name));
    page.row("ends at", tokenizer.end_tokens().iter().map(name).collect::<Vec<_>>().join(", "));
    page.row("chat template", if tokenizer.has_chat_template() { "yes" } else { "no" }.into());
    page.heading("memory");
    page.row("weights, bf16", bytes(2 * config.parameters));
    page.row("weights, f32", bytes(4 * config.parameters));
    page.row("KV cache", format!("{} a token", bytes(kv_bytes_per_token(config))));
    page.text
}

fn describe_config(page: &mut Page, config: &ModelConfig) {
    page.heading("sizes");
    page.row("layers", config.num_layers.to_string());
    page.row("hidden, MLP", format!("{}, {}", config.hidden_size, config.intermediate_size));
    page.row(
        "heads",
        format!(
            "{} queries, {} keys and values, of {}",
            config.num_heads, config.num_kv_heads, config.head_dim
        ),
    );
    let head = if config.tied_head { "the head is the embedding" } else { "with a head of its own" };
    page.row("vocabulary", format!("{}, {head}", grouped(config.vocab_size as u64)));
    page.row("longest text", format!("{} tokens", grouped(config.max_positions as u64)));
    for rope in &config.ropes {
        let scaling = match &rope.scaling {
            RopeScaling::None => String::new(),
            RopeScaling::Linear { factor } => format!(", divided by {factor}"),
            RopeScaling::Llama3 { factor, .. } => format!(", Llama 3 scaling by {factor}"),
            RopeScaling::Factors(_) => ", scaled by a table".into(),
        };
        page.row("rope", format!("theta {}{scaling}", rope.theta));
    }
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        let layers = config.layers.iter().filter(|layer| layer.window.is_some()).count();
        page.row("sliding window", format!("{window} tokens in {layers} of {} layers", config.num_layers));
    }
    let extras = [("biases on q, k, v", config.qkv_bias), ("norms on q and k", config.qk_norm)];
    let extras: Vec<&str> = extras.into_iter().filter(|extra| extra.1).map(|extra| extra.0).collect();
    if !extras.is_empty() {
        page.row("extras", extras.join(", "));
    }
}

/// Keys and values are kept in f32.
fn kv_bytes_per_token(config: &ModelConfig) -> u64 {
    (config.num_layers * 2 * config.num_kv_heads * config.head_dim * size_of::<f32>()) as u64
}

/// `tinylora model pull REF`
pub fn pull(reference: &str) -> Result<()> {
    interrupt::leave_at_once()?;
    let mut display = LoadingDisplay::new(Screen::stderr());
    let files = hub::resolve(reference, &HubOptions::from_env(), &mut |progress| {
        display.take(&Loading::Hub(progress));
    });
    display.finish();
    println!("{}", place(&files?).display());
    Ok(())
}

/// The folder or file in which a model is.
fn place(files: &ModelFiles) -> PathBuf {
    match &files.layout {
        ModelLayout::Gguf { path } => path.clone(),
        ModelLayout::HuggingFace { config, .. } => config.parent().unwrap_or(Path::new(".")).to_path_buf(),
    }
}

fn dtype_name(dtype: WeightDtype) -> &'static str {
    match dtype {
        WeightDtype::Bf16 => "bf16",
        WeightDtype::F32 => "f32",
    }
}

/// Headings and rows.
struct Page {
    style: Style,
    text: String,
}

impl Page {
    fn new(style: Style) -> Self {
        Self { style, text: String::new() }
    }

    fn heading(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(&format!("{}\n", self.style.paint(Tone::Strong, text)));
    }

    fn row(&mut self, name: &str, value: String) {
        self.text.push_str(&format!("  {}{value}\n", self.style.paint(Tone::Faint, &format!("{name:<17}"))));
    }
}
