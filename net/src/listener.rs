//! Listening and accepting. Owns which ports are bound and how many connections a shard holds; what is said
//! on a connection belongs to its gateway. A connection over the bound is told why, then closed.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use martlet_core::limits::CONNECTIONS_REFUSING_MAX;
use martlet_core::{ErrorCode, Refusal, ShardId};
use martlet_runtime::{Class, Runtime, TcpListener, TcpStream};

use crate::config::{ConnectionLimits, ListenerConfig};
use crate::event::Event;
use crate::flow::{Drain, First, first};
use crate::gateway::{Connection, Gateway, ListenerFacts};
use crate::memory::MemoryBudget;

/// Attempts to find a port that is free on every address, when the operating system chooses it.
const CHOOSE_PORT_ATTEMPTS: usize = 32;
/// Attempts to bind a port whose last holder is still closing, [`REBIND_WAIT`] apart.
const REBIND_ATTEMPTS: usize = 500;
const REBIND_WAIT: Duration = Duration::from_millis(10);
/// Wait after an accept that failed, so that a shortage of descriptors does not become a busy loop.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Time a refused connection may take to hear it.
const REFUSING_WAIT: Duration = Duration::from_secs(2);

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct ListenError {
    pub address: SocketAddr,
    pub error: io::Error,
}

/// Binds the node port of `config` on all its addresses, shared with the other shards. `port` is what another
/// shard has bound already; without it this is the first shard, which makes sure that no other process holds
/// the port.
///
/// # Errors
/// An address that cannot be bound.
pub async fn bind_node_port(
    runtime: &Runtime,
    config: &ListenerConfig,
    port: Option<u16>,
) -> Result<Vec<TcpListener>, ListenError> {
    let addresses = match port {
        Some(port) => with_port(&config.bind, port),
        None => config.bind.clone(),
    };
    if addresses.first().is_some_and(|address| address.port() == 0) {
        return bind_chosen(runtime, &addresses, true);
    }
    if port.is_none() {
        // Sharing would silently split clients between two processes; an exclusive bind finds the other one.
        drop(bind_all(runtime, &addresses, false)?);
    }
    bind_patiently(runtime, &addresses, true).await
}

/// Binds the port of one shard on all addresses of `config`.
///
/// # Errors
/// An address that cannot be bound.
pub fn bind_shard_port(
    runtime: &Runtime,
    config: &ListenerConfig,
    shard: ShardId,
) -> Result<Vec<TcpListener>, ListenError> {
    match config.shard_port_base.filter(|base| *base != 0) {
        None => bind_chosen(runtime, &with_port(&config.bind, 0), false),
        Some(base) => bind_all(runtime, &with_port(&config.bind, base.saturating_add(shard.0)), false),
    }
}

fn with_port(addresses: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(address.ip(), port)).collect()
}

/// Lets the operating system choose a port on the first address that works, and takes the same on the others.
fn bind_chosen(
    runtime: &Runtime,
    addresses: &[SocketAddr],
    shared: bool,
) -> Result<Vec<TcpListener>, ListenError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut bound: Vec<TcpListener> = Vec::new();
        let mut failure = None;
        for &address in addresses {
            let port = bound.first().map_or(0, |first| first.local_address().port());
            match bind_one(runtime, SocketAddr::new(address.ip(), port), shared) {
                Ok(listener) => bound.extend(listener),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        match failure {
            None => return some(bound, addresses),
            Some(failure) if attempt == CHOOSE_PORT_ATTEMPTS || bound.is_empty() => return Err(failure),
            Some(_) => {}
        }
    }
}

fn bind_all(
    runtime: &Runtime,
    addresses: &[SocketAddr],
    shared: bool,
) -> Result<Vec<TcpListener>, ListenError> {
    let mut bound = Vec::with_capacity(addresses.len());
    for &address in addresses {
        bound.extend(bind_one(runtime, address, shared)?);
    }
    some(bound, addresses)
}

async fn bind_patiently(
    runtime: &Runtime,
    addresses: &[SocketAddr],
    shared: bool,
) -> Result<Vec<TcpListener>, ListenError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match bind_all(runtime, addresses, shared) {
            Err(failure) if attempt < REBIND_ATTEMPTS && failure.error.kind() == io::ErrorKind::AddrInUse => {
                runtime.sleep(REBIND_WAIT).await;
            }
            outcome => return outcome,
        }
    }
}

