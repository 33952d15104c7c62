//! AddOffsetsToTxn, TxnOffsetCommit: offsets of groups that count when a transaction commits.

use std::rc::Rc;

use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestPartition;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

use super::known;
use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::errors;
use crate::groups;
use crate::groups::ask::{Commit, CommitPartition, MemberClaim, TransactionCommit};
use crate::transactions::ask::{Ask, Claim, Failure, Target, What};

/// TxnOffsetCommit adds the group to the transaction itself from this version on.
const ADDS_FROM: i16 = 5;
/// Times that offsets are brought anew because their transaction ended meanwhile.
const VERIFY_TRIES_MAX: usize = 3;

pub(crate) fn add_offsets_to_txn(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: AddOffsetsToTxnRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let claim = Claim { producer: asked.producer_id.0, epoch: asked.producer_epoch };
        let failure = if asked.transactional_id.is_empty() || asked.group_id.is_empty() {
            Some(Failure::InvalidRequest)
        } else {
            let targets = vec![Target::Group(asked.group_id.to_string())];
            let id = asked.transactional_id.as_str();
            context.ask_transaction(id, What::Add { claim, targets }).await.err()
        };
        let failure = failure.map(|failure| errors::code(known(failure, request.version, 2)));
        let answer = AddOffsetsToTxnResponse::default().with_error_code(failure.unwrap_or(errors::NONE));
        Answer::message(&answer, request.version)
    })
}

pub(crate) fn txn_offset_commit(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: TxnOffsetCommitRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let told = commit(&context, &request, &asked).await;
        let outcome = |at: (usize, usize)| match &told {
            Ok(topics) => topics.get(at.0).and_then(|topic| topic.get(at.1)).copied().flatten(),
            Err(failure) => Some(*failure),
        };
        let topics = asked.topics.iter().enumerate().map(|(at, one)| {
            let partitions = one.partitions.iter().enumerate().map(|(index, partition)| {
                let failure = outcome((at, index)).map(|failure| match failure {
                    // Clients of this request know of no epochs of members.
                    Failure::StaleMemberEpoch => Failure::IllegalGeneration,
                    other => known(other, request.version, 3),
                });
                TxnOffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(failure.map_or(errors::NONE, errors::code))
            });
            TxnOffsetCommitResponseTopic::default()
                .with_name(one.name.clone())
                .with_partitions(partitions.collect())
        });
        Answer::message(&TxnOffsetCommitResponse::default().with_topics(topics.collect()), request.version)
    })
}

async fn commit(
    context: &Context,
    request: &Request,
    asked: &TxnOffsetCommitRequest,
) -> Result<Vec<Vec<Option<Failure>>>, Failure> {
    if asked.transactional_id.is_empty() || asked.group_id.is_empty() {
        return Err(Failure::InvalidRequest);
    }
    let (group, id) = (asked.group_id.as_str(), asked.transactional_id.as_str());
    let claim = Claim { producer: asked.producer_id.0, epoch: asked.producer_epoch };
    let mut commit = TransactionCommit {
        commit: offsets(asked),
        producer: claim.producer,
        epoch: claim.epoch,
        verified: None,
    };
    for _ in 0..VERIFY_TRIES_MAX {
        let what = groups::ask::What::TransactionCommit(commit.clone());
        match context.ask_group(request, group, what).await? {
            groups::ask::Told::Committed(told) => return Ok(told),
            groups::ask::Told::Unverified(number) => commit.verified = Some(number),
            _ => return Err(Failure::UnknownServerError),
        }
        let target = Target::Group(group.to_owned());
        let what = What::Admit { claim, target, adds: request.version >= ADDS_FROM };
        context.told_of_transaction(Ask::call(id, what)).await?;
    }
    Err(Failure::ConcurrentTransactions)
}

fn offsets(asked: &TxnOffsetCommitRequest) -> Commit {
    let partition = |one: &TxnOffsetCommitRequestPartition| CommitPartition {
        partition: u32::try_from(one.partition_index).unwrap_or(u32::MAX),
        offset: one.committed_offset,
        leader_epoch: one.committed_leader_epoch,
        metadata: one.committed_metadata.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let topics = asked.topics.iter();
    let topics = topics.map(|one| (one.name.to_string(), one.partitions.iter().map(partition).collect()));
    Commit {
        claim: MemberClaim {
            generation: asked.generation_id,
            member: asked.member_id.to_string(),
            instance: asked.group_instance_id.as_ref().map(ToString::to_string),
        },
        topics: topics.collect(),
    }
}
