//! The consumer's tokio face.

use crate::{ClientError, ConsumedRecord, ConsumerConfig, StartAt};

/// Reads one topic.
#[derive(Debug)]
pub struct Consumer {}

/// Records of one batch.
#[derive(Clone, Debug)]
pub struct Delivery {}

impl Delivery {
    #[must_use]
    pub fn partition(&self) -> u32 {
        0
    }

    /// The offset behind the last record.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        0
    }

    /// The records, borrowed.
    pub fn records(&self) -> impl Iterator<Item = ConsumedRecord<'_>> {
        std::iter::empty()
    }
}

impl Consumer {
    /// Connects and finds the topic; reading starts at once.
    ///
    /// # Errors
    /// `Unreachable`, or the broker's refusal, for instance of an unknown topic.
    pub async fn connect(topic: &str, config: ConsumerConfig) -> Result<Consumer, ClientError> {
        let _ = (topic, config);
        Err(ClientError::Closed)
    }

    /// The next batch of records; `None` when `until_end` is set and every partition is at its end. Cancel-safe.
    ///
    /// # Errors
    /// `CorruptRange` and `Unreadable` are told once and reading goes on; a refusal stops its partition until a seek.
    pub async fn next(&mut self) -> Result<Option<Delivery>, ClientError> {
        Err(ClientError::Closed)
    }

    /// Moves the cursor of every partition behind the last delivery that [`Consumer::next`] returned, and waits until
    /// that is durable.
    ///
    /// # Errors
    /// `InvalidConfig` without a cursor name; the broker's refusal.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        Err(ClientError::Closed)
    }

    /// Reads `partition` from `start` on; what was fetched and not taken is dropped.
    ///
    /// # Errors
    /// `NoSuchPartition`, `Closed`.
    pub fn seek(&mut self, partition: u32, start: StartAt) -> Result<(), ClientError> {
        let _ = (partition, start);
        Err(ClientError::Closed)
    }

    /// Stops delivering `partition` until [`Consumer::resume`].
    ///
    /// # Errors
    /// As [`Consumer::seek`].
    pub fn pause(&mut self, partition: u32) -> Result<(), ClientError> {
        let _ = partition;
        Err(ClientError::Closed)
    }

    /// # Errors
    /// As [`Consumer::seek`].
    pub fn resume(&mut self, partition: u32) -> Result<(), ClientError> {
        let _ = partition;
        Err(ClientError::Closed)
    }

    /// The next offset to be delivered of each partition, where it is known.
    #[must_use]
    pub fn positions(&self) -> Vec<(u32, Option<u64>)> {
        Vec::new()
    }
}
