//! Runs: block-aligned stretches of frames of one partition in a segment.
//!
//! Layout version 1, little-endian: a header of 128 bytes, the frame headers, the bodies in the same order,
//! zeros up to the block. The run header's checksum covers the header, `headers_crc` the frame headers;
//! bodies are covered by their frames' own checksums. Every header names its place, so that a misdirected
//! write is found, and the checksum of the run header before it in the segment (0 for the first).
//!
//! **Invariant**: [`parse_run`] returns only frames whose header, partition, offsets and body checked.

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{Epoch, FRAME_HEADER_BYTES, FrameHeader, Offset, PartitionId, WalId};

use super::codec::{Fields, Put, Short};
use crate::index::{FrameEntry, RunEntry};
use crate::io::SegmentName;

/// Length of an encoded run header.
pub const RUN_HEADER_BYTES: usize = 128;
/// First four bytes of every run header: `MRUN`.
pub const RUN_MAGIC: u32 = 0x4e55_524d;
/// The layout this build writes, and the only one it reads.
pub const RUN_VERSION: u8 = 1;

const CRC_AT: usize = RUN_HEADER_BYTES - 4;

/// Why bytes are not a run header, or not the one looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RunError {
    #[error("run header needs 128 bytes, found {found}")]
    Short { found: usize },
    #[error("run magic is {found:#010x}, expected 0x4e55524d")]
    Magic { found: u32 },
    #[error("run version {found} is unknown to this build, which reads version 1: upgrade martlet")]
    Version { found: u8 },
    #[error("run header checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("run header names another {field}: a misdirected write")]
    Misdirected { field: &'static str },
    #[error("run header has an impossible field: {field}")]
    Field { field: &'static str },
}

impl From<Short> for RunError {
    fn from(_: Short) -> RunError {
        RunError::Field { field: "length" }
    }
}

/// A run header as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunHeader {
    pub segment: SegmentName,
    /// Ordinal in the segment, from 0.
    pub number: u32,
    /// The log that wrote it.
    pub wal: WalId,
    /// Byte position of this header in its file.
    pub position: u64,
    pub base_offset: Offset,
    /// First offset after the run.
    pub end_offset: Offset,
    /// Largest record timestamp, wall milliseconds.
    pub timestamp_max: i64,
    pub frames: u32,
    /// Bytes of the run with padding.
    pub length: u32,
    /// Bytes of all bodies.
    pub body_bytes: u32,
    /// Largest epoch of its frames.
    pub epoch: Epoch,
    /// CRC-32C of the frame headers.
    pub headers_crc: u32,
    /// Checksum of the run header before it in the segment; 0 for the first.
    pub previous_crc: u32,
}

