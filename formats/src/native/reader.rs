//! Reading a NATIVE batch: checked once when it is opened, then walked without copying.

use bytes::Bytes;

use super::header::{BATCH_HEADER_BYTES, BatchHeader};
use super::{BatchError, Codec, varint};

/// An opened batch. Its records borrow from it; uncompressed, it shares the bytes it was opened from.
#[derive(Clone, Debug)]
pub struct Batch {
    header: BatchHeader,
    records: Bytes,
}

impl Batch {
    /// Checks the header and every record of `body`, decompressing first if need be.
    ///
    /// # Errors
    /// [`BatchError`]; nothing larger than `records_bytes_max` is allocated.
    pub fn open(body: &Bytes, records_bytes_max: u32) -> Result<Batch, BatchError> {
        let header = BatchHeader::decode(body, records_bytes_max)?;
        let records = match header.codec {
            Codec::None => body.slice(BATCH_HEADER_BYTES..),
            codec => Bytes::from(codec.decompress(&body[BATCH_HEADER_BYTES..], header.records_bytes)?),
        };
        check_records(&records, header.record_count)?;
        Ok(Batch { header, records })
    }

    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.header.record_count
    }

    /// Bytes of the records, decompressed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    /// The records in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records {
            rest: &self.records,
            left: self.header.record_count,
            base_timestamp: self.header.base_timestamp,
        }
    }
}

/// Walks the records of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: u32,
    base_timestamp: i64,
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordView<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordView<'a>> {
        if self.left == 0 {
            return None;
        }
        // The batch was checked when it was opened, so a record that does not parse cannot occur; stopping is
        // the answer that needs no trust in that.
        let record = take_record(&mut self.rest, self.base_timestamp).ok()?;
        self.left -= 1;
        Some(record)
    }

    /// Skips by length, without looking into the records.
    fn nth(&mut self, count: usize) -> Option<RecordView<'a>> {
        for _ in 0..count {
            if self.left == 0 {
                return None;
            }
            let length = varint::take(&mut self.rest)?;
            self.rest = self.rest.get(usize::try_from(length).ok()?..)?;
            self.left -= 1;
        }
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Records<'_> {}

/// One record, borrowed from its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordView<'a> {
    /// Wall milliseconds.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    header_count: u32,
    headers: &'a [u8],
}

impl<'a> RecordView<'a> {
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers, left: self.header_count }
    }

    #[must_use]
    pub fn header_count(&self) -> u32 {
        self.header_count
    }
}

/// Walks the headers of a record.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u32,
}

/// One header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderView<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderView<'a>;

    fn next(&mut self) -> Option<HeaderView<'a>> {
        if self.left == 0 {
            return None;
        }
        let header = take_header(&mut self.rest).ok()?;
        self.left -= 1;
        Some(header)
    }
}

fn check_records(records: &[u8], count: u32) -> Result<(), BatchError> {
    let mut rest = records;
    for index in 0..count {
        let mut headers =
            take_record(&mut rest, 0).map_err(|field| BatchError::Record { index, field })?.headers();
        while headers.left > 0 {
            headers.left -= 1;
            take_header(&mut headers.rest).map_err(|field| BatchError::Record { index, field })?;
        }
        if !headers.rest.is_empty() {
            return Err(BatchError::Record { index, field: "bytes follow the headers" });
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(BatchError::Record { index: count, field: "bytes follow the last record" })
    }
}

#[inline]
fn take_record<'a>(input: &mut &'a [u8], base_timestamp: i64) -> Result<RecordView<'a>, &'static str> {
    let mut record = take_bytes(input, 0).ok_or("length")?.unwrap_or_default();
    let delta = varint::take(&mut record).ok_or("timestamp delta")?;
    let key = take_bytes(&mut record, 1).ok_or("key")?;
    let value = take_bytes(&mut record, 1).ok_or("value")?;
    let header_count = varint::take(&mut record).ok_or("header count")?;
    let header_count = u32::try_from(header_count).map_err(|_| "header count")?;
    if header_count == 0 && !record.is_empty() {
        return Err("bytes follow the record");
    }
    let timestamp = base_timestamp.wrapping_add(varint::unzigzag(delta));
    Ok(RecordView { timestamp, key, value, header_count, headers: record })
}

fn take_header<'a>(input: &mut &'a [u8]) -> Result<HeaderView<'a>, &'static str> {
    let name = take_bytes(input, 0).ok_or("header name")?.unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| "header name is not UTF-8")?;
    let value = take_bytes(input, 1).ok_or("header value")?;
    Ok(HeaderView { name, value })
}

/// Takes a length and as many bytes. With `bias` 1 the length is stored plus one and 0 says absent.
#[inline]
#[expect(clippy::option_option, reason = "outer: malformed; inner: absent")]
fn take_bytes<'a>(input: &mut &'a [u8], bias: u64) -> Option<Option<&'a [u8]>> {
    let stored = varint::take(input)?;
    let Some(length) = stored.checked_sub(bias) else { return Some(None) };
    let (bytes, rest) = input.split_at_checked(usize::try_from(length).ok()?)?;
    *input = rest;
    Some(Some(bytes))
}
