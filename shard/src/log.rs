//! What the engine needs of storage. `node` implements it over the write-ahead log; tests over memory.
//!
//! Every method is synchronous: staging never waits. What was staged becomes durable later, in order of
//! [`Lsn`]; the caller of the engine reports it.

use bytes::Bytes;
use martlet_core::{Epoch, FrameHeader, Lsn, Offset, PartitionId, Refusal};

/// Which reserve a write may use. The last sixteenth of the ring is kept for what frees space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteClass {
    /// Records of clients.
    Records,
    /// Cursors, deletes, trims, seals.
    Reserve,
}

/// Kinds of engine state in the log. The payload is the engine's; storage only keeps their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum NoteKind {
    Cursor = 1,
    Producer = 2,
    Transaction = 3,
    Metadata = 4,
    Register = 5,
}

/// Where a partition's log begins and ends, staged bytes included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    pub epoch: Epoch,
    pub log_start: Offset,
    pub next_offset: Offset,
    /// Bytes of frames between the two.
    pub bytes: u64,
}

/// One segment, for retention.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentFacts {
    pub base_offset: Offset,
    pub end_offset: Offset,
    pub bytes: u64,
    /// Largest record timestamp, wall milliseconds.
    pub timestamp_max: i64,
    pub sealed: bool,
    /// Compaction has seen it, and everything before it.
    pub compacted: bool,
    /// Storage may compact it now.
    pub compactable: bool,
}

/// What storage is asked to compact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactionAsk {
    pub partition: PartitionId,
    /// Base offset of the first segment that was not compacted yet.
    pub dirty_from: Offset,
    /// End of the last segment that may be compacted.
    pub upto: Offset,
    /// Wall milliseconds.
    pub now_ms: i64,
    /// How long deletes stay that are met for the first time.
    pub tombstones_ms: u64,
}

/// The log of one shard.
pub trait Log {
    /// Whether a write of `bytes` to `partition` can be staged now. After `Ok` the next `append` or `note` of
    /// at most that size must not fail.
    ///
    /// # Errors
    /// `StorageFull`, `StorageFenced`, `Overloaded`, with the remedy.
    fn admit(&self, partition: PartitionId, bytes: usize, class: WriteClass) -> Result<(), Refusal>;

    /// Stages a frame. `header` is complete: epoch, offsets, times, checksum of the body already verified.
    fn append(&mut self, header: &FrameHeader, body: &Bytes) -> Lsn;

    /// Stages engine state.
    fn note(&mut self, kind: NoteKind, payload: &[u8]) -> Lsn;

    /// Makes a partition known. Idempotent. Returns its extent: empty at 0 if it is new.
    fn open_partition(&mut self, partition: PartitionId) -> Extent;

    /// Bytes after which a segment of this partition is sealed, from its topic's settings. Not stored: said
    /// again after every start. A log without segments ignores it.
    fn set_segment_bytes(&mut self, partition: PartitionId, bytes: u64) {
        let _ = (partition, bytes);
    }

    /// Has a partition compacted in the background; `false` if it is under way, or cannot be now: it is asked
    /// for again. A log without segments ignores it.
    fn compact(&mut self, ask: CompactionAsk) -> bool {
        let _ = ask;
        false
    }

    /// Forgets a partition and frees its space once this is durable.
    fn drop_partition(&mut self, partition: PartitionId) -> Lsn;

    /// Moves the log start up. Whole segments below it are freed once this is durable.
    fn trim(&mut self, partition: PartitionId, log_start: Offset) -> Lsn;

    /// `None` for a partition that is not open.
    fn extent(&self, partition: PartitionId) -> Option<Extent>;

    /// Partitions that are open, in order.
    fn partitions(&self) -> Vec<PartitionId>;

    /// Segments of a partition, oldest first; what is still only in the ring counts as one unsealed segment.
    fn segments(&self, partition: PartitionId) -> Vec<SegmentFacts>;

    /// Everything up to here is on stable storage.
    fn durable(&self) -> Lsn;
}
