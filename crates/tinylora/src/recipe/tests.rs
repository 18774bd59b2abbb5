//! Recipes as text enter; what is read, refused and written back is compared. No model is opened.

use super::*;

const SHORT: &str = "name = \"a\"\n[model]\nref = \"smollm2-135m\"\n[task]\nkind = \"arithmetic\"\nproblems = \"sum\"\n[train]\nsteps = 5\n";
const FILE: &str =
    "name = \"b\"\n[model]\nref = \"org/name\"\n[task]\nkind = \"jsonl\"\ntrain = \"t.jsonl\"\n";

fn read(text: &str, overrides: &[&str]) -> Result<Recipe, String> {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    Recipe::from_toml(text, &overrides).map_err(|e| e.to_string())
}

fn error(text: &str, overrides: &[&str]) -> String {
    read(text, overrides).expect_err("must be refused")
}

#[test]
fn defaults_and_round_trip() {
    for text in [SHORT, FILE] {
        let recipe = read(text, &[]).unwrap();
        let written = recipe.to_toml();
        assert_eq!(read(&written, &[]).unwrap(), recipe, "{written}");
    }
    let recipe = read(
        SHORT,
        &["grpo.clip_low=0.1", "model.memory=6GiB", "adapter.n_tie=all", "seed=9007199254740993"],
    )
    .unwrap();
    let written = recipe.to_toml();
    assert!(written.contains("clip_low = 0.1\n"), "{written}");
    assert!(written.contains("memory = \"6 GiB\"\n"), "{written}");
    assert!(written.contains("n_tie = \"all\"\n"), "{written}");
    let again = read(&written, &[]).unwrap();
    assert_eq!(again, recipe);
    assert_eq!((again.adapter.n_tie, again.seed), (0, 9_007_199_254_740_993));
}

#[test]
fn overrides() {
    let recipe = read(
        SHORT,
        &[
            "optimizer.learning_rate = 1e-3",
            "model.ref=gemma3-270m",
            "name=2024",
            "adapter.targets=[\"q_proj\", \"v_proj\"]",
            "rollout.stop=[\"\\n\\n\"]",
            "optimizer.learning_rate=1",
            "task.problems=word-two-step",
            "grpo.scale_advantages=false",
        ],
    )
    .unwrap();
    assert_eq!(recipe.optimizer.learning_rate, 1.0);
    assert_eq!(recipe.model.reference, "gemma3-270m");
    assert_eq!(recipe.name, "2024");
    assert_eq!(recipe.adapter.targets, ["q_proj", "v_proj"]);
    assert_eq!(recipe.rollout.stop, ["\n\n"]);
    assert!(!recipe.grpo.scale_advantages);
    // Overrides fill what a file leaves out.
    let recipe =
        read("[model]\n", &["name=x", "model.ref=m", "task.kind=jsonl", "task.train=a.jsonl"]).unwrap();
    assert!(matches!(recipe.task, TaskSection::Jsonl(_)));
}

#[test]
fn dependent_defaults() {
    assert_eq!(read(SHORT, &["adapter.tying=none", "adapter.n_tie=4"]).unwrap().adapter.n_tie, 1);
    assert_eq!(read(SHORT, &["task.answer_format=boxed"]).unwrap().reward.scorer, Scorer::Boxed);
    assert_eq!(read(FILE, &["task.answer_format=plain"]).unwrap().reward.scorer, Scorer::Plain);
    assert_eq!(read(SHORT, &[]).unwrap().reward.scorer, Scorer::Gsm8kStrict);
    let clip = |settings: &[&str]| {
        let grpo = read(SHORT, settings).unwrap().grpo;
        (grpo.clip_low, grpo.clip_high, grpo.scale_advantages)
    };
    assert_eq!(clip(&[]), (0.2, 0.2, true));
    assert_eq!(clip(&["grpo.loss=gspo"]), (3e-4, 4e-4, true));
    assert_eq!(clip(&["grpo.loss=cispo", "grpo.clip_high=2"]), (1.0, 2.0, true));
    assert_eq!(clip(&["grpo.loss=dr_grpo"]), (0.2, 0.2, false));
    assert_eq!(clip(&["grpo.loss=dr_grpo", "grpo.scale_advantages=true"]), (0.2, 0.2, true));
    let norm = |settings: &[&str]| read(SHORT, settings).unwrap().optimizer.max_grad_norm;
    assert_eq!(norm(&["optimizer.kind=natural"]), 0.0);
    assert_eq!(norm(&["optimizer.kind=natural", "optimizer.max_grad_norm=2"]), 2.0);
    assert_eq!(norm(&["optimizer.kind=sgd"]), 1.0);
}

