//! A client that reads numbers, writes them on and commits how far it has come, all in transactions, on two
//! shards whose logs lose what is not durable: after every single durable record everything crashes, and at
//! the end each number was written once, for whoever reads what is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use martlet_core::frame::{flags, format};
use martlet_core::{Instant, Now, Offset, PartitionId, ProducerId, Refusal, ShardId, WallTime};
use martlet_shard::api::{Answer, Append, Call, CallContext, CallToken, Caller, Reply};
use martlet_shard::log::Log as _;
use martlet_shard::service::{ServiceAt, ServiceMessage};
use martlet_shard::testing::MemoryLog;
use martlet_shard::{AllowAll, Engine, EngineConfig};

use super::ask::{Ask, Claim, Failure, Target, Told, What};
use super::config::TransactionConfig;
use super::service::{Coordinator, Planted};
use crate::groups::ask::{self as group, Commit, CommitPartition, MemberClaim, TransactionCommit};
use crate::groups::{self, GroupConfig, GroupServices};
use crate::topics::full_name;
use martlet_shard::service::ServiceFactory as _;

const SHARDS: u16 = 2;
const PARTITIONS: usize = 4;
const NUMBERS: i64 = 9;
const NUMBERS_A_TURN: i64 = 3;
const STEPS_MAX: usize = 100_000;

struct Seat {
    engine: Engine,
    log: MemoryLog,
}

/// Everything crashed.
#[derive(Debug)]
struct Crashed;

struct World {
    seats: Vec<Seat>,
    now: Now,
    tokens: u64,
    answers: BTreeMap<CallToken, Result<Reply, Refusal>>,
    own: BTreeMap<CallToken, (usize, Caller, u64)>,
    planted: Planted,
    random: u64,
    /// Durable records after which everything crashes, over all logs.
    crash_after: usize,
    flushed: usize,
    topic: Vec<PartitionId>,
    topic_id: martlet_core::TopicId,
}

fn engine(shard: usize, planted: Planted) -> Engine {
    let shard = ShardId(shard as u16);
    let mut engine = Engine::new(EngineConfig::new(shard, SHARDS), Box::new(AllowAll));
    engine.add_service(GroupServices::new(GroupConfig::default()).make(shard));
    let mut coordinator = Coordinator::new(TransactionConfig::default());
    coordinator.planted = planted;
    engine.add_service(Box::new(coordinator));
    engine
}

impl World {
    fn new(planted: Planted, seed: u64) -> World {
        let seats = (0..usize::from(SHARDS))
            .map(|shard| Seat { engine: engine(shard, planted), log: MemoryLog::new() })
            .collect();
        let mut world = World {
            seats,
            now: Now { instant: Instant(1), wall: WallTime(1_000_000) },
            tokens: 0,
            answers: BTreeMap::new(),
            own: BTreeMap::new(),
            planted,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            crash_after: usize::MAX,
            flushed: 0,
            topic: Vec::new(),
            topic_id: martlet_core::TopicId(0),
        };
        for seat in &mut world.seats {
            seat.engine.finish_recovery(&mut seat.log, world.now);
        }
        let create = Call::TopicCreate {
            name: full_name("out").unwrap(),
            partitions: PARTITIONS as u32,
            settings: Vec::new(),
        };
        let Ok(Reply::Topic(view)) = world.ask(create).unwrap() else { panic!("no topic") };
        world.topic = view.partitions.iter().map(|(partition, _)| *partition).collect();
        world.topic_id = view.id;
        world.settle().unwrap_or_else(|Crashed| panic!("no crash was asked for"));
        world
    }

