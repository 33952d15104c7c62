//! A checkpoint: what the ring no longer has to hold. Two slots, files of their own, written in turn.
//!
//! Layout version 1, little-endian: a header of 64 bytes (magic, version, flags, generation, length,
//! checksum of the content and of the header itself), then the content, zeros up to the block. The checksum
//! of the content covers the padding too; bytes after `length` belong to an older, longer checkpoint of the
//! slot and mean nothing.
//!
//! **Invariant**: a checkpoint is written only when the ring is durable through the moment it was taken, and
//! every segment byte below the lengths it names was synced before.

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{Epoch, Offset, PartitionId, WalId};
use martlet_runtime::buffer::AlignedBuffer;

use super::codec::{Fields, Put, Short};
use crate::index::Segment;
use crate::io::SegmentName;

/// First four bytes of every checkpoint: `MCKP`.
pub const CHECKPOINT_MAGIC: u32 = 0x504b_434d;
/// The layout this build writes, and the only one it reads.
pub const CHECKPOINT_VERSION: u8 = 1;
/// Length of the header.
pub const CHECKPOINT_HEADER_BYTES: usize = 64;

/// State of a segment that is sealed and compacted; 0 is neither, 1 sealed.
const COMPACTED: u8 = 2;
/// Flag of the header: [`Checkpoint::lost_records`].
const LOST_RECORDS: u8 = 1;

/// Why a slot holds no checkpoint of this build.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("checkpoint is cut short: {found} bytes")]
    Short { found: usize },
    #[error("checkpoint magic is {found:#010x}")]
    Magic { found: u32 },
    #[error("checkpoint version {found} is unknown to this build, which reads version 1: upgrade martlet")]
    Version { found: u8 },
    #[error("checkpoint checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("checkpoint has an impossible field: {field}")]
    Field { field: &'static str },
    #[error("checkpoint cannot be read: the disk fails")]
    Unread,
}

impl From<Short> for CheckpointError {
    fn from(_: Short) -> CheckpointError {
        CheckpointError::Field { field: "length" }
    }
}

/// Where the scan of the ring starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingStart {
    /// Position of a flush.
    pub position: u64,
    /// Its sequence.
    pub sequence: u64,
    /// Checksum of the flush header before it.
    pub previous_crc: u32,
}

/// A segment of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentState {
    pub base_offset: Offset,
    pub end_offset: Offset,
    /// Bytes of runs that are settled.
    pub length: u64,
    /// Bytes of frames in them.
    pub frame_bytes: u64,
    /// Largest record timestamp, wall milliseconds.
    pub timestamp_max: i64,
    pub generation: u32,
    pub runs: u32,
    pub last_run_crc: u32,
    pub sealed: bool,
    /// Compaction has seen it, and everything before it.
    pub compacted: bool,
}

impl SegmentState {
    #[must_use]
    pub fn of(segment: &Segment) -> SegmentState {
        SegmentState {
            base_offset: segment.base_offset,
            end_offset: segment.end_offset,
            length: segment.length,
            frame_bytes: segment.frame_bytes,
            timestamp_max: segment.timestamp_max,
            generation: segment.generation,
            runs: segment.runs,
            last_run_crc: segment.last_run_crc,
            sealed: segment.sealed,
            compacted: segment.compacted,
        }
    }

    /// The segment for the index; its runs are not loaded.
    #[must_use]
    pub fn segment(&self) -> Segment {
        Segment {
            base_offset: self.base_offset,
            end_offset: self.end_offset,
            length: self.length,
            frame_bytes: self.frame_bytes,
            timestamp_max: self.timestamp_max,
            generation: self.generation,
            runs: self.runs,
            last_run_crc: self.last_run_crc,
            sealed: self.sealed,
            compacted: self.compacted,
            allocated: 0,
            changed_at: 0,
            index: None,
        }
    }
}

/// A partition of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionState {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub log_start: Offset,
    pub next_offset: Offset,
    /// Oldest first.
    pub segments: Vec<SegmentState>,
}

