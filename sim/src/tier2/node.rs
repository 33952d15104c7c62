//! The broker in the simulated world: a node of the product with the native gateway, one executor per shard,
//! and a log so small that a seed goes round it several times.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use martlet_gateway_native::NativeGateway;
use martlet_net::ListenerConfig;
use martlet_node::{NodeConfig, NodeHandle, Phase, build};
use martlet_runtime::Class;
use martlet_runtime::sim::{MachineId, SimRandom, SimWorld};
use martlet_wal::config::{Geometry, StoreConfig};

/// The port the broker listens on.
pub(crate) const PORT: u16 = 7650;
/// Where it keeps its data. The directory exists and is durable.
pub(crate) const DATA: &str = "/data";
/// Shards a node of the simulator has at most.
pub(crate) const SHARDS_MAX: u16 = 3;

/// How a running broker fares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    Starting,
    /// On its way out; it takes no calls any more.
    Stopping,
    Ready,
    /// Running, but takes no writes somewhere.
    Degraded(String),
    /// Ended by itself.
    Ended(Result<(), String>),
}

/// Sizes of the log, drawn for each seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogPlan {
    ring_file_bytes: u64,
    ring_files: u32,
    tail_cache_bytes: usize,
    big_batch_bytes_min: u64,
}

impl LogPlan {
    pub(crate) fn draw(random: &mut SimRandom) -> LogPlan {
        LogPlan {
            ring_file_bytes: if random.coin() { 128 * 1024 } else { 256 * 1024 },
            // The configuration takes no fewer than four.
            ring_files: random.between(4, 5) as u32,
            tail_cache_bytes: if random.coin() { 16 * 1024 } else { 128 * 1024 },
            big_batch_bytes_min: if random.coin() { u64::MAX } else { 24 * 1024 },
        }
    }
}

/// A node of the product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Node {
    /// Defects of the log and of the engine that are switched on.
    #[cfg(feature = "planted-bugs")]
    pub log_bugs: martlet_wal::config::PlantedBugs,
    #[cfg(feature = "planted-bugs")]
    pub engine_bugs: martlet_shard::engine::PlantedBugs,
}

/// A node that was started.
pub(crate) struct Process {
    handle: NodeHandle,
    failure: Rc<RefCell<Option<String>>>,
}

impl Process {
    pub(crate) fn health(&self) -> Health {
        match self.handle.phase() {
            Phase::Starting => Health::Starting,
            Phase::Stopped => Health::Ended(self.failure.borrow().clone().map_or(Ok(()), Err)),
            Phase::Stopping => Health::Stopping,
            Phase::Ready => match self.handle.readiness().reasons.first() {
                Some(reason) => Health::Degraded(reason.clone()),
                None => Health::Ready,
            },
        }
    }

    /// Asks it to drain and end.
    pub(crate) fn stop(&self) {
        self.handle.stop();
    }
}

impl Node {
    fn config(self, shards: u16, log: LogPlan) -> NodeConfig {
        let mut listener = ListenerConfig::native(PORT);
        listener.shard_port_base = Some(PORT + 1);
        let mut config = NodeConfig::new(DATA);
        config.shards = shards;
        config.listeners = vec![listener];
        config.geometry =
            Geometry { file_bytes: log.ring_file_bytes, files: log.ring_files, block_bytes: 4096 };
        config.store = StoreConfig {
            flush_bytes_max: 32 * 1024,
            staging_bytes_max: 512 * 1024,
            tail_cache_bytes: log.tail_cache_bytes,
            read_cache_bytes: 64 * 1024,
            settle_run_bytes_min: 16 * 1024,
            gather_gap_bytes: if log.big_batch_bytes_min == u64::MAX { 1024 } else { u64::MAX },
            settle_job_bytes_max: 64 * 1024,
            settle_in_flight_bytes_max: 256 * 1024,
            big_batch_bytes_min: log.big_batch_bytes_min,
            segment_bytes: 256 * 1024,
            ballast_bytes: 512 * 1024,
            full_retry_after: Duration::from_millis(100),
            #[cfg(feature = "planted-bugs")]
            planted: self.log_bugs,
            ..StoreConfig::default()
        };
        config.topic_defaults = vec![
            ("segment_bytes".to_owned(), "1MiB".to_owned()),
            ("batch_bytes_max".to_owned(), "64KiB".to_owned()),
        ];
        config.retention_interval = Duration::from_millis(30);
        config.drain = Duration::from_secs(1);
        #[cfg(feature = "planted-bugs")]
        {
            config.planted = self.engine_bugs;
        }
        config
    }

    /// Starts a node on `machine` with `shards` executors.
    pub(crate) fn start(
        self,
        world: &mut SimWorld,
        machine: MachineId,
        shards: u16,
        log: LogPlan,
    ) -> Process {
        let failure = Rc::new(RefCell::new(None));
        let (seats, handle) = match build(self.config(shards, log), vec![Arc::new(NativeGateway::new())]) {
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
        Process { handle, failure }
    }
}
