//! Peers that break the rules, or just do nothing: each costs its own connection and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use martlet_core::native::{PREFACE, RequestCall, ResponseAnswer};
use martlet_core::{Acks, ErrorCode};
use support::{Client, Scratch, append, config, connect, hello, message, read_answer, start};

/// The refusal that a peer gets, and the end of the connection behind it.
fn refusal(stream: &mut TcpStream) -> ErrorCode {
    let answered = read_answer(stream).unwrap();
    let ResponseAnswer::Refused { code, detail, .. } = answered.answer else {
        panic!("expected a refusal, got {:?}", answered.answer)
    };
    assert!(!detail.is_empty());
    assert_eq!(answered.correlation, 0);
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "the connection ends behind the refusal");
    code
}

#[test]
fn rule_breakers_are_told_and_cut_off_while_others_are_served() {
    let scratch = Scratch::new();
    let mut config = config(&scratch, 1);
    config.connections.handshake = Duration::from_millis(300);
    config.connections.frame_stall = Duration::from_millis(300);
    let (node, address) = start(config);
    let mut good = Client::connect(address);
    let partition = good.create_topic("t", 1).partitions[0].partition;

    let mut garbage = connect(address);
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(refusal(&mut garbage), ErrorCode::Protocol);

    let mut silent = connect(address);
    assert_eq!(refusal(&mut silent), ErrorCode::TimedOut);

    let mut rude = connect(address);
    rude.write_all(&PREFACE).unwrap();
    rude.write_all(&message(7, RequestCall::Ping, &[])).unwrap();
    let answered = read_answer(&mut rude).unwrap();
    assert!(matches!(answered.answer, ResponseAnswer::Refused { code: ErrorCode::Protocol, .. }));

    for announced in [u32::MAX, 1 << 31, 32 * 1024 * 1024 + 1] {
        let mut oversize = Client::connect(address);
        oversize.stream().write_all(&announced.to_le_bytes()).unwrap();
        assert_eq!(refusal(oversize.stream()), ErrorCode::FrameTooLarge);
    }

    let mut stalled = Client::connect(address);
    stalled.stream().write_all(&1000u32.to_le_bytes()).unwrap();
    stalled.stream().write_all(&[0; 10]).unwrap();
    assert_eq!(refusal(stalled.stream()), ErrorCode::TimedOut);

    let mut broken = Client::connect(address);
    let mut bytes = message(9, RequestCall::Ping, &[]);
    bytes[8..].fill(0xff);
    broken.stream().write_all(&bytes).unwrap();
    assert_eq!(refusal(broken.stream()), ErrorCode::Protocol);

    let mut twice = Client::connect(address);
    twice.send(hello(), &[]);
    let answered = twice.receive();
    assert!(matches!(answered.answer, ResponseAnswer::Refused { code: ErrorCode::Protocol, .. }));

    let mut cut = Client::connect(address);
    let (call, body) = append(partition, &[b"cut"], None);
    let bytes = message(5, call, &body);
    cut.stream().write_all(&bytes[..bytes.len() - 1]).unwrap();
    drop(cut);

    assert_eq!(good.append(partition, &[b"still here"]), 0);
    node.stop().unwrap();
}

