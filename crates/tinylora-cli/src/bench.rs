//! `tinylora bench`: a model's name enters, its speed on this machine leaves on standard output.

use crate::draw::{Style, Tone};
use crate::failure::Usage;
use crate::loading::LoadingDisplay;
use crate::precision::{DeviceArg, Dtype, NumericsArg};
use crate::screen::{Screen, stdout_style};
use crate::{format, interrupt, open};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tinylora::base::Base;
use tinylora::bench::{
    BenchOptions, BenchReport, BenchRow, NAMES, Peak, ProductRow, SetupRow, bench, first_layers,
    measure_peak, products, setup, shape,
};
use tinylora::hub::HubOptions;
use tinylora::model::Model;
use tinylora::recipe::WeightDtype;
use tinylora::run_folder::{COMMIT, VERSION, peak_rss_bytes};
use tinylora_compute::{Cpu, Precision};

/// `tinylora bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The model: a short name, org/name, a folder or a .gguf file (see tinylora --help)
    #[arg(long, value_name = "REF", default_value = "smollm2-135m")]
    pub model: String,
    /// Random weights in the shape of smollm2-135m, qwen2.5-0.5b, qwen2.5-3b or qwen2.5-7b instead of a model
    #[arg(long, value_name = "SHAPE", conflicts_with = "model")]
    pub random: Option<String>,
    /// With --random: so many of the shape's layers alone, where all of them would not fit
    #[arg(long, value_name = "N", requires = "random")]
    pub layers: Option<usize>,
    /// Precision of the weights in memory
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    /// exact: the same bits on every processor; fast: a KV cache in 16 bits, and bf16 products where it has them (activations are rounded)
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = NumericsArg::Fast)]
    pub numerics: NumericsArg,
    /// cpu, cuda (an NVIDIA GPU) or auto (a GPU if there is one) [default: TINYLORA_DEVICE, else cpu]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "DEVICE")]
    pub device: Option<DeviceArg>,
    /// Numbers of sequences to decode at
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,8,32,64,128")]
    pub decode: Vec<usize>,
    /// Numbers of sequences of 160 tokens to prefill and to train on
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "8,32")]
    pub sequences: Vec<usize>,
    /// Leave out the GRPO step
    #[arg(long)]
    pub no_step: bool,
    /// GiB that the step may use, as model.memory does it in a recipe: with less of it, training computes again what sampling had
    /// computed [default: three quarters of the memory]
    #[arg(long, value_name = "GIB")]
    pub memory: Option<f64>,
    /// Measure the products of its linear layers by themselves too
    #[arg(long)]
    pub products: bool,
    /// Tell below each row where its time went, operation by operation (on the CPU)
    #[arg(long)]
    pub account: bool,
    /// Measure setting up an adapter too: the factors of all matrices, computed anew
    #[arg(long)]
    pub setup: bool,
    /// Runs of each measurement, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub repeats: usize,
    /// Print one object instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Longest sequence of a measurement.
const POSITIONS: usize = 256;
/// Rows of the products measured by themselves.
const PRODUCT_ROWS: [usize; 5] = [1, 8, 64, 512, 2048];

/// What `--json` writes.
#[derive(Serialize)]
struct Output<'a> {
    model: &'a str,
    dtype: &'static str,
    version: &'static str,
    commit: &'static str,
    repeats: usize,
    #[serde(flatten)]
    report: &'a BenchReport,
    /// The most memory that the process held.
    peak_rss_bytes: u64,
    products: &'a [ProductRow],
    #[serde(skip_serializing_if = "Option::is_none")]
    setup: Option<&'a SetupRow>,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    if args.decode.iter().chain(&args.sequences).chain([&args.repeats]).any(|&n| n == 0 || n > 4096) {
        return Err(Usage("--decode, --sequences and --repeats take numbers from 1 to 4096".into()).into());
    }
    let cpu = open::device(args.numerics.into(), args.device)?;
    let cpu = if args.account { cpu.with_account() } else { cpu };
    let (name, model) = model(&cpu, args)?;
    if args.account && model.device_name() != "cpu" {
        return Err(Usage(
            "--account: operations are timed on the CPU alone; leave out --device or this".into(),
        )
        .into());
    }
    let style = stdout_style();
    let peak = measure_peak(&cpu, &model)?;
    if !args.json {
        print!("{}", heading(&cpu, model.kernel_name(&cpu), &name, args, peak, style));
    }
    let found = if args.products {
        products(&cpu, &model.config, peak, &PRODUCT_ROWS, args.repeats)
    } else {
        Vec::new()
    };
    let options = BenchOptions {
        repeats: args.repeats,
        decode: args.decode.clone(),
        sequences: args.sequences.clone(),
        step: !args.no_step,
        memory: args.memory.map_or(0, |gib| (gib * (1u64 << 30) as f64) as u64),
    };
    if !args.json {
        println!("{}", style.paint(Tone::Faint, TITLE));
    }
    let report = bench(&cpu, &model, peak, &options, &mut |row| {
        if !args.json {
            println!("{}", line(row));
            if !row.operations.is_empty() {
                println!("{}", style.paint(Tone::Faint, &operations(row)));
            }
        }
    })?;
    let setup_row = args.setup.then(|| setup(&cpu, &model)).transpose()?;
    if args.json {
        let dtype = if args.dtype == crate::precision::Dtype::F32 { "f32" } else { "bf16" };
        let output = Output {
            model: &name,
            dtype,
            version: VERSION,
            commit: COMMIT,
            repeats: args.repeats,
            report: &report,
            peak_rss_bytes: peak_rss_bytes(),
            products: &found,
            setup: setup_row.as_ref(),
        };
        println!("{}", serde_json::to_string_pretty(&output)?);
        return Ok(());
    }
    println!("memory: {} at most", format::bytes(peak_rss_bytes()));
    if !found.is_empty() {
        println!("\n{}", style.paint(Tone::Faint, PRODUCT_TITLE));
        found.iter().for_each(|row| println!("{}", product_line(row)));
    }
    if let Some(row) = &setup_row {
        println!(
            "\nadapter setup: top {} factors of {} matrices ({:.3e} weights) in {}",
            row.rank,
            row.modules,
            row.weights as f64,
            seconds(row.seconds)
        );
    }
    Ok(())
}

