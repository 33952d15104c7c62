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
