//! `tinylora eval --task gsm8k`: benchmarks by name enter, accuracies leave on standard output, and every completion
//! with its verdict in a folder, as soon as it is there.

use crate::args::EvalArgs;
use crate::draw::{Style, bar};
use crate::eval::{room, unknown};
use crate::failure::{DONE, INTERRUPTED, Usage};
use crate::loading::LoadingDisplay;
use crate::open::{self, Opened};
use crate::screen::{Screen, stdout_style};
use crate::{eval_text, format, interrupt};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tinylora::base::Loading;
use tinylora::data::benchmark::{self, BenchmarkData, Prompting};
use tinylora::evaluate::{
    BenchmarkRun, BenchmarkSettings, BenchmarkSummary, EvalFolder, EvalProgress, RunEnd, run_benchmark, tally,
};
use tinylora::hub::HubOptions;
use tinylora::inference::{Engine, Sampling};
use tinylora::model::Policy;
use tinylora::recipe::{
    AVERAGES, Benchmark, PROMPT_FORMATS, PromptFormat, Split, WeightDtype, prompt_format,
};
use tinylora::rollout::encode_prompt;
use tinylora::run_folder::{COMMIT, VERSION};
use tinylora_compute::Cpu;
use tinylora_verify::Scorer;

/// The benchmarks that `--task` names; none where it names something else. A mixture is an error.
pub fn named(args: &EvalArgs) -> Result<Option<Vec<Benchmark>>> {
    let Some(task) = &args.task else { return Ok(None) };
    let names: Vec<&str> = task.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let mut found = Vec::new();
    let mut others = Vec::new();
    for name in &names {
        if let Some(average) = AVERAGES.iter().find(|average| average.name == *name) {
            found.extend_from_slice(average.of);
        } else if let Some(benchmark) = Benchmark::from_name(name) {
            found.push(benchmark);
        } else {
            others.push(*name);
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    if !others.is_empty() {
        let known: Vec<&str> = Benchmark::ALL.iter().map(|benchmark| benchmark.name()).collect();
        return Err(unknown("--task", &others.join(","), &known));
    }
    let mut seen = Vec::new();
    found.retain(|benchmark| {
        !seen.contains(benchmark) && {
            seen.push(*benchmark);
            true
        }
    });
    Ok(Some(found))
}

/// The data of one benchmark.
struct Set {
    benchmark: Benchmark,
    data: BenchmarkData,
    examples: Option<BenchmarkData>,
}

/// One benchmark with one adapter or none, ready to run.
struct Job<'a> {
    set: &'a Set,
    prompting: Prompting,
    prompts: Vec<Vec<u32>>,
    settings: BenchmarkSettings,
    out: PathBuf,
    scorer: Scorer,
}

/// Runs the command; gives the exit status.
pub fn run(args: &EvalArgs, benchmarks: &[Benchmark]) -> Result<u8> {
    check(args)?;
    let screen = Screen::stderr();
    let stop = Arc::new(AtomicBool::new(false));
    let busy = Arc::new(AtomicBool::new(false));
    watch_interrupts(screen.clone(), stop.clone(), busy.clone())?;
    let sets = open_sets(args, benchmarks, &screen)?;
    let cpu = open::device(args.numerics.into(), args.device)?;
    let adapters: Vec<&str> = args.adapter.iter().map(String::as_str).collect();
    let opened = Opened::with(&cpu, args.model(), &adapters, args.dtype, 0, &screen)?;
    let mut summaries = Vec::new();
    for adapter in 0..args.adapter.len().max(1) {
        let mut jobs = Vec::new();
        for set in &sets {
            jobs.push(prepare(args, set, adapter, sets.len(), &opened, &cpu, &screen)?);
        }
        let mut of_adapter = Vec::new();
        for job in &jobs {
            busy.store(true, Ordering::Relaxed);
            let summary = measure(args, job, adapter, &opened, &cpu, &stop, &screen)?;
            busy.store(false, Ordering::Relaxed);
            let Some(summary) = summary else {
                screen.print(&format!(
                    "stopped; what is finished is kept in {}\ngo on with the same command and --resume",
                    job.out.display()
                ));
                return Ok(INTERRUPTED);
            };
            println!("{}", eval_text::result(&summary, &job.out, stdout_style()));
            of_adapter.push(summary);
        }
        let text = eval_text::overview(&of_adapter.iter().collect::<Vec<_>>(), stdout_style());
        if !text.is_empty() {
            println!("{text}");
        }
        summaries.extend(of_adapter);
    }
    Ok(DONE)
}

/// First press while completions are written: what is finished is kept. Otherwise: out, at once.
fn watch_interrupts(screen: Screen, stop: Arc<AtomicBool>, busy: Arc<AtomicBool>) -> Result<()> {
    interrupt::on_press(move |press| {
        stop.store(true, Ordering::Relaxed);
        if press > 1 || !busy.load(Ordering::Relaxed) {
            screen.clear();
            std::process::exit(INTERRUPTED.into());
        }
    })
}

fn check(args: &EvalArgs) -> Result<()> {
    let refuse = |message: &str| -> Result<()> { Err(Usage(message.into()).into()) };
    if args.question_field.is_some() || args.answer_field.is_some() {
        return refuse(
            "--question-field and --answer-field go with --data alone: a benchmark's fields are known",
        );
    }
    if args.samples == Some(0) && (args.temperature.is_some() || args.top_p.is_some()) {
        return refuse(
            "--samples 0 decodes greedily, where --temperature and --top-p mean nothing: leave them out",
        );
    }
    if args.limit == Some(0) {
        return refuse("--limit 0 leaves no problem");
    }
    open::sampling(args.temperature.unwrap_or(1.0), args.top_p.unwrap_or(1.0), 0)?;
    if args.temperature == Some(0.0) {
        return refuse("--temperature 0: for greedy decoding leave it out and give --samples 0");
    }
    open::max_tokens(args.max_tokens.unwrap_or(1))?;
    scorer(args).map(|_| ())
}

fn scorer(args: &EvalArgs) -> Result<Scorer> {
    let name = args.scorer.as_deref().unwrap_or("robust");
    let names = Scorer::ALL.map(Scorer::name);
    Scorer::from_name(name).ok_or_else(|| unknown("--scorer", name, &names))
}

/// Finds and reads the files of all benchmarks before a model is loaded.
fn open_sets(args: &EvalArgs, benchmarks: &[Benchmark], screen: &Screen) -> Result<Vec<Set>> {
    let given = args.data.as_deref().unwrap_or_default();
    if benchmarks.len() > 1 && !given.is_empty() && !Path::new(given).is_dir() {
        let message =
            format!("--data {given}: several benchmarks need a folder, with NAME/test.jsonl for each in it");
        return Err(Usage(message).into());
    }
    let options = HubOptions::from_env();
    let mut display = LoadingDisplay::new(screen.clone());
    let mut sets = Vec::new();
    for &benchmark in benchmarks {
        let mut progress = |news| display.take(&Loading::Hub(news));
        let mut data = benchmark::open(benchmark, Split::Test, given, &options, &mut progress)?;
        if let Some(limit) = args.limit {
            data.problems.truncate(limit);
        }
        let examples = args
            .shots_from
            .as_deref()
            .map(|path| benchmark::read(benchmark, Split::Train, path))
            .transpose()
            .context("--shots-from")?;
        sets.push(Set { benchmark, data, examples });
    }
    display.finish();
    Ok(sets)
}

/// Prompts and settings of a benchmark.
fn prepare<'a>(
    args: &EvalArgs,
    set: &'a Set,
    adapter: usize,
    sets: usize,
    opened: &Opened,
    cpu: &Cpu,
    screen: &Screen,
) -> Result<Job<'a>> {
    let (about, tokenizer) = (set.benchmark.about(), &opened.base.tokenizer);
    let format = chosen_format(args, about.prompt_format, tokenizer.has_chat_template())?;
    let shots = args.shots.unwrap_or(if format.name == "cot" { about.shots } else { 0 });
    let prompting = match &set.examples {
        None => Prompting::new(set.benchmark, format, shots)?,
        Some(examples) => {
            let file = examples.path.display().to_string();
            let rows = (file.as_str(), &examples.problems[..]);
            Prompting::from_rows(set.benchmark, format, shots, rows, &set.data.problems)?
        }
    };
    let chat_template = !format.plain && tokenizer.has_chat_template();
    let encode = |question: &str| encode_prompt(tokenizer, &prompting.prompt(question), chat_template);
    let prompts: Result<Vec<Vec<u32>>, _> =
        set.data.problems.iter().map(|problem| encode(&problem.problem.question)).collect();
    let prompts = prompts?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let max_tokens = args.max_tokens.unwrap_or_else(|| {
        let room = opened.base.model.positions().saturating_sub(longest).max(1);
        if room < about.max_tokens {
            screen.print(&format!("{}: completions are limited to {room} tokens by the model", about.name));
        }
        room.min(about.max_tokens)
    });
    // Who asks for a temperature asks for samples.
    let usual =
        if args.temperature.is_some() || args.top_p.is_some() { about.samples.max(1) } else { about.samples };
    let scorer = scorer(args)?;
    let settings = BenchmarkSettings {
        benchmark: about.name.into(),
        data: short_path(&set.data.path),
        data_sha256: set.data.sha256.clone(),
        problems: set.data.problems.len(),
        model: args.model().into(),
        model_sha256: opened.base.sha256.clone(),
        dtype: match WeightDtype::from(args.dtype) {
            WeightDtype::Bf16 => "bf16".into(),
            WeightDtype::F32 => "f32".into(),
        },
        products: if cpu.kernel().rounds_activations() { "bf16".into() } else { "f32".into() },
        adapter: args.adapter.get(adapter).cloned(),
        adapter_sha256: args.adapter.get(adapter).map(|name| adapter_sha256(name)).transpose()?,
        prompt_format: format.name.into(),
        chat_template,
        shots,
        examples: set.examples.as_ref().map_or("own".into(), |examples| examples.sha256.clone()),
        scorer: scorer.name().into(),
        samples: args.samples.unwrap_or(usual),
        temperature: args.temperature.unwrap_or(1.0),
        top_p: args.top_p.unwrap_or(0.95),
        max_tokens,
        stop: format.stop.iter().map(|text| text.to_string()).collect(),
        seed: args.seed.unwrap_or(0),
    };
    let out = folder(args, about.name, adapter, sets);
    Ok(Job { set, prompting, prompts, settings, out, scorer })
}

