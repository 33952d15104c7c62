//! What an executor counts. Must never decide anything.

use std::cell::Cell;
use std::time::Duration;

/// Counts since the executor was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Turns of tasks by class: Latency, Normal, Background.
    pub turns: [u64; 3],
    /// Nanoseconds that tasks ran, by class.
    pub busy_ns: [u64; 3],
    /// Tasks alive now.
    pub tasks: usize,
    /// Timers waiting now.
    pub timers: usize,
    pub timers_fired: u64,
    /// Operations submitted.
    pub operations: u64,
    /// Operations not completed or not yet collected.
    pub operations_live: usize,
    /// Enters of the driver, and those that were allowed to sleep.
    pub enters: u64,
    pub sleeps: u64,
    /// Wakes by other threads.
    pub foreign_wakes: u64,
    /// Turns longer than the threshold, and the last of them.
    pub stalls: u64,
    pub last_stall: Option<(&'static str, Duration)>,
}

/// A counter that its thread alone changes.
#[derive(Debug, Default)]
pub(crate) struct Count(Cell<u64>);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.set(self.0.get().wrapping_add(more));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

/// The counts behind [`Counters`].
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) turns: [Count; 3],
    pub(crate) busy_ns: [Count; 3],
    pub(crate) timers_fired: Count,
    pub(crate) operations: Count,
    pub(crate) enters: Count,
    pub(crate) sleeps: Count,
    pub(crate) stalls: Count,
    pub(crate) last_stall: Cell<Option<(&'static str, Duration)>>,
}
