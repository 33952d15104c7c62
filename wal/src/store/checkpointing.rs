//! When a checkpoint is wanted, how it is written, and what ring space it frees.
//!
//! A checkpoint is captured at one moment, staged records included, and written only once the ring is durable
//! through that moment; it goes to the older of the two slots. Must never free space before the write and its
//! sync are done.

use bytes::Bytes;
use martlet_core::Instant;

use super::{StorageState, Store};
use crate::io::{FileId, IoFault, IoId, IoOutcome, IoRequest};
use crate::layout::checkpoint::{Checkpoint, RingStart};

/// Owner of these requests in an [`IoId`].
pub(crate) const CHECKPOINT_OWNER: u8 = 0x03;
/// Bytes of one write of a checkpoint.
const WRITE_BYTES_MAX: usize = 1024 * 1024;
/// A checkpoint is worth it when it frees this share of the ring ...
const FREED_SHARE: u64 = 32;
/// Whatever it frees, one is wanted when runs of this share of the ring are known to none: it bounds what
/// recovery looks at.
const NEWS_SHARE: u64 = 2;
/// ... and more than this many eighths of the ring are in use.
const USED_EIGHTHS: u64 = 5;

/// What the two slots hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slots {
    /// Generation of the newest good checkpoint.
    pub(crate) generation: u64,
    /// Where a scan from each slot would start; a damaged slot counts like the good one.
    pub(crate) starts: [u64; 2],
}

#[derive(Debug)]
enum Step {
    Idle,
    /// Waits for the ring to be durable through `snapshot_at`.
    Captured(Box<Checkpoint>),
    Writing {
        ring_start: RingStart,
        data: Bytes,
        written: usize,
        chunk: usize,
        pending: Option<IoId>,
    },
    /// The disk was full.
    Paused {
        checkpoint: Box<Checkpoint>,
        until: Instant,
    },
}

/// The checkpoint machine.
#[derive(Debug)]
pub(crate) struct Checkpointing {
    slots: Slots,
    step: Step,
    /// What is being written, for a retry on a full disk.
    writing: Option<Box<Checkpoint>>,
}

