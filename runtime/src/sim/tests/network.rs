//! Faults of the network.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;

use super::*;
use crate::sim::{address_v4, address_v6};
use crate::{Class, RecvHalf, TcpListener, TcpStream};

/// Two machines: a server that listens on port 1000, and a client.
struct Two {
    world: SimWorld,
    server: MachineId,
    client: MachineId,
    server_runtime: Runtime,
    client_runtime: Runtime,
}

fn server_address() -> SocketAddr {
    SocketAddr::new(address_v4(MachineId(0)), 1000)
}

impl Two {
    fn new(seed: u64, rates: FaultRates) -> Two {
        let mut world = SimWorld::new(SimConfig::new(seed).with_rates(rates));
        let (server, client) = (world.add_machine(), world.add_machine());
        let (server_runtime, client_runtime) = (world.start(server), world.start(client));
        Two { world, server, client, server_runtime, client_runtime }
    }

    /// Serves every connection with `serve`.
    fn serve<F: Future<Output = ()> + 'static>(&mut self, serve: impl Fn(Runtime, TcpStream) -> F + 'static) {
        let rt = self.server_runtime.clone();
        let listener = TcpListener::bind(&rt, "0.0.0.0:1000".parse().unwrap(), false).unwrap();
        let spawner = rt.clone();
        spawner
            .spawn(Class::Normal, "accept", async move {
                while let Ok((stream, _)) = listener.accept().await {
                    rt.spawn(Class::Normal, "serve", serve(rt.clone(), stream)).detach();
                }
            })
            .detach();
        self.world.poke();
    }

    fn client<T: 'static, F: Future<Output = T> + 'static>(&mut self, work: impl FnOnce(Runtime) -> F) -> T {
        let future = work(self.client_runtime.clone());
        self.world.run(&self.client_runtime, future).expect("the world came to rest before the test was done")
    }

    fn count(&self, fault: Fault) -> u64 {
        self.world.counts().total(fault)
    }
}

async fn echo(_rt: Runtime, stream: TcpStream) {
    let (mut receive, mut send) = stream.split();
    loop {
        let (read, buffer) = receive.recv(BytesMut::with_capacity(1000)).await;
        match read {
            Ok(0) | Err(_) => break,
            Ok(_) if send.send_all(vec![buffer.freeze()]).await.is_err() => break,
            Ok(_) => {}
        }
    }
}

/// Reads until `length` bytes, the end, or an error.
async fn read_up_to(receive: &mut RecvHalf, length: usize) -> (BytesMut, io::Result<()>) {
    let mut all = BytesMut::new();
    while all.len() < length {
        let (read, buffer) = receive.recv(BytesMut::with_capacity(length - all.len())).await;
        all.extend_from_slice(&buffer);
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return (all, Err(error)),
        }
    }
    (all, Ok(()))
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn bytes_arrive_whole_and_in_order_whatever_the_pieces() {
    let short = FaultRates::none()
        .with(Fault::ShortSend, 300_000)
        .with(Fault::ShortReceive, 300_000)
        .with(Fault::NetworkDelay, 100_000);
    let mut two = Two::new(11, short);
    two.serve(echo);
    two.client(async |rt| {
        let (mut receive, mut send) = TcpStream::connect(&rt, server_address()).await.unwrap().split();
        let bytes = pattern(300_000);
        let sent = bytes.clone();
        rt.spawn(Class::Normal, "send", async move {
            send.send_all(vec![sent.slice(..100_000), sent.slice(100_000..)]).await.unwrap();
            send.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        })
        .detach();
        let (back, ended) = read_up_to(&mut receive, bytes.len() + 1).await;
        ended.unwrap();
        assert_eq!(back, bytes);
    });
    for (fault, place) in [(Fault::ShortSend, "request"), (Fault::ShortReceive, "response")] {
        assert!(two.world.counts().at(fault, place) > 5, "{fault} at {place}");
    }
    assert!(two.count(Fault::NetworkDelay) > 5);
}

