//! One shard of a node as a value that can be sent to the thread, or the simulated executor, that will run
//! it.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use martlet_core::limits::{SHARD_CONTROLS_MAX, SHARD_MAILBOX_BATCHES_MAX, SHARDS_MAX};
use martlet_core::{PartitionId, ShardId};
use martlet_net::flow::{First, first};
use martlet_runtime::mailbox::{Receiver, Sender, channel};
use martlet_runtime::{Class, Runtime};
use martlet_shard::{AllowAll, Engine, EngineConfig};
use martlet_wal::pump::{Pump, PumpConfig};

use crate::config::{Gateways, NodeConfig};
use crate::error::NodeError;
use crate::handle::{NodeHandle, Phase};
use crate::link::Link;
use crate::lost::FoundBy;
use crate::message::{Batch, Control, Item, StartStep};
use crate::service::{gateway_of, serve};
use crate::shard::{Shard, ShardParts};
use crate::shard_core::ShardCore;
use crate::storage::{self, DataLock, Placement};

/// What a shard needs to run: its number, the configuration, and its ends of the mailboxes. `Send`.
pub struct ShardSeat {
    shard: ShardId,
    config: NodeConfig,
    gateways: Gateways,
    handle: NodeHandle,
    inbox: Receiver<Batch>,
    /// By shard; none for this one.
    others: Vec<Option<Sender<Batch>>>,
    control: Receiver<Control>,
}

/// The shards of a node and the handle on it. Nothing runs yet; every seat must be run, each on its own
/// executor.
///
/// # Errors
/// [`NodeError::Config`], [`NodeError::UnknownProtocol`].
pub fn build(config: NodeConfig, gateways: Gateways) -> Result<(Vec<ShardSeat>, NodeHandle), NodeError> {
    if config.shards == 0 || config.shards > SHARDS_MAX {
        let reason = format!("{} shards: use 1 to {SHARDS_MAX}", config.shards);
        return Err(NodeError::Config { what: "node.shards", reason });
    }
    for listener in &config.listeners {
        gateway_of(&gateways, listener)?;
        if listener.bind.is_empty() {
            let reason = format!("listener `{}` has no address: give it one", listener.name);
            return Err(NodeError::Config { what: "listen", reason });
        }
    }
    let mut senders = Vec::new();
    let mut ends = Vec::new();
    let mut controls = Vec::new();
    for _ in 0..config.shards {
        let (sender, inbox) = channel(SHARD_MAILBOX_BATCHES_MAX);
        let (control_sender, control) = channel(SHARD_CONTROLS_MAX);
        senders.push(sender);
        controls.push(control_sender);
        ends.push((inbox, control));
    }
    let handle = NodeHandle::new(controls);
    let seat = |(shard, (inbox, control)): (u16, (Receiver<Batch>, Receiver<Control>))| {
        let of =
            |(other, sender): (usize, &Sender<Batch>)| (other != usize::from(shard)).then(|| sender.clone());
        ShardSeat {
            shard: ShardId(shard),
            config: config.clone(),
            gateways: gateways.clone(),
            handle: handle.clone(),
            inbox,
            others: senders.iter().enumerate().map(of).collect(),
            control,
        }
    };
    Ok(((0..config.shards).zip(ends).map(seat).collect(), handle))
}

impl ShardSeat {
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The whole life of the shard: recovery, service, stop. The future ends when the shard has drained and
    /// synced. Dropping it, with the executor it runs on, is a crash: what was not durable is lost, as it
    /// should be.
    pub fn run(self, runtime: Runtime) -> impl Future<Output = Result<(), NodeError>> + 'static {
        let ShardSeat { shard, config, gateways, handle, inbox, others, mut control } = self;
        async move {
            let start = Start { runtime, shard, config, handle: handle.clone(), others, inbox };
            let started = {
                let mut starting = pin!(start.run(&gateways));
                let mut stopped = pin!(wait_stop(&mut control, &handle));
                match first(starting.as_mut(), stopped.as_mut()).await {
                    First::Left(started) => started?,
                    First::Right(()) => return Ok(()),
                }
            };
            while let Some(message) = control.recv().await {
                match message {
                    Control::Stop => break,
                    Control::Stats(reply) => reply(started.stats()),
                }
                if handle.phase() >= Phase::Stopping {
                    break;
                }
            }
            crate::stop::stop(&started).await;
            Ok(())
        }
    }
}

/// Removes what dropped partitions and replaced logs have left: empty directories. Only with metadata that is
/// known to be whole; new partitions are not among those that were allotted when it was looked at.
async fn sweep(shard: Rc<Shard>, placement: Placement) {
    let metadata = shard.core.borrow().engine.metadata().clone();
    let live = metadata.partitions();
    let is_dropped = |partition: PartitionId| {
        partition != PartitionId::METADATA && metadata.is_allotted(partition) && !live.contains(&partition)
    };
    let (runtime, data) = (&shard.runtime, &shard.config.data_dir);
    let partitions = martlet_wal::sweep::partitions(runtime, data, is_dropped).await;
    let logs = martlet_wal::sweep::logs(runtime, data, |wal| placement.is_replaced(wal)).await;
    match partitions.and_then(|partitions| Ok((partitions, logs?))) {
        Ok((0, 0)) => {}
        Ok((partitions, logs)) => tracing::info!(partitions, logs, "empty directories were removed"),
        Err(error) => tracing::warn!(%error, "empty directories could not be removed; the next start tries"),
    }
}

