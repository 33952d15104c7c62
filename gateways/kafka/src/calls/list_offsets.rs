//! ListOffsets: where a partition begins and ends, and which record is the first of a time. The one place
//! where a body is opened, for the one batch in which the time lies.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use martlet_core::limits::KAFKA_REQUEST_ELEMENTS_MAX;
use martlet_core::native::OffsetAt;
use martlet_core::{ErrorCode, Offset, PartitionId, Refusal};
use martlet_shard::api::{Call, Frames, Reply};

use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::errors;
use crate::frames::{Found, found_at};
use crate::topics::TopicKey;
use crate::wire::{Body, Malformed, Reader};

/// The isolation level of those who read what is decided only.
const READ_COMMITTED: i8 = 1;
/// What clients ask for instead of a time.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;
/// Steps of the search for the largest timestamp: as many as a time has bits.
const SEARCH_STEPS_MAX: usize = 64;
const NONE: Found = Found { offset: -1, timestamp: -1 };

pub(crate) struct Asked {
    /// Only what is decided counts.
    is_stable: bool,
    topics: Vec<(String, Vec<Partition>)>,
}

struct Partition {
    index: i32,
    leader_epoch: i32,
    time: i64,
}

pub(crate) fn list_offsets(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        match read(request.reader(), request.version) {
            Ok(asked) => Answer::Body(answer(&context, asked, &request).await),
            Err(malformed) => malformed.into(),
        }
    })
}

pub(crate) fn read(mut reader: Reader, version: i16) -> Result<Asked, Malformed> {
    let _replica = reader.i32()?;
    let is_stable = version >= 2 && reader.i8()? == READ_COMMITTED;
    let mut elements = 0;
    let mut topics = Vec::new();
    for _ in 0..reader.count()? {
        let name = reader.text()?.to_owned();
        let mut partitions = Vec::new();
        for _ in 0..reader.count()? {
            elements += 1;
            if elements > KAFKA_REQUEST_ELEMENTS_MAX {
                return Err(Malformed { what: "request: it has too many partitions" });
            }
            let index = reader.i32()?;
            let leader_epoch = if version >= 4 { reader.i32()? } else { -1 };
            let time = reader.i64()?;
            if version == 0 {
                let _offsets_max = reader.i32()?;
            }
            reader.tags()?;
            partitions.push(Partition { index, leader_epoch, time });
        }
        reader.tags()?;
        topics.push((name, partitions));
    }
    if version >= 10 {
        let _timeout = reader.i32()?;
    }
    reader.tags()?;
    Ok(Asked { is_stable, topics })
}

async fn answer(context: &Context, asked: Asked, request: &Request) -> Body {
    let version = request.version;
    let mut body = Body::new(request.is_flexible());
    if version >= 2 {
        body.i32(0);
    }
    let is_stable = asked.is_stable;
    body.length(Some(asked.topics.len()));
    for (name, partitions) in asked.topics {
        body.text(&name);
        body.length(Some(partitions.len()));
        let topic = context.topic(&TopicKey::Name(name)).await;
        context.learn_epochs(topic.iter()).await;
        for asked in partitions {
            let partition = match &topic {
                Ok(topic) => topic.partition(asked.index).ok_or(ResponseError::UnknownTopicOrPartition),
                Err(refusal) => Err(errors::of(refusal.code)),
            };
            let found = match partition {
                Ok((partition, _)) => find(context, (partition, is_stable), &asked, version).await,
                Err(error) => Err(error),
            };
            let error = found.as_ref().err().map_or(errors::NONE, |error| errors::code(*error));
            let found = found.unwrap_or(NONE);
            body.i32(asked.index);
            body.i16(error);
            if version == 0 {
                body.length(Some(usize::from(found.offset >= 0)));
                if found.offset >= 0 {
                    body.i64(found.offset);
                }
                continue;
            }
            body.i64(found.timestamp);
            body.i64(found.offset);
            if version >= 4 {
                body.i32(topic.as_ref().map_or(-1, |topic| topic.epoch(asked.index)));
            }
            body.tags();
        }
        body.tags();
    }
    body.tags();
    body
}

