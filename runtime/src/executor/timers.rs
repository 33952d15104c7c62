//! Who waits for which moment. Ordered by time, then by age, so that the order is the same in every run. A
//! cancelled timer leaves nothing behind. Must never read a clock.

use std::collections::BTreeMap;
use std::task::Waker;

use martlet_core::Instant;

/// A registered timer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct TimerKey {
    at: Instant,
    serial: u64,
}

#[derive(Default)]
pub(crate) struct Timers {
    waiting: BTreeMap<TimerKey, Waker>,
    serial: u64,
}

impl Timers {
    pub(crate) fn insert(&mut self, at: Instant, waker: Waker) -> TimerKey {
        self.serial += 1;
        let key = TimerKey { at, serial: self.serial };
        self.waiting.insert(key, waker);
        key
    }

    /// Changes who is woken. A timer that has fired stays fired.
    pub(crate) fn update(&mut self, key: TimerKey, waker: &Waker) {
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.clone_from(waker);
        }
    }

    /// The waker is given back so that it can be dropped outside of any borrow.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<Waker> {
        self.waiting.remove(&key)
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(key, _)| key.at)
    }

    /// Takes one timer that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        let first = self.waiting.first_entry()?;
        (first.key().at <= now).then(|| first.remove())
    }

    pub(crate) fn length(&self) -> usize {
        self.waiting.len()
    }
}
