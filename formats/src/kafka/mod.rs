//! The KAFKA_V2 batch body ([`martlet_core::frame::format::KAFKA_V2`]): Kafka's RecordBatch of magic 2, as a
//! producer sent it.
//!
//! ```text
//! base_offset i64 | length i32 | leader_epoch i32 | magic i8 = 2 | crc u32
//! | attributes i16 | last_offset_delta i32 | base_timestamp i64 | max_timestamp i64
//! | producer_id i64 | producer_epoch i16 | base_sequence i32 | record_count i32 | records
//! record: length | attributes i8 | timestamp_delta | offset_delta | key_length | key | value_length | value
//!         | header_count | (name_length | name | value_length | value)*
//! ```
//!
//! Fixed fields are big-endian, the lengths and deltas of records are zigzag varints, a length of -1 says
//! that the field is absent. The CRC-32C covers everything behind itself. The first 21 bytes are not
//! covered: what is stored there is as the producer sent it, and [`prefix`] makes what readers get, from the
//! frame's header.
//!
//! Owns the layout. Must never panic on bytes from outside, nor allocate more than a bound it was given.

mod builder;
mod codec;
mod control;
mod header;
mod records;
mod varint;

#[cfg(test)]
mod tests;

pub use builder::{KafkaBatchBuilder, KafkaRecord};
pub use codec::KafkaCodec;
pub use control::control_batch;
pub use header::{
    BATCH_HEADER_BYTES, CRC_FROM, KafkaBatchHeader, attributes, check_produced, prefix, stamp_append_time,
};
pub use records::{KafkaBatch, KafkaHeaders, KafkaRecordView, KafkaRecords};

/// Why bytes are not a batch that can be stored, or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KafkaBatchError {
    #[error("batch needs at least 61 bytes, found {found}")]
    Short { found: usize },
    #[error("batch has {found} bytes, its header says {expected}: send exactly one batch for each partition")]
    Length { found: usize, expected: i64 },
    #[error("batch has magic {found}, only magic 2 is served: use a client of Kafka 0.11 or newer")]
    Magic { found: i8 },
    #[error("batch codec {found} is unknown: use none, gzip, snappy, lz4 or zstd")]
    Codec { found: u8 },
    #[error("batch checksum is {found:#010x}, its header says {expected:#010x}: send it again")]
    Checksum { found: u32, expected: u32 },
    #[error("batch says {records} records and a last offset delta of {last_offset_delta}")]
    Records { records: i32, last_offset_delta: i32 },
    #[error("a client must not write control records")]
    Control,
    #[error("batch has producer id {producer}, epoch {epoch} and sequence {sequence}")]
    Producer { producer: i64, epoch: i16, sequence: i32 },
    #[error("batch cannot be decompressed: {detail}")]
    Decompress { detail: String },
    #[error("batch has more than {limit} bytes of records")]
    TooLarge { limit: u32 },
    #[error("record {index} of the batch is malformed: {field}")]
    Record { index: u32, field: &'static str },
}

/// Reads `bytes` as a batch with every check; for fuzzing. Never panics.
pub fn check(bytes: &[u8]) {
    if let Ok(header) = check_produced(bytes) {
        assert!(header.record_count > 0, "an accepted batch has records");
        let stamped = stamp_append_time(bytes, 77);
        assert!(check_produced(&stamped).is_ok_and(|header| header.max_timestamp == 77));
    }
    if let Ok(batch) = KafkaBatch::open(&bytes::Bytes::copy_from_slice(bytes), 1 << 20) {
        let mut count = 0;
        for record in batch.records() {
            count += 1;
            for header in record.headers() {
                assert!(header.0.len() <= 1 << 20);
            }
        }
        assert!(count == batch.header().record_count, "a batch that opened yields all its records");
    }
}
