//! Looking at groups, and answers for when something could not be stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use martlet_core::TopicId;
use martlet_shard::metadata::Topic;
use martlet_shard::service::{Position, ServiceFacts, ServiceHost};

use super::super::ask::{ConsumerDescribed, Described, Failure, Joined, Listed, Synced, Told};
use super::super::offsets;
use super::{Groups, Kind, REGISTER};
use crate::topics::short_name;

/// What is said instead of `told` when the log does not take the change it tells of: come again.
pub(super) fn unavailable(told: Told) -> Told {
    let failure = Failure::CoordinatorNotAvailable;
    match told {
        Told::Joined(joined) => Joined::refused(&joined.member, failure),
        Told::Synced(_) => Synced::refused(failure),
        Told::Plain(_) => Told::Plain(Some(failure)),
        Told::Left(left) => Told::Left(vec![Some(failure); left.len()]),
        Told::Committed(topics) => {
            Told::Committed(topics.iter().map(|topic| vec![Some(failure); topic.len()]).collect())
        }
        Told::OffsetsDeleted(_) => Told::OffsetsDeleted(Err(failure)),
        Told::ConsumerHeartbeat(_) => {
            Told::ConsumerHeartbeat(Err((failure, "the log takes no writes now: come again".to_owned())))
        }
        told @ (Told::Fetched(_)
        | Told::Unverified(_)
        | Told::Described(_)
        | Told::ConsumerDescribed(_)
        | Told::Listed(_)) => told,
    }
}

impl Groups {
    /// Numbers for those who watch.
    pub(super) fn told(&self, host: &ServiceHost<'_>, positions_max: usize) -> ServiceFacts {
        let mut groups: BTreeMap<&'static str, u64> = BTreeMap::new();
        for entry in self.groups.values() {
            *groups.entry(entry.kind.state_name()).or_default() += 1;
        }
        let topics: BTreeMap<TopicId, &Arc<Topic>> = host.topics().map(|topic| (topic.id, topic)).collect();
        let values = host.registers().keys(REGISTER);
        let values = values.flat_map(|(group, values)| {
            values.iter().map(move |(name, value)| (group, &name[..], &value[..]))
        });
        let position = |(group, name, value): (&str, &[u8], &[u8])| {
            let (topic, index) = offsets::partition_of(name)?;
            let topic = topics.get(&topic)?;
            Some(Position {
                group: group.to_owned(),
                topic: short_name(&topic.name)?.to_owned(),
                index,
                partition: *topic.partitions.get(index as usize)?,
                offset: u64::try_from(offsets::decode(value).ok()?.offset).ok()?,
            })
        };
        ServiceFacts {
            positions: values.filter_map(position).take(positions_max).collect(),
            groups: groups.into_iter().collect(),
            rebalances: self.counters.rebalances,
            commits: self.counters.commits,
            transactions_open: 0,
        }
    }

    pub(super) fn describe(&self, name: &str) -> Result<Described, Failure> {
        match self.groups.get(name).map(|entry| &entry.kind) {
            Some(Kind::Classic(group)) => Ok(group.describe()),
            Some(Kind::Consumer(_)) | None => Err(Failure::GroupIdNotFound),
        }
    }

    pub(super) fn consumer_describe(&self, name: &str) -> Result<ConsumerDescribed, Failure> {
        match self.groups.get(name).map(|entry| &entry.kind) {
            Some(Kind::Consumer(group)) => Ok(group.describe(&self.catalog)),
            Some(Kind::Classic(_)) | None => Err(Failure::GroupIdNotFound),
        }
    }

    pub(super) fn list(&self) -> Vec<Listed> {
        let one = |(name, entry): (&String, &super::Entry)| match &entry.kind {
            Kind::Classic(group) => Listed {
                group: name.clone(),
                protocol_type: group.protocol_type().to_owned(),
                state: group.state_name(),
                kind: "classic",
            },
            Kind::Consumer(group) => Listed {
                group: name.clone(),
                protocol_type: "consumer".to_owned(),
                state: group.state_name(),
                kind: "consumer",
            },
        };
        self.groups.iter().map(one).collect()
    }
}
