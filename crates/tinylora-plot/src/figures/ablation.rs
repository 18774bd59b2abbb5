//! Accuracy by rank, u and n_tie, whichever were varied, with lines by another one: the paper's Figures 6 to 9.

use super::{Material, Missing, before, digits, heights, n_tie_name, range, series};
use crate::chart::{Figure, Panel, Reference, Series, Style, Table};
use crate::choose::best;
use crate::options::FigureKind;
use crate::row::{Row, method_name, model_name};
use crate::scale::{self, scientific};
use std::collections::{BTreeMap, BTreeSet};

/// A setting of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Rank,
    U,
    NTie,
}

/// Which goes along the axis, and which tells lines apart: as in the paper's Figures 7, 8 and 9.
const PAIRS: [(Key, Key); 3] = [(Key::Rank, Key::U), (Key::U, Key::NTie), (Key::NTie, Key::Rank)];

impl Key {
    fn of(self, row: &Row) -> usize {
        match self {
            Self::Rank => row.rank,
            Self::U => row.u,
            // All modules are more than any number of them.
            Self::NTie if row.n_tie == 0 => usize::MAX,
            Self::NTie => row.n_tie,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rank => "rank r",
            Self::U => "u",
            Self::NTie => "n_tie",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Rank => "rank r",
            Self::U => "u (numbers a group)",
            Self::NTie => "n_tie (modules a group)",
        }
    }

    fn text(self, value: usize) -> String {
        match (self, value) {
            (Self::NTie, usize::MAX) => n_tie_name(0),
            (_, value) => value.to_string(),
        }
    }

