//! Results enter, figures leave as plain data: for each kind what its panels, lines and numbers are, or why it can't be drawn.

mod ablation;
mod benchmarks;
mod fraction;
mod precision;
mod rates;
mod size;
mod steps;

use crate::chart::{Dash, Figure, Ink, Point, Reference, Series, Style};
use crate::choose::{Best, Mean, baseline};
use crate::error::PlotError;
use crate::gather::Results;
use crate::options::{FigureKind, Interval, Measure, PlotOptions, Unit};
use crate::row::{Row, learner_name, model_name};
use std::collections::{BTreeMap, BTreeSet};

/// The figures, and what a reader of them should know.
#[derive(Debug)]
pub struct Figures {
    /// The figures.
    pub figures: Vec<Figure>,
    /// Notes, a sentence each.
    pub notes: Vec<String>,
}

/// What figures are made of: rows of one task, and choices that are made.
struct Material<'a> {
    rows: Vec<&'a Row>,
    results: &'a Results,
    unit: Unit,
    interval: Interval,
    measure: Measure,
    model: Option<&'a str>,
    task: Option<&'a str>,
}

/// Why a kind of figure can't be drawn.
type Missing = String;

/// Makes the figures that were asked for, or all that the results allow.
pub fn make(results: &Results, options: &PlotOptions) -> Result<Figures, PlotError> {
    let mut notes = results.notes.clone();
    let material = material(results, options, &mut notes)?;
    let asked = if options.figures.is_empty() { &FigureKind::ALL[..] } else { &options.figures[..] };
    let (mut figures, mut missing) = (Vec::new(), Vec::new());
    for &kind in FigureKind::ALL.iter().filter(|kind| asked.contains(kind)) {
        let made = match kind {
            FigureKind::Size => size::make(&material, &mut notes),
            FigureKind::Fraction => fraction::make(&material, &mut notes),
            FigureKind::Precision => precision::make(&material),
            FigureKind::Ablation => ablation::make(&material),
            FigureKind::Rates => rates::make(&material, &mut notes),
            FigureKind::Steps => steps::make(&material)?,
            FigureKind::Benchmarks => benchmarks::make(&material),
        };
        match made {
            Ok(made) => figures.extend(made),
            Err(why) if !options.figures.is_empty() => {
                return Err(PlotError::NothingFor { figure: kind, why });
            }
            Err(why) => missing.push(format!("{kind}: {why}")),
        }
    }
    if figures.is_empty() {
        return Err(PlotError::Nothing { why: missing.join("; ") });
    }
    Ok(Figures { figures, notes })
}

fn material<'a>(
    results: &'a Results,
    options: &'a PlotOptions,
    notes: &mut Vec<String>,
) -> Result<Material<'a>, PlotError> {
    let of_model = |model: &str| options.model.as_deref().is_none_or(|asked| same_model(asked, model));
    let of_task = |task: &str| options.task.as_deref().is_none_or(|asked| asked == task);
    let models = all(results, |row| &row.model, |run| &run.model, |evaluated| &evaluated.model);
    let tasks = all(results, |row| &row.task, |run| &run.task, |_| "");
    known("model", options.model.as_deref(), models, same_model)?;
    known("task", options.task.as_deref(), tasks, |asked, task| asked == task)?;
    let rows: Vec<&Row> =
        results.rows.iter().filter(|row| of_model(&row.model) && of_task(&row.task)).collect();
    one_task(&rows, results, &of_task, &of_model)?;
    let sampled = rows.iter().any(|row| row.after(Measure::Sampled).is_some());
    let measure = options.measure.unwrap_or(if sampled || rows.is_empty() {
        Measure::Sampled
    } else {
        Measure::Greedy
    });
    let without = rows.iter().filter(|row| row.after(measure).is_none()).count();
    if without > 0 && without < rows.len() {
        let what = measure.label().trim_end_matches(" (%)");
        notes
            .push(format!("{without} of {} runs have no {what} after training and are left out", rows.len()));
    }
    let rows = rows.into_iter().filter(|row| row.after(measure).is_some()).collect();
    let (unit, interval) = (options.unit, options.interval);
    let (model, task) = (options.model.as_deref(), options.task.as_deref());
    Ok(Material { rows, results, unit, interval, measure, model, task })
}

