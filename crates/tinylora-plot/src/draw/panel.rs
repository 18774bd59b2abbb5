//! A figure's panels enter; the grid that they stand in, where their points are, and their drawings leave. A panel's origin
//! is the top left corner of its plot.

use super::{LINE, SMALL, TEXT, TITLE};
use crate::chart::{Figure, Ink, Marker, Panel, Point};
use crate::place::Rect;
use crate::scale::{Axis, Scale, Tick};
use crate::svg::{Anchor, Face, Pen, Svg};
use crate::text::{fit, width};

/// Between an axis and the text at its ticks.
const TICK: f64 = 5.0;
/// From one series to its neighbour where they have points at the same place.
const DODGE: f64 = 7.0;

/// Where the panels of a figure stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    columns: usize,
    rows: usize,
    /// Size of a plot.
    pub plot: [f64; 2],
    /// Left of the plot of each column, its axis's texts.
    left: Vec<f64>,
    /// Right of each plot.
    right: f64,
    /// Above each plot, its title.
    above: f64,
    /// Below each plot.
    below: f64,
}

impl Grid {
    /// The grid of a figure.
    pub fn of(figure: &Figure) -> Self {
        let columns = figure.columns.clamp(1, figure.panels.len().max(1));
        // Small panels stay small where there are few of them.
        let plot = match figure.columns {
            1 => match figure.panels.first() {
                Some(Panel { x: Axis { scale: Scale::Names, ticks, .. }, .. }) => {
                    [(90.0 * ticks.len() as f64).clamp(320.0, 760.0), 250.0]
                }
                _ => [440.0, 270.0],
            },
            2 => [312.0, 240.0],
            _ => [200.0, 140.0],
        };
        let ticks = |panel: &Panel| {
            let widths = panel.y.ticks.iter().map(|tick| width(&tick.label, SMALL, false));
            widths.fold(0.0, f64::max) + TICK + 20.0
        };
        let left = (0..columns)
            .map(|column| {
                if figure.shared_y && column > 0 {
                    return 0.0;
                }
                let panels = figure.panels.iter().enumerate().filter(|(i, _)| i % columns == column);
                panels.map(|(_, panel)| ticks(panel)).fold(0.0, f64::max)
            })
            .collect();
        let titled = figure.panels.iter().any(|panel| !panel.title.is_empty());
        Self {
            columns,
            rows: figure.panels.len().div_ceil(columns),
            plot,
            left,
            right: 16.0,
            above: if titled { TITLE + 8.0 } else { 6.0 },
            below: TICK + SMALL + LINE + 8.0,
        }
    }

    /// Width of all.
    pub fn width(&self) -> f64 {
        self.left.iter().sum::<f64>() + self.columns as f64 * (self.plot[0] + self.right)
    }

    /// Height of all.
    pub fn height(&self) -> f64 {
        self.rows as f64 * (self.above + self.plot[1] + self.below)
    }

    /// The plot of a panel.
    pub fn frame(&self, index: usize) -> Rect {
        let (row, column) = (index / self.columns, index % self.columns);
        let x = self.left[..=column].iter().sum::<f64>() + column as f64 * (self.plot[0] + self.right);
        let y = row as f64 * (self.above + self.plot[1] + self.below) + self.above;
        Rect { x, y, w: self.plot[0], h: self.plot[1] }
    }

    fn is_first(&self, index: usize) -> bool {
        index.is_multiple_of(self.columns)
    }
}

/// Where the points of a series are.
#[derive(Debug, Clone, PartialEq)]
pub struct Marks {
    /// The points.
    pub points: Vec<[f64; 2]>,
    /// The ends of their intervals, lower and upper.
    pub intervals: Vec<Option<[f64; 2]>>,
    /// Single seeds.
    pub dots: Vec<[f64; 2]>,
    /// Thin lines.
    pub threads: Vec<Vec<[f64; 2]>>,
}

/// The places of all points: for each panel, for each series.
pub fn marks(figure: &Figure, grid: &Grid) -> Vec<Vec<Marks>> {
    figure.panels.iter().map(|panel| of_panel(panel, grid.plot)).collect()
}

