//! TCP: listeners, connections and their halves, with owned buffers. Must never interpret a byte.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::driver::{Handle, Op, Outcome};
use crate::executor::OpFuture;
use crate::runtime::{OwnedHandle, Runtime};

/// A listening socket.
pub struct TcpListener {
    runtime: Runtime,
    handle: Rc<OwnedHandle>,
    local: SocketAddr,
    /// The accept of a future that was dropped.
    pending: Cell<Option<OpFuture>>,
}

impl TcpListener {
    /// Listens at once. Port 0 lets the system choose. `shared` lets several listeners have one port, and
    /// spreads connections over them. An IPv6 address never takes IPv4 connections, so both families can have
    /// one port.
    ///
    /// # Errors
    /// The operating system's: the address is taken or not of this machine.
    pub fn bind(runtime: &Runtime, address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
        let (handle, local) = runtime.inner().with_driver(|driver| driver.listen(address, shared))?;
        let handle = runtime.own(handle);
        Ok(TcpListener { runtime: runtime.clone(), handle, local, pending: Cell::new(None) })
    }

    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The next connection and where it comes from. Dropping the future loses no connection: the next call
    /// goes on where it stopped.
    ///
    /// # Errors
    /// The operating system's; running out of descriptors is one that passes.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let accepted = Accepting { listener: self, op: self.pending.take() }.await;
            match accepted {
                Ok((handle, peer)) => {
                    let handle = self.runtime.own(handle);
                    return Ok((TcpStream { runtime: self.runtime.clone(), handle }, peer));
                }
                // A peer that gave up while it was queued is no error of the listener.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TcpListener({})", self.local)
    }
}

/// Waits for an accept, and leaves it with the listener when it is dropped. An accept that was cancelled
/// while another waits may swallow the one wake-up that Linux gives for a connection (waiters of an accept
/// are exclusive), and the other would not see it: so it is not cancelled but kept.
struct Accepting<'a> {
    listener: &'a TcpListener,
    op: Option<OpFuture>,
}

impl Future for Accepting<'_> {
    type Output = io::Result<(Handle, SocketAddr)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let listener = self.listener;
        let op = self.op.get_or_insert_with(|| {
            let op = Op::Accept { listener: listener.handle.get() };
            listener.runtime.submit(op, Some(&listener.handle))
        });
        let Poll::Ready(outcome) = Pin::new(op).poll(context) else { return Poll::Pending };
        self.op = None;
        match outcome {
            Outcome::Accepted(result) => Poll::Ready(result),
            other => unreachable!("accept completed as {other:?}"),
        }
    }
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        if let Some(op) = self.op.take() {
            // With several tasks accepting at once, one operation is kept.
            drop(self.listener.pending.replace(Some(op)));
        }
    }
}

/// A connection. It is closed when both halves are dropped and their operations have ended.
#[derive(Debug)]
pub struct TcpStream {
    runtime: Runtime,
    handle: Rc<OwnedHandle>,
}

impl TcpStream {
    /// Connects; bound the wait with [`Runtime::timeout`].
    ///
    /// # Errors
    /// The operating system's, such as `ConnectionRefused`.
    pub async fn connect(runtime: &Runtime, address: SocketAddr) -> io::Result<TcpStream> {
        match runtime.submit(Op::Connect { address }, None).await {
            Outcome::Connected(result) => {
                let handle = runtime.own(result?);
                Ok(TcpStream { runtime: runtime.clone(), handle })
            }
            other => unreachable!("connect completed as {other:?}"),
        }
    }

    /// The address at which the peer reached this process; `None` if the driver does not know.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.runtime.inner().with_driver(|driver| driver.local_address(self.handle.get()))
    }

    #[must_use]
    pub fn split(self) -> (RecvHalf, SendHalf) {
        let send = SendHalf { runtime: self.runtime.clone(), handle: Rc::clone(&self.handle) };
        (RecvHalf { runtime: self.runtime, handle: self.handle }, send)
    }
}

/// The reading side of a connection.
#[derive(Debug)]
pub struct RecvHalf {
    runtime: Runtime,
    handle: Rc<OwnedHandle>,
}

impl RecvHalf {
    /// Appends what has come, at most the spare capacity of `buffer`, and at least one byte unless the peer
    /// has closed its side (0). Dropping the future loses what had just come: read the connection from one
    /// task.
    ///
    /// # Errors
    /// The operating system's; `InvalidInput` if the buffer has no spare capacity.
    pub async fn recv(&mut self, mut buffer: BytesMut) -> (io::Result<usize>, BytesMut) {
        if buffer.capacity() == buffer.len() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "no room to receive: reserve some first");
            return (Err(error), buffer);
        }
        loop {
            let op = Op::Recv { socket: self.handle.get(), buffer };
            match self.runtime.submit(op, Some(&self.handle)).await {
                Outcome::Received(Err(error), back) if error.kind() == io::ErrorKind::Interrupted => {
                    buffer = back;
                }
                Outcome::Received(result, back) => return (result, back),
                other => unreachable!("recv completed as {other:?}"),
            }
        }
    }
}

/// The writing side of a connection.
#[derive(Debug)]
pub struct SendHalf {
    runtime: Runtime,
    handle: Rc<OwnedHandle>,
}

impl SendHalf {
    /// Sends all of `parts`, in order, gathered. Dropping the future may leave a part of them sent: the
    /// connection is good for nothing then but to be closed.
    ///
    /// # Errors
    /// The operating system's; how much was sent is unknown then.
    pub async fn send_all(&mut self, mut parts: Vec<Bytes>) -> io::Result<()> {
        let mut left: usize = parts.iter().map(Bytes::len).sum();
        let mut skip = 0;
        while left > 0 {
            let op = Op::Send { socket: self.handle.get(), parts, skip };
            let (result, back) = match self.runtime.submit(op, Some(&self.handle)).await {
                Outcome::Sent(result, back) => (result, back),
                other => unreachable!("send completed as {other:?}"),
            };
            parts = back;
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    assert!(sent <= left, "the driver sent {sent} bytes of {left}");
                    left -= sent;
                    skip = drop_sent(&mut parts, skip + sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the peer that no more will be sent. The reading side stays.
    ///
    /// # Errors
    /// The operating system's, such as `NotConnected`.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self.runtime.submit(Op::Shutdown { socket: self.handle.get() }, Some(&self.handle)).await {
            Outcome::Done(result) => result,
            other => unreachable!("shutdown completed as {other:?}"),
        }
    }
}

/// Lets go of parts that were sent whole; says how much of the first one left was sent.
fn drop_sent(parts: &mut Vec<Bytes>, mut sent: usize) -> usize {
    let whole = parts.iter().take_while(|part| {
        let gone = part.len() <= sent;
        if gone {
            sent -= part.len();
        }
        gone
    });
    let whole = whole.count();
    parts.drain(..whole);
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_parts_are_let_go_of() {
        let mut parts: Vec<Bytes> = ["", "abc", "", "de"].map(Bytes::from).to_vec();
        assert_eq!(drop_sent(&mut parts, 2), 2);
        assert_eq!(parts.len(), 3);
        assert_eq!(drop_sent(&mut parts, 3), 0);
        assert_eq!(parts, [Bytes::from_static(b"de")]);
        assert_eq!(drop_sent(&mut parts, 2), 0);
        assert!(parts.is_empty());
    }
}
