//! A group of the classic protocol: its clients choose the assignment, the group sees to it that they agree.
//!
//! Owns generations: who is in one, who leads it, when the next begins. The rules are Apache Kafka's, down to
//! the errors, because clients are built on them.
//!
//! **Invariants**: a generation has one leader; everybody who is told of a generation is told the same
//! number, protocol and leader; whoever waits is answered when the rebalance or its own time is over.

mod join;
mod member;
mod stored;
mod sync;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use martlet_core::limits::GROUP_METADATA_BYTES_MAX;
use martlet_core::{Instant, Now};
use martlet_shard::api::CallToken;

use super::ask::{Described, DescribedMember, Effects, Failure, Leaver, MemberClaim, Synced};
use super::config::GroupConfig;
use member::Member;

pub(crate) use member::subscribes;

/// Where a group is between two generations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum State {
    #[default]
    Empty,
    /// Members are called together.
    PreparingRebalance,
    /// They have met; the leader's assignment is awaited.
    CompletingRebalance,
    Stable,
}

/// The rebalance that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Gathering {
    /// It ends then, or, for the first of a group, waits on if members came meanwhile.
    until: Instant,
    /// Of a first rebalance: it never waits longer.
    first_until: Option<Instant>,
    members_came: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClassicGroup {
    state: State,
    protocol_type: Option<String>,
    generation: i32,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Member by instance.
    instances: BTreeMap<String, String>,
    /// Ids that were given out, until their members come with them.
    promised: BTreeMap<String, Instant>,
    gathering: Option<Gathering>,
    /// Members of a new generation ask for their assignment before this.
    sync_until: Option<Instant>,
    first_delay: std::time::Duration,
    /// Members have gone, and the others have not been told.
    lost: bool,
    /// Arrivals, so that the first member leads.
    arrivals: u64,
    /// Since when there are no members, wall milliseconds.
    empty_since: i64,
}

impl ClassicGroup {
    /// A name without members. Offsets under it live as long as each would alone.
    pub(crate) fn new() -> ClassicGroup {
        ClassicGroup::default()
    }

    /// A group that goes on from the epoch of an empty one of KIP-848.
    pub(crate) fn after(epoch: i32, now: Now) -> ClassicGroup {
        ClassicGroup { generation: epoch, empty_since: now.wall.0, ..ClassicGroup::default() }
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }

    pub(crate) fn generation(&self) -> i32 {
        self.generation
    }

    pub(crate) fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    pub(crate) fn has_members(&self) -> bool {
        !self.members.is_empty() || !self.promised.is_empty()
    }

    pub(crate) fn empty_since(&self) -> i64 {
        self.empty_since
    }

    /// Whether nothing was ever made of it.
    pub(crate) fn is_blank(&self) -> bool {
        !self.has_members() && self.generation == 0
    }

    /// Whether a member of the classic consumer protocol reads `topic`. Unknown counts as no.
    pub(crate) fn reads(&self, topic: &str) -> bool {
        let Some(protocol) = self.protocol.as_deref() else { return false };
        if self.protocol_type() != "consumer" {
            return false;
        }
        let said = self.members.values().filter_map(|member| member.metadata(protocol));
        said.into_iter().any(|metadata| member::subscribes(&metadata, topic))
    }

    /// Takes a heartbeat.
    pub(crate) fn heartbeat(&mut self, claim: &MemberClaim, now: Now) -> Option<Failure> {
        if let Some(failure) = self.check(claim) {
            return Some(failure);
        }
        match self.state {
            State::Empty => Some(Failure::UnknownMemberId),
            State::CompletingRebalance | State::Stable => {
                self.touch(&claim.member, now);
                None
            }
            State::PreparingRebalance => {
                self.touch(&claim.member, now);
                Some(Failure::RebalanceInProgress)
            }
        }
    }

    /// Whether the one who claims to be a member of this generation is.
    fn check(&self, claim: &MemberClaim) -> Option<Failure> {
        if let Some(failure) = self.check_instance(claim.instance.as_deref(), &claim.member) {
            return Some(failure);
        }
        if !self.members.contains_key(&claim.member) {
            return Some(Failure::UnknownMemberId);
        }
        (claim.generation != self.generation).then_some(Failure::IllegalGeneration)
    }

    fn check_instance(&self, instance: Option<&str>, member: &str) -> Option<Failure> {
        match self.instances.get(instance?) {
            None => Some(Failure::UnknownMemberId),
            Some(known) if known != member => Some(Failure::FencedInstanceId),
            Some(_) => None,
        }
    }

    fn touch(&mut self, member: &str, now: Now) {
        if let Some(member) = self.members.get_mut(member) {
            member.deadline = now.instant.after(member.session);
        }
    }

    /// Whether offsets may be committed by the one who claims this.
    pub(crate) fn check_commit(&mut self, claim: &MemberClaim, now: Now) -> Option<Failure> {
        // Whoever reads without a group may use its name as long as nobody else does.
        if claim.generation < 0 && self.state == State::Empty {
            return None;
        }
        if let Some(failure) = self.check(claim) {
            return Some(failure);
        }
        match self.state {
            State::Empty => Some(Failure::UnknownMemberId),
            State::CompletingRebalance => Some(Failure::RebalanceInProgress),
            State::PreparingRebalance | State::Stable => {
                self.touch(&claim.member, now);
                None
            }
        }
    }

