//! Recovery without its writes: what a log holds, for `storage verify`.

use martlet_core::WalId;

use super::apply::Applied;
use super::open::{read_checkpoints, read_superblock, walk, whole_files};
use super::reader::RingReader;
use super::scan::Scan;
use super::take_back::take_back;
use super::{Damage, RecoveryError, Replay};
use crate::index::{PartitionLogs, RingShape};
use crate::layout::checkpoint::CheckpointError;
use crate::script::ScriptIo;
use crate::store::shape_of;

/// A log as it is on disk.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) shape: RingShape,
    pub(crate) logs: PartitionLogs,
    pub(crate) bad_slots: Vec<(u8, CheckpointError)>,
    pub(crate) damage: Vec<Damage>,
    pub(crate) flushes: u64,
    pub(crate) frames: u64,
    /// A flush was begun at the end and never completed.
    pub(crate) torn: bool,
}

/// Reads a log as recovery does, and changes nothing. The replay is thrown away by the caller as it comes.
pub(crate) async fn inspect(io: ScriptIo, wal: WalId, replay: Replay) -> Result<Inspected, RecoveryError> {
    let superblock = read_superblock(&io, wal).await?;
    let chosen = read_checkpoints(&io, wal).await?;
    let shape = shape_of(&superblock);
    let checkpoint = &chosen.checkpoint;
    let logs = PartitionLogs::from_checkpoint(
        &checkpoint.partitions,
        &checkpoint.retired_segments,
        &checkpoint.retired_partitions,
    );
    let incarnation = superblock.incarnation.max(checkpoint.incarnation);
    let mut applied = Applied::new(logs, replay.clone(), checkpoint.snapshot_at, incarnation);
    let whole = whole_files(&io, &shape).await?;
    let reader = RingReader::new(io.clone(), shape, whole);
    let mut scan = Scan::new(reader, checkpoint.ring_start, checkpoint.durable_through, false);
    let walked = walk(&mut scan, &mut applied, &replay).await?;
    applied.finish();
    take_back(&io, &shape, &mut applied).await;
    Ok(Inspected {
        shape,
        flushes: walked.flushes,
        torn: walked.torn,
        frames: applied.frames,
        logs: applied.logs,
        damage: applied.damage,
        bad_slots: chosen.bad,
    })
}
