//! OffsetForLeaderEpoch: whether a reader's position still exists. On one node nothing that was read is ever
//! taken back: what a reader saw of any epoch is there up to the end of the log.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use martlet_shard::api::{Call, Reply};

use crate::answer::{Answer, Answering, Request};
use crate::context::{Context, compare_epochs};
use crate::errors;
use crate::topics::{Topic, TopicKey};

pub(crate) fn offset_for_leader_epoch(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: OffsetForLeaderEpochRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut topics = Vec::with_capacity(asked.topics.len());
        for asked in asked.topics {
            let topic = context.topic(&TopicKey::Name(asked.topic.0.to_string())).await;
            let mut partitions = Vec::with_capacity(asked.partitions.len());
            for asked in &asked.partitions {
                let found = match &topic {
                    Ok(topic) => end_of(&context, topic, asked).await,
                    Err(refusal) => Err(errors::of(refusal.code)),
                };
                let (error, epoch, end) = match found {
                    Ok((epoch, end)) => (errors::NONE, epoch, end),
                    Err(error) => (errors::code(error), -1, -1),
                };
                partitions.push(
                    EpochEndOffset::default()
                        .with_partition(asked.partition)
                        .with_error_code(error)
                        .with_leader_epoch(epoch)
                        .with_end_offset(end),
                );
            }
            topics.push(
                OffsetForLeaderTopicResult::default().with_topic(asked.topic).with_partitions(partitions),
            );
        }
        let answer = OffsetForLeaderEpochResponse::default().with_topics(topics);
        Answer::message(&answer, request.version)
    })
}

async fn end_of(
    context: &Context,
    topic: &Topic,
    asked: &OffsetForLeaderPartition,
) -> Result<(i32, i64), ResponseError> {
    let (partition, _) = topic.partition(asked.partition).ok_or(ResponseError::UnknownTopicOrPartition)?;
    match context.ask(Call::Facts { partitions: vec![partition] }).await {
        Ok(Reply::Readable(facts)) => {
            let fact = facts.into_iter().next().ok_or(ResponseError::UnknownServerError)?;
            let fact = fact.map_err(|refusal| errors::of(refusal.code))?;
            compare_epochs(asked.current_leader_epoch, fact.epoch)?;
            let epoch = i32::try_from(fact.epoch).unwrap_or(i32::MAX);
            if asked.leader_epoch > epoch || asked.leader_epoch < 0 {
                return Ok((-1, -1));
            }
            Ok((asked.leader_epoch, i64::try_from(fact.committed).unwrap_or(i64::MAX)))
        }
        Ok(_) => Err(ResponseError::UnknownServerError),
        Err(refusal) => Err(errors::of(refusal.code)),
    }
}
