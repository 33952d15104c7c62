//! Verifies segments: every run header and its chain, every frame header and body, padding, and the footer's
//! index.

use std::fs::File;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, Offset, PartitionId};

use super::files::{open_segment, read_bytes};
use super::{Problem, Verifier};
use crate::index::{RunEntry, Segment};
use crate::io::{FileId, SegmentName};
use crate::layout::footer::{Footer, footer_length};
use crate::layout::paths;
use crate::layout::run::{RUN_HEADER_BYTES, RunHeader};
use crate::recovery::inspect::Inspected;

/// A segment being read.
struct Walk<'s> {
    name: SegmentName,
    segment: &'s Segment,
    file: File,
    block: usize,
    at: u64,
    end: Offset,
    previous_crc: u32,
    frame_bytes: u64,
    runs: Vec<RunEntry>,
    harmed: bool,
}

impl Verifier<'_> {
    /// Verifies the segments of every partition of a log; returns their names.
    pub(super) fn segments(&mut self, inspected: &Inspected) -> Vec<SegmentName> {
        let mut names = Vec::new();
        for (partition, log) in inspected.logs.partitions() {
            self.report.partitions += 1;
            for segment in log.segments() {
                let name = segment.name(partition);
                names.push(name);
                self.report.segments += 1;
                self.segment(name, segment, inspected.shape.block_bytes as usize);
                self.file_done();
            }
        }
        names
    }

    fn harm(&mut self, name: SegmentName, offset: u64, what: String, next_offset: Option<Offset>) {
        self.progress.problems += 1;
        self.report.problem(Problem {
            file: paths::file(self.data, FileId::Segment(name)),
            offset,
            what,
            partition: Some(name.partition),
            next_offset,
        });
    }

    fn segment(&mut self, name: SegmentName, segment: &Segment, block: usize) {
        let (file, length) = match open_segment(self.data, name) {
            Ok(open) => open,
            Err(error) => {
                return self.harm(name, 0, error.to_string(), Some(segment.end_offset));
            }
        };
        let footer = if segment.sealed { footer_length(segment.runs as usize, block) as u64 } else { 0 };
        if length < segment.length + footer {
            let what = format!("the file has {length} bytes, its index says {}", segment.length + footer);
            self.harm(name, length, what, Some(segment.end_offset));
        }
        let mut walk = Walk {
            name,
            segment,
            file,
            block,
            at: 0,
            end: segment.base_offset,
            previous_crc: 0,
            frame_bytes: 0,
            runs: Vec::new(),
            harmed: false,
        };
        while walk.at < segment.length {
            self.run(&mut walk);
        }
        if !walk.harmed {
            self.totals(&walk);
        }
        if segment.sealed {
            self.footer(&mut walk);
        }
    }

    /// One run, or the way to the next one that is good.
    fn run(&mut self, walk: &mut Walk<'_>) {
        let at = walk.at;
        match walk.header(at) {
            Ok((header, crc)) => {
                if header.previous_crc != walk.previous_crc && !walk.harmed {
                    walk.harmed = true;
                    let what = "the run does not follow the one before it".to_owned();
                    self.harm(walk.name, at, what, Some(header.base_offset));
                }
                let bytes = read_bytes(&mut walk.file, at, header.length as usize).unwrap_or_default();
                self.read(bytes.len() as u64);
                self.report.runs += 1;
                self.frames(walk, &header, &bytes);
                walk.runs.push(header.entry());
                walk.end = header.end_offset;
                walk.previous_crc = crc;
                walk.at = at + u64::from(header.length);
            }
            Err(what) => {
                walk.harmed = true;
                let next = walk.next_good(at + walk.block as u64);
                let next_offset = next.map_or(walk.segment.end_offset, |(_, offset)| offset);
                self.harm(walk.name, at, what, Some(next_offset));
                walk.at = next.map_or(walk.segment.length, |(position, _)| position);
            }
        }
    }

    fn frames(&mut self, walk: &mut Walk<'_>, header: &RunHeader, bytes: &Bytes) {
        let name = walk.name;
        let count = header.frames as usize;
        let bodies_at = RUN_HEADER_BYTES + count * FRAME_HEADER_BYTES;
        if bytes.len() < header.length as usize {
            walk.harmed = true;
            let what = format!("the run has {} bytes, its header says {}", bytes.len(), header.length);
            self.harm(name, walk.at, what, Some(header.end_offset));
        }
        let headers = bytes.get(RUN_HEADER_BYTES..bodies_at).unwrap_or_default();
        if crc32c(headers) != header.headers_crc {
            walk.harmed = true;
            let what = "the checksum of the run's frame headers differs".to_owned();
            self.harm(name, walk.at + RUN_HEADER_BYTES as u64, what, Some(header.end_offset));
        }
        let mut body_at = bodies_at;
        let mut end = header.base_offset;
        for index in 0..count {
            let at = RUN_HEADER_BYTES + index * FRAME_HEADER_BYTES;
            let place = walk.at + at as u64;
            let slice = bytes.get(at..at + FRAME_HEADER_BYTES).unwrap_or_default();
            let frame = match check_frame(slice, name.partition, end, header.end_offset) {
                Ok(frame) => frame,
                Err(what) => {
                    // Where the bodies behind it begin is not known any more.
                    walk.harmed = true;
                    return self.harm(name, place, what, Some(header.end_offset));
                }
            };
            end = frame.end_offset();
            let body = bytes.get(body_at..body_at + frame.body_length as usize).unwrap_or_default();
            self.report.frames += 1;
            walk.frame_bytes += (FRAME_HEADER_BYTES + frame.body_length as usize) as u64;
            if let Err(error) = frame.check_body(body) {
                walk.harmed = true;
                self.harm(name, walk.at + body_at as u64, error.to_string(), Some(end));
            }
            body_at += frame.body_length as usize;
        }
        let padding = bytes.get(body_at..).unwrap_or_default();
        if let Some(dirty) = padding.iter().position(|byte| *byte != 0) {
            let what = "the padding of the run is not zero: no record is harmed".to_owned();
            self.harm(name, walk.at + (body_at + dirty) as u64, what, None);
        }
    }

    /// What the checkpoint says of the segment against what was found.
    fn totals(&mut self, walk: &Walk<'_>) {
        let segment = walk.segment;
        let found = (walk.runs.len() as u64, walk.end, walk.frame_bytes, walk.previous_crc);
        let said = (u64::from(segment.runs), segment.end_offset, segment.frame_bytes, segment.last_run_crc);
        if found != said {
            let what =
                format!("the segment holds {found:?} (runs, end, bytes, checksum), its index says {said:?}");
            self.harm(walk.name, 0, what, None);
        }
    }

    fn footer(&mut self, walk: &mut Walk<'_>) {
        let (name, segment) = (walk.name, walk.segment);
        let length = footer_length(segment.runs as usize, walk.block);
        let bytes = read_bytes(&mut walk.file, segment.length, length).unwrap_or_default();
        self.read(bytes.len() as u64);
        let footer = match Footer::decode(&bytes) {
            Ok(footer) => footer,
            Err(error) => return self.harm(name, segment.length, error.to_string(), None),
        };
        self.report.footers += 1;
        let same = footer.segment == name
            && footer.data_bytes == segment.length
            && footer.end_offset == segment.end_offset
            && footer.last_run_crc == segment.last_run_crc
            && footer.frame_bytes == segment.frame_bytes;
        if !same {
            let what = "the footer names another segment or other totals than the index".to_owned();
            self.harm(name, segment.length, what, None);
        }
        if !walk.harmed && footer.runs != walk.runs {
            let at = footer.runs.iter().zip(&walk.runs).position(|(said, found)| said != found);
            let what = format!("index entry {} of the footer differs from its run", at.unwrap_or(0));
            self.harm(name, segment.length, what, None);
        }
    }
}