fn of_panel(panel: &Panel, plot: [f64; 2]) -> Vec<Marks> {
    let places = |x: f64, y: f64| [panel.x.place(x) * plot[0], (1.0 - panel.y.place(y)) * plot[1]];
    // Series that have points at the same x stand beside each other.
    let meet = panel.series.iter().enumerate().any(|(i, a)| {
        panel.series[..i].iter().any(|b| {
            let close = |p: f64, q: f64| ((panel.x.place(p) - panel.x.place(q)) * plot[0]).abs() < DODGE;
            let level = |p: f64, q: f64| ((panel.y.place(p) - panel.y.place(q)) * plot[1]).abs() < DODGE;
            let marked = |p: &Point| p.interval.is_some() || a.style.marker != Marker::None && p.single;
            let hides = |p: &Point, q: &Point| close(p.x, q.x) && (marked(p) || level(p.y, q.y));
            a.style.marker != Marker::None && a.points.iter().any(|p| b.points.iter().any(|q| hides(p, q)))
        })
    });
    let count = panel.series.len();
    let between = (count.max(2) - 1) as f64;
    let apart = match panel.x.scale {
        // Names have room around them.
        Scale::Names => {
            let slot = plot[0] * (panel.x.place(1.0) - panel.x.place(0.0));
            let most = if panel.series.iter().any(|series| series.joined) { 8.0 } else { 16.0 };
            (0.7 * slot / between).min(most)
        }
        // On a scale of numbers a point must stay where it belongs.
        _ => (15.0 / between).min(DODGE),
    };
    let shift = |i: usize| if meet { (i as f64 - between / 2.0) * apart } else { 0.0 };
    let series = panel.series.iter().enumerate().map(|(i, series)| {
        let aside = |[x, y]: [f64; 2]| [x + shift(i), y];
        let inside = |y: f64| y.clamp(panel.y.low, panel.y.high);
        let interval =
            |end: Option<[f64; 2]>| end.map(|[a, b]| [places(0.0, inside(a))[1], places(0.0, inside(b))[1]]);
        Marks {
            points: series.points.iter().map(|p| aside(places(p.x, p.y))).collect(),
            intervals: series.points.iter().map(|p| interval(p.interval)).collect(),
            dots: series.dots.iter().map(|[x, y]| aside(places(*x, *y))).map(|[x, y]| [x + 6.5, y]).collect(),
            threads: series
                .threads
                .iter()
                .map(|line| line.iter().map(|[x, y]| places(*x, *y)).collect())
                .collect(),
        }
    });
    series.collect()
}

/// Draws a panel, all but its labels.
pub fn draw(svg: &mut Svg, figure: &Figure, grid: &Grid, index: usize, marks: &[Marks]) {
    let panel = &figure.panels[index];
    let [w, h] = grid.plot;
    if !panel.title.is_empty() {
        let title = fit(&panel.title, TITLE, true, w + 10.0);
        svg.text([0.0, -9.0], &title, Face::new(TITLE, Ink::Text).bold());
    }
    draw_y(svg, &panel.y, grid.plot, !figure.shared_y || grid.is_first(index));
    draw_x(svg, &panel.x, grid.plot);
    for reference in &panel.references {
        let y = (1.0 - panel.y.place(reference.y)) * h;
        let pen = Pen { dash: reference.dash, ..Pen::new(reference.ink, 1.3) };
        svg.line([0.0, y], [w, y], pen);
    }
    for (series, marks) in panel.series.iter().zip(marks) {
        let ink = series.style.ink;
        svg.open(&[("class", "series"), ("data-series", &series.name)]);
        svg.title(&series.name);
        let several = marks.threads.len() > 1;
        for thread in marks.threads.iter().filter(|thread| several && thread.len() > 1) {
            svg.polyline(thread, Pen { opacity: 0.35, ..Pen::new(ink, 1.0) });
        }
        for &dot in &marks.dots {
            svg.dot(dot, 1.9, ink, 0.45);
        }
        for (&[x, _], interval) in marks.points.iter().zip(&marks.intervals) {
            if let Some([low, high]) = *interval {
                let pen = Pen { opacity: 0.75, ..Pen::new(ink, 1.2) };
                svg.line([x, low], [x, high], pen);
                svg.line([x - 2.5, low], [x + 2.5, low], pen);
                svg.line([x - 2.5, high], [x + 2.5, high], pen);
            }
        }
        if series.joined && marks.points.len() > 1 {
            svg.polyline(&marks.points, Pen { dash: series.style.dash, ..Pen::new(ink, 1.8) });
        }
        // A line of one point would not be seen.
        let marker = match series.style.marker {
            Marker::None if marks.points.len() == 1 => Marker::Circle,
            marker => marker,
        };
        for (&at, point) in marks.points.iter().zip(&series.points) {
            svg.marker(at, marker, ink, point.single);
            if point.chosen {
                svg.ring(at, 7.0, Pen::new(ink, 1.2));
            }
        }
        svg.close();
    }
}

