//! Producers of one partition and the batches they sent last: what is new, what is a retry, what is out of
//! order.
//!
//! Sequences are checked against what is *staged*; a retry is answered with what is *durable*.
//!
//! **Invariant**: a batch that is not durable yet is always remembered. So "older than what is remembered"
//! means "stored for good", and may be said to a producer as such.

use std::collections::{BTreeMap, VecDeque};

use martlet_core::limits::{PARTITION_PRODUCERS_MAX, PRODUCER_BATCHES_REMEMBERED};
use martlet_core::{ErrorCode, Lsn, Offset, ProducerId, Refusal};

use crate::codec::{CodecError, Reader, Writer};

/// Sequences of a producer that counts in 31 bits.
const NARROW_SEQUENCES: i64 = 1 << 31;

/// The sequence of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sequence {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: u16,
    /// Of the first record, at least 0.
    pub(crate) base: i64,
    pub(crate) count: u32,
}

/// A batch as it was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remembered {
    base: i64,
    count: u32,
    pub(crate) base_offset: Offset,
    pub(crate) broker_time: i64,
    /// 0 for what was recovered: durable.
    pub(crate) lsn: Lsn,
}

impl Remembered {
    fn end(&self) -> i64 {
        self.base.saturating_add(i64::from(self.count))
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Producer {
    epoch: u16,
    /// Wall milliseconds of its last batch.
    seen: i64,
    /// Oldest first. Empty if the last of it was the end of a transaction.
    batches: VecDeque<Remembered>,
    /// The last end of a transaction: what it says of the epoch is kept as batches are.
    ended: Option<Offset>,
}

impl Producer {
    fn is_durable(&self, durable: Lsn) -> bool {
        self.batches.back().is_none_or(|last| last.lsn <= durable)
    }
}

/// What to do with a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is the next one.
    New,
    /// It is stored, or staged if its `lsn` is not durable.
    Retry(Remembered),
    Refused(Refusal),
}

/// All producers of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
}

impl Producers {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn knows(&self, producer: ProducerId) -> bool {
        self.by_id.contains_key(&producer)
    }

    /// The sequence that is meant by one that counts in 31 bits and begins again at 0: the one nearest to
    /// what comes next.
    pub(crate) fn widen(&self, producer: ProducerId, epoch: u16, narrow: i64) -> i64 {
        let known = self.by_id.get(&producer).filter(|known| known.epoch == epoch);
        let next = known.and_then(|known| known.batches.back()).map_or(0, Remembered::end);
        let near = next - next % NARROW_SEQUENCES + narrow;
        let candidates = [near - NARROW_SEQUENCES, near, near.saturating_add(NARROW_SEQUENCES)];
        let meant = candidates.into_iter().filter(|sequence| *sequence >= 0);
        meant.min_by_key(|sequence| sequence.abs_diff(next)).unwrap_or(narrow)
    }

    pub(crate) fn check(&self, sequence: Sequence) -> Verdict {
        let Some(producer) = self.by_id.get(&sequence.producer) else {
            if sequence.base == 0 {
                return Verdict::New;
            }
            return refused(
                ErrorCode::UnknownProducer,
                format!(
                    "nothing is known of producer {} here and its sequence is {}, not 0: open a new \
                     producer, or send \
                     again from its first batch if none was acknowledged",
                    sequence.producer, sequence.base
                ),
            );
        };
        if sequence.epoch < producer.epoch {
            return refused(
                ErrorCode::ProducerFenced,
                format!(
                    "producer {} has epoch {} now, this batch has {}: open a new producer",
                    sequence.producer, producer.epoch, sequence.epoch
                ),
            );
        }
        if sequence.epoch > producer.epoch {
            return if sequence.base == 0 { Verdict::New } else { out_of_order(sequence, 0) };
        }
        let next = producer.batches.back().map_or(0, Remembered::end);
        if sequence.base == next {
            return Verdict::New;
        }
        let same = |batch: &&Remembered| batch.base == sequence.base && batch.count == sequence.count;
        if let Some(batch) = producer.batches.iter().rev().find(same) {
            return Verdict::Retry(*batch);
        }
        let oldest = producer.batches.front().map_or(0, |batch| batch.base);
        if sequence.base.saturating_add(i64::from(sequence.count)) <= oldest {
            return refused(
                ErrorCode::DuplicateSequence,
                format!("sequence {} was stored before; its offset is no longer known", sequence.base),
            );
        }
        out_of_order(sequence, next)
    }

    /// Remembers a batch that `check` called new.
    pub(crate) fn stage(
        &mut self,
        sequence: Sequence,
        base_offset: Offset,
        broker_time: i64,
        lsn: Lsn,
        durable: Lsn,
    ) {
        let producer = self.by_id.entry(sequence.producer).or_default();
        let next = producer.batches.back().map_or(0, Remembered::end);
        if producer.epoch != sequence.epoch || sequence.base != next {
            producer.batches.clear();
        }
        producer.epoch = sequence.epoch;
        producer.seen = broker_time;
        while producer.batches.len() >= PRODUCER_BATCHES_REMEMBERED
            && producer.batches.front().is_some_and(|oldest| oldest.lsn <= durable)
        {
            producer.batches.pop_front();
        }
        let (base, count) = (sequence.base, sequence.count);
        producer.batches.push_back(Remembered { base, count, base_offset, broker_time, lsn });
    }

