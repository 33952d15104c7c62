//! After every restart: reads everything that is left and compares it with what was promised.

use std::collections::{BTreeMap, BTreeSet};

use martlet_core::{Offset, PartitionId};
use martlet_shard::api::{Call, Reply};
use martlet_wal::read::ReadEnd;

use super::checker::Verdict;
use super::disk::place_of;
use super::table::Place;
use super::world::World;

/// Holes of one partition, before it is called stuck.
const HOLES_MAX: usize = 1_000;

impl World {
    /// What damage done so far may cost.
    pub(crate) fn note_damage(&mut self) {
        for (number, damage) in self.disk.damage.iter().enumerate() {
            self.checker.may_be_lost.extend(&damage.batches);
            let numbers = &self.checker.numbers;
            let named = damage.named.iter().filter_map(|checksum| numbers.get(checksum));
            self.checker.may_be_lost.extend(named);
            if number < self.judged {
                continue;
            }
            let is_ring = damage.file.is_some_and(|file| place_of(file) == Place::Ring);
            self.checker.is_tail_damaged |= damage.is_last_flush;
            self.checker.may_ids_return |= damage.is_last_flush;
            self.checker.is_state_loose |= is_ring;
        }
    }

    pub(crate) fn verify(&mut self) -> Verdict {
        self.note_damage();
        self.verify_topics()?;
        for id in self.live_partitions() {
            self.verify_partition(id)?;
        }
        let keys: Vec<(PartitionId, u8)> = self.checker.cursors.keys().copied().collect();
        for key in keys {
            let log_start = self.checker.partitions.get(&key.0).map_or(0, |known| known.log_start);
            let call = Call::CursorGet { partition: key.0, cursor: key.1.to_string() };
            match self.ask(call)? {
                Ok(Reply::Cursor { offset }) => self.checker.settle_cursor(key, offset, log_start)?,
                other => return Err(format!("cursor {key:?} was answered with {other:?}")),
            }
        }
        self.judged = self.disk.damage.len();
        self.checker.is_tail_damaged = false;
        self.checker.is_state_loose = false;
        Ok(())
    }

    fn verify_partition(&mut self, id: PartitionId) -> Verdict {
        let (log_start, committed) = match self.ask(Call::PartitionStatus { partition: id })? {
            Ok(Reply::Partition(status)) => (status.log_start, status.committed),
            other => return Err(format!("the status of {id} is {other:?}")),
        };
        let at = usize::from(self.seats[0].engine.owner(id).0);
        let mut walk = Walk { next: log_start, ..Walk::default() };
        while walk.next < committed {
            match self.ask_frames(at, id, (walk.next, committed))? {
                ReadEnd::Frames(frames) if frames.is_empty() => {
                    return Err(format!(
                        "nothing is read at {} of {id}, which ends at {committed}",
                        walk.next
                    ));
                }
                ReadEnd::Frames(frames) => {
                    for frame in frames {
                        let header = self.checker.serve(id, &frame.header, &frame.body)?;
                        walk.step(&header)?;
                    }
                }
                ReadEnd::Hole { next_offset } => walk.hole(next_offset)?,
                ReadEnd::OutOfRange { log_start, next_offset } => {
                    return Err(format!("{} of {id} is not in {log_start}..{next_offset}", walk.next));
                }
            }
        }
        if !walk.holes.is_empty() && !self.plan.kind.is_medium() {
            return Err(format!("holes {:?} in {id} and nothing was damaged", walk.holes));
        }
        self.checker.judge(id, (log_start, committed), &walk.seen, &walk.holes)
    }
}

/// A walk along all frames of a partition.
#[derive(Debug, Default)]
struct Walk {
    next: Offset,
    seen: BTreeSet<Offset>,
    holes: Vec<(Offset, Offset)>,
    /// The sequence that comes next, by producer.
    sequences: BTreeMap<u64, i64>,
    broker_time: i64,
    epoch: u32,
    is_begun: bool,
}

impl Walk {
    fn step(&mut self, header: &martlet_core::FrameHeader) -> Verdict {
        let is_inside = !self.is_begun && header.base_offset <= self.next && self.next < header.end_offset();
        if header.base_offset != self.next && !is_inside {
            return Err(format!("the log jumps from {} to {header:?}", self.next));
        }
        if header.broker_time < self.broker_time || header.epoch < self.epoch {
            return Err(format!("time or epoch goes back at {header:?}"));
        }
        if header.producer != 0 {
            let next = self.sequences.get(&header.producer);
            if self.holes.is_empty() && next.is_some_and(|next| *next != header.base_sequence) {
                return Err(format!("sequence {next:?} comes next and not {header:?}"));
            }
            let end = header.base_sequence + i64::from(header.record_count);
            self.sequences.insert(header.producer, end);
        }
        (self.broker_time, self.epoch, self.is_begun) = (header.broker_time, header.epoch, true);
        self.seen.insert(header.base_offset);
        self.next = header.end_offset();
        Ok(())
    }

    fn hole(&mut self, next_offset: Offset) -> Verdict {
        if next_offset <= self.next || self.holes.len() > HOLES_MAX {
            return Err(format!("a hole at {} ends at {next_offset}", self.next));
        }
        self.holes.push((self.next, next_offset));
        self.next = next_offset;
        self.is_begun = true;
        Ok(())
    }
}
