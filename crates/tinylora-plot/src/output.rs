//! Folders and a file's name enter, the file leaves, whole or not at all.

use crate::error::PlotError;
use crate::figures::{Figures, make};
use crate::gather::{Results, read};
use crate::options::{FigureKind, PlotOptions};
use crate::{draw, html, png};
use std::path::{Path, PathBuf};
use tinylora::atomic_file;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A drawing as text.
    Svg,
    /// The same as pixels.
    Png,
    /// A page with drawings and tables.
    Html,
}

impl Format {
    /// By the end of the file's name.
    pub fn of(path: &Path) -> Result<Self, PlotError> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            Some("html" | "htm") => Ok(Self::Html),
            _ => Err(PlotError::Extension { path: path.into() }),
        }
    }
}

/// What was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The figures, in order.
    pub figures: Vec<FigureKind>,
    /// What a reader of them should know.
    pub notes: Vec<String>,
}

/// Reads the folders and writes the file.
pub fn plot(folders: &[PathBuf], out: &Path, options: &PlotOptions) -> Result<Drawn, PlotError> {
    let format = Format::of(out)?;
    let results = read(folders)?;
    let figures = make(&results, options)?;
    atomic_file::write(out, &render(&figures, &results, format, options)?)?;
    Ok(Drawn { figures: figures.figures.iter().map(|figure| figure.kind).collect(), notes: figures.notes })
}

/// The file's bytes.
pub fn render(
    figures: &Figures,
    results: &Results,
    format: Format,
    options: &PlotOptions,
) -> Result<Vec<u8>, PlotError> {
    let title = options.title.as_deref();
    if format == Format::Html {
        return Ok(html::render(figures, results, title.unwrap_or("Results")).into_bytes());
    }
    let drawing = draw::picture(&figures.figures, title);
    let titles: Vec<&str> = figures.figures.iter().map(|figure| figure.title.as_str()).collect();
    let captions: Vec<&str> = figures.figures.iter().map(|figure| figure.caption.as_str()).collect();
    let svg = draw::file(&drawing, title.unwrap_or(&titles.join("; ")), &captions.join(" "));
    if format == Format::Svg {
        return Ok(svg.into_bytes());
    }
    png::render(&svg, if options.scale > 0.0 { options.scale } else { PlotOptions::SCALE })
}
