//! DeleteTopics and DescribeTopicPartitions.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use martlet_core::{ErrorCode, TopicId};
use martlet_shard::api::Call;
use uuid::Uuid;

use super::Refused;
use crate::answer::{Answer, Answering, Request};
use crate::calls::metadata::{TOPIC_OPERATIONS, all_names};
use crate::context::Context;
use crate::errors;
use crate::topics::{Topic, TopicKey};

/// Answers have the names that were asked for by id, and words, from these versions on.
const WORDS_FROM: i16 = 5;
/// Partitions of one answer, whatever is asked for.
const PARTITIONS_MAX: usize = 2_000;

pub(crate) fn delete_topics(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DeleteTopicsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let named = asked.topic_names.into_iter();
        let named = named.map(|name| DeleteTopicState::default().with_name(Some(name)));
        let mut responses = Vec::new();
        for state in named.chain(asked.topics) {
            let deleted = delete(&context, &state).await;
            let mut result =
                DeletableTopicResult::default().with_name(state.name).with_topic_id(state.topic_id);
            match deleted {
                Ok(topic) => {
                    result = result
                        .with_name(Some(TopicName(StrBytes::from(topic.short().to_owned()))))
                        .with_topic_id(Uuid::from_u128(topic.id.0));
                }
                Err(refused) => {
                    result = result.with_error_code(refused.code());
                    if request.version >= WORDS_FROM {
                        result = result.with_error_message(refused.words());
                    }
                }
            }
            responses.push(result);
        }
        Answer::message(&DeleteTopicsResponse::default().with_responses(responses), request.version)
    })
}

async fn delete(context: &Context, asked: &DeleteTopicState) -> Result<Rc<Topic>, Refused> {
    let key = match &asked.name {
        Some(name) => TopicKey::Name(name.0.to_string()),
        None => TopicKey::Id(TopicId(asked.topic_id.as_u128())),
    };
    let topic = match context.topic(&key).await {
        Ok(topic) => topic,
        Err(refusal) if refusal.code == ErrorCode::UnknownTopic && matches!(key, TopicKey::Id(_)) => {
            return Err(Refused(ResponseError::UnknownTopicId, refusal.detail));
        }
        Err(refusal) => return Err(refusal.into()),
    };
    context.ask(Call::TopicDelete { name: topic.name.clone() }).await?;
    Ok(topic)
}

pub(crate) fn describe_topic_partitions(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DescribeTopicPartitionsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        match describe(&context, asked).await {
            Ok(answer) => Answer::message(&answer, request.version),
            Err(refused) => Answer::Close(refused.1),
        }
    })
}

async fn describe(
    context: &Context,
    asked: DescribeTopicPartitionsRequest,
) -> Result<DescribeTopicPartitionsResponse, Refused> {
    let is_all = asked.topics.is_empty();
    let mut names: Vec<String> = asked.topics.iter().map(|topic| topic.name.0.to_string()).collect();
    if is_all {
        names = all_names(context).await?;
    }
    names.sort_unstable();
    names.dedup();
    let (first, mut from) = match &asked.cursor {
        Some(cursor) => {
            (cursor.topic_name.0.to_string(), usize::try_from(cursor.partition_index).unwrap_or(0))
        }
        None => (String::new(), 0),
    };
    let mut room = usize::try_from(asked.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_MAX);
    let mut topics = Vec::new();
    let mut next = None;
    for name in names.into_iter().filter(|name| *name >= first) {
        let start = if name == first { std::mem::take(&mut from) } else { 0 };
        if room == 0 {
            next = Some((name, start));
            break;
        }
        let topic = match context.topic(&TopicKey::Name(name.clone())).await {
            Ok(topic) => topic,
            Err(_) if is_all => continue,
            Err(refusal) => {
                topics.push(
                    DescribeTopicPartitionsResponseTopic::default()
                        .with_error_code(errors::code(errors::of(refusal.code)))
                        .with_name(Some(TopicName(StrBytes::from(name)))),
                );
                continue;
            }
        };
        context.learn_epochs([&topic].into_iter()).await;
        let upto = topic.partitions.len().min(start.saturating_add(room));
        topics.push(view(context, &topic, start, upto));
        room -= upto.saturating_sub(start);
        if upto < topic.partitions.len() {
            next = Some((name, upto));
            break;
        }
    }
    let cursor = next.map(|(name, index)| {
        Cursor::default()
            .with_topic_name(TopicName(StrBytes::from(name)))
            .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
    });
    Ok(DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(cursor))
}

fn view(context: &Context, topic: &Topic, from: usize, upto: usize) -> DescribeTopicPartitionsResponseTopic {
    let partition = |(index, (_, shard)): (i32, &(_, martlet_core::ShardId))| {
        described(index, context.broker_id(*shard), topic.epoch(index))
    };
    let all = (0..).zip(&topic.partitions).take(upto).skip(from);
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from(topic.short().to_owned()))))
        .with_topic_id(Uuid::from_u128(topic.id.0))
        .with_partitions(all.map(partition).collect())
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

/// A partition with its one replica. The lists of eligible leaders are empty and never null: Java's client
/// takes null for a list.
fn described(index: i32, leader: i32, leader_epoch: i32) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition::default()
        .with_partition_index(index)
        .with_leader_id(leader.into())
        .with_leader_epoch(leader_epoch)
        .with_replica_nodes(vec![leader.into()])
        .with_isr_nodes(vec![leader.into()])
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_described_partition_has_no_list_that_is_null() {
        let partition = described(3, 1, 5);
        assert_eq!(partition.eligible_leader_replicas, Some(Vec::new()));
        assert_eq!(partition.last_known_elr, Some(Vec::new()));
        assert_eq!(partition.partition_index, 3);
        assert_eq!(partition.leader_epoch, 5);
    }
}
