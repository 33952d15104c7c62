//! DescribeCluster, DescribeLogDirs, DescribeClientQuotas, ListPartitionReassignments.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{
    DescribeClientQuotasRequest, DescribeClientQuotasResponse, DescribeClusterRequest,
    DescribeClusterResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use martlet_core::{Refusal, ShardId};
use martlet_shard::api::{Call, Reply};

use crate::answer::{Answer, Answering, Request};
use crate::calls::metadata::{CLUSTER_OPERATIONS, NO_OPERATIONS, all_names};
use crate::config::Addressing;
use crate::context::Context;
use crate::errors;
use crate::topics::TopicKey;

/// Endpoints of brokers; those of controllers are not served.
const BROKERS: i8 = 1;
/// What the one place of a node's logs is called.
const LOG_DIR: &str = "martlet";

pub(crate) fn describe_cluster(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DescribeClusterRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let answer = DescribeClusterResponse::default()
            .with_cluster_id(StrBytes::from(context.config.cluster_id.clone()));
        if asked.endpoint_type != BROKERS {
            let answer = answer
                .with_error_code(errors::code(ResponseError::UnsupportedEndpointType))
                .with_endpoint_type(asked.endpoint_type);
            return Answer::message(&answer, request.version);
        }
        let rack = StrBytes::from(context.config.rack.clone());
        let broker = |broker: crate::context::BrokerView| {
            DescribeClusterBroker::default()
                .with_broker_id(broker.id.into())
                .with_host(StrBytes::from(broker.host))
                .with_port(i32::from(broker.port))
                .with_rack((!rack.is_empty()).then(|| rack.clone()))
        };
        let operations =
            if asked.include_cluster_authorized_operations { CLUSTER_OPERATIONS } else { NO_OPERATIONS };
        let answer = answer
            .with_controller_id(context.broker_id(ShardId(0)).into())
            .with_brokers(context.brokers().into_iter().map(broker).collect())
            .with_cluster_authorized_operations(operations);
        Answer::message(&answer, request.version)
    })
}

pub(crate) fn describe_log_dirs(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DescribeLogDirsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        match log_dirs(&context, asked).await {
            Ok(topics) => {
                let result = DescribeLogDirsResult::default()
                    .with_log_dir(StrBytes::from_static_str(LOG_DIR))
                    .with_topics(topics);
                let answer = DescribeLogDirsResponse::default().with_results(vec![result]);
                Answer::message(&answer, request.version)
            }
            Err(refusal) => Answer::Close(refusal.detail),
        }
    })
}

/// Sizes of the partitions that this broker leads.
async fn log_dirs(
    context: &Context,
    asked: DescribeLogDirsRequest,
) -> Result<Vec<DescribeLogDirsTopic>, Refusal> {
    let wanted: Vec<(String, Option<Vec<i32>>)> = match asked.topics {
        None => all_names(context).await?.into_iter().map(|name| (name, None)).collect(),
        Some(topics) => {
            topics.into_iter().map(|topic| (topic.topic.0.to_string(), Some(topic.partitions))).collect()
        }
    };
    let mut topics = Vec::new();
    for (name, indexes) in wanted {
        let Ok(topic) = context.topic(&TopicKey::Name(name.clone())).await else { continue };
        let mut partitions = Vec::new();
        for (index, (partition, shard)) in (0..).zip(&topic.partitions) {
            let is_here = context.config.addressing == Addressing::Node || *shard == context.broker.shard();
            if !is_here || indexes.as_ref().is_some_and(|indexes| !indexes.contains(&index)) {
                continue;
            }
            let call = Call::PartitionStatus { partition: *partition };
            let Ok(Reply::Partition(status)) = context.ask(call).await else { continue };
            partitions.push(
                DescribeLogDirsPartition::default()
                    .with_partition_index(index)
                    .with_partition_size(i64::try_from(status.bytes).unwrap_or(i64::MAX)),
            );
        }
        if !partitions.is_empty() {
            let name = TopicName(StrBytes::from(name));
            topics.push(DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions));
        }
    }
    Ok(topics)
}

/// No client has a quota.
pub(crate) fn describe_client_quotas(_: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        match request.message::<DescribeClientQuotasRequest>() {
            Ok(_) => {
                let answer = DescribeClientQuotasResponse::default().with_entries(Some(Vec::new()));
                Answer::message(&answer, request.version)
            }
            Err(malformed) => malformed.into(),
        }
    })
}

/// Nothing is ever moved between nodes here.
pub(crate) fn list_partition_reassignments(_: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        match request.message::<ListPartitionReassignmentsRequest>() {
            Ok(_) => Answer::message(&ListPartitionReassignmentsResponse::default(), request.version),
            Err(malformed) => malformed.into(),
        }
    })
}
