//! What a refusal is called in Kafka. Owns the one mapping; the text of a refusal goes where the protocol has
//! a place for it.

use kafka_protocol::ResponseError;
use martlet_core::ErrorCode;

use crate::meters;

/// The number of an error that goes into an answer, where it is counted.
pub(crate) fn code(error: ResponseError) -> i16 {
    meters::note(error.code());
    error.code()
}

/// No error.
pub(crate) const NONE: i16 = 0;

/// What `code` is for a client that produces, fetches or asks about a partition.
pub(crate) fn of(code: ErrorCode) -> ResponseError {
    match code {
        ErrorCode::Protocol | ErrorCode::InvalidArgument => ResponseError::InvalidRequest,
        ErrorCode::UnsupportedVersion => ResponseError::UnsupportedVersion,
        ErrorCode::FrameTooLarge | ErrorCode::BatchTooLarge => ResponseError::MessageTooLarge,
        ErrorCode::NotAuthorized => ResponseError::TopicAuthorizationFailed,
        ErrorCode::QuotaExceeded => ResponseError::ThrottlingQuotaExceeded,
        ErrorCode::InvalidName => ResponseError::InvalidTopicException,
        ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => ResponseError::UnknownTopicOrPartition,
        ErrorCode::TopicExists => ResponseError::TopicAlreadyExists,
        ErrorCode::UnknownCursor => ResponseError::GroupIdNotFound,
        ErrorCode::CorruptBatch => ResponseError::CorruptMessage,
        // A client that is ahead of what is known sends again from there, or begins a new epoch.
        ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer => ResponseError::OutOfOrderSequenceNumber,
        ErrorCode::ProducerFenced => ResponseError::InvalidProducerEpoch,
        ErrorCode::InvalidTransaction => ResponseError::InvalidTxnState,
        ErrorCode::ConcurrentTransaction => ResponseError::ConcurrentTransactions,
        ErrorCode::DuplicateSequence => ResponseError::DuplicateSequenceNumber,
        ErrorCode::OffsetOutOfRange => ResponseError::OffsetOutOfRange,
        ErrorCode::CorruptRange | ErrorCode::StorageFull | ErrorCode::StorageFenced => {
            ResponseError::KafkaStorageError
        }
        // Both are retried by every client, after a look at the metadata.
        ErrorCode::Overloaded | ErrorCode::TimedOut => ResponseError::RequestTimedOut,
        ErrorCode::NotOwner | ErrorCode::ShuttingDown => ResponseError::NotLeaderOrFollower,
        ErrorCode::Internal => ResponseError::UnknownServerError,
    }
}
