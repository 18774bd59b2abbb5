//! A completion enters, the part of it that is the answer leaves. In order: the sentence "the final answer is … I hope
//! it is correct", boxes, the line after `####`, what follows "answer is" or "answer:", the last formula, the whole text
//! if it is short, the last number.

/// Only this much of a completion's end is searched, in bytes.
const TAIL: usize = 16_000;
/// Boxes with less between them belong together.
const CLOSE: usize = 10;
/// Boxes joined by "and", "or" or a comma may be this far apart.
const JOINED: usize = 70;
/// A text of one line below this length may be an answer as a whole.
const SHORT: usize = 120;

/// Where the answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Between "final answer is" and "I hope".
    Sentence,
    /// In `\boxed{…}`.
    Box,
    /// After `####`.
    Hashes,
    /// After "answer is" or "answer:".
    Anchor,
    /// The last formula.
    Formula,
    /// The text is the answer.
    Whole,
    /// The last number.
    Number,
}

impl Place {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sentence => "between \"final answer is\" and \"I hope\"",
            Self::Box => "in a box",
            Self::Hashes => "after ####",
            Self::Anchor => "after \"answer\"",
            Self::Formula => "the last formula",
            Self::Whole => "the whole text",
            Self::Number => "the last number",
        }
    }
}

/// An answer and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its text.
    pub text: String,
    /// Where.
    pub place: Place,
}

/// The last bytes of a text, from a character's begin.
pub fn tail(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// The answer in a completion.
pub fn prediction(completion: &str) -> Option<Found> {
    let text = tail(completion, TAIL);
    let found = |text: &str, place| Some(Found { text: text.trim().to_string(), place });
    if let Some(sentence) = sentence(text) {
        return found(&anchored(sentence), Place::Sentence);
    }
    if text.contains("\\boxed") || text.contains("\\fbox") {
        return boxed(text).and_then(|content| found(&content, Place::Box));
    }
    if let Some(at) = text.rfind("####") {
        return found(text[at + 4..].lines().next().unwrap_or_default(), Place::Hashes);
    }
    if let Some(rest) = anchor(text) {
        return found(&anchored(rest), Place::Anchor);
    }
    if let Some(formula) = formulas(text).last() {
        let end = formula.as_ptr() as usize - text.as_ptr() as usize + formula.len();
        return match last_number(&text[end..]) {
            Some(number) => found(number, Place::Number),
            None => found(formula, Place::Formula),
        };
    }
    if text.trim().is_empty() {
        return None;
    }
    if text.len() == completion.len()
        && text.trim().len() <= SHORT
        && !text.trim().contains('\n')
        && !is_sentence(text)
    {
        return found(text, Place::Whole);
    }
    last_number(text).and_then(|number| found(number, Place::Number))
}

/// The answer in a gold text: its box, else all of it.
pub fn gold(text: &str) -> Found {
    if (text.contains("\\boxed") || text.contains("\\fbox"))
        && let Some(content) = boxed(text)
    {
        return Found { text: content, place: Place::Box };
    }
    Found { text: text.trim().to_string(), place: Place::Whole }
}

/// The one formula of a sentence that ends with it, as in "The solution is $x=3$."
pub fn formula_at_end(text: &str) -> Option<&str> {
    let all: Vec<&str> = formulas(text).collect();
    match all.as_slice() {
        [only] if is_sentence(text) && text.trim_end().trim_end_matches('.').ends_with('$') => Some(only),
        _ => None,
    }
}

fn sentence(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let start = lower.rfind("final answer is")? + "final answer is".len();
    let end = lower[start..].find("i hope")? + start;
    Some(text[start..end].trim_start_matches(':').trim().trim_end_matches('.'))
}

/// What follows the last "answer is", "answer:" or the like, up to the paragraph's end.
fn anchor(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let at = lower.rfind("answer")? + "answer".len();
    let rest = text[at..].trim_start_matches('*');
    let paragraph = rest.split("\n\n").next().unwrap_or(rest);
    let paragraph = if paragraph.trim_matches([':', ' ', '*']).is_empty() { rest } else { paragraph };
    let after = paragraph.trim_start_matches([':', ' ', '*', '\n']);
    let after = after.strip_prefix("is").map_or(after, |rest| rest.trim_start_matches(':'));
    after.chars().any(char::is_alphanumeric).then_some(after)
}

/// The answer within what follows an anchor: a formula that begins it or ends last, a number, or the text.
fn anchored(text: &str) -> String {
    let trimmed = text.trim().trim_end_matches('.').trim_matches('*').trim();
    let spans: Vec<&str> = formulas(trimmed).collect();
    let begins = trimmed.starts_with(['$', '\\']);
    if let (true, [only]) = (begins, spans.as_slice()) {
        let after = trimmed[only.as_ptr() as usize - trimmed.as_ptr() as usize + only.len()..]
            .trim_matches(['$', ' ']);
        let unit =
            !after.is_empty() && after.len() < 30 && after.chars().all(|c| c.is_alphabetic() || c == ' ');
        return if unit { trimmed.to_string() } else { only.to_string() };
    }
    if let Some(last) = spans.last() {
        let end = last.as_ptr() as usize - trimmed.as_ptr() as usize + last.len();
        return match last_number(&trimmed[end..]) {
            Some(number) if !begins => number.to_string(),
            _ if spans.len() > 1 && begins => trimmed.to_string(),
            _ => last.to_string(),
        };
    }
    let line = trimmed.lines().next().unwrap_or_default().trim().trim_end_matches('.');
    if is_sentence(line)
        && let Some(number) = last_number(line)
    {
        number.to_string()
    } else {
        line.to_string()
    }
}

/// Whether there is prose around: several words of letters.
pub fn is_sentence(text: &str) -> bool {
    let mut outside = String::new();
    let mut inside = false;
    for part in text.split('$') {
        if !inside {
            outside.push_str(part);
        }
        inside = !inside;
    }
    let word = |word: &&str| word.len() > 1 && word.chars().all(|c| c.is_alphabetic() || ".,:;'".contains(c));
    outside.split_whitespace().filter(word).count() >= 3
}

/// The contents of `$…$`, `$$…$$`, `\(…\)` and `\[…\]`, in order.
pub fn formulas(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let starts = [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")];
            let (at, open, close) = starts
                .iter()
                .filter_map(|(open, close)| Some((find(rest, open)?, *open, *close)))
                .min_by_key(|x| x.0)?;
            let content = &rest[at + open.len()..];
            let Some(end) = find(content, close) else {
                rest = &rest[at + open.len()..];
                continue;
            };
            rest = &content[end + close.len()..];
            if !content[..end].trim().is_empty() {
                return Some(&content[..end]);
            }
        }
    })
}

