//! Lines, shapes and texts enter, SVG's elements leave as text. Each carries its colour on light paper as an attribute, which
//! every program reads, and the colour's name, by which a page gives it another one.

use crate::chart::{Dash, Ink, Marker};
use crate::text::escape;
use crate::theme::{colour, name, text_colour};
use std::fmt::Write;

/// A drawing that grows.
#[derive(Debug, Default)]
pub struct Svg {
    out: String,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pen {
    /// Its colour.
    pub ink: Ink,
    /// Its width.
    pub width: f64,
    /// Its pattern.
    pub dash: Dash,
    /// 1: covers what is behind.
    pub opacity: f64,
}

impl Pen {
    /// A solid line.
    pub fn new(ink: Ink, width: f64) -> Self {
        Self { ink, width, dash: Dash::Solid, opacity: 1.0 }
    }
}

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Face {
    /// Height of the font.
    pub size: f64,
    /// Bold or regular.
    pub bold: bool,
    /// Its colour.
    pub ink: Ink,
    /// Which part of it is at the given place.
    pub anchor: Anchor,
}

/// The part of a text that a place is given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Face {
    /// Regular, from its start.
    pub fn new(size: f64, ink: Ink) -> Self {
        Self { size, bold: false, ink, anchor: Anchor::Start }
    }

    /// The same, bold.
    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    /// The same, from elsewhere.
    pub fn anchor(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }
}

/// A coordinate with two decimals at most.
pub fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.to_owned() }
}

impl Svg {
    /// What was drawn.
    pub fn finish(self) -> String {
        self.out
    }

    /// Opens a group; `attributes` are (name, value).
    pub fn open(&mut self, attributes: &[(&str, &str)]) {
        self.out.push_str("<g");
        for (name, value) in attributes {
            let _ = write!(self.out, " {name}=\"{}\"", escape(value));
        }
        self.out.push_str(">\n");
    }

    /// Closes it.
    pub fn close(&mut self) {
        self.out.push_str("</g>\n");
    }

    /// What a screen reader says, and a pointer shows, of the group that was just opened.
    pub fn title(&mut self, text: &str) {
        let _ = writeln!(self.out, "<title>{}</title>", escape(text));
    }

