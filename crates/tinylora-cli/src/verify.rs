//! `tinylora verify`: a gold answer and a prediction enter, or lines of such pairs; verdicts leave.

use crate::args::VerifyArgs;
use crate::failure::Usage;
use crate::{interrupt, messages};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::io::{BufWriter, Write};
use tinylora_verify::{Explanation, FUEL, Gold, Prediction, Scorer, explain, verify};

/// One line of `--batch`.
#[derive(Debug, PartialEq, Deserialize)]
struct Pair {
    gold: String,
    prediction: String,
}

/// Runs the command.
pub fn run(args: &VerifyArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    let scorer = scorer(args.scorer.as_deref())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match (&args.batch, &args.gold, &args.prediction) {
        (Some(file), _, _) => {
            let name = file.display().to_string();
            for pair in pairs(&name, &messages::read(file)?)? {
                let verdict = verify(scorer, Gold(&pair.gold), Prediction(&pair.prediction));
                writeln!(out, "{{\"verdict\": \"{}\"}}", verdict.name())?;
            }
        }
        (None, Some(gold), Some(prediction)) => {
            let told = explain(scorer, Gold(gold), Prediction(prediction), FUEL);
            if args.explain {
                write!(out, "{}", explained(scorer, &told))?;
            } else {
                writeln!(out, "{}", told.verdict.name())?;
            }
        }
        _ => return Err(Usage("give --gold and --prediction, or --batch".into()).into()),
    }
    Ok(out.flush()?)
}

/// The scorer of a name; the default one without a name.
fn scorer(name: Option<&str>) -> Result<Scorer> {
    let Some(name) = name else { return Ok(Scorer::default()) };
    Scorer::from_name(name).ok_or_else(|| {
        let names = Scorer::ALL.map(Scorer::name).join(", ");
        Usage(format!("there is no scorer `{name}`; there are {names}")).into()
    })
}

/// The pairs of a file; an error names the first line that is none.
fn pairs(name: &str, text: &str) -> Result<Vec<Pair>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let pairs: Result<Vec<Pair>> = lines
        .map(|(index, line)| {
            let place = || format!("{name}, line {}", index + 1);
            let value: serde_json::Value =
                serde_json::from_str(line).context("not valid JSON").with_context(place)?;
            serde_json::from_value(value).map_err(|_| {
                anyhow::anyhow!(
                    "{}: expected {{\"gold\": \"…\", \"prediction\": \"…\"}}, both texts",
                    place()
                )
            })
        })
        .collect();
    let pairs = pairs?;
    if pairs.is_empty() {
        bail!("{name}: there is no line in it");
    }
    Ok(pairs)
}

fn explained(scorer: Scorer, told: &Explanation) -> String {
    let reading =
        |text: &str| if text.is_empty() { String::new() } else { format!("\n  read as     {text}") };
    format!(
        "{}\n  scorer      {}\n  gold        {}{}\n  prediction  {}{}\n  because     {}\n",
        told.verdict.name(),
        scorer.name(),
        told.gold,
        reading(&told.gold_reading),
        told.prediction,
        reading(&told.prediction_reading),
        told.rule
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scorers_by_name() {
        assert_eq!(scorer(None).unwrap(), Scorer::Robust);
        assert_eq!(scorer(Some("math-verify")).unwrap(), Scorer::MathVerify);
        let error = scorer(Some("mathverify")).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("robust, qwen"), "{error}");
    }

    #[test]
    fn lines_that_are_no_pairs_are_named() {
        let good = "{\"gold\": \"1\", \"prediction\": \"2\"}\n\n";
        assert_eq!(pairs("a.jsonl", good).unwrap(), [Pair { gold: "1".into(), prediction: "2".into() }]);
        let told = |text: &str| format!("{:#}", pairs("a.jsonl", text).unwrap_err());
        assert!(told(&format!("{good}{{\"gold\": 1}}")).starts_with("a.jsonl, line 3: expected"));
        assert!(told("x").starts_with("a.jsonl, line 1: not valid JSON"));
        assert_eq!(told("\n"), "a.jsonl: there is no line in it");
    }

    #[test]
    fn an_explanation_tells_what_was_read() {
        let told = explain(Scorer::Robust, Gold("1/2"), Prediction("\\boxed{0.5}"), FUEL);
        let text = explained(Scorer::Robust, &told);
        assert!(
            text.starts_with("equal\n") && text.contains("in a box") && text.contains("the same value"),
            "{text}"
        );
    }
}
