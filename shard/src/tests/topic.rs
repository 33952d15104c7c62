//! Topics: creation over several shards, parked calls, deletion, producer ids, the metadata's log.

use std::time::Duration;

use crate::log::Log;

use super::*;

fn describe(name: &str) -> Call {
    Call::TopicDescribe { name: name.parse().unwrap() }
}

/// Two shards of one node, each with its log.
struct Pair {
    first: Bench,
    second: Bench,
}

impl Pair {
    fn new() -> Pair {
        let of = |shard| EngineConfig::new(ShardId(shard), 2);
        Pair { first: Bench::with(of(0)), second: Bench::with(of(1)) }
    }

    fn send_metadata(&mut self) {
        for (index, command) in self.first.engine.take_metadata() {
            let Bench { engine, log, now, .. } = &mut self.second;
            engine.apply_metadata(log, index, &command, *now).unwrap();
            engine.apply_metadata(log, index, &command, *now).unwrap();
        }
        self.second.collect();
    }
}

#[test]
fn calls_for_a_partition_that_is_news_wait_for_the_metadata() {
    let mut pair = Pair::new();
    let early = pair.second.submit(describe("t"));
    pair.send_metadata();
    assert_eq!(pair.second.take(early).unwrap().unwrap_err().code, ErrorCode::UnknownTopic);
    let ids = pair.first.topic("t", 16, &[]);
    let (mine, theirs): (Vec<_>, Vec<_>) =
        ids.into_iter().partition(|id| pair.first.engine.owner(*id) == ShardId(0));
    assert!(!mine.is_empty() && !theirs.is_empty());
    assert_eq!(pair.first.refused(Call::Append(plain(theirs[0], 1))), ErrorCode::NotOwner);
    let parked: Vec<_> = (0..3).map(|n| pair.second.submit(Call::Append(batch(theirs[0], n, 1)))).collect();
    let lost = pair.second.submit(read(theirs[0], 0, 1, 0));
    pair.second.engine.cancel(lost);
    assert!(pair.second.answers.is_empty());
    pair.send_metadata();
    pair.second.flush();
    for (offset, token) in parked.into_iter().enumerate() {
        assert_eq!(offset_of(pair.second.take(token).unwrap()), (offset as u64, false));
    }
    assert!(pair.second.answers.is_empty());
    assert_eq!(pair.second.refused(Call::Append(plain(mine[0], 1))), ErrorCode::NotOwner);
    assert_eq!(pair.second.refused(Call::ProducerOpen), ErrorCode::NotOwner);
    let (a, b) = (pair.first.call(describe("t")), pair.second.call(describe("t")));
    match (a, b) {
        (Ok(Reply::Topic(a)), Ok(Reply::Topic(b))) => assert_eq!(a, b),
        other => panic!("{other:?}"),
    }
    let unknown = (1000..).map(PartitionId).find(|id| pair.second.engine.owner(*id) == ShardId(1)).unwrap();
    let token = pair.second.submit(read(unknown, 0, 1, 0));
    pair.second.pass(Duration::from_millis(500));
    assert_eq!(pair.second.take(token).unwrap().unwrap_err().code, ErrorCode::UnknownPartition);
}

#[test]
fn a_gap_in_the_metadata_is_refused() {
    let mut pair = Pair::new();
    pair.send_metadata();
    pair.first.topic("t", 1, &[]);
    let _ = pair.first.engine.take_metadata();
    pair.first.topic("u", 1, &[]);
    let (index, command) = pair.first.engine.take_metadata().remove(0);
    let Bench { engine, log, now, .. } = &mut pair.second;
    assert_eq!(engine.apply_metadata(log, index, &command, *now).unwrap_err().code, ErrorCode::Internal);
    assert!(engine.apply_metadata(log, index, &command[1..], *now).is_err());
}

#[test]
fn changes_are_answered_when_durable_and_in_the_order_of_the_log() {
    let mut bench = Bench::new();
    let create = |partitions| Call::TopicCreate {
        name: "t".parse().unwrap(),
        partitions,
        settings: vec![("retention_time".into(), "1d".into())],
    };
    let first = bench.submit(create(1));
    let second = bench.submit(create(2));
    assert!(bench.call_now(describe("t")).is_err());
    bench.flush();
    let Some(Ok(Reply::Topic(view))) = bench.take(first) else { panic!() };
    assert_eq!(view.partitions, [(PartitionId(1), ShardId(0))]);
    assert!(view.settings.contains(&("retention_time".into(), "1d".into())));
    assert_eq!(bench.take(second).unwrap().unwrap_err().code, ErrorCode::TopicExists);
    assert_eq!(bench.refused(create(0)), ErrorCode::TopicExists);
    let alter = Call::TopicAlter {
        name: "t".parse().unwrap(),
        partitions: Some(3),
        settings: vec![("acks".into(), "memory".into())],
    };
    let Ok(Reply::Topic(view)) = bench.call(alter) else { panic!() };
    assert_eq!(view.partitions.len(), 3);
    let token = bench.submit(Call::Append(plain(PartitionId(3), 1)));
    assert!(bench.take(token).unwrap().is_ok());
}

