//! The engine itself: one per shard. Owns its parts and the order in which calls reach them; each subject has
//! its own module, the calls are in `calls`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use martlet_core::limits::{PARKED_CALLS_MAX, PARKED_MS_MAX};
use martlet_core::{ErrorCode, Instant, Lsn, Now, PartitionId, ProducerId, Refusal, ShardId};

use crate::api::{Answer, Call, CallContext, CallToken, Reply};
use crate::guard::Guard;
use crate::log::Log;
use crate::metadata::{self, Topic};
use crate::metadata_log::MetadataLog;
use crate::partition::{Memory, Partition};
use crate::pending::Queue;
use crate::registers::Registers;
use crate::retention::Turn;
use crate::service::{ServiceAt, ShardService};
use crate::transactions::Verifications;
use crate::wait::{Parked, ParkedCalls, Waiters};

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
    /// Settings a new topic gets unless it says otherwise; they are written into the topic.
    pub topic_defaults: Vec<(String, String)>,
    /// Partitions of a topic that is created with 0.
    pub topic_partitions_default: u32,
    /// Shard 0 accepts that commands of the metadata were lost: see `finish_recovery`.
    pub accept_metadata_loss: bool,
    /// Planted bugs, all off by default.
    #[cfg(feature = "planted-bugs")]
    pub planted: PlantedBugs,
}

/// Whether planted bugs are compiled in. The product refuses to be built with them.
pub const HAS_PLANTED_BUGS: bool = cfg!(feature = "planted-bugs");

/// Switches for the simulator, which must catch each of them.
#[cfg(feature = "planted-bugs")]
#[derive(Clone, Copy, Debug, Default)]
pub struct PlantedBugs {
    /// Durable appends are answered when staged.
    pub ack_before_flush: bool,
    /// After a restart the first frame of a partition takes the offset of the last one.
    pub reuse_offset: bool,
    /// Cursors are told at once, before they are durable.
    pub cursor_before_flush: bool,
}

impl EngineConfig {
    /// Defaults for `shard` of `shards`.
    #[must_use]
    pub fn new(shard: ShardId, shards: u16) -> EngineConfig {
        EngineConfig {
            shard,
            shards: shards.max(1),
            random: 0,
            pending_bytes_max: 64 * 1024 * 1024,
            pending_count_max: 100_000,
            retention_interval: Duration::from_secs(30),
            producer_expiry: Duration::from_secs(7 * 24 * 3600),
            metadata_log_bytes_max: 8 * 1024 * 1024,
            topic_defaults: Vec::new(),
            topic_partitions_default: 1,
            accept_metadata_loss: false,
            #[cfg(feature = "planted-bugs")]
            planted: PlantedBugs::default(),
        }
    }
}

/// What recovery found worth telling.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Lines for the log, each with its remedy.
    pub problems: Vec<String>,
    /// Partitions that are open on this shard.
    pub partitions: usize,
    /// Topics of the metadata; 0 on other shards than the first until the metadata comes.
    pub topics: usize,
}

/// What the engine did, counted since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Batches staged, their records and body bytes.
    pub batches: u64,
    pub records: u64,
    pub bytes: u64,
    /// Retries answered from memory.
    pub duplicates: u64,
    /// Calls refused.
    pub refusals: u64,
    /// Reads that were sent to storage, and those of them that had waited.
    pub reads: u64,
    pub waits: u64,
    /// Cursor changes staged.
    pub cursor_changes: u64,
    /// Partitions whose log start was moved by retention.
    pub trims: u64,
}

/// `Ok(None)` = the answer comes later, or has been queued already.
pub(crate) type Outcome = Result<Option<Reply>, Refusal>;

