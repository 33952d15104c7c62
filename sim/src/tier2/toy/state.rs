//! What the toy knows: its topic, frames, producers and cursors, rebuilt from the entries of its log.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use martlet_core::frame::{FrameHeader, format};
use martlet_core::limits::PRODUCER_BATCHES_REMEMBERED;
use martlet_core::native::AppendRequest;
use martlet_core::{ErrorCode, Refusal};

use super::ToyBug;

/// One durable fact.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Topic { name: String, partitions: u32 },
    Frame { header: FrameHeader, body: Bytes },
    Cursor { partition: u64, name: String, offset: u64 },
    Producer(u64),
}

#[derive(Debug, Default)]
struct Producer {
    next: i64,
    remembered: VecDeque<(i64, u32, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct PartitionState {
    pub(super) frames: Vec<(FrameHeader, Bytes)>,
    /// Staged end.
    pub(super) next: u64,
    /// Durable end.
    pub(super) committed: u64,
    producers: BTreeMap<u64, Producer>,
    pub(super) cursors: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub(super) struct State {
    bug: Option<ToyBug>,
    pub(super) topic: Option<String>,
    pub(super) partitions: BTreeMap<u64, PartitionState>,
    pub(super) producers: u64,
}

/// Where an append went.
pub(super) enum Append {
    New(FrameHeader),
    Again(u64),
}

impl State {
    pub(super) fn new(bug: Option<ToyBug>) -> State {
        State { bug, topic: None, partitions: BTreeMap::new(), producers: 0 }
    }

    pub(super) fn bug(&self) -> Option<ToyBug> {
        self.bug
    }

    /// Takes in an entry that is durable already.
    pub(super) fn replay(&mut self, entry: Entry) {
        match entry {
            Entry::Topic { name, partitions } => self.create(name, partitions),
            Entry::Frame { header, body } => {
                let reuse = u64::from(self.bug == Some(ToyBug::ReusedOffset));
                let Some(partition) = self.partitions.get_mut(&header.partition) else { return };
                partition.next = header.end_offset().saturating_sub(reuse);
                partition.committed = partition.next;
                partition.remember(&header);
                partition.frames.push((header, body));
            }
            Entry::Cursor { partition, name, offset } => self.set_cursor(partition, &name, offset),
            Entry::Producer(id) => self.producers = self.producers.max(id),
        }
    }

    pub(super) fn create(&mut self, name: String, partitions: u32) {
        self.topic = Some(name);
        for partition in 1..=u64::from(partitions) {
            self.partitions.entry(partition).or_default();
        }
    }

    pub(super) fn set_cursor(&mut self, partition: u64, name: &str, offset: u64) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            let cursor = partition.cursors.entry(name.to_owned()).or_default();
            *cursor = (*cursor).max(offset);
        }
    }

    pub(super) fn partition(&mut self, id: u64) -> Result<&mut PartitionState, Refusal> {
        let unknown = || Refusal::new(ErrorCode::UnknownPartition, "there is no such partition");
        self.partitions.get_mut(&id).ok_or_else(unknown)
    }

    /// Assigns offsets, or finds the batch among those stored before.
    pub(super) fn append(
        &mut self,
        request: &AppendRequest,
        body: &Bytes,
        wall: i64,
    ) -> Result<Append, Refusal> {
        let deduplicates = self.bug != Some(ToyBug::NoDeduplication);
        let partition = self.partition(request.partition)?;
        if request.producer != 0 && deduplicates {
            let producer = partition.producers.entry(request.producer).or_default();
            let known = producer.remembered.iter().find(|(base, _, _)| *base == request.base_sequence);
            if let Some((_, count, offset)) = known {
                assert!(*count == request.record_count, "a retry has the same records");
                return Ok(Append::Again(*offset));
            }
            if request.base_sequence != producer.next {
                let code = if producer.next == 0 {
                    ErrorCode::UnknownProducer
                } else {
                    ErrorCode::OutOfOrderSequence
                };
                return Err(Refusal::new(code, "a batch before this one is missing"));
            }
        }
        let header = FrameHeader {
            format: format::NATIVE,
            partition: request.partition,
            base_offset: partition.next,
            offset_span: request.record_count,
            record_count: request.record_count,
            broker_time: wall,
            timestamp_max: request.timestamp_max,
            producer: request.producer,
            base_sequence: request.base_sequence,
            body_length: body.len() as u32,
            body_crc: request.body_crc,
            ..FrameHeader::default()
        };
        partition.next = header.end_offset();
        partition.remember(&header);
        partition.frames.push((header, body.clone()));
        Ok(Append::New(header))
    }
}

impl PartitionState {
    fn remember(&mut self, header: &FrameHeader) {
        if header.producer == 0 {
            return;
        }
        let producer = self.producers.entry(header.producer).or_default();
        producer.next = header.base_sequence + i64::from(header.record_count);
        producer.remembered.push_back((header.base_sequence, header.record_count, header.base_offset));
        while producer.remembered.len() > PRODUCER_BATCHES_REMEMBERED {
            producer.remembered.pop_front();
        }
    }
}