fn chosen_format(
    args: &EvalArgs,
    of_benchmark: &'static str,
    has_template: bool,
) -> Result<&'static PromptFormat> {
    let usual = if has_template { of_benchmark } else { "cot" };
    let name = args.prompt_format.as_deref().unwrap_or(usual);
    let names: Vec<&str> = PROMPT_FORMATS.iter().map(|format| format.name).collect();
    prompt_format(name).ok_or_else(|| unknown("--prompt-format", name, &names))
}

/// The last two parts of a path: which file it is, without where it is on this machine.
fn short_path(path: &Path) -> String {
    let parts: Vec<_> = path.iter().rev().take(2).map(|part| part.to_string_lossy().into_owned()).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

/// The folder of a benchmark's evaluation with an adapter (by number).
fn folder(args: &EvalArgs, benchmark: &str, adapter: usize, sets: usize) -> PathBuf {
    let mut out = args.out.clone().unwrap_or_else(|| Path::new("evals").join(stem(args.model())));
    let several = args.adapter.len() > 1;
    if several {
        out.push(format!("adapter-{adapter}"));
    } else if let (None, Some(name)) = (&args.out, args.adapter.first()) {
        // `runs/sums/adapter.tinylora` is called after its run.
        let path = Path::new(name);
        let usual = path.file_name().is_some_and(|name| name == "adapter.tinylora");
        let called = if usual { path.parent().unwrap_or(path) } else { path };
        let text_form = name.starts_with("tinylora:");
        out.set_file_name(format!(
            "{}+{}",
            stem(args.model()),
            if text_form { "adapter".into() } else { stem(&called.display().to_string()) }
        ));
    }
    // A folder that was named holds the one evaluation itself.
    if args.out.is_none() || sets > 1 { out.join(benchmark) } else { out }
}

/// The last part of a reference, without revision and ending.
fn stem(reference: &str) -> String {
    let bare = reference.split('@').next().unwrap_or(reference).trim_end_matches('/');
    let last = bare.rsplit(['/', '\\', ':']).next().unwrap_or(bare);
    let last = last.strip_suffix(".gguf").or(last.strip_suffix(".tinylora")).unwrap_or(last);
    if last.is_empty() || last == "." || last == ".." { "model".into() } else { last.to_owned() }
}

fn adapter_sha256(name: &str) -> Result<String> {
    if name.starts_with("tinylora:") {
        return Ok(tinylora::hub::bytes_sha256(name.as_bytes()));
    }
    let bytes = std::fs::read(name).with_context(|| format!("cannot read {name}"))?;
    Ok(tinylora::hub::bytes_sha256(&bytes))
}

/// Generates and judges what is not there yet; none if it was stopped.
fn measure(
    args: &EvalArgs,
    job: &Job<'_>,
    adapter: usize,
    opened: &Opened,
    cpu: &Cpu,
    stop: &AtomicBool,
    screen: &Screen,
) -> Result<Option<BenchmarkSummary>> {
    use tinylora::evaluate::Opened as Folder;
    let about = job.set.benchmark.about();
    let mut folder = match EvalFolder::open(&job.out, &job.settings, args.resume)? {
        Folder::Unfinished(folder) => folder,
        Folder::Finished(summary) => return Ok(Some(*summary)),
    };
    let mut also = vec![Scorer::Robust, about.published];
    also.extend_from_slice(about.also);
    let settings = &job.settings;
    let total = job.prompts.len() * settings.samples.max(1);
    let longest = job.prompts.iter().map(Vec::len).max().unwrap_or(0);
    let (at_once, blocks) = room(cpu, &opened.base.model, longest, settings.max_tokens, 1, total);
    let mut run = BenchmarkRun {
        problems: &job.set.data.problems,
        prompts: &job.prompts,
        samples: settings.samples,
        sampling: Sampling { temperature: settings.temperature, top_p: settings.top_p, top_k: 0 },
        max_tokens: settings.max_tokens,
        max_batch: at_once,
        seed: settings.seed,
        stop: &settings.stop,
        scorer: job.scorer,
        also: &also,
        adapter: 0,
        interrupt: stop,
    };
    let mut display = Progress::new(about.name, screen.clone());
    let mut engine = Engine::new(cpu, &opened.base.model, blocks);
    let mut generate = |run: &BenchmarkRun<'_>, policy: Policy<'_>| {
        run_benchmark(&mut engine, &opened.base.tokenizer, policy, run, &mut folder, &mut |news| {
            display.take(news)
        })
    };
    let set =
        opened.sets().iter().find_map(|set| Some((set, set.members.iter().position(|m| *m == adapter)?)));
    let end = match set {
        None => generate(&run, Policy::plain(&opened.base.model)),
        Some((set, place)) => {
            run.adapter = place as u32;
            generate(&run, Policy::new(&opened.base.model, set.adapters()))
        }
    };
    screen.clear();
    if end? == RunEnd::Interrupted {
        return Ok(None);
    }
    let result = tally(&folder.records());
    let seconds = folder.seconds();
    let summary = BenchmarkSummary {
        title: about.title.into(),
        settings: settings.clone(),
        tokens_per_second: result.completion_tokens as f64 / seconds.max(1e-9),
        result,
        wall_seconds: seconds,
        device: "cpu".into(),
        kernel: cpu.kernel().name().into(),
        threads: cpu.threads(),
        version: VERSION.into(),
        commit: COMMIT.into(),
    };
    debug_assert_eq!(job.prompting.shots(), settings.shots);
    folder.finish(&summary)?;
    Ok(Some(summary))
}

/// Shows how far an evaluation is: a line at the bottom of a terminal, elsewhere a line now and then.
struct Progress {
    name: &'static str,
    screen: Screen,
    begun: Instant,
    /// Completions that were there at the beginning.
    earlier: Option<usize>,
    told: Instant,
}

/// Without a terminal a line appears this often.
const EVERY: Duration = Duration::from_secs(30);

impl Progress {
    fn new(name: &'static str, screen: Screen) -> Self {
        Self { name, screen, begun: Instant::now(), earlier: None, told: Instant::now() }
    }

    fn take(&mut self, news: EvalProgress) {
        let Some(earlier) = self.earlier else {
            self.earlier = Some(news.done);
            self.begun = Instant::now();
            let going_on = if news.done > 0 { format!(", {} are there", news.done) } else { String::new() };
            if !self.screen.is_live() || news.done > 0 {
                self.screen.print(&format!("{}: {} completions{going_on} …", self.name, news.total));
            }
            return;
        };
        let line = progress_line(self.name, news, earlier, self.begun.elapsed(), self.screen.style());
        if self.screen.is_live() {
            self.screen.show(&[line]);
        } else if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            self.screen.print(&line);
        }
    }
}

