//! The service in an engine over a log that can crash.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use martlet_core::{Instant, Now, ShardId, WallTime};
use martlet_shard::api::{Answer, Call, CallContext, CallToken, Reply};
use martlet_shard::log::Log as _;
use martlet_shard::service::{ServiceAt, ServiceMessage};
use martlet_shard::snapshot::{LogState, redistribute};
use martlet_shard::testing::MemoryLog;
use martlet_shard::{AllowAll, Engine, EngineConfig};
use proptest::prelude::*;

use super::super::ask::{
    Ask, Client, Commit, CommitPartition, ConsumerHeartbeat, Failure, Join, MemberClaim, Sync, Told, What,
};
use super::super::config::GroupConfig;
use super::Groups;
use crate::topics::full_name;

struct Bench {
    engine: Engine,
    log: MemoryLog,
    now: Now,
    tokens: u64,
    told: BTreeMap<CallToken, Told>,
    /// A snapshot and where the log was when it was taken.
    checkpoint: (Vec<u8>, usize),
}

fn engine() -> Engine {
    let mut engine = Engine::new(EngineConfig::new(ShardId(0), 1), Box::new(AllowAll));
    engine.add_service(Box::new(Groups::new(GroupConfig::default())));
    engine
}

impl Bench {
    fn new() -> Bench {
        let now = Now { instant: Instant(1), wall: WallTime(1_000_000) };
        let (mut engine, mut log) = (engine(), MemoryLog::new());
        engine.finish_recovery(&mut log, now);
        let checkpoint = (Vec::new(), 0);
        let mut bench = Bench { engine, log, now, tokens: 0, told: BTreeMap::new(), checkpoint };
        bench.create("a");
        bench
    }

    fn call(&mut self, call: Call) -> CallToken {
        self.tokens += 1;
        let token = CallToken(self.tokens);
        self.engine.submit(&mut self.log, token, &CallContext::default(), call, self.now);
        self.collect();
        token
    }

    fn collect(&mut self) {
        for answer in self.engine.take_answers() {
            if let Answer::Reply(token, Ok(Reply::Service(told))) = answer {
                let before = self.told.insert(token, told.take().unwrap());
                assert_eq!(before, None, "a call is answered once");
            }
        }
    }

    fn create(&mut self, topic: &str) {
        let name = full_name(topic).unwrap();
        self.call(Call::TopicCreate { name, partitions: 4, settings: Vec::new() });
        self.flush();
    }

    fn ask(&mut self, group: &str, what: What) -> CallToken {
        let message = ServiceMessage::new(Ask { group: group.to_owned(), client: Client::default(), what });
        self.call(Call::Service {
            service: super::super::SERVICE,
            at: ServiceAt::Key(group.to_owned()),
            message,
        })
    }

    fn flush(&mut self) {
        self.log.flush();
        let durable = self.log.durable();
        self.engine.on_durable(&mut self.log, durable, self.now);
        self.collect();
    }

    fn pass(&mut self, wait: Duration) {
        let until = self.now.instant.after(wait);
        while let Some(due) = self.engine.next_timer().filter(|due| *due <= until) {
            let passed = due.since(self.now.instant);
            self.now.instant = self.now.instant.max(due);
            self.now.wall.0 += passed.as_millis() as i64;
            self.engine.on_timer(&mut self.log, self.now);
            self.collect();
            self.flush();
        }
        self.now.wall.0 += until.since(self.now.instant).as_millis() as i64;
        self.now.instant = until;
    }

    /// The broker is killed and comes back with what the log holds below `end`.
    fn crash(&mut self, end: usize) {
        self.log = self.log.crash(end);
        self.engine = engine();
        let (snapshot, from) = &self.checkpoint;
        if !snapshot.is_empty() {
            self.engine.recover(snapshot).unwrap();
        }
        self.log.replay(&mut self.engine, *from);
        let recovered = self.engine.finish_recovery(&mut self.log, self.now);
        assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
        self.flush();
    }

    fn commit(&mut self, group: &str, partition: u32, offset: i64) -> CallToken {
        let one = CommitPartition { partition, offset, leader_epoch: 3, metadata: "m".to_owned() };
        let claim = MemberClaim { generation: -1, ..MemberClaim::default() };
        self.ask(group, What::Commit(Commit { claim, topics: vec![("a".to_owned(), vec![one])] }))
    }

    fn fetch(&mut self, group: &str) -> BTreeMap<u32, i64> {
        let token = self.ask(group, What::Fetch { claim: None, topics: None, is_stable: false });
        let Some(Told::Fetched(Ok(topics))) = self.told.remove(&token) else { panic!("no offsets") };
        let partitions = topics.into_iter().flat_map(|topic| topic.partitions);
        partitions.filter_map(|(partition, committed)| Some((partition, committed?.offset))).collect()
    }

