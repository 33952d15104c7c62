//! The engine itself: one per shard. Owns the order in which decisions are made and nothing else; each subject has
//! its own module.

use std::time::Duration;

use bytes::Bytes;
use martlet_core::{FrameHeader, Instant, Lsn, Now, PartitionId, Refusal, ShardId};

use crate::api::{Answer, Call, CallContext, CallToken};
use crate::guard::Guard;
use crate::log::Log;

/// What an engine is told once.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub shard: ShardId,
    /// Shards of this node, at least 1.
    pub shards: u16,
    /// Random bits of this process; new topic ids are derived from them.
    pub random: u128,
    /// Bytes of frames staged and not yet durable; over it appends are refused as `Overloaded`.
    pub pending_bytes_max: usize,
    /// Writes staged and not yet durable.
    pub pending_count_max: usize,
    /// Time between two looks at a partition's retention and producers.
    pub retention_interval: Duration,
    /// Producers that were silent for so long are forgotten, by wall time.
    pub producer_expiry: Duration,
    /// Bytes of metadata commands after which the log of the metadata starts again from a snapshot.
    pub metadata_log_bytes_max: u64,
}

impl EngineConfig {
    /// Defaults for `shard` of `shards`.
    #[must_use]
    pub fn new(shard: ShardId, shards: u16) -> EngineConfig {
        EngineConfig {
            shard,
            shards,
            random: 0,
            pending_bytes_max: 64 * 1024 * 1024,
            pending_count_max: 100_000,
            retention_interval: Duration::from_secs(30),
            producer_expiry: Duration::from_secs(7 * 24 * 3600),
            metadata_log_bytes_max: 8 * 1024 * 1024,
        }
    }
}

/// What recovery found worth telling.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Lines for the log, each with its remedy.
    pub problems: Vec<String>,
    pub partitions: usize,
    pub topics: usize,
}

/// The engine of one shard.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
}

impl Engine {
    /// An empty engine. On start-up: `recover` (if there is a snapshot), then `replay_frame`/`replay_note` in log order,
    /// then `finish_recovery`, also for a log that is empty; only then `submit`.
    #[must_use]
    pub fn new(config: EngineConfig, guard: Box<dyn Guard>) -> Engine {
        let _ = guard;
        Engine { config }
    }

    /// # Errors
    /// The snapshot is of an unknown version or damaged.
    pub fn recover(&mut self, snapshot: &[u8]) -> Result<(), Refusal> {
        let _ = snapshot;
        Ok(())
    }

    /// A frame after the snapshot. `body` is needed for frames of format METADATA only, else it may be empty.
    pub fn replay_frame(&mut self, header: &FrameHeader, body: &[u8]) {
        let _ = (header, body);
    }

    /// A note after the snapshot.
    pub fn replay_note(&mut self, kind: u8, payload: &[u8]) {
        let _ = (kind, payload);
    }

    /// Opens partitions that are missing in the log, drops those whose topic is deleted. On shard 0 the metadata is
    /// complete after this and `take_metadata` begins with all of it; the other shards wait for their first
    /// `apply_metadata`.
    pub fn finish_recovery(&mut self, log: &mut dyn Log, now: Now) -> Recovered {
        let _ = (log, now);
        Recovered::default()
    }

    /// Takes a call. Its answer comes out of `take_answers`, now or later, exactly once unless cancelled; also for
    /// `Acks::None`, where the gateway sends nothing.
    pub fn submit(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        call: Call,
        now: Now,
    ) {
        let _ = (log, token, context, call, now);
    }

    /// The caller is gone: a waiting read ends without an answer. Writes go on; an answer for the token may still come.
    pub fn cancel(&mut self, token: CallToken) {
        let _ = token;
    }

    /// Everything up to `durable` is on stable storage.
    pub fn on_durable(&mut self, log: &mut dyn Log, durable: Lsn, now: Now) {
        let _ = (log, durable, now);
    }

    /// The write-ahead log failed: what is staged and not durable is refused, the shard is read-only from now on.
    pub fn fence(&mut self, log: &mut dyn Log, why: &str, now: Now) {
        let _ = (log, why, now);
    }

    /// New calls are refused as `ShuttingDown`, waiting reads end now; what is staged goes on.
    pub fn shut_down(&mut self) {}

    pub fn on_timer(&mut self, log: &mut dyn Log, now: Now) {
        let _ = (log, now);
    }

    /// When `on_timer` wants to be called; ask again after every other call.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        None
    }

    /// Answers since the last time. Deliver `take_metadata` to the other shards first.
    #[must_use]
    pub fn take_answers(&mut self) -> Vec<Answer> {
        Vec::new()
    }

    /// Shard 0: committed metadata commands with their index, in order, for `apply_metadata` of every other shard.
    #[must_use]
    pub fn take_metadata(&mut self) -> Vec<(u64, Bytes)> {
        Vec::new()
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
        let _ = (log, index, command, now);
        Ok(())
    }

    /// Everything the engine must know besides frames and notes staged after this moment. It holds what is staged: it
    /// may become the recovery point only once everything staged before it is durable.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The shard that owns a partition.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> ShardId {
        ShardId(partition.slot().0 % self.config.shards)
    }

    /// The shard a call has to go to.
    #[must_use]
    pub fn route(&self, call: &Call) -> ShardId {
        match call {
            Call::Append(append) => self.owner(append.partition),
            Call::Read(read) => self.owner(read.partition),
            Call::OffsetFor { partition, .. }
            | Call::PartitionStatus { partition }
            | Call::CursorGet { partition, .. }
            | Call::CursorSet { partition, .. }
            | Call::CursorList { partition }
            | Call::CursorDelete { partition, .. } => self.owner(*partition),
            Call::ProducerOpen
            | Call::TopicCreate { .. }
            | Call::TopicAlter { .. }
            | Call::TopicDelete { .. } => ShardId(0),
            Call::TopicDescribe { .. } | Call::TopicList { .. } => self.config.shard,
        }
    }
}
