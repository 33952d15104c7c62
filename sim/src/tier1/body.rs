//! Bodies the checker can recognise: a mark, the batch's number, and bytes that follow from it.

use bytes::Bytes;
use martlet_core::FrameHeader;
use martlet_wal::layout::flush::{FLUSH_HEADER_BYTES, FlushHeader};
use martlet_wal::layout::record::{RECORD_HEADER_BYTES, RecordHeader, Salt, kind};

use super::dice::mix;

const MARK: [u8; 8] = *b"t1-batch";
/// Bytes of mark and number.
pub(crate) const BODY_BYTES_MIN: usize = 16;

/// The body of batch `number`.
pub(crate) fn make(number: u64, length: usize) -> Bytes {
    let mut body = Vec::with_capacity(length + 8);
    body.extend_from_slice(&MARK);
    body.extend_from_slice(&number.to_le_bytes());
    let mut word = number;
    while body.len() < length {
        word = mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15));
        body.extend_from_slice(&word.to_le_bytes());
    }
    body.truncate(length.max(BODY_BYTES_MIN));
    Bytes::from(body)
}

/// The number of a body, if all of it is as it was made.
pub(crate) fn number_of(body: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(body.strip_prefix(&MARK)?.get(..8)?.try_into().ok()?);
    (make(number, body.len()) == body).then_some(number)
}

/// Numbers of all batches whose bodies begin in `bytes`.
pub(crate) fn batches_in(bytes: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == MARK[0]) {
        at += next;
        if bytes[at..].starts_with(&MARK)
            && let Some(number) = bytes.get(at + 8..at + 16).and_then(|raw| raw.try_into().ok())
        {
            found.push(u64::from_le_bytes(number));
            at += 15;
        }
        at += 1;
    }
    found
}

/// Checksums of the bodies that a flush only names: they lie in runs, and the flush is all that tells of
/// those. Nothing for other writes.
pub(crate) fn named_in(write: &[u8]) -> Vec<u32> {
    let Ok((flush, _)) = FlushHeader::decode(write) else { return Vec::new() };
    let salt = Salt { sequence: flush.sequence, incarnation: flush.incarnation };
    let mut named = Vec::new();
    let mut at = FLUSH_HEADER_BYTES;
    while let Some(record) = write.get(at..).and_then(|rest| RecordHeader::decode(rest, salt)) {
        let from = at + RECORD_HEADER_BYTES;
        at = from + record.length as usize;
        if record.kind == kind::RUN_FRAME
            && let Some(Ok(header)) = write.get(from..at).map(FrameHeader::decode)
        {
            named.push(header.body_crc);
        }
    }
    named
}
