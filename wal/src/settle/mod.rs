//! Settling: frames leave the ring for runs of their partition's segment, or are carried to the ring's head.
//!
//! Owns the jobs under way and their bounds. Must never write a block that holds settled bytes of the index,
//! and must never tell the index of a run before the segment and its name are synced. Ring space is not freed
//! here: that takes a durable checkpoint.
//!
//! A flush that waits for runs (see `ring`) has them written here, by jobs like any other, so that a
//! segment has one writer at a time: [`Settler::begin_run`], then [`Settler::take_landed`]. Such a job writes
//! first what the ring still holds of the partition, since offsets of a segment rise. The index hears of its
//! runs only when the flush is durable, and the partition stays busy until then.

mod collect;
mod job;
mod prepare;

#[cfg(test)]
mod fence_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_core::{Lsn, PartitionId};

use crate::config::StoreConfig;
use crate::index::{
    FrameCache, FrameEntry, GatherView, IoIds, PartitionLogs, RingShape, RunEntry, RunPlan, SettleLimits,
    SettleMove, SettlePlan, WrittenRuns,
};
use crate::io::{IoFault, IoId, IoOutcome, IoRequest};
use crate::layout::run::FrameBytes;
use job::{Job, JobEnd, JobKind};

/// Settles and carries under way at a time, those that gather apart.
pub const SETTLE_JOBS_MAX: usize = 16;
/// Of these, settles whose space is needed, as long as the ring has room for a while.
const LEISURE_JOBS_MAX: usize = 6;
/// Partitions at a time whose scattered frames are logged again while they are in memory: each waits for a
/// flush.
const GATHER_JOBS_MAX: usize = 32;
/// Bytes of one of these.
pub(crate) const GATHER_BYTES_MAX: u64 = 64 * 1024;
/// Of these, settles of partitions that have much while it is still in memory. Few, so that the disk's queue
/// stays short for the flush in flight; two, so that one writes while the other syncs.
const EAGER_JOBS_MAX: usize = 2;
/// Runs of [`SettleConfig::run_bytes_max`] that one job may write before its sync.
pub(crate) const JOB_RUNS_MAX: u64 = 4;

/// Bounds of settling.
#[derive(Clone, Copy, Debug)]
pub struct SettleConfig {
    /// A partition with fewer unsettled bytes is carried.
    pub run_bytes_min: u64,
    /// Bytes of one run, unless one frame alone is larger.
    pub run_bytes_max: u64,
    /// Bytes of all jobs under way.
    pub in_flight_bytes_max: u64,
    /// Whether partitions with much unsettled are settled before their ring space is needed.
    pub eager: bool,
    /// Size at which a segment is sealed.
    pub segment_bytes: u64,
    /// Planted defect: a run starts in the last block of the one before.
    settle_overwrites: bool,
    /// Planted defect: new names are not made durable.
    skip_directory_sync: bool,
    check_body: bool,
}

impl SettleConfig {
    #[must_use]
    pub fn of(config: &StoreConfig) -> SettleConfig {
        SettleConfig {
            run_bytes_min: config.settle_run_bytes_min,
            run_bytes_max: config.settle_job_bytes_max,
            in_flight_bytes_max: config.settle_in_flight_bytes_max,
            eager: config.eager_bytes_min() > 0,
            segment_bytes: config.segment_bytes,
            settle_overwrites: crate::config::planted!(config, settle_overwrites),
            skip_directory_sync: crate::config::planted!(config, skip_directory_sync),
            check_body: !crate::config::planted!(config, skip_checksum),
        }
    }

    /// Share of the bytes under way that is kept for eager settling.
    fn eager_bytes_max(&self) -> u64 {
        if self.eager { self.in_flight_bytes_max / 2 } else { 0 }
    }
}