#[test]
fn losses_have_their_names_and_the_former_ones() {
    let loss = |name: &str| read(SHORT, &[&format!("grpo.loss={name}")]).unwrap().grpo.loss;
    assert_eq!((loss("token"), loss("sequence")), (GrpoLoss::Dapo, GrpoLoss::Grpo));
    for name in ["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"] {
        let recipe = read(SHORT, &[&format!("grpo.loss={name}")]).unwrap();
        assert!(recipe.to_toml().contains(&format!("loss = \"{name}\"")), "{name}");
    }
    assert!(error(SHORT, &["grpo.loss=gpso"]).contains("did you mean \"gspo\"?"));
}

const BENCHMARK: &str =
    "name = \"c\"\n[model]\nref = \"m\"\n[task]\nkind = \"benchmark\"\nname = \"gsm8k\"\n";

#[test]
fn benchmarks_bring_their_prompts() {
    let recipe = read(BENCHMARK, &[]).unwrap();
    let TaskSection::Benchmark(task) = &recipe.task else { panic!("{:?}", recipe.task) };
    assert_eq!((task.name, task.prompt_format.as_str()), (Benchmark::Gsm8k, "gsm8k"));
    assert_eq!((recipe.task.answer_format(), recipe.reward.scorer), (AnswerFormat::Hashes, Scorer::Robust));
    assert!(recipe.model.chat_template && recipe.rollout.stop.is_empty());
    assert_eq!(read(&recipe.to_toml(), &[]).unwrap(), recipe);

    let recipe = read(BENCHMARK, &["task.name=math", "task.prompt_format=abel"]).unwrap();
    assert_eq!((recipe.model.chat_template, recipe.rollout.stop.len()), (false, 1));
    assert_eq!(recipe.task.answer_format(), AnswerFormat::Boxed);
    assert_eq!(read(&recipe.to_toml(), &[]).unwrap(), recipe);
    let recipe =
        read(BENCHMARK, &["task.name=math", "model.system=Be brief.", "reward.scorer=qwen"]).unwrap();
    assert_eq!((recipe.model.system.as_str(), recipe.reward.scorer), ("Be brief.", Scorer::Qwen));
    let boxed = read(BENCHMARK, &["task.name=math"]).unwrap();
    assert_eq!(boxed.model.system, "You are a helpful assistant.");

    assert!(error(BENCHMARK, &["task.name=gsm9k"]).contains("did you mean \"gsm8k\"?"));
    assert!(error(BENCHMARK, &["task.prompt_format=abell"]).contains("did you mean \"abel\"?"));
    assert!(
        error(BENCHMARK, &["task.name=aime24"])
            .contains("task.train = \"\" is not possible: aime24 has no training")
    );
    assert!(error(BENCHMARK, &["task.prompt_format=cot", "model.chat_template=true"]).contains("plain text"));
    assert!(error(BENCHMARK, &["task.shots=9"]).contains("allowed is 0 to 8"));
    assert!(error(BENCHMARK, &["task.template=x"]).contains("in [task] of kind \"benchmark\""));
    assert!(error(BENCHMARK, &["reward.scorer=boxed"]).contains("asks for another form"));
    let nameless = BENCHMARK.replace("name = \"gsm8k\"\n", "");
    assert!(error(&nameless, &[]).contains("`task.name` is missing"), "{}", error(&nameless, &[]));
}

