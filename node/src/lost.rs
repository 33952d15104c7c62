//! Records that are lost: what recovery, a move to another number of shards, or a reader found missing. Owns
//! the list that operators see; serving and reporting holes to readers stays with storage.

use std::collections::BTreeMap;
use std::fmt;

use martlet_core::limits::LOST_RANGES_MAX;
use martlet_core::{Offset, PartitionId};
use martlet_wal::Store;
use martlet_wal::index::RecoveredGap;

/// Offsets that a partition had and cannot give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostRange {
    pub partition: PartitionId,
    /// First lost offset that is known.
    pub from: Offset,
    /// Where good records go on.
    pub next_good_offset: Offset,
    pub found_by: FoundBy,
}

/// Who met a lost range first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FoundBy {
    /// The start: neither the ring nor a segment holds these offsets.
    Recovery,
    /// The move to another number of shards.
    Move,
    /// A reader: what the disk gave did not pass its checksum.
    Reader,
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FoundBy::Recovery => "missing from the log since the last start",
            FoundBy::Move => "missing from the log when the partitions were moved",
            FoundBy::Reader => "damaged on disk, met by a reader",
        })
    }
}

impl fmt::Display for LostRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LostRange { partition, from, next_good_offset, found_by } = self;
        if *partition == PartitionId::METADATA {
            return write!(f, "changes {from} to {next_good_offset} (excluded) of the topics are {found_by}");
        }
        write!(f, "partition {partition}: offsets {from} to {next_good_offset} (excluded) are {found_by}")
    }
}

/// The lost ranges of a shard, by partition and end: readers that enter the same hole at different offsets
/// have met one range.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lost {
    ranges: BTreeMap<(PartitionId, Offset), (Offset, FoundBy)>,
    /// Found when the list was full already.
    untold: u64,
    /// Damaged places of the log, with or without known offsets.
    damage: u64,
}

impl Lost {
    /// What a recovery found, of the partitions that `is_own` takes.
    pub(crate) fn recovered(
        &mut self,
        holes: &[RecoveredGap],
        damage: u64,
        found_by: FoundBy,
        is_own: impl Fn(PartitionId) -> bool,
    ) {
        for hole in holes.iter().filter(|hole| is_own(hole.partition)) {
            self.add(hole.partition, hole.from, hole.next_offset, found_by);
        }
        self.damage += damage;
    }

    pub(crate) fn add(&mut self, partition: PartitionId, from: Offset, next: Offset, found_by: FoundBy) {
        let is_full = self.ranges.len() >= LOST_RANGES_MAX;
        match self.ranges.get_mut(&(partition, next)) {
            Some((known, _)) => *known = from.min(*known),
            None if is_full => self.untold += 1,
            None => {
                self.ranges.insert((partition, next), (from, found_by));
            }
        }
    }

    /// Damaged places that recovery met.
    pub(crate) fn damage(&self) -> u64 {
        self.damage
    }

    /// The first `count_max` ranges in order, and how many there are. What retention or a deletion has taken
    /// since is forgotten: it is missed no more.
    pub(crate) fn told(&mut self, store: &Store, count_max: usize) -> (Vec<LostRange>, u64) {
        self.ranges.retain(|(partition, next), _| {
            store.extent(*partition).is_some_and(|extent| extent.log_start < *next)
        });
        let range = |(&(partition, next_good_offset), &(from, found_by))| LostRange {
            partition,
            from,
            next_good_offset,
            found_by,
        };
        let ranges = self.ranges.iter().take(count_max).map(range).collect();
        (ranges, self.ranges.len() as u64 + self.untold)
    }
}
