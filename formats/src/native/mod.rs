//! The NATIVE batch body, version 1 ([`martlet_core::frame::format::NATIVE`]).
//!
//! ```text
//! 20 bytes: version u8 | codec u8 | flags u16 | record_count u32 | records_bytes u32 | base_timestamp i64
//! records: compressed as one block by `codec`, `records_bytes` long before compression
//! record:  length | timestamp_delta (zigzag) | key_length + 1 | key | value_length + 1 | value
//!          | header_count | (name_length | name | value_length + 1 | value)*
//! ```
//!
//! Fixed fields are little-endian, all lengths and deltas are LEB128 varints, a "length + 1" of 0 says that
//! the field is absent. `length` counts the bytes of the record after itself. The record at index i has the
//! offset `base_offset + i` of its frame. A body is covered from byte 0 by the frame's `body_crc`.
//!
//! Owns the layout. Must never panic on bytes from outside, nor allocate more than the declared size, nor
//! that before it was compared with a bound.

mod builder;
mod codec;
mod header;
mod reader;
mod varint;

#[cfg(test)]
mod tests;

pub use builder::{BatchBuilder, BatchFull, BuiltBatch, Header, Record};
pub use codec::Codec;
pub use header::{BATCH_HEADER_BYTES, BatchHeader, check_append};
pub use reader::{Batch, HeaderView, Headers, RecordView, Records};

/// Why bytes are not a NATIVE batch.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    #[error("batch body needs at least 20 bytes, found {found}")]
    Short { found: usize },
    #[error("batch version {found} is unknown to this build, which reads version 1: upgrade martlet")]
    Version { found: u8 },
    #[error("batch codec {found} is unknown: use none (0), gzip (1), snappy (2), lz4 (3) or zstd (4)")]
    Codec { found: u8 },
    #[error("batch flags {found:#06x} are unknown to this build: upgrade martlet")]
    Flags { found: u16 },
    #[error("batch has {found} records, expected {expected}")]
    RecordCount { found: u32, expected: u32 },
    #[error("batch has {found} records, at most {limit} are allowed")]
    TooManyRecords { found: u32, limit: u32 },
    #[error("batch says {found} bytes of records, at most {limit} are allowed")]
    TooLarge { found: u32, limit: u32 },
    #[error("batch has {found} bytes of records, its header says {expected}")]
    Length { found: usize, expected: u32 },
    #[error("batch cannot be decompressed with {codec}: {detail}")]
    Decompress { codec: Codec, detail: String },
    #[error("record {index} of the batch is malformed: {field}")]
    Record { index: u32, field: &'static str },
}

/// Reads `bytes` as a batch with every check; for fuzzing. Never panics.
pub fn check(bytes: &[u8]) {
    if let Ok(batch) = Batch::open(&bytes::Bytes::copy_from_slice(bytes), 1 << 20) {
        let mut count = 0;
        for record in batch.records() {
            count += 1;
            for header in record.headers() {
                assert!(header.name.len() <= bytes.len().max(1 << 20));
            }
        }
        assert_eq!(count, batch.record_count(), "a batch that opened yields all its records");
    }
    if let Ok(header) = check_append(bytes, 1 << 20) {
        assert!(header.record_count > 0, "an accepted batch has records");
    }
}
