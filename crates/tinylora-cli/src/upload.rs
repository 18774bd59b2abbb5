//! `tinylora adapter upload`: an adapter and the folder of its run enter, one commit on the Hub leaves; with --dry-run
//! its files are shown instead.

use crate::args::UploadArgs;
use crate::convert::standalone;
use crate::failure::Usage;
use crate::format::bytes;
use crate::interrupt;
use crate::loading::LoadingDisplay;
use crate::screen::Screen;
use anyhow::Result;
use std::path::{Path, PathBuf};
use tinylora::adapter::{AnyAdapter, load};
use tinylora::base::Loading;
use tinylora::hub::{self, HubOptions, UploadFile, UploadTarget, cache_dir};
use tinylora::publish::{self, CARD, Publication, RunRecord};
use tinylora::run_folder::SUMMARY_FILE;

/// Runs the command.
pub fn run(args: &UploadArgs) -> Result<()> {
    interrupt::leave_at_once()?;
    let options = HubOptions::from_env();
    let adapter = load(&args.file)?;
    let base_model = base_model(args, &adapter, &options)?;
    if options.token.is_none() && !args.dry_run {
        // Before the base is loaded, which takes a while.
        let (repo, endpoint) = (args.repo.clone(), options.endpoint);
        return Err(hub::HubError::NoToken { repo, endpoint }.into());
    }
    let run = run_of(args, &adapter)?;
    let model = args.model.clone().unwrap_or_else(|| adapter.base().reference.clone());
    let with_factors = standalone(&args.file, adapter.clone(), &model)?;
    let publication = Publication {
        adapter: &adapter,
        standalone: &with_factors,
        run: run.as_ref(),
        base_model: &base_model,
        repo: &args.repo,
    };
    let work = cache_dir(&options).join("uploads").join(std::process::id().to_string());
    if let Some(folder) = work.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let files = publish::files(&publication, &work)?;
    let target = UploadTarget {
        repo: args.repo.clone(),
        revision: args.revision.clone(),
        private: args.private,
        message: args.message.clone().unwrap_or_else(|| "Add a TinyLoRA adapter".to_owned()),
    };
    if args.dry_run {
        print!("{}", preview(&files, &target, &options));
        return Ok(());
    }
    let mut display = LoadingDisplay::new(Screen::stderr());
    let uploaded = hub::upload(&files, &target, &options, &mut |news| display.take(&Loading::Hub(news)));
    display.finish();
    println!("{}", uploaded?.url);
    Ok(())
}

/// The base's name for everybody.
fn base_model(args: &UploadArgs, adapter: &AnyAdapter, options: &HubOptions) -> Result<String> {
    let reference = &adapter.base().reference;
    let given = args.base_model.as_deref().unwrap_or(reference);
    hub::hub_name(given, options).ok_or_else(|| match &args.base_model {
        Some(name) => Usage(format!("--base-model {name}: it must be a name on the Hub, org/name")).into(),
        None => {
            let message = format!(
                "the adapter's base is \"{reference}\", which others can't load: give its name on the Hub as \
                 --base-model org/name"
            );
            Usage(message).into()
        }
    })
}

/// The folder of the run: the one given, or the one in which the adapter stands.
fn run_of(args: &UploadArgs, adapter: &AnyAdapter) -> Result<Option<RunRecord>> {
    let beside = || Path::new(&args.file).parent().map(Path::to_owned);
    let folder: Option<PathBuf> =
        args.run.clone().or_else(|| beside().filter(|folder| folder.join(SUMMARY_FILE).is_file()));
    Ok(folder.map(|folder| publish::read_run(&folder, adapter)).transpose()?)
}

/// What would be sent.
fn preview(files: &[UploadFile], target: &UploadTarget, options: &HubOptions) -> String {
    let visibility = if target.private { ", private if it is made" } else { "" };
    let mut out = format!(
        "one commit to {}/{} at {}{visibility}: \"{}\"\n",
        options.endpoint, target.repo, target.revision, target.message
    );
    for file in files {
        out.push_str(&format!("  {:28} {}\n", file.path, bytes(file.content.len() as u64)));
    }
    if let Some(card) = files.iter().find(|file| file.path == CARD) {
        out.push_str(&format!("\n{CARD}:\n\n{}", String::from_utf8_lossy(&card.content)));
    }
    out
}
