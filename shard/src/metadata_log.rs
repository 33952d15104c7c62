//! The log of the metadata on shard 0, and its arrival on the others. Commands are frames of the system
//! partition, applied when they are durable, answered then, and sent to the other shards with their index.
//!
//! **Invariant**: the indexes of applied commands have no gap; what is missing is never guessed.

use std::collections::VecDeque;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::frame::format;
use martlet_core::limits::{BATCH_BYTES_MAX, METADATA_COMMANDS_PENDING_MAX};
use martlet_core::{ErrorCode, FRAME_HEADER_BYTES, FrameHeader, Now, Offset, PartitionId, Refusal, ShardId};

use crate::api::{CallToken, Reply};
use crate::engine::{Engine, unknown_partition};
use crate::log::{Log, WriteClass};
use crate::metadata::{Applied, Command};
use crate::pending::{Callers, Pending, Write};

/// Producer ids that were taken and not given out, and those who wait for more.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    /// `[next, upto)`.
    pub(crate) block: (u64, u64),
    pub(crate) is_asked: bool,
    pub(crate) waiting: VecDeque<CallToken>,
}

impl ProducerIds {
    pub(crate) fn next(&mut self) -> Option<u64> {
        let (next, upto) = self.block;
        self.block.0 = next.saturating_add(1).min(upto);
        (next < upto).then_some(next)
    }

    /// The block that was asked for never comes: who waits for it is not served, and the next one who comes
    /// asks again.
    pub(crate) fn give_up(&mut self) -> VecDeque<CallToken> {
        self.is_asked = false;
        std::mem::take(&mut self.waiting)
    }
}

/// What shard 0 keeps about its log of the metadata.
#[derive(Debug, Default)]
pub(crate) struct MetadataLog {
    pub(crate) producer_ids: ProducerIds,
    /// Index of the last command staged.
    staged: u64,
    /// Commands staged and not applied.
    pending: usize,
    /// Bytes of commands since the last snapshot in the log, and of that snapshot.
    bytes: u64,
    snapshot_bytes: u64,
    /// Committed commands for the other shards.
    committed: Vec<(u64, Bytes)>,
    /// Why no command is taken any more; the remedy is added when that is told.
    damage: Option<String>,
    /// The state has changed without a command: a snapshot must stand in the log before the next one.
    owes_snapshot: bool,
}

impl MetadataLog {
    pub(crate) fn next_index(&self) -> u64 {
        self.staged + 1
    }

    /// Nothing is staged.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending == 0
    }

    pub(crate) fn take_committed(&mut self) -> Vec<(u64, Bytes)> {
        std::mem::take(&mut self.committed)
    }

    /// What is staged will never be durable.
    pub(crate) fn drop_staged(&mut self, applied: u64) {
        self.staged = applied;
        self.pending = 0;
    }

    pub(crate) fn set_damage(&mut self, why: String) {
        self.damage.get_or_insert(why);
    }

    /// Commands are taken again in spite of what was missing.
    pub(crate) fn accept_damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    pub(crate) fn owe_snapshot(&mut self) {
        self.owes_snapshot = true;
    }

    /// Recovery is over: the state is `applied`, the log has `bytes`.
    pub(crate) fn start(&mut self, applied: u64, bytes: u64, snapshot: Bytes) {
        self.staged = applied;
        self.bytes = bytes;
        self.committed.push((applied, snapshot));
    }
}

fn lost_changes(why: &str) -> Refusal {
    let text = format!(
        "{why}: topics are served as they were before, but cannot be changed, and no producer gets an id; \
         restore the data directory from a copy, or start once with --accept-metadata-loss"
    );
    Refusal::new(ErrorCode::CorruptRange, text)
}

