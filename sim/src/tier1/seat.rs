//! One shard of the model: an engine on a store, without executor. Owns the seam between the two and the
//! requests under way.

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_core::{Epoch, FrameHeader, Lsn, Offset, PartitionId, Refusal};
use martlet_shard::Engine;
use martlet_shard::api::CallToken;
use martlet_shard::log::{Extent, Log, NoteKind, SegmentFacts, WriteClass};
use martlet_wal::io::{IoId, IoRequest};
use martlet_wal::read::ReadId;
use martlet_wal::{ReplayItem, Store};

/// A request under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) id: IoId,
    pub(crate) request: IoRequest,
    /// What a sync in it covers.
    pub(crate) submitted: u64,
    /// Step at which it was submitted.
    pub(crate) born: u64,
}

/// Who waits for a read of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) token: CallToken,
}

/// A shard.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    pub(crate) under_way: Vec<UnderWay>,
    pub(crate) reading: BTreeMap<ReadId, Reading>,
    /// Metadata commands that arrive later.
    pub(crate) inbox: Vec<(u64, Bytes)>,
}

/// The store as the engine sees it.
#[derive(Debug)]
pub(crate) struct StoreLog<'a>(pub(crate) &'a mut Store);

impl Log for StoreLog<'_> {
    fn admit(&self, partition: PartitionId, bytes: usize, class: WriteClass) -> Result<(), Refusal> {
        let class = match class {
            WriteClass::Records => martlet_wal::WriteClass::Records,
            WriteClass::Reserve => martlet_wal::WriteClass::Reserve,
        };
        self.0.admit(partition, bytes, class)
    }

    fn append(&mut self, header: &FrameHeader, body: &Bytes) -> Lsn {
        self.0.append(header, body)
    }

    fn note(&mut self, kind: NoteKind, payload: &[u8]) -> Lsn {
        self.0.note(kind as u8, payload)
    }

    fn open_partition(&mut self, partition: PartitionId) -> Extent {
        extent(self.0.open_partition(partition))
    }

    fn drop_partition(&mut self, partition: PartitionId) -> Lsn {
        self.0.drop_partition(partition)
    }

    fn trim(&mut self, partition: PartitionId, log_start: Offset) -> Lsn {
        self.0.trim(partition, log_start)
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.0.extent(partition).map(extent)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.0.partitions()
    }

    fn segments(&self, partition: PartitionId) -> Vec<SegmentFacts> {
        let facts = |segment: martlet_wal::index::SegmentFacts| SegmentFacts {
            base_offset: segment.base_offset,
            end_offset: segment.end_offset,
            bytes: segment.bytes,
            timestamp_max: segment.timestamp_max,
            sealed: segment.sealed,
        };
        self.0.segments(partition).into_iter().map(facts).collect()
    }

    fn durable(&self) -> Lsn {
        self.0.durable()
    }
}

fn extent(extent: martlet_wal::index::Extent) -> Extent {
    let epoch: Epoch = extent.epoch;
    Extent { epoch, log_start: extent.log_start, next_offset: extent.next_offset, bytes: extent.bytes }
}

/// Tells an engine what its log held.
pub(crate) fn replay(engine: &mut Engine, item: ReplayItem) {
    match item {
        ReplayItem::Snapshot(bytes) if bytes.is_empty() => {}
        ReplayItem::Snapshot(bytes) => {
            let recovered = engine.recover(&bytes);
            assert!(recovered.is_ok(), "a snapshot that passed its checksum is read: {recovered:?}");
        }
        ReplayItem::Frame(header, body) => {
            let replayed = engine.replay_frame(&header, &body);
            assert!(replayed.is_ok(), "a frame that passed its checksum is read: {replayed:?}");
        }
        ReplayItem::Note(kind, payload) => {
            let replayed = engine.replay_note(kind, &payload);
            assert!(replayed.is_ok(), "a note that passed its checksum is read: {replayed:?}");
        }
    }
}
