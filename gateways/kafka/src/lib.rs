//! Kafka's protocol: cuts requests out of a connection in place, turns them into calls of the engine, and
//! answers in the order of the requests.
//!
//! Owns the protocol's rules: which keys and versions are served ([`table`]), how an answer looks in each
//! version, what a refusal is called in Kafka. Must never decode a record on the way of a produce or a fetch,
//! know where a log lives, or let one connection cost another anything.

mod answer;
mod calls;
pub mod checks;
mod config;
mod configs;
mod connection;
mod context;
mod errors;
mod frames;
mod groups;
mod meters;
mod shape;
pub mod table;
mod topics;
mod transactions;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use martlet_core::Refusal;
use martlet_net::{Connection, Gateway, GatewayFuture};
use martlet_shard::api::BrokerHandle;

pub use config::{Addressing, KafkaConfig};
pub use groups::{GroupConfig, GroupServices};
pub use meters::{KafkaCounts, KafkaMeters, REQUEST_BUCKETS_US, RequestCounts};
pub use transactions::{TransactionConfig, TransactionServices};

/// The gateway of protocol `kafka`. Holds configuration and counters: one value serves every shard.
#[derive(Clone, Debug)]
pub struct KafkaGateway {
    config: Arc<KafkaConfig>,
    meters: Arc<KafkaMeters>,
}

impl KafkaGateway {
    /// For a node of so many shards.
    #[must_use]
    pub fn new(config: KafkaConfig, shards: u16) -> KafkaGateway {
        KafkaGateway { config: Arc::new(config), meters: Arc::new(KafkaMeters::new(shards)) }
    }

    /// What it counts while it serves.
    #[must_use]
    pub fn meters(&self) -> Arc<KafkaMeters> {
        self.meters.clone()
    }
}

impl Gateway<BrokerHandle> for KafkaGateway {
    fn protocol(&self) -> &'static str {
        "kafka"
    }

    fn serve(&self, connection: Connection<BrokerHandle>) -> GatewayFuture {
        Box::pin(connection::serve(connection, self.config.clone(), &self.meters))
    }

    /// Kafka has no message for this: the connection is closed, and the client tries again later.
    fn refusal(&self, _: &Refusal) -> Vec<Bytes> {
        Vec::new()
    }
}
