//! Batches whose transaction is not open here yet: they wait until whoever coordinates it says that it may
//! have records in this partition. Owns their order and their bound; what is asked, and of whom, the gateway
//! brought with the batch.
//!
//! **Invariant**: a batch that began to wait before the end of a transaction was staged is never taken for
//! one of it afterwards: the answer it waited for says nothing any more, and the question is asked again.

use std::collections::{BTreeMap, VecDeque};

use martlet_core::limits::SHARD_VERIFYING_BATCHES_MAX;
use martlet_core::{ErrorCode, PartitionId, ProducerId, Refusal};

use crate::api::{Append, CallContext, CallToken};

/// A batch that waits.
pub(crate) type WaitingBatch = (CallToken, CallContext, Append);

/// What waits for one answer.
#[derive(Debug, Default)]
pub(crate) struct Verification {
    ticket: u64,
    /// A transaction of the producer ended here since the question was asked.
    pub(crate) is_spoiled: bool,
    pub(crate) batches: VecDeque<WaitingBatch>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Verifications {
    tickets: u64,
    by_ticket: BTreeMap<u64, (PartitionId, ProducerId)>,
    by_producer: BTreeMap<(PartitionId, ProducerId), Verification>,
    count: usize,
    bytes: usize,
}

impl Verifications {
    /// Bytes of batches that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether batches of this producer wait: then those behind them must as well.
    pub(crate) fn holds(&self, partition: PartitionId, producer: ProducerId) -> bool {
        self.by_producer.contains_key(&(partition, producer))
    }

    /// Keeps a batch. Returns a ticket if the question has to be asked.
    ///
    /// # Errors
    /// `Overloaded`.
    pub(crate) fn keep(&mut self, batch: WaitingBatch, bytes_max: usize) -> Result<Option<u64>, Refusal> {
        let append = &batch.2;
        if self.count >= SHARD_VERIFYING_BATCHES_MAX || self.bytes + append.body.len() > bytes_max {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "too many batches wait for their transactions to be verified: slow down and try again",
            ));
        }
        self.count += 1;
        self.bytes += append.body.len();
        let key = (append.partition, append.producer);
        if let Some(verification) = self.by_producer.get_mut(&key) {
            verification.batches.push_back(batch);
            return Ok(None);
        }
        self.tickets += 1;
        let ticket = self.tickets;
        self.by_ticket.insert(ticket, key);
        self.by_producer
            .insert(key, Verification { ticket, is_spoiled: false, batches: VecDeque::from([batch]) });
        Ok(Some(ticket))
    }

    /// A transaction of the producer ends in the partition.
    pub(crate) fn spoil(&mut self, partition: PartitionId, producer: ProducerId) {
        if let Some(verification) = self.by_producer.get_mut(&(partition, producer)) {
            verification.is_spoiled = true;
        }
    }

    /// The answer has come.
    pub(crate) fn take(&mut self, ticket: u64) -> Option<Verification> {
        let key = self.by_ticket.remove(&ticket)?;
        let verification = self.by_producer.remove(&key)?;
        assert!(verification.ticket == ticket, "a producer's batches wait for one answer");
        self.count -= verification.batches.len();
        self.bytes -= verification.batches.iter().map(|(_, _, append)| append.body.len()).sum::<usize>();
        Some(verification)
    }

    /// Everybody who waits.
    pub(crate) fn take_all(&mut self) -> Vec<CallToken> {
        let tickets = self.tickets;
        let all = std::mem::take(self);
        self.tickets = tickets;
        let batches = all.by_producer.into_values().flat_map(|verification| verification.batches);
        batches.map(|(token, ..)| token).collect()
    }
}
