//! Moves every partition to the logs of another number of shards, before anything is served.
//!
//! All old logs are recovered, everything in their rings is settled and checkpointed; then a new log is made
//! for every shard, complete with its partitions and its engine's state, and only when all of them exist are
//! the old ones removed. **Crash-safe at every step**: a log exists when its superblock does, an old log
//! changes only by settling what it holds, and where two logs hold a partition the copy with the higher epoch
//! wins; copies that lose are forgotten and never write a segment. Nothing is served before the old logs are
//! gone, so no old copy can come back.

mod drive;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_core::{Epoch, Now, PartitionId, WalId};

use crate::config::StoreConfig;
use crate::io::{DirectoryId, FileId, IoFault, IoId, IoOutcome, IoRequest, SegmentName};
use crate::layout::checkpoint::{Checkpoint, PartitionState};
use crate::layout::superblock::Superblock;
use crate::recovery::create::{create_with, empty_checkpoint};
use crate::recovery::open::{read_checkpoints, read_superblock};
use crate::recovery::{NewWal, RecoveryError, RecoveryReport, ReplayItem};
use crate::script::{Script, ScriptIo};
use crate::store::Store;

/// How much a partition's epoch rises when it moves: more than recoveries of an old log can add while moving
/// is interrupted again and again.
pub const EPOCH_STEP: Epoch = 1024;

/// The engines of the old logs, which storage does not understand.
pub trait RehomeEngine {
    /// Tells the engine of log number `log` what it held, in order; the first item is its snapshot.
    ///
    /// # Errors
    /// A sentence for people; moving ends.
    fn replay(&mut self, log: usize, item: ReplayItem) -> Result<(), String>;

    /// The state of the engine of log number `log` after its replay.
    fn snapshot(&mut self, log: usize) -> Vec<u8>;

    /// Engine snapshots for the new shards, in their order. `holdings` names for every old log the partitions
    /// of which it has the newest copy.
    ///
    /// # Errors
    /// A sentence for people; moving ends.
    fn redistribute(&mut self, holdings: &[Vec<PartitionId>], shards: u16) -> Result<Vec<Vec<u8>>, String>;

    /// The shard that owns a partition; asked after [`Self::redistribute`].
    fn owner(&self, partition: PartitionId) -> u16;
}

/// Why moving ended. Nothing is lost: starting again goes on from where it ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RehomeError {
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(
        "partition {partition} cannot be settled ({fault:?}): free space or replace the disk, then restart"
    )]
    Settle { partition: PartitionId, fault: Option<IoFault> },
    #[error("log {wal} cannot be checkpointed: free space or replace the disk, then start again")]
    Checkpoint { wal: WalId },
    #[error(
        "new log {wal} is not as it was written, the old ones stay: check the disk, then start again \
         ({cause})"
    )]
    ReadBack { wal: WalId, cause: RecoveryError },
    #[error("engine state cannot be moved: {0}")]
    Engine(String),
    #[error("old log {wal} cannot be removed ({fault:?}): check the permissions of its directory")]
    Remove { wal: WalId, fault: IoFault },
}

/// What was moved.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RehomeReport {
    /// What recovery found in each old log.
    pub recovered: Vec<RecoveryReport>,
    pub partitions: u64,
    /// Segments that the partitions have now.
    pub segments: u64,
}

/// Whether the logs found fit `shards` shards as they are: one for each, made for that number. If not, and
/// there are any, they have to be moved first.
#[must_use]
pub fn fits(found: &[Superblock], shards: u16) -> bool {
    let mut indexes: Vec<u16> = found.iter().map(|superblock| superblock.shard).collect();
    indexes.sort_unstable();
    found.iter().all(|superblock| superblock.shards == shards) && indexes.into_iter().eq(0..shards)
}

/// The move, driven like every machine of this crate.
pub struct Rehome {
    script: Script<Result<RehomeReport, RehomeError>>,
}

impl std::fmt::Debug for Rehome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rehome")
    }
}

impl Rehome {
    /// Moves everything from the logs `old` to `new`, one for each shard in order, whose ids must be fresh.
    #[must_use]
    pub fn new(
        old: Vec<WalId>,
        new: Vec<NewWal>,
        config: StoreConfig,
        engine: Box<dyn RehomeEngine>,
        now: Now,
    ) -> Rehome {
        Rehome { script: Script::new(move |io| rehome(io, old, new, config, engine, now)) }
    }

    /// The next request to carry out. `None`: complete those under way.
    pub fn poll_io(&mut self) -> Option<(IoId, IoRequest)> {
        self.script.poll_io()
    }

    pub fn complete(&mut self, id: IoId, outcome: IoOutcome) {
        self.script.complete(id, outcome);
    }

    pub fn take_finished(&mut self) -> Option<Result<RehomeReport, RehomeError>> {
        self.script.take_output()
    }
}

/// An old log, recovered.
struct Old {
    store: Store,
    report: RecoveryReport,
}

