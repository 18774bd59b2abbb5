//! `tinylora serve`: options enter; requests are answered over HTTP until Ctrl-C.

use crate::args::ServeArgs;
use crate::failure::Usage;
use crate::loading::LoadingDisplay;
use crate::open;
use crate::screen::Screen;
use anyhow::Result;
use tinylora::hub::HubOptions;
use tinylora_serve::{News, ServeOptions};

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<()> {
    let adapters: Result<Vec<(String, String)>> = args.adapter.iter().map(|text| named(text)).collect();
    let options = ServeOptions {
        host: args.host.clone(),
        port: args.port,
        dtype: args.dtype.into(),
        adapters: adapters?,
        ..ServeOptions::new(
            open::device(args.numerics.into(), args.device)?,
            HubOptions::from_env(),
            &args.model,
        )
    };
    let screen = Screen::stderr();
    let mut display = LoadingDisplay::new(screen.clone());
    let served = tinylora_serve::serve(options, &mut |news| match news {
        News::Loading(news) => display.take(&news),
        News::Listening(address) => {
            display.finish();
            screen.print(&format!("listening at http://{address}/v1 (Ctrl-C ends)"));
        }
        News::Stopping => {
            screen.print("finishing the answers that are being written (Ctrl-C again: stop now)")
        }
    });
    display.finish();
    Ok(served?)
}

/// NAME=FILE
fn named(text: &str) -> Result<(String, String)> {
    let parts = text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty());
    let (name, file) = parts.ok_or_else(|| {
        Usage(format!("--adapter {text}: write NAME=FILE, such as sums=runs/quickstart/adapter.tinylora"))
    })?;
    Ok((name.to_owned(), file.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_a_name_and_a_file() {
        assert_eq!(named("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(named("file").is_err() && named("=file").is_err() && named("name=").is_err());
    }
}
