//! `tinylora adapter diff | average | interpolate`: adapters of one specification enter, their difference is printed or
//! a new adapter is written.

use crate::draw;
use crate::failure::Usage;
use crate::screen::stdout_style;
use anyhow::Result;
use std::path::Path;
use tinylora::adapter::{AnyAdapter, difference, load, mix};
use tinylora::atomic_file;

/// More numbers than this are not listed.
const MOST_LISTED: usize = 64;

/// `tinylora adapter diff`
pub fn diff(first: &str, second: &str) -> Result<()> {
    let (a, b) = (load(first)?, load(second)?);
    let difference = difference((first, &a), (second, &b))?;
    let style = stdout_style();
    let most = draw::largest(&difference.values);
    for (index, (&value, (a, b))) in
        difference.values.iter().zip(a.v().iter().zip(b.v())).take(MOST_LISTED).enumerate()
    {
        let bar = draw::sideways(value, most, 20, style);
        println!("  {index:>4}  {a:>+12.6}  {b:>+12.6}  {value:>+12.6}  {bar}");
    }
    if difference.values.len() > MOST_LISTED {
        println!("  … {} more", difference.values.len() - MOST_LISTED);
    }
    let cosine = difference.cosine.map_or("none, one is 0".to_owned(), |cosine| format!("{cosine:.6}"));
    println!(
        "  |A| = {:.6}, |B| = {:.6}, |B − A| = {:.6}, cosine {cosine}",
        difference.first_norm, difference.second_norm, difference.distance
    );
    Ok(())
}

/// `tinylora adapter average`
pub fn average(files: &[String], out: &Path) -> Result<()> {
    let weight = 1.0 / files.len() as f64;
    let loaded: Result<Vec<AnyAdapter>, _> = files.iter().map(|file| load(file)).collect();
    let loaded = loaded?;
    let parts: Vec<(&str, &AnyAdapter, f64)> =
        files.iter().zip(&loaded).map(|(name, adapter)| (name.as_str(), adapter, weight)).collect();
    write(&mix(&parts, &format!("average of {}", files.len()))?, out)
}

/// `tinylora adapter interpolate`
pub fn interpolate(first: &str, second: &str, at: f64, out: &Path) -> Result<()> {
    if !at.is_finite() {
        return Err(Usage(format!("--at {at}: it must be a finite number")).into());
    }
    let (a, b) = (load(first)?, load(second)?);
    let parts = [(first, &a, 1.0 - at), (second, &b, at)];
    write(&mix(&parts, &format!("interpolation at {at}"))?, out)
}

fn write(adapter: &AnyAdapter, out: &Path) -> Result<()> {
    atomic_file::write(out, &adapter.to_bytes()?)?;
    println!("{}", out.display());
    Ok(())
}
