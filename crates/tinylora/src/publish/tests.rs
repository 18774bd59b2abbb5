//! What goes to the Hub, on a tiny model's adapter.

use super::*;
use crate::adapter::{
    AdapterFile, BaseIdentity, FactorSketches, Factors, ModuleFactors, RunMetadata, TinyLoraSpec,
};
use crate::model::config::ModelConfig;
use crate::recipe::{AdapterSection, WeightDtype};
use crate::run_folder::example_summary;

fn adapter() -> (AnyAdapter, Standalone) {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2/config.json");
    let config = ModelConfig::from_config_file(&config).expect("a golden model");
    let spec = TinyLoraSpec::new(&AdapterSection::default(), &config).expect("fits");
    let base = BaseIdentity::new("smollm2-135m", [0xab; 32], WeightDtype::Bf16, &config);
    let modules = spec.modules().map(|module| {
        let (n, k) = base.shape(module.target);
        ModuleFactors { a: vec![0.5; 2 * k], b: vec![0.25; 2 * n] }
    });
    let factors = Factors { rank: 2, modules: modules.collect() };
    let file = AdapterFile {
        v: (0..spec.trainable_parameters()).map(|i| i as f32 / 8.0).collect(),
        base,
        factors: FactorSketches::new(&factors.sketches()),
        run: RunMetadata { steps: 100, seed: 1, ..RunMetadata::default() },
        spec,
    };
    let standalone = Standalone::from_seeded(&file, factors);
    (AnyAdapter::Seeded(file), standalone)
}

fn run(adapter: &AnyAdapter) -> RunRecord {
    let mut summary = example_summary();
    summary.adapter.trainable_parameters = adapter.v().len();
    summary.eval_after = summary.eval_before.clone().map(|mut after| {
        (after.sampled_accuracy, after.sampled_ci95) = (Some(0.5), [0.45, 0.55]);
        after
    });
    RunRecord { summary, recipe: Some("name = 'x'\nsystem = '```` and more'\n".to_owned()) }
}

#[test]
fn every_file_is_there_and_loads_again() {
    let (adapter, standalone) = adapter();
    let run = run(&adapter);
    let folder = tempfile::tempdir().expect("temporary folder");
    let work = folder.path().join("work");
    let publication = Publication {
        adapter: &adapter,
        standalone: &standalone,
        run: Some(&run),
        base_model: "HuggingFaceTB/SmolLM2-135M-Instruct",
        repo: "ada/sums",
    };
    let files = files(&publication, &work).expect("made");
    let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let expected = [
        "adapter.tinylora",
        "adapter_config.json",
        "adapter_model.safetensors",
        "summary.json",
        "recipe.toml",
        "README.md",
    ];
    assert_eq!(names, expected);
    assert!(!work.exists());
    assert_eq!(AnyAdapter::from_bytes("a", &files[0].content).expect("an adapter"), adapter);
    let config: serde_json::Value = serde_json::from_slice(&files[1].content).expect("JSON");
    assert_eq!(config["base_model_name_or_path"], "HuggingFaceTB/SmolLM2-135M-Instruct");
    assert_eq!(config["peft_type"], "TINYLORA");
}

#[test]
fn the_card_says_what_was_measured_and_how_to_use_it() {
    let (adapter, standalone) = adapter();
    let run = run(&adapter);
    let publication = Publication {
        adapter: &adapter,
        standalone: &standalone,
        run: Some(&run),
        base_model: "HuggingFaceTB/SmolLM2-135M-Instruct",
        repo: "ada/sums",
    };
    let text = card::card(&publication).expect("made");
    let AnyAdapter::Seeded(file) = &adapter else { panic!("a seeded one") };
    for part in [
        "---\nbase_model: \"HuggingFaceTB/SmolLM2-135M-Instruct\"\n",
        "library_name: peft\n",
        "# sums\n",
        "| sampled | 25.0 % (20.0 to 30.0) | 50.0 % (45.0 to 55.0) |",
        "| greedy | not measured | not measured |",
        "on 512 problems",
        "One run of 100 steps with seed 1",
        "tinylora chat --model smollm2-135m --adapter adapter.tinylora",
        "PeftModel.from_pretrained(base, \"ada/sums\")",
        "another rounding",
        &"ab".repeat(32),
        &file.to_text().expect("text"),
        "16 neighbouring modules share them",
        "\n`````toml\nname = 'x'\n",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    assert_eq!(text.matches("`````").count(), 2, "the recipe ends where it should");
    let without = card::card(&Publication { run: None, ..publication }).expect("made");
    assert!(!without.contains("## Results") && !without.contains("recipe"), "{without}");
}

#[test]
fn results_that_are_not_whole_are_told_as_they_are() {
    let (adapter, standalone) = adapter();
    let mut run = run(&adapter);
    let card = |run: &RunRecord| {
        let publication = Publication {
            adapter: &adapter,
            standalone: &standalone,
            run: Some(run),
            base_model: "org/base",
            repo: "ada/sums",
        };
        card::card(&publication).expect("made")
    };
    run.summary.interrupted = true;
    assert!(card(&run).contains("stopped before its end"));
    run.summary.eval_before = None;
    assert!(card(&run).contains("after training |"), "{}", card(&run));
    run.summary.eval_after = None;
    assert!(card(&run).contains("measured no accuracy"), "{}", card(&run));
}

#[test]
fn another_runs_folder_is_refused() {
    let (adapter, _) = adapter();
    let folder = tempfile::tempdir().expect("temporary folder");
    let write = |summary: &Summary| {
        let text = serde_json::to_string(summary).expect("JSON");
        std::fs::write(folder.path().join("summary.json"), text).expect("write");
    };
    let good = run(&adapter).summary;
    write(&good);
    assert_eq!(read_run(folder.path(), &adapter).expect("its own").recipe, None);
    let message = |summary: Summary| {
        write(&summary);
        read_run(folder.path(), &adapter).expect_err("another").to_string()
    };
    let mut other = good.clone();
    other.seed = 2;
    assert!(message(other).contains("100 steps with seed 2, not 100 with seed 1"));
    let mut other = good.clone();
    other.adapter.trainable_parameters = 13;
    assert!(message(other).contains("it has 13 numbers"));
    let mut other = good;
    other.model.sha256 = "cd".repeat(32);
    assert!(message(other).contains("its base has the sha256 cdcd"));
}
