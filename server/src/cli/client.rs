//! Flags of the commands that talk to a broker: topics, cursors, produce, consume.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use martlet_core::Acks;
use martlet_core::config::parse_duration;

#[derive(Subcommand, Debug)]
pub(crate) enum TopicCommand {
    /// Create a topic.
    Create {
        /// NAME or persistent://TENANT/NAMESPACE/NAME.
        topic: String,
        /// Number of partitions [default: the broker's topic.partitions].
        #[arg(long)]
        partitions: Option<u32>,
        /// Succeed if the topic is there already.
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        settings: TopicSettings,
    },
    /// List topics.
    List {
        /// Only names that begin so.
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Show a topic: settings, and for each partition its shard, offsets and size.
    Describe { topic: String },
    /// Change settings, or add partitions.
    Alter {
        topic: String,
        /// New number of partitions; it may only grow. Keys may then go to other partitions.
        #[arg(long)]
        partitions: Option<u32>,
        #[command(flatten)]
        settings: TopicSettings,
    },
    /// Delete a topic and its records.
    Delete { topic: String },
}

/// Settings of a topic; what is not given keeps its value, or the broker's default.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TopicSettings {
    /// Age at which whole segments are deleted, as 7d, or unlimited.
    #[arg(long, value_name = "DURATION")]
    retention_time: Option<String>,
    /// Bytes of a partition over which its oldest segments are deleted, as 10GiB, or unlimited.
    #[arg(long, value_name = "SIZE")]
    retention_bytes: Option<String>,
    /// Size at which a segment is sealed.
    #[arg(long, value_name = "SIZE")]
    segment_bytes: Option<String>,
    /// Largest batch.
    #[arg(long, value_name = "SIZE")]
    batch_bytes_max: Option<String>,
    /// When a producer that does not say otherwise is answered: none, memory, replicated or durable.
    #[arg(long = "default-acks", value_name = "LEVEL")]
    acks: Option<String>,
    /// Any setting of `martlet topic describe`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl TopicSettings {
    /// As pairs of key and value. A flag of its own wins over `--set`, as in the configuration.
    ///
    /// # Errors
    /// A `--set` without `=`.
    pub(crate) fn pairs(&self) -> Result<Vec<(String, String)>, String> {
        let mut pairs = Vec::new();
        for text in &self.set {
            let (key, value) = text.split_once('=').ok_or(format!("`--set {text}`: use --set KEY=VALUE"))?;
            pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        for (key, value) in [
            ("retention_time", &self.retention_time),
            ("retention_bytes", &self.retention_bytes),
            ("segment_bytes", &self.segment_bytes),
            ("batch_bytes_max", &self.batch_bytes_max),
            ("acks", &self.acks),
        ] {
            if let Some(value) = value {
                pairs.retain(|(other, _)| other != key);
                pairs.push((key.to_owned(), value.clone()));
            }
        }
        Ok(pairs)
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum CursorCommand {
    /// List the cursors of a topic with the offset each will read next.
    List { topic: String },
    /// Move a cursor; this is the only way it goes back.
    Reset {
        topic: String,
        cursor: String,
        /// earliest, latest, an offset, or a time: RFC 3339, @MILLISECONDS, or an age as -10m.
        #[arg(long, default_value = "earliest", allow_hyphen_values = true)]
        to: From,
        /// Only this partition.
        #[arg(long)]
        partition: Option<u32>,
    },
    /// Delete a cursor.
    Delete { topic: String, cursor: String },
}

/// How records are told apart in a stream of bytes.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(group = ArgGroup::new("framing").multiple(false))]
pub(crate) struct Framing {
    /// Records end with a zero byte instead of a line end.
    #[arg(long, group = "framing")]
    pub(crate) null: bool,
    /// Each record follows its length as four bytes, most significant first.
    #[arg(long, group = "framing")]
    pub(crate) length_prefixed: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ProduceArguments {
    /// NAME or persistent://TENANT/NAMESPACE/NAME.
    pub(crate) topic: String,
    /// Read from this file instead of standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) framing: Framing,
    /// Split each record at the first of these: what stands before it is the key. A record without it has no
    /// key.
    #[arg(long, value_name = "TEXT", value_parser = unescape)]
    pub(crate) key_separator: Option<String>,
    /// When a record counts as sent: none, memory, replicated or durable [default: the topic's].
    #[arg(long, value_name = "LEVEL")]
    pub(crate) acks: Option<Acks>,
    /// Send everything to this partition instead of by key.
    #[arg(long)]
    pub(crate) partition: Option<u32>,
    /// Compress batches: none, lz4, zstd, snappy or gzip.
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub(crate) compression: String,
    /// Bytes of records that are sent as one batch at most.
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = size)]
    pub(crate) batch_bytes: u64,
    /// How long a batch waits for more records.
    #[arg(long, value_name = "DURATION", default_value = "5ms", value_parser = parse_duration)]
    pub(crate) linger: Duration,
    /// Give up when a record could not be sent for so long.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub(crate) give_up_after: Duration,
    /// Fail if the topic is not there instead of creating it.
    #[arg(long)]
    pub(crate) no_create: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ConsumeArguments {
    /// NAME or persistent://TENANT/NAMESPACE/NAME.
    pub(crate) topic: String,
    /// Where to begin: earliest, latest, an offset, or a time: RFC 3339, @MILLISECONDS, or an age as -10m.
    /// With
    /// --cursor this is only used for partitions where the cursor is not there yet [default: earliest].
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) from: Option<From>,
    /// Stop after so many records.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Stop at the end that each partition has when the command starts.
    #[arg(long)]
    pub(crate) until_end: bool,
    /// Go on where this named cursor stands, and move it behind what was printed.
    #[arg(long, value_name = "NAME")]
    pub(crate) cursor: Option<String>,
    /// Only this partition.
    #[arg(long)]
    pub(crate) partition: Option<u32>,
    #[command(flatten)]
    pub(crate) framing: Framing,
    /// Print the key and this before the value of records that have a key.
    #[arg(long, value_name = "TEXT", value_parser = unescape)]
    pub(crate) key_separator: Option<String>,
}

/// A place in a partition as the command line names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum From {
    Earliest,
    Latest,
    Offset(u64),
    /// Wall milliseconds.
    Time(i64),
    /// So long ago.
    Ago(Duration),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        match text {
            "earliest" => return Ok(From::Earliest),
            "latest" => return Ok(From::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(From::Offset(offset));
        }
        if let Some(age) = text.strip_prefix('-') {
            return parse_duration(age).map(From::Ago);
        }
        let milliseconds = text.strip_prefix('@').and_then(|number| number.parse().ok());
        milliseconds.or_else(|| from_rfc3339(text)).map(From::Time).ok_or_else(|| {
            "use earliest, latest, an offset, a time as 2026-01-31T12:00:00Z or @MILLISECONDS, \
             or an age as -10m"
                .into()
        })
    }
}

/// Wall milliseconds of an RFC 3339 time; without an offset it is UTC.
fn from_rfc3339(text: &str) -> Option<i64> {
    let parsed: toml::value::Datetime = text.parse().ok()?;
    let date = parsed.date?;
    let time = parsed.time;
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    // Days since 1970-01-01 in the proleptic Gregorian calendar, counting years from March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days =
        365 * shifted + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400) + of_year
            - 719_468;
    let seconds = time.map_or(0, |time| {
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0))
    });
    let milliseconds = time.map_or(0, |time| i64::from(time.nanosecond.unwrap_or(0)) / 1_000_000);
    let offset_minutes = match parsed.offset {
        Some(toml::value::Offset::Custom { minutes }) => i64::from(minutes),
        _ => 0,
    };
    Some((days * 86_400 + seconds - offset_minutes * 60) * 1000 + milliseconds)
}

