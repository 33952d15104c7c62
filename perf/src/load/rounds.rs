//! A load cut into rounds: floors are measured between them, and they go on until the broker's rings have
//! gone round as often as was asked. Owns the counters from before the first round.

use std::time::Duration;

use super::Options;
use super::broker::{Broker, Counters};
use super::floors::Floors;
use crate::error::PerfError;
use crate::report::Row;

/// Rounds that the time is cut into, with floors between them.
const ROUNDS: u32 = 6;
/// Rounds after which laps are given up.
const ROUNDS_MAX: u32 = 10_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Rounds {
    broker: Broker,
    before: Counters,
    time: Duration,
    count: u32,
    done: u32,
    laps: f64,
}

impl Rounds {
    pub(super) fn new(options: &Options, floors: &Floors) -> Result<Rounds, PerfError> {
        let broker = Broker { http: options.http.clone(), process: options.process };
        if options.laps > 0.0 && !broker.tells() {
            return Err(PerfError::Usage("laps are counted by the broker: say --http HOST:PORT".into()));
        }
        let count = if floors.wanted() || options.laps > 0.0 { ROUNDS } else { 1 };
        let before = broker.counters()?;
        Ok(Rounds { broker, before, time: options.time(), count, done: 0, laps: options.laps })
    }

    /// Time of the next round, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Duration>, PerfError> {
        if self.done >= self.count {
            if self.laps <= 0.0 || self.broker.counters()?.laps(&self.before) >= self.laps {
                return Ok(None);
            }
            if self.done >= ROUNDS_MAX {
                return Err(PerfError::Usage("the rings do not go round: make them smaller".into()));
            }
        }
        self.done += 1;
        Ok(Some(self.time / self.count))
    }

    /// Adds what the broker counted during all rounds, in which `payload` bytes of values were sent.
    pub(super) fn tell(&self, payload: f64, row: &mut Row) -> Result<(), PerfError> {
        self.broker.counters()?.tell(&self.before, payload, row);
        Ok(())
    }
}
