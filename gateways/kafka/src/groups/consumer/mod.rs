//! A group of KIP-848: the broker chooses the assignment, each member is led towards it on its own.
//!
//! Owns epochs. The group's epoch grows with every change of members, subscriptions or topics; the target
//! assignment is computed for an epoch; a member takes the epoch on when it has given up what it should.
//!
//! **Invariant**: a partition is assigned to one member at most; it goes to the next one only when the one
//! before has said that it let go, or is gone.

mod assign;
mod member;
mod stored;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use martlet_core::limits::{GROUP_METADATA_BYTES_MAX, GROUP_PARTITIONS_MAX, GROUP_PATTERN_BYTES_MAX};
use martlet_core::{Instant, Now, TopicId};
use regex::Regex;

use super::ask::{
    Client, ConsumerDescribed, ConsumerDescribedMember, ConsumerHeartbeat, ConsumerTold, Effects, Failure,
    MemberClaim, Partitions,
};
use super::config::GroupConfig;
use assign::{Assignor, Subscriber};
use member::{Member, Progress};

pub(crate) use stored::{MEMBER, NAME};

/// Topics as groups see them: id and number of partitions by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    /// Differs whenever the topics do.
    pub(crate) version: u64,
    pub(crate) topics: BTreeMap<String, (TopicId, u32)>,
    /// Topics that were there and are not any more, until their offsets are forgotten.
    pub(crate) gone: BTreeSet<TopicId>,
}

/// What a member is told that is refused.
pub(crate) type Refused = (Failure, String);

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConsumerGroup {
    epoch: i32,
    assignment_epoch: i32,
    members: BTreeMap<String, Member>,
    /// Member by instance.
    instances: BTreeMap<String, String>,
    target: BTreeMap<String, Partitions>,
    /// Topics that members subscribe to, with the partitions they had when the epoch was made.
    topics: BTreeMap<TopicId, u32>,
    /// Of the catalog that `topics` was made from; 0 = to be made again.
    catalog: u64,
    empty_since: i64,
}

fn refuse<T>(failure: Failure, text: impl Into<String>) -> Result<T, Refused> {
    Err((failure, text.into()))
}

impl ConsumerGroup {
    /// A group that goes on from the generation of an empty classic one, or from 0.
    pub(crate) fn new(epoch: i32, now: Now) -> ConsumerGroup {
        ConsumerGroup {
            epoch: epoch.max(0),
            assignment_epoch: epoch.max(0),
            empty_since: now.wall.0,
            ..ConsumerGroup::default()
        }
    }

    pub(crate) fn epoch(&self) -> i32 {
        self.epoch
    }

    pub(crate) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    pub(crate) fn empty_since(&self) -> i64 {
        self.empty_since
    }

    pub(crate) fn state_name(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self.members.values().any(|member| !member.is_settled(self.assignment_epoch)) {
            "Reconciling"
        } else {
            "Stable"
        }
    }

    /// Whether a member reads `topic`.
    pub(crate) fn reads(&self, topic: TopicId) -> bool {
        !self.members.is_empty() && self.topics.contains_key(&topic)
    }

    /// Takes a heartbeat, which also joins and leaves.
    ///
    /// # Errors
    /// What the member is told.
    pub(crate) fn heartbeat(
        &mut self,
        client: Client,
        beat: ConsumerHeartbeat,
        catalog: &Catalog,
        config: &GroupConfig,
        now: Now,
        effects: &mut Effects,
    ) -> Result<ConsumerTold, Refused> {
        if beat.epoch < 0 {
            return self.leave(&beat, config, now, effects);
        }
        let id = self.admit(&beat, config)?;
        let before = self.members.get(&id).cloned();
        let is_news = self.take_in(&id, client, &beat, config, now)?;
        let is_repeat = beat.epoch == 0 || self.members.get(&id).is_some_and(|m| beat.epoch < m.epoch);
        self.refresh(is_news, catalog, effects)?;
        self.compute_target(effects);
        self.reconcile(&id, beat.owned.as_ref(), now);
        let Some(member) = self.members.get(&id) else {
            return refuse(Failure::UnknownMemberId, "the member is gone: join again");
        };
        let is_changed = before.as_ref().is_none_or(|before| !before.is_stored_like(member));
        effects.changed |= is_changed;
        let is_full = beat.owned.is_some() && beat.rebalance.is_some();
        let is_moved = before.as_ref().is_none_or(|before| before.assigned != member.assigned);
        Ok(ConsumerTold {
            member: id,
            epoch: member.epoch,
            heartbeat_ms: i32::try_from(config.consumer_heartbeat.as_millis()).unwrap_or(i32::MAX),
            assignment: (is_repeat || is_full || is_moved).then(|| member.assigned.clone()),
        })
    }