impl RunHeader {
    /// The header as its 128 bytes; the last four are its checksum.
    #[must_use]
    pub fn encode(&self) -> [u8; RUN_HEADER_BYTES] {
        let mut fields = Vec::with_capacity(RUN_HEADER_BYTES);
        fields.put_u32(RUN_MAGIC);
        fields.put_u8(RUN_VERSION);
        fields.put(&[0; 3]);
        fields.put_u32(self.segment.generation);
        fields.put_u32(self.number);
        fields.put_u128(self.wal.0);
        fields.put_u64(self.segment.partition.0);
        fields.put_u64(self.segment.base_offset);
        fields.put_u64(self.position);
        fields.put_u64(self.base_offset);
        fields.put_u64(self.end_offset);
        fields.put_i64(self.timestamp_max);
        fields.put_u32(self.frames);
        fields.put_u32(self.length);
        fields.put_u32(self.body_bytes);
        fields.put_u32(self.epoch);
        fields.put_u32(self.headers_crc);
        fields.put_u32(self.previous_crc);
        let mut bytes = [0; RUN_HEADER_BYTES];
        bytes[..fields.len()].copy_from_slice(&fields);
        let crc = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// A checked header and its checksum.
    ///
    /// # Errors
    /// What is wrong with it, as [`RunError`].
    pub fn decode(bytes: &[u8]) -> Result<(RunHeader, u32), RunError> {
        let found = bytes.len();
        let bytes = bytes.get(..RUN_HEADER_BYTES).ok_or(RunError::Short { found })?;
        let mut fields = Fields::new(bytes);
        let magic = fields.u32()?;
        if magic != RUN_MAGIC {
            return Err(RunError::Magic { found: magic });
        }
        let version = fields.u8()?;
        fields.bytes(3)?;
        let crc = Fields::new(&bytes[CRC_AT..]).u32()?;
        let expected = crc32c(&bytes[..CRC_AT]);
        if crc != expected {
            return Err(RunError::Checksum { found: crc, expected });
        }
        if version != RUN_VERSION {
            return Err(RunError::Version { found: version });
        }
        let (generation, number, wal) = (fields.u32()?, fields.u32()?, WalId(fields.u128()?));
        let (partition, base_offset) = (PartitionId(fields.u64()?), fields.u64()?);
        let header = RunHeader {
            segment: SegmentName { partition, base_offset, generation },
            number,
            wal,
            position: fields.u64()?,
            base_offset: fields.u64()?,
            end_offset: fields.u64()?,
            timestamp_max: fields.i64()?,
            frames: fields.u32()?,
            length: fields.u32()?,
            body_bytes: fields.u32()?,
            epoch: fields.u32()?,
            headers_crc: fields.u32()?,
            previous_crc: fields.u32()?,
        };
        header.check_ranges()?;
        Ok((header, crc))
    }

    fn check_ranges(&self) -> Result<(), RunError> {
        let impossible = |field| Err(RunError::Field { field });
        let content = RUN_HEADER_BYTES as u64
            + u64::from(self.frames) * FRAME_HEADER_BYTES as u64
            + u64::from(self.body_bytes);
        if self.frames == 0 {
            return impossible("frames");
        }
        if u64::from(self.length) < content || !u64::from(self.length).is_multiple_of(RunEntry::UNIT) {
            return impossible("length");
        }
        let span = self.end_offset.saturating_sub(self.base_offset);
        if span == 0 || span > u64::from(u32::MAX) {
            return impossible("end_offset");
        }
        if !self.position.is_multiple_of(RunEntry::UNIT)
            || self.position / RunEntry::UNIT > u64::from(u32::MAX)
        {
            return impossible("position");
        }
        Ok(())
    }

    /// Compares the place that the header names with the place where it was found.
    ///
    /// # Errors
    /// [`RunError::Misdirected`].
    pub fn check_place(&self, segment: SegmentName, position: u64) -> Result<(), RunError> {
        match () {
            () if self.segment.partition != segment.partition => {
                Err(RunError::Misdirected { field: "partition" })
            }
            () if self.segment != segment => Err(RunError::Misdirected { field: "segment" }),
            () if self.position != position => Err(RunError::Misdirected { field: "position" }),
            () => Ok(()),
        }
    }

    /// What the index keeps of it.
    #[must_use]
    pub fn entry(&self) -> RunEntry {
        RunEntry {
            base_offset: self.base_offset,
            timestamp_max: self.timestamp_max,
            span: (self.end_offset - self.base_offset) as u32,
            unit: (self.position / RunEntry::UNIT) as u32,
            length: self.length,
            frames: self.frames,
        }
    }
}

/// Where a run goes.
#[derive(Clone, Copy, Debug)]
pub struct RunPlace {
    pub segment: SegmentName,
    pub number: u32,
    pub wal: WalId,
    pub position: u64,
    pub previous_crc: u32,
    pub block_bytes: usize,
}

/// A run ready to be written.
#[derive(Clone, Debug)]
pub struct BuiltRun {
    pub data: Bytes,
    pub entry: RunEntry,
    /// Checksum of its header, for the next run's `previous_crc`.
    pub header_crc: u32,
    /// Bytes of its frames.
    pub frame_bytes: u64,
}

/// Bytes that frames of `frame_bytes` bytes together, headers included, take as a run.
#[must_use]
pub fn run_length(frame_bytes: u64, block_bytes: usize) -> u64 {
    (RUN_HEADER_BYTES as u64 + frame_bytes).next_multiple_of(block_bytes as u64)
}

/// Header and body of a frame in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameBytes {
    /// 128 bytes.
    pub header: Bytes,
    pub body: Bytes,
}

impl FrameBytes {
    /// The parts of a frame that lies in one piece.
    ///
    /// # Panics
    /// If it is shorter than a header.
    #[must_use]
    pub fn of(frame: &Bytes) -> FrameBytes {
        FrameBytes { header: frame.slice(..FRAME_HEADER_BYTES), body: frame.slice(FRAME_HEADER_BYTES..) }
    }

    /// Bytes of both.
    #[must_use]
    pub fn length(&self) -> usize {
        self.header.len() + self.body.len()
    }
}

