//! The footer of a sealed segment: its run index with prefix-max timestamps, and room for aborted
//! transactions.
//!
//! Layout version 1, little-endian: a header of 104 bytes, 40 bytes a run, zeros up to the block less 32, and
//! a trailer of 32 bytes that is the end of the file. One checksum covers all before the trailer, another the
//! trailer.

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{Offset, PartitionId, WalId};
use martlet_runtime::buffer::AlignedBuffer;

use super::codec::{Fields, Put, Short};
use crate::index::RunEntry;
use crate::io::SegmentName;

/// First four bytes of every footer: `MFTR`.
pub const FOOTER_MAGIC: u32 = 0x5254_464d;
/// First four bytes of every trailer: `MTRL`.
pub const TRAILER_MAGIC: u32 = 0x4c52_544d;
/// The layout this build writes, and the only one it reads.
pub const FOOTER_VERSION: u8 = 1;
/// Length of a footer before its runs.
pub const FOOTER_HEADER_BYTES: usize = 104;
/// Length of the end of a sealed file.
pub const TRAILER_BYTES: usize = 32;
const RUN_BYTES: usize = 40;

/// Why bytes are not a footer, or not the one looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FooterError {
    #[error("footer ends early: found {found} bytes")]
    Short { found: usize },
    #[error("footer magic is {found:#010x}")]
    Magic { found: u32 },
    #[error("footer version {found} is unknown to this build, which reads version 1: upgrade martlet")]
    Version { found: u8 },
    #[error("footer checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("footer has an impossible field: {field}")]
    Field { field: &'static str },
}

impl From<Short> for FooterError {
    fn from(_: Short) -> FooterError {
        FooterError::Field { field: "length" }
    }
}

/// A footer as a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    pub segment: SegmentName,
    pub wal: WalId,
    pub end_offset: Offset,
    /// Bytes of runs before the footer.
    pub data_bytes: u64,
    /// Bytes of frames in the runs.
    pub frame_bytes: u64,
    /// Checksum of the last run header.
    pub last_run_crc: u32,
    pub runs: Vec<RunEntry>,
}

/// Bytes of a footer of `runs` runs.
#[must_use]
pub fn footer_length(runs: usize, block_bytes: usize) -> usize {
    (FOOTER_HEADER_BYTES + runs * RUN_BYTES + TRAILER_BYTES).next_multiple_of(block_bytes)
}

/// The end of a sealed file: position and length of its footer.
///
/// # Errors
/// [`FooterError`] if `bytes` does not end with a trailer.
pub fn decode_trailer(bytes: &[u8]) -> Result<(u64, u32, u32), FooterError> {
    let found = bytes.len();
    let start = found.checked_sub(TRAILER_BYTES).ok_or(FooterError::Short { found })?;
    let bytes = &bytes[start..];
    let mut fields = Fields::new(bytes);
    let magic = fields.u32()?;
    if magic != TRAILER_MAGIC {
        return Err(FooterError::Magic { found: magic });
    }
    let version = fields.u8()?;
    fields.bytes(3)?;
    let (position, length, footer_crc) = (fields.u64()?, fields.u32()?, fields.u32()?);
    fields.bytes(4)?;
    let (found, expected) = (fields.u32()?, crc32c(&bytes[..TRAILER_BYTES - 4]));
    if found != expected {
        return Err(FooterError::Checksum { found, expected });
    }
    if version != FOOTER_VERSION {
        return Err(FooterError::Version { found: version });
    }
    Ok((position, length, footer_crc))
}

impl Footer {
    /// The footer as whole blocks, to be written at `data_bytes`.
    #[must_use]
    pub fn encode(&self, block_bytes: usize) -> Bytes {
        let length = footer_length(self.runs.len(), block_bytes);
        let mut fields = Vec::with_capacity(length);
        fields.put_u32(FOOTER_MAGIC);
        fields.put_u8(FOOTER_VERSION);
        fields.put(&[0; 3]);
        fields.put_u32(self.segment.generation);
        fields.put_u32(self.runs.len() as u32);
        fields.put_u128(self.wal.0);
        fields.put_u64(self.segment.partition.0);
        fields.put_u64(self.segment.base_offset);
        fields.put_u64(self.end_offset);
        fields.put_u64(self.data_bytes);
        fields.put_u64(self.frame_bytes);
        fields.put_u32(self.last_run_crc);
        // Aborted transactions: none yet.
        fields.put_u32(0);
        fields.put(&[0; 24]);
        let mut timestamp_max = i64::MIN;
        for run in &self.runs {
            timestamp_max = timestamp_max.max(run.timestamp_max);
            fields.put_u64(run.base_offset);
            fields.put_i64(run.timestamp_max);
            fields.put_i64(timestamp_max);
            fields.put_u32(run.span);
            fields.put_u32(run.unit);
            fields.put_u32(run.length);
            fields.put_u32(run.frames);
        }
        fields.resize(length - TRAILER_BYTES, 0);
        let footer_crc = crc32c(&fields);
        fields.put_u32(TRAILER_MAGIC);
        fields.put_u8(FOOTER_VERSION);
        fields.put(&[0; 3]);
        fields.put_u64(self.data_bytes);
        fields.put_u32(length as u32);
        fields.put_u32(footer_crc);
        fields.put_u32(0);
        let crc = crc32c(&fields[length - TRAILER_BYTES..]);
        fields.put_u32(crc);
        let mut buffer = AlignedBuffer::zeroed(length, block_bytes);
        buffer.extend_from_slice(&fields);
        buffer.into_bytes()
    }

