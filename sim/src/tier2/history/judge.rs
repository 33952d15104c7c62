//! The judgement over a history, after the last read.
//!
//! Two classes of rules. Crash faults: every record acknowledged as durable is there, in order, and once if
//! its producer is idempotent; what a reader has seen stays; an offset names one record for ever; no offset
//! is missing; cursors never go back; nothing of a deleted topic returns; retention removes only what is old
//! or too much. Corruption: what is served must still be right, what is missing was in writes that the fault
//! touched and lies in a range that was reported, or was in the tail of a log, whose loss looks like a torn
//! write.

use std::collections::{BTreeMap, BTreeSet};

use super::topics::Existence;
use super::{Fate, History, Partition, Sent, Unless, VIOLATIONS_MAX};
use crate::tier2::record::RecordId;
use crate::tier2::touched::Touched;

/// What the judgement must know of the seed's end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    /// What disks lied about; nothing if they did not.
    pub(crate) touched: Touched,
    /// Virtual time of the last read, in milliseconds, and how far the broker's clock was ahead at most.
    pub(crate) at_ms: u64,
    pub(crate) ahead_ms: u64,
    /// The seed did not come to its last read: only what was seen before counts.
    pub(crate) is_early: bool,
}

impl History {
    pub(crate) fn judge(&mut self, ending: &Ending) {
        if !ending.is_early {
            self.judge_reports(ending);
            let mut copies: BTreeMap<RecordId, Vec<u64>> = BTreeMap::new();
            for (offset, id) in self.last.values().flatten() {
                copies.entry(*id).or_default().push(*offset);
            }
            self.judge_records(&copies, ending);
            self.judge_reads(ending);
            self.judge_order(&copies);
            self.judge_gaps(ending);
            self.judge_retention(ending);
        }
        let touched = &ending.touched;
        let stays = |unless: &Unless| match unless {
            Unless::Never => true,
            Unless::StateTouched => !touched.state,
            Unless::TailTouched(id) => !touched.tails.contains(id),
        };
        let all = std::mem::take(&mut self.suspicions).into_iter();
        let found: BTreeSet<String> =
            all.filter(|(unless, _)| stays(unless)).map(|(_, what)| what).take(VIOLATIONS_MAX).collect();
        self.violations.extend(found);
    }

    fn judge_reports(&mut self, ending: &Ending) {
        if !ending.touched.is_any() && self.totals.holes > 0 {
            let holes = format!("{:?}", self.holes);
            self.violation(format!("damage was reported although no disk lied: {holes}"));
        }
    }

    fn is_there_to_judge(&self, partition: Partition) -> bool {
        self.topics.get(partition.topic as usize).is_some_and(|topic| topic.existence == Existence::There)
    }

    fn is_removed(&self, partition: Partition, offset: Option<u64>) -> bool {
        let log_start = self.bounds.get(&partition).map_or(0, |bounds| bounds.0);
        log_start > 0 && self.is_retained(partition) && offset.is_none_or(|offset| offset < log_start)
    }

    fn is_retained(&self, partition: Partition) -> bool {
        let topic = self.topics.get(partition.topic as usize);
        topic.is_some_and(|topic| topic.retention.bytes.is_some() || topic.retention.time.is_some())
    }

    /// Whether `id` may be missing because of what a disk did.
    fn is_excused(&self, partition: Partition, offset: Option<u64>, id: RecordId, ending: &Ending) -> bool {
        if ending.touched.tails.contains(&id) {
            return true;
        }
        let holes = self.holes.get(&partition).map(Vec::as_slice).unwrap_or_default();
        let reported = match offset {
            Some(offset) => holes.iter().any(|(from, next)| (*from..*next).contains(&offset)),
            None => !holes.is_empty(),
        };
        reported && ending.touched.records.contains(&id)
    }

    fn judge_records(&mut self, copies: &BTreeMap<RecordId, Vec<u64>>, ending: &Ending) {
        let mut found = Vec::new();
        for (id, sent) in &self.sent {
            if !self.is_there_to_judge(sent.partition) {
                continue;
            }
            let partition = sent.partition;
            let offsets = copies.get(id).map(Vec::as_slice).unwrap_or_default();
            if let Fate::Acknowledged(offset) = sent.fate
                && sent.promise.durable
                && offsets.is_empty()
                && !self.is_removed(partition, offset)
                && !self.is_excused(partition, offset, *id, ending)
            {
                let touched = self.touch_of(*id, ending);
                found.push(format!("lost: {id:?}, acknowledged at {offset:?} of {partition}{touched}"));
            }
            if sent.promise.idempotent && offsets.len() > 1 {
                found.push(format!("doubled: {id:?} at {offsets:?} of {partition}"));
            }
        }
        found.into_iter().for_each(|what| self.violation(what));
    }

