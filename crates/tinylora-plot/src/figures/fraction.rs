//! The smallest update that gives most of what the best one gives, by model and learner: the paper's Figure 3.

use super::size::by_method_and_size;
use super::{Group, Material, Missing, digits};
use crate::chart::{Figure, Panel, Point, Series, Style, Table};
use crate::choose::baseline;
use crate::options::FigureKind;
use crate::row::{Row, method_name, model_name};
use crate::scale::{self, Axis};
use std::collections::BTreeSet;

/// Parts of the gain.
const PARTS: [f64; 3] = [0.90, 0.95, 0.99];

/// The smallest sizes of one model and learner.
struct Found {
    group: Group,
    sizes: [f64; 3],
}

/// The figure.
pub(super) fn make(material: &Material<'_>, notes: &mut Vec<String>) -> Result<Vec<Figure>, Missing> {
    let mut table = Table::new(&[
        "learner",
        "model",
        "before (%)",
        "best (%)",
        "part of the gain",
        "needs (%)",
        "method",
        material.size_label(),
        "reaches (%)",
    ]);
    let mut found = Vec::new();
    for (group, rows) in material.panels() {
        match smallest(material, &group, &rows, &mut table) {
            Ok(sizes) => found.push(Found { group, sizes }),
            Err(why) => {
                notes.push(format!("fraction: {} of {}: {why}", group.learner, model_name(&group.model)))
            }
        }
    }
    if found.is_empty() {
        return Err(
            "it needs accuracies before training and of at least two sizes, the best of which is a gain"
                .into(),
        );
    }
    let models: BTreeSet<&str> = found.iter().map(|f| f.group.model.as_str()).collect();
    let all: Vec<f64> = material.rows.iter().map(|row| material.size(row)).collect();
    let y = scale::log(material.size_label(), &all, 7);
    let panels = if models.len() > 1 { by_model(&found, &y) } else { vec![by_learner(&found, &y)] };
    let columns = panels.len().min(2);
    Ok(vec![Figure {
        kind: FigureKind::Fraction,
        title: "Smallest update that reaches most of the gain".into(),
        caption: format!(
            "{} The gain is that of the best size over the accuracy before training, in means over seeds. With few sizes the true \
             threshold lies anywhere between a size and the next smaller one that was trained.",
            material.about()
        ),
        panels,
        columns,
        shared_y: true,
        legend: "part of the gain:".into(),
        table,
    }])
}

fn smallest(
    material: &Material<'_>,
    group: &Group,
    rows: &[&Row],
    table: &mut Table,
) -> Result<[f64; 3], String> {
    let before = baseline(rows, material.measure).ok_or("no accuracy before training")?;
    let methods = by_method_and_size(material, rows);
    let mut sizes: Vec<(f64, f64, &str)> = methods
        .iter()
        .flat_map(|(method, sizes)| {
            sizes.iter().map(move |(size, best)| (*size, best.mean.value, method.as_str()))
        })
        .collect();
    sizes.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    if sizes.iter().map(|(size, ..)| size.to_bits()).collect::<BTreeSet<_>>().len() < 2 {
        return Err("one size alone".into());
    }
    let best = sizes.iter().map(|(_, accuracy, _)| *accuracy).fold(f64::MIN, f64::max);
    if best <= before {
        return Err(format!("no size gains anything over the {} % before training", digits(before)));
    }
    Ok(PARTS.map(|part| {
        let needed = before + part * (best - before);
        let reached = sizes.iter().find(|(_, accuracy, _)| *accuracy >= needed - 1e-12);
        let (size, accuracy, method) = reached.expect("the best one reaches it");
        table.rows.push(vec![
            group.learner.clone(),
            model_name(&group.model).to_owned(),
            digits(before),
            digits(best),
            format!("{:.0} %", 100.0 * part),
            digits(needed),
            method_name(method),
            size.to_string(),
            digits(*accuracy),
        ]);
        *size
    }))
}

fn part_name(part: f64) -> String {
    format!("{:.0} %", 100.0 * part)
}

fn parts(of: impl Fn(usize) -> Vec<Point>, joined: bool) -> Vec<Series> {
    let series = |(i, part): (usize, &f64)| Series {
        name: part_name(*part),
        style: Style::kind(i),
        joined,
        points: of(i),
        dots: Vec::new(),
        threads: Vec::new(),
    };
    PARTS.iter().enumerate().map(series).collect()
}

/// One model: learners side by side.
fn by_learner(found: &[Found], y: &Axis) -> Panel {
    let names: Vec<String> = found.iter().map(|found| found.group.learner.clone()).collect();
    let points = |part: usize| {
        found.iter().enumerate().map(|(i, found)| Point::at(i as f64, found.sizes[part])).collect()
    };
    Panel {
        title: String::new(),
        x: scale::names("learner", &names),
        y: y.clone(),
        series: parts(points, false),
        references: Vec::new(),
    }
}

/// Several models: their sizes from left to right, a panel a learner.
fn by_model(found: &[Found], y: &Axis) -> Vec<Panel> {
    let learners: BTreeSet<&str> = found.iter().map(|found| found.group.learner.as_str()).collect();
    let parameters: Vec<f64> = found.iter().map(|found| found.group.parameters as f64).collect();
    // Models of the same size would stand on one another: then their names are the axis.
    let same = scale::distinct(&parameters).len()
        < found.iter().map(|f| &f.group.model).collect::<BTreeSet<_>>().len();
    let mut names: Vec<String> = Vec::new();
    for found in found {
        let name = model_name(&found.group.model).to_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let x = if same {
        scale::names("model", &names)
    } else {
        scale::log("parameters of the model", &parameters, 7)
    };
    let at = |found: &Found| match same {
        true => names.iter().position(|name| name == model_name(&found.group.model)).unwrap_or(0) as f64,
        false => found.group.parameters as f64,
    };
    let panel = |learner: &str| {
        let of = || found.iter().filter(move |found| found.group.learner == learner);
        let points = |part: usize| of().map(|f| Point::at(at(f), f.sizes[part])).collect();
        Panel {
            title: learner.to_owned(),
            x: x.clone(),
            y: y.clone(),
            series: parts(points, !same),
            references: Vec::new(),
        }
    };
    learners.into_iter().map(panel).collect()
}
