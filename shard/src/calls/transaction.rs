//! Transactions of partitions: how they begin, how they end, and what readers are told of them.

use martlet_core::frame::flags;
use martlet_core::{
    ErrorCode, FRAME_HEADER_BYTES, FrameHeader, Now, Offset, PartitionId, ProducerId, Refusal,
};

use crate::api::{Answer, Append, CallContext, CallToken, Caller, EndTransaction, ProducerFacts, Reply};
use crate::engine::{Engine, Outcome, unknown_partition};
use crate::guard::{Cost, Operation};
use crate::log::{Log, WriteClass};
use crate::partition::{Memory, Partition};
use crate::pending::{Callers, Pending, Write};

impl Engine {
    /// Whether a batch of a producer waits until its transaction is known to be open.
    pub(super) fn must_verify(&self, partition: &Partition, append: &Append) -> Result<bool, Refusal> {
        let transactions = &partition.memory.transactions;
        let open = transactions.open(append.producer);
        if append.flags & flags::TRANSACTIONAL == 0 {
            return match open {
                None => Ok(false),
                Some(_) => Err(invalid(append.producer, "has a transaction open, and the batch is of none")),
            };
        }
        match open {
            Some(open) if open.epoch == append.producer_epoch => return Ok(false),
            None if self.granted == Some((append.partition, append.producer, append.producer_epoch)) => {
                if transactions.has_room() {
                    return Ok(false);
                }
                return Err(Refusal::new(
                    ErrorCode::QuotaExceeded,
                    "the partition knows too many open or aborted transactions: shorten its retention, or \
                     remove old records",
                ));
            }
            _ => {}
        }
        if self.granted.is_some_and(|(id, producer, _)| (id, producer) == (append.partition, append.producer))
        {
            return Err(invalid(append.producer, "has a transaction of another epoch open"));
        }
        if append.verification.is_none() {
            return Err(invalid(append.producer, "has no transaction open"));
        }
        Ok(true)
    }

    /// Keeps a batch until it is known whether its transaction may have records here.
    pub(super) fn verify(&mut self, token: CallToken, context: &CallContext, append: Append) -> Outcome {
        self.check_writable(append.body.len() + self.verifications.bytes())?;
        let call = append.verification.clone();
        let batch = (token, context.clone(), append);
        let kept = self.verifications.keep(batch, self.config.pending_bytes_max)?;
        if let (Some(ticket), Some(call)) = (kept, call) {
            self.answers.push(Answer::Call { caller: Caller::Append, ticket, call });
        }
        Ok(None)
    }

    /// It is known. What waited is dispatched in its order.
    pub(crate) fn verified(
        &mut self,
        log: &mut dyn Log,
        ticket: u64,
        outcome: Result<Reply, Refusal>,
        now: Now,
    ) {
        let Some(verification) = self.verifications.take(ticket) else { return };
        if let Err(refusal) = outcome {
            for (token, ..) in verification.batches {
                self.answer(token, Err(refusal.clone()));
            }
            return;
        }
        let first = verification.batches.front().filter(|_| !verification.is_spoiled);
        let granted = first.map(|(_, _, append)| (append.partition, append.producer, append.producer_epoch));
        for (token, context, append) in verification.batches {
            // A batch of a newer epoch is not what was asked about.
            self.granted = granted.filter(|(.., epoch)| *epoch == append.producer_epoch);
            let outcome = self.append(log, token, &context, append, now);
            self.conclude(token, outcome);
        }
        self.granted = None;
    }

    /// Refuses every batch that waits for its transaction to be verified.
    pub(crate) fn refuse_verifying(&mut self, refusal: &Refusal) {
        for token in self.verifications.take_all() {
            self.answer(token, Err(refusal.clone()));
        }
    }