/// The ring as it is when the settler is polled.
#[derive(Clone, Copy, Debug)]
pub struct RingView {
    /// Positions below this one must leave the ring; `u64::MAX` settles everything.
    pub needed_below: u64,
    /// Everything below this position is durable.
    pub durable: u64,
    /// First position after everything staged.
    pub head: u64,
    /// Frames from this position on are in memory.
    pub cached_from: u64,
    /// Partitions with much unsettled are settled before their space is needed, scattered frames gathered.
    pub eager: bool,
    /// Little of the ring is free: what is needed is settled as fast as it goes, and not beside the flushes.
    pub hurry: bool,
    /// Bytes that may be logged again now without new space being freed; 0 forbids to carry.
    pub carry_room: u64,
    /// The same without the bound of half of the ring, for partitions that cannot be settled any more.
    pub fenced_room: u64,
    /// Last record staged: files that become unreachable wait for it.
    pub after: Lsn,
}

/// Frames to be logged again.
#[derive(Clone, Debug)]
pub struct CarryJob {
    pub job: u64,
    pub partition: PartitionId,
    pub frames: Vec<(FrameEntry, FrameBytes)>,
}

/// How the runs of a flush ended.
#[derive(Debug)]
pub struct Landed {
    pub partition: PartitionId,
    /// The runs with their bytes; `None` if they could not be written.
    pub runs: Option<(WrittenRuns, Vec<(RunEntry, Bytes)>)>,
}

/// Whether the runs of a flush are being written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunBegin {
    Begun,
    /// Another settle of the partition is under way: ask again when that has ended.
    Wait,
    /// They will not be written.
    Refused,
}

/// What was settled in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SettleCounters {
    pub runs: u64,
    pub run_bytes: u64,
    /// Bytes of settled frames that were still in memory.
    pub memory_bytes: u64,
    /// Bytes of settled frames that were read back from the ring.
    pub ring_bytes: u64,
    pub carried_frames: u64,
    pub carried_bytes: u64,
    pub damaged_frames: u64,
    /// Jobs that ended without effect because the disk failed a read.
    pub unread_jobs: u64,
    pub fenced_partitions: u64,
}

/// The settle machine of one store.
#[derive(Debug)]
pub struct Settler {
    config: SettleConfig,
    shape: RingShape,
    jobs: BTreeMap<u64, Job>,
    flying: BTreeMap<IoId, u64>,
    last_job: u64,
    landed: Vec<Landed>,
    full: bool,
    /// An eager settle met a full disk: no other is tried before one that the ring needs succeeds.
    eager_full: bool,
    /// Something could not be read: nothing is begun until [`Settler::retry_reads`].
    unread: bool,
    last_fault: Option<(PartitionId, IoFault)>,
    counters: SettleCounters,
}

impl Settler {
    #[must_use]
    pub fn new(config: SettleConfig, shape: RingShape) -> Settler {
        Settler {
            config,
            shape,
            jobs: BTreeMap::new(),
            flying: BTreeMap::new(),
            last_job: 0,
            landed: Vec::new(),
            full: false,
            eager_full: false,
            unread: false,
            last_fault: None,
            counters: SettleCounters::default(),
        }
    }

    /// The next request, if one may be issued now. Jobs are begun as the ring demands and the bounds allow.
    pub fn poll(
        &mut self,
        logs: &mut PartitionLogs,
        ids: &mut IoIds,
        tail: &dyn FrameCache,
        view: &RingView,
    ) -> Option<(IoId, IoRequest)> {
        loop {
            if let Some(found) = self.poll_jobs(logs, ids, tail, view.after) {
                return Some(found);
            }
            if !self.begin(logs, view) {
                return None;
            }
        }
    }

    fn poll_jobs(
        &mut self,
        logs: &mut PartitionLogs,
        ids: &mut IoIds,
        tail: &dyn FrameCache,
        after: Lsn,
    ) -> Option<(IoId, IoRequest)> {
        let waiting = self.jobs.iter().filter(|(_, job)| !job.flying).map(|(number, _)| *number);
        let waiting: Vec<u64> = waiting.collect();
        for number in waiting {
            let Some(job) = self.jobs.get_mut(&number) else { continue };
            if let Some(request) = job.request(logs, tail, &self.config, &self.shape) {
                let id = ids.next(IoIds::SETTLE);
                job.flying = true;
                self.flying.insert(id, number);
                return Some((id, request));
            }
            self.finish(logs, number, after);
        }
        None
    }

