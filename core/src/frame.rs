//! The frame header: 128 bytes in front of every batch, on disk and between nodes. Used in place, never
//! parsed.
//!
//! Owns the layout and its checksum. Layout version 1; a new field is a new version. All fields are
//! little-endian and unaligned, so a header may start at any byte of a buffer.
//!
//! **Invariant**: a header that passes [`check`] names its partition, offsets and body checksum correctly; a
//! reader that finds another partition or offset than it looked for has met a misdirected write.

use std::mem::offset_of;

use rkyv::rancor;

use crate::checksum::{crc32c, crc32c_of};

/// Length of an encoded frame header.
pub const FRAME_HEADER_BYTES: usize = 128;
/// First two bytes of every frame header.
pub const FRAME_MAGIC: u16 = 0x4d46;
/// The layout this build writes, and the only one it reads.
pub const FRAME_VERSION: u8 = 1;

/// Body formats. The broker never decodes a body; gateways and compaction do.
pub mod format {
    /// Ours: `martlet-formats`' native batch.
    pub const NATIVE: u8 = 1;
    /// A Kafka RecordBatch of magic 2, as received.
    pub const KAFKA_V2: u8 = 2;
    /// A Pulsar entry, as received.
    pub const PULSAR_ENTRY: u8 = 3;
    /// A metadata command of the system partition.
    pub const METADATA: u8 = 16;
}

/// Bits of `flags`.
pub mod flags {
    /// The batch belongs to a transaction.
    pub const TRANSACTIONAL: u16 = 1 << 0;
    /// The batch holds control records; plain readers skip it.
    pub const CONTROL: u16 = 1 << 1;
    /// All records share one key, whose hash is `key_hash`.
    pub const UNIFORM_KEY: u16 = 1 << 2;
    /// Compaction removed records: `record_count` may be less than `offset_span`. With neither records nor a
    /// body it is a gap: it stands for offsets of which nothing is left.
    pub const COMPACTED: u16 = 1 << 3;
    /// `timestamp_max` and the records' timestamps are the broker's.
    pub const LOG_APPEND_TIME: u16 = 1 << 4;
    /// With `CONTROL`: the transaction that ends here was aborted. In a frame that ends a transaction the
    /// field `transaction` is the offset at which it began here, or the frame's own if there was none.
    pub const ABORTED: u16 = 1 << 5;
}

/// A frame header as a value. `None`-like fields are 0; `base_sequence` is -1 without a producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(derive(Debug, PartialEq, Eq))]
pub struct FrameHeader {
    pub magic: u16,
    pub version: u8,
    pub format: u8,
    pub flags: u16,
    pub priority: u8,
    /// Offset within the body from which `body_crc` is taken; the skipped prefix repeats fields of this
    /// header.
    pub body_crc_from: u8,
    /// CRC-32C of the other 124 bytes.
    pub header_crc: u32,
    pub epoch: u32,
    pub partition: u64,
    pub base_offset: u64,
    /// Offsets this frame covers, at least 1.
    pub offset_span: u32,
    pub record_count: u32,
    /// Wall milliseconds at which the broker took the frame; never decreases in a partition.
    pub broker_time: i64,
    /// Largest record timestamp, wall milliseconds.
    pub timestamp_max: i64,
    pub producer: u64,
    pub base_sequence: i64,
    pub transaction: u64,
    pub key_hash: u32,
    pub producer_epoch: u16,
    pub origin_cluster: u16,
    pub deliver_at: i64,
    pub expires_at: i64,
    pub committed_through: u64,
    pub body_length: u32,
    /// CRC-32C of `body[body_crc_from..]`.
    pub body_crc: u32,
    /// Wall milliseconds from which compaction may take away the deletes among its records; 0 = they were not
    /// met by compaction yet.
    pub tombstones_until: i64,
}

