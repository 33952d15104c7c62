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
    /// What becomes of old records.
    pub cleanup: Cleanup,
    /// Share of a partition's bytes, in thousandths, that was written since it was compacted last and from
    /// which on it is compacted again.
    pub compaction_dirty_permille: u16,
    /// Records younger than this are not compacted. Milliseconds.
    pub compaction_lag_min_ms: u64,
    /// Records older than this are compacted whatever their share, once their segment is sealed; `None` =
    /// never. Milliseconds.
    pub compaction_lag_max_ms: Option<u64>,
    /// How long deletes stay once compaction has met them. Milliseconds.
    pub tombstone_time_ms: u64,
}

/// What becomes of old records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cleanup {
    /// Retention removes them.
    #[default]
    Delete,
    /// The last record of each key stays.
    Compact,
    /// Both.
    CompactDelete,
}

impl Cleanup {
    #[must_use]
    pub fn compacts(self) -> bool {
        self != Cleanup::Delete
    }

    #[must_use]
    pub fn deletes(self) -> bool {
        self != Cleanup::Compact
    }

    fn parse(value: &str) -> Option<Cleanup> {
        let mut parts: Vec<&str> = value.split(',').map(str::trim).collect();
        parts.sort_unstable();
        match parts[..] {
            ["delete"] => Some(Cleanup::Delete),
            ["compact"] => Some(Cleanup::Compact),
            ["compact", "delete"] => Some(Cleanup::CompactDelete),
            _ => None,
        }
    }

    fn show(self) -> &'static str {
        match self {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
            Cleanup::CompactDelete => "compact,delete",
        }
    }
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
            cleanup: Cleanup::Delete,
            compaction_dirty_permille: 500,
            compaction_lag_min_ms: 0,
            compaction_lag_max_ms: None,
            tombstone_time_ms: DAY_MS,
        }
    }
}

/// Every key, in order.
pub const KEYS: [&str; 11] = [
    "acks",
    "batch_bytes_max",
    "cleanup",
    "compaction_dirty_ratio",
    "compaction_lag_max",
    "compaction_lag_min",
    "retention_bytes",
    "retention_time",
    "segment_bytes",
    "timestamps",
    "tombstone_time",
];

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
            other => return self.set_compaction(other, value),
        }
        Ok(())
    }

    fn set_compaction(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        let defaults = Settings::default();
        let reset = value == "default";
        match key {
            "cleanup" if reset => self.cleanup = defaults.cleanup,
            "cleanup" => {
                self.cleanup = Cleanup::parse(value).ok_or_else(|| {
                    invalid(format!("cleanup is {value}: use delete, compact or compact,delete"))
                })?;
            }
            "compaction_dirty_ratio" if reset => {
                self.compaction_dirty_permille = defaults.compaction_dirty_permille;
            }
            "compaction_dirty_ratio" => self.compaction_dirty_permille = permille(key, value)?,
            "compaction_lag_max" if reset => self.compaction_lag_max_ms = defaults.compaction_lag_max_ms,
            "compaction_lag_max" if value == "unlimited" => self.compaction_lag_max_ms = None,
            "compaction_lag_max" => {
                self.compaction_lag_max_ms = Some(time_within(key, value, 1, 36_500 * DAY_MS)?);
            }
            "compaction_lag_min" if reset => self.compaction_lag_min_ms = defaults.compaction_lag_min_ms,
            "compaction_lag_min" => {
                self.compaction_lag_min_ms = time_of(key, value, (0, 36_500 * DAY_MS), "")?;
            }
            "tombstone_time" if reset => self.tombstone_time_ms = defaults.tombstone_time_ms,
            "tombstone_time" => self.tombstone_time_ms = time_of(key, value, (0, 36_500 * DAY_MS), "")?,
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
            self.cleanup.show().to_owned(),
            show_permille(self.compaction_dirty_permille),
            self.compaction_lag_max_ms.map_or_else(unlimited, show_time),
            show_time(self.compaction_lag_min_ms),
            self.retention_bytes.map_or_else(unlimited, show_bytes),
            self.retention_time_ms.map_or_else(unlimited, show_time),
            show_bytes(self.segment_bytes),
            match self.timestamps {
                Timestamps::Producer => "producer".to_owned(),
                Timestamps::Broker => "broker".to_owned(),
            },
            show_time(self.tombstone_time_ms),
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
    time_of(key, text, (min, max), ", or `unlimited`")
}

fn time_of(key: &str, text: &str, (min, max): (u64, u64), or: &str) -> Result<u64, Refusal> {
    let value = parse_duration(text).map_err(|why| invalid(format!("{key}: {why}{or}")))?;
    let value = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(invalid(format!("{key} is {text}: use {} to {}{or}", show_time(min), show_time(max))))
}

/// A number from 0 to 1 in thousandths; what is finer is rounded.
fn permille(key: &str, text: &str) -> Result<u16, Refusal> {
    let value: Option<f64> = text.trim().parse().ok();
    match value.filter(|value| (0.0..=1.0).contains(value)) {
        Some(value) => Ok((value * 1000.0).round() as u16),
        None => Err(invalid(format!("{key} is {text}: use a number from 0 to 1"))),
    }
}

fn show_permille(permille: u16) -> String {
    let text = format!("{}.{:03}", permille / 1000, permille % 1000);
    let text = text.trim_end_matches('0');
    text.strip_suffix('.').map_or_else(|| text.to_owned(), |whole| format!("{whole}.0"))
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
            ("cleanup", "delete, compact"),
            ("compaction_dirty_ratio", "0.125"),
            ("compaction_lag_min", "0s"),
            ("compaction_lag_max", "2h"),
            ("tombstone_time", "36h"),
        ])
        .unwrap();
        assert_eq!(settings.retention_time_ms, Some(5_400_000));
        assert_eq!(settings.retention_bytes, Some(10 << 30));
        assert_eq!(settings.batch_bytes_max, 1_000_000);
        let shown = settings.show();
        assert_eq!(shown[7], ("retention_time".into(), "90m".into()));
        assert_eq!(shown[2], ("cleanup".into(), "compact,delete".into()));
        assert_eq!(shown[3].1, "0.125");
        assert!(settings.cleanup.compacts() && settings.cleanup.deletes());
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
            ("cleanup", "none", "compact,delete"),
            ("compaction_dirty_ratio", "1.5", "from 0 to 1"),
            ("compaction_lag_min", "unlimited", "7d"),
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
