//! Frames over the simulated network: cut however the bytes arrive, bounded, and never waited for in vain.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use martlet_net::reader::{FrameReader, ReadError};
use martlet_net::writer::{FrameWriter, Gather, WriteError};
use martlet_net::{ConnectionLimits, MemoryBudget};
use martlet_runtime::sim::{SimConfig, SimWorld};
use martlet_runtime::{Class, Runtime, TcpListener, TcpStream};

fn limits() -> Rc<ConnectionLimits> {
    Rc::new(ConnectionLimits {
        frame_bytes_max: 2 * 1024 * 1024,
        frame_stall: Duration::from_secs(5),
        write_stall: Duration::from_secs(5),
        ..ConnectionLimits::default()
    })
}

/// A connection within one machine: the accepting and the connecting end.
async fn pair(runtime: &Runtime) -> (TcpStream, TcpStream) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = TcpListener::bind(runtime, any, false).unwrap();
    let address = listener.local_address();
    let of_client = runtime.clone();
    let client = runtime.spawn(Class::Normal, "client", async move {
        TcpStream::connect(&of_client, address).await.unwrap()
    });
    let (server, _) = listener.accept().await.unwrap();
    (server, client.await.unwrap())
}

fn run<T: 'static>(seed: u64, test: impl AsyncFnOnce(Runtime) -> T + 'static) -> T {
    let mut world = SimWorld::new(SimConfig::new(seed));
    let machine = world.add_machine();
    let runtime = world.start(machine);
    let of_test = runtime.clone();
    world.run(&runtime, async move { test(of_test).await }).unwrap()
}

#[test]
fn frames_of_every_size_arrive_whole_and_give_their_memory_back() {
    for seed in 0..20 {
        run(seed, async |runtime: Runtime| {
            let (server, client) = pair(&runtime).await;
            let sizes = [0usize, 1, 5, 4_092, 4_096, 5_000, 70_000, 262_144, 1_500_000, 3, 300_000, 9];
            let (_keep, mut send) = client.split();
            let sending = runtime.spawn(Class::Normal, "send", async move {
                for (size, fill) in sizes.into_iter().zip(1u8..) {
                    let mut bytes = (size as u32).to_le_bytes().to_vec();
                    bytes.resize(4 + size, fill);
                    send.send_all(vec![Bytes::from(bytes)]).await.unwrap();
                }
            });
            let memory = MemoryBudget::new(1 << 20);
            let (recv, _send) = server.split();
            let mut reader = FrameReader::new(&runtime, recv, limits(), memory.clone());
            for (size, fill) in sizes.into_iter().zip(1u8..) {
                let frame = reader.next_frame(u32::MAX).await.unwrap();
                assert_eq!(frame.bytes.len(), size);
                assert!(frame.bytes.iter().all(|byte| *byte == fill));
                assert_eq!(frame.reservation.bytes(), size + 4);
            }
            sending.await.unwrap();
            drop(_keep);
            assert!(matches!(reader.next_frame(u32::MAX).await, Err(ReadError::Closed)));
            drop(reader);
            assert_eq!(memory.used(), 0);
        });
    }
}

#[test]
fn what_is_announced_is_not_believed() {
    run(1, async |runtime: Runtime| {
        let (server, client) = pair(&runtime).await;
        let (_keep, mut send) = client.split();
        send.send_all(vec![Bytes::from_static(&[0xff; 4])]).await.unwrap();
        let memory = MemoryBudget::new(1 << 20);
        let (recv, _send) = server.split();
        let mut reader = FrameReader::new(&runtime, recv, limits(), memory.clone());
        let error = reader.next_frame(u32::MAX).await.unwrap_err();
        assert!(matches!(error, ReadError::TooLarge { announced: u32::MAX, bytes_max: 2_097_152 }));
        assert_eq!(memory.used(), 0);
    });
}

#[test]
fn half_a_frame_ends_in_time_and_an_idle_peer_is_waited_for() {
    run(1, async |runtime: Runtime| {
        let (server, client) = pair(&runtime).await;
        let (_keep, mut send) = client.split();
        let (recv, _send) = server.split();
        let mut reader = FrameReader::new(&runtime, recv, limits(), MemoryBudget::new(1 << 20));
        let late = runtime.clone();
        let sending = runtime.spawn(Class::Normal, "send", async move {
            late.sleep(Duration::from_secs(1800)).await;
            send.send_all(vec![Bytes::from_static(&[100, 0, 0, 0, 1, 2, 3])]).await.unwrap();
            send
        });
        let error = reader.next_frame(u32::MAX).await.unwrap_err();
        assert!(matches!(error, ReadError::Stalled), "{error:?}");
        drop(sending.await.unwrap());
    });
}

#[test]
fn a_peer_that_takes_nothing_stalls_the_writer_only_so_long() {
    run(1, async |runtime: Runtime| {
        let (server, client) = pair(&runtime).await;
        let (_recv, send) = server.split();
        let mut writer = FrameWriter::new(&runtime, send, Duration::from_secs(5));
        let mut gather = Gather::new();
        gather.copy(b"head");
        for _ in 0..256 {
            gather.share(Bytes::from(vec![0; 1 << 20]));
        }
        let begun = runtime.instant();
        let error = writer.send(&mut gather).await.unwrap_err();
        assert!(matches!(error, WriteError::Stalled { .. }), "{error:?}");
        assert!(runtime.instant().since(begun) < Duration::from_secs(60));
        drop(client);
    });
}
