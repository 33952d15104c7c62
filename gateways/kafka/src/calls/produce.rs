//! Produce: batches go to the log as they came. Every batch is begun before the next request is looked at, so
//! that batches keep their order; answers wait for the level that the client asked for.

use std::rc::Rc;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use martlet_core::frame::{flags, format};
use martlet_core::limits::KAFKA_REQUEST_ELEMENTS_MAX;
use martlet_core::{Acks, ErrorCode, ProducerId, Refusal, TopicId};
use martlet_formats::kafka::{
    CRC_FROM, KafkaBatchError, KafkaBatchHeader, KafkaCodec, check_produced, stamp_append_time,
};
use martlet_shard::api::{Append, Call, Reply, Replying};

use crate::answer::{Answer, Answering, Request, ready};
use crate::context::Context;
use crate::errors;
use crate::topics::{Topic, TopicKey};
use crate::transactions::ask::{Ask, Claim, Target, What};
use crate::wire::{Body, Malformed, Reader};

/// Batches may be compressed with zstd from this version on.
const ZSTD_FROM: i16 = 7;

/// A batch adds its partition to its transaction from this version on; before, the client does.
const ADDS_FROM: i16 = 12;

/// Batches by partition.
type Batches = Vec<(i32, Option<Bytes>)>;

pub(crate) struct Asked {
    /// `None` = the topic's level.
    acks: Option<Acks>,
    transaction: Option<String>,
    topics: Vec<(TopicKey, Batches)>,
}

/// Why a batch is refused: the error, and words for newer clients.
struct Refused(ResponseError, String);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        // What is wrong with a batch is wrong with its records.
        let error = match refusal.code {
            ErrorCode::InvalidArgument => ResponseError::InvalidRecord,
            code => errors::of(code),
        };
        Refused(error, refusal.detail)
    }
}

/// A batch that was begun.
struct Begun {
    index: i32,
    /// What the client is told as the time of its records.
    append_time: i64,
    outcome: Result<Replying, Refused>,
}

pub(crate) fn produce(context: Rc<Context>, request: Request) -> Answering {
    let asked = match read(request.reader(), request.version) {
        Ok(asked) => asked,
        Err(malformed) => return ready(malformed.into()),
    };
    let begin = |(key, batches): (TopicKey, Batches)| {
        let topic = find(&context, &key);
        let transaction = asked.transaction.as_deref();
        let one = |(index, batch)| begin(&context, &request, (asked.acks, transaction), &topic, index, batch);
        let begun: Vec<Begun> = batches.into_iter().map(one).collect();
        (key, begun)
    };
    let begun: Vec<(TopicKey, Vec<Begun>)> = asked.topics.into_iter().map(begin).collect();
    if asked.acks == Some(Acks::None) {
        return ready(Answer::Silent);
    }
    Box::pin(async move { Answer::Body(answer(begun, &request).await) })
}

pub(crate) fn read(mut reader: Reader, version: i16) -> Result<Asked, Malformed> {
    let transaction = reader.nullable_text()?.map(str::to_owned);
    let acks = match reader.i16()? {
        0 => Some(Acks::None),
        1 => Some(Acks::Memory),
        -1 => None,
        _ => return Err(Malformed { what: "number of acks: it is 0, 1 or -1" }),
    };
    let _timeout = reader.i32()?;
    let mut topics = Vec::new();
    let mut elements = 0;
    let mut counted = |count: usize| {
        elements += count;
        if elements > KAFKA_REQUEST_ELEMENTS_MAX {
            return Err(Malformed { what: "request: it has too many batches" });
        }
        Ok(count)
    };
    for _ in 0..counted(reader.count()?)? {
        let key = match version {
            13.. => TopicKey::Id(TopicId(reader.uuid()?)),
            _ => TopicKey::Name(reader.text()?.to_owned()),
        };
        let mut batches = Vec::new();
        for _ in 0..counted(reader.count()?)? {
            batches.push((reader.i32()?, reader.nullable_bytes()?));
            reader.tags()?;
        }
        reader.tags()?;
        topics.push((key, batches));
    }
    reader.tags()?;
    Ok(Asked { acks, transaction, topics })
}

/// Looks a topic up without waiting. The engine knows its topics at once, but for the first moments of its
/// life.
fn find(context: &Context, key: &TopicKey) -> Result<Rc<Topic>, Refused> {
    if let Some(topic) = context.known_topic(key) {
        return Ok(topic);
    }
    match context.topic_now(key) {
        Some(Ok(topic)) => Ok(topic),
        Some(Err(refusal)) if refusal.code == ErrorCode::UnknownTopic && matches!(key, TopicKey::Id(_)) => {
            Err(Refused(ResponseError::UnknownTopicId, refusal.detail))
        }
        Some(Err(refusal)) => Err(refusal.into()),
        None => Err(Refused(ResponseError::NotLeaderOrFollower, "the shard is starting".to_owned())),
    }
}

fn begin(
    context: &Context,
    request: &Request,
    (acks, transaction): (Option<Acks>, Option<&str>),
    topic: &Result<Rc<Topic>, Refused>,
    index: i32,
    batch: Option<Bytes>,
) -> Begun {
    let mut append_time = -1;
    let outcome = match topic {
        Err(Refused(error, text)) => Err(Refused(*error, text.clone())),
        Ok(topic) => append(context, request.version, topic, index, batch).and_then(|mut append| {
            if append.flags & flags::TRANSACTIONAL != 0 {
                verify(&mut append, request.version, transaction, (topic, index))?;
            }
            if append.flags & flags::LOG_APPEND_TIME != 0 {
                append_time = append.timestamp_max;
            }
            Ok(context.call(Call::Append(Append { acks, ..append })))
        }),
    };
    Begun { index, append_time, outcome }
}

