//! Handing out the leader's assignment.

use martlet_core::Now;
use martlet_shard::api::CallToken;

use super::super::ask::{Effects, Failure, Sync, Synced, Told};
use super::{ClassicGroup, State};

impl ClassicGroup {
    /// A member asks what it is assigned; the leader says it for all.
    pub(crate) fn sync(&mut self, token: CallToken, sync: Sync, now: Now, effects: &mut Effects) {
        if let Some(failure) = self.check_sync(&sync) {
            effects.answer(token, Synced::refused(failure));
            return;
        }
        let id = sync.claim.member;
        match self.state {
            State::Empty => effects.answer(token, Synced::refused(Failure::UnknownMemberId)),
            State::PreparingRebalance => {
                effects.answer(token, Synced::refused(Failure::RebalanceInProgress));
            }
            State::Stable => {
                self.touch(&id, now);
                if let Some(member) = self.members.get_mut(&id) {
                    member.owes_sync = false;
                }
                // It may be the answer to a question that was asked before the assignment was durable.
                let told = self.synced(&id);
                effects.when_durable.push((token, told));
            }
            State::CompletingRebalance => {
                if let Some(member) = self.members.get_mut(&id) {
                    if let Some(before) = member.syncing.replace(token) {
                        effects.answer(before, Synced::refused(Failure::RebalanceInProgress));
                    }
                    member.owes_sync = false;
                }
                if self.leader.as_ref() == Some(&id) {
                    self.assign(sync.assignments, now, effects);
                }
            }
        }
        if !self.members.values().any(|member| member.owes_sync) {
            self.sync_until = None;
        }
    }

    fn check_sync(&self, sync: &Sync) -> Option<Failure> {
        let failure = self.check(&sync.claim);
        if failure.is_some() {
            return failure;
        }
        let differs = |said: &Option<String>, holds: &Option<String>| said.is_some() && said != holds;
        let is_other =
            differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol);
        if is_other {
            return Some(Failure::InconsistentGroupProtocol);
        }
        let bytes: usize = sync.assignments.iter().map(|(_, assignment)| assignment.len()).sum();
        let is_leader = self.leader.as_ref() == Some(&sync.claim.member);
        let is_awaited = self.state == State::CompletingRebalance && is_leader;
        (is_awaited && !self.has_room(bytes)).then_some(Failure::GroupMaxSizeReached)
    }

    /// The leader has spoken: everybody is told once it is durable.
    fn assign(&mut self, assignments: Vec<(String, bytes::Bytes)>, now: Now, effects: &mut Effects) {
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.state = State::Stable;
        effects.changed = true;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let told = self.synced(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            if let Some(token) = member.syncing.take() {
                member.deadline = now.instant.after(member.session);
                effects.when_durable.push((token, told));
            }
        }
    }

    fn synced(&self, id: &str) -> Told {
        Told::Synced(Synced {
            failure: None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        })
    }
}
