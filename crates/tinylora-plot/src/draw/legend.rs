//! Series that have no label in their panels enter, a legend leaves.

use super::labels::Direct;
use super::{LINE, TEXT};
use crate::chart::{Dash, Figure, Ink, Marker, Style};
use crate::svg::{Face, Pen, Svg};
use crate::text::{fit, width};

/// Width of the sample before a name.
const SAMPLE: f64 = 24.0;
/// Between entries.
const APART: f64 = 16.0;

struct Entry {
    name: String,
    style: Style,
    /// The sample is a line.
    joined: bool,
}

/// Draws the legend below `y`, if one is needed; gives where it ends.
pub fn draw(svg: &mut Svg, figure: &Figure, direct: &Direct, y: f64, wide: f64) -> f64 {
    let entries = entries(figure, direct);
    if entries.is_empty() {
        return y;
    }
    svg.open(&[("class", "legend")]);
    let mut at = [0.0, y + LINE];
    if !figure.legend.is_empty() && !direct.series {
        svg.text([at[0], at[1]], &figure.legend, Face::new(TEXT, Ink::Faint));
        at[0] += width(&figure.legend, TEXT, false) + APART;
    }
    for entry in entries {
        let name = fit(&entry.name, TEXT, false, wide - SAMPLE - 8.0);
        let sample = if entry.joined { SAMPLE } else { 10.0 };
        let length = sample + 6.0 + width(&name, TEXT, false);
        if at[0] > 0.0 && at[0] + length > wide {
            at = [0.0, at[1] + LINE + 2.0];
        }
        let middle = at[1] - 0.35 * TEXT;
        if entry.joined {
            let pen = Pen { dash: entry.style.dash, ..Pen::new(entry.style.ink, 1.8) };
            svg.line([at[0], middle], [at[0] + SAMPLE, middle], pen);
        }
        svg.marker([at[0] + sample / 2.0, middle], entry.style.marker, entry.style.ink, false);
        svg.text([at[0] + sample + 6.0, at[1]], &name, Face::new(TEXT, Ink::Text));
        at[0] += length + APART;
    }
    svg.close();
    at[1] + 10.0
}

fn entries(figure: &Figure, direct: &Direct) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut add = |name: &str, style: Style, joined: bool| {
        if !entries.iter().any(|entry| entry.name == name) {
            entries.push(Entry { name: name.into(), style, joined });
        }
    };
    if !direct.series {
        for series in figure.panels.iter().flat_map(|panel| &panel.series) {
            add(&series.name, series.style, series.joined);
        }
    }
    for reference in figure.panels.iter().flat_map(|panel| &panel.references) {
        if direct.homeless.contains(&reference.name) {
            let style = Style { ink: reference.ink, marker: Marker::None, dash: reference.dash };
            add(&reference.name, style, true);
        }
    }
    entries.retain(|entry| !entry.name.is_empty() || entry.style.dash != Dash::Solid);
    entries
}
