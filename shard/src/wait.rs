//! Reads that wait for records, and calls that wait for metadata. Owns their bounds and their time-outs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use martlet_core::{Instant, Offset, PartitionId};

use crate::api::{Call, CallContext, CallToken};

/// A read that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) partition: PartitionId,
    pub(crate) from: Offset,
    pub(crate) bytes_min: u32,
    pub(crate) bytes_max: u32,
    deadline: Instant,
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

    pub(crate) fn insert(
        &mut self,
        token: CallToken,
        deadline: Instant,
        partition: PartitionId,
        from: Offset,
        bytes: (u32, u32),
    ) {
        let waiter = Waiter { partition, from, bytes_min: bytes.0, bytes_max: bytes.1, deadline };
        self.by_token.insert(token, waiter);
        self.by_partition.insert((partition, token));
        self.by_deadline.insert((deadline, token));
    }

    pub(crate) fn remove(&mut self, token: CallToken) -> Option<Waiter> {
        let waiter = self.by_token.remove(&token)?;
        self.by_partition.remove(&(waiter.partition, token));
        self.by_deadline.remove(&(waiter.deadline, token));
        Some(waiter)
    }

    /// Those who wait on a partition, in the order of their tokens.
    pub(crate) fn of(&self, partition: PartitionId) -> impl Iterator<Item = (CallToken, &Waiter)> {
        let range = (partition, CallToken(0))..=(partition, CallToken(u64::MAX));
        self.by_partition.range(range).filter_map(|(_, token)| Some((*token, self.by_token.get(token)?)))
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