    fn plain(&mut self, token: CallToken) -> Option<Failure> {
        match self.told.remove(&token) {
            Some(Told::Plain(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// Makes a group of one member; its claim.
    fn member(&mut self, group: &str) -> MemberClaim {
        let join = |member: String| Join {
            member,
            session: Duration::from_secs(10),
            rebalance: Duration::from_secs(20),
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), bytes::Bytes::from_static(b"\0\0\0\0\0\x01\0\x01a"))],
            requires_known_member: true,
            ..Join::default()
        };
        let token = self.ask(group, What::Join(join(String::new())));
        let Some(Told::Joined(first)) = self.told.remove(&token) else { panic!("no answer") };
        assert_eq!(first.failure, Some(Failure::MemberIdRequired));
        let token = self.ask(group, What::Join(join(first.member)));
        self.pass(Duration::from_secs(4));
        let Some(Told::Joined(joined)) = self.told.remove(&token) else { panic!("no generation") };
        assert_eq!((joined.failure, joined.members.len()), (None, 1));
        let claim =
            MemberClaim { generation: joined.generation, member: joined.member.clone(), instance: None };
        let assignments = vec![(joined.member, bytes::Bytes::from_static(b"all"))];
        let sync = Sync { claim: claim.clone(), assignments, ..Sync::default() };
        let token = self.ask(group, What::Sync(sync));
        assert!(!self.told.contains_key(&token), "an assignment is told when it is durable");
        self.flush();
        let Some(Told::Synced(synced)) = self.told.remove(&token) else { panic!("no assignment") };
        assert_eq!(&synced.assignment[..], b"all");
        claim
    }

    fn heartbeat(&mut self, group: &str, claim: &MemberClaim) -> Option<Failure> {
        let token = self.ask(group, What::Heartbeat(claim.clone()));
        self.plain(token)
    }
}

#[test]
fn a_commit_is_answered_and_seen_when_it_is_durable() {
    let mut bench = Bench::new();
    let token = bench.commit("g", 1, 7);
    assert!(!bench.told.contains_key(&token));
    assert!(bench.fetch("g").is_empty());
    bench.flush();
    assert_eq!(bench.told.remove(&token), Some(Told::Committed(vec![vec![None]])));
    assert_eq!(bench.fetch("g"), BTreeMap::from([(1, 7)]));
    let lost = bench.commit("g", 1, 9);
    bench.crash(bench.log.durable_end());
    assert!(!bench.told.contains_key(&lost));
    assert_eq!(bench.fetch("g"), BTreeMap::from([(1, 7)]));
    // Kafka's offsets may go back.
    bench.commit("g", 1, 2);
    bench.flush();
    assert_eq!(bench.fetch("g"), BTreeMap::from([(1, 2)]));
    let unknown = bench.commit("g", 4, 1);
    let told = bench.told.remove(&unknown);
    assert_eq!(told, Some(Told::Committed(vec![vec![Some(Failure::UnknownTopicOrPartition)]])));
}

#[test]
fn members_go_on_after_a_kill_without_a_rebalance() {
    let mut bench = Bench::new();
    let claim = bench.member("g");
    assert_eq!(bench.heartbeat("g", &claim), None);
    bench.checkpoint = (bench.engine.snapshot(), bench.log.end());
    bench.crash(bench.log.durable_end());
    assert_eq!(bench.heartbeat("g", &claim), None);
    let old = MemberClaim { generation: claim.generation - 1, ..claim.clone() };
    assert_eq!(bench.heartbeat("g", &old), Some(Failure::IllegalGeneration));
    let token = bench.ask("g", What::Delete);
    assert_eq!(bench.plain(token), Some(Failure::NonEmptyGroup));
    bench.pass(Duration::from_secs(11));
    assert_eq!(bench.heartbeat("g", &claim), Some(Failure::UnknownMemberId), "its session is over");
    let token = bench.ask("g", What::Delete);
    bench.flush();
    assert_eq!(bench.plain(token), None);
    bench.crash(bench.log.durable_end());
    let token = bench.ask("g", What::Delete);
    assert_eq!(bench.plain(token), Some(Failure::GroupIdNotFound));
}

#[test]
fn an_empty_group_changes_its_protocol_and_keeps_its_offsets_and_its_count() {
    let mut bench = Bench::new();
    let claim = bench.member("g");
    bench.pass(Duration::from_secs(11));
    bench.commit("g", 0, 5);
    bench.flush();
    let beat = ConsumerHeartbeat {
        member: "m".to_owned(),
        rebalance: Some(Duration::from_secs(9)),
        topics: Some(vec!["a".to_owned()]),
        owned: Some(BTreeMap::new()),
        ..ConsumerHeartbeat::default()
    };
    let token = bench.ask("g", What::ConsumerHeartbeat(beat.clone()));
    assert!(!bench.told.contains_key(&token), "an epoch is told when it is durable");
    bench.flush();
    let Some(Told::ConsumerHeartbeat(Ok(told))) = bench.told.remove(&token) else { panic!("refused") };
    assert!(told.epoch > claim.generation);
    assert_eq!(told.assignment.map(|all| all.values().map(BTreeSet::len).sum()), Some(4));
    assert_eq!(bench.fetch("g"), BTreeMap::from([(0, 5)]));
    bench.crash(bench.log.durable_end());
    let beat = ConsumerHeartbeat { member: "m".to_owned(), epoch: told.epoch, ..Default::default() };
    let token = bench.ask("g", What::ConsumerHeartbeat(beat));
    bench.flush();
    let Some(Told::ConsumerHeartbeat(Ok(again))) = bench.told.remove(&token) else { panic!("refused") };
    assert_eq!((again.epoch, again.assignment), (told.epoch, None));
    let join = Join { session: Duration::from_secs(10), ..Join::default() };
    let token = bench.ask("g", What::Join(join));
    let Some(Told::Joined(joined)) = bench.told.remove(&token) else { panic!("no answer") };
    assert_eq!(joined.failure, Some(Failure::InconsistentGroupProtocol));
}

#[test]
fn offsets_of_deleted_topics_and_of_unused_groups_are_forgotten() {
    let mut bench = Bench::new();
    bench.create("b");
    bench.commit("g", 0, 5);
    bench.flush();
    bench.pass(Duration::from_secs(61));
    let old = bench.engine.metadata().topic(&full_name("a").unwrap()).unwrap().id;
    let name = super::super::offsets::name(old, 0);
    let is_kept = |bench: &Bench| bench.engine.snapshot().windows(name.len()).any(|part| part == name);
    assert!(is_kept(&bench));
    bench.call(Call::TopicDelete { name: full_name("a").unwrap() });
    bench.flush();
    bench.create("a");
    assert!(bench.fetch("g").is_empty(), "a new topic of the same name has no offsets");
    bench.commit("g", 2, 1);
    bench.flush();
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.fetch("g"), BTreeMap::from([(2, 1)]));
    assert!(!is_kept(&bench));
    bench.pass(Duration::from_secs(8 * 24 * 3600));
    assert!(bench.fetch("g").is_empty());
    let token = bench.ask("", What::List);
    assert_eq!(bench.told.remove(&token), Some(Told::Listed(Vec::new())));
}