/// Waits until the node is told to stop. Who asks for numbers meanwhile gets none.
async fn wait_stop(control: &mut Receiver<Control>, handle: &NodeHandle) {
    while let Some(message) = control.recv().await {
        if matches!(message, Control::Stop) || handle.phase() >= Phase::Stopping {
            return;
        }
    }
}

/// A shard that starts.
struct Start {
    runtime: Runtime,
    shard: ShardId,
    config: NodeConfig,
    handle: NodeHandle,
    others: Vec<Option<Sender<Batch>>>,
    inbox: Receiver<Batch>,
}

impl Start {
    async fn run(mut self, gateways: &Gateways) -> Result<Rc<Shard>, NodeError> {
        let mut early = Vec::new();
        let (placement, data_lock) = self.placement(&mut early).await?;
        if self.shard == ShardId(0) && placement.is_first_start() {
            self.wait_for_others(&mut early).await;
        }
        let pump = Pump::new(self.runtime.clone(), self.config.data_dir.clone(), PumpConfig::default());
        let pump = Rc::new(pump);
        let mut engine = Engine::new(self.engine_config(), Box::new(AllowAll));
        for service in &self.config.services {
            engine.add_service(service.make(self.shard));
        }
        let opened = storage::open(&self.runtime, &pump, &self.config, self.shard, &placement, &mut engine);
        let (store, report) = opened.await?;
        storage::tell(self.shard, &report);
        let Start { runtime, shard, config, handle, others, inbox } = self;
        let link = |(other, sender): (usize, Option<Sender<Batch>>)| {
            let other = ShardId(u16::try_from(other).unwrap_or(u16::MAX));
            sender.map(|sender| Link::new(shard, other, sender))
        };
        let links: Vec<Option<Rc<Link>>> = others.into_iter().enumerate().map(link).collect();
        let mut core = ShardCore::new(engine, store, links.clone());
        let is_own = |partition| core.engine.owner(partition) == shard;
        core.lost.recovered(placement.lost(), 0, FoundBy::Move, is_own);
        core.lost.recovered(&report.holes, report.damage.len() as u64, FoundBy::Recovery, is_own);
        let parts = ShardParts {
            runtime: runtime.clone(),
            id: shard,
            config: Rc::new(config),
            handle,
            pump,
            data_lock,
        };
        let running = Shard::new(parts, core);
        for link in links.into_iter().flatten() {
            let running = running.clone();
            drop(runtime.spawn(Class::Latency, "link", async move {
                let other = link.to;
                link.run().await;
                running.core.borrow_mut().lost_shard(other, running.runtime.now());
            }));
        }
        running.begin(early);
        running.start(inbox);
        running.core.borrow().say(ShardId(0), Item::Start(StartStep::Opened));
        serve(&running, gateways).await?;
        if shard == ShardId(0) && report.holes.is_empty() && report.damage.is_empty() {
            drop(runtime.spawn(Class::Background, "sweep", sweep(running.clone(), placement)));
        }
        Ok(running)
    }

    fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            random: u128::from(self.runtime.random()) << 64 | u128::from(self.runtime.random()),
            topic_defaults: self.config.topic_defaults.clone(),
            topic_partitions_default: self.config.topic_partitions_default,
            retention_interval: self.config.retention_interval,
            accept_metadata_loss: self.config.accept_metadata_loss,
            #[cfg(feature = "planted-bugs")]
            planted: self.config.planted,
            ..EngineConfig::new(self.shard, self.config.shards)
        }
    }

    /// Which log this shard opens: found by shard 0, heard from it by the others.
    async fn placement(
        &mut self,
        early: &mut Vec<Batch>,
    ) -> Result<(Placement, Option<DataLock>), NodeError> {
        if self.shard == ShardId(0) {
            let (placement, lock) = storage::place(&self.runtime, &self.config).await?;
            for other in self.others.iter().flatten() {
                let items = vec![Item::Start(StartStep::Storage(placement.clone()))];
                // A shard that has ended says so itself.
                let _ = other.send(Batch { from: self.shard, items }).await;
            }
            return Ok((placement, Some(lock)));
        }
        loop {
            let batch = self.hear().await;
            let placement = batch.items.iter().find_map(|item| match item {
                Item::Start(StartStep::Storage(placement)) => Some(placement.clone()),
                _ => None,
            });
            early.push(batch);
            if let Some(placement) = placement {
                return Ok((placement, None));
            }
        }
    }

    /// What another shard says. If all others have ended, the node is about to be stopped, and whoever ended
    /// first says why.
    async fn hear(&mut self) -> Batch {
        match self.inbox.recv().await {
            Some(batch) => batch,
            None => std::future::pending().await,
        }
    }

    /// The log of shard 0 is made last: see [`storage::place`].
    async fn wait_for_others(&mut self, early: &mut Vec<Batch>) {
        let others = usize::from(self.config.shards) - 1;
        let mut opened = 0;
        while opened < others {
            let batch = self.hear().await;
            opened +=
                batch.items.iter().filter(|item| matches!(item, Item::Start(StartStep::Opened))).count();
            early.push(batch);
        }
    }
}

impl fmt::Debug for ShardSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardSeat({})", self.shard)
    }
}
