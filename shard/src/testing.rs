//! A log in memory that can crash: what is staged, what is durable, and what a restart finds. For tests.

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_core::{ErrorCode, FrameHeader, Lsn, Offset, PartitionId, Refusal};

use crate::engine::Engine;
use crate::log::{Extent, Log, NoteKind, SegmentFacts, WriteClass};

/// One record of the log.
#[derive(Clone, Debug)]
pub enum Record {
    Frame(FrameHeader, Bytes),
    Note(NoteKind, Vec<u8>),
    Open(PartitionId),
    Drop(PartitionId),
    Trim(PartitionId, Offset),
    /// Offsets below this one were lost, perhaps.
    Skip(PartitionId, Offset),
}

#[derive(Clone, Debug, Default)]
struct MemoryPartition {
    extent: Extent,
    frames: Vec<(FrameHeader, Bytes)>,
}

/// The log.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    records: Vec<Record>,
    partitions: BTreeMap<PartitionId, MemoryPartition>,
    /// Records before this process.
    recovered: usize,
    durable: usize,
    /// Frames in a sealed segment.
    pub segment_frames: usize,
    pub is_full: bool,
    pub is_fenced: bool,
    /// How often it was asked whether it takes a write.
    pub admissions: Cell<usize>,
}

impl MemoryLog {
    #[must_use]
    pub fn new() -> MemoryLog {
        MemoryLog { segment_frames: 4, ..MemoryLog::default() }
    }

    /// Records staged, over all processes: a place in the log.
    #[must_use]
    pub fn end(&self) -> usize {
        self.records.len()
    }

    /// Makes everything below `end` durable.
    pub fn flush_to(&mut self, end: usize) {
        assert!(end >= self.durable && end <= self.records.len());
        self.durable = end;
    }

    /// Makes everything durable.
    pub fn flush(&mut self) {
        self.durable = self.records.len();
    }

    /// Records that are durable.
    #[must_use]
    pub fn durable_end(&self) -> usize {
        self.durable
    }

    /// What a restart finds that kept the records below `end`, of which all durable ones must be.
    #[must_use]
    pub fn crash(&self, end: usize) -> MemoryLog {
        assert!(end >= self.durable && end <= self.records.len());
        let mut log = MemoryLog { segment_frames: self.segment_frames, ..MemoryLog::default() };
        for record in &self.records[..end] {
            log.put(record.clone());
        }
        for partition in log.partitions.values_mut() {
            partition.extent.epoch += 1;
        }
        log.recovered = end;
        log.durable = end;
        log
    }

    /// Replays the records from `start` to an engine.
    pub fn replay(&self, engine: &mut Engine, start: usize) {
        for record in &self.records[start.min(self.records.len())..] {
            let replayed = match record {
                Record::Frame(header, body) => engine.replay_frame(header, body),
                Record::Note(kind, payload) => engine.replay_note(*kind as u8, payload),
                Record::Open(_) | Record::Drop(_) | Record::Trim(..) | Record::Skip(..) => Ok(()),
            };
            assert!(replayed.is_ok(), "what this build wrote is read by it: {replayed:?}");
        }
    }

    /// Frames of a partition from its log start.
    #[must_use]
    pub fn frames(&self, partition: PartitionId) -> &[(FrameHeader, Bytes)] {
        self.partitions.get(&partition).map_or(&[], |partition| &partition.frames)
    }

    /// Every record ever staged and kept.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds a record as it is.
    pub fn push(&mut self, record: Record) {
        self.put(record);
    }

    fn put(&mut self, record: Record) -> Lsn {
        match &record {
            Record::Frame(header, body) => {
                let id = PartitionId(header.partition);
                let partition = self.partitions.entry(id).or_default();
                assert!(header.base_offset == partition.extent.next_offset, "offsets are dense");
                partition.extent.next_offset = header.end_offset();
                partition.extent.bytes += 128 + body.len() as u64;
                partition.frames.push((*header, body.clone()));
            }
            Record::Note(..) => {}
            Record::Open(id) => {
                self.partitions.entry(*id).or_default();
            }
            Record::Drop(id) => {
                self.partitions.remove(id);
            }
            Record::Skip(id, next_offset) => {
                self.partitions.entry(*id).or_default().extent.next_offset = *next_offset;
            }
            Record::Trim(id, log_start) => {
                if let Some(partition) = self.partitions.get_mut(id) {
                    partition.extent.log_start = *log_start;
                    partition.frames.retain(|(header, _)| header.end_offset() > *log_start);
                    let bytes = partition.frames.iter().map(|(_, body)| 128 + body.len() as u64);
                    partition.extent.bytes = bytes.sum();
                }
            }
        }
        self.records.push(record);
        self.lsn(self.records.len())
    }

    fn lsn(&self, end: usize) -> Lsn {
        Lsn((end - self.recovered) as u64)
    }
}

impl Log for MemoryLog {
    fn admit(&self, _: PartitionId, _: usize, class: WriteClass) -> Result<(), Refusal> {
        self.admissions.set(self.admissions.get() + 1);
        if self.is_fenced {
            return Err(Refusal::new(ErrorCode::StorageFenced, "fenced by the test"));
        }
        if self.is_full && class == WriteClass::Records {
            return Err(Refusal::new(ErrorCode::StorageFull, "full by the test: delete something"));
        }
        Ok(())
    }

    fn append(&mut self, header: &FrameHeader, body: &Bytes) -> Lsn {
        assert!(self.partitions.contains_key(&PartitionId(header.partition)), "the partition is open");
        self.put(Record::Frame(*header, body.clone()))
    }

    fn note(&mut self, kind: NoteKind, payload: &[u8]) -> Lsn {
        self.put(Record::Note(kind, payload.to_vec()))
    }

    fn open_partition(&mut self, partition: PartitionId) -> Extent {
        if !self.partitions.contains_key(&partition) {
            self.put(Record::Open(partition));
        }
        self.partitions.get(&partition).map(|partition| partition.extent).unwrap_or_default()
    }

    fn drop_partition(&mut self, partition: PartitionId) -> Lsn {
        self.put(Record::Drop(partition))
    }

    fn trim(&mut self, partition: PartitionId, log_start: Offset) -> Lsn {
        self.put(Record::Trim(partition, log_start))
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.partitions.get(&partition).map(|partition| partition.extent)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.keys().copied().collect()
    }

    fn segments(&self, partition: PartitionId) -> Vec<SegmentFacts> {
        let facts = |chunk: &[(FrameHeader, Bytes)]| SegmentFacts {
            base_offset: chunk.first().map_or(0, |(header, _)| header.base_offset),
            end_offset: chunk.last().map_or(0, |(header, _)| header.end_offset()),
            bytes: chunk.iter().map(|(_, body)| 128 + body.len() as u64).sum(),
            timestamp_max: chunk.iter().map(|(header, _)| header.timestamp_max).max().unwrap_or(0),
            sealed: chunk.len() == self.segment_frames,
            ..SegmentFacts::default()
        };
        self.frames(partition).chunks(self.segment_frames).map(facts).collect()
    }

    fn durable(&self) -> Lsn {
        self.lsn(self.durable)
    }
}