const _: () = {
    assert!(size_of::<ArchivedFrameHeader>() == FRAME_HEADER_BYTES);
    assert!(align_of::<ArchivedFrameHeader>() == 1);
    assert!(offset_of!(ArchivedFrameHeader, version) == 2);
    assert!(offset_of!(ArchivedFrameHeader, format) == 3);
    assert!(offset_of!(ArchivedFrameHeader, flags) == 4);
    assert!(offset_of!(ArchivedFrameHeader, priority) == 6);
    assert!(offset_of!(ArchivedFrameHeader, body_crc_from) == 7);
    assert!(offset_of!(ArchivedFrameHeader, header_crc) == 8);
    assert!(offset_of!(ArchivedFrameHeader, epoch) == 12);
    assert!(offset_of!(ArchivedFrameHeader, partition) == 16);
    assert!(offset_of!(ArchivedFrameHeader, base_offset) == 24);
    assert!(offset_of!(ArchivedFrameHeader, offset_span) == 32);
    assert!(offset_of!(ArchivedFrameHeader, record_count) == 36);
    assert!(offset_of!(ArchivedFrameHeader, broker_time) == 40);
    assert!(offset_of!(ArchivedFrameHeader, timestamp_max) == 48);
    assert!(offset_of!(ArchivedFrameHeader, producer) == 56);
    assert!(offset_of!(ArchivedFrameHeader, base_sequence) == 64);
    assert!(offset_of!(ArchivedFrameHeader, transaction) == 72);
    assert!(offset_of!(ArchivedFrameHeader, key_hash) == 80);
    assert!(offset_of!(ArchivedFrameHeader, producer_epoch) == 84);
    assert!(offset_of!(ArchivedFrameHeader, origin_cluster) == 86);
    assert!(offset_of!(ArchivedFrameHeader, deliver_at) == 88);
    assert!(offset_of!(ArchivedFrameHeader, expires_at) == 96);
    assert!(offset_of!(ArchivedFrameHeader, committed_through) == 104);
    assert!(offset_of!(ArchivedFrameHeader, body_length) == 112);
    assert!(offset_of!(ArchivedFrameHeader, body_crc) == 116);
    assert!(offset_of!(ArchivedFrameHeader, tombstones_until) == 120);
};

const CRC_AT: usize = offset_of!(ArchivedFrameHeader, header_crc);
const CRC_END: usize = CRC_AT + 4;

/// Why bytes are not a frame, or not this frame's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame header needs 128 bytes, found {found}")]
    Short { found: usize },
    #[error("frame magic is {found:#06x}, expected 0x4d46")]
    Magic { found: u16 },
    #[error("frame version {found} is unknown to this build, which reads version 1: upgrade martlet")]
    Version { found: u8 },
    #[error("frame header checksum is {found:#010x}, expected {expected:#010x}")]
    HeaderChecksum { found: u32, expected: u32 },
    #[error("frame body checksum is {found:#010x}, expected {expected:#010x}")]
    BodyChecksum { found: u32, expected: u32 },
    #[error("frame body has {found} bytes, header says {expected}")]
    BodyLength { found: usize, expected: u32 },
    #[error("frame header has an impossible field: {field}")]
    Field { field: &'static str },
}

impl FrameHeader {
    /// The header as its 128 bytes, with magic, version and checksum filled in.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0u8; FRAME_HEADER_BYTES];
        let sealed = FrameHeader { magic: FRAME_MAGIC, version: FRAME_VERSION, header_crc: 0, ..*self };
        let buffer = rkyv::ser::writer::Buffer::from(&mut bytes[..]);
        let written = rkyv::api::serialize_using::<_, rancor::Failure>(
            &sealed,
            &mut rkyv::ser::Serializer::new(buffer, (), ()),
        );
        assert!(written.is_ok(), "a header of fixed fields fits its 128 bytes");
        let crc = crc32c_of(&[&bytes[..CRC_AT], &bytes[CRC_END..]]);
        bytes[CRC_AT..CRC_END].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// First offset after this frame.
    #[must_use]
    pub fn end_offset(&self) -> u64 {
        self.base_offset + u64::from(self.offset_span)
    }

    /// Whether nothing is left of the offsets it covers: readers go on behind it.
    #[must_use]
    pub fn is_gap(&self) -> bool {
        self.flags & flags::COMPACTED != 0 && self.record_count == 0 && self.body_length == 0
    }

    /// A checked header as a value.
    ///
    /// # Errors
    /// As [`check`].
    pub fn decode(bytes: &[u8]) -> Result<FrameHeader, FrameError> {
        let archived = check(bytes)?;
        let value: Result<FrameHeader, rancor::Failure> = rkyv::deserialize(archived);
        value.map_err(|_| FrameError::Field { field: "encoding" })
    }

