//! What is logged in training, by step: reward, length, entropy and more, a thin line a seed and a thick one for their
//! mean: the paper's Figure 5. Of a sweep, the best learning rate of each size is shown.

use super::size::by_method_and_size;
use super::{Material, Missing, same_model};
use crate::chart::{Dash, Figure, Marker, Panel, Point, Series, Style, Table};
use crate::error::PlotError;
use crate::gather::Run;
use crate::options::FigureKind;
use crate::row::{learner_name, method_name, model_name};
use crate::scale::{self, scientific};
use std::collections::{BTreeMap, BTreeSet};
use tinylora::run_folder::{METRICS_FILE, StepMetrics, read_metrics};

/// A number that is logged at every step.
struct Metric {
    label: &'static str,
    of: fn(&StepMetrics) -> f64,
}

const METRICS: [Metric; 7] = [
    Metric { label: "mean reward", of: |step| step.reward_mean },
    Metric { label: "accuracy in training (%)", of: |step| 100.0 * step.accuracy },
    Metric {
        label: "length (tokens)",
        of: |step| if step.rollout_tokens > 0 { step.completion_tokens_mean } else { f64::NAN },
    },
    Metric { label: "KL to the base (nats)", of: |step| step.kl },
    Metric { label: "entropy (nats)", of: |step| step.entropy },
    Metric { label: "loss", of: |step| step.loss },
    Metric { label: "gradient norm", of: |step| step.grad_norm },
];
const REWARD: usize = 0;
const ACCURACY: usize = 1;
const KL: usize = 3;

/// Runs that differ in their seed alone.
struct Line {
    name: String,
    rate: String,
    of_sweep: bool,
    runs: Vec<Vec<StepMetrics>>,
}

/// A figure for each model and learner.
pub(super) fn make(material: &Material<'_>) -> Result<Result<Vec<Figure>, Missing>, PlotError> {
    let mut groups: BTreeMap<(String, String), Vec<Line>> = BTreeMap::new();
    of_sweeps(material, &mut groups)?;
    of_runs(material, &mut groups);
    let several = groups.keys().map(|(_, model)| model).collect::<BTreeSet<_>>().len() > 1;
    let made: Vec<Figure> = groups
        .iter()
        .filter_map(|((learner, model), lines)| {
            let model = model_name(model);
            figure(learner, if several { model } else { "" }, lines)
        })
        .collect();
    Ok(if made.is_empty() { Err("no run has metrics.jsonl with a step in it".into()) } else { Ok(made) })
}

/// The runs of sweeps at the best rate of each size.
fn of_sweeps(
    material: &Material<'_>,
    groups: &mut BTreeMap<(String, String), Vec<Line>>,
) -> Result<(), PlotError> {
    for (group, rows) in material.panels() {
        let rows: Vec<_> = rows.into_iter().filter(|row| row.run != row.place).collect();
        for (method, sizes) in by_method_and_size(material, &rows) {
            for (size, best) in sizes {
                let mut runs = Vec::new();
                for row in best.rows.iter().filter(|row| row.run.join(METRICS_FILE).is_file()) {
                    runs.push(read_metrics(&row.run)?);
                }
                runs.retain(|run| !run.is_empty());
                if !runs.is_empty() {
                    let name = format!("{} {}", method_name(&method), scale::count(size));
                    let lines = groups.entry((group.learner.clone(), group.model.clone())).or_default();
                    lines.push(Line { name, rate: scientific(best.rate()), of_sweep: true, runs });
                }
            }
        }
    }
    Ok(())
}

/// Runs on their own; those with the same recipe but for the seed belong together.
fn of_runs(material: &Material<'_>, groups: &mut BTreeMap<(String, String), Vec<Line>>) {
    let asked = |run: &&Run| {
        !run.metrics.is_empty()
            && material.model.is_none_or(|asked| same_model(asked, &run.model))
            && material.task.is_none_or(|asked| run.task == asked)
    };
    let mut same: Vec<Vec<&Run>> = Vec::new();
    for run in material.results.runs.iter().filter(asked) {
        let group = same.iter_mut().find(|runs| {
            runs[0].recipe.is_some()
                && runs[0].recipe == run.recipe
                && (runs[0].learner, &runs[0].model) == (run.learner, &run.model)
        });
        match group {
            Some(runs) => runs.push(run),
            None => same.push(vec![run]),
        }
    }
    for runs in same {
        let rates = runs.iter().flat_map(|run| &run.metrics).map(|step| step.learning_rate);
        groups.entry((learner_name(runs[0].learner), runs[0].model.clone())).or_default().push(Line {
            name: common_name(&runs),
            rate: scientific(rates.fold(0.0, f64::max)),
            of_sweep: false,
            runs: runs.iter().map(|run| run.metrics.clone()).collect(),
        });
    }
}

