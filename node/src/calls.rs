//! Calls that have not been answered, from this shard's gateways and from other shards. Owns who is told and
//! what is known so far; never decides what an answer is.

use std::collections::HashMap;
use std::task::Waker;

use martlet_core::{Offset, PartitionId, Refusal, ShardId};
use martlet_shard::api::{CallToken, Caller, Reply};
use martlet_wal::read::ReadId;

use crate::slab::Slab;

/// Who asked.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A gateway on this shard; the waker of whoever waits for the answer.
    Local(Option<Waker>),
    /// Another shard, under its own number.
    Shard { shard: ShardId, id: u64 },
    /// Something on this shard, which is told by its ticket.
    Own { caller: Caller, ticket: u64 },
}

/// Frames that storage has to fetch for a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    Frames { partition: PartitionId, from: Offset, upto: Offset, bytes_max: u32, log_start: Offset },
    Time { partition: PartitionId, time: i64, upto: Offset },
}

/// Bytes of frames that a call may be answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerSize {
    /// A single frame may be as large, whatever was asked for.
    pub(crate) least: usize,
    pub(crate) most: usize,
}

/// How far a call is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The engine has it.
    Waiting,
    /// The engine has decided what to fetch; the caller starts that when it has room for the answer.
    Wanted(Wanted),
    /// Storage reads.
    Reading(ReadId, Wanted),
    Done(Result<Reply, Refusal>),
}

#[derive(Debug)]
pub(crate) struct CallSlot {
    pub(crate) origin: Origin,
    pub(crate) progress: Progress,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Calls {
    slots: Slab<CallSlot>,
    of_shards: HashMap<(ShardId, u64), CallToken>,
    reading: HashMap<ReadId, CallToken>,
}

impl Calls {
    pub(crate) fn new() -> Calls {
        Calls { slots: Slab::new(), of_shards: HashMap::new(), reading: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn insert(&mut self, origin: Origin) -> CallToken {
        let key = match origin {
            Origin::Shard { shard, id } => Some((shard, id)),
            Origin::Local(_) | Origin::Own { .. } => None,
        };
        let token = CallToken(self.slots.insert(CallSlot { origin, progress: Progress::Waiting }));
        if let Some(key) = key {
            self.of_shards.insert(key, token);
        }
        token
    }

    pub(crate) fn get_mut(&mut self, token: CallToken) -> Option<&mut CallSlot> {
        self.slots.get_mut(token.0)
    }

    pub(crate) fn remove(&mut self, token: CallToken) -> Option<CallSlot> {
        let slot = self.slots.remove(token.0)?;
        if let Origin::Shard { shard, id } = slot.origin {
            self.of_shards.remove(&(shard, id));
        }
        if let Progress::Reading(read, _) = slot.progress {
            self.reading.remove(&read);
        }
        Some(slot)
    }

    /// The call of another shard under that shard's number.
    pub(crate) fn of_shard(&self, shard: ShardId, id: u64) -> Option<CallToken> {
        self.of_shards.get(&(shard, id)).copied()
    }

    /// Storage reads for this call from now on.
    pub(crate) fn reads(&mut self, token: CallToken, read: ReadId, wanted: Wanted) {
        if let Some(slot) = self.slots.get_mut(token.0) {
            slot.progress = Progress::Reading(read, wanted);
            self.reading.insert(read, token);
        }
    }

    /// Whose read has ended, and what it was for.
    pub(crate) fn read_ended(&mut self, read: ReadId) -> Option<(CallToken, Wanted)> {
        let token = self.reading.remove(&read)?;
        match &self.slots.get_mut(token.0)?.progress {
            Progress::Reading(_, wanted) => Some((token, *wanted)),
            _ => None,
        }
    }
}
