//! Random draws and a range of numbers enter; a word problem of one or two steps leaves, with its
//! operations. Numbers are chosen so that every result is whole and positive; no number is below 2, so that
//! the plural is always right.

use super::arithmetic::{Drawn, Draws, Operation};

/// A story: `{N}` and `{M}` are names, `{T}` things, `{a}`, `{b}`, `{c}` numbers.
/// It is worked as `a op b`, and `op c` for the second step.
struct Story {
    key: &'static str,
    ops: &'static str,
    text: &'static str,
}

const fn story(key: &'static str, ops: &'static str, text: &'static str) -> Story {
    Story { key, ops, text }
}

const ONE_STEP: [Story; 16] = [
    story("find", "+", "{N} has {a} {T}. {N} finds {b} more {T}. How many {T} does {N} have now?"),
    story("two-people", "+", "{N} has {a} {T} and {M} has {b} {T}. How many {T} do they have together?"),
    story(
        "two-days",
        "+",
        "{N} sold {a} {T} on Monday and {b} {T} on Tuesday. How many {T} did {N} sell in all?",
    ),
    story("more-than", "+", "{N} has {a} {T}. {M} has {b} {T} more than {N}. How many {T} does {M} have?"),
    story("give-away", "-", "{N} has {a} {T}. {N} gives {b} {T} to {M}. How many {T} does {N} have left?"),
    story(
        "lost",
        "-",
        "There were {a} {T} in a box. {N} took {b} of them. How many {T} are still in the box?",
    ),
    story(
        "how-many-more",
        "-",
        "{N} has {a} {T} and {M} has {b} {T}. How many more {T} does {N} have than {M}?",
    ),
    story(
        "still-to-go",
        "-",
        "{N} wants to collect {a} {T} and already has {b}. How many more {T} does {N} need?",
    ),
    story("boxes", "*", "{N} has {a} boxes with {b} {T} in each box. How many {T} does {N} have?"),
    story("daily", "*", "{N} makes {b} {T} every day. How many {T} does {N} make in {a} days?"),
    story("rows", "*", "{N} puts {T} into {a} rows of {b}. How many {T} are there in all?"),
    story("price", "*", "{N} buys {a} {T} for {b} dollars each. How many dollars does {N} pay?"),
    story("share", "/", "{N} shares {a} {T} equally among {b} friends. How many {T} does each friend get?"),
    story("pack", "/", "{N} puts {a} {T} into bags of {b}. How many bags does {N} fill?"),
    story(
        "per-day",
        "/",
        "{N} makes {a} {T} in {b} days, the same number every day. How many {T} is that a day?",
    ),
    story(
        "unit-price",
        "/",
        "{N} pays {a} dollars for {b} {T}, all at the same price. How many dollars does each cost?",
    ),
];

const TWO_STEP: [Story; 13] = [
    story(
        "find-find",
        "++",
        "{N} has {a} {T}. {N} finds {b} {T} and then buys {c} more. How many {T} does {N} have now?",
    ),
    story(
        "find-give",
        "+-",
        "{N} has {a} {T}. {N} buys {b} more {T} and gives {c} {T} to {M}. How many {T} does {N} have left?",
    ),
    story(
        "give-find",
        "-+",
        "{N} has {a} {T}. {N} gives {b} {T} to {M} and then finds {c} {T}. How many {T} does {N} have now?",
    ),
    story(
        "give-give",
        "--",
        "{N} has {a} {T}. {N} gives {b} {T} to {M} and loses {c} {T}. How many {T} does {N} have left?",
    ),
    story(
        "boxes-plus",
        "*+",
        "{N} has {a} boxes with {b} {T} in each box and {c} loose {T}. How many {T} does {N} have?",
    ),
    story(
        "boxes-minus",
        "*-",
        "{N} has {a} boxes with {b} {T} in each box. {N} gives {c} {T} to {M}. How many {T} does {N} have left?",
    ),
    story(
        "change",
        "*-",
        "{N} had to pay for {a} {T} at {b} dollars each, and got {c} dollars off the total. How many dollars did {N} pay?",
    ),
    story(
        "both-days",
        "+*",
        "Every day {N} makes {a} {T} and {M} makes {b} {T}. How many {T} do they make together in {c} days?",
    ),
    story(
        "left-price",
        "-*",
        "{N} had {a} {T}, kept {b} of them and sold the others for {c} dollars each. How many dollars did {N} get?",
    ),
    story(
        "pool-share",
        "+/",
        "{N} has {a} {T} and {M} has {b} {T}. They put them together and share them equally among {c} friends. How many {T} does each friend get?",
    ),
    story(
        "keep-share",
        "-/",
        "{N} has {a} {T}, keeps {b} of them and shares the others equally among {c} friends. How many {T} does each friend get?",
    ),
    story(
        "repack",
        "*/",
        "{N} has {a} bags with {b} {T} in each bag and puts them all into {c} boxes, the same number in each. How many {T} are in each box?",
    ),
    story(
        "share-plus",
        "/+",
        "{N} shares {a} {T} equally among {b} friends. {M}, one of these friends, already had {c} {T}. How many {T} does {M} have now?",
    ),
];

const NAMES: [&str; 24] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo",
    "Maria", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Uma", "Victor", "Wendy", "Yusuf", "Zoe",
];

const THINGS: [&str; 16] = [
    "apples",
    "marbles",
    "books",
    "stickers",
    "pencils",
    "coins",
    "cards",
    "shells",
    "buttons",
    "cookies",
    "flowers",
    "stamps",
    "balloons",
    "candles",
    "postcards",
    "ribbons",
];

