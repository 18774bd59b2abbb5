//! Values enter, axes leave: their range, where their ticks are and what stands at them.

/// How values become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By logarithm.
    Log,
    /// Names at 0, 1, 2, …
    Names,
}

/// An axis with its ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it measures, with the unit.
    pub label: String,
    /// How.
    pub scale: Scale,
    /// The value at its beginning.
    pub low: f64,
    /// The value at its end; more than `low`.
    pub high: f64,
    /// Places with a text.
    pub ticks: Vec<Tick>,
    /// Places without one.
    pub minor: Vec<f64>,
}

/// A place on an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// The value.
    pub at: f64,
    /// What stands there.
    pub label: String,
}

impl Axis {
    /// Where a value lies, from 0 at the beginning to 1 at the end.
    pub fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear | Scale::Names => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
        }
    }
}

/// A linear axis over the values; at most `most` + 1 ticks. Values that are not finite don't count.
pub fn linear(label: &str, values: &[f64], most: usize) -> Axis {
    let (min, max) = extent(values, |value| value.is_finite()).unwrap_or((0.0, 1.0));
    let span = if max > min { max - min } else { max.abs().max(1.0) * 0.2 };
    // Zero belongs to it where it is near.
    let from_zero = min >= 0.0 && min <= 0.5 * max || min == 0.0;
    let low = if from_zero { 0.0 } else { min - 0.07 * span };
    let high = if max <= 0.0 && min < 0.0 && max >= 0.5 * min { 0.0 } else { max + 0.07 * span };
    with_ticks(label, low, high, most)
}

/// An axis of percentages, never beyond 0 and 100.
pub fn percent(label: &str, values: &[f64], most: usize) -> Axis {
    let axis = linear(label, values, most);
    let high = if axis.high > 100.0 { 100.0 } else { axis.high };
    // All values at 0: some height all the same.
    let high = if high <= 1.0 { 1.0 } else { high };
    with_ticks(label, axis.low.clamp(0.0, high - 1e-3), high, most)
}

/// An axis of whole numbers from 0 or 1, without room at its ends.
pub fn whole(label: &str, values: &[f64], most: usize) -> Axis {
    let (min, max) = extent(values, |value| value.is_finite()).unwrap_or((0.0, 1.0));
    let (low, high) = if max > min { (min.min(1.0), max) } else { (min - 1.0, max + 1.0) };
    let mut axis = with_ticks(label, low, high, most);
    axis.ticks.retain(|tick| tick.at.fract() == 0.0);
    for tick in axis.ticks.iter_mut().filter(|tick| tick.at.abs() < 1e5) {
        tick.label = format!("{:.0}", tick.at).replace('-', "−");
    }
    axis
}

fn with_ticks(label: &str, low: f64, high: f64, most: usize) -> Axis {
    let rough = (high - low) / most.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= 0.9 * rough).unwrap_or(10.0);
    let step = factor * power;
    // Digits after the point that tell neighbours apart.
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    let ticks = (first..=last)
        .map(|i| {
            let at = i as f64 * step;
            let large = at.abs() >= 1e5 || step < 1e-4;
            let label = if i == 0 {
                "0".to_owned()
            } else if large {
                scientific(at)
            } else {
                format!("{at:.digits$}").replace('-', "−")
            };
            Tick { at, label }
        })
        .collect();
    Axis { label: label.into(), scale: Scale::Linear, low, high, ticks, minor: Vec::new() }
}

/// A logarithmic axis over the positive ones of the values, with powers of ten at the ticks, at most `most` of them.
pub fn log(label: &str, values: &[f64], most: usize) -> Axis {
    let (min, max) = extent(values, |value| value.is_finite() && value > 0.0).unwrap_or((1.0, 10.0));
    let decades = (max / min).log10();
    let room = if decades > 0.0 { 10f64.powf((0.07 * decades).clamp(0.06, 0.4)) } else { 10f64.powf(0.5) };
    let (low, high) = ((min / room).max(f64::MIN_POSITIVE), (max * room).min(f64::MAX / 10.0));
    let powers = |step: i64| -> Vec<f64> {
        let (first, last) = ((low.log10() - 1e-9).ceil() as i64, (high.log10() + 1e-9).floor() as i64);
        (first..=last).filter(|i| i.rem_euclid(step) == 0).map(|i| 10f64.powi(i as i32)).collect()
    };
    let mut step = 1;
    let mut at = powers(step);
    while at.len() > most.max(2) {
        step += 1;
        at = powers(step);
    }
    let between: &[f64] = if at.len() < 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    if at.len() < 3 {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let all = (first..=last).flat_map(|i| between.iter().map(move |f| f * 10f64.powi(i)));
        at = all.filter(|value| (low..=high).contains(value)).collect();
    }
    if at.len() < 2 {
        at = distinct(values);
        at.truncate(most.max(1));
    }
    let ticks = at.iter().map(|&at| Tick { at, label: count(at) }).collect();
    let minor = if step == 1 && decades < 7.0 { between_powers(low, high) } else { Vec::new() };
    Axis { label: label.into(), scale: Scale::Log, low, high, ticks, minor }
}

