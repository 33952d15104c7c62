//! Settings of topics under Kafka's names. Owns the one table of names, what they are here, and in which form
//! their values are written; what Kafka has and is fixed here is shown with its fixed value.

use martlet_core::config::{parse_bytes, parse_duration};

/// A value's type, as Kafka numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i8)]
pub(crate) enum Type {
    Boolean = 1,
    Text = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    /// The setting of this name, in milliseconds; -1 = unlimited.
    Milliseconds(&'static str),
    /// In bytes; -1 = unlimited.
    Bytes(&'static str),
    TimestampType(&'static str),
    /// In milliseconds; the largest number = unlimited, if it can be.
    Lag(&'static str),
    /// Written alike.
    Same(&'static str),
    /// It cannot be changed.
    Fixed(&'static str),
}

/// A name of Kafka's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) name: &'static str,
    pub(crate) kind: Type,
    meaning: Meaning,
    pub(crate) doc: &'static str,
}

const fn config(name: &'static str, kind: Type, meaning: Meaning, doc: &'static str) -> Config {
    Config { name, kind, meaning, doc }
}

/// Every name that is known, in order.
pub(crate) const CONFIGS: &[Config] = &[
    config("cleanup.policy", Type::List, Meaning::Same("cleanup"), "what becomes of old records"),
    config("compression.type", Type::Text, Meaning::Fixed("producer"), "batches stay as they were sent"),
    config("delete.retention.ms", Type::Long, Meaning::Lag("tombstone_time"), "how long deletes stay"),
    config("file.delete.delay.ms", Type::Long, Meaning::Fixed("0"), "space is given back at once"),
    config("flush.messages", Type::Long, Meaning::Fixed("1"), "every acknowledged batch is synced"),
    config("flush.ms", Type::Long, Meaning::Fixed("0"), "every acknowledged batch is synced"),
    config(
        "max.compaction.lag.ms",
        Type::Long,
        Meaning::Lag("compaction_lag_max"),
        "age from which on records are compacted",
    ),
    config("max.message.bytes", Type::Int, Meaning::Bytes("batch_bytes_max"), "largest batch"),
    config(
        "message.timestamp.type",
        Type::Text,
        Meaning::TimestampType("timestamps"),
        "whose time records have",
    ),
    config(
        "min.cleanable.dirty.ratio",
        Type::Double,
        Meaning::Same("compaction_dirty_ratio"),
        "share that is not compacted yet",
    ),
    config(
        "min.compaction.lag.ms",
        Type::Long,
        Meaning::Lag("compaction_lag_min"),
        "age up to which nothing is compacted",
    ),
    config("min.insync.replicas", Type::Int, Meaning::Fixed("1"), "one node holds a partition"),
    config("preallocate", Type::Boolean, Meaning::Fixed("false"), "segments grow as they are written"),
    config("retention.bytes", Type::Long, Meaning::Bytes("retention_bytes"), "bytes that are kept"),
    config("retention.ms", Type::Long, Meaning::Milliseconds("retention_time"), "age up to which is kept"),
    config("segment.bytes", Type::Int, Meaning::Bytes("segment_bytes"), "size of a segment"),
    config(
        "unclean.leader.election.enable",
        Type::Boolean,
        Meaning::Fixed("false"),
        "no leader lacks what was acknowledged",
    ),
];

const UNLIMITED: &str = "-1";
const NO_BOUND: &str = "unlimited";

/// The name as it is here.
pub(crate) fn find(name: &str) -> Option<&'static Config> {
    CONFIGS.iter().find(|config| config.name == name)
}

impl Config {
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self.meaning, Meaning::Fixed(_))
    }

    /// The setting it stands for.
    pub(crate) fn setting(&self) -> Option<&'static str> {
        match self.meaning {
            Meaning::Milliseconds(setting)
            | Meaning::Bytes(setting)
            | Meaning::TimestampType(setting)
            | Meaning::Lag(setting)
            | Meaning::Same(setting) => Some(setting),
            Meaning::Fixed(_) => None,
        }
    }

    /// A setting's value in Kafka's form.
    pub(crate) fn show(&self, settings: &[(String, String)]) -> String {
        let value = |setting: &str| {
            settings.iter().find(|(name, _)| name == setting).map_or("", |(_, value)| value.as_str())
        };
        match self.meaning {
            Meaning::Fixed(fixed) => fixed.to_owned(),
            Meaning::Milliseconds(setting) => {
                let duration = parse_duration(value(setting));
                duration.map_or_else(|_| UNLIMITED.to_owned(), |duration| duration.as_millis().to_string())
            }
            Meaning::Bytes(setting) => {
                parse_bytes(value(setting)).map_or_else(|_| UNLIMITED.to_owned(), |bytes| bytes.to_string())
            }
            Meaning::Lag(setting) => {
                let duration = parse_duration(value(setting));
                duration.map_or_else(|_| i64::MAX.to_string(), |duration| duration.as_millis().to_string())
            }
            Meaning::Same(setting) => value(setting).to_owned(),
            Meaning::TimestampType(setting) => match value(setting) {
                "broker" => "LogAppendTime".to_owned(),
                _ => "CreateTime".to_owned(),
            },
        }
    }

    /// A value of Kafka's as a change of a setting; nothing if it is fixed and asked for as it is.
    ///
    /// # Errors
    /// Words for the client.
    pub(crate) fn read(&self, value: &str) -> Result<Option<(String, String)>, String> {
        let number = || {
            let bad = |_| format!("{} is {value:?}: use a whole number, or -1 for no bound", self.name);
            value.trim().parse::<i64>().map_err(bad)
        };
        let change = |setting: &str, value: String| Ok(Some((setting.to_owned(), value)));
        match self.meaning {
            Meaning::Fixed(fixed) if value == fixed => Ok(None),
            Meaning::Fixed(fixed) => Err(format!("{} is {fixed} here and cannot be changed", self.name)),
            Meaning::Milliseconds(setting) => match number()? {
                ..0 => change(setting, NO_BOUND.to_owned()),
                // The shortest time that is kept.
                0 => change(setting, "1ms".to_owned()),
                ms => change(setting, format!("{ms}ms")),
            },
            Meaning::Bytes(setting) => match number()? {
                ..0 => change(setting, NO_BOUND.to_owned()),
                bytes => change(setting, format!("{bytes}B")),
            },
            Meaning::Lag(setting) => match number()? {
                ..0 => Err(format!("{} is {value:?}: use a whole number", self.name)),
                i64::MAX => change(setting, NO_BOUND.to_owned()),
                ms => change(setting, format!("{ms}ms")),
            },
            Meaning::Same(setting) => change(setting, value.to_owned()),
            Meaning::TimestampType(setting) => match value {
                "CreateTime" => change(setting, "producer".to_owned()),
                "LogAppendTime" => change(setting, "broker".to_owned()),
                _ => Err(format!("{} is {value:?}: use CreateTime or LogAppendTime", self.name)),
            },
        }
    }
}

/// Kafka's names and values as changes of settings.
///
/// # Errors
/// Words for the client about the first that is not understood.
pub(crate) fn changes<'a>(
    configs: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<Vec<(String, String)>, String> {
    let mut changes = Vec::new();
    for (name, value) in configs {
        let config = find(name).ok_or_else(|| unknown(name))?;
        if let Some(value) = value {
            changes.extend(config.read(value)?);
        }
    }
    Ok(changes)
}

/// Words for a name that is not known.
pub(crate) fn unknown(name: &str) -> String {
    let shown: String = name.chars().take(64).collect();
    format!("unknown topic config {shown:?}: see `kafka-configs --describe` for those that are known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_there_and_back() {
        let settings: Vec<(String, String)> = martlet_shard::Settings::default().show();
        for config in CONFIGS {
            let shown = config.show(&settings);
            let change = config.read(&shown).unwrap();
            assert_eq!(change.is_none(), config.is_fixed(), "{}", config.name);
            let Some((setting, value)) = change else { continue };
            let again = martlet_shard::Settings::with([(setting.as_str(), value.as_str())]).unwrap();
            assert_eq!(again, martlet_shard::Settings::default(), "{}", config.name);
        }
        assert!(CONFIGS.is_sorted_by_key(|config| config.name));
    }

    #[test]
    fn what_cannot_be_is_refused_with_words() {
        let refused = |name: &str, value: &str| changes([(name, Some(value))].into_iter()).unwrap_err();
        assert!(refused("preallocate", "true").contains("cannot be changed"));
        assert!(refused("min.compaction.lag.ms", "-1").contains("whole number"));
        let compact = changes([("cleanup.policy", Some("compact,delete"))].into_iter()).unwrap();
        assert_eq!(compact, [("cleanup".to_owned(), "compact,delete".to_owned())]);
        assert!(refused("retention.ms", "a week").contains("whole number"));
        assert!(refused("retention.m", "1").contains("unknown"));
        let unlimited = changes([("retention.ms", Some("-1"))].into_iter()).unwrap();
        assert_eq!(unlimited, [("retention_time".to_owned(), "unlimited".to_owned())]);
    }
}
