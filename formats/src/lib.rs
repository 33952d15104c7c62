//! Batch bodies: how records are written into the opaque bytes behind a frame header, and read out of them
//! again.
//!
//! Owns the body formats, their checks, and the walk over a run of frames. Clients, transcoding gateways and
//! compaction use it; the broker's own path never does more than the cheap header check. Must never do I/O,
//! read a clock, or trust a length it was given.

pub mod compact;
pub mod frames;
pub mod kafka;
pub mod native;
pub mod transcode;
