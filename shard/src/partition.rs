//! One partition as the engine knows it. What must survive a restart is in [`Memory`]; the rest is made
//! again.

use std::collections::VecDeque;
use std::sync::Arc;

use martlet_core::limits::COMMITS_REMEMBERED;
use martlet_core::{Epoch, Offset, PartitionId};

use crate::codec::{CodecError, Reader, Writer};
use crate::cursor::Cursors;
use crate::dedup::Producers;
use crate::log::Extent;
use crate::metadata::Topic;
use crate::transactions::Transactions;

/// What the log's frames alone cannot tell, or not without reading all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Memory {
    /// End of the log with what is staged.
    pub(crate) next_offset: Offset,
    /// Of the last frame; never decreases.
    pub(crate) broker_time: i64,
    pub(crate) producers: Producers,
    pub(crate) cursors: Cursors,
    pub(crate) transactions: Transactions,
}

impl Memory {
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.number(self.next_offset);
        writer.signed(self.broker_time);
        self.producers.encode(writer);
        self.cursors.encode(writer);
        self.transactions.encode(writer);
    }

    /// `version` is the snapshot's.
    pub(crate) fn decode(reader: &mut Reader<'_>, version: u8) -> Result<Memory, CodecError> {
        let has_transactions = version >= crate::snapshot::TRANSACTIONS_FROM;
        Ok(Memory {
            next_offset: reader.number()?,
            broker_time: reader.signed()?,
            producers: Producers::decode(reader, has_transactions)?,
            cursors: Cursors::decode(reader)?,
            transactions: if has_transactions {
                Transactions::decode(reader)?
            } else {
                Transactions::default()
            },
        })
    }
}

/// A partition that is open on this shard.
#[derive(Debug)]
pub(crate) struct Partition {
    /// `None` for the system partition.
    pub(crate) topic: Option<Arc<Topic>>,
    pub(crate) epoch: Epoch,
    pub(crate) log_start: Offset,
    /// Readable below here.
    pub(crate) committed: Offset,
    pub(crate) memory: Memory,
    /// Reads that wait here.
    pub(crate) waiters: usize,
    /// Something was committed since waiting reads were looked at.
    pub(crate) is_touched: bool,
    /// Bytes committed since the partition was opened.
    bytes_committed: u64,
    /// Base offset of each of the last commits, and `bytes_committed` before it.
    commits: VecDeque<(Offset, u64)>,
}

impl Partition {
    pub(crate) fn new(topic: Option<Arc<Topic>>, extent: Extent, mut memory: Memory) -> Partition {
        memory.producers.drop_beyond(extent.next_offset);
        memory.transactions.drop_beyond(extent.next_offset);
        memory.transactions.trim(extent.log_start);
        memory.next_offset = extent.next_offset;
        Partition {
            topic,
            epoch: extent.epoch,
            log_start: extent.log_start,
            committed: extent.next_offset,
            memory,
            waiters: 0,
            is_touched: false,
            bytes_committed: 0,
            commits: VecDeque::new(),
        }
    }

    /// The frame `[base_offset, end_offset)` of `bytes` is durable.
    pub(crate) fn commit(&mut self, base_offset: Offset, end_offset: Offset, bytes: u64) {
        assert!(end_offset > self.committed, "what is committed only grows");
        if self.commits.len() == COMMITS_REMEMBERED {
            self.commits.pop_front();
        }
        self.commits.push_back((base_offset, self.bytes_committed));
        self.bytes_committed += bytes;
        self.committed = end_offset;
    }

    /// Committed bytes from `from` on; `u64::MAX` if it lies too far back to know.
    pub(crate) fn bytes_from(&self, from: Offset) -> u64 {
        if from >= self.committed {
            return 0;
        }
        let after = self.commits.partition_point(|(base, _)| *base <= from);
        match after.checked_sub(1).and_then(|at| self.commits.get(at)) {
            Some((_, before)) => self.bytes_committed - before,
            None => u64::MAX,
        }
    }

    /// Below here every record's fate is decided.
    pub(crate) fn stable(&self) -> Offset {
        self.memory.transactions.stable(self.committed)
    }

    /// Bytes that a reader finds who stands at `from`, or more; `is_stable` = who reads what is decided.
    pub(crate) fn bytes_for(&self, from: Offset, is_stable: bool) -> u64 {
        if is_stable && from >= self.stable() { 0 } else { self.bytes_from(from) }
    }

    /// What was staged and not committed is gone.
    pub(crate) fn drop_staged(&mut self, durable: martlet_core::Lsn) {
        self.memory.next_offset = self.committed;
        self.memory.producers.drop_staged(durable, self.committed);
        self.memory.transactions.drop_staged(self.committed);
        self.memory.cursors.drop_staged();
    }

    /// For errors.
    pub(crate) fn title(&self, id: PartitionId) -> String {
        match &self.topic {
            Some(topic) => format!("partition {id} of {}", topic.name),
            None => format!("partition {id}"),
        }
    }
}
