//! From a received frame to a call. Owns the checks that need no state: lengths, the archive, names, the
//! shape of a batch. Strings are copied, numbers are read in place, the body of an append stays where it was
//! received.

use bytes::Bytes;
use martlet_core::frame::{flags, format};
use martlet_core::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, NAME_BYTES_MAX, NATIVE_META_BYTES_MAX};
use martlet_core::native::{
    ArchivedAppendRequest, ArchivedOffsetAt, ArchivedRequest, ArchivedRequestCall, ArchivedSetting, OffsetAt,
};
use martlet_core::{Acks, ErrorCode, Offset, PartitionId, ProducerId, Refusal, TopicName};
use martlet_formats::native::check_append;
use martlet_shard::api::{Append, Call, Read};
use rkyv::rancor;

/// Bytes of the length of the metadata, at the start of a frame.
const META_LENGTH_BYTES: usize = 4;
/// Flags a producer may set.
const FLAGS_OF_PRODUCERS: u16 = flags::UNIFORM_KEY;

/// What a frame asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    Hello(Hello),
    Ping,
    Status,
    Call(Call),
    /// The request was understood and is refused; the connection goes on.
    Refused(Refusal),
}

/// The first request of a connection.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) version_min: u16,
    pub(crate) version_max: u16,
    pub(crate) client: String,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) correlation: u64,
    pub(crate) asked: Asked,
}

/// Reads a frame, without its length field.
///
/// # Errors
/// `Protocol` if it cannot be understood: then nothing after it can be trusted either.
pub(crate) fn read(frame: &Bytes) -> Result<Request, Refusal> {
    let garbage = |why: &str| Refusal::new(ErrorCode::Protocol, format!("{why}: check the client's version"));
    let (length, rest) = frame
        .split_first_chunk::<META_LENGTH_BYTES>()
        .ok_or_else(|| garbage("the frame is shorter than its fixed fields"))?;
    let length = u32::from_le_bytes(*length);
    if length > NATIVE_META_BYTES_MAX || length as usize > rest.len() {
        return Err(garbage("the metadata does not fit its frame"));
    }
    let (meta, _) = rest.split_at(length as usize);
    let request = rkyv::access::<ArchivedRequest, rancor::Failure>(meta)
        .map_err(|_| garbage("the metadata is not a request of version 1"))?;
    let body = frame.slice(META_LENGTH_BYTES + length as usize..);
    let is_append = matches!(request.call, ArchivedRequestCall::Append(_));
    if !is_append && !body.is_empty() {
        return Err(garbage("a request without a body has one"));
    }
    let asked = asked(&request.call, body).unwrap_or_else(Asked::Refused);
    Ok(Request { correlation: request.correlation.to_native(), asked })
}

fn asked(call: &ArchivedRequestCall, body: Bytes) -> Result<Asked, Refusal> {
    use ArchivedRequestCall as R;
    Ok(Asked::Call(match call {
        R::Hello { version_min, version_max, client, .. } => {
            return Ok(Asked::Hello(Hello {
                version_min: version_min.to_native(),
                version_max: version_max.to_native(),
                client: client.chars().take(NAME_BYTES_MAX).collect(),
            }));
        }
        R::Ping => return Ok(Asked::Ping),
        R::Status => return Ok(Asked::Status),
        R::Append(request) => Call::Append(append(request, body)?),
        R::Read { partition, from, bytes_min, bytes_max, wait_ms } => Call::Read(Read {
            partition: PartitionId(partition.to_native()),
            from: from.to_native(),
            bytes_min: bytes_min.to_native(),
            bytes_max: bytes_max.to_native(),
            wait_ms: wait_ms.to_native(),
            upto: Offset::MAX,
        }),
        R::OffsetFor { partition, at } => {
            Call::OffsetFor { partition: PartitionId(partition.to_native()), at: offset_at(at) }
        }
        R::PartitionStatus { partition } => {
            Call::PartitionStatus { partition: PartitionId(partition.to_native()) }
        }
        R::ProducerOpen => Call::ProducerOpen,
        R::CursorGet { .. } | R::CursorSet { .. } | R::CursorList { .. } | R::CursorDelete { .. } => {
            cursor_call(call)
        }
        R::TopicCreate { .. }
        | R::TopicAlter { .. }
        | R::TopicDelete { .. }
        | R::TopicDescribe { .. }
        | R::TopicList { .. } => topic_call(call)?,
    }))
}

