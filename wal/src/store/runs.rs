//! The big-batch path: when much is queued for one partition, its frames are written as runs of its segment
//! before they are acknowledged, and never into the ring.
//!
//! - **Choice**, at append: the bytes staged and not durable for the partition, the new frame included, reach
//!   `big_batch_bytes_min`; then on until a run with less ends, so that a window of batches that is answered
//!   at once does not begin in the ring again. Frames staged before stay where they are. Not chosen: metadata
//!   frames (recovery hands their bodies to the engine), partitions whose frames are being carried, and
//!   partitions of which the ring holds more than [`BEFORE_BYTES_MAX`], which are settled at once instead.
//! - **Order**: the frame's header takes its place among the records, with its own Lsn; its flush waits until
//!   the runs are synced (see `ring::held`). So a prefix becomes durable, over the whole shard and in each
//!   partition, a snapshot of the engine cuts the log between two records as always, and recovery replays
//!   headers from the ring alone.
//! - **Memory**: bodies are held as they came and copied once, into the aligned buffer of the run. They count
//!   as staged until their flush is durable. What was written is kept for readers at the tail.
//! - **Index**: runs count when their flush is durable, in that very step, so that no reader falls between.
//!   The partition is busy until then: nobody else writes its segment. A checkpoint captured meanwhile does
//!   not know the runs; the frames' entries keep its scan of the ring from starting behind their RUN_REF.
//! - **RUN_REF** names the partition's log start as it was when the run began (a later trim takes effect by
//!   its own record only, and takes no segment away until the run has ended) and every segment that one of
//!   the last two checkpoints may not know as it is, so that recovery has all of them whichever slot is good,
//!   settles included that were never logged.
//! - **Failure** (a full disk, a failed write or sync, a partition that was dropped or trimmed of its files):
//!   nothing was issued, so the flush and all behind it are staged again with the bodies in the ring, whose
//!   space was kept free for that. The segment's fault fences its partition, as with settling.

use bytes::Bytes;
use martlet_core::frame::format;
use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, PartitionId};

use super::{StorageState, Store};
use crate::index::FrameEntry;
use crate::ring::{DurableRun, HeldState, LandedRun, Staged};
use crate::settle::{Landed, RunBegin};

/// Bytes of a partition that the ring may hold when its next frames go into a run: they are settled before
/// it, and the flush waits for that too.
const BEFORE_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Store {
    /// Whether the next frame goes into a run. Asked once for every frame.
    pub(super) fn goes_into_run(&mut self, header: &FrameHeader) -> bool {
        if header.format == format::METADATA || self.state() != StorageState::Open || self.settler.full() {
            return false;
        }
        let length = FRAME_HEADER_BYTES as u64 + u64::from(header.body_length);
        let bounds = (self.config.big_batch_bytes_min, BEFORE_BYTES_MAX);
        let (durable, generation) = (self.ring.durable_through(), self.checkpointing.generation());
        self.logs.wants_run(PartitionId(header.partition), length, bounds, durable, generation)
            && self.ring.has_room_for_run(length)
    }

    pub(super) fn stage_in_run(&mut self, header: &FrameHeader, body: &Bytes) -> Staged {
        let partition = PartitionId(header.partition);
        let last = self.logs.last_position(partition);
        let log_start = self.logs.extent(partition).map_or(0, |extent| extent.log_start);
        let (staged, first) = self.ring.stage_in_run(partition, header, body, (last, log_start));
        let entry = FrameEntry::of(header, staged.position);
        self.logs.stage(partition, header.epoch, entry);
        self.logs.staged_in_run(partition, u64::from(entry.length), first);
        staged
    }

    /// Begins to write the runs of the flush that is next, or stages it again if that cannot be.
    pub(super) fn begin_runs(&mut self) {
        if self.ring.run_bytes() == 0 {
            return;
        }
        let durable = self.ring.durable_through();
        let mut refused = false;
        for run in self.ring.front_runs() {
            if !matches!(run.state, HeldState::Waiting) {
                continue;
            }
            match self.settler.begin_run(&mut self.logs, run.partition, &run.frames, durable) {
                RunBegin::Begun => run.state = HeldState::Writing,
                RunBegin::Wait => {}
                RunBegin::Refused => refused = true,
            }
        }
        if refused {
            self.unravel();
        }
    }

    /// Takes runs that were written, or could not be; `false` if there were none.
    pub(super) fn land_runs(&mut self) -> bool {
        let landed = self.settler.take_landed();
        let any = !landed.is_empty();
        let mut failed = false;
        for Landed { partition, runs } in landed {
            let Some((written, data)) = runs else {
                failed = true;
                continue;
            };
            let run = self.ring.front_runs().iter_mut().find(|run| run.partition == partition);
            let log_start = run.as_ref().map_or(0, |run| run.log_start);
            let state = self.logs.run_reference(&written, log_start, self.checkpointing.generation());
            match (state, run) {
                (Some(state), Some(run)) => {
                    let reference = state.encode();
                    run.state = HeldState::Landed(LandedRun { written, reference, data });
                }
                _ => {
                    self.logs.settle_failed(partition, false, self.ring.staged());
                    failed = true;
                }
            }
        }
        if failed {
            self.unravel();
        }
        any
    }

    /// The frames of all runs that were not issued go through the ring after all.
    fn unravel(&mut self) {
        let moved = self.ring.unravel();
        self.counters.big_runs_undone += moved.runs.len() as u64;
        self.settler.unravelled(&moved.payloads);
        for run in &moved.runs {
            self.logs.run_ended(run.partition, run.bytes, u64::MAX, self.ring.staged());
            if let HeldState::Landed(_) = run.state {
                self.logs.settle_failed(run.partition, false, self.ring.staged());
            }
        }
        self.logs.positions_moved(&moved.payloads);
        self.checkpointing.positions_moved(&moved.ends);
    }

    /// The flush of these runs is durable: their frames are read from the segment from now on.
    pub(super) fn runs_durable(&mut self, runs: Vec<DurableRun>) {
        for DurableRun { partition, bytes, landed } in runs {
            let LandedRun { written, data, .. } = landed;
            self.counters.big_runs += written.runs.len() as u64;
            let length: u64 = written.runs.iter().map(|run| u64::from(run.length)).sum();
            self.counters.big_run_bytes += length;
            self.news_bytes += length;
            self.logs.run_ended(partition, bytes, self.config.big_batch_bytes_min, self.ring.staged());
            self.logs.run_written(&written, self.ring.staged());
            self.reader.written(written.segment, data);
        }
    }
}
