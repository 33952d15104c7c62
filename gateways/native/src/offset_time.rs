//! Refining an offset for a time: the engine finds the frame, this looks for the record within it. The one
//! place where the gateway opens a body, and never on the way of an append or a read.

use martlet_core::frame::{check, format};
use martlet_core::limits::BATCH_UNCOMPRESSED_BYTES_MAX;
use martlet_core::{ErrorCode, Refusal};
use martlet_formats::native::Batch;
use martlet_shard::api::{Frames, Reply};

/// Timestamp of an answer that names no record.
const NO_TIMESTAMP: i64 = -1;

/// The first record of the frame whose timestamp is at or after `time`; the end if there is no frame.
pub(crate) fn refine(outcome: Result<Reply, Refusal>, time: i64) -> Result<Reply, Refusal> {
    match outcome? {
        Reply::Frames(frames) => within(&frames, time),
        other => Ok(other),
    }
}

fn within(frames: &Frames, time: i64) -> Result<Reply, Refusal> {
    let Some(frame) = frames.frames.first() else {
        return Ok(Reply::Offset { offset: frames.next_offset, timestamp: NO_TIMESTAMP });
    };
    let internal = |why: String| Refusal::new(ErrorCode::Internal, why);
    let header = check(&frame.header).map_err(|error| internal(error.to_string()))?;
    let base = header.base_offset.to_native();
    let whole = Reply::Offset { offset: base, timestamp: header.timestamp_max.to_native() };
    if header.format != format::NATIVE {
        return Ok(whole);
    }
    let batch = Batch::open(&frame.body, BATCH_UNCOMPRESSED_BYTES_MAX).map_err(|error| {
        Refusal::at(ErrorCode::CorruptBatch, header.end_offset(), format!("{error}; read on behind it"))
    })?;
    let found = (0u64..).zip(batch.records()).find(|(_, record)| record.timestamp >= time);
    Ok(found
        .map_or(whole, |(index, record)| Reply::Offset { offset: base + index, timestamp: record.timestamp }))
}