    pub(crate) fn end_transaction(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        end: &EndTransaction,
        now: Now,
    ) -> Outcome {
        let cost = Cost { bytes: end.body.len() as u64, records: 1 };
        self.pass_partition(context, Operation::Append, end.partition, cost, now)?;
        let partition =
            self.partitions.get(&end.partition).ok_or_else(|| unknown_partition(end.partition))?;
        let open = partition.memory.transactions.open(end.producer);
        let known = partition.memory.producers.epoch_of(end.producer);
        let is_older = open.is_some_and(|open| open.epoch > end.epoch);
        let is_ended = known.is_some_and(|(epoch, ended)| {
            epoch >= end.epoch && ended.is_some_and(|ended| ended < partition.committed)
        });
        if is_older || (open.is_none() && is_ended) {
            return Ok(Some(Reply::Done));
        }
        let bytes = FRAME_HEADER_BYTES + end.body.len();
        self.check_writable(bytes)?;
        log.admit(end.partition, bytes, WriteClass::Records)?;
        self.verifications.spoil(end.partition, end.producer);
        let Some(partition) = self.partitions.get_mut(&end.partition) else { return Ok(None) };
        let header = header_of(end, partition, open.map(|open| open.first), now);
        let lsn = log.append(&header, &end.body);
        assert!(lsn > self.durable, "what is staged is not durable yet");
        let before = partition.memory.producers.len();
        partition.memory.end_transaction(&header, partition.committed);
        self.producer_count += partition.memory.producers.len() - before;
        self.counters.batches += 1;
        self.counters.records += 1;
        self.counters.bytes += u64::from(header.body_length);
        self.queue.push(Pending {
            lsn,
            partition: end.partition,
            bytes,
            callers: Callers { first: Some(token), repeats: Vec::new() },
            write: Write::Frame {
                base_offset: header.base_offset,
                end_offset: header.end_offset(),
                broker_time: header.broker_time,
            },
        });
        Ok(None)
    }

    pub(crate) fn aborted(
        &mut self,
        context: &CallContext,
        id: PartitionId,
        (from, upto): (Offset, Offset),
        now: Now,
    ) -> Outcome {
        self.pass_partition(context, Operation::Read, id, Cost::default(), now)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        if from < partition.log_start {
            let text = format!("offset {from} was removed: the log begins at {}", partition.log_start);
            return Err(Refusal::at(ErrorCode::OffsetOutOfRange, partition.log_start, text));
        }
        let upto = upto.min(partition.stable());
        Ok(Some(Reply::Aborted(partition.memory.transactions.aborted(from, upto))))
    }

    pub(crate) fn producers(&mut self, context: &CallContext, id: PartitionId, now: Now) -> Outcome {
        self.pass_partition(context, Operation::Describe, id, Cost::default(), now)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        let facts = partition.memory.producers.list().map(|(producer, epoch, last_sequence, last_time)| {
            let transaction = partition.memory.transactions.open(producer).map(|open| open.first);
            ProducerFacts { producer, epoch, last_sequence, last_time, transaction }
        });
        Ok(Some(Reply::Producers(facts.collect())))
    }
}

impl Memory {
    /// Takes down what the frame that ends a transaction says.
    pub(crate) fn end_transaction(&mut self, header: &FrameHeader, committed: Offset) {
        let producer = ProducerId(header.producer);
        self.next_offset = header.end_offset();
        self.broker_time = self.broker_time.max(header.broker_time);
        let is_abort = header.flags & flags::ABORTED != 0;
        self.transactions.end(producer, header.base_offset, is_abort, committed);
        self.producers.end_transaction(
            producer,
            header.producer_epoch,
            header.base_offset,
            header.broker_time,
        );
    }

    /// Takes down what a frame says of a transaction, at a restart.
    pub(crate) fn replay_transaction(&mut self, header: &FrameHeader) {
        let producer = ProducerId(header.producer);
        if header.flags & flags::CONTROL == 0 {
            return self.transactions.begin(producer, header.producer_epoch, header.base_offset);
        }
        // Its first frame may lie where nothing is replayed, and no snapshot told of it.
        if header.transaction < header.base_offset {
            self.transactions.begin(producer, header.producer_epoch, header.transaction);
        }
        self.end_transaction(header, header.end_offset());
    }
}

fn header_of(end: &EndTransaction, partition: &Partition, first: Option<Offset>, now: Now) -> FrameHeader {
    let broker_time = partition.memory.broker_time.max(now.wall.0);
    let base_offset = partition.memory.next_offset;
    let aborted = if end.is_commit { 0 } else { flags::ABORTED };
    FrameHeader {
        format: end.format,
        flags: flags::TRANSACTIONAL | flags::CONTROL | aborted,
        body_crc_from: end.body_crc_from,
        epoch: partition.epoch,
        partition: end.partition.0,
        base_offset,
        offset_span: 1,
        record_count: 1,
        broker_time,
        timestamp_max: broker_time,
        producer: end.producer.0,
        base_sequence: -1,
        transaction: first.unwrap_or(base_offset),
        producer_epoch: end.epoch,
        committed_through: partition.committed,
        body_length: u32::try_from(end.body.len()).unwrap_or(u32::MAX),
        body_crc: end.body_crc,
        ..FrameHeader::default()
    }
}

fn invalid(producer: ProducerId, why: &str) -> Refusal {
    Refusal::new(ErrorCode::InvalidTransaction, format!("producer {producer} {why}: abort and begin again"))
}
