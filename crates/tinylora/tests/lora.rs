//! LoRA, rsLoRA and LoRA-XS in training against PEFT and PyTorch's autograd on tiny models: gradients of what is trained,
//! and the losses and numbers of some steps of AdamW. The golden numbers are made by `golden/lora.py`.

mod common;

use common::case::{Case, accumulate_loss, logits, logits_with, tiny_case};
use common::{Tensors, golden, relative_error};
use serde_json::Value;
use tinylora::adapter::{LoraSpec, Projections, TinyLoraSpec};
use tinylora::model::{Adapters, Gradients, ModuleFactors, ModuleKind, Policy, R, SideFactors};
use tinylora::optimizer::{OptimizerState, apply};
use tinylora::recipe::{AdapterKind, AdapterSection, OptimizerKind, OptimizerSection, Projection, Tying};

/// What is allowed beyond a tensor's own tolerance, for another order of summation.
const TOLERANCE: f64 = 1e-4;

/// What a case of the golden file trains.
enum Kind {
    Lora(LoraSpec),
    LoraXs { factors: SideFactors, projections: Projections },
}

struct Trained {
    name: String,
    case: Case,
    kind: Kind,
}

impl Trained {
    fn open(name: &str, settings: &Value, tensors: &Tensors) -> Self {
        let case = tiny_case(settings["model"].as_str().expect("a model"));
        let section = AdapterSection {
            rank: settings["rank"].as_u64().expect("a rank") as usize,
            alpha: settings["alpha"].as_f64().expect("alpha") as f32,
            rslora: settings["rslora"].as_bool().expect("a flag"),
            targets: serde_json::from_value(settings["kinds"].clone()).expect("names"),
            ..AdapterSection::default()
        };
        let spec = LoraSpec::new(&section, &case.model.config).expect("fits");
        let kind = match settings["lora_xs"].as_bool().expect("a flag") {
            false => Kind::Lora(spec),
            true => lora_xs(&case, &spec, section, tensors.get(&format!("factors.{name}"))),
        };
        Self { name: name.to_owned(), case, kind }
    }

    /// Loss and gradient at these numbers.
    fn gradient(&self, loss: &str, numbers: &[f32], most: usize) -> (f32, Vec<f32>) {
        let mut sums = match &self.kind {
            Kind::Lora(_) => Gradients::Factors(vec![0.0; numbers.len()]),
            Kind::LoraXs { .. } => Gradients::R(vec![vec![0.0; numbers.len()]]),
        };
        let value =
            self.with_policy(numbers, |policy| accumulate_loss(&self.case, loss, policy, most, &mut sums));
        let gradient = match (&self.kind, sums) {
            (Kind::LoraXs { projections, .. }, Gradients::R(dr)) => {
                let dr: Vec<f32> = dr[0].iter().map(|&x| x as f32).collect();
                projections.v_gradient(&dr)
            }
            (Kind::Lora(_), Gradients::Factors(gradient)) => gradient,
            _ => panic!("made above"),
        };
        (value, gradient)
    }

