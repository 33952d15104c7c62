//! One settle of one partition: collect, sweep, seal, create, write, sync. One request at a time.
//!
//! The order is the promise: a segment's name is durable before a run in it counts, every run is synced
//! before the index reads from it, a segment gets its footer synced before the next one is opened, and a
//! write starts at the block behind the last settled one.

use std::collections::VecDeque;

use bytes::Bytes;
use martlet_core::{Offset, PartitionId};

use super::collect::Collect;
use super::{SettleConfig, prepare};
use crate::index::{
    FrameCache, FrameEntry, PartitionLogs, RingShape, RunEntry, SettleMove, SettlePlan, WrittenRuns,
};
use crate::io::{DirectoryId, FileId, IoFault, IoOutcome, IoRequest, SegmentName};
use crate::layout::run::{FrameBytes, RunPlace, build_run};
use crate::read::IndexLoad;

/// What a job does next, or waits for.
#[derive(Debug)]
pub(super) enum Stage {
    Collect(Collect),
    /// Decide what the directory and the segments need before the next write.
    Prepare,
    Sweep,
    Load(IndexLoad),
    SealFooter {
        name: SegmentName,
        footer: Bytes,
        offset: u64,
    },
    SealCut {
        name: SegmentName,
        length: u64,
    },
    SealSync {
        name: SegmentName,
    },
    Create {
        place: RunPlace,
        length: u64,
    },
    NameSync {
        place: RunPlace,
    },
    Build {
        place: RunPlace,
    },
    Write {
        next: RunPlace,
        data: Bytes,
        offset: u64,
    },
    Sync {
        name: SegmentName,
    },
    /// The frames wait to be logged again, or for their copies to be durable.
    Carry,
    Done,
}

/// How a job ended.
#[derive(Debug)]
pub(super) enum JobEnd {
    /// Its frames are settled, or were found damaged.
    Settled(WrittenRuns),
    Carried(Vec<(Offset, u64)>),
    /// Its partition is gone.
    Dropped,
    /// Nothing counts; the disk is full.
    Full,
    /// Nothing counts; something could not be read. That says nothing about the bytes: tried again later.
    Unread(IoFault),
    /// Its partition settles no more.
    Fenced(IoFault),
}

/// Why a job was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JobKind {
    /// Its ring space is needed, or a flush waits for its runs.
    Needed,
    /// Its partition has much.
    Eager,
    /// Its frames lie scattered and leave memory soon.
    Gather,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) partition: PartitionId,
    pub(super) how: SettleMove,
    pub(super) kind: JobKind,
    /// A request of it is under way.
    pub(super) flying: bool,
    /// Bytes of the frames planned.
    pub(super) bytes: u64,
    /// Of the good ones, bytes that were in memory.
    pub(super) memory_bytes: u64,
    /// Of the good ones, bytes that were read back from the ring.
    pub(super) ring_bytes: u64,
    /// Base offsets of frames that turned out damaged.
    pub(super) damaged: Vec<Offset>,
    pub(super) upto: Offset,
    /// Frames still to be written.
    pub(super) frames: VecDeque<(FrameEntry, FrameBytes)>,
    /// Frames that were never in the ring, to be written behind those that were.
    ahead: Vec<(FrameEntry, FrameBytes)>,
    /// The runs of a job with such frames. `None` for a job without, and for one whose frames went through
    /// the ring after all.
    pub(super) data: Option<Vec<(RunEntry, Bytes)>>,
    /// Nobody waits for its runs any more: the index must not hear of them.
    pub(super) abandoned: bool,
    pub(super) written: Option<WrittenRuns>,
    stage: Stage,
    end: Option<JobEnd>,
    /// Base offsets and new positions of carried frames, and the ring position they are durable at.
    moved: Option<Vec<(Offset, u64)>>,
    durable_needed: u64,
}

impl Job {
    pub(super) fn new(number: u64, plan: SettlePlan, kind: JobKind, check_body: bool) -> Job {
        let upto = plan.frames.last().map_or(0, FrameEntry::end_offset);
        Job {
            number,
            partition: plan.partition,
            how: plan.how,
            kind,
            flying: false,
            bytes: plan.bytes,
            memory_bytes: 0,
            ring_bytes: 0,
            damaged: Vec::new(),
            upto,
            frames: VecDeque::new(),
            ahead: Vec::new(),
            data: None,
            abandoned: false,
            written: None,
            stage: Stage::Collect(Collect::new(plan.partition, plan.frames, check_body)),
            end: None,
            moved: None,
            durable_needed: 0,
        }
    }

    /// A job that writes `ahead`, whose flush waits for it, behind the frames of the plan.
    pub(super) fn of_run(
        number: u64,
        plan: SettlePlan,
        ahead: Vec<(FrameEntry, FrameBytes)>,
        check_body: bool,
    ) -> Job {
        let upto = ahead.last().map_or(0, |(entry, _)| entry.end_offset());
        Job { upto, ahead, data: Some(Vec::new()), ..Job::new(number, plan, JobKind::Needed, check_body) }
    }

