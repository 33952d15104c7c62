//! Bytes on disk: where files live and what stands in them. Pure: encodes values and checks bytes.
//!
//! Must never do I/O or decide what to write. An unknown version is refused with the remedy.

pub mod checkpoint;
pub(crate) mod codec;
pub mod flush;
pub mod footer;
pub mod paths;
pub mod record;
pub mod run;
pub mod superblock;

use bytes::BytesMut;

/// An empty buffer with room for `capacity` bytes, that begins at a multiple of `block`. Unlike one of zeros
/// it costs nothing for bytes that are written anyway.
pub(crate) fn aligned(capacity: usize, block: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(capacity + block);
    align(&mut buffer, block);
    assert!(buffer.capacity() >= capacity, "an aligned buffer has the room asked for");
    buffer
}

/// Moves the start of an empty buffer up to a multiple of `block`.
pub(crate) fn align(buffer: &mut BytesMut, block: usize) {
    assert!(buffer.is_empty(), "bytes cannot move");
    let skew = buffer.as_ptr() as usize % block;
    if skew != 0 {
        buffer.resize(block - skew, 0);
        drop(buffer.split_to(block - skew));
    }
    assert!((buffer.as_ptr() as usize).is_multiple_of(block), "direct I/O needs whole blocks");
}

/// Reads a little-endian integer out of a slice that the caller has checked to be long enough.
macro_rules! little_endian {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            let mut value = [0u8; size_of::<$type>()];
            value.copy_from_slice(&bytes[at..at + size_of::<$type>()]);
            <$type>::from_le_bytes(value)
        }
    };
}

little_endian!(get_u16, u16);
little_endian!(get_u32, u32);
little_endian!(get_u64, u64);
little_endian!(get_u128, u128);

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
