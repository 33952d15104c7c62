//! The frames of segments, in order. A frame that is missing or does not check ends the compaction: what is
//! damaged stays as it is.

use std::collections::VecDeque;

use bytes::Bytes;
use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, PartitionId};

use super::desk::Desk;
use super::work::Stop;
use crate::index::{RunEntry, Segment};
use crate::io::{FileId, IoOutcome, IoRequest, SegmentName};
use crate::layout::run::{RunFrame, parse_run};
use crate::read::IndexLoad;
use crate::script::ScriptIo;

/// Reads segments from front to back.
#[derive(Debug)]
pub(super) struct Source {
    io: ScriptIo,
    desk: Desk,
    partition: PartitionId,
    block_bytes: usize,
    segments: VecDeque<Segment>,
    name: Option<SegmentName>,
    runs: VecDeque<RunEntry>,
    bytes: Bytes,
    frames: VecDeque<RunFrame>,
}

impl Source {
    pub(super) fn new(
        io: &ScriptIo,
        desk: &Desk,
        (partition, block_bytes): (PartitionId, usize),
        segments: impl IntoIterator<Item = Segment>,
    ) -> Source {
        Source {
            io: io.clone(),
            desk: desk.clone(),
            partition,
            block_bytes,
            segments: segments.into_iter().collect(),
            name: None,
            runs: VecDeque::new(),
            bytes: Bytes::new(),
            frames: VecDeque::new(),
        }
    }

    /// The next frame: its header and its body, which shares the memory of its run.
    pub(super) async fn next(&mut self) -> Result<Option<(FrameHeader, Bytes)>, Stop> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                let (header_at, body_at) = (frame.header_at as usize, frame.body_at as usize);
                let header = FrameHeader::decode(&self.bytes[header_at..header_at + FRAME_HEADER_BYTES]);
                let body = self.bytes.slice(body_at..body_at + frame.body_length as usize);
                return header.map(|header| Some((header, body))).map_err(|_| Stop::Damaged);
            }
            match (self.runs.pop_front(), self.name) {
                (Some(run), Some(name)) => self.read(name, &run).await?,
                _ => match self.segments.pop_front() {
                    Some(segment) => self.begin(&segment).await?,
                    None => return Ok(None),
                },
            }
        }
    }

    async fn begin(&mut self, segment: &Segment) -> Result<(), Stop> {
        let name = segment.name(self.partition);
        let mut load = IndexLoad::new(name, segment, self.block_bytes);
        while let Some(request) = load.request() {
            let bytes = self.bytes_of(request).await?;
            load.feed(Some(&bytes));
        }
        if load.damaged() > 0 || load.is_unread() {
            return Err(Stop::Damaged);
        }
        let runs = load.into_runs();
        if runs.len() != segment.runs as usize {
            return Err(Stop::Damaged);
        }
        self.runs = runs.into();
        self.name = Some(name);
        Ok(())
    }

    async fn read(&mut self, name: SegmentName, run: &RunEntry) -> Result<(), Stop> {
        let (file, length) = (FileId::Segment(name), run.length as usize);
        let bytes = self.bytes_of(IoRequest::Read { file, offset: run.position(), length }).await?;
        self.desk.count(bytes.len() as u64, 0);
        let frames = parse_run(&bytes, run, self.partition, true);
        if frames.len() != run.frames as usize {
            return Err(Stop::Damaged);
        }
        self.frames = frames.into();
        self.bytes = bytes;
        Ok(())
    }

    async fn bytes_of(&self, request: IoRequest) -> Result<Bytes, Stop> {
        match self.io.request(request).await {
            IoOutcome::Read(bytes) => Ok(bytes),
            IoOutcome::Failed(fault) => Err(Stop::Failed(fault)),
            _ => Err(Stop::Damaged),
        }
    }
}
