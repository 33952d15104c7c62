//! The clock of one transfer: how long it may take at all, and how fast it must be while others wait for the
//! memory it holds. Owns the reckoning; whoever transfers asks it at every tick.

use std::time::Duration;

use martlet_core::Instant;
use martlet_core::limits::PACE_BYTES_MAX;
use martlet_runtime::Runtime;

use crate::memory::{MemoryBudget, Purpose};

/// Time between two looks at the pace.
const TICK: Duration = Duration::from_millis(500);
/// The same when the pace is as high as it gets: somebody has been waiting for long.
const TICK_PRESSED: Duration = Duration::from_millis(250);
/// Time until the first look after a wait for memory: a peer that was held up has filled the socket
/// meanwhile.
const TICK_FIRST: Duration = Duration::from_millis(100);

/// Why a transfer is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TooSlow {
    /// It took longer than it may in any case.
    Stalled,
    /// Others wait, and it moved less than so many bytes a second.
    Pressed { pace: u64 },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    memory: MemoryBudget,
    /// Whose waiting counts; `None`: nobody's.
    purpose: Option<Purpose>,
    /// What is left of the time the transfer may take.
    left: Duration,
    /// Length of the stretch that is looked at next.
    tick: Duration,
    /// Beginning of the stretch that is looked at next, and the bytes moved in it.
    begun: Instant,
    moved: u64,
}

impl Pace {
    /// A transfer that begins now and may take `allowance`.
    pub(crate) fn new(
        memory: &MemoryBudget,
        purpose: Option<Purpose>,
        allowance: Duration,
        runtime: &Runtime,
    ) -> Pace {
        let begun = runtime.instant();
        Pace { memory: memory.clone(), purpose, left: allowance, tick: TICK, begun, moved: 0 }
    }

    /// When to look next.
    pub(crate) fn tick(&self) -> Instant {
        self.begun.after(self.left.min(self.tick))
    }

    /// The transfer was held up for a while by somebody else than its peer.
    pub(crate) fn go_on(&mut self, now: Instant) {
        self.begin(now, TICK_FIRST);
    }

    fn begin(&mut self, now: Instant, tick: Duration) {
        self.tick = tick;
        self.begun = now;
        self.moved = 0;
    }

    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
    }

    /// Looks at the stretch that ends now and begins the next.
    ///
    /// # Errors
    /// [`TooSlow`].
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), TooSlow> {
        let stretch = now.since(self.begun);
        self.left = self.left.saturating_sub(stretch);
        if self.left.is_zero() {
            return Err(TooSlow::Stalled);
        }
        let pace = self.purpose.and_then(|purpose| self.memory.pace(purpose, now));
        if let Some(pace) = pace {
            let asked = u128::from(pace) * stretch.as_millis() / 1000;
            if u128::from(self.moved) < asked {
                self.memory.count_cut_off();
                return Err(TooSlow::Pressed { pace });
            }
        }
        self.begin(now, if pace == Some(PACE_BYTES_MAX) { TICK_PRESSED } else { TICK });
        Ok(())
    }
}

/// The clock of bytes that are handed over together: whether some of them were taken is not seen before all
/// were.
#[derive(Debug)]
pub(crate) struct SendPace {
    bytes: usize,
    stall: Duration,
    begun: Instant,
    looked: Instant,
}

impl SendPace {
    pub(crate) fn new(bytes: usize, stall: Duration, now: Instant) -> SendPace {
        SendPace { bytes, stall, begun: now, looked: now }
    }

    /// When to look next.
    pub(crate) fn tick(&self) -> Instant {
        self.begun.after(self.stall).min(self.looked.after(TICK))
    }

    /// `asked`: the bytes a second that others need, if any wait.
    ///
    /// # Errors
    /// [`TooSlow`].
    pub(crate) fn check(&mut self, asked: Option<u64>, now: Instant) -> Result<(), TooSlow> {
        self.looked = now;
        let taken = now.since(self.begun);
        if taken >= self.stall {
            return Err(TooSlow::Stalled);
        }
        match asked {
            Some(pace) if (self.bytes as u128) < u128::from(pace) * taken.as_millis() / 1000 => {
                Err(TooSlow::Pressed { pace })
            }
            _ => Ok(()),
        }
    }
}
