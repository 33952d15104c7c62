//! Consumer groups: the classic protocol, the newer one of KIP-848, and committed offsets.
//!
//! Owns who is a member, which generation or epoch holds, who gets which partition, and how far a group has
//! read. Everything here is synchronous: messages and the time come in, answers and changes to keep go out.
//! [`service`] puts it on the shard that owns the group's name; nothing here knows a connection, a socket or
//! the bytes of a request.

pub(crate) mod ask;
mod classic;
mod codec;
mod config;
mod consumer;
mod offsets;
mod service;

pub use config::GroupConfig;
pub use service::GroupServices;

/// The service's name, as calls give it.
pub(crate) const SERVICE: &str = "kafka-groups";