/// A logarithmic axis with a tick at each of the values, written `4e-3`; for more than `most` of them at powers of ten.
pub fn rates(label: &str, values: &[f64], most: usize) -> Axis {
    let axis = log(label, values, most);
    let at = distinct(values);
    let at = if at.len() <= most { at } else { axis.ticks.iter().map(|tick| tick.at).collect() };
    let ticks = at.into_iter().map(|at| Tick { at, label: scientific(at) }).collect();
    Axis { ticks, minor: Vec::new(), ..axis }
}

/// Names side by side.
pub fn names(label: &str, names: &[String]) -> Axis {
    let ticks = names.iter().enumerate().map(|(i, name)| Tick { at: i as f64, label: name.clone() });
    let high = names.len() as f64 - 0.5;
    Axis {
        label: label.into(),
        scale: Scale::Names,
        low: -0.5,
        high: high.max(0.5),
        ticks: ticks.collect(),
        minor: Vec::new(),
    }
}

/// 1, 13, 1k, 134.5M, 7B
pub fn count(value: f64) -> String {
    if !(1.0..1e15).contains(&value) {
        return scientific(value);
    }
    const UNITS: [&str; 5] = ["", "k", "M", "B", "T"];
    let (mut value, mut unit) = (value, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit > 0 && value < 10.0 { 2 } else { 1 };
    format!("{}{}", trimmed(format!("{value:.digits$}")), UNITS[unit])
}

/// `4e-3`, `1.2e-2`, with at most three digits.
pub fn scientific(value: f64) -> String {
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trimmed(mantissa.to_owned())),
        None => text,
    }
}

/// Without zeros at the end of decimals.
fn trimmed(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// In order, each once; those that differ by rounding alone are one.
pub fn distinct(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.dedup_by(|a, b| (*a - *b).abs() <= 1e-7 * b.abs());
    values
}

fn between_powers(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(|i| (2..10).map(move |digit| f64::from(digit) * 10f64.powi(i)));
    all.filter(|value| (low..=high).contains(value)).collect()
}

fn extent(values: &[f64], counts: impl Fn(f64) -> bool) -> Option<(f64, f64)> {
    values.iter().copied().filter(|value| counts(*value)).fold(None, |extent, value| match extent {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> String {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(&linear("", &[0.2, 9.7], 5)), "0 2 4 6 8 10");
        assert_eq!(labels(&linear("", &[91.2, 92.4], 4)), "91.5 92.0");
        assert_eq!(labels(&percent("", &[40.0, 100.0], 5)), "0 20 40 60 80 100");
        assert_eq!(labels(&percent("", &[0.0, 0.0], 5)), "0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(labels(&linear("", &[-0.4, 0.5], 4)), "0 0.5");
        assert_eq!(labels(&whole("", &[1.0, 12.0], 5)), "2 4 6 8 10 12");
        assert_eq!(labels(&log("", &[1.0, 196.0], 6)), "1 10 100");
        assert_eq!(labels(&log("", &[1.0, 7.6e9], 6)), "1 100 10k 1M 100M 10B");
        assert_eq!(labels(&log("", &[30.0, 120.0], 6)), "50 100");
        assert_eq!(labels(&rates("", &[0.012000000104308128, 0.012, 1e-7], 6)), "1e-7 1.2e-2");
    }

    #[test]
    fn odd_values_make_an_axis_all_the_same() {
        let odd: [&[f64]; 6] = [&[], &[f64::NAN], &[5.0], &[0.0], &[f64::INFINITY, 1.0], &[1e-300, 1e300]];
        for values in odd {
            for axis in
                [linear("", values, 5), percent("", values, 5), whole("", values, 5), log("", values, 5)]
            {
                assert!(axis.low < axis.high && axis.low.is_finite() && axis.high.is_finite(), "{axis:?}");
                assert!(axis.ticks.len() <= 12, "{axis:?}");
                assert!(
                    axis.ticks.iter().all(|tick| (-1e-6..1.000_001).contains(&axis.place(tick.at))),
                    "{axis:?}"
                );
            }
        }
        assert_eq!(names("", &[]).high, 0.5);
    }

    #[test]
    fn counts_are_short() {
        for (value, text) in [
            (1.0, "1"),
            (13.0, "13"),
            (999.96, "1k"),
            (100_352.0, "100.4k"),
            (134_515_008.0, "134.5M"),
            (7.6e9, "7.6B"),
        ] {
            assert_eq!(count(value), text);
        }
        assert_eq!(scientific(0.004_000_000_189_989_805), "4e-3");
    }
}
