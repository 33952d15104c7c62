//! Partitions with little, whose frames lie scattered in the ring: they are logged again side by side while
//! they are still in memory, so that settling them later reads a few stretches and not a block for each.
//!
//! Owns the order in which frames come up for that. Must never read from disk, look at a frame twice, or take
//! frames that were logged again already: every record is gathered at most once.

use std::collections::BTreeSet;

use martlet_core::PartitionId;

use super::entry::FrameEntry;
use super::logs::{PartitionLogs, SettleMove, SettlePlan};
use super::partition::PartitionLog;

/// Fewest stretches that are worth to be made one.
const PIECES_MIN: u64 = 2;
/// Largest stretch, on average, that is worth it: larger ones are read at once as they are.
const PIECE_BYTES_MAX: u64 = 8 * 1024;

/// When frames are gathered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GatherLimits {
    /// Bytes of other frames between two of a partition from which on these count as scattered; `u64::MAX`
    /// gathers nothing.
    pub gap_min: u64,
    /// Distance to the ring's head at which a frame comes up.
    pub age_min: u64,
    /// Bytes of one plan.
    pub plan_bytes_max: u64,
}

impl Default for GatherLimits {
    fn default() -> GatherLimits {
        GatherLimits { gap_min: u64::MAX, age_min: u64::MAX, plan_bytes_max: 0 }
    }
}

/// Where the ring stands when a plan is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GatherView {
    pub head: u64,
    /// Frames that end at or below this position are durable.
    pub durable: u64,
    /// Frames from this position on are in memory.
    pub cached_from: u64,
    /// Bytes that may be logged again now.
    pub room: u64,
}

/// The logs by the position of the first frame that did not come up yet.
#[derive(Debug, Default)]
pub(super) struct Gather {
    limits: GatherLimits,
    by_fresh: BTreeSet<(u64, PartitionId)>,
}

impl Gather {
    pub(super) fn is_on(&self) -> bool {
        self.limits.gap_min < u64::MAX
    }

    /// Whether a frame that was just staged is the next of its log to come up.
    pub(super) fn waits_for_one(&self, log: &PartitionLog) -> bool {
        self.is_on() && log.fresh_position.is_none()
    }

    /// Puts a log at its place in the order.
    pub(super) fn reorder(&mut self, partition: PartitionId, log: &mut PartitionLog) {
        let fresh = if self.is_on() { log.fresh().map(|entry| entry.position) } else { None };
        if fresh != log.fresh_position {
            self.forget(partition, log);
            if let Some(position) = fresh {
                self.by_fresh.insert((position, partition));
            }
            log.fresh_position = fresh;
        }
    }

    pub(super) fn forget(&mut self, partition: PartitionId, log: &mut PartitionLog) {
        if let Some(position) = log.fresh_position.take() {
            self.by_fresh.remove(&(position, partition));
        }
    }
}

impl PartitionLog {
    /// Index of the first frame that was neither logged again nor came up to be gathered.
    fn fresh_index(&self) -> usize {
        if self.irregular {
            let rest = self.unsettled.iter().skip(self.carried);
            return self.carried + rest.take_while(|entry| entry.position < self.gathered_below).count();
        }
        // Leading entries that were carried may lie above, the others rise.
        let passed = |entry: &FrameEntry| entry.position < self.gathered_below || self.is_carried(entry);
        self.unsettled.partition_point(passed)
    }

    fn is_carried(&self, entry: &FrameEntry) -> bool {
        let first = self.unsettled.get(self.carried);
        first.is_none_or(|first| entry.base_offset < first.base_offset)
    }

    pub(super) fn fresh(&self) -> Option<&FrameEntry> {
        self.unsettled.get(self.fresh_index())
    }

    /// Frames from the first fresh one on that are worth to be logged again together.
    fn scattered(&self, limits: &GatherLimits, view: &GatherView) -> Option<(Vec<FrameEntry>, u64)> {
        let mut frames: Vec<FrameEntry> = Vec::new();
        let (mut bytes, mut pieces) = (0, 0);
        for entry in self.unsettled.iter().skip(self.fresh_index()) {
            let length = u64::from(entry.length);
            if entry.end_position() > view.durable || bytes + length > limits.plan_bytes_max {
                break;
            }
            let near = |last: &FrameEntry| {
                entry.position >= last.position && entry.position - last.end_position() < limits.gap_min
            };
            pieces += u64::from(!frames.last().is_some_and(near));
            bytes += length;
            frames.push(*entry);
        }
        let cached = frames.iter().all(|entry| entry.position >= view.cached_from);
        (cached && pieces >= PIECES_MIN && bytes <= pieces * PIECE_BYTES_MAX).then_some((frames, bytes))
    }
}

impl PartitionLogs {
    /// Says what [`Self::plan_gather`] offers. To be called before anything is staged or recovered.
    pub fn set_gather_limits(&mut self, limits: GatherLimits) {
        self.gather.limits = limits;
        let partitions: Vec<PartitionId> = self.logs.keys().copied().collect();
        partitions.into_iter().for_each(|partition| self.reorder(partition));
    }

    /// Chooses scattered frames of one partition that are old and in memory, and marks it busy as
    /// [`Self::plan_settle`] does. What is not worth it, or may not be carried now, is passed over for good.
    pub fn plan_gather(&mut self, view: &GatherView) -> Option<SettlePlan> {
        let limits = self.gather.limits;
        while let Some((position, partition)) = self.gather.by_fresh.first().copied() {
            let is_old = position.saturating_add(limits.age_min) <= view.head;
            if !is_old || view.room < limits.plan_bytes_max {
                return None;
            }
            let Some(log) = self.logs.get_mut(&partition) else {
                self.gather.by_fresh.pop_first();
                continue;
            };
            let idle = !log.busy && log.pending_runs == 0 && !log.fenced && !log.eager;
            let found = if idle { log.scattered(&limits, view) } else { None };
            let below = match &found {
                Some((frames, _)) => frames.last().map_or(0, FrameEntry::end_position),
                None if idle => view.durable,
                None => view.head - limits.age_min,
            };
            log.gathered_below = below.max(position + 1);
            self.gather.reorder(partition, log);
            if let Some((frames, bytes)) = found {
                log.busy = true;
                log.carrying = true;
                return Some(SettlePlan { partition, how: SettleMove::Carry, frames, bytes });
            }
        }
        None
    }
}
