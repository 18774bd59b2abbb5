//! A recipe enters; the first value that cannot be run leaves as an error with its key, the value and
//! what is allowed. Nothing is changed, and no file or model is looked at.

use super::{
    AdapterKind, AdapterSection, AnswerFormat, ArithmeticKind, ArithmeticTask, BenchmarkTask, ExampleFormat,
    JsonlTask, Learner, OptimizerKind, PROMPT_FORMATS, Projection, Recipe, RecipeError, Scorer, Split,
    StoragePrecision, TaskSection, TooLong,
};
use std::fmt::Display;

const MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const LARGEST_SEED: u64 = i64::MAX as u64;
const LARGEST_OPERAND: i64 = 1_000_000;
/// Results of products and chains stay below this, so that they are exact everywhere.
const LARGEST_RESULT: f64 = 1e15;

pub(super) fn validate(recipe: &Recipe) -> Result<(), RecipeError> {
    name(&recipe.name)?;
    seed("seed", recipe.seed)?;
    require(!recipe.model.reference.trim().is_empty(), "model.ref", "\"\"", "name a model")?;
    require(
        recipe.model.memory <= LARGEST_SEED,
        "model.memory",
        recipe.model.memory,
        "at most 2^63 - 1 bytes",
    )?;
    adapter(recipe)?;
    match &recipe.task {
        TaskSection::Arithmetic(task) => arithmetic(task)?,
        TaskSection::Jsonl(task) => jsonl(task)?,
        TaskSection::Benchmark(task) => benchmark(recipe, task)?,
        TaskSection::Nothing => no_task(recipe)?,
    }
    sft(recipe)?;
    reward(recipe)?;
    rollout(recipe)?;
    grpo(recipe)?;
    optimizer(recipe)?;
    train(recipe)?;
    eval(recipe)
}

fn require(
    ok: bool,
    key: &'static str,
    value: impl Display,
    allowed: impl Display,
) -> Result<(), RecipeError> {
    match ok {
        true => Ok(()),
        false => Err(RecipeError::Invalid { key, value: value.to_string(), allowed: allowed.to_string() }),
    }
}

fn at_least(key: &'static str, value: usize, least: usize) -> Result<(), RecipeError> {
    require(value >= least, key, value, format_args!("allowed is {least} or more"))
}

fn positive(key: &'static str, value: f64) -> Result<(), RecipeError> {
    require(value > 0.0 && value.is_finite(), key, value as f32, "allowed is a finite number above 0")
}

fn not_negative(key: &'static str, value: f32) -> Result<(), RecipeError> {
    require(value >= 0.0 && value.is_finite(), key, value, "allowed is a finite number from 0")
}

fn probability(key: &'static str, value: f32) -> Result<(), RecipeError> {
    require(value > 0.0 && value <= 1.0, key, value, "allowed is above 0, up to 1")
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn name(name: &str) -> Result<(), RecipeError> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    require(
        !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.chars().all(plain),
        "name",
        quoted(name),
        "it names the run's folder: letters, digits, `-`, `_`, `.` (not first), at most 100 bytes",
    )
}

fn seed(key: &'static str, value: u64) -> Result<(), RecipeError> {
    require(value <= LARGEST_SEED, key, value, format_args!("allowed is 0 to {LARGEST_SEED}"))
}

