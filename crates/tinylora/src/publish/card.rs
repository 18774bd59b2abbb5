//! A publication enters, the text of its model card leaves: what it is, what it does to accuracy, how it is used, how it
//! was made. Every number in it comes from the adapter or from its run's summary; what wasn't measured isn't said.

use std::fmt::Write as _;

use super::Publication;
use crate::adapter::{AdapterFile, AdapterFileError, AnyAdapter, Method, Standalone};
use crate::recipe::{Projection, StoragePrecision, Tying};
use crate::run_folder::{EvalResult, Summary};

/// An adapter as text is shown up to this length.
const LONGEST_TEXT: usize = 16 << 10;

/// The card.
pub(super) fn card(publication: &Publication<'_>) -> Result<String, AdapterFileError> {
    let text = match publication.adapter {
        AnyAdapter::Seeded(file) => Some(file.to_text()?).filter(|text| text.len() <= LONGEST_TEXT),
        AnyAdapter::Standalone(_) => None,
    };
    let mut out = metadata(publication);
    out.push_str(&introduction(publication));
    if let Some(run) = publication.run {
        out.push_str(&results(&run.summary));
    }
    out.push_str(&usage(publication, text.is_some()));
    if let Some(text) = &text {
        let _ = write!(
            out,
            "\n## The whole adapter as text\n\nWherever `tinylora` takes an adapter's file it takes this line:\n\n\
             ```\n{text}\n```\n"
        );
    }
    out.push_str(&making(publication));
    Ok(out)
}

/// What the Hub reads.
fn metadata(publication: &Publication<'_>) -> String {
    let mut tags = vec!["tinylora", "peft"];
    if publication.run.is_some() {
        tags.push("reinforcement-learning");
    }
    let tags: String = tags.iter().map(|tag| format!("- {tag}\n")).collect();
    // Names on the Hub have no character that YAML reads otherwise, save where all are digits.
    format!(
        "---\nbase_model: \"{}\"\nbase_model_relation: adapter\nlibrary_name: peft\npipeline_tag: text-generation\n\
         tags:\n{tags}---\n",
        publication.base_model
    )
}

fn introduction(publication: &Publication<'_>) -> String {
    let name = publication.repo.rsplit('/').next().unwrap_or_default();
    let base = publication.base_model;
    let what = match publication.adapter {
        AnyAdapter::Seeded(file) => {
            let (numbers, bytes) = (file.spec.trainable_parameters(), file.spec.payload_bytes());
            format!("A TinyLoRA adapter for {base}: {numbers} trained numbers, {bytes} bytes.")
        }
        AnyAdapter::Standalone(adapter) => format!(
            "A {} adapter of rank {} for {base}, on {} matrices.",
            adapter.method.name(),
            adapter.rank(),
            adapter.modules.len()
        ),
    };
    format!("\n# {name}\n\n{what}\n")
}

/// Accuracies with their intervals, before and after.
fn results(summary: &Summary) -> String {
    let mut out = String::from("\n## Results\n\n");
    let (Some(before), Some(after)) = (&summary.eval_before, &summary.eval_after) else {
        let known = summary.eval_after.as_ref().or(summary.eval_before.as_ref());
        let Some(one) = known else {
            return out + "This run measured no accuracy.\n";
        };
        let when = if summary.eval_after.is_some() { "after" } else { "before" };
        let _ = writeln!(out, "| {} | {when} training |\n|---|---|", summary.task);
        for (what, value) in accuracies(one) {
            let _ = writeln!(out, "| {what} | {value} |");
        }
        return out;
    };
    let _ = writeln!(out, "| {} | before | after |\n|---|---|---|", summary.task);
    for ((what, before), (_, after)) in accuracies(before).into_iter().zip(accuracies(after)) {
        let _ = writeln!(out, "| {what} | {before} | {after} |");
    }
    let interrupted = if summary.interrupted { ", stopped before its end" } else { "" };
    let _ = writeln!(
        out,
        "\nAccuracy on {} problems that were not trained on, the same before and after, with 95 % intervals (Wilson) for \
         the choice of problems. One run of {} steps with seed {}{interrupted}: other seeds give other numbers.",
        after.n, summary.steps, summary.seed
    );
    out
}

fn accuracies(result: &EvalResult) -> Vec<(&'static str, String)> {
    let shown = |accuracy: Option<f64>, [low, high]: [f64; 2]| match accuracy {
        Some(accuracy) => {
            format!("{:.1} % ({:.1} to {:.1})", 100.0 * accuracy, 100.0 * low, 100.0 * high)
        }
        None => "not measured".to_owned(),
    };
    vec![
        ("sampled", shown(result.sampled_accuracy, result.sampled_ci95)),
        ("greedy", shown(result.greedy_accuracy, result.greedy_ci95)),
        ("tokens an answer", format!("{:.1}", result.completion_tokens_mean)),
    ]
}