    /// The next request. None if the job is done or waits for its carried copies.
    pub(super) fn request(
        &mut self,
        logs: &mut PartitionLogs,
        tail: &dyn FrameCache,
        config: &SettleConfig,
        shape: &RingShape,
    ) -> Option<IoRequest> {
        while self.end.is_none() {
            match &mut self.stage {
                Stage::Collect(collect) => {
                    if let Some(request) = collect.request(shape, tail) {
                        return Some(request);
                    }
                    self.collected(logs);
                }
                Stage::Prepare => self.stage = prepare::next_stage(self, logs, config, shape),
                Stage::Load(load) => {
                    if let Some(request) = load.request() {
                        return Some(request);
                    }
                    if let Stage::Load(load) = std::mem::replace(&mut self.stage, Stage::Prepare) {
                        let (name, covered) = (load.name(), load.covered());
                        logs.runs_loaded(name, covered, load.into_runs());
                    }
                }
                Stage::Build { place } => {
                    let place = *place;
                    self.stage = self.build(logs, place, config);
                }
                Stage::Done => self.end = Some(self.settled()),
                Stage::Carry => return None,
                stage => return stage.request(self.partition),
            }
        }
        None
    }

    fn collected(&mut self, logs: &mut PartitionLogs) {
        let Stage::Collect(collect) = std::mem::replace(&mut self.stage, Stage::Prepare) else { return };
        self.memory_bytes = collect.memory_bytes();
        let (good, damaged) = collect.into_frames();
        let good_bytes: u64 = good.iter().map(|(entry, _)| u64::from(entry.length)).sum();
        self.ring_bytes = good_bytes - self.memory_bytes;
        self.frames = good.into_iter().map(|(entry, frame)| (entry, FrameBytes::of(&frame))).collect();
        self.frames.extend(std::mem::take(&mut self.ahead));
        self.damaged = damaged;
        if self.how == SettleMove::Carry {
            logs.lost(self.partition, &self.damaged);
            self.stage = Stage::Carry;
            if self.frames.is_empty() {
                self.end = Some(JobEnd::Carried(Vec::new()));
            }
        }
    }

    /// Packs the next run and says where the one after it goes.
    fn build(&mut self, logs: &PartitionLogs, place: RunPlace, config: &SettleConfig) -> Stage {
        let epoch = logs.extent(self.partition).map_or(0, |extent| extent.epoch);
        let count = prepare::run_frames(self.frames.iter().map(|(entry, _)| entry), config.run_bytes_max);
        let frames: Vec<(FrameEntry, FrameBytes)> = self.frames.drain(..count).collect();
        if frames.is_empty() {
            return Stage::Sync { name: place.segment };
        }
        let run = build_run(&place, epoch, &frames);
        let upto = self.upto;
        let written = self.written.get_or_insert_with(|| WrittenRuns {
            segment: place.segment,
            runs: Vec::new(),
            frame_bytes: 0,
            last_run_crc: 0,
            allocated: 0,
            upto,
        });
        written.runs.push(run.entry);
        written.frame_bytes += run.frame_bytes;
        written.last_run_crc = run.header_crc;
        if let Some(data) = &mut self.data {
            data.push((run.entry, run.data.clone()));
        }
        let next = RunPlace {
            number: place.number + 1,
            position: run.entry.end_position(),
            previous_crc: run.header_crc,
            ..place
        };
        let mut offset = place.position;
        if config.settle_overwrites && offset > 0 {
            offset -= place.block_bytes as u64;
        }
        Stage::Write { next, data: run.data, offset }
    }

    fn settled(&mut self) -> JobEnd {
        JobEnd::Settled(self.written.take().unwrap_or_else(|| WrittenRuns {
            segment: SegmentName { partition: self.partition, base_offset: self.upto, generation: u32::MAX },
            runs: Vec::new(),
            frame_bytes: 0,
            last_run_crc: 0,
            allocated: 0,
            upto: self.upto,
        }))
    }

    /// Takes the outcome of the last request.
    pub(super) fn complete(&mut self, logs: &mut PartitionLogs, outcome: IoOutcome, config: &SettleConfig) {
        if let Stage::Collect(collect) = &mut self.stage {
            let (bytes, fault) = match &outcome {
                IoOutcome::Read(bytes) => (Some(bytes), IoFault::Other(0)),
                IoOutcome::Failed(fault) => (None, *fault),
                _ => (None, IoFault::Other(0)),
            };
            if !collect.feed(bytes) {
                self.end = Some(JobEnd::Unread(fault));
            }
            return;
        }
        let fault = match outcome {
            IoOutcome::Failed(fault) => fault,
            outcome => {
                self.succeeded(logs, &outcome, config);
                return;
            }
        };
        // A failed sync may have dropped bytes for good: only a write or an allocation may be tried again.
        let again = matches!(
            self.stage,
            Stage::Create { .. } | Stage::Write { .. } | Stage::SealFooter { .. } | Stage::Sweep
        );
        match (&self.stage, fault) {
            (Stage::Sweep, IoFault::Missing) => {
                logs.swept(self.partition, &[]);
                self.stage = Stage::Prepare;
            }
            (_, IoFault::Full) if again => self.end = Some(JobEnd::Full),
            (Stage::Sweep | Stage::Load(_), _) => self.end = Some(JobEnd::Unread(fault)),
            _ => self.end = Some(JobEnd::Fenced(fault)),
        }
    }

