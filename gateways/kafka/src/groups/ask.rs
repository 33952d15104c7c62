//! What connections ask of groups and hear from them: plain values, free of the versions of the wire.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use martlet_core::TopicId;
use martlet_shard::api::CallToken;

/// Why something was refused, as the protocol has it.
pub(crate) type Failure = ResponseError;

/// Who asks, for people who look at a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) host: String,
}

/// A question about one group, or, for a list, about all groups of a shard.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) group: String,
    pub(crate) client: Client,
    pub(crate) what: What,
}

/// A topic's name and partitions of it.
pub(crate) type TopicPartitions = (String, Vec<u32>);

#[derive(Clone, Debug)]
pub(crate) enum What {
    Join(Join),
    Sync(Sync),
    Heartbeat(MemberClaim),
    Leave(Vec<Leaver>),
    Commit(Commit),
    /// `None` = every partition the group has an offset for.
    Fetch {
        claim: Option<(String, i32)>,
        topics: Option<Vec<TopicPartitions>>,
        /// Partitions with an offset whose transaction is open are refused.
        is_stable: bool,
    },
    /// Offsets of a transaction: they count when it is committed.
    TransactionCommit(TransactionCommit),
    /// The transaction of a producer has ended.
    EndTransaction {
        producer: i64,
        epoch: i16,
        is_commit: bool,
    },
    DeleteOffsets(Vec<(String, Vec<u32>)>),
    Describe,
    ConsumerHeartbeat(ConsumerHeartbeat),
    ConsumerDescribe,
    Delete,
    List,
}

/// Answers, in the order of [`What`].
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Told {
    Joined(Joined),
    Synced(Synced),
    /// Of a heartbeat, or for a whole request.
    Plain(Option<Failure>),
    Left(Vec<Option<Failure>>),
    /// For each partition, in the order of the request.
    Committed(Vec<Vec<Option<Failure>>>),
    Fetched(Result<Vec<FetchedTopic>, Failure>),
    /// Come again with this number when the coordinator has said that the transaction may have offsets here.
    Unverified(u64),
    OffsetsDeleted(Result<Vec<Vec<Option<Failure>>>, Failure>),
    Described(Result<Described, Failure>),
    ConsumerHeartbeat(Result<ConsumerTold, (Failure, String)>),
    ConsumerDescribed(Result<ConsumerDescribed, Failure>),
    Listed(Vec<Listed>),
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Join {
    /// Empty for a member that has no id yet.
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) session: Duration,
    pub(crate) rebalance: Duration,
    pub(crate) protocol_type: String,
    /// In the order of preference.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// A member without an id is given one first and must come again with it.
    pub(crate) requires_known_member: bool,
    /// The client understands that the leader need not assign anything.
    pub(crate) can_skip_assignment: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Joined {
    pub(crate) failure: Option<Failure>,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: String,
    pub(crate) skip_assignment: bool,
    pub(crate) member: String,
    /// For the leader: id, instance, metadata of the protocol chosen.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

impl Joined {
    pub(crate) fn refused(member: &str, failure: Failure) -> Told {
        Told::Joined(Joined {
            failure: Some(failure),
            generation: -1,
            member: member.to_owned(),
            ..Joined::default()
        })
    }
}

/// What a member says about itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct MemberClaim {
    pub(crate) generation: i32,
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sync {
    pub(crate) claim: MemberClaim,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) assignments: Vec<(String, Bytes)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Synced {
    pub(crate) failure: Option<Failure>,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) assignment: Bytes,
}

impl Synced {
    pub(crate) fn refused(failure: Failure) -> Told {
        Told::Synced(Synced { failure: Some(failure), ..Synced::default() })
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leaver {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Commit {
    pub(crate) claim: MemberClaim,
    pub(crate) topics: Vec<(String, Vec<CommitPartition>)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct CommitPartition {
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct TransactionCommit {
    pub(crate) commit: Commit,
    pub(crate) producer: i64,
    pub(crate) epoch: i16,
    /// The number that [`Told::Unverified`] gave.
    pub(crate) verified: Option<u64>,
}

/// A topic with what was committed, by partition; `None` = nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FetchedTopic {
    pub(crate) topic: String,
    pub(crate) partitions: Vec<(u32, Option<Committed>)>,
    /// Those with an offset whose transaction is open, for who asked for stable ones only.
    pub(crate) unstable: BTreeSet<u32>,
}

/// A committed offset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    /// When it was committed, wall milliseconds.
    pub(crate) time: i64,
    pub(crate) metadata: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Described {
    pub(crate) state: &'static str,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) members: Vec<DescribedMember>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct DescribedMember {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) client: Client,
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) group: String,
    pub(crate) protocol_type: String,
    pub(crate) state: &'static str,
    /// `classic` or `consumer`.
    pub(crate) kind: &'static str,
}

/// Partitions by topic, in order.
pub(crate) type Partitions = std::collections::BTreeMap<TopicId, std::collections::BTreeSet<u32>>;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ConsumerHeartbeat {
    pub(crate) member: String,
    /// 0 joins, -1 leaves, -2 leaves for a while.
    pub(crate) epoch: i32,
    pub(crate) instance: Option<String>,
    pub(crate) rack: Option<String>,
    pub(crate) rebalance: Option<Duration>,
    pub(crate) topics: Option<Vec<String>>,
    /// Empty = no pattern any more.
    pub(crate) pattern: Option<String>,
    pub(crate) assignor: Option<String>,
    pub(crate) owned: Option<Partitions>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ConsumerTold {
    pub(crate) member: String,
    pub(crate) epoch: i32,
    pub(crate) heartbeat_ms: i32,
    /// `None` = as before.
    pub(crate) assignment: Option<Partitions>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ConsumerDescribed {
    pub(crate) state: &'static str,
    pub(crate) epoch: i32,
    pub(crate) assignment_epoch: i32,
    pub(crate) assignor: String,
    pub(crate) members: Vec<ConsumerDescribedMember>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ConsumerDescribedMember {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) rack: Option<String>,
    pub(crate) epoch: i32,
    pub(crate) client: Client,
    pub(crate) topics: Vec<String>,
    pub(crate) pattern: Option<String>,
    pub(crate) assignment: Vec<(TopicId, String, Vec<u32>)>,
    pub(crate) target: Vec<(TopicId, String, Vec<u32>)>,
}

/// What a step of a group wants done.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// To be sent at once.
    pub(crate) answers: Vec<(CallToken, Told)>,
    /// To be sent when what the group is now is durable.
    pub(crate) when_durable: Vec<(CallToken, Told)>,
    /// What must survive a restart has changed.
    pub(crate) changed: bool,
    /// A rebalance has begun.
    pub(crate) rebalances: u64,
}

impl Effects {
    pub(crate) fn answer(&mut self, token: CallToken, told: Told) {
        self.answers.push((token, told));
    }
}