#[test]
fn groups_move_with_their_names_when_the_number_of_shards_changes() {
    let mut bench = Bench::new();
    for group in 0..40 {
        bench.commit(&format!("g{group}"), 0, group);
    }
    bench.flush();
    let log = LogState { snapshot: bench.engine.snapshot(), partitions: BTreeSet::new() };
    let dealt = redistribute(&[log], 3).unwrap();
    let logs: Vec<LogState> =
        dealt.iter().map(|one| LogState { snapshot: one.clone(), partitions: BTreeSet::new() }).collect();
    let joined = redistribute(&logs, 1).unwrap();
    assert!(dealt.iter().all(|one| one.len() < joined[0].len()), "every shard has some");
    bench.checkpoint = (joined[0].clone(), bench.log.end());
    bench.crash(bench.log.durable_end());
    for group in 0..40 {
        assert_eq!(bench.fetch(&format!("g{group}")), BTreeMap::from([(0, group)]));
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Commit(usize, u32, i64),
    Flush,
    Checkpoint,
    Crash(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..3, 0u32..4, 0i64..100).prop_map(|(group, at, offset)| Op::Commit(group, at, offset)),
        3 => Just(Op::Flush),
        1 => Just(Op::Checkpoint),
        1 => (0usize..6).prop_map(Op::Crash),
    ]
}

proptest! {
    #[test]
    fn an_acknowledged_commit_is_never_lost(ops in prop::collection::vec(op(), 1..60)) {
        let mut bench = Bench::new();
        // By group and partition: every commit since the last crash with its token; the durable one first.
        let mut sent: BTreeMap<(usize, u32), Vec<(i64, CallToken)>> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Commit(group, at, offset) => {
                    let token = bench.commit(&format!("g{group}"), at, offset);
                    sent.entry((group, at)).or_default().push((offset, token));
                }
                Op::Flush => bench.flush(),
                // A checkpoint counts once everything before it is durable.
                Op::Checkpoint => {
                    let checkpoint = (bench.engine.snapshot(), bench.log.end());
                    bench.flush();
                    bench.checkpoint = checkpoint;
                }
                Op::Crash(more) => {
                    let end = (bench.log.durable_end() + more).min(bench.log.end());
                    bench.crash(end);
                }
            }
            for group in 0..3 {
                let found = bench.fetch(&format!("g{group}"));
                for at in 0..4 {
                    let Some(commits) = sent.get_mut(&(group, at)) else { continue };
                    let acked = commits.iter().rposition(|(_, token)| bench.told.contains_key(token));
                    let allowed = &commits[acked.unwrap_or(0)..];
                    match found.get(&at) {
                        Some(offset) => prop_assert!(allowed.iter().any(|(sent, _)| sent == offset)),
                        None => prop_assert!(acked.is_none(), "g{group} {at}: {commits:?} is lost"),
                    }
                }
            }
        }
    }
}