    /// Begins another job; `false` if none is needed or none may.
    fn begin(&mut self, logs: &mut PartitionLogs, view: &RingView) -> bool {
        if self.full || self.unread {
            return false;
        }
        let carrying = self.jobs.values().filter(|job| job.how == SettleMove::Carry);
        let carrying: u64 = carrying.map(|job| job.bytes).sum();
        let half = (self.shape.capacity() / 2).saturating_sub(logs.carried_bytes() + carrying);
        let carry_room = view.carry_room.saturating_sub(carrying).min(half);
        let (gathering, _) = self.under_way(JobKind::Gather);
        if let Some(plan) = self.plan_gather(logs, view, carry_room, gathering) {
            self.start(plan, JobKind::Gather);
            return true;
        }
        if self.jobs.len() - gathering >= SETTLE_JOBS_MAX {
            return false;
        }
        if let Some(plan) = self.plan_eager(logs, view) {
            self.start(plan, JobKind::Eager);
            return true;
        }
        let bytes_max = self.config.in_flight_bytes_max - self.config.eager_bytes_max();
        let (lazy, lazy_bytes) = self.under_way(JobKind::Needed);
        let left = bytes_max.saturating_sub(lazy_bytes);
        let needed = self.jobs.values().filter(|job| job.kind == JobKind::Needed);
        let writing = needed.filter(|job| job.how == SettleMove::Run).count();
        if !view.hurry && writing >= LEISURE_JOBS_MAX || left == 0 && lazy > 0 {
            return false;
        }
        let plan = logs.plan_settle(&SettleLimits {
            needed_below: view.needed_below,
            durable: view.durable,
            run_bytes_min: self.config.run_bytes_min,
            job_bytes_max: left.min(self.config.run_bytes_max * JOB_RUNS_MAX),
            carry_room,
            fenced_room: view.fenced_room.saturating_sub(carrying),
        });
        let Some(plan) = plan else { return false };
        self.start(plan, JobKind::Needed);
        true
    }

    /// Whose scattered frames are logged again next. It comes before all else, since it costs no request and
    /// the frames do not stay in memory.
    fn plan_gather(
        &self,
        logs: &mut PartitionLogs,
        view: &RingView,
        room: u64,
        gathering: usize,
    ) -> Option<SettlePlan> {
        if !view.eager || gathering >= GATHER_JOBS_MAX {
            return None;
        }
        let RingView { head, durable, cached_from, .. } = *view;
        logs.plan_gather(&GatherView { head, durable, cached_from, room })
    }

    /// What is settled from memory next. It comes before what the ring needs, since it does not stay in
    /// memory, and has bounds of its own.
    fn plan_eager(&self, logs: &mut PartitionLogs, view: &RingView) -> Option<SettlePlan> {
        let (jobs, bytes) = self.under_way(JobKind::Eager);
        let left = self.config.eager_bytes_max().saturating_sub(bytes);
        let too_little = jobs > 0 && left < self.config.run_bytes_max;
        if !view.eager || self.eager_full || jobs >= EAGER_JOBS_MAX || too_little {
            return None;
        }
        logs.plan_eager(view.durable, left.min(self.config.run_bytes_max * JOB_RUNS_MAX))
    }

    /// Jobs under way of one kind, those of runs apart, and their bytes.
    fn under_way(&self, kind: JobKind) -> (usize, u64) {
        let jobs = self.jobs.values().filter(|job| job.kind == kind && job.data.is_none());
        jobs.fold((0, 0), |(count, bytes), job| (count + 1, bytes + job.bytes))
    }

