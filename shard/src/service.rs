//! Shard services: state machines of gateways that live on the shard that owns a key, as a consumer group
//! does. The engine hosts them: it brings them their messages, the time, and what has become durable.
//!
//! Owns the seam. A service is synchronous and pure, as the engine is: clocks come in with each call, effects
//! go out through [`ServiceHost`]. What must survive a restart it keeps in registers (see
//! [`crate::registers`]); everything else it makes again.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use martlet_core::{ErrorCode, Instant, Lsn, Now, Offset, PartitionId, Refusal, ShardId, TopicId, TopicName};

use crate::api::{Answer, Call, CallContext, CallToken, Caller, Reply};
use crate::engine::{Engine, Outcome};
use crate::guard::{Cost, Operation, Resource};
use crate::log::{Log, NoteKind, WriteClass};
use crate::metadata::Topic;
use crate::pending::{Callers, Pending, Write};
use crate::registers::{RegisterNote, Registers, Values};

/// What a gateway says to a service of its own, or hears from it. Only the two of them know the type.
#[derive(Clone)]
pub struct ServiceMessage(Arc<dyn Any + Send + Sync>);

impl ServiceMessage {
    #[must_use]
    pub fn new<T: Any + Send + Sync>(value: T) -> ServiceMessage {
        ServiceMessage(Arc::new(value))
    }

    /// The value, if it is a `T`.
    #[must_use]
    pub fn take<T: Any + Send + Sync + Clone>(self) -> Option<T> {
        self.0.downcast::<T>().ok().map(Arc::unwrap_or_clone)
    }
}

impl fmt::Debug for ServiceMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceMessage")
    }
}

impl PartialEq for ServiceMessage {
    fn eq(&self, other: &ServiceMessage) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Which shard's service is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceAt {
    /// That of the shard that owns this key.
    Key(String),
    Shard(ShardId),
}

/// How far a group of readers is in a partition, for those who watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    pub group: String,
    pub topic: String,
    pub index: u32,
    pub partition: PartitionId,
    pub offset: Offset,
}

/// What a service tells those who watch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceFacts {
    /// Some, if there are too many.
    pub positions: Vec<Position>,
    /// Groups, by a state's name.
    pub groups: Vec<(&'static str, u64)>,
    pub rebalances: u64,
    pub commits: u64,
    /// Transactions that were begun and have not ended.
    pub transactions_open: u64,
}

/// A state machine of a gateway on one shard.
pub trait ShardService {
    /// As calls name it.
    fn name(&self) -> &'static str;

    /// Recovery is over: registers can be read. Messages come later, when the topics are known too.
    fn start(&mut self, host: &mut ServiceHost<'_>);

    /// A call. `Ok(Some)` answers it at once, `Ok(None)` promises [`ServiceHost::answer`] later.
    ///
    /// # Errors
    /// The refusal the caller gets. What the protocol has an answer for is an answer.
    fn on_message(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        message: ServiceMessage,
    ) -> Result<Option<ServiceMessage>, Refusal>;

    /// Everything staged up to `durable` is on stable storage.
    fn on_durable(&mut self, host: &mut ServiceHost<'_>, durable: Lsn);

    /// The outcome of a call that was made with [`ServiceHost::call`].
    fn on_called(&mut self, host: &mut ServiceHost<'_>, ticket: u64, outcome: Result<Reply, Refusal>) {
        let _ = (host, ticket, outcome);
    }

    fn on_timer(&mut self, host: &mut ServiceHost<'_>);

    /// When `on_timer` wants to be called.
    fn next_timer(&self) -> Option<Instant>;

    /// The caller is gone; an answer for it may still be given.
    fn cancel(&mut self, token: CallToken);

    /// Numbers for those who watch: at most `positions_max` positions.
    fn facts(&self, host: &ServiceHost<'_>, positions_max: usize) -> ServiceFacts {
        let _ = (host, positions_max);
        ServiceFacts::default()
    }

    /// Calls that have not been answered; they will be refused. Nothing is owed to them any more.
    fn abandon_all(&mut self) -> Vec<CallToken>;
}

/// Makes the service of each shard.
pub trait ServiceFactory: Send + Sync + fmt::Debug {
    fn make(&self, shard: ShardId) -> Box<dyn ShardService>;
}

/// What a service may see and do.
pub struct ServiceHost<'a> {
    engine: &'a mut Engine,
    log: &'a mut dyn Log,
    now: Now,
}

impl ServiceHost<'_> {
    #[must_use]
    pub fn now(&self) -> Now {
        self.now
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.engine.config.shard
    }

    /// A number that was never given before, in no process of this shard either; not a secret.
    pub fn unique(&mut self) -> u128 {
        self.engine.uniques += 1;
        let mix = |mut x: u64| {
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        let (random, count) = (self.engine.config.random, self.engine.uniques);
        let high = mix((random >> 64) as u64 ^ mix(count));
        u128::from(high) << 64 | u128::from(mix(random as u64 ^ mix(high ^ count)))
    }

    /// Durable values.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.engine.registers
    }

    /// Durable values of one key.
    #[must_use]
    pub fn values(&self, service: u8, key: &str) -> Option<&Values> {
        self.engine.registers.get(service, key)
    }

    /// Stages a change; its values are seen when it is durable.
    ///
    /// # Errors
    /// `Overloaded`, `StorageFull`, `StorageFenced`, `QuotaExceeded`, `InvalidArgument`.
    pub fn stage(&mut self, note: RegisterNote) -> Result<Lsn, Refusal> {
        let bytes = note.bytes();
        let engine = &mut *self.engine;
        engine.check_writable(bytes)?;
        engine.registers.admit(&note, engine.staged_register_bytes)?;
        let payload = note.encode();
        self.log.admit(PartitionId::METADATA, payload.len(), WriteClass::Reserve)?;
        let lsn = self.log.note(NoteKind::Register, &payload);
        engine.staged_register_bytes += bytes;
        engine.queue.push(Pending {
            lsn,
            partition: PartitionId::METADATA,
            bytes,
            callers: Callers::default(),
            write: Write::Registers(note),
        });
        Ok(lsn)
    }

    /// Whether everything up to `lsn` is on stable storage.
    #[must_use]
    pub fn is_durable(&self, lsn: Lsn) -> bool {
        lsn <= self.engine.durable
    }

    /// Tells an operator of a problem.
    pub fn report(&mut self, problem: String) {
        self.engine.problems.push(problem);
    }

    /// Answers a call.
    pub fn answer(&mut self, token: CallToken, message: Result<ServiceMessage, Refusal>) {
        self.engine.answer(token, message.map(Reply::Service));
    }

    /// Makes a call, on whatever shard it belongs to. Its outcome comes to [`ShardService::on_called`] of
    /// the service of this name, under `ticket`, and in the same process only.
    pub fn call(&mut self, service: &'static str, ticket: u64, call: Call) {
        let caller = Caller::Service(service);
        self.engine.answers.push(Answer::Call { caller, ticket, call: Box::new(call) });
    }

    /// A topic by its id.
    #[must_use]
    pub fn topic_of(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.engine.metadata.topic_of(id)
    }

    /// A topic, as this shard knows it.
    #[must_use]
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.engine.metadata.topic(name)
    }

