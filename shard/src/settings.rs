//! Settings of a topic: one table of keys with defaults, ranges and text forms. Owns how a setting is written
//! and read by people; must never be consulted for anything but topics.

use std::time::Duration;

use martlet_core::config::{parse_bytes, parse_duration, show_bytes, show_duration};
use martlet_core::limits::{
    BATCH_BYTES_MAX, BATCH_BYTES_MAX_DEFAULT, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};
use martlet_core::{Acks, ErrorCode, Refusal};

/// Effective settings of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Records older than this are removed, whole segments at a time; `None` = never. Milliseconds.
    pub retention_time_ms: Option<u64>,
    /// A partition larger than this loses its oldest segments; `None` = never. Bytes.
    pub retention_bytes: Option<u64>,
    /// Largest body of a batch, bytes.
    pub batch_bytes_max: u32,
    /// What an append without its own level waits for.
    pub acks: Acks,
    /// A segment that reaches this is sealed, bytes.
    pub segment_bytes: u64,
    /// Whose time records have.
    pub timestamps: Timestamps,
}

/// Whose time records have, where the protocol leaves the choice to the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Timestamps {
    #[default]
    Producer,
    Broker,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            retention_time_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            batch_bytes_max: BATCH_BYTES_MAX_DEFAULT,
            acks: Acks::Durable,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            timestamps: Timestamps::Producer,
        }
    }
}

/// Every key, in order.
pub const KEYS: [&str; 6] =
    ["acks", "batch_bytes_max", "retention_bytes", "retention_time", "segment_bytes", "timestamps"];

const DAY_MS: u64 = 24 * 3600 * 1000;

impl Settings {
    /// Defaults changed by `overrides`, later ones winning. The value `default` takes a key back to its
    /// default.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown key, naming the nearest one, or a value out of its range, naming the
    /// range.
    pub fn with<'a>(overrides: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Settings, Refusal> {
        let mut settings = Settings::default();
        for (key, value) in overrides {
            settings.set(key, value)?;
        }
        if u64::from(settings.batch_bytes_max) > settings.segment_bytes {
            return Err(invalid(format!(
                "batch_bytes_max ({}) must not be larger than segment_bytes ({}): raise segment_bytes",
                show_bytes(u64::from(settings.batch_bytes_max)),
                show_bytes(settings.segment_bytes)
            )));
        }
        Ok(settings)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        let defaults = Settings::default();
        let reset = value == "default";
        match key {
            "acks" if reset => self.acks = defaults.acks,
            "acks" => self.acks = value.parse().map_err(invalid)?,
            "batch_bytes_max" if reset => self.batch_bytes_max = defaults.batch_bytes_max,
            "batch_bytes_max" => {
                let bytes = bytes_within(key, value, 1, u64::from(BATCH_BYTES_MAX))?;
                self.batch_bytes_max = u32::try_from(bytes).unwrap_or(BATCH_BYTES_MAX);
            }
            "retention_bytes" if reset => self.retention_bytes = defaults.retention_bytes,
            "retention_bytes" if value == "unlimited" => self.retention_bytes = None,
            "retention_bytes" => self.retention_bytes = Some(bytes_within(key, value, 0, 1 << 60)?),
            "retention_time" if reset => self.retention_time_ms = defaults.retention_time_ms,
            "retention_time" if value == "unlimited" => self.retention_time_ms = None,
            "retention_time" => {
                self.retention_time_ms = Some(time_within(key, value, 1, 36_500 * DAY_MS)?);
            }
            "segment_bytes" if reset => self.segment_bytes = defaults.segment_bytes,
            "segment_bytes" => {
                self.segment_bytes = bytes_within(key, value, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?;
            }
            "timestamps" if reset || value == "producer" => self.timestamps = Timestamps::Producer,
            "timestamps" if value == "broker" => self.timestamps = Timestamps::Broker,
            "timestamps" => return Err(invalid(format!("timestamps is {value}: use producer or broker"))),
            unknown => return Err(unknown_key(unknown)),
        }
        Ok(())
    }

    /// Every key with its effective value, in the order of the keys.
    #[must_use]
    pub fn show(&self) -> Vec<(String, String)> {
        let unlimited = || "unlimited".to_owned();
        let values = [
            self.acks.to_string(),
            show_bytes(u64::from(self.batch_bytes_max)),
            self.retention_bytes.map_or_else(unlimited, show_bytes),
            self.retention_time_ms.map_or_else(unlimited, show_time),
            show_bytes(self.segment_bytes),
            match self.timestamps {
                Timestamps::Producer => "producer".to_owned(),
                Timestamps::Broker => "broker".to_owned(),
            },
        ];
        KEYS.iter().map(|key| (*key).to_owned()).zip(values).collect()
    }
}

