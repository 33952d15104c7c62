//! All partitions of one WAL, in the order of the ring space they hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use martlet_core::{Lsn, Offset, PartitionId};

use super::eager::Eager;
use super::entry::{FrameEntry, RunEntry};
use super::gather::Gather;
use super::partition::{Extent, PartitionLog, SegmentFacts, WrittenRuns};
use super::replace::Superseded;
use super::retire::Retiring;
use crate::io::SegmentName;

/// How frames leave their place in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SettleMove {
    /// Into a run of the partition's segment.
    Run,
    /// Logged again at the ring's head, without new offsets.
    Carry,
}

/// What to settle next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SettlePlan {
    pub partition: PartitionId,
    pub how: SettleMove,
    /// Adjoining frames in offset order, at least one.
    pub frames: Vec<FrameEntry>,
    pub bytes: u64,
}

/// Bounds of a plan.
#[derive(Clone, Copy, Debug)]
pub struct SettleLimits {
    /// Ring positions below this one are needed.
    pub needed_below: u64,
    /// Frames that end at or below this ring position are durable.
    pub durable: u64,
    /// A partition with less is carried.
    pub run_bytes_min: u64,
    /// Bytes of one plan, unless its first frame alone is larger.
    pub job_bytes_max: u64,
    /// Bytes that may be logged again now; 0 forbids to carry.
    pub carry_room: u64,
    /// The same for partitions that can only be carried.
    pub fenced_room: u64,
}

/// The logs of one WAL.
#[derive(Debug, Default)]
pub struct PartitionLogs {
    pub(super) logs: BTreeMap<PartitionId, PartitionLog>,
    /// Logs with unsettled frames by the oldest ring position they need.
    by_age: BTreeSet<(u64, PartitionId)>,
    pub(super) carried_bytes: u64,
    pub(super) eager: Eager,
    pub(super) gather: Gather,
    pub(super) retiring: VecDeque<Retiring>,
    pub(super) superseded: Vec<Superseded>,
    /// Sealed segments whose runs are in memory, oldest load first, and how many runs they have together.
    loaded: VecDeque<(PartitionId, Offset, usize)>,
    loaded_runs: usize,
    /// Generation of the last checkpoint that was captured.
    pub(super) captured: u64,
}

/// Runs of sealed segments kept in memory for all partitions of a WAL: 8 MiB of entries.
pub(super) const LOADED_RUNS_MAX: usize = 256 * 1024;

impl PartitionLogs {
    #[must_use]
    pub fn new() -> PartitionLogs {
        PartitionLogs::default()
    }

    /// Makes a partition known. Idempotent.
    pub fn open(&mut self, partition: PartitionId) -> Extent {
        self.logs.entry(partition).or_default().extent()
    }

    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<&PartitionLog> {
        self.logs.get(&partition)
    }

