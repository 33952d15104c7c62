//! The table of keys. Owns every name, type, range and default of the configuration; docs and `config show`
//! are made from it, so a key that is not here does not exist.

use std::time::Duration;

use crate::limits;

/// What a key holds, and its range, bounds included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    Flag,
    /// With `auto`, the word `auto` lets the broker choose.
    Number {
        min: u64,
        max: u64,
        auto: bool,
    },
    /// With `unlimited`, the word `unlimited` means no bound. `multiple_of` must divide the size.
    Bytes {
        min: u64,
        max: u64,
        unlimited: bool,
        multiple_of: u64,
    },
    Duration {
        min: Duration,
        max: Duration,
        unlimited: bool,
    },
    Text {
        empty: bool,
    },
    Choice(&'static [&'static str]),
    /// One or more `ADDRESS:PORT`; port 0 lets the operating system choose.
    Addresses,
}

/// When a new value takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// At SIGHUP, which reads the file again.
    Dynamic,
    /// At the next start.
    Restart,
}

impl Change {
    /// `dynamic` or `restart`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Change::Dynamic => "dynamic",
            Change::Restart => "restart",
        }
    }
}

/// One key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// As a user would write it; it parses as `kind`.
    pub default: &'static str,
    pub change: Change,
    pub doc: &'static str,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const DAY: Duration = Duration::from_secs(86_400);

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max, unlimited: false, multiple_of: 1 }
}

const fn blocks(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max, unlimited: false, multiple_of: 4 * KIB }
}

const fn restart(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, change: Change::Restart, doc }
}

/// Every key, in the order `config show` prints them.
pub const KEYS: &[Key] = &[
    restart(
        "data_dir",
        Kind::Text { empty: false },
        "./martlet-data",
        "directory of the log; created if missing",
    ),
    restart(
        "driver",
        Kind::Choice(&["auto", "uring"]),
        "auto",
        "how shards talk to the kernel; auto takes the best one the start-up probe allows",
    ),
    restart(
        "node.shards",
        Kind::Number { min: 1, max: limits::SHARDS_MAX as u64, auto: true },
        "auto",
        "number of shards, each one thread; auto is what the hardware profile plans for this machine",
    ),
    restart(
        "node.profile",
        Kind::Text { empty: false },
        "auto",
        "hardware profile: a name of `martlet profile list`, a file, or auto for the one that fits",
    ),
    restart(
        "node.pin_threads",
        Kind::Flag,
        "true",
        "pin each shard to a core of its own while there are enough",
    ),
    restart(
        "node.drain_wait",
        Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(600), unlimited: false },
        "20s",
        "how long a stop waits for open requests before it closes their connections",
    ),
    restart(
        "native.listen",
        Kind::Addresses,
        "0.0.0.0:7650,[::]:7650",
        "native protocol, node port, the same on every shard; 0.0.0.0 is IPv4, [::] is IPv6",
    ),
    restart(
        "native.shard_port_base",
        Kind::Number { min: 0, max: 65_279, auto: true },
        "auto",
        "port of shard 0; shard n listens on base + n. auto is the node port + 10000 (17650), \
         0 lets the operating system choose",
    ),
    restart(
        "native.advertised_host",
        Kind::Text { empty: true },
        "",
        "host clients are told to find shards at; empty is the address they reached the node port by",
    ),
    restart(
        "native.connections_max",
        Kind::Number { min: 1, max: limits::SHARD_CONNECTIONS_MAX as u64, auto: false },
        "20000",
        "connections of one shard; over it a new connection is refused with a typed error",
    ),
    restart(
        "native.hello_wait",
        Kind::Duration { min: Duration::from_millis(100), max: Duration::from_secs(600), unlimited: false },
        "10s",
        "how long a new connection may take to say HELLO",
    ),
    restart(
        "native.idle_wait",
        Kind::Duration { min: Duration::from_secs(1), max: DAY, unlimited: true },
        "unlimited",
        "how long a connection with nothing under way is kept",
    ),
    restart("kafka.enabled", Kind::Flag, "true", "serve Kafka's protocol; with false nothing listens for it"),
    restart(
        "kafka.listen",
        Kind::Addresses,
        "0.0.0.0:9092,[::]:9092",
        "Kafka's protocol, node port, the same on every shard; 0.0.0.0 is IPv4, [::] is IPv6",
    ),
    restart(
        "kafka.shard_port_base",
        Kind::Number { min: 0, max: 65_279, auto: true },
        "auto",
        "port of shard 0 for Kafka; shard n listens on base + n. auto is the node port + 10000 (19092), \
         0 lets the operating system choose",
    ),
    restart(
        "kafka.advertised_host",
        Kind::Text { empty: true },
        "",
        "host Kafka clients are told; empty is the bound address, or for 0.0.0.0 the one they reached",
    ),
    restart(
        "kafka.addressing",
        Kind::Choice(&["shard", "node"]),
        "shard",
        "shard shows each shard as a broker that leads its partitions; node shows one at the node port",
    ),
    restart(
        "kafka.rack",
        Kind::Text { empty: true },
        "",
        "rack Kafka clients are told for this node; empty is none",
    ),
    restart(
        "kafka.group_initial_wait",
        Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(600), unlimited: false },
        "3s",
        "how long the first rebalance of an empty classic group waits for more members",
    ),
    restart(
        "kafka.group_session_min",
        Kind::Duration { min: Duration::from_millis(1), max: DAY, unlimited: false },
        "6s",
        "shortest session a member of a classic group may ask for",
    ),
    restart(
        "kafka.group_session_max",
        Kind::Duration { min: Duration::from_secs(1), max: DAY, unlimited: false },
        "30m",
        "longest session a member of a classic group may ask for",
    ),
    restart(
        "kafka.group_members_max",
        Kind::Number { min: 1, max: limits::GROUP_MEMBERS_MAX as u64, auto: false },
        "5000",
        "members of one group; over it a new one is refused with GROUP_MAX_SIZE_REACHED",
    ),
    restart(
        "kafka.group_offsets_time",
        Kind::Duration {
            min: Duration::from_secs(60),
            max: Duration::from_secs(10 * 365 * 86_400),
            unlimited: true,
        },
        "7d",
        "how long the offsets of a group without members are kept",
    ),
    restart("http.listen", Kind::Addresses, "127.0.0.1:7680", "health, metrics and status over HTTP"),
    restart(
        "wal.file_bytes",
        blocks(MIB, 4 * GIB),
        "64MiB",
        "size of one file of a shard's ring; fixed when the shard's log is made",
    ),
    restart(
        "wal.files",
        Kind::Number { min: 4, max: 1024, auto: false },
        "16",
        "files of a shard's ring; fixed when the shard's log is made",
    ),
    restart(
        "wal.flush_bytes_max",
        blocks(64 * KIB, 4 * MIB),
        "512KiB",
        "largest flush; it bounds how long a small record waits behind large ones",
    ),
    restart(
        "wal.big_batch_bytes_min",
        Kind::Bytes { min: 256 * KIB, max: TIB, unlimited: true, multiple_of: 1 },
        "1MiB",
        "bytes queued for one partition from which on its batches are written to its segment at once, and \
         not to the ring before; unlimited switches this off",
    ),
    restart(
        "memory.budget_bytes",
        bytes(32 * MIB, TIB),
        "512MiB",
        "memory of all shards for buffers, caches and connections; over it clients are slowed",
    ),
    restart(
        "memory.tail_cache_bytes",
        bytes(MIB, TIB),
        "128MiB",
        "part of the budget that keeps recently written records for readers, all shards together",
    ),
    restart(
        "topic.auto_create",
        Kind::Flag,
        "true",
        "let `martlet produce` and clients that ask for it create a missing topic with the defaults below",
    ),
    restart(
        "topic.partitions",
        Kind::Number { min: 1, max: limits::TOPIC_PARTITIONS_MAX as u64, auto: false },
        "1",
        "partitions of a new topic",
    ),
    restart(
        "topic.acks",
        Kind::Choice(&["none", "memory", "replicated", "durable"]),
        "durable",
        "when a producer that does not say otherwise is answered",
    ),
    restart(
        "topic.retention_time",
        Kind::Duration {
            min: Duration::from_secs(1),
            max: Duration::from_secs(36_500 * 86_400),
            unlimited: true,
        },
        "7d",
        "age at which whole segments are deleted",
    ),
    restart(
        "topic.retention_bytes",
        Kind::Bytes { min: MIB, max: 1024 * TIB, unlimited: true, multiple_of: 1 },
        "unlimited",
        "bytes of a partition over which its oldest segments are deleted",
    ),
    restart(
        "topic.segment_bytes",
        bytes(limits::SEGMENT_BYTES_MIN, limits::SEGMENT_BYTES_MAX),
        "256MiB",
        "size at which a partition's segment is sealed and the next one begun",
    ),
    restart(
        "topic.batch_bytes_max",
        bytes(KIB, limits::BATCH_BYTES_MAX as u64),
        "5MiB",
        "largest batch a topic takes",
    ),
    Key {
        name: "log.level",
        kind: Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        default: "info",
        change: Change::Dynamic,
        doc: "least severe level that is logged: error, warn, info, debug or trace",
    },
    restart("log.format", Kind::Choice(&["text", "json"]), "text", "form of the log on standard error"),
];

