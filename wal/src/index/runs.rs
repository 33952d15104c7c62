//! The index on the big-batch path: which frames may go into a run at once, and what the run makes of the
//! segments.
//!
//! Frames of such a run are unsettled entries whose position is that of their RUN_FRAME in the ring: they
//! hold back checkpoints and ages like any other, but no body lies there. They must never be read or settled
//! by that position: readers do not look above what is durable, settling does not look at a partition with
//! pending runs, and when the flush is durable the entries have gone into the segment.

use martlet_core::{Lsn, Offset, PartitionId};

use super::entry::{FrameEntry, Segment};
use super::logs::{PartitionLogs, SettleMove, SettlePlan};
use super::partition::{PartitionLog, WrittenRuns, append_runs};
use super::retire::Retiring;
use crate::io::SegmentName;
use crate::layout::checkpoint::{PartitionState, SegmentState};

/// Segments that one RUN_REF may name: those that a checkpoint slot may not know yet.
const RUN_REF_SEGMENTS_MAX: usize = 16;
/// Changed segments of a partition up to which its frames may go into a run: the run itself may add some.
const CHANGED_SEGMENTS_MAX: usize = 8;
/// Bytes of the largest RUN_REF: 32 and at most 64 for each segment.
pub const RUN_REF_BYTES_MAX: usize = 32 + 64 * RUN_REF_SEGMENTS_MAX;

/// Whether the runs of a flush can be written now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunPlan {
    /// After these frames of the ring, which come before them in the partition. The partition is busy now.
    Ready(SettlePlan),
    /// Another settle of the partition is under way.
    Busy,
    /// Never: the partition is gone or fenced.
    Refused,
}

impl PartitionLogs {
    /// Whether a frame of `length` bytes should go into a run: `bytes_min` are queued for the partition, the
    /// frame included, or were until now, and at most `before_max` bytes would have to be settled before it.
    /// `durable` is the ring's durable position, `generation` that of the last durable checkpoint.
    pub fn wants_run(
        &mut self,
        partition: PartitionId,
        length: u64,
        (bytes_min, before_max): (u64, u64),
        durable: u64,
        generation: u64,
    ) -> bool {
        let Some(log) = self.logs.get_mut(&partition) else { return false };
        if log.queued.0 != durable {
            let mut bytes = 0;
            for entry in log.unsettled.iter().rev() {
                if entry.position < durable || bytes >= bytes_min {
                    break;
                }
                bytes += u64::from(entry.length);
            }
            log.queued = (durable, bytes);
        }
        log.queued.1 += length;
        if (log.queued.1 < bytes_min && !log.big) || log.fenced || log.carrying {
            return false;
        }
        let news = log.segments.iter().rev().take_while(|segment| is_news(segment, generation));
        if news.take(CHANGED_SEGMENTS_MAX + 1).count() > CHANGED_SEGMENTS_MAX {
            return false;
        }
        let before = log.unsettled_bytes.saturating_sub(log.pending_bytes);
        if before > before_max {
            return false;
        }
        log.big = true;
        true
    }

    /// Ring position of the partition's last unsettled frame.
    #[must_use]
    pub fn last_position(&self, partition: PartitionId) -> Option<u64> {
        Some(self.logs.get(&partition)?.unsettled.back()?.position)
    }

