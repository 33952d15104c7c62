//! Connections: bytes arrive whole and in order; ends, refusals and dropped operations concern one connection
//! only.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use martlet_runtime::{Class, TcpListener, TcpStream};

use crate::harness::{Harness, connection, pattern, recv_exactly, recv_to_end, send};

pub(crate) fn echo(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        assert_ne!(listener.local_address().port(), 0);
        let (client, server) = connection(&rt, &listener).await;
        let serve = rt.spawn(Class::Latency, "echo", async move {
            let (mut recv, mut send) = server.split();
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(4096);
                let (result, back) = recv.recv(buffer).await;
                buffer = back;
                if result.unwrap() == 0 {
                    return;
                }
                send.send_all(vec![buffer.split().freeze()]).await.unwrap();
            }
        });
        let (mut recv, mut half) = client.split();
        for length in [1, 2, 100, 4095, 4096, 4097, 100_000] {
            send(&mut half, pattern(length, 5)).await;
            assert!(recv_exactly(&mut recv, length).await == pattern(length, 5));
        }
        half.send_all(Vec::new()).await.unwrap();
        half.send_all(vec![Bytes::new(), Bytes::from_static(b"a"), Bytes::new()]).await.unwrap();
        assert_eq!(recv_exactly(&mut recv, 1).await, "a");
        drop((recv, half));
        serve.await.unwrap();
    });
}

pub(crate) fn a_large_send_arrives_whole(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let (client, server) = connection(&rt, &listener).await;
        // More parts than one send takes, of uneven lengths, more bytes than any socket buffer holds.
        let parts: Vec<Bytes> = (0..400usize).map(|at| pattern(at * 97, at as u8).into()).collect();
        let expected = parts.concat();
        let sender = rt.spawn(Class::Normal, "send", async move {
            let (_recv, mut half) = client.split();
            half.send_all(parts).await.unwrap();
            half.shutdown().await.unwrap();
        });
        let (mut recv, _half) = server.split();
        assert!(recv_to_end(&mut recv).await == expected);
        sender.await.unwrap();
    });
}

pub(crate) fn half_close(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let (client, server) = connection(&rt, &listener).await;
        let (mut client_recv, mut client_send) = client.split();
        let (mut server_recv, mut server_send) = server.split();
        send(&mut client_send, "question").await;
        client_send.shutdown().await.unwrap();
        assert_eq!(recv_to_end(&mut server_recv).await, "question");
        send(&mut server_send, "answer").await;
        drop((server_recv, server_send));
        assert_eq!(recv_to_end(&mut client_recv).await, "answer");
    });
}

pub(crate) fn a_refused_connection(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let address = listener.local_address();
        let pending = rt.timeout(Duration::ZERO, listener.accept()).await;
        assert!(pending.is_err());
        drop(listener);
        // The listener is closed once its accept has ended.
        loop {
            let Err(error) = TcpStream::connect(&rt, address).await else { continue };
            if error.kind() == ErrorKind::ConnectionRefused {
                return;
            }
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
    });
}

pub(crate) fn a_peer_that_resets(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let (client, server) = connection(&rt, &listener).await;
        let (mut client_recv, mut client_send) = client.split();
        let (mut server_recv, server_send) = server.split();
        send(&mut client_send, pattern(4096, 1)).await;
        // A close with bytes unread tells the sender that they were for nothing.
        assert_eq!(recv_exactly(&mut server_recv, 1).await.len(), 1);
        drop((server_recv, server_send));
        let (result, _) = client_recv.recv(BytesMut::with_capacity(16)).await;
        assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
        let error = client_send.send_all(vec![Bytes::from_static(b"x")]).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
        // Others are not concerned.
        let (client, server) = connection(&rt, &listener).await;
        send(&mut client.split().1, "y").await;
        assert_eq!(recv_to_end(&mut server.split().0).await, "y");
    });
}

pub(crate) fn a_dropped_recv_takes_nothing_of_the_next(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        for round in 0..50u8 {
            let (client, server) = connection(&rt, &listener).await;
            let (mut recv, half) = server.split();
            let waited = rt.timeout(Duration::ZERO, recv.recv(BytesMut::with_capacity(64))).await;
            assert!(waited.is_err());
            // The operation is being cancelled; its descriptor may be given out again only after that.
            drop((recv, half));
            drop(client);
            let (client, server) = connection(&rt, &listener).await;
            send(&mut client.split().1, pattern(64, round)).await;
            assert!(recv_exactly(&mut server.split().0, 64).await == pattern(64, round));
        }
    });
}

