//! A model's sizes enter, how many numbers each method would train on it leaves: the paper's Table 1 for that model, exact
//! and in the paper's form. No weights are looked at.

use super::spec::{AdapterError, Target, parse_targets};
use crate::model::config::ModelConfig;
use serde::Serialize;

/// A method with its sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Method {
    /// Every weight of the model, embedding and norms included.
    Full,
    /// A (r, in) and B (out, r) of each module (Hu et al. 2021).
    Lora {
        /// r
        rank: usize,
    },
    /// R (r, r) of each module (Bałazy et al. 2024).
    LoraXs {
        /// r
        rank: usize,
    },
    /// Vectors d (r) and b (out) of each module (Kopiczko et al. 2023); the matrices are random, shared and fixed.
    Vera {
        /// r
        rank: usize,
    },
    /// u numbers for each `n_tie` modules.
    #[serde(rename = "tinylora")]
    TinyLora {
        /// u
        u: usize,
        /// Modules that share one v; 0: all.
        n_tie: usize,
    },
}

/// What a method trains.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Count {
    /// The method with its sizes.
    #[serde(flatten)]
    pub method: Method,
    /// Trained numbers; None: the rank is larger than a matrix allows.
    pub numbers: Option<u64>,
    /// The paper's form: n layers of m modules, all of them d × d.
    pub form: &'static str,
    /// That form with the model's numbers, d being the hidden size.
    pub form_numbers: u64,
    /// Bytes in bf16.
    pub bytes_bf16: Option<u64>,
    /// Bytes in f32.
    pub bytes_f32: Option<u64>,
}

/// A model's table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountTable {
    /// All weights.
    pub parameters: u64,
    /// n
    pub layers: usize,
    /// m: adapted modules of a layer, by name.
    pub targets: Vec<&'static str>,
    /// d
    pub hidden_size: usize,
    /// Full finetuning, then each method with each of its sizes.
    pub rows: Vec<Count>,
}

/// Which sizes are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountSizes {
    /// Adapted modules by name.
    pub targets: Vec<String>,
    /// Ranks of LoRA, LoRA-XS and VeRA.
    pub ranks: Vec<usize>,
    /// u of TinyLoRA.
    pub u: Vec<usize>,
    /// `n_tie` of TinyLoRA; 0: all.
    pub n_tie: Vec<usize>,
}

/// Counts; an error is a size of 0, or a module that no layer has.
pub fn count(config: &ModelConfig, sizes: &CountSizes) -> Result<CountTable, AdapterError> {
    let targets = parse_targets(&sizes.targets)?;
    for (key, values) in [("rank", &sizes.ranks), ("u", &sizes.u)] {
        if values.contains(&0) {
            return Err(AdapterError::Zero { key });
        }
    }
    let ranks = |method: fn(usize) -> Method| sizes.ranks.iter().map(move |&rank| method(rank));
    let shared =
        sizes.u.iter().flat_map(|&u| sizes.n_tie.iter().map(move |&n_tie| Method::TinyLora { u, n_tie }));
    let methods = std::iter::once(Method::Full)
        .chain(ranks(|rank| Method::Lora { rank }))
        .chain(ranks(|rank| Method::LoraXs { rank }))
        .chain(ranks(|rank| Method::Vera { rank }))
        .chain(shared);
    Ok(CountTable {
        parameters: config.parameters,
        layers: config.num_layers,
        targets: targets.iter().map(|target| target.name()).collect(),
        hidden_size: config.hidden_size,
        rows: methods.map(|method| row(config, &targets, method)).collect(),
    })
}

