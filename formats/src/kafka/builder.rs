//! Writing a batch: for readers that speak Kafka of a log that holds something else.

use bytes::Bytes;
use martlet_core::checksum::crc32c_of;

use super::header::{BATCH_HEADER_BYTES, CRC_FROM, KafkaBatchHeader};
use super::{KafkaCodec, varint};

/// One record to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KafkaRecord<'a> {
    /// Milliseconds.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// Builds one batch.
#[derive(Clone, Debug)]
pub struct KafkaBatchBuilder {
    codec: KafkaCodec,
    records: Vec<u8>,
    scratch: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl KafkaBatchBuilder {
    #[must_use]
    pub fn new(codec: KafkaCodec, capacity: usize) -> KafkaBatchBuilder {
        KafkaBatchBuilder {
            codec,
            records: Vec::with_capacity(capacity),
            scratch: Vec::new(),
            count: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
        }
    }

    /// Writes a record behind the others. `headers` are names and values.
    pub fn append<'h>(
        &mut self,
        record: &KafkaRecord<'_>,
        headers: impl ExactSizeIterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) {
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let out = &mut self.scratch;
        out.clear();
        out.push(0);
        varint::put(out, record.timestamp.wrapping_sub(self.base_timestamp));
        varint::put(out, i64::from(self.count));
        put_bytes(out, record.key);
        put_bytes(out, record.value);
        varint::put(out, headers.len() as i64);
        for (name, value) in headers {
            put_bytes(out, Some(name));
            put_bytes(out, value);
        }
        varint::put(&mut self.records, self.scratch.len() as i64);
        self.records.extend_from_slice(&self.scratch);
        self.count += 1;
    }

    /// Compresses if asked to, and fills in the header. The batch says nothing of a producer.
    #[must_use]
    pub fn finish(self, base_offset: u64, leader_epoch: u32) -> Bytes {
        let packed = match self.codec {
            KafkaCodec::None => None,
            codec => codec.compress(&self.records).filter(|packed| packed.len() < self.records.len()),
        };
        let codec = if packed.is_some() { self.codec } else { KafkaCodec::None };
        let records = packed.unwrap_or(self.records);
        let mut header = KafkaBatchHeader {
            base_offset: i64::try_from(base_offset).unwrap_or(i64::MAX),
            leader_epoch: i32::try_from(leader_epoch).unwrap_or(i32::MAX),
            crc: 0,
            attributes: i16::from(codec as u8),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: if self.count == 0 { -1 } else { self.max_timestamp },
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: self.count,
        };
        header.crc = crc32c_of(&[&header.encode(records.len())[CRC_FROM..], &records]);
        let mut body = Vec::with_capacity(BATCH_HEADER_BYTES + records.len());
        body.extend_from_slice(&header.encode(records.len()));
        body.extend_from_slice(&records);
        Bytes::from(body)
    }

    /// Bytes of the batch before compression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.records.len()
    }
}

fn put_bytes(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => varint::put(out, -1),
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}