impl Checkpointing {
    pub(crate) fn new(slots: Slots) -> Checkpointing {
        Checkpointing { slots, step: Step::Idle, writing: None }
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.step, Step::Idle)
    }

    pub(crate) fn retry_at(&self) -> Option<Instant> {
        match &self.step {
            Step::Paused { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Whether a checkpoint waits for space on a full disk.
    pub(crate) fn is_paused(&self) -> bool {
        matches!(self.step, Step::Paused { .. })
    }

    /// Generation of the newest durable checkpoint.
    pub(super) fn generation(&self) -> u64 {
        self.slots.generation
    }

    /// Flushes were staged again before they were issued: `ends` pairs old with new ends, rising.
    pub(super) fn positions_moved(&mut self, ends: &[(u64, u64)]) {
        let Step::Captured(checkpoint) = &mut self.step else { return };
        let after = ends.partition_point(|(old, _)| *old <= checkpoint.snapshot_at);
        if let Some((_, new)) = after.checked_sub(1).map(|at| ends[at]) {
            checkpoint.snapshot_at = new;
            checkpoint.durable_through = new;
        }
    }

    /// Ring position below which neither slot needs anything.
    fn freed(&self) -> u64 {
        self.slots.starts[0].min(self.slots.starts[1])
    }
}

impl Store {
    /// Ring position below which nothing is needed for records or, if a snapshot were taken now, for engine
    /// state.
    fn needed_from(&self) -> u64 {
        let durable = self.ring.durable_through();
        self.logs.oldest_position().map_or(durable, |oldest| oldest.min(durable))
    }

    /// Whether ring space should be freed by a checkpoint now: answer with [`Store::provide_checkpoint`].
    #[must_use]
    pub fn checkpoint_wanted(&self) -> bool {
        if !self.checkpointing.is_idle() || matches!(self.state(), StorageState::Fenced(_)) {
            return false;
        }
        let capacity = self.shape.capacity();
        if self.news_bytes >= capacity / NEWS_SHARE || self.superseded_wants_checkpoint() {
            return true;
        }
        // What a checkpoint frees ends where a flush starts; less is no gain, or it would be wanted for ever.
        let start = self.ring.start_below(self.needed_from()).map_or(0, |start| start.position);
        let gain = start.saturating_sub(self.ring.freed_through());
        if self.short_of().is_some_and(|wanted| wanted <= start) {
            return gain > 0;
        }
        gain >= capacity / FREED_SHARE && self.ring.used() * 8 > capacity * USED_EIGHTHS
    }

    /// Takes a checkpoint with the engine's state as of this very moment: everything staged so far is in it.
    /// Ignored while another is being written.
    pub fn provide_checkpoint(&mut self, engine_snapshot: Vec<u8>) {
        if !self.checkpointing.is_idle() || self.fenced.is_some() {
            return;
        }
        self.ring.seal();
        let snapshot_at = self.ring.head();
        let needed = self.logs.oldest_position().map_or(snapshot_at, |oldest| oldest.min(snapshot_at));
        let Some(ring_start) = self.ring.start_below(needed) else { return };
        let (retired_segments, retired_partitions) = self.logs.checkpoint_retired(&self.retirer);
        let generation = self.checkpointing.slots.generation + 1;
        self.logs.captured(generation);
        self.news_bytes = 0;
        self.checkpointing.step = Step::Captured(Box::new(Checkpoint {
            wal: self.superblock.wal,
            generation,
            incarnation: self.superblock.incarnation,
            ring_start,
            snapshot_at,
            durable_through: snapshot_at,
            engine_snapshot: Bytes::from(engine_snapshot),
            partitions: self.logs.checkpoint_state(),
            retired_segments,
            retired_partitions,
            lost_records: self.lost_records && self.settle_all,
        }));
    }

    /// A planted defect: space is free as soon as nothing in memory needs it.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn free_early(&mut self) {
        self.ring.free_early(self.needed_from());
    }

    pub(super) fn poll_checkpoint(&mut self, now: Instant) -> Option<(IoId, IoRequest)> {
        let durable = self.ring.durable_through();
        let machine = &mut self.checkpointing;
        match std::mem::replace(&mut machine.step, Step::Idle) {
            Step::Captured(checkpoint) if durable >= checkpoint.snapshot_at => {
                machine.begin(checkpoint, &self.shape)
            }
            Step::Paused { checkpoint, until } if until <= now => machine.begin(checkpoint, &self.shape),
            other => machine.step = other,
        }
        let Step::Writing { data, written, chunk, pending: pending @ None, .. } = &mut machine.step else {
            return None;
        };
        let end = (*written + WRITE_BYTES_MAX).min(data.len());
        let part = data.slice(*written..end);
        *chunk = part.len();
        let id = self.ids.next(CHECKPOINT_OWNER);
        *pending = Some(id);
        let slot = ((machine.slots.generation + 1) % 2) as u8;
        let file = FileId::Checkpoint(self.shape.wal, slot);
        Some((id, IoRequest::Write { file, offset: *written as u64, data: part, sync: end == data.len() }))
    }

    pub(super) fn complete_checkpoint(&mut self, id: IoId, outcome: &IoOutcome, now: Instant) {
        let Step::Writing { ring_start, data, written, chunk, pending } = &mut self.checkpointing.step else {
            return;
        };
        if *pending != Some(id) {
            return;
        }
        match outcome {
            IoOutcome::Done => {
                *pending = None;
                *written += *chunk;
                if *written < data.len() {
                    return;
                }
                let (start, bytes) = (ring_start.position, data.len() as u64);
                self.checkpointing.finish(start);
                self.logs.free_superseded(self.checkpointing.generation());
                self.counters.checkpoints += 1;
                self.counters.checkpoint_bytes += bytes;
                let freed = self.checkpointing.freed().max(self.ring.freed_through());
                self.ring.free(freed);
            }
            IoOutcome::Failed(IoFault::Full) => {
                let until = now.after(self.config.full_retry_after);
                self.checkpointing.pause(until);
                self.met_full_disk();
            }
            IoOutcome::Failed(fault) => self.fence(*fault),
            _ => self.fence(IoFault::Other(0)),
        }
    }
}

impl Checkpointing {
    fn begin(&mut self, checkpoint: Box<Checkpoint>, shape: &crate::index::RingShape) {
        self.step = Step::Writing {
            ring_start: checkpoint.ring_start,
            data: checkpoint.encode(shape.block_bytes as usize),
            written: 0,
            chunk: 0,
            pending: None,
        };
        self.writing = Some(checkpoint);
    }

    fn finish(&mut self, ring_start: u64) {
        self.slots.generation += 1;
        self.slots.starts[(self.slots.generation % 2) as usize] = ring_start;
        self.step = Step::Idle;
        self.writing = None;
    }

    fn pause(&mut self, until: Instant) {
        self.step = match self.writing.take() {
            Some(checkpoint) => Step::Paused { checkpoint, until },
            None => Step::Idle,
        };
    }
}
