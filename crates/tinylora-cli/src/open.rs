//! `--model`, `--adapter` and the environment enter, a device, a base model and an adapter on it leave.

use crate::args::ModelArgs;
use crate::failure::Usage;
use crate::loading::LoadingDisplay;
use crate::screen::Screen;
use anyhow::{Context, Result};
use tinylora::adapter;
use tinylora::base::{Adapter, Base};
use tinylora::hub::{HubOptions, cache_dir};
use tinylora::inference::Sampling;
use tinylora::model::Adapters;
use tinylora_compute::Cpu;

/// The device that the environment asks for.
pub fn device() -> Result<Cpu> {
    let wanted = std::env::var("TINYLORA_DEVICE").unwrap_or_default();
    if !matches!(wanted.as_str(), "" | "cpu") {
        let message = format!("TINYLORA_DEVICE={wanted}: this build computes on the processor only; use cpu");
        return Err(Usage(message).into());
    }
    Cpu::from_env().context("TINYLORA_KERNEL or TINYLORA_THREADS")
}

/// A loaded model, and an adapter if one was asked for.
pub struct Opened {
    /// The model.
    pub base: Base,
    adapter: Option<Adapter>,
}

impl Opened {
    /// Loads what the options name; `positions` is the longest sequence wanted, 0: the usual.
    pub fn new(cpu: &Cpu, args: &ModelArgs, positions: usize, screen: &Screen) -> Result<Self> {
        // The adapter first: a wrong path is found before anything is downloaded.
        let file = args.adapter.as_deref().map(|name| Ok::<_, anyhow::Error>((name, adapter::load(name)?)));
        let file = file.transpose()?;
        let options = HubOptions::from_env();
        let factors = cache_dir(&options).join("factors");
        let mut display = LoadingDisplay::new(screen.clone());
        let opened = (|| {
            let base = Base::open(cpu, &args.model, args.dtype.into(), positions, &options, &mut |news| {
                display.take(&news);
            })?;
            let adapter = file.map(|(name, file)| {
                Adapter::from_file(cpu, &base, name, &file, &factors, &mut |news| display.take(&news))
            });
            Ok(Self { adapter: adapter.transpose()?, base })
        })();
        display.finish();
        opened
    }

    /// Calls `use_them` with the adapters as a forward pass takes them; every sequence has number 0.
    pub fn with_adapters<T>(&self, use_them: impl FnOnce(Adapters<'_>) -> T) -> T {
        match &self.adapter {
            None => use_them(Adapters::NONE),
            Some(adapter) => use_them(adapter.adapters(&[adapter.matrices()])),
        }
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
