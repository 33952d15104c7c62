//! Writes one segment, complete before anybody hears of it.

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::frame::flags;
use martlet_core::{Epoch, FRAME_HEADER_BYTES, FrameHeader, Offset};

use super::desk::Desk;
use super::work::Stop;
use crate::index::{FrameEntry, RingShape, RunEntry, Segment};
use crate::io::{DirectoryId, FileId, IoOutcome, IoRequest, SegmentName};
use crate::layout::footer::Footer;
use crate::layout::run::{FrameBytes, RunPlace, build_run};
use crate::script::ScriptIo;

/// Steps in which space is allocated to the new file.
const ALLOCATE_BYTES: u64 = 4 * 1024 * 1024;

/// A segment that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    io: ScriptIo,
    desk: Desk,
    shape: RingShape,
    run_bytes_max: u64,
    name: SegmentName,
    segment: Segment,
    runs: Vec<RunEntry>,
    allocated: u64,
    /// Frames of the next run.
    frames: Vec<(FrameEntry, FrameBytes)>,
    frames_bytes: u64,
    epoch: Epoch,
    /// Offsets without records behind the last frame.
    gap: Option<FrameHeader>,
}

impl Writer {
    /// Begins a file whose name was never used.
    pub(super) async fn create(
        (io, desk): (&ScriptIo, &Desk),
        shape: RingShape,
        run_bytes_max: u64,
        name: SegmentName,
    ) -> Result<Writer, Stop> {
        let writer = Writer {
            io: io.clone(),
            desk: desk.clone(),
            shape,
            run_bytes_max,
            name,
            segment: Segment::empty(name.base_offset, name.generation),
            runs: Vec::new(),
            allocated: 0,
            frames: Vec::new(),
            frames_bytes: 0,
            epoch: 0,
            gap: None,
        };
        writer.done(IoRequest::Create { file: writer.file(), length: 0, zeroed: false }).await?;
        let directory = DirectoryId::Partition(name.partition);
        writer.done(IoRequest::SyncDirectory { directory }).await?;
        Ok(writer)
    }

    fn file(&self) -> FileId {
        FileId::Segment(self.name)
    }

    async fn done(&self, request: IoRequest) -> Result<(), Stop> {
        match self.io.request(request).await {
            IoOutcome::Failed(fault) => Err(Stop::Failed(fault)),
            _ => Ok(()),
        }
    }

    /// Writes a frame behind the others.
    pub(super) async fn frame(&mut self, header: &FrameHeader, body: &Bytes) -> Result<(), Stop> {
        self.end_gap().await?;
        self.put(header, body).await
    }

    /// Nothing is left of `from..upto`, offsets that a frame with this header covered.
    pub(super) async fn gap(
        &mut self,
        header: &FrameHeader,
        (from, upto): (Offset, Offset),
    ) -> Result<(), Stop> {
        if let Some(gap) = &mut self.gap
            && gap.end_offset() == from
            && let Ok(span) = u32::try_from(upto - gap.base_offset)
        {
            gap.offset_span = span;
            gap.epoch = gap.epoch.max(header.epoch);
            return Ok(());
        }
        self.end_gap().await?;
        self.gap = Some(FrameHeader {
            format: header.format,
            flags: flags::COMPACTED,
            epoch: header.epoch,
            partition: header.partition,
            base_offset: from,
            offset_span: u32::try_from(upto - from).unwrap_or(u32::MAX),
            broker_time: header.broker_time,
            timestamp_max: i64::MIN,
            base_sequence: -1,
            committed_through: header.committed_through,
            body_crc: crc32c(&[]),
            ..FrameHeader::default()
        });
        Ok(())
    }

    async fn end_gap(&mut self) -> Result<(), Stop> {
        match self.gap.take() {
            Some(gap) => self.put(&gap, &Bytes::new()).await,
            None => Ok(()),
        }
    }

    async fn put(&mut self, header: &FrameHeader, body: &Bytes) -> Result<(), Stop> {
        let entry = FrameEntry::of(header, 0);
        let first = self.frames.first().map_or(header.base_offset, |(first, _)| first.base_offset);
        let bytes = self.frames_bytes + u64::from(entry.length);
        let is_too_much = bytes > self.run_bytes_max || u32::try_from(entry.end_offset() - first).is_err();
        if is_too_much && !self.frames.is_empty() {
            self.write_run().await?;
        }
        // Copied, or a small frame would keep the whole run it was read with.
        let mut copy = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
        copy.extend_from_slice(&header.encode());
        copy.extend_from_slice(body);
        self.frames.push((entry, FrameBytes::of(&Bytes::from(copy))));
        self.frames_bytes += u64::from(entry.length);
        self.epoch = self.epoch.max(header.epoch);
        Ok(())
    }

    async fn write_run(&mut self) -> Result<(), Stop> {
        let frames = std::mem::take(&mut self.frames);
        let place = RunPlace {
            segment: self.name,
            number: self.segment.runs,
            wal: self.shape.wal,
            position: self.segment.length,
            previous_crc: self.segment.last_run_crc,
            block_bytes: self.shape.block_bytes as usize,
        };
        let run = build_run(&place, self.epoch, &frames);
        (self.frames_bytes, self.epoch) = (0, 0);
        self.make_room(run.entry.end_position()).await?;
        let (offset, data) = (place.position, run.data);
        self.desk.count(0, data.len() as u64);
        self.done(IoRequest::Write { file: self.file(), offset, data, sync: false }).await?;
        let segment = &mut self.segment;
        segment.end_offset = run.entry.end_offset();
        segment.length = run.entry.end_position();
        segment.frame_bytes += run.frame_bytes;
        segment.timestamp_max = segment.timestamp_max.max(run.entry.timestamp_max);
        segment.runs += 1;
        segment.last_run_crc = run.header_crc;
        self.runs.push(run.entry);
        Ok(())
    }

    async fn make_room(&mut self, end: u64) -> Result<(), Stop> {
        if end > self.allocated {
            let length = (end + ALLOCATE_BYTES).next_multiple_of(u64::from(self.shape.block_bytes));
            self.done(IoRequest::Create { file: self.file(), length, zeroed: false }).await?;
            self.allocated = length;
        }
        Ok(())
    }

    /// Ends the segment: once this returns, all of it is on stable storage.
    pub(super) async fn finish(mut self, is_compacted: bool) -> Result<Segment, Stop> {
        self.end_gap().await?;
        if !self.frames.is_empty() {
            self.write_run().await?;
        }
        let footer = Footer {
            segment: self.name,
            wal: self.shape.wal,
            end_offset: self.segment.end_offset,
            data_bytes: self.segment.length,
            frame_bytes: self.segment.frame_bytes,
            last_run_crc: self.segment.last_run_crc,
            runs: std::mem::take(&mut self.runs),
        };
        let data = footer.encode(self.shape.block_bytes as usize);
        let (offset, length) = (self.segment.length, self.segment.length + data.len() as u64);
        self.make_room(length).await?;
        let file = self.file();
        self.done(IoRequest::Write { file, offset, data, sync: false }).await?;
        self.done(IoRequest::Truncate { file, length }).await?;
        self.done(IoRequest::Sync { file }).await?;
        let allocated = length;
        Ok(Segment { sealed: true, compacted: is_compacted, allocated, index: None, ..self.segment })
    }
}
