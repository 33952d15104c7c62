//! The batch that ends a transaction: one control record, which readers see as an offset without a record.

use bytes::Bytes;
use martlet_core::checksum::crc32c_of;

use super::header::{BATCH_HEADER_BYTES, CRC_FROM, KafkaBatchHeader, attributes};
use super::varint;

/// Version of the key and of the value of a control record.
const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// The batch that commits or aborts the transaction of a producer. Its offset is filled in for readers from
/// the frame's header, as that of every batch. `timestamp` in milliseconds.
#[must_use]
pub fn control_batch(producer_id: i64, producer_epoch: i16, is_commit: bool, timestamp: i64) -> Bytes {
    let kind = if is_commit { COMMIT } else { ABORT };
    let mut record = vec![0];
    varint::put(&mut record, 0);
    varint::put(&mut record, 0);
    varint::put(&mut record, 4);
    record.extend_from_slice(&VERSION.to_be_bytes());
    record.extend_from_slice(&kind.to_be_bytes());
    // The epoch of the coordinator, which readers do not look at: there is one coordinator.
    varint::put(&mut record, 6);
    record.extend_from_slice(&VERSION.to_be_bytes());
    record.extend_from_slice(&0i32.to_be_bytes());
    varint::put(&mut record, 0);
    let mut records = Vec::with_capacity(record.len() + 1);
    varint::put(&mut records, record.len() as i64);
    records.extend_from_slice(&record);
    let mut header = KafkaBatchHeader {
        base_offset: 0,
        leader_epoch: 0,
        crc: 0,
        attributes: attributes::TRANSACTIONAL | attributes::CONTROL,
        last_offset_delta: 0,
        base_timestamp: timestamp,
        max_timestamp: timestamp,
        producer_id,
        producer_epoch,
        base_sequence: -1,
        record_count: 1,
    };
    header.crc = crc32c_of(&[&header.encode(records.len())[CRC_FROM..], &records]);
    let mut body = Vec::with_capacity(BATCH_HEADER_BYTES + records.len());
    body.extend_from_slice(&header.encode(records.len()));
    body.extend_from_slice(&records);
    Bytes::from(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::KafkaBatch;
    use super::*;

    #[test]
    fn a_control_batch_is_a_batch_of_one_record() {
        for is_commit in [false, true] {
            let batch = KafkaBatch::open(&control_batch(7, 3, is_commit, 99), 1 << 20).unwrap();
            let header = batch.header();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 3, -1));
            let records: Vec<_> = batch.records().collect();
            assert_eq!(records.len(), 1);
            assert_eq!(records[0].key, Some(&[0, 0, 0, u8::from(is_commit)][..]));
            assert_eq!((records[0].timestamp, records[0].offset_delta), (99, 0));
        }
    }
}
