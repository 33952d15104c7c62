//! Calls about committed offsets.

use std::collections::{BTreeMap, BTreeSet};

use martlet_core::limits::{GROUP_OFFSETS_MAX, REGISTER_NOTE_BYTES_MAX};
use martlet_core::{ErrorCode, Lsn, Refusal, TopicId};
use martlet_shard::api::CallToken;
use martlet_shard::registers::{RegisterNote, Values};
use martlet_shard::service::ServiceHost;

use super::super::ask::{
    Commit, CommitPartition, Committed, Failure, FetchedTopic, MemberClaim, Told, TopicPartitions,
};
use super::super::offsets;
use super::{Groups, Kind, REGISTER, answer, answer_when_durable};
use crate::topics::full_name;

impl Groups {
    /// Commits. All of a request is judged first; what may be committed becomes durable together.
    pub(super) fn commit(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        name: &str,
        commit: Commit,
    ) {
        let refuse = |commit: &Commit, failure| {
            Told::Committed(commit.topics.iter().map(|(_, p)| vec![Some(failure); p.len()]).collect())
        };
        if let Some(failure) = self.check_commit(host, name, &commit.claim) {
            return answer(host, token, refuse(&commit, failure));
        }
        let mut notes = vec![RegisterNote::new(REGISTER, name)];
        let mut told = Vec::new();
        let known = host.values(REGISTER, name).map_or(0, |values| values.len());
        let mut taken = 0;
        for (topic, partitions) in &commit.topics {
            let found = find(host, topic);
            let mut outcomes = Vec::new();
            for partition in partitions {
                let outcome = self.judge(found, partition, known + taken);
                if let (None, Some((id, _))) = (outcome, found) {
                    taken += 1;
                    let value = offsets::encode(&Committed {
                        offset: partition.offset,
                        leader_epoch: partition.leader_epoch,
                        time: host.now().wall.0,
                        metadata: partition.metadata.clone(),
                    });
                    push(&mut notes, name, offsets::name(id, partition.partition), value);
                }
                outcomes.push(outcome);
            }
            told.push(outcomes);
        }
        if taken == 0 {
            return answer(host, token, Told::Committed(told));
        }
        match stage_all(host, notes) {
            Ok(lsn) => {
                self.counters.commits += 1;
                if let Some(entry) = self.groups.get_mut(name) {
                    entry.lsn = entry.lsn.max(lsn);
                }
                answer_when_durable(host, &mut self.waiting, lsn, token, Told::Committed(told));
            }
            Err(refusal) => {
                let failure = failure_of(&refusal);
                let failed = |outcome: Option<Failure>| outcome.or(Some(failure));
                let told = told.into_iter().map(|topic| topic.into_iter().map(failed).collect());
                answer(host, token, Told::Committed(told.collect()));
            }
        }
        self.set_timer(host, name);
    }

    pub(super) fn check_commit(
        &mut self,
        host: &ServiceHost<'_>,
        name: &str,
        claim: &MemberClaim,
    ) -> Option<Failure> {
        if !self.groups.contains_key(name) {
            if claim.generation >= 0 || !claim.member.is_empty() {
                return Some(Failure::IllegalGeneration);
            }
            return self.entry(name).err();
        }
        match self.groups.get_mut(name).map(|entry| &mut entry.kind) {
            Some(Kind::Classic(group)) => group.check_commit(claim, host.now()),
            Some(Kind::Consumer(group)) => group.check(claim),
            None => Some(Failure::GroupIdNotFound),
        }
    }

    pub(super) fn judge(
        &self,
        topic: Option<(TopicId, u32)>,
        partition: &CommitPartition,
        known: usize,
    ) -> Option<Failure> {
        match topic {
            Some((_, count)) if partition.partition < count => {}
            _ => return Some(Failure::UnknownTopicOrPartition),
        }
        if partition.metadata.len() > self.config.offset_metadata_bytes_max {
            return Some(Failure::OffsetMetadataTooLarge);
        }
        (known >= GROUP_OFFSETS_MAX).then_some(Failure::InvalidCommitOffsetSize)
    }

    /// Durable offsets.
    pub(super) fn fetch(
        &mut self,
        host: &ServiceHost<'_>,
        name: &str,
        claim: Option<(String, i32)>,
        (topics, is_stable): (Option<Vec<TopicPartitions>>, bool),
    ) -> Result<Vec<FetchedTopic>, Failure> {
        if let (Some((member, generation)), Some(Kind::Consumer(group))) =
            (claim, self.groups.get(name).map(|entry| &entry.kind))
        {
            let claim = MemberClaim { generation, member, instance: None };
            if let Some(failure) = group.check(&claim) {
                return Err(failure);
            }
        }
        let values = host.values(REGISTER, name);
        let committed = |id: TopicId, partition: u32| {
            let value = values?.get(offsets::name(id, partition).as_slice())?;
            offsets::decode(value).ok()
        };
        let pending = if is_stable { pending(values) } else { BTreeMap::new() };
        if let Some(topics) = topics {
            let one = |(topic, partitions): (String, Vec<u32>)| {
                let found = find(host, &topic);
                let of = |partition: u32| (partition, found.and_then(|(id, _)| committed(id, partition)));
                let unstable = found.and_then(|(id, _)| pending.get(&id).cloned()).unwrap_or_default();
                FetchedTopic { partitions: partitions.into_iter().map(of).collect(), topic, unstable }
            };
            return Ok(topics.into_iter().map(one).collect());
        }
        self.learn_topics(host);
        let names: BTreeMap<TopicId, &String> =
            self.catalog.topics.iter().map(|(name, (id, _))| (*id, name)).collect();
        let mut found: BTreeMap<TopicId, FetchedTopic> = BTreeMap::new();
        for (id, partition) in
            values.into_iter().flat_map(|v| v.keys()).filter_map(|n| offsets::partition_of(n))
        {
            if let Some(topic) = names.get(&id) {
                let fetched = found.entry(id).or_default();
                fetched.topic = (*topic).clone();
                fetched.unstable = pending.get(&id).cloned().unwrap_or_default();
                fetched.partitions.push((partition, committed(id, partition)));
            }
        }
        Ok(found.into_values().collect())
    }

