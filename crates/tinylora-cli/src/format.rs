//! Numbers enter, short text for people leaves. Nothing here reads a clock or a terminal.

use std::time::Duration;

/// Bytes with a binary unit and three digits: `26 B`, `1.27 KiB`, `96.1 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{} {}", three_digits(value), UNITS[unit]) }
}

/// A count in short: `512`, `3.14k`, `135M`.
pub fn count(count: u64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { count.to_string() } else { format!("{}{}", three_digits(value), UNITS[unit]) }
}

/// A whole number with its thousands apart: `134,515,008`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A span of time: `0.8 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86400, whole / 3600 % 24),
    }
}

/// A fraction as a percentage: `41.2 %`.
pub fn percent(fraction: f64) -> String {
    if fraction.is_finite() { format!("{:.1} %", 100.0 * fraction) } else { "n/a".into() }
}

/// A number in three digits: `0`, `0.0123`, `1.59`, `42.0`, `1.20e-5`.
pub fn short(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return format!("{number}");
    }
    // The exponent after rounding: 0.0099999 is 0.0100.
    let scientific = format!("{number:.2e}");
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    match exponent {
        -3..4 => format!("{number:.decimals$}", decimals = (2 - exponent).max(0) as usize),
        _ => scientific,
    }
}

/// A rate: `312 tokens/s`; `-` where there was nothing to do.
pub fn rate(tokens: u64, seconds: f64) -> String {
    if tokens > 0 && seconds > 0.0 {
        format!("{} tokens/s", count((tokens as f64 / seconds).round() as u64))
    } else {
        "- tokens/s".into()
    }
}

/// What a terminal or a log may be given of text that a model wrote: line ends stay, other control characters
/// (which could move the cursor or change the title) become `�`.
pub fn harmless(text: &str) -> String {
    let replace = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    text.chars().map(replace).collect()
}

/// The same in one line of at most `most` characters; line ends are shown as `⏎`.
pub fn one_line(text: &str, most: usize) -> String {
    let text = harmless(text.trim()).replace('\n', " ⏎ ").replace('\t', " ");
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        assert_eq!(bytes(26), "26 B");
        assert_eq!(bytes(1300), "1.27 KiB");
        assert_eq!(bytes(100_743_584), "96.1 MiB");
        assert_eq!(bytes(1023 * 1024), "1.00 MiB");
        assert_eq!(
            (count(999), count(1000), count(134_515_008)),
            ("999".into(), "1.00k".into(), "135M".into())
        );
        assert_eq!((grouped(7), grouped(134_515_008)), ("7".into(), "134,515,008".into()));
    }

    #[test]
    fn numbers_in_three_digits() {
        let cases =
            [(0.0, "0"), (0.009_999_999_77, "0.0100"), (1.594, "1.59"), (-42.0, "-42.0"), (1234.5, "1234")];
        for (number, text) in cases {
            assert_eq!(short(number), text);
        }
        assert_eq!((short(1.2e-5), short(f64::NAN)), ("1.20e-5".into(), "NaN".into()));
    }

    #[test]
    fn times() {
        let of = |seconds| duration(Duration::from_secs_f64(seconds));
        assert_eq!(of(0.84), "0.8 s");
        assert_eq!(of(59.4), "59 s");
        assert_eq!(of(59.6), "1 min 0 s");
        assert_eq!(of(7800.0), "2 h 10 min");
        assert_eq!(of(270_000.0), "3 d 3 h");
    }

    #[test]
    fn model_text_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\r\n\tc\u{9b}"), "a\u{fffd}[2Jb\u{fffd}\n\tc\u{fffd}");
        assert_eq!(one_line(" 3 + 4\n= 7 ", 40), "3 + 4 ⏎ = 7");
        assert_eq!(one_line("abcdef", 4), "abc…");
    }
}
