//! OffsetCommit, OffsetFetch, OffsetDelete.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse,
};

use super::{group, number, optional, string, text, topic};
use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::groups::ask::{
    Commit, CommitPartition, Committed, FetchedTopic, MemberClaim, Told, TopicPartitions, What,
};

/// A partition that cannot exist stands for one that is none.
fn index(partition: i32) -> u32 {
    u32::try_from(partition).unwrap_or(u32::MAX)
}

pub(crate) fn offset_commit(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: OffsetCommitRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let partition =
            |one: &kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition| {
                CommitPartition {
                    partition: index(one.partition_index),
                    offset: one.committed_offset,
                    leader_epoch: one.committed_leader_epoch,
                    metadata: optional(&one.committed_metadata).unwrap_or_default(),
                }
            };
        let topics = asked.topics.iter();
        let topics =
            topics.map(|one| (string(&one.name), one.partitions.iter().map(partition).collect::<Vec<_>>()));
        let claim = MemberClaim {
            generation: asked.generation_id_or_member_epoch,
            member: string(&asked.member_id),
            instance: optional(&asked.group_instance_id),
        };
        let commit = Commit { claim, topics: topics.collect() };
        let told = context.ask_group(&request, asked.group_id.as_str(), What::Commit(commit)).await;
        let outcome = |at: (usize, usize)| match &told {
            Ok(Told::Committed(topics)) => {
                topics.get(at.0).and_then(|topic| topic.get(at.1)).copied().flatten()
            }
            Ok(_) => Some(ResponseError::UnknownServerError),
            Err(failure) => Some(*failure),
        };
        // Older clients do not know of epochs.
        let known = |failure| match failure {
            ResponseError::StaleMemberEpoch if request.version < 9 => ResponseError::UnsupportedVersion,
            other => other,
        };
        let topics = asked.topics.iter().enumerate().map(|(at, one)| {
            let partitions = one.partitions.iter().enumerate().map(|(index, partition)| {
                OffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(number(outcome((at, index)).map(known)))
            });
            OffsetCommitResponseTopic::default()
                .with_name(one.name.clone())
                .with_partitions(partitions.collect())
        });
        let answer = OffsetCommitResponse::default().with_topics(topics.collect());
        Answer::message(&answer, request.version)
    })
}

type Asked = Option<Vec<TopicPartitions>>;
type Fetched = Result<Vec<FetchedTopic>, ResponseError>;

pub(crate) fn offset_fetch(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: OffsetFetchRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let answer = if request.version >= 8 {
            let mut groups = Vec::new();
            for one in asked.groups {
                let topics: Asked = one.topics.as_ref().map(|topics| {
                    topics.iter().map(|one| (string(&one.name), indexes(&one.partition_indexes))).collect()
                });
                let member = optional(&one.member_id).unwrap_or_default();
                let claim =
                    (one.member_epoch >= 0 || !member.is_empty()).then_some((member, one.member_epoch));
                let asked = (topics, asked.require_stable);
                let fetched = fetch(&context, &request, one.group_id.as_str(), claim, asked).await;
                groups.push(fetched_group(one.group_id.as_str(), fetched));
            }
            OffsetFetchResponse::default().with_groups(groups)
        } else {
            let topics: Asked = asked.topics.as_ref().map(|topics| {
                topics.iter().map(|one| (string(&one.name), indexes(&one.partition_indexes))).collect()
            });
            let wanted = (topics.clone(), asked.require_stable);
            let fetched = fetch(&context, &request, asked.group_id.as_str(), None, wanted).await;
            fetched_old(fetched, topics, request.version)
        };
        Answer::message(&answer, request.version)
    })
}

fn indexes(partitions: &[i32]) -> Vec<u32> {
    partitions.iter().copied().map(index).collect()
}

async fn fetch(
    context: &Context,
    request: &Request,
    name: &str,
    claim: Option<(String, i32)>,
    (topics, is_stable): (Asked, bool),
) -> Fetched {
    match context.ask_group(request, name, What::Fetch { claim, topics, is_stable }).await {
        Ok(Told::Fetched(fetched)) => fetched,
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(failure) => Err(failure),
    }
}

