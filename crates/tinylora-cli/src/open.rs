//! `--model`, `--adapter` and the environment enter, a device, a base model and an adapter on it leave.

use crate::args::ModelArgs;
use crate::failure::Usage;
use crate::loading::LoadingDisplay;
use crate::precision::{DeviceArg, Dtype};
use crate::screen::Screen;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use tinylora::adapter::{self, AnyAdapter};
use tinylora::base::{AdapterSet, Base, adapter_sets};
use tinylora::hub::{HubOptions, cache_dir};
use tinylora::inference::Sampling;
use tinylora::model::{Adapters, GpuOptions, Policy, with_gpu};
use tinylora::recipe::Numerics;
use tinylora_compute::Cpu;

/// The device that `--device` or the environment asks for; which kernel the processor has by default is a matter of `numerics`.
pub fn device(numerics: Numerics, wanted: Option<DeviceArg>) -> Result<Cpu> {
    let wanted = DeviceArg::or_environment(wanted)?;
    let cpu = host(numerics)?;
    if wanted == DeviceArg::Cpu {
        return Ok(cpu);
    }
    let number = |name: &str| match std::env::var(name) {
        Ok(text) if !text.is_empty() => match text.parse::<usize>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Usage(format!("{name}={text}: it is a whole number"))),
        },
        _ => Ok(None),
    };
    let options = GpuOptions {
        numbers: gpus()?,
        memory: number("TINYLORA_GPU_MEMORY")?,
        kernels: cache_dir(&HubOptions::from_env()).join("kernels"),
        driver: std::env::var_os("TINYLORA_CUDA_DRIVER").map(Into::into),
        graphs: number("TINYLORA_CUDA_GRAPHS")?.unwrap_or(1) != 0,
        wgmma: wgmma()?,
        report: |text| Screen::stderr().print(text),
    };
    match with_gpu(cpu, &options) {
        Err(error) if wanted == DeviceArg::Auto && error.is_absence() => {
            Screen::stderr().print(&format!("device: cpu ({error})"));
            host(numerics)
        }
        opened => Ok(opened?),
    }
}

/// Whether `TINYLORA_CUDA_PRODUCTS` wants products on `wgmma`.
fn wgmma() -> Result<bool> {
    match std::env::var("TINYLORA_CUDA_PRODUCTS").unwrap_or_default().as_str() {
        "" | "mma" => Ok(false),
        "wgmma" => Ok(true),
        other => Err(Usage(format!("TINYLORA_CUDA_PRODUCTS={other}: it is mma or wgmma")).into()),
    }
}

/// The GPUs that `TINYLORA_GPU` names: numbers with commas between them, each once; by default the first one alone.
fn gpus() -> Result<Vec<usize>> {
    let text = std::env::var("TINYLORA_GPU").unwrap_or_default();
    if text.is_empty() {
        return Ok(vec![0]);
    }
    let numbers: Option<Vec<usize>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let once = |numbers: &Vec<usize>| numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len();
    let wrong = || Usage(format!("TINYLORA_GPU={text}: numbers of GPUs, each once, as in 0 or 0,1"));
    Ok(numbers.filter(once).ok_or_else(wrong)?)
}

/// The processor, whatever device is asked for.
pub fn host(numerics: Numerics) -> Result<Cpu> {
    Cpu::from_env(numerics == Numerics::Fast).context("TINYLORA_KERNEL or TINYLORA_THREADS")
}

/// A loaded model, and the adapters that were asked for.
pub struct Opened {
    /// The model.
    pub base: Base,
    adapters: Vec<AdapterSet>,
}

impl Opened {
    /// Loads what the options name; `positions` is the longest sequence wanted, 0: the usual.
    pub fn new(cpu: &Cpu, args: &ModelArgs, positions: usize, screen: &Screen) -> Result<Self> {
        let adapters: Vec<&str> = args.adapter.as_deref().into_iter().collect();
        Self::with(cpu, &args.model, &adapters, args.dtype, positions, screen)
    }

    /// The same with any number of adapters.
    pub fn with(
        cpu: &Cpu,
        model: &str,
        adapters: &[&str],
        dtype: Dtype,
        positions: usize,
        screen: &Screen,
    ) -> Result<Self> {
        // The adapters first: a wrong path is found before anything is downloaded.
        let files: Result<Vec<_>, _> = adapters.iter().map(|name| adapter::load(name)).collect();
        let files = files?;
        let named: Vec<(&str, &AnyAdapter)> = adapters.iter().copied().zip(&files).collect();
        let options = HubOptions::from_env();
        let factors = cache_dir(&options).join("factors");
        let mut display = LoadingDisplay::new(screen.clone());
        let opened = (|| {
            let base =
                Base::open(cpu, model, dtype.into(), positions, &options, &mut |news| display.take(&news))?;
            let adapters = adapter_sets(cpu, &base, &named, &factors, &mut |news| display.take(&news))?;
            Ok(Self { base, adapters })
        })();
        display.finish();
        opened
    }

    /// The adapters, sorted by what can share a batch; none without adapters.
    pub fn sets(&self) -> &[AdapterSet] {
        &self.adapters
    }

    /// How many adapters there are.
    pub fn count(&self) -> usize {
        self.adapters.iter().map(|set| set.members.len()).sum()
    }

    /// The base with the one adapter, or none, as a forward pass takes it; every sequence has number 0.
    pub fn policy(&self) -> Policy<'_> {
        let adapters = self.adapters.first().map_or(Adapters::NONE, AdapterSet::adapters);
        Policy::new(&self.base.model, adapters)
    }
}

/// Checks how tokens are to be chosen.
pub fn sampling(temperature: f32, top_p: f32, top_k: usize) -> Result<Sampling> {
    if !(temperature.is_finite() && temperature >= 0.0) {
        return Err(Usage(format!("--temperature {temperature}: it must be 0 or more")).into());
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Usage(format!("--top-p {top_p}: it must be above 0 and at most 1")).into());
    }
    Ok(Sampling { temperature, top_p, top_k })
}

/// Refuses a length of no tokens.
pub fn max_tokens(max_tokens: usize) -> Result<usize> {
    if max_tokens == 0 {
        return Err(Usage("--max-tokens 0: it must be at least 1".into()).into());
    }
    Ok(max_tokens)
}
