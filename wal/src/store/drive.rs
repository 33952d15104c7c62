//! Requests out, outcomes in, timers: the loop that the pump turns.
//!
//! Order of polling is order of importance: the ring first, then what frees its space, then readers.

use martlet_core::{Instant, Now};

use super::checkpointing::CHECKPOINT_OWNER;
use super::{Ballast, Store};
use crate::config::planted;
use crate::index::IoIds;
use crate::io::{FileId, IoFault, IoId, IoOutcome, IoRequest};
use crate::layout::record;
use crate::ring::files::FILES_OWNER;
use crate::script::SCRIPT_OWNER;

/// Owner of flushes in an [`IoId`].
const RING_OWNER: u8 = 0x01;
/// Owner of requests about the ballast.
const BALLAST_OWNER: u8 = 0x04;

impl Store {
    /// The next request to carry out; call until `None` after every tick. Requests of one call to the next
    /// may be carried out side by side.
    pub fn poll_io(&mut self, now: Now) -> Option<(IoId, IoRequest)> {
        if self.fenced.is_some() {
            return self.poll_reads();
        }
        #[cfg(feature = "planted-bugs")]
        if self.config.planted.reuse_ring_early {
            self.free_early();
        }
        self.poll_ring(now.instant)
            .or_else(|| self.poll_files(now.instant))
            .or_else(|| self.poll_checkpoint(now.instant))
            .or_else(|| self.poll_reads())
            .or_else(|| self.poll_ballast(now.instant))
            .or_else(|| self.poll_settle(now))
            .or_else(|| self.retirer.poll(&mut self.logs, &mut self.ids, self.ring.durable()))
            .or_else(|| self.poll_compaction(now))
    }

    pub(super) fn poll_ring(&mut self, now: Instant) -> Option<(IoId, IoRequest)> {
        self.begin_runs();
        let (ids, files) = (&mut self.ids, &self.files);
        let ready = |position| files.is_ready(position);
        let flush = self.ring.next_flush(|| ids.next(RING_OWNER), ready, &self.config, now)?;
        self.mark_at = None;
        Some(flush)
    }

    fn poll_files(&mut self, now: Instant) -> Option<(IoId, IoRequest)> {
        let head = self.ring.durable_through();
        let unnamed = planted!(self.config, skip_directory_sync);
        self.files.poll(&mut self.ids, head, now, unnamed)
    }

    /// Takes the outcome of a request. Outcomes of a fenced log change nothing but reads.
    pub fn complete(&mut self, id: IoId, outcome: IoOutcome, now: Now) {
        match IoIds::owner(id) {
            IoIds::READ => self.complete_read(id, outcome),
            _ if self.fenced.is_some() => {}
            RING_OWNER => self.complete_flush(id, &outcome, now.instant),
            FILES_OWNER => {
                let retry_at = now.instant.after(self.config.full_retry_after);
                if let Err(fault) = self.files.complete(id, &outcome, retry_at) {
                    self.fence(fault);
                }
            }
            CHECKPOINT_OWNER => self.complete_checkpoint(id, &outcome, now.instant),
            BALLAST_OWNER => self.complete_ballast(id, &outcome, now.instant),
            IoIds::SETTLE => self.complete_settle(id, outcome),
            IoIds::RETIRE => self.retirer.complete(&mut self.logs, id, &outcome),
            SCRIPT_OWNER => self.complete_compaction(id, outcome),
            _ => {}
        }
        self.switch_segments(now);
    }

    fn complete_flush(&mut self, id: IoId, outcome: &IoOutcome, now: Instant) {
        if let IoOutcome::Failed(fault) = outcome {
            return self.fence(*fault);
        }
        let Some(flushed) = self.ring.flushed(id) else { return };
        self.counters.flushes += 1;
        self.counters.flush_bytes += flushed.bytes;
        self.counters.flush_sizes.record(flushed.bytes);
        self.counters.marks += u64::from(flushed.mark);
        self.counters.flush_latency.record(now.since(flushed.issued));
        self.runs_durable(flushed.runs);
        self.settle_durable();
        if self.ring.is_quiet() && self.ring.needs_proof() {
            self.mark_at = Some(now.after(self.config.mark_after));
        }
    }