fn size(text: &str) -> Result<u64, String> {
    martlet_core::config::parse_bytes(text)
}

/// `\t`, `\n`, `\0` and `\\` in a separator.
fn unescape(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a separator must not be empty".into());
    }
    let mut result = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        result.push(match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('0') => '\0',
                Some('\\') | None => '\\',
                Some(other) => return Err(format!("`\\{other}` is unknown: use \\t, \\n, \\0 or \\\\")),
            },
            (other, false) => other,
        });
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_in_every_form() {
        assert_eq!("earliest".parse(), Ok(From::Earliest));
        assert_eq!("42".parse(), Ok(From::Offset(42)));
        assert_eq!("@1500".parse(), Ok(From::Time(1500)));
        assert_eq!("-10m".parse(), Ok(From::Ago(Duration::from_secs(600))));
        assert_eq!("1970-01-01".parse(), Ok(From::Time(0)));
        assert_eq!("2000-03-01T00:00:00Z".parse(), Ok(From::Time(951_868_800_000)));
        assert_eq!("2026-11-21T22:55:00.250+01:00".parse(), Ok(From::Time(1_795_298_100_250)));
        for bad in ["", "soon", "-", "@x", "2026-13-01T00:00:00Z"] {
            assert!(bad.parse::<From>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_flag_of_a_setting_wins_over_set() {
        let settings = TopicSettings {
            retention_time: Some("2h".into()),
            set: vec!["retention_time=1h".into(), "acks=memory".into()],
            ..TopicSettings::default()
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(settings.pairs(), Ok(vec![pair("acks", "memory"), pair("retention_time", "2h")]));
    }

    #[test]
    fn separators_may_be_escaped() {
        assert_eq!(unescape(r"\t"), Ok("\t".into()));
        assert_eq!(unescape(r"a\\b"), Ok(r"a\b".into()));
        assert!(unescape("").is_err() && unescape(r"\q").is_err());
    }
}
