//! One try to answer a read from memory. What is missing is named as a fetch, and the try is repeated with
//! it.
//!
//! Nothing is remembered between tries but the target: frames move and segments go away while a fetch is
//! under way, so every try looks everything up again.

use std::rc::Rc;

use bytes::Bytes;
use martlet_core::{FRAME_HEADER_BYTES, Offset, PartitionId};

use super::cache::{CachedRun, RunCache, key_of};
use super::fetch::{Fetch, FetchKey, Fetched};
use super::load::IndexLoad;
use super::{READ_AHEAD_BYTES_MAX, ReadEnd, StoredFrameParts};
use crate::index::{
    FrameCache, FrameEntry, Located, PartitionLog, PartitionLogs, RingRange, RingShape, RunEntry, Segment,
};
use crate::io::SegmentName;
use crate::layout::run::RunFrame;

/// What a read looks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Offset {
        partition: PartitionId,
        from: Offset,
        upto: Offset,
        bytes_max: u64,
    },
    /// Frames below `from` are known not to match.
    Time {
        partition: PartitionId,
        from: Offset,
        upto: Offset,
        time: i64,
    },
}

/// What was fetched just now.
#[derive(Debug)]
pub(super) struct Held(pub(super) Option<Fetched>);

impl Held {
    pub(super) fn none() -> Held {
        Held(None)
    }

    fn run(&self, name: SegmentName, run: &RunEntry) -> Option<CachedRun> {
        match &self.0 {
            Some(Fetched::Runs(held, runs)) if *held == name => {
                runs.iter().find(|(entry, _)| entry == run).map(|(_, cached)| cached.clone())
            }
            _ => None,
        }
    }

    /// `Some(None)` if the frame was read and is damaged.
    fn frame(&self, partition: PartitionId, position: u64) -> Option<Option<Bytes>> {
        match &self.0 {
            Some(Fetched::Ring(held, frames)) if *held == partition => {
                frames.iter().find(|(at, _)| *at == position).map(|(_, frame)| frame.clone())
            }
            _ => None,
        }
    }
}

/// Those runs of a segment whose headers could be read, of a disk that failed other reads. Good for one read:
/// the next one tries the disk again.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    pub(super) name: SegmentName,
    /// Bytes of the segment that were looked at.
    pub(super) covered: u64,
    pub(super) runs: Rc<[RunEntry]>,
}

/// A fetch that the read waits for.
type Missing = Box<(FetchKey, Fetch)>;

pub(super) struct Attempt<'a> {
    pub(super) logs: &'a PartitionLogs,
    pub(super) tail: &'a dyn FrameCache,
    pub(super) cache: &'a mut RunCache,
    pub(super) shape: &'a RingShape,
    pub(super) held: &'a Held,
    pub(super) rest: Option<&'a Rest>,
    pub(super) target: &'a mut Target,
}

/// Frames gathered so far, or why there are none.
enum Gather {
    /// Go on at this offset.
    On(Offset),
    /// Enough, or nothing more in memory.
    Enough,
    End(ReadEnd),
}

impl<'a> Attempt<'a> {
    pub(super) fn run(&mut self) -> Result<ReadEnd, Missing> {
        match *self.target {
            Target::Offset { partition, from, upto, bytes_max } => {
                let Some(log) = self.logs.get(partition) else {
                    return Ok(ReadEnd::OutOfRange { log_start: 0, next_offset: 0 });
                };
                self.offset(log, partition, (from, upto), bytes_max)
            }
            Target::Time { partition, from, upto, time } => {
                let Some(log) = self.logs.get(partition) else {
                    return Ok(ReadEnd::OutOfRange { log_start: 0, next_offset: 0 });
                };
                let from = from.max(log.extent().log_start);
                self.time_in_segments(log, partition, (from, upto), time)
            }
        }
    }

