//! What a node says about itself: the facts of every shard, whichever is asked, and the records it has lost.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_core::{ErrorCode, PartitionId};
use support::{Client, Scratch, config, start};

fn facts(client: &mut Client) -> BTreeMap<String, String> {
    let ResponseAnswer::Status { facts } = client.call(RequestCall::Status) else { panic!("no status") };
    facts.into_iter().map(|fact| (fact.key, fact.value)).collect()
}

#[test]
fn whichever_shard_is_asked_every_shard_answers() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 3));
    let topic = Client::connect(address).create_topic("spread", 24);
    for shard in 0..3u16 {
        let route = topic.partitions.iter().find(|route| route.shard == shard).unwrap();
        let mut client = Client::connect(route.address.parse().unwrap());
        let facts = facts(&mut client);
        assert_eq!((facts["shards"].as_str(), &facts["shard"]), ("3", &shard.to_string()));
        for other in 0..3 {
            assert_eq!(facts[&format!("shard.{other}.storage")], "open", "asked {shard}");
        }
        let partitions = |other| facts[&format!("shard.{other}.partitions")].parse::<u64>().unwrap();
        // Partition 0 of the metadata log is on shard 0.
        assert_eq!((0..3).map(partitions).sum::<u64>(), 25, "asked {shard}");
    }
    node.stop().unwrap();
}

/// Flips a byte wherever `pattern` stands in the log below `scratch`.
fn damage(scratch: &Scratch, pattern: &[u8]) -> usize {
    let mut flipped = 0;
    let mut directories = vec![scratch.0.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            for at in bytes.windows(pattern.len()).enumerate().filter(|(_, part)| *part == pattern) {
                file.write_all_at(&[!pattern[0]], at.0 as u64).unwrap();
                flipped += 1;
            }
        }
    }
    flipped
}

#[test]
fn lost_records_are_told_until_they_are_no_longer_missed() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let partition = client.create_topic("t", 1).partitions[0].partition;
    for value in [b"first record", b"broken value", b"third record"] {
        client.append(partition, &[value, value]);
    }
    let clean = &node.handle().collect_stats(support::WAIT).shards[0];
    assert_eq!((clean.lost.len(), clean.lost_ranges, clean.log_damage), (0, 0, 0));
    node.stop().unwrap();
    assert!(damage(&scratch, b"broken value") > 0, "the log holds it");

    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let read = RequestCall::Read { partition, from: 2, bytes_min: 0, bytes_max: 1 << 20, wait_ms: 0 };
    let ResponseAnswer::Refused { code, next_offset, .. } = client.call(read) else {
        panic!("it was served")
    };
    assert_eq!((code, next_offset), (ErrorCode::CorruptRange, Some(4)));
    let stats = &node.handle().collect_stats(support::WAIT).shards[0];
    assert_eq!(stats.lost_ranges, 1);
    let lost = stats.lost[0];
    assert_eq!((lost.partition, lost.from, lost.next_good_offset), (PartitionId(partition), 2, 4));
    let told = facts(&mut client);
    assert_eq!(told["shard.0.lost_ranges"], "1");
    assert!(told["shard.0.lost.0"].contains("offsets 2 to 4"), "{told:?}");

    client.call(RequestCall::TopicDelete { name: "t".to_owned() });
    support::wait_until(|| node.handle().collect_stats(support::WAIT).shards[0].lost_ranges == 0);
    node.stop().unwrap();
}
