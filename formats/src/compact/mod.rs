//! Which records of a compacted partition stay: the last of each key, and deletes for as long as readers may
//! need them. Owns that decision and the writing of what is left of a batch.
//!
//! - A record goes if a later one of its key was learnt, or if it has no key.
//! - A delete (a record without value) that is the last of its key stays until a time that is written into
//!   its frame when compaction first meets it: by then everything before it is gone, so whoever reads the
//!   log from its beginning within that time sees the delete of whatever it saw.
//! - Offsets stay. A Kafka batch keeps its range and its codec and loses records; a NATIVE batch, whose
//!   records have no offsets of their own, becomes one batch for each stretch of records that is left.
//! - Batches of transactions and control batches stay as they are, and say nothing of other records: whether
//!   they were committed is not known here. So do batches that cannot be read.

mod map;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use martlet_core::compaction::{FrameFilter, Kept};
use martlet_core::frame::{FrameHeader, flags, format};
use martlet_core::limits::{BATCH_UNCOMPRESSED_BYTES_MAX, COMPACTION_KEYS_MAX};

use crate::kafka::{CRC_FROM, KafkaBatch};
use crate::native::{Batch, BatchBuilder, Header, Record};
use map::{OffsetMap, hash_of};

/// Times of one compaction, wall milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    pub now: i64,
    /// How long deletes stay that are met for the first time.
    pub tombstones_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Compactor {
    times: Times,
    keys_max: usize,
    map: OffsetMap,
    dropped: u64,
}

/// A batch of either format, opened.
enum Opened {
    Kafka(KafkaBatch),
    Native(Batch),
}

fn open(header: &FrameHeader, body: &Bytes) -> Option<Opened> {
    if header.flags & (flags::TRANSACTIONAL | flags::CONTROL) != 0 {
        return None;
    }
    match header.format {
        format::KAFKA_V2 => {
            let batch = KafkaBatch::open(body, BATCH_UNCOMPRESSED_BYTES_MAX).ok()?;
            let is_plain = !batch.header().is_transactional() && !batch.header().is_control();
            is_plain.then_some(Opened::Kafka(batch))
        }
        format::NATIVE => Batch::open(body, BATCH_UNCOMPRESSED_BYTES_MAX).ok().map(Opened::Native),
        _ => None,
    }
}

/// Whether every record of a batch has a key, as it must in a compacted topic. `None` if it cannot be read.
#[must_use]
pub fn has_keys(format: u8, body: &Bytes) -> Option<bool> {
    match format {
        format::KAFKA_V2 => {
            let batch = KafkaBatch::open(body, BATCH_UNCOMPRESSED_BYTES_MAX).ok()?;
            Some(batch.records().all(|record| record.key.is_some()))
        }
        format::NATIVE => {
            let batch = Batch::open(body, BATCH_UNCOMPRESSED_BYTES_MAX).ok()?;
            Some(batch.records().all(|record| record.key.is_some()))
        }
        _ => None,
    }
}

impl Compactor {
    #[must_use]
    pub fn new(times: Times) -> Compactor {
        Compactor::with_keys_max(times, COMPACTION_KEYS_MAX)
    }

    /// A compactor that remembers fewer keys.
    #[must_use]
    pub fn with_keys_max(times: Times, keys_max: usize) -> Compactor {
        Compactor { times, keys_max, map: OffsetMap::default(), dropped: 0 }
    }

    fn fate(&self, header: &FrameHeader, delta: u64, key: Option<&[u8]>, is_delete: bool) -> Fate {
        let Some(key) = key else { return Fate::Goes };
        let offset = header.base_offset + delta;
        if self.map.get(hash_of(key)).is_some_and(|last| last > offset) {
            return Fate::Goes;
        }
        match (is_delete, header.tombstones_until) {
            (false, _) => Fate::Stays,
            (true, until) if until != 0 && until < self.times.now => Fate::Goes,
            (true, _) => Fate::StaysForNow,
        }
    }

    /// The header of frames that are left of this one, with the time of its deletes if there are any.
    fn marked(&self, header: &FrameHeader, has_deletes: bool) -> FrameHeader {
        let until = match header.tombstones_until {
            _ if !has_deletes => 0,
            0 => self.times.now.saturating_add_unsigned(self.times.tombstones_ms).max(1),
            until => until,
        };
        FrameHeader { tombstones_until: until, ..*header }
    }
}

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Goes,
    Stays,
    /// A delete whose time has not come.
    StaysForNow,
}

/// The fates of a batch's records, by index.
#[derive(Default)]
struct Fates {
    fates: Vec<Fate>,
    gone: u64,
    deletes: bool,
}

impl Fates {
    fn push(&mut self, fate: Fate) {
        self.fates.push(fate);
        self.gone += u64::from(fate == Fate::Goes);
        self.deletes |= fate == Fate::StaysForNow;
    }
}

