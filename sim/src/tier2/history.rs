//! What clients of a seed did and saw, and the judgement over it. Knows records, offsets and cursors; must
//! never know how a broker keeps them.
//!
//! Two classes of rules. Crash faults: every record acknowledged as durable is there, in order, and once if
//! its producer is idempotent; what a reader has seen stays; an offset names one record for ever; cursors
//! never go back. Corruption: what is served must still be right, and what is missing must lie in a range
//! that was reported.

use std::collections::BTreeMap;

use super::record::RecordId;

/// A partition of the one topic, by index.
pub(crate) type Partition = u32;

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
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.read += other.read;
        self.cursor_moves += other.cursor_moves;
        self.holes += other.holes;
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    sent: BTreeMap<RecordId, Sent>,
    /// Which record an offset names, as told by a durable acknowledgement or by any read.
    names: BTreeMap<(Partition, u64), RecordId>,
    cursors: BTreeMap<(String, Partition), Cursor>,
    holes: BTreeMap<Partition, Vec<(u64, u64)>>,
    last: BTreeMap<Partition, BTreeMap<u64, RecordId>>,
    violations: Vec<String>,
    totals: Totals,
    /// Durable acknowledgements until the harness should cut the power; see [`History::crash_after`].
    crash_in: Option<u32>,
    crash_now: bool,
}

/// Violations that are told; more of one seed say nothing new.
const VIOLATIONS_MAX: usize = 20;

