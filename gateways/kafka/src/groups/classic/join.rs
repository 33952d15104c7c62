//! Coming together: members arrive or come again, and a generation begins when all are there or the time is
//! over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use martlet_core::Now;
use martlet_shard::api::CallToken;

use super::super::ask::{Client, Effects, Failure, Join, Joined, Told};
use super::member::{Joining, Member, protocol_bytes};
use super::{ClassicGroup, Gathering, GroupConfig, State};

/// A new member is given up after so long, even while it waits.
const NEW_MEMBER: Duration = Duration::from_secs(300);

impl ClassicGroup {
    /// A member comes, or comes again. `new_id` makes an id for one that has none.
    pub(crate) fn join(
        &mut self,
        (token, client, join): (CallToken, Client, Join),
        config: &GroupConfig,
        new_id: impl FnOnce() -> String,
        now: Now,
        effects: &mut Effects,
    ) {
        if let Err(failure) = self.check_join(&join, config) {
            effects.answer(token, Joined::refused(&join.member, failure));
            return;
        }
        if let Some(instance) = &join.instance
            && let Some(known) = self.instances.get(instance).cloned()
        {
            if join.member.is_empty() {
                let id = new_id();
                return self.replace((token, client, join), (&known, id), config, now, effects);
            }
            if known != join.member {
                effects.answer(token, Joined::refused(&join.member, Failure::FencedInstanceId));
                return;
            }
        }
        if join.member.is_empty() {
            let id = new_id();
            if join.requires_known_member && join.instance.is_none() {
                self.promised.insert(id.clone(), now.instant.after(join.session));
                effects.answer(token, Joined::refused(&id, Failure::MemberIdRequired));
                return;
            }
            self.add(id, (token, client, join), config, now, effects);
        } else if self.promised.remove(&join.member).is_some() {
            self.add(join.member.clone(), (token, client, join), config, now, effects);
        } else if self.members.contains_key(&join.member) && self.state != State::Empty {
            self.rejoin(token, join, now, effects);
        } else {
            effects.answer(token, Joined::refused(&join.member, Failure::UnknownMemberId));
        }
    }

    fn check_join(&self, join: &Join, config: &GroupConfig) -> Result<(), Failure> {
        if join.session < config.session_min || join.session > config.session_max {
            return Err(Failure::InvalidSessionTimeout);
        }
        let is_known = self.members.contains_key(&join.member) || self.promised.contains_key(&join.member);
        let returns = join.instance.as_ref().is_some_and(|instance| self.instances.contains_key(instance));
        if !is_known && !returns && self.members.len() + self.promised.len() >= config.members_max {
            return Err(Failure::GroupMaxSizeReached);
        }
        if !self.supports(&join.protocol_type, &join.protocols) {
            return Err(Failure::InconsistentGroupProtocol);
        }
        let before = self.members.get(&join.member).map_or(0, |member| protocol_bytes(&member.protocols));
        let more = protocol_bytes(&join.protocols).saturating_sub(before);
        if !self.has_room(more) {
            return Err(Failure::GroupMaxSizeReached);
        }
        Ok(())
    }

    /// Whether everybody could agree on one of these protocols.
    fn supports(&self, kind: &str, protocols: &[(String, bytes::Bytes)]) -> bool {
        if kind.is_empty() || protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        let common = self.common_protocols();
        self.protocol_type() == kind && protocols.iter().any(|(name, _)| common.contains(name.as_str()))
    }

    fn common_protocols(&self) -> BTreeSet<&str> {
        let mut members = self.members.values();
        let Some(first) = members.next() else { return BTreeSet::new() };
        let mut common: BTreeSet<&str> = first.protocols.iter().map(|(name, _)| name.as_str()).collect();
        for member in members {
            common.retain(|name| member.protocols.iter().any(|(other, _)| other == name));
        }
        common
    }