/// What the names of the folders begin with, or the first one's.
fn common_name(runs: &[&Run]) -> String {
    let name =
        |run: &Run| run.folder.file_name().unwrap_or(run.folder.as_os_str()).to_string_lossy().into_owned();
    let first = name(runs[0]);
    let common = runs.iter().fold(first.clone(), |common, run| {
        common.chars().zip(name(run).chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    });
    let common = common.trim_end_matches(|c: char| c.is_ascii_digit() || "-_. ".contains(c));
    if runs.len() == 1 || common.is_empty() { first } else { common.to_owned() }
}

fn figure(learner: &str, model: &str, lines: &[Line]) -> Option<Figure> {
    let values = |metric: &Metric| -> Vec<f64> {
        lines
            .iter()
            .flat_map(|line| line.runs.iter().flatten())
            .map(|step| (metric.of)(step))
            .filter(|v| v.is_finite())
            .collect()
    };
    let kept: Vec<&Metric> = METRICS
        .iter()
        .enumerate()
        .filter(|(i, metric)| {
            let values = values(metric);
            let same_as_reward = *i == ACCURACY && {
                let rewards: Vec<f64> = self::rewards(lines);
                rewards.len() == values.len()
                    && rewards.iter().zip(&values).all(|(r, a)| (100.0 * r - a).abs() < 1e-6)
            };
            // A KL of 0 was not asked for.
            let unused = *i == KL && values.iter().all(|value| *value == 0.0);
            !(values.is_empty() || same_as_reward || unused)
        })
        .map(|(_, metric)| metric)
        .collect();
    if kept.is_empty() {
        return None;
    }
    let steps: Vec<f64> =
        lines.iter().flat_map(|line| line.runs.iter().flatten()).map(|step| step.step as f64).collect();
    let x = scale::whole("step", &steps, 5);
    let panels: Vec<Panel> = kept.iter().map(|metric| panel(metric, lines, &x)).collect();
    let seeds = lines.iter().map(|line| line.runs.len()).max().unwrap_or(1);
    let how = if seeds > 1 { "Thin lines: single seeds; thick ones: their mean. " } else { "" };
    let of = if model.is_empty() { String::new() } else { format!(", {model}") };
    Some(Figure {
        kind: FigureKind::Steps,
        title: format!("Training by {learner}{of}"),
        caption: format!(
            "{how}Reward, accuracy and length are those of the completions sampled in the step; of a sweep, the runs at each \
             size's best learning rate are shown."
        ),
        columns: 3,
        panels,
        shared_y: false,
        legend: String::new(),
        table: table(&kept, lines),
    })
}

fn rewards(lines: &[Line]) -> Vec<f64> {
    let steps = lines.iter().flat_map(|line| line.runs.iter().flatten());
    steps.map(|step| (METRICS[REWARD].of)(step)).filter(|value| value.is_finite()).collect()
}

fn panel(metric: &Metric, lines: &[Line], x: &scale::Axis) -> Panel {
    let series: Vec<Series> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            // Few lines, or such as have no order, differ in colour and pattern; others in the order of their colours.
            let style = if lines.len() <= 4 || lines.len() <= 8 && lines.iter().any(|line| !line.of_sweep) {
                Style::kind(index)
            } else {
                Style::ordered(index, lines.len())
            };
            let threads: Vec<Vec<[f64; 2]>> = line.runs.iter().map(|run| thread(metric, run)).collect();
            Series {
                name: line.name.clone(),
                style: Style {
                    marker: Marker::None,
                    dash: if lines.len() == 1 { Dash::Solid } else { style.dash },
                    ..style
                },
                joined: true,
                points: mean(&threads).into_iter().map(|[x, y]| Point::at(x, y)).collect(),
                dots: Vec::new(),
                threads,
            }
        })
        .collect();
    let values = super::heights(&series, &[]);
    Panel {
        title: String::new(),
        x: x.clone(),
        y: scale::linear(metric.label, &values, 4),
        series,
        references: Vec::new(),
    }
}

fn thread(metric: &Metric, run: &[StepMetrics]) -> Vec<[f64; 2]> {
    // Runs of earlier versions have no loss, which is read as 0.
    let absent = metric.label == "loss" && run.iter().all(|step| step.loss == 0.0);
    let points = run.iter().filter(|_| !absent).map(|step| [step.step as f64, (metric.of)(step)]);
    points.filter(|[_, y]| y.is_finite()).collect()
}

/// The mean at the steps that all have: where one ends, the mean of the others would jump.
fn mean(threads: &[Vec<[f64; 2]>]) -> Vec<[f64; 2]> {
    let mut sums: BTreeMap<u64, (usize, f64)> = BTreeMap::new();
    for [step, value] in threads.iter().flatten() {
        let (count, sum) = sums.entry(*step as u64).or_default();
        (*count, *sum) = (*count + 1, *sum + value);
    }
    let whole = sums.into_iter().filter(|(_, (count, _))| *count == threads.len());
    whole.map(|(step, (count, sum))| [step as f64, sum / count as f64]).collect()
}

fn table(metrics: &[&Metric], lines: &[Line]) -> Table {
    let mut table = Table::new(&["run", "rate", "seeds", "steps"]);
    table.columns.extend(metrics.iter().map(|metric| format!("{}, first … last step", metric.label)));
    for line in lines {
        let steps = line.runs.iter().map(Vec::len).max().unwrap_or(0);
        let mut cells =
            vec![line.name.clone(), line.rate.clone(), line.runs.len().to_string(), steps.to_string()];
        for metric in metrics {
            let threads: Vec<_> = line.runs.iter().map(|run| thread(metric, run)).collect();
            let mean = mean(&threads);
            cells.push(match (mean.first(), mean.last()) {
                (Some([_, first]), Some([_, last])) => format!("{} … {}", short(*first), short(*last)),
                _ => "–".into(),
            });
        }
        table.rows.push(cells);
    }
    table
}

/// Three digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if (0.001..1000.0).contains(&size) => {
            let digits = (2 - size.log10().floor() as i32).clamp(0, 5) as usize;
            format!("{value:.digits$}")
        }
        _ => scientific(value),
    }
}
