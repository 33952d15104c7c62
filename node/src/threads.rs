//! Real threads for the shards of a node: one each. The simulator does not use this module.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use martlet_core::ShardId;
use martlet_runtime::Executor;
use martlet_runtime::driver::Driver;

use crate::config::{Gateways, NodeConfig};
use crate::error::NodeError;
use crate::handle::{BoundListener, NodeHandle};
use crate::seat::{ShardSeat, build};

/// Makes the driver of a shard, on the shard's own thread. The error is a sentence with the remedy.
pub type DriverFactory = Arc<dyn Fn(ShardId) -> Result<Box<dyn Driver>, String> + Send + Sync>;

/// A node on threads of its own.
pub struct Node {
    handle: NodeHandle,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts every shard and returns at once; [`NodeHandle::wait_ready`] says when it serves.
    ///
    /// # Errors
    /// Those of [`build`], and a thread that cannot be made.
    pub fn start(config: NodeConfig, gateways: Gateways, drivers: DriverFactory) -> Result<Node, NodeError> {
        let (seats, handle) = build(config, gateways)?;
        let mut threads = Vec::with_capacity(seats.len());
        for seat in seats {
            let (shard, drivers, of_thread) = (seat.shard(), drivers.clone(), handle.clone());
            let body = move || run_shard(seat, &drivers, &of_thread);
            match std::thread::Builder::new().name(format!("shard-{shard}")).spawn(body) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    handle.stop();
                    return Err(NodeError::Shard { shard: shard.0, reason: error.to_string() });
                }
            }
        }
        Ok(Node { handle, threads })
    }

    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// As [`NodeHandle::wait_ready`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_ready(&self, wait: Duration) -> Result<Vec<BoundListener>, NodeError> {
        self.handle.wait_ready(wait)
    }

    /// Blocks until every shard has ended, by itself or after [`NodeHandle::stop`].
    ///
    /// # Errors
    /// The first failure of a shard.
    pub fn join(self) -> Result<(), NodeError> {
        for thread in self.threads {
            if thread.join().is_err() {
                self.handle
                    .failed(NodeError::Shard { shard: u16::MAX, reason: "its thread panicked".to_owned() });
            }
        }
        self.handle.failure().map_or(Ok(()), Err)
    }

    /// [`NodeHandle::stop`], then [`Node::join`].
    ///
    /// # Errors
    /// As [`Node::join`].
    pub fn stop(self) -> Result<(), NodeError> {
        self.handle.stop();
        self.join()
    }
}

fn run_shard(seat: ShardSeat, drivers: &DriverFactory, handle: &NodeHandle) {
    let shard = seat.shard();
    let outcome = match drivers(shard) {
        Err(reason) => Err(NodeError::Driver { shard: shard.0, reason }),
        Ok(driver) => {
            let mut executor = Executor::new(martlet_runtime::ExecutorConfig::default(), driver);
            let root = seat.run(executor.runtime());
            executor.block_on(root)
        }
    };
    handle.ended(outcome);
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} shards, {:?})", self.threads.len(), self.handle.phase())
    }
}
