//! What the requests of one connection share: the broker, who asks, what is known of topics, fetch sessions.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use martlet_core::{Epoch, PartitionId, Refusal, ShardId};
use martlet_net::ListenerFacts;
use martlet_runtime::Runtime;
use martlet_shard::api::{BrokerHandle, Call, CallContext, Reply, Replying};

use crate::config::{Addressing, KafkaConfig};
use crate::errors;
use crate::meters::Meters;
use crate::topics::TopicCache;

/// Kafka's number of the first shard of a node: from 1, with room for the shards of every node.
const SHARDS_PER_NODE: u64 = martlet_core::limits::SHARDS_MAX as u64;

/// A broker as clients see it: a shard, or the whole node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BrokerView {
    pub(crate) id: i32,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Whether a client that claims this epoch of a leader is behind or ahead.
pub(crate) fn compare_epochs(claimed: i32, epoch: Epoch) -> Result<(), ResponseError> {
    match i64::from(claimed).cmp(&i64::from(epoch)) {
        _ if claimed < 0 => Ok(()),
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(ResponseError::FencedLeaderEpoch),
        Ordering::Greater => Err(ResponseError::UnknownLeaderEpoch),
    }
}

/// One connection's surroundings.
pub(crate) struct Context {
    pub(crate) runtime: Runtime,
    pub(crate) broker: BrokerHandle,
    pub(crate) caller: CallContext,
    pub(crate) listener: Rc<ListenerFacts>,
    pub(crate) config: Arc<KafkaConfig>,
    pub(crate) meters: Meters,
    /// The host to name when the listener is bound to every address and none is configured.
    pub(crate) host: String,
    /// The client's address, as Kafka shows it.
    pub(crate) peer: String,
    pub(crate) topics: TopicCache,
    pub(crate) sessions: RefCell<crate::calls::Sessions>,
    /// Bytes that a fetch may be answered with: more, the more the peer has taken in time, so that one that
    /// never reads costs little.
    pub(crate) credit: Cell<usize>,
}

impl Context {
    pub(crate) fn call(&self, call: Call) -> Replying {
        self.broker.call(&self.caller, call)
    }

    pub(crate) async fn ask(&self, call: Call) -> Result<Reply, Refusal> {
        self.call(call).await
    }

    /// Compares what a client takes for the epoch of a partition's leader with the truth; -1 = it does not
    /// say.
    pub(crate) async fn check_epoch(
        &self,
        partition: PartitionId,
        claimed: i32,
    ) -> Result<(), ResponseError> {
        if claimed < 0 {
            return Ok(());
        }
        match self.ask(Call::PartitionStatus { partition }).await {
            Ok(Reply::Partition(status)) => compare_epochs(claimed, status.epoch),
            Ok(_) => Err(ResponseError::UnknownServerError),
            Err(refusal) => Err(errors::of(refusal.code)),
        }
    }

    /// Kafka's number of the broker that leads what lives on `shard`.
    pub(crate) fn broker_id(&self, shard: ShardId) -> i32 {
        let shard = match self.config.addressing {
            Addressing::Shard => u64::from(shard.0),
            Addressing::Node => 0,
        };
        let node = self.listener.node.0.saturating_sub(1);
        i32::try_from(node.saturating_mul(SHARDS_PER_NODE) + shard + 1).unwrap_or(i32::MAX)
    }

    /// Every broker that clients of this listener can reach.
    pub(crate) fn brokers(&self) -> Vec<BrokerView> {
        let listener = &self.listener.name;
        match self.config.addressing {
            Addressing::Shard => (0..self.broker.shards())
                .map(ShardId)
                .map(|shard| self.view(shard, &self.broker.shard_address(listener, shard)))
                .collect(),
            Addressing::Node => vec![self.view(ShardId(0), &self.broker.node_address(listener))],
        }
    }

    fn view(&self, shard: ShardId, address: &str) -> BrokerView {
        let (host, port) = address.rsplit_once(':').unwrap_or(("", "0"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { self.host.clone() } else { host.to_owned() };
        BrokerView { id: self.broker_id(shard), host, port: port.parse().unwrap_or(0) }
    }
}
