//! A running node: joins engine, log and connections. One root future per shard; decisions stay in the engine
//! and the store, this crate moves their inputs and effects.
//!
//! Owns start-up, stop, the tick, and the messages between shards. Must never decide about a record, know a
//! client protocol, or start a thread or a second runtime, except in [`threads`], which the simulator leaves
//! out.

mod broker;
mod calls;
pub mod config;
mod drive;
pub mod error;
mod fetches;
mod gather;
pub mod handle;
mod kept_back;
mod link;
pub mod lost;
mod message;
pub mod rehome;
pub mod seam;
pub mod seat;
mod service;
mod shard;
mod shard_core;
mod slab;
pub mod stats;
mod stop;
mod storage;
pub mod threads;

pub use config::{Gateways, NodeConfig};
pub use error::NodeError;
pub use handle::{NodeHandle, Phase};
pub use lost::{FoundBy, LostRange};
pub use martlet_shard::service::{Position, ServiceFacts};
pub use martlet_wal::config::{Geometry, StoreConfig};
pub use seat::{ShardSeat, build};
pub use stats::{NodeStats, ShardStats};
pub use threads::{DriverFactory, Node};

/// Whether the log or the engine has planted bugs compiled in. The product refuses to be built with them.
pub const HAS_PLANTED_BUGS: bool =
    martlet_wal::config::HAS_PLANTED_BUGS || martlet_shard::engine::HAS_PLANTED_BUGS;
