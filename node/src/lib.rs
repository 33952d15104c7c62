//! A running node: joins engine, log and connections. One root future per shard; decisions stay in the engine and the
//! store, this crate moves their inputs and effects.
//!
//! Owns start-up, stop, the tick, and the messages between shards. Must never decide about a record, know a client
//! protocol, or start a thread or a second runtime, except in [`threads`], which the simulator leaves out.

pub mod config;
pub mod error;
pub mod handle;
pub mod seat;
pub mod stats;
pub mod threads;

pub use config::{Gateways, NodeConfig};
pub use error::NodeError;
pub use handle::{NodeHandle, Phase};
pub use seat::{ShardSeat, build};
pub use stats::{NodeStats, ShardStats};
