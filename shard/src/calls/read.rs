//! Reads: what is readable, who waits for more, offsets by place and time, facts about a partition.

use std::time::Duration;

use martlet_core::limits::{PARTITION_WAITERS_MAX, READ_BYTES_MAX, READ_WAIT_MS_MAX, SHARD_WAITERS_MAX};
use martlet_core::native::OffsetAt;
use martlet_core::{ErrorCode, Now, Offset, PartitionId, Refusal};

use crate::api::{Answer, CallContext, CallToken, PartitionStatus, Read, Reply};
use crate::engine::{Engine, Outcome, unknown_partition};
use crate::guard::{Cost, Operation};
use crate::log::{Log, WriteClass};
use crate::partition::Partition;
use crate::wait::Waiter;

impl Engine {
    pub(crate) fn read(&mut self, token: CallToken, context: &CallContext, read: Read, now: Now) -> Outcome {
        let id = read.partition;
        self.pass_partition(context, Operation::Read, id, Cost::default(), now)?;
        let partition = self.partitions.get_mut(&id).ok_or_else(|| unknown_partition(id))?;
        check_range(partition, id, read.from)?;
        let bytes_max = read.bytes_max.min(READ_BYTES_MAX);
        let bytes_min = read.bytes_min.clamp(1, bytes_max.max(1));
        if partition.bytes_from(read.from) >= u64::from(bytes_min) || read.wait_ms == 0 {
            self.fetch(token, id, read.from, bytes_max);
            return Ok(None);
        }
        if partition.waiters >= PARTITION_WAITERS_MAX || self.waiters.len() >= SHARD_WAITERS_MAX {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "too many reads wait for records here: read without waiting, or later",
            ));
        }
        partition.waiters += 1;
        let wait = Duration::from_millis(u64::from(read.wait_ms.min(READ_WAIT_MS_MAX)));
        self.waiters.insert(token, now.instant.after(wait), id, read.from, (bytes_min, bytes_max));
        self.counters.waits += 1;
        Ok(None)
    }

    /// Sends a read to storage.
    fn fetch(&mut self, token: CallToken, id: PartitionId, from: Offset, bytes_max: u32) {
        let Some(partition) = self.partitions.get(&id) else {
            return self.answer(token, Err(unknown_partition(id)));
        };
        let (log_start, upto) = (partition.log_start, partition.committed.max(from));
        self.counters.reads += 1;
        self.answers.push(Answer::Fetch { token, partition: id, from, upto, bytes_max, log_start });
    }

    /// The wait of a read is over, with or without records.
    pub(crate) fn end_wait(&mut self, token: CallToken, waiter: Waiter) {
        if let Some(partition) = self.partitions.get_mut(&waiter.partition) {
            partition.waiters -= 1;
        }
        self.fetch(token, waiter.partition, waiter.from, waiter.bytes_max);
    }

    /// Wakes the reads for which enough was committed.
    pub(crate) fn wake_touched(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            partition.is_touched = false;
            if partition.waiters == 0 {
                continue;
            }
            let is_served =
                |waiter: &Waiter| partition.bytes_from(waiter.from) >= u64::from(waiter.bytes_min);
            let served: Vec<CallToken> =
                self.waiters.of(id).filter(|(_, waiter)| is_served(waiter)).map(|(token, _)| token).collect();
            for token in served {
                if let Some(waiter) = self.waiters.remove(token) {
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
