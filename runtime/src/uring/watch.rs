//! When to look for completions for a moment instead of sleeping at once.
//!
//! A peer that was just answered often sends its next request within tens of microseconds. A thread that
//! sleeps meanwhile pays for the way out of an idle core, and for caches gone cold, more than it would have
//! waited. Owns the decision, from what earlier looks have brought; the driver does the looking. Must never
//! be asked for while a file operation is under way: its interrupts and workers need the core.

use std::time::Duration;

/// After so many looks in vain in a row, the pauses between looks grow no more.
const MISSES_MAX: u32 = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    window: Duration,
    /// Something was sent since the last sleep.
    answered: bool,
    /// Looks in vain, in a row.
    misses: u32,
    /// Sleeps that begin without a look, because the last looks were in vain.
    pause: u32,
}

impl Watch {
    /// Looks for at most `window`; zero means never.
    pub(super) fn new(window: Duration) -> Watch {
        Watch { window, answered: false, misses: 0, pause: 0 }
    }

    /// Something was sent to a peer.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// How long to look before this sleep, if at all.
    pub(super) fn begin(&mut self) -> Option<Duration> {
        let answered = std::mem::take(&mut self.answered);
        if !answered || self.window.is_zero() {
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        Some(self.window)
    }

    /// Whether the look brought something. One in vain is followed by a pause that doubles each time, so that
    /// where looking does not pay it costs next to nothing.
    pub(super) fn end(&mut self, brought: bool) {
        if brought {
            self.misses = 0;
            return;
        }
        self.misses = (self.misses + 1).min(MISSES_MAX);
        self.pause = (1 << self.misses) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks in `sleeps` sleeps of a thread that answers before each.
    fn looks(watch: &mut Watch, sleeps: u32, brought: bool) -> u32 {
        let mut looks = 0;
        for _ in 0..sleeps {
            watch.answered();
            if watch.begin().is_some() {
                looks += 1;
                watch.end(brought);
            }
        }
        looks
    }

    #[test]
    fn looks_as_long_as_it_pays_and_hardly_ever_otherwise() {
        let mut watch = Watch::new(Duration::from_micros(50));
        assert_eq!(watch.begin(), None, "nothing was answered");
        assert_eq!(looks(&mut watch, 1_000, true), 1_000);
        assert!(looks(&mut watch, 10_000, false) < 350);
        assert!(looks(&mut watch, 1_000, true) > 500, "it comes back when it pays again");
        assert_eq!(looks(&mut Watch::new(Duration::ZERO), 100, true), 0);
    }
}