    /// Finds the member, or makes room for it. Returns its id.
    fn admit(&mut self, beat: &ConsumerHeartbeat, config: &GroupConfig) -> Result<String, Refused> {
        let id = beat.member.clone();
        if let Some(instance) = &beat.instance
            && let Some(known) = self.instances.get(instance).cloned()
        {
            let Some(existing) = self.members.get(&known) else {
                return refuse(Failure::UnknownMemberId, "the member is gone: join again");
            };
            if beat.epoch == 0 && known != id {
                if existing.epoch != -2 {
                    return refuse(
                        Failure::UnreleasedInstanceId,
                        format!("instance {instance} is used by member {known}: it must leave first"),
                    );
                }
                self.replace(&known, &id, instance);
                return Ok(id);
            }
            if known != id {
                let text = format!("instance {instance} belongs to member {known} now");
                return refuse(Failure::FencedInstanceId, text);
            }
        } else if beat.instance.is_some() && beat.epoch != 0 {
            return refuse(Failure::UnknownMemberId, "no member has this instance: join again");
        }
        match self.members.get(&id) {
            Some(member) => check_epoch(member, beat)?,
            None if beat.epoch != 0 => {
                return refuse(Failure::UnknownMemberId, format!("member {id} is unknown: join again"));
            }
            None if self.members.len() >= config.members_max => {
                let text =
                    format!("the group has {} members: at most as many are allowed", self.members.len());
                return refuse(Failure::GroupMaxSizeReached, text);
            }
            None => {}
        }
        Ok(id)
    }

    /// A static member has come back under a new id: it takes over what the old one had.
    fn replace(&mut self, old: &str, id: &str, instance: &str) {
        let Some(mut member) = self.members.remove(old) else { return };
        member.epoch = 0;
        member.previous_epoch = 0;
        member.progress = Progress::Stable;
        member.revoking.clear();
        member.revoke_until = None;
        self.members.insert(id.to_owned(), member);
        self.instances.insert(instance.to_owned(), id.to_owned());
        if let Some(target) = self.target.remove(old) {
            self.target.insert(id.to_owned(), target);
        }
    }

    /// Notes what the member says about itself. Returns whether the group's assignment depends on news.
    fn take_in(
        &mut self,
        id: &str,
        client: Client,
        beat: &ConsumerHeartbeat,
        config: &GroupConfig,
        now: Now,
    ) -> Result<bool, Refused> {
        let assignor = match beat.assignor.as_deref() {
            None => None,
            Some(name) => match Assignor::named(name) {
                Some(assignor) => Some(assignor),
                None => {
                    let text = format!("assignor `{name}` is not supported: use uniform or range");
                    return refuse(Failure::UnsupportedAssignor, text);
                }
            },
        };
        if let Some(pattern) = beat.pattern.as_deref().filter(|pattern| !pattern.is_empty()) {
            compile(pattern)?;
        }
        let said: usize = beat.topics.iter().flatten().map(String::len).sum();
        let held: usize = self.members.values().map(Member::bytes).sum();
        if held + said > GROUP_METADATA_BYTES_MAX {
            return refuse(Failure::GroupMaxSizeReached, "the subscriptions of the group are too long");
        }
        let is_new = !self.members.contains_key(id);
        let member = self.members.entry(id.to_owned()).or_default();
        if let Some(instance) = &beat.instance {
            self.instances.insert(instance.clone(), id.to_owned());
            member.instance = Some(instance.clone());
        }
        if beat.epoch == 0 && member.epoch != 0 {
            // It has given up everything and begins again.
            *member = Member { instance: member.instance.take(), ..Member::default() };
        }
        member.client = client;
        member.deadline = now.instant.after(config.consumer_session);
        member.rack = beat.rack.clone().or(member.rack.take());
        member.rebalance = beat.rebalance.unwrap_or(member.rebalance);
        let before = (member.topics.clone(), member.pattern.clone(), member.assignor);
        if let Some(topics) = &beat.topics {
            member.topics = topics.iter().cloned().collect();
        }
        if let Some(pattern) = &beat.pattern {
            member.pattern = Some(pattern.clone()).filter(|pattern| !pattern.is_empty());
        }
        member.assignor = assignor.or(member.assignor);
        let differs = before != (member.topics.clone(), member.pattern.clone(), member.assignor);
        Ok(is_new || differs)
    }