    fn touch_of(&self, id: RecordId, ending: &Ending) -> &'static str {
        match (ending.touched.is_any(), ending.touched.records.contains(&id)) {
            (false, _) => "",
            (true, true) => ", touched and not reported",
            (true, false) => ", not touched by any fault",
        }
    }

    fn judge_reads(&mut self, ending: &Ending) {
        let mut found = Vec::new();
        for ((partition, offset), id) in &self.names {
            let there = self.last.get(partition).is_some_and(|last| last.contains_key(offset));
            let at = Some(*offset);
            if !there
                && self.is_there_to_judge(*partition)
                && !self.is_removed(*partition, at)
                && !self.is_excused(*partition, at, *id, ending)
            {
                let touched = self.touch_of(*id, ending);
                found.push(format!("gone: offset {offset} of {partition}, seen before as {id:?}{touched}"));
            }
        }
        found.into_iter().for_each(|what| self.violation(what));
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
        found.into_iter().for_each(|what| self.violation(what));
    }

    /// From its log start to its end a partition has every offset, or says why not.
    fn judge_gaps(&mut self, ending: &Ending) {
        let mut found = Vec::new();
        for (partition, (log_start, committed)) in &self.bounds {
            let holes = self.holes.get(partition).filter(|_| ending.touched.is_any());
            let last = self.last.get(partition);
            let is_missing = |offset: &u64| {
                let is_reported = || {
                    let all = holes.into_iter().flatten();
                    all.into_iter().any(|(from, next)| (*from..*next).contains(offset))
                };
                !last.is_some_and(|last| last.contains_key(offset)) && !is_reported()
            };
            if let Some(offset) = (*log_start..*committed).find(is_missing) {
                let range = format!("{log_start}..{committed}");
                found.push(format!("gap: offset {offset} of {partition} is not there, {range} is"));
            }
        }
        found.into_iter().for_each(|what| self.violation(what));
    }

    /// Retention removes what is old, and by size never the newest.
    fn judge_retention(&mut self, ending: &Ending) {
        let mut found = Vec::new();
        let mut newest: BTreeMap<Partition, u64> = BTreeMap::new();
        for (id, sent) in &self.sent {
            let Fate::Acknowledged(Some(offset)) = sent.fate else { continue };
            let log_start = self.bounds.get(&sent.partition).map_or(0, |bounds| bounds.0);
            newest.entry(sent.partition).and_modify(|end| *end = offset.max(*end)).or_insert(offset);
            if offset < log_start && sent.promise.durable && self.is_too_young(sent, ending) {
                found.push(format!("removed too early: {id:?} at {offset} of {}", sent.partition));
            }
        }
        for (partition, (log_start, _)) in &self.bounds {
            self.totals.trimmed += u64::from(*log_start > 0);
            if *log_start > 0 && !self.is_retained(*partition) && !ending.touched.is_any() {
                found.push(format!("the log of {partition} begins at {log_start}, and it keeps everything"));
            }
            let by_time =
                self.topics.get(partition.topic as usize).is_some_and(|t| t.retention.time.is_some());
            let is_empty = newest.get(partition).is_some_and(|newest| newest < log_start);
            if is_empty && !by_time && !ending.touched.is_any() {
                found.push(format!("the newest record of {partition} was removed by size"));
            }
        }
        found.into_iter().for_each(|what| self.violation(what));
    }

    fn is_too_young(&self, sent: &Sent, ending: &Ending) -> bool {
        let retention = self.topics.get(sent.partition.topic as usize).map(|topic| topic.retention);
        let Some(time) = retention.filter(|r| r.bytes.is_none()).and_then(|r| r.time) else { return false };
        let age_ms = (ending.at_ms + ending.ahead_ms).saturating_sub(sent.at_ms);
        !ending.touched.is_any() && u128::from(age_ms) < time.as_millis()
    }
}
