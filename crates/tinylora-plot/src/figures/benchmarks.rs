//! Accuracy on benchmarks, a point for each model and adapter.

use super::{Material, Missing, digits, percent, range, same_model};
use crate::chart::{Figure, Panel, Point, Series, Style, Table};
use crate::gather::Evaluated;
use crate::options::FigureKind;
use crate::row::model_name;
use crate::scale;
use std::collections::BTreeSet;

/// The figure.
pub(super) fn make(material: &Material<'_>) -> Result<Vec<Figure>, Missing> {
    let asked = |e: &&Evaluated| material.model.is_none_or(|asked| same_model(asked, &e.model));
    let all: Vec<&Evaluated> = material.results.evaluated.iter().filter(asked).collect();
    if all.is_empty() {
        return Err("no folder has a finished evaluation".into());
    }
    let mut titles: Vec<String> = Vec::new();
    for evaluated in &all {
        if !titles.contains(&evaluated.title) {
            titles.push(evaluated.title.clone());
        }
    }
    let mut series: Vec<Series> = Vec::new();
    let mut table = Table::new(&[
        "model",
        "adapter",
        "benchmark",
        "settings",
        "problems",
        "accuracy (%)",
        "95 % over problems",
    ]);
    for evaluated in &all {
        let name = name(evaluated, &all);
        let at = titles.iter().position(|title| *title == evaluated.title).unwrap_or(0);
        let y = percent(evaluated.accuracy);
        let point = Point { interval: Some(evaluated.ci95.map(percent)), ..Point::at(at as f64, y) };
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => series.push(Series {
                style: Style::kind(series.len()),
                name,
                joined: false,
                points: vec![point],
                dots: Vec::new(),
                threads: Vec::new(),
            }),
        }
        table.rows.push(vec![
            model_name(&evaluated.model).to_owned(),
            evaluated.adapter.clone().unwrap_or_else(|| "none".into()),
            evaluated.title.clone(),
            evaluated.settings.clone(),
            evaluated.problems.to_string(),
            digits(evaluated.accuracy),
            range(Some(evaluated.ci95)),
        ]);
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    let settings: BTreeSet<&str> = all.iter().map(|evaluated| evaluated.settings.as_str()).collect();
    let y = scale::percent("accuracy (%)", &super::heights(&series, &[]), 5);
    let x = scale::names("", &titles);
    Ok(vec![Figure {
        kind: FigureKind::Benchmarks,
        title: "Accuracy on benchmarks".into(),
        caption: format!(
            "Bars: 95\u{a0}% interval over problems. Settings: {}. Whether one of two is better is what `tinylora eval compare` tells, \
             which pairs their problems.",
            settings.into_iter().collect::<Vec<_>>().join("; ")
        ),
        panels: vec![Panel { title: String::new(), x, y, series, references: Vec::new() }],
        columns: 1,
        shared_y: true,
        legend: String::new(),
        table,
    }])
}

/// Model and adapter; with the settings where these were evaluated more than once on a benchmark.
fn name(evaluated: &Evaluated, all: &[&Evaluated]) -> String {
    let same = |other: &&&Evaluated| {
        (&other.model, &other.adapter, &other.title)
            == (&evaluated.model, &evaluated.adapter, &evaluated.title)
    };
    let model = model_name(&evaluated.model);
    let mut name = match &evaluated.adapter {
        None => model.to_owned(),
        Some(adapter) => format!("{model} + {}", adapter_name(adapter)),
    };
    if all.iter().filter(same).count() > 1 {
        name.push_str(&format!(" ({})", evaluated.settings.split(',').next().unwrap_or_default()));
    }
    name
}

/// `my-run` of `runs/my-run/adapter.tinylora`
fn adapter_name(adapter: &str) -> String {
    let parts: Vec<&str> = adapter.split('/').filter(|part| !part.is_empty()).collect();
    match parts[..] {
        [.., folder, "adapter.tinylora"] => folder.to_owned(),
        [.., file] => file.trim_end_matches(".tinylora").to_owned(),
        [] => adapter.to_owned(),
    }
}
