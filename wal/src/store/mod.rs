//! The log of one shard: joins ring, index, settling, reads and checkpoints into one state machine.
//!
//! Owns what is acknowledged: [`Store::durable`] never names a record that is not on stable storage. Must
//! never do I/O itself, wait, or read a clock: requests leave through [`Store::poll_io`], outcomes come back
//! through [`Store::complete`], time comes in as a value.
//!
//! **Invariants**: a failed write or sync of the ring, its files or a checkpoint fences the whole log:
//! nothing more is written in this process. Ring space is reused only below what *both* checkpoint slots have
//! freed, so that one damaged slot loses nothing.

mod admission;
mod checkpointing;
mod compaction;
mod drive;
mod moving;
mod runs;
mod seams;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod flip_tests;
#[cfg(test)]
mod read_fault_tests;
#[cfg(test)]
mod rot_tests;
#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use bytes::Bytes;
use martlet_core::{FrameHeader, Instant, Lsn, Offset, PartitionId, WalId};

pub use admission::WriteClass;
pub(crate) use checkpointing::Slots;

use crate::config::StoreConfig;
use crate::counters::Counters;
use crate::index::{Extent, FrameEntry, IoIds, PartitionLogs, Retirer, RingShape, SegmentFacts};
use crate::io::{IoFault, IoId};
use crate::layout::record::{self, LogStart};
use crate::layout::superblock::Superblock;
use crate::read::Reader;
use crate::recovery::apply::OFFSETS_SKIPPED_AFTER_LOSS;
use crate::ring::Ring;
use crate::ring::files::RingFiles;
use crate::settle::Settler;
use checkpointing::Checkpointing;
use compaction::Compacting;

/// What the log can do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StorageState {
    Open,
    /// The disk is full: records of clients are refused, everything that frees space goes on.
    Full,
    /// A write or sync failed: nothing is written any more in this process. Reads go on.
    Fenced(IoFault),
}

/// The log of one shard. See the module's text.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    superblock: Superblock,
    shape: RingShape,
    ids: IoIds,
    logs: PartitionLogs,
    ring: Ring,
    /// Bytes of runs that no captured checkpoint knows: recovery would have to look them up.
    news_bytes: u64,
    files: RingFiles,
    checkpointing: Checkpointing,
    settler: Settler,
    compacting: Compacting,
    reader: Reader,
    retirer: Retirer,
    counters: Counters,
    refused: Cell<u64>,
    fenced: Option<IoFault>,
    /// Segments met a full disk; the ballast was released.
    disk_full: bool,
    ballast: Ballast,
    /// When an idle log proves its last flush.
    mark_at: Option<Instant>,
    /// When settling tries again to read what could not be read.
    reread_at: Option<Instant>,
    closing: bool,
    /// Recovery lost records of unknown partitions.
    lost_records: bool,
    /// Whatever is in the ring is settled now, however little: the partitions move to other logs.
    settle_all: bool,
    /// A carry did not fit when this much of the ring was free: until more is, frames are settled instead.
    carry_refused_at: Option<u64>,
    /// Ring position that had to be free for the write that was refused last for want of space.
    wanted_free: Cell<u64>,
}

/// The space that settling can fall back on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ballast {
    Held,
    /// To be removed, so that a settle can go on.
    Release,
    Releasing(IoId),
    /// Gone; taken again at this time if there is space.
    Gone(Instant),
    Taking(IoId),
}

/// Parts that recovery hands over.
#[derive(Debug)]
pub(crate) struct StoreParts {
    pub(crate) config: StoreConfig,
    pub(crate) superblock: Superblock,
    pub(crate) ids: IoIds,
    pub(crate) logs: PartitionLogs,
    pub(crate) ring: Ring,
    pub(crate) files: RingFiles,
    pub(crate) slots: Slots,
    /// Whether the disk had room for the ballast.
    pub(crate) ballast: bool,
    /// Records were lost of which nothing is known, not even their partitions.
    pub(crate) lost_records: bool,
}

impl Store {
    pub(crate) fn new(parts: StoreParts) -> Store {
        let StoreParts { config, superblock, ids, mut logs, ring, files, slots, ballast, lost_records } =
            parts;
        let shape = shape_of(&superblock);
        logs.set_eager_limits(seams::eager_limits(&config));
        logs.set_gather_limits(seams::gather_limits(&config, shape));
        Store {
            settler: seams::settler(shape, &config),
            reader: seams::reader(shape, &config),
            retirer: Retirer::default(),
            compacting: Compacting::default(),
            checkpointing: Checkpointing::new(slots),
            counters: Counters { ring_bytes: shape.capacity(), ..Counters::default() },
            refused: Cell::new(0),
            fenced: None,
            disk_full: !ballast,
            ballast: if ballast { Ballast::Held } else { Ballast::Gone(Instant(0)) },
            mark_at: None,
            reread_at: None,
            closing: false,
            lost_records,
            settle_all: false,
            carry_refused_at: None,
            wanted_free: Cell::new(0),
            news_bytes: 0,
            config,
            superblock,
            shape,
            ids,
            logs,
            ring,
            files,
        }
    }

