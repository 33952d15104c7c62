//! What gateways say to the engine and hear from it: calls, replies, and the [`Broker`] handle they hold.
//!
//! Protocol-neutral: native, Kafka, Pulsar and the others use the same calls. A gateway never sees the engine
//! itself; it holds a [`Broker`], which `node` implements and which hides on which shard the partition lives.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use martlet_core::native::OffsetAt;
use martlet_core::{
    Acks, Epoch, Offset, PartitionId, Principal, ProducerId, Refusal, ShardId, TopicId, TopicName,
};

use crate::service::{ServiceAt, ServiceMessage};

/// Who calls, and from where. Every call carries one and passes `authorize` and `quota`.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    pub principal: Principal,
    /// For logs and quota: the connection's number on its shard.
    pub connection: u64,
}

/// A call to the engine.
#[derive(Clone, Debug)]
pub enum Call {
    Append(Append),
    Read(Read),
    /// Answered with [`Reply::Readable`].
    Await(Await),
    /// Ends the transaction of a producer in a partition. Answered with [`Reply::Appended`] when that is
    /// durable, or [`Reply::Done`] if nothing had to be written. May be repeated.
    EndTransaction(EndTransaction),
    /// Answered with [`Reply::Aborted`]: transactions that were aborted and have records in `[from, upto)`.
    Aborted {
        partition: PartitionId,
        from: Offset,
        upto: Offset,
    },
    /// Answered with [`Reply::Producers`].
    Producers {
        partition: PartitionId,
    },
    /// Answered with [`Reply::Readable`] at once, as for a reader at the end of each: at most
    /// [`martlet_core::limits::AWAIT_PARTITIONS_MAX`] partitions of one shard.
    Facts {
        partitions: Vec<PartitionId>,
    },
    /// Removes the records below `before`, or all that are committed for `None`. Answered with
    /// [`Reply::Offset`], where the log begins then, when that is durable.
    Trim {
        partition: PartitionId,
        before: Option<Offset>,
    },
    /// Answered with [`Reply::Offset`]; for a time, with [`Reply::Frames`] of the one frame that holds the
    /// record (or of none): the gateway looks into the body, the engine never does.
    OffsetFor {
        partition: PartitionId,
        at: OffsetAt,
    },
    PartitionStatus {
        partition: PartitionId,
    },
    ProducerOpen,
    CursorGet {
        partition: PartitionId,
        cursor: String,
    },
    /// Answered with [`Reply::Cursor`]: where the cursor is, which is further on than `offset` if it was
    /// there before and this is no reset.
    CursorSet {
        partition: PartitionId,
        cursor: String,
        offset: Offset,
        reset: bool,
    },
    CursorList {
        partition: PartitionId,
    },
    CursorDelete {
        partition: PartitionId,
        cursor: String,
    },
    /// For a gateway's own state machine on a shard; answered with [`Reply::Service`].
    Service {
        service: &'static str,
        at: ServiceAt,
        message: ServiceMessage,
    },
    TopicCreate {
        name: TopicName,
        partitions: u32,
        settings: Vec<(String, String)>,
    },
    TopicAlter {
        name: TopicName,
        partitions: Option<u32>,
        settings: Vec<(String, String)>,
    },
    TopicDelete {
        name: TopicName,
    },
    TopicDescribe {
        name: TopicName,
    },
    /// Answered like [`Call::TopicDescribe`].
    TopicFind {
        id: TopicId,
    },
    TopicList {
        prefix: String,
        after: String,
        count_max: u32,
    },
}

impl Call {
    /// The partition the call is about.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        match self {
            Call::Append(append) => Some(append.partition),
            Call::Read(read) => Some(read.partition),
            Call::Await(wait) => wait.parts.first().map(|(partition, _)| *partition),
            Call::Facts { partitions } => partitions.first().copied(),
            Call::EndTransaction(end) => Some(end.partition),
            Call::Aborted { partition, .. }
            | Call::Producers { partition }
            | Call::Trim { partition, .. }
            | Call::OffsetFor { partition, .. }
            | Call::PartitionStatus { partition }
            | Call::CursorGet { partition, .. }
            | Call::CursorSet { partition, .. }
            | Call::CursorList { partition }
            | Call::CursorDelete { partition, .. } => Some(*partition),
            Call::ProducerOpen
            | Call::Service { .. }
            | Call::TopicCreate { .. }
            | Call::TopicAlter { .. }
            | Call::TopicDelete { .. }
            | Call::TopicDescribe { .. }
            | Call::TopicFind { .. }
            | Call::TopicList { .. } => None,
        }
    }
}

