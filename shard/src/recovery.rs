//! Start-up: from a snapshot and what came after it in the log to an engine that serves. Also which
//! partitions are open on this shard.
//!
//! **Invariant**: a partition is dropped only if the metadata knows that it was deleted. One the metadata has
//! never heard of is left alone and reported: metadata that is too old must not cost data.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use martlet_core::frame::{flags, format};
use martlet_core::limits::SEGMENT_BYTES_DEFAULT;
use martlet_core::{ErrorCode, FrameHeader, Lsn, Now, PartitionId, Refusal, ShardId};

use crate::cursor::CursorNote;
use crate::dedup::Sequence;
use crate::engine::{Engine, Recovered};
use crate::log::{Log, NoteKind};
use crate::metadata::{Command, Topic};
use crate::partition::Partition;
use crate::registers::RegisterNote;
use crate::snapshot::Snapshot;

impl Engine {
    /// # Errors
    /// The snapshot, or a command in it, is of an unknown version, or the snapshot is damaged.
    pub fn recover(&mut self, snapshot: &[u8]) -> Result<(), Refusal> {
        let snapshot = Snapshot::decode(snapshot)?;
        self.metadata = snapshot.metadata.unwrap_or_default();
        self.recovered = snapshot.partitions;
        self.registers = snapshot.registers;
        if let Some(why) = snapshot.damage {
            self.metadata_log.set_damage(why);
        }
        for command in &snapshot.commands {
            self.replay_command(command)?;
        }
        Ok(())
    }

    /// A frame after the snapshot. `body` is needed for frames of format METADATA only, else it may be empty.
    /// What is known already is ignored.
    ///
    /// # Errors
    /// A metadata command of an unknown version: the broker must not start.
    pub fn replay_frame(&mut self, header: &FrameHeader, body: &[u8]) -> Result<(), Refusal> {
        let memory = self.recovered.entry(PartitionId(header.partition)).or_default();
        if header.base_offset < memory.next_offset {
            return Ok(());
        }
        memory.next_offset = header.end_offset();
        memory.broker_time = memory.broker_time.max(header.broker_time);
        if header.flags & (flags::TRANSACTIONAL | flags::CONTROL) != 0 {
            memory.replay_transaction(header);
        }
        if header.producer != 0 && header.flags & flags::CONTROL == 0 {
            let sequence = Sequence {
                producer: martlet_core::ProducerId(header.producer),
                epoch: header.producer_epoch,
                base: header.base_sequence,
                count: header.record_count,
            };
            let (durable, time) = (Lsn(0), header.broker_time);
            memory.producers.stage(sequence, header.base_offset, time, Lsn(0), durable);
        }
        if header.format == format::METADATA && PartitionId(header.partition) == PartitionId::METADATA {
            self.replay_command(body)?;
        }
        Ok(())
    }

    /// A note after the snapshot.
    ///
    /// # Errors
    /// A kind or version that this build does not know: the broker must not start, or what the note says
    /// would be forgotten.
    pub fn replay_note(&mut self, kind: u8, payload: &[u8]) -> Result<(), Refusal> {
        if kind == NoteKind::Register as u8 {
            let note = RegisterNote::decode(payload).map_err(|error| error.refusal("a register's note"))?;
            self.registers.apply(&note);
            return Ok(());
        }
        if kind != NoteKind::Cursor as u8 {
            let detail = format!("a note of kind {kind} is unknown to this build: upgrade martlet");
            return Err(Refusal::new(ErrorCode::UnsupportedVersion, detail));
        }
        let note = CursorNote::decode(payload).map_err(|error| error.refusal("a cursor's note"))?;
        let memory = self.recovered.entry(note.partition).or_default();
        memory.cursors.replay(note.name, note.offset);
        Ok(())
    }

