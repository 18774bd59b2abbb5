//! Figures of results: folders of sweeps, runs and evaluations enter, one SVG, PNG or HTML file leaves. Nothing is trained or
//! measured here, and the same folders give the same bytes.
//!
//! Modules stand in the order in which data flows; a module imports only from modules listed before it (`cargo xtask
//! tidy` checks this).

pub mod options;

pub mod error;

pub mod row;

#[cfg(test)]
mod testing;

pub mod choose;

pub mod gather;

pub mod scale;

pub mod chart;

pub mod figures;

pub mod text;

mod theme;

mod svg;

mod place;

pub mod draw;

mod png;

mod html;

mod output;

pub use error::PlotError;
pub use options::{FigureKind, Interval, Measure, PlotOptions, Unit};
pub use output::{Drawn, Format, plot, render};
