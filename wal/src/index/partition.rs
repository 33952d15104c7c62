//! One partition's log: extent, unsettled frames, segments.

use std::collections::VecDeque;

use martlet_core::{Epoch, Offset, PartitionId};

use super::entry::{FrameEntry, RunEntry, Segment};
use super::logs::PartitionLogs;
use crate::io::SegmentName;

/// Where a partition's log begins and ends, staged bytes included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    pub epoch: Epoch,
    pub log_start: Offset,
    pub next_offset: Offset,
    /// Bytes of frames, of whole segments and unsettled frames.
    pub bytes: u64,
}

/// One segment, for retention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentFacts {
    pub base_offset: Offset,
    pub end_offset: Offset,
    pub bytes: u64,
    /// Largest record timestamp, wall milliseconds.
    pub timestamp_max: i64,
    pub sealed: bool,
    /// Compaction has seen it, and everything before it.
    pub compacted: bool,
    /// It may be compacted: both checkpoints know it as it is.
    pub compactable: bool,
}

/// Where an offset is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Located {
    /// In the unsettled frame of this index.
    Ring { frame: usize },
    /// In the segment of this index; its runs may have to be loaded first.
    Segment { segment: usize },
    /// Nowhere: the records were damaged. Reading goes on at `next_offset`.
    Hole { next_offset: Offset },
    /// Below the log start.
    Below { log_start: Offset },
    /// At or above the next offset.
    End,
}

/// Runs that were appended to a segment and synced.
#[derive(Clone, Debug)]
pub struct WrittenRuns {
    pub segment: SegmentName,
    pub runs: Vec<RunEntry>,
    pub frame_bytes: u64,
    /// Checksum of the last run header.
    pub last_run_crc: u32,
    /// Bytes known to be allocated to the file.
    pub allocated: u64,
    /// Frames below this offset are settled now (or were found damaged).
    pub upto: Offset,
}

/// The log of one partition.
#[derive(Debug, Default)]
pub struct PartitionLog {
    pub(super) epoch: Epoch,
    pub(super) log_start: Offset,
    pub(super) next_offset: Offset,
    pub(super) unsettled: VecDeque<FrameEntry>,
    pub(super) unsettled_bytes: u64,
    pub(super) unsettled_timestamp_max: i64,
    /// Leading entries that were carried. Positions rise within them and rise within the rest.
    pub(super) carried: usize,
    /// Recovery found positions in an order that the line above does not describe.
    pub(super) irregular: bool,
    pub(super) segments: Vec<Segment>,
    pub(super) settled_bytes: u64,
    /// A settle or a carry is under way: the last segment stays.
    pub(super) busy: bool,
    /// It waits for a turn to be settled from memory.
    pub(super) eager: bool,
    /// What is under way is a carry: it ends only when the ring moves on.
    pub(super) carrying: bool,
    /// Runs whose flush is not durable yet, and the bytes of their frames, which `unsettled` counts too.
    pub(super) pending_runs: u32,
    pub(super) pending_bytes: u64,
    /// Bytes staged since ring position `.0` was the durable one, for the choice of the big-batch path.
    pub(super) queued: (u64, u64),
    /// Much was queued lately: frames go into runs until a run with little ends.
    pub(super) big: bool,
    /// A segment could not be written or synced: nothing is settled any more in this process.
    pub(super) fenced: bool,
    /// Files that no index names may lie in the directory: it is looked at before a segment is created.
    pub(super) unswept: bool,
    /// Generation of new segments: above that of any file an earlier process left behind.
    pub(super) generation: u32,
    /// Size at which a segment is sealed; 0 is the default.
    pub(super) segment_bytes: u64,
    /// This log's key in the order of ages.
    pub(super) age: Option<u64>,
    /// Frames at ring positions below this one came up to be gathered.
    pub(super) gathered_below: u64,
    /// This log's key in the order of gathering.
    pub(super) fresh_position: Option<u64>,
}

