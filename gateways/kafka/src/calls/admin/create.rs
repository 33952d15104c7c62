//! CreateTopics and CreatePartitions. Where partitions live is the broker's to decide.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
};
use kafka_protocol::protocol::StrBytes;
use martlet_core::limits::TOPIC_PARTITIONS_MAX;
use martlet_core::{ErrorCode, TopicName};
use martlet_shard::Settings;
use martlet_shard::api::{Call, Reply, TopicView};
use uuid::Uuid;

use super::{Refused, refuse};
use crate::answer::{Answer, Answering, Request};
use crate::calls::admin::configs::source_of;
use crate::configs::{CONFIGS, changes};
use crate::context::Context;
use crate::topics::{Topic, TopicKey, full_name};

/// Answers have the settings of a new topic from this version on.
const CONFIGS_FROM: i16 = 5;

pub(crate) fn create_topics(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: CreateTopicsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut topics = Vec::with_capacity(asked.topics.len());
        for topic in &asked.topics {
            let is_twice = asked.topics.iter().filter(|other| other.name == topic.name).count() > 1;
            let made = if is_twice {
                refuse(ResponseError::InvalidRequest, "the topic is named twice: name it once")
            } else {
                create(&context, topic, asked.validate_only).await
            };
            let result = CreatableTopicResult::default().with_name(topic.name.clone());
            topics.push(match made {
                Ok(made) => told(&context, result, &made, request.version),
                Err(refused) => result.with_error_code(refused.code()).with_error_message(refused.words()),
            });
        }
        Answer::message(&CreateTopicsResponse::default().with_topics(topics), request.version)
    })
}

fn told(
    context: &Context,
    result: CreatableTopicResult,
    made: &TopicView,
    version: i16,
) -> CreatableTopicResult {
    let result = result.with_topic_id(Uuid::from_u128(made.id.0));
    if version < CONFIGS_FROM {
        return result;
    }
    let config = |config: &crate::configs::Config| {
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(config.name))
            .with_value(Some(StrBytes::from(config.show(&made.settings))))
            .with_read_only(config.is_fixed())
            .with_config_source(source_of(context, config, &made.settings))
    };
    result
        .with_num_partitions(i32::try_from(made.partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(1)
        .with_configs(Some(CONFIGS.iter().map(config).collect()))
}

async fn create(
    context: &Context,
    asked: &CreatableTopic,
    validate_only: bool,
) -> Result<TopicView, Refused> {
    let name = full_name(&asked.name.0)?;
    if !asked.assignments.is_empty() {
        let text = "partitions are placed by the broker: ask for a number of partitions instead";
        return refuse(ResponseError::InvalidReplicaAssignment, text);
    }
    if !matches!(asked.replication_factor, -1 | 1) {
        let text = "one node holds a partition: ask for a replication factor of 1, or -1 for the default";
        return refuse(ResponseError::InvalidReplicationFactor, text);
    }
    let partitions = match asked.num_partitions {
        -1 => 0,
        count => u32::try_from(count).ok().filter(|count| (1..=TOPIC_PARTITIONS_MAX).contains(count)).ok_or(
            Refused(
                ResponseError::InvalidPartitions,
                format!("use 1 to {TOPIC_PARTITIONS_MAX} partitions, or -1 for the default"),
            ),
        )?,
    };
    let given = asked.configs.iter().map(|config| (config.name.as_str(), config.value.as_deref()));
    let settings = changes(given).map_err(|text| Refused(ResponseError::InvalidConfig, text))?;
    if validate_only {
        return validate(context, name, partitions, settings).await;
    }
    match context.ask(Call::TopicCreate { name, partitions, settings }).await? {
        Reply::Topic(view) => Ok(view),
        _ => refuse(ResponseError::UnknownServerError, "a topic was to be made"),
    }
}

/// What a topic would be.
async fn validate(
    context: &Context,
    name: TopicName,
    partitions: u32,
    settings: Vec<(String, String)>,
) -> Result<TopicView, Refused> {
    match context.ask(Call::TopicDescribe { name: name.clone() }).await {
        Ok(_) => {
            return refuse(ResponseError::TopicAlreadyExists, format!("topic {} exists", name.topic()));
        }
        Err(refusal) if refusal.code == ErrorCode::UnknownTopic => {}
        Err(refusal) => return Err(refusal.into()),
    }
    let all = context.config.topic_defaults.iter().chain(&settings);
    let settings = Settings::with(all.map(|(key, value)| (key.as_str(), value.as_str())))?.show();
    let partitions = vec![Default::default(); partitions.max(1) as usize];
    Ok(TopicView { id: Default::default(), name, partitions, settings })
}

pub(crate) fn create_partitions(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: CreatePartitionsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut results = Vec::with_capacity(asked.topics.len());
        for topic in &asked.topics {
            let grown = grow(&context, topic, asked.validate_only).await;
            let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
            results.push(match grown {
                Ok(()) => result,
                Err(refused) => result.with_error_code(refused.code()).with_error_message(refused.words()),
            });
        }
        Answer::message(&CreatePartitionsResponse::default().with_results(results), request.version)
    })
}

async fn grow(context: &Context, asked: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refused> {
    let topic: Rc<Topic> = context.topic(&TopicKey::Name(asked.name.0.to_string())).await?;
    if asked.assignments.as_ref().is_some_and(|assignments| !assignments.is_empty()) {
        let text = "partitions are placed by the broker: ask for a number of partitions only";
        return refuse(ResponseError::InvalidReplicaAssignment, text);
    }
    let present = topic.partitions.len();
    let wanted = usize::try_from(asked.count).unwrap_or(0);
    if wanted <= present || wanted > TOPIC_PARTITIONS_MAX as usize {
        let text =
            format!("the topic has {present} partitions: ask for more, at most {TOPIC_PARTITIONS_MAX}");
        return refuse(ResponseError::InvalidPartitions, text);
    }
    if validate_only {
        return Ok(());
    }
    let partitions = u32::try_from(wanted).ok();
    let call = Call::TopicAlter { name: topic.name.clone(), partitions, settings: Vec::new() };
    context.ask(call).await?;
    Ok(())
}
