//! The engine of one shard: partitions, producers, cursors, topics and their settings. Synchronous and pure.
//!
//! Owns every decision about records: rights, quota, deduplication, offsets, what is committed, who waits,
//! what is retained. Must never know a socket, a file, a clock or a protocol: time comes in as
//! [`martlet_core::Now`], storage is the [`log::Log`] trait, answers leave through [`api::Answer`].

pub mod api;
pub mod engine;
pub mod guard;
pub mod log;
pub mod metadata;
pub mod registers;
pub mod service;
pub mod settings;
pub mod snapshot;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod calls;
mod codec;
mod commit;
mod compaction;
mod cursor;
mod dedup;
mod metadata_log;
mod partition;
mod pending;
mod recovery;
mod retention;
mod transactions;
mod wait;

#[cfg(test)]
mod tests;

pub use engine::{Counters, Engine, EngineConfig, Recovered};
pub use guard::{AllowAll, Guard};
pub use settings::Settings;
