//! Where names can stand beside what they name. If one series of a figure finds no free place, all go to the legend, and
//! so does a line of reference that finds none.

use super::SMALL;
use super::panel::{Grid, Marks, squares};
use crate::chart::{Figure, Ink, Panel};
use crate::place::{Rect, Taken};
use crate::svg::{Anchor, Face, Svg};
use crate::text::width;

/// More series than this are a legend's business.
const MOST: usize = 4;
/// Height of a label's box.
const HIGH: f64 = 13.0;

/// A text in a panel; `at` is the start of its base line.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    panel: usize,
    at: [f64; 2],
    text: String,
    ink: Ink,
    bold: bool,
}

/// What stands in the panels, and what does not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Direct {
    /// The labels.
    pub labels: Vec<Label>,
    /// The series are labelled: they need no legend.
    pub series: bool,
    /// Names of the lines of reference that found no place.
    pub homeless: Vec<String>,
}

/// Finds places for all labels of a figure.
pub fn all(figure: &Figure, grid: &Grid, marks: &[Vec<Marks>]) -> Direct {
    // Names that mean nothing without the words before them need a legend.
    let mut direct = Direct { series: figure.legend.is_empty(), ..Direct::default() };
    let mut names: Vec<Label> = Vec::new();
    for (index, (panel, marks)) in figure.panels.iter().zip(marks).enumerate() {
        let mut taken = squares(panel, marks, grid.plot);
        let many = panel.series.len() > MOST;
        direct.series &= !many;
        if direct.series {
            match of_series(index, panel, marks, grid.plot, &mut taken) {
                Some(labels) => names.extend(labels),
                None => direct.series = false,
            }
        }
    }
    if !direct.series {
        names.clear();
    }
    for (index, (panel, marks)) in figure.panels.iter().zip(marks).enumerate() {
        let mut taken = squares(panel, marks, grid.plot);
        for label in names.iter().filter(|label| label.panel == index) {
            taken.add(label.place(), None);
        }
        for reference in &panel.references {
            let y = (1.0 - panel.y.place(reference.y)) * grid.plot[1];
            match of_line(index, &reference.label, reference.ink, y, grid.plot, &taken) {
                Some(label) => {
                    taken.add(label.place(), None);
                    direct.labels.push(label);
                }
                None if direct.homeless.contains(&reference.name) => {}
                None => direct.homeless.push(reference.name.clone()),
            }
        }
    }
    direct.labels.extend(names);
    direct
}

/// Draws those of a panel.
pub fn draw(svg: &mut Svg, direct: &Direct, index: usize) {
    for label in direct.labels.iter().filter(|label| label.panel == index) {
        let face = Face { bold: label.bold, anchor: Anchor::Start, ..Face::new(SMALL, label.ink) };
        svg.label(label.at, &label.text, face);
    }
}

impl Label {
    fn place(&self) -> Rect {
        let w = width(&self.text, SMALL, self.bold);
        Rect { x: self.at[0] - 1.0, y: self.at[1] - 0.8 * HIGH, w: w + 2.0, h: HIGH }
    }
}

/// A label for each series of a panel, or none if one finds no place.
fn of_series(
    panel_index: usize,
    panel: &Panel,
    marks: &[Marks],
    plot: [f64; 2],
    taken: &mut Taken,
) -> Option<Vec<Label>> {
    let inside = Rect { x: 0.0, y: 0.0, w: plot[0], h: plot[1] };
    let mut labels = Vec::new();
    for (index, (series, marks)) in panel.series.iter().zip(marks).enumerate() {
        let wide = width(&series.name, SMALL, true);
        let found = candidates(marks, wide).into_iter().find_map(|at| {
            let (text, ink) = (series.name.clone(), series.style.ink);
            let label = Label { panel: panel_index, at, text, ink, bold: true };
            let place = label.place();
            (inside.holds(&place) && taken.is_free(&place) && taken.belongs(&place, index)).then_some(label)
        })?;
        taken.add(found.place(), None);
        labels.push(found);
    }
    Some(labels)
}

/// Places beside the points, the last one first: to the right, above, below, farther above and below.
fn candidates(marks: &Marks, wide: f64) -> Vec<[f64; 2]> {
    let mut all = Vec::new();
    if let Some([x, y]) = marks.points.last() {
        all.push([x + 12.0, y + 4.0]);
    }
    for [x, y] in marks.points.iter().rev() {
        for [aside, lift] in [[-8.0 - wide, -7.0], [8.0, -7.0], [8.0, 16.0], [-8.0 - wide, 16.0]] {
            all.push([x + aside, y + lift]);
        }
    }
    for lift in [10.0, 16.0, 24.0, 34.0, 46.0] {
        for (i, [x, y]) in marks.points.iter().enumerate().rev() {
            let top = marks.intervals[i].map_or(*y, |[low, high]| low.min(high));
            let bottom = marks.intervals[i].map_or(*y, |[low, high]| low.max(high));
            for aside in [0.5, 0.0, 1.0] {
                let left = x - wide * aside;
                all.push([left, top - lift + 4.0]);
                all.push([left, bottom + lift + 4.0]);
            }
            all.push([x - wide - lift, y + 4.0]);
            all.push([x + lift, y - lift]);
            all.push([x + lift, y + lift + 8.0]);
        }
    }
    all
}

/// A label on a horizontal line: at its right end, its left end, or between, above or below.
fn of_line(panel: usize, text: &str, ink: Ink, y: f64, plot: [f64; 2], taken: &Taken) -> Option<Label> {
    let wide = width(text, SMALL, false);
    let inside = Rect { x: 0.0, y: -8.0, w: plot[0] + 1.0, h: plot[1] + 8.0 };
    // From the ends inwards.
    let places =
        (0..=20).map(|i| if i % 2 == 0 { 1.0 - f64::from(i) / 40.0 } else { f64::from(i - 1) / 40.0 });
    let places: Vec<f64> = places.collect();
    let candidates = [-4.5, 12.5]
        .into_iter()
        .flat_map(|below| places.iter().map(move |at| [2.0 + at * (plot[0] - wide - 4.0), y + below]));
    candidates.into_iter().find_map(|at| {
        let label = Label { panel, at, text: text.into(), ink, bold: false };
        (inside.holds(&label.place()) && taken.is_free(&label.place())).then_some(label)
    })
}
