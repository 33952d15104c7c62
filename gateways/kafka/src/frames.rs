//! Stored frames as Kafka's clients read them. A batch of Kafka's own is passed on; one of another format is
//! written anew, on demand.

use bytes::Bytes;
use martlet_core::frame::{FrameHeader, format};
use martlet_core::limits::BATCH_UNCOMPRESSED_BYTES_MAX;
use martlet_core::{ErrorCode, Refusal};
use martlet_formats::kafka::{CRC_FROM, KafkaBatch, prefix};
use martlet_formats::native::Batch;
use martlet_formats::transcode::native_to_kafka;
use martlet_shard::api::{Frames, StoredFrame};

/// Batches in a row, as parts of an answer.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) parts: Vec<Bytes>,
    pub(crate) bytes: usize,
    /// Bytes of batches that were made anew instead of referred to.
    pub(crate) copied: usize,
}

impl Records {
    fn push(&mut self, part: Bytes) {
        self.bytes += part.len();
        self.parts.push(part);
    }
}

/// A record by time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
}

fn header_of(frame: &StoredFrame) -> Result<FrameHeader, Refusal> {
    FrameHeader::decode(&frame.header).map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
}

fn corrupt(header: &FrameHeader, why: impl std::fmt::Display) -> Refusal {
    Refusal::at(ErrorCode::CorruptRange, header.end_offset(), format!("{why}: read on behind it"))
}

/// Adds a frame's batch: at most `bytes_max` bytes, whatever its size if `is_first`. False if there is no
/// room for it.
pub(crate) fn push_batch(
    records: &mut Records,
    frame: &StoredFrame,
    bytes_max: usize,
    is_first: bool,
) -> Result<bool, Refusal> {
    let header = header_of(frame)?;
    if header.format == format::KAFKA_V2 {
        if !is_first && records.bytes + frame.body.len() > bytes_max {
            return Ok(false);
        }
        let front = prefix(header.base_offset, frame.body.len(), header.epoch, header.body_crc);
        records.push(Bytes::copy_from_slice(&front));
        records.push(frame.body.slice(CRC_FROM.min(frame.body.len())..));
        return Ok(true);
    }
    let batch = transcode(&header, &frame.body)?;
    if !is_first && records.bytes + batch.len() > bytes_max {
        return Ok(false);
    }
    records.copied += batch.len();
    records.push(batch);
    Ok(true)
}

/// A batch of another format as one of Kafka's.
fn transcode(header: &FrameHeader, body: &Bytes) -> Result<Bytes, Refusal> {
    if header.format != format::NATIVE {
        return Err(corrupt(header, format!("records of format {} cannot be read by Kafka", header.format)));
    }
    let place = (header.base_offset, header.epoch);
    native_to_kafka(body, place, BATCH_UNCOMPRESSED_BYTES_MAX).map_err(|error| corrupt(header, error))
}

/// The largest timestamp in a frame, milliseconds.
pub(crate) fn timestamp_max(frame: &StoredFrame) -> Result<i64, Refusal> {
    header_of(frame).map(|header| header.timestamp_max)
}

/// The first record of the first frame that is not older than `time`.
pub(crate) fn found_at(frames: &Frames, time: i64) -> Result<Option<Found>, Refusal> {
    let Some(frame) = frames.frames.first() else { return Ok(None) };
    let header = header_of(frame)?;
    let at = |delta: u64, timestamp| Found {
        offset: i64::try_from(header.base_offset + delta).unwrap_or(i64::MAX),
        timestamp,
    };
    let whole = at(0, header.timestamp_max);
    let found = match header.format {
        format::KAFKA_V2 => {
            let batch = KafkaBatch::open(&frame.body, BATCH_UNCOMPRESSED_BYTES_MAX)
                .map_err(|error| corrupt(&header, error))?;
            let found = batch.records().find(|record| record.timestamp >= time);
            found.map(|record| at(u64::try_from(record.offset_delta).unwrap_or(0), record.timestamp))
        }
        format::NATIVE => {
            let batch = Batch::open(&frame.body, BATCH_UNCOMPRESSED_BYTES_MAX)
                .map_err(|error| corrupt(&header, error))?;
            let found = (0..).zip(batch.records()).find(|(_, record)| record.timestamp >= time);
            found.map(|(delta, record)| at(delta, record.timestamp))
        }
        _ => None,
    };
    Ok(Some(found.unwrap_or(whole)))
}