/// What a partition without an offset is said to have.
fn shown(committed: Option<Committed>) -> Committed {
    committed.unwrap_or(Committed { offset: -1, leader_epoch: -1, ..Committed::default() })
}

fn fetched_group(name: &str, fetched: Fetched) -> OffsetFetchResponseGroup {
    let answer = OffsetFetchResponseGroup::default().with_group_id(group(name));
    let topics = match fetched {
        Ok(topics) => topics,
        Err(failure) => return answer.with_error_code(number(Some(failure))),
    };
    let topics = topics.into_iter().map(|fetched| {
        let partitions = fetched.partitions.into_iter().map(|(partition, committed)| {
            let is_unstable = fetched.unstable.contains(&partition);
            let committed = shown(committed.filter(|_| !is_unstable));
            let failure = is_unstable.then_some(ResponseError::UnstableOffsetCommit);
            OffsetFetchResponsePartitions::default()
                .with_partition_index(partition as i32)
                .with_committed_offset(committed.offset)
                .with_committed_leader_epoch(committed.leader_epoch)
                .with_metadata(Some(text(committed.metadata)))
                .with_error_code(number(failure))
        });
        OffsetFetchResponseTopics::default()
            .with_name(topic(fetched.topic))
            .with_partitions(partitions.collect())
    });
    answer.with_topics(topics.collect())
}

/// Before version 2 a failure has no place of its own.
fn fetched_old(fetched: Fetched, asked: Asked, version: i16) -> OffsetFetchResponse {
    let failure = fetched.as_ref().err().copied();
    let topics = fetched.unwrap_or_else(|_| {
        let none = |(topic, partitions): (String, Vec<u32>)| FetchedTopic {
            topic,
            partitions: partitions.into_iter().map(|partition| (partition, None)).collect(),
            ..FetchedTopic::default()
        };
        asked.unwrap_or_default().into_iter().map(none).collect()
    });
    let topics = topics.into_iter().map(|fetched| {
        let partitions = fetched.partitions.into_iter().map(|(partition, committed)| {
            let is_unstable = fetched.unstable.contains(&partition);
            let committed = shown(committed.filter(|_| !is_unstable));
            let failure = failure.or(is_unstable.then_some(ResponseError::UnstableOffsetCommit));
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition as i32)
                .with_committed_offset(committed.offset)
                .with_committed_leader_epoch(committed.leader_epoch)
                .with_metadata(Some(text(committed.metadata)))
                .with_error_code(number(failure))
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic(fetched.topic))
            .with_partitions(partitions.collect())
    });
    let answer = OffsetFetchResponse::default().with_topics(topics.collect());
    if version >= 2 { answer.with_error_code(number(failure)) } else { answer }
}

pub(crate) fn offset_delete(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: OffsetDeleteRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let topics = asked.topics.iter().map(|one| {
            let partitions = one.partitions.iter().map(|partition| index(partition.partition_index));
            (string(&one.name), partitions.collect::<Vec<_>>())
        });
        let topics = topics.collect();
        let told =
            match context.ask_group(&request, asked.group_id.as_str(), What::DeleteOffsets(topics)).await {
                Ok(Told::OffsetsDeleted(told)) => told,
                Ok(_) => Err(ResponseError::UnknownServerError),
                Err(failure) => Err(failure),
            };
        let answer = match told {
            Err(failure) => OffsetDeleteResponse::default().with_error_code(number(Some(failure))),
            Ok(outcomes) => {
                let topics = asked.topics.iter().zip(outcomes).map(|(one, outcomes)| {
                    let partitions = one.partitions.iter().zip(outcomes).map(|(partition, failure)| {
                        OffsetDeleteResponsePartition::default()
                            .with_partition_index(partition.partition_index)
                            .with_error_code(number(failure))
                    });
                    OffsetDeleteResponseTopic::default()
                        .with_name(one.name.clone())
                        .with_partitions(partitions.collect())
                });
                OffsetDeleteResponse::default().with_topics(topics.collect())
            }
        };
        Answer::message(&answer, request.version)
    })
}