#[test]
fn a_reader_that_does_not_read_stops_its_writer() {
    let mut two = Two::new(1, FaultRates::none());
    two.serve(|_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    two.client(async |rt| {
        let (_receive, mut send) = TcpStream::connect(&rt, server_address()).await.unwrap().split();
        let fits = SimConfig::new(0).socket_buffer_bytes;
        send.send_all(vec![pattern(fits)]).await.unwrap();
        let more = rt.timeout(Duration::from_secs(100), send.send_all(vec![pattern(1)])).await;
        assert!(more.is_err(), "there was room for more than the bound");
    });
}

#[test]
fn connecting_to_nobody_is_refused_and_to_a_dead_machine_times_out() {
    let mut two = Two::new(1, FaultRates::none());
    two.client(async |rt| {
        let refused = TcpStream::connect(&rt, server_address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
    assert_eq!(two.count(Fault::Refused), 1);
    two.world.crash(two.server);
    two.client(async |rt| {
        let silent = TcpStream::connect(&rt, server_address()).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn a_cut_connection_ends_with_a_prefix_on_both_sides() {
    let mut errors = 0;
    for seed in 0..30 {
        let mut two = Two::new(seed, FaultRates::none().with(Fault::Cut, 200_000));
        two.serve(echo);
        let failed = two.client(async move |rt| {
            let Ok(stream) = TcpStream::connect(&rt, server_address()).await else { return true };
            let (mut receive, mut send) = stream.split();
            let bytes = pattern(20_000);
            let sent = send.send_all(vec![bytes.clone()]).await;
            let (back, ended) = read_up_to(&mut receive, bytes.len()).await;
            assert_eq!(back[..], bytes[..back.len()], "seed {seed}");
            sent.is_err() || ended.is_err() || back.len() < bytes.len()
        });
        assert_eq!(failed, two.count(Fault::Cut) > 0, "seed {seed}");
        errors += usize::from(failed);
    }
    assert!(errors > 10, "{errors}");
}

#[test]
fn a_half_open_connection_tells_one_end_only() {
    let mut hung = 0;
    for seed in 0..40 {
        let mut two = Two::new(seed, FaultRates::none().with(Fault::HalfOpen, 1_000_000));
        two.serve(echo);
        let told = two.client(async |rt| {
            let (mut receive, mut send) = TcpStream::connect(&rt, server_address()).await.unwrap().split();
            let _ = send.send_all(vec![pattern(100)]).await;
            rt.timeout(Duration::from_secs(60), read_up_to(&mut receive, 100)).await.is_ok()
        });
        assert!(two.count(Fault::HalfOpen) > 0);
        hung += usize::from(!told);
    }
    assert!((5..35).contains(&hung), "{hung}");
}

#[test]
fn a_partition_holds_data_back_and_lets_it_go() {
    let mut two = Two::new(6, FaultRates::none());
    two.serve(echo);
    let (receive, mut send) =
        two.client(async |rt| TcpStream::connect(&rt, server_address()).await.unwrap().split());
    two.world.partition(two.client, two.server);
    let mut receive = two.client(async move |rt| {
        send.send_all(vec![pattern(100)]).await.unwrap();
        let mut receive = receive;
        let silent = rt.timeout(Duration::from_secs(2), receive.recv(BytesMut::with_capacity(100))).await;
        assert!(silent.is_err());
        let second = TcpStream::connect(&rt, server_address()).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::TimedOut);
        rt.spawn(Class::Normal, "hold", async move {
            std::future::pending::<()>().await;
            drop(send);
        })
        .detach();
        receive
    });
    two.world.heal(two.client, two.server);
    two.client(async move |_| {
        let (back, _) = read_up_to(&mut receive, 100).await;
        assert_eq!(back, pattern(100));
    });
    assert!(two.world.counts().at(Fault::Partition, "data") > 0);
    assert_eq!(two.world.counts().at(Fault::Partition, "connect"), 1);
}

#[test]
fn a_killed_process_ends_its_connections_and_a_dead_machine_says_nothing_until_it_is_back() {
    let mut two = Two::new(9, FaultRates::none());
    two.serve(echo);
    let stream = two.client(async |rt| TcpStream::connect(&rt, server_address()).await.unwrap());
    two.world.kill(two.server);
    two.client(async move |_| {
        let (mut receive, _send) = stream.split();
        let (back, _) = read_up_to(&mut receive, 1).await;
        assert!(back.is_empty());
    });
    two.server_runtime = two.world.start(two.server);
    two.serve(echo);
    let stream = two.client(async |rt| TcpStream::connect(&rt, server_address()).await.unwrap());
    two.world.crash(two.server);
    let (mut receive, _send) = two.client(async move |rt| {
        let (mut receive, mut send) = stream.split();
        send.send_all(vec![pattern(10)]).await.unwrap();
        let silent = rt.timeout(Duration::from_secs(600), receive.recv(BytesMut::with_capacity(10))).await;
        assert!(silent.is_err());
        (receive, send)
    });
    two.server_runtime = two.world.start(two.server);
    two.client(async move |_| {
        let (read, _) = receive.recv(BytesMut::with_capacity(10)).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn ports_are_taken_shared_and_freed() {
    let mut two = Two::new(1, FaultRates::none());
    let rt = two.server_runtime.clone();
    let any: SocketAddr = "0.0.0.0:1000".parse().unwrap();
    let first = TcpListener::bind(&rt, any, true).unwrap();
    let second = TcpListener::bind(&rt, any, true).unwrap();
    assert_eq!(TcpListener::bind(&rt, any, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let _six = TcpListener::bind(&rt, "[::]:1000".parse().unwrap(), false).unwrap();
    let chosen = TcpListener::bind(&rt, "0.0.0.0:0".parse().unwrap(), false).unwrap();
    assert_ne!(chosen.local_address().port(), 0);
    two.client(async |rt| {
        let six = SocketAddr::new(address_v6(MachineId(0)), 1000);
        for address in [server_address(), six] {
            TcpStream::connect(&rt, address).await.unwrap();
        }
    });
    drop((first, second));
    two.world.run_for(Duration::from_secs(1));
    TcpListener::bind(&rt, any, false).unwrap();
}