    fn with_policy<T>(&self, numbers: &[f32], use_it: impl FnOnce(Policy<'_>) -> T) -> T {
        let case = &self.case;
        match &self.kind {
            Kind::Lora(spec) => {
                let factors = lora_factors(case, spec, numbers);
                let r = [R::Multiples(vec![spec.scale(); spec.num_modules()])];
                use_it(Policy::new(&case.model, Adapters { factors: Some(&factors), r: &r }))
            }
            Kind::LoraXs { factors, projections } => {
                let r = [R::Matrices(projections.r_matrices(numbers))];
                use_it(Policy::new(&case.model, Adapters { factors: Some(factors), r: &r }))
            }
        }
    }

    /// Losses before each step of AdamW and after the last, and the numbers at the end.
    fn curve(&self, start: &[f32], (steps, rate): (u64, f32)) -> (Vec<f32>, Vec<f32>) {
        let settings = OptimizerSection { max_grad_norm: 0.0, ..Default::default() };
        let mut state = OptimizerState::new(OptimizerKind::Adamw, start.len());
        let (mut numbers, mut losses) = (start.to_vec(), Vec::new());
        for step in 0..=steps {
            let (loss, gradient) = self.gradient("grpo", &numbers, 10_000);
            losses.push(loss);
            if step < steps {
                apply(&settings, step, rate, &gradient, &mut state, &mut numbers).expect("finite");
            }
        }
        (losses, numbers)
    }
}

fn lora_factors(case: &Case, spec: &LoraSpec, numbers: &[f32]) -> SideFactors {
    let modules: Vec<(usize, ModuleKind)> = spec.modules().map(|m| (m.layer, m.target)).collect();
    SideFactors::from_numbers(&case.cpu, &case.model.config, spec.rank, &modules, numbers)
}

/// A and B are PEFT's; what is trained is R, scaled as LoRA is.
fn lora_xs(case: &Case, lora: &LoraSpec, section: AdapterSection, factors: &[f32]) -> Kind {
    let section = AdapterSection {
        kind: AdapterKind::LoraXs,
        u: lora.rank * lora.rank,
        n_tie: 1,
        tying: Tying::None,
        projection: Projection::Basis,
        scale: lora.scale(),
        ..section
    };
    let spec = TinyLoraSpec::new(&section, &case.model.config).expect("fits");
    Kind::LoraXs { factors: lora_factors(case, lora, factors), projections: Projections::new(&spec) }
}

fn cases() -> (Tensors, Vec<Trained>) {
    let tensors = Tensors::open(&golden().join("lora/golden.safetensors"));
    let cases = tensors.json["cases"].as_object().expect("cases by name").clone();
    assert!(cases.len() >= 4, "{} cases", cases.len());
    let cases = cases.iter().map(|(name, settings)| Trained::open(name, settings, &tensors)).collect();
    (tensors, cases)
}

#[test]
fn gradients_agree_with_autograd() {
    let (tensors, cases) = cases();
    for trained in cases {
        let name = &trained.name;
        let start = tensors.get(&format!("start.{name}"));
        for loss in ["nll", "grpo"] {
            let tensor = format!("gradient.{loss}.{name}");
            let (_, gradient) = trained.gradient(loss, start, 10_000);
            eprintln!("{tensor} is off by {:.1e}", tensors.error(&tensor, &gradient));
            tensors.check(name, &tensor, &gradient, TOLERANCE);
            let (_, cut) = trained.gradient(loss, start, 30);
            assert!(relative_error(&gradient, &cut) < 1e-5, "{name}: micro-batches");
        }
    }
}

#[test]
fn steps_of_adamw_agree_with_pytorch() {
    let (tensors, cases) = cases();
    let steps = tensors.json["steps"].as_u64().expect("a number");
    let rate = tensors.json["learning_rate"].as_f64().expect("a number") as f32;
    for trained in cases {
        let name = &trained.name;
        let (losses, numbers) = trained.curve(tensors.get(&format!("start.{name}")), (steps, rate));
        eprintln!("curve.{name}.v is off by {:.1e}", tensors.error(&format!("curve.{name}.v"), &numbers));
        tensors.check(name, &format!("curve.{name}.loss"), &losses, TOLERANCE);
        tensors.check(name, &format!("curve.{name}.v"), &numbers, TOLERANCE);
        assert!(losses[steps as usize] < losses[0], "{name}: the loss falls");
    }
}

/// The checks above can fail: a mistake of each kind is far outside the tolerance.
#[test]
fn planted_errors_are_caught() {
    let (tensors, cases) = cases();
    for trained in cases {
        let name = &trained.name;
        let start = tensors.get(&format!("start.{name}"));
        let (_, gradient) = trained.gradient("grpo", start, 10_000);
        assert!(tensors.error(&format!("gradient.nll.{name}"), &gradient) > 1e-2, "{name}: another loss");
        let Kind::Lora(spec) = &trained.kind else { continue };
        let (mut scaled, mut other_rule) = (spec.clone(), spec.clone());
        scaled.alpha *= 1.01;
        other_rule.rslora = !spec.rslora;
        for wrong in [scaled, other_rule] {
            let other =
                Trained { name: name.clone(), case: tiny_case_of(&tensors, name), kind: Kind::Lora(wrong) };
            let (_, gradient) = other.gradient("grpo", start, 10_000);
            assert!(
                tensors.error(&format!("gradient.grpo.{name}"), &gradient) > 1e-3,
                "{name}: another scale"
            );
        }
    }
}

fn tiny_case_of(tensors: &Tensors, name: &str) -> Case {
    tiny_case(tensors.json["cases"][name]["model"].as_str().expect("a model"))
}

/// As R · I of a file that is read back, and as multiples in training, LoRA is the same model, bit for bit; and with B = 0 the
/// base.
#[test]
fn multiples_of_the_identity_are_what_the_matrices_are() {
    let case = tiny_case("qwen3");
    let section =
        AdapterSection { kind: AdapterKind::Lora, rank: 5, alpha: 7.0, ..AdapterSection::default() };
    let spec = LoraSpec::new(&section, &case.model.config).expect("fits");
    let tokens = case.golden.ids("tokens.0");
    let base = logits(&case, &tokens, None);
    let mut numbers = spec.init(3);
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let matrix = |at: usize| if at.is_multiple_of(6) { spec.scale() } else { 0.0 };
    let r: Vec<f32> = (0..25).map(matrix).collect::<Vec<_>>().repeat(spec.num_modules());
    let multiples = R::Multiples(vec![spec.scale(); spec.num_modules()]);
    assert_eq!(R::Matrices(r.clone()).simplified(spec.num_modules(), 5), multiples);
    for changed in [false, true] {
        if changed {
            numbers.iter_mut().enumerate().for_each(|(i, x)| *x += 0.05 * (i as f32 * 0.7).sin());
        }
        let factors = lora_factors(&case, &spec, &numbers);
        let own: Vec<ModuleFactors> = spec
            .modules()
            .zip(spec.factors(&numbers).modules)
            .map(|(m, f)| ModuleFactors { layer: m.layer, kind: m.target, a: f.a, b: f.b })
            .collect();
        let of_file = SideFactors::new(&case.cpu, &case.model.config, 5, &own);
        let matrices = logits_with(&case, &case.model, &tokens, Some((&of_file, &R::Matrices(r.clone()))));
        let trained = logits_with(&case, &case.model, &tokens, Some((&factors, &multiples)));
        assert_eq!(bits(matrices.clone()), bits(trained));
        assert_eq!(bits(base.clone()) == bits(matrices), !changed);
    }
}
