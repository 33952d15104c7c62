//! The words of Martlet: ids, names, the frame header, acknowledgement levels, refusals, bounds, time, the
//! configuration model and the schema of the native protocol.
//!
//! Owns what more than one crate must agree on byte for byte or word for word. Must never do I/O, read a
//! clock, or depend on another crate of the workspace.

pub mod acks;
pub mod checksum;
pub mod compaction;
pub mod config;
pub mod error;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod names;
pub mod native;
pub mod principal;
pub mod time;

pub use acks::Acks;
pub use error::{ErrorCode, Refusal};
pub use frame::{ArchivedFrameHeader, FRAME_HEADER_BYTES, FrameHeader};
pub use ids::{Epoch, Lsn, NodeId, Offset, PartitionId, ProducerId, ShardId, SlotId, TopicId, WalId};
pub use names::TopicName;
pub use principal::Principal;
pub use time::{Instant, Now, WallTime};
