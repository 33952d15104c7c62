//! Reads: what is readable, who waits for more, offsets by place and time, facts about a partition.

use std::time::Duration;

use martlet_core::limits::{
    AWAIT_PARTITIONS_MAX, PARTITION_WAITERS_MAX, READ_BYTES_MAX, READ_WAIT_MS_MAX,
    SHARD_AWAITED_PARTITIONS_MAX, SHARD_WAITERS_MAX,
};
use martlet_core::native::OffsetAt;
use martlet_core::{ErrorCode, Now, Offset, PartitionId, Refusal};

use crate::api::{Answer, Await, CallContext, CallToken, PartitionStatus, Read, Readable, Reply};
use crate::engine::{Engine, Outcome, unknown_partition};
use crate::guard::{Cost, Operation};
use crate::log::{Log, WriteClass};
use crate::partition::Partition;
use crate::pending::{Callers, Pending, Write};
use crate::wait::{Part, Waiter, Wanted};

impl Engine {
    pub(crate) fn read(&mut self, token: CallToken, context: &CallContext, read: Read, now: Now) -> Outcome {
        let id = read.partition;
        self.pass_partition(context, Operation::Read, id, Cost::default(), now)?;
        let partition = self.partitions.get_mut(&id).ok_or_else(|| unknown_partition(id))?;
        check_range(partition, id, read.from)?;
        let bytes_max = read.bytes_max.min(READ_BYTES_MAX);
        let bytes_min = read.bytes_min.clamp(1, bytes_max.max(1));
        if partition.bytes_from(read.from) >= u64::from(bytes_min) || read.wait_ms == 0 {
            self.fetch(token, id, (read.from, read.upto), bytes_max);
            return Ok(None);
        }
        let part = Part { partition: id, from: read.from, bytes: 0 };
        let wanted = Wanted::Frames { part, bytes_max };
        self.wait(token, (wanted, false), (bytes_min, read.wait_ms), now)
    }