/// The engine of one shard.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) guard: Box<dyn Guard>,
    pub(crate) metadata: metadata::State,
    /// False on shards that have not heard from shard 0 yet.
    pub(crate) metadata_is_known: bool,
    /// Used on shard 0 only.
    pub(crate) metadata_log: MetadataLog,
    pub(crate) partitions: BTreeMap<PartitionId, Box<Partition>>,
    /// Recovered, for partitions that are not open (yet).
    pub(crate) recovered: BTreeMap<PartitionId, Memory>,
    pub(crate) queue: Queue,
    pub(crate) durable: Lsn,
    /// Partitions with something newly committed.
    pub(crate) touched: Vec<PartitionId>,
    pub(crate) waiters: Waiters,
    pub(crate) parked: ParkedCalls,
    pub(crate) answers: Vec<Answer>,
    pub(crate) registers: Registers,
    /// Bytes of changes of registers that are not durable.
    pub(crate) staged_register_bytes: usize,
    pub(crate) services: Vec<Box<dyn ShardService>>,
    pub(crate) verifications: Verifications,
    /// The one producer whose transaction may begin in the one partition, while its batches are dispatched.
    pub(crate) granted: Option<(PartitionId, ProducerId, u16)>,
    /// Numbers given to services.
    pub(crate) uniques: u64,
    /// Producers known over all open partitions.
    pub(crate) producer_count: usize,
    pub(crate) turn: Turn,
    /// Deleted partitions whose space could not be given back yet.
    pub(crate) drops_owed: Vec<PartitionId>,
    pub(crate) problems: Vec<String>,
    pub(crate) fenced: Option<String>,
    pub(crate) is_shutting_down: bool,
    pub(crate) counters: Counters,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("shard", &self.config.shard)
            .field("partitions", &self.partitions.len())
            .field("pending", &self.queue.len())
            .field("durable", &self.durable)
            .field("fenced", &self.fenced)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An empty engine. On start-up: `recover` (if there is a snapshot), then `replay_frame`/`replay_note` in
    /// log order, then `finish_recovery`, also for a log that is empty; only then `submit`.
    #[must_use]
    pub fn new(config: EngineConfig, guard: Box<dyn Guard>) -> Engine {
        Engine {
            config,
            guard,
            metadata: metadata::State::default(),
            metadata_is_known: false,
            metadata_log: MetadataLog::default(),
            partitions: BTreeMap::new(),
            recovered: BTreeMap::new(),
            queue: Queue::default(),
            durable: Lsn(0),
            touched: Vec::new(),
            waiters: Waiters::default(),
            parked: ParkedCalls::default(),
            answers: Vec::new(),
            registers: Registers::default(),
            staged_register_bytes: 0,
            services: Vec::new(),
            verifications: Verifications::default(),
            granted: None,
            uniques: 0,
            producer_count: 0,
            turn: Turn::default(),
            drops_owed: Vec::new(),
            problems: Vec::new(),
            fenced: None,
            is_shutting_down: false,
            counters: Counters::default(),
        }
    }

    /// Takes a call. Its answer comes out of `take_answers`, now or later, exactly once unless cancelled;
    /// also for
    /// `Acks::None`, where the gateway sends nothing.
    pub fn submit(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        call: Call,
        now: Now,
    ) {
        if self.is_shutting_down {
            let refusal =
                Refusal::new(ErrorCode::ShuttingDown, "the broker is shutting down: connect again later");
            self.answer(token, Err(refusal));
            return;
        }
        let deadline = now.instant.after(Duration::from_millis(PARKED_MS_MAX));
        self.dispatch(log, Parked { deadline, token, context: context.clone(), call, bytes: 0 }, now);
    }

    pub(crate) fn dispatch(&mut self, log: &mut dyn Log, parked: Parked, now: Now) {
        let token = parked.token;
        if self.must_park(&parked.call) {
            if let Err(refusal) = self.park(parked) {
                self.answer(token, Err(refusal));
            }
            return;
        }
        let context = &parked.context;
        let outcome = match parked.call {
            Call::Append(append) => self.append(log, token, context, append, now),
            Call::Read(read) => self.read(token, context, read, now),
            Call::Await(wait) => self.await_records(token, context, wait, now),
            Call::EndTransaction(end) => self.end_transaction(log, token, context, &end, now),
            Call::Aborted { partition, from, upto } => self.aborted(context, partition, (from, upto), now),
            Call::Producers { partition } => self.producers(context, partition, now),
            Call::Facts { partitions } => self.facts(context, &partitions, now),
            Call::Trim { partition, before } => {
                self.trim_records(log, token, context, (partition, before), now)
            }
            Call::OffsetFor { partition, at } => self.offset_for(token, context, partition, at, now),
            Call::PartitionStatus { partition } => self.partition_status(log, context, partition, now),
            Call::ProducerOpen => self.producer_open(log, token, context, now),
            Call::CursorGet { partition, cursor } => self.cursor_get(context, partition, &cursor, now),
            Call::CursorSet { partition, cursor, offset, reset } => {
                self.cursor_set(log, token, context, partition, &cursor, (offset, reset), now)
            }
            Call::CursorList { partition } => self.cursor_list(context, partition, now),
            Call::CursorDelete { partition, cursor } => {
                self.cursor_delete(log, token, context, partition, &cursor, now)
            }
            Call::Service { service, message, .. } => {
                self.service_call(log, token, context, (service, message), now)
            }
            Call::TopicCreate { name, partitions, settings } => {
                self.topic_create(log, token, context, name, (partitions, settings), now)
            }
            Call::TopicAlter { name, partitions, settings } => {
                self.topic_alter(log, token, context, name, (partitions, settings), now)
            }
            Call::TopicDelete { name } => self.topic_delete(log, token, context, name, now),
            Call::TopicDescribe { name } => self.topic_describe(context, &name, now),
            Call::TopicFind { id } => self.topic_find(context, id, now),
            Call::TopicList { prefix, after, count_max } => {
                self.topic_list(context, &prefix, &after, count_max, now)
            }
        };
        self.conclude(token, outcome);
    }

    pub(crate) fn conclude(&mut self, token: CallToken, outcome: Outcome) {
        match outcome {
            Ok(None) => {}
            Ok(Some(reply)) => self.answer(token, Ok(reply)),
            Err(refusal) => self.answer(token, Err(refusal)),
        }
    }

    /// The caller is gone: a waiting read ends without an answer. Writes go on; an answer for the token may
    /// still come.
    pub fn cancel(&mut self, token: CallToken) {
        if let Some(waiter) = self.waiters.remove(token) {
            self.uncount(&waiter);
        } else if self.parked.len() > 0 {
            self.parked.remove(token);
        }
        for service in &mut self.services {
            service.cancel(token);
        }
    }

    /// New calls are refused as `ShuttingDown`, waiting reads end now; what is staged goes on.
    pub fn shut_down(&mut self) {
        self.is_shutting_down = true;
        while let Some((token, waiter)) = self.waiters.pop_any() {
            self.end_wait(token, waiter);
        }
        for parked in self.parked.take_all() {
            let refusal =
                Refusal::new(ErrorCode::ShuttingDown, "the broker is shutting down: connect again later");
            self.answer(parked.token, Err(refusal));
        }
        let refusal =
            Refusal::new(ErrorCode::ShuttingDown, "the broker is shutting down: connect again later");
        self.refuse_verifying(&refusal);
        self.refuse_service_calls(&refusal);
    }

    pub fn on_timer(&mut self, log: &mut dyn Log, now: Now) {
        while let Some((token, waiter)) = self.waiters.pop_due(now.instant) {
            self.end_wait(token, waiter);
        }
        while let Some(parked) = self.parked.pop_due(now.instant) {
            let refusal = if self.metadata_is_known {
                parked.call.partition().map_or_else(
                    || Refusal::new(ErrorCode::Overloaded, "the metadata is late: try again"),
                    unknown_partition,
                )
            } else {
                Refusal::new(ErrorCode::Overloaded, "the shard is starting: try again in a moment")
            };
            self.answer(parked.token, Err(refusal));
        }
        if self.next_service_timer().is_some_and(|due| due <= now.instant) {
            self.each_service(log, now, |service, host| service.on_timer(host));
        }
        self.take_turn(log, now);
    }

    /// When `on_timer` wants to be called; ask again after every other call.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        let turn = self.turn_is_wanted().then(|| self.turn.due());
        let service = self.next_service_timer();
        let waits = [self.waiters.next_deadline(), self.parked.next_deadline()];
        waits.into_iter().chain([turn, service]).flatten().min()
    }

    /// Answers since the last time. Deliver `take_metadata` to the other shards first.
    #[must_use]
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Shard 0: committed metadata commands with their index, in order, for `apply_metadata` of every other
    /// shard.
    #[must_use]
    pub fn take_metadata(&mut self) -> Vec<(u64, Bytes)> {
        self.metadata_log.take_committed()
    }

    /// The shard that owns a partition.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> ShardId {
        self.metadata.slots().owner(partition, self.config.shards)
    }

    /// The shard a call has to go to.
    #[must_use]
    pub fn route(&self, call: &Call) -> ShardId {
        match (call.partition(), call) {
            (Some(partition), _) => self.owner(partition),
            (None, Call::Service { at: ServiceAt::Key(key), .. }) => self.owner_of_key(key),
            (None, Call::Service { at: ServiceAt::Shard(shard), .. }) => *shard,
            (None, Call::TopicDescribe { .. } | Call::TopicFind { .. } | Call::TopicList { .. }) => {
                self.config.shard
            }
            (None, _) => ShardId(0),
        }
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.config.shard
    }

    /// Topics and slots as this shard knows them.
    #[must_use]
    pub fn metadata(&self) -> &metadata::State {
        &self.metadata
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes staged and not durable, against `pending_bytes_max`.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Reads that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Why the shard is read-only.
    #[must_use]
    pub fn fenced(&self) -> Option<&str> {
        self.fenced.as_deref()
    }

    pub(crate) fn answer(&mut self, token: CallToken, result: Result<Reply, Refusal>) {
        self.counters.refusals += u64::from(result.is_err());
        self.answers.push(Answer::Reply(token, result));
    }

    /// Whether the call is about something that shard 0 may know already and this shard does not yet.
    fn must_park(&self, call: &Call) -> bool {
        if !self.metadata_is_known {
            return true;
        }
        let is_news =
            |partition| !self.metadata.is_allotted(partition) && self.owner(partition) == self.config.shard;
        self.config.shard != ShardId(0) && call.partition().is_some_and(is_news)
    }

    fn park(&mut self, mut parked: Parked) -> Result<(), Refusal> {
        parked.bytes = match &parked.call {
            Call::Append(append) => append.body.len(),
            _ => 0,
        };
        let bytes = self.parked.bytes() + self.queue.bytes() + parked.bytes;
        if self.parked.len() >= PARKED_CALLS_MAX || bytes > self.config.pending_bytes_max {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "too many calls wait for metadata: try again in a moment",
            ));
        }
        self.parked.push(parked);
        Ok(())
    }

    /// An open partition for a caller who may see it.
    pub(crate) fn lookup(
        partitions: &BTreeMap<PartitionId, Box<Partition>>,
        id: PartitionId,
    ) -> Option<(&Partition, &Topic)> {
        let partition = partitions.get(&id)?;
        Some((partition, partition.topic.as_deref()?))
    }

    /// Why a partition is not here.
    pub(crate) fn not_here(&self, id: PartitionId) -> Refusal {
        let owner = self.owner(id);
        if owner == self.config.shard {
            return unknown_partition(id);
        }
        Refusal::new(
            ErrorCode::NotOwner,
            format!("partition {id} lives on shard {owner}: ask for the topic's partitions again"),
        )
    }
}

pub(crate) fn unknown_partition(id: PartitionId) -> Refusal {
    Refusal::new(
        ErrorCode::UnknownPartition,
        format!("partition {id} does not exist or was deleted: ask for the topic's partitions again"),
    )
}
