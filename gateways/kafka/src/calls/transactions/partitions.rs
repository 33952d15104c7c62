//! AddPartitionsToTxn, EndTxn.

use std::rc::Rc;

use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse,
};

use super::known;
use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::errors;
use crate::topics::TopicKey;
use crate::transactions::ask::{Claim, Failure, Target, What};

/// EndTxn gives the client its next epoch from this version on.
const BUMPS_FROM: i16 = 5;

pub(crate) fn add_partitions_to_txn(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: AddPartitionsToTxnRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut targets = Vec::new();
        let mut found: Vec<Vec<bool>> = Vec::new();
        for topic in &asked.v3_and_below_topics {
            let known = context.topic(&TopicKey::Name(topic.name.0.to_string())).await.ok();
            let place = |index: &i32| {
                let known = known.as_ref()?;
                let (partition, _) = known.partition(*index)?;
                Some(Target::Partition { partition, topic: known.id, index: u32::try_from(*index).ok()? })
            };
            let places: Vec<Option<Target>> = topic.partitions.iter().map(place).collect();
            found.push(places.iter().map(Option::is_some).collect());
            targets.extend(places.into_iter().flatten());
        }
        let claim =
            Claim { producer: asked.v3_and_below_producer_id.0, epoch: asked.v3_and_below_producer_epoch };
        let is_whole = found.iter().flatten().all(|is_found| *is_found);
        let failure = if asked.v3_and_below_transactional_id.is_empty() {
            Some(Failure::InvalidRequest)
        } else if is_whole {
            let id = asked.v3_and_below_transactional_id.as_str();
            context.ask_transaction(id, What::Add { claim, targets }).await.err()
        } else {
            None
        };
        let failure = failure.map(|failure| known(failure, request.version, 2));
        let outcome = |is_found: bool| match failure {
            Some(failure) => errors::code(failure),
            None if is_whole => errors::NONE,
            None if is_found => errors::code(Failure::OperationNotAttempted),
            None => errors::code(Failure::UnknownTopicOrPartition),
        };
        let topics = asked.v3_and_below_topics.iter().zip(&found).map(|(topic, found)| {
            let partitions = topic.partitions.iter().zip(found).map(|(index, is_found)| {
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*index)
                    .with_partition_error_code(outcome(*is_found))
            });
            AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name.clone())
                .with_results_by_partition(partitions.collect())
        });
        let answer =
            AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics.collect());
        Answer::message(&answer, request.version)
    })
}

pub(crate) fn end_txn(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: EndTxnRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let claim = Claim { producer: asked.producer_id.0, epoch: asked.producer_epoch };
        let bumps = request.version >= BUMPS_FROM;
        let what = |fresh| What::End { claim, is_commit: asked.committed, bumps, fresh };
        let told = if asked.transactional_id.is_empty() {
            Err(Failure::InvalidRequest)
        } else {
            context.ask_producer(asked.transactional_id.as_str(), what).await
        };
        let answer = EndTxnResponse::default();
        let answer = match told {
            Ok(claim) if bumps => {
                answer.with_producer_id(claim.producer.into()).with_producer_epoch(claim.epoch)
            }
            Ok(_) => answer,
            Err(failure) => answer.with_error_code(errors::code(known(failure, request.version, 2))),
        };
        Answer::message(&answer, request.version)
    })
}
