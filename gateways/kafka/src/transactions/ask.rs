//! What connections ask of the coordinator and hear from it: plain values, free of the versions of the wire.

use kafka_protocol::ResponseError;
use martlet_core::{PartitionId, TopicId};
use martlet_shard::api::Call;
use martlet_shard::service::{ServiceAt, ServiceMessage};

use super::state::State;

/// Why something was refused, as the protocol has it.
pub(crate) type Failure = ResponseError;

/// A question about one transactional id, or, for a list, about all of a shard.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) id: String,
    pub(crate) what: What,
}

impl Ask {
    /// The call to the coordinator of a transactional id.
    pub(crate) fn call(id: &str, what: What) -> Call {
        Call::Service {
            service: super::SERVICE,
            at: ServiceAt::Key(id.to_owned()),
            message: ServiceMessage::new(Ask { id: id.to_owned(), what }),
        }
    }
}

/// The producer that a client says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) producer: i64,
    pub(crate) epoch: i16,
}

/// What a transaction writes to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Target {
    Partition { partition: PartitionId, topic: TopicId, index: u32 },
    Group(String),
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// `fresh` is a producer id that nobody has, for when one is needed.
    Init {
        timeout_ms: i32,
        claim: Option<Claim>,
        fresh: Option<i64>,
    },
    /// These targets belong to the transaction from now on, which begins if there is none.
    Add {
        claim: Claim,
        targets: Vec<Target>,
    },
    /// Whether a target belongs to the transaction that is open; if `adds`, it does from now on. A refusal is
    /// the engine's, as a batch waits for the answer.
    Admit {
        claim: Claim,
        target: Target,
        adds: bool,
    },
    /// `bumps` = the client goes on with the next epoch.
    End {
        claim: Claim,
        is_commit: bool,
        bumps: bool,
        fresh: Option<i64>,
    },
    Describe,
    List,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Told {
    /// Ask again with a fresh producer id.
    NeedsProducer,
    /// Of the questions that give the client a producer: which one it is now.
    Producer(Result<Claim, Failure>),
    Plain(Option<Failure>),
    Described(Result<Described, Failure>),
    Listed(Vec<Listed>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Described {
    pub(crate) state: State,
    pub(crate) timeout_ms: i32,
    /// Wall milliseconds; -1 = none is open.
    pub(crate) started: i64,
    pub(crate) claim: Claim,
    /// Partitions by Kafka's name of their topic.
    pub(crate) topics: Vec<(String, Vec<u32>)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) producer: i64,
    pub(crate) state: State,
    /// Wall milliseconds for which a transaction has been open.
    pub(crate) open_ms: i64,
}
