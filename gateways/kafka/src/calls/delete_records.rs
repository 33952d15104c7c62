//! DeleteRecords: removes the oldest records of partitions.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use martlet_shard::api::{Call, Reply};

use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::errors;
use crate::topics::{Topic, TopicKey};

/// Stands for the end of what is committed.
const HIGH_WATERMARK: i64 = -1;

pub(crate) fn delete_records(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DeleteRecordsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut topics = Vec::with_capacity(asked.topics.len());
        for asked in asked.topics {
            let topic = context.topic(&TopicKey::Name(asked.name.0.to_string())).await;
            let mut partitions = Vec::with_capacity(asked.partitions.len());
            for asked in &asked.partitions {
                let trimmed = match &topic {
                    Ok(topic) => trim(&context, topic, asked.partition_index, asked.offset).await,
                    Err(refusal) => Err(errors::of(refusal.code)),
                };
                let error = trimmed.as_ref().err().map_or(errors::NONE, |error| errors::code(*error));
                partitions.push(
                    DeleteRecordsPartitionResult::default()
                        .with_partition_index(asked.partition_index)
                        .with_low_watermark(trimmed.unwrap_or(-1))
                        .with_error_code(error),
                );
            }
            topics
                .push(DeleteRecordsTopicResult::default().with_name(asked.name).with_partitions(partitions));
        }
        Answer::message(&DeleteRecordsResponse::default().with_topics(topics), request.version)
    })
}

async fn trim(context: &Context, topic: &Topic, index: i32, offset: i64) -> Result<i64, ResponseError> {
    let (partition, _) = topic.partition(index).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let before = match offset {
        HIGH_WATERMARK => None,
        offset => Some(u64::try_from(offset).map_err(|_| ResponseError::OffsetOutOfRange)?),
    };
    match context.ask(Call::Trim { partition, before }).await {
        Ok(Reply::Offset { offset, .. }) => Ok(i64::try_from(offset).unwrap_or(i64::MAX)),
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(refusal) => Err(errors::of(refusal.code)),
    }
}