fn adapter(recipe: &Recipe) -> Result<(), RecipeError> {
    let adapter = &recipe.adapter;
    require((1..=1024).contains(&adapter.rank), "adapter.rank", adapter.rank, "allowed is 1 to 1024")?;
    require((1..=1_000_000).contains(&adapter.u), "adapter.u", adapter.u, "allowed is 1 to 1000000")?;
    require(
        recipe.learner == Learner::Grpo || recipe.optimizer.kind != OptimizerKind::Natural,
        "optimizer.kind",
        quoted("natural"),
        "the natural gradient goes with learner = \"grpo\", whose samples its Fisher matrix is over",
    )?;
    let (kind, square) = (adapter.kind, adapter.rank * adapter.rank);
    require(
        (kind == AdapterKind::LoraXs) == (adapter.projection == Projection::Basis),
        "adapter.projection",
        quoted(if adapter.projection == Projection::Basis { "basis" } else { "normal or uniform" }),
        "kind = \"lora-xs\" trains R itself, which is projection = \"basis\"; leave projection out",
    )?;
    require(
        kind != AdapterKind::LoraXs || adapter.u == square,
        "adapter.u",
        adapter.u,
        format_args!("kind = \"lora-xs\" trains rank² = {square} numbers a module; leave u out"),
    )?;
    full(recipe)?;
    let alpha = adapter.alpha;
    require(
        alpha != 0.0 && alpha.is_finite(),
        "adapter.alpha",
        alpha,
        "allowed is a finite number other than 0",
    )?;
    require(
        kind != AdapterKind::Lora || recipe.optimizer.kind != OptimizerKind::Natural,
        "optimizer.kind",
        quoted("natural"),
        "adapter.kind = \"lora\" trains too many numbers for it: use \"adamw\" or \"sgd\", or train \"tinylora\" or \"lora-xs\"",
    )?;
    let starts_at_zero = kind != AdapterKind::Lora || (adapter.init_bound == 0.0 && adapter.scale == 1.0);
    require(
        starts_at_zero,
        "adapter.init_bound",
        adapter.init_bound,
        "kind = \"lora\" starts with B = 0 and is scaled by alpha: leave init_bound and scale out",
    )?;
    require(!adapter.targets.is_empty(), "adapter.targets", "[]", "name at least one module")?;
    for (i, target) in adapter.targets.iter().enumerate() {
        let near = super::raw::nearest(target, MODULES.into_iter());
        let hint = near.map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
        let allowed = format!("allowed are {}{hint}", MODULES.join(", "));
        require(MODULES.contains(&target.as_str()), "adapter.targets", quoted(target), allowed)?;
        let first = !adapter.targets[..i].contains(target);
        require(first, "adapter.targets", quoted(target), "it is named twice: name each module once")?;
    }
    seed("adapter.projection_seed", adapter.projection_seed)?;
    not_negative("adapter.init_bound", adapter.init_bound)?;
    let scale = adapter.scale;
    require(
        scale != 0.0 && scale.is_finite(),
        "adapter.scale",
        scale,
        "allowed is a finite number other than 0",
    )
}

/// What has no meaning where all weights are trained.
fn full(recipe: &Recipe) -> Result<(), RecipeError> {
    let adapter = &recipe.adapter;
    if adapter.kind != AdapterKind::Full {
        return Ok(());
    }
    let usual = AdapterSection::default();
    require(
        adapter.targets == usual.targets,
        "adapter.targets",
        quoted(&adapter.targets.join(", ")),
        "kind = \"full\" trains all weights; leave targets out",
    )?;
    require(
        adapter.init_bound == usual.init_bound,
        "adapter.init_bound",
        adapter.init_bound,
        "kind = \"full\" starts with the model's weights; leave init_bound out",
    )?;
    require(
        adapter.scale == usual.scale,
        "adapter.scale",
        adapter.scale,
        "kind = \"full\" has no update to scale; leave scale out and set optimizer.learning_rate",
    )?;
    require(
        adapter.storage_precision == StoragePrecision::Fp32,
        "adapter.storage_precision",
        quoted("bf16 or fp16"),
        "kind = \"full\" keeps its master weights in fp32; the model computes in model.dtype",
    )?;
    require(
        recipe.optimizer.kind != OptimizerKind::Natural,
        "optimizer.kind",
        quoted("natural"),
        "the natural gradient inverts a matrix of as many rows as there are trained numbers, which are millions with \
         kind = \"full\"; use \"adamw\" or \"sgd\"",
    )
}

