//! One member of a classic group. Owns what it said, what it waits for and until when it lives.

use std::time::Duration;

use bytes::{Buf, Bytes};
use martlet_core::Instant;
use martlet_shard::api::CallToken;

use super::super::ask::{Client, Effects, Failure, Joined, Synced};

/// A call that waits for the next generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Joining {
    pub(crate) token: CallToken,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub(crate) instance: Option<String>,
    pub(crate) client: Client,
    pub(crate) session: Duration,
    pub(crate) rebalance: Duration,
    /// In the order of preference.
    pub(crate) protocols: Vec<(String, Bytes)>,
    pub(crate) assignment: Bytes,
    pub(crate) joining: Option<Joining>,
    pub(crate) syncing: Option<CallToken>,
    /// It was told of the generation and has not asked for its assignment.
    pub(crate) owes_sync: bool,
    /// It has not been in a generation yet: it is given up even while it waits.
    pub(crate) is_new: bool,
    /// It is gone then, unless it is heard of.
    pub(crate) deadline: Instant,
    pub(crate) arrival: u64,
}

impl Member {
    /// Whether its time runs: not while it waits for the group.
    pub(crate) fn is_mortal(&self) -> bool {
        self.is_new || (self.joining.is_none() && self.syncing.is_none())
    }

    pub(crate) fn metadata(&self, protocol: &str) -> Option<Bytes> {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata.clone())
    }

    pub(crate) fn bytes(&self) -> usize {
        protocol_bytes(&self.protocols) + self.assignment.len()
    }

    /// Ends whatever it waits for.
    pub(crate) fn refuse(&mut self, id: &str, failure: Failure, effects: &mut Effects) {
        if let Some(joining) = self.joining.take() {
            effects.answer(joining.token, Joined::refused(id, failure));
        }
        if let Some(token) = self.syncing.take() {
            effects.answer(token, Synced::refused(failure));
        }
    }
}

/// Bytes of what a member says.
pub(crate) fn protocol_bytes(protocols: &[(String, Bytes)]) -> usize {
    protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum()
}

/// Whether the subscription of a classic consumer names `topic`: version, then a list of names.
pub(crate) fn subscribes(metadata: &Bytes, topic: &str) -> bool {
    let mut rest = metadata.clone();
    if rest.remaining() < 6 {
        return false;
    }
    rest.advance(2);
    for _ in 0..rest.get_i32().max(0) {
        if rest.remaining() < 2 {
            return false;
        }
        let length = usize::from(rest.get_u16());
        if rest.remaining() < length {
            return false;
        }
        if rest.split_to(length) == topic {
            return true;
        }
    }
    false
}