/// The first occurrence that no backslash escapes.
fn find(text: &str, mark: &str) -> Option<usize> {
    text.match_indices(mark).map(|(at, _)| at).find(|at| !text[..*at].ends_with('\\'))
}

/// A box: where it begins, where it ends, what is in it.
struct Boxed {
    start: usize,
    end: usize,
    content: String,
}

/// The content of the last box, with that of boxes close before it; none where it does not close.
pub fn boxed(text: &str) -> Option<String> {
    let mut boxes = boxes(text);
    let last = boxes.pop()?;
    let mut contents = vec![last.content.trim().to_string()];
    let mut start = last.start;
    while let Some(before) = boxes.pop() {
        if before.end > start {
            continue;
        }
        let between = &text[before.end..start];
        let joined = between.len() < JOINED && joins(between);
        let content = before.content.trim().to_string();
        if between.len() >= CLOSE && (!joined || content == *contents.last()?) {
            break;
        }
        start = before.start;
        contents.push(content);
    }
    contents.reverse();
    contents.dedup();
    Some(contents.join(","))
}

/// Whether a text between boxes only joins them: a comma, "and" or "or", and at most one other word.
fn joins(between: &str) -> bool {
    let plain = between.replace("\\quad", " ").replace("\\text", " ");
    let words = plain.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 1);
    let others = words.filter(|word| !matches!(*word, "and" | "or")).count();
    others <= 1 && [",", ";", "and", "or"].iter().any(|mark| between.contains(mark))
}