impl PartitionLog {
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent {
            epoch: self.epoch,
            log_start: self.log_start,
            next_offset: self.next_offset,
            bytes: self.settled_bytes + self.unsettled_bytes,
        }
    }

    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    #[must_use]
    pub fn is_unswept(&self) -> bool {
        self.unswept
    }

    /// Generation for a new segment.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Size at which this partition's segments are sealed; `None` is the default.
    #[must_use]
    pub fn segment_bytes(&self) -> Option<u64> {
        (self.segment_bytes > 0).then_some(self.segment_bytes)
    }

    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    #[must_use]
    pub fn unsettled(&self) -> &VecDeque<FrameEntry> {
        &self.unsettled
    }

    #[must_use]
    pub fn unsettled_bytes(&self) -> u64 {
        self.unsettled_bytes
    }

    /// The segment that takes the next run; `None` before the first and after a seal.
    #[must_use]
    pub fn active(&self) -> Option<&Segment> {
        self.segments.last().filter(|segment| !segment.sealed)
    }

    /// First offset that is not in a segment.
    #[must_use]
    pub fn settled_end(&self) -> Offset {
        self.segments.last().map_or(0, |segment| segment.end_offset)
    }

    /// Whether a segment begins at this offset.
    pub(super) fn holds(&self, base_offset: Offset) -> bool {
        self.segments.binary_search_by_key(&base_offset, |segment| segment.base_offset).is_ok()
    }

    /// Where `offset` is.
    #[must_use]
    pub fn locate(&self, offset: Offset) -> Located {
        if offset < self.log_start {
            return Located::Below { log_start: self.log_start };
        }
        if offset >= self.next_offset {
            return Located::End;
        }
        let segment = self.segments.partition_point(|segment| segment.end_offset <= offset);
        if let Some(found) = self.segments.get(segment) {
            if found.base_offset > offset {
                return Located::Hole { next_offset: found.base_offset };
            }
            return Located::Segment { segment };
        }
        let frame = self.unsettled.partition_point(|entry| entry.end_offset() <= offset);
        match self.unsettled.get(frame) {
            Some(entry) if entry.base_offset <= offset => Located::Ring { frame },
            Some(entry) => Located::Hole { next_offset: entry.base_offset },
            None => Located::Hole { next_offset: self.next_offset },
        }
    }

    /// First offset at or after `offset` that is not in the segment of this index, and where to read on.
    #[must_use]
    pub fn after_segment(&self, segment: usize) -> Offset {
        let end = self.segments.get(segment).map_or(self.next_offset, |segment| segment.end_offset);
        end.min(self.next_offset)
    }

    /// Segments oldest first, `generation` being the last durable checkpoint; what is only in the ring
    /// counts as one unsealed segment.
    #[must_use]
    pub fn facts(&self, generation: u64) -> Vec<SegmentFacts> {
        let mut facts: Vec<SegmentFacts> = self
            .segments
            .iter()
            .map(|segment| SegmentFacts {
                base_offset: segment.base_offset,
                end_offset: segment.end_offset,
                bytes: segment.frame_bytes,
                timestamp_max: segment.timestamp_max,
                sealed: segment.sealed,
                compacted: segment.compacted,
                compactable: !self.fenced && PartitionLogs::is_kept(segment, generation),
            })
            .collect();
        if let (Some(first), Some(last)) = (self.unsettled.front(), self.unsettled.back()) {
            facts.push(SegmentFacts {
                base_offset: first.base_offset,
                end_offset: last.end_offset(),
                bytes: self.unsettled_bytes,
                timestamp_max: self.unsettled_timestamp_max,
                sealed: false,
                compacted: false,
                compactable: false,
            });
        }
        facts
    }

    /// Smallest ring position that a frame of this log needs.
    pub(super) fn oldest_position(&self) -> Option<u64> {
        if self.irregular {
            return self.unsettled.iter().map(|entry| entry.position).min();
        }
        let first = self.unsettled.front()?.position;
        Some(self.unsettled.get(self.carried).map_or(first, |entry| first.min(entry.position)))
    }

    /// Index of the frame at the smallest ring position.
    fn oldest_index(&self) -> usize {
        let places = self.unsettled.iter().map(|entry| entry.position).enumerate();
        places.min_by_key(|(_, position)| *position).map_or(0, |(index, _)| index)
    }

    /// Adds a frame at the end.
    pub(super) fn stage(&mut self, entry: FrameEntry) {
        assert!(entry.span > 0, "a frame covers at least one offset");
        assert!(entry.base_offset >= self.next_offset, "offset {} was used before", entry.base_offset);
        if let Some(last) = self.unsettled.back().filter(|_| !self.irregular) {
            let carried_all = self.carried == self.unsettled.len();
            assert!(carried_all || last.position < entry.position, "ring positions rise");
        }
        self.next_offset = entry.end_offset();
        self.push(entry);
    }

    fn push(&mut self, entry: FrameEntry) {
        if self.unsettled.is_empty() {
            self.unsettled_timestamp_max = entry.timestamp_max;
        }
        self.unsettled_timestamp_max = self.unsettled_timestamp_max.max(entry.timestamp_max);
        self.unsettled_bytes += u64::from(entry.length);
        self.unsettled.push_back(entry);
    }

    /// A frame found in the ring by recovery, in any order of offsets; the copy found last counts.
    pub(super) fn recover(&mut self, entry: FrameEntry) {
        self.next_offset = self.next_offset.max(entry.end_offset());
        if entry.end_offset() <= self.log_start || entry.base_offset < self.settled_end() {
            return;
        }
        let at = self.unsettled.partition_point(|held| held.base_offset < entry.base_offset);
        if let Some(held) = self.unsettled.get_mut(at).filter(|held| held.base_offset == entry.base_offset) {
            self.unsettled_bytes = self.unsettled_bytes - u64::from(held.length) + u64::from(entry.length);
            *held = entry;
            self.irregular = true;
        } else if at == self.unsettled.len() {
            self.irregular |= self.unsettled.back().is_some_and(|last| last.position > entry.position);
            self.push(entry);
        } else {
            self.irregular = true;
            self.unsettled_bytes += u64::from(entry.length);
            self.unsettled_timestamp_max = self.unsettled_timestamp_max.max(entry.timestamp_max);
            self.unsettled.insert(at, entry);
        }
    }

    /// Forgets frames below `upto`; returns how many bytes of them had been carried.
    pub(super) fn drain_unsettled(&mut self, upto: Offset) -> u64 {
        let gone = self.unsettled.partition_point(|entry| entry.end_offset() <= upto);
        let mut carried_bytes = 0;
        for (index, entry) in self.unsettled.drain(..gone).enumerate() {
            self.unsettled_bytes -= u64::from(entry.length);
            if index < self.carried {
                carried_bytes += u64::from(entry.length);
            }
        }
        self.carried = self.carried.saturating_sub(gone);
        if self.unsettled.is_empty() {
            self.irregular = false;
        }
        if self.unsettled.len() * 4 < self.unsettled.capacity() {
            self.unsettled.shrink_to(self.unsettled.len() * 2);
        }
        carried_bytes
    }

    /// Forgets one frame that was found damaged; returns how many bytes of it had been carried.
    pub(super) fn lose(&mut self, base_offset: Offset) -> u64 {
        let at = self.unsettled.partition_point(|entry| entry.base_offset < base_offset);
        if self.unsettled.get(at).is_none_or(|entry| entry.base_offset != base_offset) {
            return 0;
        }
        let length = self.unsettled.remove(at).map_or(0, |entry| u64::from(entry.length));
        self.unsettled_bytes -= length;
        if at < self.carried {
            self.carried -= 1;
            return length;
        }
        0
    }

    /// Takes away segments that lie below the log start; the last one stays while it may be written, and all
    /// while runs are pending.
    pub(super) fn retire_segments(&mut self, partition: PartitionId) -> Vec<SegmentName> {
        if self.pending_runs > 0 {
            return Vec::new();
        }
        let mut gone = self.segments.partition_point(|segment| segment.end_offset <= self.log_start);
        if self.busy && gone == self.segments.len() && self.active().is_some() {
            gone -= 1;
        }
        let retired: Vec<Segment> = self.segments.drain(..gone).collect();
        self.settled_bytes -= retired.iter().map(|segment| segment.frame_bytes).sum::<u64>();
        retired.iter().map(|segment| segment.name(partition)).collect()
    }

    /// Frames that can be settled together: durable, without a gap, at most `bytes_max` but at least one.
    /// They are the first by offset, or if none can be settled any more, those from the oldest ring position
    /// on: the first ones may have been carried just now.
    pub(super) fn settleable(&self, durable: u64, bytes_max: u64) -> (Vec<FrameEntry>, u64) {
        let mut frames: Vec<FrameEntry> = Vec::new();
        let mut bytes = 0;
        let from = if self.fenced { self.oldest_index() } else { 0 };
        for entry in self.unsettled.iter().skip(from) {
            let adjoins =
                frames.last().is_none_or(|last: &FrameEntry| last.end_offset() == entry.base_offset);
            let over = !frames.is_empty() && bytes + u64::from(entry.length) > bytes_max;
            if entry.end_position() > durable || !adjoins || over {
                break;
            }
            bytes += u64::from(entry.length);
            frames.push(*entry);
        }
        (frames, bytes)
    }

    /// Ring position that must be durable for `bytes` of the first frames to be.
    pub(super) fn worth_settling_at(&self, bytes: u64) -> u64 {
        let (mut position, mut sum) = (0, 0);
        for entry in &self.unsettled {
            position = entry.end_position().max(position);
            sum += u64::from(entry.length);
            if sum >= bytes {
                break;
            }
        }
        position
    }

    /// Records runs that are on stable storage.
    pub(super) fn add_runs(&mut self, written: &WrittenRuns) {
        let Some(last) = written.runs.last() else { return };
        append_runs(&mut self.segments, written);
        self.settled_bytes += written.frame_bytes;
        assert!(last.end_offset() <= self.next_offset, "settled offsets were staged");
    }
}

/// Adds runs to the last of `segments`, or to a new one behind it if that is sealed.
pub(super) fn append_runs(segments: &mut Vec<Segment>, written: &WrittenRuns) {
    let name = written.segment;
    let active = segments.last().filter(|segment| !segment.sealed);
    if active.is_none_or(|active| active.name(name.partition) != name) {
        assert!(active.is_none(), "a segment is opened only after the one before is sealed");
        segments.push(Segment::empty(name.base_offset, name.generation));
    }
    let Some(segment) = segments.last_mut() else { return };
    for run in &written.runs {
        assert!(run.base_offset >= segment.end_offset, "runs of a segment rise");
        assert!(run.position() == segment.length, "runs of a segment adjoin");
        segment.end_offset = run.end_offset();
        segment.length = run.end_position();
        segment.timestamp_max = segment.timestamp_max.max(run.timestamp_max);
        segment.runs += 1;
        if let Some(index) = &mut segment.index {
            index.push(*run);
        }
    }
    segment.frame_bytes += written.frame_bytes;
    segment.allocated = segment.allocated.max(written.allocated).max(segment.length);
    segment.last_run_crc = written.last_run_crc;
}
