//! Accuracy by bytes, a line for each precision of the stored numbers and way of tying: the paper's Figure 4.

use super::{Material, Missing, before, digits, heights, range, series};
use crate::chart::{Dash, Figure, Ink, Marker, Panel, Style, Table};
use crate::choose::best;
use crate::options::FigureKind;
use crate::row::{Row, model_name, precision_name, tying_name};
use crate::scale::{self, scientific};
use std::collections::{BTreeMap, BTreeSet};

const PRECISIONS: [&str; 3] = ["fp32", "bf16", "fp16"];
const TYINGS: [&str; 3] = ["tiled", "structured", "untied"];

/// The figure.
pub(super) fn make(material: &Material<'_>) -> Result<Vec<Figure>, Missing> {
    let rows: Vec<&Row> = material.rows.iter().copied().filter(|row| row.method == "tinylora").collect();
    let kinds: BTreeSet<_> = rows.iter().map(|row| kind(row)).collect();
    if kinds.len() < 2 {
        return Err("it needs TinyLoRA runs with more than one storage precision or way of tying".into());
    }
    let mut table = Table::new(&[
        "learner",
        "model",
        "precision",
        "tying",
        "bytes",
        "parameters",
        "best rate",
        "seeds",
        "accuracy (%)",
        "95 % over seeds",
        "95 % over problems",
    ]);
    let mut contents = Vec::new();
    let groups = material.panels();
    for (group, rows) in &groups {
        let mut lines: BTreeMap<(usize, usize), BTreeMap<u64, Vec<&Row>>> = BTreeMap::new();
        for &row in rows.iter().filter(|row| row.method == "tinylora") {
            lines.entry(kind(row)).or_default().entry(row.bytes).or_default().push(row);
        }
        let mut all = Vec::new();
        for ((precision, tying), sizes) in lines {
            let of: Vec<_> = sizes
                .into_iter()
                .filter_map(|(bytes, rows)| Some((bytes as f64, best(&rows, material.measure)?)))
                .collect();
            for (bytes, best) in &of {
                table.rows.push(vec![
                    group.learner.clone(),
                    model_name(&group.model).to_owned(),
                    PRECISIONS[precision].into(),
                    TYINGS[tying].into(),
                    bytes.to_string(),
                    best.rows[0].size.to_string(),
                    scientific(best.rate()),
                    best.rows.len().to_string(),
                    digits(best.mean.value),
                    range(best.mean.over_seeds),
                    range(best.mean.over_problems),
                ]);
            }
            // Colour for the precision, pattern and shape for the tying.
            let style = Style {
                ink: Ink::Kind(precision),
                marker: [Marker::Circle, Marker::Square, Marker::Triangle][tying],
                dash: [Dash::Solid, Dash::Long, Dash::Short][tying],
            };
            let name = format!("{}, {}", PRECISIONS[precision], TYINGS[tying]);
            all.push(series(name, style, &of, material.interval));
        }
        let references: Vec<_> = before(rows, material.measure).into_iter().collect();
        contents.push((all, references));
    }
    let values: Vec<f64> = contents.iter().flat_map(|(series, lines)| heights(series, lines)).collect();
    let y = scale::percent(material.measure.label(), &values, 5);
    let bytes: Vec<f64> = rows.iter().map(|row| row.bytes as f64).collect();
    let x = scale::log("bytes of the update", &bytes, 7);
    let panels = groups.iter().zip(contents).filter(|(_, (series, _))| !series.is_empty());
    let panels: Vec<Panel> = panels
        .map(|((group, _), (series, references))| {
            let title = material.panel_title(group, false);
            Panel { title, x: x.clone(), y: y.clone(), series, references }
        })
        .collect();
    Ok(vec![Figure {
        kind: FigureKind::Precision,
        title: "Accuracy by bytes: precision of the stored numbers and tying".into(),
        caption: format!(
            "{} Means over seeds at the best learning rate of each point; small dots: single seeds; hollow: one seed alone. {}",
            material.about(),
            material.interval_text()
        ),
        columns: panels.len().min(2),
        panels,
        shared_y: true,
        legend: String::new(),
        table,
    }])
}

/// Places in the tables above.
fn kind(row: &Row) -> (usize, usize) {
    let place = |names: &[&str], name: &str| names.iter().position(|known| *known == name).unwrap_or(0);
    (place(&PRECISIONS, precision_name(row.precision)), place(&TYINGS, tying_name(row.tying)))
}
