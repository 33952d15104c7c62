//! What one kind of peer holds never stops another: whole nodes in the simulated world, judged by virtual
//! time. Wherever a bound of time stands here, it is the same in every run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use martlet_core::ErrorCode;
use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_node::NodeConfig;
use martlet_runtime::sim::SimConfig;
use martlet_runtime::{Class, Runtime};
use support::world::{Peer, World, config};

const MIB: usize = 1024 * 1024;

/// What a small request may take beside whatever harm others do. Without them it takes 2 ms at most.
const SMALL_WAIT: Duration = Duration::from_millis(20);

fn world(config: NodeConfig) -> World {
    let mut world = World::new(SimConfig { backlog: 1_000, ..SimConfig::new(7) });
    world.start(config);
    world
}

/// 12 MiB for all connections, frames up to 4 MiB.
fn tight() -> NodeConfig {
    let mut config = config(1);
    config.connections.shard_memory_bytes = 12 * MIB;
    config.connections.frame_bytes_max = 4 * MIB as u32;
    config
}

/// Announces a frame of `announced` bytes, sends `sent` of them and says no more, until it is told off.
async fn stall(runtime: Runtime, address: SocketAddr, announced: usize, sent: usize) -> ErrorCode {
    let mut peer = Peer::connect(&runtime, address).await;
    let mut bytes = (announced as u32).to_le_bytes().to_vec();
    bytes.resize(4 + sent, 0x5a);
    // Sending waits too when the node takes no more.
    let (recv, mut send) = (peer.recv, peer.send);
    let sending = runtime.spawn(Class::Normal, "stalled send", async move {
        let _ = send.send_all(vec![Bytes::from(bytes)]).await;
        send
    });
    peer = Peer::receiving(recv, sending.await.unwrap());
    match peer.answer().await.map(|answered| answered.answer) {
        Some(ResponseAnswer::Refused { code, detail, .. }) => {
            assert!(!detail.is_empty());
            code
        }
        other => panic!("a stalled frame was answered with {other:?}"),
    }
}

/// Connects, says hello, appends a small record and reads it back; how long that took.
async fn small_round(runtime: &Runtime, address: SocketAddr, partition: u64) -> Duration {
    let begun = runtime.instant();
    let mut peer = Peer::connect(runtime, address).await;
    let offset = peer.append(partition, &[7; 1000]).await;
    let read = RequestCall::Read { partition, from: offset, bytes_min: 1, bytes_max: 1 << 20, wait_ms: 0 };
    let answer = peer.call(read).await;
    assert!(matches!(answer, ResponseAnswer::Frames { .. }), "{answer:?}");
    runtime.instant().since(begun)
}

/// Small rounds for `time`, one after the other; the longest.
async fn worst_small_round(
    runtime: &Runtime,
    address: SocketAddr,
    partition: u64,
    time: Duration,
) -> Duration {
    let until = runtime.instant().after(time);
    let mut worst = Duration::ZERO;
    while runtime.instant() < until {
        worst = worst.max(small_round(runtime, address, partition).await);
        runtime.sleep(Duration::from_millis(237)).await;
    }
    worst
}

#[test]
fn stalled_frames_do_not_delay_others_whatever_their_number() {
    for count in [0, 3, 30, 300] {
        let (worst, cut_off, peak) = world(tight()).play(async move |runtime: Runtime, address| {
            let mut peer = Peer::connect(&runtime, address).await;
            let partition = peer.create_topic("t", 1).await[0].0;
            let stalled: Vec<_> = (0..count)
                .map(|number| {
                    let (announced, sent) = match number % 3 {
                        0 => (4 * MIB - 4, 256 * 1024),
                        1 => (4 * MIB - 4, 0),
                        _ => (60 * 1024, 10 * 1024),
                    };
                    let stalled = stall(runtime.clone(), address, announced, sent);
                    runtime.spawn(Class::Normal, "stalled", stalled)
                })
                .collect();
            let worst = worst_small_round(&runtime, address, partition, Duration::from_secs(20)).await;
            let honest: Vec<_> = (0..if count > 0 { 4 } else { 0 })
                .map(|_| runtime.spawn(Class::Normal, "honest", large(runtime.clone(), address, partition)))
                .collect();
            let worst =
                worst.max(worst_small_round(&runtime, address, partition, Duration::from_secs(20)).await);
            for honest in honest {
                honest.await.unwrap();
            }
            for stalled in stalled {
                let code = stalled.await.unwrap();
                assert!(matches!(code, ErrorCode::TimedOut | ErrorCode::Overloaded), "{code:?}");
            }
            let cut_off = peer.fact("shard.0.connections_cut_off").await;
            (worst, cut_off, peer.fact("shard.0.memory_peak_bytes").await)
        });
        println!("{count} stalled: worst round {worst:?}, {cut_off} cut off, peak {peak} bytes");
        assert!(worst < SMALL_WAIT, "{count} stalled frames: a small round took {worst:?}");
        assert!(peak <= 12 * MIB as u64, "{count}: {peak} bytes");
        assert!(cut_off <= count as u64, "{count}: an honest one was cut off");
    }
}

