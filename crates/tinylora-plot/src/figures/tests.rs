//! Every figure on results that nobody measured: what is drawn, that nothing overlaps, and odd data.

use super::*;
use crate::draw;
use crate::gather::{Evaluated, Run};
use crate::output::{Format, render};
use crate::png;
use crate::testing::row;
use resvg::usvg::{Group as Node, Node as Any, Rect, roxmltree};
use tinylora::recipe::{Learner, StoragePrecision, Tying};
use tinylora::run_folder::StepMetrics;

fn results(rows: Vec<Row>) -> Results {
    Results { rows, ..Results::default() }
}

/// Two learners, four methods, ten sizes, three rates, three seeds.
fn paper() -> Results {
    let mut rows = Vec::new();
    for (method, sizes) in [
        ("tinylora", &[1usize, 13, 49, 196][..]),
        ("lora-xs", &[784, 12_544, 200_704]),
        ("lora", &[1_261_568, 10_092_544]),
        ("full", &[134_515_008]),
    ] {
        for (learner, slope) in [(Learner::Grpo, 0.05), (Learner::Sft, 0.03)] {
            for &size in sizes {
                for (i, rate) in [1e-4, 1e-3, 1e-2].into_iter().enumerate() {
                    for seed in 1..=3 {
                        let noise = 0.004 * seed as f64 + 0.01 * (i as f64 - 1.0).powi(2);
                        let accuracy = 0.2 + slope * (size as f64).log10() - noise;
                        rows.push(Row { method: method.into(), learner, ..row(size, rate, seed, accuracy) });
                    }
                }
            }
        }
    }
    results(rows)
}

fn drawn(results: &Results, kind: FigureKind) -> Figures {
    make(results, &PlotOptions { figures: vec![kind], ..PlotOptions::default() }).unwrap()
}

fn svg(results: &Results, options: &PlotOptions) -> String {
    let figures = make(results, options).unwrap();
    String::from_utf8(render(&figures, results, Format::Svg, options).unwrap()).unwrap()
}

/// The rectangles of all texts, in the coordinates of the picture.
fn texts(node: &Node, found: &mut Vec<(String, Rect)>) {
    for child in node.children() {
        match child {
            Any::Group(group) => texts(group, found),
            Any::Text(text) => {
                let content: String = text.chunks().iter().map(|chunk| chunk.text()).collect();
                found.push((content, text.abs_bounding_box()));
            }
            _ => {}
        }
    }
}

/// No text lies on another one, and none beyond the edge.
fn is_tidy(svg: &str) {
    let tree = png::parse(svg).unwrap();
    let (mut found, size) = (Vec::new(), tree.size());
    texts(tree.root(), &mut found);
    assert!(found.len() > 4);
    for (i, (text, a)) in found.iter().enumerate() {
        assert!(
            a.left() >= 0.0 && a.top() >= 0.0 && a.right() <= size.width() && a.bottom() <= size.height(),
            "{text:?} is beyond the edge: {a:?} of {size:?}"
        );
        for (other, b) in &found[..i] {
            let apart = a.left() >= b.right()
                || b.left() >= a.right()
                || a.top() >= b.bottom()
                || b.top() >= a.bottom();
            assert!(apart, "{text:?} lies on {other:?}: {a:?} {b:?}");
        }
    }
}

#[test]
fn the_size_figure_has_a_panel_a_learner_and_a_line_a_method() {
    let results = paper();
    let figures = drawn(&results, FigureKind::Size);
    let [figure] = &figures.figures[..] else { panic!() };
    assert_eq!(figure.panels.iter().map(|panel| panel.title.as_str()).collect::<Vec<_>>(), ["GRPO", "SFT"]);
    assert_eq!(figure.panels[0].y, figure.panels[1].y);
    for panel in &figure.panels {
        let names: Vec<&str> = panel.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["TinyLoRA", "LoRA-XS", "LoRA", "full finetuning"]);
        assert_eq!(panel.series.iter().map(|s| s.points.len()).collect::<Vec<_>>(), [4, 3, 2, 1]);
        assert_eq!(panel.series[0].dots.len(), 12);
        assert!(panel.series.iter().flat_map(|s| &s.points).all(|p| {
            let [low, high] = p.interval.unwrap();
            low < p.y && p.y < high
        }));
        assert_eq!(panel.references[0].label, "before training 5.0");
        assert!(panel.references[1].label.starts_with("full finetuning "));
    }
    assert_eq!(figure.table.rows.len(), 20);
    // At the middle rate: 0.2 + 0.05 · log10(196) − 0.008.
    let row = figure.table.rows.iter().find(|row| row[0] == "GRPO" && row[3] == "196").unwrap();
    assert_eq!((row[5].as_str(), row[8].as_str()), ("1e-3", "30.7"));
    let text = svg(&results, &PlotOptions { figures: vec![FigureKind::Size], ..PlotOptions::default() });
    let document = roxmltree::Document::parse(&text).unwrap();
    let count = |class: &str| document.descendants().filter(|n| n.attribute("class") == Some(class)).count();
    assert_eq!((count("figure"), count("panel"), count("series")), (1, 2, 8));
    assert_eq!(document.root_element().attribute("role"), Some("img"));
}

