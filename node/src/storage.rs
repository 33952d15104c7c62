//! Opening the log of a shard: whose it is, the lock, recovery, and the replay into the engine. Owns the
//! order of these steps; what recovery decides belongs to the log.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use martlet_core::{ShardId, WalId};
use martlet_runtime::{DirectFile, Runtime};
use martlet_shard::Engine;
use martlet_wal::index::RecoveredGap;
use martlet_wal::io::{IoId, IoOutcome, IoRequest};
use martlet_wal::layout::superblock::{BLOCK_BYTES_MAX, Superblock};
use martlet_wal::pump::{Pump, PumpConfig};
use martlet_wal::rehome::{self, Rehome};
use martlet_wal::{Geometry, NewWal, Recovery, RecoveryError, RecoveryReport, Store};

use crate::config::NodeConfig;
use crate::drive::{Machine, drive};
use crate::error::NodeError;
use crate::rehome::OldEngines;
use crate::seam::replay;

/// Pause between two attempts to lock a log.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Which log each shard opens.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    /// By shard.
    logs: Vec<PlacedLog>,
    cluster: u128,
    /// Of logs that are made.
    geometry: Geometry,
    /// What a move to another number of shards found missing.
    lost: Vec<RecoveredGap>,
}

#[derive(Clone, Copy, Debug)]
struct PlacedLog {
    wal: WalId,
    /// It does not exist yet.
    is_new: bool,
}

impl Placement {
    /// Whether this log is none of any shard's.
    pub(crate) fn is_replaced(&self, wal: WalId) -> bool {
        self.logs.iter().all(|log| log.wal != wal)
    }

    /// What was found missing before this start opened the logs.
    pub(crate) fn lost(&self) -> &[RecoveredGap] {
        &self.lost
    }

    /// Whether this is the first start, or one that did not come far enough to serve. The log of shard 0 is
    /// then made last: as long as it is missing, nothing was ever served from the others.
    pub(crate) fn is_first_start(&self) -> bool {
        self.logs.first().is_some_and(|log| log.is_new)
    }
}

/// The lock of a data directory; held while a node lives.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: DirectFile,
}

/// Locks the data directory, finds the logs below it and says which shard opens which. If they were made for
/// another number of shards, their partitions are moved to new logs first.
pub(crate) async fn place(
    runtime: &Runtime,
    config: &NodeConfig,
) -> Result<(Placement, DataLock), NodeError> {
    let pump = Rc::new(Pump::new(runtime.clone(), config.data_dir.clone(), PumpConfig::default()));
    let _file = patiently(runtime, config, async || pump.lock_data().await).await?;
    let geometry = geometry(config, _file.block_bytes())?;
    Ok((find(runtime, &pump, config, geometry).await?, DataLock { _file }))
}

/// The geometry of new logs on a disk with blocks of `disk` bytes: its logical or physical ones, whichever
/// are larger.
fn geometry(config: &NodeConfig, disk: u32) -> Result<Geometry, NodeError> {
    let mut geometry = config.geometry;
    geometry.block_bytes = geometry.block_bytes.max(disk);
    if geometry.block_bytes > BLOCK_BYTES_MAX {
        return Err(storage(format!(
            "the disk of {} has blocks of {disk} bytes, at most {BLOCK_BYTES_MAX} can be used: choose \
             another --data-dir",
            config.data_dir.display()
        )));
    }
    geometry.file_bytes = geometry.file_bytes.next_multiple_of(u64::from(geometry.block_bytes));
    Ok(geometry)
}

/// Logs that were made on another disk keep their blocks.
fn warn_of_blocks(found: &[Superblock], geometry: Geometry) {
    for log in found.iter().filter(|log| log.block_bytes < geometry.block_bytes) {
        tracing::warn!(
            wal = %log.wal,
            log_block_bytes = log.block_bytes,
            disk_block_bytes = geometry.block_bytes,
            "the log was made on a disk with smaller blocks: a change of node.shards makes it anew"
        );
    }
}

async fn find(
    runtime: &Runtime,
    pump: &Rc<Pump>,
    config: &NodeConfig,
    geometry: Geometry,
) -> Result<Placement, NodeError> {
    let failed =
        |what: &str, error: io::Error| storage(format!("{what} in {}: {error}", config.data_dir.display()));
    let found = pump.discover().await.map_err(|error| failed("cannot look for logs", error))?;
    warn_of_blocks(&found, geometry);
    let assign = |found: &[Superblock]| assign(runtime, config, geometry, found);
    if found.is_empty() {
        return assign(&found);
    }
    if rehome::fits(&found, config.shards) || is_interrupted_first_start(&found, config.shards) {
        return assign(&found);
    }
    let whole = found.first().is_some_and(|log| {
        let shards = log.shards;
        rehome::fits(&found, shards) || found.iter().any(|log| log.shards != shards)
    });
    if !whole && !has_twins(&found) {
        return Err(storage(format!(
            "only {} of the logs are there: restore the missing directories below wal/",
            found.len()
        )));
    }
    let lost = move_partitions(runtime, pump, config, geometry, &found).await?;
    let found = pump.discover().await.map_err(|error| failed("cannot look for logs", error))?;
    Ok(Placement { lost, ..assign(&found)? })
}

fn storage(reason: String) -> NodeError {
    NodeError::Storage { reason }
}

/// A first start that was killed: the log of shard 0, which is made last, is missing, so the others are
/// empty.
fn is_interrupted_first_start(found: &[Superblock], shards: u16) -> bool {
    found.iter().all(|log| log.shards == shards && log.shard != 0) && !has_twins(found)
}

