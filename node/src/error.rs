//! Why a node does not start or has to stop. Every text names the remedy.

use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the data directory {path} is in use by another process: stop it, or choose another --data-dir")]
    Locked { path: PathBuf },
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error("no gateway serves the protocol `{protocol}` of listener `{listener}`: use one of {known}")]
    UnknownProtocol { listener: String, protocol: String, known: String },
    #[error("{what}: {reason}")]
    Config { what: &'static str, reason: String },
    #[error("the log cannot be opened: {reason}")]
    Storage { reason: String },
    #[error("the driver of shard {shard} cannot start: {reason}")]
    Driver { shard: u16, reason: String },
    #[error("shard {shard} ended unexpectedly: {reason}")]
    Shard { shard: u16, reason: String },
    #[error("the node was stopped before it was ready")]
    Stopped,
}