    /// A straight line.
    pub fn line(&mut self, from: [f64; 2], to: [f64; 2], pen: Pen) {
        let [x1, y1, x2, y2] = [from[0], from[1], to[0], to[1]].map(number);
        let _ = writeln!(self.out, "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"{}/>", stroke(pen));
    }

    /// Straight lines from point to point.
    pub fn polyline(&mut self, points: &[[f64; 2]], pen: Pen) {
        let points: Vec<String> =
            points.iter().map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
        let _ = writeln!(
            self.out,
            "<polyline fill=\"none\" stroke-linejoin=\"round\" points=\"{}\"{}/>",
            points.join(" "),
            stroke(pen)
        );
    }

    /// A filled rectangle.
    pub fn rect(&mut self, x: f64, y: f64, w: f64, h: f64, ink: Ink) {
        let [x, y, w, h] = [x, y, w, h].map(number);
        let _ = writeln!(self.out, "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"{}/>", fill(ink));
    }

    /// A small filled circle.
    pub fn dot(&mut self, at: [f64; 2], radius: f64, ink: Ink, opacity: f64) {
        let [x, y, r, o] = [at[0], at[1], radius, opacity].map(number);
        let _ =
            writeln!(self.out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\" fill-opacity=\"{o}\"{}/>", fill(ink));
    }

    /// A circle around a point.
    pub fn ring(&mut self, at: [f64; 2], radius: f64, pen: Pen) {
        let [x, y, r] = [at[0], at[1], radius].map(number);
        let _ = writeln!(self.out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\" fill=\"none\"{}/>", stroke(pen));
    }

    /// A point of a series, with an edge in the colour of the paper.
    /// A hollow one has its colour at the edge alone.
    pub fn marker(&mut self, at: [f64; 2], marker: Marker, ink: Ink, hollow: bool) {
        let [x, y] = at;
        let edge = stroke(if hollow { Pen::new(ink, 1.6) } else { Pen::new(Ink::Paper, 1.0) });
        let ink = if hollow { Ink::Paper } else { ink };
        let shape = |points: &[[f64; 2]]| {
            let points: Vec<String> =
                points.iter().map(|[dx, dy]| format!("{},{}", number(x + dx), number(y + dy))).collect();
            format!("<polygon points=\"{}\"{edge}{}/>", points.join(" "), fill(ink))
        };
        let element = match marker {
            Marker::None => return,
            Marker::Circle => {
                format!("<circle cx=\"{}\" cy=\"{}\" r=\"4.2\"{edge}{}/>", number(x), number(y), fill(ink))
            }
            Marker::Square => shape(&[[-3.9, -3.9], [3.9, -3.9], [3.9, 3.9], [-3.9, 3.9]]),
            Marker::Triangle => shape(&[[0.0, -5.1], [4.8, 3.6], [-4.8, 3.6]]),
            Marker::Diamond => shape(&[[0.0, -5.5], [5.0, 0.0], [0.0, 5.5], [-5.0, 0.0]]),
            Marker::TriangleDown => shape(&[[0.0, 5.1], [4.8, -3.6], [-4.8, -3.6]]),
            Marker::Cross => {
                let (a, b) = (1.6, 4.6);
                shape(&[
                    [-a, -b],
                    [a, -b],
                    [a, -a],
                    [b, -a],
                    [b, a],
                    [a, a],
                    [a, b],
                    [-a, b],
                    [-a, a],
                    [-b, a],
                    [-b, -a],
                    [-a, -a],
                ])
            }
        };
        self.out.push_str(&element);
        self.out.push('\n');
    }

    /// A text; `at` is on its base line.
    pub fn text(&mut self, at: [f64; 2], text: &str, face: Face) {
        self.write(at, text, face, "");
    }

    /// A text with a seam in the colour of the paper, for places where something may be behind it.
    pub fn label(&mut self, at: [f64; 2], text: &str, face: Face) {
        let seam =
            format!(" paint-order=\"stroke\" stroke-linejoin=\"round\"{}", stroke(Pen::new(Ink::Paper, 3.0)));
        self.write(at, text, face, &seam);
    }

    /// A text that runs upwards.
    pub fn upwards(&mut self, at: [f64; 2], text: &str, face: Face) {
        let turn = format!(" transform=\"rotate(-90 {} {})\"", number(at[0]), number(at[1]));
        self.write(at, text, face, &turn);
    }

    fn write(&mut self, at: [f64; 2], text: &str, face: Face, more: &str) {
        let anchor = match face.anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let weight = if face.bold { " font-weight=\"700\"" } else { "" };
        let _ = writeln!(
            self.out,
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\"{anchor}{weight}{more}{}>{}</text>",
            number(at[0]),
            number(at[1]),
            number(face.size),
            letters(face.ink),
            escape(text)
        );
    }
}

/// Attributes of a stroke.
fn stroke(pen: Pen) -> String {
    let dash = match pen.dash {
        Dash::Solid => "",
        Dash::Long => " stroke-dasharray=\"6 3\"",
        Dash::Short => " stroke-dasharray=\"2 2.5\"",
        Dash::Mixed => " stroke-dasharray=\"7 3 2 3\"",
    };
    let opacity = if pen.opacity < 1.0 {
        format!(" stroke-opacity=\"{}\"", number(pen.opacity))
    } else {
        String::new()
    };
    format!(
        " stroke=\"{}\" stroke-width=\"{}\"{dash}{opacity} data-s=\"{}\"",
        colour(pen.ink),
        number(pen.width),
        name(pen.ink)
    )
}

fn fill(ink: Ink) -> String {
    format!(" fill=\"{}\" data-f=\"{}\"", colour(ink), name(ink))
}

fn letters(ink: Ink) -> String {
    format!(" fill=\"{}\" data-t=\"{}\"", text_colour(ink), name(ink))
}
