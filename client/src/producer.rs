//! The producer's tokio face.

use crate::{ClientError, Delivered, ProducerConfig, Record};

/// Sends records to one topic. Clones share one buffer and one task.
#[derive(Clone, Debug)]
pub struct Producer {}

/// The answer to one `send`, later.
#[derive(Debug)]
pub struct Receipt {}

impl Producer {
    /// Connects, finds the topic and opens a producer id.
    ///
    /// # Errors
    /// `Unreachable`, or the broker's refusal, for instance of an unknown topic.
    pub async fn connect(topic: &str, config: ProducerConfig) -> Result<Producer, ClientError> {
        let _ = (topic, config);
        Err(ClientError::Closed)
    }

    /// Puts `record` into the batch of its partition, waiting while the buffer is full.
    ///
    /// # Errors
    /// `RecordTooLarge`, `NoSuchPartition`, `Closed`. What becomes of the record is told by the receipt.
    pub async fn send(&self, record: Record<'_>) -> Result<Receipt, ClientError> {
        let _ = record;
        Err(ClientError::Closed)
    }

    /// As [`Producer::send`], without a receipt: failures are counted and told by [`Producer::flush`].
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_nowait(&self, record: Record<'_>) -> Result<(), ClientError> {
        let _ = record;
        Err(ClientError::Closed)
    }

    /// As [`Producer::send_nowait`], without waiting.
    ///
    /// # Errors
    /// `BufferFull`, and as [`Producer::send`].
    pub fn try_send(&self, record: Record<'_>) -> Result<(), ClientError> {
        let _ = record;
        Err(ClientError::Closed)
    }

    /// Sends what is waiting, and waits until all that was sent before this call has its answer.
    ///
    /// # Errors
    /// The first failure of a record without receipt since the last flush.
    pub async fn flush(&self) -> Result<(), ClientError> {
        Err(ClientError::Closed)
    }

    /// Flushes, then stops. Later sends through any clone fail with `Closed`.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(&self) -> Result<(), ClientError> {
        Err(ClientError::Closed)
    }

    /// Partitions of the topic, as known now.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        0
    }
}

impl Future for Receipt {
    type Output = Result<Delivered, ClientError>;

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::task::Poll::Ready(Err(ClientError::Closed))
    }
}