impl FrameFilter for Compactor {
    fn learn(&mut self, header: &FrameHeader, body: &Bytes) -> bool {
        let full = self.map.len() + header.record_count as usize > self.keys_max;
        if full && self.map.len() > 0 {
            return false;
        }
        let base = header.base_offset;
        match open(header, body) {
            Some(Opened::Kafka(batch)) => {
                for record in batch.records() {
                    let delta = u64::try_from(record.offset_delta).unwrap_or(0);
                    if let Some(key) = record.key {
                        self.map.put(hash_of(key), base + delta);
                    }
                }
            }
            Some(Opened::Native(batch)) => {
                for (delta, record) in (0..).zip(batch.records()) {
                    if let Some(key) = record.key {
                        self.map.put(hash_of(key), base + delta);
                    }
                }
            }
            None => {}
        }
        true
    }

    fn filter(&mut self, header: &FrameHeader, body: &Bytes) -> Kept {
        let Some(opened) = open(header, body) else { return Kept::Whole };
        let mut fates = Fates::default();
        match &opened {
            Opened::Kafka(batch) => batch.records().for_each(|record| {
                let delta = u64::try_from(record.offset_delta).unwrap_or(0);
                fates.push(self.fate(header, delta, record.key, record.value.is_none()));
            }),
            Opened::Native(batch) => (0..).zip(batch.records()).for_each(|(delta, record)| {
                fates.push(self.fate(header, delta, record.key, record.value.is_none()));
            }),
        }
        let marked = self.marked(header, fates.deletes);
        if fates.gone == 0 && marked.tombstones_until == header.tombstones_until {
            return Kept::Whole;
        }
        if fates.gone == 0 {
            return Kept::Marked(Box::new(marked));
        }
        self.dropped += fates.gone;
        let marked = FrameHeader { flags: marked.flags | flags::COMPACTED, ..marked };
        Kept::Parts(match opened {
            Opened::Kafka(batch) => kafka_part(&marked, &batch, &fates.fates).into_iter().collect(),
            Opened::Native(batch) => native_parts(&marked, &batch, &fates.fates),
        })
    }

    fn forget(&mut self) {
        self.map.clear();
    }

    fn records_dropped(&self) -> u64 {
        self.dropped
    }
}

fn kafka_part(header: &FrameHeader, batch: &KafkaBatch, fates: &[Fate]) -> Option<(FrameHeader, Bytes)> {
    let mut fates = fates.iter();
    let (batch, body) = batch.retain(|_| fates.next().is_some_and(|fate| *fate != Fate::Goes))?;
    let header = FrameHeader {
        record_count: u32::try_from(batch.record_count).unwrap_or(0),
        // Records without a time are as old as their arrival.
        timestamp_max: if batch.max_timestamp < 0 { header.timestamp_max } else { batch.max_timestamp },
        body_crc_from: CRC_FROM as u8,
        body_crc: batch.crc,
        body_length: u32::try_from(body.len()).unwrap_or(u32::MAX),
        ..*header
    };
    Some((header, body))
}

/// Records of a NATIVE batch that stay and follow each other.
struct Stretch {
    /// Index of the first in the batch.
    first: usize,
    builder: BatchBuilder,
    has_deletes: bool,
}

fn native_parts(header: &FrameHeader, batch: &Batch, fates: &[Fate]) -> Vec<(FrameHeader, Bytes)> {
    let mut parts = Vec::new();
    let mut stretch: Option<Stretch> = None;
    let codec = batch.header().codec;
    for (first, (record, fate)) in batch.records().zip(fates).enumerate() {
        if *fate == Fate::Goes {
            parts.extend(stretch.take().map(|stretch| stretch.end(header)));
            continue;
        }
        let builder = || BatchBuilder::new(codec, 0);
        let stretch =
            stretch.get_or_insert_with(|| Stretch { first, builder: builder(), has_deletes: false });
        stretch.has_deletes |= *fate == Fate::StaysForNow;
        let headers: Vec<Header<'_>> =
            record.headers().map(|header| Header { name: header.name, value: header.value }).collect();
        let (timestamp, key, value) = (record.timestamp, record.key, record.value);
        let appended = stretch.builder.append(&Record { timestamp, key, value, headers: &headers });
        assert!(appended.is_ok(), "part of a batch fits a batch");
    }
    parts.extend(stretch.map(|stretch| stretch.end(header)));
    parts
}

impl Stretch {
    fn end(self, header: &FrameHeader) -> (FrameHeader, Bytes) {
        let built = self.builder.finish();
        let sequence = |base: i64| if base < 0 { base } else { base.saturating_add(self.first as i64) };
        let header = FrameHeader {
            base_offset: header.base_offset + self.first as u64,
            base_sequence: sequence(header.base_sequence),
            offset_span: built.record_count,
            record_count: built.record_count,
            timestamp_max: match header.flags & flags::LOG_APPEND_TIME {
                0 => built.timestamp_max,
                _ => header.timestamp_max,
            },
            body_crc_from: 0,
            body_crc: built.body_crc,
            body_length: u32::try_from(built.body.len()).unwrap_or(u32::MAX),
            tombstones_until: if self.has_deletes { header.tombstones_until } else { 0 },
            ..*header
        };
        (header, built.body)
    }
}