async fn rehome(
    io: ScriptIo,
    old: Vec<WalId>,
    new: Vec<NewWal>,
    config: StoreConfig,
    mut engine: Box<dyn RehomeEngine>,
    now: Now,
) -> Result<RehomeReport, RehomeError> {
    let mut logs = Vec::with_capacity(old.len());
    for (index, wal) in old.iter().enumerate() {
        let (store, report) = drive::recover(&io, *wal, index, config, engine.as_mut()).await?;
        logs.push(Old { store, report });
    }
    let winners = winners(&logs);
    for (index, log) in logs.iter_mut().enumerate() {
        for lost in log.report.partitions.iter().filter(|held| winners.get(&held.partition) != Some(&index)) {
            log.store.forget_partition(lost.partition);
        }
        let snapshot = engine.snapshot(index);
        drive::settle_and_close(&io, &mut log.store, snapshot, now).await?;
    }
    let shards = new.len() as u16;
    let mut holdings = vec![Vec::new(); logs.len()];
    for (partition, index) in &winners {
        holdings[*index].push(*partition);
    }
    let snapshots = engine.redistribute(&holdings, shards).map_err(RehomeError::Engine)?;
    if snapshots.len() != new.len() {
        let text = format!("{} snapshots for {} shards", snapshots.len(), new.len());
        return Err(RehomeError::Engine(text));
    }
    let report = make(&io, &new, &config, &logs, snapshots, engine.as_ref()).await?;
    read_back(&io, &new).await?;
    remove(&io, &logs).await?;
    Ok(report)
}

/// The log with the newest copy of each partition.
fn winners(logs: &[Old]) -> BTreeMap<PartitionId, usize> {
    let mut best: BTreeMap<PartitionId, (Epoch, u64, usize)> = BTreeMap::new();
    for (index, log) in logs.iter().enumerate() {
        for held in &log.report.partitions {
            let rank = (held.epoch, held.next_offset, index);
            let entry = best.entry(held.partition).or_insert(rank);
            if (rank.0, rank.1) > (entry.0, entry.1) {
                *entry = rank;
            }
        }
    }
    best.into_iter().map(|(partition, (_, _, index))| (partition, index)).collect()
}

/// What one new log begins with.
#[derive(Default)]
struct Share {
    partitions: Vec<PartitionState>,
    retired_segments: Vec<SegmentName>,
    retired_partitions: Vec<PartitionId>,
}

fn share_of<'a>(
    shares: &'a mut [Share],
    engine: &dyn RehomeEngine,
    partition: PartitionId,
) -> Result<&'a mut Share, RehomeError> {
    let shard = engine.owner(partition);
    let share = shares.get_mut(usize::from(shard));
    share.ok_or_else(|| RehomeError::Engine(format!("partition {partition} belongs to shard {shard}")))
}

/// Makes the new logs, each complete before the next.
async fn make(
    io: &ScriptIo,
    new: &[NewWal],
    config: &StoreConfig,
    logs: &[Old],
    snapshots: Vec<Vec<u8>>,
    engine: &dyn RehomeEngine,
) -> Result<RehomeReport, RehomeError> {
    let mut shares: Vec<Share> = new.iter().map(|_| Share::default()).collect();
    let mut report = RehomeReport::default();
    for log in logs {
        report.recovered.push(log.report.clone());
        let (held, retired_segments, retired_partitions) = log.store.holdings();
        for mut state in held {
            state.epoch = state.epoch.saturating_add(EPOCH_STEP);
            report.partitions += 1;
            report.segments += state.segments.len() as u64;
            share_of(&mut shares, engine, state.partition)?.partitions.push(state);
        }
        // What is still to be removed goes with its partition: whoever writes new segments of that must know
        // their names.
        for name in retired_segments {
            share_of(&mut shares, engine, name.partition)?.retired_segments.push(name);
        }
        for partition in retired_partitions {
            share_of(&mut shares, engine, partition)?.retired_partitions.push(partition);
        }
    }
    let lost_records = logs.iter().any(|log| log.store.has_lost_records());
    for ((wal, mut share), snapshot) in new.iter().zip(shares).zip(snapshots) {
        share.partitions.sort_by_key(|state| state.partition);
        let snapshot = Bytes::from(snapshot);
        let checkpoint = |generation| Checkpoint {
            engine_snapshot: snapshot.clone(),
            partitions: share.partitions.clone(),
            retired_segments: share.retired_segments.clone(),
            retired_partitions: share.retired_partitions.clone(),
            lost_records,
            ..empty_checkpoint(wal.wal, generation)
        };
        create_with(io, wal, config, checkpoint).await?;
    }
    Ok(report)
}

/// The old logs are the only other copy: they go only when superblock and both checkpoints of every new log
/// were read as they should be. A disk that put a write in the wrong place is met here.
async fn read_back(io: &ScriptIo, new: &[NewWal]) -> Result<(), RehomeError> {
    for log in new {
        let wal = log.wal;
        read_superblock(io, wal).await.map_err(|cause| RehomeError::ReadBack { wal, cause })?;
        let chosen = read_checkpoints(io, wal).await.map_err(|cause| RehomeError::ReadBack { wal, cause })?;
        if let Some((_, error)) = chosen.bad.first() {
            return Err(RehomeError::ReadBack { wal, cause: RecoveryError::NoCheckpoint(*error) });
        }
    }
    Ok(())
}

/// Removes the old logs: the superblocks of all of them first, so that none is found again.
async fn remove(io: &ScriptIo, logs: &[Old]) -> Result<(), RehomeError> {
    for log in logs {
        let wal = log.store.wal();
        let directory = DirectoryId::Wal(wal);
        for request in
            [IoRequest::Unlink { file: FileId::Superblock(wal) }, IoRequest::SyncDirectory { directory }]
        {
            if let IoOutcome::Failed(fault) = io.request(request).await {
                return Err(RehomeError::Remove { wal, fault });
            }
        }
    }
    for log in logs {
        let wal = log.store.wal();
        let rings = (0..log.store.superblock().files).map(|index| FileId::Ring(wal, index));
        let rest = [FileId::Checkpoint(wal, 0), FileId::Checkpoint(wal, 1), FileId::Ballast(wal)];
        for file in rest.into_iter().chain(rings) {
            // What cannot be removed now costs space only.
            let _ = io.request(IoRequest::Unlink { file }).await;
        }
    }
    Ok(())
}