#[test]
fn bytes_and_the_interval_over_problems_can_be_chosen() {
    let options = PlotOptions {
        figures: vec![FigureKind::Size],
        unit: Unit::Bytes,
        interval: Interval::Problems,
        ..PlotOptions::default()
    };
    let results = paper();
    let figures = make(&results, &options).unwrap();
    let panel = &figures.figures[0].panels[0];
    assert_eq!(panel.series[0].points[1].x, 52.0);
    let [low, high] = panel.series[0].points[1].interval.unwrap();
    assert!(high - low > 8.0, "256 problems tell no more than this: {low} {high}");
    assert!(figures.figures[0].caption.contains("over the problems of one evaluation"));
}

#[test]
fn the_smallest_size_that_gives_most_of_the_gain() {
    let accuracies = [(1, 0.05), (4, 0.10), (13, 0.20), (49, 0.24), (196, 0.25)];
    let rows = accuracies.map(|(size, accuracy)| row(size, 1e-3, 1, accuracy));
    let figures = drawn(&results(rows.to_vec()), FigureKind::Fraction);
    let table = &figures.figures[0].table;
    // The gain is 20 points: 23.0, 24.0 and 24.8 are needed.
    let found: Vec<(&str, &str)> = table.rows.iter().map(|row| (row[5].as_str(), row[7].as_str())).collect();
    assert_eq!(found, [("23.0", "49"), ("24.0", "49"), ("24.8", "196")]);
    // A loss has no parts.
    let rows = [row(1, 1e-3, 1, 0.01), row(4, 1e-3, 1, 0.02)];
    let error = make(
        &results(rows.to_vec()),
        &PlotOptions { figures: vec![FigureKind::Fraction], ..PlotOptions::default() },
    );
    assert!(error.unwrap_err().to_string().starts_with("nothing to draw for the figure `fraction`"));
}

#[test]
fn precisions_and_settings_of_adapters() {
    let mut rows = Vec::new();
    for (precision, bytes) in [(StoragePrecision::Fp32, 4), (StoragePrecision::Bf16, 2)] {
        for tying in [Tying::Tiled, Tying::Structured] {
            for (u, n_tie) in [(1, 0), (4, 0), (1, 16), (4, 16)] {
                let size = if n_tie == 0 { u } else { 13 * u };
                let accuracy = 0.2 + 0.01 * size as f64 / 13.0;
                let bytes = (bytes * size) as u64;
                rows.push(Row { precision, tying, u, n_tie, bytes, ..row(size, 1e-3, 1, accuracy) });
            }
        }
    }
    let results = results(rows);
    let figures = drawn(&results, FigureKind::Precision);
    let names: Vec<&str> =
        figures.figures[0].panels[0].series.iter().map(|series| series.name.as_str()).collect();
    assert_eq!(names, ["fp32, tiled", "fp32, structured", "bf16, tiled", "bf16, structured"]);
    let figures = drawn(&results, FigureKind::Ablation);
    let figure = &figures.figures[0];
    let names: Vec<&str> = figure.panels[0].series.iter().map(|series| series.name.as_str()).collect();
    assert_eq!((figure.legend.as_str(), names), ("n_tie:", vec!["16", "all"]));
    is_tidy(&svg(&results, &PlotOptions::default()));
}

#[test]
fn rates_ring_the_best_and_tell_of_ends() {
    let results = paper();
    let figures = drawn(&results, FigureKind::Rates);
    assert_eq!(figures.figures.len(), 4, "a figure a method");
    for series in figures.figures.iter().flat_map(|f| &f.panels).flat_map(|panel| &panel.series) {
        let chosen: Vec<bool> = series.points.iter().map(|point| point.chosen).collect();
        assert_eq!(chosen, [false, true, false]);
    }
    assert!(!figures.notes.iter().any(|note| note.contains("at an end")));
    let rows = [row(1, 1e-3, 1, 0.1), row(1, 1e-2, 1, 0.2)];
    let figures = drawn(&super::tests::results(rows.to_vec()), FigureKind::Rates);
    assert!(
        figures.notes.iter().any(|note| note.contains("GRPO TinyLoRA 1: 1e-2 is the largest")),
        "{:?}",
        figures.notes
    );
}