impl PartitionState {
    /// The state by itself, as a RUN_REF holds it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.segments.len() * 64);
        encode_partition(&mut out, self);
        out
    }

    /// `None` if the bytes are not exactly one state.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<PartitionState> {
        let mut fields = Fields::new(bytes);
        let state = decode_partition(&mut fields).ok()?;
        (fields.left() == 0).then_some(state)
    }
}

/// A checkpoint as a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    pub wal: WalId,
    /// Counts checkpoints of this log; its parity is the slot.
    pub generation: u64,
    pub incarnation: u32,
    pub ring_start: RingStart,
    /// Ring position at which `engine_snapshot` was taken: what lies behind it is replayed to the engine.
    pub snapshot_at: u64,
    /// The log was durable through this ring position when the checkpoint was written.
    pub durable_through: u64,
    /// The engine's, opaque.
    pub engine_snapshot: Bytes,
    pub partitions: Vec<PartitionState>,
    /// Segments that no partition names and whose files may still be there.
    pub retired_segments: Vec<SegmentName>,
    /// Dropped partitions whose directories may still hold files.
    pub retired_partitions: Vec<PartitionId>,
    /// The log moves, or has moved, to another number of shards after records were lost of which nothing is
    /// known, not even their partitions: the engine must still hear of it.
    pub lost_records: bool,
}

impl Checkpoint {
    /// The checkpoint as whole blocks, to be written at the start of its slot.
    #[must_use]
    pub fn encode(&self, block_bytes: usize) -> Bytes {
        let content = self.encode_content();
        let length = (CHECKPOINT_HEADER_BYTES + content.len()).next_multiple_of(block_bytes);
        let mut buffer = AlignedBuffer::zeroed(length, block_bytes);
        buffer.set_len(CHECKPOINT_HEADER_BYTES);
        buffer.extend_from_slice(&content);
        buffer.pad_to(block_bytes);
        let mut header = Vec::with_capacity(CHECKPOINT_HEADER_BYTES);
        header.put_u32(CHECKPOINT_MAGIC);
        header.put_u8(CHECKPOINT_VERSION);
        header.put_u8(if self.lost_records { LOST_RECORDS } else { 0 });
        header.put(&[0; 2]);
        header.put_u64(self.generation);
        header.put_u64(length as u64);
        header.put_u128(self.wal.0);
        header.put_u32(crc32c(&buffer[CHECKPOINT_HEADER_BYTES..]));
        header.resize(CHECKPOINT_HEADER_BYTES - 4, 0);
        let crc = crc32c(&header);
        header.put_u32(crc);
        buffer[..CHECKPOINT_HEADER_BYTES].copy_from_slice(&header);
        buffer.into_bytes()
    }

    fn encode_content(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.engine_snapshot.len() + self.partitions.len() * 128);
        out.put_u32(self.incarnation);
        out.put_u64(self.ring_start.position);
        out.put_u64(self.ring_start.sequence);
        out.put_u32(self.ring_start.previous_crc);
        out.put_u64(self.snapshot_at);
        out.put_u64(self.durable_through);
        out.put_u64(self.partitions.len() as u64);
        for state in &self.partitions {
            encode_partition(&mut out, state);
        }
        out.put_u64(self.retired_segments.len() as u64);
        for name in &self.retired_segments {
            out.put_u64(name.partition.0);
            out.put_u64(name.base_offset);
            out.put_u32(name.generation);
        }
        out.put_u64(self.retired_partitions.len() as u64);
        for partition in &self.retired_partitions {
            out.put_u64(partition.0);
        }
        out.put_u64(self.engine_snapshot.len() as u64);
        out.put(&self.engine_snapshot);
        out
    }

    /// The checkpoint at the start of a slot's bytes.
    ///
    /// # Errors
    /// What is wrong with it, as [`CheckpointError`]. An unknown version is told only if the header is whole.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
        let found = bytes.len();
        let header = bytes.get(..CHECKPOINT_HEADER_BYTES).ok_or(CheckpointError::Short { found })?;
        let mut fields = Fields::new(header);
        let magic = fields.u32()?;
        if magic != CHECKPOINT_MAGIC {
            return Err(CheckpointError::Magic { found: magic });
        }
        let (crc_found, expected) = (
            Fields::new(&header[CHECKPOINT_HEADER_BYTES - 4..]).u32()?,
            crc32c(&header[..CHECKPOINT_HEADER_BYTES - 4]),
        );
        if crc_found != expected {
            return Err(CheckpointError::Checksum { found: crc_found, expected });
        }
        let version = fields.u8()?;
        if version != CHECKPOINT_VERSION {
            return Err(CheckpointError::Version { found: version });
        }
        let flags = fields.u8()?;
        fields.bytes(2)?;
        let (generation, length, wal) = (fields.u64()?, fields.u64()?, WalId(fields.u128()?));
        let length = usize::try_from(length).map_err(|_| CheckpointError::Field { field: "length" })?;
        let content = bytes.get(CHECKPOINT_HEADER_BYTES..length).ok_or(CheckpointError::Short { found })?;
        let (crc_found, expected) = (fields.u32()?, crc32c(content));
        if crc_found != expected {
            return Err(CheckpointError::Checksum { found: crc_found, expected });
        }
        let checkpoint = decode_content(wal, generation, content)?;
        Ok(Checkpoint { lost_records: flags & LOST_RECORDS != 0, ..checkpoint })
    }
}

