//! The real broker in the simulated world: a node with the native gateway, one executor per shard, and a log
//! so small that a seed goes round it several times.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use martlet_gateway_native::NativeGateway;
use martlet_net::ListenerConfig;
use martlet_node::{NodeConfig, NodeHandle, Phase, build};
use martlet_runtime::Class;
use martlet_runtime::sim::{MachineId, SimWorld};
use martlet_wal::config::{Geometry, StoreConfig};

use super::broker::{Broker, DATA, Health, PORT, Process};

/// A node of the product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Node {
    /// Defects of the log that are switched on.
    #[cfg(feature = "planted-bugs")]
    pub planted: martlet_wal::config::PlantedBugs,
}

struct NodeProcess {
    handle: NodeHandle,
    failure: Rc<RefCell<Option<String>>>,
}

impl Process for NodeProcess {
    fn health(&self) -> Health {
        match self.handle.phase() {
            Phase::Starting => Health::Starting,
            Phase::Stopped => Health::Ended(self.failure.borrow().clone().map_or(Ok(()), Err)),
            // Stopping: it takes no calls any more.
            Phase::Stopping => Health::Degraded("stopping".to_owned()),
            Phase::Ready => match self.handle.readiness().reasons.first() {
                Some(reason) => Health::Degraded(reason.clone()),
                None => Health::Ready,
            },
        }
    }

    fn stop(&self) {
        self.handle.stop();
    }
}

impl Node {
    fn config(self, shards: u16) -> NodeConfig {
        let mut listener = ListenerConfig::native(PORT);
        listener.shard_port_base = Some(PORT + 1);
        let mut config = NodeConfig::new(DATA);
        config.shards = shards;
        config.listeners = vec![listener];
        config.geometry = Geometry { file_bytes: 256 * 1024, files: 4, block_bytes: 4096 };
        config.store = StoreConfig {
            flush_bytes_max: 32 * 1024,
            staging_bytes_max: 512 * 1024,
            tail_cache_bytes: 128 * 1024,
            read_cache_bytes: 64 * 1024,
            settle_run_bytes_min: 16 * 1024,
            settle_job_bytes_max: 64 * 1024,
            settle_in_flight_bytes_max: 256 * 1024,
            segment_bytes: 256 * 1024,
            ballast_bytes: 512 * 1024,
            full_retry_after: Duration::from_millis(100),
            #[cfg(feature = "planted-bugs")]
            planted: self.planted,
            ..StoreConfig::default()
        };
        config.topic_defaults = vec![
            ("segment_bytes".to_owned(), "1MiB".to_owned()),
            ("batch_bytes_max".to_owned(), "64KiB".to_owned()),
        ];
        config.drain = Duration::from_secs(1);
        config
    }
}

impl Broker for Node {
    fn start(&self, world: &mut SimWorld, machine: MachineId, shards: u16) -> Box<dyn Process> {
        let failure = Rc::new(RefCell::new(None));
        let (seats, handle) = match build(self.config(shards), vec![Arc::new(NativeGateway::new())]) {
            Ok(built) => built,
            Err(error) => unreachable!("the simulator's configuration is refused: {error}"),
        };
        for seat in seats {
            let runtime = world.start(machine);
            let (told, handle) = (Rc::clone(&failure), handle.clone());
            let life = Box::pin(seat.run(runtime.clone()));
            let task = runtime.spawn(Class::Normal, "shard", async move {
                let outcome = life.await;
                if let Err(error) = &outcome {
                    told.borrow_mut().get_or_insert(error.to_string());
                }
                handle.ended(outcome);
            });
            task.detach();
        }
        Box::new(NodeProcess { handle, failure })
    }

    fn shards_max(&self) -> u16 {
        3
    }
}