#[test]
fn unknown_keys_name_place_and_nearest() {
    let text = format!("{SHORT}[rollout]\nmax_tokns = 3\n");
    assert_eq!(
        error(&text, &[]),
        "recipe:10:13: unknown key `max_tokns` in [rollout]; did you mean `max_tokens`?"
    );
    assert_eq!(
        error(&format!("optimiser = 1\n{SHORT}"), &[]),
        "recipe:1:13: unknown key `optimiser` at the top level; did you mean `optimizer`?"
    );
    assert_eq!(
        error(SHORT, &["train.learning_rate=1"]),
        "--set train.learning_rate=1: unknown key `learning_rate` in [train]; did you mean `optimizer.learning_rate`?"
    );
    assert_eq!(
        error(SHORT, &["learning_rate=1"]),
        "--set learning_rate=1: unknown key `learning_rate` at the top level; did you mean `optimizer.learning_rate`?"
    );
    let text = error(SHORT, &["task.template=x"]);
    assert!(
        text.contains("in [task] of kind \"arithmetic\"; known keys: answer_format, example_form"),
        "{text}"
    );
    for key in ["a.b", "model.ref.x", "a.b.c", "grpo.los", "", "."] {
        let text = error(SHORT, &[&format!("{key}=1")]);
        assert!(text.starts_with("--set "), "{text}");
    }
    assert!(error(SHORT, &["model"]).contains("expected KEY=VALUE"));
    assert!(error(SHORT, &["model=x"]).contains("set one of its keys, such as model.chat_template"));
    assert!(error(SHORT, &["adapter.targets=[\"q_proj\""]).contains("not a TOML value"));
}

#[test]
fn wrong_types_name_the_place() {
    let text = SHORT.replace("steps = 5", "steps = \"five\"");
    assert_eq!(
        error(&text, &[]),
        "recipe:8:9: `train.steps`: invalid type: string \"five\", expected a whole number from 0"
    );
    let text = SHORT.replace("\"sum\"", "\"smu\"");
    let message = error(&text, &[]);
    assert!(message.starts_with("recipe:6:12: `task.problems`: unknown choice `smu`"), "{message}");
    assert!(message.ends_with("did you mean \"sum\"?"), "{message}");
    assert!(error(SHORT, &["seed=-1"]).starts_with("--set seed=-1: `seed`: "));
    assert!(error(SHORT, &["model.memory=8 GiBs"]).contains("no known unit"));
    assert!(error(SHORT, &["adapter.n_tie=0"]).contains("from 1, or \"all\""));
    assert!(error(SHORT, &["adapter.n_tie=some"]).contains("from 1, or \"all\""));
    assert!(error(SHORT, &["adapter.targets=q_proj"]).contains("sequence"));
    assert!(
        error("model = 3\n", &[]).contains("recipe:1:9: `model`: expected the table [model], found integer")
    );
    assert!(error("model = 3\n", &["model.ref=x"]).contains("expected the table [model]"));
    assert!(
        error(&SHORT.replace("\"arithmetic\"", "\"arithmatic\""), &[])
            .contains("did you mean \"arithmetic\"?")
    );
    assert!(error("name = \"a\"\nseed = \n", &[]).starts_with("recipe:2:"));
    let twice = error("name = \"a\"\nname = \"b\"\n", &[]);
    assert!(twice.starts_with("recipe:2:1: "), "{twice}");
}

#[test]
fn missing_keys_are_named() {
    assert!(error("", &[]).contains("`name` is missing"));
    for (line, key) in [
        ("name = \"a\"\n", "name"),
        ("ref = \"smollm2-135m\"\n", "model.ref"),
        ("kind = \"arithmetic\"\n", "task.kind"),
        ("problems = \"sum\"\n", "task.problems"),
    ] {
        assert!(error(&SHORT.replace(line, ""), &[]).contains(&format!("`{key}` is missing")), "{key}");
    }
    assert!(error(&FILE.replace("train = \"t.jsonl\"\n", ""), &[]).contains("`task.train` is missing"));
}