/// Overrides of a topic after `changes`: sorted by key, without those that were taken back to the default.
///
/// # Errors
/// As [`Settings::with`] of the result.
pub fn merge(
    old: &[(String, String)],
    changes: &[(String, String)],
) -> Result<(Vec<(String, String)>, Settings), Refusal> {
    let mut merged: std::collections::BTreeMap<&str, &str> =
        old.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    for (key, value) in changes {
        if !KEYS.contains(&key.as_str()) {
            return Err(unknown_key(key));
        }
        if value == "default" {
            merged.remove(key.as_str());
        } else {
            merged.insert(key, value);
        }
    }
    let settings = Settings::with(merged.iter().map(|(key, value)| (*key, *value)))?;
    Ok((merged.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(), settings))
}

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidArgument, detail)
}

fn unknown_key(key: &str) -> Refusal {
    let shown: String = key.chars().take(64).collect();
    let nearest = KEYS.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &shown));
    invalid(format!(
        "unknown setting `{}`: did you mean `{}`? known are {}",
        shown.escape_debug(),
        nearest.unwrap_or(&KEYS[0]),
        KEYS.join(", ")
    ))
}

fn bytes_within(key: &str, text: &str, min: u64, max: u64) -> Result<u64, Refusal> {
    let value = parse_bytes(text).map_err(|why| invalid(format!("{key}: {why}")))?;
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(invalid(format!("{key} is {text}: use {} to {}", show_bytes(min), show_bytes(max))))
}

fn time_within(key: &str, text: &str, min: u64, max: u64) -> Result<u64, Refusal> {
    let value = parse_duration(text).map_err(|why| invalid(format!("{key}: {why}, or `unlimited`")))?;
    let value = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(invalid(format!("{key} is {text}: use {} to {}, or `unlimited`", show_time(min), show_time(max))))
}

fn show_time(ms: u64) -> String {
    show_duration(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_sizes_and_durations_are_read_and_shown() {
        let settings = Settings::with([
            ("retention_time", "1h30m"),
            ("retention_bytes", "10 gib"),
            ("batch_bytes_max", "1MB"),
            ("acks", "memory"),
            ("segment_bytes", "64MiB"),
            ("timestamps", "broker"),
        ])
        .unwrap();
        assert_eq!(settings.retention_time_ms, Some(5_400_000));
        assert_eq!(settings.retention_bytes, Some(10 << 30));
        assert_eq!(settings.batch_bytes_max, 1_000_000);
        let shown = settings.show();
        assert_eq!(shown[3], ("retention_time".into(), "90m".into()));
        assert_eq!(shown[1].1, "1MB");
        assert_eq!(Settings::with([("retention_time", "unlimited")]).unwrap().retention_time_ms, None);
        let again = Settings::with(shown.iter().map(|(k, v)| (k.as_str(), v.as_str()))).unwrap();
        assert_eq!(again, settings);
    }

    #[test]
    fn bad_settings_are_refused_with_the_remedy() {
        for (key, value, hint) in [
            ("retention_tiem", "1d", "`retention_time`"),
            ("batch_bytes_max", "17MiB", "16MiB"),
            ("batch_bytes_max", "-1", "64MiB"),
            ("acks", "all", "durable"),
            ("retention_time", "1 fortnight", "7d"),
            ("retention_time", "0s", "1ms"),
            ("retention_bytes", "99999999999TiB", "too large"),
            ("segment_bytes", "", "64MiB"),
            ("timestamps", "mine", "producer or broker"),
        ] {
            let refusal = Settings::with([(key, value)]).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::InvalidArgument);
            assert!(refusal.detail.contains(hint), "{key}={value}: {}", refusal.detail);
        }
        assert!(Settings::with([("segment_bytes", "1MiB")]).unwrap_err().detail.contains("raise segment"));
    }

    #[test]
    fn overrides_merge_and_go_back_to_default() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let (first, _) = merge(&[], &[pair("retention_time", "1d"), pair("acks", "none")]).unwrap();
        let (second, settings) = merge(&first, &[pair("acks", "default")]).unwrap();
        assert_eq!(second, [pair("retention_time", "1d")]);
        assert_eq!(settings.acks, Acks::Durable);
        assert!(merge(&first, &[pair("x", "default")]).is_err());
    }
}
