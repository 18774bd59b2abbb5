//! Texts enter, their widths and lines leave, by the font that comes with the program. Without kerning the width of a text
//! is the sum of its glyphs' widths.

use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider};

/// Roboto, cut down; see its README.
pub const REGULAR: &[u8] = include_bytes!("../font/Roboto-Regular.ttf");
/// The same, bold.
pub const BOLD: &[u8] = include_bytes!("../font/Roboto-Bold.ttf");
/// What programs without that font take instead; its digits and letters are nearly as wide.
pub const FAMILY: &str = "Roboto, Helvetica Neue, Helvetica, Arial, sans-serif";

/// Width of a text.
pub fn width(text: &str, size: f64, bold: bool) -> f64 {
    let font = FontRef::new(if bold { BOLD } else { REGULAR }).expect("the font that comes along is one");
    let (map, metrics) = (font.charmap(), font.glyph_metrics(Size::unscaled(), LocationRef::default()));
    let units = f64::from(font.metrics(Size::unscaled(), LocationRef::default()).units_per_em);
    let advance = |c: char| map.map(c).and_then(|glyph| metrics.advance_width(glyph)).map(f64::from);
    // What the font lacks is wide in most of the fonts that have it.
    text.chars().map(|c| advance(c).unwrap_or(units) * size / units).sum()
}

/// Breaks a text at its spaces (not at those that do not break) into lines of at most this width; a longer word has a line of its own.
pub fn wrap(text: &str, size: f64, most: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split([' ', '\n']).filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size, false) <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A text that is at most so wide; where it is longer its end gives way to `…`.
pub fn fit(text: &str, size: f64, bold: bool, most: f64) -> String {
    if width(text, size, bold) <= most {
        return text.to_owned();
    }
    let mut short: Vec<char> = text.chars().collect();
    while !short.is_empty()
        && width(&short.iter().collect::<String>(), size, bold) + width("…", size, bold) > most
    {
        short.pop();
    }
    short.into_iter().chain(['…']).collect()
}

/// What SVG and HTML may hold between tags and in attributes; characters that XML does not have become `�`.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_add_up() {
        assert_eq!(width("", 12.0, false), 0.0);
        let digits = width("0123456789", 10.0, false);
        assert!((digits - 10.0 * width("7", 10.0, false)).abs() < 1e-9, "digits are equally wide");
        assert!((50.0..60.0).contains(&digits), "{digits}");
        assert!(width("accuracy", 12.0, true) > width("accuracy", 12.0, false));
        assert_eq!(width("漢", 12.0, false), 12.0);
    }

    #[test]
    fn lines_are_broken_and_cut() {
        let lines = wrap("one two three four", 10.0, width("one two", 10.0, false) + 0.1);
        assert_eq!(lines, ["one two", "three", "four"]);
        assert_eq!(wrap("  ", 10.0, 5.0), Vec::<String>::new());
        let short = fit("a very long name of a model", 10.0, false, 60.0);
        assert!(short.ends_with('…') && width(&short, 10.0, false) <= 60.0);
        assert_eq!(escape("a<b> & \"c\"\u{1}"), "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}");
    }
}
