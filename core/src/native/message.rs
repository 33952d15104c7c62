//! Requests and responses. Owns the shapes only; cutting them out of a stream is the gateway's and the
//! client's.

use rkyv::{Archive, Deserialize, Serialize};

use crate::acks::Acks;
use crate::error::ErrorCode;

/// One call. `correlation` is the client's and comes back in the response; calls of one connection are
/// executed in the order they arrive, answers may overtake each other.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Request {
    pub correlation: u64,
    pub call: RequestCall,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub enum RequestCall {
    /// First call of a connection. `authentication` is empty until methods exist.
    Hello {
        version_min: u16,
        version_max: u16,
        features: u64,
        client: String,
        authentication: Vec<u8>,
    },
    Ping,
    TopicCreate {
        name: String,
        partitions: u32,
        settings: Vec<Setting>,
    },
    /// `partitions` 0 = unchanged; it may only grow.
    TopicAlter {
        name: String,
        partitions: u32,
        settings: Vec<Setting>,
    },
    TopicDelete {
        name: String,
    },
    /// Names in order, greater than `after`, at most `count_max`.
    TopicList {
        prefix: String,
        after: String,
        count_max: u32,
    },
    /// The topic, its settings, and for each partition the address of the shard that owns it.
    TopicDescribe {
        name: String,
    },
    PartitionStatus {
        partition: u64,
    },
    /// A producer id for deduplication.
    ProducerOpen,
    /// The message body is one batch of [`crate::frame::format::NATIVE`].
    Append(AppendRequest),
    Read {
        partition: u64,
        from: u64,
        bytes_min: u32,
        bytes_max: u32,
        wait_ms: u32,
    },
    OffsetFor {
        partition: u64,
        at: OffsetAt,
    },
    CursorGet {
        partition: u64,
        cursor: String,
    },
    /// A cursor names the next offset to read. It never moves back unless `reset`.
    CursorSet {
        partition: u64,
        cursor: String,
        offset: u64,
        reset: bool,
    },
    CursorList {
        partition: u64,
    },
    CursorDelete {
        partition: u64,
        cursor: String,
    },
    /// Facts about the node as key and value, for people.
    Status,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Setting {
    pub key: String,
    pub value: String,
}

/// What the header of the frame needs from the producer.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct AppendRequest {
    pub partition: u64,
    /// `None` = the topic's level.
    pub acks: Option<Acks>,
    pub record_count: u32,
    /// CRC-32C of the whole body.
    pub body_crc: u32,
    pub timestamp_max: i64,
    /// 0 = no deduplication.
    pub producer: u64,
    pub producer_epoch: u16,
    /// Sequence of the first record, -1 without a producer. The next batch starts at `base_sequence +
    /// record_count`.
    pub base_sequence: i64,
    /// Bits of [`crate::frame::flags`].
    pub flags: u16,
    pub key_hash: u32,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub enum OffsetAt {
    Earliest,
    /// The committed end: the next offset that will be readable.
    Latest,
    /// The first record whose timestamp is at or after this wall time in milliseconds; the end if there is
    /// none.
    Time(i64),
}

/// The answer to the call with the same correlation.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Response {
    pub correlation: u64,
    pub answer: ResponseAnswer,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub enum ResponseAnswer {
    /// Correlation 0 if the call could not be read; then the connection closes.
    Refused {
        code: ErrorCode,
        detail: String,
        next_offset: Option<u64>,
    },
    Hello {
        version: u16,
        features: u64,
        node: u64,
        server: String,
        frame_bytes_max: u32,
        shard: u16,
    },
    Pong,
    Topic(TopicDescription),
    Topics {
        names: Vec<String>,
    },
    Done,
    Partition(PartitionStatus),
    Producer {
        producer: u64,
        epoch: u16,
    },
    Appended {
        base_offset: u64,
        broker_time: i64,
        duplicate: bool,
    },
    /// The message body is frames, each a 128-byte header and its body, the first holding `from` or the next
    /// offset after it. `next_offset` is where to read on.
    Frames {
        log_start: u64,
        committed: u64,
        next_offset: u64,
    },
    Offset {
        offset: u64,
        timestamp: i64,
    },
    Cursor {
        offset: Option<u64>,
    },
    Cursors {
        cursors: Vec<CursorStatus>,
    },
    Status {
        facts: Vec<Setting>,
    },
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct TopicDescription {
    pub id: u128,
    pub name: String,
    /// In the order of partition index.
    pub partitions: Vec<PartitionRoute>,
    /// Every setting with its effective value.
    pub settings: Vec<Setting>,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct PartitionRoute {
    pub partition: u64,
    pub shard: u16,
    /// `HOST:PORT` of the owning shard, as seen from the listener that was asked.
    pub address: String,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct PartitionStatus {
    pub partition: u64,
    pub epoch: u32,
    pub log_start: u64,
    pub committed: u64,
    pub next_offset: u64,
    pub bytes: u64,
    pub segments: u32,
    pub producers: u32,
    pub cursors: u32,
    /// Empty, or why the partition takes no writes.
    pub fenced: String,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct CursorStatus {
    pub name: String,
    pub offset: u64,
}