/// All boxes that close; none at all where the last one does not.
fn boxes(text: &str) -> Vec<Boxed> {
    let mut found: Vec<Boxed> = Vec::new();
    for (start, mark) in text.match_indices("\\boxed").chain(text.match_indices("\\fbox")) {
        let after = start + mark.len();
        let blanks = text[after..].len() - text[after..].trim_start().len();
        let open = after + blanks;
        if !text[open..].starts_with('{') {
            let word: String = text[open..].chars().take_while(|c| c.is_alphanumeric()).collect();
            found.push(Boxed { start, end: open + word.len(), content: word });
            continue;
        }
        match closing_in_latex(&text[open..]) {
            Some(length) => {
                found.push(Boxed {
                    start,
                    end: open + length + 1,
                    content: text[open + 1..open + length].into(),
                });
            }
            None => return Vec::new(),
        }
    }
    found.sort_by_key(|found| found.start);
    found
}

/// Where the brace that begins the text closes; every brace counts, escaped or not, as in most evaluations.
pub fn closing(text: &str) -> Option<usize> {
    closes(text, false)
}

/// The same, where `\{` and `\}` are no braces, as in LaTeX.
fn closing_in_latex(text: &str) -> Option<usize> {
    closes(text, true)
}

fn closes(text: &str, escapes: bool) -> Option<usize> {
    let (mut depth, mut escaped) = (0usize, false);
    for (at, c) in text.bytes().enumerate() {
        match c {
            _ if escaped => escaped = false,
            b'\\' => escaped = escapes,
            b'{' => depth += 1,
            b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 && !escaped {
            return Some(at);
        }
    }
    None
}

/// The last number, with a fraction's two numbers, thousands separators and a percent sign.
fn last_number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let part = |c: u8| c.is_ascii_digit() || c == b'.' || c == b',' || c == b'/';
    let mut start = end;
    while start > 0 && part(bytes[start - 1]) {
        start -= 1;
    }
    while start < end && !bytes[start].is_ascii_digit() && bytes[start] != b'.' {
        start += 1;
    }
    let signed =
        start > 0 && bytes[start - 1] == b'-' && !(start > 1 && bytes[start - 2].is_ascii_alphanumeric());
    let percent = usize::from(bytes.get(end) == Some(&b'%'));
    Some(&text[start - usize::from(signed)..end + percent])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<(String, Place)> {
        prediction(text).map(|found| (found.text, found.place))
    }

    #[test]
    fn where_answers_are_found() {
        for (text, answer, place) in [
            ("so \\boxed{\\frac{1}{2}} and done", "\\frac{1}{2}", Place::Box),
            ("\\boxed{1} then at last \\boxed{2}", "2", Place::Box),
            ("first \\boxed{1}. Now we try it again from the start and get \\boxed{2}", "2", Place::Box),
            ("$\\boxed{1}$ and $\\boxed{2}$", "1,2", Place::Box),
            ("3 + 4 = 7\n#### 7", "7", Place::Hashes),
            ("The final answer is $12$. I hope it is correct.", "12", Place::Sentence),
            ("Final Answer: The largest $n$ is 34.", "34", Place::Anchor),
            ("The answer is: 5 apples.", "5 apples", Place::Anchor),
            ("**Answer:** $x = 3$", "x = 3", Place::Anchor),
            ("Thus $a=1$ and so $b=2$.", "b=2", Place::Formula),
            ("x + 1", "x + 1", Place::Whole),
            ("there are 12 of them in all, or so it seems", "12", Place::Number),
            ("it costs 1,000.99€", "1,000.99", Place::Whole),
            ("so Alice wins the game with 2/3.", "2/3", Place::Number),
        ] {
            let expected = (answer.to_string(), place);
            let found = found(text).unwrap();
            assert!(found == expected || place == Place::Whole && found.1 == place, "{text}: {found:?}");
        }
    }

    #[test]
    fn a_box_that_does_not_close_is_no_answer() {
        assert_eq!(found("we get \\boxed{12"), None);
        assert_eq!(found(""), None);
        assert_eq!(found("nothing here to be found at all"), None);
    }

    #[test]
    fn golds_keep_their_text() {
        assert_eq!(gold("15 and $22.5 \\mathrm{~min}$").text, "15 and $22.5 \\mathrm{~min}$");
        assert_eq!(gold("so it is \\boxed{14{,}916} here").text, "14{,}916");
    }
}