fn model(cpu: &Cpu, args: &BenchArgs) -> Result<(String, Model)> {
    let dtype: WeightDtype = args.dtype.into();
    let Some(name) = &args.random else {
        let mut display = LoadingDisplay::new(Screen::stderr());
        let options = HubOptions::from_env();
        let base = Base::open(cpu, &args.model, dtype, POSITIONS, &options, &mut |news| display.take(&news));
        display.finish();
        return Ok((args.model.clone(), base?.model));
    };
    let Some(mut config) = shape(name) else {
        return Err(Usage(format!("--random {name}: known shapes are {}", NAMES.join(", "))).into());
    };
    let mut title = format!("{name} (random weights)");
    if let Some(layers) = args.layers {
        let all = config.num_layers;
        if layers == 0 || layers > all {
            return Err(Usage(format!("--layers {layers}: {name} has 1 to {all}")).into());
        }
        config = first_layers(config, layers);
        title = format!("{layers} of {all} layers of {title}");
    }
    let precision = if dtype == WeightDtype::F32 { Precision::F32 } else { Precision::Bf16 };
    Ok((title, Model::random(cpu, config, precision, POSITIONS)?))
}

fn heading(cpu: &Cpu, kernel: &str, name: &str, args: &BenchArgs, peak: Peak, style: Style) -> String {
    let threads =
        if cpu.threads() == 1 { "1 thread".to_owned() } else { format!("{} threads", cpu.threads()) };
    format!(
        "{} on {}, {threads}\nlimits: {} of products, {}/s of memory; medians of {}\n\n",
        style.paint(Tone::Strong, name),
        kernel,
        flops(peak.matmul_flops),
        format::bytes(peak.memory_bytes_per_second as u64),
        args.repeats,
    )
}

const TITLE: &str =
    "what       sequences  prompt  new    tokens/s  of the limit        seconds (fastest–slowest)";

fn line(row: &BenchRow) -> String {
    format!(
        "{:<9}  {:>9}  {:>6}  {:>3}  {:>10}  {:>5} {:<8}  {:>9} ({}–{})",
        row.what,
        row.batch,
        row.prompt,
        row.new,
        format!("{:.0}", row.tokens_per_second),
        format!("{:.0} %", 100.0 * row.fraction_of_peak),
        row.limit,
        seconds(row.seconds),
        seconds(row.seconds_range[0]),
        seconds(row.seconds_range[1]),
    )
}

/// Shares of the row's time, as far as they can be seen.
fn operations(row: &BenchRow) -> String {
    let seen = row.operations.iter().filter(|share| share.fraction >= 0.001);
    let shares: Vec<String> =
        seen.map(|share| format!("{} {:.1} %", share.operation, 100.0 * share.fraction)).collect();
    format!("           {}", shares.join(", "))
}

const PRODUCT_TITLE: &str = "product               rows  outputs  inputs      FLOP/s  of the peak";

fn product_line(row: &ProductRow) -> String {
    format!(
        "{:<9}  {:<8}  {:>5}  {:>7}  {:>6}  {:>10}  {:>11}",
        row.layer,
        row.direction,
        row.m,
        row.n,
        row.k,
        flops(row.flops),
        format!("{:.0} %", 100.0 * row.fraction_of_peak),
    )
}

fn flops(rate: f64) -> String {
    if rate >= 1e12 { format!("{:.2} TFLOP/s", rate / 1e12) } else { format!("{:.0} GFLOP/s", rate / 1e9) }
}

fn seconds(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.2}") } else { format!("{:.1} ms", seconds * 1e3) }
}
