//! What shards say to each other and hear from the control thread. Values move; nothing is shared.

use std::fmt;

use bytes::Bytes;
use martlet_core::{Refusal, ShardId};
use martlet_shard::api::{Call, CallContext, Reply};

use crate::calls::AnswerSize;
use crate::handle::BoundListener;
use crate::stats::ShardStats;
use crate::storage::Placement;

/// One thing from one shard to another. Items of a pair of shards keep their order.
#[derive(Debug)]
pub(crate) enum Item {
    /// A call for the receiver's engine; `id` is the sender's.
    Call {
        id: u64,
        context: CallContext,
        call: Call,
    },
    /// The caller is gone.
    Cancel {
        id: u64,
    },
    /// Frames are to be fetched for a call of the receiver, once it has room for them.
    Wants {
        id: u64,
        size: AnswerSize,
    },
    /// The caller has room for so many bytes.
    Fetch {
        id: u64,
        bytes_max: usize,
    },
    /// The answer to a call of the receiver.
    Reply {
        id: u64,
        outcome: Result<Reply, Refusal>,
    },
    /// From shard 0: a committed command of the metadata log.
    Metadata {
        index: u64,
        command: Bytes,
    },
    /// Tell me your facts; `id` is the sender's.
    AskFacts {
        id: u64,
    },
    /// The facts the receiver asked for.
    Facts {
        id: u64,
        facts: Vec<(String, String)>,
    },
    Start(StartStep),
    Stop(StopStep),
}

/// Steps of starting together.
#[derive(Clone, Debug)]
pub(crate) enum StartStep {
    /// From shard 0: which shard opens which log.
    Storage(Placement),
    /// To shard 0: the sender's log is open.
    Opened,
    /// From shard 0: the node port of each listener, in their order.
    NodePorts(Vec<u16>),
    /// To shard 0: what the sender has bound, in the order of listeners.
    Bound(Vec<BoundListener>),
    /// From shard 0: every shard has bound its ports; serve.
    Serve(Vec<BoundListener>),
}

/// Steps of stopping together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StopStep {
    /// To shard 0: the sender has no connections any more.
    Drained,
    /// From shard 0: no shard has; close the log.
    Close,
}

/// A batch of items from one shard.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) from: ShardId,
    pub(crate) items: Vec<Item>,
}

/// What the control thread asks of a shard.
pub(crate) enum Control {
    /// Drain, sync and end.
    Stop,
    Stats(Box<dyn FnOnce(ShardStats) + Send>),
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Control::Stop => "Stop",
            Control::Stats(_) => "Stats",
        })
    }
}