    /// Members go, each with its own outcome.
    pub(crate) fn leave(
        &mut self,
        leavers: &[Leaver],
        now: Now,
        effects: &mut Effects,
    ) -> Vec<Option<Failure>> {
        let left = leavers.iter().map(|leaver| self.leave_one(leaver, effects)).collect();
        self.after_loss(now, effects);
        left
    }

    fn leave_one(&mut self, leaver: &Leaver, effects: &mut Effects) -> Option<Failure> {
        let id = match (&leaver.instance, leaver.member.is_empty()) {
            (Some(instance), true) => match self.instances.get(instance) {
                Some(id) => id.clone(),
                None => return Some(Failure::UnknownMemberId),
            },
            (instance, _) => {
                if let Some(failure) = self.check_instance(instance.as_deref(), &leaver.member) {
                    return Some(failure);
                }
                leaver.member.clone()
            }
        };
        if self.promised.remove(&id).is_some() {
            return None;
        }
        if !self.members.contains_key(&id) {
            return Some(Failure::UnknownMemberId);
        }
        self.remove(&id, effects);
        None
    }

    /// Forgets a member. Whatever it waits for is over; `after_loss` must follow.
    fn remove(&mut self, id: &str, effects: &mut Effects) {
        let Some(mut member) = self.members.remove(id) else { return };
        member.refuse(id, Failure::UnknownMemberId, effects);
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.first_member(|_| true);
        }
        self.lost = true;
    }

    fn first_member(&self, wanted: impl Fn(&Member) -> bool) -> Option<String> {
        let found = self.members.iter().filter(|(_, member)| wanted(member));
        found.min_by_key(|(_, member)| member.arrival).map(|(id, _)| id.clone())
    }

    /// Members are gone: the others meet again, or, if they were meeting, may have met.
    fn after_loss(&mut self, now: Now, effects: &mut Effects) {
        if std::mem::take(&mut self.lost) {
            match self.state {
                State::Stable | State::CompletingRebalance => self.prepare(now, effects),
                State::Empty | State::PreparingRebalance => {}
            }
        }
        self.try_complete(now, effects);
    }

    /// Ends what has lasted too long.
    pub(crate) fn on_timer(&mut self, now: Now, effects: &mut Effects) {
        self.promised.retain(|_, until| *until > now.instant);
        let is_due = |member: &Member| member.is_mortal() && member.deadline <= now.instant;
        let silent: Vec<String> =
            self.members.iter().filter(|(_, member)| is_due(member)).map(|(id, _)| id.clone()).collect();
        for id in silent {
            self.remove(&id, effects);
        }
        if self.sync_until.is_some_and(|until| until <= now.instant) {
            self.sync_until = None;
            let late: Vec<String> = self
                .members
                .iter()
                .filter(|(_, member)| member.owes_sync)
                .map(|(id, _)| id.clone())
                .collect();
            for id in late {
                self.remove(&id, effects);
            }
        }
        self.after_loss(now, effects);
        if self.gathering.is_some_and(|gathering| gathering.until <= now.instant) {
            self.gathering_is_over(now, effects);
        }
    }

    /// When `on_timer` has something to do.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let members = self.members.values().filter(|member| member.is_mortal()).map(|member| member.deadline);
        let promised = self.promised.values().copied();
        let gathering = self.gathering.map(|gathering| gathering.until);
        members.chain(promised).chain(gathering).chain(self.sync_until).min()
    }

    pub(crate) fn describe(&self) -> Described {
        let protocol = self.protocol.clone().filter(|_| self.state == State::Stable);
        let member = |(id, member): (&String, &Member)| DescribedMember {
            member: id.clone(),
            instance: member.instance.clone(),
            client: member.client.clone(),
            metadata: protocol.as_deref().and_then(|name| member.metadata(name)).unwrap_or_default(),
            assignment: if protocol.is_some() { member.assignment.clone() } else { Default::default() },
        };
        Described {
            state: self.state_name(),
            protocol_type: self.protocol_type().to_owned(),
            protocol: protocol.clone().unwrap_or_default(),
            members: self.members.iter().map(member).collect(),
        }
    }

    /// Everybody who waits is told that the group is no more here.
    pub(crate) fn waiting(&mut self) -> Vec<CallToken> {
        let tokens = |member: &mut Member| {
            let joining = member.joining.take().map(|joining| joining.token);
            joining.into_iter().chain(member.syncing.take()).collect::<Vec<_>>()
        };
        self.members.values_mut().flat_map(tokens).collect()
    }

    /// Bytes of what members say and are assigned.
    fn metadata_bytes(&self) -> usize {
        self.members.values().map(Member::bytes).sum()
    }

    /// Whether `more` bytes of members' words still fit.
    fn has_room(&self, more: usize) -> bool {
        self.metadata_bytes() + more <= GROUP_METADATA_BYTES_MAX
    }
}
