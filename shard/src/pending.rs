//! Writes that are staged and not durable, in the order of the log, with those who wait for them. Owns the
//! memory bound of staged bytes.

use std::collections::VecDeque;

use bytes::Bytes;
use martlet_core::limits::WRITE_CALLERS_MAX;
use martlet_core::{Lsn, Offset, PartitionId};

use crate::api::CallToken;
use crate::metadata::Command;
use crate::registers::RegisterNote;

/// Those who wait for a write: usually one.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    pub(crate) first: Option<CallToken>,
    /// They sent the same again; they are told so.
    pub(crate) repeats: Vec<CallToken>,
}

/// A staged write.
#[derive(Debug)]
pub(crate) enum Write {
    Frame { base_offset: Offset, end_offset: Offset, broker_time: i64 },
    Cursor { name: Box<str>, offset: Option<Offset> },
    Trim { log_start: Offset },
    Registers(RegisterNote),
    Command { base_offset: Offset, index: u64, command: Command, encoded: Bytes },
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) lsn: Lsn,
    pub(crate) partition: PartitionId,
    /// Counted against the bound of staged bytes.
    pub(crate) bytes: usize,
    pub(crate) callers: Callers,
    pub(crate) write: Write,
}

/// All staged writes of a shard.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: VecDeque<Pending>,
    bytes: usize,
}

impl Queue {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// In the order of the log.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.entries.iter()
    }

    pub(crate) fn push(&mut self, pending: Pending) {
        assert!(
            self.entries.back().is_none_or(|last| last.lsn < pending.lsn),
            "writes are staged in the order of the log"
        );
        self.bytes += pending.bytes;
        self.entries.push_back(pending);
    }

    /// The next write that is durable.
    pub(crate) fn pop_durable(&mut self, durable: Lsn) -> Option<Pending> {
        if self.entries.front()?.lsn > durable {
            return None;
        }
        self.pop()
    }

    pub(crate) fn pop(&mut self) -> Option<Pending> {
        let pending = self.entries.pop_front()?;
        self.bytes -= pending.bytes;
        Some(pending)
    }

    /// Lets `token` wait for the write staged as `lsn`. False if nobody may join any more.
    pub(crate) fn join(&mut self, lsn: Lsn, token: CallToken) -> bool {
        let Ok(at) = self.entries.binary_search_by_key(&lsn, |pending| pending.lsn) else { return false };
        let callers = &mut self.entries[at].callers;
        if callers.repeats.len() >= WRITE_CALLERS_MAX {
            return false;
        }
        callers.repeats.push(token);
        true
    }
}
