//! Where every frame of a shard is: in the ring or in a segment.
//!
//! Owns the extents of partitions, the entries of unsettled frames, the segments and their runs. Pure values:
//! it must never emit I/O and never hold a body. What is *true on disk* is decided by its callers: an entry
//! moves from the ring to a run only after the segment's sync, and ring space is free only behind a durable
//! checkpoint.

mod eager;
mod entry;
mod gather;
mod logs;
mod partition;
mod recovered;
mod replace;
mod retire;
mod ring_range;
mod runs;

#[cfg(test)]
mod eager_tests;
#[cfg(test)]
mod gather_tests;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use eager::EagerLimits;
pub use entry::{FRAME_ENTRY_BYTES, FrameEntry, RUN_ENTRY_BYTES, RunEntry, Segment};
pub use gather::{GatherLimits, GatherView};
pub use logs::{PartitionLogs, SettleLimits, SettleMove, SettlePlan};
pub use partition::{Extent, Located, PartitionLog, SegmentFacts, WrittenRuns};
pub use recovered::{RecoveredGap, RecoveredPartition};
pub use replace::Replaced;
pub use retire::{RETIRED_IN_FLIGHT_MAX, Retirer};
pub use ring_range::{RING_READ_GAP_BYTES_MAX, RingRange};
pub use runs::{RUN_REF_BYTES_MAX, RunPlan};

use crate::io::IoId;

/// Numbers requests so that whoever emitted one can be told by its id alone.
#[derive(Debug, Default)]
pub struct IoIds {
    last: u64,
}

impl IoIds {
    /// Requests of the settle machine.
    pub const SETTLE: u8 = 0x51;
    /// Requests of the read machine.
    pub const READ: u8 = 0x52;
    /// Requests that free segments.
    pub const RETIRE: u8 = 0x53;

    /// A new id of `owner`; ids of one counter never repeat in a process.
    pub fn next(&mut self, owner: u8) -> IoId {
        self.last += 1;
        IoId(u64::from(owner) << 56 | self.last)
    }

    /// Who emitted the request of this id.
    #[must_use]
    pub fn owner(id: IoId) -> u8 {
        (id.0 >> 56) as u8
    }
}

/// The buffers that were written to the ring and are still in memory.
pub trait FrameCache {
    /// The frame, header and body, whose header is at ring position `position` and which is `length` bytes
    /// long; `None` if its buffer is gone or can still change.
    fn cached(&self, position: u64, length: usize) -> Option<Bytes>;
}

/// No cache at all: every frame is read from the ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCache;

impl FrameCache for NoCache {
    fn cached(&self, _position: u64, _length: usize) -> Option<Bytes> {
        None
    }
}

/// Where ring positions are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingShape {
    pub wal: martlet_core::WalId,
    pub file_bytes: u64,
    pub files: u32,
    pub block_bytes: u32,
}

impl RingShape {
    /// The file of `position` and the offset in it.
    #[must_use]
    pub fn place(&self, position: u64) -> (crate::io::FileId, u64) {
        let index = (position / self.file_bytes) % u64::from(self.files);
        (crate::io::FileId::Ring(self.wal, index as u32), position % self.file_bytes)
    }

    /// Bytes of the whole ring.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.file_bytes * u64::from(self.files)
    }
}
