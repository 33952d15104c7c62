//! The steps of opening a WAL, in order.

use martlet_core::WalId;
use martlet_runtime::buffer::AlignedBuffer;

use super::apply::Applied;
use super::create::{must, take_ballast};
use super::reader::RingReader;
use super::runs::check_runs;
use super::scan::{Met, Scan};
use super::take_back::take_back;
use super::tries::{length_again, read_again};
use super::{RecoveryError, RecoveryReport, Replay, ReplayItem};
use crate::config::{StoreConfig, planted};
use crate::index::{PartitionLogs, RingShape};
use crate::io::{DirectoryId, FileId, IoFault, IoOutcome, IoRequest};
use crate::layout::checkpoint::{Checkpoint, CheckpointError};
use crate::layout::flush::FlushHeader;
use crate::layout::superblock::{BLOCK_BYTES_MAX, Superblock, SuperblockError};
use crate::ring::Ring;
use crate::ring::files::RingFiles;
use crate::script::ScriptIo;
use crate::store::{Slots, Store, StoreParts, shape_of};

/// The checkpoint to start from, and what is known of the slots.
pub(crate) struct Chosen {
    pub(crate) checkpoint: Checkpoint,
    slots: Slots,
    pub(crate) bad: Vec<(u8, CheckpointError)>,
}

/// The last flush of the log.
struct Last {
    position: u64,
    end: u64,
    incarnation: u32,
    bytes: bytes::Bytes,
}

pub(crate) async fn open(
    io: ScriptIo,
    wal: WalId,
    placement: Option<(u16, u16)>,
    config: StoreConfig,
    replay: Replay,
    fresh: bool,
) -> Result<(Store, RecoveryReport), RecoveryError> {
    let before = read_superblock(&io, wal).await?;
    let chosen = read_checkpoints(&io, wal).await?;
    keep_checkpoints(&io, wal, &chosen).await?;
    let shape = shape_of(&before);
    replay.push(ReplayItem::Snapshot(chosen.checkpoint.engine_snapshot.clone()));
    // By two: if the newest superblock slot is damaged, the process before this one had one more than was
    // read.
    let incarnation = before.incarnation.max(chosen.checkpoint.incarnation) + 2;
    let logs = logs_of(&chosen.checkpoint, incarnation);
    let mut applied = Applied::new(logs, replay.clone(), chosen.checkpoint.snapshot_at, incarnation);
    let whole = whole_files(&io, &shape).await?;
    let reader = RingReader::new(io.clone(), shape, whole.clone());
    let start = chosen.checkpoint.ring_start;
    let trust = planted!(config, skip_checksum);
    let mut scan = Scan::new(reader, start, chosen.checkpoint.durable_through, trust);
    let walked = if fresh { Walked::default() } else { walk(&mut scan, &mut applied, &replay).await? };
    applied.finish();
    take_back(&io, &shape, &mut applied).await;
    let (known, referred) = (&chosen.checkpoint.partitions, &applied.referred);
    let bad_runs = check_runs(&io, &shape, &applied.logs, known, referred, !trust).await;
    applied.damage.extend(bad_runs);

    let incarnation = incarnation.max(walked.last.as_ref().map_or(0, |last| last.incarnation) + 1);
    let superblock = raise(&io, before, placement, incarnation).await?;
    rewrite_tail(&io, &shape, walked.last.as_ref(), chosen.checkpoint.durable_through, &config).await?;
    let ready = ready_files(&io, &shape, whole, scan.expected.position, &config).await?;
    let ballast = take_ballast(&io, wal, &config).await?;

    let report = RecoveryReport {
        wal,
        node: before.node,
        cluster: before.cluster,
        shard: before.shard,
        shards: before.shards,
        incarnation,
        flushes: walked.flushes,
        frames: applied.frames,
        scanned_bytes: scan.bytes_read(),
        head: scan.expected.position,
        torn: walked.torn,
        damage: applied.damage,
        holes: applied.logs.gaps(),
        partitions: applied.logs.recovered(),
        bad_slots: chosen.bad,
    };
    let freed = chosen.slots.starts[0].min(chosen.slots.starts[1]);
    let ring = Ring::new(shape, &config, incarnation, scan.expected, scan.starts, freed);
    let store = Store::new(StoreParts {
        files: RingFiles::new(&shape, ready),
        ids: io.take_ids(),
        lost_records: applied.lost || chosen.checkpoint.lost_records,
        logs: applied.logs,
        slots: chosen.slots,
        config,
        superblock,
        ring,
        ballast,
    });
    Ok((store, report))
}

