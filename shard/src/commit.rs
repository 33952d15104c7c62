//! What becomes true when the log is durable, and what never does when it fails.

use martlet_core::{ErrorCode, Lsn, Now, Refusal};

use crate::api::Reply;
use crate::calls::fenced;
use crate::engine::Engine;
use crate::log::Log;
use crate::pending::{Pending, Write};

impl Engine {
    /// Everything up to `durable` is on stable storage.
    pub fn on_durable(&mut self, log: &mut dyn Log, durable: Lsn, now: Now) {
        if self.fenced.is_some() || durable <= self.durable {
            return;
        }
        self.durable = durable;
        while let Some(pending) = self.queue.pop_durable(durable) {
            self.settle(log, pending, now);
        }
        self.each_service(log, now, |service, host| service.on_durable(host, durable));
        self.wake_touched();
    }

    /// A write is durable: makes it visible and tells those who wait for it, in the order of the log.
    fn settle(&mut self, log: &mut dyn Log, pending: Pending, now: Now) {
        let Pending { lsn, partition: id, bytes, callers, write } = pending;
        match write {
            Write::Frame { base_offset, end_offset, broker_time } => {
                if let Some(partition) = self.partitions.get_mut(&id) {
                    partition.commit(base_offset, end_offset, bytes as u64);
                    if !partition.is_touched {
                        partition.is_touched = true;
                        self.touched.push(id);
                    }
                }
                let first = callers.first.map(|token| (token, false));
                for (token, duplicate) in
                    first.into_iter().chain(callers.repeats.into_iter().map(|token| (token, true)))
                {
                    self.answer(token, Ok(Reply::Appended { base_offset, broker_time, duplicate }));
                }
            }
            Write::Cursor { name, offset } => {
                if let Some(partition) = self.partitions.get_mut(&id) {
                    partition.memory.cursors.settle(&name, offset, lsn);
                }
                for token in callers.first.into_iter().chain(callers.repeats) {
                    let reply = match offset {
                        Some(_) => Reply::Cursor { offset },
                        None => Reply::Done,
                    };
                    self.answer(token, Ok(reply));
                }
            }
            Write::Registers(note) => {
                self.staged_register_bytes -= bytes;
                self.registers.apply(&note);
            }
            Write::Trim { log_start } => {
                if let Some(token) = callers.first {
                    self.answer(token, Ok(Reply::Offset { offset: log_start, timestamp: -1 }));
                }
            }
            Write::Command { base_offset, index, command, encoded } => {
                if let Some(partition) = self.partitions.get_mut(&id) {
                    partition.commit(base_offset, base_offset + 1, bytes as u64);
                }
                self.commit_command(log, (index, command, encoded), (base_offset, callers.first), now);
            }
        }
    }

    /// The write-ahead log failed: what is staged and not durable is refused, the shard is read-only from now
    /// on.
    pub fn fence(&mut self, log: &mut dyn Log, why: &str, now: Now) {
        if self.fenced.is_some() {
            return;
        }
        let durable = log.durable();
        self.on_durable(log, durable, now);
        self.fenced = Some(why.to_owned());
        while let Some(pending) = self.queue.pop() {
            for token in pending.callers.first.into_iter().chain(pending.callers.repeats) {
                let refusal = Refusal::new(
                    ErrorCode::StorageFenced,
                    format!(
                        "the storage failed ({why}) before this write was known to be safe: it may or may \
                         not be \
                         there after a restart of the broker"
                    ),
                );
                self.answer(token, Err(refusal));
            }
        }
        for token in self.metadata_log.producer_ids.give_up() {
            self.answer(token, Err(fenced(why)));
        }
        self.staged_register_bytes = 0;
        self.refuse_verifying(&fenced(why));
        self.refuse_service_calls(&fenced(why));
        self.metadata_log.drop_staged(self.metadata.applied());
        self.producer_count = 0;
        for partition in self.partitions.values_mut() {
            partition.drop_staged(self.durable);
            self.producer_count += partition.memory.producers.len();
        }
    }
}
