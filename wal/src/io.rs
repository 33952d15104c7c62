//! What the log asks of the disk, as values. The state machines of this crate (store and recovery) emit
//! [`IoRequest`]s and take [`IoOutcome`]s; the pump carries them out on a runtime, the simulator's first tier
//! on a model of a disk. Nothing here does I/O.

use bytes::Bytes;
use martlet_core::{Offset, PartitionId, WalId};

/// A file of the log, by meaning. [`crate::layout::paths`] gives its path below the data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileId {
    /// Two slots of one block each.
    Superblock(WalId),
    /// Slot 0 or 1.
    Checkpoint(WalId, u8),
    /// File `index` of the ring.
    Ring(WalId, u32),
    /// Space set aside so that settling never meets a full disk.
    Ballast(WalId),
    Segment(SegmentName),
}

/// A segment's file: `<base>-<generation>.seg` in its partition's directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentName {
    pub partition: PartitionId,
    pub base_offset: Offset,
    pub generation: u32,
}

/// A directory whose names must become durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DirectoryId {
    Wals,
    Wal(WalId),
    Partitions,
    Partition(PartitionId),
}

/// The requester's name for a request under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoId(pub u64);

/// One operation. Offsets, lengths and buffers of reads and writes are multiples of the block size.
#[derive(Clone, Debug)]
pub enum IoRequest {
    /// Writes `data` at `offset`; with `sync`, a linked data sync follows that also covers every earlier
    /// completed write of this file. Short writes are finished by the executor of the request.
    Write { file: FileId, offset: u64, data: Bytes, sync: bool },
    /// Reads up to `length` bytes; fewer only at the end of the file.
    Read { file: FileId, offset: u64, length: usize },
    /// Data sync of writes completed before this was submitted.
    Sync { file: FileId },
    /// Creates the file (and its directory) if it is missing and makes it at least `length` bytes: written
    /// with zeros and synced if `zeroed`, else allocated without changing its size. The name is not yet
    /// durable.
    Create { file: FileId, length: u64, zeroed: bool },
    /// Cuts or extends the file.
    Truncate { file: FileId, length: u64 },
    /// Removes the name. A missing file is success.
    Unlink { file: FileId },
    /// Makes created and removed names durable.
    SyncDirectory { directory: DirectoryId },
    /// Names of segments in a partition's directory, with lengths; none if the directory is missing.
    ListSegments { partition: PartitionId },
    /// Length of a file; `None` if it is missing.
    Length { file: FileId },
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum IoOutcome {
    Done,
    Read(Bytes),
    Segments(Vec<(SegmentName, u64)>),
    Length(Option<u64>),
    /// It failed. For a linked write, whether the write or its sync failed is not told apart: both fence.
    Failed(IoFault),
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoFault {
    /// No space or no inode.
    Full,
    /// The file is not there.
    Missing,
    /// Anything else, with the operating system's error number.
    Other(i32),
}

impl std::fmt::Display for IoFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IoFault::Full => f.write_str("no space is left"),
            IoFault::Missing => f.write_str("the file is not there"),
            IoFault::Other(number) => {
                write!(f, "{}", std::io::Error::from_raw_os_error(*number).to_string().to_lowercase())
            }
        }
    }
}
