//! Metadata: which topics there are and who leads their partitions. Makes topics that a client asks for, if
//! both sides want that.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use martlet_core::limits::{TOPIC_LIST_COUNT_MAX, TOPICS_MAX};
use martlet_core::{ErrorCode, Refusal, TopicId};
use martlet_shard::api::{Call, Reply};
use uuid::Uuid;

use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::errors;
use crate::topics::{Topic, TopicKey, full_name, prefix, short_name};

/// Everything that may be done to a topic, as bits of Kafka's operations.
pub(super) const TOPIC_OPERATIONS: i32 = 0x0df8;
/// Everything that may be done to a cluster.
pub(super) const CLUSTER_OPERATIONS: i32 = 0x1fa0;
/// Not said.
pub(super) const NO_OPERATIONS: i32 = i32::MIN;
/// Clients of older versions cannot ask for no creation.
const CREATION_IS_ASKED_FROM: i16 = 4;

pub(crate) fn metadata(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: MetadataRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        match answer(&context, &asked, request.version).await {
            Ok(answer) => Answer::message(&answer, request.version),
            Err(refusal) => Answer::Close(refusal.detail),
        }
    })
}

async fn answer(
    context: &Context,
    asked: &MetadataRequest,
    version: i16,
) -> Result<MetadataResponse, Refusal> {
    let operations = if asked.include_topic_authorized_operations { TOPIC_OPERATIONS } else { NO_OPERATIONS };
    let is_all = match &asked.topics {
        None => true,
        Some(topics) => topics.is_empty() && version == 0,
    };
    let mut found = Vec::new();
    if is_all {
        for name in all_names(context).await? {
            // One that was deleted meanwhile is left out.
            found.extend(context.topic(&TopicKey::Name(name)).await.ok().map(Ok));
        }
    }
    for asked_topic in asked.topics.iter().flatten() {
        let may_create = version < CREATION_IS_ASKED_FROM || asked.allow_auto_topic_creation;
        found.push(find(context, asked_topic, may_create).await.map_err(|error| (asked_topic, error)));
    }
    context.learn_epochs(found.iter().flatten()).await;
    let told = |found: Result<Rc<Topic>, (&MetadataRequestTopic, ResponseError)>| match found {
        Ok(topic) => view(context, &topic, operations),
        Err((asked_topic, error)) => MetadataResponseTopic::default()
            .with_error_code(errors::code(error))
            // Before version 12 a name must be there.
            .with_name(asked_topic.name.clone().or_else(|| (version < 12).then(TopicName::default)))
            .with_topic_id(asked_topic.topic_id)
            .with_topic_authorized_operations(NO_OPERATIONS),
    };
    let topics = found.into_iter().map(told).collect();
    let rack = StrBytes::from(context.config.rack.clone());
    let broker = |broker: crate::context::BrokerView| {
        MetadataResponseBroker::default()
            .with_node_id(broker.id.into())
            .with_host(StrBytes::from(broker.host))
            .with_port(i32::from(broker.port))
            .with_rack((!rack.is_empty()).then(|| rack.clone()))
    };
    let brokers: Vec<MetadataResponseBroker> = context.brokers().into_iter().map(broker).collect();
    let wants_operations = asked.include_cluster_authorized_operations && (8..=10).contains(&version);
    Ok(MetadataResponse::default()
        .with_controller_id(context.broker_id(martlet_core::ShardId(0)).into())
        .with_brokers(brokers)
        .with_cluster_id(Some(StrBytes::from(context.config.cluster_id.clone())))
        .with_cluster_authorized_operations(if wants_operations { CLUSTER_OPERATIONS } else { NO_OPERATIONS })
        .with_topics(topics))
}

/// Names of all topics that Kafka's clients see.
pub(super) async fn all_names(context: &Context) -> Result<Vec<String>, Refusal> {
    let (prefix, mut names, mut after) = (prefix(), Vec::new(), String::new());
    for _ in 0..=TOPICS_MAX / TOPIC_LIST_COUNT_MAX as usize {
        let call = Call::TopicList { prefix: prefix.clone(), after, count_max: TOPIC_LIST_COUNT_MAX };
        let Reply::Topics(page) = context.ask(call).await? else { break };
        let is_last = page.len() < TOPIC_LIST_COUNT_MAX as usize;
        after = page.last().cloned().unwrap_or_default();
        let short = |name: &String| Some(short_name(&name.parse().ok()?)?.to_owned());
        names.extend(page.iter().filter_map(short));
        if is_last {
            break;
        }
    }
    Ok(names)
}

async fn find(
    context: &Context,
    asked: &MetadataRequestTopic,
    may_create: bool,
) -> Result<Rc<Topic>, ResponseError> {
    let key = match &asked.name {
        Some(name) => TopicKey::Name(name.0.to_string()),
        None => TopicKey::Id(TopicId(asked.topic_id.as_u128())),
    };
    let refusal = match context.topic(&key).await {
        Ok(topic) => return Ok(topic),
        Err(refusal) => refusal,
    };
    match key {
        TopicKey::Name(name) if refusal.code == ErrorCode::UnknownTopic => {
            if !may_create || !context.config.auto_create_topics {
                return Err(ResponseError::UnknownTopicOrPartition);
            }
            create(context, &name).await
        }
        TopicKey::Id(_) if refusal.code == ErrorCode::UnknownTopic => Err(ResponseError::UnknownTopicId),
        _ => Err(errors::of(refusal.code)),
    }
}

async fn create(context: &Context, name: &str) -> Result<Rc<Topic>, ResponseError> {
    let full = full_name(name).map_err(|refusal| errors::of(refusal.code))?;
    let call = Call::TopicCreate { name: full, partitions: 0, settings: Vec::new() };
    match context.ask(call).await {
        Ok(Reply::Topic(view)) => Ok(Rc::new(Topic::new(view))),
        // Somebody else was faster, and this shard may not have heard of it yet: the client asks again.
        Err(refusal) if refusal.code == ErrorCode::TopicExists => Err(ResponseError::LeaderNotAvailable),
        Err(refusal) => Err(errors::of(refusal.code)),
        Ok(_) => Err(ResponseError::UnknownServerError),
    }
}

fn view(context: &Context, topic: &Topic, operations: i32) -> MetadataResponseTopic {
    let partition = |(index, (_, shard)): (i32, &(_, martlet_core::ShardId))| {
        let leader = context.broker_id(*shard);
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(leader.into())
            .with_leader_epoch(topic.epoch(index))
            .with_replica_nodes(vec![leader.into()])
            .with_isr_nodes(vec![leader.into()])
    };
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from(topic.short().to_owned()))))
        .with_topic_id(Uuid::from_u128(topic.id.0))
        .with_partitions((0..).zip(&topic.partitions).map(partition).collect())
        .with_topic_authorized_operations(operations)
}
