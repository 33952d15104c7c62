//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: settings of topics under Kafka's names, and a few
//! facts about brokers.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as Altered;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;
use martlet_shard::Settings;
use martlet_shard::api::Call;

use super::{Refused, refuse};
use crate::answer::{Answer, Answering, Request};
use crate::configs::{CONFIGS, Config, Type, changes, find, unknown};
use crate::context::Context;
use crate::topics::{Topic, TopicKey};

/// Kinds of resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from.
const OF_TOPIC: i8 = 1;
const OF_BROKER: i8 = 4;
const BY_DEFAULT: i8 = 5;
/// Types of values and their documentation are told from this version on.
const TYPES_FROM: i16 = 3;
/// Operations of an incremental change.
const SET: i8 = 0;
const DELETE: i8 = 1;

pub(crate) fn describe_configs(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DescribeConfigsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut results = Vec::with_capacity(asked.resources.len());
        for resource in &asked.resources {
            let result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            results.push(match describe(&context, &asked, resource, request.version).await {
                Ok(configs) => result.with_configs(configs),
                Err(refused) => result.with_error_code(refused.code()).with_error_message(refused.words()),
            });
        }
        Answer::message(&DescribeConfigsResponse::default().with_results(results), request.version)
    })
}

async fn describe(
    context: &Context,
    asked: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
    version: i16,
) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    let is_wanted = |name: &str| match &resource.configuration_keys {
        Some(keys) => keys.iter().any(|key| key.as_str() == name),
        None => true,
    };
    match resource.resource_type {
        TOPIC => {
            let key = TopicKey::Name(resource.resource_name.to_string());
            let topic = context.topic(&key).await?;
            let wanted = CONFIGS.iter().filter(|config| is_wanted(config.name));
            Ok(wanted.map(|config| told(context, config, &topic.settings, asked, version)).collect())
        }
        BROKER => {
            let facts = of_broker(context).into_iter().filter(|(name, ..)| is_wanted(name));
            let fact = |(name, value, kind): (&'static str, String, Type)| {
                let result = DescribeConfigsResourceResult::default()
                    .with_name(StrBytes::from_static_str(name))
                    .with_value(Some(StrBytes::from(value)))
                    .with_read_only(true)
                    .with_config_source(OF_BROKER);
                if version >= TYPES_FROM { result.with_config_type(kind as i8) } else { result }
            };
            Ok(facts.map(fact).collect())
        }
        kind => refuse(ResponseError::InvalidRequest, format!("resources of type {kind} have no settings")),
    }
}

/// Where the value of a topic's setting comes from.
pub(super) fn source_of(context: &Context, config: &Config, settings: &[(String, String)]) -> i8 {
    if config.is_fixed() || config.show(settings) == config.show(&defaults(context)) {
        BY_DEFAULT
    } else {
        OF_TOPIC
    }
}

/// Settings that a new topic gets.
fn defaults(context: &Context) -> Vec<(String, String)> {
    let given = context.config.topic_defaults.iter();
    let settings = Settings::with(given.map(|(key, value)| (key.as_str(), value.as_str())));
    settings.unwrap_or_default().show()
}

fn told(
    context: &Context,
    config: &'static Config,
    settings: &[(String, String)],
    asked: &DescribeConfigsRequest,
    version: i16,
) -> DescribeConfigsResourceResult {
    let name = StrBytes::from_static_str(config.name);
    let value = Some(StrBytes::from(config.show(settings)));
    let source = source_of(context, config, settings);
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(name.clone())
        .with_value(value.clone())
        .with_read_only(config.is_fixed())
        .with_config_source(source);
    if asked.include_synonyms {
        let synonym = |value, source| {
            DescribeConfigsSynonym::default().with_name(name.clone()).with_value(value).with_source(source)
        };
        let default = Some(StrBytes::from(config.show(&defaults(context))));
        let mut synonyms = vec![synonym(default, BY_DEFAULT)];
        if source == OF_TOPIC {
            synonyms.insert(0, synonym(value, OF_TOPIC));
        }
        result = result.with_synonyms(synonyms);
    }
    if version >= TYPES_FROM {
        result = result.with_config_type(config.kind as i8);
        if asked.include_documentation {
            result = result.with_documentation(Some(StrBytes::from_static_str(config.doc)));
        }
    }
    result
}

/// What tools ask brokers for.
fn of_broker(context: &Context) -> Vec<(&'static str, String, Type)> {
    let defaults = defaults(context);
    let of = |name: &str| find(name).map(|config| config.show(&defaults)).unwrap_or_default();
    vec![
        ("auto.create.topics.enable", context.config.auto_create_topics.to_string(), Type::Boolean),
        ("broker.id", context.broker_id(context.broker.shard()).to_string(), Type::Int),
        ("broker.rack", context.config.rack.clone(), Type::Text),
        ("compression.type", of("compression.type"), Type::Text),
        ("default.replication.factor", "1".to_owned(), Type::Int),
        ("delete.topic.enable", "true".to_owned(), Type::Boolean),
        ("log.cleanup.policy", of("cleanup.policy"), Type::List),
        ("log.message.timestamp.type", of("message.timestamp.type"), Type::Text),
        ("log.retention.bytes", of("retention.bytes"), Type::Long),
        ("log.retention.ms", of("retention.ms"), Type::Long),
        ("log.segment.bytes", of("segment.bytes"), Type::Int),
        ("message.max.bytes", of("max.message.bytes"), Type::Int),
        ("min.insync.replicas", "1".to_owned(), Type::Int),
        ("offsets.topic.replication.factor", "1".to_owned(), Type::Int),
        ("transaction.state.log.replication.factor", "1".to_owned(), Type::Int),
    ]
}

