//! More data than the ring holds: records settle, the ring is used again, and everything is read from
//! segments, also after a restart; large batches; offsets by time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use martlet_core::native::{OffsetAt, RequestCall, ResponseAnswer};
use support::{Client, Scratch, append, config, start};

/// Batches sent before the first answer is read.
const PIPELINE: usize = 32;

fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(bytes, number as u8);
    value
}

fn check(client: &mut Client, partition: u64, count: u64, bytes: usize) {
    let read = client.read_all(partition, 0);
    assert_eq!(read.len() as u64, count);
    for (number, (offset, found)) in (0..).zip(read) {
        assert_eq!(offset, number);
        assert_eq!(found, value(number, bytes), "offset {offset}");
    }
}

#[test]
fn four_laps_of_the_ring_are_read_back() {
    let scratch = Scratch::new();
    let mut config = config(&scratch, 1);
    // Everything goes through the ring.
    config.store.big_batch_bytes_min = u64::MAX;
    let (node, address) = start(config.clone());
    let mut client = Client::connect(address);
    let topic = client.create_topic("t", 2);
    let (heavy, light) = (topic.partitions[0].partition, topic.partitions[1].partition);
    let (count, bytes) = (512u64, 128 * 1024);
    client.append(light, &[&value(0, 10)]);
    let mut answered = 0;
    for number in 0..count {
        let (call, body) = append(heavy, &[&value(number, bytes)], None);
        client.send(call, &body);
        if number as usize >= PIPELINE {
            expect_appended(&mut client, &mut answered);
        }
    }
    while answered < count {
        expect_appended(&mut client, &mut answered);
    }
    let stats = node.handle().collect_stats(support::WAIT);
    let log = &stats.shards[0].log;
    assert!(log.flush_bytes >= 4 * log.ring_bytes, "{} of {}", log.flush_bytes, log.ring_bytes);
    assert!(log.settled_bytes > 0 && log.checkpoints > 0);
    assert_eq!(log.refused, 0, "those who wait for the log are not refused");
    check(&mut client, heavy, count, bytes);
    check(&mut client, light, 1, 10);
    node.stop().unwrap();

    let (node, address) = start(config);
    let mut client = Client::connect(address);
    check(&mut client, heavy, count, bytes);
    check(&mut client, light, 1, 10);
    assert_eq!(client.append(heavy, &[b"next"]), count);
    node.stop().unwrap();
}

fn expect_appended(client: &mut Client, answered: &mut u64) {
    match client.receive().answer {
        ResponseAnswer::Appended { base_offset, .. } => assert_eq!(base_offset, *answered),
        other => panic!("append was answered with {other:?}"),
    }
    *answered += 1;
}

#[test]
fn a_large_batch_arrives_whole() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let partition = client.create_topic("t", 1).partitions[0].partition;
    let large = value(7, 3 * 1024 * 1024);
    for _ in 0..3 {
        client.append(partition, &[&large]);
    }
    assert!(client.read_all(partition, 0).iter().all(|(_, found)| *found == large));
    let (call, body) = append(partition, &[&value(1, 6 * 1024 * 1024)], None);
    let (answer, _) = client.exchange(call, &body);
    assert!(matches!(answer, ResponseAnswer::Refused { .. }), "over the topic's limit: {answer:?}");
    assert_eq!(client.append(partition, &[b"small"]), 3);
    node.stop().unwrap();
}

#[test]
fn an_offset_is_found_by_time_within_its_batch() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let partition = client.create_topic("t", 1).partitions[0].partition;
    for times in [[10, 20, 30], [40, 50, 60]] {
        let (call, body) = support::append_at(partition, &times);
        client.exchange(call, &body);
    }
    for (at, offset, timestamp) in [(0, 0, 10), (20, 1, 20), (31, 3, 40), (55, 5, 60), (61, 6, -1)] {
        let found = client.call(RequestCall::OffsetFor { partition, at: OffsetAt::Time(at) });
        assert_eq!(found, ResponseAnswer::Offset { offset, timestamp }, "at {at}");
    }
    for (at, offset) in [(OffsetAt::Earliest, 0), (OffsetAt::Latest, 6)] {
        let found = client.call(RequestCall::OffsetFor { partition, at });
        assert_eq!(found, ResponseAnswer::Offset { offset, timestamp: -1 });
    }
    node.stop().unwrap();
}
