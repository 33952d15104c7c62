//! The index across a restart: what a checkpoint keeps of it, and what recovery puts back.

use martlet_core::{Epoch, Lsn, Offset, PartitionId};

use super::entry::{FrameEntry, Segment};
use super::logs::PartitionLogs;
use super::partition::PartitionLog;
use super::retire::{Retirer, Retiring};
use crate::layout::checkpoint::{PartitionState, SegmentState};

/// A range of offsets that the log should hold and does not: its bytes were damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveredGap {
    pub partition: PartitionId,
    pub from: Offset,
    /// First good offset after it.
    pub next_offset: Offset,
}

/// A partition after recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveredPartition {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub log_start: Offset,
    pub next_offset: Offset,
}

impl PartitionLogs {
    /// What a checkpoint keeps of every partition, as staged at this moment.
    #[must_use]
    pub fn checkpoint_state(&self) -> Vec<PartitionState> {
        self.logs
            .iter()
            .map(|(partition, log)| PartitionState {
                partition: *partition,
                epoch: log.epoch,
                log_start: log.log_start,
                next_offset: log.next_offset,
                segments: log.segments.iter().map(SegmentState::of).collect(),
            })
            .collect()
    }

    /// Files that must still be removed: segments, and partitions whose directories are to be emptied.
    #[must_use]
    pub fn checkpoint_retired(&self, retirer: &Retirer) -> (Vec<crate::io::SegmentName>, Vec<PartitionId>) {
        let mut segments = Vec::new();
        let mut partitions = Vec::new();
        for retiring in self.retiring.iter().copied().chain(retirer.in_flight()) {
            match retiring {
                Retiring::Segment { name, .. } => segments.push(name),
                Retiring::Partition { partition, .. } => partitions.push(partition),
            }
        }
        (segments, partitions)
    }

    /// The index as a checkpoint left it. Runs are not loaded.
    #[must_use]
    pub fn from_checkpoint(
        partitions: &[PartitionState],
        retired_segments: &[crate::io::SegmentName],
        retired_partitions: &[PartitionId],
    ) -> PartitionLogs {
        let mut logs = PartitionLogs::new();
        for state in partitions {
            let segments: Vec<Segment> = state.segments.iter().map(SegmentState::segment).collect();
            let log = PartitionLog {
                epoch: state.epoch,
                log_start: state.log_start,
                next_offset: state.next_offset,
                settled_bytes: segments.iter().map(|segment| segment.frame_bytes).sum(),
                segments,
                unswept: true,
                ..PartitionLog::default()
            };
            logs.logs.insert(state.partition, log);
        }
        for name in retired_segments {
            // The file may be gone already, so that no sweep finds it, and its removal still comes: no new
            // segment takes its name.
            if let Some(log) = logs.logs.get_mut(&name.partition) {
                log.generation = log.generation.max(name.generation.saturating_add(1));
            }
            logs.retire_segment(*name, Lsn(0));
        }
        for partition in retired_partitions {
            logs.retiring.push_back(Retiring::Partition { partition: *partition, after: Lsn(0) });
        }
        logs
    }

    /// A frame found in the ring: from a FRAME, or from a CARRY, which counts over what was found before.
    pub fn recover_frame(&mut self, partition: PartitionId, epoch: Epoch, entry: FrameEntry) {
        let log = self.logs.entry(partition).or_default();
        log.unswept = true;
        log.epoch = log.epoch.max(epoch);
        log.recover(entry);
        self.reorder(partition);
    }

    /// A partition that was opened by a record in the ring.
    pub fn recover_open(&mut self, partition: PartitionId) {
        self.logs.entry(partition).or_default().unswept = true;
    }

    /// Damage hid where the partition's offsets end: they go on at `next_offset` or later.
    pub fn recover_next_offset(&mut self, partition: PartitionId, next_offset: Offset) {
        if let Some(log) = self.logs.get_mut(&partition) {
            log.next_offset = log.next_offset.max(next_offset);
        }
    }

    /// Raises every epoch by one: what an earlier process may still write is refused.
    pub fn raise_epochs(&mut self) {
        for log in self.logs.values_mut() {
            log.epoch += 1;
        }
    }

    /// Every partition as recovered.
    #[must_use]
    pub fn recovered(&self) -> Vec<RecoveredPartition> {
        self.logs
            .iter()
            .map(|(partition, log)| RecoveredPartition {
                partition: *partition,
                epoch: log.epoch,
                log_start: log.log_start,
                next_offset: log.next_offset,
            })
            .collect()
    }

    /// Offsets between log start and next offset that neither a segment nor the ring holds.
    #[must_use]
    pub fn gaps(&self) -> Vec<RecoveredGap> {
        let mut gaps = Vec::new();
        for (partition, log) in &self.logs {
            let segments = log.segments.iter().map(|segment| (segment.base_offset, segment.end_offset));
            let frames = log.unsettled.iter().map(|entry| (entry.base_offset, entry.end_offset()));
            let mut at = log.log_start;
            for (base, end) in segments.chain(frames).chain([(log.next_offset, log.next_offset)]) {
                if base > at {
                    gaps.push(RecoveredGap { partition: *partition, from: at, next_offset: base });
                }
                at = at.max(end);
            }
        }
        gaps
    }
}