/// A large append; how long it took.
async fn large(runtime: Runtime, address: SocketAddr, partition: u64) -> Duration {
    let begun = runtime.instant();
    let mut peer = Peer::connect(&runtime, address).await;
    peer.append(partition, &vec![9; 3 * MIB]).await;
    runtime.instant().since(begun)
}

#[test]
fn honest_large_frames_all_finish_and_stay_within_the_budget() {
    for stalled in [0, 60] {
        let (worst, cut_off, peak) = world(tight()).play(async move |runtime: Runtime, address| {
            let mut peer = Peer::connect(&runtime, address).await;
            let partition = peer.create_topic("t", 1).await[0].0;
            for _ in 0..stalled {
                let stalled = stall(runtime.clone(), address, 4 * MIB - 4, 300 * 1024);
                runtime.spawn(Class::Normal, "stalled", stalled).detach();
            }
            runtime.sleep(Duration::from_millis(200)).await;
            let honest: Vec<_> = (0..24)
                .map(|_| runtime.spawn(Class::Normal, "honest", large(runtime.clone(), address, partition)))
                .collect();
            let mut worst = Duration::ZERO;
            for honest in honest {
                worst = worst.max(honest.await.unwrap());
            }
            let cut_off = peer.fact("shard.0.connections_cut_off").await;
            (worst, cut_off, peer.fact("shard.0.memory_peak_bytes").await)
        });
        println!(
            "24 honest beside {stalled} stalled: the last after {worst:?}, {cut_off} cut off, peak {peak}"
        );
        assert!(worst < Duration::from_secs(30), "{stalled} stalled: {worst:?}");
        assert!(cut_off <= stalled, "an honest frame was cut off");
        assert!(peak <= 12 * MIB as u64, "{stalled}: {peak} bytes");
    }
}

/// Asks for much again and again and never reads an answer.
async fn never_read(runtime: Runtime, address: SocketAddr, partition: u64) -> Peer {
    let mut peer = Peer::connect(&runtime, address).await;
    for _ in 0..50 {
        let read = RequestCall::Read { partition, from: 0, bytes_min: 1, bytes_max: 4 << 20, wait_ms: 0 };
        peer.ask(read, &[]).await;
    }
    peer
}

#[test]
fn consumers_that_never_read_hold_little_and_delay_nobody() {
    for (count, shards) in [(3, 1), (30, 1), (300, 1), (300, 2)] {
        let mut config = config(shards);
        config.connections.shard_memory_bytes = 96 * MIB;
        let (worst, used) = world(config).play(async move |runtime: Runtime, address| {
            let mut peer = Peer::connect(&runtime, address).await;
            let topic = peer.create_topic("t", 2).await;
            let partition = topic[0].0;
            for _ in 0..256 {
                peer.append(partition, &[3; 16 * 1024]).await;
            }
            let stuck: Vec<_> = (0..count)
                .map(|number: usize| {
                    // Through the owner's port, and through the other shard's.
                    let through = topic[number % topic.len()].1;
                    let stuck = never_read(runtime.clone(), through, partition);
                    runtime.spawn(Class::Normal, "stuck", stuck)
                })
                .collect();
            let worst = worst_small_round(&runtime, address, partition, Duration::from_secs(10)).await;
            let mut used = 0;
            for shard in 0..shards {
                used += peer.fact(&format!("shard.{shard}.memory_used_bytes")).await;
            }
            drop(stuck);
            (worst, used)
        });
        println!(
            "{count} never read, {shards} shards: worst round {worst:?}, {} bytes each",
            used / count as u64
        );
        assert!(worst < SMALL_WAIT, "{count} that never read: a small round took {worst:?}");
        let each = used / count as u64;
        assert!(each <= 100 * 1024, "each holds {each} bytes");
    }
}