    /// Keeps a read until there are enough bytes for it, or its time is over.
    fn wait(
        &mut self,
        token: CallToken,
        (wanted, is_stable): (Wanted, bool),
        (bytes_min, wait_ms): (u32, u32),
        now: Now,
    ) -> Outcome {
        let wait = Duration::from_millis(u64::from(wait_ms.min(READ_WAIT_MS_MAX)));
        let deadline = now.instant.after(wait);
        let waiter = Waiter::new(wanted, is_stable, u64::from(bytes_min), deadline);
        let is_full = |part: &Part| {
            let partition = self.partitions.get(&part.partition);
            partition.is_some_and(|partition| partition.waiters >= PARTITION_WAITERS_MAX)
        };
        let parts = waiter.parts().len() + self.waiters.parts();
        if parts > SHARD_AWAITED_PARTITIONS_MAX
            || self.waiters.len() >= SHARD_WAITERS_MAX
            || waiter.parts().iter().any(is_full)
        {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "too many reads wait for records here: read without waiting, or later",
            ));
        }
        for part in waiter.parts() {
            if let Some(partition) = self.partitions.get_mut(&part.partition) {
                partition.waiters += 1;
            }
        }
        self.waiters.insert(token, waiter);
        self.counters.waits += 1;
        Ok(None)
    }

    /// Sends a read to storage.
    fn fetch(&mut self, token: CallToken, id: PartitionId, (from, upto): (Offset, Offset), bytes_max: u32) {
        let Some(partition) = self.partitions.get(&id) else {
            return self.answer(token, Err(unknown_partition(id)));
        };
        let (log_start, upto) = (partition.log_start, partition.committed.min(upto).max(from));
        self.counters.reads += 1;
        self.answers.push(Answer::Fetch { token, partition: id, from, upto, bytes_max, log_start });
    }

    /// The wait of a read is over, with or without records.
    pub(crate) fn end_wait(&mut self, token: CallToken, waiter: Waiter) {
        self.uncount(&waiter);
        let is_stable = waiter.is_stable;
        match waiter.wanted {
            Wanted::Frames { part, bytes_max } => {
                self.fetch(token, part.partition, (part.from, Offset::MAX), bytes_max);
            }
            Wanted::Facts(parts) => {
                let facts = |part: &Part| self.readable(part.partition, part.from, is_stable);
                let facts = parts.iter().map(facts).collect();
                self.answer(token, Ok(Reply::Readable(facts)));
            }
        }
    }

    /// Somebody waits no longer.
    pub(crate) fn uncount(&mut self, waiter: &Waiter) {
        for part in waiter.parts() {
            if let Some(partition) = self.partitions.get_mut(&part.partition) {
                partition.waiters -= 1;
            }
        }
    }

    /// What a reader finds who stands at `from`.
    fn readable(&self, id: PartitionId, from: Offset, is_stable: bool) -> Result<Readable, Refusal> {
        let partition = self.partitions.get(&id).ok_or_else(|| self.not_here(id))?;
        check_range(partition, id, from)?;
        Ok(Readable {
            epoch: partition.epoch,
            log_start: partition.log_start,
            committed: partition.committed,
            stable: partition.stable(),
            has_aborted: partition.memory.transactions.has_aborted(),
            bytes: partition.bytes_for(from, is_stable),
        })
    }

    pub(crate) fn facts(&mut self, context: &CallContext, ids: &[PartitionId], now: Now) -> Outcome {
        if ids.len() > AWAIT_PARTITIONS_MAX {
            let text = format!("ask about at most {AWAIT_PARTITIONS_MAX} partitions");
            return Err(Refusal::new(ErrorCode::InvalidArgument, text));
        }
        let mut facts = Vec::with_capacity(ids.len());
        for id in ids {
            let passed = self.pass_partition(context, Operation::Describe, *id, Cost::default(), now);
            let end = self.partitions.get(id).map_or(0, |partition| partition.committed);
            facts.push(passed.and_then(|()| self.readable(*id, end, false)));
        }
        Ok(Some(Reply::Readable(facts)))
    }

    pub(crate) fn await_records(
        &mut self,
        token: CallToken,
        context: &CallContext,
        wait: Await,
        now: Now,
    ) -> Outcome {
        let is_ordered = wait.parts.is_sorted_by(|left, right| left.0 < right.0);
        if !is_ordered || wait.parts.len() > AWAIT_PARTITIONS_MAX {
            let text = format!("wait for at most {AWAIT_PARTITIONS_MAX} partitions, in order, each once");
            return Err(Refusal::new(ErrorCode::InvalidArgument, text));
        }
        let mut facts = Vec::with_capacity(wait.parts.len());
        for (id, from) in &wait.parts {
            let passed = self.pass_partition(context, Operation::Read, *id, Cost::default(), now);
            facts.push(passed.and_then(|()| self.readable(*id, *from, wait.is_stable)));
        }
        let known = |fact: &Result<Readable, Refusal>| fact.as_ref().map_or(0, |fact| fact.bytes);
        let bytes = facts.iter().map(known).fold(0, u64::saturating_add);
        let is_over = wait.wait_ms == 0 || facts.iter().any(Result::is_err);
        if is_over || bytes >= u64::from(wait.bytes_min.max(1)) || facts.is_empty() {
            return Ok(Some(Reply::Readable(facts)));
        }
        let parts = wait.parts.iter().zip(&facts);
        let parts = parts.map(|((id, from), fact)| Part { partition: *id, from: *from, bytes: known(fact) });
        let wanted = (Wanted::Facts(parts.collect()), wait.is_stable);
        self.wait(token, wanted, (wait.bytes_min, wait.wait_ms), now)
    }

    /// Wakes the reads for which enough was committed.
    pub(crate) fn wake_touched(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            partition.is_touched = false;
            if partition.waiters == 0 {
                continue;
            }
            for token in self.waiters.of(id) {
                let Some(partition) = self.partitions.get(&id) else { break };
                if self.waiters.is_served(token, id, |from, is_stable| partition.bytes_for(from, is_stable))
                    && let Some(waiter) = self.waiters.remove(token)
                {
                    self.end_wait(token, waiter);
                }
            }
        }
    }

    pub(crate) fn offset_for(
        &mut self,
        token: CallToken,
        context: &CallContext,
        id: PartitionId,
        at: OffsetAt,
        now: Now,
    ) -> Outcome {
        self.pass_partition(context, Operation::Describe, id, Cost::default(), now)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        match at {
            OffsetAt::Earliest => Ok(Some(Reply::Offset { offset: partition.log_start, timestamp: -1 })),
            OffsetAt::Latest => Ok(Some(Reply::Offset { offset: partition.committed, timestamp: -1 })),
            OffsetAt::Time(time) => {
                let upto = partition.committed;
                self.answers.push(Answer::FindTime { token, partition: id, time, upto });
                Ok(None)
            }
        }
    }

    pub(crate) fn partition_status(
        &mut self,
        log: &dyn Log,
        context: &CallContext,
        id: PartitionId,
        now: Now,
    ) -> Outcome {
        self.pass_partition(context, Operation::Describe, id, Cost::default(), now)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        let refused = log.admit(id, 0, WriteClass::Records).err();
        let why = self.fenced.clone().or_else(|| refused.map(|refusal| refusal.detail));
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Ok(Some(Reply::Partition(PartitionStatus {
            partition: id,
            epoch: partition.epoch,
            log_start: partition.log_start,
            committed: partition.committed,
            next_offset: partition.memory.next_offset,
            bytes: log.extent(id).unwrap_or_default().bytes,
            segments: count(log.segments(id).len()),
            producers: count(partition.memory.producers.len()),
            cursors: count(partition.memory.cursors.len()),
            fenced: why.unwrap_or_default(),
        })))
    }
}