    /// Fences the log: nothing is written any more in this process, and no file of it is synced again.
    pub(super) fn fence(&mut self, fault: IoFault) {
        if self.fenced.is_none() {
            tracing::error!(wal = %self.superblock.wal, ?fault, "the log is fenced: a write or sync failed");
            self.fenced = Some(fault);
        }
    }

    /// When [`Store::on_timer`] has something to do.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        if self.fenced.is_some() {
            return None;
        }
        let ballast = match self.ballast {
            Ballast::Gone(at) => Some(at),
            _ => None,
        };
        let files = [self.files.retry_at(), self.checkpointing.retry_at(), ballast];
        [self.mark_at, self.reread_at, self.compaction_timer()].into_iter().chain(files).flatten().min()
    }

    /// Does what was due by now. Other timers only make [`Store::poll_io`] yield requests again.
    pub fn on_timer(&mut self, now: Now) {
        if self.mark_at.is_some_and(|at| at <= now.instant) {
            self.mark_at = None;
            self.stage_mark();
        }
    }

    /// Stages a mark if the last flush is without proof and nothing else will prove it.
    fn stage_mark(&mut self) {
        let fits = self.ring.head_after(0) <= self.ring.freed_through() + self.shape.capacity();
        if self.fenced.is_none() && fits && self.ring.is_quiet() && self.ring.needs_proof() {
            self.ring.stage(record::kind::MARK, &[&[]], false);
        }
    }

    /// Ends a process in good order: no more records are admitted, what is staged goes out, a mark proves it,
    /// and a checkpoint with `engine_snapshot` is written. Carry on with `poll_io` until
    /// [`Store::is_closed`].
    pub fn close(&mut self, engine_snapshot: Vec<u8>) {
        self.closing = true;
        self.provide_checkpoint(engine_snapshot);
    }

    /// Whether [`Store::close`] is through, or cannot go on because the log is fenced or the disk is full.
    pub fn is_closed(&mut self) -> bool {
        if self.fenced.is_some() {
            return true;
        }
        if self.closing {
            self.stage_mark();
        }
        let ended = self.checkpointing.is_idle() || self.checkpointing.is_paused();
        self.closing && self.ring.is_quiet() && ended
    }

    /// A segment or checkpoint met a full disk: the ballast makes room, records of clients are refused.
    pub(super) fn met_full_disk(&mut self) {
        self.disk_full = true;
        if self.ballast == Ballast::Held {
            self.ballast = Ballast::Release;
        }
    }

    fn poll_ballast(&mut self, now: Instant) -> Option<(IoId, IoRequest)> {
        let file = FileId::Ballast(self.superblock.wal);
        match self.ballast {
            Ballast::Release => {
                let id = self.ids.next(BALLAST_OWNER);
                self.ballast = Ballast::Releasing(id);
                Some((id, IoRequest::Unlink { file }))
            }
            Ballast::Gone(at) if at <= now => {
                let id = self.ids.next(BALLAST_OWNER);
                self.ballast = Ballast::Taking(id);
                Some((id, IoRequest::Create { file, length: self.config.ballast_bytes, zeroed: false }))
            }
            _ => None,
        }
    }

    fn complete_ballast(&mut self, id: IoId, outcome: &IoOutcome, now: Instant) {
        let later = now.after(self.config.full_retry_after);
        match self.ballast {
            Ballast::Releasing(expected) if expected == id => {
                self.ballast = Ballast::Gone(later);
                self.settler.retry();
            }
            Ballast::Taking(expected) if expected == id => {
                if matches!(outcome, IoOutcome::Failed(_)) {
                    self.ballast = Ballast::Gone(later);
                    self.settler.retry();
                } else {
                    self.ballast = Ballast::Held;
                    self.disk_full = false;
                    self.settler.retry();
                }
            }
            _ => {}
        }
    }
}
