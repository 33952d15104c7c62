//! The producer's machine: takes batches from the [`Accumulator`], sends them to the shards that own their
//! partitions, retries, and settles them. Must never settle a batch as stored that the broker has not
//! acknowledged, and never bind one sequence to two batches.

mod lane;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use martlet_core::limits::BATCH_BYTES_MAX_DEFAULT;
use martlet_core::native::{AppendRequest, RequestCall, ResponseAnswer};
use martlet_core::{Acks, ErrorCode, Instant, Now, Refusal};

use self::lane::{Identity, Lane, Settled, Verdict};
use super::accumulator::{Accumulator, BatchId};
use super::backoff::{Backoff, Random, earliest};
use super::network::{ConnectionId, Network, NetworkEvent, Route, is_final};
use super::topology::Topology;
use crate::{ClientError, ProducerConfig};

/// What a producer's machine reports.
#[derive(Debug)]
pub enum ProducerEvent<T> {
    /// Records can be appended.
    Ready { partitions: u32 },
    /// A batch has its fate. With acks `none` the offset is `None` and says only that it was sent.
    Settled {
        batch: BatchId,
        partition: u32,
        tag: T,
        records: u32,
        /// The offset of the batch's first record.
        result: Result<Option<u64>, ClientError>,
    },
    /// The producer cannot go on; what was not settled is settled with this error.
    Fatal(ClientError),
}

/// What the producer notes beside a request.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum ProducerTag {
    Describe,
    Open,
    Append { partition: u32, batch: BatchId },
}

/// One producer of one topic.
#[derive(Debug)]
pub struct ProducerCore<T> {
    config: ProducerConfig,
    network: Network<ProducerTag>,
    topology: Topology,
    acks: Acks,
    lanes: Vec<Lane<T>>,
    /// Lanes with batches.
    busy: BTreeSet<u32>,
    identity: Option<Identity>,
    /// An identity that a lane has given up: a new one must be another.
    opening: bool,
    open_at: Instant,
    open_backoff: Backoff,
    random: Random,
    events: VecDeque<ProducerEvent<T>>,
    /// Room in the accumulator to give back.
    released: Vec<(BatchId, usize)>,
    ready: bool,
    fatal: Option<ClientError>,
    /// Why the broker last asked for a repetition, until it stores something.
    refused: Option<ClientError>,
    /// When the accumulator has something for a lane with room.
    linger_timer: Option<Instant>,
}

impl<T: Default> ProducerCore<T> {
    /// # Errors
    /// `InvalidConfig`, naming the field.
    pub fn new(topic: &str, config: ProducerConfig) -> Result<ProducerCore<T>, ClientError> {
        let invalid = |detail: &str| Err(ClientError::InvalidConfig { detail: detail.into() });
        if config.connect.servers.is_empty() {
            return invalid("servers is empty: name at least one HOST:PORT");
        }
        let in_flight_limit = martlet_core::limits::PRODUCER_BATCHES_REMEMBERED;
        if config.in_flight_max == 0 || (config.idempotent && config.in_flight_max > in_flight_limit) {
            return invalid("in_flight_max must be 1 to 5 for an idempotent producer");
        }
        Ok(ProducerCore {
            network: Network::new(config.connect.clone()),
            topology: Topology::new(topic, &config.connect),
            acks: config.acks.unwrap_or_default(),
            lanes: Vec::new(),
            busy: BTreeSet::new(),
            identity: None,
            opening: false,
            open_at: Instant(0),
            open_backoff: Backoff::default(),
            random: Random::new(config.connect.seed ^ 0x7072_6f64),
            events: VecDeque::new(),
            released: Vec::new(),
            ready: false,
            fatal: None,
            refused: None,
            linger_timer: None,
            config,
        })
    }

    /// The connections, for the driver.
    pub fn network(&mut self) -> &mut Network<ProducerTag> {
        &mut self.network
    }

    /// The next thing that happened.
    pub fn event(&mut self) -> Option<ProducerEvent<T>> {
        self.events.pop_front()
    }

    /// Why nothing gets through at the moment, if so.
    #[must_use]
    pub fn last_problem(&self) -> Option<&ClientError> {
        self.network.last_problem()
    }

    /// Why some batch cannot be sent at the moment: the shard that owns its partition was lost or is not
    /// reached.
    #[must_use]
    pub fn outage(&self) -> Option<&ClientError> {
        let routes = self.busy.iter().filter_map(|partition| self.topology.partition(*partition));
        routes.map(|(_, address)| address).find_map(|address| self.network.problem(address))
    }