fn step(step: u64, reward: f64) -> StepMetrics {
    let line = serde_json::json!({
        "step": step, "epoch": 0.0, "reward_mean": reward, "accuracy": reward, "reward_std": 0.1,
        "active_group_fraction": 1.0, "completion_tokens_mean": 20.0 - step as f64, "truncated_fraction": 0.0,
        "entropy": 1.5, "kl": 0.0, "ratio_min": 1.0, "ratio_max": 1.0, "logprob_gap_max": 0.0, "loss": 0.01 * reward,
        "grad_norm": 0.3, "v_norm": 0.1, "learning_rate": 0.01, "rollout_tokens": 10, "rollout_seconds": 1.0,
        "train_tokens": 10, "train_seconds": 1.0, "adapter_version": step, "rss_bytes": 1,
    });
    serde_json::from_value(line).unwrap()
}

fn run(seed: u64, metrics: Vec<StepMetrics>) -> Run {
    Run {
        folder: format!("runs/a-seed-{seed}").into(),
        learner: Learner::Grpo,
        model: "m".into(),
        task: "sum".into(),
        seed: Some(seed),
        recipe: Some("the same".into()),
        metrics,
    }
}

#[test]
fn steps_of_seeds_have_a_mean_where_all_have_one() {
    let runs = vec![
        run(1, vec![step(1, 0.1), step(2, 0.3), step(3, 0.9)]),
        run(2, vec![step(1, 0.3), step(2, 0.5)]),
    ];
    let results = Results { runs, ..Results::default() };
    let figures = drawn(&results, FigureKind::Steps);
    let figure = &figures.figures[0];
    let labels: Vec<&str> = figure.panels.iter().map(|panel| panel.y.label.as_str()).collect();
    // Accuracy is the reward here, and no KL was asked for.
    assert_eq!(labels, ["mean reward", "length (tokens)", "entropy (nats)", "loss", "gradient norm"]);
    let series = &figure.panels[0].series[0];
    assert_eq!((series.name.as_str(), series.threads.len()), ("a-seed", 2));
    let points: Vec<(f64, f64)> = series.points.iter().map(|p| (p.x, (1e9 * p.y).round() / 1e9)).collect();
    assert_eq!(points, [(1.0, 0.2), (2.0, 0.4)]);
    is_tidy(&svg(&results, &PlotOptions::default()));
}

#[test]
fn benchmarks_stand_side_by_side() {
    let evaluated = |title: &str, adapter: Option<&str>, accuracy: f64| Evaluated {
        folder: "evals".into(),
        title: title.into(),
        model: "org/m".into(),
        adapter: adapter.map(str::to_owned),
        settings: "greedy, cot with 4 examples, scorer robust".into(),
        accuracy,
        ci95: [accuracy - 0.02, accuracy + 0.02],
        problems: 500,
    };
    let adapter = Some("runs/x/adapter.tinylora");
    let evaluated = vec![
        evaluated("GSM8K", None, 0.2),
        evaluated("MATH500", None, 0.1),
        evaluated("MATH500", adapter, 0.15),
        evaluated("GSM8K", adapter, 0.3),
    ];
    let results = Results { evaluated, ..Results::default() };
    let figures = drawn(&results, FigureKind::Benchmarks);
    let panel = &figures.figures[0].panels[0];
    let names: Vec<&str> = panel.series.iter().map(|series| series.name.as_str()).collect();
    assert_eq!(names, ["m", "m + x"]);
    assert!(panel.series.iter().all(|series| series.points.len() == 2 && series.points[0].x == 0.0));
    is_tidy(&svg(&results, &PlotOptions::default()));
}

