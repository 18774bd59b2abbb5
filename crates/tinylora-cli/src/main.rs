//! The `tinylora` command: arguments enter, results leave on standard output, progress and messages on standard
//! error, and an exit status. Everything that it can do the library can do; nothing is computed here.

mod args;
mod bench;
mod benchmark;
mod chat;
mod collect;
mod combine;
mod compare;
mod convert;
mod count;
mod display;
mod draw;
mod eval;
mod eval_text;
mod failure;
mod format;
mod generate;
mod inspect;
mod interrupt;
mod loading;
mod messages;
mod meter;
mod open;
mod plot;
mod precision;
mod report;
mod score;
mod screen;
mod serve;
mod sweep;
mod train;
mod upload;
mod verify;

use args::{AdapterCommand, Cli, Command, ModelCommand};
use clap::Parser;
use std::process::ExitCode;

/// Numbers on cache lines, where kernels are fastest.
#[global_allocator]
static ALLOCATOR: tinylora_compute::CacheLines = tinylora_compute::CacheLines;

fn main() -> ExitCode {
    failure::end_with_the_reader();
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("{}", failure::message(&error));
            ExitCode::from(failure::status(&error))
        }
    }
}

fn run(command: &Command) -> anyhow::Result<u8> {
    match command {
        Command::Train(args) => return train::run(args),
        Command::Sweep(args) => return sweep::run(args),
        Command::Eval(args) => return eval::run(args),
        Command::Collect(args) => return collect::run(args),
        Command::Plot(args) => plot::run(args)?,
        Command::Generate(args) => generate::run(args)?,
        Command::Chat(args) => chat::run(args)?,
        Command::Score(args) => score::run(args)?,
        Command::Verify(args) => verify::run(args)?,
        Command::Serve(args) => serve::run(args)?,
        Command::Bench(args) => bench::run(args)?,
        Command::Adapter(command) => adapter(command)?,
        Command::Model(ModelCommand::Inspect { reference }) => inspect::model(reference)?,
        Command::Model(ModelCommand::Pull { reference }) => inspect::pull(reference)?,
    }
    Ok(failure::DONE)
}

fn adapter(command: &AdapterCommand) -> anyhow::Result<()> {
    match command {
        AdapterCommand::Inspect { file } => inspect::adapter(file),
        AdapterCommand::Export(args) => convert::export(args),
        AdapterCommand::Count(args) => count::run(args),
        AdapterCommand::Upload(args) => upload::run(args),
        AdapterCommand::Import { folder, model, out } => convert::import(folder, model, out),
        AdapterCommand::Diff { first, second } => combine::diff(first, second),
        AdapterCommand::Average { files, out } => combine::average(files, out),
        AdapterCommand::Interpolate { first, second, at, out } => {
            combine::interpolate(first, second, *at, out)
        }
    }
}