    /// Opens partitions that are missing in the log, drops those whose topic is deleted. On shard 0 the
    /// metadata is complete after this and `take_metadata` begins with all of it; the other shards wait for
    /// their first
    /// `apply_metadata`.
    pub fn finish_recovery(&mut self, log: &mut dyn Log, now: Now) -> Recovered {
        self.durable = log.durable();
        self.turn.start(now.instant.after(self.config.retention_interval));
        if self.config.shard == ShardId(0) {
            let known = self.recovered.get(&PartitionId::METADATA).map_or(0, |memory| memory.next_offset);
            self.open(log, PartitionId::METADATA, None);
            self.metadata_is_known = true;
            if self.config.accept_metadata_loss
                && let Some(damage) = self.metadata_log.accept_damage()
            {
                self.problems.push(format!("accepted as asked: {damage}"));
                self.lose_commands();
            } else if log.extent(PartitionId::METADATA).is_some_and(|extent| extent.next_offset > known) {
                self.lose_commands();
            }
            let applied = self.metadata.applied();
            let snapshot = Command::Snapshot(Box::new(self.metadata.clone())).encode(applied);
            let bytes = log.extent(PartitionId::METADATA).unwrap_or_default().bytes;
            self.metadata_log.start(applied, bytes, Bytes::from(snapshot));
            self.reconcile(log);
            // Refused for now, it is tried again before the next command.
            let _ = self.pay_snapshot(log, now);
        }
        self.each_service(log, now, |service, host| service.start(host));
        let mut problems = std::mem::take(&mut self.problems);
        problems.extend(self.metadata_damage().map(|damage| {
            format!(
                "{damage}: topics are as they were before, and are not changed; restore the data directory \
                 from a copy, or start once with --accept-metadata-loss"
            )
        }));
        Recovered { problems, partitions: self.partitions.len(), topics: self.metadata.topics().count() }
    }

    /// The log says that commands may have been lost that recovery was not told of.
    fn lose_commands(&mut self) {
        self.metadata.skip_ids();
        self.metadata_log.owe_snapshot();
        self.problems.push(
            "records of the log were lost, perhaps changes of topics among them: topics are as they were \
             before; \
             check them, and create again what is missing"
                .to_owned(),
        );
    }

    /// Problems found since recovery.
    #[must_use]
    pub fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Makes the open partitions those of the metadata.
    pub(crate) fn reconcile(&mut self, log: &mut dyn Log) {
        let mut wanted: BTreeMap<PartitionId, Arc<Topic>> = BTreeMap::new();
        for topic in self.metadata.topics() {
            wanted.extend(topic.partitions.iter().map(|id| (*id, topic.clone())));
        }
        let system = PartitionId::METADATA;
        let gone = |id: &PartitionId| *id != system && !wanted.contains_key(id);
        let closed: Vec<PartitionId> = self.partitions.keys().copied().filter(gone).collect();
        for id in closed {
            self.close(id);
        }
        for id in log.partitions() {
            if self.partitions.contains_key(&id) || wanted.contains_key(&id) || id == system {
                continue;
            }
            if self.metadata.is_allotted(id) {
                self.recovered.remove(&id);
                self.drops_owed.push(id);
            } else {
                self.problems.push(format!(
                    "partition {id} has data and the metadata has never heard of it: it is kept and not \
                     served; \
                     restore newer metadata, or remove its directory"
                ));
            }
        }
        self.pay_drops(log);
        let metadata = &self.metadata;
        self.recovered.retain(|id, _| wanted.contains_key(id) || !metadata.is_allotted(*id));
        for (id, topic) in wanted {
            if self.owner(id) == self.config.shard {
                self.open(log, id, Some(topic));
            }
        }
    }

    /// Makes a partition ready, or gives one that is ready its topic's newest settings.
    pub(crate) fn open(&mut self, log: &mut dyn Log, id: PartitionId, topic: Option<Arc<Topic>>) {
        let segment_bytes = topic.as_ref().map(|topic| topic.settings.segment_bytes);
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.topic = topic;
            log.set_segment_bytes(id, segment_bytes.unwrap_or(SEGMENT_BYTES_DEFAULT));
            return;
        }
        let extent = log.open_partition(id);
        log.set_segment_bytes(id, segment_bytes.unwrap_or(SEGMENT_BYTES_DEFAULT));
        #[cfg(feature = "planted-bugs")]
        let extent = crate::log::Extent {
            next_offset: extent.next_offset
                - u64::from(self.config.planted.reuse_offset && extent.next_offset > 1),
            ..extent
        };
        let memory = self.recovered.remove(&id).unwrap_or_default();
        let partition = Partition::new(topic, extent, memory);
        self.producer_count += partition.memory.producers.len();
        self.partitions.insert(id, Box::new(partition));
    }

    /// Forgets a deleted partition. Its space is given back by `pay_drops`, once for all that are closed.
    pub(crate) fn close(&mut self, id: PartitionId) {
        self.recovered.remove(&id);
        let Some(partition) = self.partitions.remove(&id) else { return };
        self.producer_count -= partition.memory.producers.len();
        for token in self.waiters.of(id) {
            if let Some(waiter) = self.waiters.remove(token) {
                self.end_wait(token, waiter);
            }
        }
        self.drops_owed.push(id);
    }
}
