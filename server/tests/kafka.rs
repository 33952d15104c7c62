//! Kafka's protocol as operators meet it: `martlet group`, metrics of requests, what is not served, and
//! strange bytes on a socket while others work.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

#[path = "support/kafka.rs"]
mod kafka;
#[path = "../../fuzz/src/mutate.rs"]
#[allow(dead_code, unreachable_pub, reason = "resealing is for other decoders")]
mod mutate_bytes;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::{Kafka, framed, text};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiVersionsRequest, FetchRequest, GroupId, JoinGroupRequest, ListOffsetsRequest, ProduceRequest,
    TopicName,
};
use martlet_formats::kafka::{KafkaBatchBuilder, KafkaCodec, KafkaRecord};
use mutate_bytes::{Dice, mutate};
use support::{Broker, Place, Start};

/// Requests of real clients, each behind its length: see `tests/clients/capture.py`.
const CAPTURES: [&[u8]; 3] = [
    include_bytes!("../../fuzz/captures/confluent.bin"),
    include_bytes!("../../fuzz/captures/kafka_python.bin"),
    include_bytes!("../../fuzz/captures/aiokafka.bin"),
];

fn produce(kafka: &mut Kafka, topic: &str, values: &[&[u8]]) -> i64 {
    let mut builder = KafkaBatchBuilder::new(KafkaCodec::None, 4096);
    for value in values {
        let record = KafkaRecord { timestamp: 1_700_000_000_000, key: None, value: Some(value) };
        builder.append(&record, [].into_iter());
    }
    let data = PartitionProduceData::default().with_records(Some(builder.finish(0, 0)));
    let topic = TopicProduceData::default().with_name(TopicName(text(topic))).with_partition_data(vec![data]);
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
    let told = kafka.ask(9, &request);
    let partition = &told.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, 0);
    partition.base_offset
}

/// Bytes of the batches of partition 0 from `offset`.
fn fetch(kafka: &mut Kafka, topic: &str, offset: i64) -> usize {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(TopicName(text(topic))).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(10_000)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let told = kafka.ask(12, &request);
    let partition = &told.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    partition.records.as_ref().map_or(0, bytes::Bytes::len)
}

