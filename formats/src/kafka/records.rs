//! Reading the records of a batch: checked once when it is opened, then walked without copying. For offsets
//! by time, transcoding and compaction; never on the way of a produce or a fetch.

use bytes::Bytes;
use martlet_core::checksum::crc32c_of;

use super::header::{BATCH_HEADER_BYTES, CRC_FROM, KafkaBatchHeader};
use super::{KafkaBatchError, KafkaCodec, varint};

/// An opened batch.
#[derive(Clone, Debug)]
pub struct KafkaBatch {
    header: KafkaBatchHeader,
    records: Bytes,
}

impl KafkaBatch {
    /// Checks the shape of `body` and of every record, decompressing first if need be. The checksum is the
    /// frame's to check.
    ///
    /// # Errors
    /// [`KafkaBatchError`]; nothing larger than `records_bytes_max` is allocated.
    pub fn open(body: &Bytes, records_bytes_max: u32) -> Result<KafkaBatch, KafkaBatchError> {
        let header = KafkaBatchHeader::decode(body)?;
        let records = match header.codec()? {
            KafkaCodec::None => body.slice(BATCH_HEADER_BYTES..),
            codec => Bytes::from(codec.decompress(&body[BATCH_HEADER_BYTES..], records_bytes_max)?),
        };
        check_records(&records, &header)?;
        Ok(KafkaBatch { header, records })
    }

    #[must_use]
    pub fn header(&self) -> &KafkaBatchHeader {
        &self.header
    }

    /// The batch with those records only for which `keep` says so, at their offsets, as large a range as
    /// before, compressed as it was; nothing if none is left. The header that comes with the bytes is theirs.
    pub fn retain(
        &self,
        mut keep: impl FnMut(&KafkaRecordView<'_>) -> bool,
    ) -> Option<(KafkaBatchHeader, Bytes)> {
        let mut header = self.header;
        let mut records = Vec::with_capacity(self.records.len() / 2);
        let (mut count, mut max_timestamp) = (0, i64::MIN);
        let mut rest: &[u8] = &self.records;
        for _ in 0..self.header.record_count {
            let from = rest;
            let Ok(record) = take_record(&mut rest, &self.header) else { break };
            if keep(&record) {
                count += 1;
                max_timestamp = max_timestamp.max(record.timestamp);
                records.extend_from_slice(&from[..from.len() - rest.len()]);
            }
        }
        if count == 0 {
            return None;
        }
        header.record_count = count;
        header.max_timestamp = max_timestamp;
        let codec = header.codec().unwrap_or_default();
        let packed = if codec == KafkaCodec::None { None } else { codec.compress(&records) };
        if packed.is_none() {
            header.attributes &= !super::header::attributes::CODEC;
        }
        let records = packed.unwrap_or(records);
        header.crc = crc32c_of(&[&header.encode(records.len())[CRC_FROM..], &records]);
        let mut body = Vec::with_capacity(BATCH_HEADER_BYTES + records.len());
        body.extend_from_slice(&header.encode(records.len()));
        body.extend_from_slice(&records);
        Some((header, Bytes::from(body)))
    }

    /// The records in order.
    #[must_use]
    pub fn records(&self) -> KafkaRecords<'_> {
        KafkaRecords { rest: &self.records, left: self.header.record_count, header: &self.header }
    }
}

/// Walks the records of a [`KafkaBatch`].
#[derive(Clone, Debug)]
pub struct KafkaRecords<'a> {
    rest: &'a [u8],
    left: i32,
    header: &'a KafkaBatchHeader,
}

impl<'a> Iterator for KafkaRecords<'a> {
    type Item = KafkaRecordView<'a>;

    fn next(&mut self) -> Option<KafkaRecordView<'a>> {
        if self.left <= 0 {
            return None;
        }
        // The batch was checked when it was opened, so a record that does not parse cannot occur.
        let record = take_record(&mut self.rest, self.header).ok()?;
        self.left -= 1;
        Some(record)
    }
}

/// One record, borrowed from its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KafkaRecordView<'a> {
    /// From the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers: KafkaHeaders<'a>,
}

impl<'a> KafkaRecordView<'a> {
    #[must_use]
    pub fn headers(&self) -> KafkaHeaders<'a> {
        self.headers
    }
}

/// Walks the headers of a record: name and value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KafkaHeaders<'a> {
    rest: &'a [u8],
    left: i64,
}

impl<'a> Iterator for KafkaHeaders<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        take_header(&mut self.rest).ok()
    }
}

fn check_records(records: &[u8], header: &KafkaBatchHeader) -> Result<(), KafkaBatchError> {
    let mut rest = records;
    let (records, last_offset_delta) = (header.record_count, header.last_offset_delta);
    let count =
        u32::try_from(records).map_err(|_| KafkaBatchError::Records { records, last_offset_delta })?;
    for index in 0..count {
        let malformed = |field| KafkaBatchError::Record { index, field };
        let mut headers = take_record(&mut rest, header).map_err(malformed)?.headers;
        while headers.left > 0 {
            headers.left -= 1;
            take_header(&mut headers.rest).map_err(malformed)?;
        }
        if !headers.rest.is_empty() {
            return Err(malformed("bytes follow the headers"));
        }
    }
    if rest.is_empty() {
        return Ok(());
    }
    Err(KafkaBatchError::Record { index: count, field: "bytes follow the last record" })
}

fn take_record<'a>(
    input: &mut &'a [u8],
    header: &KafkaBatchHeader,
) -> Result<KafkaRecordView<'a>, &'static str> {
    let mut record = take_bytes(input).ok_or("length")?.ok_or("length")?;
    let Some((_attributes, behind)) = record.split_first() else { return Err("attributes") };
    record = behind;
    let timestamp_delta = varint::take(&mut record).ok_or("timestamp delta")?;
    let offset_delta = varint::take(&mut record).ok_or("offset delta")?;
    let offset_delta = i32::try_from(offset_delta).map_err(|_| "offset delta")?;
    if !(0..=header.last_offset_delta).contains(&offset_delta) {
        return Err("offset delta");
    }
    let key = take_bytes(&mut record).ok_or("key")?;
    let value = take_bytes(&mut record).ok_or("value")?;
    let left = varint::take(&mut record).ok_or("header count")?;
    if left < 0 || (left == 0 && !record.is_empty()) {
        return Err("header count");
    }
    let timestamp = if header.is_append_time() {
        header.max_timestamp
    } else {
        header.base_timestamp.wrapping_add(timestamp_delta)
    };
    let headers = KafkaHeaders { rest: record, left };
    Ok(KafkaRecordView { offset_delta, timestamp, key, value, headers })
}

fn take_header<'a>(input: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), &'static str> {
    let name = take_bytes(input).ok_or("header name")?.ok_or("header name")?;
    let value = take_bytes(input).ok_or("header value")?;
    Ok((name, value))
}

/// Takes a length and as many bytes; a length of -1 says absent.
#[expect(clippy::option_option, reason = "outer: malformed; inner: absent")]
fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::take(input)?;
    if length == -1 {
        return Some(None);
    }
    let (bytes, rest) = input.split_at_checked(usize::try_from(length).ok()?)?;
    *input = rest;
    Some(Some(bytes))
}