pub(crate) fn a_dropped_accept(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        for _ in 0..20 {
            assert!(rt.timeout(Duration::ZERO, listener.accept()).await.is_err());
        }
        let (client, server) = connection(&rt, &listener).await;
        send(&mut client.split().1, "z").await;
        assert_eq!(recv_exactly(&mut server.split().0, 1).await, "z");
        // A connection that comes while nobody waits is there for the next who does.
        assert!(rt.timeout(Duration::ZERO, listener.accept()).await.is_err());
        let client = TcpStream::connect(&rt, listener.local_address()).await.unwrap();
        rt.sleep(Duration::from_millis(1)).await;
        send(&mut client.split().1, "y").await;
        let (server, _peer) = listener.accept().await.unwrap();
        assert_eq!(recv_exactly(&mut server.split().0, 1).await, "y");
    });
}

pub(crate) fn two_listeners_share_a_port(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let first = TcpListener::bind(&rt, any, true).unwrap();
        let second = TcpListener::bind(&rt, first.local_address(), true).unwrap();
        assert_eq!(first.local_address(), second.local_address());
        let alone = TcpListener::bind(&rt, any, false).unwrap();
        let taken = TcpListener::bind(&rt, alone.local_address(), false);
        assert_eq!(taken.err().map(|error| error.kind()), Some(ErrorKind::AddrInUse));
        // Whoever of the two gets it, a connection is served.
        for listener in [first, second] {
            rt.spawn(Class::Normal, "serve", async move {
                loop {
                    let (stream, _peer) = listener.accept().await.unwrap();
                    send(&mut stream.split().1, "served").await;
                }
            });
        }
        let address = alone.local_address();
        drop(alone);
        assert_ne!(address.port(), 0);
    });
}

pub(crate) fn both_directions_at_once(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let (client, server) = connection(&rt, &listener).await;
        const LENGTH: usize = 3 << 20;
        let talk = |stream: TcpStream, own: u8, other: u8| {
            let (mut recv, mut half) = stream.split();
            let send = rt.spawn(Class::Normal, "send", async move {
                for chunk in pattern(LENGTH, own).chunks(100_000) {
                    send(&mut half, chunk.to_vec()).await;
                }
                half
            });
            rt.spawn(Class::Normal, "recv", async move {
                assert!(recv_exactly(&mut recv, LENGTH).await == pattern(LENGTH, other));
                drop(send.await.unwrap());
            })
        };
        let (client, server) = (talk(client, 1, 2), talk(server, 2, 1));
        client.await.unwrap();
        server.await.unwrap();
    });
}

pub(crate) fn recv_needs_room(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let (client, _server) = connection(&rt, &listener).await;
        let (result, _) = client.split().0.recv(BytesMut::new()).await;
        assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::InvalidInput));
    });
}

pub(crate) fn many_connections_at_once(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let address = listener.local_address();
        let clients: Vec<_> = (0..100u8)
            .map(|at| {
                let dialler = rt.clone();
                rt.spawn(Class::Normal, "client", async move {
                    let (mut recv, mut half) = TcpStream::connect(&dialler, address).await.unwrap().split();
                    send(&mut half, vec![at; 10]).await;
                    half.shutdown().await.unwrap();
                    assert_eq!(recv_to_end(&mut recv).await, vec![at; 10]);
                })
            })
            .collect();
        for _ in 0..100 {
            let (stream, _peer) = listener.accept().await.unwrap();
            rt.spawn(Class::Normal, "serve", async move {
                let (mut recv, mut half) = stream.split();
                let all = recv_to_end(&mut recv).await;
                send(&mut half, all).await;
            });
        }
        for client in clients {
            client.await.unwrap();
        }
    });
}

pub(crate) fn shutdown_and_drop_deliver_all(harness: &impl Harness) {
    let any = harness.any_port();
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let (client, server) = connection(&rt, &listener).await;
        let (_recv, mut half) = client.split();
        send(&mut half, pattern(200_000, 9)).await;
        // Bytes that a finished send has taken are delivered although the connection is closed at once.
        drop((half, _recv));
        assert!(recv_to_end(&mut server.split().0).await == pattern(200_000, 9));
    });
}
