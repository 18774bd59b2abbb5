//! Figures enter, drawings leave: every place and size is decided here. Texts are measured, so that none lies on another.

mod labels;
mod legend;
mod panel;

use crate::chart::{Figure, Ink};
use crate::svg::{Face, Svg, number};
use crate::text::{FAMILY, escape, width, wrap};

/// Height of most letters.
const TEXT: f64 = 11.5;
/// Height of letters at ticks, and of labels in a panel.
const SMALL: f64 = 11.0;
/// Height of a panel's title.
const TITLE: f64 = 12.5;
/// Height of a figure's title.
const HEADING: f64 = 14.0;
/// From one line of text to the next.
const LINE: f64 = 15.0;
/// Between a picture's edge and what is drawn.
const MARGIN: f64 = 14.0;
/// Between figures of a picture.
const GAP: f64 = 30.0;

/// A drawing and its size.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
    /// SVG's elements, from (0, 0).
    pub body: String,
}

/// One figure: legend, panels, and, where it has to stand alone, title and caption.
pub fn figure(figure: &Figure, alone: bool) -> Drawing {
    let grid = panel::Grid::of(figure);
    let marks = panel::marks(figure, &grid);
    let direct = labels::all(figure, &grid, &marks);
    let mut svg = Svg::default();
    let mut y = 0.0;
    if alone {
        y += HEADING;
        svg.text([0.0, y - 2.0], &figure.title, Face::new(HEADING, Ink::Text).bold());
        y += 8.0;
    }
    // A narrow figure's texts may be wider than it is.
    let wide = grid.width().max(460.0);
    y = legend::draw(&mut svg, figure, &direct, y, wide);
    let top = y;
    for index in 0..figure.panels.len() {
        let frame = grid.frame(index);
        svg.open(&[
            ("class", "panel"),
            ("transform", &format!("translate({} {})", number(frame.x), number(top + frame.y))),
        ]);
        panel::draw(&mut svg, figure, &grid, index, &marks[index]);
        labels::draw(&mut svg, &direct, index);
        svg.close();
    }
    y += grid.height();
    if alone {
        for line in wrap(&figure.caption, SMALL, wide) {
            y += LINE;
            svg.text([0.0, y], &line, Face::new(SMALL, Ink::Faint));
        }
        y += 4.0;
    }
    let heading = if alone { width(&figure.title, HEADING, true) } else { 0.0 };
    Drawing { width: wide.max(heading), height: y, body: svg.finish() }
}

/// A picture of all figures, one below the other.
pub fn picture(figures: &[Figure], title: Option<&str>) -> Drawing {
    let drawings: Vec<Drawing> = figures.iter().map(|one| figure(one, true)).collect();
    let heading = 1.3 * HEADING;
    let wide = title.map_or(0.0, |title| width(title, heading, true));
    let wide = drawings.iter().map(|drawing| drawing.width).fold(wide, f64::max) + 2.0 * MARGIN;
    let mut svg = Svg::default();
    let mut y = MARGIN;
    if let Some(title) = title {
        y += heading;
        svg.text([MARGIN, y - 3.0], title, Face::new(heading, Ink::Text).bold());
        y += 12.0;
    }
    let mut body = svg.finish();
    for (index, (drawing, figure)) in drawings.iter().zip(figures).enumerate() {
        if index > 0 {
            y += GAP;
        }
        body.push_str(&format!(
            "<g class=\"figure\" data-figure=\"{}\" transform=\"translate({} {})\">\n{}</g>\n",
            figure.kind,
            number(MARGIN),
            number(y),
            drawing.body
        ));
        y += drawing.height;
    }
    Drawing { width: wide.ceil(), height: (y + MARGIN).ceil(), body }
}

/// A whole SVG file.
pub fn file(drawing: &Drawing, title: &str, about: &str) -> String {
    let mut paper = Svg::default();
    paper.rect(0.0, 0.0, drawing.width, drawing.height, Ink::Paper);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}<desc>{}</desc>\n{}{}</svg>\n",
        open(drawing, title, None),
        escape(about),
        paper.finish(),
        drawing.body
    )
}

/// The same for the inside of a page, on the page's own paper.
pub fn inline(drawing: &Drawing, title: &str) -> String {
    format!("{}{}</svg>\n", open(drawing, title, Some("figure")), drawing.body)
}

fn open(drawing: &Drawing, title: &str, class: Option<&str>) -> String {
    let [w, h] = [drawing.width, drawing.height].map(number);
    let class = class.map_or(String::new(), |class| format!(" class=\"{class}\""));
    let title = escape(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\"{class} width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
         font-family=\"{FAMILY}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n"
    )
}
