//! Sizes and durations as people write them: `64MiB`, `1GB`, `10s`, `7d`. Must never round silently.

use std::time::Duration;

const BYTE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const TIME_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 7 * 86_400_000)];

/// Bytes from a number with a unit: B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024),
/// in any case; a bare number is bytes.
///
/// # Errors
/// A sentence with the forms that are understood.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text).ok_or_else(|| bad_size(text))?;
    let factor = if unit.is_empty() { Some(1) } else { factor_of(BYTE_UNITS, unit, true) };
    number.checked_mul(factor.ok_or_else(|| bad_size(text))?).ok_or_else(|| "the size is too large".into())
}

/// A duration from numbers with units: ms, s, m, h, d, w; several add up, as in `1h30m`.
///
/// # Errors
/// A sentence with the forms that are understood.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("`{text}` is not a duration: write a number with ms, s, m, h, d or w, as in 10s or 7d");
    let mut rest = text.trim();
    let mut milliseconds = 0u64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = rest[digits..unit_end].trim();
        let factor = match factor_of(TIME_UNITS, unit, false) {
            Some(factor) => factor,
            None if unit.is_empty() && number == 0 => 1,
            None => return Err(bad()),
        };
        let part = number.checked_mul(factor).ok_or_else(|| "the duration is too long".to_string())?;
        milliseconds =
            milliseconds.checked_add(part).ok_or_else(|| "the duration is too long".to_string())?;
        rest = rest[unit_end..].trim_start();
    }
    Ok(Duration::from_millis(milliseconds))
}

/// The shortest exact text that [`parse_bytes`] reads back to the same number.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let fits = |&&(_, factor): &&(&str, u64)| bytes >= factor && bytes.is_multiple_of(factor);
    let best = BYTE_UNITS.iter().filter(fits).max_by_key(|(_, factor)| *factor);
    best.map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// The shortest exact text that [`parse_duration`] reads back, in whole milliseconds.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fits = |&&(unit, factor): &&(&str, u64)| {
        unit != "w" && milliseconds >= factor && milliseconds.is_multiple_of(factor)
    };
    let best = TIME_UNITS.iter().filter(fits).max_by_key(|(_, factor)| *factor);
    best.map_or_else(|| "0s".into(), |(unit, factor)| format!("{}{unit}", milliseconds / factor))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim()))
}

fn factor_of(units: &[(&str, u64)], unit: &str, any_case: bool) -> Option<u64> {
    let same = |name: &str| name == unit || (any_case && name.eq_ignore_ascii_case(unit));
    units.iter().find(|(name, _)| same(name)).map(|(_, factor)| *factor)
}

fn bad_size(text: &str) -> String {
    format!(
        "`{text}` is not a size: write a number with B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, as in 64MiB"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_families_of_units() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_bytes(" 5 kib "), Ok(5 << 10));
        assert_eq!(parse_bytes("17"), Ok(17));
        for bad in ["", "MiB", "1.5GiB", "-1", "1 parsec", "99999999999999999999", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_read_and_added_up() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "10", "s", "1.5h", "-1s", "1y", "99999999999999999999s", "9999999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_to_the_same() {
        for bytes in [0, 1, 1000, 1024, 1500, 64 << 20, 1_000_000_000, (1 << 30) + 1, u64::MAX] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }
        assert_eq!(show_bytes(64 << 20), "64MiB");
        for milliseconds in [0, 1, 999, 1000, 60_000, 90_000, 86_400_000, 7 * 86_400_000] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        assert_eq!(show_duration(Duration::from_secs(7 * 86_400)), "7d");
    }
}
