//! From settings to what the node is started with. Owns the mapping of names; must never invent a value that
//! is not a setting or derived from one.

use std::sync::Arc;
use std::time::Duration;

use martlet_core::NodeId;
use martlet_core::config::Settings;
use martlet_core::limits::SHARDS_MAX;
use martlet_gateway_kafka::{
    Addressing, GroupConfig, GroupServices, KafkaConfig, TransactionConfig, TransactionServices,
};
use martlet_net::{ConnectionLimits, ListenerConfig};
use martlet_node::NodeConfig;
use martlet_wal::config::StoreConfig;

use super::shards;
use crate::failure::Failure;

/// Settings of topics, as `topic.` + name in the configuration.
const TOPIC_SETTINGS: &[&str] =
    &["acks", "batch_bytes_max", "retention_bytes", "retention_time", "segment_bytes"];
/// Less staging than this would make every flush small.
const STAGING_BYTES_MIN: usize = 2 << 20;
/// Bytes of runs that settle at a time: one run at least, and more than this only fills the disk's queue.
const SETTLE_BYTES_MIN: usize = 1 << 20;
const SETTLE_BYTES_MAX: usize = 8 << 20;
/// Between the node port and the first shard port.
const SHARD_PORT_DISTANCE: u16 = 10_000;

pub(crate) fn from_settings(settings: &Settings) -> Result<NodeConfig, Failure> {
    let shards = shard_count(settings)?;
    let mut config = NodeConfig::new(settings.text("data_dir"));
    config.node = NodeId(1);
    config.shards = shards;
    config.listeners = vec![native_listener(settings)?];
    if let Some(kafka) = kafka_listener(settings)? {
        config.listeners.push(kafka);
        config.services = vec![
            Arc::new(GroupServices::new(groups(settings))),
            Arc::new(TransactionServices::new(TransactionConfig::default())),
        ];
    }
    config.drain = settings.duration("node.drain_wait").unwrap_or(Duration::from_secs(20));
    config.geometry.file_bytes = settings.bytes("wal.file_bytes");
    config.geometry.files = u32::try_from(number(settings, "wal.files")).unwrap_or(u32::MAX);
    let memory = Memory::of_shard(settings, shards);
    config.store = StoreConfig {
        flush_bytes_max: usize::try_from(settings.bytes("wal.flush_bytes_max")).unwrap_or(usize::MAX),
        staging_bytes_max: memory.staging,
        tail_cache_bytes: memory.tail_cache,
        read_cache_bytes: memory.read_cache,
        settle_in_flight_bytes_max: memory.settle as u64,
        segment_bytes: settings.bytes("topic.segment_bytes"),
        big_batch_bytes_min: settings.bytes("wal.big_batch_bytes_min"),
        ..StoreConfig::default()
    };
    config.connections = ConnectionLimits {
        connections_max: number(settings, "native.connections_max"),
        handshake: settings.duration("native.hello_wait").unwrap_or(Duration::from_secs(10)),
        idle: settings.duration("native.idle_wait").unwrap_or(Duration::ZERO),
        shard_memory_bytes: memory.connections,
        ..ConnectionLimits::default()
    };
    let text = |key: &str| settings.value(key).to_string();
    config.topic_defaults = topic_defaults(settings);
    config.topic_partitions_default = u32::try_from(number(settings, "topic.partitions")).unwrap_or(1);
    config.facts = vec![
        ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("data_dir".to_owned(), text("data_dir")),
        ("topic.auto_create".to_owned(), text("topic.auto_create")),
    ];
    Ok(config)
}

/// How one shard's part of the budget is shared out, in bytes. The parts add up to less than the whole: the
/// rest is for indexes and tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Memory {
    tail_cache: usize,
    connections: usize,
    staging: usize,
    read_cache: usize,
    settle: usize,
}

impl Memory {
    fn of_shard(settings: &Settings, shards: u16) -> Memory {
        let per_shard = |bytes: u64| usize::try_from(bytes / u64::from(shards)).unwrap_or(usize::MAX);
        let tail_cache = per_shard(settings.bytes("memory.tail_cache_bytes"));
        let rest = per_shard(settings.bytes("memory.budget_bytes")).saturating_sub(tail_cache);
        Memory {
            tail_cache,
            connections: rest / 2,
            staging: (rest / 8).max(STAGING_BYTES_MIN),
            read_cache: rest / 8,
            settle: (rest / 16).clamp(SETTLE_BYTES_MIN, SETTLE_BYTES_MAX),
        }
    }
}

/// The shards of a broker with these settings on this machine.
///
/// # Errors
/// There is no such profile, or it cannot be read.
pub(crate) fn shard_count(settings: &Settings) -> Result<u16, Failure> {
    let planned = shards::planned_cores(settings)?.len();
    let planned = u64::try_from(planned).unwrap_or(1);
    let shards = settings.number("node.shards").unwrap_or(planned).min(u64::from(SHARDS_MAX));
    Ok(u16::try_from(shards).unwrap_or(SHARDS_MAX))
}

fn topic_defaults(settings: &Settings) -> Vec<(String, String)> {
    let text = |name: &str| settings.value(&format!("topic.{name}")).to_string();
    TOPIC_SETTINGS.iter().map(|name| ((*name).to_owned(), text(name))).collect()
}

