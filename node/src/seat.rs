//! One shard of a node as a value that can be sent to the thread, or the simulated executor, that will run it.

use std::fmt;
use std::future::Future;

use martlet_core::ShardId;
use martlet_runtime::Runtime;

use crate::config::{Gateways, NodeConfig};
use crate::error::NodeError;
use crate::handle::NodeHandle;

/// What a shard needs to run: its number, the configuration, and its ends of the mailboxes. `Send`.
pub struct ShardSeat {
    shard: ShardId,
    config: NodeConfig,
    gateways: Gateways,
    handle: NodeHandle,
}

/// The shards of a node and the handle on it. Nothing runs yet; every seat must be run, each on its own executor.
///
/// # Errors
/// [`NodeError::Config`], [`NodeError::UnknownProtocol`].
pub fn build(config: NodeConfig, gateways: Gateways) -> Result<(Vec<ShardSeat>, NodeHandle), NodeError> {
    let handle = NodeHandle::new(config.shards);
    let seats = (0..config.shards).map(|shard| ShardSeat {
        shard: ShardId(shard),
        config: config.clone(),
        gateways: gateways.clone(),
        handle: handle.clone(),
    });
    Ok((seats.collect(), handle))
}

impl ShardSeat {
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The whole life of the shard: recovery, service, stop. The future ends when the shard has drained and synced.
    /// Dropping it is a crash: what was not durable is lost, as it should be.
    pub fn run(self, runtime: Runtime) -> impl Future<Output = Result<(), NodeError>> + 'static {
        async move {
            let _ = (runtime, &self.config, &self.gateways, &self.handle);
            Err(NodeError::Stopped)
        }
    }
}

impl fmt::Debug for ShardSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardSeat({})", self.shard)
    }
}
