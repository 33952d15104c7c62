//! Requests about transactions, by subject: each is translated for the coordinator of the transactional id,
//! and its answer back.

mod describe;
mod offsets;
mod partitions;

use kafka_protocol::ResponseError;
use martlet_core::{ErrorCode, Refusal};
use martlet_shard::api::{Call, Reply};

use crate::context::Context;
use crate::errors;
use crate::transactions::ask::{Ask, Claim, Failure, Told, What};

pub(crate) use describe::{describe_producers, describe_transactions, list_transactions};
pub(crate) use offsets::{add_offsets_to_txn, txn_offset_commit};
pub(crate) use partitions::{add_partitions_to_txn, end_txn};

/// Times a question is asked that may need a producer id: once without, once with one.
const PRODUCER_TRIES_MAX: usize = 2;

impl Context {
    /// Asks the coordinator of a transactional id.
    pub(super) async fn ask_transaction(&self, id: &str, what: What) -> Result<Told, Failure> {
        self.told_of_transaction(Ask::call(id, what)).await
    }

    async fn told_of_transaction(&self, call: Call) -> Result<Told, Failure> {
        match self.ask(call).await {
            Ok(Reply::Service(told)) => match told.take() {
                Some(Told::Plain(Some(failure))) => Err(failure),
                Some(told) => Ok(told),
                None => Err(Failure::UnknownServerError),
            },
            Ok(_) => Err(Failure::UnknownServerError),
            Err(refusal) => Err(failure_of(&refusal)),
        }
    }

    /// Asks what is answered with a producer, and gets a fresh id for it if one is needed.
    pub(super) async fn ask_producer(
        &self,
        id: &str,
        what: impl Fn(Option<i64>) -> What,
    ) -> Result<Claim, Failure> {
        let mut fresh = None;
        for _ in 0..PRODUCER_TRIES_MAX {
            match self.ask_transaction(id, what(fresh)).await? {
                Told::Producer(told) => return told,
                Told::NeedsProducer => fresh = Some(self.fresh_producer().await?),
                _ => return Err(Failure::UnknownServerError),
            }
        }
        Err(Failure::CoordinatorLoadInProgress)
    }

    /// A producer id that nobody has.
    pub(super) async fn fresh_producer(&self) -> Result<i64, Failure> {
        match self.ask(Call::ProducerOpen).await {
            Ok(Reply::Producer { producer, .. }) => Ok(i64::try_from(producer.0).unwrap_or(i64::MAX)),
            Ok(_) => Err(Failure::UnknownServerError),
            Err(refusal) => Err(match errors::of(refusal.code) {
                // Clients ask again.
                ResponseError::RequestTimedOut => ResponseError::CoordinatorLoadInProgress,
                other => other,
            }),
        }
    }
}

/// What a refusal is called towards a producer of transactions.
fn failure_of(refusal: &Refusal) -> Failure {
    match refusal.code {
        ErrorCode::NotAuthorized => Failure::TransactionalIdAuthorizationFailed,
        ErrorCode::NotOwner => Failure::NotCoordinator,
        ErrorCode::InvalidTransaction => Failure::InvalidTxnState,
        ErrorCode::ProducerFenced => Failure::ProducerFenced,
        ErrorCode::ConcurrentTransaction => Failure::ConcurrentTransactions,
        // Clients look for the coordinator again and repeat what they said.
        _ => Failure::CoordinatorNotAvailable,
    }
}

/// A failure as older versions have it, which do not know of fencing.
pub(super) fn known(failure: Failure, version: i16, fenced_from: i16) -> Failure {
    match failure {
        Failure::ProducerFenced if version < fenced_from => Failure::InvalidProducerEpoch,
        other => other,
    }
}
