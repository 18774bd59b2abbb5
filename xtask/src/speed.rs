//! A check that the engine has not become twice as slow. Times mean nothing from one machine to the next, so what is
//! compared is the fraction of the machine's own limits, measured in the same run, with the fraction kept for the
//! same kernel and kind of processor in `xtask/speed.json`. A processor that isn't there is told of, no more. Decode of one
//! sequence is not among the measurements: the memory of a shared machine is twice as fast at one time as at another.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Kernels that are looked at, where the processor has them.
const KERNELS: [&str; 4] = ["avx2", "avx512", "avx512-bf16", "amx"];
/// Below this share of the kept fraction something is wrong.
const LEAST: f64 = 0.5;
/// Another program may have disturbed a measurement: the best of so many counts.
const TRIES: usize = 3;

/// Whether fractions are compared with the kept ones or kept.
#[derive(PartialEq, Eq)]
pub enum Kept {
    /// Compared.
    Stored,
    /// Measured anew and written.
    Made,
}

/// Fraction of the limit by name of the measurement.
type Fractions = BTreeMap<String, f64>;

/// Runs the check.
pub fn run(root: &Path, kept: Kept) -> Result<()> {
    let processor = processor();
    println!("processor: {processor}");
    let path = root.join("xtask/speed.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|_| "{}".into());
    let mut stored: BTreeMap<String, Fractions> =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let mut slow = Vec::new();
    for kernel in KERNELS {
        let key = format!("{kernel} on {processor}");
        let wanted = stored.get(&key).cloned().unwrap_or_default();
        if wanted.is_empty() && kept == Kept::Stored {
            println!("{key}: nothing is kept; cargo xtask speed --make measures it");
            continue;
        }
        let mut best = Fractions::new();
        for _ in 0..TRIES {
            let Some(found) = measure(root, kernel)? else { break };
            for (name, fraction) in found {
                let entry = best.entry(name).or_insert(fraction);
                *entry = entry.max(fraction);
            }
            let enough =
                |(name, fraction): (&String, &f64)| *fraction >= LEAST * wanted.get(name).unwrap_or(&0.0);
            if kept == Kept::Stored && best.iter().all(enough) {
                break;
            }
        }
        if best.is_empty() {
            println!("{kernel}: this processor has it not");
            continue;
        }
        for (name, fraction) in &best {
            let before = wanted.get(name);
            let note =
                before.map_or("nothing kept yet".into(), |before| format!("kept {:.0} %", 100.0 * before));
            println!("{kernel:<12} {name:<14} {:>4.0} % of the limit ({note})", 100.0 * fraction);
            if before.is_some_and(|before| *fraction < LEAST * before) {
                slow.push(format!("{kernel} {name}"));
            }
        }
        stored.insert(key, best);
    }
    if kept == Kept::Made {
        // Two digits: more would be noise.
        for fraction in stored.values_mut().flat_map(|fractions| fractions.values_mut()) {
            *fraction = (*fraction * 100.0).round() / 100.0;
        }
        std::fs::write(&path, serde_json::to_string_pretty(&stored)? + "\n")?;
    } else if !slow.is_empty() {
        bail!("less than half of the kept fraction of the limit: {}", slow.join(", "));
    }
    Ok(())
}

/// Maker, family and model, as the system tells them; "unknown" where it doesn't.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let parts = ["vendor_id", "cpu family", "model"].map(value);
    parts.into_iter().collect::<Option<Vec<_>>>().map_or("unknown".into(), |parts| parts.join("-"))
}

/// Fractions of the limits with one kernel; none where the processor lacks it.
fn measure(root: &Path, kernel: &str) -> Result<Option<Fractions>> {
    let mut command = crate::cargo();
    command.args(["run", "--release", "--quiet", "--", "bench", "--random", "smollm2-135m", "--json"]);
    command.args(["--decode", "64", "--sequences", "8", "--no-step", "--repeats", "1"]);
    let output = command.env("TINYLORA_KERNEL", kernel).current_dir(root).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        if said.contains("this processor can run only") {
            return Ok(None);
        }
        bail!("{command:?} ended with {}: {said}", output.status);
    }
    let report: Value = serde_json::from_slice(&output.stdout).context("bench --json")?;
    let rows = report["rows"].as_array().context("bench --json has no rows")?;
    let named = rows.iter().map(|row| {
        let name = format!("{} of {}", row["what"].as_str()?, row["batch"].as_u64()?);
        Some((name, row["fraction_of_peak"].as_f64()?))
    });
    named.collect::<Option<Fractions>>().map(Some).context("a row of bench --json lacks a key")
}
