//! Colours by what they are for, on light and on dark paper. The eight kinds are those of Okabe and Ito, which people
//! with any form of colour vision tell apart; the ramp is viridis without the end that its paper would swallow.

use crate::chart::{Ink, KINDS, RAMP};
use std::fmt::Write;

const KIND: [[&str; 2]; KINDS] = [
    ["#0072b2", "#56a9e8"],
    ["#d55e00", "#f08a3c"],
    ["#009e73", "#2fc79a"],
    ["#aa4499", "#dd88cc"],
    ["#5c5f66", "#b4b8bf"],
    ["#e69f00", "#eebb44"],
    ["#56b4e9", "#9bd8ff"],
    ["#882255", "#d0759e"],
];
/// Darker, or lighter on dark paper, since thin strokes of letters need more contrast than marks.
const KIND_TEXT: [[&str; 2]; KINDS] = [
    ["#00609a", "#7cc0f2"],
    ["#b34700", "#f5a263"],
    ["#007354", "#54d6b0"],
    ["#933b84", "#e7a3da"],
    ["#4a4d54", "#c6cad0"],
    ["#8a5f00", "#f2cb6e"],
    ["#1f78ac", "#b5e2ff"],
    ["#761c49", "#de98b8"],
];
const RAMPS: [[&str; 2]; RAMP] = [
    ["#440154", "#7a8fe0"],
    ["#482475", "#5a9ae0"],
    ["#414487", "#42a5cf"],
    ["#355f8d", "#33b2b8"],
    ["#2a788e", "#35bf9b"],
    ["#21918c", "#52ca7d"],
    ["#22a884", "#85d55c"],
    ["#44bf70", "#bddd3c"],
    ["#6bc045", "#fde725"],
];

/// Colours on light and on dark paper.
fn pair(ink: Ink) -> [&'static str; 2] {
    match ink {
        Ink::Kind(i) => KIND[i % KINDS],
        Ink::Ramp(i) => RAMPS[i % RAMP],
        Ink::Text => ["#1d1f21", "#e6e6e3"],
        Ink::Faint => ["#5f6266", "#a2a5a9"],
        Ink::Grid => ["#e6e6e2", "#303236"],
        Ink::Paper => ["#ffffff", "#17181a"],
    }
}

/// The colour on light paper.
pub fn colour(ink: Ink) -> &'static str {
    pair(ink)[0]
}

/// The colour of letters on light paper.
pub fn text_colour(ink: Ink) -> &'static str {
    text_pair(ink)[0]
}

fn text_pair(ink: Ink) -> [&'static str; 2] {
    match ink {
        Ink::Kind(i) => KIND_TEXT[i % KINDS],
        other => pair(other),
    }
}

/// The name by which a page recolours what is drawn with it.
pub fn name(ink: Ink) -> String {
    match ink {
        Ink::Kind(i) => format!("k{}", i % KINDS),
        Ink::Ramp(i) => format!("r{}", i % RAMP),
        Ink::Text => "text".into(),
        Ink::Faint => "faint".into(),
        Ink::Grid => "grid".into(),
        Ink::Paper => "paper".into(),
    }
}

/// Rules that give a page's drawings the colours of dark paper.
pub fn dark_rules() -> String {
    let kinds = (0..KINDS).map(Ink::Kind);
    let ramp = (0..RAMP).map(Ink::Ramp);
    let mut rules = String::new();
    for ink in kinds.chain(ramp).chain([Ink::Text, Ink::Faint, Ink::Grid, Ink::Paper]) {
        let (name, colour, text) = (name(ink), pair(ink)[1], text_pair(ink)[1]);
        // Strokes, fills, and fills of letters.
        for (what, attribute, colour) in [("stroke", "s", colour), ("fill", "f", colour), ("fill", "t", text)]
        {
            let _ = writeln!(rules, ".figure [data-{attribute}={name}] {{ {what}: {colour}; }}");
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance (WCAG 2).
    fn luminance(colour: &str) -> f64 {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn letters_and_marks_stand_out_from_both_papers() {
        let paper = pair(Ink::Paper);
        for ink in (0..KINDS).map(Ink::Kind).chain((0..RAMP).map(Ink::Ramp)) {
            for side in [0, 1] {
                assert!(contrast(pair(ink)[side], paper[side]) >= 2.0, "{ink:?} {side}");
            }
        }
        for ink in (0..KINDS).map(Ink::Kind).chain([Ink::Text, Ink::Faint]) {
            for side in [0, 1] {
                assert!(contrast(text_pair(ink)[side], paper[side]) >= 4.5, "{ink:?} {side}");
            }
        }
    }

    #[test]
    fn the_ramp_gets_lighter() {
        for side in [0, 1] {
            assert!(
                RAMPS.windows(2).all(|pair| luminance(pair[0][side]) < luminance(pair[1][side])),
                "{side}"
            );
        }
    }
}
