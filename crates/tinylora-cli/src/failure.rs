//! An error enters, what a person reads and the exit status leave.

use tinylora::base::BaseError;
use tinylora::data::{DataError, benchmark::BenchmarkError};
use tinylora::recipe::RecipeError;
use tinylora::run_folder::RunFolderError;
use tinylora::train::TrainError;

/// Exit status: done.
pub const DONE: u8 = 0;
/// Exit status: failed.
pub const FAILED: u8 = 1;
/// Exit status: wrong usage or recipe.
pub const USAGE: u8 = 2;
/// Exit status: interrupted, with the state saved.
pub const INTERRUPTED: u8 = 130;

/// Exit status: whoever read the output wants no more of it; the one of programs that a closed pipe ends.
pub const CLOSED: u8 = 141;

/// Ends the program without a word when standard output or error is a pipe that its reader has closed, as `head` does it.
/// Printing panics there.
pub fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if message.starts_with("failed printing to std") && message.contains("Broken pipe") {
            std::process::exit(i32::from(CLOSED));
        }
        usual(panic);
    }));
}

/// Something in the command line or its environment that must be written differently.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The status of a command that ended with this error.
pub fn status(error: &anyhow::Error) -> u8 {
    let wrong_usage = error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause.is::<RecipeError>()
            || cause.is::<tinylora_compute::KernelError>()
            || cause.downcast_ref().is_some_and(is_recipe_at_fault)
    });
    if wrong_usage { USAGE } else { FAILED }
}

/// Whether the recipe or the command must be written differently for the run to start: settings that only the
/// model or the data could show to be impossible.
fn is_recipe_at_fault(error: &TrainError) -> bool {
    match error {
        TrainError::Base(BaseError::Adapter(_)) | TrainError::Memory(_) => true,
        TrainError::Data(error) => {
            matches!(
                error,
                DataError::HeldOut { .. }
                    | DataError::NothingToTrain { .. }
                    | DataError::Examples { .. }
                    | DataError::Benchmark(BenchmarkError::Examples { .. })
            )
        }
        TrainError::RunFolder(error) => {
            matches!(error, RunFolderError::Taken { .. } | RunFolderError::NoRun { .. })
        }
        _ => false,
    }
}

/// The message with its causes, a line each; a cause that the line above already tells is left out.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    let mut told = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !told.contains(&cause) {
            text.push_str(&format!("\n  because: {cause}"));
            told.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use tinylora::adapter::AdapterError;

    #[test]
    fn usage_and_recipes_are_two_and_the_rest_is_one() {
        assert_eq!(status(&anyhow::anyhow!("broken")), FAILED);
        assert_eq!(status(&Usage("so not".into()).into()), USAGE);
        let recipe = tinylora::recipe::Recipe::from_toml("nane = 'x'", &[]).unwrap_err();
        let error = Err::<(), _>(recipe).context("the recipe").unwrap_err();
        assert_eq!(status(&error), USAGE);
        let adapter = TrainError::Base(BaseError::Adapter(AdapterError::NoTargets));
        assert_eq!(status(&adapter.into()), USAGE);
        let taken = RunFolderError::Taken { path: "runs/a".into(), found: vec!["metrics.jsonl"] };
        assert_eq!(status(&TrainError::RunFolder(taken).into()), USAGE);
    }

    #[test]
    fn causes_are_told_once() {
        let io = std::io::Error::other("disk on fire");
        let error = Err::<(), _>(io).context("cannot write x").context("saving failed").unwrap_err();
        assert_eq!(
            message(&error),
            "error: saving failed\n  because: cannot write x\n  because: disk on fire"
        );
        let told = anyhow::anyhow!("disk on fire").context("cannot write x: disk on fire");
        assert_eq!(message(&told), "error: cannot write x: disk on fire");
    }
}