fn usage(publication: &Publication<'_>, as_text: bool) -> String {
    let (base, repo) = (publication.base_model, publication.repo);
    let identity = publication.adapter.base();
    // What only its author has is no help to others.
    let reference =
        if std::path::Path::new(&identity.reference).exists() { base } else { &identity.reference };
    let sha256: String = identity.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = if as_text { "adapter.tinylora (or the line below)" } else { "adapter.tinylora" };
    let mut out = format!(
        "\n## Use\n\nWith tinylora, which applies the update exactly as in training. The file is {file}:\n\n\
         ```\ntinylora chat --model {reference} --adapter adapter.tinylora\n```\n\n\
         It belongs to the weights with the sha256 `{sha256}` and is refused on others.\n\n\
         With PEFT 0.20 or later:\n\n\
         ```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n\
         base = AutoModelForCausalLM.from_pretrained(\"{base}\")\n\
         model = PeftModel.from_pretrained(base, \"{repo}\")\n```\n"
    );
    if reference != base {
        let _ = write!(
            out,
            "\nIt was trained on `{reference}`, whose weights may be another rounding of those of {base}; on these it was \
             not measured.\n"
        );
    }
    out
}

fn making(publication: &Publication<'_>) -> String {
    let mut out = String::from("\n## How it was made\n\n");
    match publication.adapter {
        AnyAdapter::Seeded(file) => out.push_str(&specification(file)),
        AnyAdapter::Standalone(adapter) => out.push_str(&origin(adapter)),
    }
    if let Some(run) = publication.run {
        let s = &run.summary;
        let _ = writeln!(
            out,
            "\nTrained by tinylora {} (commit {}) on {} ({}, {} threads) in {:.0} seconds.",
            s.version, s.commit, s.device, s.kernel, s.threads, s.wall_seconds
        );
        if let Some(recipe) = &run.recipe {
            let fence = fence(recipe);
            let _ = write!(out, "\nThe recipe:\n\n{fence}toml\n{}\n{fence}\n", recipe.trim_end());
        }
    }
    out
}

fn specification(file: &AdapterFile) -> String {
    let spec = &file.spec;
    let sharing = match (spec.tying, spec.n_tie) {
        (_, 0) => "all modules share them".to_owned(),
        (Tying::None, _) => "each module has its own".to_owned(),
        (Tying::Tiled, n) => format!("{n} neighbouring modules share them"),
        (Tying::Structured, n) => format!("{n} modules of one kind share them"),
    };
    let precision = match spec.storage_precision {
        StoragePrecision::Bf16 => "bf16",
        StoragePrecision::Fp16 => "fp16",
        StoragePrecision::Fp32 => "fp32",
    };
    let targets: Vec<&str> = spec.targets.iter().map(|target| target.name()).collect();
    let projection = match spec.projection {
        Projection::Normal => "normal",
        Projection::Uniform => "uniform",
        Projection::Basis => {
            return format!(
                "LoRA-XS: W′ = W + {} · U Σ R Vᵀ with the {} largest singular triplets of each matrix and trained R ({} numbers), \
                 {sharing}; stored as {precision}. Modules: {}.\n",
                spec.scale,
                spec.rank,
                spec.u,
                targets.join(", ")
            );
        }
    };
    format!(
        "W′ = W + {} · U Σ (Σᵢ vᵢ Pᵢ) Vᵀ with the {} largest singular triplets of each matrix, fixed random Pᵢ ({projection}, \
         seed {}) and trained v: {} numbers a group, {sharing}; stored as {precision}. Modules: {}.\n",
        spec.scale,
        spec.rank,
        spec.projection_seed,
        spec.u,
        targets.join(", ")
    )
}

fn origin(adapter: &Standalone) -> String {
    let how = match adapter.method {
        Method::TinyLora => "fixed A, B and P, trained v",
        Method::Lora => "trained A and B",
        Method::LoraXs => "fixed A and B, trained R",
    };
    let name = adapter.method.name();
    let Some(_) = &adapter.run else { return format!("{name} ({how}), from {}.\n", adapter.source) };
    let scale = adapter.scale().map_or(String::new(), |scale| format!("{scale} · "));
    let numbers = adapter.trained_numbers();
    format!("{name} ({how}): W′ = W + {scale}B A of rank {}, {numbers} trained numbers.\n", adapter.rank())
}

/// A fence that the text doesn't hold.
fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}