    #[must_use]
    pub fn wal(&self) -> WalId {
        self.superblock.wal
    }

    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Counts processes that opened this log.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.superblock.incarnation
    }

    /// Stages a frame: one copy of the body, into the flush buffer, or into a run if much is queued for the
    /// partition. Offsets of the partition go on from there.
    ///
    /// # Panics
    /// If the partition is not open, the header's offset is below the next one, or the length is not the
    /// body's: defects of the caller that would lose or double records.
    pub fn append(&mut self, header: &FrameHeader, body: &Bytes) -> Lsn {
        assert_eq!(header.body_length as usize, body.len(), "header and body belong together");
        let partition = PartitionId(header.partition);
        let staged = if self.goes_into_run(header) {
            self.stage_in_run(header, body)
        } else {
            let staged = self.ring.stage(record::kind::FRAME, &[&header.encode(), body], true);
            self.logs.stage(partition, header.epoch, FrameEntry::of(header, staged.position));
            staged
        };
        self.counters.frames += 1;
        self.counters.frame_bytes += (martlet_core::FRAME_HEADER_BYTES + body.len()) as u64;
        staged.lsn
    }

    /// Stages engine state; `kind` is 1 to 15 and means nothing here.
    ///
    /// # Panics
    /// If `kind` is out of range.
    pub fn note(&mut self, kind: u8, payload: &[u8]) -> Lsn {
        assert!((1..16).contains(&kind), "note kinds are 1 to 15");
        self.counters.notes += 1;
        self.ring.stage(record::kind::NOTE + kind, &[payload], true).lsn
    }

    /// Makes a partition known. Idempotent. Returns its extent: empty at 0 if it is new. If recovery lost
    /// records without knowing whose, a partition that it does not know may have had some of them: it begins
    /// far above any offset they can have had.
    pub fn open_partition(&mut self, partition: PartitionId) -> Extent {
        if self.logs.get(partition).is_none() {
            self.logs.open(partition);
            self.logs.set_epoch(partition, self.superblock.incarnation);
            if self.lost_records {
                let first = OFFSETS_SKIPPED_AFTER_LOSS;
                tracing::warn!(%partition, first, "records may be lost: offsets go on above");
                self.logs.recover_next_offset(partition, first);
                // Logged, or the log would begin at 0 again after the next restart. Where the ring has no
                // room for it, it does, with a hole up to here.
                self.trim_if_room(partition, first);
            }
        }
        self.logs.open(partition)
    }

    /// Forgets a partition and frees its space once this is durable.
    pub fn drop_partition(&mut self, partition: PartitionId) -> Lsn {
        let staged = self.ring.stage(record::kind::DROP, &[&partition.0.to_le_bytes()], true);
        self.logs.drop_partition(partition, staged.lsn);
        staged.lsn
    }

    /// Moves the log start up. Whole segments below it are freed once this is durable.
    pub fn trim(&mut self, partition: PartitionId, log_start: Offset) -> Lsn {
        let payload = LogStart { partition, log_start }.encode();
        let staged = self.ring.stage(record::kind::LOG_START, &[&payload], true);
        self.logs.trim(partition, log_start, staged.lsn);
        staged.lsn
    }

    fn trim_if_room(&mut self, partition: PartitionId, log_start: Offset) {
        let head = self.ring.head_after_all([LogStart { partition, log_start }.encode().len()].into_iter());
        if head <= self.ring.freed_through() + self.shape.capacity() {
            self.trim(partition, log_start);
        } else {
            self.logs.trim(partition, log_start, Lsn(0));
        }
    }

    /// `None` for a partition that is not open.
    #[must_use]
    pub fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.logs.extent(partition)
    }

    /// Open partitions, in order.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.logs.partitions().map(|(partition, _)| partition).collect()
    }

    /// Segments of a partition, oldest first; what is only in the ring counts as one unsealed segment.
    #[must_use]
    pub fn segments(&self, partition: PartitionId) -> Vec<SegmentFacts> {
        self.logs.segments(partition, self.checkpointing.generation())
    }

    /// Changes the size at which this partition's segments are sealed; 0 means the default.
    pub fn set_segment_bytes(&mut self, partition: PartitionId, bytes: u64) {
        self.logs.set_segment_bytes(partition, bytes);
    }

    /// Everything up to here is on stable storage.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.ring.durable()
    }

    /// The last record that was staged.
    #[must_use]
    pub fn staged(&self) -> Lsn {
        self.ring.staged()
    }

    #[must_use]
    pub fn state(&self) -> StorageState {
        match self.fenced {
            Some(fault) => StorageState::Fenced(fault),
            None if self.disk_full || self.files.is_full() => StorageState::Full,
            None => StorageState::Open,
        }
    }

    /// Counts and gauges as of now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let settled = self.settler.counters();
        Counters {
            settled_bytes: settled.run_bytes,
            settled_runs: settled.runs,
            settled_from_memory_bytes: settled.memory_bytes,
            settled_from_ring_bytes: settled.ring_bytes,
            refused: self.refused.get(),
            ring_used_bytes: self.ring.used(),
            staged_bytes: self.ring.staged_bytes() as u64,
            tail_cache_bytes: self.ring.cache().bytes() as u64,
            segments_freed: self.retirer.freed(),
            ..self.counters
        }
    }

    /// Where everything is, for checks and tools.
    #[must_use]
    pub fn logs(&self) -> &PartitionLogs {
        &self.logs
    }
}

pub(crate) fn shape_of(superblock: &Superblock) -> RingShape {
    RingShape {
        wal: superblock.wal,
        file_bytes: superblock.file_bytes,
        files: superblock.files,
        block_bytes: superblock.block_bytes,
    }
}