impl History {
    fn violated(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
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

    pub fn sent(&mut self, id: RecordId, partition: Partition, promise: Promise) {
        self.totals.sent += 1;
        self.sent.insert(id, Sent { partition, promise, fate: Fate::Open });
    }

    /// A batch was acknowledged; `base` is the offset of its first record if the broker said so.
    pub fn acknowledged(&mut self, ids: &[RecordId], base: Option<u64>) {
        for (index, id) in ids.iter().enumerate() {
            let offset = base.map(|base| base + index as u64);
            let Some(sent) = self.sent.get_mut(id) else {
                self.violated(format!("{id:?} was acknowledged and never sent"));
                continue;
            };
            if sent.fate != Fate::Open {
                let fate = sent.fate;
                self.violated(format!("{id:?} was settled twice, first as {fate:?}"));
                continue;
            }
            sent.fate = Fate::Acknowledged(offset);
            let (partition, durable) = (sent.partition, sent.promise.durable);
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
            if let Some(sent) = self.sent.get_mut(id) {
                sent.fate = Fate::Unknown;
                self.totals.unknown += 1;
            }
        }
    }

    /// Records that have no fate yet.
    #[must_use]
    pub fn open(&self) -> usize {
        self.sent.values().filter(|sent| sent.fate == Fate::Open).count()
    }

    fn name(&mut self, partition: Partition, offset: u64, id: RecordId, how: &str) {
        match self.names.insert((partition, offset), id) {
            Some(before) if before != id => {
                let what = "offset reused";
                self.violated(format!(
                    "{what}: {offset} of partition {partition} was {before:?}, {how} as {id:?}"
                ));
            }
            _ => {}
        }
    }

    /// A record was served. `id` is `None` if nobody wrote these bytes.
    pub fn read(&mut self, partition: Partition, offset: u64, id: Option<RecordId>) {
        self.totals.read += 1;
        let Some(id) = id else {
            return self
                .violated(format!("offset {offset} of partition {partition} served bytes nobody wrote"));
        };
        match self.sent.get(&id) {
            None => {
                self.violated(format!("offset {offset} of partition {partition} served {id:?}, never sent"))
            }
            Some(sent) if sent.partition != partition => {
                let right = sent.partition;
                self.violated(format!("{id:?} of partition {right} was served from partition {partition}"));
            }
            Some(_) => self.name(partition, offset, id, "read"),
        }
    }

    /// The broker reported damage from `from` to before `next`.
    pub fn hole(&mut self, partition: Partition, from: u64, next: u64) {
        self.totals.holes += 1;
        self.holes.entry(partition).or_default().push((from, next));
    }

    pub fn violation(&mut self, what: impl Into<String>) {
        self.violated(what.into());
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

    /// Every cursor whose position was ever acknowledged.
    #[must_use]
    pub fn cursors(&self) -> Vec<(String, Partition)> {
        self.cursors.keys().cloned().collect()
    }

    /// What the broker says a cursor is, when nobody moves it.
    pub fn cursor_found(&mut self, cursor: &str, partition: Partition, found: Option<u64>) {
        let state = self.cursors.get(&(cursor.to_owned(), partition)).copied().unwrap_or_default();
        let (low, high) = (state.acknowledged, state.attempted);
        if found.unwrap_or(0) < low {
            self.violated(format!(
                "cursor {cursor} of partition {partition} went back from {low} to {found:?}"
            ));
        }
        if found.unwrap_or(0) > high {
            self.violated(format!(
                "cursor {cursor} of partition {partition} is {found:?}, at most {high} was set"
            ));
        }
    }

    /// One record of the last read, from the first offset to the end, without faults.
    pub fn read_last(&mut self, partition: Partition, offset: u64, id: Option<RecordId>) {
        self.read(partition, offset, id);
        if let Some(id) = id
            && self.last.entry(partition).or_default().insert(offset, id).is_some()
        {
            self.violated(format!("offset {offset} of partition {partition} was served twice in one pass"));
        }
    }

    /// The judgement, after the last read. With `corruption`, what is missing may lie in reported ranges.
    pub fn judge(&mut self, corruption: bool) {
        if !corruption && self.totals.holes > 0 {
            let holes = format!("{:?}", self.holes);
            self.violated(format!("damage was reported although no disk lied: {holes}"));
        }
        let mut copies: BTreeMap<RecordId, Vec<u64>> = BTreeMap::new();
        for (offset, id) in self.last.values().flatten() {
            copies.entry(*id).or_default().push(*offset);
        }
        self.judge_records(&copies, corruption);
        self.judge_reads(corruption);
        self.judge_order(&copies);
    }

    fn is_excused(&self, partition: Partition, offset: Option<u64>, corruption: bool) -> bool {
        let Some(holes) = self.holes.get(&partition).filter(|_| corruption) else { return false };
        match offset {
            Some(offset) => holes.iter().any(|(from, next)| (*from..*next).contains(&offset)),
            None => true,
        }
    }

    fn judge_records(&mut self, copies: &BTreeMap<RecordId, Vec<u64>>, corruption: bool) {
        let mut found = Vec::new();
        for (id, sent) in &self.sent {
            let offsets = copies.get(id).map(Vec::as_slice).unwrap_or_default();
            if let Fate::Acknowledged(offset) = sent.fate
                && sent.promise.durable
                && offsets.is_empty()
                && !self.is_excused(sent.partition, offset, corruption)
            {
                let partition = sent.partition;
                found.push(format!("lost: {id:?}, acknowledged at {offset:?} of partition {partition}"));
            }
            if sent.promise.idempotent && offsets.len() > 1 {
                found.push(format!("doubled: {id:?} at {offsets:?} of partition {}", sent.partition));
            }
        }
        found.into_iter().for_each(|what| self.violated(what));
    }

    fn judge_reads(&mut self, corruption: bool) {
        let mut found = Vec::new();
        for ((partition, offset), id) in &self.names {
            let there = self.last.get(partition).is_some_and(|last| last.contains_key(offset));
            if !there && !self.is_excused(*partition, Some(*offset), corruption) {
                found.push(format!("gone: offset {offset} of partition {partition}, seen before as {id:?}"));
            }
        }
        found.into_iter().for_each(|what| self.violated(what));
    }

    /// Acknowledged records of one idempotent producer stand in the order in which they were sent.
    fn judge_order(&mut self, copies: &BTreeMap<RecordId, Vec<u64>>) {
        let mut newest: BTreeMap<(u32, Partition), (u64, RecordId)> = BTreeMap::new();
        let mut found = Vec::new();
        for (id, sent) in &self.sent {
            let acknowledged = matches!(sent.fate, Fate::Acknowledged(_));
            if !acknowledged || !sent.promise.idempotent || !sent.promise.durable {
                continue;
            }
            let Some(&offset) = copies.get(id).and_then(|offsets| offsets.first()) else { continue };
            let before = newest.insert((id.producer, sent.partition), (offset, *id));
            if let Some((before, earlier)) = before
                && before > offset
            {
                found.push(format!("out of order: {earlier:?} at {before}, the later {id:?} at {offset}"));
            }
        }
        found.into_iter().for_each(|what| self.violated(what));
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

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: Promise = Promise { durable: true, idempotent: true };

    fn id(number: u32) -> RecordId {
        RecordId { producer: 1, number }
    }

    fn three_sent() -> History {
        let mut history = History::default();
        (0..3).for_each(|number| history.sent(id(number), 0, SAFE));
        history.acknowledged(&[id(0), id(1)], Some(0));
        history
    }

    fn judged(mut history: History, last: &[(u64, u32)], corruption: bool) -> String {
        last.iter().for_each(|(offset, number)| history.read_last(0, *offset, Some(id(*number))));
        history.judge(corruption);
        history.violations().join("\n")
    }

    #[test]
    fn an_unknown_fate_may_be_either() {
        assert_eq!(judged(three_sent(), &[(0, 0), (1, 1)], false), "");
        assert_eq!(judged(three_sent(), &[(0, 0), (1, 1), (2, 2)], false), "");
    }

    #[test]
    fn loss_doubles_reuse_and_disorder_are_told_apart() {
        assert!(judged(three_sent(), &[(0, 0)], false).contains("lost"));
        assert!(judged(three_sent(), &[(0, 0), (1, 1), (2, 1)], false).contains("doubled"));
        assert!(judged(three_sent(), &[(0, 0), (1, 2)], false).contains("offset reused"));
        let mut seen = three_sent();
        seen.read(0, 2, Some(id(2)));
        assert!(judged(seen, &[(0, 0), (1, 1)], false).contains("gone"));
        let mut unordered = History::default();
        (0..2).for_each(|number| unordered.sent(id(number), 0, SAFE));
        unordered.acknowledged(&[id(1)], Some(0));
        unordered.acknowledged(&[id(0)], Some(1));
        assert!(judged(unordered, &[(0, 1), (1, 0)], false).contains("out of order"));
        let mut strange = three_sent();
        strange.read(0, 5, None);
        assert!(judged(strange, &[(0, 0), (1, 1)], false).contains("nobody wrote"));
    }

    #[test]
    fn only_reported_damage_excuses_and_only_when_a_disk_lied() {
        let mut reported = three_sent();
        reported.hole(0, 1, 2);
        assert_eq!(judged(reported, &[(0, 0)], true), "");
        let mut elsewhere = three_sent();
        elsewhere.hole(0, 2, 3);
        assert!(judged(elsewhere, &[(0, 0)], true).contains("lost"));
        let mut honest = three_sent();
        honest.hole(0, 1, 2);
        assert!(judged(honest, &[(0, 0)], false).contains("no disk lied"));
    }

    #[test]
    fn cursors_stay_between_what_was_acknowledged_and_what_was_tried() {
        let mut history = History::default();
        history.cursor_attempted("c", 0, 9);
        history.cursor_acknowledged("c", 0, 5);
        history.cursor_found("c", 0, Some(5));
        history.cursor_found("c", 0, Some(9));
        assert!(history.violations().is_empty());
        history.cursor_found("c", 0, Some(4));
        history.cursor_found("c", 0, None);
        history.cursor_found("c", 0, Some(10));
        assert_eq!(history.violations().len(), 3);
    }
}