fn progress_line(name: &str, news: EvalProgress, earlier: usize, spent: Duration, style: Style) -> String {
    let mut line = format!(
        "{name:<12} {} {}/{}, {} right",
        bar(news.done as u64, news.total as u64, 24, style),
        news.done,
        news.total,
        format::percent(news.right as f64 / news.done.max(1) as f64)
    );
    let seconds = spent.as_secs_f64();
    if seconds >= 2.0 && news.done > earlier {
        let left = seconds / (news.done - earlier) as f64 * (news.total - news.done) as f64;
        line.push_str(&format!(
            ", {}, {} left",
            format::rate(news.tokens, seconds),
            format::duration(Duration::from_secs_f64(left))
        ));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parsed(options: &[&str]) -> EvalArgs {
        let line = ["tinylora", "eval", "--model", "a/b-c.gguf"].iter().chain(options);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Eval(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tasks_are_benchmarks_or_something_else() {
        let of = |task: &str| named(&parsed(&["--task", task]));
        assert_eq!(of("gsm8k, aime24,gsm8k").unwrap(), Some(vec![Benchmark::Gsm8k, Benchmark::Aime24]));
        assert_eq!(of("paper").unwrap().unwrap().len(), 6);
        assert_eq!(of("paper,paper-math").unwrap().unwrap().len(), 8);
        assert_eq!(of("sum").unwrap(), None);
        let message = of("gsm8k,math50").unwrap_err().to_string();
        assert!(message.contains("math50") && message.contains("did you mean math500?"), "{message}");
    }

    #[test]
    fn options_that_mean_nothing_are_refused() {
        for options in [
            &["--task", "gsm8k", "--question-field", "q"][..],
            &["--task", "gsm8k", "--samples", "0", "--temperature", "1"],
            &["--task", "gsm8k", "--temperature", "0"],
            &["--task", "gsm8k", "--limit", "0"],
            &["--task", "gsm8k", "--scorer", "boxed"],
            &["--task", "gsm8k", "--max-tokens", "0"],
        ] {
            let error = check(&parsed(options)).unwrap_err();
            assert_eq!(crate::failure::status(&error), crate::failure::USAGE, "{options:?}");
        }
        check(&parsed(&["--task", "gsm8k", "--samples", "4", "--temperature", "0.7"])).unwrap();
    }

    #[test]
    fn folders_are_called_after_model_adapter_and_set() {
        let of = |options: &[&str], sets| folder(&parsed(options), "gsm8k", 0, sets).display().to_string();
        assert_eq!(of(&["--task", "gsm8k"], 1), "evals/b-c/gsm8k");
        let adapter = ["--task", "gsm8k", "--adapter", "runs/sums/adapter.tinylora"];
        assert_eq!(of(&adapter, 1), "evals/b-c+sums/gsm8k");
        assert_eq!(of(&["--task", "gsm8k", "--out", "x"], 1), "x");
        assert_eq!(of(&["--task", "gsm8k,math500", "--out", "x"], 2), "x/gsm8k");
        assert_eq!(
            of(&["--task", "gsm8k", "--adapter", "a", "--adapter", "b"], 1),
            "evals/b-c/adapter-0/gsm8k"
        );
    }

    #[test]
    fn what_is_left_is_estimated_from_this_session() {
        let news = EvalProgress { done: 60, total: 100, right: 15, tokens: 4000 };
        let line = progress_line("gsm8k", news, 40, Duration::from_secs(10), Style::Plain);
        assert!(line.contains("60/100, 25.0 % right") && line.contains("400 tokens/s, 20 s left"), "{line}");
    }
}
