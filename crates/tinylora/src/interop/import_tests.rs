//! Tests of the import: PEFT's rules for targets and groups, and folders that are refused with the reason.

use super::super::export_peft::export_peft;
use super::super::peft_config::CONFIG;
use super::super::peft_files::WEIGHTS;
use super::super::safetensors_out::write_f32;
use super::*;
use crate::adapter::Target;
use crate::model::config::Family;
use crate::recipe::WeightDtype;
use serde_json::{Value, json};
use tempfile::TempDir;

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn base() -> BaseIdentity {
    BaseIdentity {
        reference: "a/b".into(),
        sha256: [3; 32],
        family: Family::Llama,
        dtype: WeightDtype::F32,
        parameters: 1000,
        hidden_size: 8,
        intermediate_size: 12,
        num_layers: 3,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
        vocab_size: 20,
    }
}

fn numbers(count: usize, from: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + from) * 37 % 101) as f32 - 50.0) / 64.0).collect()
}

/// What PEFT's LoRA would save for these modules, each with its rank.
fn lora_tensors(modules: &[(usize, Target, usize)]) -> Tensors {
    let mut tensors = Tensors::new();
    for &(layer, target, rank) in modules {
        let (n, k) = base().shape(target);
        let name = module_name(Module { layer, target });
        tensors.push((
            format!("base_model.model.{name}.lora_A.weight"),
            vec![rank, k],
            numbers(rank * k, layer),
        ));
        tensors.push((
            format!("base_model.model.{name}.lora_B.weight"),
            vec![n, rank],
            numbers(n * rank, layer + 7),
        ));
    }
    tensors
}

fn tinylora_tensors(modules: &[(usize, Target)], u: usize, groups: usize) -> Tensors {
    let mut tensors = Tensors::new();
    for group in 0..groups {
        tensors.push((format!("base_model.tinylora_v.{group}"), vec![u], numbers(u, group)));
    }
    for &(layer, target) in modules {
        let (n, k) = base().shape(target);
        let name = format!("base_model.model.{}.tinylora_", module_name(Module { layer, target }));
        tensors.push((format!("{name}A"), vec![2, k], numbers(2 * k, layer)));
        tensors.push((format!("{name}B"), vec![n, 2], numbers(2 * n, layer + 3)));
        tensors.push((format!("{name}P"), vec![u, 2, 2], numbers(4 * u, layer + 5)));
    }
    tensors
}

fn folder(config: &Value, tensors: &Tensors) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
    write_f32(&folder.path().join(WEIGHTS), tensors).unwrap();
    folder
}

fn imported(config: &Value, tensors: &Tensors) -> Result<Standalone, InteropError> {
    import_peft(folder(config, tensors).path(), &base())
}

fn refused(config: &Value, tensors: &Tensors) -> String {
    imported(config, tensors).expect_err("refused").to_string()
}

#[test]
fn groups_are_peft_s() {
    // 252 modules in 32 groups: 31 of 7 and a last one of 35.
    let groups = peft_groups(252, 1.0 - 32.0 / 252.0);
    assert_eq!((groups[6], groups[7], groups[216], groups[217], groups[251]), (0, 1, 30, 31, 31));
    // Halves to even: 5 · 0.5 = 2.5 → 2 groups of 2, the last with 3; 7 · 0.5 = 3.5 → 4.
    assert_eq!(peft_groups(5, 0.5), [0, 0, 1, 1, 1]);
    assert_eq!(peft_groups(7, 0.5), [0, 1, 2, 3, 3, 3, 3]);
    assert_eq!(peft_groups(3, 1.0), [0, 0, 0]);
    assert_eq!(peft_groups(3, 0.0), [0, 1, 2]);
}

