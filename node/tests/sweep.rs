//! Empty directories are taken away at the next start, whatever happens on the way; nothing else is.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_runtime::Runtime;
use martlet_runtime::sim::SimConfig;
use support::world::{DATA, Peer, World, config};

/// Directories below `path` of the server that have no directory below them.
fn leaves(world: &mut World, path: &'static str) -> Vec<String> {
    let runtime = world.sim.start(world.server);
    let of_task = runtime.clone();
    let found = world.sim.run(&runtime, async move {
        let mut found = Vec::new();
        let mut left = vec![format!("{DATA}/{path}")];
        while let Some(at) = left.pop() {
            let entries = of_task.list_directory(&at).unwrap_or_default();
            let below: Vec<String> = entries
                .iter()
                .filter(|entry| entry.is_directory)
                .map(|entry| format!("{at}/{}", entry.name))
                .collect();
            if below.is_empty() {
                found.push(at);
            }
            left.extend(below);
        }
        found
    });
    found.unwrap()
}

async fn fill(runtime: &Runtime, address: std::net::SocketAddr, names: [&'static str; 2]) -> [u64; 2] {
    let mut peer = Peer::connect(runtime, address).await;
    let mut partitions = [0; 2];
    for (name, partition) in names.into_iter().zip(&mut partitions) {
        *partition = peer.create_topic(name, 1).await[0].0;
        // Far enough for its frames to be settled into a segment.
        for _ in 0..12 {
            peer.append(*partition, &[1; 500_000]).await;
        }
    }
    partitions
}

#[test]
fn dropped_partitions_and_replaced_logs_leave_no_directories() {
    for seed in 0..4 {
        let mut world = World::new(SimConfig::new(seed));
        world.start(config(2));
        let [gone, kept] = world.play(async |runtime: Runtime, address| {
            let partitions = fill(&runtime, address, ["gone", "kept"]).await;
            let mut peer = Peer::connect(&runtime, address).await;
            let deleted = peer.call(RequestCall::TopicDelete { name: "gone".to_owned() }).await;
            assert!(matches!(deleted, ResponseAnswer::Done), "{deleted:?}");
            runtime.sleep(Duration::from_secs(5)).await;
            partitions
        });
        world.stop();
        let before = leaves(&mut world, "partitions");
        let gone = format!("{gone:016x}");
        let dropped = |path: &String| path.ends_with(&gone);
        assert!(before.iter().any(dropped), "the test needs a directory that is left: {before:?}");

        // Cut off in the middle of it, at another moment with every seed.
        for shards in [2, 3, 1] {
            world.begin(config(shards));
            world.sim.run_for(Duration::from_micros(300 * (seed * seed * 7 + 1)));
            world.crash();
        }
        world.start(config(1));
        let committed = world.play(async move |runtime: Runtime, address| {
            let mut peer = Peer::connect(&runtime, address).await;
            runtime.sleep(Duration::from_secs(5)).await;
            match peer.call(RequestCall::PartitionStatus { partition: kept }).await {
                ResponseAnswer::Partition(status) => status.committed - status.log_start,
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(committed, 12, "seed {seed}");
        world.stop();
        let (partitions, logs) = (leaves(&mut world, "partitions"), leaves(&mut world, "wal"));
        assert!(!partitions.iter().any(dropped), "seed {seed}: {partitions:?}");
        assert_eq!(logs.len(), 1, "seed {seed}: {logs:?}");
    }
}
