//! Transactions of one partition: which are open, which were aborted and when, up to where everything is
//! decided.
//!
//! Begun and ended by frames, so that all of it can be made again from their headers: a frame with the flag
//! `TRANSACTIONAL` begins the transaction of its producer if none is open; one with `CONTROL` ends it, and
//! names in its field `transaction` the offset at which it began.
//!
//! **Invariant**: what is told of a transaction's end is told only once its last frame is durable. An aborted
//! transaction stays known for as long as the frame that ends it is in the log. So whoever rewrites segments
//! must keep the frames that end transactions, or drop them together with every record of theirs, and must
//! not drop records from [`Transactions::stable`] on.

mod verify;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use martlet_core::limits::{PARTITION_ABORTED_MAX, PARTITION_PRODUCERS_MAX};
use martlet_core::{Offset, ProducerId};

use crate::codec::{CodecError, Reader, Writer};

pub(crate) use verify::Verifications;

/// A transaction that has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Open {
    pub(crate) epoch: u16,
    pub(crate) first: Offset,
}

/// A transaction whose last frame is staged, and perhaps not committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ended {
    producer: ProducerId,
    open: Open,
    last: Offset,
}

/// A transaction whose records must not be delivered to those who read what is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Aborted {
    producer: ProducerId,
    first: Offset,
    /// The frame that ended it.
    last: Offset,
    /// Every transaction that was aborted after this one began here or behind.
    rest: Offset,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Transactions {
    open: BTreeMap<ProducerId, Open>,
    /// Where the open ones begin.
    firsts: BTreeSet<Offset>,
    /// In the order of their ends. Those that were committed meanwhile are forgotten at the next end.
    ended: VecDeque<Ended>,
    /// In the order of their ends.
    aborted: VecDeque<Aborted>,
}

impl Transactions {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.ended.is_empty()
    }

    pub(crate) fn open(&self, producer: ProducerId) -> Option<Open> {
        self.open.get(&producer).copied()
    }

    pub(crate) fn has_aborted(&self) -> bool {
        !self.aborted.is_empty()
    }

    /// Whether one more may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < PARTITION_PRODUCERS_MAX
            && self.aborted.len() + self.open.len() < PARTITION_ABORTED_MAX
    }

    /// Below this offset, at most `committed`, every record's fate is decided.
    pub(crate) fn stable(&self, committed: Offset) -> Offset {
        if self.is_empty() {
            return committed;
        }
        let ended = self.ended.iter().filter(|ended| ended.last >= committed).map(|ended| ended.open.first);
        self.firsts.first().copied().into_iter().chain(ended).fold(committed, Offset::min)
    }

    /// A transactional frame of `producer` was staged at `first`.
    pub(crate) fn begin(&mut self, producer: ProducerId, epoch: u16, first: Offset) {
        if self.open.contains_key(&producer) {
            return;
        }
        self.firsts.insert(first);
        self.open.insert(producer, Open { epoch, first });
    }

    /// The frame at `last`, which ends the transaction of `producer`, was staged. Returns where that began.
    pub(crate) fn end(
        &mut self,
        producer: ProducerId,
        last: Offset,
        is_abort: bool,
        committed: Offset,
    ) -> Option<Offset> {
        while self.ended.front().is_some_and(|ended| ended.last < committed) {
            self.ended.pop_front();
        }
        let open = self.open.remove(&producer)?;
        self.firsts.remove(&open.first);
        self.ended.push_back(Ended { producer, open, last });
        if is_abort {
            let rest = self.firsts.first().copied().unwrap_or(last);
            self.aborted.push_back(Aborted { producer, first: open.first, last, rest });
        }
        Some(open.first)
    }

    /// Aborted transactions with records in `[from, upto)`, where `upto` is decided, in the order of their
    /// ends. Looks at those only that ended behind `from`, up to the first that can have none after it.
    pub(crate) fn aborted(&self, from: Offset, upto: Offset) -> Vec<(ProducerId, Offset)> {
        let start = self.aborted.partition_point(|aborted| aborted.last < from);
        let mut found = Vec::new();
        for aborted in self.aborted.range(start..) {
            if aborted.first < upto {
                found.push((aborted.producer, aborted.first));
            }
            if aborted.rest >= upto {
                break;
            }
        }
        found
    }

    /// Records below `log_start` are gone.
    pub(crate) fn trim(&mut self, log_start: Offset) {
        while self.aborted.front().is_some_and(|aborted| aborted.last < log_start) {
            self.aborted.pop_front();
        }
    }

    /// What was staged at `committed` and behind will never be durable.
    pub(crate) fn drop_staged(&mut self, committed: Offset) {
        self.open.retain(|_, open| open.first < committed);
        self.aborted.retain(|aborted| aborted.last < committed);
        for ended in std::mem::take(&mut self.ended) {
            if ended.last >= committed && ended.open.first < committed {
                self.open.insert(ended.producer, ended.open);
            }
        }
        self.firsts = self.open.values().map(|open| open.first).collect();
    }

    /// The log ends at `end`: frames behind it are not there. What they had ended stays ended, for nobody
    /// will end it again.
    pub(crate) fn drop_beyond(&mut self, end: Offset) {
        self.ended.clear();
        self.open.retain(|_, open| open.first < end);
        self.firsts = self.open.values().map(|open| open.first).collect();
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.number(self.open.len() as u64);
        for (producer, open) in &self.open {
            writer.number(producer.0);
            writer.number(u64::from(open.epoch));
            writer.number(open.first);
        }
        writer.number(self.aborted.len() as u64);
        for aborted in &self.aborted {
            writer.number(aborted.producer.0);
            writer.number(aborted.first);
            writer.number(aborted.last);
            writer.number(aborted.rest);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Transactions, CodecError> {
        let mut transactions = Transactions::default();
        for _ in 0..reader.count()? {
            let producer = ProducerId(reader.number()?);
            let epoch = reader.narrow()?;
            transactions.begin(producer, epoch, reader.number()?);
        }
        for _ in 0..reader.count()? {
            transactions.aborted.push_back(Aborted {
                producer: ProducerId(reader.number()?),
                first: reader.number()?,
                last: reader.number()?,
                rest: reader.number()?,
            });
        }
        Ok(transactions)
    }
}