/// `None` for an unspecified address whose family this machine does not have.
fn bind_one(
    runtime: &Runtime,
    address: SocketAddr,
    shared: bool,
) -> Result<Option<TcpListener>, ListenError> {
    match TcpListener::bind(runtime, address, shared) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if address.ip().is_unspecified() && is_family_missing(&error) => {
            tracing::warn!(%address, "this machine does not have the address family; listening without it");
            Ok(None)
        }
        Err(error) => Err(ListenError { address, error }),
    }
}

fn is_family_missing(error: &io::Error) -> bool {
    // EAFNOSUPPORT of Linux: the one error number without a kind of its own.
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97)
}

fn some(bound: Vec<TcpListener>, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ListenError> {
    if bound.is_empty() {
        let address = addresses.first().copied().unwrap_or(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0));
        return Err(ListenError { address, error: io::ErrorKind::AddrNotAvailable.into() });
    }
    Ok(bound)
}

/// Counts of one shard's connections.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    pub open: Cell<u64>,
    pub accepted: Cell<u64>,
    pub refused: Cell<u64>,
    /// Signalled when a connection has ended.
    pub closed: Event,
    refusing: Cell<usize>,
}

/// Accepts connections for one listener of one shard and starts its gateway on each.
pub struct Acceptor<B> {
    pub runtime: Runtime,
    pub gateway: Arc<dyn Gateway<B>>,
    pub broker: B,
    pub facts: Rc<ListenerFacts>,
    pub limits: Rc<ConnectionLimits>,
    pub memory: MemoryBudget,
    /// Shared by all listeners of the shard, as the bound is the shard's.
    pub counters: Rc<ConnectionCounters>,
    pub drain: Drain,
}

impl<B: Clone + 'static> Acceptor<B> {
    /// Accepts until the drain starts; then the socket is closed.
    pub async fn run(self: Rc<Self>, listener: TcpListener) {
        let drain = self.drain.clone();
        let mut stopped = std::pin::pin!(drain.wait());
        loop {
            let mut accepting = std::pin::pin!(listener.accept());
            match first(stopped.as_mut(), accepting.as_mut()).await {
                First::Left(()) => return,
                First::Right(Ok((stream, peer))) => self.take(stream, peer),
                First::Right(Err(error)) => {
                    tracing::warn!(listener = %self.facts.name, %error, "a connection could not be accepted");
                    self.runtime.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn take(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let counters = &self.counters;
        if counters.open.get() >= self.limits.connections_max as u64 {
            counters.refused.set(counters.refused.get() + 1);
            self.refuse(stream, peer);
            return;
        }
        let number = counters.accepted.get() + 1;
        counters.accepted.set(number);
        counters.open.set(counters.open.get() + 1);
        let connection = Connection {
            runtime: self.runtime.clone(),
            broker: self.broker.clone(),
            stream,
            peer,
            number,
            listener: self.facts.clone(),
            limits: self.limits.clone(),
            memory: self.memory.clone(),
            drain: self.drain.clone(),
        };
        let acceptor = self.clone();
        let life = self.gateway.serve(connection);
        drop(self.runtime.spawn(Class::Latency, "connection", async move {
            life.await;
            let open = &acceptor.counters.open;
            open.set(open.get().saturating_sub(1));
            acceptor.counters.closed.signal();
        }));
    }

    fn refuse(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        tracing::debug!(%peer, listener = %self.facts.name, "refused: too many connections");
        if self.counters.refusing.get() >= CONNECTIONS_REFUSING_MAX {
            return;
        }
        let acceptor = self.clone();
        let most = self.limits.connections_max;
        let text = format!("the shard has {most} connections: close some, or raise connections_max");
        let parts = self.gateway.refusal(&Refusal::new(ErrorCode::Overloaded, text));
        self.counters.refusing.set(self.counters.refusing.get() + 1);
        drop(self.runtime.spawn(Class::Background, "refusal", async move {
            let (_recv, mut send) = stream.split();
            // Nobody is served by knowing whether a refused peer heard the reason.
            let _ = acceptor.runtime.timeout(REFUSING_WAIT, send.send_all(parts)).await;
            let _ = acceptor.runtime.timeout(REFUSING_WAIT, send.shutdown()).await;
            acceptor.counters.refusing.set(acceptor.counters.refusing.get() - 1);
        }));
    }
}

impl<B> fmt::Debug for Acceptor<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acceptor({} of shard {})", self.facts.name, self.facts.shard)
    }
}