#[test]
fn ranges() {
    for (setting, key, value) in [
        ("name=a/b", "name", "\"a/b\""),
        ("rollout.temperature=0", "rollout.temperature", "0"),
        ("rollout.temperature=nan", "rollout.temperature", "NaN"),
        ("rollout.temperature=inf", "rollout.temperature", "inf"),
        ("rollout.samples_per_prompt=1", "rollout.samples_per_prompt", "1"),
        ("rollout.prompts_per_step=0", "rollout.prompts_per_step", "0"),
        ("rollout.max_tokens=0", "rollout.max_tokens", "0"),
        ("rollout.top_p=1.5", "rollout.top_p", "1.5"),
        ("rollout.stop=[\"\"]", "rollout.stop", "[\"\"]"),
        ("adapter.rank=0", "adapter.rank", "0"),
        ("adapter.u=0", "adapter.u", "0"),
        ("adapter.targets=[]", "adapter.targets", "[]"),
        ("adapter.targets=[\"q_prj\"]", "adapter.targets", "\"q_prj\""),
        ("adapter.targets=[\"q_proj\", \"q_proj\"]", "adapter.targets", "\"q_proj\""),
        ("adapter.init_bound=-1", "adapter.init_bound", "-1"),
        ("adapter.scale=0", "adapter.scale", "0"),
        ("reward.scorer=command", "reward.command", "[]"),
        ("reward.command=[\"a\"]", "reward.command", "[\"a\"]"),
        ("reward.scorer=boxed", "reward.scorer", "\"boxed\""),
        ("reward.timeout_seconds=1e30", "reward.timeout_seconds", "1000000000000000000000000000000"),
        ("grpo.clip_low=0", "grpo.clip_low", "0"),
        ("grpo.clip_low=1.1", "grpo.clip_low", "1.1"),
        ("grpo.clip_high=-0.2", "grpo.clip_high", "-0.2"),
        ("grpo.updates_per_batch=0", "grpo.updates_per_batch", "0"),
        ("grpo.kl_coefficient=-1", "grpo.kl_coefficient", "-1"),
        ("grpo.entropy_coefficient=-1", "grpo.entropy_coefficient", "-1"),
        ("grpo.importance_cap=0.5", "grpo.importance_cap", "0.5"),
        ("rollout.staleness=65", "rollout.staleness", "65"),
        ("reward.overlong_tokens=2000", "reward.overlong_tokens", "2000"),
        ("reward.overlong_penalty=-1", "reward.overlong_penalty", "-1"),
        ("optimizer.nesterov=true", "optimizer.nesterov", "true"),
        ("optimizer.damping=0", "optimizer.damping", "0"),
        ("optimizer.kl_bound=0", "optimizer.kl_bound", "0"),
        ("optimizer.learning_rate=-1e-4", "optimizer.learning_rate", "-0.0001"),
        ("optimizer.beta1=1", "optimizer.beta1", "1"),
        ("optimizer.epsilon=0", "optimizer.epsilon", "0"),
        ("optimizer.warmup_steps=6", "optimizer.warmup_steps", "6"),
        ("train.steps=0", "train.steps", "0"),
        ("eval.temperature=0", "eval.temperature", "0"),
        ("task.terms=1", "task.terms", "1"),
        ("task.max=0", "task.max", "0"),
        ("task.examples=33", "task.examples", "33"),
        ("task.held_out_share=1", "task.held_out_share", "1"),
    ] {
        let message = error(SHORT, &[setting]);
        assert!(
            message.starts_with(&format!("recipe: {key} = {value} is not possible: ")),
            "{setting}: {message}"
        );
    }
    error(SHORT, &["eval.samples=0", "eval.greedy=false"]);
    error(SHORT, &["eval.problems=0", "train.eval_every=2"]);
    error(SHORT, &["optimizer.kind=natural", "rollout.staleness=1"]);
    error(SHORT, &["optimizer.nesterov=true", "optimizer.kind=sgd", "optimizer.beta1=0"]);
    read(SHORT, &["optimizer.nesterov=true", "optimizer.kind=sgd"]).unwrap();
    error(SHORT, &["task.problems=product", "task.max=1000", "task.terms=6"]);
    error(SHORT, &["task.problems=word-one-step", "task.min=-3"]);
    error(FILE, &["train.epochs=0"]);
    error(FILE, &["task.template=no question"]);
    read(SHORT, &["optimizer.learning_rate=0", "eval.problems=0"]).unwrap();
}