    fn values(self, rows: &[&Row]) -> Vec<usize> {
        rows.iter().map(|row| self.of(row)).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// A panel before its height is known.
struct Content {
    title: String,
    x: scale::Axis,
    series: Vec<Series>,
    references: Vec<Reference>,
    /// What the lines differ in.
    lines: Option<Key>,
}

/// The figures: one for each key that lines differ in, so that each has one legend.
pub(super) fn make(material: &Material<'_>) -> Result<Vec<Figure>, Missing> {
    let mut table = Table::new(&[
        "learner",
        "model",
        "method",
        "rank",
        "u",
        "n_tie",
        "parameters",
        "best rate",
        "seeds",
        "accuracy (%)",
        "95 % over seeds",
        "95 % over problems",
    ]);
    let mut contents = Vec::new();
    let methods: BTreeSet<&str> = material.rows.iter().map(|row| row.method.as_str()).collect();
    for (group, rows) in material.panels() {
        for method in &methods {
            let of: Vec<&Row> = rows.iter().copied().filter(|row| row.method == *method).collect();
            let title = match (material.panel_title(&group, false), methods.len() > 1) {
                (title, false) => title,
                (title, true) if title.is_empty() => method_name(method),
                (title, true) => format!("{title} · {}", method_name(method)),
            };
            let first = contents.len();
            for (x, lines) in choices(method, &of) {
                contents.push(content(material, &title, &of, x, lines));
            }
            if contents.len() > first {
                fill(material, &group.learner, &of, &mut table);
            }
        }
    }
    if contents.is_empty() {
        return Err("no method was trained with more than one rank, u or n_tie".into());
    }
    let values: Vec<f64> = contents.iter().flat_map(|c| heights(&c.series, &c.references)).collect();
    let y = scale::percent(material.measure.label(), &values, 5);
    let mut figures: Vec<(Option<Key>, Vec<Panel>)> = Vec::new();
    for Content { title, x, series, references, lines } in contents {
        let panel = Panel { title, x, y: y.clone(), series, references };
        match figures.iter_mut().find(|(key, _)| *key == lines) {
            Some((_, panels)) => panels.push(panel),
            None => figures.push((lines, vec![panel])),
        }
    }
    let figure = |(lines, panels): (Option<Key>, Vec<Panel>)| Figure {
        kind: FigureKind::Ablation,
        title: match lines {
            Some(key) => format!("Accuracy by settings of the adapter, lines by {}", key.name()),
            None => "Accuracy by settings of the adapter".into(),
        },
        caption: format!(
            "{} Means over seeds at the best learning rate of each point (and the best of settings that the panel does not \
             name); small dots: single seeds; hollow: one seed alone. {}",
            material.about(),
            material.interval_text()
        ),
        columns: panels.len().min(2),
        panels,
        shared_y: true,
        legend: lines.map_or(String::new(), |key| format!("{}:", key.name())),
        table: table.clone(),
    };
    Ok(figures.into_iter().map(figure).collect())
}

/// Pairs of settings that form a grid; else each setting that varies alone.
fn choices(method: &str, rows: &[&Row]) -> Vec<(Key, Option<Key>)> {
    let varies = |key: Key| key.values(rows).len() > 1;
    if method != "tinylora" {
        // What else there is follows from the rank.
        return if varies(Key::Rank) { vec![(Key::Rank, None)] } else { Vec::new() };
    }
    let grid = |x: Key, lines: Key| {
        varies(x)
            && varies(lines)
            && lines.values(rows).iter().any(|value| {
                let line: Vec<&Row> = rows.iter().copied().filter(|row| lines.of(row) == *value).collect();
                x.values(&line).len() > 1
            })
    };
    let pairs: Vec<_> =
        PAIRS.into_iter().filter(|(x, lines)| grid(*x, *lines)).map(|(x, lines)| (x, Some(lines))).collect();
    if !pairs.is_empty() {
        return pairs;
    }
    [Key::Rank, Key::U, Key::NTie].into_iter().filter(|key| varies(*key)).map(|key| (key, None)).collect()
}

fn content(material: &Material<'_>, title: &str, rows: &[&Row], x: Key, lines: Option<Key>) -> Content {
    let values = x.values(rows);
    let names: Vec<String> = values.iter().map(|value| x.text(*value)).collect();
    let mut groups: BTreeMap<usize, BTreeMap<usize, Vec<&Row>>> = BTreeMap::new();
    for &row in rows {
        let line = lines.map_or(0, |key| key.of(row));
        groups.entry(line).or_default().entry(x.of(row)).or_default().push(row);
    }
    let count = groups.len();
    let series = groups.into_iter().enumerate().map(|(index, (line, points))| {
        let of: Vec<_> = points
            .into_iter()
            .filter_map(|(value, rows)| {
                let place = values.iter().position(|other| *other == value)?;
                Some((place as f64, best(&rows, material.measure)?))
            })
            .collect();
        let (name, style) = match lines {
            Some(key) => (key.text(line), Style::ordered(index, count)),
            None => (method_name(&rows[0].method), Style::method(&rows[0].method)),
        };
        series(name, style, &of, material.interval)
    });
    Content {
        title: title.to_owned(),
        x: scale::names(x.label(), &names),
        series: series.collect(),
        references: before(rows, material.measure).into_iter().collect(),
        lines,
    }
}

fn fill(material: &Material<'_>, learner: &str, rows: &[&Row], table: &mut Table) {
    let mut settings: BTreeMap<[usize; 3], Vec<&Row>> = BTreeMap::new();
    for &row in rows {
        settings.entry([Key::Rank, Key::U, Key::NTie].map(|key| key.of(row))).or_default().push(row);
    }
    for ([rank, u, n_tie], rows) in settings {
        let Some(best) = best(&rows, material.measure) else { continue };
        table.rows.push(vec![
            learner.to_owned(),
            model_name(&rows[0].model).to_owned(),
            method_name(&rows[0].method),
            rank.to_string(),
            u.to_string(),
            Key::NTie.text(n_tie),
            best.rows[0].size.to_string(),
            scientific(best.rate()),
            best.rows.len().to_string(),
            digits(best.mean.value),
            range(best.mean.over_seeds),
            range(best.mean.over_problems),
        ]);
    }
}
