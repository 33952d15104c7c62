//! Making a WAL: everything first, its names durable, the superblock last.

use bytes::Bytes;
use martlet_core::{NodeId, WalId};

use super::RecoveryError;
use crate::config::{Geometry, StoreConfig, planted};
use crate::io::{DirectoryId, FileId, IoFault, IoOutcome, IoRequest};
use crate::layout::checkpoint::{Checkpoint, RingStart};
use crate::layout::superblock::Superblock;
use crate::script::ScriptIo;

/// What a new WAL is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewWal {
    pub wal: WalId,
    pub cluster: u128,
    pub node: NodeId,
    pub shard: u16,
    pub shards: u16,
    pub geometry: Geometry,
}

impl NewWal {
    fn superblock(&self) -> Superblock {
        Superblock {
            wal: self.wal,
            cluster: self.cluster,
            node: self.node,
            shard: self.shard,
            shards: self.shards,
            block_bytes: self.geometry.block_bytes,
            file_bytes: self.geometry.file_bytes,
            files: self.geometry.files,
            incarnation: 0,
            generation: 0,
        }
    }
}

/// A request that must succeed.
pub(crate) async fn must(io: &ScriptIo, file: FileId, request: IoRequest) -> Result<(), RecoveryError> {
    match io.request(request).await {
        IoOutcome::Failed(fault) => Err(RecoveryError::Io { file, fault }),
        _ => Ok(()),
    }
}

pub(super) async fn create(io: &ScriptIo, new: &NewWal, config: &StoreConfig) -> Result<(), RecoveryError> {
    create_with(io, new, config, |generation| empty_checkpoint(new.wal, generation)).await
}

/// Makes a WAL that starts from a given checkpoint, once for each slot. It exists when its superblock does:
/// that comes last.
pub(crate) async fn create_with(
    io: &ScriptIo,
    new: &NewWal,
    config: &StoreConfig,
    checkpoint: impl Fn(u64) -> Checkpoint,
) -> Result<(), RecoveryError> {
    let superblock = new.superblock();
    superblock.check()?;
    let block = u64::from(superblock.block_bytes);
    let first = FileId::Ring(new.wal, 0);
    must(io, first, IoRequest::Create { file: first, length: superblock.file_bytes, zeroed: true }).await?;
    for generation in 0..2u64 {
        let file = FileId::Checkpoint(new.wal, generation as u8);
        must(io, file, IoRequest::Create { file, length: 16 * block, zeroed: true }).await?;
        let data = checkpoint(generation).encode(superblock.block_bytes as usize);
        must(io, file, IoRequest::Write { file, offset: 0, data, sync: true }).await?;
    }
    take_ballast(io, new.wal, config).await?;
    let file = FileId::Superblock(new.wal);
    must(io, file, IoRequest::Create { file, length: 2 * block, zeroed: true }).await?;
    if !planted!(config, skip_directory_sync) {
        for directory in [DirectoryId::Wal(new.wal), DirectoryId::Wals] {
            must(io, file, IoRequest::SyncDirectory { directory }).await?;
        }
    }
    let request =
        IoRequest::Write { file, offset: superblock.slot_offset(), data: superblock.encode(), sync: true };
    must(io, file, request).await
}

/// Sets the ballast aside; `false` if the disk has no room for it.
pub(super) async fn take_ballast(
    io: &ScriptIo,
    wal: WalId,
    config: &StoreConfig,
) -> Result<bool, RecoveryError> {
    let file = FileId::Ballast(wal);
    match io.request(IoRequest::Create { file, length: config.ballast_bytes, zeroed: false }).await {
        IoOutcome::Failed(IoFault::Full) => Ok(false),
        IoOutcome::Failed(fault) => Err(RecoveryError::Io { file, fault }),
        _ => Ok(true),
    }
}

/// The checkpoint of a WAL without records.
pub(crate) fn empty_checkpoint(wal: WalId, generation: u64) -> Checkpoint {
    Checkpoint {
        wal,
        generation,
        incarnation: 0,
        ring_start: RingStart { position: 0, sequence: 1, previous_crc: 0 },
        snapshot_at: 0,
        durable_through: 0,
        engine_snapshot: Bytes::new(),
        partitions: Vec::new(),
        retired_segments: Vec::new(),
        retired_partitions: Vec::new(),
        lost_records: false,
    }
}