#[test]
fn a_deleted_topic_gives_its_space_back_once_the_storage_takes_it() {
    let mut bench = Bench::new();
    let ids = bench.topic("t", 2, &[]);
    bench.call(Call::Append(plain(ids[0], 1))).unwrap();
    bench.call(Call::TopicDelete { name: "t".parse().unwrap() }).unwrap();
    assert_eq!(bench.log.partitions(), [PartitionId::METADATA]);
    assert_eq!(bench.refused(Call::Append(plain(ids[0], 1))), ErrorCode::UnknownPartition);
    assert_eq!(bench.topic("t", 1, &[]), [PartitionId(3)]);
}

#[test]
fn recovery_opens_what_is_missing_drops_what_is_deleted_and_keeps_what_is_news() {
    let mut bench = Bench::new();
    let ids = bench.topic("t", 1, &[]);
    bench.call(Call::Append(plain(ids[0], 1))).unwrap();
    let before_delete = bench.log.clone();
    let token = bench.submit(Call::TopicDelete { name: "t".parse().unwrap() });
    let deleted = bench.log.end();
    bench.flush();
    assert!(bench.take(token).unwrap().is_ok());
    let mut lost_drop = MemoryLog::new();
    for record in &bench.log.records()[..deleted] {
        lost_drop.push(record.clone());
    }
    lost_drop.flush();
    bench.log = lost_drop;
    bench.restart(deleted, None);
    assert_eq!(bench.log.partitions(), [PartitionId::METADATA]);
    // Without its metadata the partition is not known to be deleted, so it is kept.
    bench.log = before_delete;
    let mut engine = Engine::new(config(), Box::new(AllowAll));
    let recovered = engine.finish_recovery(&mut bench.log, bench.now);
    assert_eq!(recovered.problems.len(), 2);
    assert!(bench.log.partitions().contains(&ids[0]));
}

#[test]
fn producer_ids_are_never_given_twice() {
    let mut bench = Bench::new();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..4 {
        let tokens: Vec<_> = (0..700).map(|_| bench.submit(Call::ProducerOpen)).collect();
        bench.flush();
        bench.flush();
        for token in tokens {
            let Some(Ok(Reply::Producer { producer, .. })) = bench.take(token) else { panic!() };
            assert!(producer.0 > 0 && seen.insert(producer), "{producer} in round {round}");
        }
        if round % 2 == 1 {
            bench.restart(bench.log.end(), None);
        }
    }
}

#[test]
fn the_metadata_starts_again_from_a_snapshot_when_its_log_is_long() {
    let mut bench = Bench::with(EngineConfig { metadata_log_bytes_max: 2000, ..config() });
    let mut view = None;
    for n in 0..50 {
        bench.topic("t", 1, &[]);
        view = Some(bench.call(describe("t")).map(|reply| format!("{reply:?}")));
        if n < 49 {
            bench.call(Call::TopicDelete { name: "t".parse().unwrap() }).unwrap();
        }
    }
    let extent = bench.log.extent(PartitionId::METADATA).unwrap();
    assert!(extent.log_start > 0 && extent.bytes < 4000, "{extent:?}");
    // Only what is left in the log is replayed.
    let frames = bench.log.frames(PartitionId::METADATA).to_vec();
    let mut engine = Engine::new(config(), Box::new(AllowAll));
    for (header, body) in &frames {
        engine.replay_frame(header, body).unwrap();
    }
    let recovered = engine.finish_recovery(&mut bench.log, bench.now);
    assert!(recovered.problems.is_empty(), "{:?}", recovered.problems);
    bench.engine = engine;
    assert_eq!(Some(bench.call(describe("t")).map(|reply| format!("{reply:?}"))), view);
}

#[test]
fn a_lost_command_is_told_and_stops_changes_but_not_reads() {
    let mut bench = Bench::new();
    bench.topic("a", 1, &[]);
    bench.topic("b", 1, &[]);
    bench.topic("c", 1, &[]);
    let frames = bench.log.frames(PartitionId::METADATA).to_vec();
    let mut engine = Engine::new(config(), Box::new(AllowAll));
    engine.replay_frame(&frames[0].0, &frames[0].1).unwrap();
    engine.replay_frame(&frames[2].0, &frames[2].1).unwrap();
    let recovered = engine.finish_recovery(&mut bench.log, bench.now);
    assert!(recovered.problems.iter().any(|problem| problem.contains("restore")), "{:?}", recovered.problems);
    bench.engine = engine;
    assert!(bench.call(describe("a")).is_ok());
    assert_eq!(bench.refused(Call::TopicDelete { name: "a".parse().unwrap() }), ErrorCode::CorruptRange);
    assert!(bench.log.partitions().contains(&PartitionId(3)));
}

impl Bench {
    fn call_now(&mut self, call: Call) -> Result<Reply, Refusal> {
        let token = self.submit(call);
        self.take(token).expect("answered at once")
    }
}

#[test]
fn deleting_many_partitions_asks_once_for_each_also_when_their_space_cannot_be_given_back() {
    let mut bench = Bench::new();
    let count = 1_000;
    let ids = bench.topic("t", count, &[]);
    bench.submit(Call::TopicDelete { name: "t".parse().unwrap() });
    bench.log.is_fenced = true;
    bench.log.admissions.set(0);
    bench.flush();
    assert!(bench.log.admissions.get() <= 2 * ids.len(), "{} questions", bench.log.admissions.get());
    assert!(bench.log.extent(ids[0]).is_some(), "it could not be dropped");
    bench.log.is_fenced = false;
    bench.pass(Duration::from_secs(31));
    assert!(ids.iter().all(|id| bench.log.extent(*id).is_none()), "it is dropped later");
}
