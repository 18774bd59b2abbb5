//! Words that the qwen scorer removes from answers, by kind. A full stop in them stands for any character, since the
//! original takes them for patterns.

/// Words of more than one part, which go first.
const PHRASES: [&str; 28] = [
    "profit of rs",
    "no change",
    "sq inch",
    "cu cm",
    "sq m",
    "pi sq m",
    "m sqaure",
    " m east",
    "π r 2",
    "∏ cm ³",
    "cm 2",
    "sq . m",
    "cu . m",
    "a . m",
    "p . m",
    "rs .",
    "° f",
    "q .",
    "a .",
    "b .",
    "c .",
    "d .",
    "e .",
    "f .",
    "g .",
    "h .",
    "s .",
    "v â € ™",
];

/// Units of measurement and their abbreviations.
const MEASURES: [&str; 75] = [
    "degree", "deg", "ft", "feet", "inch", "inches", "yard", "mile", "meter", "metre", "mtr", "km", "cm",
    "mm", "dm", "m", "mt", "acre", "are", "hectare", "square", "sq", "cubic", "cube", "cc", "gallon", "gal",
    "liter", "litre", "lt", "l", "kg", "gm", "g", "lb", "mph", "kmph", "kmh", "mp", "ohm", "second", "sec",
    "s", "minute", "min", "minw", "hour", "hr", "h", "day", "month", "year", "yr", "am", "pm", "noon",
    "rupee", "rs", "percent", "per", "rd", "th", "st", "o", "t", "a", "c", "d", "ab", "bc", "unit", "ratio",
    "number", "prime", "by",
];

/// What is counted, and directions and changes.
const THINGS: [&str; 27] = [
    "man", "men", "woman", "women", "soldier", "monkey", "apple", "pie", "toy", "coin", "tile", "mark",
    "rounds", "way", "east", "west", "rise", "gain", "loss", "profit", "excess", "increase", "decrease",
    "more", "less", "pure", "Surface",
];

/// Removes the words, twice, plurals after the words themselves; what would leave nothing is not removed.
pub fn without_units(text: &str) -> String {
    let mut text = text.to_string();
    for _ in 0..2 {
        for plural in ["", "s"] {
            for word in PHRASES.iter().chain(&MEASURES).chain(&THINGS) {
                let removed = removed(&text, word, plural);
                if let Some(removed) = removed.filter(|removed| !removed.is_empty()) {
                    text = removed;
                }
            }
        }
    }
    text
}

/// The text without a word between characters that are no word characters; none where it is not in it.
fn removed(text: &str, word: &str, plural: &str) -> Option<String> {
    let first = word.chars().next()?;
    if !text.contains(first) {
        return None;
    }
    let chars: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = word.chars().chain(plural.chars()).collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut at, mut found) = (String::new(), 0, false);
    while at < chars.len() {
        // Either the text's begin or one character that is no word character stands before the word.
        let begins = [0usize, 1].into_iter().find_map(|before| {
            let fits = if before == 0 { at == 0 } else { !is_word(chars[at]) };
            let start = at + before;
            let end = start + pattern.len();
            let matches = fits
                && end <= chars.len()
                && pattern.iter().zip(&chars[start..end]).all(|(p, c)| p == c || *p == '.');
            let ends = matches && (end == chars.len() || !is_word(chars[end]));
            ends.then_some((before, end))
        });
        match begins {
            Some((before, end)) => {
                out.extend(&chars[at..at + before]);
                out.extend(chars.get(end));
                at = end + 1;
                found = true;
            }
            None => {
                out.push(chars[at]);
                at += 1;
            }
        }
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_where_they_stand_alone() {
        for (text, expected) in [
            ("5 cm", "5 "),
            ("12 apples", "12 "),
            ("3 hours 5 minutes", "3  5 "),
            ("m+n", "+n"),
            ("east", "east"),
            ("mast", "mast"),
            ("2cm", "2cm"),
        ] {
            assert_eq!(without_units(text), expected, "{text}");
        }
    }
}
