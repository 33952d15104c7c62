//! Why a call of the client failed. One type for all, so that applications match on the case and not on the
//! place.

use martlet_core::{ErrorCode, Refusal};

/// Why a call failed. `Clone`, because one batch's failure is told to each of its records.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// The broker said no, and repeating the call will not change that.
    #[error("refused by the broker ({code:?}): {detail}")]
    Refused {
        code: ErrorCode,
        detail: String,
        /// With offsets out of range and corrupt ranges: where reading can go on.
        next_offset: Option<u64>,
    },
    /// Time ran out. A write may or may not have happened.
    #[error("no answer in time, last problem: {detail}; the write may or may not have happened")]
    TimedOut { detail: String },
    /// No broker could be reached in time.
    #[error("no broker could be reached: {detail}; check the address and that the broker runs")]
    Unreachable { detail: String },
    /// The other side does not speak the protocol.
    #[error("protocol error: {detail}")]
    Protocol { detail: String },
    /// A record is larger than the topic or the client allows.
    #[error("the record needs {bytes} bytes, a batch takes {limit}: split it, or raise batch_bytes_max")]
    RecordTooLarge { bytes: usize, limit: usize },
    #[error("partition {partition} does not exist, the topic has {partitions}")]
    NoSuchPartition { partition: u32, partitions: u32 },
    /// The buffer is full and the call must not wait.
    #[error("the producer's buffer is full: await send, or raise buffer_bytes")]
    BufferFull,
    /// A range was damaged on the broker's disk; the consumer goes on at `next_offset`.
    #[error("partition {partition}: offsets {from} to {next_offset} are damaged on disk, skipped: {detail}")]
    CorruptRange { partition: u32, from: u64, next_offset: u64, detail: String },
    /// The position is not in the log (any more): retention took it, or it lies behind the end. The consumer
    /// leaves the partition alone until a seek; `next_offset` is the place in the log that is nearest.
    #[error("partition {partition} cannot be read at {from}, the nearest place is {next_offset}: {detail}")]
    OutOfRange { partition: u32, from: u64, next_offset: u64, detail: String },
    /// A batch that this client cannot read; the consumer goes on behind it.
    #[error("partition {partition}: the batch at {offset} cannot be read and was skipped: {detail}")]
    Unreadable { partition: u32, offset: u64, detail: String },
    #[error("the client is closed")]
    Closed,
    #[error("{detail}")]
    InvalidConfig { detail: String },
}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> ClientError {
        ClientError::Refused { code: refusal.code, detail: refusal.detail, next_offset: refusal.next_offset }
    }
}

impl ClientError {
    /// The reason alone, for use within another error's text.
    pub(crate) fn reason(&self) -> String {
        match self {
            ClientError::Unreachable { detail } | ClientError::TimedOut { detail } => detail.clone(),
            other => other.to_string(),
        }
    }

    /// The broker's code, if the broker refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(*code),
            ClientError::OutOfRange { .. } => Some(ErrorCode::OffsetOutOfRange),
            ClientError::CorruptRange { .. } => Some(ErrorCode::CorruptRange),
            _ => None,
        }
    }
}
