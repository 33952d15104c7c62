//! Several shards: partitions spread over them, calls that cross, ports of their own, restart.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;

use martlet_core::native::{RequestCall, ResponseAnswer};
use support::{Client, Scratch, config, start};

#[test]
fn every_shard_serves_every_partition_and_says_who_owns_it() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 2));
    let mut client = Client::connect(address);
    let topic = client.create_topic("spread", 16);
    let owners: BTreeSet<u16> = topic.partitions.iter().map(|route| route.shard).collect();
    assert_eq!(owners, BTreeSet::from([0, 1]));
    let mut clients: Vec<Client> = Vec::new();
    for shard in 0..2 {
        let route = topic.partitions.iter().find(|route| route.shard == shard).unwrap();
        let client = Client::connect(route.address.parse().unwrap());
        assert_eq!(client.shard, shard, "an address names its shard");
        clients.push(client);
    }
    for route in &topic.partitions {
        for (shard, client) in (0u8..).zip(&mut clients) {
            let base = client.append(route.partition, &[&[shard]]);
            assert_eq!(base, u64::from(shard));
        }
    }
    let cursor = "c".to_owned();
    for route in &topic.partitions {
        let partition = route.partition;
        let far = &mut clients[usize::from(1 - route.shard)];
        assert_eq!(far.read_all(partition, 0), vec![(0, vec![0]), (1, vec![1])]);
        let set = RequestCall::CursorSet { partition, cursor: cursor.clone(), offset: 1, reset: false };
        assert_eq!(far.call(set), ResponseAnswer::Cursor { offset: Some(1) });
    }
    node.stop().unwrap();

    let (node, address) = start(config(&scratch, 2));
    let mut client = Client::connect(address);
    assert_eq!(client.describe("spread").partitions.len(), 16);
    for route in &topic.partitions {
        assert_eq!(client.read_all(route.partition, 0), vec![(0, vec![0]), (1, vec![1])]);
        let get = RequestCall::CursorGet { partition: route.partition, cursor: cursor.clone() };
        assert_eq!(client.call(get), ResponseAnswer::Cursor { offset: Some(1) });
    }
    node.stop().unwrap();
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let scratch = Scratch::new();
    let (node, _) = start(config(&scratch, 2));
    let mut second = config(&scratch, 2);
    second.lock_wait = std::time::Duration::from_millis(200);
    let refused = support::try_start(second).unwrap_err();
    assert!(matches!(refused, martlet_node::NodeError::Locked { .. }), "{refused}");
    node.stop().unwrap();
}

#[test]
fn the_number_of_shards_may_change_at_every_start() {
    let scratch = Scratch::new();
    let mut written: Vec<(u64, u64)> = Vec::new();
    for (round, shards) in (0u64..).zip([2u16, 1, 3, 2]) {
        let (node, address) = start(config(&scratch, shards));
        let mut client = Client::connect(address);
        if round == 0 {
            let topic = client.create_topic("moving", 12);
            written = topic.partitions.iter().map(|route| (route.partition, 0)).collect();
        }
        let topic = client.describe("moving");
        assert!(topic.partitions.iter().all(|route| route.shard < shards));
        for (partition, count) in &mut written {
            let partition = *partition;
            let expected: Vec<_> =
                (0..*count).map(|offset| (offset, offset.to_le_bytes().to_vec())).collect();
            assert_eq!(client.read_all(partition, 0), expected, "round {round}");
            for _ in 0..3 {
                assert_eq!(client.append(partition, &[&count.to_le_bytes()]), *count);
                *count += 1;
            }
            let cursor = "c".to_owned();
            let set = RequestCall::CursorSet {
                partition,
                cursor: cursor.clone(),
                offset: *count - 1,
                reset: false,
            };
            assert_eq!(client.call(set), ResponseAnswer::Cursor { offset: Some(*count - 1) });
        }
        node.stop().unwrap();
    }
}
