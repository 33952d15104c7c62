//! What is the ring driver's alone: descriptors that come and go, addresses, links that break. One test in
//! this process at a time, since descriptors are counted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use martlet_runtime::uring::{UringConfig, UringDriver};
use martlet_runtime::{
    Class, DirectFile, Executor, ExecutorConfig, OpenOptions, Runtime, TcpListener, TcpStream,
};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn run<F: Future<Output = ()>>(body: impl FnOnce(Runtime) -> F) {
    let driver = UringDriver::new(UringConfig::default()).unwrap();
    let mut executor = Executor::new(ExecutorConfig::default(), Box::new(driver));
    executor.block_on(body(executor.runtime()));
}

/// Leaves every kind of operation under way.
async fn untidy(rt: Runtime) {
    let listener = TcpListener::bind(&rt, SocketAddr::from(([127, 0, 0, 1], 0)), false).unwrap();
    let address = listener.local_address();
    let mut streams = Vec::new();
    for _ in 0..10 {
        let client = TcpStream::connect(&rt, address).await.unwrap();
        let (server, _peer) = listener.accept().await.unwrap();
        let (mut recv, send) = server.split();
        drop(rt.timeout(Duration::ZERO, recv.recv(BytesMut::with_capacity(10))).await);
        streams.push((client, recv, send));
    }
    streams.truncate(5);
    drop(rt.timeout(Duration::ZERO, listener.accept()).await);
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("untidy");
    let options = OpenOptions { write: true, create: true, create_new: false, direct: false };
    drop(rt.timeout(Duration::ZERO, DirectFile::open(&rt, &path, options)).await);
    let file = DirectFile::open(&rt, path, options).await.unwrap();
    let write = rt.timeout(Duration::ZERO, file.write_at(0, Bytes::from_static(b"x"), true)).await;
    drop(write);
    drop(rt.timeout(Duration::ZERO, TcpStream::connect(&rt, address)).await);
    rt.spawn(Class::Normal, "holder", async move {
        let _streams = streams;
        let _file = file;
        let _accepted = listener.accept().await;
    });
    rt.yield_now().await;
}

async fn both_families(rt: Runtime) {
    // Not shared: a socket of [::] that took IPv4 as well would be refused beside one of 0.0.0.0.
    let four = TcpListener::bind(&rt, SocketAddr::from(([0, 0, 0, 0], 0)), false).unwrap();
    let port = four.local_address().port();
    let any_six = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let six = match TcpListener::bind(&rt, any_six, false) {
        Ok(six) => six,
        // A machine without IPv6 has nothing to show here.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return,
        Err(error) => panic!("[::] beside 0.0.0.0: {error}"),
    };
    for (listener, target) in [(&four, "127.0.0.1"), (&six, "::1")] {
        let target = SocketAddr::new(target.parse().unwrap(), port);
        let Ok(client) = TcpStream::connect(&rt, target).await else { continue };
        let (server, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), target.ip());
        client.split().1.send_all(vec![Bytes::from_static(b"hello")]).await.unwrap();
        let (result, bytes) = server.split().0.recv(BytesMut::with_capacity(10)).await;
        assert_eq!((result.unwrap(), &bytes[..]), (5, &b"hello"[..]));
    }
}

/// A write that fails takes its linked sync along; the completion of both must come, with the write's error.
async fn a_full_device(rt: Runtime) {
    let options = OpenOptions { write: true, create: false, create_new: false, direct: false };
    let full = DirectFile::open(&rt, "/dev/full", options).await.unwrap();
    for sync in [true, false] {
        let error = full.write_at(0, Bytes::from_static(&[1; 4096]), sync).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
    let only_read = OpenOptions { write: false, create: false, create_new: false, direct: false };
    let file = DirectFile::open(&rt, "/dev/zero", only_read).await.unwrap();
    let error = file.write_at(0, Bytes::from_static(&[1; 4096]), true).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}

/// Small messages both ways without Nagle: with it, the second one of a pair waits for an acknowledgement.
async fn accepted_sockets_do_not_wait(rt: Runtime) {
    let listener = TcpListener::bind(&rt, SocketAddr::from(([127, 0, 0, 1], 0)), false).unwrap();
    let address = listener.local_address();
    let client = std::thread::spawn(move || {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let mut bytes = [0; 2];
        client.read_exact(&mut bytes).unwrap();
        client.write_all(&bytes).unwrap();
    });
    let (server, _peer) = listener.accept().await.unwrap();
    let (mut recv, mut send) = server.split();
    for byte in [b"a", b"b"] {
        send.send_all(vec![Bytes::from_static(byte)]).await.unwrap();
    }
    let (result, _) = recv.recv(BytesMut::with_capacity(10)).await;
    assert!(result.unwrap() > 0);
    client.join().unwrap();
}

#[test]
fn nothing_of_an_executor_stays_open() {
    run(both_families);
    run(a_full_device);
    run(accepted_sockets_do_not_wait);
    run(untidy);
    let before = descriptors();
    for _ in 0..20 {
        run(untidy);
    }
    assert_eq!(descriptors(), before);
}
