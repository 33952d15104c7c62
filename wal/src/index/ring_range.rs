//! Frames that are read back from the ring: which bytes to read, and the check of what came.

use bytes::Bytes;
use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, PartitionId};

use super::RingShape;
use super::entry::FrameEntry;
use crate::io::{FileId, IoRequest};

/// Bytes of other partitions' frames that one read may cover between two wanted ones.
pub const RING_READ_GAP_BYTES_MAX: u64 = 16 * 1024;

/// One read of the ring that covers one or more frames of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingRange {
    pub file: FileId,
    /// Offset in the file, a multiple of the block.
    pub offset: u64,
    pub length: usize,
    /// Ring position of `offset`.
    pub position: u64,
    /// How many of the entries it covers, at least 1.
    pub frames: usize,
}

impl RingRange {
    /// The read that covers the first of `entries` and as many more as lie near behind it, within
    /// `bytes_max`. `None` without entries.
    pub fn of<'a>(
        shape: &RingShape,
        entries: impl IntoIterator<Item = &'a FrameEntry>,
        bytes_max: u64,
    ) -> Option<RingRange> {
        let mut entries = entries.into_iter();
        let first = entries.next()?;
        let file_end = (first.position / shape.file_bytes + 1) * shape.file_bytes;
        let mut end = first.end_position();
        let mut frames = 1;
        for entry in entries {
            let near = entry.position >= end && entry.position - end <= RING_READ_GAP_BYTES_MAX;
            let fits = entry.end_position() <= file_end
                && entry.end_position().saturating_sub(first.position) <= bytes_max;
            if !near || !fits {
                break;
            }
            end = entry.end_position();
            frames += 1;
        }
        let block = u64::from(shape.block_bytes);
        let position = first.position - first.position % block;
        let (file, offset) = shape.place(position);
        let length = (end.next_multiple_of(block) - position) as usize;
        Some(RingRange { file, offset, length, position, frames })
    }

    #[must_use]
    pub fn request(&self) -> IoRequest {
        IoRequest::Read { file: self.file, offset: self.offset, length: self.length }
    }

    /// The frame of `entry` in the bytes that were read, if they hold it whole and unharmed.
    #[must_use]
    pub fn frame(
        &self,
        bytes: &Bytes,
        entry: &FrameEntry,
        partition: PartitionId,
        check_body: bool,
    ) -> Option<Bytes> {
        let start = usize::try_from(entry.position.checked_sub(self.position)?).ok()?;
        let end = start.checked_add(entry.length as usize)?;
        let frame = bytes.get(start..end)?;
        let header = FrameHeader::decode(frame).ok()?;
        let same = header.partition == partition.0
            && header.base_offset == entry.base_offset
            && header.offset_span == entry.span;
        let whole = !check_body || header.check_body(&frame[FRAME_HEADER_BYTES..]).is_ok();
        (same && whole).then(|| bytes.slice(start..end))
    }
}