    /// Forgets what was staged and will never be durable.
    pub(crate) fn drop_staged(&mut self, durable: Lsn, committed: Offset) {
        self.by_id.retain(|_, producer| {
            producer.batches.retain(|batch| batch.lsn <= durable);
            producer.ended = producer.ended.filter(|ended| *ended < committed);
            !producer.batches.is_empty() || producer.ended.is_some()
        });
    }

    /// A transaction of the producer ended at `offset`; from now on it has this epoch at least.
    pub(crate) fn end_transaction(&mut self, id: ProducerId, epoch: u16, offset: Offset, broker_time: i64) {
        let is_new = !self.by_id.contains_key(&id);
        let producer = self.by_id.entry(id).or_default();
        if is_new || epoch > producer.epoch {
            producer.batches.clear();
            producer.epoch = epoch;
        }
        producer.seen = broker_time;
        producer.ended = Some(offset);
    }

    /// Epoch of a producer and where its last transaction ended.
    pub(crate) fn epoch_of(&self, id: ProducerId) -> Option<(u16, Option<Offset>)> {
        self.by_id.get(&id).map(|producer| (producer.epoch, producer.ended))
    }

    /// Every producer: epoch, sequence of its last record or -1, when it was seen last.
    pub(crate) fn list(&self) -> impl Iterator<Item = (ProducerId, u16, i64, i64)> {
        self.by_id.iter().map(|(id, producer)| {
            let last = producer.batches.back().map_or(-1, |last| last.end() - 1);
            (*id, producer.epoch, last, producer.seen)
        })
    }

    /// Forgets batches at or above the end of the log: they are not in it.
    pub(crate) fn drop_beyond(&mut self, end: Offset) {
        self.by_id.retain(|_, producer| {
            producer.batches.retain(|batch| batch.base_offset < end);
            producer.ended = producer.ended.filter(|ended| *ended < end);
            !producer.batches.is_empty() || producer.ended.is_some()
        });
    }

    /// Forgets producers that were last seen before `wall_ms`. Returns how many.
    pub(crate) fn expire(&mut self, wall_ms: i64, durable: Lsn) -> usize {
        let before = self.by_id.len();
        self.by_id.retain(|_, producer| producer.seen >= wall_ms || !producer.is_durable(durable));
        before - self.by_id.len()
    }

    /// Makes room for one more producer if the partition is at its bound: the sixteenth that was silent
    /// longest is forgotten, so that the search is paid once for many. Returns how many, or `None` if there
    /// is no room.
    pub(crate) fn make_room(&mut self, durable: Lsn) -> Option<usize> {
        if self.by_id.len() < PARTITION_PRODUCERS_MAX {
            return Some(0);
        }
        let mut seen: Vec<i64> = self.idle_since(durable).map(|(seen, _)| seen).collect();
        if seen.is_empty() {
            return None;
        }
        let at = (seen.len() / 16).min(seen.len() - 1);
        let (_, limit, _) = seen.select_nth_unstable(at);
        Some(self.expire(limit.saturating_add(1), durable))
    }

    /// When each producer whose batches are all durable was last seen.
    pub(crate) fn idle_since(&self, durable: Lsn) -> impl Iterator<Item = (i64, ProducerId)> {
        let idle = self.by_id.iter().filter(move |(_, producer)| producer.is_durable(durable));
        idle.map(|(id, producer)| (producer.seen, *id))
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.number(self.by_id.len() as u64);
        for (id, producer) in &self.by_id {
            writer.number(id.0);
            writer.number(u64::from(producer.epoch));
            writer.signed(producer.seen);
            writer.number(producer.ended.map_or(0, |ended| ended + 1));
            let kept = producer.batches.len().saturating_sub(PRODUCER_BATCHES_REMEMBERED);
            writer.number((producer.batches.len() - kept) as u64);
            for batch in producer.batches.iter().skip(kept) {
                writer.signed(batch.base);
                writer.number(u64::from(batch.count));
                writer.number(batch.base_offset);
                writer.signed(batch.broker_time);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, has_ends: bool) -> Result<Producers, CodecError> {
        let mut producers = Producers::default();
        for _ in 0..reader.count()? {
            let id = ProducerId(reader.number()?);
            let mut producer =
                Producer { epoch: reader.narrow()?, seen: reader.signed()?, ..Producer::default() };
            if has_ends {
                producer.ended = reader.number()?.checked_sub(1);
            }
            for _ in 0..reader.count()? {
                producer.batches.push_back(Remembered {
                    base: reader.signed()?,
                    count: reader.narrow()?,
                    base_offset: reader.number()?,
                    broker_time: reader.signed()?,
                    lsn: Lsn(0),
                });
            }
            producers.by_id.insert(id, producer);
        }
        Ok(producers)
    }
}

fn refused(code: ErrorCode, detail: String) -> Verdict {
    Verdict::Refused(Refusal::new(code, detail))
}

fn out_of_order(sequence: Sequence, next: i64) -> Verdict {
    refused(
        ErrorCode::OutOfOrderSequence,
        format!(
            "producer {} sent sequence {} where {next} is next: send again from there, batches unchanged",
            sequence.producer, sequence.base
        ),
    )
}
