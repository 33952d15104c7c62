//! From settings to what the node is started with. Owns the mapping of names; must never invent a value that is not
//! a setting or derived from one.

use std::time::Duration;

use martlet_core::NodeId;
use martlet_core::config::Settings;
use martlet_core::limits::SHARDS_MAX;
use martlet_net::{ConnectionLimits, ListenerConfig};
use martlet_node::NodeConfig;

use super::shards;
use crate::failure::Failure;

/// Settings of topics, as `topic.` + name in the configuration.
const TOPIC_SETTINGS: &[&str] =
    &["acks", "batch_bytes_max", "retention_bytes", "retention_time", "segment_bytes"];
/// Between the node port and the first shard port.
const SHARD_PORT_DISTANCE: u16 = 10_000;

pub(crate) fn from_settings(settings: &Settings) -> Result<NodeConfig, Failure> {
    let cores = u64::try_from(shards::cores().len()).unwrap_or(1);
    let shards = settings.number("node.shards").unwrap_or(cores).min(u64::from(SHARDS_MAX));
    let shards = u16::try_from(shards).unwrap_or(SHARDS_MAX);
    let per_shard = |bytes: u64| usize::try_from(bytes / u64::from(shards)).unwrap_or(usize::MAX);
    let mut config = NodeConfig::new(settings.text("data_dir"));
    config.node = NodeId(1);
    config.shards = shards;
    config.listeners = vec![native_listener(settings)?];
    config.drain = settings.duration("node.drain_wait").unwrap_or(Duration::from_secs(20));
    let budget = settings.bytes("memory.budget_bytes");
    let tail_cache = settings.bytes("memory.tail_cache_bytes");
    config.connections = ConnectionLimits {
        connections_max: number(settings, "native.connections_max"),
        handshake: settings.duration("native.hello_wait").unwrap_or(Duration::from_secs(10)),
        idle: settings.duration("native.idle_wait").unwrap_or(Duration::ZERO),
        shard_memory_bytes: per_shard(budget.saturating_sub(tail_cache) / 2),
        ..ConnectionLimits::default()
    };
    let defaults = TOPIC_SETTINGS.iter().map(|name| {
        let value = settings.value(&format!("topic.{name}"));
        ((*name).to_owned(), value.to_string())
    });
    let _defaults: Vec<(String, String)> = defaults.collect();
    Ok(config)
}

fn native_listener(settings: &Settings) -> Result<ListenerConfig, Failure> {
    let bind = settings.addresses("native.listen").to_vec();
    let port = bind.first().map_or(0, |address| address.port());
    if let Some(other) = bind.iter().find(|address| address.port() != port) {
        return Err(Failure::Usage(format!(
            "`native.listen` has the ports {port} and {}: use one port on all addresses",
            other.port()
        )));
    }
    let base = match settings.number("native.shard_port_base") {
        Some(base) => u16::try_from(base).unwrap_or(0),
        None if port == 0 => 0,
        None => port
            .checked_add(SHARD_PORT_DISTANCE)
            .filter(|base| base.checked_add(SHARDS_MAX).is_some())
            .unwrap_or_else(|| port.saturating_sub(SHARD_PORT_DISTANCE)),
    };
    let advertised = settings.text("native.advertised_host");
    Ok(ListenerConfig {
        name: "native".into(),
        protocol: "native".into(),
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

    fn listener(assignments: &[&str]) -> Result<ListenerConfig, Failure> {
        let mut settings = Settings::default();
        for assignment in assignments {
            settings.apply_assignment(assignment).unwrap();
        }
        native_listener(&settings)
    }

    #[test]
    fn shard_ports_follow_the_node_port() {
        assert_eq!(listener(&[]).unwrap().shard_port_base, Some(17_650));
        assert_eq!(listener(&["native.listen=127.0.0.1:0"]).unwrap().shard_port_base, None);
        assert_eq!(listener(&["native.listen=127.0.0.1:65000"]).unwrap().shard_port_base, Some(55_000));
        assert_eq!(listener(&["native.shard_port_base=0"]).unwrap().shard_port_base, None);
        assert_eq!(listener(&["native.shard_port_base=9000"]).unwrap().shard_port_base, Some(9000));
        assert!(listener(&["native.listen=127.0.0.1:1,[::1]:2"]).is_err());
    }

    #[test]
    fn the_default_settings_make_a_node() {
        let mut settings = Settings::default();
        settings.apply_assignment("node.shards=3").unwrap();
        let config = from_settings(&settings).unwrap();
        assert_eq!(config.shards, 3);
        assert!(config.connections.shard_memory_bytes > 0);
    }
}