    fn dice(&mut self, sides: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % sides as u64) as usize
    }

    fn submit(&mut self, call: Call) -> CallToken {
        self.tokens += 1;
        let token = CallToken(self.tokens);
        let at = usize::from(self.seats[0].engine.route(&call).0);
        let Seat { engine, log } = &mut self.seats[at];
        engine.submit(log, token, &CallContext::default(), call, self.now);
        self.carry_out();
        token
    }

    /// Does what the engines want, until they want nothing.
    fn carry_out(&mut self) {
        loop {
            let mut is_done = true;
            for at in 0..self.seats.len() {
                for (index, command) in self.seats[at].engine.take_metadata() {
                    for other in (0..self.seats.len()).filter(|other| *other != at) {
                        let Seat { engine, log } = &mut self.seats[other];
                        engine.apply_metadata(log, index, &command, self.now).unwrap();
                    }
                }
                for answer in self.seats[at].engine.take_answers() {
                    is_done = false;
                    self.hear(at, answer);
                }
            }
            if is_done {
                return;
            }
        }
    }

    fn hear(&mut self, at: usize, answer: Answer) {
        match answer {
            Answer::Reply(token, outcome) => match self.own.remove(&token) {
                Some((shard, caller, ticket)) => {
                    let Seat { engine, log } = &mut self.seats[shard];
                    engine.on_called(log, caller, ticket, outcome, self.now);
                }
                None => assert!(self.answers.insert(token, outcome).is_none(), "answered twice"),
            },
            Answer::Call { caller, ticket, call } => {
                let to = usize::from(self.seats[at].engine.route(&call).0);
                self.tokens += 1;
                let token = CallToken(self.tokens);
                self.own.insert(token, (at, caller, ticket));
                let Seat { engine, log } = &mut self.seats[to];
                engine.submit(log, token, &CallContext::default(), *call, self.now);
            }
            Answer::Fetch { .. } | Answer::FindTime { .. } => panic!("nobody reads so"),
        }
    }

    /// Makes one record of one log durable, or lets time pass.
    fn step(&mut self) -> Result<(), Crashed> {
        let behind: Vec<usize> = (0..self.seats.len())
            .filter(|at| self.seats[*at].log.durable_end() < self.seats[*at].log.end())
            .collect();
        if behind.is_empty() {
            let due = self.seats.iter().filter_map(|seat| seat.engine.next_timer()).min().unwrap();
            let passed = due.since(self.now.instant).max(Duration::from_millis(1));
            self.now.instant = self.now.instant.after(passed);
            self.now.wall.0 += passed.as_millis() as i64;
            for Seat { engine, log } in &mut self.seats {
                engine.on_timer(log, self.now);
            }
        } else {
            let chosen = behind[self.dice(behind.len())];
            let Seat { engine, log } = &mut self.seats[chosen];
            log.flush_to(log.durable_end() + 1);
            let durable = log.durable();
            engine.on_durable(log, durable, self.now);
            self.flushed += 1;
            if self.flushed == self.crash_after {
                return Err(Crashed);
            }
        }
        self.carry_out();
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Crashed> {
        while self.seats.iter().any(|seat| seat.log.durable_end() < seat.log.end()) {
            self.step()?;
        }
        Ok(())
    }

    fn wait(&mut self, token: CallToken) -> Result<Result<Reply, Refusal>, Crashed> {
        for _ in 0..STEPS_MAX {
            if let Some(answer) = self.answers.remove(&token) {
                return Ok(answer);
            }
            self.step()?;
        }
        panic!("no answer");
    }

    fn ask(&mut self, call: Call) -> Result<Result<Reply, Refusal>, Crashed> {
        let token = self.submit(call);
        self.wait(token)
    }

    /// Everything is killed; each log keeps what is durable, and perhaps something behind it.
    fn crash(&mut self) {
        self.answers.clear();
        self.own.clear();
        for at in 0..self.seats.len() {
            let (durable, end) = (self.seats[at].log.durable_end(), self.seats[at].log.end());
            let kept = durable + self.dice(end - durable + 1);
            self.seats[at].log = self.seats[at].log.crash(kept);
            self.seats[at].engine = engine(at, self.planted);
            let Seat { engine, log } = &mut self.seats[at];
            log.replay(engine, 0);
            engine.finish_recovery(log, self.now);
        }
        self.carry_out();
    }

    fn told(&mut self, what: What) -> Result<Told, Crashed> {
        match self.ask(Ask::call("id", what))? {
            Ok(Reply::Service(told)) => Ok(told.take().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn group(&mut self, what: group::What) -> Result<group::Told, Crashed> {
        let ask = group::Ask { group: "readers".to_owned(), client: group::Client::default(), what };
        let at = ServiceAt::Key("readers".to_owned());
        let call = Call::Service { service: groups::SERVICE, at, message: ServiceMessage::new(ask) };
        match self.ask(call)? {
            Ok(Reply::Service(told)) => Ok(told.take().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// How far the client has come, for all it is told.
    fn position(&mut self) -> Result<i64, Crashed> {
        let topics = Some(vec![("out".to_owned(), vec![0])]);
        let told = self.group(group::What::Fetch { claim: None, topics, is_stable: true })?;
        let group::Told::Fetched(Ok(fetched)) = told else { panic!("no offsets") };
        assert!(fetched[0].unstable.is_empty(), "nothing is open after InitProducerId");
        Ok(fetched[0].partitions[0].1.as_ref().map_or(0, |committed| committed.offset))
    }

    /// What a reader of what is committed finds, from the log alone, and as the engine tells it.
    fn read_committed(&mut self) -> Vec<i64> {
        let mut found = Vec::new();
        for partition in self.topic.clone() {
            let Ok(Ok(Reply::Readable(facts))) = self.ask(Call::Facts { partitions: vec![partition] }) else {
                panic!("no facts")
            };
            let facts = facts[0].clone().unwrap();
            assert_eq!(facts.stable, facts.committed, "nothing is open");
            let upto = facts.stable;
            let Ok(Ok(Reply::Aborted(aborted))) = self.ask(Call::Aborted { partition, from: 0, upto }) else {
                panic!("no aborted transactions")
            };
            let at = usize::from(self.seats[0].engine.owner(partition).0);
            let told = as_told(&self.seats[at].log, partition, aborted);
            assert_eq!(told, as_logged(&self.seats[at].log, partition), "what is told is what is logged");
            found.extend(told);
        }
        found.sort_unstable();
        found
    }
}

/// As Kafka's clients do it: a transaction that was told as aborted is skipped from its first offset to the
/// record that ends it.
fn as_told(log: &MemoryLog, partition: PartitionId, aborted: Vec<(ProducerId, Offset)>) -> Vec<i64> {
    let mut aborted: BTreeSet<(Offset, u64)> =
        aborted.into_iter().map(|(producer, first)| (first, producer.0)).collect();
    let (mut skipped, mut found) = (BTreeSet::new(), Vec::new());
    for (header, body) in log.frames(partition) {
        while aborted.first().is_some_and(|(first, _)| *first <= header.base_offset) {
            skipped.extend(aborted.pop_first().map(|(_, producer)| producer));
        }
        if header.flags & flags::CONTROL != 0 {
            skipped.remove(&header.producer);
        } else if !skipped.contains(&header.producer) {
            found.push(number_of(body));
        }
    }
    found
}

/// What was committed, by the frames that say so.
fn as_logged(log: &MemoryLog, partition: PartitionId) -> Vec<i64> {
    let mut open: BTreeMap<u64, Vec<(Offset, i64)>> = BTreeMap::new();
    let mut found = Vec::new();
    for (header, body) in log.frames(partition) {
        if header.flags & flags::CONTROL == 0 {
            open.entry(header.producer).or_default().push((header.base_offset, number_of(body)));
        } else {
            let ended = open.remove(&header.producer).unwrap_or_default();
            if header.flags & flags::ABORTED == 0 {
                found.extend(ended);
            }
        }
    }
    assert!(open.is_empty(), "nothing is open");
    found.sort_unstable();
    found.into_iter().map(|(_, number)| number).collect()
}

fn number_of(body: &Bytes) -> i64 {
    i64::from_be_bytes(body[..8].try_into().unwrap())
}

/// The client.
struct Client {
    claim: Claim,
    sequences: Vec<i64>,
    is_new: bool,
    turns: usize,
}

impl Client {
    fn begin(world: &mut World, is_new: bool) -> Result<Client, Crashed> {
        let mut fresh = None;
        loop {
            match world.told(What::Init { timeout_ms: 60_000, claim: None, fresh })? {
                Told::Producer(Ok(claim)) => {
                    return Ok(Client { claim, sequences: vec![0; PARTITIONS], is_new, turns: 0 });
                }
                Told::NeedsProducer => {
                    let Ok(Reply::Producer { producer, .. }) = world.ask(Call::ProducerOpen)? else {
                        panic!("no producer id")
                    };
                    fresh = Some(producer.0 as i64);
                }
                Told::Plain(Some(Failure::ConcurrentTransactions)) => world.step()?,
                other => panic!("{other:?}"),
            }
        }
    }

    fn target(&self, world: &World, index: usize) -> Target {
        Target::Partition { partition: world.topic[index], topic: world.topic_id, index: index as u32 }
    }

    fn append(&mut self, world: &mut World, number: i64) -> CallToken {
        let index = number as usize % PARTITIONS;
        let what = What::Admit { claim: self.claim, target: self.target(world, index), adds: self.is_new };
        let base_sequence = self.sequences[index];
        self.sequences[index] += 1;
        world.submit(Call::Append(Append {
            partition: world.topic[index],
            acks: None,
            format: format::KAFKA_V2,
            flags: flags::TRANSACTIONAL,
            body_crc_from: 0,
            body_crc: 0,
            crc_is_verified: true,
            record_count: 1,
            offset_span: 1,
            timestamp_max: 5,
            producer: ProducerId(self.claim.producer as u64),
            producer_epoch: self.claim.epoch as u16,
            base_sequence,
            key_hash: 0,
            body: Bytes::copy_from_slice(&number.to_be_bytes()),
            verification: Some(Box::new(Ask::call("id", what))),
        }))
    }

    /// One transaction over the numbers from `position`.
    fn turn(&mut self, world: &mut World, position: i64, is_commit: bool) -> Result<(), Crashed> {
        let numbers: Vec<i64> = (position..NUMBERS.min(position + NUMBERS_A_TURN)).collect();
        let group = Target::Group("readers".to_owned());
        if !self.is_new {
            let mut targets: Vec<Target> =
                numbers.iter().map(|number| self.target(world, *number as usize % PARTITIONS)).collect();
            targets.push(group.clone());
            let told = world.told(What::Add { claim: self.claim, targets })?;
            assert_eq!(told, Told::Plain(None));
        }
        let tokens: Vec<CallToken> = numbers.iter().map(|number| self.append(world, *number)).collect();
        for token in tokens {
            let outcome = world.wait(token)?;
            assert!(matches!(outcome, Ok(Reply::Appended { .. })), "{outcome:?}");
        }
        let offset = position + numbers.len() as i64;
        let one = CommitPartition { partition: 0, offset, leader_epoch: -1, metadata: String::new() };
        let claim = MemberClaim { generation: -1, ..MemberClaim::default() };
        let mut commit = TransactionCommit {
            commit: Commit { claim, topics: vec![("out".to_owned(), vec![one])] },
            producer: self.claim.producer,
            epoch: self.claim.epoch,
            verified: None,
        };
        loop {
            match world.group(group::What::TransactionCommit(commit.clone()))? {
                group::Told::Committed(told) => {
                    assert_eq!(told, vec![vec![None]]);
                    break;
                }
                group::Told::Unverified(number) => commit.verified = Some(number),
                other => panic!("{other:?}"),
            }
            let what = What::Admit { claim: self.claim, target: group.clone(), adds: self.is_new };
            assert_eq!(world.told(what)?, Told::Plain(None));
        }
        let what = What::End { claim: self.claim, is_commit, bumps: self.is_new, fresh: None };
        let Told::Producer(Ok(claim)) = world.told(what)? else { panic!("the transaction did not end") };
        if claim != self.claim {
            self.sequences = vec![0; PARTITIONS];
        }
        self.claim = claim;
        Ok(())
    }

    fn run(&mut self, world: &mut World) -> Result<(), Crashed> {
        loop {
            let position = world.position()?;
            if position == NUMBERS {
                return Ok(());
            }
            self.turns += 1;
            self.turn(world, position, self.turns % 3 != 2)?;
        }
    }
}

/// Runs to the end, crashing once. Returns the durable records of a run, and what was written.
fn run(planted: Planted, seed: u64, is_new: bool, crash_after: usize) -> (usize, Vec<i64>) {
    let mut world = World::new(planted, seed);
    let before = world.flushed;
    world.crash_after = before.saturating_add(crash_after);
    let mut epoch = None;
    loop {
        let outcome = Client::begin(&mut world, is_new).and_then(|mut client| {
            let claim = (client.claim.producer, client.claim.epoch);
            assert!(epoch.is_none_or(|before| before < claim), "epochs grow: {epoch:?} {claim:?}");
            epoch = Some(claim);
            client.run(&mut world)
        });
        match outcome {
            Ok(()) => break,
            Err(Crashed) => world.crash(),
        }
    }
    while world.settle().is_err() {
        world.crash();
    }
    let records = world.flushed - before;
    (records, world.read_committed())
}

fn check(planted: Planted, seeds: std::ops::Range<u64>) -> Result<(), String> {
    for seed in seeds {
        for is_new in [false, true] {
            let (records, found) = run(planted, seed, is_new, usize::MAX);
            assert_eq!(found, (0..NUMBERS).collect::<Vec<_>>(), "without a crash");
            for crash_after in 1..=records {
                let (_, found) = run(planted, seed, is_new, crash_after);
                if found != (0..NUMBERS).collect::<Vec<_>>() {
                    return Err(format!("seed {seed}, new {is_new}, crash after {crash_after}: {found:?}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_number_is_written_once_whatever_crash() {
    assert_eq!(check(Planted::Nothing, 1..9), Ok(()));
}

#[test]
fn telling_an_end_before_it_is_durable_is_caught() {
    let caught = std::panic::catch_unwind(|| check(Planted::TellsEarly, 1..9));
    assert!(!matches!(caught, Ok(Ok(()))), "a planted mistake");
}

#[test]
fn forgetting_what_was_decided_is_caught() {
    let caught = std::panic::catch_unwind(|| check(Planted::ForgetsDecisions, 1..9));
    assert!(!matches!(caught, Ok(Ok(()))), "a planted mistake");
}