impl Engine {
    /// Removes records because somebody asked for it.
    pub(crate) fn trim_records(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        (id, before): (PartitionId, Option<Offset>),
        now: Now,
    ) -> Outcome {
        self.pass_partition(context, Operation::Trim, id, Cost::default(), now)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        let before = before.unwrap_or(partition.committed);
        if before > partition.committed {
            return Err(Refusal::at(
                ErrorCode::OffsetOutOfRange,
                partition.committed,
                format!("offset {before} is not readable yet: the end is {}", partition.committed),
            ));
        }
        self.check_writable(0)?;
        log.admit(id, 0, WriteClass::Reserve)?;
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(None) };
        partition.log_start = partition.log_start.max(before);
        let log_start = partition.log_start;
        partition.memory.transactions.trim(log_start);
        let lsn = log.trim(id, log_start);
        self.counters.trims += 1;
        self.queue.push(Pending {
            lsn,
            partition: id,
            bytes: 0,
            callers: Callers { first: Some(token), repeats: Vec::new() },
            write: Write::Trim { log_start },
        });
        Ok(None)
    }
}

/// A reader may stand up to the end of what is staged: then it waits.
fn check_range(partition: &Partition, id: PartitionId, from: Offset) -> Result<(), Refusal> {
    if from < partition.log_start {
        return Err(Refusal::at(
            ErrorCode::OffsetOutOfRange,
            partition.log_start,
            format!(
                "offset {from} of {} was removed: its log begins at {}",
                partition.title(id),
                partition.log_start
            ),
        ));
    }
    if from > partition.memory.next_offset {
        return Err(Refusal::at(
            ErrorCode::OffsetOutOfRange,
            partition.committed,
            format!(
                "offset {from} of {} does not exist yet: its end is {}",
                partition.title(id),
                partition.committed
            ),
        ));
    }
    Ok(())
}