    /// Begins a new epoch if members, subscriptions or topics have changed.
    fn refresh(&mut self, is_news: bool, catalog: &Catalog, effects: &mut Effects) -> Result<(), Refused> {
        if is_news || self.catalog != catalog.version {
            let topics = self.subscribed(catalog);
            let count: usize = topics.values().map(|count| *count as usize).sum();
            if count > GROUP_PARTITIONS_MAX {
                let text = format!("the group would have {count} partitions: subscribe to fewer topics");
                return refuse(Failure::GroupMaxSizeReached, text);
            }
            self.catalog = catalog.version;
            if is_news || topics != self.topics {
                self.topics = topics;
                self.begin_epoch(effects);
            }
        }
        Ok(())
    }

    fn begin_epoch(&mut self, effects: &mut Effects) {
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
        effects.changed = true;
        effects.rebalances += 1;
    }

    /// Topics that somebody subscribes to.
    fn subscribed(&mut self, catalog: &Catalog) -> BTreeMap<TopicId, u32> {
        let mut found = BTreeMap::new();
        let mut matched: BTreeMap<String, BTreeSet<TopicId>> = BTreeMap::new();
        for member in self.members.values_mut() {
            let mut topics: BTreeSet<TopicId> = BTreeSet::new();
            topics
                .extend(member.topics.iter().filter_map(|name| catalog.topics.get(name)).map(|(id, _)| *id));
            if let Some(pattern) = &member.pattern {
                let found = matched.entry(pattern.clone()).or_insert_with(|| matching(pattern, catalog));
                topics.extend(found.iter());
            }
            member.subscribed = topics;
        }
        for (id, count) in catalog.topics.values() {
            if self.members.values().any(|member| member.subscribed.contains(id)) {
                found.insert(*id, *count);
            }
        }
        found
    }

    fn compute_target(&mut self, effects: &mut Effects) {
        if self.epoch <= self.assignment_epoch {
            return;
        }
        let subscriber = |(id, member): (&String, &Member)| {
            let before = self.target.get(id).cloned().unwrap_or_default();
            let topics = member.subscribed.clone();
            (id.clone(), Subscriber { instance: member.instance.clone(), topics, before })
        };
        let subscribers = self.members.iter().map(subscriber).collect();
        self.target = assign::assign(self.assignor(), &subscribers, &self.topics);
        self.assignment_epoch = self.epoch;
        effects.changed = true;
    }