fn check_frame(
    bytes: &[u8],
    partition: PartitionId,
    from: Offset,
    upto: Offset,
) -> Result<FrameHeader, String> {
    let frame = FrameHeader::decode(bytes).map_err(|error| error.to_string())?;
    if frame.partition != partition.0 {
        return Err(format!("the frame belongs to partition {:016x}: a misdirected write", frame.partition));
    }
    if frame.base_offset < from || frame.end_offset() > upto {
        return Err(format!("the frame's offset {} is out of order", frame.base_offset));
    }
    Ok(frame)
}

impl Walk<'_> {
    /// The run header at `at`, if it is good and belongs here.
    fn header(&mut self, at: u64) -> Result<(RunHeader, u32), String> {
        let bytes = read_bytes(&mut self.file, at, RUN_HEADER_BYTES).map_err(|error| error.to_string())?;
        let (header, crc) = RunHeader::decode(&bytes).map_err(|error| error.to_string())?;
        header.check_place(self.name, at).map_err(|error| error.to_string())?;
        if header.base_offset < self.end || header.end_offset > self.segment.end_offset {
            return Err(format!("the run's offset {} is out of order", header.base_offset));
        }
        if at + u64::from(header.length) > self.segment.length {
            return Err("the run is longer than its segment".to_owned());
        }
        Ok((header, crc))
    }

    /// Position and base offset of the next good run.
    fn next_good(&mut self, from: u64) -> Option<(u64, Offset)> {
        let mut at = from;
        while at < self.segment.length {
            if let Ok((header, _)) = self.header(at) {
                return Some((at, header.base_offset));
            }
            at += self.block as u64;
        }
        None
    }
}