fn decode_content(wal: WalId, generation: u64, content: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let mut fields = Fields::new(content);
    let incarnation = fields.u32()?;
    let ring_start =
        RingStart { position: fields.u64()?, sequence: fields.u64()?, previous_crc: fields.u32()? };
    let (snapshot_at, durable_through) = (fields.u64()?, fields.u64()?);
    let partitions = many(&mut fields, decode_partition)?;
    let retired_segments = many(&mut fields, |fields| {
        let partition = PartitionId(fields.u64()?);
        Ok(SegmentName { partition, base_offset: fields.u64()?, generation: fields.u32()? })
    })?;
    let retired_partitions = many(&mut fields, |fields| Ok(PartitionId(fields.u64()?)))?;
    let snapshot_length = fields.u64()?;
    let snapshot_length =
        usize::try_from(snapshot_length).map_err(|_| CheckpointError::Field { field: "snapshot" })?;
    let engine_snapshot = Bytes::copy_from_slice(fields.bytes(snapshot_length)?);
    Ok(Checkpoint {
        wal,
        generation,
        incarnation,
        ring_start,
        snapshot_at,
        durable_through,
        engine_snapshot,
        partitions,
        retired_segments,
        retired_partitions,
        lost_records: false,
    })
}

/// A counted list. The count is not trusted for memory: the input ends first.
fn many<T>(
    fields: &mut Fields<'_>,
    mut one: impl FnMut(&mut Fields<'_>) -> Result<T, CheckpointError>,
) -> Result<Vec<T>, CheckpointError> {
    let count = fields.u64()?;
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(one(fields)?);
    }
    Ok(list)
}

fn encode_partition(out: &mut Vec<u8>, state: &PartitionState) {
    out.put_u64(state.partition.0);
    out.put_u32(state.epoch);
    out.put_u64(state.log_start);
    out.put_u64(state.next_offset);
    out.put_u32(state.segments.len() as u32);
    for segment in &state.segments {
        encode_segment(out, segment);
    }
}

fn encode_segment(out: &mut Vec<u8>, segment: &SegmentState) {
    out.put_u64(segment.base_offset);
    out.put_u64(segment.end_offset);
    out.put_u64(segment.length);
    out.put_u64(segment.frame_bytes);
    out.put_i64(segment.timestamp_max);
    out.put_u32(segment.generation);
    out.put_u32(segment.runs);
    out.put_u32(segment.last_run_crc);
    out.put_u8(match (segment.sealed, segment.compacted) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => COMPACTED,
    });
}

fn decode_segment(fields: &mut Fields<'_>) -> Result<SegmentState, CheckpointError> {
    let mut segment = SegmentState {
        base_offset: fields.u64()?,
        end_offset: fields.u64()?,
        length: fields.u64()?,
        frame_bytes: fields.u64()?,
        timestamp_max: fields.i64()?,
        generation: fields.u32()?,
        runs: fields.u32()?,
        last_run_crc: fields.u32()?,
        sealed: false,
        compacted: false,
    };
    (segment.sealed, segment.compacted) = match fields.u8()? {
        0 => (false, false),
        1 => (true, false),
        COMPACTED => (true, true),
        _ => return Err(CheckpointError::Field { field: "sealed" }),
    };
    Ok(segment)
}

