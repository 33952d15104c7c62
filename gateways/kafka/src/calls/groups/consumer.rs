//! ConsumerGroupHeartbeat and ConsumerGroupDescribe.

use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response as described;
use kafka_protocol::messages::consumer_group_heartbeat_response as told;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
};
use martlet_core::TopicId;
use uuid::Uuid;

use super::{group, maybe, number, optional, string, text, topic};
use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::groups::ask::{ConsumerDescribedMember, ConsumerHeartbeat, ConsumerTold, Partitions, Told, What};

type Refused = (ResponseError, String);

pub(crate) fn consumer_group_heartbeat(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: ConsumerGroupHeartbeatRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let answer = match heartbeat(&context, &request, &asked).await {
            Ok(told) => heard(told),
            Err((failure, why)) => ConsumerGroupHeartbeatResponse::default()
                .with_error_code(number(Some(failure)))
                .with_error_message(Some(text(why))),
        };
        Answer::message(&answer, request.version)
    })
}

async fn heartbeat(
    context: &Context,
    request: &Request,
    asked: &ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerTold, Refused> {
    check(asked, request.version)?;
    let owned = asked.topic_partitions.as_ref().map(|topics| {
        let one = |one: &kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions| {
            let partitions = one.partitions.iter().filter_map(|index| u32::try_from(*index).ok());
            (TopicId(one.topic_id.as_u128()), partitions.collect())
        };
        topics.iter().map(one).collect::<Partitions>()
    });
    let beat = ConsumerHeartbeat {
        member: string(&asked.member_id),
        epoch: asked.member_epoch,
        instance: optional(&asked.instance_id),
        rack: optional(&asked.rack_id),
        rebalance: u64::try_from(asked.rebalance_timeout_ms).ok().map(Duration::from_millis),
        topics: asked
            .subscribed_topic_names
            .as_ref()
            .map(|names| names.iter().map(|name| name.as_str().to_owned()).collect()),
        pattern: optional(&asked.subscribed_topic_regex),
        assignor: optional(&asked.server_assignor),
        owned,
    };
    match context.ask_group(request, asked.group_id.as_str(), What::ConsumerHeartbeat(beat)).await {
        Ok(Told::ConsumerHeartbeat(told)) => told,
        Ok(_) => Err((ResponseError::UnknownServerError, "another answer was expected".to_owned())),
        Err(failure) => Err((failure, "the coordinator is not available: come again".to_owned())),
    }
}

fn check(asked: &ConsumerGroupHeartbeatRequest, version: i16) -> Result<(), Refused> {
    let invalid = |what: &str| Err((ResponseError::InvalidRequest, what.to_owned()));
    let is_empty = |text: &Option<_>| {
        text.as_ref().is_some_and(|text: &kafka_protocol::protocol::StrBytes| text.is_empty())
    };
    let joins = asked.member_epoch == 0;
    if asked.group_id.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if asked.member_id.is_empty() && (version >= 1 || !joins) {
        return invalid("MemberId can't be empty.");
    }
    if is_empty(&asked.instance_id) || is_empty(&asked.rack_id) || is_empty(&asked.server_assignor) {
        return invalid("InstanceId, RackId and ServerAssignor can't be empty.");
    }
    if asked.member_epoch < -2 {
        return invalid("MemberEpoch is invalid.");
    }
    if asked.member_epoch == -2 && asked.instance_id.is_none() {
        return invalid("InstanceId can't be null.");
    }
    if joins {
        if asked.rebalance_timeout_ms < 0 {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if asked.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        let has_names = asked.subscribed_topic_names.is_some();
        if !has_names && asked.subscribed_topic_regex.is_none() {
            return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null.");
        }
    }
    Ok(())
}

fn heard(heard: ConsumerTold) -> ConsumerGroupHeartbeatResponse {
    let assignment = heard.assignment.map(|partitions| {
        let topics = partitions.into_iter().filter(|(_, partitions)| !partitions.is_empty());
        let topics = topics.map(|(topic, partitions)| {
            told::TopicPartitions::default()
                .with_topic_id(Uuid::from_u128(topic.0))
                .with_partitions(partitions.into_iter().map(|index| index as i32).collect())
        });
        told::Assignment::default().with_topic_partitions(topics.collect())
    });
    ConsumerGroupHeartbeatResponse::default()
        .with_member_id(Some(text(heard.member)))
        .with_member_epoch(heard.epoch)
        .with_heartbeat_interval_ms(heard.heartbeat_ms)
        .with_assignment(assignment)
}

pub(crate) fn consumer_group_describe(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: ConsumerGroupDescribeRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut groups = Vec::new();
        for name in &asked.group_ids {
            let answer = described::DescribedGroup::default().with_group_id(group(name.as_str()));
            let outcome = match context.ask_group(&request, name.as_str(), What::ConsumerDescribe).await {
                Ok(Told::ConsumerDescribed(outcome)) => outcome,
                Ok(_) => Err(ResponseError::UnknownServerError),
                Err(failure) => Err(failure),
            };
            groups.push(match outcome {
                Ok(found) => answer
                    .with_group_state(text(found.state))
                    .with_group_epoch(found.epoch)
                    .with_assignment_epoch(found.assignment_epoch)
                    .with_assignor_name(text(found.assignor))
                    .with_members(found.members.into_iter().map(|m| member(m, request.version)).collect()),
                Err(failure) => answer
                    .with_error_code(number(Some(failure)))
                    .with_error_message(Some(text(format!("there is no consumer group {}", name.as_str())))),
            });
        }
        Answer::message(&ConsumerGroupDescribeResponse::default().with_groups(groups), request.version)
    })
}

fn member(member: ConsumerDescribedMember, version: i16) -> described::Member {
    let answer = described::Member::default()
        .with_member_id(text(member.member))
        .with_instance_id(maybe(member.instance))
        .with_rack_id(maybe(member.rack))
        .with_member_epoch(member.epoch)
        .with_client_id(text(member.client.id))
        .with_client_host(text(member.client.host))
        .with_subscribed_topic_names(member.topics.into_iter().map(topic).collect())
        .with_subscribed_topic_regex(maybe(member.pattern))
        .with_assignment(assignment(member.assignment))
        .with_target_assignment(assignment(member.target));
    // 1 = of the new protocol; before version 1 there was no place for it.
    if version >= 1 { answer.with_member_type(1) } else { answer }
}

fn assignment(topics: Vec<(TopicId, String, Vec<u32>)>) -> described::Assignment {
    let topics = topics.into_iter().map(|(id, name, partitions)| {
        described::TopicPartitions::default()
            .with_topic_id(Uuid::from_u128(id.0))
            .with_topic_name(topic(name))
            .with_partitions(partitions.into_iter().map(|index| index as i32).collect())
    });
    described::Assignment::default().with_topic_partitions(topics.collect())
}
