//! Adapters in and out against PEFT and transformers on a tiny model of every family: what PEFT saved gives PEFT's
//! logits here, and what leaves comes back with the same numbers. The exports stay in the build's folder for tests,
//! where `golden/interop.py --check` loads them with PEFT, transformers and the gguf package.

mod common;

use common::case::{Case, logits_with, tiny_case};
use common::{golden, relative_error, tiny_files};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tinylora::adapter::{
    AdapterFile, BaseIdentity, FactorSketches, LoraSpec, Method, Projections, RunMetadata, Standalone,
    TinyLoraSpec, compute_factors,
};
use tinylora::hub::{ModelFiles, ModelLayout};
use tinylora::interop::{OutputType, export_gguf_lora, export_lora, export_peft, import_peft, merge};
use tinylora::model::weights::Weights;
use tinylora::model::{Model, ModuleFactors, R, SideFactors};
use tinylora::recipe::{AdapterKind, AdapterSection, Projection, Tying, WeightDtype};
use tinylora_compute::Precision;

const NAMES: [&str; 8] =
    ["llama2", "llama2-bf16", "llama2-tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];
/// Norms, softmax and products add up in another order than PyTorch does.
const OTHER_ORDER: f64 = 1e-5;

fn identity(name: &str, case: &Case) -> BaseIdentity {
    BaseIdentity::new(name, [1; 32], WeightDtype::F32, &case.model.config)
}

fn peft_folder(name: &str) -> PathBuf {
    golden().join("models").join(name).join("adapter")
}

/// All logits of a sequence with a standalone adapter.
fn adapted(case: &Case, adapter: &Standalone, tokens: &[u32]) -> Vec<f32> {
    let modules: Vec<ModuleFactors> = adapter
        .modules
        .iter()
        .zip(&adapter.factors.modules)
        .map(|(module, factors)| ModuleFactors {
            layer: module.layer,
            kind: module.target,
            a: factors.a.clone(),
            b: factors.b.clone(),
        })
        .collect();
    let factors = SideFactors::new(&case.cpu, &case.model.config, adapter.rank(), &modules);
    let r = R::Matrices(adapter.r_matrices().expect("sizes fit"));
    logits_with(case, &case.model, tokens, Some((&factors, &r)))
}

/// Where the exports of a model stay.
fn exports(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for the exports");
    folder
}

/// An adapter as training here makes them, with v at random, tied in runs of four.
fn own_adapter(name: &str, case: &Case) -> Standalone {
    seeded(
        name,
        case,
        &AdapterSection {
            u: 3,
            n_tie: 4,
            tying: Tying::Tiled,
            init_bound: 0.3,
            scale: 1.25,
            ..AdapterSection::default()
        },
    )
    .0
}

/// An adapter of these settings, and the R that it has in training.
fn seeded(name: &str, case: &Case, section: &AdapterSection) -> (Standalone, Vec<f32>) {
    let spec = TinyLoraSpec::new(section, &case.model.config).expect("fits");
    let weights: Vec<_> =
        spec.modules().map(|module| case.model.frozen(module.layer, module.target)).collect();
    let factors = compute_factors(&case.cpu, &spec, &weights, &|_| {}).expect("converges");
    let file = AdapterFile {
        v: spec.init_v(5),
        base: identity(name, case),
        factors: FactorSketches::new(&factors.sketches()),
        run: RunMetadata::default(),
        spec,
    };
    let r = Projections::new(&file.spec).r_matrices(&file.v);
    (Standalone::from_seeded(&file, factors), r)
}

/// A LoRA adapter as training here makes them, with A and B at random.
fn own_lora(name: &str, case: &Case) -> Standalone {
    let section =
        AdapterSection { kind: AdapterKind::Lora, rank: 2, alpha: 3.0, ..AdapterSection::default() };
    let spec = LoraSpec::new(&section, &case.model.config).expect("fits");
    let numbers: Vec<f32> =
        spec.init(5).iter().enumerate().map(|(i, a)| a + 0.1 * (i as f32).sin()).collect();
    Standalone::from_lora(&spec, &numbers, identity(name, case), RunMetadata::default())
}

#[test]
fn what_peft_saved_gives_pefts_logits() {
    for name in NAMES {
        let case = tiny_case(name);
        let adapter = import_peft(&peft_folder(name), &identity(name, &case)).expect("imports");
        assert_eq!(adapter.method, Method::TinyLora);
        assert!(
            adapter.v.iter().zip(case.golden.get("v")).all(|(a, b)| a.to_bits() == b.to_bits()),
            "{name}: v"
        );
        for s in 0..4 {
            let tokens = case.golden.ids(&format!("tokens.{s}"));
            let found = adapted(&case, &adapter, &tokens);
            case.golden.check(name, &format!("logits.adapter.{s}"), &found, OTHER_ORDER);
        }
        // One number of v changed is seen.
        let mut wrong = adapter;
        wrong.v[0] += 0.05;
        let tokens = case.golden.ids("tokens.0");
        assert!(case.golden.error("logits.adapter.0", &adapted(&case, &wrong, &tokens)) > 10.0 * OTHER_ORDER);
    }
}

/// A file that leaves P out: it is drawn again as PyTorch draws it. The sizes of the tiny models' P are below 16, of
/// more than 16, and no multiples of 16.
#[test]
fn projections_that_were_left_out_are_drawn_again() {
    for name in NAMES {
        let case = tiny_case(name);
        let saved = import_peft(&peft_folder(name), &identity(name, &case)).expect("imports");
        let folder = exports(&format!("{name}-without-p"));
        let bytes = std::fs::read(peft_folder(name).join("adapter_model.safetensors")).expect("there");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
        let kept: Vec<_> = file.iter().filter(|(name, _)| !name.ends_with("tinylora_P")).collect();
        let kept = safetensors::serialize(kept, None::<HashMap<String, String>>).expect("plain");
        std::fs::write(folder.join("adapter_model.safetensors"), kept).expect("written");
        std::fs::copy(peft_folder(name).join("adapter_config.json"), folder.join("adapter_config.json"))
            .expect("copied");
        let drawn = import_peft(&folder, &identity(name, &case)).expect("imports");
        let off = saved.p.iter().zip(&drawn.p).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(off < 2e-6, "{name}: P is off by {off}");
        let tokens = case.golden.ids("tokens.2");
        case.golden.check(name, "logits.adapter.2", &adapted(&case, &drawn, &tokens), OTHER_ORDER);
    }
}

/// LoRA, rsLoRA with patterns, LoRA-XS, and TinyLoRA on a part of the model, made by `golden/interop.py`.
#[test]
fn other_adapters_of_peft_give_its_logits() {
    let folder = golden().join("interop");
    let tensors = common::Tensors::open(&folder.join("golden.safetensors"));
    let cases = tensors.json["adapters"].as_object().expect("adapters by name").clone();
    assert!(cases.len() >= 6, "{} adapters", cases.len());
    for (adapter_name, model) in cases {
        let case = tiny_case(model.as_str().expect("a model's name"));
        let adapter = import_peft(&folder.join(&adapter_name), &identity(&adapter_name, &case));
        let adapter = adapter.unwrap_or_else(|error| panic!("{adapter_name}: {error}"));
        let found = adapted(&case, &adapter, &case.golden.ids("tokens.0"));
        let stored = tensors.get(&format!("logits.{adapter_name}"));
        let error = relative_error(stored, &found);
        assert!(error <= OTHER_ORDER, "{adapter_name}: logits are off by {error:.1e}");
        let base = logits_with(&case, &case.model, &case.golden.ids("tokens.0"), None);
        assert!(relative_error(stored, &base) > 1e-2, "{adapter_name} does something");
    }
}

#[test]
fn what_leaves_comes_back_the_same() {
    for (name, lora) in NAMES.into_iter().flat_map(|name| [(name, false), (name, true)]) {
        let case = tiny_case(name);
        let adapter = if lora { own_lora(name, &case) } else { own_adapter(name, &case) };
        let tokens = case.golden.ids("tokens.3");
        let ours = adapted(&case, &adapter, &tokens);
        let folder = exports(&if lora { format!("{name}.trained-lora") } else { name.to_owned() });
        export_peft(&adapter, &folder.join("peft")).expect("exports");
        export_lora(&adapter, None, &folder.join("lora")).expect("exports");
        export_lora(&adapter, Some(8), &folder.join("lora8")).expect("exports");
        export_gguf_lora(&adapter, Some(4), &folder.join("lora.gguf")).expect("exports");

        let peft = import_peft(&folder.join("peft"), &adapter.base).expect("imports");
        assert!(peft.v.iter().all(|v| adapter.v.contains(v)), "{name}: v");
        assert_eq!(
            (peft.r_matrices().unwrap(), &peft.factors),
            (adapter.r_matrices().unwrap(), &adapter.factors)
        );
        assert_eq!(adapted(&case, &peft, &tokens), ours, "{name}: PEFT's form is the same, bit for bit");
        for (form, rank) in [("lora", 2), ("lora8", 8)] {
            let lora = import_peft(&folder.join(form), &adapter.base).expect("imports");
            assert_eq!((lora.method, lora.rank()), (Method::Lora, rank));
            let error = relative_error(&ours, &adapted(&case, &lora, &tokens));
            assert!(error <= OTHER_ORDER, "{name} {form}: {error:.1e}");
        }
        assert!(
            export_lora(&adapter, Some(1), &folder.join("lora1")).is_err() && !folder.join("lora1").exists()
        );
        check_merged(name, &case, &adapter, &tokens, &ours, &folder);
        write_expected(&folder, &tokens, &ours);
    }
}

/// LoRA-XS leaves with R as the one P of a v of 1: r² numbers a module, and R bit for bit.
#[test]
fn lora_xs_leaves_as_its_r() {
    for name in ["llama3", "qwen2", "gemma3"] {
        let case = tiny_case(name);
        let section = AdapterSection {
            kind: AdapterKind::LoraXs,
            projection: Projection::Basis,
            rank: 3,
            u: 9,
            n_tie: 1,
            init_bound: 0.3,
            scale: 0.75,
            ..AdapterSection::default()
        };
        let (adapter, r) = seeded(name, &case, &section);
        assert_eq!((adapter.method, adapter.u, adapter.v.as_slice()), (Method::LoraXs, 1, &[1.0][..]));
        assert_eq!(adapter.r_matrices().expect("sizes fit"), r, "{name}: R is that of training");
        let folder = exports(&format!("{name}-lora-xs"));
        export_peft(&adapter, &folder.join("peft")).expect("exports");
        export_lora(&adapter, None, &folder.join("lora")).expect("exports");
        let bytes = std::fs::read(folder.join("peft/adapter_model.safetensors")).expect("there");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
        let shapes: Vec<_> = file
            .iter()
            .filter(|(tensor, _)| tensor.ends_with("tinylora_P"))
            .map(|(_, view)| view.shape().to_vec())
            .collect();
        assert_eq!(shapes, vec![vec![1, 3, 3]; adapter.modules.len()]);
        let back = import_peft(&folder.join("peft"), &adapter.base).expect("imports");
        assert_eq!(back.r_matrices().expect("sizes fit"), r, "{name}: and R comes back");
        let tokens = case.golden.ids("tokens.1");
        let ours = adapted(&case, &adapter, &tokens);
        assert_eq!(adapted(&case, &back, &tokens), ours);
        let lora = import_peft(&folder.join("lora"), &adapter.base).expect("imports");
        assert!(relative_error(&ours, &adapted(&case, &lora, &tokens)) <= OTHER_ORDER);
        let json = serde_json::json!({
            "model": name, "forms": ["peft", "lora"], "tokens": tokens, "logits": ours});
        std::fs::write(folder.join("expected.json"), json.to_string()).expect("written");
    }
}

/// Merged in f32 the weights give the same logits; merged as stored, the report says what was lost.
fn check_merged(name: &str, case: &Case, adapter: &Standalone, tokens: &[u32], ours: &[f32], folder: &Path) {
    let files = tiny_files(name);
    let weights = Weights::open(&files).expect("opens");
    let out = folder.join("merged");
    let whole =
        merge(adapter, &weights, &files, Some(OutputType::F32), &out, &mut |_, _| {}).expect("merges");
    assert!((whole.kept().unwrap() - 1.0).abs() < 1e-3 && whole.noise().unwrap() < 1e-3, "{name}: {whole:?}");
    let merged_files = ModelFiles { reference: name.into(), layout: moved(&files.layout, &out) };
    let merged = Weights::open(&merged_files).expect("the merged model opens");
    let model = Model::load(&case.cpu, &merged, Precision::F32, 1024, &mut |_, _| {}).expect("loads");
    let error = relative_error(ours, &logits_with(case, &model, tokens, None));
    assert!(error <= OTHER_ORDER, "{name} merged: {error:.1e}");
    let coarse = folder.join("merged-bf16");
    let lost =
        merge(adapter, &weights, &files, Some(OutputType::Bf16), &coarse, &mut |_, _| {}).expect("merges");
    assert!(lost.noise().unwrap() > 10.0 * whole.noise().unwrap(), "{name}: {lost:?}");
    assert!(merge(adapter, &weights, &files, None, &coarse, &mut |_, _| {}).is_err(), "the folder is taken");
}

/// The same layout in another folder.
fn moved(layout: &ModelLayout, folder: &Path) -> ModelLayout {
    let ModelLayout::HuggingFace { config, weights, tokenizer, .. } = layout else { panic!("a folder") };
    let moved = |path: &PathBuf| folder.join(path.file_name().expect("a file"));
    ModelLayout::HuggingFace {
        config: moved(config),
        weights: weights.iter().map(moved).collect(),
        tokenizer: moved(tokenizer),
        tokenizer_config: None,
        chat_template: None,
        generation_config: None,
    }
}

/// What `golden/interop.py --check` compares PEFT's logits with.
fn write_expected(folder: &Path, tokens: &[u32], logits: &[f32]) {
    let json = serde_json::json!({"tokens": tokens, "logits": logits});
    std::fs::write(folder.join("expected.json"), json.to_string()).expect("written");
}