/// A model may be named without its organisation or folder.
fn same_model(asked: &str, model: &str) -> bool {
    asked == model || asked == model_name(model)
}

fn all<'a>(
    results: &'a Results,
    row: impl Fn(&'a Row) -> &'a str,
    run: impl Fn(&'a crate::gather::Run) -> &'a str,
    evaluated: impl Fn(&'a crate::gather::Evaluated) -> &'a str,
) -> BTreeSet<&'a str> {
    let rows = results.rows.iter().map(row);
    let names = rows.chain(results.runs.iter().map(run)).chain(results.evaluated.iter().map(evaluated));
    names.filter(|name| !name.is_empty()).collect()
}

fn known(
    what: &'static str,
    asked: Option<&str>,
    there: BTreeSet<&str>,
    same: impl Fn(&str, &str) -> bool,
) -> Result<(), PlotError> {
    match asked {
        Some(asked) if !there.iter().any(|name| same(asked, name)) => Err(PlotError::Filter {
            what,
            asked: asked.into(),
            there: if there.is_empty() {
                "none".into()
            } else {
                there.into_iter().collect::<Vec<_>>().join(", ")
            },
        }),
        _ => Ok(()),
    }
}

/// Accuracies and rewards of different tasks can't be compared.
fn one_task(
    rows: &[&Row],
    results: &Results,
    of_task: &dyn Fn(&str) -> bool,
    of_model: &dyn Fn(&str) -> bool,
) -> Result<(), PlotError> {
    let mut tasks: BTreeMap<&str, String> = BTreeMap::new();
    for row in rows {
        tasks.entry(&row.task).or_insert_with(|| row.place.display().to_string());
    }
    for run in
        results.runs.iter().filter(|run| !run.task.is_empty() && of_task(&run.task) && of_model(&run.model))
    {
        tasks.entry(&run.task).or_insert_with(|| run.folder.display().to_string());
    }
    if tasks.len() < 2 {
        return Ok(());
    }
    let found: Vec<String> = tasks.iter().map(|(task, place)| format!("{task} (in {place})")).collect();
    Err(PlotError::MixedTasks { found: found.join(", ") })
}

impl Material<'_> {
    /// The size of a row's update, in the chosen unit.
    fn size(&self, row: &Row) -> f64 {
        match self.unit {
            Unit::Numbers => row.size as f64,
            Unit::Bytes => row.bytes as f64,
        }
    }

    fn size_label(&self) -> &'static str {
        match self.unit {
            Unit::Numbers => "trained parameters",
            Unit::Bytes => "bytes of the update",
        }
    }

    /// What intervals mean.
    fn interval_text(&self) -> String {
        match self.interval {
            Interval::Seeds => "Bars: 95\u{a0}% interval of the mean over seeds (Student's t); where there is one seed, or all seeds \
                                are equal, over the problems of its evaluation (Wilson)."
                .into(),
            Interval::Problems => {
                "Bars: 95\u{a0}% interval over the problems of one evaluation (Wilson), at the mean over seeds.".into()
            }
        }
    }

    /// Rows by model and learner, smaller models first, GRPO before others.
    fn panels(&self) -> Vec<(Group, Vec<&Row>)> {
        let mut groups: BTreeMap<Group, Vec<&Row>> = BTreeMap::new();
        for row in &self.rows {
            let group = Group {
                parameters: row.model_parameters,
                model: row.model.clone(),
                learner: learner_name(row.learner),
            };
            groups.entry(group).or_default().push(row);
        }
        groups.into_iter().collect()
    }

    fn models(&self) -> usize {
        self.rows.iter().map(|row| &row.model).collect::<BTreeSet<_>>().len()
    }

    fn learners(&self) -> usize {
        self.rows.iter().map(|row| learner_name(row.learner)).collect::<BTreeSet<_>>().len()
    }

    /// What sets a panel apart.
    fn panel_title(&self, group: &Group, always: bool) -> String {
        let learner = self.learners() > 1 || always;
        match (learner, self.models() > 1) {
            (true, true) => format!("{} · {}", group.learner, model_name(&group.model)),
            (false, true) => model_name(&group.model).to_owned(),
            (true, false) => group.learner.clone(),
            (false, false) => String::new(),
        }
    }

    /// `smollm2-135m, arithmetic/sum`
    fn about(&self) -> String {
        let set = |of: &dyn Fn(&Row) -> String| {
            self.rows
                .iter()
                .map(|row| of(row))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join(", ")
        };
        let seeds = self.rows.iter().map(|row| row.seed).collect::<BTreeSet<_>>().len();
        let steps = set(&|row| row.steps.to_string());
        let problems = set(&|row| row.problems().to_string());
        format!(
            "{}, {}; {steps} steps, {problems} held-out problems, {seeds} {}.",
            set(&|row| model_name(&row.model).to_owned()),
            set(&|row| row.task.clone()),
            if seeds == 1 { "seed" } else { "seeds" }
        )
    }
}

