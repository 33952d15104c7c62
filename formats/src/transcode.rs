//! Batches of one format written in another, for readers of another protocol. Owns what is kept: offsets,
//! times, keys, values, headers. Done on demand for a reader, never on the way of a write.

use bytes::Bytes;

use crate::kafka::{KafkaBatch, KafkaBatchBuilder, KafkaBatchError, KafkaCodec, KafkaRecord};
use crate::native::{Batch, BatchBuilder, BatchError, BatchFull, Codec, Header, Record};

/// Why a batch cannot be written in the other format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TranscodeError {
    #[error(transparent)]
    Native(#[from] BatchError),
    #[error(transparent)]
    Kafka(#[from] KafkaBatchError),
    #[error("in the other format {0}")]
    Full(#[from] BatchFull),
}

/// A NATIVE batch as Kafka's, at its place in the log, compressed as it was.
///
/// # Errors
/// A body that is not a NATIVE batch, or holds more than `records_bytes_max` bytes of records.
pub fn native_to_kafka(
    body: &Bytes,
    (base_offset, epoch): (u64, u32),
    records_bytes_max: u32,
) -> Result<Bytes, TranscodeError> {
    let batch = Batch::open(body, records_bytes_max)?;
    let codec = match batch.header().codec {
        Codec::None => KafkaCodec::None,
        Codec::Gzip => KafkaCodec::Gzip,
        Codec::Snappy => KafkaCodec::Snappy,
        Codec::Lz4 => KafkaCodec::Lz4,
        Codec::Zstd => KafkaCodec::Zstd,
    };
    let mut builder = KafkaBatchBuilder::new(codec, batch.bytes() + batch.bytes() / 8);
    for record in batch.records() {
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers().map(|header| (header.name.as_bytes(), header.value)).collect();
        let record = KafkaRecord { timestamp: record.timestamp, key: record.key, value: record.value };
        builder.append(&record, headers.into_iter());
    }
    Ok(builder.finish(base_offset, epoch))
}

/// One of Kafka's batches as NATIVE, uncompressed. A header's name that is not UTF-8 is written as far as it
/// can be.
///
/// # Errors
/// A body that is not such a batch, or holds more than `records_bytes_max` bytes of records, or more than a
/// NATIVE batch takes.
pub fn kafka_to_native(body: &Bytes, records_bytes_max: u32) -> Result<Bytes, TranscodeError> {
    let batch = KafkaBatch::open(body, records_bytes_max)?;
    let mut builder = BatchBuilder::new(Codec::None, body.len() + body.len() / 8);
    for record in batch.records() {
        let names: Vec<_> =
            record.headers().map(|(name, value)| (String::from_utf8_lossy(name), value)).collect();
        let headers: Vec<Header<'_>> =
            names.iter().map(|(name, value)| Header { name, value: *value }).collect();
        builder.append(&Record {
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: &headers,
        })?;
    }
    Ok(builder.finish().body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_the_same_in_both_formats() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut builder = BatchBuilder::new(codec, 0);
            let headers = [Header { name: "h", value: Some(b"x") }, Header { name: "", value: None }];
            let value = [b'v'; 500];
            let records = [
                Record { timestamp: 9, key: None, value: Some(&value), headers: &[] },
                Record { timestamp: 4, key: Some(b"k"), value: None, headers: &headers },
                Record { timestamp: 5, key: Some(b""), value: Some(&value), headers: &headers },
            ];
            for record in &records {
                builder.append(record).unwrap();
            }
            let native = builder.finish().body;
            let kafka = native_to_kafka(&native, (70, 2), 1 << 20).unwrap();
            let header = crate::kafka::check_produced(&kafka).unwrap();
            assert_eq!((header.base_offset, header.record_count, header.max_timestamp), (70, 3, 9));
            let again = kafka_to_native(&kafka, 1 << 20).unwrap();
            let (before, after) =
                (Batch::open(&native, 1 << 20).unwrap(), Batch::open(&again, 1 << 20).unwrap());
            assert_eq!(before.record_count(), 3);
            assert!(before.records().eq(after.records()), "{codec}");
        }
    }
}