#[test]
fn targets_are_lists_patterns_layers_and_exceptions() {
    let of = |config: Value| -> Vec<String> {
        let folder = folder(&config, &Tensors::new());
        let modules = PeftConfig::read(folder.path()).unwrap().modules(3).unwrap();
        modules.into_iter().map(|m| format!("{}{}", m.layer, m.target.name())).collect()
    };
    assert_eq!(
        of(json!({"target_modules": null})).join(" "),
        "0q_proj 0v_proj 1q_proj 1v_proj 2q_proj 2v_proj"
    );
    assert_eq!(of(json!({"target_modules": "all-linear"})).len(), 21);
    assert_eq!(
        of(json!({"target_modules": ["up_proj"], "layers_to_transform": [2, 0]})),
        ["0up_proj", "2up_proj"]
    );
    assert_eq!(of(json!({"target_modules": ["up_proj"], "layers_to_transform": 1})), ["1up_proj"]);
    assert_eq!(
        of(json!({"target_modules": ["up_proj"], "layers_to_transform": [], "layers_pattern": "layers"}))
            .len(),
        3
    );
    assert_eq!(of(json!({"target_modules": ["model.layers.1.mlp.down_proj"]})), ["1down_proj"]);
    assert_eq!(
        of(json!({"target_modules": ["proj", "self_attn.k_proj"]})),
        ["0k_proj", "1k_proj", "2k_proj"]
    );
    assert_eq!(
        of(json!({"target_modules": r".*\.[01]\.self_attn\.(q|o)_proj"})).join(" "),
        "0q_proj 0o_proj 1q_proj 1o_proj"
    );
    // A pattern matches whole names; PEFT does not look at layer numbers then.
    assert_eq!(of(json!({"target_modules": r".*k_proj", "layers_to_transform": [1]})).len(), 3);
    assert_eq!(of(json!({"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["q_proj"]})).len(), 3);
    assert_eq!(
        of(json!({"target_modules": ["q_proj"], "exclude_modules": r"model\.layers\.0\..*"})).len(),
        2
    );
}

#[test]
fn lora_of_different_ranks_and_alphas_is_taken_as_it_is() {
    let modules = [(0, Target::Q, 2), (1, Target::Q, 4), (2, Target::Q, 2)];
    let tensors = lora_tensors(&modules);
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 4}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 16}});
    let adapter = imported(&config, &tensors).unwrap();
    assert_eq!((adapter.method, adapter.rank(), adapter.u), (Method::Lora, 4, 1));
    let diagonal = |adapter: &Standalone| -> Vec<Vec<f32>> {
        let r = adapter.r_matrices().unwrap();
        r.chunks_exact(16).map(|r| (0..4).map(|i| r[5 * i]).collect()).collect()
    };
    assert_eq!(diagonal(&adapter), [[3.0, 3.0, 0.0, 0.0], [4.0; 4], [3.0, 3.0, 0.0, 0.0]]);
    assert_eq!(adapter.factors.modules[1].a, tensors[2].2);
    assert_eq!(adapter.factors.modules[0].a[..16], tensors[0].2);
    assert_eq!(adapter.factors.modules[0].a[16..], [0.0; 16]);
    assert_eq!(adapter.factors.modules[0].b[..4], [tensors[1].2[0], tensors[1].2[1], 0.0, 0.0]);
    config["use_rslora"] = json!(true);
    let r = diagonal(&imported(&config, &tensors).unwrap());
    assert!((r[0][0] - 6.0 / 2f32.sqrt()).abs() < 1e-6 && (r[1][0] - 8.0).abs() < 1e-6);
}

#[test]
fn lora_xs_has_its_matrix_in_r() {
    let mut tensors = lora_tensors(&[(0, Target::V, 2), (1, Target::V, 2), (2, Target::V, 2)]);
    for layer in 0..3 {
        let name = format!(
            "base_model.model.model.layers.{layer}.self_attn.v_proj.default_lora_latent_mapping.weight"
        );
        tensors.push((name, vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]));
    }
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["v_proj"]});
    let adapter = imported(&config, &tensors).unwrap();
    assert_eq!(adapter.method, Method::LoraXs);
    assert_eq!(adapter.r_matrices().unwrap()[..4], [2.0, 4.0, 6.0, 8.0]);
    tensors.pop();
    assert!(
        refused(&config, &tensors).contains("layers.2.self_attn.v_proj.default_lora_latent_mapping.weight`")
    );
}

#[test]
fn tinylora_on_a_part_of_the_model_comes_back_bit_for_bit() {
    let modules = [(0, Target::K), (0, Target::Up), (2, Target::K), (2, Target::Up)];
    let config = json!({"peft_type": "TINYLORA", "r": 2, "u": 3, "weight_tying": 0.5,
        "target_modules": ["k_proj", "up_proj"], "layers_to_transform": [0, 2], "peft_version": "0.19.1"});
    let adapter = imported(&config, &tinylora_tensors(&modules, 3, 2)).unwrap();
    assert_eq!(adapter.groups, [0, 0, 1, 1]);
    let out = TempDir::new().unwrap();
    export_peft(&adapter, &out.path().join("a")).unwrap();
    let again = import_peft(&out.path().join("a"), &base()).unwrap();
    assert_eq!(
        Standalone { source: String::new(), ..again },
        Standalone { source: String::new(), ..adapter.clone() }
    );
    // Groups that PEFT can't make leave with v repeated, and mean the same.
    let odd = Standalone { groups: vec![0, 1, 0, 1], ..adapter };
    export_peft(&odd, &out.path().join("b")).unwrap();
    let again = import_peft(&out.path().join("b"), &base()).unwrap();
    assert_eq!(again.num_groups(), 4);
    assert_eq!(again.r_matrices().unwrap(), odd.r_matrices().unwrap());
}

