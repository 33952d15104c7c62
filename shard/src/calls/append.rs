//! Append: checks, deduplication, offsets, staging.

use martlet_core::checksum::crc32c;
use martlet_core::frame::{flags, format};
use martlet_core::limits::BATCH_RECORDS_MAX;
use martlet_core::{Acks, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, Lsn, Now, ProducerId, Refusal};
use martlet_formats::compact::has_keys;

use crate::api::{Append, CallContext, CallToken, Reply};
use crate::dedup::{Remembered, Sequence, Verdict};
use crate::engine::{Engine, Outcome};
use crate::guard::{Cost, Operation};
use crate::log::{Log, WriteClass};
use crate::partition::Partition;
use crate::pending::{Callers, Pending, Write};
use crate::settings::Settings;

/// Flags a client may set.
const CLIENT_FLAGS: u16 = flags::UNIFORM_KEY | flags::LOG_APPEND_TIME | flags::TRANSACTIONAL;

impl Engine {
    pub(crate) fn append(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        mut append: Append,
        now: Now,
    ) -> Outcome {
        let cost = Cost { bytes: append.body.len() as u64, records: u64::from(append.record_count) };
        self.pass_partition(context, Operation::Append, append.partition, cost, now)?;
        let (partition, topic) = Engine::lookup(&self.partitions, append.partition)
            .ok_or_else(|| self.not_here(append.partition))?;
        check_shape(&append, &topic.settings)?;
        if append.flags & flags::TRANSACTIONAL != 0
            && self.granted.is_none()
            && self.verifications.holds(append.partition, append.producer)
        {
            return self.verify(token, context, append);
        }
        let acks = append.acks.unwrap_or(topic.settings.acks);
        let sequence_as_sent = append.base_sequence;
        if append.format == format::KAFKA_V2 && append.base_sequence >= 0 {
            let Append { producer, producer_epoch, base_sequence, .. } = append;
            append.base_sequence = partition.memory.producers.widen(producer, producer_epoch, base_sequence);
        }
        let sequence = sequence_of(&append)?;
        if let Some(sequence) = sequence {
            match partition.memory.producers.check(sequence) {
                Verdict::New => {}
                Verdict::Retry(stored) => return self.answer_retry(token, acks, stored),
                // What was staged is forgotten then, so nothing can be said about sequences after it.
                Verdict::Refused(_) if self.fenced.is_some() => return self.check_writable(0).map(|()| None),
                Verdict::Refused(refusal) => return Err(refusal),
            }
        }
        if append.producer.0 != 0 && self.must_verify(partition, &append)? {
            return self.verify(token, context, Append { base_sequence: sequence_as_sent, ..append });
        }
        let bytes = FRAME_HEADER_BYTES + append.body.len();
        self.check_writable(bytes)?;
        check_offsets(partition, &append)?;
        if !append.crc_is_verified {
            check_body(&append)?;
        }
        check_keys(&append, &topic.settings)?;
        log.admit(append.partition, bytes, WriteClass::Records)?;
        if let Some(sequence) = sequence {
            self.make_room_for(sequence, append.partition)?;
        }
        Ok(self.stage(log, token, &append, (acks, sequence), now))
    }

    fn answer_retry(&mut self, token: CallToken, acks: Acks, stored: Remembered) -> Outcome {
        self.counters.duplicates += 1;
        if stored.lsn <= self.durable || acks != Acks::Durable {
            let Remembered { base_offset, broker_time, .. } = stored;
            return Ok(Some(Reply::Appended { base_offset, broker_time, duplicate: true }));
        }
        if self.queue.join(stored.lsn, token) {
            return Ok(None);
        }
        Err(Refusal::new(
            ErrorCode::Overloaded,
            "too many retries of this batch wait for the disk: wait for their answers",
        ))
    }

    /// Makes sure that one more producer can be remembered.
    fn make_room_for(&mut self, sequence: Sequence, id: martlet_core::PartitionId) -> Result<(), Refusal> {
        let durable = self.durable;
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        if partition.memory.producers.knows(sequence.producer) {
            return Ok(());
        }
        let freed = partition.memory.producers.make_room(durable);
        self.producer_count -= freed.unwrap_or(0);
        if freed.is_none() || !self.make_room_on_shard() {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "too many producers have batches in flight here: try again in a moment",
            ));
        }
        Ok(())
    }

    /// Nothing may refuse any more.
    fn stage(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        append: &Append,
        (acks, sequence): (Acks, Option<Sequence>),
        now: Now,
    ) -> Option<Reply> {
        let partition = self.partitions.get_mut(&append.partition)?;
        let header = header_of(append, partition, now);
        let lsn = log.append(&header, &append.body);
        assert!(lsn > self.durable, "what is staged is not durable yet");
        partition.memory.next_offset = header.end_offset();
        partition.memory.broker_time = header.broker_time;
        if let Some(sequence) = sequence {
            let before = partition.memory.producers.len();
            let (base_offset, broker_time) = (header.base_offset, header.broker_time);
            partition.memory.producers.stage(sequence, base_offset, broker_time, lsn, self.durable);
            self.producer_count += partition.memory.producers.len() - before;
        }
        if header.flags & flags::TRANSACTIONAL != 0 {
            let producer = append.producer;
            partition.memory.transactions.begin(producer, append.producer_epoch, header.base_offset);
        }
        self.counters.batches += 1;
        self.counters.records += u64::from(header.record_count);
        self.counters.bytes += u64::from(header.body_length);
        let waits = self.waits_for_flush(acks);
        self.queue.push(Pending {
            lsn,
            partition: append.partition,
            bytes: FRAME_HEADER_BYTES + append.body.len(),
            callers: Callers { first: waits.then_some(token), repeats: Vec::new() },
            write: Write::Frame {
                base_offset: header.base_offset,
                end_offset: header.end_offset(),
                broker_time: header.broker_time,
            },
        });
        let FrameHeader { base_offset, broker_time, .. } = header;
        (!waits).then_some(Reply::Appended { base_offset, broker_time, duplicate: false })
    }

    /// On one node the quorum that `Replicated` asks for is this shard's memory.
    fn waits_for_flush(&self, acks: Acks) -> bool {
        #[cfg(feature = "planted-bugs")]
        if self.config.planted.ack_before_flush {
            return false;
        }
        acks == Acks::Durable
    }

    /// Whether `lsn` is on stable storage.
    pub(crate) fn is_durable(&self, lsn: Lsn) -> bool {
        lsn <= self.durable
    }
}

