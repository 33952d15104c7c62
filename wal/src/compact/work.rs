//! The steps of one pass over a partition, as a coroutine.

use bytes::Bytes;
use martlet_core::compaction::{FrameFilter, Kept};
use martlet_core::limits::COMPACTION_TURN_BYTES_MAX;
use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, Offset, PartitionId};

use super::desk::{Ask, Desk, Swap, Told};
use super::source::Source;
use super::writer::Writer;
use crate::index::{RingShape, Segment};
use crate::io::{IoFault, IoOutcome, IoRequest, SegmentName};
use crate::script::ScriptIo;

/// What a pass works on.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) partition: PartitionId,
    pub(crate) log_start: Offset,
    pub(crate) dirty_from: Offset,
    /// Sealed segments from the beginning of the log on, without indexes.
    pub(crate) segments: Vec<Segment>,
    /// The partition's directory was not looked at yet.
    pub(crate) is_unswept: bool,
    /// Bytes of segments that become one.
    pub(crate) group_bytes_max: u64,
    pub(crate) run_bytes_max: u64,
    pub(crate) shape: RingShape,
}

/// Why a pass ended early. Nothing of it counts but the groups that were switched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Failed(IoFault),
    /// Frames do not check, or are missing.
    Damaged,
    /// The partition, or segments of it, were removed meanwhile.
    Gone,
}

/// How a pass ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    pub(crate) stopped: Option<Stop>,
    pub(crate) records_dropped: u64,
}

/// See the module.
pub(crate) async fn compact(io: ScriptIo, desk: Desk, plan: Plan, filter: Box<dyn FrameFilter>) -> Ended {
    let mut pass = Pass { io, desk, plan, filter, turn_bytes: 0, begun: Vec::new() };
    let stopped = pass.run().await.err();
    for name in std::mem::take(&mut pass.begun) {
        pass.desk.ask(Ask::Retire(name)).await;
    }
    Ended { stopped, records_dropped: pass.filter.records_dropped() }
}

struct Pass {
    io: ScriptIo,
    desk: Desk,
    plan: Plan,
    filter: Box<dyn FrameFilter>,
    turn_bytes: usize,
    /// Files that no index names.
    begun: Vec<SegmentName>,
}

impl Pass {
    async fn run(&mut self) -> Result<(), Stop> {
        if self.plan.is_unswept {
            let partition = self.plan.partition;
            match self.io.request(IoRequest::ListSegments { partition }).await {
                IoOutcome::Segments(found) => self.desk.ask(Ask::Swept(found)).await,
                IoOutcome::Failed(fault) => return Err(Stop::Failed(fault)),
                _ => return Err(Stop::Gone),
            };
        }
        let learnt = self.learn().await?;
        for group in groups(std::mem::take(&mut self.plan.segments), self.plan.group_bytes_max) {
            if group.first().is_none_or(|first| first.base_offset >= learnt) {
                break;
            }
            self.group(group, learnt).await?;
        }
        self.filter.forget();
        Ok(())
    }

    fn source(&self, segments: impl IntoIterator<Item = Segment>) -> Source {
        let block_bytes = self.plan.shape.block_bytes as usize;
        Source::new(&self.io, &self.desk, (self.plan.partition, block_bytes), segments)
    }

    /// Shows frames to the filter; the offset behind the last one it learnt.
    async fn learn(&mut self) -> Result<Offset, Stop> {
        let from = self.plan.dirty_from;
        let dirty = self.plan.segments.iter().filter(|segment| segment.base_offset >= from);
        let mut source = self.source(dirty.cloned().collect::<Vec<_>>());
        let mut learnt = from;
        while let Some((header, body)) = source.next().await? {
            let is_gone = header.is_gap() || header.end_offset() <= self.plan.log_start;
            if !is_gone && !self.filter.learn(&header, &body) {
                break;
            }
            learnt = header.end_offset();
            self.worked(body.len()).await;
        }
        Ok(learnt)
    }

    /// Lets others have their turn when enough was done.
    async fn worked(&mut self, bytes: usize) {
        self.turn_bytes += bytes + FRAME_HEADER_BYTES;
        if self.turn_bytes >= COMPACTION_TURN_BYTES_MAX {
            self.turn_bytes = 0;
            self.desk.ask(Ask::Pause).await;
        }
    }

    async fn writer(&mut self, base_offset: Offset) -> Result<Writer, Stop> {
        let Told::Generation(generation) = self.desk.ask(Ask::Generation).await else {
            return Err(Stop::Gone);
        };
        let name = SegmentName { partition: self.plan.partition, base_offset, generation };
        self.begun.push(name);
        let (io, desk) = (self.io.clone(), self.desk.clone());
        Writer::create((&io, &desk), self.plan.shape, self.plan.run_bytes_max, name).await
    }

    /// Writes a group anew and puts it in the place of what it was.
    async fn group(&mut self, group: Vec<Segment>, learnt: Offset) -> Result<(), Stop> {
        let Some(base_offset) = group.first().map(|first| first.base_offset) else { return Ok(()) };
        let partition = self.plan.partition;
        let old = group.iter().map(|segment| segment.name(partition)).collect();
        let mut source = self.source(group);
        let mut new = Vec::new();
        let mut writer = self.writer(base_offset).await?;
        let mut is_behind = false;
        while let Some((header, body)) = source.next().await? {
            if header.base_offset >= learnt && !is_behind {
                is_behind = true;
                if header.base_offset > base_offset {
                    new.push(writer.finish(true).await?);
                    writer = self.writer(header.base_offset).await?;
                }
            }
            self.keep(&mut writer, &header, &body, is_behind).await?;
            self.worked(body.len()).await;
        }
        new.push(writer.finish(!is_behind).await?);
        match self.desk.ask(Ask::Swap(Swap { old, new })).await {
            Told::Done => {
                self.begun.clear();
                Ok(())
            }
            _ => Err(Stop::Gone),
        }
    }

    async fn keep(
        &mut self,
        writer: &mut Writer,
        header: &FrameHeader,
        body: &Bytes,
        is_behind: bool,
    ) -> Result<(), Stop> {
        let (mut at, end) = (header.base_offset, header.end_offset());
        if header.is_gap() || end <= self.plan.log_start {
            return writer.gap(header, (at, end)).await;
        }
        if is_behind {
            return writer.frame(header, body).await;
        }
        match self.filter.filter(header, body) {
            Kept::Whole => writer.frame(header, body).await,
            Kept::Marked(marked) => writer.frame(&marked, body).await,
            Kept::Parts(parts) => {
                for (part, body) in parts {
                    assert!(part.base_offset >= at && part.end_offset() <= end, "parts lie in their frame");
                    if part.base_offset > at {
                        writer.gap(header, (at, part.base_offset)).await?;
                    }
                    at = part.end_offset();
                    writer.frame(&part, &body).await?;
                }
                if at < end {
                    writer.gap(header, (at, end)).await?;
                }
                Ok(())
            }
        }
    }
}

/// Neighbours that become one segment: of at most `bytes_max` together, but at least one.
fn groups(segments: Vec<Segment>, bytes_max: u64) -> Vec<Vec<Segment>> {
    let mut groups: Vec<Vec<Segment>> = Vec::new();
    let mut bytes = 0;
    for segment in segments {
        bytes += segment.length;
        match groups.last_mut().filter(|_| bytes <= bytes_max) {
            Some(group) => group.push(segment),
            None => {
                bytes = segment.length;
                groups.push(vec![segment]);
            }
        }
    }
    groups
}
