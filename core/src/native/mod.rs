//! The schema of the native protocol, version 1. Specified in `docs/native-protocol.md`.
//!
//! On the wire a message is `length: u32 | meta_length: u32 | meta | body`, little-endian; `length` counts
//! all that follows it. `meta` is a [`Request`] or a [`Response`] archived by rkyv (unaligned, little-endian,
//! 32-bit pointers), checked before use and read in place; `body` is opaque bytes. A connection opens with
//! the eight bytes of [`PREFACE`] from the client, then HELLO.

mod message;

pub use message::*;

/// First bytes of a connection, client to broker, before the first message.
pub const PREFACE: [u8; 8] = *b"MARTLET\x01";
/// The protocol version this build speaks.
pub const VERSION: u16 = 1;
/// Bytes of the two length fields.
pub const LENGTHS_BYTES: usize = 8;

/// Bits of `features` in HELLO.
pub mod features {
    /// Nothing optional exists in version 1.
    pub const NONE: u64 = 0;
}
