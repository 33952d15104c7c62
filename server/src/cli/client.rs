//! Flags of the commands that talk to a broker: topics, cursors, produce, consume.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use martlet_core::Acks;
use martlet_core::config::parse_duration;

use super::place::Places;

#[derive(Subcommand, Debug)]
pub(crate) enum TopicCommand {
    /// Create a topic.
    Create {
        /// NAME or persistent://TENANT/NAMESPACE/NAME.
        topic: String,
        /// Number of partitions [default: the broker's topic.partitions].
        #[arg(long, value_name = "NUMBER")]
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
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        prefix: String,
    },
    /// Show a topic: settings, and for each partition its shard, offsets and size.
    Describe {
        /// NAME or persistent://TENANT/NAMESPACE/NAME.
        topic: String,
    },
    /// Change settings, or add partitions.
    Alter {
        /// NAME or persistent://TENANT/NAMESPACE/NAME.
        topic: String,
        /// New number of partitions; it may only grow. Keys may then go to other partitions.
        #[arg(long, value_name = "NUMBER")]
        partitions: Option<u32>,
        #[command(flatten)]
        settings: TopicSettings,
    },
    /// Delete a topic and its records.
    Delete {
        /// NAME or persistent://TENANT/NAMESPACE/NAME.
        topic: String,
    },
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
    /// Whose time records have: producer or broker, for protocols that leave it to the broker.
    #[arg(long, value_name = "WHOSE")]
    timestamps: Option<String>,
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
            ("timestamps", &self.timestamps),
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
    List {
        /// NAME or persistent://TENANT/NAMESPACE/NAME.
        topic: String,
    },
    /// Move a cursor; this is the only way it goes back.
    Reset {
        /// NAME or persistent://TENANT/NAMESPACE/NAME.
        topic: String,
        /// Name of the cursor; it is made if it is not there.
        cursor: String,
        /// earliest, latest, an offset, a time (RFC 3339, @MILLISECONDS or @SECONDSs), an age as -10m, or
        /// one of these for each partition as 0:12,1:latest; partitions that are not named then stay.
        #[arg(long, default_value = "earliest", allow_hyphen_values = true, value_name = "PLACE")]
        to: Places,
        /// Only this partition.
        #[arg(long, value_name = "NUMBER")]
        partition: Option<u32>,
    },
    /// Delete a cursor.
    Delete {
        /// NAME or persistent://TENANT/NAMESPACE/NAME.
        topic: String,
        /// Name of the cursor.
        cursor: String,
    },
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
    /// Send a record that has a key and nothing behind the separator as a tombstone: its key is deleted.
    #[arg(long, requires = "key_separator")]
    pub(crate) tombstones: bool,
    /// Give every record this header; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// Send everything to this partition instead of by key.
    #[arg(long, value_name = "NUMBER")]
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
    /// Where to begin: earliest, latest, an offset, a time (RFC 3339, @MILLISECONDS or @SECONDSs), an age as
    /// -10m, or one of these for each partition as 0:12,1:latest. With --cursor this is only used for
    /// partitions where the cursor is not there yet [default: earliest].
    #[arg(long, allow_hyphen_values = true, value_name = "PLACE")]
    pub(crate) from: Option<Places>,
    /// Stop after so many records.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) count: Option<u64>,
    /// Stop at the end that each partition has when the command starts.
    #[arg(long)]
    pub(crate) until_end: bool,
    /// Go on where this named cursor stands, and move it behind what was printed.
    #[arg(long, value_name = "NAME")]
    pub(crate) cursor: Option<String>,
    /// Only this partition.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) partition: Option<u32>,
    #[command(flatten)]
    pub(crate) framing: Framing,
    /// Print the key and this before the value of records that have a key.
    #[arg(long, value_name = "TEXT", value_parser = unescape)]
    pub(crate) key_separator: Option<String>,
}

/// `NAME=VALUE`; the value may hold further `=`.
fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("use NAME=VALUE".into()),
    }
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
