//! Rust text enters; the same text with comments, strings and characters blanked out leaves, line for line and byte
//! for byte, so that rules can look for words of the language. Also: where tests and functions begin and end,
//! which is read off the indentation that rustfmt gives.

/// Blanks comments and what stands in quotes; newlines stay.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = blank_end(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            // A byte of a character that isn't ASCII can only be part of a name, which no rule looks for.
            out.push(if bytes[at].is_ascii() { bytes[at] } else { b'_' });
            at += 1;
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins here.
fn blank_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + find(rest, b"*/", 2).map_or(rest.len(), |end| end + 2);
    }
    if rest[0] == b'"' {
        return at + quoted_end(rest, 1, b'"');
    }
    if !in_word && let Some(end) = raw_string_end(rest) {
        return at + end;
    }
    if rest[0] == b'\'' && is_character(rest) {
        return at + quoted_end(rest, 1, b'\'');
    }
    at
}

/// The end of `r"…"`, `r#"…"#`, `br"…"`, …, if `rest` begins with one.
fn raw_string_end(rest: &[u8]) -> Option<usize> {
    let start = if rest.starts_with(b"br") { 2 } else { usize::from(rest.starts_with(b"r")) };
    let hashes = rest[start..].iter().take_while(|&&b| b == b'#').count();
    if start == 0 || rest.get(start + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    Some(find(rest, &close, start + hashes + 1).map_or(rest.len(), |end| end + close.len()))
}

/// A character and not a lifetime: `'\…`, or a quote one character further on.
fn is_character(rest: &[u8]) -> bool {
    match rest.get(1) {
        None => false,
        Some(b'\\') => true,
        Some(&first) => {
            let bytes = if first < 0x80 { 1 } else { first.leading_ones() as usize };
            rest.get(1 + bytes) == Some(&b'\'')
        }
    }
}

fn quoted_end(rest: &[u8], mut at: usize, quote: u8) -> usize {
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn find(text: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let tail = text.get(from..)?;
    tail.windows(wanted.len()).position(|window| window == wanted).map(|at| from + at)
}

/// Whether `word` stands at byte `at` of `code` as a whole word.
pub fn is_word(code: &str, at: usize, word: &str) -> bool {
    let part = |b: Option<&u8>| b.is_some_and(|&b| b.is_ascii_alphanumeric() || b == b'_');
    let bytes = code.as_bytes();
    let before = at.checked_sub(1).and_then(|at| bytes.get(at));
    !part(before) && !part(bytes.get(at + word.len()))
}

/// A part of a file that rustfmt laid out: from its first line (counted from 0) up to the line that closes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What it is called.
    pub name: String,
    /// First line.
    pub first: usize,
    /// Last line.
    pub last: usize,
}

/// The inline modules of blanked code (`mod tests { … }`).
pub fn inline_modules(code: &str) -> Vec<Span> {
    spans(code, |line| Some(word_after(line, "mod ")?).filter(|_| line.ends_with('{')))
}

/// The functions of blanked code.
pub fn functions(code: &str) -> Vec<Span> {
    spans(code, |line| word_after(line, "fn "))
}

/// The spans whose first line `begins` names: they end at the first line that closes a brace at the same indentation.
/// A declaration without a body (it ends in `;` first) is none.
fn spans(code: &str, begins: impl Fn(&str) -> Option<String>) -> Vec<Span> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = begins(line.trim()) else { continue };
        let indent = line.len() - line.trim_start().len();
        let close = format!("{}}}", &line[..indent]);
        let one_line = line.trim_end().ends_with('}') || line.trim_end().ends_with(';');
        let last = if one_line {
            Some(first)
        } else {
            (first + 1..lines.len()).find(|&l| lines[l].starts_with(&close))
        };
        if let Some(last) = last {
            found.push(Span { name, first, last });
        }
    }
    found
}

/// The name after a keyword that begins the line or follows other words (`pub(crate) unsafe fn name`).
fn word_after(line: &str, keyword: &str) -> Option<String> {
    let at = line.find(keyword)?;
    let before = &line[..at];
    let only_words = before.chars().all(|c| c.is_ascii_alphabetic() || " ():_\"".contains(c));
    if !only_words || (at > 0 && !before.ends_with(' ')) {
        return None;
    }
    let rest = &line[at + keyword.len()..];
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_code_stays() {
        let text = "a /* b */ 'c' \"d\\\" e\" r#\"f\" g\"# &'h i // j\nk 'é' b'\\''l";
        let code = code_only(text);
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "&'h", "i", "k", "b", "l"]);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn functions_and_modules_have_their_lines() {
        let code = "pub fn a() {\n    x();\n}\n\nmod t {\n    fn b() {}\n    fn c(\n    ) {\n    }\n}\n";
        let span = |name: &str, first, last| Span { name: name.into(), first, last };
        assert_eq!(functions(code), [span("a", 0, 2), span("b", 5, 5), span("c", 6, 8)]);
        assert_eq!(inline_modules(code), [span("t", 4, 9)]);
    }
}
