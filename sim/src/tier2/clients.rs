//! The applications of the workload: producers, consumers with cursors, and an administrator, on the client's
//! own machines. They write down what they did and saw in the [`History`]; they judge nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use martlet_client::core::{
    Accumulator, AdminCore, AdminEvent, CallId, CommitId, ConsumerCore, ConsumerEvent, Network, ProducerCore,
    ProducerEvent,
};
use martlet_client::{ClientError, ConnectConfig, ConsumerConfig, ProducerConfig, Record};
use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_core::{Acks, ErrorCode, Instant, Now};
use martlet_formats::native::Batch;
use martlet_runtime::local::Notify;
use martlet_runtime::sim::SimRandom;

use super::history::{History, Partition, Promise};
use super::link::Application;
use super::record::{RecordId, recognize, value_of};

pub(crate) type SharedHistory = Rc<RefCell<History>>;

/// How every client of a seed connects.
pub(crate) fn connect_config(servers: &[String], seed: u64) -> ConnectConfig {
    let mut config = ConnectConfig::new("");
    config.servers = servers.to_vec();
    config.connect_timeout = Duration::from_millis(500);
    config.request_timeout = Duration::from_secs(5);
    config.keepalive = Duration::from_secs(5);
    // A healed world is found soon; until then a seed would only wait.
    config.backoff_max = Duration::from_millis(150);
    config.seed = seed;
    config
}

/// Sends records as long as it is told to.
pub(crate) struct ProducerApp {
    core: ProducerCore<Vec<RecordId>>,
    accumulator: Accumulator<Vec<RecordId>>,
    history: SharedHistory,
    topic: u32,
    random: SimRandom,
    producer: u32,
    next_number: u32,
    promise: Promise,
    next_send: Instant,
    pause: Duration,
    outstanding: usize,
    pub(crate) stopping: bool,
    pub(crate) fatal: bool,
}

/// Records of one producer that are sent and not settled, at most.
const OUTSTANDING_MAX: usize = 300;

impl ProducerApp {
    /// Producer number `producer` of topic number `topic`.
    pub(crate) fn new(
        (name, topic): (&str, u32),
        config: ProducerConfig,
        producer: u32,
        history: SharedHistory,
        mut random: SimRandom,
    ) -> Result<ProducerApp, ClientError> {
        let durable = config.acks.is_none_or(|acks| acks == Acks::Durable);
        Ok(ProducerApp {
            accumulator: Accumulator::new(&config),
            promise: Promise { durable, idempotent: config.idempotent },
            core: ProducerCore::new(name, config)?,
            history,
            topic,
            producer,
            next_number: 0,
            next_send: Instant(0),
            pause: Duration::from_micros(random.between(300, 6_000)),
            random,
            outstanding: 0,
            stopping: false,
            fatal: false,
        })
    }

    fn send_some(&mut self, now: Now) {
        for _ in 0..self.random.between(1, 8) {
            let partitions = self.accumulator.partitions();
            if partitions == 0 || self.outstanding >= OUTSTANDING_MAX {
                return;
            }
            let id = RecordId { producer: self.producer, number: self.next_number };
            let value = value_of(id);
            let index = self.random.below(u64::from(partitions)) as u32;
            let record = Record { partition: Some(index), ..Record::value(&value) };
            match self.accumulator.append(&record, &now) {
                Ok(appended) => {
                    appended.tag.push(id);
                    self.next_number += 1;
                    self.outstanding += 1;
                    let partition = Partition { topic: self.topic, index };
                    let at_ms = now.instant.0 / 1_000_000;
                    self.history.borrow_mut().sent(id, partition, self.promise, at_ms);
                }
                Err(ClientError::BufferFull) => return,
                Err(error) => {
                    self.fatal = true;
                    return self.history.borrow_mut().violation(format!("a record was refused: {error}"));
                }
            }
        }
    }
}

impl ProducerApp {
    pub(crate) fn is_settled(&self) -> bool {
        self.outstanding == 0
    }
}

impl Application for ProducerApp {
    type Tag = martlet_client::core::ProducerTag;

    fn network(&mut self) -> &mut Network<Self::Tag> {
        self.core.network()
    }