    /// A frame that was just staged belongs to a run; `first` if it begins one.
    pub fn staged_in_run(&mut self, partition: PartitionId, length: u64, first: bool) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        log.pending_runs += u32::from(first);
        log.pending_bytes += length;
    }

    /// A run is durable, or its frames went through the ring after all. The next frames go into runs too if
    /// `bytes_min` were in it and are in those that follow.
    /// What was trimmed meanwhile is freed once `after`, the last record staged, is durable.
    pub fn run_ended(&mut self, partition: PartitionId, bytes: u64, bytes_min: u64, after: Lsn) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        log.pending_runs = log.pending_runs.saturating_sub(1);
        log.pending_bytes = log.pending_bytes.saturating_sub(bytes);
        log.big &= bytes + log.pending_bytes >= bytes_min;
        if log.pending_runs == 0 {
            let log_start = log.log_start;
            self.trim(partition, log_start, after);
        }
    }

    /// Plans the run of frames from `first` on, together with what is unsettled before it; `durable` is the
    /// ring's durable position, through which those have come.
    pub fn plan_run(&mut self, partition: PartitionId, first: Offset, durable: u64) -> RunPlan {
        let Some(log) = self.logs.get_mut(&partition).filter(|log| !log.fenced) else {
            return RunPlan::Refused;
        };
        if log.busy {
            return RunPlan::Busy;
        }
        let frames: Vec<FrameEntry> =
            log.unsettled.iter().take_while(|entry| entry.base_offset < first).copied().collect();
        if frames.iter().any(|entry| entry.end_position() > durable) {
            return RunPlan::Refused;
        }
        log.busy = true;
        let bytes = frames.iter().map(|entry| u64::from(entry.length)).sum();
        RunPlan::Ready(SettlePlan { partition, how: SettleMove::Run, frames, bytes })
    }

    /// The partition with these runs added: what a RUN_REF says. `log_start` is that of records at or before
    /// the RUN_REF: a trim that is not durable must not take effect through it. `None` if the partition is
    /// gone or too many segments changed since checkpoint `generation`, the last durable one, and the one
    /// before it.
    #[must_use]
    pub fn run_reference(
        &self,
        written: &WrittenRuns,
        log_start: Offset,
        generation: u64,
    ) -> Option<PartitionState> {
        let partition = written.segment.partition;
        let log = self.logs.get(&partition)?;
        let news = |segment: &Segment| !segment.sealed || is_news(segment, generation);
        let from = log.segments.iter().position(news).unwrap_or(log.segments.len());
        let mut segments: Vec<Segment> =
            log.segments[from..].iter().map(|segment| SegmentState::of(segment).segment()).collect();
        append_runs(&mut segments, written);
        if segments.len() > RUN_REF_SEGMENTS_MAX {
            return None;
        }
        Some(PartitionState {
            partition,
            epoch: log.epoch,
            log_start,
            next_offset: segments.last().map_or(0, |segment| segment.end_offset),
            segments: segments.iter().map(SegmentState::of).collect(),
        })
    }

    /// Frames were staged again: `moved` pairs old positions with new ones, rising.
    pub fn positions_moved(&mut self, moved: &[(u64, u64)]) {
        let Some((from, _)) = moved.first() else { return };
        let partitions: Vec<PartitionId> = self.logs.keys().copied().collect();
        for partition in partitions {
            let Some(log) = self.logs.get_mut(&partition) else { continue };
            let mut any = false;
            for entry in log.unsettled.iter_mut().rev().take_while(|entry| entry.position >= *from) {
                if let Ok(at) = moved.binary_search_by_key(&entry.position, |(old, _)| *old) {
                    entry.position = moved[at].1;
                    any = true;
                }
            }
            log.queued = (u64::MAX, 0);
            if any {
                self.reorder(partition);
            }
        }
    }

    /// The last good checkpoint is of this generation; what it holds may be news to the one before it.
    pub fn recovered_from(&mut self, generation: u64) {
        self.captured = generation;
        for segment in self.logs.values_mut().flat_map(|log| &mut log.segments) {
            segment.changed_at = generation.saturating_sub(1);
        }
    }

    /// A checkpoint of this generation was captured.
    pub fn captured(&mut self, generation: u64) {
        self.captured = generation;
    }

    /// A RUN_REF found in the ring. One that says less than is known already, as the checkpoint may have been
    /// taken after it, changes nothing.
    pub fn recover_run_ref(&mut self, state: &PartitionState, raise: u32) {
        let captured = self.captured;
        let log = self.logs.entry(state.partition).or_default();
        log.unswept = true;
        log.epoch = log.epoch.max(state.epoch.saturating_add(raise));
        let (Some(first), Some(last)) = (state.segments.first(), state.segments.last()) else { return };
        if last.end_offset <= log.settled_end().max(log.log_start) {
            return;
        }
        log.segments.retain(|segment| segment.base_offset < first.base_offset);
        log.segments.extend(
            state.segments.iter().map(|segment| Segment { changed_at: captured, ..segment.segment() }),
        );
        log.settled_bytes = log.segments.iter().map(|segment| segment.frame_bytes).sum();
        log.next_offset = log.next_offset.max(last.end_offset);
        let gone = log.drain_unsettled(last.end_offset);
        self.carried_bytes -= gone;
        // A trim found before this record may have taken a segment that was in use and stayed.
        let held: Vec<SegmentName> = log.segments.iter().map(|held| held.name(state.partition)).collect();
        self.retiring
            .retain(|retiring| !matches!(retiring, Retiring::Segment { name, .. } if held.contains(name)));
        self.reorder(state.partition);
        self.trim(state.partition, state.log_start, Lsn(0));
    }
}

impl PartitionLog {
    /// The log with runs that were found on disk: those of each segment, and whether that is sealed.
    pub(crate) fn extended(&self, partition: PartitionId, found: &[(WrittenRuns, bool)]) -> PartitionState {
        let from = self.segments.iter().position(|segment| !segment.sealed).unwrap_or(self.segments.len());
        let known = self.segments[from..].iter();
        let mut segments: Vec<Segment> = known.map(|segment| SegmentState::of(segment).segment()).collect();
        for (written, is_sealed) in found {
            append_runs(&mut segments, written);
            if let Some(last) = segments.last_mut() {
                last.sealed = *is_sealed;
            }
        }
        PartitionState {
            partition,
            epoch: self.epoch,
            log_start: self.log_start,
            next_offset: segments.last().map_or(0, |segment| segment.end_offset),
            segments: segments.iter().map(SegmentState::of).collect(),
        }
    }
}

/// Whether one of the last two checkpoints may not know the segment as it is.
pub(super) fn is_news(segment: &Segment, generation: u64) -> bool {
    segment.changed_at + 2 > generation
}