/// Rows that share a panel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    parameters: u64,
    model: String,
    learner: String,
}

/// A fraction in percent.
fn percent(fraction: f64) -> f64 {
    100.0 * fraction
}

/// `41.2`
fn digits(fraction: f64) -> String {
    format!("{:.1}", percent(fraction))
}

/// `38.0–44.4`; a dash where there is none.
fn range(interval: Option<[f64; 2]>) -> String {
    interval.map_or("–".into(), |[low, high]| format!("{}–{}", digits(low), digits(high)))
}

/// The point of a mean, in percent.
fn point(x: f64, mean: &Mean, interval: Interval) -> Point {
    let interval = mean.interval(interval).map(|[low, high]| [percent(low), percent(high)]);
    Point { x, y: percent(mean.value), interval, chosen: false, single: mean.values.len() == 1 }
}

/// Single seeds at the same place; none where there is only one, since it is the mean.
fn dots(x: f64, mean: &Mean) -> Vec<[f64; 2]> {
    if mean.values.len() < 2 {
        return Vec::new();
    }
    mean.values.iter().map(|value| [x, percent(*value)]).collect()
}

/// Points of a series, given in order, with the best settings of each.
fn series(name: String, style: Style, of: &[(f64, Best<'_>)], interval: Interval) -> Series {
    Series {
        name,
        style,
        joined: true,
        points: of.iter().map(|(x, best)| point(*x, &best.mean, interval)).collect(),
        dots: of.iter().flat_map(|(x, best)| dots(*x, &best.mean)).collect(),
        threads: Vec::new(),
    }
}

/// Every height that a panel has to show.
fn heights(series: &[Series], references: &[Reference]) -> Vec<f64> {
    let mut values: Vec<f64> = references.iter().map(|reference| reference.y).collect();
    for series in series {
        values.extend(
            series.points.iter().flat_map(|p| [p.y].into_iter().chain(p.interval.into_iter().flatten())),
        );
        values.extend(series.dots.iter().map(|dot| dot[1]));
        values.extend(series.threads.iter().flatten().map(|dot| dot[1]));
    }
    values
}

/// The dashed line before training.
fn before(rows: &[&Row], measure: Measure) -> Option<Reference> {
    let y = percent(baseline(rows, measure)?);
    let name = "before training".to_owned();
    Some(Reference { y, label: format!("{name} {y:.1}"), name, ink: Ink::Faint, dash: Dash::Long })
}

/// The paper's method first, then those that train more.
fn method_place(method: &str) -> usize {
    let order = ["tinylora", "lora-xs", "lora", "full"];
    order.iter().position(|known| *known == method).unwrap_or(order.len())
}

/// `all` for 0.
fn n_tie_name(n_tie: usize) -> String {
    if n_tie == 0 { "all".into() } else { n_tie.to_string() }
}

#[cfg(test)]
mod tests;
