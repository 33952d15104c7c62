//! Compression of a batch's records, in the framings that Kafka's clients use. Owns the codec numbers and the
//! bound on what decompression may produce.

use std::io::{Read, Write};

use super::KafkaBatchError;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum KafkaCodec {
    #[default]
    None = 0,
    /// Members of RFC 1952.
    Gzip = 1,
    /// Raw Snappy, or Snappy-java's blocks.
    Snappy = 2,
    /// An LZ4 frame.
    Lz4 = 3,
    /// Zstandard frames.
    Zstd = 4,
}

const ZSTD_LEVEL: i32 = 1;
const GZIP_LEVEL: u32 = 6;
/// What Snappy-java's stream begins with, before two version numbers of 4 bytes each.
const SNAPPY_JAVA_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const SNAPPY_JAVA_HEADER_BYTES: usize = 16;

impl KafkaCodec {
    /// # Errors
    /// [`KafkaBatchError::Codec`].
    pub fn from_number(number: u8) -> Result<KafkaCodec, KafkaBatchError> {
        match number {
            0 => Ok(KafkaCodec::None),
            1 => Ok(KafkaCodec::Gzip),
            2 => Ok(KafkaCodec::Snappy),
            3 => Ok(KafkaCodec::Lz4),
            4 => Ok(KafkaCodec::Zstd),
            found => Err(KafkaBatchError::Codec { found }),
        }
    }

    /// The compressed form, or `None` if the codec failed.
    pub(super) fn compress(self, input: &[u8]) -> Option<Vec<u8>> {
        match self {
            KafkaCodec::None => Some(input.to_vec()),
            KafkaCodec::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(input).ok()?;
                encoder.finish().ok()
            }
            KafkaCodec::Snappy => snap::raw::Encoder::new().compress_vec(input).ok(),
            KafkaCodec::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(input).ok()?;
                encoder.finish().ok()
            }
            KafkaCodec::Zstd => zstd::bulk::compress(input, ZSTD_LEVEL).ok(),
        }
    }

    /// What `input` was compressed from, at most `limit` bytes.
    pub(super) fn decompress(self, input: &[u8], limit: u32) -> Result<Vec<u8>, KafkaBatchError> {
        match self {
            KafkaCodec::None => Ok(input.to_vec()),
            KafkaCodec::Gzip => read_all(flate2::bufread::MultiGzDecoder::new(input), limit),
            KafkaCodec::Snappy => unsnap(input, limit),
            KafkaCodec::Lz4 => read_all(lz4_flex::frame::FrameDecoder::new(input), limit),
            KafkaCodec::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(failed)?;
                read_all(decoder, limit)
            }
        }
    }
}

fn failed(error: impl std::fmt::Display) -> KafkaBatchError {
    KafkaBatchError::Decompress { detail: error.to_string() }
}

fn read_all(decoder: impl Read, limit: u32) -> Result<Vec<u8>, KafkaBatchError> {
    let mut out = Vec::new();
    decoder.take(u64::from(limit) + 1).read_to_end(&mut out).map_err(failed)?;
    if out.len() > limit as usize {
        return Err(KafkaBatchError::TooLarge { limit });
    }
    Ok(out)
}

fn unsnap(input: &[u8], limit: u32) -> Result<Vec<u8>, KafkaBatchError> {
    let mut out = Vec::new();
    if !input.starts_with(SNAPPY_JAVA_MAGIC) {
        unsnap_block(input, limit, &mut out)?;
        return Ok(out);
    }
    let mut rest = input.get(SNAPPY_JAVA_HEADER_BYTES..).unwrap_or_default();
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(|| failed("a block is cut"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, behind) = behind.split_at_checked(length).ok_or_else(|| failed("a block is cut"))?;
        unsnap_block(block, limit, &mut out)?;
        rest = behind;
    }
    Ok(out)
}

fn unsnap_block(block: &[u8], limit: u32, out: &mut Vec<u8>) -> Result<(), KafkaBatchError> {
    let length = snap::raw::decompress_len(block).map_err(failed)?;
    if length > (limit as usize).saturating_sub(out.len()) {
        return Err(KafkaBatchError::TooLarge { limit });
    }
    let start = out.len();
    out.resize(start + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(failed)?;
    Ok(())
}
