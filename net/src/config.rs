//! What can be configured about listeners and connections. Owns defaults and their meaning; no behaviour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use martlet_core::limits;

/// A named listener: one protocol on one node port, and one port for each shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerConfig {
    /// Its name in configuration, logs and metrics.
    pub name: String,
    /// The gateway that serves it, by its protocol's name.
    pub protocol: String,
    /// Addresses of the node port, all with the same port; port 0 lets the operating system choose one. An
    /// unspecified address whose family this machine does not have is left out with a warning.
    pub bind: Vec<SocketAddr>,
    /// The host that clients are told. `None` = the bound address, or, if that is unspecified, an empty host:
    /// the client then uses the host it already reached.
    pub advertised: Option<String>,
    /// The port of shard `n` is this plus `n`; `None` or `Some(0)` lets the operating system choose.
    pub shard_port_base: Option<u16>,
}

impl ListenerConfig {
    /// The native listener on every address of both families.
    #[must_use]
    pub fn native(port: u16) -> ListenerConfig {
        ListenerConfig::on(
            "native",
            &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            port,
        )
    }

    /// A listener of `protocol` on `hosts`, with shard ports chosen by the operating system.
    #[must_use]
    pub fn on(protocol: &str, hosts: &[IpAddr], port: u16) -> ListenerConfig {
        ListenerConfig {
            name: protocol.to_owned(),
            protocol: protocol.to_owned(),
            bind: hosts.iter().map(|&host| SocketAddr::new(host, port)).collect(),
            advertised: None,
            shard_port_base: None,
        }
    }
}

/// Bounds of one connection, and of all connections of a shard together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// Connections of one shard; one more is refused with a typed error.
    pub connections_max: usize,
    /// Unanswered requests of one connection; at the bound nothing more is read from it.
    pub requests_max: usize,
    /// Bytes of requests and answers of one connection that are held at a time; over it nothing more is read.
    /// One request and one answer are always allowed, whatever their size.
    pub bytes_max: usize,
    /// Bytes of a frame after its length field; a longer one is refused and the connection closed.
    pub frame_bytes_max: u32,
    /// Time from the first byte of the connection's life to the end of its handshake.
    pub handshake: Duration,
    /// Time a frame that has begun may take, plus its length at 64 KiB a second.
    pub frame_stall: Duration,
    /// Time a peer may take nothing of what is sent to it.
    pub write_stall: Duration,
    /// Time without any request after which a connection that owes nothing is closed; zero = never.
    pub idle: Duration,
    /// Memory of all connections of a shard together; over it their requests wait unread.
    pub shard_memory_bytes: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            connections_max: limits::SHARD_CONNECTIONS_MAX,
            requests_max: limits::CONNECTION_REQUESTS_MAX,
            bytes_max: 16 * 1024 * 1024,
            frame_bytes_max: limits::NATIVE_FRAME_BYTES_MAX,
            handshake: Duration::from_secs(10),
            frame_stall: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            idle: Duration::ZERO,
            shard_memory_bytes: 256 * 1024 * 1024,
        }
    }
}