/// The key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key whose name is nearest to `name`, if one is near enough to be meant.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase().replace('-', "_");
    // `memory.budget` for `memory.budget_bytes`: a name that was cut short, if it can be only one.
    let mut longer = KEYS.iter().filter(|key| lower.len() > 2 && key.name.starts_with(&lower));
    if let (Some(key), None) = (longer.next(), longer.next()) {
        return Some(key.name);
    }
    let scored = KEYS.iter().map(|key| {
        let last = key.name.rsplit('.').next().unwrap_or(key.name);
        let whole = strsim::damerau_levenshtein(&lower, key.name);
        // `shards` for `node.shards`: the last part alone may be what was meant.
        (whole.min(strsim::damerau_levenshtein(&lower, last) + 1), key.name)
    });
    let (distance, best) = scored.min()?;
    (distance <= 1 + lower.chars().count() / 3).then_some(best)
}

impl Key {
    /// The environment variable that sets this key.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("MARTLET_{}", self.name.to_uppercase().replace('.', "_"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::Value;
    use super::*;

    #[test]
    fn every_default_parses_and_every_name_is_its_own() {
        let mut names = HashSet::new();
        let mut variables = HashSet::new();
        for key in KEYS {
            let value = Value::parse(&key.kind, key.default);
            assert!(value.is_ok(), "{}: {value:?}", key.name);
            assert_eq!(value.unwrap().to_string(), key.default, "{} is shown as it is written", key.name);
            assert!(names.insert(key.name), "{} twice", key.name);
            assert!(variables.insert(key.variable()), "{} twice", key.variable());
            assert!(!key.doc.is_empty() && !key.doc.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        assert_eq!(nearest("data-dir"), Some("data_dir"));
        assert_eq!(nearest("wal.file_byte"), Some("wal.file_bytes"));
        assert_eq!(nearest("shards"), Some("node.shards"));
        assert_eq!(nearest("log.levle"), Some("log.level"));
        assert_eq!(nearest("memory.budget"), Some("memory.budget_bytes"));
        assert_eq!(nearest("zookeeper.connect"), None);
    }
}
