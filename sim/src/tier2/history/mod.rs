//! What clients of a seed did and saw. Knows topics, records, offsets and cursors; must never know how a
//! broker keeps them. The judgement over it stands in `judge`, what topics did in `topics`.

mod judge;
mod topics;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub(crate) use judge::Ending;
pub(crate) use topics::Retention;
use topics::TopicFacts;

use super::record::RecordId;

/// A partition: the number of its topic in this history, and its index there. A topic that is made again
/// under the name of a deleted one is another topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Partition {
    pub topic: u32,
    pub index: u32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Open,
    /// Stored; the offset is unknown if the broker no longer knew it.
    Acknowledged(Option<u64>),
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    partition: Partition,
    promise: Promise,
    fate: Fate,
    /// Virtual time of the sending, in milliseconds.
    at_ms: u64,
}

/// What a producer may rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// Acknowledged only when durable.
    pub durable: bool,
    /// Never stored twice.
    pub idempotent: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    acknowledged: u64,
    attempted: u64,
}

/// Counts for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub sent: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub read: u64,
    pub cursor_moves: u64,
    pub holes: u64,
    pub topics: u64,
    pub deletions: u64,
    pub growths: u64,
    /// Partitions of which retention had removed the beginning.
    pub trimmed: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.read += other.read;
        self.cursor_moves += other.cursor_moves;
        self.holes += other.holes;
        self.topics += other.topics;
        self.deletions += other.deletions;
        self.growths += other.growths;
        self.trimmed += other.trimmed;
    }
}

/// What would excuse something that looks wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unless {
    Never,
    /// A disk lied about something that holds topics, cursors or ids.
    StateTouched,
    /// A disk lied about the tail of a log, where this record was.
    TailTouched(RecordId),
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    topics: Vec<TopicFacts>,
    sent: BTreeMap<RecordId, Sent>,
    /// Which record an offset names, as told by a durable acknowledgement or by any read.
    names: BTreeMap<(Partition, u64), RecordId>,
    cursors: BTreeMap<(String, Partition), Cursor>,
    /// What the last reading found.
    holes: BTreeMap<Partition, Vec<(u64, u64)>>,
    last: BTreeMap<Partition, BTreeMap<u64, RecordId>>,
    bounds: BTreeMap<Partition, (u64, u64)>,
    suspicions: Vec<(Unless, String)>,
    violations: Vec<String>,
    totals: Totals,
    /// Records without a fate: asked after every step of a seed, so it is counted and never searched.
    open: usize,
    /// Durable acknowledgements until the harness should cut the power; see [`History::crash_after`].
    crash_in: Option<u32>,
    crash_now: bool,
}

/// Violations that are told; more of one seed say nothing new.
const VIOLATIONS_MAX: usize = 20;
/// Things that look wrong and are looked at again in the end; enough for any honest seed under corruption.
const SUSPICIONS_MAX: usize = 10_000;

impl History {
    fn suspect(&mut self, unless: Unless, what: String) {
        if self.suspicions.len() < SUSPICIONS_MAX {
            self.suspicions.push((unless, what));
        }
    }

    pub fn violation(&mut self, what: impl Into<String>) {
        self.suspect(Unless::Never, what.into());
    }

    /// Something that may be only after a disk lied about topics, cursors or ids.
    pub(crate) fn unless_state_is_touched(&mut self, what: impl Into<String>) {
        self.suspect(Unless::StateTouched, what.into());
    }

    /// Whether something is wrong for certain.
    pub(crate) fn is_broken(&self) -> bool {
        self.suspicions.iter().any(|(unless, _)| *unless == Unless::Never)
    }

    /// Asks for a crash at the moment of the n-th durable acknowledgement from now: what was acknowledged
    /// must already be durable then.
    pub fn crash_after(&mut self, acknowledgements: u32) {
        self.crash_in = Some(acknowledgements);
        self.crash_now = false;
    }

    /// Whether that moment is now.
    #[must_use]
    pub fn wants_crash(&self) -> bool {
        self.crash_now
    }

    pub fn crashed(&mut self) {
        self.crash_in = None;
        self.crash_now = false;
    }

    pub fn sent(&mut self, id: RecordId, partition: Partition, promise: Promise, at_ms: u64) {
        self.totals.sent += 1;
        self.open += 1;
        self.sent.insert(id, Sent { partition, promise, fate: Fate::Open, at_ms });
    }

    /// A batch was acknowledged; `base` is the offset of its first record if the broker said so.
    pub fn acknowledged(&mut self, ids: &[RecordId], base: Option<u64>) {
        for (index, id) in ids.iter().enumerate() {
            let offset = base.map(|base| base + index as u64);
            let Some(sent) = self.sent.get_mut(id) else {
                self.violation(format!("{id:?} was acknowledged and never sent"));
                continue;
            };
            if sent.fate != Fate::Open {
                let fate = sent.fate;
                self.violation(format!("{id:?} was settled twice, first as {fate:?}"));
                continue;
            }
            sent.fate = Fate::Acknowledged(offset);
            let (partition, durable) = (sent.partition, sent.promise.durable);
            self.open -= 1;
            self.totals.acknowledged += 1;
            if let (true, Some(offset)) = (durable, offset) {
                self.name(partition, offset, *id, "acknowledged");
            }
            if durable && let Some(left) = &mut self.crash_in {
                *left = left.saturating_sub(1);
                self.crash_now |= *left == 0;
            }
        }
    }

