//! DescribeTransactions, ListTransactions, DescribeProducers.

use std::rc::Rc;

use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::list_transactions_response::TransactionState as ListedState;
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest,
    DescribeTransactionsResponse, ListTransactionsRequest, ListTransactionsResponse, TopicName,
    TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use martlet_core::ShardId;
use martlet_core::limits::GROUP_PATTERN_BYTES_MAX;
use martlet_shard::api::{Call, ProducerFacts, Reply};
use martlet_shard::service::{ServiceAt, ServiceMessage};
use regex::{Regex, RegexBuilder};

use crate::answer::{Answer, Answering, Request};
use crate::config::Addressing;
use crate::context::Context;
use crate::errors;
use crate::topics::{Topic, TopicKey};
use crate::transactions::SERVICE;
use crate::transactions::ask::{Ask, Described, Failure, Listed, Told, What};
use crate::transactions::state::State;

pub(crate) fn describe_transactions(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DescribeTransactionsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut states = Vec::new();
        for id in &asked.transactional_ids {
            let described = match context.ask_transaction(id.as_str(), What::Describe).await {
                Ok(Told::Described(described)) => described,
                Ok(_) => Err(Failure::UnknownServerError),
                Err(failure) => Err(failure),
            };
            states.push(described_state(id, described));
        }
        let answer = DescribeTransactionsResponse::default().with_transaction_states(states);
        Answer::message(&answer, request.version)
    })
}

fn described_state(id: &TransactionalId, described: Result<Described, Failure>) -> TransactionState {
    let answer = TransactionState::default().with_transactional_id(id.clone());
    let described = match described {
        Ok(described) => described,
        Err(failure) => return answer.with_error_code(errors::code(failure)),
    };
    let topics = described.topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|index| i32::try_from(index).unwrap_or(i32::MAX));
        TopicData::default()
            .with_topic(TopicName(StrBytes::from_string(name)))
            .with_partitions(partitions.collect())
    });
    answer
        .with_transaction_state(StrBytes::from_static_str(described.state.name()))
        .with_transaction_timeout_ms(described.timeout_ms)
        .with_transaction_start_time_ms(described.started)
        .with_producer_id(described.claim.producer.into())
        .with_producer_epoch(described.claim.epoch)
        .with_topics(topics.collect())
}

pub(crate) fn list_transactions(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: ListTransactionsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let pattern = match pattern(&asked) {
            Ok(pattern) => pattern,
            Err(failure) => {
                let answer = ListTransactionsResponse::default().with_error_code(errors::code(failure));
                return Answer::message(&answer, request.version);
            }
        };
        let is_known = |name: &StrBytes| State::ALL.iter().any(|state| state.name() == name.as_str());
        let unknown = asked.state_filters.iter().filter(|name| !is_known(name)).cloned().collect();
        let (found, failure) = list(&context).await;
        let found = found.into_iter().filter(|one| {
            let states = &asked.state_filters;
            let producers = &asked.producer_id_filters;
            (states.is_empty() || states.iter().any(|name| name.as_str() == one.state.name()))
                && (producers.is_empty() || producers.iter().any(|id| id.0 == one.producer))
                && (asked.duration_filter < 0 || one.open_ms >= asked.duration_filter)
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(&one.id))
        });
        let states = found.map(|one| {
            ListedState::default()
                .with_transactional_id(TransactionalId(StrBytes::from_string(one.id)))
                .with_producer_id(one.producer.into())
                .with_transaction_state(StrBytes::from_static_str(one.state.name()))
        });
        let answer = ListTransactionsResponse::default()
            .with_error_code(failure.map_or(errors::NONE, errors::code))
            .with_unknown_state_filters(unknown)
            .with_transaction_states(states.collect());
        Answer::message(&answer, request.version)
    })
}

/// What whole ids have to match; `None` = all do.
fn pattern(asked: &ListTransactionsRequest) -> Result<Option<Regex>, Failure> {
    let Some(text) = asked.transactional_id_pattern.as_ref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let whole = format!("^(?:{})$", text.as_str());
    let mut builder = RegexBuilder::new(&whole);
    let built = builder.size_limit(GROUP_PATTERN_BYTES_MAX * 256).build();
    if text.len() > GROUP_PATTERN_BYTES_MAX {
        return Err(Failure::InvalidRegularExpression);
    }
    built.map(Some).map_err(|_| Failure::InvalidRegularExpression)
}

async fn list(context: &Context) -> (Vec<Listed>, Option<Failure>) {
    // Clients ask every broker for its own and join the answers.
    let shards = match context.config.addressing {
        Addressing::Shard => vec![context.broker.shard()],
        Addressing::Node => (0..context.broker.shards()).map(ShardId).collect(),
    };
    let (mut found, mut failure) = (Vec::new(), None);
    for shard in shards {
        let message = ServiceMessage::new(Ask { id: String::new(), what: What::List });
        let call = Call::Service { service: SERVICE, at: ServiceAt::Shard(shard), message };
        match context.told_of_transaction(call).await {
            Ok(Told::Listed(listed)) => found.extend(listed),
            Ok(_) => failure = Some(Failure::UnknownServerError),
            Err(refused) => failure = Some(refused),
        }
    }
    (found, failure)
}

pub(crate) fn describe_producers(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DescribeProducersRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut topics = Vec::new();
        for asked in &asked.topics {
            let topic = context.topic(&TopicKey::Name(asked.name.0.to_string())).await;
            let mut partitions = Vec::new();
            for index in &asked.partition_indexes {
                let found = match &topic {
                    Ok(topic) => producers(&context, topic, *index).await,
                    Err(refusal) => Err(errors::of(refusal.code)),
                };
                let answer = PartitionResponse::default().with_partition_index(*index);
                partitions.push(match found {
                    Ok(facts) => answer.with_active_producers(facts.iter().map(producer_state).collect()),
                    Err(failure) => answer.with_error_code(errors::code(failure)),
                });
            }
            topics.push(TopicResponse::default().with_name(asked.name.clone()).with_partitions(partitions));
        }
        Answer::message(&DescribeProducersResponse::default().with_topics(topics), request.version)
    })
}

async fn producers(context: &Context, topic: &Topic, index: i32) -> Result<Vec<ProducerFacts>, Failure> {
    let (partition, _) = topic.partition(index).ok_or(Failure::UnknownTopicOrPartition)?;
    match context.ask(Call::Producers { partition }).await {
        Ok(Reply::Producers(facts)) => Ok(facts),
        Ok(_) => Err(Failure::UnknownServerError),
        Err(refusal) => Err(errors::of(refusal.code)),
    }
}

/// Sequences count in 31 bits here.
fn producer_state(facts: &ProducerFacts) -> ProducerState {
    let sequence = if facts.last_sequence < 0 { -1 } else { (facts.last_sequence & 0x7fff_ffff) as i32 };
    let first = facts.transaction.map(|first| i64::try_from(first).unwrap_or(i64::MAX));
    ProducerState::default()
        .with_producer_id(i64::try_from(facts.producer.0).unwrap_or(i64::MAX).into())
        .with_producer_epoch(i32::from(facts.epoch))
        .with_last_sequence(sequence)
        .with_last_timestamp(facts.last_time)
        .with_coordinator_epoch(if facts.transaction.is_some() { 0 } else { -1 })
        .with_current_txn_start_offset(first.unwrap_or(-1))
}