/// Says whom the engine asks whether the transaction of a batch may have records in its partition.
fn verify(
    append: &mut Append,
    version: i16,
    transaction: Option<&str>,
    (topic, index): (&Topic, i32),
) -> Result<(), Refused> {
    let Some(id) = transaction.filter(|_| append.producer.0 != 0) else {
        let text = "a batch of a transaction needs the transactional id and a producer".to_owned();
        return Err(Refused(ResponseError::InvalidTxnState, text));
    };
    let claim = Claim {
        producer: i64::try_from(append.producer.0).unwrap_or(i64::MAX),
        epoch: i16::try_from(append.producer_epoch).unwrap_or(i16::MAX),
    };
    let target = Target::Partition {
        partition: append.partition,
        topic: topic.id,
        index: u32::try_from(index).unwrap_or(0),
    };
    let what = What::Admit { claim, target, adds: version >= ADDS_FROM };
    append.verification = Some(Box::new(Ask::call(id, what)));
    Ok(())
}

/// Checks a batch and makes the call of it.
fn append(
    context: &Context,
    version: i16,
    topic: &Topic,
    index: i32,
    batch: Option<Bytes>,
) -> Result<Append, Refused> {
    let Some((partition, _)) = topic.partition(index) else {
        let text = format!("topic {} has {} partitions", topic.short(), topic.partitions.len());
        return Err(Refused(ResponseError::UnknownTopicOrPartition, text));
    };
    let Some(mut body) = batch else {
        return Err(Refused(ResponseError::InvalidRecord, "there is no batch".to_owned()));
    };
    let mut header = check_produced(&body).map_err(refused)?;
    if version < ZSTD_FROM && header.codec() == Ok(KafkaCodec::Zstd) {
        let text = format!("zstd is for produce requests of version {ZSTD_FROM} or newer");
        return Err(Refused(ResponseError::UnsupportedCompressionType, text));
    }
    if header.producer_id == 0 {
        let text = "no producer has the id 0: ask for one".to_owned();
        return Err(Refused(ResponseError::InvalidProducerIdMapping, text));
    }
    let now = context.runtime.now().wall.0;
    if topic.has_broker_time {
        body = Bytes::from(stamp_append_time(&body, now));
        header = check_produced(&body).map_err(refused)?;
    }
    let record_count = u32::try_from(header.record_count).unwrap_or(0);
    Ok(Append {
        partition,
        acks: None,
        format: format::KAFKA_V2,
        flags: flags_of(topic, &header),
        body_crc_from: CRC_FROM as u8,
        body_crc: header.crc,
        crc_is_verified: true,
        record_count,
        offset_span: record_count,
        // Records without a time are as old as their arrival.
        timestamp_max: if header.max_timestamp < 0 { now } else { header.max_timestamp },
        producer: ProducerId(u64::try_from(header.producer_id).unwrap_or(0)),
        producer_epoch: u16::try_from(header.producer_epoch).unwrap_or(0),
        base_sequence: i64::from(header.base_sequence),
        key_hash: 0,
        body,
        verification: None,
    })
}

fn flags_of(topic: &Topic, header: &KafkaBatchHeader) -> u16 {
    let append_time = if topic.has_broker_time { flags::LOG_APPEND_TIME } else { 0 };
    let transactional = if header.is_transactional() { flags::TRANSACTIONAL } else { 0 };
    append_time | transactional
}

fn refused(error: KafkaBatchError) -> Refused {
    let code = match &error {
        KafkaBatchError::Codec { .. } => ResponseError::UnsupportedCompressionType,
        KafkaBatchError::Checksum { .. } | KafkaBatchError::Short { .. } => ResponseError::CorruptMessage,
        _ => ResponseError::InvalidRecord,
    };
    Refused(code, error.to_string())
}

async fn answer(topics: Vec<(TopicKey, Vec<Begun>)>, request: &Request) -> Body {
    let version = request.version;
    let mut body = Body::new(request.is_flexible());
    body.length(Some(topics.len()));
    for (key, batches) in topics {
        match &key {
            TopicKey::Name(name) => body.text(name),
            TopicKey::Id(id) => body.uuid(id.0),
        }
        body.length(Some(batches.len()));
        for Begun { index, append_time, outcome } in batches {
            let outcome = match outcome {
                Ok(replying) => replying.await.map_err(|refusal| match refusal.code {
                    // Older clients would not try again.
                    ErrorCode::ConcurrentTransaction if version < ADDS_FROM => {
                        Refused(ResponseError::NotEnoughReplicas, refusal.detail)
                    }
                    _ => refusal.into(),
                }),
                Err(refused) => Err(refused),
            };
            body.i32(index);
            let (error, offset, text) = match &outcome {
                Ok(Reply::Appended { base_offset, .. }) => {
                    (errors::NONE, i64::try_from(*base_offset).unwrap_or(i64::MAX), None)
                }
                Ok(_) => (errors::code(ResponseError::UnknownServerError), -1, None),
                Err(Refused(error, text)) => (errors::code(*error), -1, Some(text)),
            };
            body.i16(error);
            body.i64(offset);
            body.i64(if error == errors::NONE { append_time } else { -1 });
            if version >= 5 {
                body.i64(-1);
            }
            if version >= 8 {
                body.length(Some(0));
                match text {
                    Some(text) => body.text(text),
                    None => body.null_text(),
                }
            }
            body.tags();
        }
        body.tags();
    }
    body.i32(0);
    body.tags();
    body
}
