//! Opening a WAL: from checkpoint and ring to a store that serves, or making a new one.
//!
//! Owns the verdict torn or corrupt. Bad data at or below what is proven durable (by a later flush or the
//! checkpoint) is corruption: never cut, reported as holes, later records stay readable. Bad data above it is
//! a torn tail and is cut. Bounded by the ring, not by the data. **Before the store serves**: the incarnation
//! is raised on disk and the last flush, which nothing proves yet, is written again in place and synced.

pub(crate) mod apply;
pub(crate) mod create;
pub(crate) mod inspect;
pub(crate) mod open;
mod parse;
mod reader;
mod runs;
mod scan;
mod take_back;
mod tries;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use martlet_core::{FrameHeader, NodeId, PartitionId, WalId};

pub use create::NewWal;

use crate::config::StoreConfig;
use crate::index::{RecoveredGap, RecoveredPartition};
use crate::io::{FileId, IoFault, IoId, IoOutcome, IoRequest};
use crate::layout::checkpoint::CheckpointError;
use crate::layout::flush::FlushError;
use crate::layout::superblock::SuperblockError;
use crate::script::Script;
use crate::store::Store;

/// Replay items kept for the engine before the scan waits for [`Recovery::take_replay`].
pub const REPLAY_ITEMS_MAX: usize = 16 * 1024;

/// What the engine is told, in log order. The first item is always the snapshot.
#[derive(Clone, PartialEq, Debug)]
pub enum ReplayItem {
    /// The engine's state at the last checkpoint; empty for a new log.
    Snapshot(Bytes),
    /// A frame staged after the snapshot. The body is given for metadata frames only.
    Frame(FrameHeader, Bytes),
    /// A note staged after the snapshot, with its kind.
    Note(u8, Bytes),
}

/// Bytes of the ring, or of runs it refers to, that were proven durable and cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Ring position; for a run the byte in its segment.
    pub position: u64,
    pub bytes: u64,
    pub what: DamageKind,
}

/// What was damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DamageKind {
    /// Whole flushes: whatever they held is gone.
    Flush,
    /// Records of unknown content.
    Records,
    /// The body of a frame; its offsets are known.
    Body,
    /// A note of the engine of this kind.
    Note(u8),
    /// A run of this partition that the ring refers to.
    Run(PartitionId),
}

/// What recovery found.
#[derive(Clone, PartialEq, Debug)]
pub struct RecoveryReport {
    pub wal: WalId,
    pub node: NodeId,
    pub cluster: u128,
    /// The shard that served the log before, and of how many.
    pub shard: u16,
    pub shards: u16,
    pub incarnation: u32,
    pub flushes: u64,
    pub frames: u64,
    pub scanned_bytes: u64,
    /// Ring position at which the log was cut or ended.
    pub head: u64,
    /// A flush was begun there and never completed; nothing in it was acknowledged.
    pub torn: bool,
    pub damage: Vec<Damage>,
    pub holes: Vec<RecoveredGap>,
    pub partitions: Vec<RecoveredPartition>,
    /// Why a checkpoint slot could not be used; the other one was.
    pub bad_slots: Vec<(u8, CheckpointError)>,
}

/// Why a WAL cannot be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    #[error("no checkpoint slot can be read ({0}): restore the files `checkpoint.*` of this log from a copy")]
    NoCheckpoint(CheckpointError),
    #[error(transparent)]
    Flush(#[from] FlushError),
    #[error("{file:?} cannot be used ({fault:?}): check the disk and its free space, then start again")]
    Io { file: FileId, fault: IoFault },
    #[error(
        "{file:?} cannot be read at byte {offset} ({fault:?}), and what is there may have been acknowledged: \
         check the disk and start again; if it stays, copy the file to a good disk with zeros for what \
         cannot be read, which is then reported as lost"
    )]
    Unread { file: FileId, offset: u64, fault: IoFault },
    #[error(
        "{file:?} holds records and was cut to {length} of {expected} bytes: restore it from a copy, or make \
         it {expected} bytes long with zeros, which gives up what was cut off"
    )]
    Cut { file: FileId, length: u64, expected: u64 },
}

/// Opens or makes a WAL. Drive it with `poll_io`, `complete` and `take_replay` until `take_finished` yields.
#[derive(Debug)]
pub struct Recovery {
    script: Script<Result<(Store, RecoveryReport), RecoveryError>>,
    replay: Replay,
}

impl Recovery {
    /// Makes a new WAL. Interrupted at any step, it leaves a directory without a complete superblock, which
    /// [`Recovery::open`] reports as [`SuperblockError::Incomplete`].
    #[must_use]
    pub fn create(new: NewWal, config: StoreConfig) -> Recovery {
        let replay = Replay::default();
        let queue = replay.clone();
        let script = Script::new(|io| async move {
            create::create(&io, &new, &config).await?;
            open::open(io, new.wal, None, config, queue, true).await
        });
        Recovery { script, replay }
    }

    /// Opens an existing WAL. With `placement` (shard, shards), its superblock names that shard from now on.
    #[must_use]
    pub fn open(wal: WalId, placement: Option<(u16, u16)>, config: StoreConfig) -> Recovery {
        let replay = Replay::default();
        let queue = replay.clone();
        let script = Script::new(|io| open::open(io, wal, placement, config, queue, false));
        Recovery { script, replay }
    }

    /// The next request to carry out. `None`: complete those under way, or take the replay.
    pub fn poll_io(&mut self) -> Option<(IoId, IoRequest)> {
        self.script.poll_io()
    }

    pub fn complete(&mut self, id: IoId, outcome: IoOutcome) {
        self.script.complete(id, outcome);
    }

    /// What the engine is told next. Take it in every round: the scan waits when too much is kept.
    pub fn take_replay(&mut self) -> Vec<ReplayItem> {
        let items = std::mem::take(&mut *self.replay.0.borrow_mut());
        if !items.is_empty() {
            self.script.turn();
        }
        items
    }

    /// The store, once everything is done and the replay was taken.
    pub fn take_finished(&mut self) -> Option<Result<(Store, RecoveryReport), RecoveryError>> {
        if !self.replay.0.borrow().is_empty() {
            return None;
        }
        self.script.take_output()
    }
}

/// What was replayed and not yet taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replay(Rc<RefCell<Vec<ReplayItem>>>);

impl Replay {
    pub(crate) fn take(&self) -> Vec<ReplayItem> {
        std::mem::take(&mut *self.0.borrow_mut())
    }

    fn push(&self, item: ReplayItem) {
        self.0.borrow_mut().push(item);
    }

    /// Waits until the queue is under its bound.
    async fn room(&self) {
        std::future::poll_fn(|_| {
            if self.0.borrow().len() < REPLAY_ITEMS_MAX {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}