#[test]
fn a_damaged_batch_is_refused_and_the_connection_goes_on() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let partition = client.create_topic("t", 1).partitions[0].partition;
    let (call, mut body) = append(partition, &[b"value"], None);
    *body.last_mut().unwrap() ^= 1;
    let (answer, _) = client.exchange(call.clone(), &body);
    assert!(matches!(answer, ResponseAnswer::Refused { code: ErrorCode::CorruptBatch, .. }), "{answer:?}");
    let (answer, _) = client.exchange(call, &body[..10]);
    assert!(matches!(answer, ResponseAnswer::Refused { code: ErrorCode::CorruptBatch, .. }), "{answer:?}");
    let (call, body) = append(partition + 1000, &[b"value"], None);
    let (answer, _) = client.exchange(call, &body);
    assert!(
        matches!(answer, ResponseAnswer::Refused { code: ErrorCode::UnknownPartition, .. }),
        "{answer:?}"
    );
    assert_eq!(client.append(partition, &[b"good"]), 0);
    node.stop().unwrap();
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off_and_memory_stays_bounded() {
    let scratch = Scratch::new();
    let mut config = config(&scratch, 1);
    config.connections.write_stall = Duration::from_millis(500);
    config.connections.shard_memory_bytes = 4 * 1024 * 1024;
    let (node, address) = start(config);
    let mut client = Client::connect(address);
    let partition = client.create_topic("t", 1).partitions[0].partition;
    let value = vec![7u8; 256 * 1024];
    for _ in 0..8 {
        client.append(partition, &[&value]);
    }
    let mut lazy = Client::connect(address);
    let read = RequestCall::Read { partition, from: 0, bytes_min: 0, bytes_max: 2 << 20, wait_ms: 0 };
    for _ in 0..200 {
        lazy.send(read.clone(), &[]);
    }
    for _ in 0..20 {
        client.append(partition, &[b"served meanwhile"]);
        let stats = node.handle().collect_stats(support::WAIT);
        let used = stats.shards[0].memory_used_bytes;
        assert!(used < 8 * 1024 * 1024, "{used} bytes are held for a reader that takes nothing");
    }
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    let mut end = None;
    // The node closes the connection although most of what was asked for was not sent.
    support::wait_until(|| node.handle().collect_stats(support::WAIT).shards[0].connections == 1);
    while end.is_none() {
        match lazy.stream().read(&mut buffer) {
            Ok(0) | Err(_) => end = Some(()),
            Ok(count) => taken += count,
        }
    }
    assert!(taken < 200 << 20, "all was sent: {taken}");
    assert_eq!(client.append(partition, &[b"after"]), 28);
    node.stop().unwrap();
}

#[test]
fn a_thousand_connections_and_one_too_many() {
    let scratch = Scratch::new();
    let mut config = config(&scratch, 1);
    config.connections.connections_max = 1_000;
    let (node, address) = start(config);
    let mut clients: Vec<Client> = (0..1_000).map(|_| Client::connect(address)).collect();
    let partition = clients[0].create_topic("t", 1).partitions[0].partition;
    let mut refused = connect(address);
    assert_eq!(refusal(&mut refused), ErrorCode::Overloaded);
    let (call, body) = append(partition, &[b"one of many"], None);
    for client in &mut clients {
        client.send(call.clone(), &body);
    }
    let mut offsets: Vec<u64> = clients
        .iter_mut()
        .map(|client| match client.receive().answer {
            ResponseAnswer::Appended { base_offset, .. } => base_offset,
            other => panic!("{other:?}"),
        })
        .collect();
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq(0..1_000));
    let stats = node.handle().collect_stats(support::WAIT);
    assert_eq!((stats.shards[0].connections, stats.shards[0].connections_refused), (1_000, 1));
    drop(clients);
    support::wait_until(|| node.handle().collect_stats(support::WAIT).shards[0].connections == 0);
    node.stop().unwrap();
}

#[test]
fn requests_are_pipelined_and_answered_by_correlation() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let partition = client.create_topic("t", 1).partitions[0].partition;
    let wait = RequestCall::Read { partition, from: 0, bytes_min: 1, bytes_max: 1 << 20, wait_ms: 60_000 };
    let waiting = client.send(wait, &[]);
    let ping = client.send(RequestCall::Ping, &[]);
    assert_eq!(client.receive().correlation, ping, "an answer overtakes a read that waits");
    let (silent, body) = append(partition, &[b"silent"], Some(Acks::None));
    client.send(silent, &body);
    let (call, body) = append(partition, &[b"told"], None);
    let told = client.send(call, &body);
    let answers = [client.receive(), client.receive()];
    let of = |sent| answers.iter().find(|answered| answered.correlation == sent).unwrap();
    assert!(matches!(of(told).answer, ResponseAnswer::Appended { base_offset: 1, .. }));
    assert_eq!(support::values_of(&of(waiting).body)[0], (0, b"silent".to_vec()));
    node.stop().unwrap();
}
