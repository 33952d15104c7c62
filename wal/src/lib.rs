//! The log on disk: ring, runs, segments, checkpoint, recovery.
//!
//! Owns every byte below the data directory. Nothing outside this crate opens, syncs or truncates a log file.
//! Layout, store and recovery are pure state machines over [`io`]; only the pump touches a runtime.

pub mod compact;
pub mod config;
pub mod counters;
pub mod index;
pub mod io;
pub mod layout;
pub mod pump;
pub mod read;
pub mod recovery;
pub mod rehome;
mod ring;
mod script;
pub mod settle;
pub mod store;
pub mod sweep;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub mod testing;
pub mod verify;

pub use config::{Geometry, StoreConfig};
pub use counters::Counters;
pub use recovery::{NewWal, Recovery, RecoveryError, RecoveryReport, ReplayItem};
pub use store::{StorageState, Store, WriteClass};