#[test]
fn odd_data_is_drawn_all_the_same() {
    let long = "a/very-long-name-of-a-model-that-goes-on-and-on-<&>-\u{1}";
    let odd: Vec<Vec<Row>> = vec![
        vec![row(13, 1e-3, 1, 0.0)],
        vec![row(1, 1e-9, 1, 0.0), row(1_000_000_000, 10.0, 1, 1.0)],
        vec![row(1, 1e-3, 1, 0.0), row(1, 1e-3, 2, 0.0), row(4, 1e-3, 1, 0.0)],
        vec![Row { before: None, ..row(13, 1e-3, 1, 0.5) }],
        vec![Row { model: long.into(), ..row(13, 1e-3, 1, 0.5) }, row(13, 1e-3, 1, 0.5)],
        (1..=12).map(|i| row(1 << i, 1e-3, 1, 0.3 + 0.0001 * i as f64)).collect(),
        vec![Row { after: None, ..row(13, 1e-3, 1, 0.5) }],
    ];
    for (case, rows) in odd.into_iter().enumerate() {
        let results = results(rows);
        let text = svg(&results, &PlotOptions::default());
        println!("case {case}");
        is_tidy(&text);
        assert_eq!(text, svg(&results, &PlotOptions::default()), "the same bytes");
        let figures = make(&results, &PlotOptions::default()).unwrap();
        let small = PlotOptions { scale: 0.5, ..PlotOptions::default() };
        let png = render(&figures, &results, Format::Png, &small).unwrap();
        assert_eq!(&png[1..4], b"PNG");
        let large = PlotOptions { scale: 90.0, ..PlotOptions::default() };
        let error = render(&figures, &results, Format::Png, &large).unwrap_err();
        assert!(matches!(error, PlotError::TooLarge { .. }), "{error}");
    }
    is_tidy(&svg(&paper(), &PlotOptions::default()));
}

#[test]
fn what_cannot_be_drawn_says_why() {
    let message =
        |rows: Vec<Row>, options: PlotOptions| make(&results(rows), &options).unwrap_err().to_string();
    let mixed = || vec![row(1, 1e-3, 1, 0.1), Row { task: "gsm8k".into(), ..row(1, 1e-3, 1, 0.1) }];
    let text = message(mixed(), PlotOptions::default());
    assert!(text.contains("gsm8k (in sweep), sum (in sweep)") && text.contains("--task"), "{text}");
    let one = PlotOptions { task: Some("gsm8k".into()), ..PlotOptions::default() };
    assert_eq!(make(&results(mixed()), &one).unwrap().figures.len(), 1);
    let other = PlotOptions { task: Some("math".into()), ..PlotOptions::default() };
    assert_eq!(message(mixed(), other), "no result has the task math; there is gsm8k, sum");
    let model = PlotOptions { model: Some("large".into()), ..PlotOptions::default() };
    assert_eq!(
        message(vec![row(1, 1e-3, 1, 0.1)], model),
        "no result has the model large; there is org/small"
    );
    let small = PlotOptions { model: Some("small".into()), ..PlotOptions::default() };
    assert!(make(&results(vec![row(1, 1e-3, 1, 0.1)]), &small).is_ok());
    for kind in [
        FigureKind::Precision,
        FigureKind::Ablation,
        FigureKind::Rates,
        FigureKind::Steps,
        FigureKind::Benchmarks,
    ] {
        let options = PlotOptions { figures: vec![kind], ..PlotOptions::default() };
        let text = message(vec![row(1, 1e-3, 1, 0.1)], options);
        assert!(text.starts_with(&format!("nothing to draw for the figure `{kind}`: ")), "{text}");
    }
    let none = Row { accuracy: None, after: None, ..row(1, 1e-3, 1, 0.1) };
    assert!(
        message(vec![none], PlotOptions::default()).starts_with("nothing to draw: size: no finished run")
    );
}

/// The page is well-formed, stands alone, and its links lead somewhere.
#[test]
fn the_page_stands_alone() {
    let mut results = paper();
    results.notes.push("a note with <tags> & @@TITLE@@".into());
    let figures = make(&results, &PlotOptions::default()).unwrap();
    let options = PlotOptions { title: Some("<b>&".into()), ..PlotOptions::default() };
    let page = String::from_utf8(render(&figures, &results, Format::Html, &options).unwrap()).unwrap();
    let xml = page.replacen("<!doctype html>", "<!DOCTYPE html>", 1);
    let parsing = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&xml, parsing).unwrap();
    let ids: Vec<&str> = document.descendants().filter_map(|node| node.attribute("id")).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    for link in document.descendants().filter_map(|node| node.attribute("href")) {
        assert!(ids.contains(&link.trim_start_matches('#')), "{link}");
    }
    let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
    assert_eq!(
        (count("figure"), count("script"), count("table")),
        (figures.figures.len(), 0, figures.figures.len() + 1)
    );
    for outside in ["src=", "@import", "https://", "url(\"http"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("http://").count(), page.matches("http://www.w3.org/2000/svg").count());
    assert!(page.contains("a note with &lt;tags&gt; &amp; @@TITLE@@"), "texts stay as they are");
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("[data-s=k0]"));
    assert_eq!(draw::figure(&figures.figures[0], false), draw::figure(&figures.figures[0], false));
}
