//! Peers that fall silent, in the simulated world: each limit of time cuts off whom it is meant for, when it
//! is meant to, and nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use martlet_core::ErrorCode;
use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_node::NodeConfig;
use martlet_runtime::sim::SimConfig;
use martlet_runtime::{Runtime, TcpStream};
use support::message;
use support::world::{Peer, World, config};

const SECOND: Duration = Duration::from_secs(1);

fn world(config: NodeConfig) -> World {
    let mut world = World::new(SimConfig::new(11));
    world.start(config);
    world
}

fn idle_after(seconds: u64) -> NodeConfig {
    let mut config = config(1);
    config.connections.idle = Duration::from_secs(seconds);
    config.connections.frame_stall = Duration::from_secs(300);
    config
}

fn near(took: Duration, seconds: u64) {
    let expected = Duration::from_secs(seconds);
    assert!(took >= expected && took < expected + SECOND, "{took:?} instead of {expected:?}");
}

#[test]
fn an_idle_connection_is_closed_after_its_time_and_not_before() {
    world(idle_after(60)).play(async |runtime: Runtime, address| {
        let mut peer = Peer::connect(&runtime, address).await;
        for _ in 0..3 {
            runtime.sleep(59 * SECOND).await;
            assert_eq!(peer.call(RequestCall::Ping).await, ResponseAnswer::Pong);
        }
        let begun = runtime.instant();
        assert!(peer.answer().await.is_none(), "it is closed without a word");
        near(runtime.instant().since(begun), 60);
    });
}

#[test]
fn who_waits_for_an_answer_or_sends_slowly_is_not_idle() {
    world(idle_after(60)).play(async |runtime: Runtime, address| {
        let mut peer = Peer::connect(&runtime, address).await;
        let partition = peer.create_topic("t", 1).await[0].0;
        let begun = runtime.instant();
        let wait =
            RequestCall::Read { partition, from: 0, bytes_min: 1, bytes_max: 1 << 20, wait_ms: 200_000 };
        let answer = peer.call(wait).await;
        assert!(matches!(answer, ResponseAnswer::Frames { .. }), "{answer:?}");
        near(runtime.instant().since(begun), 200);

        let slow = message(900, RequestCall::Ping, &[]);
        for part in slow.chunks(slow.len().div_ceil(4)) {
            peer.send.send_all(vec![Bytes::copy_from_slice(part)]).await.unwrap();
            runtime.sleep(50 * SECOND).await;
        }
        assert_eq!(peer.answer().await.expect("it is open").answer, ResponseAnswer::Pong);
        assert!(peer.answer().await.is_none(), "and closed when nothing comes any more");
    });
}

#[test]
fn a_connection_without_hello_and_a_frame_without_its_end_are_told_and_closed() {
    world(config(1)).play(async |runtime: Runtime, address| {
        let begun = runtime.instant();
        let (recv, send) = TcpStream::connect(&runtime, address).await.unwrap().split();
        let mut silent = Peer::receiving(recv, send);
        let told = silent.answer().await.expect("it is told").answer;
        assert!(matches!(told, ResponseAnswer::Refused { code: ErrorCode::TimedOut, .. }), "{told:?}");
        near(runtime.instant().since(begun), 10);
        assert!(silent.answer().await.is_none());

        let mut half = Peer::connect(&runtime, address).await;
        let begun = runtime.instant();
        half.send.send_all(vec![Bytes::from_static(&[200, 0, 0, 0, 1, 2, 3])]).await.unwrap();
        let told = half.answer().await.expect("it is told").answer;
        assert!(matches!(told, ResponseAnswer::Refused { code: ErrorCode::TimedOut, .. }), "{told:?}");
        near(runtime.instant().since(begun), 30);
        assert!(half.answer().await.is_none());
    });
}

#[test]
fn a_peer_that_is_cut_off_by_the_network_leaves_nothing_behind() {
    let mut world = world(idle_after(60));
    let lost = world.sim.add_machine();
    let (runtime, address) = (world.sim.start(lost), world.address());
    let of_peer = runtime.clone();
    let peer = world.sim.run(&runtime, async move {
        let mut peer = Peer::connect(&of_peer, address).await;
        let partition = peer.create_topic("t", 1).await[0].0;
        let wait =
            RequestCall::Read { partition, from: 0, bytes_min: 1, bytes_max: 1 << 20, wait_ms: 300_000 };
        peer.ask(wait, &[]).await;
        peer
    });
    world.sim.run_for(SECOND);
    let server = world.server;
    world.sim.partition(server, lost);
    let open = |world: &mut World| {
        world.play(async |runtime: Runtime, address| {
            Peer::connect(&runtime, address).await.fact("shard.0.connections").await
        })
    };
    world.sim.run_for(240 * SECOND);
    assert_eq!(open(&mut world), 2, "it owes an answer and is kept");
    world.sim.run_for(125 * SECOND);
    assert_eq!(open(&mut world), 1, "an idle time after the answer it is given up");
    drop(peer);
}

#[test]
fn a_peer_that_takes_nothing_is_closed_after_the_stall_time() {
    world(config(1)).play(async |runtime: Runtime, address| {
        let mut other = Peer::connect(&runtime, address).await;
        let partition = other.create_topic("t", 1).await[0].0;
        for _ in 0..20 {
            other.append(partition, &[1; 60 * 1024]).await;
        }
        let mut stuck = Peer::connect(&runtime, address).await;
        let begun = runtime.instant();
        for _ in 0..10 {
            let read = RequestCall::Read { partition, from: 0, bytes_min: 1, bytes_max: 1 << 20, wait_ms: 0 };
            stuck.ask(read, &[]).await;
        }
        while other.fact("shard.0.connections").await > 1 {
            runtime.sleep(SECOND / 10).await;
        }
        near(runtime.instant().since(begun), 30);
        let cut_off = other.fact("shard.0.connections_cut_off").await;
        assert_eq!(cut_off, 0, "nobody waited for what it held");
        assert_eq!(other.append(partition, b"served").await, 20);
    });
}