/// One batch for one partition. The gateway has checked the format's shape; the engine checks body length,
/// checksum, sequence and limits.
#[derive(Clone, Debug)]
pub struct Append {
    pub partition: PartitionId,
    /// `None` = the topic's level.
    pub acks: Option<Acks>,
    /// One of [`martlet_core::frame::format`].
    pub format: u8,
    pub flags: u16,
    pub body_crc_from: u8,
    pub body_crc: u32,
    /// The gateway computed `body_crc` itself from these very bytes a moment ago.
    pub crc_is_verified: bool,
    pub record_count: u32,
    /// Offsets the batch takes, at least 1.
    pub offset_span: u32,
    pub timestamp_max: i64,
    pub producer: ProducerId,
    pub producer_epoch: u16,
    /// In the format `KAFKA_V2` it counts in 31 bits and begins again at 0.
    pub base_sequence: i64,
    pub key_hash: u32,
    pub body: Bytes,
    /// Of a transactional batch: the call that says whether the batch's transaction is open and may have
    /// records in this partition. Made if no transaction of the producer is open here; any answer but a
    /// refusal says yes.
    pub verification: Option<Box<Call>>,
}

/// The end of a producer's transaction in a partition: a batch with one control record, which takes one
/// offset.
#[derive(Clone, Debug)]
pub struct EndTransaction {
    pub partition: PartitionId,
    pub producer: ProducerId,
    /// At least that of the transaction. Batches of older epochs are refused from now on.
    pub epoch: u16,
    pub is_commit: bool,
    /// One of [`martlet_core::frame::format`].
    pub format: u8,
    pub body_crc_from: u8,
    pub body_crc: u32,
    pub body: Bytes,
}

/// A read that may wait.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub partition: PartitionId,
    pub from: Offset,
    /// Wait until this many bytes are readable, or `wait_ms` has passed.
    pub bytes_min: u32,
    /// At least one frame is returned even if it is larger.
    pub bytes_max: u32,
    pub wait_ms: u32,
    /// Nothing is read from here on; [`Offset::MAX`] = up to what is committed.
    pub upto: Offset,
}

/// A wait for records in several partitions of one shard.
#[derive(Clone, Debug)]
pub struct Await {
    /// Where the reader stands in each partition: by growing partition, each once, at most
    /// [`martlet_core::limits::AWAIT_PARTITIONS_MAX`].
    pub parts: Vec<(PartitionId, Offset)>,
    /// Wait until this many bytes are readable in all of them together, or `wait_ms` has passed, or one of
    /// them cannot be read.
    pub bytes_min: u32,
    pub wait_ms: u32,
    /// Only what lies below [`Readable::stable`] counts.
    pub is_stable: bool,
}

/// What a reader of a partition finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readable {
    pub epoch: Epoch,
    pub log_start: Offset,
    pub committed: Offset,
    /// Below here no record belongs to an open transaction.
    pub stable: Offset,
    /// There are records of aborted transactions.
    pub has_aborted: bool,
    /// From where the reader stands; [`u64::MAX`] if that is too far back to know.
    pub bytes: u64,
}

/// A producer as a partition knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerFacts {
    pub producer: ProducerId,
    pub epoch: u16,
    /// Of its last record; -1 = none in this epoch.
    pub last_sequence: i64,
    /// Wall milliseconds.
    pub last_time: i64,
    /// Where its open transaction begins.
    pub transaction: Option<Offset>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    Appended {
        base_offset: Offset,
        broker_time: i64,
        duplicate: bool,
    },
    Frames(Frames),
    /// In the order of the parts.
    Readable(Vec<Result<Readable, Refusal>>),
    /// Producers and where their transactions begin, in the order in which these ended.
    Aborted(Vec<(ProducerId, Offset)>),
    Producers(Vec<ProducerFacts>),
    Offset {
        offset: Offset,
        timestamp: i64,
    },
    Partition(PartitionStatus),
    Producer {
        producer: ProducerId,
        epoch: u16,
    },
    Cursor {
        offset: Option<Offset>,
    },
    Cursors(Vec<(String, Offset)>),
    Topic(TopicView),
    Topics(Vec<String>),
    Service(ServiceMessage),
    Done,
}

