//! The 61 bytes in front of the records, and what a gateway checks before it accepts a batch. Must never look
//! into the records.

use martlet_core::checksum::crc32c;

use super::{KafkaBatchError, KafkaCodec};

/// Bytes in front of the records.
pub const BATCH_HEADER_BYTES: usize = 61;
/// The checksum covers the batch from here on.
pub const CRC_FROM: usize = 21;
/// Bytes that the length field does not count.
const LENGTH_FROM: usize = 12;
const MAGIC_AT: usize = 16;
const MAGIC: i8 = 2;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

/// Bits of `attributes`.
pub mod attributes {
    pub const CODEC: i16 = 0x07;
    /// The timestamps are the broker's.
    pub const LOG_APPEND_TIME: i16 = 1 << 3;
    pub const TRANSACTIONAL: i16 = 1 << 4;
    pub const CONTROL: i16 = 1 << 5;
    pub const DELETE_HORIZON: i16 = 1 << 6;
}

/// The header as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KafkaBatchHeader {
    pub base_offset: i64,
    pub leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    /// Milliseconds, as are all timestamps.
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    /// -1 = none.
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

impl KafkaBatchHeader {
    /// The header of `body`, which must be one whole batch of magic 2. Nothing else is checked.
    ///
    /// # Errors
    /// [`KafkaBatchError::Short`], [`KafkaBatchError::Length`], [`KafkaBatchError::Magic`].
    pub fn decode(body: &[u8]) -> Result<KafkaBatchHeader, KafkaBatchError> {
        // The magic of older formats stands in the same place, and their messages may be shorter.
        if let Some(&magic) = body.get(MAGIC_AT)
            && magic as i8 != MAGIC
        {
            return Err(KafkaBatchError::Magic { found: magic as i8 });
        }
        let short = KafkaBatchError::Short { found: body.len() };
        let Some((mut rest, _)) = body.split_at_checked(BATCH_HEADER_BYTES) else { return Err(short) };
        let base_offset = i64::from_be_bytes(take(&mut rest));
        let length = i64::from(i32::from_be_bytes(take(&mut rest)));
        if length + LENGTH_FROM as i64 != body.len() as i64 {
            let expected = length + LENGTH_FROM as i64;
            return Err(KafkaBatchError::Length { found: body.len(), expected });
        }
        let leader_epoch = i32::from_be_bytes(take(&mut rest));
        let [_magic] = take::<1>(&mut rest);
        Ok(KafkaBatchHeader {
            base_offset,
            leader_epoch,
            crc: u32::from_be_bytes(take(&mut rest)),
            attributes: i16::from_be_bytes(take(&mut rest)),
            last_offset_delta: i32::from_be_bytes(take(&mut rest)),
            base_timestamp: i64::from_be_bytes(take(&mut rest)),
            max_timestamp: i64::from_be_bytes(take(&mut rest)),
            producer_id: i64::from_be_bytes(take(&mut rest)),
            producer_epoch: i16::from_be_bytes(take(&mut rest)),
            base_sequence: i32::from_be_bytes(take(&mut rest)),
            record_count: i32::from_be_bytes(take(&mut rest)),
        })
    }

    /// The header in front of `records_bytes` bytes of records.
    pub(super) fn encode(&self, records_bytes: usize) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0u8; BATCH_HEADER_BYTES];
        let body_bytes = BATCH_HEADER_BYTES + records_bytes;
        let offset = u64::try_from(self.base_offset).unwrap_or(0);
        let epoch = u32::try_from(self.leader_epoch).unwrap_or(u32::MAX);
        bytes[..CRC_FROM].copy_from_slice(&prefix(offset, body_bytes, epoch, self.crc));
        let mut at = CRC_FROM;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.attributes.to_be_bytes());
        put(&self.last_offset_delta.to_be_bytes());
        put(&self.base_timestamp.to_be_bytes());
        put(&self.max_timestamp.to_be_bytes());
        put(&self.producer_id.to_be_bytes());
        put(&self.producer_epoch.to_be_bytes());
        put(&self.base_sequence.to_be_bytes());
        put(&self.record_count.to_be_bytes());
        bytes
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`KafkaBatchError::Codec`].
    pub fn codec(&self) -> Result<KafkaCodec, KafkaBatchError> {
        KafkaCodec::from_number((self.attributes & attributes::CODEC) as u8)
    }

    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & attributes::TRANSACTIONAL != 0
    }

    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & attributes::CONTROL != 0
    }

    #[must_use]
    pub fn is_append_time(&self) -> bool {
        self.attributes & attributes::LOG_APPEND_TIME != 0
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let mut field = [0; N];
    let (taken, behind) = rest.split_at(N);
    field.copy_from_slice(taken);
    *rest = behind;
    field
}

/// What a gateway checks of a batch that a client sent: one whole batch of magic 2, its checksum, a known
/// codec, offsets that are dense, a producer that is whole or absent, no control records. The records
/// themselves are the readers' to check.
///
/// # Errors
/// [`KafkaBatchError`], all but those of decompression and of single records.
pub fn check_produced(body: &[u8]) -> Result<KafkaBatchHeader, KafkaBatchError> {
    let header = KafkaBatchHeader::decode(body)?;
    let found = crc32c(&body[CRC_FROM..]);
    if found != header.crc {
        return Err(KafkaBatchError::Checksum { found, expected: header.crc });
    }
    header.codec()?;
    let (records, last_offset_delta) = (header.record_count, header.last_offset_delta);
    if records <= 0 || last_offset_delta != records - 1 {
        return Err(KafkaBatchError::Records { records, last_offset_delta });
    }
    if header.is_control() {
        return Err(KafkaBatchError::Control);
    }
    let KafkaBatchHeader { producer_id: producer, producer_epoch: epoch, base_sequence: sequence, .. } =
        header;
    if producer >= 0 && (epoch < 0 || sequence < 0) {
        return Err(KafkaBatchError::Producer { producer, epoch, sequence });
    }
    Ok(header)
}

/// The first 21 bytes of a batch as its readers get it: everything in them is known from the frame's header.
#[must_use]
pub fn prefix(base_offset: u64, body_bytes: usize, epoch: u32, crc: u32) -> [u8; CRC_FROM] {
    let mut bytes = [0u8; CRC_FROM];
    let length = i32::try_from(body_bytes.saturating_sub(LENGTH_FROM)).unwrap_or(i32::MAX);
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
    bytes[MAGIC_AT] = MAGIC as u8;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// A copy of a checked batch whose timestamps are `time`, the broker's.
#[must_use]
pub fn stamp_append_time(body: &[u8], time: i64) -> Vec<u8> {
    let mut stamped = body.to_vec();
    if let Some(field) = stamped.get_mut(ATTRIBUTES_AT + 1) {
        *field |= attributes::LOG_APPEND_TIME as u8;
    }
    if let Some(field) = stamped.get_mut(MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8) {
        field.copy_from_slice(&time.to_be_bytes());
    }
    let crc = crc32c(stamped.get(CRC_FROM..).unwrap_or_default());
    if let Some(field) = stamped.get_mut(CRC_FROM - 4..CRC_FROM) {
        field.copy_from_slice(&crc.to_be_bytes());
    }
    stamped
}
