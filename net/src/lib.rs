//! Bytes on the wire: listeners, connections, framing and byte budgets, for every gateway.
//!
//! Owns how a connection is bounded: its frames, its buffers, its unanswered requests, its stalls, and the
//! memory all connections of a shard share. Must never know a protocol's messages, a partition or a file;
//! what a peer does wrong may cost that peer's connection and nothing else.

pub mod answers;
pub mod config;
pub mod event;
pub mod flow;
pub mod gateway;
pub mod listener;
pub mod memory;
mod pace;
pub mod reader;
pub mod writer;

pub use config::{ConnectionLimits, ListenerConfig};
pub use gateway::{Connection, Gateway, GatewayFuture, ListenerFacts};
pub use memory::{MemoryBudget, Reservation};