/// Packs frames, in offset order, into a run. Each is its header followed by its body, as its entry says.
///
/// # Panics
/// If there is no frame, offsets do not rise, or a frame's bytes are not what its entry says.
#[must_use]
pub fn build_run(place: &RunPlace, epoch: Epoch, frames: &[(FrameEntry, FrameBytes)]) -> BuiltRun {
    let (Some((first, _)), Some((last, _))) = (frames.first(), frames.last()) else {
        unreachable!("a run holds at least one frame")
    };
    let frame_bytes: u64 = frames.iter().map(|(entry, _)| u64::from(entry.length)).sum();
    let length = run_length(frame_bytes, place.block_bytes);
    let span = last.end_offset() - first.base_offset;
    assert!(u32::try_from(length).is_ok() && u32::try_from(span).is_ok(), "a run is bounded");
    let mut buffer = super::aligned(length as usize, place.block_bytes);
    buffer.resize(RUN_HEADER_BYTES, 0);
    let mut end = first.base_offset;
    for (entry, frame) in frames {
        assert!(
            entry.base_offset >= end && frame.length() == entry.length as usize,
            "frames rise and are whole"
        );
        end = entry.end_offset();
        buffer.extend_from_slice(&frame.header);
    }
    let headers_crc = crc32c(&buffer[RUN_HEADER_BYTES..]);
    for (_, frame) in frames {
        buffer.extend_from_slice(&frame.body);
    }
    buffer.resize(length as usize, 0);
    let header = RunHeader {
        segment: place.segment,
        number: place.number,
        wal: place.wal,
        position: place.position,
        base_offset: first.base_offset,
        end_offset: last.end_offset(),
        timestamp_max: frames.iter().map(|(entry, _)| entry.timestamp_max).max().unwrap_or(i64::MIN),
        frames: frames.len() as u32,
        length: length as u32,
        body_bytes: (frame_bytes - (frames.len() * FRAME_HEADER_BYTES) as u64) as u32,
        epoch,
        headers_crc,
        previous_crc: place.previous_crc,
    };
    let encoded = header.encode();
    buffer[..RUN_HEADER_BYTES].copy_from_slice(&encoded);
    let header_crc = u32::from_le_bytes([encoded[124], encoded[125], encoded[126], encoded[127]]);
    BuiltRun { data: buffer.freeze(), entry: header.entry(), header_crc, frame_bytes }
}

/// A good frame of a run that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunFrame {
    pub base_offset: Offset,
    pub end_offset: Offset,
    pub timestamp_max: i64,
    /// Nothing is left of its offsets.
    pub is_gap: bool,
    /// Places in the bytes of the run.
    pub header_at: u32,
    pub body_at: u32,
    pub body_length: u32,
}

/// The good frames of a run: of the partition, within the run's offsets, in order, with good checksums.
/// Damaged ones are left out. The run header itself is not needed: `entry` says what it said when it was
/// checked. `check_body` is false only where a test plants that bug.
#[must_use]
pub fn parse_run(bytes: &[u8], entry: &RunEntry, partition: PartitionId, check_body: bool) -> Vec<RunFrame> {
    let count = entry.frames as usize;
    let bodies_at = RUN_HEADER_BYTES + count * FRAME_HEADER_BYTES;
    let mut headers = Vec::with_capacity(count.min(bytes.len() / FRAME_HEADER_BYTES));
    let mut end = entry.base_offset;
    for index in 0..count {
        let at = RUN_HEADER_BYTES + index * FRAME_HEADER_BYTES;
        let header = bytes.get(at..at + FRAME_HEADER_BYTES).and_then(|slice| FrameHeader::decode(slice).ok());
        let header = header.filter(|header| {
            let inside = header.base_offset >= end && header.end_offset() <= entry.end_offset();
            header.partition == partition.0 && inside
        });
        if let Some(header) = &header {
            end = header.end_offset();
        }
        headers.push(header);
    }
    let total = total_of_bodies(bytes, entry);
    let bodies = place_bodies(&headers, bodies_at, total);
    let mut frames = Vec::with_capacity(count);
    for (index, (header, body_at)) in headers.iter().zip(bodies).enumerate() {
        let (Some(header), Some(body_at)) = (header, body_at) else { continue };
        let body_length = header.body_length as usize;
        let Some(body) = bytes.get(body_at..body_at + body_length) else { continue };
        if check_body && header.check_body(body).is_err() {
            continue;
        }
        frames.push(RunFrame {
            base_offset: header.base_offset,
            end_offset: header.end_offset(),
            timestamp_max: header.timestamp_max,
            is_gap: header.is_gap(),
            header_at: (RUN_HEADER_BYTES + index * FRAME_HEADER_BYTES) as u32,
            body_at: body_at as u32,
            body_length: body_length as u32,
        });
    }
    frames
}

/// Bytes of all bodies as the run header says, if it is whole.
fn total_of_bodies(bytes: &[u8], entry: &RunEntry) -> Option<usize> {
    let (header, _) = RunHeader::decode(bytes).ok()?;
    (header.entry() == *entry).then_some(header.body_bytes as usize)
}

