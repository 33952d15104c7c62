//! Looking at groups, and answers for when something could not be stored.

use super::super::ask::{ConsumerDescribed, Described, Failure, Joined, Listed, Synced, Told};
use super::{Groups, Kind};

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
        told @ (Told::Fetched(_) | Told::Described(_) | Told::ConsumerDescribed(_) | Told::Listed(_)) => told,
    }
}

impl Groups {
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