async fn topic_of(context: &Context, kind: i8, name: &str) -> Result<Rc<Topic>, Refused> {
    match kind {
        TOPIC => Ok(context.topic(&TopicKey::Name(name.to_owned())).await?),
        BROKER => refuse(
            ResponseError::InvalidConfig,
            "brokers are configured by file, environment or flags: see `martlet config show`",
        ),
        kind => refuse(ResponseError::InvalidRequest, format!("resources of type {kind} have no settings")),
    }
}

async fn alter(
    context: &Context,
    topic: &Topic,
    settings: Vec<(String, String)>,
    validate_only: bool,
) -> Result<(), Refused> {
    let all = topic.settings.iter().chain(&settings);
    Settings::with(all.map(|(key, value)| (key.as_str(), value.as_str())))?;
    if !validate_only && !settings.is_empty() {
        let call = Call::TopicAlter { name: topic.name.clone(), partitions: None, settings };
        context.ask(call).await?;
    }
    Ok(())
}

/// A setting taken back to what a new topic gets.
fn back(context: &Context, setting: &str) -> (String, String) {
    let default = defaults(context).into_iter().find(|(name, _)| name == setting);
    default.unwrap_or_else(|| (setting.to_owned(), "default".to_owned()))
}

pub(crate) fn alter_configs(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: AlterConfigsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut responses = Vec::with_capacity(asked.resources.len());
        for resource in &asked.resources {
            let given = resource.configs.iter().map(|config| (config.name.as_str(), config.value.as_deref()));
            let changes = changes(given).map_err(|text| Refused(ResponseError::InvalidConfig, text));
            let topic = topic_of(&context, resource.resource_type, &resource.resource_name).await;
            let altered = match (topic, changes) {
                (Ok(topic), Ok(changes)) => {
                    // What is not named goes back to its default.
                    let is_named = |setting: &str| changes.iter().any(|(name, _)| name == setting);
                    let rest = CONFIGS.iter().filter_map(Config::setting).filter(|name| !is_named(name));
                    let all = rest.map(|name| back(&context, name)).chain(changes.clone()).collect();
                    alter(&context, &topic, all, asked.validate_only).await
                }
                (Err(refused), _) | (_, Err(refused)) => Err(refused),
            };
            let refused = altered.err();
            responses.push(
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(refused.as_ref().map_or(0, Refused::code))
                    .with_error_message(refused.as_ref().and_then(Refused::words)),
            );
        }
        Answer::message(&AlterConfigsResponse::default().with_responses(responses), request.version)
    })
}

pub(crate) fn incremental_alter_configs(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: IncrementalAlterConfigsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut responses = Vec::with_capacity(asked.resources.len());
        for resource in &asked.resources {
            let operations = resource.configs.iter();
            let operations = operations
                .map(|config| (config.name.as_str(), config.config_operation, config.value.as_deref()));
            let changes = operations.map(|operation| change(&context, operation)).collect();
            let changes: Result<Vec<_>, Refused> = changes;
            let topic = topic_of(&context, resource.resource_type, &resource.resource_name).await;
            let altered = match (topic, changes) {
                (Ok(topic), Ok(changes)) => {
                    let changes = changes.into_iter().flatten().collect();
                    alter(&context, &topic, changes, asked.validate_only).await
                }
                (Err(refused), _) | (_, Err(refused)) => Err(refused),
            };
            let refused = altered.err();
            responses.push(
                Altered::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(refused.as_ref().map_or(0, Refused::code))
                    .with_error_message(refused.as_ref().and_then(Refused::words)),
            );
        }
        let answer = IncrementalAlterConfigsResponse::default().with_responses(responses);
        Answer::message(&answer, request.version)
    })
}

fn change(
    context: &Context,
    (name, operation, value): (&str, i8, Option<&str>),
) -> Result<Option<(String, String)>, Refused> {
    let config = find(name).ok_or_else(|| Refused(ResponseError::InvalidConfig, unknown(name)))?;
    match (operation, value) {
        (SET, Some(value)) => config.read(value).map_err(|text| Refused(ResponseError::InvalidConfig, text)),
        (DELETE, _) => Ok(config.setting().map(|setting| back(context, setting))),
        (SET, None) => refuse(ResponseError::InvalidRequest, format!("{name} is to be set, to nothing")),
        _ => refuse(ResponseError::InvalidConfig, format!("{name} is no list that can be changed")),
    }
}