    fn offset(
        &mut self,
        log: &PartitionLog,
        partition: PartitionId,
        (from, upto): (Offset, Offset),
        bytes_max: u64,
    ) -> Result<ReadEnd, Missing> {
        let mut frames = Vec::new();
        let mut left = bytes_max;
        let mut at = from;
        while at < upto {
            let gathered = match log.locate(at) {
                Located::Below { log_start } => {
                    let next_offset = log.extent().next_offset;
                    Ok(Gather::End(ReadEnd::OutOfRange { log_start, next_offset }))
                }
                Located::End => {
                    let extent = log.extent();
                    let (log_start, next_offset) = (extent.log_start, extent.next_offset);
                    Ok(Gather::End(ReadEnd::OutOfRange { log_start, next_offset }))
                }
                Located::Hole { next_offset } => Ok(Gather::End(ReadEnd::Hole { next_offset })),
                Located::Ring { frame } => {
                    self.take_ring(log, partition, frame, upto, &mut left, &mut frames)
                }
                Located::Segment { segment } => {
                    let segment = &log.segments()[segment];
                    self.take_segment(segment, partition, (at, upto), &mut left, &mut frames)
                }
            };
            match gathered {
                Ok(Gather::On(next)) => at = next,
                Ok(Gather::Enough) => break,
                Ok(Gather::End(end)) if frames.is_empty() => return Ok(end),
                Err(missing) if frames.is_empty() => {
                    // Compaction left nothing up to here: the next try need not fetch that again.
                    *self.target = Target::Offset { partition, from: at, upto, bytes_max };
                    return Err(missing);
                }
                Ok(Gather::End(_)) | Err(_) => break,
            }
        }
        Ok(ReadEnd::Frames(frames))
    }

    fn take_ring(
        &self,
        log: &PartitionLog,
        partition: PartitionId,
        index: usize,
        upto: Offset,
        left: &mut u64,
        frames: &mut Vec<StoredFrameParts>,
    ) -> Result<Gather, Missing> {
        let entry = log.unsettled()[index];
        if entry.end_offset() > upto || (!frames.is_empty() && u64::from(entry.length) > *left) {
            return Ok(Gather::Enough);
        }
        match self.ring_frame(partition, &entry) {
            Some(Some(frame)) => {
                *left = left.saturating_sub(u64::from(entry.length));
                frames.push(parts_of_frame(&entry, &frame));
                Ok(Gather::On(entry.end_offset()))
            }
            Some(None) => Ok(Gather::End(ReadEnd::Hole { next_offset: entry.end_offset() })),
            None => {
                let ahead = (*left).min(READ_AHEAD_BYTES_MAX);
                let following = log.unsettled().range(index..).take_while(|next| next.end_offset() <= upto);
                Err(self.ring_fetch(partition, &entry, following, ahead))
            }
        }
    }

    fn ring_frame(&self, partition: PartitionId, entry: &FrameEntry) -> Option<Option<Bytes>> {
        match self.tail.cached(entry.position, entry.length as usize) {
            Some(frame) => Some(Some(frame)),
            None => self.held.frame(partition, entry.position),
        }
    }