impl Engine {
    /// Stages a command.
    pub(crate) fn propose(
        &mut self,
        log: &mut dyn Log,
        command: Command,
        token: Option<CallToken>,
        now: Now,
    ) -> Result<(), Refusal> {
        if self.config.shard != ShardId(0) {
            return Err(Refusal::new(ErrorCode::NotOwner, "the metadata lives on shard 0: ask there"));
        }
        if let Some(why) = self.metadata_damage() {
            return Err(lost_changes(why));
        }
        if !matches!(command, Command::Snapshot(_)) {
            self.pay_snapshot(log, now)?;
        }
        if self.metadata_log.pending >= METADATA_COMMANDS_PENDING_MAX {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "too many changes of topics wait for the disk: try again in a moment",
            ));
        }
        let index = self.metadata_log.next_index();
        let encoded = Bytes::from(command.encode(index));
        let bytes = FRAME_HEADER_BYTES + encoded.len();
        self.check_writable(bytes)?;
        if encoded.len() > BATCH_BYTES_MAX as usize {
            return Err(Refusal::new(ErrorCode::InvalidArgument, "the change is too large: split it"));
        }
        let class = match command {
            Command::TopicDelete { .. } | Command::Snapshot(_) => WriteClass::Reserve,
            _ => WriteClass::Records,
        };
        log.admit(PartitionId::METADATA, bytes, class)?;
        let system = PartitionId::METADATA;
        let partition = self.partitions.get_mut(&system).ok_or_else(|| unknown_partition(system))?;
        let base_offset = partition.memory.next_offset;
        let broker_time = partition.memory.broker_time.max(now.wall.0);
        let header = FrameHeader {
            format: format::METADATA,
            epoch: partition.epoch,
            partition: system.0,
            base_offset,
            offset_span: 1,
            record_count: 1,
            broker_time,
            timestamp_max: broker_time,
            base_sequence: -1,
            committed_through: partition.committed,
            body_length: u32::try_from(encoded.len()).unwrap_or(u32::MAX),
            body_crc: crc32c(&encoded),
            ..FrameHeader::default()
        };
        let lsn = log.append(&header, &encoded);
        partition.memory.next_offset = header.end_offset();
        partition.memory.broker_time = broker_time;
        self.metadata_log.staged = index;
        self.metadata_log.pending += 1;
        self.queue.push(Pending {
            lsn,
            partition: system,
            bytes,
            callers: Callers { first: token, repeats: Vec::new() },
            write: Write::Command { base_offset, index, command, encoded },
        });
        Ok(())
    }

    /// Logs the state if it has changed without a command: the next one builds on it.
    pub(crate) fn pay_snapshot(&mut self, log: &mut dyn Log, now: Now) -> Result<(), Refusal> {
        if self.metadata_log.owes_snapshot {
            let snapshot = Command::Snapshot(Box::new(self.metadata.clone()));
            self.propose(log, snapshot, None, now)?;
            self.metadata_log.owes_snapshot = false;
        }
        Ok(())
    }

    /// A command is durable: applies it and answers.
    pub(crate) fn commit_command(
        &mut self,
        log: &mut dyn Log,
        (index, command, encoded): (u64, Command, Bytes),
        (base_offset, token): (Offset, Option<CallToken>),
        now: Now,
    ) {
        let size = (FRAME_HEADER_BYTES + encoded.len()) as u64;
        self.metadata_log.pending -= 1;
        self.metadata_log.bytes += size;
        self.metadata_log.committed.push((index, encoded));
        let is_snapshot = matches!(command, Command::Snapshot(_));
        let result = self.metadata.apply(index, command);
        let reply = result.as_ref().map(|applied| match applied {
            Applied::Topic(topic) => Reply::Topic(self.metadata.view(topic, self.config.shards)),
            _ => Reply::Done,
        });
        if let Some(token) = token {
            let reply = reply.map_err(Refusal::clone);
            self.answer(token, reply);
        }
        match result {
            Ok(Applied::ProducerIds { from, upto }) => self.serve_producers(log, (from, upto), now),
            // The state was this one already.
            Ok(Applied::Replaced) => {}
            Ok(applied) => self.follow(log, &applied),
            Err(_) => {}
        }
        if is_snapshot {
            self.metadata_log.bytes = size;
            self.metadata_log.snapshot_bytes = size;
            self.trim(log, PartitionId::METADATA, base_offset);
        }
        self.snapshot_metadata_if_long(log, now);
    }

    /// The log starts again from a snapshot when it has grown long, and never for less than it would save.
    fn snapshot_metadata_if_long(&mut self, log: &mut dyn Log, now: Now) {
        let bound = self.config.metadata_log_bytes_max.max(2 * self.metadata_log.snapshot_bytes);
        if self.metadata_log.bytes <= bound || self.metadata_log.pending > 0 {
            return;
        }
        let snapshot = Command::Snapshot(Box::new(self.metadata.clone()));
        if self.propose(log, snapshot, None, now).is_err() {
            // Not now: the next command asks again, after as many bytes as this log has.
            self.metadata_log.snapshot_bytes = self.metadata_log.bytes;
        }
    }

    /// Shards other than 0: the next metadata command. Repeats are ignored.
    ///
    /// # Errors
    /// A gap in the indexes, or a command this build does not know.
    pub fn apply_metadata(
        &mut self,
        log: &mut dyn Log,
        index: u64,
        command: &[u8],
        now: Now,
    ) -> Result<(), Refusal> {
        let (found, command) = Command::decode(command)?;
        if found != index {
            return Err(Refusal::new(
                ErrorCode::Internal,
                format!("metadata command {found} arrived as {index}"),
            ));
        }
        let is_snapshot = matches!(command, Command::Snapshot(_));
        let applied = self.metadata.applied();
        if self.metadata_is_known && index <= applied {
            return Ok(());
        }
        if !is_snapshot && (!self.metadata_is_known || index != applied + 1) {
            return Err(Refusal::new(
                ErrorCode::Internal,
                format!("metadata command {index} arrived after {applied}: the shard must be restarted"),
            ));
        }
        self.metadata_is_known = true;
        match self.metadata.apply(index, command) {
            Ok(Applied::Replaced) => self.reconcile(log),
            Ok(applied) => self.follow(log, &applied),
            Err(_) => {}
        }
        for parked in self.parked.take_all() {
            self.dispatch(log, parked, now);
        }
        Ok(())
    }

    /// Does to this shard's partitions what a command did to the topics.
    fn follow(&mut self, log: &mut dyn Log, applied: &Applied) {
        match applied {
            Applied::Topic(topic) => {
                for id in &topic.partitions {
                    if self.owner(*id) == self.config.shard {
                        self.open(log, *id, Some(topic.clone()));
                    }
                }
            }
            Applied::Deleted(topic) => {
                for id in &topic.partitions {
                    self.close(*id);
                }
                self.pay_drops(log);
            }
            Applied::Slot(_) | Applied::ProducerIds { .. } | Applied::Replaced => {}
        }
    }

    /// The command of a frame that recovery found.
    pub(crate) fn replay_command(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let (index, command) = match Command::decode(body) {
            Ok(decoded) => decoded,
            // What a newer build wrote is not guessed at: nothing is served until that build runs again.
            Err(refusal) if refusal.code == ErrorCode::UnsupportedVersion => return Err(refusal),
            // Of a damaged one nothing comes but its place.
            Err(_) => {
                let next = self.metadata.applied() + 1;
                self.metadata_log.set_damage(format!("change {next} of the topics is damaged on disk"));
                return Ok(());
            }
        };
        let applied = self.metadata.applied();
        if index <= applied {
            return Ok(());
        }
        if matches!(command, Command::Snapshot(_)) {
            // All of the state: what was missing before it is missing no more, or was accepted.
            self.metadata_log.accept_damage();
        } else if index != applied + 1 {
            let lost = format!("changes {} to {} of the topics are lost on disk", applied + 1, index - 1);
            self.metadata_log.set_damage(lost);
            return Ok(());
        }
        // A command that was refused is refused again.
        let _ = self.metadata.apply(index, command);
        Ok(())
    }

    /// What was lost of the changes of topics, if that was not accepted: until then none is taken.
    #[must_use]
    pub fn metadata_damage(&self) -> Option<&str> {
        self.metadata_log.damage.as_deref()
    }

    /// Staged commands, as they are in the log.
    pub(crate) fn staged_commands(&self) -> impl Iterator<Item = &Bytes> {
        self.queue.iter().filter_map(|pending| match &pending.write {
            Write::Command { encoded, .. } => Some(encoded),
            _ => None,
        })
    }
}