/// Samples of the page, by name and labels.
fn samples(broker: &Broker) -> BTreeMap<String, f64> {
    let (_, page) = broker.get("/metrics");
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn groups_are_listed_moved_and_deleted() {
    let place = Place::new("groups");
    let broker = Start::new(&place).shards(2).with("--set=kafka.group_initial_wait=0s").run();
    broker.ok(&["topic", "create", "t", "--partitions", "2"]);
    broker.ok_with(&["produce", "t", "--partition", "0"], &b"line\n".repeat(10));
    let reset = |arguments: &[&str]| broker.ok_text(&[&["group", "reset", "g", "t"][..], arguments].concat());
    assert_eq!(reset(&["--to", "0:4", "--dry-run"]), "would reset g: partition 0 at 4\n");
    assert_eq!(broker.ok_text(&["group", "list"]), "", "a dry run moves nothing");
    assert_eq!(reset(&["--to", "4"]), "reset g: partition 0 at 4, partition 1 at 0\n");
    assert_eq!(reset(&["--to", "latest", "--partition", "1"]), "reset g: partition 1 at 0\n");
    let described = || -> serde_json::Value {
        serde_json::from_str(&broker.ok_text(&["group", "describe", "g", "--format", "json"])).unwrap()
    };
    let found = described();
    assert_eq!((&found["kind"], &found["state"]), (&"classic".into(), &"Empty".into()));
    assert_eq!(found["positions"][0]["behind"], 6);
    assert_eq!(
        samples(&broker)["kafka_consumergroup_lag{consumergroup=\"g\",topic=\"t\",partition=\"0\"}"],
        6.0
    );
    assert_eq!(reset(&["--to", "-1h"]), "reset g: partition 0 at 0, partition 1 at 0\n");
    assert_eq!(reset(&["--to", "2000-01-01", "--partition", "0"]), "reset g: partition 0 at 0\n");
    assert_eq!(reset(&["--to", "0:latest"]), "reset g: partition 0 at 10\n");
    for (arguments, wanted, part) in [
        (&["reset", "g", "t", "--to", "0:11"][..], 4, "ends at 10"),
        (&["reset", "g", "t", "--to", "7:0"][..], 2, "partition 7"),
        (&["reset", "g", "nothing", "--to", "earliest"][..], 4, "no such topic"),
        (&["describe", "nobody"][..], 4, "no such group"),
        (&["delete", "nobody"][..], 4, "no such group"),
        (&["list", "--kafka", "nowhere"][..], 2, "--kafka HOST:PORT"),
        (&["list", "--kafka", "127.0.0.1:1"][..], 3, "kafka="),
    ] {
        let (code, error) = broker.fails(&[&["group"][..], arguments].concat(), b"");
        assert!(code == wanted && error.contains(part), "{arguments:?}: {code} {error}");
    }
    // A member that waits for its group keeps it from being moved or deleted.
    let mut member = Kafka::connect(&broker.kafka);
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    let join = JoinGroupRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    assert_eq!(member.ask(3, &join).error_code, 0);
    for arguments in [&["reset", "g", "t", "--to", "earliest"][..], &["delete", "g"]] {
        let (code, error) = broker.fails(&[&["group"][..], arguments].concat(), b"");
        assert!(code == 4 && error.contains("has members"), "{code} {error}");
    }
    assert_eq!(described()["members"].as_array().unwrap().len(), 1);
    assert_eq!(broker.ok_text(&["group", "list", "--format", "json"]).matches("\"g\"").count(), 1);
    broker.ok(&["group", "reset", "other", "t", "--to", "earliest"]);
    assert_eq!(broker.ok_text(&["group", "delete", "other"]), "deleted other\n");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn requests_are_counted_and_no_body_of_the_same_protocol_is_copied() {
    let place = Place::new("counted");
    let broker = Start::new(&place).run();
    broker.ok(&["topic", "create", "t"]);
    let mut kafka = Kafka::connect(&broker.kafka);
    assert_eq!(produce(&mut kafka, "t", &[&[b'x'; 5_000], b"y"]), 0);
    let bytes = fetch(&mut kafka, "t", 0);
    assert!(bytes > 5_000, "{bytes}");
    let told = samples(&broker);
    let of = |name: &str| told.get(name).copied().unwrap_or_else(|| panic!("no {name} in {told:#?}"));
    assert_eq!(of("martlet_kafka_request_seconds_count{api=\"Produce\"}"), 1.0);
    assert_eq!(of("martlet_kafka_request_seconds_count{api=\"Fetch\"}"), 1.0);
    assert_eq!(of("martlet_kafka_fetch_bytes_total"), bytes as f64);
    assert_eq!(of("martlet_kafka_fetch_copied_bytes_total"), 0.0);
    assert_eq!(of("martlet_kafka_transactions_open"), 0.0);
    // Records of the native protocol are written anew for Kafka's readers.
    broker.ok(&["topic", "create", "n"]);
    broker.ok_with(&["produce", "n"], b"native\n");
    assert!(fetch(&mut kafka, "n", 0) > 0);
    assert!(samples(&broker)["martlet_kafka_fetch_copied_bytes_total"] > 0.0);
    // An error is counted for its request, under its name.
    let topic = TopicProduceData::default()
        .with_name(TopicName(text("t")))
        .with_partition_data(vec![PartitionProduceData::default().with_index(7)]);
    kafka.ask(9, &ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]));
    let error = "martlet_kafka_request_errors_total{api=\"Produce\",error=\"UNKNOWN_TOPIC_OR_PARTITION\"}";
    assert_eq!(samples(&broker)[error], 1.0);
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn what_is_not_served_closes_the_connection_and_is_told_in_the_log() {
    let place = Place::new("unserved");
    let start = Start::new(&place);
    let broker = start.run();
    // WriteTxnMarkers, which only brokers send; a version of ListOffsets that does not exist yet.
    let mut strange = framed(1, 1, &ListOffsetsRequest::default());
    strange[4..6].copy_from_slice(&27i16.to_be_bytes());
    let mut future = framed(1, 1, &ListOffsetsRequest::default());
    future[6..8].copy_from_slice(&99i16.to_be_bytes());
    for request in [strange, future] {
        let mut kafka = Kafka::connect(&broker.kafka);
        kafka.send(&request).unwrap();
        assert!(kafka.receive().is_err(), "the connection is closed");
    }
    assert_eq!(samples(&broker)["martlet_kafka_unserved_total"], 2.0);
    // ApiVersions is answered in any version, in its oldest form.
    let mut kafka = Kafka::connect(&broker.kafka);
    let mut versions = framed(4, 9, &ApiVersionsRequest::default());
    versions[6..8].copy_from_slice(&99i16.to_be_bytes());
    kafka.send(&versions).unwrap();
    let answer = kafka.receive().unwrap();
    assert_eq!((&answer[..4], &answer[4..6]), (&9i32.to_be_bytes()[..], &35i16.to_be_bytes()[..]));
    assert_eq!(broker.stop(), Some(0));
    let log = start.log_text();
    for part in [
        "key=27 name=\"WriteTxnMarkers\" version=1",
        "key=2 name=\"ListOffsets\" version=99",
        "client=\"test\"",
    ] {
        assert!(log.contains(part), "no {part} in the log:\n{log}");
    }
}

/// The requests of a capture without their lengths.
fn requests(mut capture: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((length, rest)) = capture.split_first_chunk::<4>() {
        let (request, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        found.push(request.to_vec());
        capture = rest;
    }
    found
}

/// One request after some changes, behind a length that mostly fits.
fn strange(example: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (head, body) = example.split_at(8);
    // Mostly the request stays what it is, so that what reads its body is reached.
    let changed =
        if dice.below(8) == 0 { mutate(example, dice) } else { [head, &mutate(body, dice)].concat() };
    let length = match dice.below(32) {
        0 => dice.roll() as u32,
        1 => u32::MAX,
        _ => u32::try_from(changed.len()).unwrap(),
    };
    [&length.to_be_bytes()[..], &changed].concat()
}

#[test]
fn strange_requests_cost_their_own_connection_only() {
    let rounds: u64 = std::env::var("MARTLET_FUZZ_ROUNDS").map_or(3_000, |text| text.parse().unwrap());
    let place = Place::new("strange");
    let start = Start::new(&place).shards(2).with("--set=log.level=error");
    let broker = start.with("--set=kafka.group_initial_wait=0s").run();
    broker.ok(&["topic", "create", "steady"]);
    let examples: Vec<Vec<u8>> = CAPTURES.iter().flat_map(|capture| requests(capture)).collect();
    assert!(examples.len() > 40);
    let address = &broker.kafka;
    let resident = || samples(&broker)["martlet_resident_memory_bytes"];
    let before = resident();
    std::thread::scope(|scope| {
        let fuzzer = |half: u64| {
            let mut seed = half;
            while seed < rounds {
                let mut dice = Dice(seed);
                let mut kafka = Kafka::connect(address);
                // Several on one connection, for those behind one that is good.
                for _ in 0..1 + dice.below(4) {
                    let example = &examples[dice.below(examples.len())];
                    // A connection that the broker closed takes no more.
                    if kafka.send(&strange(example, &mut dice)).is_err() {
                        break;
                    }
                }
                if dice.below(16) == 0 {
                    // What comes back is of no interest, and whoever joined a group or fetches may wait long.
                    let _ = kafka.finish(Duration::from_secs(1));
                }
                seed += 2;
            }
        };
        let fuzzers = [0, 1].map(|half| scope.spawn(move || fuzzer(half)));
        // Meanwhile another connection sees every record it writes, once and in order.
        let mut steady = Kafka::connect(address);
        let mut next = 0;
        while next < 100 || fuzzers.iter().any(|fuzzer| !fuzzer.is_finished()) {
            assert_eq!(produce(&mut steady, "steady", &[b"record"]), next);
            assert!(fetch(&mut steady, "steady", next) > 0);
            next += 1;
        }
        for fuzzer in fuzzers {
            fuzzer.join().unwrap();
        }
    });
    let after = resident();
    let grown = (after - before) / f64::from(1 << 20);
    // The broker's budget is 512 MiB; that much cannot be reached by requests of a few hundred bytes.
    assert!(grown < 256.0, "resident memory grew by {grown:.0} MiB from {before}");
    // A panic ends the broker; a line of level ERROR fails the stop.
    assert_eq!(broker.stop(), Some(0));
}