    /// A batch whose fate nobody knows.
    pub fn unknown(&mut self, ids: &[RecordId]) {
        for id in ids {
            if let Some(sent) = self.sent.get_mut(id).filter(|sent| sent.fate == Fate::Open) {
                self.open -= 1;
                self.totals.unknown += 1;
                sent.fate = Fate::Unknown;
            }
        }
    }

    /// What this producer has not heard of it will never hear of.
    pub(crate) fn producer_left(&mut self, producer: u32) {
        let range = RecordId { producer, number: 0 }..=RecordId { producer, number: u32::MAX };
        let open = self.sent.range(range).filter(|(_, sent)| sent.fate == Fate::Open);
        let open: Vec<RecordId> = open.map(|(id, _)| *id).collect();
        self.unknown(&open);
    }

    /// Records that have no fate yet.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    fn name(&mut self, partition: Partition, offset: u64, id: RecordId, how: &str) {
        match self.names.insert((partition, offset), id) {
            Some(before) if before != id => {
                let what = format!("offset reused: {offset} of {partition} was {before:?}, {how} as {id:?}");
                self.suspect(Unless::TailTouched(before), what);
            }
            _ => {}
        }
    }

    /// A record was served. `id` is `None` if nobody wrote these bytes.
    pub fn read(&mut self, partition: Partition, offset: u64, id: Option<RecordId>) {
        self.totals.read += 1;
        let Some(id) = id else {
            return self.violation(format!("offset {offset} of {partition} served bytes nobody wrote"));
        };
        match self.sent.get(&id) {
            None => self.violation(format!("offset {offset} of {partition} served {id:?}, never sent")),
            Some(sent) if sent.partition != partition => {
                let right = sent.partition;
                self.violation(format!("{id:?} of partition {right} was served from partition {partition}"));
            }
            Some(_) => self.name(partition, offset, id, "read"),
        }
    }

    /// The broker reported damage from `from` to before `next`.
    pub fn hole(&mut self, partition: Partition, from: u64, next: u64) {
        self.totals.holes += 1;
        self.holes.entry(partition).or_default().push((from, next));
    }

    pub fn cursor_attempted(&mut self, cursor: &str, partition: Partition, offset: u64) {
        let state = self.cursors.entry((cursor.to_owned(), partition)).or_default();
        state.attempted = state.attempted.max(offset);
    }

    pub fn cursor_acknowledged(&mut self, cursor: &str, partition: Partition, offset: u64) {
        self.totals.cursor_moves += 1;
        let state = self.cursors.entry((cursor.to_owned(), partition)).or_default();
        state.acknowledged = state.acknowledged.max(offset);
    }

    /// Every cursor of `topic` that was ever moved.
    pub(crate) fn cursors_of(&self, topic: u32) -> Vec<(String, Partition)> {
        self.cursors.keys().filter(|(_, partition)| partition.topic == topic).cloned().collect()
    }

    /// What the broker says a cursor is, when nobody moves it. A cursor below the log start is there.
    pub fn cursor_found(&mut self, cursor: &str, partition: Partition, found: Option<u64>) {
        let state = self.cursors.get(&(cursor.to_owned(), partition)).copied().unwrap_or_default();
        let log_start = self.bounds.get(&partition).map_or(0, |bounds| bounds.0);
        let (low, high) = (state.acknowledged, state.attempted.max(log_start));
        if found.unwrap_or(0) < low {
            let what = format!("cursor {cursor} of {partition} went back from {low} to {found:?}");
            self.unless_state_is_touched(what);
        }
        if found.unwrap_or(0) > high {
            self.violation(format!("cursor {cursor} of {partition} is {found:?}, at most {high} was set"));
        }
    }

    /// One record of the last read, from the first offset to the end, without faults.
    pub fn read_last(&mut self, partition: Partition, offset: u64, id: Option<RecordId>) {
        self.read(partition, offset, id);
        if let Some(id) = id
            && self.last.entry(partition).or_default().insert(offset, id).is_some()
        {
            self.violation(format!("offset {offset} of {partition} was served twice in one pass"));
        }
    }

    /// Where the log of a partition begins and ends, at the last read.
    pub(crate) fn bounds(&mut self, partition: Partition, log_start: u64, committed: u64) {
        self.bounds.insert(partition, (log_start, committed));
    }

    fn producers_of(&self, topic: u32) -> BTreeSet<u32> {
        let of_topic = self.sent.iter().filter(|(_, sent)| sent.partition.topic == topic);
        of_topic.map(|(id, _)| id.producer).collect()
    }

    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }
}