    pub(super) fn delete_offsets(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        name: &str,
        topics: Vec<(String, Vec<u32>)>,
    ) {
        let failure = match self.groups.get(name).map(|entry| &entry.kind) {
            None => Some(Failure::GroupIdNotFound),
            Some(Kind::Classic(group)) if group.has_members() && group.protocol_type() != "consumer" => {
                Some(Failure::NonEmptyGroup)
            }
            Some(_) => None,
        };
        if let Some(failure) = failure {
            return answer(host, token, Told::OffsetsDeleted(Err(failure)));
        }
        let mut notes = vec![RegisterNote::new(REGISTER, name)];
        let mut told = Vec::new();
        for (topic, partitions) in topics {
            let found = find(host, &topic);
            let reads = match (self.groups.get(name).map(|entry| &entry.kind), found) {
                (Some(Kind::Classic(group)), _) => group.reads(&topic),
                (Some(Kind::Consumer(group)), Some((id, _))) => group.reads(id),
                _ => false,
            };
            let failure = match found {
                None => Some(Failure::UnknownTopicOrPartition),
                Some(_) if reads => Some(Failure::GroupSubscribedToTopic),
                Some(_) => None,
            };
            if let (None, Some((id, _))) = (failure, found) {
                for partition in &partitions {
                    if let Some(note) = notes.last_mut() {
                        note.remove(offsets::name(id, *partition));
                    }
                }
            }
            told.push(vec![failure; partitions.len()]);
        }
        match stage_all(host, notes) {
            Ok(lsn) => {
                let told = Told::OffsetsDeleted(Ok(told));
                answer_when_durable(host, &mut self.waiting, lsn, token, told);
            }
            Err(refusal) => answer(host, token, Told::OffsetsDeleted(Err(failure_of(&refusal)))),
        }
    }

    /// Forgets a group with its offsets.
    pub(super) fn delete(&mut self, host: &mut ServiceHost<'_>, token: CallToken, name: &str) {
        let failure = match self.groups.get(name).map(|entry| &entry.kind) {
            None => Some(Failure::GroupIdNotFound),
            Some(kind) if kind.has_members() => Some(Failure::NonEmptyGroup),
            Some(_) => None,
        };
        if failure.is_some() {
            return answer(host, token, Told::Plain(failure));
        }
        match self.forget(host, name) {
            Ok(lsn) => answer_when_durable(host, &mut self.waiting, lsn, token, Told::Plain(None)),
            Err(refusal) => answer(host, token, Told::Plain(Some(failure_of(&refusal)))),
        }
    }

    pub(super) fn forget(&mut self, host: &mut ServiceHost<'_>, name: &str) -> Result<Lsn, Refusal> {
        let mut note = RegisterNote::new(REGISTER, name);
        note.clears = true;
        let lsn = host.stage(note)?;
        self.transactions.forget(name);
        if let Some(entry) = self.groups.remove(name)
            && let Some(due) = entry.due
        {
            self.due.remove(&(due, name.to_owned()));
        }
        Ok(lsn)
    }
}

/// Partitions with an offset whose transaction is open.
fn pending(values: Option<&Values>) -> BTreeMap<TopicId, BTreeSet<u32>> {
    let mut pending: BTreeMap<TopicId, BTreeSet<u32>> = BTreeMap::new();
    let names = values.into_iter().flat_map(|values| values.keys());
    for (_, topic, partition) in names.filter_map(|name| offsets::pending_of(name)) {
        pending.entry(topic).or_default().insert(partition);
    }
    pending
}

/// Id and number of partitions of a topic that exists.
pub(super) fn find(host: &ServiceHost<'_>, topic: &str) -> Option<(TopicId, u32)> {
    let topic = host.topic(&full_name(topic).ok()?)?;
    Some((topic.id, u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX)))
}

/// Adds a value; begins another note when one is full.
fn push(notes: &mut Vec<RegisterNote>, key: &str, name: Vec<u8>, value: Vec<u8>) {
    let is_full = notes.last().is_none_or(|note| note.bytes() > REGISTER_NOTE_BYTES_MAX / 4);
    if is_full {
        notes.push(RegisterNote::new(REGISTER, key));
    }
    if let Some(note) = notes.last_mut() {
        note.set(name, value);
    }
}

pub(super) fn stage_all(host: &mut ServiceHost<'_>, notes: Vec<RegisterNote>) -> Result<Lsn, Refusal> {
    let mut lsn = Lsn(0);
    for note in notes.into_iter().filter(|note| !note.changes.is_empty()) {
        lsn = host.stage(note)?;
    }
    Ok(lsn)
}

/// What a client is told when the log does not take a change.
pub(super) fn failure_of(refusal: &Refusal) -> Failure {
    match refusal.code {
        ErrorCode::QuotaExceeded | ErrorCode::InvalidArgument => Failure::InvalidCommitOffsetSize,
        _ => Failure::CoordinatorNotAvailable,
    }
}
