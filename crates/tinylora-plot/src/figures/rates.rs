//! Accuracy by learning rate, a line a size: whether the best rate lies inside of what was tried.

use super::{Material, Missing, before, digits, dots, heights, method_place, point, range};
use crate::chart::{Figure, Panel, Reference, Series, Style, Table};
use crate::choose::{Mean, mean};
use crate::options::FigureKind;
use crate::row::{Row, method_name, model_name};
use crate::scale::{self, count, distinct, scientific};
use std::collections::{BTreeMap, BTreeSet};

/// The figure.
pub(super) fn make(material: &Material<'_>, notes: &mut Vec<String>) -> Result<Vec<Figure>, Missing> {
    let rates: Vec<f64> = material.rows.iter().map(|row| row.rate).filter(|rate| *rate > 0.0).collect();
    if distinct(&rates).len() < 2 {
        return Err("it needs runs with more than one learning rate".into());
    }
    let mut table = Table::new(&[
        "learner",
        "model",
        "method",
        "parameters",
        "rate",
        "seeds",
        "accuracy (%)",
        "95 % over seeds",
        "95 % over problems",
        "best",
    ]);
    let mut figures = Vec::new();
    let methods: BTreeSet<(usize, &str)> =
        material.rows.iter().map(|row| (method_place(&row.method), row.method.as_str())).collect();
    let mut edges = Vec::new();
    for (_, method) in methods {
        let panels = of_method(material, method, &mut table, &mut edges);
        if !panels.is_empty() {
            figures.push(figure(material, method, panels, &rates));
        }
    }
    for figure in &mut figures {
        figure.table.columns.clone_from(&table.columns);
        let name = figure.title.rsplit(": ").next().unwrap_or_default().to_owned();
        figure.table.rows = table.rows.iter().filter(|row| row[2] == name).cloned().collect();
    }
    if !edges.is_empty() {
        notes.push(format!("the best learning rate is at an end of those tried: {}", edges.join("; ")));
    }
    Ok(figures)
}

/// What a panel has before its axes are known.
type Content = (String, Vec<Series>, Vec<Reference>);

fn of_method(
    material: &Material<'_>,
    method: &str,
    table: &mut Table,
    edges: &mut Vec<String>,
) -> Vec<Content> {
    let of = |row: &&Row| row.method == method && row.rate > 0.0;
    let all: BTreeSet<u64> =
        material.rows.iter().copied().filter(of).map(|row| material.size(row) as u64).collect();
    let all: Vec<u64> = all.into_iter().collect();
    let mut panels = Vec::new();
    for (group, rows) in material.panels() {
        let mut sizes: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
        for row in rows.iter().copied().filter(of) {
            sizes.entry(material.size(row) as u64).or_default().push(row);
        }
        let mut lines = Vec::new();
        for (size, rows) in sizes {
            let place = all.iter().position(|other| *other == size).unwrap_or(0);
            let style = Style::ordered(place, all.len());
            let (line, edge) = of_size(material, count(size as f64), style, &rows, table);
            lines.push(line);
            edges.extend(edge.map(|edge| {
                format!("{} {} {}: {edge}", group.learner, method_name(method), count(size as f64))
            }));
        }
        if !lines.is_empty() {
            let references = before(&rows, material.measure).into_iter().collect();
            panels.push((material.panel_title(&group, false), lines, references));
        }
    }
    panels
}

fn figure(material: &Material<'_>, method: &str, panels: Vec<Content>, rates: &[f64]) -> Figure {
    let values: Vec<f64> = panels.iter().flat_map(|(_, series, lines)| heights(series, lines)).collect();
    let y = scale::percent(material.measure.label(), &values, 5);
    let x = scale::rates("learning rate", rates, 7);
    let panels: Vec<Panel> = panels
        .into_iter()
        .map(|(title, series, references)| Panel { title, x: x.clone(), y: y.clone(), series, references })
        .collect();
    Figure {
        kind: FigureKind::Rates,
        title: format!("Accuracy by learning rate: {}", method_name(method)),
        caption: format!(
            "{} Points: mean over seeds; small dots: single seeds; hollow: one seed alone; ring: the best rate of each size \
             among those with as many seeds as any. A best rate at an end of the grid may not be the best there is.",
            material.about()
        ),
        columns: panels.len().min(2),
        panels,
        shared_y: true,
        legend: format!("{}:", material.size_label()),
        table: Table::default(),
    }
}

/// The line of a size, and where its best rate is if that is at an end.
fn of_size(
    material: &Material<'_>,
    name: String,
    style: Style,
    rows: &[&Row],
    table: &mut Table,
) -> (Series, Option<String>) {
    let mut rates: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
    for &row in rows {
        rates.entry(row.rate.to_bits()).or_default().push(row);
    }
    let means: Vec<(f64, usize, Mean, &Row)> = rates
        .into_values()
        .filter_map(|rows| {
            let seeds = rows.iter().map(|row| row.seed).collect::<BTreeSet<_>>().len();
            Some((rows[0].rate, seeds, mean(&rows, material.measure)?, rows[0]))
        })
        .collect();
    let most = means.iter().map(|(_, seeds, ..)| *seeds).max().unwrap_or(0);
    let full = means.iter().enumerate().filter(|(_, (_, seeds, ..))| *seeds == most);
    let best = full.reduce(|a, b| if b.1.2.value > a.1.2.value { b } else { a }).map(|(i, _)| i);
    let mut line =
        Series { name, style, joined: true, points: Vec::new(), dots: Vec::new(), threads: Vec::new() };
    for (i, (rate, seeds, mean, row)) in means.iter().enumerate() {
        let mut at = point(*rate, mean, material.interval);
        (at.interval, at.chosen) = (None, best == Some(i) && means.len() > 1);
        line.points.push(at);
        line.dots.extend(dots(*rate, mean));
        table.rows.push(vec![
            crate::row::learner_name(row.learner),
            model_name(&row.model).to_owned(),
            method_name(&row.method),
            row.size.to_string(),
            scientific(*rate),
            seeds.to_string(),
            digits(mean.value),
            range(mean.over_seeds),
            range(mean.over_problems),
            if best == Some(i) { "best".into() } else { String::new() },
        ]);
    }
    let edge = match best {
        Some(i) if means.len() > 1 && i == 0 => Some(format!("{} is the smallest", scientific(means[i].0))),
        Some(i) if means.len() > 1 && i + 1 == means.len() => {
            Some(format!("{} is the largest", scientific(means[i].0)))
        }
        _ => None,
    };
    (line, edge)
}