fn arithmetic(task: &ArithmeticTask) -> Result<(), RecipeError> {
    use ArithmeticKind::{Chain, Product, WordOneStep, WordTwoStep};
    require((2..=12).contains(&task.terms), "task.terms", task.terms, "allowed is 2 to 12")?;
    for (key, value) in [("task.min", task.min), ("task.max", task.max)] {
        let allowed = format_args!("allowed is -{LARGEST_OPERAND} to {LARGEST_OPERAND}");
        require(value.abs() <= LARGEST_OPERAND, key, value, allowed)?;
    }
    require(
        task.min <= task.max,
        "task.max",
        task.max,
        format_args!("allowed is task.min = {} or more", task.min),
    )?;
    if matches!(task.problems, WordOneStep | WordTwoStep) {
        require(task.min >= 0, "task.min", task.min, "word problems count things: allowed is 0 or more")?;
        require(
            task.max >= 2,
            "task.max",
            task.max,
            "word problems use numbers from 2: allowed is 2 or more",
        )?;
    }
    if matches!(task.problems, Product | Chain) {
        let largest = task.min.unsigned_abs().max(task.max.unsigned_abs()).max(2) as f64;
        let allowed = format_args!(
            "{} numbers up to {largest} can give a result above {LARGEST_RESULT:e}: lower task.terms or task.max",
            task.terms
        );
        require(largest.powi(task.terms as i32) <= LARGEST_RESULT, "task.terms", task.terms, allowed)?;
    }
    require(task.examples <= 32, "task.examples", task.examples, "allowed is 0 to 32")?;
    let share = task.held_out_share;
    require((0.001..=0.95).contains(&share), "task.held_out_share", share, "allowed is 0.001 to 0.95")
}

fn jsonl(task: &JsonlTask) -> Result<(), RecipeError> {
    require(!task.train.is_empty(), "task.train", "\"\"", "name the training file")?;
    require(!task.question_field.is_empty(), "task.question_field", "\"\"", "name a field of the file")?;
    require(!task.answer_field.is_empty(), "task.answer_field", "\"\"", "name a field of the file")?;
    let differ = task.question_field != task.answer_field;
    require(differ, "task.answer_field", quoted(&task.answer_field), "it is also task.question_field")?;
    let asked = task.template.contains("{question}");
    require(asked, "task.template", quoted(&task.template), "it must contain {question}")
}

fn benchmark(recipe: &Recipe, task: &BenchmarkTask) -> Result<(), RecipeError> {
    let names: Vec<&str> = PROMPT_FORMATS.iter().map(|format| format.name).collect();
    let Some(format) = task.format() else {
        let near = super::raw::nearest(&task.prompt_format, names.iter().copied());
        let hint = near.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
        let allowed = format_args!("allowed are {}{hint}", names.join(", "));
        return require(false, "task.prompt_format", quoted(&task.prompt_format), allowed);
    };
    require(
        !(format.plain && recipe.model.chat_template),
        "model.chat_template",
        true,
        format_args!(
            "task.prompt_format = \"{}\" is plain text: set it to false or leave it out",
            format.name
        ),
    )?;
    require(task.shots <= 8, "task.shots", task.shots, "allowed is 0 to 8")?;
    let trains = !task.train.is_empty() || task.name.hub_file(Split::Train).is_some();
    let allowed = format_args!(
        "{} has no training split: name a file in its form, or train on gsm8k or math",
        task.name.name()
    );
    require(trains, "task.train", "\"\"", allowed)
}

fn no_task(recipe: &Recipe) -> Result<(), RecipeError> {
    let learns = recipe.learner == Learner::Sft && !recipe.sft.data.is_empty();
    let allowed = "without problems only learner = \"sft\" can learn, from rows that sft.data names";
    require(learns, "task.kind", quoted("none"), allowed)?;
    let problems = recipe.eval.problems;
    require(problems == 0, "eval.problems", problems, "task.kind = \"none\" has no problems: leave it out")
}

