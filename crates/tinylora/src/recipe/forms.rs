//! Values with a form of their own: a byte count ("8 GiB" or a number), a tying factor (a number or "all"), and
//! decimals as they were written. TOML values enter and leave; nothing else is known here.

/// A byte count: a whole number, or text such as `"8 GiB"`, `"1.5GB"`, `"512 MiB"`.
pub(super) mod bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const UNITS: [(&str, u64); 9] = [
        ("b", 1),
        ("kb", 1000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
    ];
    // TOML's whole numbers end at 2⁶³ − 1.
    const LARGEST: u64 = i64::MAX as u64;

    /// Writes the number in the largest binary unit that divides it.
    pub fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        for (unit, name) in [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if *value > 0 && value.is_multiple_of(unit) {
                return s.serialize_str(&format!("{} {name}", value / unit));
            }
        }
        s.serialize_u64(*value)
    }

    /// Reads a number or text.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number of bytes or text such as \"8 GiB\"")]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(d)? {
            Form::Number(n) if n <= LARGEST => Ok(n),
            Form::Number(n) => Err(D::Error::custom(format!("{n} bytes are more than {LARGEST}"))),
            Form::Text(text) => parse(&text).map_err(D::Error::custom),
        }
    }

    fn parse(text: &str) -> Result<u64, String> {
        let refuse = |why: &str| {
            format!("\"{text}\" {why}: expected a number and B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")
        };
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let number: f64 = trimmed[..end].parse().map_err(|_| refuse("does not start with a number"))?;
        let unit = trimmed[end..].trim().to_lowercase();
        let factor = match unit.as_str() {
            "" => 1,
            unit => {
                UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| refuse("has no known unit"))?.1
            }
        };
        let bytes = number * factor as f64;
        if bytes >= LARGEST as f64 {
            return Err(refuse("is too large"));
        }
        Ok(bytes.round() as u64)
    }

    #[cfg(test)]
    mod tests {
        use super::parse;

        #[test]
        fn units() {
            assert_eq!(parse("8 GiB"), Ok(8 << 30));
            assert_eq!(parse(" 1.5gb "), Ok(1_500_000_000));
            assert_eq!(parse("512MiB"), Ok(512 << 20));
            assert_eq!(parse("123"), Ok(123));
            for bad in ["", "GiB", "8 GiBs", "-1 GiB", "1e3", "1.2.3 MB", "99999999 TiB", "8 G"] {
                assert!(parse(bad).is_err(), "{bad}");
            }
        }
    }
}

/// A tying factor: a number from 1, or `"all"`, which is 0 in memory.
pub(super) mod n_tie {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the number, or "all" for 0.
    pub fn serialize<S: Serializer>(value: &usize, s: S) -> Result<S::Ok, S::Error> {
        match value {
            0 => s.serialize_str("all"),
            n => s.serialize_u64(*n as u64),
        }
    }

    /// Reads a number or "all".
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
        const EXPECTED: &str = "expected a whole number from 1, or \"all\"";
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a whole number from 1, or \"all\"")]
        enum Form {
            Number(u32),
            Text(String),
        }
        match Form::deserialize(d)? {
            Form::Number(0) => Err(D::Error::custom(format!("0: {EXPECTED}"))),
            Form::Number(n) => Ok(n as usize),
            Form::Text(text) if text == "all" => Ok(0),
            Form::Text(text) => Err(D::Error::custom(format!("\"{text}\": {EXPECTED}"))),
        }
    }
}

/// The number that the recipe's author wrote: 0.999 as f32 is 0.99900001, and 1 − β₂ᵗ of the first steps would
/// be off by 1e-5. The shortest decimal of the f32, read as f64.
pub(crate) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}