    /// A checked footer from its whole blocks.
    ///
    /// # Errors
    /// What is wrong with it, as [`FooterError`].
    pub fn decode(bytes: &[u8]) -> Result<Footer, FooterError> {
        let (position, length, footer_crc) = decode_trailer(bytes)?;
        if length as usize != bytes.len() {
            return Err(FooterError::Field { field: "length" });
        }
        let content = &bytes[..bytes.len() - TRAILER_BYTES];
        let expected = crc32c(content);
        if footer_crc != expected {
            return Err(FooterError::Checksum { found: footer_crc, expected });
        }
        let mut fields = Fields::new(content);
        let magic = fields.u32()?;
        if magic != FOOTER_MAGIC {
            return Err(FooterError::Magic { found: magic });
        }
        let version = fields.u8()?;
        if version != FOOTER_VERSION {
            return Err(FooterError::Version { found: version });
        }
        fields.bytes(3)?;
        let (generation, count, wal) = (fields.u32()?, fields.u32()? as usize, WalId(fields.u128()?));
        let (partition, base_offset) = (PartitionId(fields.u64()?), fields.u64()?);
        let segment = SegmentName { partition, base_offset, generation };
        let (end_offset, data_bytes, frame_bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (last_run_crc, aborted) = (fields.u32()?, fields.u32()?);
        fields.bytes(24)?;
        if aborted != 0 || data_bytes != position || fields.left() / RUN_BYTES < count {
            return Err(FooterError::Field { field: "counts" });
        }
        let runs = (0..count).map(|_| decode_run(&mut fields)).collect::<Result<Vec<_>, _>>()?;
        Ok(Footer { segment, wal, end_offset, data_bytes, frame_bytes, last_run_crc, runs })
    }
}

fn decode_run(fields: &mut Fields<'_>) -> Result<RunEntry, Short> {
    let (base_offset, timestamp_max, _prefix_max) = (fields.u64()?, fields.i64()?, fields.i64()?);
    let (span, unit) = (fields.u32()?, fields.u32()?);
    Ok(RunEntry { base_offset, timestamp_max, span, unit, length: fields.u32()?, frames: fields.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(runs: u32) -> Footer {
        let run = |index: u32| RunEntry {
            base_offset: 10 + u64::from(index) * 5,
            timestamp_max: 1_000 - i64::from(index),
            span: 5,
            unit: index * 2,
            length: 8192,
            frames: 4,
        };
        Footer {
            segment: SegmentName { partition: PartitionId(9), base_offset: 10, generation: 1 },
            wal: WalId(77),
            end_offset: 10 + u64::from(runs) * 5,
            data_bytes: u64::from(runs) * 8192,
            frame_bytes: 123,
            last_run_crc: 0xdead_beef,
            runs: (0..runs).map(run).collect(),
        }
    }

    #[test]
    fn golden_bytes() {
        let footer = sample(3);
        let bytes = footer.encode(4096);
        assert!(&bytes[..] == include_bytes!("../../testdata/footer-v1.bin"), "layout changed");
        assert_eq!(Footer::decode(&bytes), Ok(footer));
    }

    #[test]
    fn long_footers_take_more_blocks() {
        for runs in [0, 1, 99, 100, 5_000] {
            let footer = sample(runs);
            let bytes = footer.encode(4096);
            assert_eq!(bytes.len(), footer_length(runs as usize, 4096));
            assert_eq!(Footer::decode(&bytes), Ok(footer));
        }
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let good = sample(3).encode(4096);
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x04;
            assert!(Footer::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Footer::decode(&good[..10]).is_err());
    }
}