/// A problem of one step.
pub(super) fn one_step(draws: &mut Draws, min: i64, max: i64) -> Drawn {
    tell("word", draws.pick(&ONE_STEP), draws, min, max)
}

/// A problem of two steps.
pub(super) fn two_step(draws: &mut Draws, min: i64, max: i64) -> Drawn {
    tell("word2", draws.pick(&TWO_STEP), draws, min, max)
}

fn tell(kind: &str, story: &Story, draws: &mut Draws, min: i64, max: i64) -> Drawn {
    let ops: Vec<char> = story.ops.chars().collect();
    let numbers = numbers(&ops, draws, min.max(2), max);
    let name = draws.below(NAMES.len());
    // Someone else.
    let other = (name + 1 + draws.below(NAMES.len() - 1)) % NAMES.len();
    let things = draws.pick(&THINGS);
    let mut question =
        story.text.replace("{N}", NAMES[name]).replace("{M}", NAMES[other]).replace("{T}", things);
    for (place, n) in ["{a}", "{b}", "{c}"].iter().zip(&numbers) {
        question = question.replace(place, &n.to_string());
    }
    let mut operations: Vec<Operation> = Vec::new();
    for (&op, &right) in ops.iter().zip(&numbers[1..]) {
        let left = operations.last().map_or(numbers[0], |o| o.result);
        operations.push(Operation::new(left, op, right));
    }
    let listed: Vec<String> = numbers.iter().map(i64::to_string).collect();
    let id = format!("{kind}:{}:{}", story.key, listed.join(","));
    Drawn { class: id.clone(), id, question, operations }
}

/// Numbers for `a op b` or `(a op b) op c`: drawn between `low` and `high` where the story allows, and
/// otherwise built backwards from the result.
fn numbers(ops: &[char], draws: &mut Draws, low: i64, high: i64) -> Vec<i64> {
    let mut any = || draws.between(low, high);
    match *ops {
        ['-'] => {
            let (result, b) = (any(), any());
            vec![result + b, b]
        }
        ['/'] => {
            let (result, b) = (any(), any());
            vec![result * b, b]
        }
        [_] => vec![any(), any()],
        ['-', '-'] => {
            let (result, b, c) = (any(), any(), any());
            vec![result + b + c, b, c]
        }
        ['-', '/'] => {
            let (result, b, c) = (any(), any(), any());
            vec![result * c + b, b, c]
        }
        ['*', '/'] => {
            let (factor, b, c) = (any(), any(), any());
            vec![factor * c, b, c]
        }
        ['+', '/'] => {
            let (result, c) = (any(), any());
            let a = draws.between(2, result * c - 2);
            vec![a, result * c - a, c]
        }
        ['-', _] => {
            let (result, b, c) = (any(), any(), any());
            vec![result + b, b, c]
        }
        ['/', _] => {
            let (result, b, c) = (any(), any(), any());
            vec![result * b, b, c]
        }
        [first, '-'] => {
            let (a, b) = (any(), any());
            let value = Operation::new(a, first, b).result;
            vec![a, b, draws.between(low.min(value - 1), high.min(value - 1))]
        }
        _ => vec![any(), any(), any()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TaskData;
    use crate::recipe::Recipe;
    use std::collections::HashSet;

    fn stories(kind: &str, range: &str, n: usize) -> Vec<crate::data::Problem> {
        let text = format!(
            "name = \"a\"\n[model]\nref = \"m\"\n[task]\nkind = \"arithmetic\"\nproblems = \"{kind}\"\n{range}\n[train]\nsteps = 5\n[eval]\nproblems = 0\n"
        );
        TaskData::open_local(&Recipe::from_toml(&text, &[]).unwrap()).unwrap().train_batch(0, n)
    }

    #[test]
    fn stories_are_whole_and_answers_right() {
        for (kind, all) in [("word-one-step", &ONE_STEP[..]), ("word-two-step", &TWO_STEP[..])] {
            let mut seen = HashSet::new();
            for range in ["min = 1\nmax = 20", "min = 2\nmax = 3", "min = 100\nmax = 1000"] {
                for problem in stories(kind, range, 2000) {
                    let parts: Vec<&str> = problem.id.split(':').collect();
                    let story = all.iter().find(|s| s.key == parts[1]).unwrap();
                    seen.insert(story.key);
                    assert!(!problem.question.contains(['{', '}']), "{problem:?}");
                    let numbers: Vec<i64> = parts[2].split(',').map(|n| n.parse().unwrap()).collect();
                    assert_eq!(numbers.len(), story.ops.len() + 1);
                    let words: Vec<&str> = problem.question.split(|c: char| !c.is_alphanumeric()).collect();
                    let mut value = numbers[0];
                    assert!(words.contains(&numbers[0].to_string().as_str()), "{problem:?}");
                    for (op, n) in story.ops.chars().zip(&numbers[1..]) {
                        assert!(words.contains(&n.to_string().as_str()) && *n >= 2, "{problem:?}");
                        assert!(op != '/' || value % n == 0, "{problem:?}");
                        value = Operation::new(value, op, *n).result;
                        assert!(value >= 1, "{problem:?}");
                    }
                    assert_eq!(value.to_string(), problem.gold);
                }
            }
            assert_eq!(seen.len(), all.len(), "every story is told");
        }
    }

    #[test]
    fn stories_differ() {
        for all in [&ONE_STEP[..], &TWO_STEP[..]] {
            let keys: HashSet<&str> = all.iter().map(|s| s.key).collect();
            assert_eq!(keys.len(), all.len());
        }
    }
}
