//! Where the store meets settling and reading.

use martlet_core::{Now, Offset, PartitionId};

use super::Store;
use crate::config::StoreConfig;
use crate::index::{EagerLimits, GatherLimits, RingShape};
use crate::io::{IoId, IoOutcome, IoRequest};
use crate::layout::record;
use crate::read::{ReadEnd, ReadId, ReadStart, Reader};
use crate::settle::{GATHER_BYTES_MAX, JOB_RUNS_MAX, RingView, SettleConfig, Settler};

/// Frames that are this many thirty-seconds of the ring behind the head are settled. Late, so that partitions
/// with little traffic gather whole runs; early enough for two checkpoints to follow before clients have to
/// wait.
const SETTLE_BEHIND: u64 = 22;
const SETTLE_BEHIND_OF: u64 = 32;
/// What partitions with little are taken for, in shares of the smallest run ...
const LITTLE_SHARE: u64 = 2;
/// ... and how much earlier than that, in thirty-seconds of the ring, settling begins for them at most.
const SETTLE_EARLIER: u64 = 4;
/// Settling has time as long as less than this many thirty-seconds of the ring are in use.
const HURRY_ABOVE: u64 = 24;
/// What is settled is free but for this share of the ring at most: a checkpoint for less is not worth it.
const FREED_LATE_SHARE: u64 = 16;

pub(super) fn settler(shape: RingShape, config: &StoreConfig) -> Settler {
    Settler::new(SettleConfig::of(config), shape)
}

/// Who is settled from memory: a whole job at once; less when a quarter of the tail cache went by, so that
/// there is time left for it.
pub(super) fn eager_limits(config: &StoreConfig) -> EagerLimits {
    let quarter = config.tail_cache_bytes as u64 / 4;
    EagerLimits {
        bytes_min: config.eager_bytes_min(),
        age_min: quarter,
        bytes_full: (config.settle_job_bytes_max * JOB_RUNS_MAX).min(quarter),
    }
}

/// What is gathered: frames that leave the tail cache before they are settled, shortly before they do. A ring
/// that is not much larger than the cache is settled from memory anyway.
pub(super) fn gather_limits(config: &StoreConfig, shape: RingShape) -> GatherLimits {
    let cache = config.tail_cache_bytes as u64;
    if cache == 0 || cache * 2 > shape.capacity() / SETTLE_BEHIND_OF * SETTLE_BEHIND {
        return GatherLimits::default();
    }
    GatherLimits {
        gap_min: config.gather_gap_bytes,
        age_min: cache - cache / 8,
        plan_bytes_max: GATHER_BYTES_MAX.min(cache / 8),
    }
}

pub(super) fn reader(shape: RingShape, config: &StoreConfig) -> Reader {
    Reader::new(config, shape)
}

impl Store {
    /// Bytes that may be logged again now: not so many that marks and the padding of flushes find no space;
    /// what cannot be flushed cannot be covered by a checkpoint either.
    fn free_to_carry(&self) -> u64 {
        if self.carry_refused_at == Some(self.ring.freed_through()) {
            return 0;
        }
        let capacity = self.shape.capacity();
        let free = capacity.saturating_sub(self.ring.used()).saturating_sub(capacity / 32);
        let staging = self.config.staging_bytes_max.saturating_sub(self.ring.staged_bytes()) as u64;
        (free / 2).min(staging)
    }

    /// Frames below this position are settled because the head comes near. The oldest frames of many
    /// partitions may lie side by side, and before the first of them is free all of these may have to be
    /// carried: there must be room for that.
    fn settle_below(&self) -> u64 {
        let part = self.shape.capacity() / SETTLE_BEHIND_OF;
        self.ring.head().saturating_sub(part * SETTLE_BEHIND - self.earlier())
    }

    /// Bytes by which settling begins earlier, because many partitions have something in the ring. What is
    /// carried comes back to the head; if each carry pads a flush of its own, and needs a mark, all of them
    /// must still fit between where settling begins and the head, or they are carried round and round.
    fn earlier(&self) -> u64 {
        let part = self.shape.capacity() / SETTLE_BEHIND_OF;
        let count = self.logs.unsettled_count() as u64;
        let little = count * (self.config.settle_run_bytes_min / LITTLE_SHARE);
        let padding = 2 * count * u64::from(self.shape.block_bytes);
        little.min(part * SETTLE_EARLIER).min((part * SETTLE_BEHIND).saturating_sub(padding))
    }

    /// Ring position that must be free for a write that was refused, where settling behind the head alone
    /// does not get there: a large frame that does not fit the rest of its file wastes that. Only a head that
    /// moves on would have more settled, and while the write waits it may stand still.
    pub(super) fn short_of(&self) -> Option<u64> {
        let wanted = self.wanted_free.get();
        let reach = self.settle_below().saturating_sub(self.shape.capacity() / FREED_LATE_SHARE);
        (wanted > self.ring.freed_through() && wanted > reach).then_some(wanted)
    }