/// The index as the checkpoint has it, with the epochs of a process of `incarnation`.
fn logs_of(checkpoint: &Checkpoint, incarnation: u32) -> PartitionLogs {
    let mut partitions = checkpoint.partitions.clone();
    for state in &mut partitions {
        state.epoch = state.epoch.saturating_add(incarnation - checkpoint.incarnation);
    }
    let mut logs = PartitionLogs::from_checkpoint(
        &partitions,
        &checkpoint.retired_segments,
        &checkpoint.retired_partitions,
    );
    logs.recovered_from(checkpoint.generation);
    logs
}

async fn read_whole(io: &ScriptIo, file: FileId) -> Result<bytes::Bytes, IoFault> {
    match length_again(io, file).await? {
        None => Err(IoFault::Missing),
        Some(0) => Ok(bytes::Bytes::new()),
        Some(length) => read_again(io, file, 0, length as usize).await,
    }
}

/// The current superblock of `wal`.
pub(crate) async fn read_superblock(io: &ScriptIo, wal: WalId) -> Result<Superblock, RecoveryError> {
    let file = FileId::Superblock(wal);
    let bytes = match read_whole(io, file).await {
        Ok(bytes) => bytes,
        Err(IoFault::Missing) => return Err(SuperblockError::Incomplete.into()),
        Err(fault) => return Err(RecoveryError::Io { file, fault }),
    };
    let bytes = bytes.slice(..bytes.len().min(2 * BLOCK_BYTES_MAX as usize));
    Ok(Superblock::of(&bytes, wal)?)
}

/// The newest good checkpoint. A slot that cannot be read counts like a damaged one: the other slot is
/// enough, since ring space is reused only below what both have freed. If there is no other, recovery ends.
pub(crate) async fn read_checkpoints(io: &ScriptIo, wal: WalId) -> Result<Chosen, RecoveryError> {
    let mut good: Vec<Checkpoint> = Vec::new();
    let mut unread = None;
    let mut bad = Vec::new();
    for slot in 0..2u8 {
        let file = FileId::Checkpoint(wal, slot);
        let read = match read_whole(io, file).await {
            Ok(bytes) => Checkpoint::decode(&bytes),
            Err(IoFault::Missing) => Err(CheckpointError::Short { found: 0 }),
            Err(fault) => {
                unread = Some(RecoveryError::Io { file, fault });
                Err(CheckpointError::Unread)
            }
        };
        match read {
            Ok(checkpoint) if checkpoint.wal == wal && checkpoint.generation % 2 == u64::from(slot) => {
                good.push(checkpoint);
            }
            Ok(_) => bad.push((slot, CheckpointError::Field { field: "log or slot" })),
            Err(error @ CheckpointError::Version { .. }) => return Err(RecoveryError::NoCheckpoint(error)),
            Err(error) => bad.push((slot, error)),
        }
    }
    good.sort_by_key(|checkpoint| checkpoint.generation);
    let Some(checkpoint) = good.pop() else {
        let error = bad.first().map_or(CheckpointError::Short { found: 0 }, |(_, error)| *error);
        return Err(unread.unwrap_or(RecoveryError::NoCheckpoint(error)));
    };
    let start = checkpoint.ring_start.position;
    let other = good.pop().map_or(start, |older| older.ring_start.position);
    let slots =
        Slots { generation: checkpoint.generation, starts: slot_starts(checkpoint.generation, start, other) };
    Ok(Chosen { checkpoint, slots, bad })
}

/// A process that was killed may have left a checkpoint that was written and not synced: what was read is
/// made durable, or the next one, in the other slot, could be torn while this one is lost.
async fn keep_checkpoints(io: &ScriptIo, wal: WalId, chosen: &Chosen) -> Result<(), RecoveryError> {
    for slot in (0..2u8).filter(|slot| chosen.bad.iter().all(|(bad, _)| bad != slot)) {
        let file = FileId::Checkpoint(wal, slot);
        must(io, file, IoRequest::Sync { file }).await?;
    }
    Ok(())
}

fn slot_starts(generation: u64, newest: u64, other: u64) -> [u64; 2] {
    if generation.is_multiple_of(2) { [newest, other] } else { [other, newest] }
}

#[derive(Default)]
pub(super) struct Walked {
    last: Option<Last>,
    pub(super) flushes: u64,
    pub(super) torn: bool,
}

