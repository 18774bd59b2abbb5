//! Accuracy against the size of the update, a panel a learner (and model), a line a method: the paper's Figures 1 and 2.

use super::{Material, Missing, before, digits, heights, method_place, range, series};
use crate::chart::{Dash, Figure, Ink, Panel, Reference, Series, Style, Table};
use crate::choose::{Best, best};
use crate::options::FigureKind;
use crate::row::{Row, method_name, model_name};
use crate::scale::{self, scientific};
use std::collections::BTreeMap;

/// The figure.
pub(super) fn make(material: &Material<'_>, notes: &mut Vec<String>) -> Result<Vec<Figure>, Missing> {
    if material.rows.is_empty() {
        return Err("no finished run has an accuracy after training".into());
    }
    let mut table = Table::new(&[
        "learner",
        "model",
        "method",
        "parameters",
        "bytes",
        "best rate",
        "rates tried",
        "seeds",
        "accuracy (%)",
        "95 % over seeds",
        "95 % over problems",
        "before (%)",
    ]);
    let groups = material.panels();
    let mut contents: Vec<(Vec<Series>, Vec<Reference>)> = Vec::new();
    let (mut aside, mut several) = (0, 0);
    for (group, rows) in &groups {
        let methods = by_method_and_size(material, rows);
        let base = before(rows, material.measure);
        for (method, sizes) in &methods {
            for (_, best) in sizes {
                aside += best.aside;
                several += usize::from(best.experiments > 1);
                let row = best.rows[0];
                table.rows.push(vec![
                    group.learner.clone(),
                    model_name(&group.model).to_owned(),
                    method_name(method),
                    row.size.to_string(),
                    row.bytes.to_string(),
                    scientific(best.rate()),
                    best.rates.to_string(),
                    best.rows.len().to_string(),
                    digits(best.mean.value),
                    range(best.mean.over_seeds),
                    range(best.mean.over_problems),
                    base.as_ref().map_or("–".into(), |base| format!("{:.1}", base.y)),
                ]);
            }
        }
        let references = base.into_iter().chain(highest(material, &methods)).collect();
        let lines = methods.iter().map(|(method, sizes)| {
            series(method_name(method), Style::method(method), sizes, material.interval)
        });
        contents.push((lines.collect(), references));
    }
    tell(aside, several, notes);
    let sizes: Vec<f64> = material.rows.iter().map(|row| material.size(row)).collect();
    let heights: Vec<f64> = contents.iter().flat_map(|(series, lines)| heights(series, lines)).collect();
    let y = scale::percent(material.measure.label(), &heights, 5);
    let x = scale::log(material.size_label(), &sizes, 7);
    let panels = groups.iter().zip(contents).map(|((group, _), (series, references))| Panel {
        title: material.panel_title(group, true),
        x: x.clone(),
        y: y.clone(),
        series,
        references,
    });
    Ok(vec![Figure {
        kind: FigureKind::Size,
        title: "Accuracy by size of the update".into(),
        caption: format!(
            "{} Points: mean over seeds at the learning rate with the highest mean; small dots: single seeds; hollow: one seed alone. {} The rate is \
             chosen by the accuracies that are shown, which makes them a little too good.",
            material.about(),
            material.interval_text()
        ),
        panels: panels.collect(),
        columns: if groups.len() == 1 { 1 } else { 2 },
        shared_y: true,
        legend: String::new(),
        table,
    }])
}

/// The best of each size, by method; the paper's method first.
pub(super) fn by_method_and_size<'a>(
    material: &Material<'_>,
    rows: &[&'a Row],
) -> Vec<(String, Vec<(f64, Best<'a>)>)> {
    let mut methods: BTreeMap<(usize, String), BTreeMap<u64, Vec<&'a Row>>> = BTreeMap::new();
    for &row in rows {
        let place = method_place(&row.method);
        let sizes = methods.entry((place, row.method.clone())).or_default();
        sizes.entry(material.size(row) as u64).or_default().push(row);
    }
    let best_of = |sizes: BTreeMap<u64, Vec<&'a Row>>| {
        sizes
            .into_iter()
            .filter_map(|(size, rows)| Some((size as f64, best(&rows, material.measure)?)))
            .collect()
    };
    methods.into_iter().map(|((_, method), sizes)| (method, best_of(sizes))).collect()
}

/// The dashed line that the others are held against: full finetuning, or else the best of all.
fn highest(material: &Material<'_>, methods: &[(String, Vec<(f64, Best<'_>)>)]) -> Option<Reference> {
    let full = methods.iter().find(|(method, _)| method == "full").map(|(_, sizes)| &sizes[..]);
    let all = || methods.iter().flat_map(|(_, sizes)| sizes);
    let name = if full.is_some() { "full finetuning" } else { "best" };
    let candidates: Vec<&(f64, Best<'_>)> =
        full.map_or_else(|| all().collect(), |full| full.iter().collect());
    let best = candidates.into_iter().reduce(|a, b| if b.1.mean.value > a.1.mean.value { b } else { a })?;
    if full.is_none() && all().count() < 2 {
        return None;
    }
    let y = 100.0 * best.1.mean.value;
    let label = match name {
        "best" => format!(
            "best {y:.1} ({} at {})",
            method_name(&best.1.rows[0].method),
            scale::count(material.size(best.1.rows[0]))
        ),
        name => format!("{name} {y:.1}"),
    };
    let line = if name == "best" { "best size" } else { "level of full finetuning" };
    Some(Reference { y, name: line.into(), label, ink: Ink::Text, dash: Dash::Short })
}

fn tell(aside: usize, several: usize, notes: &mut Vec<String>) {
    if aside > 0 {
        notes.push(format!(
            "settings (of size and learning rate) with fewer seeds than others of their size, which were not considered as the \
             best: {aside}"
        ));
    }
    if several > 0 {
        notes.push(format!(
            "sizes that were trained with more than one setting besides the learning rate, of which the best is shown: {several}"
        ));
    }
}
