//! A figure as plain data: panels with axes, series and lines of reference, and the numbers behind them. Colours and places
//! are decided where it is drawn.

use crate::options::FigureKind;
use crate::scale::Axis;

/// A figure of one or more panels of the same size.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Which one.
    pub kind: FigureKind,
    /// What it shows.
    pub title: String,
    /// How it is to be read, and what intervals mean.
    pub caption: String,
    /// The panels, row by row.
    pub panels: Vec<Panel>,
    /// Panels in a row.
    pub columns: usize,
    /// All panels of a row have the first one's y axis.
    pub shared_y: bool,
    /// What the series differ in, before the legend.
    pub legend: String,
    /// The numbers.
    pub table: Table,
}

/// One coordinate system.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// What sets it apart from the others; may be empty.
    pub title: String,
    /// Left to right.
    pub x: Axis,
    /// Bottom to top.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
    /// Horizontal lines.
    pub references: Vec<Reference>,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in labels and legend.
    pub name: String,
    /// How it looks.
    pub style: Style,
    /// Whether its points are joined by a line.
    pub joined: bool,
    /// The points, by x.
    pub points: Vec<Point>,
    /// Single seeds, (x, y).
    pub dots: Vec<[f64; 2]>,
    /// Thin lines beside the main one, for single seeds.
    pub threads: Vec<Vec<[f64; 2]>>,
}

/// A point with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Left to right.
    pub x: f64,
    /// Bottom to top.
    pub y: f64,
    /// 95 % interval of y.
    pub interval: Option<[f64; 2]>,
    /// Drawn with a ring.
    pub chosen: bool,
    /// One run alone: drawn hollow.
    pub single: bool,
}

impl Point {
    /// A point without an interval.
    pub fn at(x: f64, y: f64) -> Self {
        Self { x, y, interval: None, chosen: false, single: false }
    }
}

/// How a series looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Its colour.
    pub ink: Ink,
    /// The shape of its points.
    pub marker: Marker,
    /// The pattern of its line.
    pub dash: Dash,
}

/// Colours by what they are for; each has a light and a dark form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// One of eight that differ in kind.
    Kind(usize),
    /// One of nine in order.
    Ramp(usize),
    /// Text.
    Text,
    /// Axes, less important text.
    Faint,
    /// Lines of the grid.
    Grid,
    /// What is behind everything.
    Paper,
}

/// Shapes of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    TriangleDown,
    Cross,
    /// Lines with many points.
    None,
}

/// Patterns of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Dash {
    Solid,
    Long,
    Short,
    Mixed,
}

const MARKERS: [Marker; 6] =
    [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond, Marker::TriangleDown, Marker::Cross];
const DASHES: [Dash; 4] = [Dash::Solid, Dash::Long, Dash::Short, Dash::Mixed];
/// Colours that differ in kind.
pub const KINDS: usize = 8;
/// Colours in order.
pub const RAMP: usize = 9;

impl Style {
    /// The look of the `index`th of things that differ in kind.
    pub fn kind(index: usize) -> Self {
        let (ink, marker) = (Ink::Kind(index % KINDS), MARKERS[index % MARKERS.len()]);
        Self { ink, marker, dash: DASHES[index % DASHES.len()] }
    }

    /// The look of a method, the same in all figures.
    pub fn method(method: &str) -> Self {
        let index = ["tinylora", "lora-xs", "lora", "full"].iter().position(|known| *known == method);
        Self { dash: Dash::Solid, ..Self::kind(index.unwrap_or(4)) }
    }

    /// The look of the `index`th of `count` things in order.
    pub fn ordered(index: usize, count: usize) -> Self {
        let step = if count < 2 { 0 } else { (index * (RAMP - 1) + (count - 1) / 2) / (count - 1) };
        Self { ink: Ink::Ramp(step), marker: MARKERS[index % MARKERS.len()], dash: Dash::Solid }
    }
}

/// A horizontal line.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Where.
    pub y: f64,
    /// What it is, without its value.
    pub name: String,
    /// The same with its value.
    pub label: String,
    /// Its colour.
    pub ink: Ink,
    /// Its pattern.
    pub dash: Dash,
}

/// The numbers behind a figure.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The cells, a text each.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&name| name.into()).collect(), rows: Vec::new() }
    }
}