    fn start(&mut self, plan: SettlePlan, kind: JobKind) {
        self.last_job += 1;
        self.jobs.insert(self.last_job, Job::new(self.last_job, plan, kind, self.config.check_body));
    }

    /// Begins to write the runs of a flush: `frames` of one partition, and before them what the ring holds of
    /// it, which is durable at ring position `durable`. Not bounded by the other jobs: the flush waits.
    ///
    /// # Panics
    /// If there is no frame.
    pub fn begin_run(
        &mut self,
        logs: &mut PartitionLogs,
        partition: PartitionId,
        frames: &[(FrameEntry, FrameBytes)],
        durable: u64,
    ) -> RunBegin {
        assert!(!frames.is_empty(), "a run has frames");
        if !self.takes_runs() {
            return RunBegin::Refused;
        }
        let mut plan = match logs.plan_run(partition, frames[0].0.base_offset, durable) {
            RunPlan::Ready(plan) => plan,
            RunPlan::Busy => return RunBegin::Wait,
            RunPlan::Refused => return RunBegin::Refused,
        };
        plan.bytes += frames.iter().map(|(entry, _)| u64::from(entry.length)).sum::<u64>();
        self.last_job += 1;
        let job = Job::of_run(self.last_job, plan, frames.to_vec(), self.config.check_body);
        self.jobs.insert(self.last_job, job);
        RunBegin::Begun
    }

    /// Whether runs would be begun now.
    #[must_use]
    pub fn takes_runs(&self) -> bool {
        !self.full && !self.unread
    }

    /// Runs of flushes that ended since the last call. Their partitions stay busy if they were written.
    pub fn take_landed(&mut self) -> Vec<Landed> {
        std::mem::take(&mut self.landed)
    }

    /// The frames of runs under way went through the ring after all, and everything staged from there on has
    /// other positions: pairs of old and new ones, rising. What is being written still ends, without effect.
    pub fn unravelled(&mut self, moved: &[(u64, u64)]) {
        for job in self.jobs.values_mut() {
            job.abandoned = job.data.is_some();
            job.positions_moved(moved);
        }
    }

    /// Takes the outcome of a request of [`Self::poll`]. `after` is the last record staged.
    pub fn complete(&mut self, logs: &mut PartitionLogs, id: IoId, outcome: IoOutcome, after: Lsn) {
        let Some(number) = self.flying.remove(&id) else { return };
        let Some(job) = self.jobs.get_mut(&number) else { return };
        job.flying = false;
        job.complete(logs, outcome, &self.config);
        self.finish(logs, number, after);
    }

    fn finish(&mut self, logs: &mut PartitionLogs, number: u64, after: Lsn) {
        let Some(end) = self.jobs.get_mut(&number).and_then(Job::take_end) else { return };
        let Some(job) = self.jobs.remove(&number) else { return };
        self.counters.damaged_frames += job.damaged.len() as u64;
        let begun = match &end {
            JobEnd::Settled(written) => Some(written.segment),
            _ => job.written.as_ref().map(|written| written.segment),
        };
        let partition = job.partition;
        let awaited = job.data.is_some() && !job.abandoned;
        match end {
            JobEnd::Settled(_) if job.abandoned => logs.settle_failed(partition, false, after),
            JobEnd::Settled(written) if awaited => {
                self.count(&written);
                let runs = Some((written, job.data.unwrap_or_default()));
                self.landed.push(Landed { partition, runs });
                return;
            }
            JobEnd::Settled(written) => {
                self.eager_full &= job.kind == JobKind::Eager;
                self.counters.memory_bytes += job.memory_bytes;
                self.counters.ring_bytes += job.ring_bytes;
                self.count(&written);
                logs.run_written(&written, after);
                return;
            }
            JobEnd::Carried(moved) => {
                self.counters.carried_frames += moved.len() as u64;
                self.counters.carried_bytes += if moved.is_empty() { 0 } else { job.bytes };
                logs.carried(job.partition, &moved);
                return;
            }
            JobEnd::Dropped => {}
            JobEnd::Full => {
                // Nothing needs the space that an eager settle frees yet: clients are not refused for it.
                self.eager_full |= job.kind == JobKind::Eager;
                self.full |= job.kind != JobKind::Eager;
                logs.settle_failed(job.partition, false, after);
            }
            JobEnd::Unread(fault) => {
                self.unread = true;
                self.last_fault = Some((job.partition, fault));
                self.counters.unread_jobs += 1;
                logs.settle_failed(job.partition, false, after);
            }
            JobEnd::Fenced(fault) => {
                self.last_fault = Some((job.partition, fault));
                self.counters.fenced_partitions += 1;
                logs.settle_failed(job.partition, true, after);
            }
        }
        if awaited {
            self.landed.push(Landed { partition, runs: None });
        }
        if let (Some(name), None) = (begun, logs.get(partition)) {
            logs.retire_segment(name, after);
        }
    }

