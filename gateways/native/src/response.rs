//! From a reply to bytes. Metadata is copied together, headers and bodies of frames are referred to where
//! they lie.

use bytes::Bytes;
use martlet_core::limits::NATIVE_FRAME_BYTES_MAX;
use martlet_core::native::{
    CursorStatus, LENGTHS_BYTES, PartitionRoute, PartitionStatus, Response, ResponseAnswer, Setting,
    TopicDescription,
};
use martlet_core::{ErrorCode, Refusal};
use martlet_net::writer::Gather;
use martlet_shard::api::{Broker, Reply, StoredFrame, TopicView};
use rkyv::rancor;

/// Gathers the answer to `correlation`.
pub(crate) fn answer(gather: &mut Gather, correlation: u64, answer: ResponseAnswer, body: Vec<StoredFrame>) {
    let body_bytes: usize = body.iter().map(|frame| frame.header.len() + frame.body.len()).sum();
    let response = Response { correlation, answer };
    let Ok(meta) = rkyv::to_bytes::<rancor::Error>(&response) else {
        refuse(gather, correlation, &Refusal::new(ErrorCode::Internal, "the answer could not be written"));
        return;
    };
    let length = LENGTHS_BYTES - 4 + meta.len() + body_bytes;
    let Some(length) = u32::try_from(length).ok().filter(|length| *length <= NATIVE_FRAME_BYTES_MAX) else {
        let text = format!("the answer has {length} bytes: ask for less than {NATIVE_FRAME_BYTES_MAX}");
        refuse(gather, correlation, &Refusal::new(ErrorCode::FrameTooLarge, text));
        return;
    };
    let meta_length = u32::try_from(meta.len()).unwrap_or(u32::MAX);
    gather.copy(&length.to_le_bytes());
    gather.copy(&meta_length.to_le_bytes());
    gather.copy(&meta);
    for frame in body {
        gather.share(frame.header);
        gather.share(frame.body);
    }
}

/// Gathers a refusal.
pub(crate) fn refuse(gather: &mut Gather, correlation: u64, refusal: &Refusal) {
    answer(gather, correlation, refused(refusal), Vec::new());
}

fn refused(refusal: &Refusal) -> ResponseAnswer {
    ResponseAnswer::Refused {
        code: refusal.code,
        detail: refusal.detail.clone(),
        next_offset: refusal.next_offset,
    }
}

/// Gathers what the engine answered. `listener` is where the client came in: it decides which addresses it is
/// told.
pub(crate) fn reply(
    gather: &mut Gather,
    correlation: u64,
    outcome: Result<Reply, Refusal>,
    broker: &dyn Broker,
    listener: &str,
) {
    match outcome {
        Err(refusal) => refuse(gather, correlation, &refusal),
        Ok(Reply::Frames(frames)) => {
            let head = ResponseAnswer::Frames {
                log_start: frames.log_start,
                committed: frames.committed,
                next_offset: frames.next_offset,
            };
            answer(gather, correlation, head, frames.frames);
        }
        Ok(other) => answer(gather, correlation, plain(other, broker, listener), Vec::new()),
    }
}

fn plain(reply: Reply, broker: &dyn Broker, listener: &str) -> ResponseAnswer {
    match reply {
        Reply::Appended { base_offset, broker_time, duplicate } => {
            ResponseAnswer::Appended { base_offset, broker_time, duplicate }
        }
        Reply::Offset { offset, timestamp } => ResponseAnswer::Offset { offset, timestamp },
        Reply::Partition(status) => ResponseAnswer::Partition(PartitionStatus {
            partition: status.partition.0,
            epoch: status.epoch,
            log_start: status.log_start,
            committed: status.committed,
            next_offset: status.next_offset,
            bytes: status.bytes,
            segments: status.segments,
            producers: status.producers,
            cursors: status.cursors,
            fenced: status.fenced,
        }),
        Reply::Producer { producer, epoch } => ResponseAnswer::Producer { producer: producer.0, epoch },
        Reply::Cursor { offset } => ResponseAnswer::Cursor { offset },
        Reply::Cursors(cursors) => ResponseAnswer::Cursors {
            cursors: cursors.into_iter().map(|(name, offset)| CursorStatus { name, offset }).collect(),
        },
        Reply::Topic(view) => ResponseAnswer::Topic(topic(view, broker, listener)),
        Reply::Topics(names) => ResponseAnswer::Topics { names },
        Reply::Done => ResponseAnswer::Done,
        Reply::Service(_) => unreachable!("native requests never call a service"),
        Reply::Frames(_) | Reply::Readable(_) | Reply::Aborted(_) | Reply::Producers(_) => {
            unreachable!("no request of this protocol is answered so")
        }
    }
}

fn topic(view: TopicView, broker: &dyn Broker, listener: &str) -> TopicDescription {
    let route = |(partition, shard): (martlet_core::PartitionId, martlet_core::ShardId)| PartitionRoute {
        partition: partition.0,
        shard: shard.0,
        address: broker.shard_address(listener, shard),
    };
    TopicDescription {
        id: view.id.0,
        name: view.name.to_string(),
        partitions: view.partitions.into_iter().map(route).collect(),
        settings: settings(view.settings),
    }
}

/// Pairs as the schema has them.
pub(crate) fn settings(pairs: Vec<(String, String)>) -> Vec<Setting> {
    pairs.into_iter().map(|(key, value)| Setting { key, value }).collect()
}

/// Bytes of a reply that are held until it is sent.
pub(crate) fn held_bytes(outcome: &Result<Reply, Refusal>) -> usize {
    let frames: &[StoredFrame] = match outcome {
        Ok(Reply::Frames(frames)) => &frames.frames,
        _ => &[],
    };
    let length = |bytes: &Bytes| bytes.len();
    frames.iter().map(|frame| length(&frame.header) + length(&frame.body)).sum()
}