    fn succeeded(&mut self, logs: &mut PartitionLogs, outcome: &IoOutcome, config: &SettleConfig) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Prepare) {
            Stage::Sweep => {
                if let IoOutcome::Segments(found) = outcome {
                    logs.swept(self.partition, found);
                }
                Stage::Prepare
            }
            Stage::Load(mut load) => {
                if let IoOutcome::Read(bytes) = outcome {
                    load.feed(Some(bytes));
                }
                Stage::Load(load)
            }
            Stage::SealFooter { name, footer, offset } => {
                Stage::SealCut { name, length: offset + footer.len() as u64 }
            }
            Stage::SealCut { name, .. } => Stage::SealSync { name },
            Stage::SealSync { name } => {
                logs.segment_sealed(name);
                Stage::Prepare
            }
            Stage::Create { place, length } => {
                self.allocated(place, length);
                let fresh = place.position == 0 && !config.skip_directory_sync;
                if fresh { Stage::NameSync { place } } else { Stage::Build { place } }
            }
            Stage::NameSync { place } => Stage::Build { place },
            Stage::Write { next, .. } => Stage::Build { place: next },
            Stage::Sync { .. } => Stage::Done,
            stage => stage,
        };
    }

    fn allocated(&mut self, place: RunPlace, length: u64) {
        self.written = Some(WrittenRuns {
            segment: place.segment,
            runs: Vec::new(),
            frame_bytes: 0,
            last_run_crc: 0,
            allocated: length,
            upto: self.upto,
        });
    }

    /// Frames to be logged again, once.
    pub(super) fn take_carry(&mut self) -> Option<Vec<(FrameEntry, FrameBytes)>> {
        let offered = matches!(self.stage, Stage::Carry) && self.moved.is_none() && !self.frames.is_empty();
        offered.then(|| self.frames.drain(..).collect())
    }

    /// Where the frames were logged again: their base offsets and new positions; durable at `durable_needed`.
    pub(super) fn carry_logged(&mut self, moved: Vec<(Offset, u64)>, durable_needed: u64) {
        self.moved = Some(moved);
        self.durable_needed = durable_needed;
    }

    pub(super) fn carry_refused(&mut self) {
        self.end = Some(JobEnd::Carried(Vec::new()));
    }

    /// The carried frames were staged once more: pairs of old and new positions, rising.
    pub(super) fn positions_moved(&mut self, payloads: &[(u64, u64)]) {
        let Some(moved) = &mut self.moved else { return };
        let last_length = moved.last().map_or(0, |(_, last)| self.durable_needed - last);
        for (_, position) in moved.iter_mut() {
            if let Ok(at) = payloads.binary_search_by_key(position, |(old, _)| *old) {
                *position = payloads[at].1;
            }
        }
        self.durable_needed = moved.last().map_or(0, |(_, last)| last + last_length);
    }

    pub(super) fn on_durable(&mut self, durable: u64) {
        if self.durable_needed <= durable
            && let Some(moved) = self.moved.take()
        {
            self.end = Some(JobEnd::Carried(moved));
        }
    }

    pub(super) fn drop_job(&mut self) {
        self.end = Some(JobEnd::Dropped);
    }

    pub(super) fn take_end(&mut self) -> Option<JobEnd> {
        self.end.take()
    }
}

impl Stage {
    fn request(&self, partition: PartitionId) -> Option<IoRequest> {
        let request = match self {
            Stage::Sweep => IoRequest::ListSegments { partition },
            Stage::SealFooter { name, footer, offset } => IoRequest::Write {
                file: FileId::Segment(*name),
                offset: *offset,
                data: footer.clone(),
                sync: false,
            },
            Stage::SealCut { name, length } => {
                IoRequest::Truncate { file: FileId::Segment(*name), length: *length }
            }
            Stage::SealSync { name } | Stage::Sync { name } => {
                IoRequest::Sync { file: FileId::Segment(*name) }
            }
            Stage::Create { place, length } => {
                IoRequest::Create { file: FileId::Segment(place.segment), length: *length, zeroed: false }
            }
            Stage::NameSync { place } => {
                IoRequest::SyncDirectory { directory: DirectoryId::Partition(place.segment.partition) }
            }
            Stage::Write { next, data, offset } => IoRequest::Write {
                file: FileId::Segment(next.segment),
                offset: *offset,
                data: data.clone(),
                sync: false,
            },
            Stage::Collect(_)
            | Stage::Prepare
            | Stage::Load(_)
            | Stage::Build { .. }
            | Stage::Carry
            | Stage::Done => return None,
        };
        Some(request)
    }
}
