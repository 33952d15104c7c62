//! The small values of the index: 32 bytes for an unsettled frame, 32 for a run, and a segment.

use martlet_core::{FrameHeader, Offset, PartitionId};

use crate::io::SegmentName;

/// A frame that is only in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FrameEntry {
    pub base_offset: Offset,
    /// Ring position of the frame header.
    pub position: u64,
    pub timestamp_max: i64,
    /// Header and body.
    pub length: u32,
    /// Offsets it covers.
    pub span: u32,
}

/// What an unsettled frame costs in memory.
pub const FRAME_ENTRY_BYTES: usize = size_of::<FrameEntry>();

impl FrameEntry {
    /// The entry of `header`, whose first byte is at ring position `position`.
    ///
    /// # Panics
    /// If the body is longer than a batch may be.
    #[must_use]
    pub fn of(header: &FrameHeader, position: u64) -> FrameEntry {
        assert!(header.body_length <= martlet_core::limits::BATCH_BYTES_MAX, "body over the batch limit");
        FrameEntry {
            base_offset: header.base_offset,
            position,
            timestamp_max: header.timestamp_max,
            length: martlet_core::FRAME_HEADER_BYTES as u32 + header.body_length,
            span: header.offset_span,
        }
    }

    /// First offset after the frame.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset + u64::from(self.span)
    }

    /// First ring position after the frame.
    #[must_use]
    pub fn end_position(&self) -> u64 {
        self.position + u64::from(self.length)
    }
}

/// A run of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct RunEntry {
    pub base_offset: Offset,
    /// Largest record timestamp, wall milliseconds.
    pub timestamp_max: i64,
    /// Offsets it covers, gaps included.
    pub span: u32,
    /// Position of the run header in the file, in units of [`RunEntry::UNIT`].
    pub unit: u32,
    /// Bytes with header and padding.
    pub length: u32,
    pub frames: u32,
}

/// What a run costs in memory.
pub const RUN_ENTRY_BYTES: usize = size_of::<RunEntry>();

const _: () = {
    assert!(FRAME_ENTRY_BYTES == 32);
    assert!(RUN_ENTRY_BYTES == 32);
};

impl RunEntry {
    /// Runs start at multiples of this, whatever the block size: blocks are never smaller.
    pub const UNIT: u64 = 4096;

    /// First offset after the run.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset + u64::from(self.span)
    }

    /// Byte position of the run header in its file.
    #[must_use]
    pub fn position(&self) -> u64 {
        u64::from(self.unit) * Self::UNIT
    }

    /// First byte after the run.
    #[must_use]
    pub fn end_position(&self) -> u64 {
        self.position() + u64::from(self.length)
    }
}

/// A segment whose first `length` bytes are runs that were synced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub base_offset: Offset,
    pub end_offset: Offset,
    /// Bytes of runs; a sealed segment has its footer there.
    pub length: u64,
    /// Bytes of frames in it.
    pub frame_bytes: u64,
    /// Largest record timestamp, wall milliseconds.
    pub timestamp_max: i64,
    pub generation: u32,
    pub runs: u32,
    /// Checksum of the last run header, for the chain; 0 before the first.
    pub last_run_crc: u32,
    pub sealed: bool,
    /// Compaction has seen it, and everything before it: no key is twice in what they hold.
    pub compacted: bool,
    /// Bytes known to be allocated to the file; 0 if that is not known in this process.
    pub allocated: u64,
    /// Generation of the last checkpoint captured before this segment changed: later ones know it as it is.
    pub changed_at: u64,
    /// Runs in offset order, once they were needed. May be fewer than `runs` if some cannot be read.
    pub index: Option<Box<Vec<RunEntry>>>,
}

impl Segment {
    /// A segment without runs yet.
    #[must_use]
    pub fn empty(base_offset: Offset, generation: u32) -> Segment {
        Segment {
            base_offset,
            end_offset: base_offset,
            length: 0,
            frame_bytes: 0,
            timestamp_max: i64::MIN,
            generation,
            runs: 0,
            last_run_crc: 0,
            sealed: false,
            compacted: false,
            allocated: 0,
            changed_at: 0,
            index: Some(Box::default()),
        }
    }

    #[must_use]
    pub fn name(&self, partition: PartitionId) -> SegmentName {
        SegmentName { partition, base_offset: self.base_offset, generation: self.generation }
    }
}
