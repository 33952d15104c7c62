//! Records inside a flush: a header of 16 bytes, then the payload.
//!
//! ```text
//!   0 kind 1   1 flags 1   2 spare 2   4 length 4   8 payload_crc 4   12 header_crc 4
//! ```
//!
//! `header_crc` covers the other 12 bytes and is salted with the flush's sequence and incarnation, so that a
//! record of an earlier lap can never pass for one of this flush. `payload_crc` covers the payload, except
//! for frames: there it covers the 128-byte frame header, and the body has its own checksum in that header.

use martlet_core::checksum::crc32c_of;
use martlet_core::{FRAME_HEADER_BYTES, Offset, PartitionId};

use super::{get_u32, get_u64, put};

/// Bytes of an encoded record header.
pub const RECORD_HEADER_BYTES: usize = 16;

/// Kinds of records. Notes hold engine state and mean nothing to storage: kind `0x10 + note kind`.
pub mod kind {
    /// A frame: 128 bytes of header and the body.
    pub const FRAME: u8 = 1;
    /// [`crate::layout::checkpoint::PartitionState`]: the segments of a partition with the runs that hold the
    /// bodies of this flush's [`RUN_FRAME`]s. They were written and synced before this flush was.
    pub const RUN_REF: u8 = 2;
    /// A change in the list of a partition's segments.
    pub const SEGMENT: u8 = 3;
    /// [`super::LogStart`]: the log start of a partition moved up.
    pub const LOG_START: u8 = 4;
    /// A partition's epoch.
    pub const EPOCH: u8 = 5;
    /// A frame logged again, to free ring space behind it. Same payload as [`FRAME`].
    pub const CARRY: u8 = 6;
    /// Nothing; its flush proves what was written before.
    pub const MARK: u8 = 7;
    /// A partition is gone: its id.
    pub const DROP: u8 = 8;
    /// The 128-byte header of a frame whose body is in a run: a [`RUN_REF`] at the end of the flush says
    /// where.
    pub const RUN_FRAME: u8 = 9;
    /// First kind of engine notes; cursors are `0x11`, producers `0x12`, transactions `0x13`, metadata
    /// `0x14`.
    pub const NOTE: u8 = 0x10;
    /// Last kind of engine notes.
    pub const NOTE_LAST: u8 = 0x1f;
}

/// A record header as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    pub kind: u8,
    pub length: u32,
    pub payload_crc: u32,
}

/// What ties a record header to its flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt {
    pub sequence: u64,
    pub incarnation: u32,
}

/// Payload bytes of this kind that `payload_crc` covers.
#[must_use]
pub fn covered(kind: u8, payload: &[u8]) -> &[u8] {
    if kind == kind::FRAME || kind == kind::CARRY {
        payload.get(..FRAME_HEADER_BYTES).unwrap_or(payload)
    } else {
        payload
    }
}

impl RecordHeader {
    #[must_use]
    pub fn encode(&self, salt: Salt) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0u8; RECORD_HEADER_BYTES];
        out[0] = self.kind;
        put(&mut out, 4, &self.length.to_le_bytes());
        put(&mut out, 8, &self.payload_crc.to_le_bytes());
        let crc = header_crc(&out, salt);
        put(&mut out, 12, &crc.to_le_bytes());
        out
    }

    /// The header at the start of `bytes`; `None` if it is short, damaged or of another flush.
    #[must_use]
    pub fn decode(bytes: &[u8], salt: Salt) -> Option<RecordHeader> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        if get_u32(bytes, 12) != header_crc(bytes, salt) {
            return None;
        }
        Some(RecordHeader { kind: bytes[0], length: get_u32(bytes, 4), payload_crc: get_u32(bytes, 8) })
    }
}

/// `records_crc` of a flush after one more record header; it begins at 0.
#[must_use]
pub fn chain(records_crc: u32, header: &[u8]) -> u32 {
    crc32c_of(&[&records_crc.to_le_bytes(), header])
}

fn header_crc(bytes: &[u8], salt: Salt) -> u32 {
    crc32c_of(&[&bytes[..12], &salt.sequence.to_le_bytes(), &salt.incarnation.to_le_bytes()])
}

/// Payload of [`kind::LOG_START`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogStart {
    pub partition: PartitionId,
    pub log_start: Offset,
}

impl LogStart {
    #[must_use]
    pub fn encode(&self) -> [u8; 16] {
        let mut out = [0u8; 16];
        put(&mut out, 0, &self.partition.0.to_le_bytes());
        put(&mut out, 8, &self.log_start.to_le_bytes());
        out
    }

    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<LogStart> {
        (payload.len() == 16)
            .then(|| LogStart { partition: PartitionId(get_u64(payload, 0)), log_start: get_u64(payload, 8) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_belongs_to_its_flush_and_every_flipped_bit_is_found() {
        let salt = Salt { sequence: 9, incarnation: 2 };
        let header = RecordHeader { kind: kind::FRAME, length: 700, payload_crc: 0x1234_5678 };
        let bytes = header.encode(salt);
        assert_eq!(RecordHeader::decode(&bytes, salt), Some(header));
        assert_eq!(RecordHeader::decode(&bytes, Salt { sequence: 8, ..salt }), None);
        assert_eq!(RecordHeader::decode(&bytes, Salt { incarnation: 1, ..salt }), None);
        for bit in 0..RECORD_HEADER_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&bad, salt), None, "bit {bit}");
        }
    }
}
