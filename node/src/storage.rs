//! Opening the log of a shard: whose it is, the lock, recovery, and the replay into the engine. Owns the order of
//! these steps; what recovery decides belongs to the log.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use martlet_core::{ShardId, WalId};
use martlet_net::event::Event;
use martlet_runtime::{Class, Runtime};
use martlet_shard::Engine;
use martlet_wal::io::{IoId, IoOutcome};
use martlet_wal::pump::Pump;
use martlet_wal::{NewWal, Recovery, RecoveryReport, ReplayItem, Store};

use crate::config::NodeConfig;
use crate::error::NodeError;

/// Pause between two attempts to lock a log.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Which log each shard opens.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    /// By shard.
    pub(crate) logs: Vec<PlacedLog>,
    pub(crate) cluster: u128,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedLog {
    pub(crate) wal: WalId,
    /// It does not exist yet.
    pub(crate) is_new: bool,
}

impl Placement {
    /// Whether this is the first start, or one that did not come far enough to serve.
    pub(crate) fn is_first_start(&self) -> bool {
        self.logs.first().is_some_and(|log| log.is_new)
    }
}

/// Finds the logs below the data directory and says which shard opens which. The log of shard 0 is made last, so as
/// long as it is missing nothing was ever served from the others.
pub(crate) async fn place(
    runtime: &Runtime,
    pump: &Pump,
    config: &NodeConfig,
) -> Result<Placement, NodeError> {
    let failed = |what: &str, error: std::io::Error| NodeError::Storage {
        reason: format!("{what} in {}: {error}", config.data_dir.display()),
    };
    runtime
        .make_directory_all(config.data_dir.clone())
        .await
        .map_err(|error| failed("cannot make directories", error))?;
    let found = pump.discover().await.map_err(|error| failed("cannot look for logs", error))?;
    let random = || u128::from(runtime.random()) << 64 | u128::from(runtime.random());
    let mut logs: Vec<Option<WalId>> = vec![None; usize::from(config.shards)];
    for superblock in found {
        let (wal, shard, shards) = (superblock.wal, superblock.shard, superblock.shards);
        let place = logs.get_mut(usize::from(shard)).filter(|_| shards == config.shards);
        match place {
            Some(place @ None) => *place = Some(wal),
            Some(Some(other)) => {
                return Err(NodeError::Storage {
                    reason: format!(
                        "logs {other} and {wal} both say they are shard {shard}'s: remove the copy"
                    ),
                });
            }
            None => {
                return Err(NodeError::Storage {
                    reason: format!(
                        "the data was written by {shards} shards: start with --set node.shards={shards}"
                    ),
                });
            }
        }
    }
    let served = logs.first().is_some_and(Option::is_some);
    if let Some(missing) = logs.iter().position(Option::is_none).filter(|_| served) {
        return Err(NodeError::Storage {
            reason: format!("the log of shard {missing} is missing: restore its directory below wal/"),
        });
    }
    let logs = logs.into_iter().map(|wal| match wal {
        Some(wal) => PlacedLog { wal, is_new: false },
        None => PlacedLog { wal: WalId(random()), is_new: true },
    });
    Ok(Placement { logs: logs.collect(), cluster: random() })
}

/// Locks, recovers and replays the log of one shard, or makes it.
pub(crate) async fn open(
    runtime: &Runtime,
    pump: &Rc<Pump>,
    config: &NodeConfig,
    shard: ShardId,
    placement: &Placement,
    engine: &mut Engine,
) -> Result<(Store, RecoveryReport), NodeError> {
    let Some(log) = placement.logs.get(usize::from(shard.0)).copied() else {
        return Err(NodeError::Storage { reason: format!("shard {shard} has no log: start again") });
    };
    let mut recovery = if log.is_new {
        let new = NewWal {
            wal: log.wal,
            cluster: placement.cluster,
            node: config.node,
            shard: shard.0,
            shards: config.shards,
            geometry: config.geometry,
        };
        Recovery::create(new, config.store)
    } else {
        lock(runtime, pump, config, log.wal).await?;
        Recovery::open(log.wal, None, config.store)
    };
    let opened = drive(runtime, pump, &mut recovery, engine).await?;
    if log.is_new {
        lock(runtime, pump, config, log.wal).await?;
    }
    Ok(opened)
}