    /// All topics, in the order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.engine.metadata.topics()
    }

    /// Grows with every change of the topics; 0 = nothing is known yet.
    #[must_use]
    pub fn topics_version(&self) -> u64 {
        if self.engine.metadata_is_known { self.engine.metadata.applied() + 1 } else { 0 }
    }
}

impl fmt::Debug for ServiceHost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHost").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Engine {
    /// Gives this shard a service. Before `finish_recovery`.
    pub fn add_service(&mut self, service: Box<dyn ShardService>) {
        self.services.push(service);
    }

    /// The shard that owns a service's key.
    #[must_use]
    pub fn owner_of_key(&self, key: &str) -> ShardId {
        self.metadata.slots().owner_of_key(key, self.config.shards)
    }

    /// Calls every service.
    pub(crate) fn each_service(
        &mut self,
        log: &mut dyn Log,
        now: Now,
        mut call: impl FnMut(&mut dyn ShardService, &mut ServiceHost<'_>),
    ) {
        let mut services = std::mem::take(&mut self.services);
        for service in &mut services {
            call(&mut **service, &mut ServiceHost { engine: self, log, now });
        }
        self.services = services;
    }

    pub(crate) fn service_call(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        (name, message): (&'static str, ServiceMessage),
        now: Now,
    ) -> Outcome {
        self.guard.authorize(context, Operation::Cursor, Resource::Cluster)?;
        self.guard.quota(context, Operation::Cursor, Cost::default(), now)?;
        let mut outcome = Err(Refusal::new(
            ErrorCode::InvalidArgument,
            format!("this shard has no service `{name}`: switch its protocol on in the configuration"),
        ));
        let mut message = Some(message);
        self.each_service(log, now, |service, host| {
            if service.name() == name
                && let Some(message) = message.take()
            {
                outcome = service.on_message(host, token, message);
            }
        });
        outcome.map(|reply| reply.map(Reply::Service))
    }

    /// The outcome of a call that this shard made of its own.
    pub fn on_called(
        &mut self,
        log: &mut dyn Log,
        caller: Caller,
        ticket: u64,
        outcome: Result<Reply, Refusal>,
        now: Now,
    ) {
        let Caller::Service(name) = caller else { return self.verified(log, ticket, outcome, now) };
        let mut outcome = Some(outcome);
        self.each_service(log, now, |service, host| {
            if service.name() == name
                && let Some(outcome) = outcome.take()
            {
                service.on_called(host, ticket, outcome);
            }
        });
    }

    /// What the services of this shard tell, and, if there are any, start and end of each partition here.
    pub fn service_facts(
        &mut self,
        log: &mut dyn Log,
        now: Now,
        positions_max: usize,
    ) -> (Vec<ServiceFacts>, Vec<(PartitionId, Offset, Offset)>) {
        let mut facts = Vec::new();
        self.each_service(log, now, |service, host| facts.push(service.facts(host, positions_max)));
        if facts.is_empty() {
            return (facts, Vec::new());
        }
        let partitions = self.partitions.iter();
        let ends = partitions.map(|(id, partition)| (*id, partition.log_start, partition.committed));
        (facts, ends.collect())
    }

    pub(crate) fn next_service_timer(&self) -> Option<Instant> {
        self.services.iter().filter_map(|service| service.next_timer()).min()
    }

    /// Refuses every call that waits for a service.
    pub(crate) fn refuse_service_calls(&mut self, refusal: &Refusal) {
        let waiting: Vec<CallToken> =
            self.services.iter_mut().flat_map(|service| service.abandon_all()).collect();
        for token in waiting {
            self.answer(token, Err(refusal.clone()));
        }
    }
}