pub(super) async fn walk(
    scan: &mut Scan,
    applied: &mut Applied,
    replay: &Replay,
) -> Result<Walked, RecoveryError> {
    let mut walked = Walked::default();
    loop {
        replay.room().await;
        match scan.next().await? {
            Met::Flush(found) => {
                walked.flushes += 1;
                walked.last = Some(Last {
                    position: found.header.position,
                    end: found.header.position + u64::from(found.header.length),
                    incarnation: found.header.incarnation,
                    bytes: found.bytes,
                });
                applied.flush(&found.header, found.parsed);
            }
            Met::Lost(damage) => applied.lost(damage),
            Met::End { torn } => {
                walked.torn = torn;
                scan.finish().await;
                return Ok(walked);
            }
        }
    }
}

/// Writes the superblock of a new process.
async fn raise(
    io: &ScriptIo,
    before: Superblock,
    placement: Option<(u16, u16)>,
    incarnation: u32,
) -> Result<Superblock, RecoveryError> {
    let (shard, shards) = placement.unwrap_or((before.shard, before.shards));
    let superblock = Superblock { incarnation, generation: before.generation + 1, shard, shards, ..before };
    let file = FileId::Superblock(before.wal);
    let request =
        IoRequest::Write { file, offset: superblock.slot_offset(), data: superblock.encode(), sync: true };
    must(io, file, request).await?;
    Ok(superblock)
}

/// Writes the last flush again, the same bytes in the same place, and syncs it: it was read, but nothing
/// proves that it is on stable storage.
async fn rewrite_tail(
    io: &ScriptIo,
    shape: &RingShape,
    last: Option<&Last>,
    durable_through: u64,
    config: &StoreConfig,
) -> Result<(), RecoveryError> {
    let Some(last) = last.filter(|last| last.end > durable_through && !last.bytes.is_empty()) else {
        return Ok(());
    };
    let (file, offset) = shape.place(last.position);
    let mut data = AlignedBuffer::zeroed(last.bytes.len(), shape.block_bytes as usize);
    data.extend_from_slice(&last.bytes);
    let sync = !planted!(config, skip_sync);
    must(io, file, IoRequest::Write { file, offset, data: data.into_bytes(), sync }).await
}

/// Which files of the ring are whole. A file is made longer step by step and used only when it is whole: one
/// that was used and is short was cut by somebody, and who knows what was behind.
pub(super) async fn whole_files(io: &ScriptIo, shape: &RingShape) -> Result<Vec<bool>, RecoveryError> {
    let mut whole = Vec::new();
    for index in 0..shape.files {
        let file = FileId::Ring(shape.wal, index);
        let length = length_again(io, file).await.map_err(|fault| RecoveryError::Io { file, fault })?;
        let is_whole = length.is_some_and(|length| length >= shape.file_bytes);
        if let Some(length) = length.filter(|length| !is_whole && *length > 0)
            && has_flush(io, shape, index).await?
        {
            return Err(RecoveryError::Cut { file, length, expected: shape.file_bytes });
        }
        whole.push(is_whole);
    }
    Ok(whole)
}

/// Whether a ring file begins with a flush: once the ring has reached it, it does.
async fn has_flush(io: &ScriptIo, shape: &RingShape, index: u32) -> Result<bool, RecoveryError> {
    let file = FileId::Ring(shape.wal, index);
    let read = read_again(io, file, 0, shape.block_bytes as usize).await;
    let bytes = read.map_err(|fault| RecoveryError::Unread { file, offset: 0, fault })?;
    let header = FlushHeader::decode(&bytes).ok().map(|(header, _)| header);
    Ok(header.is_some_and(|header| header.wal == shape.wal && shape.place(header.position) == (file, 0)))
}

/// Makes the file that the head is in, if it is not there, and the names of all files durable.
async fn ready_files(
    io: &ScriptIo,
    shape: &RingShape,
    mut ready: Vec<bool>,
    head: u64,
    config: &StoreConfig,
) -> Result<Vec<bool>, RecoveryError> {
    let (file, _) = shape.place(head);
    if let FileId::Ring(_, index) = file
        && !ready[index as usize]
    {
        match io.request(IoRequest::Create { file, length: shape.file_bytes, zeroed: true }).await {
            // The store opens all the same and refuses records until there is space.
            IoOutcome::Failed(IoFault::Full) => {}
            IoOutcome::Failed(fault) => return Err(RecoveryError::Io { file, fault }),
            _ => ready[index as usize] = true,
        }
    }
    if !planted!(config, skip_directory_sync) {
        must(io, file, IoRequest::SyncDirectory { directory: DirectoryId::Wal(shape.wal) }).await?;
    }
    Ok(ready)
}