fn sft(recipe: &Recipe) -> Result<(), RecipeError> {
    let sft = &recipe.sft;
    let examples = sft.examples_per_step;
    require((1..=65536).contains(&examples), "sft.examples_per_step", examples, "allowed is 1 to 65536")?;
    let fields = [
        ("sft.messages_field", &sft.messages_field),
        ("sft.prompt_field", &sft.prompt_field),
        ("sft.completion_field", &sft.completion_field),
        ("sft.question_field", &sft.question_field),
        ("sft.answer_field", &sft.answer_field),
    ];
    for (key, field) in fields {
        require(!field.is_empty(), key, "\"\"", "name a field of the rows")?;
    }
    for (one, other) in [(1, 2), (3, 4)] {
        let allowed = format_args!("it is also {}", fields[one].0);
        require(fields[one].1 != fields[other].1, fields[other].0, quoted(fields[other].1), allowed)?;
    }
    let of_task = sft.data.is_empty();
    require(
        !of_task || sft.format == ExampleFormat::Auto,
        "sft.format",
        serde_json::json!(sft.format),
        "it says what the rows of sft.data are, and sft.data is not given",
    )?;
    let endless = of_task && matches!(recipe.task, TaskSection::Arithmetic(_));
    require(
        recipe.learner != Learner::Sft || !endless || sft.too_long == TooLong::Error,
        "sft.too_long",
        quoted("skip"),
        "an arithmetic task makes its examples one by one, so that none can be left out: allowed is \"error\"",
    )
}

fn reward(recipe: &Recipe) -> Result<(), RecipeError> {
    let reward = &recipe.reward;
    let seconds = reward.timeout_seconds;
    require(
        seconds > 0.0 && seconds <= 86_400.0,
        "reward.timeout_seconds",
        seconds,
        "allowed is above 0, up to 86400",
    )?;
    let (overlong, longest) = (reward.overlong_tokens, recipe.rollout.max_tokens);
    let allowed = format_args!("allowed is 0 to rollout.max_tokens = {longest}");
    require(overlong <= longest, "reward.overlong_tokens", overlong, allowed)?;
    not_negative("reward.overlong_penalty", reward.overlong_penalty)?;
    if reward.scorer == Scorer::Command {
        let program = reward.command.first().is_some_and(|program| !program.is_empty());
        return require(
            program,
            "reward.command",
            format_args!("{:?}", reward.command),
            "scorer = \"command\" needs a program and its arguments, such as [\"python3\", \"grade.py\"]",
        );
    }
    require(
        reward.command.is_empty(),
        "reward.command",
        format_args!("{:?}", reward.command),
        "only scorer = \"command\" runs a command: set that scorer, or remove the command",
    )?;
    let format = recipe.task.answer_format();
    let (fits, scorer) = match reward.scorer {
        Scorer::Gsm8kStrict => (format == AnswerFormat::Hashes, "gsm8k-strict"),
        Scorer::Boxed => (format == AnswerFormat::Boxed, "boxed"),
        Scorer::Plain => (format == AnswerFormat::Plain, "plain"),
        Scorer::Math => (format == AnswerFormat::Boxed, "math"),
        Scorer::Gsm8kFlexible | Scorer::Command => (true, ""),
        Scorer::Robust | Scorer::Qwen | Scorer::QwenUnits | Scorer::MathVerify => (true, ""),
    };
    let (asked, fitting) = match format {
        AnswerFormat::Hashes => ("hashes", "gsm8k-strict"),
        AnswerFormat::Boxed => ("boxed", "boxed"),
        AnswerFormat::Plain => ("plain", "plain"),
    };
    let allowed = format_args!(
        "task.answer_format = \"{asked}\" asks for another form: allowed are \"{fitting}\", \"gsm8k-flexible\", \"robust\", \"qwen\", \"qwen-units\", \"math-verify\" and \"command\""
    );
    require(fits, "reward.scorer", quoted(scorer), allowed)
}

fn rollout(recipe: &Recipe) -> Result<(), RecipeError> {
    let rollout = &recipe.rollout;
    at_least("rollout.prompts_per_step", rollout.prompts_per_step, 1)?;
    at_least("rollout.samples_per_prompt", rollout.samples_per_prompt, 2)?;
    at_least("rollout.max_tokens", rollout.max_tokens, 1)?;
    positive("rollout.temperature", f64::from(rollout.temperature))?;
    probability("rollout.top_p", rollout.top_p)?;
    let staleness = rollout.staleness;
    require(staleness <= 64, "rollout.staleness", staleness, "allowed is 0 to 64 steps")?;
    let empty = rollout.stop.iter().any(String::is_empty);
    require(!empty, "rollout.stop", "[\"\"]", "empty text would stop every completion at once")
}