fn draw_y(svg: &mut Svg, axis: &Axis, [w, h]: [f64; 2], labelled: bool) {
    let at = |value: f64| (1.0 - axis.place(value)) * h;
    for tick in &axis.ticks {
        svg.line([0.0, at(tick.at)], [w, at(tick.at)], Pen::new(Ink::Grid, 1.0));
    }
    if labelled {
        let face = Face::new(SMALL, Ink::Faint).anchor(Anchor::End);
        for tick in &axis.ticks {
            svg.text([-TICK, at(tick.at) + 0.36 * SMALL], &tick.label, face);
        }
        let widest = axis.ticks.iter().map(|tick| width(&tick.label, SMALL, false)).fold(0.0, f64::max);
        let face = Face::new(TEXT, Ink::Text).anchor(Anchor::Middle);
        svg.upwards([-TICK - widest - 8.0, h / 2.0], &fit(&axis.label, TEXT, false, h + 30.0), face);
    }
}

fn draw_x(svg: &mut Svg, axis: &Axis, [w, h]: [f64; 2]) {
    let pen = Pen::new(Ink::Faint, 1.0);
    svg.line([0.0, h], [w, h], pen);
    for &value in &axis.minor {
        let x = axis.place(value) * w;
        svg.line([x, h], [x, h + 2.5], Pen { opacity: 0.6, ..pen });
    }
    let face = Face::new(SMALL, Ink::Faint).anchor(Anchor::Middle);
    let room = if axis.scale == Scale::Names { 0.95 * w / axis.ticks.len().max(1) as f64 } else { w };
    let mut taken = f64::NEG_INFINITY;
    for Tick { at, label } in &axis.ticks {
        let x = axis.place(*at) * w;
        svg.line([x, h], [x, h + 4.0], pen);
        let label = fit(label, SMALL, false, room);
        let half = width(&label, SMALL, false) / 2.0;
        // What has no room is left out; its tick stays.
        if x - half > taken + 4.0 {
            svg.text([x, h + TICK + SMALL], &label, face);
            taken = x + half;
        }
    }
    let face = Face::new(TEXT, Ink::Text).anchor(Anchor::Middle);
    svg.text([w / 2.0, h + TICK + SMALL + LINE + 1.0], &axis.label, face);
}

/// What marks take of a panel, for labels to keep away from.
pub fn squares(panel: &Panel, marks: &[Marks], plot: [f64; 2]) -> crate::place::Taken {
    let mut taken = crate::place::Taken::default();
    for reference in &panel.references {
        let y = (1.0 - panel.y.place(reference.y)) * plot[1];
        taken.add_line([0.0, y], [plot[0], y], None);
    }
    for (index, (series, marks)) in panel.series.iter().zip(marks).enumerate() {
        let owner = Some(index);
        for (&[x, y], interval) in marks.points.iter().zip(&marks.intervals) {
            taken.add(Rect::around(x, y, 5.5), owner);
            if let Some([low, high]) = *interval {
                taken.add_line([x, low], [x, high], owner);
            }
        }
        for &[x, y] in &marks.dots {
            taken.add(Rect::around(x, y, 2.5), owner);
        }
        if series.joined {
            for pair in marks.points.windows(2) {
                taken.add_line(pair[0], pair[1], owner);
            }
        }
        for thread in marks.threads.iter().filter(|_| marks.threads.len() > 1) {
            for pair in thread.windows(2) {
                taken.add_line(pair[0], pair[1], owner);
            }
        }
    }
    taken
}