    /// Gives up: everything that is not settled is settled with `error` by the next step.
    pub fn abort(&mut self, error: ClientError) {
        self.die(error);
    }

    /// Whether room waits to be given back to the accumulator.
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// One whole step with the accumulator at hand.
    pub fn step(&mut self, accumulator: &mut Accumulator<T>, now: Now) {
        self.process(now);
        self.exchange(accumulator, now);
        self.send(now);
        self.exchange(accumulator, now);
    }

    /// First third of a step: answers, losses, time-outs, routes.
    pub fn process(&mut self, now: Now) {
        self.network.on_timer(now);
        while let Some(event) = self.network.event() {
            self.on_event(event, now);
        }
        self.topology.poll(&mut self.network, ProducerTag::Describe, now);
        self.open_identity(now);
    }

    /// Second third, the only one that needs the accumulator: gives back room, takes batches that may leave.
    pub fn exchange(&mut self, accumulator: &mut Accumulator<T>, now: Now) {
        if self.lanes.len() > accumulator.partitions() as usize || !self.ready {
            self.publish_topic(accumulator);
        }
        for (batch, charged) in self.released.drain(..) {
            accumulator.settle(batch, charged);
        }
        self.linger_timer = None;
        let occupied: Vec<u32> = accumulator.occupied().collect();
        for partition in occupied {
            self.take_batches(accumulator, partition, now);
        }
        for (batch, charged) in self.released.drain(..) {
            accumulator.settle(batch, charged);
        }
        if let Some(error) = &self.fatal {
            accumulator.fail(error.clone());
        }
    }

    fn publish_topic(&mut self, accumulator: &mut Accumulator<T>) {
        let partitions = self.lanes.len() as u32;
        let identified = self.identity.is_some() || !self.needs_identity();
        if partitions == 0 || !identified {
            return;
        }
        let limit = self.topology.setting("batch_bytes_max");
        let limit = limit.and_then(|text| martlet_core::config::parse_bytes(text).ok());
        let limit = limit.and_then(|bytes| usize::try_from(bytes).ok());
        accumulator.set_topic(partitions, limit.unwrap_or(BATCH_BYTES_MAX_DEFAULT as usize));
        if !self.ready {
            self.ready = true;
            self.events.push_back(ProducerEvent::Ready { partitions });
        }
    }

    fn take_batches(&mut self, accumulator: &mut Accumulator<T>, partition: u32, now: Now) {
        let Some(lane) = self.lanes.get_mut(partition as usize) else { return };
        let timeout = self.config.delivery_timeout;
        while let Some(ready_at) = accumulator.ready_at(partition) {
            let expires = accumulator.oldest(partition).map(|created| created.after(timeout));
            let expired = expires.is_some_and(|expires| expires <= now.instant) && lane.is_empty();
            if let Some(error) = &self.fatal {
                let error = error.clone();
                let Some(batch) = accumulator.take(partition) else { return };
                let settled = lane::never_sent(batch, error);
                finish(&mut self.events, &mut self.released, partition, settled);
            } else if expired {
                let error = unsent(self.network.last_problem(), self.refused.as_ref());
                let Some(batch) = accumulator.take(partition) else { return };
                let settled = lane::never_sent(batch, error);
                finish(&mut self.events, &mut self.released, partition, settled);
            } else if lane.len() >= self.config.in_flight_max {
                return;
            } else if ready_at <= now.instant {
                let Some(batch) = accumulator.take(partition) else { return };
                lane.push(batch, timeout);
                self.busy.insert(partition);
            } else {
                self.linger_timer = earliest(self.linger_timer, earliest(Some(ready_at), expires));
                return;
            }
        }
    }

    /// Last third: puts batches on connections.
    pub fn send(&mut self, now: Now) {
        let busy: Vec<u32> = self.busy.iter().copied().collect();
        for partition in busy {
            self.send_lane(partition, now);
            if self.lanes[partition as usize].is_empty() {
                self.busy.remove(&partition);
            }
        }
    }