fn grpo(recipe: &Recipe) -> Result<(), RecipeError> {
    let grpo = &recipe.grpo;
    probability("grpo.clip_low", grpo.clip_low)?;
    positive("grpo.clip_high", f64::from(grpo.clip_high))?;
    at_least("grpo.updates_per_batch", grpo.updates_per_batch, 1)?;
    not_negative("grpo.kl_coefficient", grpo.kl_coefficient)?;
    not_negative("grpo.entropy_coefficient", grpo.entropy_coefficient)?;
    let cap = grpo.importance_cap;
    require(cap >= 1.0 && cap.is_finite(), "grpo.importance_cap", cap, "allowed is a finite number from 1")
}

fn optimizer(recipe: &Recipe) -> Result<(), RecipeError> {
    let optimizer = &recipe.optimizer;
    not_negative("optimizer.learning_rate", optimizer.learning_rate)?;
    for (key, beta) in [("optimizer.beta1", optimizer.beta1), ("optimizer.beta2", optimizer.beta2)] {
        require((0.0..1.0).contains(&beta), key, beta, "allowed is 0 up to, not including, 1")?;
    }
    positive("optimizer.epsilon", f64::from(optimizer.epsilon))?;
    positive("optimizer.damping", f64::from(optimizer.damping))?;
    positive("optimizer.kl_bound", f64::from(optimizer.kl_bound))?;
    let looks_ahead = optimizer.kind == OptimizerKind::Sgd && optimizer.beta1 > 0.0;
    let allowed = "only kind = \"sgd\" with a momentum (beta1 above 0) can look ahead";
    require(!optimizer.nesterov || looks_ahead, "optimizer.nesterov", optimizer.nesterov, allowed)?;
    let own_samples = optimizer.kind != OptimizerKind::Natural || recipe.rollout.staleness == 0;
    let allowed =
        "optimizer.kind = \"natural\" needs completions that the policy itself sampled: allowed is 0";
    require(own_samples, "rollout.staleness", recipe.rollout.staleness, allowed)?;
    not_negative("optimizer.weight_decay", optimizer.weight_decay)?;
    not_negative("optimizer.max_grad_norm", optimizer.max_grad_norm)?;
    let (warmup, steps) = (optimizer.warmup_steps, recipe.train.steps);
    let allowed = format_args!("allowed is 0 to train.steps = {steps}");
    require(steps == 0 || warmup <= steps, "optimizer.warmup_steps", warmup, allowed)
}

fn train(recipe: &Recipe) -> Result<(), RecipeError> {
    let train = &recipe.train;
    let rows = recipe.learner == Learner::Sft && !recipe.sft.data.is_empty();
    match recipe.task {
        TaskSection::Arithmetic(_) if !rows => {
            let allowed = "an arithmetic task has no end, so it has no epochs: allowed is 1 or more";
            require(train.steps >= 1, "train.steps", train.steps, allowed)?;
        }
        _ => {
            let allowed = "train.steps is 0 too: one of the two must be 1 or more";
            require(train.steps >= 1 || train.epochs >= 1, "train.epochs", train.epochs, allowed)?;
        }
    }
    let evaluates = train.eval_every == 0 || recipe.eval.problems > 0;
    require(evaluates, "train.eval_every", train.eval_every, "eval.problems = 0 leaves nothing to evaluate")
}

fn eval(recipe: &Recipe) -> Result<(), RecipeError> {
    let eval = &recipe.eval;
    positive("eval.temperature", f64::from(eval.temperature))?;
    probability("eval.top_p", eval.top_p)?;
    let decodes = eval.problems == 0 || eval.samples > 0 || eval.greedy;
    let allowed = "eval.greedy is false too: sample at least once, decode greedily, or set eval.problems = 0";
    require(decodes, "eval.samples", eval.samples, allowed)
}
