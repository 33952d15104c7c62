//! The engine of one shard: partitions, producers, cursors, topics and their settings. Synchronous and pure.
//!
//! Owns every decision about records: rights, quota, deduplication, offsets, what is committed, who waits, what
//! is retained. Must never know a socket, a file, a clock or a protocol: time comes in as [`martlet_core::Now`],
//! storage is the [`log::Log`] trait, answers leave through [`api::Answer`].

pub mod api;
pub mod engine;
pub mod guard;
pub mod log;

pub use engine::{Engine, EngineConfig, Recovered};
pub use guard::{AllowAll, Guard};
