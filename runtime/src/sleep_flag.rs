//! The agreement between a thread that goes to sleep in the kernel and those that wake it: nobody rings the
//! bell of a thread that is awake, and no wake is lost. Used by every driver that sleeps; checked by loom.

use std::fmt;

use crate::sync::atomic::{AtomicBool, Ordering};

/// Shared by the sleeper and its wakers.
///
/// The sleeper calls [`SleepFlag::prepare`]; if it says yes, sleeps until the bell or something else; then
/// calls [`SleepFlag::awake`]; then looks at everything that wakers may have left. A waker leaves its message
/// first, then calls [`SleepFlag::must_ring`] and rings if told so.
pub struct SleepFlag {
    asleep: AtomicBool,
    pending: AtomicBool,
}

impl SleepFlag {
    #[must_use]
    pub fn new() -> SleepFlag {
        SleepFlag { asleep: AtomicBool::new(false), pending: AtomicBool::new(false) }
    }

    /// Announces sleep. `false`: somebody has left something, do not sleep, but look.
    #[must_use]
    pub fn prepare(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.pending.swap(false, Ordering::SeqCst) {
            self.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Announces that the thread is up. What wakers left before they called is visible from here on.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        self.pending.swap(false, Ordering::SeqCst);
    }

    /// For wakers, after the message was left: whether the bell has to be rung. One waker a sleep is told so.
    #[must_use]
    pub fn must_ring(&self) -> bool {
        // All four accesses are sequentially consistent: either the sleeper's swap sees this one and stays
        // up, or this load sees the sleeper asleep.
        !self.pending.swap(true, Ordering::SeqCst) && self.asleep.load(Ordering::SeqCst)
    }
}

impl Default for SleepFlag {
    fn default() -> SleepFlag {
        SleepFlag::new()
    }
}

impl fmt::Debug for SleepFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SleepFlag")
    }
}