#[test]
fn examples_of_their_own_need_no_problems() {
    let none = SHORT
        .replace("kind = \"arithmetic\"\nproblems = \"sum\"", "kind = \"none\"")
        .replace("steps = 5", "");
    let recipe = read(&none, &["learner=sft", "sft.data=chats.jsonl"]).unwrap();
    assert_eq!((recipe.eval.problems, recipe.train.epochs), (0, 3));
    assert_eq!(read(&recipe.to_toml(), &[]).unwrap(), recipe);
    assert!(error(&none, &["sft.data=chats.jsonl"]).contains("only learner = \"sft\" can learn"));
    assert!(error(&none, &["learner=sft"]).contains("from rows that sft.data names"));
    assert!(error(&none, &["learner=sft", "sft.data=a", "eval.problems=3"]).contains("has no problems"));
    assert!(error(&none, &["task.problems=sum"]).contains("in [task] of kind \"none\""));
    // Steps may follow from the rows, though the task has no end.
    read(SHORT, &["learner=sft", "sft.data=a.jsonl", "train.steps=0"]).unwrap();
    assert!(error(SHORT, &["learner=sft", "train.steps=0"]).contains("train.steps"));
    assert!(error(SHORT, &["sft.format=messages"]).contains("sft.data is not given"));
    assert!(error(SHORT, &["learner=sft", "sft.too_long=skip"]).contains("one by one"));
    assert!(error(SHORT, &["sft.completion_field=prompt"]).contains("it is also sft.prompt_field"));
    assert!(error(SHORT, &["sft.format=message"]).contains("did you mean \"messages\"?"));
}

#[test]
fn a_missing_file_is_named() {
    let message = Recipe::load(Path::new("no/such.toml"), &[]).unwrap_err().to_string();
    assert!(message.starts_with("cannot read the recipe no/such.toml: "), "{message}");
}

/// `(section, key, value)` of every field there is, with the defaults.
fn fields() -> Vec<(String, String, String)> {
    let mut fields = Vec::new();
    for text in [SHORT, FILE, BENCHMARK] {
        let table: toml::Table = read(text, &[]).unwrap().to_toml().parse().unwrap();
        for (name, value) in table {
            match value {
                // A benchmark brings other defaults for other tables.
                _ if text == BENCHMARK && name != "task" => {}
                toml::Value::Table(inner) => {
                    let kind = inner.get("kind").and_then(|k| k.as_str()).unwrap_or("").to_string();
                    let title = if name == "task" {
                        format!("[task] kind = \"{kind}\"")
                    } else {
                        format!("[{name}]")
                    };
                    fields.extend(inner.into_iter().map(|(k, v)| (title.clone(), k, v.to_string())));
                }
                value => fields.push(("Top level".into(), name, value.to_string())),
            }
        }
    }
    fields
}

/// The reference page has a row for every field, with its true default, and no other.
#[test]
fn every_field_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes.md");
    let page = std::fs::read_to_string(path).expect("docs/recipes.md is there");
    let mut rows = Vec::new();
    let mut title = String::new();
    for line in page.lines() {
        title = line.strip_prefix("## ").map_or(title, |heading| heading.replace('`', ""));
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let ([key, _, default, _], true) = (&cells[..], line.starts_with("| `")) {
            rows.push((
                title.clone(),
                key.trim_matches('`').to_string(),
                default.trim_matches('`').to_string(),
            ));
        }
    }
    let fields = fields();
    for (title, key, value) in &fields {
        let row = rows.iter().find(|r| &r.0 == title && &r.1 == key);
        let default = &row.unwrap_or_else(|| panic!("`{key}` of {title} has no row in docs/recipes.md")).2;
        let given =
            ["name", "ref", "kind", "problems", "train", "steps", "prompt_format"].contains(&key.as_str());
        let same =
            format!("v = {default}").parse::<toml::Table>().is_ok_and(|t| t["v"].to_string() == *value);
        assert!(given || same, "{title} {key}: the page says {default}, the default is {value}");
    }
    for (title, key, _) in &rows {
        assert!(fields.iter().any(|f| &f.0 == title && &f.1 == key), "{title}: no field `{key}`");
    }
}

/// The recipes that come with the project can be read.
#[test]
fn shipped_recipes_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("recipes/ is there") {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let recipe = Recipe::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(Recipe::from_toml(&recipe.to_toml(), &[]).unwrap(), recipe);
            seen += 1;
        }
    }
    assert!(seen >= 1);
}
