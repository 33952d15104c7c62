//! Reads that wait for records, and calls that wait for metadata. Owns their bounds and their time-outs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use martlet_core::{Instant, Offset, PartitionId};

use crate::api::{Call, CallContext, CallToken};

/// A place in a partition from which somebody waits for records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) partition: PartitionId,
    pub(crate) from: Offset,
    /// Bytes readable there when that was last looked at.
    pub(crate) bytes: u64,
}

/// What is done when the wait is over.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// The records of one partition are fetched.
    Frames { part: Part, bytes_max: u32 },
    /// The caller is told what there is, in partitions that grow.
    Facts(Vec<Part>),
}

/// A read that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) wanted: Wanted,
    /// Only what is decided counts.
    pub(crate) is_stable: bool,
    pub(crate) bytes_min: u64,
    pub(crate) deadline: Instant,
    /// Of all parts together. Kept, so that a commit costs the same however many partitions are waited for.
    bytes: u128,
}

impl Waiter {
    pub(crate) fn new(wanted: Wanted, is_stable: bool, bytes_min: u64, deadline: Instant) -> Waiter {
        let mut waiter = Waiter { wanted, is_stable, bytes_min, deadline, bytes: 0 };
        waiter.bytes = waiter.parts().iter().map(|part| u128::from(part.bytes)).sum();
        waiter
    }

    pub(crate) fn parts(&self) -> &[Part] {
        match &self.wanted {
            Wanted::Frames { part, .. } => std::slice::from_ref(part),
            Wanted::Facts(parts) => parts,
        }
    }

    fn parts_mut(&mut self) -> &mut [Part] {
        match &mut self.wanted {
            Wanted::Frames { part, .. } => std::slice::from_mut(part),
            Wanted::Facts(parts) => parts,
        }
    }
}

/// All reads that wait on a shard.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    by_token: BTreeMap<CallToken, Waiter>,
    by_partition: BTreeSet<(PartitionId, CallToken)>,
    by_deadline: BTreeSet<(Instant, CallToken)>,
}

impl Waiters {
    pub(crate) fn len(&self) -> usize {
        self.by_token.len()
    }

    /// Places in partitions, over all reads.
    pub(crate) fn parts(&self) -> usize {
        self.by_partition.len()
    }

    pub(crate) fn insert(&mut self, token: CallToken, waiter: Waiter) {
        for part in waiter.parts() {
            self.by_partition.insert((part.partition, token));
        }
        self.by_deadline.insert((waiter.deadline, token));
        self.by_token.insert(token, waiter);
    }

    pub(crate) fn remove(&mut self, token: CallToken) -> Option<Waiter> {
        let waiter = self.by_token.remove(&token)?;
        for part in waiter.parts() {
            self.by_partition.remove(&(part.partition, token));
        }
        self.by_deadline.remove(&(waiter.deadline, token));
        Some(waiter)
    }

    /// Those who wait on a partition, in the order of their tokens.
    pub(crate) fn of(&self, partition: PartitionId) -> Vec<CallToken> {
        let range = (partition, CallToken(0))..=(partition, CallToken(u64::MAX));
        self.by_partition.range(range).map(|(_, token)| *token).collect()
    }

    /// Takes down how many bytes are readable in a partition for one who waits, and says whether that is
    /// enough.
    pub(crate) fn is_served(
        &mut self,
        token: CallToken,
        partition: PartitionId,
        bytes_from: impl Fn(Offset, bool) -> u64,
    ) -> bool {
        let Some(waiter) = self.by_token.get_mut(&token) else { return false };
        let is_stable = waiter.is_stable;
        let parts = waiter.parts_mut();
        if let Ok(at) = parts.binary_search_by_key(&partition, |part| part.partition) {
            let bytes = bytes_from(parts[at].from, is_stable);
            let before = std::mem::replace(&mut parts[at].bytes, bytes);
            waiter.bytes = waiter.bytes - u128::from(before) + u128::from(bytes);
        }
        waiter.bytes >= u128::from(waiter.bytes_min)
    }

    /// One whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(CallToken, Waiter)> {
        let (deadline, token) = *self.by_deadline.first()?;
        if deadline > now {
            return None;
        }
        Some((token, self.remove(token)?))
    }

    pub(crate) fn pop_any(&mut self) -> Option<(CallToken, Waiter)> {
        let token = *self.by_token.first_key_value()?.0;
        Some((token, self.remove(token)?))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }
}

/// A call for something this shard has not heard of yet.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) deadline: Instant,
    pub(crate) token: CallToken,
    pub(crate) context: CallContext,
    pub(crate) call: Call,
    /// Counted against the bound of staged bytes.
    pub(crate) bytes: usize,
}

/// Calls that wait for metadata, oldest first.
#[derive(Debug, Default)]
pub(crate) struct ParkedCalls {
    calls: VecDeque<Parked>,
    bytes: usize,
}

impl ParkedCalls {
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, parked: Parked) {
        self.bytes += parked.bytes;
        self.calls.push_back(parked);
    }

    pub(crate) fn take_all(&mut self) -> VecDeque<Parked> {
        self.bytes = 0;
        std::mem::take(&mut self.calls)
    }

    pub(crate) fn remove(&mut self, token: CallToken) {
        self.calls.retain(|parked| parked.token != token);
        self.bytes = self.calls.iter().map(|parked| parked.bytes).sum();
    }

    /// One whose time has come. Deadlines do not quite grow along the queue: a call parked again keeps its
    /// own.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Parked> {
        let at = self.calls.iter().position(|parked| parked.deadline <= now)?;
        let parked = self.calls.remove(at)?;
        self.bytes -= parked.bytes;
        Some(parked)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.calls.iter().map(|parked| parked.deadline).min()
    }
}