    fn send_lane(&mut self, partition: u32, now: Now) {
        let lane = &mut self.lanes[partition as usize];
        if lane.is_late(now.instant) {
            let detail = unsent(self.network.last_problem(), self.refused.as_ref());
            for settled in lane.expire(now.instant, &detail) {
                finish(&mut self.events, &mut self.released, partition, settled);
            }
        }
        if let Some(error) = &self.fatal {
            for settled in lane.fail_all(error) {
                finish(&mut self.events, &mut self.released, partition, settled);
            }
            return;
        }
        if !lane.may_send(now.instant) {
            return;
        }
        let Some((id, address)) = self.topology.partition(partition) else { return };
        let connection = match self.network.route(address, now) {
            Route::Ready(connection) => connection,
            Route::Pending => return,
            Route::Backoff(until) => return lane.wait_until(until),
        };
        self.fill(partition, id, connection, now);
    }

    fn fill(&mut self, partition: u32, id: u64, connection: ConnectionId, now: Now) {
        let needs_identity = self.needs_identity();
        let lane = &mut self.lanes[partition as usize];
        while self.network.has_room(connection) {
            if needs_identity && lane.wants_identity() {
                match self.identity {
                    Some(identity) if lane.adopt(identity) => {}
                    // Given up here before, so it is of no use to anybody any more.
                    Some(_) => {
                        self.identity = None;
                        return self.open_identity(now);
                    }
                    None => return self.open_identity(now),
                }
            }
            let Some(outgoing) = lane.next(connection, needs_identity) else { return };
            let call = RequestCall::Append(AppendRequest {
                partition: id,
                acks: Some(self.acks),
                record_count: outgoing.record_count,
                body_crc: outgoing.body_crc,
                timestamp_max: outgoing.timestamp_max,
                producer: outgoing.sequence.map_or(0, |sequence| sequence.identity.producer),
                producer_epoch: outgoing.sequence.map_or(0, |sequence| sequence.identity.epoch),
                base_sequence: outgoing.sequence.map_or(-1, |sequence| sequence.base),
                flags: 0,
                key_hash: 0,
            });
            if self.acks == Acks::None {
                self.network.post(connection, call, outgoing.body);
                if let Some(settled) = lane.settle(outgoing.batch, Ok(None)) {
                    finish(&mut self.events, &mut self.released, partition, settled);
                }
            } else {
                let tag = ProducerTag::Append { partition, batch: outgoing.batch };
                self.network.send(connection, call, outgoing.body, tag, Duration::ZERO, now);
            }
        }
    }

    fn needs_identity(&self) -> bool {
        self.config.idempotent && self.acks != Acks::None
    }

    /// Asks for a producer id if there is none and it is time to.
    fn open_identity(&mut self, now: Now) {
        let described = self.topology.description().is_some();
        let idle = self.identity.is_some() || self.opening;
        if !self.needs_identity() || !described || idle || self.open_at > now.instant {
            return;
        }
        match self.topology.any_server(&mut self.network, now) {
            Route::Ready(connection) => {
                self.opening = true;
                let call = RequestCall::ProducerOpen;
                self.network.send(connection, call, Bytes::new(), ProducerTag::Open, Duration::ZERO, now);
            }
            Route::Pending => {}
            Route::Backoff(until) => self.open_at = until,
        }
    }

    fn on_event(&mut self, event: NetworkEvent<ProducerTag>, now: Now) {
        match event {
            NetworkEvent::Ready { .. } => {}
            NetworkEvent::Down { error, .. } => {
                self.topology.doubt(now);
                if !self.ready && is_final(&error) {
                    self.die(error);
                }
            }
            NetworkEvent::Lost { tag, .. } => match tag {
                ProducerTag::Describe => self.topology.lost(now),
                ProducerTag::Open => self.opened(None, now),
                ProducerTag::Append { partition, batch } => {
                    let retry_at = self.retry_at(partition, now);
                    self.lanes[partition as usize].lost(batch, retry_at);
                }
            },
            NetworkEvent::Answered { tag, connection, outcome } => {
                let outcome = outcome.map(|(answer, _)| answer);
                match tag {
                    ProducerTag::Describe => self.described(outcome, connection, now),
                    ProducerTag::Open => match outcome {
                        Ok(ResponseAnswer::Producer { producer, epoch }) => {
                            self.opened(Some(Identity { producer, epoch }), now);
                        }
                        Err(refusal) if !is_temporary(refusal.code) => self.die(refusal.into()),
                        _ => self.opened(None, now),
                    },
                    ProducerTag::Append { partition, batch } => self.appended(partition, batch, outcome, now),
                }
            }
        }
    }

