//! The log on disk: ring, runs, segments, checkpoint, recovery.
//!
//! Owns every byte below the data directory. Nothing outside this crate opens, syncs or truncates a log file.
//! Layout, store and recovery are pure state machines over [`io`]; only the pump touches a runtime.

pub mod io;
