//! Segments in place of others, and the files that are of no use any more once both checkpoints know that.

use martlet_core::{Lsn, PartitionId};

use super::entry::Segment;
use super::logs::PartitionLogs;
use super::runs::is_news;
use crate::io::SegmentName;

/// Whether segments were replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replaced {
    Done,
    /// A settle of the partition is under way: ask again when that has ended.
    Busy,
    /// They are not there any more.
    Gone,
}

/// A file that a checkpoint slot may still name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superseded {
    name: SegmentName,
    bytes: u64,
    /// Once this checkpoint is durable, neither slot names it.
    free_at: u64,
}

impl PartitionLogs {
    /// Whether both checkpoint slots know the segment as it is, `generation` being the last durable one.
    pub(super) fn is_kept(segment: &Segment, generation: u64) -> bool {
        segment.sealed && !is_news(segment, generation)
    }

    /// Segments from the beginning of the log on that may be replaced, without their indexes.
    #[must_use]
    pub fn replaceable(&self, partition: PartitionId, generation: u64) -> Vec<Segment> {
        let Some(log) = self.logs.get(&partition).filter(|log| !log.fenced) else { return Vec::new() };
        let kept = log.segments.iter().take_while(|segment| PartitionLogs::is_kept(segment, generation));
        kept.map(|segment| Segment { index: None, ..segment.clone() }).collect()
    }

    /// Keeps settles away from a partition until [`PartitionLogs::settle_failed`]; `false` if one is under
    /// way.
    pub fn occupy(&mut self, partition: PartitionId) -> bool {
        let Some(log) = self.logs.get_mut(&partition).filter(|log| !log.busy) else { return false };
        log.busy = true;
        true
    }

    /// A generation that no file of the partition had: its directory was looked at. `None` if it is gone.
    pub fn next_generation(&mut self, partition: PartitionId) -> Option<u32> {
        let log = self.logs.get_mut(&partition)?;
        let held = log.segments.iter().map(|segment| segment.generation).max();
        let next = log.generation.max(held.map_or(0, |held| held.saturating_add(1)));
        log.generation = next.saturating_add(1);
        Some(next)
    }

    /// Puts `new`, which are on stable storage and cover the same offsets, in the place of the segments
    /// `old`. The files of those stay until both checkpoint slots know. The new ones count as old as those
    /// were: a RUN_REF need not tell of them, since what the slots name is there until they name these.
    pub fn replace(&mut self, partition: PartitionId, old: &[SegmentName], new: &[Segment]) -> Replaced {
        let Some(log) = self.logs.get_mut(&partition) else { return Replaced::Gone };
        if log.busy {
            return Replaced::Busy;
        }
        let first = |segment: &Segment| old.first().is_some_and(|name| segment.name(partition) == *name);
        let Some(at) = log.segments.iter().position(first) else { return Replaced::Gone };
        let Some(held) = log.segments.get(at..at + old.len()) else { return Replaced::Gone };
        let same =
            |(segment, name): (&Segment, &SegmentName)| segment.sealed && segment.name(partition) == *name;
        if !held.iter().zip(old).all(same) {
            return Replaced::Gone;
        }
        let ends = |segments: &[Segment]| {
            (segments.first().map(|first| first.base_offset), segments.last().map(|last| last.end_offset))
        };
        assert!(ends(held) == ends(new), "the same offsets are covered");
        let changed_at = held.iter().map(|segment| segment.changed_at).max().unwrap_or(0);
        let renewed = new.iter().map(|segment| Segment { changed_at, ..segment.clone() });
        let gone: Vec<Segment> = log.segments.splice(at..at + old.len(), renewed).collect();
        let bytes = |segments: &[Segment]| segments.iter().map(|segment| segment.frame_bytes).sum::<u64>();
        log.settled_bytes = log.settled_bytes - bytes(&gone) + bytes(new);
        let free_at = self.captured + 2;
        for segment in gone {
            let name = segment.name(partition);
            self.unload_replaced(name);
            self.superseded.push(Superseded { name, bytes: segment.length, free_at });
        }
        Replaced::Done
    }

    /// A file found that no index names, at offsets that segments hold: a slot that is not the newest may.
    pub(super) fn supersede(&mut self, name: SegmentName, bytes: u64) {
        if self.superseded.iter().all(|held| held.name != name) {
            self.superseded.push(Superseded { name, bytes, free_at: self.captured + 1 });
        }
    }

    /// Files of segments that were replaced and that wait for checkpoints; their bytes.
    #[must_use]
    pub fn superseded(&self) -> Option<u64> {
        (!self.superseded.is_empty()).then(|| self.superseded.iter().map(|held| held.bytes).sum())
    }

    /// Lets go of what no slot names any more; `generation` is the last durable checkpoint.
    pub fn free_superseded(&mut self, generation: u64) {
        let (free, rest) =
            std::mem::take(&mut self.superseded).into_iter().partition(|held| held.free_at <= generation);
        self.superseded = rest;
        let free: Vec<Superseded> = free;
        for held in free {
            self.retire_segment(held.name, Lsn(0));
        }
    }
}
