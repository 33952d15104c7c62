//! How the end of a transaction is told to what it wrote to.

use martlet_core::ProducerId;
use martlet_core::frame::format;
use martlet_formats::kafka::{CRC_FROM, KafkaBatchHeader, control_batch};
use martlet_shard::api::{Call, EndTransaction};
use martlet_shard::service::{ServiceAt, ServiceHost, ServiceMessage};

use super::ask::Target;
use super::state::{State, Transaction};
use crate::groups;
use crate::groups::ask::Client;

/// The call that tells a target of the end. May be repeated.
pub(super) fn call(transaction: &Transaction, target: &Target, now: i64) -> Call {
    let is_commit = transaction.state == State::PrepareCommit;
    let (producer, epoch) = (transaction.producer, transaction.epoch);
    match target {
        Target::Partition { partition, .. } => {
            let body = control_batch(producer, epoch, is_commit, now);
            Call::EndTransaction(EndTransaction {
                partition: *partition,
                producer: ProducerId(u64::try_from(producer).unwrap_or(0)),
                epoch: u16::try_from(epoch).unwrap_or(0),
                is_commit,
                format: format::KAFKA_V2,
                body_crc_from: CRC_FROM as u8,
                body_crc: KafkaBatchHeader::decode(&body).map_or(0, |header| header.crc),
                body,
            })
        }
        Target::Group(group) => {
            let what = groups::ask::What::EndTransaction { producer, epoch, is_commit };
            let ask = groups::ask::Ask { group: group.clone(), client: Client::default(), what };
            Call::Service {
                service: groups::SERVICE,
                at: ServiceAt::Key(group.clone()),
                message: ServiceMessage::new(ask),
            }
        }
    }
}

/// A partition whose topic was deleted need not know how anything ended.
pub(super) fn is_gone(host: &ServiceHost<'_>, target: &Target) -> bool {
    match target {
        Target::Group(_) => false,
        Target::Partition { partition, topic, .. } => {
            let topic = host.topic_of(*topic);
            host.topics_version() != 0 && topic.is_none_or(|topic| !topic.partitions.contains(partition))
        }
    }
}
