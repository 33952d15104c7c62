//! A store on a model disk, driven by hand.

use martlet_core::time::WallTime;
use martlet_core::{Instant, Now};

use super::{Dice, ModelDisk};
use crate::io::{IoId, IoRequest};
use crate::recovery::{Recovery, RecoveryError, RecoveryReport, ReplayItem};
use crate::store::Store;

/// Requests under way: id, request, and what a sync in it covers.
type UnderWay = (IoId, IoRequest, u64);

/// A store, its disk, and requests between the two.
#[derive(Debug)]
pub struct Bench {
    pub store: Store,
    pub disk: ModelDisk,
    pub report: RecoveryReport,
    /// What the engine was told at recovery.
    pub replay: Vec<ReplayItem>,
    pub now: Now,
    under_way: Vec<UnderWay>,
}

/// Runs a recovery to its end.
///
/// # Errors
/// As recovery ends.
pub fn recover(
    mut recovery: Recovery,
    disk: &mut ModelDisk,
) -> Result<(Store, RecoveryReport, Vec<ReplayItem>), RecoveryError> {
    let mut replay = Vec::new();
    loop {
        replay.extend(recovery.take_replay());
        if let Some(finished) = recovery.take_finished() {
            return finished.map(|(store, report)| (store, report, replay));
        }
        while let Some((id, request)) = recovery.poll_io() {
            let outcome = disk.execute(&request, disk.submitted_at());
            recovery.complete(id, outcome);
        }
    }
}

/// Runs at most `steps` requests of a recovery, then power is lost. `true` if it had ended by then.
pub fn recover_and_crash(mut recovery: Recovery, disk: &mut ModelDisk, steps: u64, dice: &mut Dice) -> bool {
    let mut under_way: Vec<UnderWay> = Vec::new();
    let mut left = steps;
    let ended = loop {
        recovery.take_replay();
        if recovery.take_finished().is_some() {
            break true;
        }
        while let Some((id, request)) = recovery.poll_io() {
            under_way.push((id, request, disk.submitted_at()));
        }
        if left == 0 || under_way.is_empty() {
            break false;
        }
        left -= 1;
        let at = dice.below(under_way.len() as u64) as usize;
        let (id, request, submitted) = under_way.swap_remove(at);
        let outcome = disk.execute(&request, submitted);
        recovery.complete(id, outcome);
    };
    let half_done: Vec<IoRequest> = under_way.drain(..).map(|(_, request, _)| request).collect();
    disk.crash(dice, &half_done);
    ended
}

impl Bench {
    /// Opens or makes a log.
    ///
    /// # Errors
    /// As recovery ends; the disk is lost then.
    pub fn start(recovery: Recovery, mut disk: ModelDisk, now: Now) -> Result<Bench, RecoveryError> {
        let (store, report, replay) = recover(recovery, &mut disk)?;
        Ok(Bench { store, disk, report, replay, now, under_way: Vec::new() })
    }

    /// Lets the store submit what it wants.
    pub fn submit(&mut self) {
        while let Some((id, request)) = self.store.poll_io(self.now) {
            self.under_way.push((id, request, self.disk.submitted_at()));
        }
    }

    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Completes one request under way, chosen by the dice.
    pub fn complete_one(&mut self, dice: &mut Dice) {
        self.submit();
        if self.under_way.is_empty() {
            return;
        }
        let at = dice.below(self.under_way.len() as u64) as usize;
        let (id, request, submitted) = self.under_way.swap_remove(at);
        let outcome = self.disk.execute(&request, submitted);
        self.store.complete(id, outcome, self.now);
        self.submit();
    }

    /// Goes on until the store asks for nothing more; timers are not fired.
    pub fn settle_down(&mut self) {
        loop {
            self.submit();
            if self.under_way.is_empty() {
                return;
            }
            let (id, request, submitted) = self.under_way.remove(0);
            let outcome = self.disk.execute(&request, submitted);
            self.store.complete(id, outcome, self.now);
        }
    }

    /// Lets time pass and fires what is due.
    pub fn pass(&mut self, milliseconds: u64) {
        let instant = Instant(self.now.instant.0 + milliseconds * 1_000_000);
        self.now = Now { instant, wall: WallTime(self.now.wall.0 + milliseconds as i64) };
        if self.store.next_timer().is_some_and(|at| at <= instant) {
            self.store.on_timer(self.now);
        }
        self.submit();
    }

    /// Power is lost; the disk is what survives.
    #[must_use]
    pub fn crash(mut self, dice: &mut Dice) -> ModelDisk {
        let half_done: Vec<IoRequest> = self.under_way.drain(..).map(|(_, request, _)| request).collect();
        self.disk.crash(dice, &half_done);
        self.disk
    }

    /// The process is killed.
    #[must_use]
    pub fn kill(mut self, dice: &mut Dice) -> ModelDisk {
        let half_done: Vec<IoRequest> = self.under_way.drain(..).map(|(_, request, _)| request).collect();
        self.disk.kill(dice, &half_done);
        self.disk
    }

    /// Ends in good order.
    #[must_use]
    pub fn close(mut self, engine_snapshot: Vec<u8>) -> ModelDisk {
        self.store.close(engine_snapshot);
        while !self.store.is_closed() {
            self.settle_down();
            self.pass(20);
        }
        self.settle_down();
        self.disk
    }
}