    /// The protocol most members prefer among those that all know.
    fn choose_protocol(&self) -> Option<String> {
        let common = self.common_protocols();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let favourite = member.protocols.iter().find(|(name, _)| common.contains(name.as_str()));
            if let Some((name, _)) = favourite {
                *votes.entry(name).or_default() += 1;
            }
        }
        let best = votes.iter().max_by_key(|(name, count)| (**count, std::cmp::Reverse(**name)));
        best.map(|(name, _)| (*name).to_owned())
    }

    fn add(
        &mut self,
        id: String,
        (token, client, join): (CallToken, Client, Join),
        config: &GroupConfig,
        now: Now,
        effects: &mut Effects,
    ) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        self.arrivals += 1;
        let member = Member {
            instance: join.instance.clone(),
            client,
            session: join.session,
            rebalance: join.rebalance,
            protocols: join.protocols,
            assignment: bytes::Bytes::new(),
            joining: Some(Joining { token }),
            syncing: None,
            owes_sync: false,
            is_new: true,
            deadline: now.instant.after(NEW_MEMBER),
            arrival: self.arrivals,
        };
        if let Some(instance) = join.instance {
            self.instances.insert(instance, id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
        if let Some(gathering) = &mut self.gathering {
            gathering.members_came = true;
        }
        self.meet(config, now, effects);
    }

    fn rejoin(&mut self, token: CallToken, join: Join, now: Now, effects: &mut Effects) {
        let id = join.member.clone();
        let is_leader = self.leader.as_ref() == Some(&id);
        let Some(member) = self.members.get(&id) else { return };
        let is_same = member.protocols == join.protocols;
        let stands = match self.state {
            // It did not hear the answer to its first call.
            State::CompletingRebalance => is_same,
            // A leader that comes again wants everything assigned anew.
            State::Stable => is_same && !is_leader,
            State::PreparingRebalance | State::Empty => false,
        };
        if stands {
            let mut joined = self.joined(&id);
            if !is_leader {
                joined.members.clear();
            }
            effects.answer(token, Told::Joined(joined));
            self.touch(&id, now);
            return;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.refuse(&id, Failure::RebalanceInProgress, effects);
            member.protocols = join.protocols;
            member.session = join.session;
            member.rebalance = join.rebalance;
            member.joining = Some(Joining { token });
        }
        if matches!(self.state, State::Stable | State::CompletingRebalance) {
            self.prepare(now, effects);
        }
        self.try_complete(now, effects);
    }

    /// A static member has come back under a new id.
    fn replace(
        &mut self,
        (token, client, join): (CallToken, Client, Join),
        (old, id): (&str, String),
        config: &GroupConfig,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(mut member) = self.members.remove(old) else { return };
        member.refuse(old, Failure::FencedInstanceId, effects);
        member.client = client;
        member.session = join.session;
        member.rebalance = join.rebalance;
        member.protocols = join.protocols;
        member.deadline = now.instant.after(join.session);
        member.is_new = false;
        let led = self.leader.as_deref() == Some(old);
        if led {
            self.leader = Some(id.clone());
        }
        if let Some(instance) = join.instance {
            self.instances.insert(instance, id.clone());
        }
        let old_leader = if led { old.to_owned() } else { self.leader.clone().unwrap_or_default() };
        self.members.insert(id.clone(), member);
        if self.state == State::Stable && self.choose_protocol() == self.protocol {
            let mut joined = self.joined(&id);
            joined.skip_assignment = led && join.can_skip_assignment;
            if !joined.skip_assignment {
                // A client that cannot skip must not take itself for the leader: its assignment would be
                // lost on a group that stands.
                joined.leader = if join.can_skip_assignment { joined.leader } else { old_leader };
                joined.members.clear();
            }
            effects.changed = true;
            effects.when_durable.push((token, Told::Joined(joined)));
            return;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.joining = Some(Joining { token });
        }
        self.meet(config, now, effects);
    }

    /// Begins a rebalance unless one is under way, and ends it if all are there.
    fn meet(&mut self, config: &GroupConfig, now: Now, effects: &mut Effects) {
        match self.state {
            State::Empty => {
                let longest = self.rebalance_longest();
                self.gathering = Some(Gathering {
                    until: now.instant.after(config.initial_delay.min(longest)),
                    first_until: Some(now.instant.after(longest)),
                    members_came: false,
                });
                self.first_delay = config.initial_delay;
                self.state = State::PreparingRebalance;
                effects.rebalances += 1;
            }
            State::Stable | State::CompletingRebalance => self.prepare(now, effects),
            State::PreparingRebalance => {}
        }
        self.try_complete(now, effects);
    }

    /// The members are called together.
    pub(super) fn prepare(&mut self, now: Now, effects: &mut Effects) {
        for member in self.members.values_mut() {
            if let Some(token) = member.syncing.take() {
                effects.answer(token, super::Synced::refused(Failure::RebalanceInProgress));
                member.deadline = now.instant.after(member.session);
            }
            member.owes_sync = false;
            if self.state == State::CompletingRebalance {
                member.assignment = bytes::Bytes::new();
            }
        }
        self.sync_until = None;
        let until = now.instant.after(self.rebalance_longest());
        self.gathering = Some(Gathering { until, first_until: None, members_came: false });
        self.state = State::PreparingRebalance;
        effects.rebalances += 1;
    }

    fn rebalance_longest(&self) -> Duration {
        self.members.values().map(|member| member.rebalance).max().unwrap_or_default()
    }

    /// Begins the generation if everybody is there. The first of a group waits for its time all the same.
    pub(super) fn try_complete(&mut self, now: Now, effects: &mut Effects) {
        let Some(gathering) = self.gathering else { return };
        let is_first = gathering.first_until.is_some();
        let all_came = self.members.values().all(|member| member.joining.is_some());
        if self.members.is_empty() || (!is_first && all_came && self.promised.is_empty()) {
            self.begin_generation(now, effects);
        }
    }

    pub(super) fn gathering_is_over(&mut self, now: Now, effects: &mut Effects) {
        let Some(gathering) = &mut self.gathering else { return };
        if let Some(first_until) = gathering.first_until
            && gathering.members_came
            && now.instant < first_until
        {
            gathering.members_came = false;
            gathering.until = now.instant.after(self.first_delay).min(first_until);
            return;
        }
        let absent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            self.remove(&id, effects);
        }
        self.lost = false;
        let nobody_came = self.members.values().all(|member| member.joining.is_none());
        if nobody_came && !self.members.is_empty() {
            // Only static members are left, and none has come: they have until their sessions end.
            let until = now.instant.after(self.rebalance_longest().max(Duration::from_secs(1)));
            self.gathering = Some(Gathering { until, first_until: None, members_came: false });
            return;
        }
        self.begin_generation(now, effects);
    }

    fn begin_generation(&mut self, now: Now, effects: &mut Effects) {
        self.gathering = None;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            effects.changed = true;
            self.state = State::Empty;
            self.protocol = None;
            self.leader = None;
            self.empty_since = now.wall.0;
            return;
        }
        self.protocol = self.choose_protocol();
        let leads = |id: &String| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if !self.leader.as_ref().is_some_and(leads) {
            self.leader = self.first_member(|member| member.joining.is_some());
        }
        self.state = State::CompletingRebalance;
        self.sync_until = Some(now.instant.after(self.rebalance_longest()));
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let mut joined = self.joined(&id);
            if self.leader.as_ref() != Some(&id) {
                joined.members.clear();
            }
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.assignment = bytes::Bytes::new();
            if let Some(joining) = member.joining.take() {
                member.is_new = false;
                member.owes_sync = true;
                member.deadline = now.instant.after(member.session);
                effects.answer(joining.token, Told::Joined(joined));
            }
        }
    }

    /// What a member is told of this generation, as its leader.
    fn joined(&self, id: &str) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let member = |(id, member): (&String, &Member)| {
            (id.clone(), member.instance.clone(), member.metadata(&protocol).unwrap_or_default())
        };
        Joined {
            failure: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member: id.to_owned(),
            members: self.members.iter().map(member).collect(),
        }
    }
}