    fn step(&mut self, now: Now) {
        self.core.step(&mut self.accumulator, now);
    }

    fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        self.core.next_timer(now)
    }

    fn work(&mut self, now: Now) -> Option<Instant> {
        while let Some(event) = self.core.event() {
            match event {
                ProducerEvent::Ready { .. } => {}
                ProducerEvent::Settled { tag, result, .. } => {
                    self.outstanding = self.outstanding.saturating_sub(tag.len());
                    let mut history = self.history.borrow_mut();
                    match result {
                        Ok(base) => history.acknowledged(&tag, base),
                        Err(_) => history.unknown(&tag),
                    }
                }
                // A shard that is fenced says so for good; this producer has done its part.
                ProducerEvent::Fatal(error) => {
                    self.fatal = true;
                    report_death(&self.history, self.topic, &format!("producer {}", self.producer), &error);
                }
            }
        }
        if self.stopping || self.fatal {
            return None;
        }
        if self.next_send <= now.instant {
            self.send_some(now);
            let pause = self.pause.as_nanos() as u64;
            self.next_send =
                now.instant.after(Duration::from_nanos(self.random.between(pause / 4, pause * 2)));
        }
        Some(self.next_send)
    }

    fn is_finished(&self) -> bool {
        (self.fatal || self.stopping) && self.outstanding == 0
    }
}

/// A client cannot go on. Storage may have failed, or its topic may be on its way out; all else is wrong.
fn report_death(history: &SharedHistory, topic: u32, who: &str, error: &ClientError) {
    let expected = match error.code() {
        Some(ErrorCode::StorageFenced | ErrorCode::StorageFull) => true,
        Some(ErrorCode::UnknownTopic | ErrorCode::UnknownPartition) => !history.borrow().is_there(topic),
        _ => false,
    };
    if !expected {
        history.borrow_mut().unless_state_is_touched(format!("{who} of topic {topic} died: {error}"));
    }
}

/// Reads everything, over and over from its cursor, and moves the cursor.
pub(crate) struct ConsumerApp {
    core: ConsumerCore,
    history: SharedHistory,
    topic: u32,
    cursor: Option<String>,
    commits: BTreeMap<CommitId, Vec<(u32, u64)>>,
    /// The last read: nothing may be missing.
    last: bool,
    next_commit: Instant,
    pub(crate) stopping: bool,
    pub(crate) ended: bool,
}

impl ConsumerApp {
    /// A consumer of topic number `topic`.
    pub(crate) fn new(
        (name, topic): (&str, u32),
        config: ConsumerConfig,
        last: bool,
        history: SharedHistory,
    ) -> Result<ConsumerApp, ClientError> {
        Ok(ConsumerApp {
            cursor: config.cursor.clone(),
            core: ConsumerCore::new(name, config)?,
            history,
            topic,
            commits: BTreeMap::new(),
            last,
            next_commit: Instant(0),
            stopping: false,
            ended: false,
        })
    }

    fn take_batch(&mut self, batch: &martlet_client::core::FetchedBatch) {
        let mut history = self.history.borrow_mut();
        let partition = Partition { topic: self.topic, index: batch.partition };
        let Ok(records) = Batch::open(&batch.body, 1 << 20) else {
            return history.violation(format!("a batch of partition {partition} cannot be opened"));
        };
        for (offset, record) in (batch.header.base_offset..).zip(records.records()) {
            let id = recognize(record.value.unwrap_or_default());
            if self.last {
                if offset >= batch.from {
                    history.read_last(partition, offset, id);
                }
            } else {
                history.read(partition, offset, id);
            }
        }
    }

    fn take_problem(&mut self, problem: &ClientError) {
        let mut history = self.history.borrow_mut();
        match problem {
            ClientError::CorruptRange { partition, from, next_offset, .. } if self.last => {
                let partition = Partition { topic: self.topic, index: *partition };
                history.hole(partition, *from, *next_offset);
            }
            // While devices fail, a range may be unreadable for a while.
            ClientError::CorruptRange { .. } => {}
            other if self.last => {
                history.unless_state_is_touched(format!("the last read of {} failed: {other}", self.topic));
            }
            _ => {}
        }
    }