/// Where each body starts. Up to the first damaged header, bodies are counted from the front; after the last
/// damaged one from the back, if the sum of all is known.
fn place_bodies(
    headers: &[Option<FrameHeader>],
    bodies_at: usize,
    total: Option<usize>,
) -> Vec<Option<usize>> {
    let mut places = vec![None; headers.len()];
    let mut at = bodies_at;
    for (place, header) in places.iter_mut().zip(headers) {
        let Some(header) = header else { break };
        *place = Some(at);
        at += header.body_length as usize;
    }
    if let (Some(total), true) = (total, headers.iter().any(Option::is_none)) {
        let mut end = bodies_at + total;
        for (place, header) in places.iter_mut().zip(headers).rev() {
            let Some(header) = header else { break };
            let Some(start) = end.checked_sub(header.body_length as usize) else { break };
            *place = Some(start);
            end = start;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(base_offset: Offset, body: &[u8]) -> (FrameEntry, FrameBytes) {
        let header = FrameHeader {
            format: martlet_core::frame::format::NATIVE,
            epoch: 3,
            partition: 7,
            base_offset,
            offset_span: 2,
            record_count: 2,
            timestamp_max: 1_000 - base_offset as i64,
            body_length: body.len() as u32,
            body_crc: crc32c(body),
            ..FrameHeader::default()
        };
        let bytes: Bytes = [&header.encode()[..], body].concat().into();
        (FrameEntry::of(&header, 0), FrameBytes::of(&bytes))
    }

    fn sample() -> BuiltRun {
        let place = RunPlace {
            segment: SegmentName { partition: PartitionId(7), base_offset: 90, generation: 2 },
            number: 5,
            wal: WalId(0x1234),
            position: 3 * 4096,
            previous_crc: 0xabcd_ef01,
            block_bytes: 4096,
        };
        let frames = [frame(100, b"hello"), frame(102, b""), frame(104, &[7; 300])];
        build_run(&place, 3, &frames)
    }

    #[test]
    fn golden_bytes() {
        let run = sample();
        assert!(&run.data[..] == include_bytes!("../../testdata/run-v1.bin"), "layout changed");
        let (header, crc) = RunHeader::decode(&run.data).unwrap();
        assert_eq!((header.entry(), crc), (run.entry, run.header_crc));
        assert_eq!((header.base_offset, header.end_offset, header.previous_crc), (100, 106, 0xabcd_ef01));
        assert_eq!(header.timestamp_max, 900);
        assert_eq!(crc32c(&run.data[128..128 + 3 * 128]), header.headers_crc);
    }

    #[test]
    fn every_flipped_bit_of_a_run_header_is_found() {
        let good = sample().data;
        for bit in 0..RUN_HEADER_BYTES * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(RunHeader::decode(&bad).is_err(), "bit {bit}");
        }
        assert_eq!(RunHeader::decode(&good[..100]).unwrap_err(), RunError::Short { found: 100 });
    }

    #[test]
    fn an_unknown_version_names_the_remedy() {
        let mut newer = sample().data.to_vec();
        newer[4] = 2;
        let crc = crc32c(&newer[..CRC_AT]);
        newer[CRC_AT..RUN_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let error = RunHeader::decode(&newer).unwrap_err();
        assert_eq!(error, RunError::Version { found: 2 });
        assert!(error.to_string().contains("upgrade"));
    }

    #[test]
    fn a_run_in_a_wrong_place_is_recognised() {
        let (header, _) = RunHeader::decode(&sample().data).unwrap();
        let right = header.segment;
        assert_eq!(header.check_place(right, 3 * 4096), Ok(()));
        assert!(header.check_place(right, 4096).is_err());
        assert!(header.check_place(SegmentName { partition: PartitionId(8), ..right }, 3 * 4096).is_err());
        assert!(header.check_place(SegmentName { generation: 3, ..right }, 3 * 4096).is_err());
    }

    #[test]
    fn a_flipped_byte_costs_its_frame_only() {
        let run = sample();
        let good = parse_run(&run.data, &run.entry, PartitionId(7), true);
        assert_eq!(good.iter().map(|frame| frame.base_offset).collect::<Vec<_>>(), [100, 102, 104]);
        let content = RUN_HEADER_BYTES + 3 * FRAME_HEADER_BYTES + 305;
        for at in 0..content {
            let mut bad = run.data.to_vec();
            bad[at] ^= 0x10;
            let frames = parse_run(&bad, &run.entry, PartitionId(7), true);
            let lost: Vec<u64> =
                good.iter().filter(|frame| !frames.contains(frame)).map(|frame| frame.base_offset).collect();
            let expected = match at {
                0..128 => vec![],
                128..256 | 512..517 => vec![100],
                256..384 => vec![102],
                _ => vec![104],
            };
            assert_eq!(lost, expected, "byte {at}");
        }
        assert!(parse_run(&run.data, &run.entry, PartitionId(8), true).is_empty());
        assert!(parse_run(&[], &run.entry, PartitionId(7), true).is_empty());
    }
}