    fn opened(&mut self, identity: Option<Identity>, now: Now) {
        self.opening = false;
        self.identity = identity;
        if identity.is_some() {
            self.open_backoff.reset();
        } else {
            let (min, max) = (self.config.connect.backoff_min, self.config.connect.backoff_max);
            self.open_at = self.open_backoff.fail(min, max, &mut self.random, now.instant);
        }
    }

    fn described(&mut self, outcome: Result<ResponseAnswer, Refusal>, connection: ConnectionId, now: Now) {
        if let Err(error) = self.topology.answered(outcome, self.network.address_of(connection), now) {
            return self.die(error);
        }
        let missing = (self.topology.partition_count() as usize).saturating_sub(self.lanes.len());
        self.lanes.extend((0..missing).map(|_| Lane::new()));
        if let (None, false) = (self.config.acks, self.ready) {
            self.acks = self.topology.setting("acks").and_then(|text| text.parse().ok()).unwrap_or_default();
        }
    }

    fn appended(
        &mut self,
        partition: u32,
        batch: BatchId,
        outcome: Result<ResponseAnswer, Refusal>,
        now: Now,
    ) {
        let durable = self.acks == Acks::Durable;
        let verdict = match outcome {
            Ok(ResponseAnswer::Appended { base_offset, .. }) => Verdict::Stored(Some(base_offset)),
            Ok(_) => Verdict::Failed(ClientError::Protocol { detail: "the answer to Append is none".into() }),
            Err(refusal) => match refusal.code {
                ErrorCode::DuplicateSequence => Verdict::Stored(None),
                ErrorCode::OutOfOrderSequence => Verdict::Gap { refusal, resend: !durable },
                ErrorCode::UnknownProducer => Verdict::Gap { refusal, resend: true },
                code if is_temporary(code) => {
                    self.refused = Some(refusal.into());
                    Verdict::Later
                }
                _ => Verdict::Failed(refusal.into()),
            },
        };
        if let Verdict::Later = verdict {
            self.topology.doubt(now);
        } else if let Verdict::Stored(_) = verdict {
            self.refused = None;
            self.topology.confirm();
        }
        let retry_at = match verdict {
            Verdict::Stored(_) => now.instant,
            _ => self.retry_at(partition, now),
        };
        let idempotent = self.needs_identity();
        if let Some(settled) = self.lanes[partition as usize].answered(batch, verdict, idempotent, retry_at) {
            finish(&mut self.events, &mut self.released, partition, settled);
        }
    }

    fn retry_at(&mut self, partition: u32, now: Now) -> Instant {
        let (min, max) = (self.config.connect.backoff_min, self.config.connect.backoff_max);
        self.lanes[partition as usize].retry_at(min, max, &mut self.random, now.instant)
    }

    fn die(&mut self, error: ClientError) {
        if self.fatal.is_none() {
            self.fatal = Some(error.clone());
            self.events.push_back(ProducerEvent::Fatal(error));
        }
    }

    /// When the next step is due if nothing else happens.
    #[must_use]
    pub fn next_timer(&self, now: Instant) -> Option<Instant> {
        let mut next = earliest(self.network.next_timer(), self.topology.next_timer(now));
        next = earliest(next, self.linger_timer);
        if self.identity.is_none() && self.needs_identity() && !self.opening {
            next = earliest(next, Some(self.open_at).filter(|at| *at > now));
        }
        for partition in &self.busy {
            next = earliest(next, self.lanes[*partition as usize].next_timer(now));
        }
        next
    }
}

/// Refusals worth repeating: those of the table, and a partition that a shard has not heard of yet.
fn is_temporary(code: ErrorCode) -> bool {
    code.is_retriable() || code == ErrorCode::UnknownPartition
}

/// What a batch that ran out of time is settled with.
fn unsent(unreached: Option<&ClientError>, refused: Option<&ClientError>) -> ClientError {
    let problem = unreached.or(refused);
    let detail = problem.map_or_else(|| "the broker was busy".to_owned(), ClientError::reason);
    ClientError::Unreachable { detail }
}

fn finish<T>(
    events: &mut VecDeque<ProducerEvent<T>>,
    released: &mut Vec<(BatchId, usize)>,
    partition: u32,
    settled: Settled<T>,
) {
    released.push((settled.batch, settled.charged));
    events.push_back(ProducerEvent::Settled {
        batch: settled.batch,
        partition,
        tag: settled.tag,
        records: settled.records,
        result: settled.result,
    });
}