/// What the gateway of Kafka's protocol is told.
pub(crate) fn kafka(settings: &Settings) -> KafkaConfig {
    let addressing = match settings.text("kafka.addressing") {
        "node" => Addressing::Node,
        _ => Addressing::Shard,
    };
    KafkaConfig {
        addressing,
        auto_create_topics: settings.flag("topic.auto_create"),
        rack: settings.text("kafka.rack").to_owned(),
        topic_defaults: topic_defaults(settings),
        ..KafkaConfig::default()
    }
}

/// What consumer groups are told.
fn groups(settings: &Settings) -> GroupConfig {
    let duration = |key: &str| settings.duration(key).unwrap_or(Duration::MAX);
    GroupConfig {
        initial_delay: duration("kafka.group_initial_wait"),
        session_min: duration("kafka.group_session_min"),
        session_max: duration("kafka.group_session_max"),
        members_max: number(settings, "kafka.group_members_max"),
        offset_retention: duration("kafka.group_offsets_time"),
        ..GroupConfig::default()
    }
}

/// The native listener, with the port of shard 0 if it is fixed.
///
/// # Errors
/// Addresses with different ports.
pub(crate) fn native_listener(settings: &Settings) -> Result<ListenerConfig, Failure> {
    listener(settings, "native")
}

/// The listener of Kafka's protocol, if it is served.
///
/// # Errors
/// As [`native_listener`].
pub(crate) fn kafka_listener(settings: &Settings) -> Result<Option<ListenerConfig>, Failure> {
    settings.flag("kafka.enabled").then(|| listener(settings, "kafka")).transpose()
}

/// The listener of `protocol`, whose keys begin with its name.
fn listener(settings: &Settings, protocol: &str) -> Result<ListenerConfig, Failure> {
    let key = |name: &str| format!("{protocol}.{name}");
    let bind = settings.addresses(&key("listen")).to_vec();
    let port = bind.first().map_or(0, |address| address.port());
    if let Some(other) = bind.iter().find(|address| address.port() != port) {
        return Err(Failure::Usage(format!(
            "`{protocol}.listen` has the ports {port} and {}: use one port on all addresses",
            other.port()
        )));
    }
    let base = match settings.number(&key("shard_port_base")) {
        Some(base) => u16::try_from(base).unwrap_or(0),
        None if port == 0 => 0,
        None => port
            .checked_add(SHARD_PORT_DISTANCE)
            .filter(|base| base.checked_add(SHARDS_MAX).is_some())
            .unwrap_or_else(|| port.saturating_sub(SHARD_PORT_DISTANCE)),
    };
    let advertised = settings.text(&key("advertised_host"));
    Ok(ListenerConfig {
        name: protocol.into(),
        protocol: protocol.into(),
        bind,
        advertised: (!advertised.is_empty()).then(|| advertised.to_owned()),
        shard_port_base: (base != 0).then_some(base),
    })
}

fn number(settings: &Settings, key: &str) -> usize {
    settings.number(key).and_then(|number| usize::try_from(number).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(assignments: &[&str]) -> Result<ListenerConfig, Failure> {
        let mut settings = Settings::default();
        for assignment in assignments {
            settings.apply_assignment(assignment).unwrap();
        }
        listener(&settings, "native")
    }

    #[test]
    fn shard_ports_follow_the_node_port() {
        assert_eq!(native(&[]).unwrap().shard_port_base, Some(17_650));
        assert_eq!(native(&["native.listen=127.0.0.1:0"]).unwrap().shard_port_base, None);
        assert_eq!(native(&["native.listen=127.0.0.1:65000"]).unwrap().shard_port_base, Some(55_000));
        assert_eq!(native(&["native.shard_port_base=0"]).unwrap().shard_port_base, None);
        assert_eq!(native(&["native.shard_port_base=9000"]).unwrap().shard_port_base, Some(9000));
        assert!(native(&["native.listen=127.0.0.1:1,[::1]:2"]).is_err());
    }

    #[test]
    fn the_settings_of_groups_are_taken_and_their_defaults_are_kafkas() {
        let mut settings = Settings::default();
        assert_eq!(groups(&settings), GroupConfig::default());
        settings.apply_assignment("kafka.group_initial_wait=0s").unwrap();
        settings.apply_assignment("kafka.group_members_max=2").unwrap();
        settings.apply_assignment("kafka.group_offsets_time=unlimited").unwrap();
        let config = groups(&settings);
        assert_eq!((config.initial_delay, config.members_max), (Duration::ZERO, 2));
        assert_eq!(config.offset_retention, Duration::MAX);
        settings.apply_assignment("kafka.group_session_min=2h").unwrap();
        assert!(settings.check().is_err(), "the shortest session is longer than the longest");
    }

    #[test]
    fn the_default_settings_make_a_node() {
        let mut settings = Settings::default();
        settings.apply_assignment("node.shards=3").unwrap();
        let config = from_settings(&settings).unwrap();
        assert_eq!(config.shards, 3);
        assert!(config.topic_defaults.contains(&("acks".into(), "durable".into())));
        let memory = Memory::of_shard(&settings, 3);
        let sum = memory.tail_cache + memory.connections + memory.staging + memory.read_cache + memory.settle;
        assert!(sum * 3 <= 512 << 20, "the parts are within the budget: {memory:?}");
    }
}
