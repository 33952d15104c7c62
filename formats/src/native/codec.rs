//! Compression of a batch's records as one block. Owns the codec numbers and the bound on what decompression
//! may produce: exactly the declared size or an error.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use super::BatchError;

/// How the records of a batch are compressed; the client chooses, the broker stores as received.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Codec {
    #[default]
    None = 0,
    /// One gzip member (RFC 1952).
    Gzip = 1,
    /// Raw Snappy, without framing.
    Snappy = 2,
    /// One LZ4 block, without a frame and without a size prefix.
    Lz4 = 3,
    /// One Zstandard frame.
    Zstd = 4,
}

/// Compression levels are fixed: speed first, and equal output for equal input.
const ZSTD_LEVEL: i32 = 1;
const GZIP_LEVEL: u32 = 6;

impl Codec {
    /// # Errors
    /// [`BatchError::Codec`].
    pub fn from_number(number: u8) -> Result<Codec, BatchError> {
        match number {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            found => Err(BatchError::Codec { found }),
        }
    }

    /// Appends the compressed form of `input` to `out`. `false`, with `out` as it was, if the codec failed.
    pub(super) fn compress(self, input: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let done = match self {
            Codec::None => {
                out.extend_from_slice(input);
                true
            }
            Codec::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(&mut *out, flate2::Compression::new(GZIP_LEVEL));
                encoder.write_all(input).is_ok() && encoder.finish().is_ok()
            }
            Codec::Snappy => grow(out, snap::raw::max_compress_len(input.len()), |room| {
                snap::raw::Encoder::new().compress(input, room).ok()
            }),
            Codec::Lz4 => grow(out, lz4_flex::block::get_maximum_output_size(input.len()), |room| {
                lz4_flex::block::compress_into(input, room).ok()
            }),
            Codec::Zstd => grow(out, zstd::zstd_safe::compress_bound(input.len()), |room| {
                zstd::bulk::compress_to_buffer(input, room, ZSTD_LEVEL).ok()
            }),
        };
        if !done {
            out.truncate(start);
        }
        done
    }

    /// The `length` bytes that `input` was compressed from. The caller has compared `length` with its bound.
    pub(super) fn decompress(self, input: &[u8], length: u32) -> Result<Vec<u8>, BatchError> {
        let size = length as usize;
        let failed = |detail: String| BatchError::Decompress { codec: self, detail };
        let mut out = vec![0u8; size];
        let found = match self {
            Codec::None => {
                return Err(failed("the records are not compressed".into()));
            }
            Codec::Gzip => {
                let mut decoder = flate2::bufread::GzDecoder::new(input);
                let found = read_up_to(&mut decoder, &mut out).map_err(|e| failed(e.to_string()))?;
                let mut beyond = [0u8; 1];
                let more = decoder.read(&mut beyond).map_err(|e| failed(e.to_string()))?;
                if !decoder.into_inner().is_empty() {
                    return Err(failed("bytes follow the compressed block".into()));
                }
                found + more
            }
            Codec::Snappy => {
                let declared = snap::raw::decompress_len(input).map_err(|e| failed(e.to_string()))?;
                if declared != size {
                    return Err(BatchError::Length { found: declared, expected: length });
                }
                snap::raw::Decoder::new().decompress(input, &mut out).map_err(|e| failed(e.to_string()))?
            }
            Codec::Lz4 => {
                lz4_flex::block::decompress_into(input, &mut out).map_err(|e| failed(e.to_string()))?
            }
            Codec::Zstd => {
                zstd::bulk::decompress_to_buffer(input, &mut out[..]).map_err(|e| failed(e.to_string()))?
            }
        };
        if found == size { Ok(out) } else { Err(BatchError::Length { found, expected: length }) }
    }
}

fn grow(out: &mut Vec<u8>, room: usize, compress: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
    let start = out.len();
    out.resize(start + room, 0);
    let Some(used) = compress(&mut out[start..]) else { return false };
    out.truncate(start + used);
    true
}

/// Reads until `out` is full or the input ends.
fn read_up_to(reader: &mut impl Read, out: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match reader.read(&mut out[filled..])? {
            0 => break,
            some => filled += some,
        }
    }
    Ok(filled)
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        })
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Codec::None),
            "gzip" => Ok(Codec::Gzip),
            "snappy" => Ok(Codec::Snappy),
            "lz4" => Ok(Codec::Lz4),
            "zstd" => Ok(Codec::Zstd),
            other => Err(format!("unknown compression `{other}`: use none, gzip, snappy, lz4 or zstd")),
        }
    }
}
