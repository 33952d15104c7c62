//! How a life ended, and what a whole seed did. Counts, and judges nothing.

use super::table::Table;

/// How a life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Power,
    Killed,
    Stopped,
}

/// What a seed did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) table: Table,
    pub(crate) events: u64,
    pub(crate) acknowledged: u64,
    pub(crate) lives: u64,
    /// Highest number of ring laps.
    pub(crate) laps: u64,
    /// Runs that were written instead of ring space.
    pub(crate) big_runs: u64,
}