    fn commit(&mut self, now: Now) {
        let Some(cursor) = &self.cursor else { return };
        let positions: Vec<(u32, u64)> =
            self.core.positions().filter_map(|(index, at)| Some((index, at?))).collect();
        if positions.is_empty() || !self.commits.is_empty() {
            return;
        }
        for (index, offset) in &positions {
            let partition = Partition { topic: self.topic, index: *index };
            self.history.borrow_mut().cursor_attempted(cursor, partition, *offset);
        }
        if let Ok(commit) = self.core.commit(&positions, now) {
            self.commits.insert(commit, positions);
        }
    }

    fn take_commits(&mut self) {
        while let Some((commit, result)) = self.core.committed() {
            let moved = self.commits.remove(&commit).unwrap_or_default();
            if let (Ok(()), Some(cursor)) = (result, &self.cursor) {
                for (index, offset) in moved {
                    let partition = Partition { topic: self.topic, index };
                    self.history.borrow_mut().cursor_acknowledged(cursor, partition, offset);
                }
            }
        }
    }
}

impl ConsumerApp {
    pub(crate) fn has_stopped(&self) -> bool {
        self.is_finished()
    }
}

impl Application for ConsumerApp {
    type Tag = martlet_client::core::ConsumerTag;

    fn network(&mut self) -> &mut Network<Self::Tag> {
        self.core.network()
    }

    fn step(&mut self, now: Now) {
        self.core.step(now);
    }

    fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        self.core.next_timer(now)
    }

    fn work(&mut self, now: Now) -> Option<Instant> {
        while !self.ended {
            match self.core.take() {
                Some(ConsumerEvent::Batch(batch)) => self.take_batch(&batch),
                Some(ConsumerEvent::Problem(problem)) => self.take_problem(&problem),
                Some(ConsumerEvent::Ended) => self.ended = true,
                None => break,
            }
        }
        self.take_commits();
        if let Some(fatal) = self.core.fatal() {
            if !self.ended {
                report_death(&self.history, self.topic, "a consumer", fatal);
            }
            self.ended = true;
        }
        if self.cursor.is_none() || self.stopping {
            return None;
        }
        if self.next_commit <= now.instant {
            self.commit(now);
            self.next_commit = now.instant.after(Duration::from_millis(10));
        }
        Some(self.next_commit)
    }

    fn is_finished(&self) -> bool {
        self.ended || (self.stopping && self.commits.is_empty())
    }
}

/// Makes calls one after the other and keeps the answers, for as long as it is wanted.
pub(crate) struct AdminApp {
    core: AdminCore,
    calls: VecDeque<RequestCall>,
    open: Option<CallId>,
    answers: VecDeque<Result<ResponseAnswer, ClientError>>,
    /// Somebody waits for an answer.
    answered: Notify,
}

impl AdminApp {
    pub(crate) fn new(config: ConnectConfig) -> Result<AdminApp, ClientError> {
        Ok(AdminApp {
            core: AdminCore::new(config)?,
            calls: VecDeque::new(),
            open: None,
            answers: VecDeque::new(),
            answered: Notify::new(),
        })
    }

    pub(crate) fn ask(&mut self, call: RequestCall) {
        self.calls.push_back(call);
    }

    pub(crate) fn answered(&self) -> Notify {
        self.answered.clone()
    }

    pub(crate) fn answer(&mut self) -> Option<Result<ResponseAnswer, ClientError>> {
        self.answers.pop_front()
    }
}

impl Application for AdminApp {
    type Tag = CallId;

    fn network(&mut self) -> &mut Network<Self::Tag> {
        self.core.network()
    }

    fn step(&mut self, now: Now) {
        self.core.step(now);
    }

    fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        self.core.next_timer(now)
    }

    fn work(&mut self, now: Now) -> Option<Instant> {
        while let Some(AdminEvent::Done { call, result }) = self.core.event() {
            if self.open == Some(call) {
                self.open = None;
                self.answers.push_back(result);
                self.answered.notify_one();
            }
        }
        if self.open.is_none()
            && let Some(call) = self.calls.pop_front()
        {
            self.open = Some(self.core.call(call, now));
        }
        None
    }

    fn is_finished(&self) -> bool {
        false
    }
}
