//! The header of a flush: one block-aligned write of the ring, 128 bytes of header, then records, then zeros.
//!
//! ```text
//!   0 magic 4    4 version 2   6 flags 2     8 wal 16      24 position 8   32 sequence 8
//!  40 durable_through 8  48 incarnation 4  52 previous_crc 4  56 length 4  60 payload 4
//!  64 record_count 4  68 records_crc 4  72 spare 52  124 header_crc 4
//! ```
//!
//! `position` names where the flush belongs, so that a misdirected write is recognised; `sequence` and
//! `previous_crc` chain the flushes; `durable_through` says up to which ring position everything was on
//! stable storage when this flush was issued. `records_crc` covers every record header (which carry the
//! checksums of their payloads), so header and record headers are covered, bodies only by their own checksum.

use martlet_core::WalId;
use martlet_core::checksum::crc32c;

use super::{get_u16, get_u32, get_u64, get_u128, put};

/// Bytes of an encoded flush header.
pub const FLUSH_HEADER_BYTES: usize = 128;
/// First bytes of every flush.
pub const FLUSH_MAGIC: u32 = u32::from_le_bytes(*b"MFLU");
const VERSION: u16 = 1;
const CRC_AT: usize = FLUSH_HEADER_BYTES - 4;

/// A flush header as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushHeader {
    pub wal: WalId,
    /// Ring position of the first byte of this header.
    pub position: u64,
    /// Counts flushes of this WAL from 1, across processes.
    pub sequence: u64,
    /// Every byte of the ring below this position was on stable storage when this flush was issued.
    pub durable_through: u64,
    pub incarnation: u32,
    /// `header_crc` of the flush before; 0 for the first.
    pub previous_crc: u32,
    /// Bytes of the whole flush, padding included.
    pub length: u32,
    /// Bytes of header and records, padding excluded.
    pub payload: u32,
    pub record_count: u32,
    /// CRC-32C of the record headers in order.
    pub records_crc: u32,
}

/// Why bytes are not a flush header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FlushError {
    #[error("no flush header here")]
    Absent,
    #[error("flush header checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("flush version {found} is unknown to this build, which reads version 1: upgrade martlet")]
    Version { found: u16 },
    #[error("flush header has impossible lengths")]
    Length,
}

impl FlushHeader {
    /// Writes the header over the first 128 bytes of `out`; returns its checksum.
    ///
    /// # Panics
    /// If `out` is shorter.
    pub fn encode_into(&self, out: &mut [u8]) -> u32 {
        let out = &mut out[..FLUSH_HEADER_BYTES];
        out.fill(0);
        put(out, 0, &FLUSH_MAGIC.to_le_bytes());
        put(out, 4, &VERSION.to_le_bytes());
        put(out, 8, &self.wal.0.to_le_bytes());
        put(out, 24, &self.position.to_le_bytes());
        put(out, 32, &self.sequence.to_le_bytes());
        put(out, 40, &self.durable_through.to_le_bytes());
        put(out, 48, &self.incarnation.to_le_bytes());
        put(out, 52, &self.previous_crc.to_le_bytes());
        put(out, 56, &self.length.to_le_bytes());
        put(out, 60, &self.payload.to_le_bytes());
        put(out, 64, &self.record_count.to_le_bytes());
        put(out, 68, &self.records_crc.to_le_bytes());
        let crc = crc32c(&out[..CRC_AT]);
        put(out, CRC_AT, &crc.to_le_bytes());
        crc
    }

    /// The header at the start of `bytes` and its checksum.
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn decode(bytes: &[u8]) -> Result<(FlushHeader, u32), FlushError> {
        let bytes = bytes.get(..FLUSH_HEADER_BYTES).ok_or(FlushError::Absent)?;
        if get_u32(bytes, 0) != FLUSH_MAGIC {
            return Err(FlushError::Absent);
        }
        let (found, expected) = (get_u32(bytes, CRC_AT), crc32c(&bytes[..CRC_AT]));
        if found != expected {
            return Err(FlushError::Checksum { found, expected });
        }
        let version = get_u16(bytes, 4);
        if version != VERSION {
            return Err(FlushError::Version { found: version });
        }
        let header = FlushHeader {
            wal: WalId(get_u128(bytes, 8)),
            position: get_u64(bytes, 24),
            sequence: get_u64(bytes, 32),
            durable_through: get_u64(bytes, 40),
            incarnation: get_u32(bytes, 48),
            previous_crc: get_u32(bytes, 52),
            length: get_u32(bytes, 56),
            payload: get_u32(bytes, 60),
            record_count: get_u32(bytes, 64),
            records_crc: get_u32(bytes, 68),
        };
        if header.payload > header.length || (header.payload as usize) < FLUSH_HEADER_BYTES {
            return Err(FlushError::Length);
        }
        Ok((header, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_and_every_flipped_bit_is_found() {
        let header = FlushHeader {
            wal: WalId(0x1234_5678_9abc_def0_1122_3344_5566_7788),
            position: 8192,
            sequence: 17,
            durable_through: 8192,
            incarnation: 3,
            previous_crc: 0xdead_beef,
            length: 4096,
            payload: 300,
            record_count: 2,
            records_crc: 0x0bad_cafe,
        };
        let mut bytes = [0xffu8; FLUSH_HEADER_BYTES];
        let crc = header.encode_into(&mut bytes);
        assert_eq!(FlushHeader::decode(&bytes), Ok((header, crc)));
        for bit in 0..FLUSH_HEADER_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FlushHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
