//! Words and units as text: what differs only in case, punctuation and spelling is the same.

/// Units and their other names; the first is the one that is compared.
const UNITS: [&[&str]; 28] = [
    &["cm", "centimeter", "centimeters", "centimetre", "centimetres"],
    &["mm", "millimeter", "millimeters", "millimetre", "millimetres"],
    &["km", "kilometer", "kilometers", "kilometre", "kilometres"],
    &["m", "meter", "meters", "metre", "metres"],
    &["in", "inch", "inches"],
    &["ft", "foot", "feet"],
    &["yd", "yard", "yards"],
    &["mi", "mile", "miles"],
    &["s", "sec", "second", "seconds", "secs"],
    &["min", "minute", "minutes", "mins"],
    &["h", "hr", "hour", "hours", "hrs"],
    &["day", "days"],
    &["week", "weeks"],
    &["month", "months"],
    &["yr", "year", "years"],
    &["kg", "kilogram", "kilograms"],
    &["g", "gram", "grams"],
    &["lb", "lbs", "pound", "pounds"],
    &["l", "liter", "liters", "litre", "litres"],
    &["dollar", "dollars", "usd"],
    &["cent", "cents"],
    &["degree", "degrees"],
    &["unit", "units"],
    &["mph", "miles per hour", "miles/hour"],
    &["m/s", "meters per second", "m s"],
    &["j", "joule", "joules"],
    &["n", "newton", "newtons"],
    &["square", "squares", "sq"],
];

/// Lower case, blanks collapsed, outer punctuation gone.
pub fn plain(text: &str) -> String {
    let text = text.to_lowercase().replace(['\\', '{', '}', '$', '~'], " ");
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| ".,;:!?\"'`()*".contains(c)))
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

/// The letters and digits alone.
pub fn letters(text: &str) -> String {
    text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Whether two texts are the same words; nothing is the same as no words.
pub fn same(a: &str, b: &str) -> bool {
    let (a, b) = (plain(a), plain(b));
    let only_words = |text: &str| text.chars().all(|c| c.is_alphabetic() || " .,;:'".contains(c));
    !a.is_empty() && (a == b || only_words(&a) && only_words(&b) && letters(&a) == letters(&b))
}

/// Whether two units are the same.
pub fn same_unit(a: &str, b: &str) -> bool {
    unit(a) == unit(b)
}

fn unit(text: &str) -> String {
    let text = plain(text);
    let known =
        |name: &str| UNITS.iter().find(|names| names.contains(&name)).map(|names| names[0].to_string());
    if let Some(name) = known(&text) {
        return name;
    }
    let one = |word: &str| known(word).unwrap_or_else(|| word.strip_suffix('s').unwrap_or(word).to_string());
    let words: Vec<String> = text.split(' ').map(one).collect();
    match words.as_slice() {
        [square, name] if square == "square" => format!("{name}^2"),
        [cubic, name] if cubic == "cubic" => format!("{name}^3"),
        words => words.join(" "),
    }
}

/// Whether a word is the name of a unit.
pub fn is_unit(word: &str) -> bool {
    UNITS.iter().any(|names| names.contains(&word.to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_units() {
        assert!(
            same("No solution.", "no  solution") && !same("even", "odd") && !same("", "") && !same(".", ".")
        );
        assert!(same_unit("centimeters", "cm") && same_unit("square feet", "ft^2") && !same_unit("m", "km"));
        assert!(is_unit("Miles") && !is_unit("apples"));
    }
}
