//! Writing a NATIVE batch. Owns one growing buffer; an append writes straight into it and allocates nothing
//! else.

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};

use super::header::{BATCH_HEADER_BYTES, BatchHeader};
use super::{Codec, varint};

/// One record to write. Nothing is owned: `append` copies the bytes into the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record<'a> {
    /// Wall milliseconds.
    pub timestamp: i64,
    /// `None` and empty are different.
    pub key: Option<&'a [u8]>,
    /// `None` says that the key is deleted.
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
}

/// A header of a record to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
}

/// The batch cannot take the record: finish it and begin another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the batch is full: it takes at most 1000000 records and 16777216 bytes; start another one")]
pub struct BatchFull;

/// A finished batch and what an append request says about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuiltBatch {
    pub body: Bytes,
    pub record_count: u32,
    pub timestamp_max: i64,
    /// CRC-32C of `body`.
    pub body_crc: u32,
}

/// Builds one batch.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    /// Room for the header, then records.
    buffer: Vec<u8>,
    record_count: u32,
    base_timestamp: i64,
    timestamp_max: i64,
}

impl BatchBuilder {
    /// An empty batch whose buffer starts with `capacity` bytes.
    #[must_use]
    pub fn new(codec: Codec, capacity: usize) -> BatchBuilder {
        let mut buffer = Vec::with_capacity(capacity.clamp(BATCH_HEADER_BYTES, BATCH_BYTES_MAX as usize));
        buffer.resize(BATCH_HEADER_BYTES, 0);
        BatchBuilder { codec, buffer, record_count: 0, base_timestamp: 0, timestamp_max: i64::MIN }
    }

    /// Bytes of the body so far, before compression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes `record` takes at most in any batch, without appending it.
    #[must_use]
    pub fn record_bytes_max(record: &Record<'_>) -> usize {
        varint::VARINT_BYTES_MAX * 2 + content_bytes(record)
    }

    /// Writes `record` behind the others.
    ///
    /// # Errors
    /// [`BatchFull`] if the batch would pass the bounds of every batch; it is unchanged then.
    pub fn append(&mut self, record: &Record<'_>) -> Result<(), BatchFull> {
        let base = if self.record_count == 0 { record.timestamp } else { self.base_timestamp };
        let delta = varint::zigzag(record.timestamp.wrapping_sub(base));
        let length = varint::length(delta) + content_bytes(record);
        let total = varint::length(length as u64) + length;
        if self.record_count >= BATCH_RECORDS_MAX || total > BATCH_BYTES_MAX as usize - self.buffer.len() {
            return Err(BatchFull);
        }
        self.base_timestamp = base;
        self.timestamp_max = self.timestamp_max.max(record.timestamp);
        self.record_count += 1;
        let out = &mut self.buffer;
        out.reserve(total);
        varint::put(out, length as u64);
        varint::put(out, delta);
        put_optional(out, record.key);
        put_optional(out, record.value);
        varint::put(out, record.headers.len() as u64);
        for header in record.headers {
            varint::put(out, header.name.len() as u64);
            out.extend_from_slice(header.name.as_bytes());
            put_optional(out, header.value);
        }
        Ok(())
    }

    /// Compresses if asked to and if that made the batch smaller, fills in the header and takes the checksum.
    #[must_use]
    pub fn finish(self) -> BuiltBatch {
        let records_bytes = (self.buffer.len() - BATCH_HEADER_BYTES) as u32;
        let mut header = BatchHeader {
            codec: Codec::None,
            record_count: self.record_count,
            records_bytes,
            base_timestamp: self.base_timestamp,
        };
        let mut body = self.buffer;
        if self.codec != Codec::None {
            let mut packed = Vec::with_capacity(body.len() / 2);
            packed.resize(BATCH_HEADER_BYTES, 0);
            if self.codec.compress(&body[BATCH_HEADER_BYTES..], &mut packed) && packed.len() < body.len() {
                header.codec = self.codec;
                packed.shrink_to_fit();
                body = packed;
            }
        }
        body[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
        let body_crc = crc32c(&body);
        BuiltBatch {
            body: Bytes::from(body),
            record_count: self.record_count,
            timestamp_max: if self.record_count == 0 { 0 } else { self.timestamp_max },
            body_crc,
        }
    }
}

/// Bytes of a record behind its timestamp delta.
fn content_bytes(record: &Record<'_>) -> usize {
    let mut bytes = optional_bytes(record.key) + optional_bytes(record.value);
    bytes += varint::length(record.headers.len() as u64);
    for header in record.headers {
        bytes += varint::length(header.name.len() as u64) + header.name.len() + optional_bytes(header.value);
    }
    bytes
}

#[inline]
fn optional_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| varint::length(bytes.len() as u64 + 1) + bytes.len())
}

#[inline]
fn put_optional(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => out.push(0),
        Some(bytes) => {
            varint::put(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
    }
}