/// Two logs of one shard: a move was interrupted while it removed the old ones.
fn has_twins(found: &[Superblock]) -> bool {
    let mut shards: Vec<u16> = found.iter().map(|log| log.shard).collect();
    shards.sort_unstable();
    shards.windows(2).any(|pair| pair[0] == pair[1])
}

fn random(runtime: &Runtime) -> u128 {
    u128::from(runtime.random()) << 64 | u128::from(runtime.random())
}

fn assign(
    runtime: &Runtime,
    config: &NodeConfig,
    geometry: Geometry,
    found: &[Superblock],
) -> Result<Placement, NodeError> {
    let log = |shard: u16| match found.iter().find(|log| log.shard == shard) {
        Some(log) => PlacedLog { wal: log.wal, is_new: false },
        None => PlacedLog { wal: WalId(random(runtime)), is_new: true },
    };
    let known = found.first().map(|log| log.cluster);
    let logs = (0..config.shards).map(log).collect();
    Ok(Placement { logs, cluster: known.unwrap_or_else(|| random(runtime)), geometry, lost: Vec::new() })
}

async fn move_partitions(
    runtime: &Runtime,
    pump: &Rc<Pump>,
    config: &NodeConfig,
    geometry: Geometry,
    found: &[Superblock],
) -> Result<Vec<RecoveredGap>, NodeError> {
    tracing::info!(
        logs = found.len(),
        shards = config.shards,
        "moving partitions to another number of shards"
    );
    for log in found {
        lock(runtime, pump, config, log.wal).await?;
    }
    let cluster = found.first().map_or(0, |log| log.cluster);
    let new = |shard| NewWal {
        wal: WalId(random(runtime)),
        cluster,
        node: config.node,
        shard,
        shards: config.shards,
        geometry,
    };
    let engines = Box::new(OldEngines::new(found, config.shards));
    let old = found.iter().map(|log| log.wal).collect();
    let new = (0..config.shards).map(new).collect();
    let mut rehome = Rehome::new(old, new, config.store, engines, runtime.now());
    let moved = drive(runtime, pump, &mut rehome).await.map_err(storage)?;
    let report = moved.map_err(|error| storage(error.to_string()))?;
    for recovered in &report.recovered {
        tell(ShardId(recovered.shard), recovered);
    }
    tracing::info!(partitions = report.partitions, segments = report.segments, "partitions moved");
    Ok(report.recovered.into_iter().flat_map(|recovered| recovered.holes).collect())
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
        return Err(storage(format!("shard {shard} has no log: start again")));
    };
    let recovery = if log.is_new {
        let new = NewWal {
            wal: log.wal,
            cluster: placement.cluster,
            node: config.node,
            shard: shard.0,
            shards: config.shards,
            geometry: placement.geometry,
        };
        Recovery::create(new, config.store)
    } else {
        lock(runtime, pump, config, log.wal).await?;
        Recovery::open(log.wal, None, config.store)
    };
    let opened = drive(runtime, pump, &mut Opening { recovery, engine }).await.map_err(storage)?;
    // Why a log could not be made is told before that there is nothing to lock.
    let opened = opened.map_err(|error| storage(error.to_string()))?;
    if log.is_new {
        lock(runtime, pump, config, log.wal).await?;
    }
    Ok(opened)
}

async fn lock(runtime: &Runtime, pump: &Pump, config: &NodeConfig, wal: WalId) -> Result<(), NodeError> {
    patiently(runtime, config, async || Ok(pump.lock(wal).await?.then_some(()))).await
}

/// Tries to take a lock until it is free. A killed process may hold its log for a moment: the kernel still
/// finishes what it had asked for.
async fn patiently<T>(
    runtime: &Runtime,
    config: &NodeConfig,
    attempt: impl AsyncFn() -> io::Result<Option<T>>,
) -> Result<T, NodeError> {
    let until = runtime.instant().after(config.lock_wait);
    loop {
        match attempt().await {
            Ok(Some(locked)) => return Ok(locked),
            Ok(None) if runtime.instant() >= until => {
                return Err(NodeError::Locked { path: config.data_dir.clone() });
            }
            Ok(None) => runtime.sleep(LOCK_RETRY).await,
            Err(error) => {
                let directory = config.data_dir.display();
                return Err(storage(format!("cannot lock the log in {directory}: {error}")));
            }
        }
    }
}

/// Recovery, with the engine it tells.
struct Opening<'a> {
    recovery: Recovery,
    engine: &'a mut Engine,
}

impl Machine for Opening<'_> {
    type Finished = Result<(Store, RecoveryReport), RecoveryError>;

    fn poll_io(&mut self) -> Option<(IoId, IoRequest)> {
        self.recovery.poll_io()
    }

    fn complete(&mut self, id: IoId, outcome: IoOutcome) {
        self.recovery.complete(id, outcome);
    }

    fn advance(&mut self) -> Result<bool, String> {
        let items = self.recovery.take_replay();
        let advanced = !items.is_empty();
        for item in items {
            replay(self.engine, item)?;
        }
        Ok(advanced)
    }

    fn take_finished(&mut self) -> Option<Self::Finished> {
        self.recovery.take_finished()
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
        tracing::error!(%shard, ?damage, "the log is damaged: restore these records from a copy");
    }
    for hole in &report.holes {
        tracing::error!(%shard, ?hole, "records are lost: readers are told to go on behind them");
    }
    for (slot, error) in &report.bad_slots {
        tracing::warn!(%shard, slot, %error, "a checkpoint slot is damaged; the other one was used");
    }
}
