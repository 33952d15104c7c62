//! How the suite gets executors. A harness must run bodies that wait for each other at the same time.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use martlet_runtime::{AlignedBuffer, ExecutorConfig, RecvHalf, Runtime, SendHalf, TcpListener, TcpStream};

pub(crate) type Body = Box<dyn FnOnce(Runtime) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A way to make executors with a driver.
pub(crate) trait Harness {
    /// Runs every body on an executor of its own until all are done, then drops the executors, and checks
    /// with [`assert_clean`] that each has left nothing behind.
    fn run_all(&self, config: ExecutorConfig, bodies: Vec<Body>);

    /// A fresh empty directory, as the executors see it.
    fn directory(&self) -> PathBuf;

    /// Where to listen: an address of the executor's machine with port 0.
    fn any_port(&self) -> SocketAddr;

    /// Does `work` outside of every executor: on another thread, or between steps.
    fn elsewhere(&self, work: Box<dyn FnOnce() + Send>);

    /// Holds the thread for this long, as a computation would.
    fn burn(&self) -> Box<dyn Fn(Duration) + Send>;

    fn run<F: Future<Output = ()> + 'static>(&self, body: impl FnOnce(Runtime) -> F + Send + 'static) {
        self.run_all(ExecutorConfig::default(), vec![boxed(body)]);
    }
}

pub(crate) fn boxed<F: Future<Output = ()> + 'static>(
    body: impl FnOnce(Runtime) -> F + Send + 'static,
) -> Body {
    Box::new(move |runtime| Box::pin(body(runtime)))
}

/// After its executor was dropped, a runtime has no task, no timer and no operation.
pub(crate) fn assert_clean(runtime: &Runtime) {
    let counters = runtime.counters();
    assert_eq!((counters.tasks, counters.timers, counters.operations_live), (0, 0, 0), "{counters:?}");
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed).collect()
}

/// `length` bytes of a pattern, aligned for direct writes.
pub(crate) fn block(length: usize, seed: u8) -> Bytes {
    let mut buffer = AlignedBuffer::zeroed(length, 4096);
    buffer.extend_from_slice(&pattern(length, seed));
    buffer.into_bytes()
}

/// A connection to a listener of the same executor: the dialling and the accepted end.
pub(crate) async fn connection(runtime: &Runtime, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let address = listener.local_address();
    let dialler = runtime.clone();
    let class = martlet_runtime::Class::Normal;
    let dial =
        runtime.spawn(class, "dial", async move { TcpStream::connect(&dialler, address).await.unwrap() });
    let (accepted, _peer) = listener.accept().await.unwrap();
    (dial.await.unwrap(), accepted)
}

/// Receives exactly `length` bytes, or what came before the end.
pub(crate) async fn recv_exactly(recv: &mut RecvHalf, length: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(length);
    while buffer.len() < length {
        let (result, back) = recv.recv(buffer).await;
        buffer = back;
        if result.unwrap() == 0 {
            break;
        }
    }
    buffer
}

/// Receives until the peer closes its side.
pub(crate) async fn recv_to_end(recv: &mut RecvHalf) -> BytesMut {
    let mut all = BytesMut::new();
    loop {
        all.reserve(16 * 1024);
        let (result, back) = recv.recv(all).await;
        all = back;
        if result.unwrap() == 0 {
            return all;
        }
    }
}

pub(crate) async fn send(half: &mut SendHalf, bytes: impl Into<Bytes>) {
    half.send_all(vec![bytes.into()]).await.unwrap();
}
