//! What the broker says when it says no. One table of codes for the engine and the native protocol; other
//! gateways map it to theirs. The text is lowercase and carries the remedy.

use std::fmt;

/// Why a call was refused. The numbers are the native protocol's and never change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(compare(PartialEq), derive(Debug))]
#[repr(u16)]
pub enum ErrorCode {
    /// The request cannot be understood; the connection is closed after this.
    Protocol = 1,
    /// The version or a feature is not served here.
    UnsupportedVersion = 2,
    /// The frame is over the connection's limit; the connection is closed after this.
    FrameTooLarge = 3,
    NotAuthorized = 4,
    QuotaExceeded = 5,
    InvalidName = 6,
    InvalidArgument = 7,
    UnknownTopic = 8,
    TopicExists = 9,
    UnknownPartition = 10,
    UnknownCursor = 11,
    /// The batch is over the topic's limit.
    BatchTooLarge = 12,
    /// The body does not have the checksum or the shape its header says.
    CorruptBatch = 13,
    /// A batch of this producer before this one is missing.
    OutOfOrderSequence = 14,
    /// A newer epoch of this producer exists.
    ProducerFenced = 15,
    /// The producer's state has expired here.
    UnknownProducer = 16,
    OffsetOutOfRange = 17,
    /// The range was damaged on disk; the detail names the next good offset.
    CorruptRange = 18,
    /// The disk is full: writes are refused, reads and deletions go on.
    StorageFull = 19,
    /// A write or sync failed: this shard or partition accepts no writes until the process is restarted.
    StorageFenced = 20,
    /// Memory or a queue is at its bound: slow down and retry.
    Overloaded = 21,
    /// Another shard or node owns the partition: ask for the route again.
    NotOwner = 22,
    /// The time given ran out. A write may or may not have happened.
    TimedOut = 23,
    ShuttingDown = 24,
    /// A defect of the broker.
    Internal = 25,
    /// A sequence older than those remembered: the batch was stored before, at an offset no longer known.
    DuplicateSequence = 26,
    /// The batch does not belong to a transaction that is open, or to none although one is.
    InvalidTransaction = 27,
    /// An earlier transaction of this producer is still being ended: the same call succeeds in a moment.
    ConcurrentTransaction = 28,
}

impl ErrorCode {
    /// Whether the same call may succeed later without anybody changing it.
    #[must_use]
    pub fn is_retriable(self) -> bool {
        use ErrorCode::{
            ConcurrentTransaction, NotOwner, Overloaded, QuotaExceeded, ShuttingDown, StorageFull, TimedOut,
        };
        matches!(
            self,
            QuotaExceeded
                | StorageFull
                | Overloaded
                | NotOwner
                | TimedOut
                | ShuttingDown
                | ConcurrentTransaction
        )
    }
}

/// A refusal: the code, and one lowercase sentence with the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Refusal {
    pub code: ErrorCode,
    pub detail: String,
    /// With [`ErrorCode::CorruptRange`] and [`ErrorCode::OffsetOutOfRange`]: where reading can go on.
    pub next_offset: Option<u64>,
}

impl Refusal {
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Refusal {
        Refusal { code, detail: detail.into(), next_offset: None }
    }

    #[must_use]
    pub fn at(code: ErrorCode, next_offset: u64, detail: impl Into<String>) -> Refusal {
        Refusal { code, detail: detail.into(), next_offset: Some(next_offset) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}
