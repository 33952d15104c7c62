//! The 20 bytes at the start of a NATIVE batch, and the cheap check a gateway makes before it accepts one.
//! Must never look into the records.

use martlet_core::limits::BATCH_RECORDS_MAX;

use super::{BatchError, Codec};

/// Bytes of the header of a batch body.
pub const BATCH_HEADER_BYTES: usize = 20;
/// The body layout this build writes, and the only one it reads.
pub(super) const BATCH_VERSION: u8 = 1;
/// The smallest record: length, timestamp delta, no key, no value, no headers.
const RECORD_BYTES_MIN: u64 = 5;

/// The header of a batch body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    pub codec: Codec,
    pub record_count: u32,
    /// Bytes of the records before compression.
    pub records_bytes: u32,
    /// Wall milliseconds from which the records' timestamps are counted.
    pub base_timestamp: i64,
}

impl BatchHeader {
    pub(super) fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0u8; BATCH_HEADER_BYTES];
        bytes[0] = BATCH_VERSION;
        bytes[1] = self.codec as u8;
        bytes[4..8].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.records_bytes.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.base_timestamp.to_le_bytes());
        bytes
    }

    /// The header of `body`, with its own fields checked against each other, against `records_bytes_max`, and
    /// against the length of what follows.
    ///
    /// # Errors
    /// [`BatchError`], all but those of decompression and of single records.
    pub fn decode(body: &[u8], records_bytes_max: u32) -> Result<BatchHeader, BatchError> {
        let Some((bytes, records)) = body.split_first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Short { found: body.len() });
        };
        let &[version, codec, f0, f1, c0, c1, c2, c3, b0, b1, b2, b3, t @ ..] = bytes;
        if version != BATCH_VERSION {
            return Err(BatchError::Version { found: version });
        }
        let codec = Codec::from_number(codec)?;
        let flags = u16::from_le_bytes([f0, f1]);
        if flags != 0 {
            return Err(BatchError::Flags { found: flags });
        }
        let record_count = u32::from_le_bytes([c0, c1, c2, c3]);
        let records_bytes = u32::from_le_bytes([b0, b1, b2, b3]);
        if record_count > BATCH_RECORDS_MAX {
            return Err(BatchError::TooManyRecords { found: record_count, limit: BATCH_RECORDS_MAX });
        }
        if records_bytes > records_bytes_max {
            return Err(BatchError::TooLarge { found: records_bytes, limit: records_bytes_max });
        }
        if codec == Codec::None && records.len() != records_bytes as usize {
            return Err(BatchError::Length { found: records.len(), expected: records_bytes });
        }
        if u64::from(record_count) * RECORD_BYTES_MIN > u64::from(records_bytes)
            || (record_count == 0) != (records_bytes == 0)
        {
            return Err(BatchError::Record { index: 0, field: "the records cannot fit their bytes" });
        }
        Ok(BatchHeader { codec, record_count, records_bytes, base_timestamp: i64::from_le_bytes(t) })
    }
}

/// What a gateway checks of a batch before it appends it: the header is sound and names `record_count`
/// records, at least one. Costs nothing that grows with the body; the records themselves are the readers' to
/// check.
///
/// # Errors
/// As [`BatchHeader::decode`], with the product's bound on decompressed bytes, and
/// [`BatchError::RecordCount`].
pub fn check_append(body: &[u8], record_count: u32) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::decode(body, martlet_core::limits::BATCH_UNCOMPRESSED_BYTES_MAX)?;
    if header.record_count != record_count || record_count == 0 {
        return Err(BatchError::RecordCount { found: header.record_count, expected: record_count.max(1) });
    }
    Ok(header)
}