fn header_of(append: &Append, partition: &Partition, now: Now) -> FrameHeader {
    let broker_time = partition.memory.broker_time.max(now.wall.0);
    let is_append_time = append.flags & flags::LOG_APPEND_TIME != 0;
    FrameHeader {
        format: append.format,
        flags: append.flags,
        body_crc_from: append.body_crc_from,
        epoch: partition.epoch,
        partition: append.partition.0,
        base_offset: partition.memory.next_offset,
        offset_span: append.offset_span,
        record_count: append.record_count,
        broker_time,
        timestamp_max: if is_append_time { broker_time } else { append.timestamp_max },
        producer: append.producer.0,
        base_sequence: if append.producer.0 == 0 { -1 } else { append.base_sequence },
        producer_epoch: append.producer_epoch,
        key_hash: append.key_hash,
        committed_through: partition.committed,
        body_length: u32::try_from(append.body.len()).unwrap_or(u32::MAX),
        body_crc: append.body_crc,
        ..FrameHeader::default()
    }
}

fn check_shape(append: &Append, settings: &Settings) -> Result<(), Refusal> {
    let refuse = |detail: String| Err(Refusal::new(ErrorCode::InvalidArgument, detail));
    if append.body.len() > settings.batch_bytes_max as usize {
        return Err(Refusal::new(
            ErrorCode::BatchTooLarge,
            format!(
                "the batch has {} bytes, the topic takes {}: send smaller batches or raise batch_bytes_max",
                append.body.len(),
                settings.batch_bytes_max
            ),
        ));
    }
    let (records, span) = (append.record_count, append.offset_span);
    if records == 0 || span < records || span > BATCH_RECORDS_MAX {
        return refuse(format!(
            "the batch has {records} records over {span} offsets: use 1 to {BATCH_RECORDS_MAX}, no fewer \
             offsets than \
             records"
        ));
    }
    if append.flags & !CLIENT_FLAGS != 0 {
        return refuse(format!("flags {:#06x} are not a client's to set", append.flags & !CLIENT_FLAGS));
    }
    if !matches!(append.format, format::NATIVE | format::KAFKA_V2 | format::PULSAR_ENTRY) {
        return refuse(format!("body format {} is not a client's to write", append.format));
    }
    if usize::from(append.body_crc_from) > append.body.len() {
        return Err(Refusal::new(
            ErrorCode::CorruptBatch,
            format!("the batch has {} bytes, fewer than its format's prefix", append.body.len()),
        ));
    }
    Ok(())
}

fn check_offsets(partition: &Partition, append: &Append) -> Result<(), Refusal> {
    let end = partition.memory.next_offset.checked_add(u64::from(append.offset_span));
    if end.is_none_or(|end| end >= i64::MAX as u64) {
        return Err(Refusal::new(
            ErrorCode::Internal,
            format!("{} has no offsets left: use another partition", partition.title(append.partition)),
        ));
    }
    Ok(())
}

fn check_body(append: &Append) -> Result<(), Refusal> {
    let covered = append.body.get(usize::from(append.body_crc_from)..).unwrap_or_default();
    let found = crc32c(covered);
    if found == append.body_crc {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::CorruptBatch,
        format!(
            "the body's checksum is {found:#010x}, the batch says {:#010x}: it was damaged on its way, \
             send it again",
            append.body_crc
        ),
    ))
}

/// Records of a compacted topic have keys. The one place where a body is opened on its way into the log.
fn check_keys(append: &Append, settings: &Settings) -> Result<(), Refusal> {
    if !settings.cleanup.compacts() {
        return Ok(());
    }
    let why = match has_keys(append.format, &append.body) {
        Some(true) => return Ok(()),
        Some(false) => "has a record without a key",
        None => "cannot be read",
    };
    Err(Refusal::new(
        ErrorCode::InvalidArgument,
        format!("the batch {why}, and the topic keeps the last record of each key: give every record one"),
    ))
}

fn sequence_of(append: &Append) -> Result<Option<Sequence>, Refusal> {
    if append.producer == ProducerId(0) {
        return Ok(None);
    }
    let sequence = Sequence {
        producer: append.producer,
        epoch: append.producer_epoch,
        base: append.base_sequence,
        count: append.record_count,
    };
    let end = sequence.base.checked_add(i64::from(sequence.count));
    if sequence.base < 0 || end.is_none() {
        return Err(Refusal::new(
            ErrorCode::InvalidArgument,
            format!("sequence {} of producer {} is out of range", sequence.base, sequence.producer),
        ));
    }
    Ok(Some(sequence))
}