fn row(config: &ModelConfig, targets: &[Target], method: Method) -> Count {
    let (layers, modules) = (config.num_layers as u64, (config.num_layers * targets.len()) as u64);
    let hidden = config.hidden_size as u64;
    let sum = |of: &dyn Fn(u64, u64) -> u64| -> u64 {
        let of_layer = targets.iter().map(|target| {
            let (outputs, inputs) = target.shape(config);
            of(outputs as u64, inputs as u64)
        });
        layers.saturating_mul(of_layer.fold(0u64, u64::saturating_add))
    };
    let fits = |rank: usize| {
        targets.iter().all(|target| {
            let (outputs, inputs) = target.shape(config);
            rank <= outputs.min(inputs)
        })
    };
    let (numbers, form, form_numbers) = match method {
        Method::Full => (Some(config.parameters), "n·m·d²", modules.saturating_mul(hidden * hidden)),
        Method::Lora { rank } => {
            let r = rank as u64;
            let exact = sum(&|outputs, inputs| r.saturating_mul(outputs + inputs));
            (Some(exact), "2·n·m·d·r", (2 * modules * hidden).saturating_mul(r))
        }
        Method::LoraXs { rank } => {
            let all = modules.saturating_mul((rank as u64).saturating_mul(rank as u64));
            (fits(rank).then_some(all), "n·m·r²", all)
        }
        Method::Vera { rank } => {
            let r = rank as u64;
            let exact = sum(&|outputs, _| r.saturating_add(outputs));
            (Some(exact), "n·m·(d+r)", modules.saturating_mul(hidden.saturating_add(r)))
        }
        Method::TinyLora { u, n_tie } => {
            let share = if n_tie == 0 { modules } else { n_tie as u64 }.max(1);
            let exact = modules.div_ceil(share).saturating_mul(u as u64);
            (Some(exact), "n·m·u/n_tie", modules.saturating_mul(u as u64) / share)
        }
    };
    let bytes = |each: u64| numbers.map(|numbers| numbers.saturating_mul(each));
    Count { method, numbers, form, form_numbers, bytes_bf16: bytes(2), bytes_f32: bytes(4) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::TinyLoraSpec;
    use crate::adapter::spec::tests::config;
    use crate::model::config::count_parameters;
    use crate::recipe::AdapterSection;

    /// SmolLM2-135M.
    fn smollm2() -> ModelConfig {
        let mut smollm2 = ModelConfig {
            hidden_size: 576,
            intermediate_size: 1536,
            num_heads: 9,
            num_kv_heads: 3,
            head_dim: 64,
            vocab_size: 49_152,
            ..config(30)
        };
        smollm2.parameters = count_parameters(&smollm2);
        smollm2
    }

    fn sizes() -> CountSizes {
        CountSizes {
            targets: AdapterSection::default().targets,
            ranks: vec![1, 8, 256],
            u: vec![1, 13],
            n_tie: vec![0, 16, 1],
        }
    }

    /// `golden/counts.json`: what PEFT counts on modules of the shape of SmolLM2-135M.
    #[test]
    fn counts_are_those_of_peft() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../../golden/counts.json")).unwrap();
        let config = smollm2();
        let mut compared = 0;
        for case in golden["cases"].as_array().unwrap() {
            let list = |key: &str| -> Vec<usize> {
                let values = case[key].as_array().into_iter().flatten();
                values.map(|value| value.as_u64().unwrap() as usize).collect()
            };
            let targets =
                case["targets"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().into());
            let sizes = CountSizes {
                targets: targets.collect(),
                ranks: list("rank"),
                u: list("u"),
                n_tie: list("n_tie"),
            };
            let table = count(&config, &sizes).unwrap();
            let wanted = &case["method"];
            let row = table.rows.iter().find(|row| serde_json::json!(row)["method"] == *wanted);
            assert_eq!(row.unwrap().numbers, case["numbers"].as_u64(), "{case}");
            compared += 1;
        }
        assert!(compared >= 20, "{compared}");
    }

    #[test]
    fn tinylora_is_what_a_run_trains_and_impossible_ranks_are_left_open() {
        let config = smollm2();
        let table = count(&config, &sizes()).unwrap();
        for row in &table.rows {
            if let Method::TinyLora { u, n_tie } = row.method {
                let section = AdapterSection { u, n_tie, ..AdapterSection::default() };
                let spec = TinyLoraSpec::new(&section, &config).unwrap();
                assert_eq!(row.numbers, Some(spec.trainable_parameters() as u64), "{u} {n_tie}");
            }
        }
        assert_eq!(table.rows[0].numbers, Some(134_515_008));
        let open: Vec<Method> =
            table.rows.iter().filter(|row| row.numbers.is_none()).map(|row| row.method).collect();
        assert_eq!(open, [Method::LoraXs { rank: 256 }], "k_proj has 192 rows");
        let json = serde_json::json!(table.rows[1]);
        assert_eq!((json["method"].as_str(), json["rank"].as_u64()), (Some("lora"), Some(1)));
        let wrong = CountSizes { u: vec![0], ..sizes() };
        assert_eq!(count(&config, &wrong), Err(AdapterError::Zero { key: "u" }));
    }
}