    /// The one most members want.
    fn assignor(&self) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        for assignor in self.members.values().filter_map(|member| member.assignor) {
            *votes.entry(assignor).or_default() += 1;
        }
        let best = votes.into_iter().max_by_key(|(assignor, count)| (*count, std::cmp::Reverse(*assignor)));
        best.map(|(assignor, _)| assignor).unwrap_or_default()
    }

    /// Leads a member towards its target.
    fn reconcile(&mut self, id: &str, owned: Option<&Partitions>, now: Now) {
        let Some(member) = self.members.get(id) else { return };
        if !member.wants_next(self.assignment_epoch, owned) {
            return;
        }
        let held = |topic: TopicId, partition: u32| {
            let others = self.members.iter().filter(|(other, _)| *other != id);
            others.into_iter().any(|(_, other)| other.holds(topic, partition))
        };
        let empty = Partitions::new();
        let target = self.target.get(id).unwrap_or(&empty);
        let next = member.next(target, self.assignment_epoch, owned, held);
        if let Some(member) = self.members.get_mut(id) {
            member.step(next, now);
        }
    }

    fn leave(
        &mut self,
        beat: &ConsumerHeartbeat,
        config: &GroupConfig,
        now: Now,
        effects: &mut Effects,
    ) -> Result<ConsumerTold, Refused> {
        if let Some(instance) = &beat.instance {
            match self.instances.get(instance) {
                None => return refuse(Failure::UnknownMemberId, "no member has this instance"),
                Some(known) if *known != beat.member => {
                    return refuse(Failure::FencedInstanceId, "the instance belongs to another member now");
                }
                Some(_) => {}
            }
        }
        let Some(member) = self.members.get_mut(&beat.member) else {
            return refuse(Failure::UnknownMemberId, format!("member {} is unknown", beat.member));
        };
        if beat.epoch == -2 && member.instance.is_some() {
            member.epoch = -2;
            member.progress = Progress::Stable;
            member.revoking.clear();
            member.revoke_until = None;
            member.deadline = now.instant.after(config.consumer_session);
            effects.changed = true;
        } else {
            self.remove(&beat.member.clone(), now, effects);
        }
        let told = ConsumerTold { member: beat.member.clone(), epoch: beat.epoch, ..ConsumerTold::default() };
        Ok(told)
    }

    fn remove(&mut self, id: &str, now: Now, effects: &mut Effects) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = member.instance {
            self.instances.remove(&instance);
        }
        self.target.remove(id);
        self.catalog = 0;
        self.begin_epoch(effects);
        if self.members.is_empty() {
            self.empty_since = now.wall.0;
            self.topics.clear();
        }
    }

    /// Members that were silent, or did not let go in time, are gone.
    pub(crate) fn on_timer(&mut self, now: Now, effects: &mut Effects) {
        let is_late = |member: &Member| member.next_timer() <= now.instant;
        let late: Vec<String> =
            self.members.iter().filter(|(_, member)| is_late(member)).map(|(id, _)| id.clone()).collect();
        for id in late {
            self.remove(&id, now, effects);
        }
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.members.values().map(Member::next_timer).min()
    }

    /// Whether the one who claims this may commit or ask for offsets.
    pub(crate) fn check(&self, claim: &MemberClaim) -> Option<Failure> {
        if claim.generation < 0 && (self.members.is_empty() || claim.member.is_empty()) {
            return (!self.members.is_empty()).then_some(Failure::UnknownMemberId);
        }
        match self.members.get(&claim.member) {
            None => Some(Failure::UnknownMemberId),
            Some(member) => (member.epoch != claim.generation).then_some(Failure::StaleMemberEpoch),
        }
    }

    pub(crate) fn describe(&self, catalog: &Catalog) -> ConsumerDescribed {
        let names: BTreeMap<TopicId, &String> =
            catalog.topics.iter().map(|(name, (id, _))| (*id, name)).collect();
        let named = |partitions: &Partitions| {
            let one = |(topic, partitions): (&TopicId, &BTreeSet<u32>)| {
                let name = names.get(topic).map(|name| (*name).clone())?;
                Some((*topic, name, partitions.iter().copied().collect()))
            };
            partitions.iter().filter_map(one).collect::<Vec<_>>()
        };
        let member = |(id, member): (&String, &Member)| ConsumerDescribedMember {
            member: id.clone(),
            instance: member.instance.clone(),
            rack: member.rack.clone(),
            epoch: member.epoch,
            client: member.client.clone(),
            topics: member.topics.iter().cloned().collect(),
            pattern: member.pattern.clone(),
            assignment: named(&member.assigned),
            target: self.target.get(id).map(named).unwrap_or_default(),
        };
        ConsumerDescribed {
            state: self.state_name(),
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor: self.assignor().name().to_owned(),
            members: self.members.iter().map(member).collect(),
        }
    }
}

/// A member at another epoch than the broker has for it is fenced, unless it only missed one answer.
fn check_epoch(member: &Member, beat: &ConsumerHeartbeat) -> Result<(), Refused> {
    if beat.epoch == 0 || beat.epoch == member.epoch {
        return Ok(());
    }
    let missed_one = beat.epoch == member.previous_epoch
        && beat.epoch < member.epoch
        && beat.owned.as_ref().is_some_and(|owned| member::is_part_of(owned, &member.assigned));
    if missed_one {
        return Ok(());
    }
    let text = format!("the member's epoch is {}, not {}: join again", member.epoch, beat.epoch);
    refuse(Failure::FencedMemberEpoch, text)
}

fn compile(pattern: &str) -> Result<Regex, Refused> {
    if pattern.len() > GROUP_PATTERN_BYTES_MAX {
        return refuse(Failure::InvalidRegularExpression, "the pattern is too long");
    }
    // The whole name must match.
    let whole = format!("^(?:{pattern})$");
    let built = regex::RegexBuilder::new(&whole).size_limit(1 << 20).dfa_size_limit(1 << 20).build();
    built.map_err(|error| (Failure::InvalidRegularExpression, format!("the pattern is not valid: {error}")))
}

fn matching(pattern: &str, catalog: &Catalog) -> BTreeSet<TopicId> {
    let Ok(regex) = compile(pattern) else { return BTreeSet::new() };
    let matching = catalog.topics.iter().filter(|(name, _)| !name.starts_with("__") && regex.is_match(name));
    matching.map(|(_, (id, _))| *id).collect()
}