    /// Compares `body` with this header's length and checksum.
    ///
    /// # Errors
    /// [`FrameError::BodyLength`], [`FrameError::BodyChecksum`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        if body.len() != self.body_length as usize {
            return Err(FrameError::BodyLength { found: body.len(), expected: self.body_length });
        }
        let covered = body.get(usize::from(self.body_crc_from)..).unwrap_or_default();
        let found = crc32c(covered);
        if found == self.body_crc {
            Ok(())
        } else {
            Err(FrameError::BodyChecksum { found, expected: self.body_crc })
        }
    }
}

impl ArchivedFrameHeader {
    /// First offset after this frame.
    #[must_use]
    pub fn end_offset(&self) -> u64 {
        self.base_offset.to_native() + u64::from(self.offset_span.to_native())
    }
}

/// The header at the start of `bytes`, in place, after checking magic, version, checksum and plain ranges.
///
/// # Errors
/// What is wrong with it, as [`FrameError`].
pub fn check(bytes: &[u8]) -> Result<&ArchivedFrameHeader, FrameError> {
    let found = bytes.len();
    let bytes = bytes.get(..FRAME_HEADER_BYTES).ok_or(FrameError::Short { found })?;
    let header = rkyv::access::<ArchivedFrameHeader, rancor::Failure>(bytes)
        .map_err(|_| FrameError::Field { field: "encoding" })?;
    if header.magic != FRAME_MAGIC {
        return Err(FrameError::Magic { found: header.magic.to_native() });
    }
    let found = header.header_crc.to_native();
    let expected = crc32c_of(&[&bytes[..CRC_AT], &bytes[CRC_END..]]);
    if found != expected {
        return Err(FrameError::HeaderChecksum { found, expected });
    }
    if header.version != FRAME_VERSION {
        return Err(FrameError::Version { found: header.version });
    }
    let span = header.offset_span.to_native();
    if span == 0 || header.base_offset.to_native().checked_add(u64::from(span)).is_none() {
        return Err(FrameError::Field { field: "offset_span" });
    }
    if u32::from(header.body_crc_from) > header.body_length.to_native() {
        return Err(FrameError::Field { field: "body_crc_from" });
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FrameHeader {
        FrameHeader {
            format: format::NATIVE,
            flags: flags::UNIFORM_KEY,
            priority: 4,
            epoch: 0x0102_0304,
            partition: 0x1112_1314_1516_1718,
            base_offset: 0x2122_2324_2526_2728,
            offset_span: 3,
            record_count: 3,
            broker_time: 1_700_000_000_123,
            timestamp_max: 1_700_000_000_099,
            producer: 77,
            base_sequence: -1,
            transaction: 9,
            key_hash: 0xdead_beef,
            producer_epoch: 5,
            origin_cluster: 6,
            deliver_at: 7,
            expires_at: 8,
            committed_through: 10,
            body_length: 5,
            body_crc: crc32c(b"hello"),
            ..FrameHeader::default()
        }
    }

    #[test]
    fn golden_bytes() {
        let golden = include_bytes!("../testdata/frame-header-v1.bin");
        assert_eq!(&sample().encode()[..], &golden[..]);
        let decoded = FrameHeader::decode(golden).unwrap();
        assert_eq!(FrameHeader { magic: 0, version: 0, header_crc: 0, ..decoded }, sample());
        assert_eq!(decoded.check_body(b"hello"), Ok(()));
        assert!(matches!(decoded.check_body(b"hellp"), Err(FrameError::BodyChecksum { .. })));
        assert!(matches!(decoded.check_body(b"hell"), Err(FrameError::BodyLength { .. })));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let good = sample().encode();
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn short_and_impossible_headers_are_refused() {
        assert_eq!(check(&[0; 5]), Err(FrameError::Short { found: 5 }));
        let empty = FrameHeader { offset_span: 0, ..sample() }.encode();
        assert_eq!(check(&empty), Err(FrameError::Field { field: "offset_span" }));
        let wrapped = FrameHeader { base_offset: u64::MAX, ..sample() }.encode();
        assert_eq!(check(&wrapped), Err(FrameError::Field { field: "offset_span" }));
    }
}