/// What a read returns: committed frames in offset order, sharing the buffers they were written from or read
/// into.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Frames {
    pub frames: Vec<StoredFrame>,
    pub log_start: Offset,
    pub committed: Offset,
    /// Where to read on.
    pub next_offset: Offset,
}

/// A frame as stored: its 128-byte header and its body, both checked when they came from disk.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredFrame {
    pub header: Bytes,
    pub body: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub log_start: Offset,
    pub committed: Offset,
    pub next_offset: Offset,
    pub bytes: u64,
    pub segments: u32,
    pub producers: u32,
    pub cursors: u32,
    /// Empty, or why the partition takes no writes.
    pub fenced: String,
}

/// A topic and where its partitions live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicView {
    pub id: TopicId,
    pub name: TopicName,
    /// In the order of partition index.
    pub partitions: Vec<(PartitionId, ShardId)>,
    /// Every setting with its effective value, in the order of their keys.
    pub settings: Vec<(String, String)>,
}

/// The reply to a call, later. Dropping it abandons the answer, not the call; only a write that the log could
/// not take yet may be forgotten then.
pub type Replying = Pin<Box<dyn Future<Output = Result<Reply, Refusal>>>>;

/// Facts as key and value, later.
pub type FactsLater = Pin<Box<dyn Future<Output = Vec<(String, String)>>>>;

/// The handle a gateway holds. `Rc`, not `Arc`: it belongs to the shard its connection lives on.
pub trait Broker {
    /// Submits `call` *before returning*, to this shard's engine or to the mailbox of the shard that owns it,
    /// so that two calls of one connection keep their order; the future only waits for the reply.
    fn call(&self, context: &CallContext, call: Call) -> Replying;

    /// Where a client that came in through the listener `listener` finds the native port of `shard`.
    fn shard_address(&self, listener: &str, shard: ShardId) -> String;

    /// Where such a client finds the port of the node, which every shard accepts on.
    fn node_address(&self, listener: &str) -> String {
        self.shard_address(listener, ShardId(0))
    }

    /// This shard.
    fn shard(&self) -> ShardId;

    /// Shards of this node.
    fn shards(&self) -> u16 {
        1
    }

    /// Grows with every change of topics that this shard has heard of: what was remembered of them before
    /// holds no more.
    fn metadata_version(&self) -> u64 {
        0
    }

    /// The shard whose services own `key`.
    fn key_shard(&self, key: &str) -> ShardId {
        let _ = key;
        self.shard()
    }

    /// Facts about the node and this shard as key and value, for people.
    fn status(&self) -> Vec<(String, String)>;

    /// Facts about the node and all its shards. Ends in bounded time: a shard that does not answer is named.
    fn status_of_all(&self) -> FactsLater {
        let facts = self.status();
        Box::pin(std::future::ready(facts))
    }
}

/// A shared broker handle.
pub type BrokerHandle = Rc<dyn Broker>;

/// The engine's name for a call that has not been answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallToken(pub u64);

/// What the engine wants done about a call. `node` carries it out.
#[derive(Debug)]
pub enum Answer {
    /// Tell the caller.
    Reply(CallToken, Result<Reply, Refusal>),
    /// Fetch committed frames `[from, upto)` from storage, at most `bytes_max` but at least one frame, then
    /// tell the caller. A wait that ended without records has `from == upto`: reply with no frames.
    Fetch {
        token: CallToken,
        partition: PartitionId,
        from: Offset,
        upto: Offset,
        bytes_max: u32,
        log_start: Offset,
    },
    /// Find the first committed frame below `upto` whose `timestamp_max` is at or after `time` and tell the
    /// caller with [`Reply::Frames`] of that one frame; no frame and `next_offset = upto` if there is none.
    FindTime { token: CallToken, partition: PartitionId, time: i64, upto: Offset },
    /// Make a call, on whatever shard it belongs to, and bring its outcome to
    /// [`crate::Engine::on_called`].
    Call { caller: Caller, ticket: u64, call: Box<Call> },
}

/// Who on a shard makes a call of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A batch waits for the answer.
    Append,
    /// A service, by its name.
    Service(&'static str),
}