    fn count(&mut self, written: &WrittenRuns) {
        self.counters.runs += written.runs.len() as u64;
        self.counters.run_bytes += written.runs.iter().map(|run| u64::from(run.length)).sum::<u64>();
    }

    /// Frames that must be logged again, at their old offsets; answered by [`Self::carry_logged`].
    pub fn take_carry(&mut self) -> Option<CarryJob> {
        self.jobs.values_mut().find_map(|job| {
            let frames = job.take_carry()?;
            Some(CarryJob { job: job.number, partition: job.partition, frames })
        })
    }

    /// Where the frames of a [`CarryJob`] were logged: the ring positions of their headers, in its order.
    /// The index follows when they are durable.
    ///
    /// # Panics
    /// If there is not one position for each frame.
    pub fn carry_logged(&mut self, carry: &CarryJob, positions: &[u64]) {
        assert!(carry.frames.len() == positions.len(), "every carried frame has a position");
        let Some(job) = self.jobs.get_mut(&carry.job) else { return };
        let ends = carry.frames.iter().zip(positions).map(|((entry, _), at)| at + u64::from(entry.length));
        let durable_needed = ends.max().unwrap_or(0);
        let moved = carry.frames.iter().zip(positions).map(|((entry, _), at)| (entry.base_offset, *at));
        job.carry_logged(moved.collect(), durable_needed);
    }

    /// The frames of a [`CarryJob`] do not fit into the ring now: they stay where they are.
    pub fn carry_refused(&mut self, logs: &mut PartitionLogs, carry: &CarryJob) {
        if let Some(job) = self.jobs.get_mut(&carry.job) {
            job.carry_refused();
        }
        self.finish(logs, carry.job, Lsn(0));
    }

    /// Everything below ring position `durable` is durable now.
    pub fn on_durable(&mut self, logs: &mut PartitionLogs, durable: u64) {
        let numbers: Vec<u64> = self.jobs.keys().copied().collect();
        for number in numbers {
            if let Some(job) = self.jobs.get_mut(&number).filter(|job| job.how == SettleMove::Carry) {
                job.on_durable(durable);
            }
            if self.jobs.get(&number).is_some_and(|job| job.how == SettleMove::Carry) {
                self.finish(logs, number, Lsn(0));
            }
        }
    }

    /// Whether settling stopped because the disk is full.
    #[must_use]
    pub fn full(&self) -> bool {
        self.full
    }

    /// Whether settling stopped because something could not be read.
    #[must_use]
    pub fn unread(&self) -> bool {
        self.unread
    }

    /// What could not be read may be readable again: settling goes on.
    pub fn retry_reads(&mut self) {
        self.unread = false;
    }

    /// Space may be there again: settling goes on.
    pub fn retry(&mut self) {
        self.full = false;
        self.eager_full = false;
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    #[must_use]
    pub fn counters(&self) -> SettleCounters {
        self.counters
    }

    /// The partition whose job failed last, and by what.
    #[must_use]
    pub fn last_fault(&self) -> Option<(PartitionId, IoFault)> {
        self.last_fault
    }
}