    fn ring_view(&self) -> RingView {
        let room = if self.settle_all { 0 } else { self.free_to_carry() };
        let short = self.short_of().map(|wanted| self.ring.start_from(wanted));
        let needed_below =
            if self.settle_all { u64::MAX } else { self.settle_below().max(short.unwrap_or(0)) };
        // What is carried moves the head on, and takes the room that it makes.
        let carried_max = if short.is_some() { 0 } else { self.shape.capacity() / 2 - self.earlier() };
        RingView {
            needed_below,
            durable: self.ring.durable_through(),
            head: self.ring.head(),
            cached_from: self.ring.cache().held_from(),
            eager: !self.closing && !self.disk_full,
            hurry: short.is_some()
                || self.settle_all
                || self.ring.used() > self.shape.capacity() / SETTLE_BEHIND_OF * HURRY_ABOVE,
            carry_room: room.min(carried_max.saturating_sub(self.logs.carried_bytes())),
            fenced_room: room,
            after: self.ring.staged(),
        }
    }

    /// A disk that fails reads is asked again, but not without pause.
    fn reread(&mut self, now: Now) {
        match self.reread_at {
            None if self.settler.unread() => {
                self.reread_at = Some(now.instant.after(self.config.full_retry_after));
            }
            Some(at) if at <= now.instant => {
                self.reread_at = None;
                self.settler.retry_reads();
            }
            _ => {}
        }
    }

    pub(super) fn poll_settle(&mut self, now: Now) -> Option<(IoId, IoRequest)> {
        self.reread(now);
        loop {
            let view = self.ring_view();
            let request = self.settler.poll(&mut self.logs, &mut self.ids, self.ring.cache(), &view);
            let landed = self.land_runs();
            if !self.log_carries() && !landed {
                return request;
            }
            if request.is_some() {
                return request;
            }
            if let Some(flush) = self.poll_ring(now.instant) {
                return Some(flush);
            }
        }
    }

    /// Logs again what settling hands over; `false` if there was nothing.
    fn log_carries(&mut self) -> bool {
        let mut any = false;
        while let Some(job) = self.settler.take_carry() {
            any = true;
            let mut positions = Vec::with_capacity(job.frames.len());
            if self.logs.get(job.partition).is_none() {
                // Dropped meanwhile: logged after its DROP, the frames would come back to life.
                let held: Vec<u64> = job.frames.iter().map(|(entry, _)| entry.position).collect();
                self.settler.carry_logged(&job, &held);
                continue;
            }
            // What is staged must fit: a flush that waits for free space is one that no checkpoint can cover,
            // and only a checkpoint frees space.
            let head = self.ring.head_after_all(job.frames.iter().map(|(_, frame)| frame.length()));
            let head = head + self.ring.unravelled_bytes_max(0);
            if head > self.ring.freed_through() + self.shape.capacity() {
                self.carry_refused_at = Some(self.ring.freed_through());
                self.settler.carry_refused(&mut self.logs, &job);
                continue;
            }
            for (_, frame) in &job.frames {
                let parts = [&frame.header[..], &frame.body[..]];
                positions.push(self.ring.stage(record::kind::CARRY, &parts, false).position);
                self.counters.carried_bytes += (frame.header.len() + frame.body.len()) as u64;
            }
            self.settler.carry_logged(&job, &positions);
        }
        any
    }

    pub(super) fn complete_settle(&mut self, id: IoId, outcome: IoOutcome) {
        let after = self.ring.staged();
        self.settler.complete(&mut self.logs, id, outcome, after);
        self.land_runs();
        if self.settler.full() {
            self.met_full_disk();
        }
    }

    /// The ring's durable position moved: carried frames may be at their new places.
    pub(super) fn settle_durable(&mut self) {
        self.settler.on_durable(&mut self.logs, self.ring.durable_through());
    }

    /// Reads frames of `[from, upto)`, at most `bytes_max` bytes but at least one frame. `upto` must be
    /// durable.
    pub fn read(&mut self, partition: PartitionId, from: Offset, upto: Offset, bytes_max: u32) -> ReadStart {
        let bytes_max = u64::from(bytes_max);
        self.reader.read(&mut self.logs, self.ring.cache(), partition, (from, upto), bytes_max)
    }

    /// Finds the first frame below `upto` whose largest timestamp is at or after `time`, wall milliseconds.
    pub fn find_time(&mut self, partition: PartitionId, time: i64, upto: Offset) -> ReadStart {
        self.reader.find_time(&mut self.logs, self.ring.cache(), partition, time, upto)
    }

    /// Reads that ended since the last call.
    pub fn take_finished_reads(&mut self) -> Vec<(ReadId, ReadEnd)> {
        self.reader.take_finished()
    }

    /// Nobody waits for this read any more.
    pub fn cancel_read(&mut self, read: ReadId) {
        self.reader.cancel(read);
    }

    pub(super) fn poll_reads(&mut self) -> Option<(IoId, IoRequest)> {
        self.reader.poll(&mut self.ids)
    }

    pub(super) fn complete_read(&mut self, id: IoId, outcome: IoOutcome) {
        self.reader.complete(&mut self.logs, self.ring.cache(), id, outcome);
    }
}
