//! `tinylora serve`: options enter; requests are answered over HTTP until Ctrl-C.

use crate::failure::Usage;
use crate::loading::LoadingDisplay;
use crate::open;
use crate::precision::{DeviceArg, Dtype, NumericsArg};
use crate::screen::Screen;
use anyhow::Result;
use clap::Args;
use tinylora::hub::HubOptions;
use tinylora_serve::{News, ServeOptions};

/// `tinylora serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The model: a short name, org/name, a folder or a .gguf file (see tinylora --help)
    #[arg(long, value_name = "REF")]
    pub model: String,
    /// An adapter on it, asked for by its name; may be given several times
    #[arg(long, value_name = "NAME=FILE")]
    pub adapter: Vec<String>,
    /// Precision of the weights in memory
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    /// exact: the same bits on every processor; fast: a KV cache in 16 bits, and bf16 products where it has them (activations are rounded)
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = NumericsArg::Exact)]
    pub numerics: NumericsArg,
    /// cpu, cuda (an NVIDIA GPU) or auto (a GPU if there is one) [default: TINYLORA_DEVICE, else cpu]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "DEVICE")]
    pub device: Option<DeviceArg>,
    /// Address to listen at
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen at; 0: any free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
}

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
