//! Waiting for records in many partitions, on any of the node's shards, and gathering them within the limits
//! of a request.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use kafka_protocol::ResponseError;
use martlet_core::limits::{KAFKA_FETCH_BYTES_MAX, READ_WAIT_MS_MAX};
use martlet_core::{ErrorCode, Offset, PartitionId, Refusal, ShardId};
use martlet_shard::api::{Await, Call, Readable, Reply, Replying};

use super::request::Asked;
use super::{Fetched, Partition, read};
use crate::context::{Context, compare_epochs};
use crate::errors;
use crate::topics::{Topic, TopicKey};

/// A partition with its place.
struct Part {
    topic: TopicKey,
    index: i32,
    asked: Partition,
    place: Result<(PartitionId, ShardId, Offset), ResponseError>,
}

/// What is readable in the partitions of a request.
type Facts = BTreeMap<PartitionId, Result<Readable, Refusal>>;

/// Fetches from `partitions`, in this order while there is room.
pub(super) async fn fetch(
    context: &Context,
    asked: &Asked,
    partitions: Vec<(TopicKey, i32, Partition)>,
) -> Vec<(TopicKey, i32, Fetched)> {
    let mut parts = Vec::with_capacity(partitions.len());
    let mut topic: Option<(TopicKey, Result<Rc<Topic>, Refusal>)> = None;
    for (key, index, asked) in partitions {
        if topic.as_ref().is_none_or(|(known, _)| *known != key) {
            topic = Some((key.clone(), context.topic(&key).await));
        }
        let place = match &topic {
            Some((_, Ok(topic))) => place(topic, index, asked.from),
            Some((key, Err(refusal))) => Err(unknown(key, refusal)),
            None => Err(ResponseError::UnknownTopicOrPartition),
        };
        parts.push(Part { topic: key, index, asked, place });
    }
    let facts = wait(context, asked, &parts).await;
    gather(context, asked, parts, &facts).await
}

fn place(topic: &Topic, index: i32, from: i64) -> Result<(PartitionId, ShardId, Offset), ResponseError> {
    let (partition, shard) = topic.partition(index).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let from = u64::try_from(from).map_err(|_| ResponseError::OffsetOutOfRange)?;
    Ok((partition, shard, from))
}

fn unknown(key: &TopicKey, refusal: &Refusal) -> ResponseError {
    match (key, refusal.code) {
        (TopicKey::Id(_), ErrorCode::UnknownTopic) => ResponseError::UnknownTopicId,
        _ => errors::of(refusal.code),
    }
}

/// Waits until there are enough bytes, or something that cannot be read, or the time is over.
async fn wait(context: &Context, asked: &Asked, parts: &[Part]) -> Facts {
    let mut shards: BTreeMap<ShardId, BTreeMap<PartitionId, Offset>> = BTreeMap::new();
    let mut has_errors = parts.is_empty();
    for part in parts {
        match part.place {
            Ok((partition, shard, from)) => {
                shards.entry(shard).or_default().insert(partition, from);
            }
            Err(_) => has_errors = true,
        }
    }
    let shards: Vec<Vec<(PartitionId, Offset)>> =
        shards.into_values().map(|places| places.into_iter().collect()).collect();
    let wait_ms = if has_errors { 0 } else { asked.wait_ms.min(READ_WAIT_MS_MAX) };
    let call = |places: &[(PartitionId, Offset)], bytes_min: u64, wait_ms: u32| {
        let bytes_min = u32::try_from(bytes_min).unwrap_or(u32::MAX);
        context.call(Call::Await(Await {
            parts: places.to_vec(),
            bytes_min,
            wait_ms,
            is_stable: asked.is_stable,
        }))
    };
    let mut facts = Facts::new();
    if let [places] = &shards[..] {
        take(&mut facts, places, call(places, asked.bytes_min, wait_ms).await);
        return facts;
    }
    let deadline = context.runtime.instant().after(Duration::from_millis(u64::from(wait_ms)));
    loop {
        let mut bytes = Vec::with_capacity(shards.len());
        let asking: Vec<Replying> = shards.iter().map(|places| call(places, 0, 0)).collect();
        for (places, asking) in shards.iter().zip(asking) {
            bytes.push(take(&mut facts, places, asking.await));
        }
        let all = bytes.iter().copied().fold(0, u64::saturating_add);
        let left = deadline.since(context.runtime.instant());
        let left = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        if all >= asked.bytes_min.max(1) || left == 0 || facts.values().any(Result::is_err) {
            return facts;
        }
        // When enough has come in all, at least one of them has got its share of it.
        let share = (asked.bytes_min.max(1) - all).div_ceil(shards.len().max(1) as u64);
        let waiting = shards.iter().zip(&bytes).map(|(places, bytes)| call(places, bytes + share, left));
        first_of(waiting.collect()).await;
    }
}

/// Takes down what a shard says. Returns the bytes that are readable there.
fn take(facts: &mut Facts, places: &[(PartitionId, Offset)], reply: Result<Reply, Refusal>) -> u64 {
    let known: Vec<Result<Readable, Refusal>> = match reply {
        Ok(Reply::Readable(known)) => known,
        Ok(_) => vec![Err(Refusal::new(ErrorCode::Internal, "facts were asked for")); places.len()],
        Err(refusal) => vec![Err(refusal); places.len()],
    };
    let mut bytes = 0u64;
    for ((partition, _), known) in places.iter().zip(known) {
        bytes = bytes.saturating_add(known.as_ref().map_or(0, |known| known.bytes));
        facts.insert(*partition, known);
    }
    bytes
}

/// Waits until one of them is done; the others are given up.
async fn first_of(mut waiting: Vec<Replying>) {
    poll_fn(|context| {
        let is_done = waiting.iter_mut().any(|one| Pin::new(one).poll(context).is_ready());
        if is_done || waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn gather(
    context: &Context,
    asked: &Asked,
    parts: Vec<Part>,
    facts: &Facts,
) -> Vec<(TopicKey, i32, Fetched)> {
    let bytes_max = asked.bytes_max.min(KAFKA_FETCH_BYTES_MAX).min(context.credit.get());
    let mut bytes = 0;
    let mut fetched = Vec::with_capacity(parts.len());
    for part in parts {
        let found = match part.place {
            Err(error) => Fetched::refused(error),
            Ok((partition, _, from)) => match facts.get(&partition) {
                None => Fetched::refused(ResponseError::UnknownServerError),
                Some(Err(refusal)) => Fetched::refused(read::error_of(refusal)),
                Some(Ok(known)) => match compare_epochs(part.asked.leader_epoch, known.epoch) {
                    Err(error) => Fetched::refused(error),
                    Ok(()) => {
                        let room = bytes_max.saturating_sub(bytes);
                        let limits = (room, part.asked.bytes_max, bytes == 0);
                        let place = (partition, from, asked.is_stable);
                        read::partition(context, place, known, limits).await
                    }
                },
            },
        };
        bytes += found.records.bytes;
        fetched.push((part.topic, part.index, found));
    }
    fetched
}
