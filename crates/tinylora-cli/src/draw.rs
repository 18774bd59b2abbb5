//! Numbers enter, small drawings of block characters leave: bars, sparklines, charts around zero. Every drawing
//! is plain text unless it is asked for terminal colours; nothing here writes.

/// Whether escape sequences for colours may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With ANSI colours.
    Ansi,
}

/// Colours by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Headings and results.
    Strong,
    /// What may be passed over.
    Faint,
    /// Progress, and things to type.
    Accent,
    /// Numbers above zero; good news.
    Up,
    /// Numbers below zero; bad news.
    Down,
}

impl Style {
    /// The text in a tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Accent => "36",
            Tone::Up => "32",
            Tone::Down => "31",
        };
        match self {
            Style::Plain => text.to_owned(),
            Style::Ansi if text.is_empty() => String::new(),
            Style::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

const EIGHTHS_UP: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const EIGHTHS_RIGHT: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// A progress bar of `width` cells.
pub fn bar(done: u64, total: u64, width: usize, style: Style) -> String {
    let share = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
    let eighths = (share * (width * 8) as f64).floor() as usize;
    let mut filled: String = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        filled.push(EIGHTHS_RIGHT[eighths % 8]);
    }
    let rest = "░".repeat(width - filled.chars().count());
    format!("{}{}", style.paint(Tone::Accent, &filled), style.paint(Tone::Faint, &rest))
}

/// The course of a series in at most `width` cells; longer series are averaged in equal parts. The lowest value is
/// the lowest cell and the highest the highest, and a series that never changes is a flat line.
pub fn sparkline(values: &[f64], width: usize) -> String {
    let values = averaged(values, width);
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let cell = |value: &f64| {
        if high <= low {
            return '▁';
        }
        let level = ((value - low) / (high - low) * 7.0).round() as usize;
        EIGHTHS_UP[1 + level.min(7)]
    };
    values.iter().map(|value| if value.is_finite() { cell(value) } else { ' ' }).collect()
}

fn averaged(values: &[f64], width: usize) -> Vec<f64> {
    if width == 0 {
        return Vec::new();
    }
    let cells = values.len().min(width);
    let part = |cell: usize| {
        let (from, to) = (cell * values.len() / cells, (cell + 1) * values.len() / cells);
        values[from..to].iter().sum::<f64>() / (to - from) as f64
    };
    (0..cells).map(part).collect()
}

/// A chart of columns around a zero line, two lines high: the upper line holds what is above zero, the lower one
/// hangs down from the line. The largest size fills its cell.
pub fn columns(values: &[f32], style: Style) -> [String; 2] {
    let most = largest(values);
    let (mut above, mut below) = (String::new(), String::new());
    let zero_line = |cells: usize| style.paint(Tone::Faint, &"▔".repeat(cells));
    for (index, &value) in values.iter().enumerate() {
        if index > 0 {
            above.push(' ');
            below.push_str(&zero_line(1));
        }
        let level = level(value, most, 8);
        let up = if value > 0.0 { EIGHTHS_UP[level].to_string().repeat(2) } else { "  ".into() };
        above.push_str(&style.paint(Tone::Up, &up));
        below.push_str(&match (value < 0.0 && level > 0, style) {
            (false, _) => zero_line(2),
            (true, Style::Plain) => ["▔", "▀", "█"][(level / 3).min(2)].repeat(2),
            // A cell filled from above is one filled from below with its colours exchanged.
            (true, Style::Ansi) => {
                format!("\x1b[31;7m{}\x1b[0m", EIGHTHS_UP[8 - level].to_string().repeat(2))
            }
        });
    }
    [above, below]
}

/// One number as a bar to the left or right of an axis, `half` cells each; `most` fills a side.
pub fn sideways(value: f32, most: f32, half: usize, style: Style) -> String {
    let level = level(value, most, 2 * half);
    let (whole, rest) = (level / 2, level % 2);
    let empty = |cells: usize| " ".repeat(cells);
    if value < 0.0 {
        let bar = format!("{}{}", if rest == 1 { "▐" } else { "" }, "█".repeat(whole));
        format!("{}{}│{}", empty(half - whole - rest), style.paint(Tone::Down, &bar), empty(half))
    } else {
        let bar = format!("{}{}", "█".repeat(whole), if rest == 1 { "▌" } else { "" });
        format!("{}│{}{}", empty(half), style.paint(Tone::Up, &bar), empty(half - whole - rest))
    }
}

/// The largest size among the values.
pub fn largest(values: &[f32]) -> f32 {
    values.iter().filter(|value| value.is_finite()).fold(0.0, |most, value| most.max(value.abs()))
}

/// A size as 0 … `levels`; what is not 0 is at least 1.
fn level(value: f32, most: f32, levels: usize) -> usize {
    if value == 0.0 || most == 0.0 || !value.is_finite() {
        return 0;
    }
    ((value.abs() / most * levels as f32).round() as usize).clamp(1, levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_their_width() {
        for done in 0..=37 {
            assert_eq!(bar(done, 37, 10, Style::Plain).chars().count(), 10);
        }
        assert_eq!(bar(1, 2, 5, Style::Plain), "██▌░░");
        assert_eq!(bar(9, 9, 4, Style::Plain), "████");
        assert_eq!(bar(3, 0, 4, Style::Plain), "░░░░");
        assert_eq!(bar(7, 5, 4, Style::Plain), "████");
    }

    #[test]
    fn sparklines_follow_the_series() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 7.0], 40), "▁▂▃█");
        assert_eq!(sparkline(&[3.0, 3.0], 40), "▁▁");
        assert_eq!(sparkline(&[], 40), "");
        assert_eq!(sparkline(&[0.0, 0.0, 4.0, 4.0, 2.0, 2.0], 3), "▁█▅");
        assert_eq!(sparkline(&[1.0, 2.0], 0), "");
        assert_eq!(sparkline(&(0..1000).map(f64::from).collect::<Vec<_>>(), 8), "▁▂▃▄▅▆▇█");
    }

    #[test]
    fn columns_stand_and_hang() {
        let [above, below] = columns(&[1.0, -1.0, 0.0, 0.5, -0.01], Style::Plain);
        assert_eq!(above, "██       ▄▄   ");
        assert_eq!(below, "▔▔▔██▔▔▔▔▔▔▔▔▔");
        let [above, below] = columns(&[0.0, 0.0], Style::Plain);
        assert_eq!((above.as_str(), below.as_str()), ("     ", "▔▔▔▔▔"));
        let [_, below] = columns(&[-0.5, 1.0], Style::Ansi);
        assert!(below.starts_with("\x1b[31;7m▄▄\x1b[0m"), "{below:?}");
    }

    #[test]
    fn sideways_bars_keep_the_axis_in_place() {
        assert_eq!(sideways(-0.5, 1.0, 4, Style::Plain), "  ██│    ");
        assert_eq!(sideways(1.0, 1.0, 4, Style::Plain), "    │████");
        assert_eq!(sideways(0.0, 1.0, 4, Style::Plain), "    │    ");
        assert_eq!(sideways(-0.375, 1.0, 4, Style::Plain), "  ▐█│    ");
        assert_eq!(sideways(1e-9, 1.0, 2, Style::Plain), "  │▌ ");
        assert_eq!(sideways(f32::NAN, 1.0, 2, Style::Plain), "  │  ");
    }
}
