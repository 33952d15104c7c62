//! Partitions with so much unsettled that they are settled while their frames are still in memory.
//!
//! Owns the order of turns. Must never cost more than a few steps for a staged frame, and never look at a
//! partition that has little.

use std::collections::VecDeque;

use martlet_core::PartitionId;

use super::entry::FrameEntry;
use super::logs::{PartitionLogs, SettleMove, SettlePlan};
use super::partition::PartitionLog;

/// When a partition is settled before its ring space is needed. All 0: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EagerLimits {
    /// Unsettled bytes with which a partition is settled once the oldest of them are old.
    pub bytes_min: u64,
    /// Distance in the ring from a partition's oldest to its newest frame that makes the oldest old.
    pub age_min: u64,
    /// Unsettled bytes with which a partition is settled at once.
    pub bytes_full: u64,
}

impl EagerLimits {
    fn reached(&self, log: &PartitionLog) -> bool {
        if self.bytes_min == 0 || log.unsettled_bytes < self.bytes_min {
            return false;
        }
        let position = |entry: Option<&FrameEntry>| entry.map_or(0, |entry| entry.position);
        let age = position(log.unsettled.back()).saturating_sub(position(log.unsettled.front()));
        log.unsettled_bytes >= self.bytes_full || age >= self.age_min
    }
}

/// Partitions that wait for their turn, each at most once.
#[derive(Debug, Default)]
pub(super) struct Eager {
    limits: EagerLimits,
    /// Ring position that must be durable for a turn to be worth it, and the partition.
    turns: VecDeque<(u64, PartitionId)>,
}

impl Eager {
    /// Gives the partition a turn if it has enough, none yet, and may settle. A busy one gets it when its job
    /// ends. `position` says from which ring position on its frames are worth a turn.
    pub(super) fn offer(
        &mut self,
        partition: PartitionId,
        log: &mut PartitionLog,
        position: impl FnOnce(&PartitionLog, u64) -> u64,
    ) {
        if !log.eager && !log.busy && log.pending_runs == 0 && !log.fenced && self.limits.reached(log) {
            log.eager = true;
            self.turns.push_back((position(log, self.limits.bytes_min), partition));
        }
    }

    /// Forgets a partition that is dropped.
    pub(super) fn forget(&mut self, partition: PartitionId, log: &PartitionLog) {
        if log.eager {
            self.turns.retain(|(_, waiting)| *waiting != partition);
        }
    }
}

impl PartitionLogs {
    /// Says which partitions [`Self::plan_eager`] offers.
    pub fn set_eager_limits(&mut self, limits: EagerLimits) {
        self.eager.limits = limits;
    }

    /// Chooses a partition with much unsettled, first come first served, and marks it busy as
    /// [`Self::plan_settle`] does. At most `job_bytes_max` of it, unless its first frame alone is larger.
    pub fn plan_eager(&mut self, durable: u64, job_bytes_max: u64) -> Option<SettlePlan> {
        while let Some((position, partition)) = self.eager.turns.front().copied() {
            if position > durable {
                return None;
            }
            self.eager.turns.pop_front();
            let Some(log) = self.logs.get_mut(&partition) else { continue };
            log.eager = false;
            if log.busy
                || log.pending_runs > 0
                || log.fenced
                || log.unsettled_bytes < self.eager.limits.bytes_min
            {
                continue;
            }
            let (frames, bytes) = log.settleable(durable, job_bytes_max);
            if frames.is_empty() {
                continue;
            }
            log.busy = true;
            return Some(SettlePlan { partition, how: SettleMove::Run, frames, bytes });
        }
        None
    }

    /// A job of this partition ended: it gets another turn if it still has much.
    pub(super) fn offer_rest(&mut self, partition: PartitionId) {
        if let Some(log) = self.logs.get_mut(&partition) {
            self.eager.offer(partition, log, PartitionLog::worth_settling_at);
        }
    }
}