#[test]
fn what_would_change_the_result_is_refused_with_the_reason() {
    let tensors = lora_tensors(&[(0, Target::Q, 2), (1, Target::Q, 2), (2, Target::Q, 2)]);
    let good =
        json!({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"], "bias": "none"});
    imported(&good, &tensors).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = good.clone();
        config[key] = value;
        refused(&config, &tensors)
    };
    assert!(
        with("modules_to_save", json!(["lm_head"]))
            .contains("`modules_to_save` is [\"lm_head\"]; it must be absent")
    );
    assert!(with("use_dora", json!(true)).contains("DoRA"));
    assert!(with("bias", json!("all")).contains("biases"));
    assert!(with("peft_type", json!("LOHA")).contains("`peft_type` is \"LOHA\"; \"TINYLORA\" and \"LORA\""));
    assert!(with("lora_alpha", json!("six")).contains("`lora_alpha` is \"six\""));
    assert!(with("target_modules", json!("(")).contains("can't be used"));
    assert!(with("target_modules", json!(["lm_head"])).contains("none of the linear layers of the 3 blocks"));
    assert!(
        with("target_modules", json!(["q_proj", "k_proj"]))
            .contains("layers.0.self_attn.k_proj.lora_A.weight`")
    );
    let extra = with("layers_to_transform", json!([0, 1]));
    assert!(
        extra.contains("layers.2.self_attn.q_proj.lora_A.weight`") && extra.contains("does not ask for it"),
        "{extra}"
    );
    let with_tensor = |name: &str, shape: Vec<usize>| {
        let mut tensors = tensors.clone();
        let count = shape.iter().product();
        tensors.retain(|tensor| tensor.0 != name);
        tensors.push((name.to_owned(), shape, numbers(count, 0)));
        refused(&good, &tensors)
    };
    let b = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
    assert!(
        with_tensor(b, vec![9, 2])
            .contains("the shape [9, 2], but adapter_config.json and the base model ask for [8, 2]")
    );
    let a = b.replace("lora_B", "lora_A");
    assert!(with_tensor(&a, vec![2, 9]).contains("layer 1 q_proj needs [r, 8]"));
    assert!(
        with_tensor("base_model.model.lm_head.lora_A.weight", vec![2, 8]).contains("only the linear layers")
    );
    let mut broken = tensors.clone();
    broken[1].2[3] = f32::NAN;
    assert!(refused(&good, &broken).contains("lora_B.weight` holds NaN at index 3"));
}

#[test]
fn projections_that_cannot_be_had_again_are_refused() {
    let modules = [(0, Target::K), (1, Target::K), (2, Target::K)];
    let mut tensors = tinylora_tensors(&modules, 3, 3);
    tensors.retain(|tensor| !tensor.0.ends_with("tinylora_P"));
    let mut config = json!({"peft_type": "TINYLORA", "r": 2, "u": 3, "target_modules": ["k_proj"],
        "projection_seed": 42, "save_projection": false, "peft_version": "0.21.2"});
    let adapter = imported(&config, &tensors).unwrap();
    assert_eq!(adapter.p[12..24], torch_random::normal(43, 0.5f64.sqrt(), 12), "module 1 has seed 43");
    config["peft_version"] = json!("0.19.1");
    assert!(refused(&config, &tensors).contains("versions before 0.20 drew P from a seed that changed"));
    config["peft_version"] = json!("0.21.2");
    config["weight_tying"] = json!(1.0);
    let left = refused(&config, &tensors);
    assert!(left.contains("base_model.tinylora_v.1`"), "{left}");
    tensors.retain(|tensor| tensor.0 != "base_model.tinylora_v.2");
    config["weight_tying"] = json!(0.0);
    assert!(refused(&config, &tensors).contains("3 modules at weight_tying 0 make 3 groups"));
}

#[test]
fn folders_that_are_none_say_so() {
    let empty = TempDir::new().unwrap();
    let message = |folder: &Path| import_peft(folder, &base()).unwrap_err().to_string();
    assert!(message(empty.path()).contains("adapter_config.json is not in it"));
    assert!(message(&empty.path().join("x")).contains("it is not a folder"));
    std::fs::write(empty.path().join(CONFIG), "{").unwrap();
    assert!(message(empty.path()).contains("not JSON"));
    std::fs::write(empty.path().join(CONFIG), r#"{"peft_type": "LORA", "target_modules": ["q_proj"]}"#)
        .unwrap();
    assert!(message(empty.path()).contains("adapter_model.safetensors is not in it"));
    std::fs::write(empty.path().join("adapter_model.bin"), "x").unwrap();
    assert!(message(empty.path()).contains("can run code"));
    std::fs::write(empty.path().join(WEIGHTS), [9; 20]).unwrap();
    assert!(message(empty.path()).contains("not a usable safetensors file"));
}