async fn find(
    context: &Context,
    (partition, is_stable): (PartitionId, bool),
    asked: &Partition,
    version: i16,
) -> Result<Found, ResponseError> {
    let map = |refusal: Refusal| errors::of(refusal.code);
    context.check_epoch(partition, asked.leader_epoch).await?;
    let plain = async |at| match context.ask(Call::OffsetFor { partition, at }).await.map_err(map)? {
        Reply::Offset { offset, .. } => {
            Ok(Found { offset: i64::try_from(offset).unwrap_or(i64::MAX), timestamp: -1 })
        }
        _ => Err(ResponseError::UnknownServerError),
    };
    match asked.time {
        LATEST if is_stable => {
            let offset = i64::try_from(stable(context, partition).await.map_err(map)?).unwrap_or(i64::MAX);
            Ok(Found { offset, timestamp: -1 })
        }
        LATEST => plain(OffsetAt::Latest).await,
        EARLIEST => plain(OffsetAt::Earliest).await,
        EARLIEST_LOCAL if version >= 8 => plain(OffsetAt::Earliest).await,
        MAX_TIMESTAMP if version >= 7 => largest(context, partition).await.map_err(map),
        // Nothing is kept anywhere else.
        LATEST_TIERED if version >= 9 => Ok(NONE),
        EARLIEST_PENDING_UPLOAD if version >= 11 => Ok(NONE),
        time if time >= 0 => {
            let frames = first_at(context, partition, time).await.map_err(map)?;
            let found = found_at(&frames, time).map_err(map)?.unwrap_or(NONE);
            if !is_stable || found.offset < 0 {
                return Ok(found);
            }
            let stable = stable(context, partition).await.map_err(map)?;
            Ok(if u64::try_from(found.offset).is_ok_and(|offset| offset < stable) { found } else { NONE })
        }
        _ => Err(ResponseError::InvalidRequest),
    }
}

/// Where what is undecided begins.
async fn stable(context: &Context, partition: PartitionId) -> Result<Offset, Refusal> {
    match context.ask(Call::Facts { partitions: vec![partition] }).await? {
        Reply::Readable(mut facts) if facts.len() == 1 => facts.remove(0).map(|facts| facts.stable),
        _ => Err(Refusal::new(ErrorCode::Internal, "facts of one partition were asked for")),
    }
}

/// The first frame with a record of `time` or later, or none.
async fn first_at(context: &Context, partition: PartitionId, time: i64) -> Result<Frames, Refusal> {
    match context.ask(Call::OffsetFor { partition, at: OffsetAt::Time(time) }).await? {
        Reply::Frames(frames) => Ok(frames),
        _ => Err(Refusal::new(ErrorCode::Internal, "a frame was asked for")),
    }
}

/// The first record with the largest timestamp, by halving the times in which it can be.
async fn largest(context: &Context, partition: PartitionId) -> Result<Found, Refusal> {
    let (mut low, mut high) = (0, i64::MAX);
    let mut last = None;
    for _ in 0..SEARCH_STEPS_MAX {
        // The first step is the whole log; after it, times far beyond the newest record cost a look each.
        let time = if last.is_none() { low } else { low + (high - low) / 2 };
        let frames = first_at(context, partition, time).await?;
        match frames.frames.first().map(crate::frames::timestamp_max).transpose()? {
            Some(found) => {
                low = found.saturating_add(1);
                last = Some((found, frames));
            }
            None => high = time,
        }
        if last.is_none() || low >= high {
            break;
        }
    }
    let Some((time, frames)) = last else { return Ok(NONE) };
    Ok(found_at(&frames, time)?.unwrap_or(NONE))
}