/// A killed process may hold its log for a moment: the kernel still finishes what it had asked for.
async fn lock(runtime: &Runtime, pump: &Pump, config: &NodeConfig, wal: WalId) -> Result<(), NodeError> {
    let until = runtime.instant().after(config.lock_wait);
    loop {
        match pump.lock(wal).await {
            Ok(true) => return Ok(()),
            Ok(false) if runtime.instant() >= until => {
                return Err(NodeError::Locked { path: config.data_dir.clone() });
            }
            Ok(false) => runtime.sleep(LOCK_RETRY).await,
            Err(error) => {
                return Err(NodeError::Storage { reason: format!("cannot lock log {wal}: {error}") });
            }
        }
    }
}

/// Requests of recovery that have ended.
#[derive(Default)]
struct Ended {
    outcomes: RefCell<Vec<(IoId, IoOutcome)>>,
    arrived: Event,
}

async fn drive(
    runtime: &Runtime,
    pump: &Rc<Pump>,
    recovery: &mut Recovery,
    engine: &mut Engine,
) -> Result<(Store, RecoveryReport), NodeError> {
    let ended = Rc::new(Ended::default());
    loop {
        while let Some((id, request)) = recovery.poll_io() {
            let (pump, ended) = (pump.clone(), ended.clone());
            drop(runtime.spawn(Class::Normal, "recovery", async move {
                let outcome = pump.execute(request).await;
                ended.outcomes.borrow_mut().push((id, outcome));
                ended.arrived.signal();
            }));
        }
        let replay = recovery.take_replay();
        let progressed = !replay.is_empty();
        for item in replay {
            replay_item(engine, item)?;
        }
        if let Some(finished) = recovery.take_finished() {
            return finished.map_err(|error| NodeError::Storage { reason: error.to_string() });
        }
        if progressed {
            runtime.yield_now().await;
            continue;
        }
        let outcomes = ended.arrived.wait_for(|| {
            let outcomes = std::mem::take(&mut *ended.outcomes.borrow_mut());
            (!outcomes.is_empty()).then_some(outcomes)
        });
        for (id, outcome) in outcomes.await {
            recovery.complete(id, outcome);
        }
    }
}

fn replay_item(engine: &mut Engine, item: ReplayItem) -> Result<(), NodeError> {
    match item {
        ReplayItem::Snapshot(snapshot) if snapshot.is_empty() => Ok(()),
        ReplayItem::Snapshot(snapshot) => engine.recover(&snapshot).map_err(|refusal| NodeError::Storage {
            reason: format!("the engine's state in the checkpoint: {refusal}"),
        }),
        ReplayItem::Frame(header, body) => {
            engine.replay_frame(&header, &body);
            Ok(())
        }
        ReplayItem::Note(kind, payload) => {
            engine.replay_note(kind, &payload);
            Ok(())
        }
    }
}

/// Says in the log what recovery found.
pub(crate) fn tell(shard: ShardId, report: &RecoveryReport) {
    tracing::info!(
        %shard,
        wal = %report.wal,
        incarnation = report.incarnation,
        flushes = report.flushes,
        frames = report.frames,
        scanned_bytes = report.scanned_bytes,
        torn = report.torn,
        partitions = report.partitions.len(),
        "log recovered"
    );
    for damage in &report.damage {
        tracing::error!(%shard, ?damage, "the log is damaged: restore these records from a copy, if there is one");
    }
    for hole in &report.holes {
        tracing::error!(%shard, ?hole, "records are lost: readers are told to go on behind them");
    }
    for (slot, error) in &report.bad_slots {
        tracing::warn!(%shard, slot, %error, "a checkpoint slot is damaged; the other one was used");
    }
}
