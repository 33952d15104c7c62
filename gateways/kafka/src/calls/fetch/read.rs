//! Reading the batches of one partition within its limits.

use kafka_protocol::ResponseError;
use martlet_core::{ErrorCode, Offset, PartitionId, Refusal};
use martlet_shard::api::{Call, Read, Readable, Reply};

use super::Fetched;
use crate::context::Context;
use crate::errors;
use crate::frames::{Records, push_batch};

/// Reads from `from`. `limits` are the bytes left in the answer, those of the partition, and whether nothing
/// was read yet: then one batch is returned whatever its size. `is_stable` = nothing that is undecided.
pub(super) async fn partition(
    context: &Context,
    (partition, from, is_stable): (PartitionId, Offset, bool),
    known: &Readable,
    limits: (usize, i32, bool),
) -> Fetched {
    let (room, partition_bytes_max, is_first) = limits;
    let mut fetched = Fetched {
        error: None,
        high_watermark: i64::try_from(known.committed).unwrap_or(i64::MAX),
        stable: i64::try_from(known.stable).unwrap_or(i64::MAX),
        log_start: i64::try_from(known.log_start).unwrap_or(i64::MAX),
        aborted: is_stable.then(Vec::new),
        records: Records::default(),
    };
    let bytes_max = room.min(usize::try_from(partition_bytes_max).unwrap_or(0));
    if known.bytes == 0 || (bytes_max == 0 && !is_first) {
        return fetched;
    }
    let bytes_max_read = u32::try_from(bytes_max).unwrap_or(u32::MAX);
    // What is known of aborted transactions holds below what was stable when that was asked.
    let upto = if is_stable { known.stable } else { Offset::MAX };
    let call = Read { partition, from, bytes_min: 1, bytes_max: bytes_max_read, wait_ms: 0, upto };
    let frames = match context.ask(Call::Read(call)).await {
        Ok(Reply::Frames(frames)) => frames,
        Ok(_) => return Fetched::refused(ResponseError::UnknownServerError),
        Err(refusal) => return Fetched::refused(error_of(&refusal)),
    };
    for (at, frame) in frames.frames.iter().enumerate() {
        match push_batch(&mut fetched.records, frame, bytes_max, is_first && at == 0) {
            Ok(true) => {}
            Ok(false) => break,
            Err(refusal) if at == 0 => return Fetched::refused(error_of(&refusal)),
            // What could be read is sent; the reader meets the rest next time.
            Err(_) => break,
        }
    }
    if is_stable && known.has_aborted && fetched.records.bytes > 0 {
        let call = Call::Aborted { partition, from, upto: frames.next_offset };
        match context.ask(call).await {
            Ok(Reply::Aborted(aborted)) => {
                let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
                let told = aborted.into_iter().map(|(producer, first)| (signed(producer.0), signed(first)));
                fetched.aborted = Some(told.collect());
            }
            Ok(_) => return Fetched::refused(ResponseError::UnknownServerError),
            Err(refusal) => return Fetched::refused(error_of(&refusal)),
        }
    }
    fetched
}

/// What a refusal is called in a fetch. A damaged range is told to the application, which may go on
/// behind it.
pub(super) fn error_of(refusal: &Refusal) -> ResponseError {
    match refusal.code {
        ErrorCode::CorruptRange | ErrorCode::CorruptBatch => ResponseError::CorruptMessage,
        ErrorCode::Overloaded => ResponseError::UnknownServerError,
        code => errors::of(code),
    }
}