    fn ring_fetch<'e>(
        &self,
        partition: PartitionId,
        first: &FrameEntry,
        following: impl Iterator<Item = &'e FrameEntry> + Clone,
        ahead: u64,
    ) -> Missing {
        let range = RingRange::of(self.shape, following.clone(), ahead);
        let Some(range) = range else { unreachable!("the first frame is among those that follow") };
        let entries = following.take(range.frames).copied().collect();
        Box::new((FetchKey::Ring(partition, first.position), Fetch::Ring { partition, range, entries }))
    }

    fn runs<'s>(&self, segment: &'s Segment, name: SegmentName) -> Result<&'s [RunEntry], Missing>
    where
        'a: 's,
    {
        let block_bytes = self.shape.block_bytes as usize;
        let rest = self.rest.filter(|rest| rest.name == name && rest.covered == segment.length);
        match (&segment.index, rest) {
            (Some(index), _) => Ok(index.as_slice()),
            (None, Some(rest)) => Ok(&rest.runs),
            (None, None) => Err(Box::new((
                FetchKey::Index(name),
                Fetch::Index(Box::new(IndexLoad::new(name, segment, block_bytes))),
            ))),
        }
    }

    /// The run with its good frames, or the fetch of it and of runs behind it.
    fn run_at(
        &mut self,
        name: SegmentName,
        runs: &[RunEntry],
        at: usize,
        ahead: u64,
    ) -> Result<CachedRun, Missing> {
        let run = runs[at];
        if let Some(cached) = self.held.run(name, &run) {
            return Ok(cached);
        }
        if let Some(cached) = self.cache.get(key_of(name, &run)) {
            return Ok(cached);
        }
        let near = runs[at..].iter().enumerate().take_while(|(index, next)| {
            let adjoins = *index == 0 || runs[at + index - 1].end_position() == next.position();
            let fits = next.end_position() - run.position() <= ahead;
            adjoins && (*index == 0 || (fits && !self.cache.contains(key_of(name, next))))
        });
        let runs: Vec<RunEntry> = near.map(|(_, next)| *next).collect();
        Err(Box::new((FetchKey::Run(name, run.unit), Fetch::Runs { name, runs })))
    }

    fn take_segment(
        &mut self,
        segment: &Segment,
        partition: PartitionId,
        (at, upto): (Offset, Offset),
        left: &mut u64,
        frames: &mut Vec<StoredFrameParts>,
    ) -> Result<Gather, Missing> {
        let name = segment.name(partition);
        let runs = self.runs(segment, name)?;
        let index = runs.partition_point(|run| run.end_offset() <= at);
        let Some(run) = runs.get(index) else {
            return Ok(Gather::End(ReadEnd::Hole { next_offset: segment.end_offset }));
        };
        if run.base_offset > at {
            return Ok(Gather::End(ReadEnd::Hole { next_offset: run.base_offset }));
        }
        let cached = self.run_at(name, runs, index, (*left).min(READ_AHEAD_BYTES_MAX))?;
        let first = cached.frames.partition_point(|frame| frame.end_offset <= at);
        let mut next = at;
        for frame in &cached.frames[first..] {
            let length = u64::from(frame.body_length) + FRAME_HEADER_BYTES as u64;
            if frame.base_offset > next {
                return Ok(Gather::End(ReadEnd::Hole { next_offset: frame.base_offset }));
            }
            if frame.end_offset > upto || (!frames.is_empty() && length > *left) {
                return Ok(Gather::Enough);
            }
            next = frame.end_offset;
            if frame.is_gap {
                continue;
            }
            *left = left.saturating_sub(length);
            frames.push(parts_of_run(&cached, frame));
        }
        if next < run.end_offset() {
            return Ok(Gather::End(ReadEnd::Hole { next_offset: run.end_offset() }));
        }
        Ok(Gather::On(next))
    }

    fn time_in_segments(
        &mut self,
        log: &PartitionLog,
        partition: PartitionId,
        (from, upto): (Offset, Offset),
        time: i64,
    ) -> Result<ReadEnd, Missing> {
        let first = log.segments().partition_point(|segment| segment.end_offset <= from);
        for segment in &log.segments()[first..] {
            if segment.base_offset >= upto {
                return Ok(ReadEnd::Frames(Vec::new()));
            }
            if segment.timestamp_max < time {
                continue;
            }
            let name = segment.name(partition);
            let runs = self.runs(segment, name)?;
            for (index, run) in runs.iter().enumerate() {
                if run.end_offset() <= from || run.timestamp_max < time || run.base_offset >= upto {
                    continue;
                }
                let cached = self.run_at(name, runs, index, 0)?;
                let found = cached.frames.iter().find(|frame| {
                    let is_inside = frame.end_offset > from && frame.end_offset <= upto;
                    !frame.is_gap && is_inside && frame.timestamp_max >= time
                });
                if let Some(frame) = found {
                    return Ok(ReadEnd::Frames(vec![parts_of_run(&cached, frame)]));
                }
                *self.target = Target::Time { partition, from: run.end_offset(), upto, time };
            }
        }
        self.time_in_ring(log, partition, (from, upto), time)
    }

    fn time_in_ring(
        &mut self,
        log: &PartitionLog,
        partition: PartitionId,
        (from, upto): (Offset, Offset),
        time: i64,
    ) -> Result<ReadEnd, Missing> {
        let first = log.unsettled().partition_point(|entry| entry.end_offset() <= from);
        for (index, entry) in log.unsettled().iter().enumerate().skip(first) {
            if entry.end_offset() > upto {
                break;
            }
            if entry.timestamp_max < time {
                continue;
            }
            match self.ring_frame(partition, entry) {
                Some(Some(frame)) => return Ok(ReadEnd::Frames(vec![parts_of_frame(entry, &frame)])),
                Some(None) => *self.target = Target::Time { partition, from: entry.end_offset(), upto, time },
                None => {
                    let following = log.unsettled().range(index..=index);
                    return Err(self.ring_fetch(partition, entry, following, 0));
                }
            }
        }
        Ok(ReadEnd::Frames(Vec::new()))
    }
}

fn parts_of_frame(entry: &FrameEntry, frame: &Bytes) -> StoredFrameParts {
    StoredFrameParts {
        header: frame.slice(..FRAME_HEADER_BYTES),
        body: frame.slice(FRAME_HEADER_BYTES..),
        base_offset: entry.base_offset,
        end_offset: entry.end_offset(),
    }
}

fn parts_of_run(run: &CachedRun, frame: &RunFrame) -> StoredFrameParts {
    let (header_at, body_at) = (frame.header_at as usize, frame.body_at as usize);
    StoredFrameParts {
        header: run.bytes.slice(header_at..header_at + FRAME_HEADER_BYTES),
        body: run.bytes.slice(body_at..body_at + frame.body_length as usize),
        base_offset: frame.base_offset,
        end_offset: frame.end_offset,
    }
}
