//! Disks with large blocks, in the simulated world: whatever does not keep to them is refused there, as a
//! real disk refuses it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_runtime::Runtime;
use martlet_runtime::sim::SimConfig;
use martlet_wal::layout::superblock::Superblock;
use support::world::{Peer, World, config};

async fn count(peer: &mut Peer, partition: u64) -> u64 {
    match peer.call(RequestCall::PartitionStatus { partition }).await {
        ResponseAnswer::Partition(status) => status.committed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_log_takes_the_blocks_of_its_disk_and_keeps_them() {
    for block in [512, 16 * 1024, 64 * 1024] {
        let mut world = World::new(SimConfig { logical_block_bytes: block, ..SimConfig::new(5) });
        for shards in [1, 2] {
            world.start(config(shards));
            let committed = world.play(async move |runtime: Runtime, address| {
                let mut peer = Peer::connect(&runtime, address).await;
                let partition = peer.create_topic("t", 1).await[0].0;
                for _ in 0..60 {
                    peer.append(partition, &[4; 100_000]).await;
                }
                let read =
                    RequestCall::Read { partition, from: 0, bytes_min: 1, bytes_max: 4096, wait_ms: 0 };
                let answer = peer.call(read).await;
                assert!(matches!(answer, ResponseAnswer::Frames { .. }), "{answer:?}");
                count(&mut peer, partition).await
            });
            assert_eq!(committed, 60 * u64::from(shards), "blocks of {block}");
            world.stop();
            let superblocks: Vec<Superblock> = world
                .sim
                .files(world.server)
                .into_iter()
                .filter(|path| path.file_name() == Some(Path::new("superblock").as_os_str()))
                .filter_map(|path| world.sim.contents(world.server, &path))
                .map(|bytes| Superblock::decode_file(&bytes).unwrap())
                .collect();
            assert_eq!(superblocks.len(), usize::from(shards));
            assert!(
                superblocks.iter().all(|log| u64::from(log.block_bytes) == block.max(4096)),
                "{superblocks:?}"
            );
        }
    }
}

#[test]
fn a_disk_whose_blocks_are_too_large_is_refused_with_the_remedy() {
    let mut world = World::new(SimConfig { logical_block_bytes: 128 * 1024, ..SimConfig::new(5) });
    let refused = world.fail(config(1));
    assert!(refused.contains("blocks of 131072 bytes") && refused.contains("--data-dir"), "{refused}");
}