fn decode_partition(fields: &mut Fields<'_>) -> Result<PartitionState, CheckpointError> {
    let mut state = PartitionState {
        partition: PartitionId(fields.u64()?),
        epoch: fields.u32()?,
        log_start: fields.u64()?,
        next_offset: fields.u64()?,
        segments: Vec::new(),
    };
    let segments = fields.u32()?;
    let mut end = 0;
    for _ in 0..segments {
        let segment = decode_segment(fields)?;
        let rises = segment.base_offset >= end && segment.end_offset > segment.base_offset;
        if !rises || segment.end_offset > state.next_offset {
            return Err(CheckpointError::Field { field: "segment offsets" });
        }
        end = segment.end_offset;
        state.segments.push(segment);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        let segment = |base_offset: Offset, sealed| SegmentState {
            base_offset,
            end_offset: base_offset + 50,
            length: 8192,
            frame_bytes: 7000,
            timestamp_max: 1_700_000_000_000,
            generation: 1,
            runs: 2,
            last_run_crc: 0x0102_0304,
            sealed,
            compacted: false,
        };
        let state = |partition, segments| PartitionState {
            partition: PartitionId(partition),
            epoch: 4,
            log_start: 20,
            next_offset: 140,
            segments,
        };
        Checkpoint {
            wal: WalId(0xfeed),
            generation: 12,
            incarnation: 3,
            ring_start: RingStart { position: 4096, sequence: 9, previous_crc: 0xaabb_ccdd },
            snapshot_at: 12_288,
            durable_through: 16_384,
            engine_snapshot: Bytes::from_static(b"the engine's own bytes"),
            partitions: vec![state(0, vec![]), state(5, vec![segment(10, true), segment(60, false)])],
            retired_segments: vec![SegmentName { partition: PartitionId(5), base_offset: 0, generation: 1 }],
            retired_partitions: vec![PartitionId(2), PartitionId(3)],
            lost_records: false,
        }
    }

    #[test]
    fn golden_bytes() {
        let checkpoint = sample();
        let bytes = checkpoint.encode(4096);
        assert!(&bytes[..] == include_bytes!("../../testdata/checkpoint-v1.bin"), "layout changed");
        assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
        let lost = Checkpoint { lost_records: true, ..sample() };
        assert_eq!(Checkpoint::decode(&lost.encode(4096)), Ok(lost));
    }

    #[test]
    fn what_an_older_checkpoint_left_behind_means_nothing() {
        let mut bytes = sample().encode(4096).to_vec();
        bytes.extend_from_slice(&[0xee; 4096]);
        assert_eq!(Checkpoint::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = sample().encode(4096);
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(Checkpoint::decode(&good[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn an_unknown_version_names_the_remedy() {
        let mut newer = sample().encode(4096).to_vec();
        newer[4] = 2;
        let crc = crc32c(&newer[..CHECKPOINT_HEADER_BYTES - 4]);
        newer[CHECKPOINT_HEADER_BYTES - 4..CHECKPOINT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let error = Checkpoint::decode(&newer).unwrap_err();
        assert_eq!(error, CheckpointError::Version { found: 2 });
        assert!(error.to_string().contains("upgrade"));
    }

    #[test]
    fn ten_thousand_sealed_segments_fit_a_megabyte() {
        let mut checkpoint = sample();
        let segment = checkpoint.partitions[1].segments[0];
        let base =
            |index: u64| SegmentState { base_offset: index * 50, end_offset: index * 50 + 50, ..segment };
        checkpoint.partitions[1].segments = (0..10_000).map(base).collect();
        checkpoint.partitions[1].next_offset = 500_000;
        let bytes = checkpoint.encode(4096);
        assert!(bytes.len() < 1024 * 1024, "{}", bytes.len());
        assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
    }
}