    #[must_use]
    pub fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.logs.get(&partition).map(PartitionLog::extent)
    }

    /// Open partitions in order.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &PartitionLog)> {
        self.logs.iter().map(|(id, log)| (*id, log))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.logs.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Segments of a partition, oldest first; none if it is not open. `generation` is that of the last
    /// durable checkpoint.
    #[must_use]
    pub fn segments(&self, partition: PartitionId, generation: u64) -> Vec<SegmentFacts> {
        self.logs.get(&partition).map(|log| log.facts(generation)).unwrap_or_default()
    }

    /// Changes the size at which this partition's segments are sealed; 0 means the default.
    pub fn set_segment_bytes(&mut self, partition: PartitionId, bytes: u64) {
        if let Some(log) = self.logs.get_mut(&partition) {
            log.segment_bytes = bytes;
        }
    }

    /// Records a frame that was just copied into a flush buffer.
    ///
    /// # Panics
    /// If the partition is not open, an offset is used again or ring positions go back: a defect of the
    /// caller that would lose or double records.
    pub fn stage(&mut self, partition: PartitionId, epoch: u32, entry: FrameEntry) {
        let log = self.logs.get_mut(&partition);
        assert!(log.is_some(), "frames are staged only in partitions that are open");
        let Some(log) = log else { return };
        assert!(epoch >= log.epoch, "epoch {epoch} is fenced by {}", log.epoch);
        log.epoch = epoch;
        log.stage(entry);
        self.eager.offer(partition, log, |_, _| entry.end_position());
        if log.unsettled.len() == 1 || self.gather.waits_for_one(log) {
            self.reorder(partition);
        }
    }

    /// Raises the partition's epoch.
    pub fn set_epoch(&mut self, partition: PartitionId, epoch: u32) {
        if let Some(log) = self.logs.get_mut(&partition) {
            log.epoch = log.epoch.max(epoch);
        }
    }

    /// Moves the log start up, at most to the next offset. Segments below it are freed once `after` is
    /// durable. While runs are pending, only the log start moves: their RUN_REFs tell of the log as it was
    /// before this record, which a crash may take away while they stay. [`Self::run_ended`] does the rest.
    pub fn trim(&mut self, partition: PartitionId, log_start: Offset, after: Lsn) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        log.log_start = log.log_start.max(log_start.min(log.next_offset));
        if log.pending_runs > 0 {
            return;
        }
        let start = log.log_start;
        self.carried_bytes -= log.drain_unsettled(start);
        let names = log.retire_segments(partition);
        self.retire(names, after);
        self.reorder(partition);
    }

    /// Forgets a partition; its files are freed once `after` is durable.
    pub fn drop_partition(&mut self, partition: PartitionId, after: Lsn) {
        let Some(mut log) = self.logs.remove(&partition) else { return };
        if let Some(age) = log.age.take() {
            self.by_age.remove(&(age, partition));
        }
        self.carried_bytes -= log.drain_unsettled(Offset::MAX);
        self.eager.forget(partition, &log);
        self.gather.forget(partition, &mut log);
        let names = log.segments.iter().map(|segment| segment.name(partition)).collect();
        self.retire(names, after);
        self.retiring.push_back(Retiring::Partition { partition, after });
    }

    /// Forgets a partition and leaves its files alone: another log holds them.
    pub fn forget(&mut self, partition: PartitionId) {
        let Some(mut log) = self.logs.remove(&partition) else { return };
        if let Some(age) = log.age.take() {
            self.by_age.remove(&(age, partition));
        }
        self.carried_bytes -= log.drain_unsettled(Offset::MAX);
        self.eager.forget(partition, &log);
        self.gather.forget(partition, &mut log);
    }

    fn retire(&mut self, names: Vec<SegmentName>, after: Lsn) {
        for name in names {
            let is_held = self.logs.get(&name.partition).is_some_and(|log| log.holds(name.base_offset));
            if !is_held {
                self.unload_replaced(name);
            }
            self.retiring.push_back(Retiring::Segment { name, after });
        }
    }

    /// The runs in memory of a segment that is not there any more do not count.
    pub(super) fn unload_replaced(&mut self, name: SegmentName) {
        let is_it =
            |held: &(PartitionId, Offset, usize)| (held.0, held.1) == (name.partition, name.base_offset);
        if let Some((_, _, runs)) = self.loaded.iter().position(is_it).and_then(|at| self.loaded.remove(at)) {
            self.loaded_runs -= runs;
        }
    }

    /// A segment that no index names any more may be removed as soon as `after` is durable.
    pub fn retire_segment(&mut self, name: SegmentName, after: Lsn) {
        self.retire(vec![name], after);
    }

    /// Ring position below which no frame of any partition is needed; `None` if nothing is unsettled.
    #[must_use]
    pub fn oldest_position(&self) -> Option<u64> {
        self.by_age.first().map(|(position, _)| *position)
    }

    /// Partitions that have unsettled frames.
    #[must_use]
    pub fn unsettled_count(&self) -> usize {
        self.by_age.len()
    }

    /// Bytes of carried frames that are still unsettled.
    #[must_use]
    pub fn carried_bytes(&self) -> u64 {
        self.carried_bytes
    }

    /// Chooses what must leave the ring next and marks its partition busy until [`Self::run_written`],
    /// [`Self::carried`] or [`Self::settle_failed`]. Oldest ring space first.
    pub fn plan_settle(&mut self, limits: &SettleLimits) -> Option<SettlePlan> {
        let mut chosen = None;
        for (position, partition) in &self.by_age {
            if *position >= limits.needed_below {
                break;
            }
            let idle = |log: &&PartitionLog| !log.busy && log.pending_runs == 0;
            let Some(log) = self.logs.get(partition).filter(idle) else { continue };
            // What can only be carried goes in pieces that fit, or it would hold the ring for ever.
            let room = if log.fenced { limits.fenced_room } else { limits.carry_room };
            let bytes_max = if log.fenced { room.min(limits.job_bytes_max) } else { limits.job_bytes_max };
            let (frames, bytes) = log.settleable(limits.durable, bytes_max);
            if frames.is_empty() {
                continue;
            }
            let small = bytes < limits.run_bytes_min && log.unsettled_bytes < limits.run_bytes_min;
            let how = match () {
                () if log.fenced || small => SettleMove::Carry,
                () => SettleMove::Run,
            };
            let carry_fits = bytes <= room;
            if how == SettleMove::Carry && !carry_fits {
                if log.fenced {
                    continue;
                }
                chosen = Some(SettlePlan { partition: *partition, how: SettleMove::Run, frames, bytes });
                break;
            }
            chosen = Some(SettlePlan { partition: *partition, how, frames, bytes });
            break;
        }
        if let Some(plan) = &chosen
            && let Some(log) = self.logs.get_mut(&plan.partition)
        {
            log.busy = true;
            log.carrying = plan.how == SettleMove::Carry;
        }
        chosen
    }

    /// Runs are on stable storage: their frames are read from there from now on. Segments that fell below the
    /// log start meanwhile are freed once `after` is durable.
    pub fn run_written(&mut self, written: &WrittenRuns, after: Lsn) {
        let partition = written.segment.partition;
        let Some(log) = self.logs.get_mut(&partition) else {
            self.retire_segment(written.segment, after);
            return;
        };
        log.add_runs(written);
        if let Some(last) = log.segments.last_mut().filter(|_| !written.runs.is_empty()) {
            last.changed_at = self.captured;
        }
        self.carried_bytes -= log.drain_unsettled(written.upto);
        log.busy = false;
        let names = log.retire_segments(partition);
        self.retire(names, after);
        self.reorder(partition);
        self.offer_rest(partition);
    }

    /// Carried frames are durable at their new positions: pairs of base offset and position, in offset order.
    pub fn carried(&mut self, partition: PartitionId, moved: &[(Offset, u64)]) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        log.busy = false;
        log.carrying = false;
        for (base_offset, position) in moved {
            let at = log.unsettled.partition_point(|entry| entry.base_offset < *base_offset);
            let Some(entry) = log.unsettled.get_mut(at).filter(|entry| entry.base_offset == *base_offset)
            else {
                continue;
            };
            entry.position = *position;
            if at >= log.carried {
                // Everything before was carried together with it, or trimmed; what was trimmed while runs
                // were pending is still held, and counts until it is drained.
                log.irregular |= at > log.carried;
                let newly = log.unsettled.range(log.carried..=at);
                self.carried_bytes += newly.map(|entry| u64::from(entry.length)).sum::<u64>();
                log.carried = at + 1;
            }
        }
        if let Some((last, _)) = moved.last() {
            // Frames carried before this time and not now keep older positions than those moved now, which is
            // in order only if they come first.
            let end = log.unsettled.partition_point(|entry| entry.base_offset <= *last);
            log.irregular |= end < log.carried;
        }
        self.reorder(partition);
        self.offer_rest(partition);
    }

    /// A settle ended without effect. With `fence`, this partition settles no more in this process.
    pub fn settle_failed(&mut self, partition: PartitionId, fence: bool, after: Lsn) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        log.busy = false;
        log.carrying = false;
        log.fenced |= fence;
        let names = log.retire_segments(partition);
        self.retire(names, after);
        self.offer_rest(partition);
    }

    /// The partition's last segment got its footer.
    pub fn segment_sealed(&mut self, name: SegmentName) {
        let Some(log) = self.logs.get_mut(&name.partition) else { return };
        if let Some(active) = log.segments.last_mut().filter(|last| last.name(name.partition) == name) {
            active.sealed = true;
            active.changed_at = self.captured;
            // The footer holds the runs that could be read; its length follows from their number.
            let runs = active.index.as_ref().map_or(active.runs as usize, |index| index.len());
            active.runs = runs as u32;
            if active.index.is_some() {
                self.note_loaded(name.partition, name.base_offset, runs);
            }
        }
    }

    /// The directory was looked at: `found` are the segments in it. Those that no index names were left by an
    /// earlier process; they are removed, and no new segment takes one of their names, whose removal may
    /// still be under way.
    pub fn swept(&mut self, partition: PartitionId, found: &[(SegmentName, u64)]) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        log.unswept = false;
        let mut stray = Vec::new();
        let mut replaced = Vec::new();
        for (name, bytes) in found {
            let held = log.segments.iter().any(|segment| segment.name(partition) == *name);
            if !held && name.partition == partition {
                log.generation = log.generation.max(name.generation.saturating_add(1));
                if name.base_offset < log.settled_end() {
                    replaced.push((*name, *bytes));
                } else {
                    stray.push(*name);
                }
            }
        }
        self.retire(stray, Lsn(0));
        for (name, bytes) in replaced {
            self.supersede(name, bytes);
        }
    }

    /// Forgets frames that were found damaged: readers meet a hole.
    pub fn lost(&mut self, partition: PartitionId, base_offsets: &[Offset]) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        for base_offset in base_offsets {
            self.carried_bytes -= log.lose(*base_offset);
        }
        self.reorder(partition);
    }

    /// Keeps the runs of a segment that were read from its footer or its run headers, up to byte `covered` of
    /// the file; without effect if the segment has grown since.
    pub fn runs_loaded(&mut self, name: SegmentName, covered: u64, runs: Vec<RunEntry>) {
        let Some(log) = self.logs.get_mut(&name.partition) else { return };
        let at = log.segments.partition_point(|segment| segment.base_offset < name.base_offset);
        let Some(segment) = log.segments.get_mut(at).filter(|held| held.name(name.partition) == name) else {
            return;
        };
        if segment.index.is_some() || segment.length != covered {
            return;
        }
        let count = runs.len();
        segment.index = Some(Box::new(runs));
        if segment.sealed {
            self.note_loaded(name.partition, name.base_offset, count);
        }
    }

    fn note_loaded(&mut self, partition: PartitionId, base_offset: Offset, runs: usize) {
        self.loaded.push_back((partition, base_offset, runs));
        self.loaded_runs += runs;
        while self.loaded_runs > LOADED_RUNS_MAX && self.loaded.len() > 1 {
            let Some((partition, base_offset, runs)) = self.loaded.pop_front() else { return };
            self.loaded_runs -= runs;
            self.unload(partition, base_offset);
        }
    }

    fn unload(&mut self, partition: PartitionId, base_offset: Offset) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        let at = log.segments.partition_point(|segment| segment.base_offset < base_offset);
        if let Some(segment) = log.segments.get_mut(at).filter(|held| held.base_offset == base_offset) {
            segment.index = None;
        }
    }

    /// Puts a log at its place in the order of ages.
    pub(super) fn reorder(&mut self, partition: PartitionId) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        let age = log.oldest_position();
        if age != log.age {
            if let Some(old) = log.age {
                self.by_age.remove(&(old, partition));
            }
            if let Some(new) = age {
                self.by_age.insert((new, partition));
            }
            log.age = age;
        }
        self.gather.reorder(partition, log);
    }
}
