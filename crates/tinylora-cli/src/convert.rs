//! `tinylora adapter import | export`: an adapter enters in one form and leaves in another; what of an update outlives
//! rounding is told on standard output.

use crate::args::{ExportArgs, ExportFormat, OutDtype};
use crate::failure::Usage;
use crate::loading::LoadingDisplay;
use crate::screen::Screen;
use crate::{interrupt, open};
use anyhow::Result;
use std::path::Path;
use tinylora::adapter::{AdapterFile, AnyAdapter, BaseIdentity, Standalone, load};
use tinylora::base::{Base, Loading, checked_factors};
use tinylora::hub::{self, HubOptions, ModelFiles, ModelLayout, cache_dir};
use tinylora::interop::{
    OutputType, Survival, export_gguf_lora, export_lora, export_peft, import_peft, merge, merge_gguf,
    merge_gguf_to_folder,
};
use tinylora::model::weights::Weights;
use tinylora::recipe::{Numerics, WeightDtype};
use tinylora::tokenizer::Tokenizer;

/// `tinylora adapter import`
pub fn import(folder: &Path, model: &str, out: &Path) -> Result<()> {
    interrupt::leave_at_once()?;
    let (_, weights, sha256) = open_weights(model)?;
    // The file has its own factors, so that the precision in memory doesn't matter to it.
    let base = BaseIdentity::new(model, sha256, WeightDtype::F32, weights.config());
    let adapter = import_peft(folder, &base)?;
    adapter.write(out)?;
    println!(
        "{}: {} of rank {} on {} matrices ({})",
        out.display(),
        adapter.method.name(),
        adapter.rank(),
        adapter.modules.len(),
        adapter.source
    );
    Ok(())
}

/// `tinylora adapter export`
pub fn export(args: &ExportArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    check(args)?;
    let file = load(&args.file)?;
    let model = args.model.clone().unwrap_or_else(|| file.base().reference.clone());
    let adapter = standalone(&args.file, file, &model)?;
    let out = &args.out;
    match args.format {
        ExportFormat::Peft => export_peft(&adapter, out)?,
        ExportFormat::Lora => export_lora(&adapter, args.rank, out)?,
        ExportFormat::GgufLora => export_gguf_lora(&adapter, args.rank, out)?,
        ExportFormat::Merged => merged(args, &adapter, &model)?,
    }
    println!("{}", out.display());
    Ok(())
}

/// Options that would do nothing are wrong usage.
fn check(args: &ExportArgs) -> Result<()> {
    if args.rank.is_some() && !matches!(args.format, ExportFormat::Lora | ExportFormat::GgufLora) {
        return Err(Usage("--rank goes with --format lora or gguf-lora".into()).into());
    }
    if args.dtype.is_some() && args.format != ExportFormat::Merged {
        return Err(Usage("--dtype goes with --format merged".into()).into());
    }
    Ok(())
}

/// An adapter with its factors; `name` is what messages call it.
pub fn standalone(name: &str, adapter: AnyAdapter, model: &str) -> Result<Standalone> {
    match adapter {
        AnyAdapter::Standalone(adapter) => Ok(adapter),
        AnyAdapter::Seeded(file) => with_factors(name, file, model),
    }
}

/// A seeded adapter with the factors of its base, which is loaded as it was in training.
fn with_factors(name: &str, file: AdapterFile, model: &str) -> Result<Standalone> {
    let cpu = open::host(Numerics::Exact)?;
    let options = HubOptions::from_env();
    let cache = cache_dir(&options).join("factors");
    let mut display = LoadingDisplay::new(Screen::stderr());
    let factors = (|| {
        let base = Base::open(&cpu, model, file.base.dtype, 0, &options, &mut |news| display.take(&news))?;
        checked_factors(&cpu, &base, name, &file, &cache, &mut |news| display.take(&news))
    })();
    display.finish();
    Ok(Standalone::from_seeded(&file, factors?))
}

fn merged(args: &ExportArgs, adapter: &Standalone, model: &str) -> Result<()> {
    let (files, weights, sha256) = open_weights(model)?;
    let found = BaseIdentity::new(model, sha256, adapter.base.dtype, weights.config());
    adapter.base.check(&args.file, &found)?;
    let dtype = args.dtype.map(output_type);
    let mut display = LoadingDisplay::new(Screen::stderr());
    let mut progress = |done, total| display.take(&Loading::Weights { done, total });
    let survival = match &files.layout {
        ModelLayout::HuggingFace { .. } => merge(adapter, &weights, &files, dtype, &args.out, &mut progress),
        ModelLayout::Gguf { .. } if !is_gguf(&args.out) => {
            let tokenizer = Tokenizer::open(&files)?;
            let dtype = dtype.unwrap_or(OutputType::F16);
            merge_gguf_to_folder(Some(adapter), &weights, &tokenizer, dtype, &args.out, &mut progress)
        }
        ModelLayout::Gguf { .. } => {
            merge_gguf(adapter, &weights, dtype.unwrap_or(OutputType::F16), &args.out, &mut progress)
        }
    };
    display.finish();
    println!("{}", describe(&survival?));
    Ok(())
}

/// Whether a path is to be a GGUF file.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn output_type(dtype: OutDtype) -> OutputType {
    match dtype {
        OutDtype::F32 => OutputType::F32,
        OutDtype::Bf16 => OutputType::Bf16,
        OutDtype::F16 => OutputType::F16,
        OutDtype::Q8_0 => OutputType::Q8_0,
    }
}

/// Files, weights and their hash.
fn open_weights(model: &str) -> Result<(ModelFiles, Weights, [u8; 32])> {
    let options = HubOptions::from_env();
    let mut display = LoadingDisplay::new(Screen::stderr());
    let mut report = |progress| display.take(&Loading::Hub(progress));
    let opened = hub::resolve(model, &options, &mut report)
        .and_then(|files| Ok((hub::weights_sha256(&files, &options, &mut report)?, files)));
    display.finish();
    let (sha256, files) = opened?;
    let weights = Weights::open(&files)?;
    let digest =
        std::array::from_fn(|i| u8::from_str_radix(&sha256[2 * i..2 * i + 2], 16).expect("a hex sha256"));
    Ok((files, weights, digest))
}

fn describe(survival: &Survival) -> String {
    match (survival.kept(), survival.noise()) {
        (Some(kept), Some(noise)) => format!(
            "of the update {:.1} % is there along its own direction, with rounding noise of {:.1} % of its size; \
             {:.1} % of the adapted matrices' numbers changed",
            100.0 * kept,
            100.0 * noise,
            100.0 * survival.changed()
        ),
        _ => "the update is 0: the merged model is the base".to_owned(),
    }
}