fn cursor_call(call: &ArchivedRequestCall) -> Call {
    use ArchivedRequestCall as R;
    match call {
        R::CursorGet { partition, cursor } => {
            Call::CursorGet { partition: PartitionId(partition.to_native()), cursor: cursor.to_string() }
        }
        R::CursorSet { partition, cursor, offset, reset } => Call::CursorSet {
            partition: PartitionId(partition.to_native()),
            cursor: cursor.to_string(),
            offset: offset.to_native(),
            reset: *reset,
        },
        R::CursorDelete { partition, cursor } => {
            Call::CursorDelete { partition: PartitionId(partition.to_native()), cursor: cursor.to_string() }
        }
        R::CursorList { partition } => Call::CursorList { partition: PartitionId(partition.to_native()) },
        _ => unreachable!("only cursor calls come here"),
    }
}

fn topic_call(call: &ArchivedRequestCall) -> Result<Call, Refusal> {
    use ArchivedRequestCall as R;
    Ok(match call {
        R::TopicCreate { name, partitions, settings } => Call::TopicCreate {
            name: name.parse()?,
            partitions: partitions.to_native(),
            settings: pairs(settings),
        },
        R::TopicAlter { name, partitions, settings } => Call::TopicAlter {
            name: name.parse()?,
            partitions: Some(partitions.to_native()).filter(|count| *count > 0),
            settings: pairs(settings),
        },
        R::TopicDelete { name } => Call::TopicDelete { name: name.parse::<TopicName>()? },
        R::TopicDescribe { name } => Call::TopicDescribe { name: name.parse()? },
        R::TopicList { prefix, after, count_max } => Call::TopicList {
            prefix: prefix.to_string(),
            after: after.to_string(),
            count_max: count_max.to_native(),
        },
        _ => unreachable!("only topic calls come here"),
    })
}

fn pairs(settings: &[ArchivedSetting]) -> Vec<(String, String)> {
    settings.iter().map(|setting| (setting.key.to_string(), setting.value.to_string())).collect()
}

fn offset_at(at: &ArchivedOffsetAt) -> OffsetAt {
    match at {
        ArchivedOffsetAt::Earliest => OffsetAt::Earliest,
        ArchivedOffsetAt::Latest => OffsetAt::Latest,
        ArchivedOffsetAt::Time(time) => OffsetAt::Time(time.to_native()),
    }
}

fn append(request: &ArchivedAppendRequest, body: Bytes) -> Result<Append, Refusal> {
    let record_count = request.record_count.to_native();
    let flags = request.flags.to_native();
    if body.len() > BATCH_BYTES_MAX as usize {
        return Err(Refusal::new(
            ErrorCode::BatchTooLarge,
            format!("the batch has {} bytes, at most {BATCH_BYTES_MAX} are allowed: send less", body.len()),
        ));
    }
    if record_count == 0 || record_count > BATCH_RECORDS_MAX {
        return Err(Refusal::new(
            ErrorCode::InvalidArgument,
            format!("the batch says {record_count} records: send 1 to {BATCH_RECORDS_MAX}"),
        ));
    }
    if flags & !FLAGS_OF_PRODUCERS != 0 {
        return Err(Refusal::new(
            ErrorCode::InvalidArgument,
            format!("flags {flags:#06x} are not a producer's to set: send only {FLAGS_OF_PRODUCERS:#06x}"),
        ));
    }
    check_append(&body, record_count).map_err(|error| {
        Refusal::new(ErrorCode::CorruptBatch, format!("{error}; build the batch again and resend it"))
    })?;
    Ok(Append {
        partition: PartitionId(request.partition.to_native()),
        acks: request.acks.as_ref().map(acks),
        format: format::NATIVE,
        flags,
        body_crc_from: 0,
        body_crc: request.body_crc.to_native(),
        crc_is_verified: false,
        record_count,
        offset_span: record_count,
        timestamp_max: request.timestamp_max.to_native(),
        producer: ProducerId(request.producer.to_native()),
        producer_epoch: request.producer_epoch.to_native(),
        base_sequence: request.base_sequence.to_native(),
        key_hash: request.key_hash.to_native(),
        body,
        verification: None,
    })
}

fn acks(archived: &martlet_core::acks::ArchivedAcks) -> Acks {
    use martlet_core::acks::ArchivedAcks as A;
    match archived {
        A::None => Acks::None,
        A::Memory => Acks::Memory,
        A::Replicated => Acks::Replicated,
        A::Durable => Acks::Durable,
    }
}
